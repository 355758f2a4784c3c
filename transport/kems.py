"""Post-quantum KEMs for `pyhpke`: ML-KEM-768 and X-Wing, over `cryptography`.

pyhpke 0.6.5 has no KEM but the five DHKEMs of RFC 9180: its `KEMId` ends at X448 and its `KEM`
refuses all else. Its `CipherSuite` takes any `KEMInterface`, though, and reads of an identifier
no more than its value; so these two stand beside its own. (`cryptography` 50 has HPKE with
X-Wing too, but no exporter, without which there is no Oblivious HTTP.)

Sources: FIPS 203, draft-connolly-cfrg-xwing-kem, draft-ietf-hpke-pq. Errors are those of pyhpke
and `cryptography`; `transport.hpke` translates them.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from operator import methodcaller
from typing import Any, Final

import pyhpke
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

ML_KEM_PUBLIC_LENGTH: Final = 1184
ML_KEM_ENC_LENGTH: Final = 1088
ML_KEM_SEED_LENGTH: Final = 64
X25519_LENGTH: Final = 32
X_WING_SEED_LENGTH: Final = 32

_X_WING_LABEL: Final = b"\\.//^\\"

Encapsulate = Callable[[MLKEM768PublicKey], tuple[bytes, bytes]]
"""ML-KEM.Encaps of FIPS 203: shared secret and ciphertext."""


class PostQuantumKemId(enum.Enum):
    """Numbers of the HPKE KEM registry that pyhpke's `KEMId` lacks."""

    ML_KEM_768 = 0x0041
    X_WING = 0x647A


def supported() -> bool:
    """Whether `cryptography` was built with ML-KEM; one built on an older OpenSSL was not."""
    try:
        MLKEM768PrivateKey.from_seed_bytes(bytes(ML_KEM_SEED_LENGTH))
    except UnsupportedAlgorithm:
        return False
    return True


class MlKem768Key(pyhpke.KEMKeyInterface):
    """Either half of an ML-KEM-768 key; a private one serializes its public half too."""

    def to_private_bytes(self) -> bytes:
        """The 64-byte seed d || z."""
        seed: bytes = self.raw.private_bytes_raw()
        return seed

    def to_public_bytes(self) -> bytes:
        """The 1184-byte encapsulation key."""
        public = self.raw.public_key() if isinstance(self.raw, MLKEM768PrivateKey) else self.raw
        encoded: bytes = public.public_bytes_raw()
        return encoded


class XWingPublicKey(pyhpke.KEMKeyInterface):
    """ML-KEM-768's encapsulation key, then X25519's."""

    def __init__(self, encoded: bytes) -> None:
        super().__init__(encoded)
        # Refuses coefficients of q or more, as FIPS 203 section 7.2 wants, and wrong lengths.
        self.ml_kem = MLKEM768PublicKey.from_public_bytes(encoded[:ML_KEM_PUBLIC_LENGTH])
        self.x25519_bytes = encoded[ML_KEM_PUBLIC_LENGTH:]
        self.x25519 = X25519PublicKey.from_public_bytes(self.x25519_bytes)

    def to_public_bytes(self) -> bytes:
        """The 1216-byte encapsulation key."""
        encoded: bytes = self.raw
        return encoded


class XWingPrivateKey(pyhpke.KEMKeyInterface):
    """Expanded once from its seed (expandDecapsulationKey)."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        if len(seed) != X_WING_SEED_LENGTH:
            raise ValueError("an X-Wing decapsulation key has 32 bytes")
        expanded = hashlib.shake_256(seed).digest(ML_KEM_SEED_LENGTH + X25519_LENGTH)
        self.ml_kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:ML_KEM_SEED_LENGTH])
        self.x25519 = X25519PrivateKey.from_private_bytes(expanded[ML_KEM_SEED_LENGTH:])
        self.x25519_public_bytes = self.x25519.public_key().public_bytes_raw()

    def to_private_bytes(self) -> bytes:
        """The 32-byte seed."""
        seed: bytes = self.raw
        return seed

    def to_public_bytes(self) -> bytes:
        """The 1216-byte encapsulation key."""
        return self.ml_kem.public_key().public_bytes_raw() + self.x25519_public_bytes


class _PostQuantumKem(pyhpke.KEMInterface):
    """What both KEMs refuse: they have no authenticated modes (draft-ietf-hpke-pq)."""

    _ID: PostQuantumKemId

    @property
    def id(self) -> Any:
        """The KEM's number, in `value`: all that pyhpke reads of it."""
        return self._ID

    def _derive_seed(self, ikm: bytes, length: int) -> bytes:
        """SHAKE256.LabeledDerive(ikm, "DeriveKeyPair", "", length) of draft-ietf-hpke-pq."""
        label = b"DeriveKeyPair"
        suite_id = b"KEM" + self._ID.value.to_bytes(2, "big")
        labeled = (ikm, b"HPKE-v1", suite_id, len(label).to_bytes(2, "big"), label)
        return hashlib.shake_256(b"".join(labeled) + length.to_bytes(2, "big")).digest(length)

    @staticmethod
    def _base_mode_only(*keys: object) -> None:
        if any(key is not None for key in keys):
            raise pyhpke.NotSupportedError("this KEM has no authenticated modes and no given keys")


