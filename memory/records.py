"""Sealed records: one per thing remembered, chained by hash.

A sealed record is what Redis holds::

    version (1) ‖ previous head (32) ‖ nonce (12) ‖ ChaCha20-Poly1305 ciphertext and tag (RFC 8439)

Its key belongs to the thread and the index alone; the associated data is
``label ‖ version ‖ thread id (32) ‖ index (8) ‖ previous head (32)``, so that a record opens at
its own place in its own chain and nowhere else. The nonce is random, because a rolled-back store
could make two writers seal different records for one index.

The chain runs over digests: ``head = SHA-256(label ‖ previous head ‖ SHA-256(sealed))``. So a
record can be erased and the chain still be followed over its stub::

    0x00 ‖ previous head (32) ‖ SHA-256(sealed) (32)

Anyone can make a stub from a record; it is believed only where a `Tombstone` names its index.

The plaintext is ``kind (1) ‖ deterministic CBOR ‖ 0x80 ‖ zeros``, filled up to one of the sizes in
`BUCKETS`. The kind is inside, so Redis cannot tell a turn from what else may be remembered.
"""

import hashlib
import hmac
from typing import Final

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from memory.errors import CorruptError, InvalidInputError
from memory.keys import MAX_INDEX, ThreadKeys
from memory.kinds import (
    DIGEST_BYTES,
    KINDS,
    NUMBERS,
    OUTCOMES,
    Fact,
    Gap,
    Notes,
    Pin,
    Record,
    Ref,
    Summary,
    Tombstone,
    Turn,
    from_fields,
    to_fields,
)

__all__ = [
    "BUCKETS",
    "DIGEST_BYTES",
    "HEAD_BYTES",
    "NONCE_BYTES",
    "OUTCOMES",
    "STUB_BYTES",
    "UNOPENED",
    "VERSION",
    "Fact",
    "Gap",
    "Notes",
    "Pin",
    "Record",
    "Ref",
    "Summary",
    "Tombstone",
    "Turn",
    "genesis_head",
    "head_after",
    "is_stub",
    "open_record",
    "previous_head",
    "seal",
    "stub",
]

VERSION: Final = 2
HEAD_BYTES: Final = 32
NONCE_BYTES: Final = 12
UNOPENED: Final = "its seal does not open at this place with this thread's key"
STUB_BYTES: Final = 1 + HEAD_BYTES + 32

# Powers of two: of a record's length, Redis learns one of ten values.
BUCKETS: Final = tuple(512 << step for step in range(10))  # 512 bytes to 256 KiB

_HEADER_BYTES: Final = 1 + HEAD_BYTES + NONCE_BYTES
_TAG_BYTES: Final = 16
_RECORD_LABEL: Final = b"sottovoce memory v2 record\x00"
_HEAD_LABEL: Final = b"sottovoce memory v2 head\x00"
_GENESIS_LABEL: Final = b"sottovoce memory v2 genesis\x00"
_STUB: Final = 0


def genesis_head(thread_id: str) -> bytes:
    """Return the 32-byte head of a thread that holds nothing yet."""
    return hashlib.sha256(_GENESIS_LABEL + bytes.fromhex(thread_id)).digest()


def head_after(previous: bytes, sealed: bytes) -> bytes:
    """Return the 32-byte head of a chain whose last record is `sealed`, or is the stub of it."""
    digest = sealed[1 + HEAD_BYTES :] if is_stub(sealed) else hashlib.sha256(sealed).digest()
    return hashlib.sha256(_HEAD_LABEL + previous + digest).digest()


def is_stub(sealed: bytes) -> bool:
    """Whether these bytes stand where a record was erased. Only a tombstone makes it true."""
    return len(sealed) == STUB_BYTES and sealed[0] == _STUB


def stub(sealed: bytes) -> bytes:
    """Return what stays of a sealed record when it is erased; of a stub, the stub itself."""
    if is_stub(sealed):
        return sealed
    return bytes([_STUB]) + sealed[1 : 1 + HEAD_BYTES] + hashlib.sha256(sealed).digest()


def previous_head(sealed: bytes, index: int) -> bytes:
    """Return the head that a sealed record, or a stub, says it follows, without opening it.

    Raises CorruptError where the bytes cannot be either.
    """
    if not is_stub(sealed):
        if len(sealed) - _HEADER_BYTES - _TAG_BYTES not in BUCKETS:
            raise CorruptError(index, f"no record has {len(sealed)} bytes")
        if sealed[0] != VERSION:
            raise CorruptError(
                index, f"its format version is {sealed[0]}, this program reads {VERSION}"
            )
    return sealed[1 : 1 + HEAD_BYTES]


def seal(keys: ThreadKeys, index: int, previous: bytes, record: Record, *, nonce: bytes) -> bytes:
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


def open_record(keys: ThreadKeys, index: int, sealed: bytes) -> Record:
    """Open the record at `index`; the chain around it is the caller's to check.

    Raises CorruptError for anything but what `seal` made for this thread and index.
    """
    previous = previous_head(sealed, index)
    if is_stub(sealed):
        raise CorruptError(index, "it was erased")
    nonce = sealed[1 + HEAD_BYTES : _HEADER_BYTES]
    cipher = ChaCha20Poly1305(keys.record_key(index))
    try:
        plaintext = cipher.decrypt(
            nonce, sealed[_HEADER_BYTES:], _associated_data(keys, index, previous)
        )
    except InvalidTag:
        raise CorruptError(index, UNOPENED) from None
    return _decode(plaintext, index)


def _associated_data(keys: ThreadKeys, index: int, previous: bytes) -> bytes:
    thread_id = bytes.fromhex(keys.thread_id)
    return _RECORD_LABEL + bytes([VERSION]) + thread_id + index.to_bytes(8, "big") + previous


def _encode(record: Record) -> bytes:
    values = to_fields(record)
    # Before the encoder allocates: a character takes at least one byte.
    if sum(len(part) for part in values if isinstance(part, str)) >= BUCKETS[-1]:
        raise _too_large()
    try:
        return bytes([NUMBERS[type(record)]]) + cbor2.dumps(values, canonical=True)
    except UnicodeEncodeError:
        raise InvalidInputError(
            "The text holds half of a surrogate pair, which no file or wire can carry; "
            "send valid Unicode."
        ) from None


def _decode(plaintext: bytes, index: int) -> Record:
    """Strict: whatever does not encode and pad back to the same bytes is refused."""
    content = plaintext.rstrip(b"\x00")[:-1]
    if not content or content[0] not in KINDS:
        raise CorruptError(index, "it is of a kind that this program does not know")
    try:
        record = from_fields(content[0], cbor2.loads(content[1:]))
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
        f"A record must encode to fewer than {BUCKETS[-1]} bytes; shorten its text."
    )
