"""Sealed records: one per thing remembered, chained by hash.

A sealed record is what Redis holds::

    version (1) ‖ previous head (32) ‖ nonce (12) ‖ ChaCha20-Poly1305 ciphertext and tag (RFC 8439)

Its key belongs to the thread and the index alone; the associated data is
``label ‖ version ‖ thread id (32) ‖ index (8) ‖ previous head (32)``, so that a record opens at
its own place in its own chain and nowhere else. The nonce is random, because a rolled-back store
could make two writers seal different records for one index.

The plaintext is ``kind (1) ‖ deterministic CBOR ‖ 0x80 ‖ zeros``, filled up to one of the sizes in
`BUCKETS`. The kind is inside, so Redis cannot tell a turn from what else may be remembered.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from memory.errors import CorruptError, InvalidInputError
from memory.keys import MAX_INDEX, RECEIPT_ID_BYTES, TURN_ID_BYTES, ThreadKeys

VERSION: Final = 1
HEAD_BYTES: Final = 32
NONCE_BYTES: Final = 12
DIGEST_BYTES: Final = 32
OUTCOMES: Final = frozenset({"completed", "cancelled", "failed"})

# Powers of two: of a record's length, Redis learns one of ten values.
BUCKETS: Final = tuple(512 << step for step in range(10))  # 512 bytes to 256 KiB

_HEADER_BYTES: Final = 1 + HEAD_BYTES + NONCE_BYTES
_TAG_BYTES: Final = 16
_RECORD_LABEL: Final = b"sottovoce memory v1 record\x00"
_HEAD_LABEL: Final = b"sottovoce memory v1 head\x00"
_GENESIS_LABEL: Final = b"sottovoce memory v1 genesis\x00"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message and its reply.

    `time` is in Unix seconds. `receipt_digest` is the digest of the receipt before this turn's,
    where it was known: a turn's own receipt names the head after this record, so its digest
    cannot stand inside. The text is not shown by repr.

    Raises InvalidInputError where a field has another type or size than it says.
    """

    turn_id: bytes  # 16 bytes
    time: int
    message: str = field(repr=False)
    reply: str = field(repr=False)
    outcome: str  # one of OUTCOMES
    receipt_id: bytes  # 16 bytes
    receipt_digest: bytes | None = None  # 32 bytes

    def __post_init__(self) -> None:
        problem = _turn_problem(self)
        if problem:
            raise InvalidInputError(f"A turn cannot be remembered: {problem}.")


def _turn_problem(turn: Turn) -> str:
    """Say what is wrong with a turn's fields, or nothing."""
    # Exact types: cbor2 would give back a bool for an int, a str subclass for a str.
    if type(turn.turn_id) is not bytes or len(turn.turn_id) != TURN_ID_BYTES:
        return f"turn_id must be {TURN_ID_BYTES} bytes"
    if type(turn.time) is not int or not 0 <= turn.time < 2**53:
        return "time must be a whole number of seconds since 1970"
    if type(turn.message) is not str or type(turn.reply) is not str:
        return "message and reply must be text"
    if type(turn.outcome) is not str or turn.outcome not in OUTCOMES:
        return f"outcome must be one of {', '.join(sorted(OUTCOMES))}"
    if type(turn.receipt_id) is not bytes or len(turn.receipt_id) != RECEIPT_ID_BYTES:
        return f"receipt_id must be {RECEIPT_ID_BYTES} bytes"
    digest = turn.receipt_digest
    if digest is not None and (type(digest) is not bytes or len(digest) != DIGEST_BYTES):
        return f"receipt_digest must be {DIGEST_BYTES} bytes, or nothing"
    return ""


def _turn_fields(turn: Turn) -> list[Any]:
    return [
        turn.turn_id,
        turn.time,
        turn.message,
        turn.reply,
        turn.outcome,
        turn.receipt_id,
        turn.receipt_digest,
    ]


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of record is written and read; its number is the plaintext's first byte."""

    number: int
    fields: Callable[[Any], list[Any]]
    build: Callable[..., Any]


# What can be remembered. A further kind is a further line here.
_KINDS: Final[dict[type, _Kind]] = {Turn: _Kind(1, _turn_fields, Turn)}
_KINDS_BY_NUMBER: Final = {kind.number: kind for kind in _KINDS.values()}


def genesis_head(thread_id: str) -> bytes:
    """Return the 32-byte head of a thread that holds nothing yet."""
    return hashlib.sha256(_GENESIS_LABEL + bytes.fromhex(thread_id)).digest()


