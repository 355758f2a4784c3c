"""What every kind of evidence shares: how it is bound to claims, and what comes out of it.

The binding ties both halves to one machine: the GPU signs a nonce made of the enclave's keys,
and the CPU signs a digest of the claims and of the GPU's evidence. Neither half can be taken
from somewhere else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from proofs.claims import Claims, Measurements
from proofs.verdict import Subject

MAX_EVIDENCE = 256 * 1024
_NONCE = b"sottovoce gpu nonce v1\x00"
_REPORT_DATA = b"sottovoce report data v1\x00"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence as collected: one report of the CPU, one of the GPU, opaque here."""

    cpu: bytes
    gpu: bytes


@dataclass(frozen=True, slots=True)
class Problem:
    """A check of the evidence itself that failed, and the verdict that it speaks to."""

    subject: Subject
    text: str


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What the evidence says, in the same words for every kind; policy has not spoken yet.

    Attributes:
        root: 32 bytes that name the trust anchor at which the chains end.
        platform_id: A stable name of the machine, 32 bytes.
        measurements: What the platform measured, sorted by name.
        tcb: The lower of both halves' security version numbers.
        advisories: Ids of the advisories that the platform is under.
        debug: Whether either half could be looked into.
        collected_at: Unix seconds of the older half.
        problems: Failed signatures, chains and bindings; empty where all hold.
    """

    root: bytes
    platform_id: bytes
    measurements: Measurements
    tcb: int
    advisories: tuple[str, ...]
    debug: bool
    collected_at: int
    problems: tuple[Problem, ...]


class Platform(Protocol):
    """Where an enclave runs, as far as it can attest claims."""

    @property
    def kind(self) -> str:
        """The kind of evidence, a key of `proofs.evidence.APPRAISERS`."""

    def collect(self, claims: Claims, now: int) -> Evidence:
        """Have the machine sign for `claims`; `now` in unix seconds."""


def gpu_nonce(claims: Claims) -> bytes:
    """The nonce, 32 bytes, that the GPU must sign for `claims`."""
    return hashlib.sha256(_NONCE + claims.keys_digest()).digest()


def report_data(claims: Claims, gpu: bytes) -> bytes:
    """The 64 bytes that the CPU must sign for `claims` and GPU evidence."""
    return hashlib.sha512(_REPORT_DATA + claims.encode() + hashlib.sha256(gpu).digest()).digest()
