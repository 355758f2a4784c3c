"""The receipt of an erasure: that an enclave forgot a thread, or records of one. A CWT claims set
(RFC 8392) in a COSE_Sign1 by the attested receipt key, of a type of its own.

| key | claim | value |
|---|---|---|
| 6 | iat: when it was erased | unix seconds |
| 7 | cti: erasure id | 16 bytes |
| -65537 | enclave: digest of the attestation bundle | 32 bytes |
| -65541 | release digest | 32 bytes |
| -65547 | digest of the receipt of the thread's last turn | 32 bytes or null |
| -65550 | evidence epoch | integer |
| -65551 | scope | `thread`, `records` or `rotation` |
| -65552 | commitment to the thread's id | 32 bytes |
| -65553 | memory head before | 32 bytes or null |
| -65554 | records that were erased | integer |
| -65555 | memory head after; not of `thread`, which leaves none | 32 bytes |

`thread`: all of it went. `records`: some went, and the thread goes on behind the head after.
`rotation`: all of it went, after every kept record was sealed anew under another key; the head
after is the new thread's.

Keys that a turn's receipt has too mean the same here. Every key is there, no other is. The
commitment is `proofs.receipt.commitment` under a salt that only the thread's owner and the enclave
can derive, so a reader of the log learns neither whose thread it was nor which.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import cbor, cose
from proofs.claims import Claims
from proofs.errors import RefusedError, UnreadableError
from proofs.receipt import commitment
from proofs.verdict import Status, Subject, verdict

TYPE = "application/sottovoce-erasure+cwt"
MAX_ERASURE = cose.MAX_SIGN1
# Clocks of honest machines differ, as `proofs.verify` allows.
_SKEW_S = 120
_ENTRY = b"sottovoce log entry: erasure v1\x00"
_KEYS = {
    "time": 6,
    "erasure_id": 7,
    "enclave": -65537,
    "release": -65541,
    "previous": -65547,
    "epoch": -65550,
    "scope": -65551,
    "thread": -65552,
    "head": -65553,
    "length": -65554,
}
_AFTER = -65555


class Scope(StrEnum):
    """What was erased."""

    THREAD = "thread"
    RECORDS = "records"
    ROTATION = "rotation"

    @property
    def ends_thread(self) -> bool:
        """Whether nothing is left under the thread's key."""
        return self is not Scope.RECORDS


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an enclave states about an erasure; digests have 32 bytes.

    Attributes:
        erasure_id: 16 bytes, chosen by the device that asked for it.
        enclave: Digest of the attestation bundle.
        release: Digest of the release manifest, as in the claims.
        time: When it was erased, unix seconds.
        epoch: Evidence epoch that it ran in.
        scope: What was erased.
        thread: Salted commitment to the thread's id.
        head: Memory head before, as the store had it, None where it held nothing that has one.
        length: How many records were erased; 0 where there was nothing to erase.
        previous: Digest of the receipt of the last turn, None where it is not to be had.
        after: Memory head after it; None of a thread that was erased as a whole.

    Raises:
        UnreadableError: A value outside of these bounds.
    """

    erasure_id: bytes
    enclave: bytes
    release: bytes
    time: int
    epoch: int
    scope: Scope
    thread: bytes
    head: bytes | None
    length: int
    previous: bytes | None
    after: bytes | None = None

    def __post_init__(self) -> None:
        cbor.as_bytes(self.erasure_id, "the erasure id", size=16)
        for name in ("enclave", "release", "thread"):
            cbor.as_bytes(getattr(self, name), f"the erasure's {name}", size=32)
        for name in ("head", "previous"):
            if getattr(self, name) is not None:
                cbor.as_bytes(getattr(self, name), f"the erasure's {name}", size=32)
        for name in ("time", "epoch", "length"):
            cbor.as_uint(getattr(self, name), f"the erasure's {name}")
        if type(self.scope) is not Scope:
            raise UnreadableError("the erasure's scope is none that this version knows.")
        if self.scope is not Scope.THREAD:
            cbor.as_bytes(self.after, "the erasure's after", size=32)
        elif self.after is not None:
            raise UnreadableError("the erasure of a thread has a head after it.")

    def encode(self) -> bytes:
        """The CWT claims set."""
        claims: dict[int, object] = {key: getattr(self, name) for name, key in _KEYS.items()}
        claims[_KEYS["scope"]] = self.scope.value
        return cbor.encode(claims if self.after is None else {**claims, _AFTER: self.after})


@dataclass(frozen=True, slots=True)
class SignedErasure:
    """A decoded erasure receipt whose signature nobody has checked yet.

    Attributes:
        unverified: The erasure as read; `verify` returns it once it is worth something.
        encoded: The COSE_Sign1.
    """

    unverified: Erasure
    encoded: bytes
    _message: cose.Sign1

    @property
    def digest(self) -> bytes:
        """SHA-256 of the COSE_Sign1, 32 bytes."""
        return hashlib.sha256(self.encoded).digest()

    def verify(self, enclave: bytes, claims: Claims) -> Erasure:
        """The erasure, if the enclave that it names signed it while its keys were valid.

        Args:
            enclave: Digest of the bundle that holds `claims`, 32 bytes; whether the bundle holds
                is `proofs.verify`'s to say.
            claims: What that bundle claims.

        Raises:
            RefusedError: Another key signed it, its bytes were changed, or it is of another
                enclave, release, epoch or time.
        """
        stated = self.unverified
        checks = (
            (self._message.verifies(claims.receipt_key), "is not signed by the attested key"),
            (hmac.compare_digest(stated.enclave, enclave), "names another attestation bundle"),
            (
                (stated.release, stated.epoch) == (claims.release, claims.epoch),
                "names another release or epoch than the claims",
            ),
            (
                claims.not_before - _SKEW_S <= stated.time <= claims.not_after,
                "is of a time at which its enclave's keys were not valid",
            ),
        )
        if failed := [text for held, text in checks if not held]:
            detail = f"the erasure receipt {'; '.join(failed)}"
            raise RefusedError(
                f"{detail}. It was changed, or another enclave made it. Do not rely on it.",
                [verdict(Subject.INTEGRITY, Status.FAILS, detail, simulated=False)],
            )
        return stated


def sign_erasure(erasure: Erasure, key: Ed25519PrivateKey) -> bytes:
    """Sign an erasure; the encoded COSE_Sign1."""
    return cose.sign1(erasure.encode(), key, TYPE)


def decode_erasure(data: bytes) -> SignedErasure:
    """Decode an erasure receipt, refusing every encoding but the one that `sign_erasure` makes.

    Raises:
        UnreadableError: Not an erasure receipt.
    """
    message = cose.decode_sign1(data, TYPE)
    claims = cbor.decode(message.payload, what="the erasure's claims", limit=MAX_ERASURE)
    if type(claims) is not dict or claims.keys() - {_AFTER} != set(_KEYS.values()):
        raise UnreadableError("the erasure has other claims than this version knows. Update it.")
    if claims.get(_AFTER, b"") is None:
        raise UnreadableError("the erasure says null of the head after it, instead of nothing.")
    fields = {name: claims[key] for name, key in _KEYS.items()}
    scope = fields.pop("scope")
    if type(scope) is not str or scope not in set(Scope):
        raise UnreadableError("the erasure's scope is none that this version knows. Update it.")
    erasure = Erasure(scope=Scope(scope), after=claims.get(_AFTER), **fields)
    return SignedErasure(erasure, data, message)


def erasure_entry(data: bytes) -> bytes:
    """The 32-byte log entry of an erasure receipt; no receipt or bundle can have the same one."""
    return hashlib.sha256(_ENTRY + data).digest()


def thread_commitment(salt: bytes, thread_id: bytes) -> bytes:
    """What an erasure says of the thread: 32 bytes that hide its id (32 bytes) without the salt."""
    return commitment(salt, "thread", thread_id)
