"""The receipt of a turn: a CWT claims set (RFC 8392) in a COSE_Sign1 by the attested key.

| key | claim | value |
|---|---|---|
| 6 | iat: when the turn ended | unix seconds |
| 7 | cti: receipt id | 16 bytes |
| -65537 | enclave: digest of the attestation bundle | 32 bytes |
| -65538 | key configuration id that sealed the turn | 0 to 255 |
| -65539 | persona digest | 32 bytes |
| -65540 | model manifest digest | 32 bytes |
| -65541 | release digest | 32 bytes |
| -65542 | commitment to the request | 32 bytes |
| -65543 | commitment to the response | 32 bytes |
| -65544 | memory head before the turn | 32 bytes or null |
| -65545 | memory head after the turn | 32 bytes or null |
| -65546 | turn index in the thread | integer |
| -65547 | digest of the previous receipt | 32 bytes or null |
| -65548 | digest of the sampling parameters | 32 bytes |
| -65549 | outcome | `completed`, `cancelled` or `failed` |
| -65550 | evidence epoch | integer |

Keys below -65536 are for private use (RFC 8392 section 9.1). Every key is there, no other is.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import cbor, cose
from proofs.errors import RefusedError, UnreadableError
from proofs.verdict import Status, Subject, verdict

TYPE = "application/sottovoce-receipt+cwt"
MAX_RECEIPT = cose.MAX_SIGN1
_ENTRY = b"sottovoce log entry: receipt v1\x00"
_IAT, _CTI = 6, 7
_PRIVATE = -65537


class Outcome(StrEnum):
    """How a turn ended; each way gets a receipt."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an enclave states about one turn; digests have 32 bytes.

    Attributes:
        receipt_id: 16 random bytes.
        enclave: Digest of the attestation bundle.
        key_config_id: The key configuration that sealed the turn, 0 to 255.
        persona: Digest of the persona.
        model_manifest: Digest of the model's manifest, as in the claims.
        release: Digest of the release manifest, as in the claims.
        request: Salted commitment to the request.
        response: Salted commitment to the response, as far as it went.
        head_before: Memory head that the turn began with, None in a new thread.
        head_after: Memory head that it left, None where nothing was stored.
        turn_index: Index of the turn's record in its thread, from 0.
        previous: Digest of the thread's previous receipt, None for the first.
        sampling: Digest of the sampling parameters.
        outcome: How the turn ended.
        time: When it ended, unix seconds.
        epoch: Evidence epoch that it ran in.

    Raises:
        UnreadableError: A value outside of these bounds.
    """

    receipt_id: bytes
    enclave: bytes
    key_config_id: int
    persona: bytes
    model_manifest: bytes
    release: bytes
    request: bytes
    response: bytes
    head_before: bytes | None
    head_after: bytes | None
    turn_index: int
    previous: bytes | None
    sampling: bytes
    outcome: Outcome
    time: int
    epoch: int

    def __post_init__(self) -> None:
        cbor.as_bytes(self.receipt_id, "the receipt id", size=16)
        for name in _DIGESTS:
            cbor.as_bytes(getattr(self, name), f"the receipt's {name}", size=32)
        for name in _OPTIONAL_DIGESTS:
            if getattr(self, name) is not None:
                cbor.as_bytes(getattr(self, name), f"the receipt's {name}", size=32)
        cbor.as_uint(self.key_config_id, "the receipt's key configuration id", 255)
        for name in ("turn_index", "time", "epoch"):
            cbor.as_uint(getattr(self, name), f"the receipt's {name}")
        if type(self.outcome) is not Outcome:
            raise UnreadableError("the receipt's outcome is none that this version knows.")

    def encode(self) -> bytes:
        """The CWT claims set."""
        claims: dict[int, object] = {_IAT: self.time, _CTI: self.receipt_id}
        for offset, name in enumerate(_FIELDS):
            value = getattr(self, name)
            claims[_PRIVATE - offset] = str(value) if name == "outcome" else value
        return cbor.encode(claims)


_DIGESTS = (
    "enclave",
    "persona",
    "model_manifest",
    "release",
    "request",
    "response",
    "sampling",
)
_OPTIONAL_DIGESTS = ("head_before", "head_after", "previous")
# In the order of their private keys, -65537 downwards.
_FIELDS = (
    "enclave",
    "key_config_id",
    "persona",
    "model_manifest",
    "release",
    "request",
    "response",
    "head_before",
    "head_after",
    "turn_index",
    "previous",
    "sampling",
    "outcome",
    "epoch",
)


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A decoded receipt whose signature nobody has checked yet.

    Attributes:
        unverified: The receipt as read; `verify` returns it once it is worth something.
        encoded: The COSE_Sign1.
    """

    unverified: Receipt
    encoded: bytes
    _message: cose.Sign1

    @property
    def digest(self) -> bytes:
        """SHA-256 of the COSE_Sign1, 32 bytes: what the next receipt names as `previous`."""
        return hashlib.sha256(self.encoded).digest()

    def verify(self, public_key: bytes) -> Receipt:
        """The receipt, if `public_key` (32 bytes, Ed25519) signed it.

        Raises:
            RefusedError: Another key signed it, or its bytes were changed.
        """
        if not self._message.verifies(public_key):
            detail = "the receipt is not signed by the attested key"
            raise RefusedError(
                f"{detail}: it was changed, or another enclave made it. Do not rely on it.",
                [verdict(Subject.INTEGRITY, Status.FAILS, detail, simulated=False)],
            )
        return self.unverified


def sign_receipt(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
    """Sign a receipt; the encoded COSE_Sign1."""
    return cose.sign1(receipt.encode(), key, TYPE)


def decode_receipt(data: bytes) -> SignedReceipt:
    """Decode a signed receipt, refusing every encoding but the one that `sign_receipt` makes.

    Raises:
        UnreadableError: Not a receipt.
    """
    message = cose.decode_sign1(data, TYPE)
    claims = cbor.decode(message.payload, what="the receipt's claims", limit=MAX_RECEIPT)
    keys = {_IAT, _CTI, *(_PRIVATE - offset for offset in range(len(_FIELDS)))}
    if type(claims) is not dict or claims.keys() != keys:
        raise UnreadableError("the receipt has other claims than this version knows. Update it.")
    fields = {name: claims[_PRIVATE - offset] for offset, name in enumerate(_FIELDS)}
    outcome = fields.pop("outcome")
    if type(outcome) is not str or outcome not in set(Outcome):
        raise UnreadableError("the receipt's outcome is none that this version knows. Update it.")
    receipt = Receipt(
        receipt_id=claims[_CTI], time=claims[_IAT], outcome=Outcome(outcome), **fields
    )
    return SignedReceipt(receipt, data, message)


def receipt_entry(receipt: bytes) -> bytes:
    """The 32-byte log entry of a signed receipt; no bundle can have the same one."""
    return hashlib.sha256(_ENTRY + receipt).digest()


def commitment(salt: bytes, label: str, data: bytes) -> bytes:
    """HMAC-SHA-256 over label and data, 32 bytes: hides `data` from whoever lacks `salt`.

    Args:
        salt: Secret of both ends, 16 bytes or more, from the HPKE exporter.
        label: What is committed to, such as `request`; without a NUL character.
        data: What is committed to.

    Raises:
        UnreadableError: A salt too short to hide anything, or a label with a NUL.
    """
    if len(salt) < 16 or "\x00" in label:
        raise UnreadableError("A commitment needs a salt of 16 bytes and a label without NUL.")
    return hmac.digest(salt, label.encode() + b"\x00" + data, "sha256")
