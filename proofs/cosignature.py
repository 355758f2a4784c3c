"""Cosignatures of checkpoints, c2sp.org/tlog-cosignature: a witness saw that a log only grew.

Both types of the specification: Ed25519 (`cosignature/v1`, key type 0x04) and ML-DSA-44
(`subtree/v1`, key type 0x06), the latter for whole trees alone, so with a start of 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.ed25519 import raw_public, verifies
from proofs.errors import RefusedError
from proofs.note import COSIGNER_KEYS, KeyType, Note, Signature, VerifierKey, keys_by_name

CosignerKey = Ed25519PrivateKey | MLDSA44PrivateKey

_MAX_TIME = 2**63 - 1
# Lengths of TLS vectors <1..2^8-1>.
_MAX_NAME = 255
_SIGNATURE_SIZES = {KeyType.ED25519_COSIGNATURE: 64, KeyType.ML_DSA_44_COSIGNATURE: 2420}


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A cosignature that was verified.

    Attributes:
        key: Who made it.
        time: When, in unix seconds, by the cosigner's clock: as of then the checkpoint was the
            largest that it knew of the log. 0 says nothing about that (ML-DSA-44 alone).
    """

    key: VerifierKey
    time: int


@dataclass(frozen=True, slots=True)
class Cosigner:
    """Makes cosignatures under a name, of the type that its key is for."""

    name: str
    key: CosignerKey = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        """The key that verifies what this one cosigns."""
        if isinstance(self.key, Ed25519PrivateKey):
            return VerifierKey(self.name, raw_public(self.key), KeyType.ED25519_COSIGNATURE)
        public = self.key.public_key().public_bytes_raw()
        return VerifierKey(self.name, public, KeyType.ML_DSA_44_COSIGNATURE)

    def cosign(self, checkpoint: Note, at: int) -> Signature:
        """Cosign the checkpoint in `checkpoint` as of `at`, in unix seconds.

        The caller has verified the log's signature and that the log only grew: this is the
        statement that it did.

        Raises:
            UnreadableError: The note's text is no checkpoint.
            RefusedError: No time that a cosignature can have, or a name that does not fit.
        """
        if not 0 < at <= _MAX_TIME:
            raise RefusedError(f"A cosignature cannot be of the time {at}. Set the clock.")
        verifier = self.verifier
        message = _message(verifier, checkpoint, parse_checkpoint(checkpoint.text), at)
        signature = self.key.sign(message)
        return Signature(self.name, verifier.key_id, at.to_bytes(8, "big") + signature)


def verify_cosignatures(note: Note, keys: Iterable[VerifierKey]) -> tuple[Cosignature, ...]:
    """Which of `keys` cosigned the checkpoint in `note`; signatures of others are ignored.

    The log's own signature is not looked at (`proofs.checkpoint.verify_checkpoint`).

    Returns:
        One for each public key, with its latest time, in the order of the note's lines. A key
        that is pinned under two names is one witness, and counts once.

    Raises:
        UnreadableError: The note's text is no checkpoint.
        RefusedError: A line names one of `keys` and is not its cosignature, or one of them is
            of a type that makes none.
    """
    known = keys_by_name(keys, COSIGNER_KEYS)
    checkpoint = parse_checkpoint(note.text)
    found: dict[bytes, Cosignature] = {}
    for line in note.signatures:
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        cosignature = Cosignature(key, _verified_time(key, note, checkpoint, line))
        before = found.get(key.public_key)
        if before is None or before.time < cosignature.time:
            found[key.public_key] = cosignature
    return tuple(found.values())


def _verified_time(key: VerifierKey, note: Note, checkpoint: Checkpoint, line: Signature) -> int:
    """The time of a cosignature by `key`; RefusedError where it is none."""
    # struct timestamped_signature: u64 timestamp, then the signature.
    time, signature = int.from_bytes(line.signature[:8], "big"), line.signature[8:]
    if (
        len(signature) != _SIGNATURE_SIZES[key.key_type]
        or time > _MAX_TIME
        # Only the ML-DSA-44 type may leave the time out.
        or (time == 0 and key.key_type is KeyType.ED25519_COSIGNATURE)
        or not _verifies(key, signature, _message(key, note, checkpoint, time))
    ):
        raise RefusedError(f"The cosignature of {key.name} on the checkpoint is false. Refuse it.")
    return time


def _verifies(key: VerifierKey, signature: bytes, message: bytes) -> bool:
    if key.key_type is KeyType.ED25519_COSIGNATURE:
        return verifies(key.public_key, signature, message)
    try:
        MLDSA44PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except UnsupportedAlgorithm as error:
        raise RefusedError(
            f"The cosignature of {key.name} is by ML-DSA-44, which this machine's cryptography "
            "library does not have. Verify it on another, or pin the witness's Ed25519 key."
        ) from error
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(key: VerifierKey, note: Note, checkpoint: Checkpoint, time: int) -> bytes:
    """What is signed. Sections 'Ed25519 signed message' and 'ML-DSA-44 signed message'."""
    if key.key_type is KeyType.ED25519_COSIGNATURE:
        return f"cosignature/v1\ntime {time}\n{note.text}".encode()
    # struct cosigned_message. Extension lines are not part of it.
    return b"".join(
        (
            b"subtree/v1\n\0",
            _vector(key.name),
            time.to_bytes(8, "big"),
            _vector(checkpoint.origin),
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def _vector(text: str) -> bytes:
    """A TLS `opaque<1..2^8-1>` (RFC 8446 section 3.4)."""
    data = text.encode()
    if len(data) > _MAX_NAME:
        raise RefusedError(
            f"A name of {len(data)} bytes does not fit into an ML-DSA-44 cosignature, which has "
            f"room for {_MAX_NAME}. Refuse it."
        )
    return bytes([len(data)]) + data
