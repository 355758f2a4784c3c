"""The HPKE suites (RFC 9180, base mode) that OHTTP uses here, over `pyhpke`.

Three tables say what exists; a KEM, KDF or AEAD is one row. Nothing outside this module and
`transport.kems` touches the HPKE library, and none of its exceptions pass through.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Final, NamedTuple

import pyhpke
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from transport import kems
from transport.errors import (
    DecryptionError,
    LimitError,
    MessageError,
    UnknownKeyError,
    UsageError,
)

KEM_P256_HKDF_SHA256: Final = 0x0010
KEM_X25519_HKDF_SHA256: Final = 0x0020
KEM_ML_KEM_768: Final = kems.PostQuantumKemId.ML_KEM_768.value
KEM_X_WING: Final = kems.PostQuantumKemId.X_WING.value
KDF_HKDF_SHA256: Final = 0x0001
KDF_HKDF_SHA384: Final = 0x0002
KDF_HKDF_SHA512: Final = 0x0003
AEAD_AES_128_GCM: Final = 0x0001
AEAD_AES_256_GCM: Final = 0x0002
AEAD_CHACHA20_POLY1305: Final = 0x0003

TAG_LENGTH: Final = 16
"""Bytes that each AEAD adds to a plaintext."""
NONCE_LENGTH: Final = 12
"""Nn of each AEAD."""
SEED_LENGTH: Final = 32
MAX_SEQUENCE: Final = (1 << 8 * NONCE_LENGTH) - 1
"""Messages under one key: RFC 9180 section 5.2, and fewer than the 256**Nn chunks of the draft."""


class SuiteId(NamedTuple):
    """A symmetric suite: the KDF and AEAD identifiers of the HPKE registry."""

    kdf_id: int
    aead_id: int


_HKDF_SHA256_SUITES: Final = (
    SuiteId(KDF_HKDF_SHA256, AEAD_AES_128_GCM),
    SuiteId(KDF_HKDF_SHA256, AEAD_CHACHA20_POLY1305),
    SuiteId(KDF_HKDF_SHA256, AEAD_AES_256_GCM),
)
# What a KEM of category 3 agrees on is not handed to an AEAD of category 1.
_POST_QUANTUM_SUITES: Final = (
    SuiteId(KDF_HKDF_SHA256, AEAD_AES_256_GCM),
    SuiteId(KDF_HKDF_SHA256, AEAD_CHACHA20_POLY1305),
    SuiteId(KDF_HKDF_SHA256, AEAD_AES_128_GCM),
)


@dataclass(frozen=True, slots=True)
class Kem:
    """One KEM.

    Attributes:
        public_key_length: Npk in bytes.
        enc_length: Nenc, the encapsulated key, in bytes.
        private_key_length: Nsk in bytes.
        make: Its implementation for pyhpke.
        offered: Suites that a gateway offers with it, the preferred first.
    """

    public_key_length: int
    enc_length: int
    private_key_length: int
    make: Callable[[], pyhpke.KEMInterface]
    offered: tuple[SuiteId, ...]


@dataclass(frozen=True, slots=True)
class Kdf:
    """One KDF: HKDF over the hash of this name, and Nh, the hash's length in bytes."""

    hash_name: str
    hash_length: int

    @property
    def max_export_length(self) -> int:
        """255 * Nh (RFC 9180 section 5.3)."""
        return 255 * self.hash_length

    def extract(self, salt: bytes, ikm: bytes) -> bytes:
        """Extract of RFC 5869 section 2.2."""
        return hmac.digest(salt, ikm, self.hash_name)

    def expand(self, prk: bytes, info: bytes, length: int) -> bytes:
        """Expand of RFC 5869 section 2.3 for at most one block (`length` up to Nh)."""
        return hmac.digest(prk, info + b"\x01", self.hash_name)[:length]


@dataclass(frozen=True, slots=True)
class Aead:
    """One AEAD: the length of its key in bytes, and its primitive."""

    key_length: int
    primitive: Callable[[bytes], AESGCM | ChaCha20Poly1305]

    @property
    def entropy_length(self) -> int:
        """max(Nn, Nk): the length of a response nonce (RFC 9458 section 4.4)."""
        return max(self.key_length, NONCE_LENGTH)


def _dhkem(kem_id: pyhpke.KEMId) -> Callable[[], pyhpke.KEMInterface]:
    return lambda: (
        pyhpke.CipherSuite.new(kem_id, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId.AES128_GCM).kem
    )