def head_after(previous: bytes, sealed: bytes) -> bytes:
    """Return the 32-byte head of a chain whose last record is `sealed`."""
    return hashlib.sha256(_HEAD_LABEL + previous + sealed).digest()


def previous_head(sealed: bytes, index: int) -> bytes:
    """Return the head that a sealed record says it follows, without opening it.

    Raises CorruptError where the bytes cannot be a sealed record.
    """
    size = len(sealed) - _HEADER_BYTES - _TAG_BYTES
    if size not in BUCKETS:
        raise CorruptError(index, f"no record has {len(sealed)} bytes")
    if sealed[0] != VERSION:
        raise CorruptError(index, f"its format version is {sealed[0]}, this program reads 1")
    return sealed[1 : 1 + HEAD_BYTES]


def seal(keys: ThreadKeys, index: int, previous: bytes, record: Turn, *, nonce: bytes) -> bytes:
    """Seal a record for its place in the chain.

    `nonce`: 12 fresh random bytes. Raises InvalidInputError where the record is larger than the
    largest bucket, is not valid text, or the thread is full.
    """
    if not 0 <= index <= MAX_INDEX:
        raise InvalidInputError(f"A thread holds at most {MAX_INDEX + 1} records; start another.")
    if len(nonce) != NONCE_BYTES or len(previous) != HEAD_BYTES:
        raise InvalidInputError("A nonce has 12 bytes and a head 32; pass them in full.")
    plaintext = _pad(_encode(record))
    cipher = ChaCha20Poly1305(keys.record_key(index))
    body = cipher.encrypt(nonce, plaintext, _associated_data(keys, index, previous))
    return bytes([VERSION]) + previous + nonce + body


def open_record(keys: ThreadKeys, index: int, sealed: bytes) -> Turn:
    """Open the record at `index`; the chain around it is the caller's to check.

    Raises CorruptError for anything but what `seal` made for this thread and index.
    """
    previous = previous_head(sealed, index)
    nonce = sealed[1 + HEAD_BYTES : _HEADER_BYTES]
    cipher = ChaCha20Poly1305(keys.record_key(index))
    try:
        plaintext = cipher.decrypt(
            nonce, sealed[_HEADER_BYTES:], _associated_data(keys, index, previous)
        )
    except InvalidTag:
        raise CorruptError(index, "its seal does not open with this thread's key") from None
    return _decode(plaintext, index)


def _associated_data(keys: ThreadKeys, index: int, previous: bytes) -> bytes:
    thread_id = bytes.fromhex(keys.thread_id)
    return _RECORD_LABEL + bytes([VERSION]) + thread_id + index.to_bytes(8, "big") + previous


def _encode(record: Turn) -> bytes:
    kind = _KINDS[type(record)]
    fields = kind.fields(record)
    # Before the encoder allocates: a character takes at least one byte.
    if sum(len(part) for part in fields if isinstance(part, str)) >= BUCKETS[-1]:
        raise _too_large()
    try:
        return bytes([kind.number]) + cbor2.dumps(fields, canonical=True)
    except UnicodeEncodeError:
        raise InvalidInputError(
            "The text holds half of a surrogate pair, which no file or wire can carry; "
            "send valid Unicode."
        ) from None


def _decode(plaintext: bytes, index: int) -> Turn:
    """Strict: whatever does not encode and pad back to the same bytes is refused."""
    content = plaintext.rstrip(b"\x00")[:-1]
    kind = _KINDS_BY_NUMBER.get(content[0]) if content else None
    if kind is None:
        raise CorruptError(index, "it is of a kind that this program does not know")
    try:
        record: Turn = kind.build(*cbor2.loads(content[1:]))
        again = _pad(_encode(record))
    except (cbor2.CBORDecodeError, InvalidInputError, TypeError, ValueError, RecursionError):
        raise CorruptError(index, "its content is not a record") from None
    if not hmac.compare_digest(again, plaintext):
        raise CorruptError(index, "its content is not in the one form that is allowed")
    return record


def _pad(content: bytes) -> bytes:
    """Add 0x80 and zeros (ISO/IEC 7816-4) up to the smallest bucket that has room."""
    for size in BUCKETS:
        if len(content) < size:
            return (content + b"\x80").ljust(size, b"\x00")
    raise _too_large()


def _too_large() -> InvalidInputError:
    return InvalidInputError(
        f"A turn must encode to fewer than {BUCKETS[-1]} bytes; shorten the message or the reply."
    )
