"""This machine's own hardware as the platform that attests an enclave."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from proofs.claims import Claims, Measurements
from proofs.errors import UnreadableError
from proofs.evidence import nvidia, snp, tdx
from proofs.evidence.base import (
    MAX_EVIDENCE,
    NO_COLLATERAL,
    Collateral,
    CpuAppraisal,
    Evidence,
    Platform,
    gpu_nonce,
    report_data,
)
from runtime.collateral import StoredCollateral, load_collateral
from runtime.config import EnclaveConfig
from runtime.enclave.identity import load_platform
from runtime.enclave.tee.amd import certificate_table, chains
from runtime.enclave.tee.configfs import TSM_ROOT, TsmReport, read_report
from runtime.enclave.tee.errors import TeeError
from runtime.enclave.tee.nvml import GpuReport, Gpus
from runtime.errors import SetupError

log = logging.getLogger(__name__)

Encoder = Callable[[TsmReport, StoredCollateral, int], bytes]
Appraiser = Callable[[bytes, int, Collateral], CpuAppraisal]
# What each list and each item of deterministic CBOR adds, and more than that.
_CBOR_SLACK = 16
_REPORT_DATA = 64


class HardwarePlatform:
    """Evidence of this machine; make one with `boot`. Safe to use from any one thread at a time.

    Attributes:
        kind: `tdx` or `snp`.
        measurements: As the platform said at boot.
        debug: Whether its host can look into it.
    """

    def __init__(
        self, kind: str, first: CpuAppraisal, gpus: Gpus | None, collateral: Path | None, root: Path
    ) -> None:
        self.kind = kind
        self.measurements: Measurements = first.measurements
        self.debug = first.debug
        self._gpus = gpus
        self._collateral = collateral
        self._root = root

    @classmethod
    def boot(
        cls, collateral: Path | None, *, root: Path = TSM_ROOT, gpus: Gpus | None = None
    ) -> HardwarePlatform:
        """Try the hardware, and learn what it measured.

        Args:
            collateral: Folder of what vendors publish (`runtime.collateral`); None: none.
            root: The kernel's folder of report requests.
            gpus: The GPUs; None: those that NVIDIA's driver finds, which may be none.

        Raises:
            TeeError: No platform, or a GPU that cannot attest.
            SetupError: A folder of collateral that cannot be read.
        """
        found = _present(gpus or Gpus())
        report = read_report(os.urandom(_REPORT_DATA), root=root)
        now = int(time.time())
        cpu = encode_cpu(report, load_collateral(collateral), now)
        kind, _, appraise = _format(report)
        first = appraise(cpu, now, NO_COLLATERAL)
        for problem in first.problems:
            log.warning("the evidence has a problem (%s): %s", problem.code, problem.text)
        return cls(kind, first, found, collateral, root)

    def collect(self, claims: Claims, now: int) -> Evidence:
        """Have GPUs and CPU sign for `claims`; takes seconds.

        Raises:
            TeeError: The hardware did not sign, or measures something else than at boot.
            SetupError: The folder of collateral cannot be read.
            UnreadableError: The hardware's answer, or the collateral, is of no known format.
        """
        stored = load_collateral(self._collateral)
        gpu = b""
        if self._gpus is not None:
            gpu = encode_gpus(self._gpus.collect(gpu_nonce(claims)), stored.collateral, now)
        wanted = report_data(claims, gpu)
        report = read_report(wanted, root=self._root)
        cpu = encode_cpu(report, stored, now)
        kind, _, appraise = _format(report)
        said = appraise(cpu, now, NO_COLLATERAL)
        if kind != self.kind or said.report_data != wanted:
            raise TeeError(
                "the platform signed something else than it was asked to", code="tee_failed"
            )
        if said.measurements != self.measurements:
            raise TeeError(
                "the platform's measurements are not those of the boot any more, so something was "
                "measured into it since; restart the enclave, and find out what it was",
                code="tee_failed",
            )
        return Evidence(cpu, gpu)


def _present(gpus: Gpus) -> Gpus | None:
    """The GPUs, after they have shown that they attest; None where there are none."""
    try:
        gpus.collect(os.urandom(32))
    except TeeError as error:
        if error.code != "no_gpu":
            raise
        log.info("evidence without a GPU: %s", error)
        return None
    return gpus


def encode_cpu(report: TsmReport, stored: StoredCollateral, now: int) -> bytes:
    """Evidence of the CPU from what the kernel gave and the collateral at hand."""
    return _format(report)[1](report, stored, now)


def _format(report: TsmReport) -> tuple[str, Encoder, Appraiser]:
    formats: dict[str, tuple[str, Encoder, Appraiser]] = {
        "tdx_guest": (tdx.KIND, _encode_tdx, tdx.appraise_cpu),
        "sev_guest": (snp.KIND, _encode_snp, snp.appraise_cpu),
    }
    try:
        return formats[report.provider]
    except KeyError:
        raise TeeError(
            f"the kernel's reports are of the kind {report.provider[:32]!r}, and only TDX and "
            "SEV-SNP are known here",
            code="no_tee",
        ) from None


def _encode_tdx(report: TsmReport, stored: StoredCollateral, now: int) -> bytes:
    del now
    return tdx.encode_evidence(report.report, stored.collateral.tdx or None)


def _encode_snp(report: TsmReport, stored: StoredCollateral, now: int) -> bytes:
    certificates, crls = certificate_table(report.auxiliary)
    crls = [*stored.collateral.snp_crls, *crls]
    candidates = [
        snp.encode_evidence(report.report, chain, crls)
        for chain in chains([*certificates, *stored.snp_certificates])
    ]
    if not candidates:
        raise TeeError(
            "AMD's certificates for this chip are not at hand: neither the host hands them to its "
            "guest nor are they in the folder of collateral; fetch them with: sotto attest "
            "collateral FOLDER, and name the folder as `collateral`",
            code="collateral",
        )
    # The folder may hold the VCEK of firmware that was before, or of the machine before.
    return min(candidates, key=lambda cpu: len(snp.appraise_cpu(cpu, now, NO_COLLATERAL).problems))


def encode_gpus(reports: Iterable[GpuReport], collateral: Collateral, now: int) -> bytes:
    """Evidence of the GPUs, with as much of the collateral as there is room for."""
    devices = [nvidia.Device(one.architecture, one.chain, one.report) for one in reports]
    bare = nvidia.encode_evidence(now, devices)
    room = MAX_EVIDENCE - len(bare) - _CBOR_SLACK
    kept: tuple[list[bytes], list[bytes]] = [], []
    for chosen, items in zip(kept, (collateral.rims, collateral.ocsp), strict=True):
        for item in items:
            if len(item) + _CBOR_SLACK > room:
                log.warning("no room for %d bytes of collateral of the GPUs", len(item))
                continue
            room -= len(item) + _CBOR_SLACK
            chosen.append(item)
    rims, responses = kept
    return nvidia.encode_evidence(now, devices, rims, responses)


def make_platform(config: EnclaveConfig, *, root: Path = TSM_ROOT) -> Platform:
    """What attests an enclave of this configuration: a simulation where it names a development
    root, else this machine's hardware.

    Raises:
        SetupError: What is missing or contradicts itself, and what to do.
    """
    if config.simulated_root is not None:
        if config.collateral is not None:
            raise SetupError(
                "simulated_root and collateral exclude each other: simulated evidence has no "
                "vendor; remove one",
                code="tee",
            )
        return load_platform(config.simulated_root, debug=config.debug)
    try:
        platform = HardwarePlatform.boot(config.collateral, root=root)
    except TeeError as error:
        hint = (
            "; to try Sottovoce without such hardware, set simulated_root (make run does)"
            if error.code == "no_tee"
            else ""
        )
        raise SetupError(f"{error}{hint}", code=error.code) from None
    except UnreadableError as error:
        raise SetupError(f"the hardware's evidence cannot be read: {error}", code="tee") from None
    if config.debug and not platform.debug:
        raise SetupError(
            "debug = true shows prompts, and this machine's evidence cannot say so: it is no debug "
            "VM; remove debug, or use simulated evidence",
            code="tee",
        )
    return platform