KEMS: Final[dict[int, Kem]] = {
    KEM_X_WING: Kem(1216, 1120, 32, kems.XWing, _POST_QUANTUM_SUITES),
    KEM_ML_KEM_768: Kem(1184, 1088, 64, kems.MlKem768, _POST_QUANTUM_SUITES),
    KEM_X25519_HKDF_SHA256: Kem(
        32, 32, 32, _dhkem(pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256), _HKDF_SHA256_SUITES
    ),
    KEM_P256_HKDF_SHA256: Kem(
        65, 65, 32, _dhkem(pyhpke.KEMId.DHKEM_P256_HKDF_SHA256), _HKDF_SHA256_SUITES
    ),
}
"""By identifier, the strongest first."""
if not kems.supported():
    del KEMS[KEM_X_WING], KEMS[KEM_ML_KEM_768]

KDFS: Final[dict[int, Kdf]] = {
    KDF_HKDF_SHA256: Kdf("sha256", 32),
    KDF_HKDF_SHA384: Kdf("sha384", 48),
    KDF_HKDF_SHA512: Kdf("sha512", 64),
}
AEADS: Final[dict[int, Aead]] = {
    AEAD_AES_128_GCM: Aead(16, AESGCM),
    AEAD_AES_256_GCM: Aead(32, AESGCM),
    AEAD_CHACHA20_POLY1305: Aead(32, ChaCha20Poly1305),
}
SUITES: Final[tuple[SuiteId, ...]] = tuple(SuiteId(*pair) for pair in product(KDFS, AEADS))
"""Every suite that this end can use, with any KEM."""


def kem(kem_id: int) -> Kem:
    """The KEM's row; `UnknownKeyError` where this end does not have it."""
    try:
        return KEMS[kem_id]
    except KeyError:
        raise UnknownKeyError(
            f"KEM {kem_id:#06x} is not supported here; offer one of "
            f"{', '.join(f'{known:#06x}' for known in KEMS)}"
        ) from None


def _unknown(suite: SuiteId) -> UnknownKeyError:
    return UnknownKeyError(
        f"suite kdf={suite.kdf_id:#06x} aead={suite.aead_id:#06x} is not supported here; "
        "use HKDF-SHA256, -384 or -512 with AES-128-GCM, AES-256-GCM or ChaCha20-Poly1305"
    )


def kdf(suite: SuiteId) -> Kdf:
    """The suite's KDF row; `UnknownKeyError` where this end does not have it."""
    row = KDFS.get(suite.kdf_id)
    if row is None:
        raise _unknown(suite)
    return row


def aead(suite: SuiteId) -> Aead:
    """The suite's AEAD row; `UnknownKeyError` where this end does not have it."""
    row = AEADS.get(suite.aead_id)
    if row is None:
        raise _unknown(suite)
    return row


@lru_cache(maxsize=len(KEMS))
def _implementation(kem_id: int) -> pyhpke.KEMInterface:
    return kem(kem_id).make()


@lru_cache(maxsize=64)
def _public_key(kem_id: int, encoded: bytes) -> pyhpke.KEMKeyInterface:
    # A device seals to the same few keys; reading an X-Wing key is a fifth of encapsulating to it.
    if len(encoded) != kem(kem_id).public_key_length:
        raise ValueError("a public key of another length")
    return _implementation(kem_id).deserialize_public_key(encoded)


@lru_cache(maxsize=len(SUITES))
def _symmetric(suite: SuiteId) -> pyhpke.CipherSuite:
    if suite not in SUITES:
        raise _unknown(suite)
    return pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256,
        pyhpke.KDFId(suite.kdf_id),
        pyhpke.AEADId(suite.aead_id),
    )