class MlKem768(_PostQuantumKem):
    """ML-KEM-768 as an HPKE KEM (draft-ietf-hpke-pq, section "ML-KEM").

    `encapsulate` draws the randomness; `cryptography` 50 cannot be given any, so a test vector
    brings a function of its own.
    """

    _ID = PostQuantumKemId.ML_KEM_768

    def __init__(self, encapsulate: Encapsulate = methodcaller("encapsulate")) -> None:
        self._encapsulate = encapsulate

    def deserialize_private_key(self, key: bytes) -> MlKem768Key:
        """From the 64-byte seed; ValueError for anything else."""
        return MlKem768Key(MLKEM768PrivateKey.from_seed_bytes(key))

    def deserialize_public_key(self, key: bytes) -> MlKem768Key:
        """ValueError where the length is wrong or a coefficient is not below q."""
        return MlKem768Key(MLKEM768PublicKey.from_public_bytes(key))

    def derive_key_pair(self, ikm: bytes) -> pyhpke.KEMKeyPair:
        """DeriveKeyPair of draft-ietf-hpke-pq."""
        private = self.deserialize_private_key(self._derive_seed(ikm, ML_KEM_SEED_LENGTH))
        return pyhpke.KEMKeyPair(private, MlKem768Key(private.raw.public_key()))

    def encap(
        self,
        pkr: pyhpke.KEMKeyInterface,
        sks: pyhpke.KEMKeyInterface | None = None,
        eks: pyhpke.KEMKeyPair | None = None,
    ) -> tuple[bytes, bytes]:
        """Shared secret and encapsulated key."""
        self._base_mode_only(sks, eks)
        return self._encapsulate(pkr.raw)

    def decap(
        self,
        enc: bytes,
        skr: pyhpke.KEMKeyInterface,
        pks: pyhpke.KEMKeyInterface | None = None,
    ) -> bytes:
        """The shared secret, a random one where `enc` was not made for this key."""
        self._base_mode_only(pks)
        secret: bytes = skr.raw.decapsulate(enc)
        return secret


class XWing(_PostQuantumKem):
    """X-Wing: ML-KEM-768 and X25519 (draft-connolly-cfrg-xwing-kem, draft-ietf-hpke-pq).

    The secret holds while either of the two does. `encapsulate` and `generate` draw the
    randomness, as for `MlKem768`.
    """

    _ID = PostQuantumKemId.X_WING

    def __init__(
        self,
        encapsulate: Encapsulate = methodcaller("encapsulate"),
        generate: Callable[[], X25519PrivateKey] = X25519PrivateKey.generate,
    ) -> None:
        self._encapsulate = encapsulate
        self._generate = generate

    def deserialize_private_key(self, key: bytes) -> XWingPrivateKey:
        """From the 32-byte seed; ValueError for anything else."""
        return XWingPrivateKey(key)

    def deserialize_public_key(self, key: bytes) -> XWingPublicKey:
        """ValueError where the length is wrong or a coefficient is not below q."""
        return XWingPublicKey(key)

    def derive_key_pair(self, ikm: bytes) -> pyhpke.KEMKeyPair:
        """DeriveKeyPair of draft-ietf-hpke-pq."""
        private = XWingPrivateKey(self._derive_seed(ikm, X_WING_SEED_LENGTH))
        return pyhpke.KEMKeyPair(private, XWingPublicKey(private.to_public_bytes()))

    def encap(
        self,
        pkr: pyhpke.KEMKeyInterface,
        sks: pyhpke.KEMKeyInterface | None = None,
        eks: pyhpke.KEMKeyPair | None = None,
    ) -> tuple[bytes, bytes]:
        """Shared secret and encapsulated key."""
        self._base_mode_only(sks, eks)
        if not isinstance(pkr, XWingPublicKey):
            raise TypeError("X-Wing encapsulates to an X-Wing public key")
        ephemeral = self._generate()
        ct_x = ephemeral.public_key().public_bytes_raw()
        ss_x = ephemeral.exchange(pkr.x25519)
        ss_m, ct_m = self._encapsulate(pkr.ml_kem)
        return _combine(ss_m, ss_x, ct_x, pkr.x25519_bytes), ct_m + ct_x

    def decap(
        self,
        enc: bytes,
        skr: pyhpke.KEMKeyInterface,
        pks: pyhpke.KEMKeyInterface | None = None,
    ) -> bytes:
        """The shared secret; ValueError for a wrong length or an X25519 point of small order.

        The draft needs no check of the point, since ML-KEM's half still holds. No honest sender
        makes such a point, so it is refused all the same.
        """
        self._base_mode_only(pks)
        if not isinstance(skr, XWingPrivateKey):
            raise TypeError("X-Wing decapsulates with an X-Wing private key")
        ct_x = enc[ML_KEM_ENC_LENGTH:]
        ss_x = skr.x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
        ss_m = skr.ml_kem.decapsulate(enc[:ML_KEM_ENC_LENGTH])
        return _combine(ss_m, ss_x, ct_x, skr.x25519_public_bytes)


def _combine(ss_m: bytes, ss_x: bytes, ct_x: bytes, pk_x: bytes) -> bytes:
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + _X_WING_LABEL).digest()
