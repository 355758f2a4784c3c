"""What an enclave claims about itself; the evidence binds exactly these bytes.

Encoding: a CBOR array `["sottovoce-claims-v1", [key configuration...], receipt key,
[[name, measurement]...], release, model manifest, engine, model, not before, not after, epoch]`.
Measurements are sorted by name and their names differ, so that one set has one encoding.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from proofs import cbor
from proofs.errors import UnreadableError

MAX_CLAIMS = 128 * 1024
MAX_LIFETIME_S = 24 * 3600
_LABEL = "sottovoce-claims-v1"
_MAX_KEY_CONFIGS = 16
_MAX_MEASUREMENTS = 32
_MAX_NAME = 200

Measurements = tuple[tuple[str, bytes], ...]


def check_measurements(value: object, what: str) -> Measurements:
    """`value`, an array of `[name, bytes]`, as measurements; sorted by name and not empty."""
    found = []
    for item in cbor.as_list(value, what, _MAX_MEASUREMENTS):
        name, digest = cbor.as_array(item, what, 2)
        found.append((cbor.as_text(name, what, 64), cbor.as_bytes(digest, what, most=64)))
    names = [name for name, _ in found]
    if not found or names != sorted(set(names)):
        raise UnreadableError(f"{what} should be one or more, sorted by name, each name once.")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Claims:
    """An enclave's claims.

    Attributes:
        key_configs: Its OHTTP key configurations (RFC 9458 section 3.1), 1 to 16.
        receipt_key: The Ed25519 public key that signs receipts, 32 bytes.
        measurements: Pairs of name and digest (1 to 64 bytes), sorted by name.
        release: SHA-256 of the release manifest, 32 bytes.
        model_manifest: SHA-256 of the model's manifest, 32 bytes.
        engine: The engine's name, such as `vllm`.
        model: The model's name, as shown to people.
        not_before: Unix seconds from which the claims hold: when the epoch began. The keys may be
            older.
        not_after: Unix seconds until which they are, at most 24 h later.
        epoch: The evidence epoch. The same keys have one after another; an enclave's first is 0.

    Raises:
        UnreadableError: A value outside of these bounds.
    """

    key_configs: tuple[bytes, ...]
    receipt_key: bytes
    measurements: Measurements
    release: bytes
    model_manifest: bytes
    engine: str
    model: str
    not_before: int
    not_after: int
    epoch: int

    def __post_init__(self) -> None:
        if not 0 < len(self.key_configs) <= _MAX_KEY_CONFIGS:
            raise UnreadableError(f"Claims should name 1 to {_MAX_KEY_CONFIGS} key configurations.")
        for config in self.key_configs:
            cbor.as_bytes(config, "a key configuration", most=8192)
        cbor.as_bytes(self.receipt_key, "the receipt key", size=32)
        check_measurements([list(pair) for pair in self.measurements], "the claims' measurements")
        cbor.as_bytes(self.release, "the release digest", size=32)
        cbor.as_bytes(self.model_manifest, "the model manifest digest", size=32)
        cbor.as_text(self.engine, "the engine's name", _MAX_NAME)
        cbor.as_text(self.model, "the model's name", _MAX_NAME)
        cbor.as_uint(self.not_before, "the start of validity")
        cbor.as_uint(self.not_after, "the end of validity")
        cbor.as_uint(self.epoch, "the evidence epoch")
        if not 0 < self.not_after - self.not_before <= MAX_LIFETIME_S:
            raise UnreadableError(
                f"Claims should be valid for 1 to {MAX_LIFETIME_S} s, not "
                f"{self.not_after - self.not_before}. Make keys more often."
            )

    def encode(self) -> bytes:
        """The claims' one encoding."""
        return cbor.encode(
            [
                _LABEL,
                list(self.key_configs),
                self.receipt_key,
                [list(pair) for pair in self.measurements],
                self.release,
                self.model_manifest,
                self.engine,
                self.model,
                self.not_before,
                self.not_after,
                self.epoch,
            ]
        )

    def keys_digest(self) -> bytes:
        """SHA-256 over every public key in the claims; the same in every epoch of them."""
        return hashlib.sha256(cbor.encode([list(self.key_configs), self.receipt_key])).digest()


def decode_claims(data: bytes) -> Claims:
    """Decode claims, refusing every encoding but the one that `Claims.encode` makes.

    Raises:
        UnreadableError: Not claims, or out of bounds.
    """
    items = cbor.as_array(cbor.decode(data, what="the claims", limit=MAX_CLAIMS), "the claims", 11)
    cbor.check_label(items[0], _LABEL, "the claims")
    configs = cbor.as_list(items[1], "the key configurations", _MAX_KEY_CONFIGS)
    return Claims(
        key_configs=tuple(cbor.as_bytes(c, "a key configuration") for c in configs),
        receipt_key=cbor.as_bytes(items[2], "the receipt key"),
        measurements=check_measurements(items[3], "the claims' measurements"),
        release=cbor.as_bytes(items[4], "the release digest"),
        model_manifest=cbor.as_bytes(items[5], "the model manifest digest"),
        engine=cbor.as_text(items[6], "the engine's name", _MAX_NAME),
        model=cbor.as_text(items[7], "the model's name", _MAX_NAME),
        not_before=cbor.as_uint(items[8], "the start of validity"),
        not_after=cbor.as_uint(items[9], "the end of validity"),
        epoch=cbor.as_uint(items[10], "the evidence epoch"),
    )
