"""The HPKE suites (RFC 9180, base mode) that OHTTP uses here, over `pyhpke`.

One table says what exists; a KEM is one row. Nothing outside this module touches the HPKE
library, and none of its exceptions pass through.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pyhpke
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from pyhpke.kem_key import KEMKeyPair

from transport.errors import DecryptionError, MessageError, UnknownKeyError, UsageError

KEM_X25519_HKDF_SHA256: Final = 0x0020
KDF_HKDF_SHA256: Final = 0x0001
AEAD_AES_128_GCM: Final = 0x0001
AEAD_CHACHA20_POLY1305: Final = 0x0003

TAG_LENGTH: Final = 16
"""Bytes that either AEAD adds to a plaintext."""
SEED_LENGTH: Final = 32
MAX_EXPORT_LENGTH: Final = 255 * 32
"""255 * Nh for HKDF-SHA256 (RFC 9180 section 5.3)."""


class SuiteId(NamedTuple):
    """A symmetric suite: the KDF and AEAD identifiers of the HPKE registry."""

    kdf_id: int
    aead_id: int


@dataclass(frozen=True, slots=True)
class Kem:
    """Sizes of one KEM in bytes: public key, encapsulated key, private key."""

    public_key_length: int
    enc_length: int
    private_key_length: int


@dataclass(frozen=True, slots=True)
class Aead:
    """Sizes of one AEAD in bytes, and its bare primitive for response chunks."""

    key_length: int
    nonce_length: int
    primitive: Callable[[bytes], AESGCM | ChaCha20Poly1305]

    @property
    def entropy_length(self) -> int:
        """max(Nn, Nk): the length of a response nonce (RFC 9458 section 4.4)."""
        return max(self.key_length, self.nonce_length)


KEMS: Final[dict[int, Kem]] = {KEM_X25519_HKDF_SHA256: Kem(32, 32, 32)}
AEADS: Final[dict[int, Aead]] = {
    AEAD_AES_128_GCM: Aead(16, 12, AESGCM),
    AEAD_CHACHA20_POLY1305: Aead(32, 12, ChaCha20Poly1305),
}
SUITES: Final[tuple[SuiteId, ...]] = (
    SuiteId(KDF_HKDF_SHA256, AEAD_AES_128_GCM),
    SuiteId(KDF_HKDF_SHA256, AEAD_CHACHA20_POLY1305),
)


def kem(kem_id: int) -> Kem:
    """The KEM's row; `UnknownKeyError` where this end does not have it."""
    try:
        return KEMS[kem_id]
    except KeyError:
        raise UnknownKeyError(
            f"KEM {kem_id:#06x} is not supported here; offer one of "
            f"{', '.join(f'{known:#06x}' for known in KEMS)}"
        ) from None


def aead(suite: SuiteId) -> Aead:
    """The suite's AEAD row; `UnknownKeyError` where this end does not have the suite."""
    if suite not in SUITES:
        raise UnknownKeyError(
            f"suite kdf={suite.kdf_id:#06x} aead={suite.aead_id:#06x} is not supported here; "
            "use HKDF-SHA256 with AES-128-GCM or ChaCha20-Poly1305"
        )
    return AEADS[suite.aead_id]


@lru_cache(maxsize=16)
def _cipher_suite(kem_id: int, suite: SuiteId) -> Any:
    kem(kem_id)
    aead(suite)
    return pyhpke.CipherSuite.new(
        pyhpke.KEMId(kem_id), pyhpke.KDFId(suite.kdf_id), pyhpke.AEADId(suite.aead_id)
    )


def _kem_primitive(kem_id: int) -> Any:
    return _cipher_suite(kem_id, SUITES[0]).kem


class PrivateKey:
    """A KEM private key. Its representation says the KEM and nothing else."""

    __slots__ = ("_key", "kem_id", "public_bytes")

    def __init__(self, kem_id: int, private_bytes: bytes) -> None:
        """Read a serialized private key (RFC 9180 section 7.1.2).

        Raises:
            UnknownKeyError: The KEM is not supported.
            UsageError: The bytes are not a private key of this KEM.
        """
        if len(private_bytes) != kem(kem_id).private_key_length:
            raise UsageError(
                f"a private key of KEM {kem_id:#06x} has {kem(kem_id).private_key_length} bytes, "
                f"not {len(private_bytes)}"
            )
        self.kem_id = kem_id
        self._key = _kem_primitive(kem_id).deserialize_private_key(private_bytes)
        self.public_bytes: bytes = self._key.raw.public_key().public_bytes_raw()

    @classmethod
    def derive(cls, kem_id: int, ikm: bytes) -> PrivateKey:
        """DeriveKeyPair of RFC 9180 section 7.1.3 from 32 or more secret, uniformly random bytes.

        Raises:
            UsageError: Fewer than 32 bytes of key material.
        """
        if len(ikm) < SEED_LENGTH:
            raise UsageError(f"a key needs {SEED_LENGTH} random bytes, got {len(ikm)}")
        pair = _kem_primitive(kem_id).derive_key_pair(ikm)
        return cls(kem_id, pair.private_key.to_private_bytes())

    def __repr__(self) -> str:
        """Name the KEM only: the key is secret."""
        return f"PrivateKey(kem_id={self.kem_id:#06x})"

    def recipient(self, suite: SuiteId, enc: bytes, info: bytes) -> RecipientContext:
        """SetupBaseR (RFC 9180 section 5.1.1).

        Raises:
            DecryptionError: `enc` is no valid encapsulated key, e.g. a point of small order.
        """
        try:
            context = _cipher_suite(self.kem_id, suite).create_recipient_context(
                enc, self._key, info
            )
        except (pyhpke.PyHPKEError, ValueError) as error:
            raise DecryptionError(
                "the encapsulated key is not valid for this KEM; seal the request anew"
            ) from error
        return RecipientContext(context)


