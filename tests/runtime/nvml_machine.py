"""NVIDIA's management library, as far as attestation needs it, over GPUs that do not exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pynvml
from cryptography.hazmat.primitives.serialization import Encoding

from tests.runtime.machines import GpuMachine

DRIVER, VBIOS = "580.159.03", "96.00.74.00.20"


@dataclass
class FakeNvml:
    """Behaves as the module `pynvml` on a machine with GPUs; structures and errors are pynvml's.

    Attributes:
        machine: What signs; None: there is no GPU.
        fails: NVML error numbers by function.
        confidential: Whether confidential computing is on.
        devtools: Whether it is the mode for developers.
        ready: Whether work is taken.
        open: Sessions that were begun and not ended.
    """

    machine: GpuMachine | None
    fails: dict[str, int] = field(default_factory=dict)
    confidential: bool = True
    devtools: bool = False
    ready: bool = True
    open: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def __dir__(self) -> list[str]:
        return dir(pynvml)

    def _called(self, name: str) -> None:
        assert self.open or name == "nvmlInit", f"{name} outside of a session"
        if name in self.fails:
            raise pynvml.NVMLError(self.fails[name])

    def nvmlInit(self) -> None:
        self._called("nvmlInit")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self._called("nvmlShutdown")
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._called("nvmlDeviceGetCount")
        return len(self.machine.devices) if self.machine else 0

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._called("nvmlDeviceGetHandleByIndex")
        return index

    def nvmlDeviceGetArchitecture(self, handle: int) -> int:
        assert self.machine
        return int(getattr(pynvml, f"NVML_DEVICE_ARCH_{self.machine.architecture}"))

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"NVIDIA H100 of tests {handle}"

    def nvmlDeviceGetVbiosVersion(self, handle: int) -> str:
        return VBIOS

    def nvmlSystemGetDriverVersion(self) -> str:
        return DRIVER

    def nvmlSystemGetConfComputeState(self) -> Any:
        self._called("nvmlSystemGetConfComputeState")
        state = pynvml.c_nvmlConfComputeSystemState_t()
        state.ccFeature = int(self.confidential)
        state.devToolsMode = int(self.devtools)
        return state

    def nvmlSystemGetConfComputeGpusReadyState(self) -> int:
        return int(self.ready)

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: int) -> Any:
        assert self.machine
        answer = pynvml.c_nvmlConfComputeGpuCertificate_t()
        chain = chain_pem(self.machine, handle)
        answer.attestationCertChainSize = len(chain)
        answer.attestationCertChain[: len(chain)] = list(chain)
        return answer

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, handle: int, nonce: bytes) -> Any:
        self._called("nvmlDeviceGetConfComputeGpuAttestationReport")
        assert self.machine
        assert len(nonce) == 32
        answer = pynvml.c_nvmlConfComputeGpuAttestationReport_t()
        report = sign_report(self.machine, handle, nonce)
        answer.attestationReportSize = len(report)
        answer.attestationReport[: len(report)] = list(report)
        return answer


def chain_pem(machine: GpuMachine, number: int) -> bytes:
    """One GPU's certificates, leaf first."""
    chain = machine.chain(number)
    return b"".join(one.certificate.public_bytes(Encoding.PEM) for one in chain)


def sign_report(machine: GpuMachine, number: int, nonce: bytes) -> bytes:
    """Request and response of one GPU."""
    return machine.report(nonce, machine.chain(number)[0].key)
