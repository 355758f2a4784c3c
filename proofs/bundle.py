"""The attestation bundle: claims and the evidence that binds them. Its digest names the enclave.

Encoding: a CBOR array `["sottovoce-bundle-v1", claims, kind, CPU evidence, GPU evidence]`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from proofs import cbor
from proofs.claims import MAX_CLAIMS, Claims
from proofs.evidence.base import MAX_EVIDENCE, Platform

MAX_BUNDLE = MAX_CLAIMS + 2 * MAX_EVIDENCE + 256
_LABEL = "sottovoce-bundle-v1"
_ENTRY = b"sottovoce log entry: attestation bundle v1\x00"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An attestation bundle; nothing in it is trusted until `proofs.verify` says so.

    Attributes:
        claims: Encoded claims.
        kind: The kind of CPU evidence, a key of `proofs.evidence.CPU_APPRAISERS`.
        cpu: Evidence of the confidential VM.
        gpu: Evidence of its GPUs; empty where it has none.
    """

    claims: bytes
    kind: str
    cpu: bytes
    gpu: bytes

    def __post_init__(self) -> None:
        cbor.as_bytes(self.claims, "the claims", most=MAX_CLAIMS)
        cbor.as_text(self.kind, "the kind of evidence", 32)
        cbor.as_bytes(self.cpu, "the CPU evidence", most=MAX_EVIDENCE)
        cbor.as_bytes(self.gpu, "the GPU evidence", least=0, most=MAX_EVIDENCE)

    def encode(self) -> bytes:
        """The bundle's one encoding."""
        return cbor.encode([_LABEL, self.claims, self.kind, self.cpu, self.gpu])

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoding, 32 bytes; its hex is the enclave id."""
        return hashlib.sha256(self.encode()).digest()


def decode_bundle(data: bytes) -> Bundle:
    """Decode a bundle, refusing every encoding but the one that `Bundle.encode` makes.

    Raises:
        UnreadableError: Not a bundle.
    """
    value = cbor.decode(data, what="the attestation bundle", limit=MAX_BUNDLE)
    label, claims, kind, cpu, gpu = cbor.as_array(value, "the attestation bundle", 5)
    cbor.check_label(label, _LABEL, "the attestation bundle")
    return Bundle(
        cbor.as_bytes(claims, "the claims", most=MAX_CLAIMS),
        cbor.as_text(kind, "the kind of evidence", 32),
        cbor.as_bytes(cpu, "the CPU evidence", most=MAX_EVIDENCE),
        cbor.as_bytes(gpu, "the GPU evidence", least=0, most=MAX_EVIDENCE),
    )


def make_bundle(claims: Claims, platform: Platform, now: int) -> Bundle:
    """Have `platform` attest `claims` at `now` (unix seconds)."""
    evidence = platform.collect(claims, now)
    return Bundle(claims.encode(), platform.kind, evidence.cpu, evidence.gpu)


def bundle_entry(bundle: bytes) -> bytes:
    """The 32-byte log entry of an encoded bundle; no receipt can have the same one."""
    return hashlib.sha256(_ENTRY + bundle).digest()