class _KeySchedule(pyhpke.AEADInterface, pyhpke.AEADKeyInterface):
    """Stands where pyhpke expects an AEAD, and so is handed what its key schedule yields.

    pyhpke 0.6.5 does KEM, key schedule and exporter; messages are counted by `Sealer` and
    `Opener`. Its own contexts spend more on a nonce than on the encryption, count a message
    that does not open, and lack the MessageLimitReachedError of RFC 9180 section 5.2.
    """

    def __init__(self, aead: pyhpke.AEADInterface) -> None:
        self._aead = aead
        self.key = b""
        self.base_nonce = b""

    @property
    def id(self) -> pyhpke.AEADId:
        return self._aead.id

    @property
    def key_size(self) -> int:
        return self._aead.key_size

    @property
    def nonce_size(self) -> int:
        return self._aead.nonce_size

    @property
    def tag_size(self) -> int:
        return self._aead.tag_size

    def import_key(self, key: bytes) -> pyhpke.AEADKeyInterface:
        self.key = key
        return self

    # The nonce of a context's first message, number 0, is the base nonce itself.

    def seal(self, pt: bytes, nonce: bytes, aad: bytes = b"") -> bytes:
        self.base_nonce = nonce
        return b""

    def open(self, ct: bytes, nonce: bytes, aad: bytes = b"") -> bytes:
        self.base_nonce = nonce
        return b""


class PrivateKey:
    """A KEM private key. Its representation says the KEM and nothing else."""

    __slots__ = ("_key", "kem_id", "public_bytes")

    def __init__(self, kem_id: int, private_bytes: bytes) -> None:
        """Read a serialized private key (RFC 9180 section 7.1.2, draft-ietf-hpke-pq).

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
        try:
            self._key = _implementation(kem_id).deserialize_private_key(private_bytes)
        except ValueError:
            # Not chained: what the library has to say of a private key is not for logs.
            raise UsageError(
                f"these bytes are not a private key of KEM {kem_id:#06x}; derive one"
            ) from None
        self.public_bytes = _public_half(self._key).to_public_bytes()

    @classmethod
    def derive(cls, kem_id: int, ikm: bytes) -> PrivateKey:
        """DeriveKeyPair (RFC 9180 section 7.1.3, draft-ietf-hpke-pq).

        Args:
            kem_id: Of the key.
            ikm: 32 or more secret, uniformly random bytes.

        Raises:
            UnknownKeyError: The KEM is not supported.
            UsageError: Fewer than 32 bytes of key material.
        """
        private_key_length = kem(kem_id).private_key_length
        if len(ikm) < SEED_LENGTH:
            raise UsageError(f"a key needs {SEED_LENGTH} random bytes, got {len(ikm)}")
        pair = _implementation(kem_id).derive_key_pair(ikm)
        # pyhpke 0.6.5 pads a P-256 key to 256 bytes: it takes a size in bits for one in bytes.
        return cls(kem_id, pair.private_key.to_private_bytes()[-private_key_length:])

    def __repr__(self) -> str:
        """Name the KEM only: the key is secret."""
        return f"PrivateKey(kem_id={self.kem_id:#06x})"

    def recipient(self, suite: SuiteId, enc: bytes, info: bytes) -> tuple[Opener, Exporter]:
        """SetupBaseR (RFC 9180 section 5.1.1): the two halves of the context.

        Raises:
            UnknownKeyError: The suite is not supported.
            DecryptionError: `enc` is no valid encapsulated key, e.g. a point of small order.
        """
        cipher_suite, schedule = _cipher_suite(self.kem_id, suite)
        # pyhpke 0.6.5 would take a compressed P-256 point, against RFC 9180 section 7.1.1.
        if len(enc) != kem(self.kem_id).enc_length:
            raise DecryptionError(
                f"an encapsulated key of KEM {self.kem_id:#06x} has "
                f"{kem(self.kem_id).enc_length} bytes, not {len(enc)}; seal the request anew"
            )
        try:
            context = cipher_suite.create_recipient_context(enc, self._key, info)
        except (pyhpke.PyHPKEError, ValueError) as error:
            raise DecryptionError(
                "the encapsulated key is not valid for this KEM; seal the request anew"
            ) from error
        context.open(b"")
        return Opener(suite, schedule.key, schedule.base_nonce), Exporter(suite, context)

    def as_ephemeral(self) -> pyhpke.KEMKeyPair:
        """This key in the sender's part, for test vectors; `UsageError` for a KEM without one."""
        public = _public_half(self._key)
        if public is self._key:
            raise UsageError(f"KEM {self.kem_id:#06x} has no ephemeral key that could be given")
        return pyhpke.KEMKeyPair(self._key, public)


def _cipher_suite(kem_id: int, suite: SuiteId) -> tuple[pyhpke.CipherSuite, _KeySchedule]:
    symmetric = _symmetric(suite)
    schedule = _KeySchedule(symmetric.aead)
    return pyhpke.CipherSuite(_implementation(kem_id), symmetric.kdf, schedule), schedule