class _Context:
    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """The HPKE exporter (RFC 9180 section 5.3), for 1 to `MAX_EXPORT_LENGTH` bytes."""
        if not 1 <= length <= MAX_EXPORT_LENGTH:
            raise UsageError(f"cannot export {length} bytes; ask for 1 to {MAX_EXPORT_LENGTH}")
        secret: bytes = self._context.export(exporter_context, length)
        return secret


class SenderContext(_Context):
    """Seals messages in order."""

    __slots__ = ()

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """Seal the next message."""
        sealed: bytes = self._context.seal(plaintext, aad)
        return sealed


class RecipientContext(_Context):
    """Opens messages in the order in which they were sealed."""

    __slots__ = ()

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Open the next message.

        Raises:
            DecryptionError: The message does not open.
        """
        try:
            plaintext: bytes = self._context.open(sealed, aad)
        except pyhpke.PyHPKEError as error:
            raise DecryptionError(
                "the message does not open: altered, reordered, cut, or sealed to another key"
            ) from error
        return plaintext


def setup_sender(
    kem_id: int,
    public_key: bytes,
    suite: SuiteId,
    info: bytes,
    ephemeral_seed: bytes | None = None,
) -> tuple[bytes, SenderContext]:
    """SetupBaseS (RFC 9180 section 5.1.1): the encapsulated key and the context.

    `ephemeral_seed` is the ephemeral X25519 private key, for test vectors and replays in tests;
    None, the only choice for real traffic, draws a fresh one.

    Raises:
        MessageError: The public key is not valid for the KEM.
        UnknownKeyError: The KEM or suite is not supported.
    """
    cipher_suite = _cipher_suite(kem_id, suite)
    ephemeral = None
    if ephemeral_seed is not None:
        private = cipher_suite.kem.deserialize_private_key(ephemeral_seed)
        public = pyhpke.KEMKey.from_pyca_cryptography_key(private.raw.public_key())
        ephemeral = KEMKeyPair(private, public)
    try:
        recipient = cipher_suite.kem.deserialize_public_key(public_key)
        enc, context = cipher_suite.create_sender_context(recipient, info, eks=ephemeral)
    except (pyhpke.PyHPKEError, ValueError) as error:
        raise MessageError(
            "the gateway's public key is not valid; fetch the key configuration anew"
        ) from error
    return enc, SenderContext(context)


def hkdf_sha256_extract(salt: bytes, ikm: bytes) -> bytes:
    """Extract of RFC 5869 section 2.2."""
    return hmac.digest(salt, ikm, "sha256")


def hkdf_sha256_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """Expand of RFC 5869 section 2.3 for at most one block (`length` up to 32)."""
    return hmac.digest(prk, info + b"\x01", "sha256")[:length]


class ResponseAead:
    """The AEAD of responses: sealing or opening under a nonce that the caller counts."""

    __slots__ = ("_base_nonce", "_primitive")

    def __init__(self, suite: SuiteId, key: bytes, base_nonce: bytes) -> None:
        self._primitive = aead(suite).primitive(key)
        self._base_nonce = int.from_bytes(base_nonce, "big")

    def _nonce(self, counter: int) -> bytes:
        # chunk_nonce = aead_nonce XOR encode(Nn, counter)
        return (self._base_nonce ^ counter).to_bytes(12, "big")

    def seal(self, counter: int, plaintext: bytes, aad: bytes) -> bytes:
        """Seal `plaintext` as message number `counter`."""
        return self._primitive.encrypt(self._nonce(counter), plaintext, aad)

    def open(self, counter: int, sealed: bytes, aad: bytes) -> bytes:
        """Open message number `counter`; `DecryptionError` where it does not open."""
        try:
            return self._primitive.decrypt(self._nonce(counter), sealed, aad)
        except InvalidTag as error:
            raise DecryptionError(
                "the response does not open: altered, reordered, cut, or for another request"
            ) from error
