"""The GPUs' signed reports and their certificate chains, through NVIDIA's driver.

Source: NVML API reference, "Confidential computing" (nvmlDeviceGetConfComputeGpuAttestationReport,
nvmlDeviceGetConfComputeGpuCertificate, nvmlSystemGetConfComputeState). What NVML calls a report
is the SPDM request, 37 bytes with our nonce in [4:36], and the signed response behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runtime.enclave.tee.errors import TeeError

_MAX_DEVICES = 16


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What one GPU signed.

    Attributes:
        architecture: `HOPPER`, `BLACKWELL` or a later name of NVML's.
        chain: Its certificate chain in PEM, leaf first.
        report: SPDM request and response.
    """

    architecture: str
    chain: bytes
    report: bytes


@dataclass(frozen=True, slots=True)
class GpuState:
    """What the driver says of the GPUs, unsigned.

    Attributes:
        driver: Its version.
        confidential: Whether confidential computing is on.
        devtools: Whether it is on in the mode for developers, which protects nothing.
        ready: Whether the GPUs take work; they do once somebody has verified them.
        devices: Name, architecture and VBIOS version of each.
    """

    driver: str
    confidential: bool
    devtools: bool
    ready: bool
    devices: tuple[tuple[str, str, str], ...]


class Gpus:
    """The GPUs of this machine.

    Args:
        nvml: The `pynvml` module, or one that behaves like it.
    """

    def __init__(self, nvml: Any = None) -> None:
        if nvml is None:
            import pynvml

            nvml = pynvml
        self._nvml = nvml

    def state(self) -> GpuState:
        """What is there.

        Raises:
            TeeError: `no_gpu` where there is no driver or no GPU; `gpu_failed`.
        """
        nvml = self._nvml
        with self._session() as handles:
            state = nvml.nvmlSystemGetConfComputeState()
            confidential = state.ccFeature == nvml.NVML_CC_SYSTEM_FEATURE_ENABLED
            return GpuState(
                driver=_text(nvml.nvmlSystemGetDriverVersion()),
                confidential=confidential,
                devtools=state.devToolsMode == nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_ON,
                ready=not confidential
                or nvml.nvmlSystemGetConfComputeGpusReadyState()
                == nvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE,
                devices=tuple(
                    (
                        _text(nvml.nvmlDeviceGetName(handle)),
                        self._architecture(handle),
                        _text(nvml.nvmlDeviceGetVbiosVersion(handle)),
                    )
                    for handle in handles
                ),
            )

    def collect(self, nonce: bytes) -> tuple[GpuReport, ...]:
        """Have every GPU sign `nonce` (32 bytes). Takes about a second each.

        Raises:
            TeeError: As `state`; `gpu_not_confidential`: confidential computing is off.
        """
        nvml = self._nvml
        with self._session() as handles:
            if (
                nvml.nvmlSystemGetConfComputeState().ccFeature
                != nvml.NVML_CC_SYSTEM_FEATURE_ENABLED
            ):
                raise TeeError(
                    "a GPU is here whose confidential computing is off, so what it computes is "
                    "open to the host; turn it on (nvidia_gpu_tools.py --set-cc-mode=on, on the "
                    "host), or keep the GPU out of this VM",
                    code="gpu_not_confidential",
                )
            return tuple(self._report(handle, nonce) for handle in handles)

    def _report(self, handle: Any, nonce: bytes) -> GpuReport:
        report = self._nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
        chain = self._nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
        return GpuReport(
            self._architecture(handle),
            _cut(chain.attestationCertChain, chain.attestationCertChainSize).rstrip(b"\0"),
            _cut(report.attestationReport, report.attestationReportSize),
        )

    def _architecture(self, handle: Any) -> str:
        number = self._nvml.nvmlDeviceGetArchitecture(handle)
        prefix = "NVML_DEVICE_ARCH_"
        names = [
            name.removeprefix(prefix)
            for name in dir(self._nvml)
            if name.startswith(prefix) and getattr(self._nvml, name) == number
        ]
        return names[0] if names else "UNKNOWN"

    @contextlib.contextmanager
    def _session(self) -> Iterator[list[Any]]:
        """Handles of all GPUs; NVML's own errors leave as ours."""
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            try:
                count = nvml.nvmlDeviceGetCount()
                if not count:
                    raise TeeError(
                        "NVIDIA's driver is here and finds no GPU; pass one through to this VM, "
                        "or do without GPU evidence",
                        code="no_gpu",
                    )
                if count > _MAX_DEVICES:
                    raise TeeError(
                        f"{count} GPUs are more than the {_MAX_DEVICES} that one evidence holds",
                        code="gpu_failed",
                    )
                yield [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            finally:
                nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            raise _refused(nvml, error) from None


def _refused(nvml: Any, error: Any) -> TeeError:
    code = error.value
    if code == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return TeeError(
            "NVIDIA's driver library (libnvidia-ml.so.1) is not here; where this VM has a GPU, "
            "install the driver for confidential computing (550 or newer), and in a container "
            "use NVIDIA's container toolkit",
            code="no_gpu",
        )
    if code == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return TeeError(
            "NVIDIA's kernel driver is not loaded; modprobe nvidia, and look into dmesg where "
            "that fails",
            code="no_gpu",
        )
    if code in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
        return TeeError(
            "this GPU or its driver knows no attestation; Hopper or newer with driver 550 or "
            "newer does",
            code="gpu_failed",
        )
    if code == nvml.NVML_ERROR_NO_PERMISSION:
        return TeeError(
            "NVIDIA's driver lets this user ask for no report; run as root, or give the user "
            "rights to /dev/nvidia*",
            code="gpu_failed",
        )
    return TeeError(
        f"NVIDIA's driver refused (NVML error {code}: {error}); nvidia-smi conf-compute -f and "
        "dmesg may say why",
        code="gpu_failed",
    )


def _cut(array: Any, size: int) -> bytes:
    data = bytes(array)
    if not 0 < size <= len(data):
        raise TeeError(
            f"NVIDIA's driver gave {size} bytes where at most {len(data)} fit", code="gpu_failed"
        )
    return data[:size]


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