def _public_half(key: pyhpke.KEMKeyInterface) -> pyhpke.KEMKeyInterface:
    """What serializes a private key's public half: for the post-quantum KEMs, the key itself."""
    if isinstance(key.raw, (X25519PrivateKey, EllipticCurvePrivateKey)):
        return pyhpke.KEMKey.from_pyca_cryptography_key(key.raw.public_key())
    return key


class _Messages:
    """One AEAD key and the number of the next message under it.

    RFC 9180 section 5.2 and the chunked draft count nonces alike: base nonce XOR number.
    """

    __slots__ = ("_base_nonce", "_cipher", "_next")

    def __init__(self, suite: SuiteId, key: bytes, base_nonce: bytes, first: int = 0) -> None:
        """Count messages from `first`, which is 0 but in tests of the count's end."""
        self._cipher = aead(suite).primitive(key)
        self._base_nonce = int.from_bytes(base_nonce, "big")
        self._next = first


def _overflow() -> LimitError:
    return LimitError("this key has no nonce left for another message; start a new exchange")


class Sealer(_Messages):
    """Seals messages in order."""

    __slots__ = ()

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """Seal the next message; `LimitError` where the count would overflow."""
        number = self._next
        if number >= MAX_SEQUENCE:
            raise _overflow()
        self._next = number + 1
        nonce = (self._base_nonce ^ number).to_bytes(NONCE_LENGTH, "big")
        return self._cipher.encrypt(nonce, plaintext, aad)


class Opener(_Messages):
    """Opens messages in the order in which they were sealed."""

    __slots__ = ()

    def open(self, sealed: bytes | bytearray, aad: bytes) -> bytes:
        """Open the next message. One that does not open is not counted.

        Raises:
            DecryptionError: The message does not open.
            LimitError: The count would overflow.
        """
        number = self._next
        if number >= MAX_SEQUENCE:
            raise _overflow()
        nonce = (self._base_nonce ^ number).to_bytes(NONCE_LENGTH, "big")
        try:
            plaintext = self._cipher.decrypt(nonce, sealed, aad)
        except InvalidTag as error:
            raise DecryptionError(
                "the message does not open: altered, reordered, cut, or sealed for another exchange"
            ) from error
        self._next = number + 1
        return plaintext


class Exporter:
    """The HPKE exporter of one context."""

    __slots__ = ("_context", "_max_length")

    def __init__(self, suite: SuiteId, context: pyhpke.ContextInterface) -> None:
        """Made by `setup_sender` and `PrivateKey.recipient` only."""
        self._context = context
        self._max_length = kdf(suite).max_export_length

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """Export a secret (RFC 9180 section 5.3) of 1 to 255 * Nh bytes.

        Raises:
            UsageError: Another length.
        """
        if not 1 <= length <= self._max_length:
            raise UsageError(f"cannot export {length} bytes; ask for 1 to {self._max_length}")
        secret: bytes = self._context.export(exporter_context, length)
        return secret


def setup_sender(
    kem_id: int,
    public_key: bytes,
    suite: SuiteId,
    info: bytes,
    ephemeral_seed: bytes | None = None,
) -> tuple[bytes, Sealer, Exporter]:
    """SetupBaseS (RFC 9180 section 5.1.1): the encapsulated key and both halves of the context.

    `ephemeral_seed` is the ephemeral private key of a DHKEM, for test vectors and replays in
    tests; None, the only choice for real traffic, draws a fresh one.

    Raises:
        MessageError: The public key is not valid for the KEM.
        UnknownKeyError: The KEM or suite is not supported.
        UsageError: The ephemeral seed is no private key of this KEM, or the KEM takes none.
    """
    cipher_suite, schedule = _cipher_suite(kem_id, suite)
    eks = None if ephemeral_seed is None else PrivateKey(kem_id, ephemeral_seed).as_ephemeral()
    try:
        recipient = _public_key(kem_id, public_key)
        enc, context = cipher_suite.create_sender_context(recipient, info, eks=eks)
    except (pyhpke.PyHPKEError, ValueError) as error:
        raise MessageError(
            "the gateway's public key is not valid; fetch the key configuration anew"
        ) from error
    context.seal(b"")
    return enc, Sealer(suite, schedule.key, schedule.base_nonce), Exporter(suite, context)
