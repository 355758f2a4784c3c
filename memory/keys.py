"""Every key of a thread, derived from one secret (HKDF-SHA256, RFC 5869).

The device derives a thread key from its master secret and hands it to the enclave inside the
sealed request. Whoever holds the thread key holds the memory; nobody else does. The derivation
is plain HKDF with an empty salt and `info = label ‖ 0x00 ‖ context`, which WebCrypto also offers.
"""

import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from memory.errors import InvalidInputError

KEY_BYTES: Final = 32
TURN_ID_BYTES: Final = 16
RECEIPT_ID_BYTES: Final = 16
TURN_TAG_BYTES: Final = 16
MAX_PERSONA_BYTES: Final = 256
MAX_INDEX: Final = 2**32 - 1

_THREAD_KEY: Final = b"sottovoce memory v2 thread key"
_THREAD_ID: Final = b"sottovoce memory v2 thread id"
_CACHE_SALT: Final = b"sottovoce memory v2 cache salt"
_STATE: Final = b"sottovoce memory v2 state"
_RECORD: Final = b"sottovoce memory v2 record"
_TURN_TAG: Final = b"sottovoce memory v2 turn tag"
_RECEIPT: Final = b"sottovoce memory v2 receipt"
_ERASURE_ID: Final = b"sottovoce memory v2 erasure id"
_ERASURE_SALT: Final = b"sottovoce memory v2 erasure salt"
_ERASURE_TAG: Final = b"sottovoce memory v2 erasure tag"
_ROTATION_TAG: Final = b"sottovoce memory v2 rotation tag"


def _derive(secret: bytes, label: bytes, context: bytes = b"") -> bytes:
    info = label + b"\x00" + context
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _require(name: str, value: bytes, size: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != size:
        # The value may be a secret, so the message names its size alone.
        raise InvalidInputError(f"{name} must be exactly {size} bytes; make it with {size} bytes.")
    return value


def derive_thread_key(master: bytes, persona: str, thread: int = 0) -> bytes:
    """Derive the 32-byte key of one thread: one user and one persona.

    `master` is the device's 32-byte secret, `persona` a persona's handle, `thread` the number of
    the conversation with it (0 to 2³²-1). The context is `u16 length ‖ handle ‖ u32 thread`.

    Raises InvalidInputError for values outside those limits.
    """
    _require("The master secret", master, KEY_BYTES)
    try:
        handle = persona.encode()
    except UnicodeEncodeError:
        raise InvalidInputError("The persona's handle is not text; give a handle.") from None
    if not 0 < len(handle) <= MAX_PERSONA_BYTES:
        raise InvalidInputError(
            f"The persona's handle has {len(handle)} bytes; give one of 1 to {MAX_PERSONA_BYTES}."
        )
    if not 0 <= thread <= MAX_INDEX:
        raise InvalidInputError(f"The thread number must lie between 0 and {MAX_INDEX}.")
    context = len(handle).to_bytes(2, "big") + handle + thread.to_bytes(4, "big")
    return _derive(master, _THREAD_KEY, context)


class ThreadKeys:
    """What an enclave needs to know of one thread; made from the 32-byte thread key.

    `thread_id`: 64 hexadecimal characters, the name in Redis, unlinkable without the key.
    `cache_salt`: 64 hexadecimal characters that keep one thread's prefix cache from another's.
    """

    __slots__ = ("_receipt", "_record", "_state", "_turn_tag", "cache_salt", "thread_id")

    thread_id: str
    cache_salt: str

    def __init__(self, thread_key: bytes) -> None:
        """Raises InvalidInputError where `thread_key` is not 32 bytes."""
        _require("The thread key", thread_key, KEY_BYTES)
        self.thread_id = _derive(thread_key, _THREAD_ID).hex()
        self.cache_salt = _derive(thread_key, _CACHE_SALT).hex()
        self._record = _derive(thread_key, _RECORD)
        self._state = _derive(thread_key, _STATE)
        self._turn_tag = _derive(thread_key, _TURN_TAG)
        self._receipt = _derive(thread_key, _RECEIPT)

    def record_key(self, index: int) -> bytes:
        """Return the 32-byte AEAD key of the record at `index`."""
        return _derive(self._record, _RECORD, index.to_bytes(8, "big"))

    def state_key(self) -> bytes:
        """Return the 32-byte AEAD key of the thread's sealed states."""
        return self._state

    def turn_tag(self, turn_id: bytes) -> bytes:
        """Return 16 bytes that stand for a turn id in Redis and mean nothing without the key."""
        _require("The turn id", turn_id, TURN_ID_BYTES)
        return hmac.digest(self._turn_tag, turn_id, "sha256")[:TURN_TAG_BYTES]

    def receipt_key(self, receipt_id: bytes) -> bytes:
        """Return the 32-byte key under which one receipt is sealed for the device."""
        _require("The receipt id", receipt_id, RECEIPT_ID_BYTES)
        return _derive(self._receipt, _RECEIPT, receipt_id)

    def erasure_tag(self, request_id: bytes, *, rotation: bool = False) -> bytes:
        """Return the 16 bytes in Redis that say a thread was erased at this request.

        Another `rotation`, another tag: a thread that goes on under a new key was not forgotten.
        Nobody without the key can make one.
        """
        _require("The request's id", request_id, TURN_ID_BYTES)
        label = _ROTATION_TAG if rotation else _ERASURE_TAG
        return _derive(self._turn_tag, label, request_id)[:TURN_TAG_BYTES]

    def erasure_id(self, request_id: bytes) -> bytes:
        """Return the 16-byte id of the receipt of an erasure that was asked for under an id.

        Nobody without the key can make it the id of somebody else's receipt.
        """
        _require("The request's id", request_id, TURN_ID_BYTES)
        return _derive(self._receipt, _ERASURE_ID, request_id)[:RECEIPT_ID_BYTES]

    def erasure_salt(self, erasure_id: bytes) -> bytes:
        """Return the 32-byte salt under which the receipt of an erasure names the thread."""
        _require("The erasure id", erasure_id, RECEIPT_ID_BYTES)
        return _derive(self._receipt, _ERASURE_SALT, erasure_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ThreadKeys):
            return NotImplemented
        return hmac.compare_digest(self._record, other._record)

    def __hash__(self) -> int:
        return hash(self.thread_id)

    def __repr__(self) -> str:
        # Not even the thread id: beside an address in a log it would link the two.
        return "ThreadKeys(hidden)"
