"""What every kind of evidence shares: how it is bound to claims, and what comes out of it.

The binding ties both halves to one machine: the GPU signs a nonce made of the claims, and the CPU
a digest of the claims and of the GPU's evidence. Neither half can be taken from somewhere else,
nor from another epoch. Appraisers know neither claims nor policy: they say what the evidence says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from proofs.claims import Claims, Measurements

MAX_EVIDENCE = 256 * 1024
_NONCE = b"sottovoce gpu nonce v2\x00"
_REPORT_DATA = b"sottovoce report data v1\x00"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence as collected: one report of the CPU, one of the GPUs, opaque here.

    Attributes:
        cpu: Evidence of the confidential VM.
        gpu: Evidence of its GPUs, empty where it has none.
    """

    cpu: bytes
    gpu: bytes


@dataclass(frozen=True, slots=True)
class Collateral:
    """What vendors publish about their hardware, newer than what the evidence brings along.

    Each part that is empty leaves the evidence's own in force.

    Attributes:
        tdx: Intel's quote collateral, the JSON of dcap-qvl's `QuoteCollateralV3`; in it TCB
            info, QE identity and CRLs.
        snp_crls: AMD's revocation lists, DER.
        rims: NVIDIA's signed reference measurements (SWID tags), XML.
        ocsp: OCSP responses on certificates of GPUs (RFC 6960), DER.
    """

    tdx: str = ""
    snp_crls: tuple[bytes, ...] = ()
    rims: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()


NO_COLLATERAL = Collateral()


@dataclass(frozen=True, slots=True)
class Problem:
    """A check of the evidence itself that failed.

    Attributes:
        code: A stable word for programs, such as `signature`, `chain`, `expired`, `revoked`,
            `held`, `malformed`.
        text: What failed and what it means, for people.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Tcb:
    """How current a platform's firmware and microcode are.

    Attributes:
        numbers: Security version numbers by name, sorted by name.
        status: The vendor's word for it, such as Intel's `UpToDate`; empty where it has none.
        advisories: Ids of the advisories that the platform is under.
        current_until: Unix seconds of the TCB recovery that made this level out of date; None
            where it is current or nobody says.
    """

    numbers: tuple[tuple[str, int], ...]
    status: str = ""
    advisories: tuple[str, ...] = ()
    current_until: int | None = None


@dataclass(frozen=True, slots=True)
class CpuAppraisal:
    """What evidence of a confidential VM says.

    Attributes:
        root: 32 bytes that name the trust anchor at which the chain ends: SHA-256 of its DER
            certificate, or the key itself where it has no certificate.
        platform_id: A stable name of the machine, 32 bytes.
        measurements: What the platform measured, sorted by name.
        report_data: The 64 bytes that the platform signed for its caller.
        tcb: Its security versions.
        debug: Whether the operator can look into it.
        collected_at: Unix seconds, where the evidence itself says; else None.
        problems: Failed signatures and chains; empty where all hold.
        product: The vendor's name of the processor's line, such as `Milan`; empty where the
            kind has none.
        facts: What else the evidence says, pairs of name and text, for people and reports.
    """

    root: bytes
    platform_id: bytes
    measurements: Measurements
    report_data: bytes
    tcb: Tcb
    debug: bool
    collected_at: int | None
    problems: tuple[Problem, ...]
    product: str = ""
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU, as its report says.

    Attributes:
        architecture: Such as `HOPPER`.
        device_id: A stable name of the device, 32 bytes.
        driver: Version of the driver, empty where the report has none.
        vbios: Version of the firmware, empty where the report has none.
        confidential: Whether confidential computing is on; None where the report cannot say.
        mode: The report's word for the mode of confidential computing, empty where it has none.
        debug: Whether it runs in a debug or development mode; None where nothing says.
        measured: Whether its measurements are those of signed reference values, for the driver
            and for the firmware; None where reference values for either were not at hand.
        unmeasured: The parts without reference values at hand, such as `driver`.
    """

    architecture: str
    device_id: bytes
    driver: str = ""
    vbios: str = ""
    confidential: bool | None = None
    mode: str = ""
    debug: bool | None = None
    measured: bool | None = None
    unmeasured: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuAppraisal:
    """What evidence of the GPUs says.

    Attributes:
        root: As for `CpuAppraisal`; the same for every device.
        nonce: The 32 bytes that every device signed.
        devices: One or more.
        tcb: Security versions; empty numbers where the kind has none.
        revocation_checked: Whether revocation of every chain relied upon could be looked up.
        collected_at: Unix seconds, where the evidence says; else None.
        problems: Failed signatures, chains and measurements; empty where all hold.
        rim_roots: Where the chains of the reference values that were used end, as for `root`;
            empty where none were.
        alternatives: Whether there are two OCSP responses or reference values for one thing, so
            that the time judged chooses; what holds at two times then need not hold between them.
    """

    root: bytes
    nonce: bytes
    devices: tuple[GpuDevice, ...]
    tcb: Tcb
    revocation_checked: bool
    collected_at: int | None
    problems: tuple[Problem, ...]
    rim_roots: tuple[bytes, ...] = ()
    alternatives: bool = False


class Platform(Protocol):
    """Where an enclave runs, as far as it can attest claims."""

    @property
    def kind(self) -> str:
        """The kind of CPU evidence, a key of `proofs.evidence.CPU_APPRAISERS`."""

    @property
    def measurements(self) -> Measurements:
        """What the platform measured of the software in it; claims must carry the same."""

    @property
    def debug(self) -> bool:
        """Whether the evidence will say that it can be looked into."""

    def collect(self, claims: Claims, now: int) -> Evidence:
        """Have the machine sign for `claims`; `now` in unix seconds. May take seconds."""


def gpu_nonce(claims: Claims) -> bytes:
    """The nonce, 32 bytes, that every GPU must sign for `claims`.

    It is made of all of them, not of the keys alone: a report of an earlier epoch, when the GPU was
    still as it should be, does not serve a later one.
    """
    return hashlib.sha256(_NONCE + claims.encode()).digest()


def report_data(claims: Claims, gpu: bytes) -> bytes:
    """The 64 bytes that the CPU must sign for `claims` and GPU evidence (empty: no GPU)."""
    return hashlib.sha512(_REPORT_DATA + claims.encode() + hashlib.sha256(gpu).digest()).digest()
