"""Confidential machines that do not exist, for tests: each signs as its vendor's would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from snp_machine import SnpMachine
from tdx_machine import TdxMachine

from proofs.claims import Claims, Measurements
from proofs.evidence.base import Evidence, gpu_nonce, report_data

__all__ = ["MachinePlatform", "SnpMachine", "TdxMachine"]


@dataclass(frozen=True, slots=True)
class MachinePlatform:
    """A machine as `proofs.evidence.base.Platform`.

    Attributes:
        machine: What signs.
        gpu: Makes GPU evidence of a nonce of 32 bytes and a time; None where it has no GPU.
        knobs: For the machine's `evidence`.
    """

    machine: SnpMachine | TdxMachine
    gpu: Callable[[bytes, int], bytes] | None = None
    knobs: Mapping[str, object] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.machine.kind

    @property
    def measurements(self) -> Measurements:
        return self.machine.measurements

    @property
    def debug(self) -> bool:
        return bool(self.knobs.get("debug", False))

    def collect(self, claims: Claims, now: int) -> Evidence:
        gpu = self.gpu(gpu_nonce(claims), now) if self.gpu else b""
        cpu = self.machine.evidence(report_data(claims, gpu), now, **self.knobs)  # type: ignore[arg-type]
        return Evidence(cpu, gpu)
