"""The sealed state: a copy of what was folded from a thread's records, so that it opens fast.

It is what Redis holds beside the records, and no truth of its own::

    covered length (10 digits) ‖ version (1) ‖ head (32) ‖ nonce (12) ‖ ciphertext and tag

sealed with ChaCha20-Poly1305 (RFC 8439) under a key of its own; the associated data is
``label ‖ thread id (32)`` and all that stands before the nonce. The length comes first and in
digits so that a script can read it. The plaintext is
``length of the view (4) ‖ length of the turns (4) ‖ View.encode() ‖ turns ‖ zeros``: each turn of
the window as CBOR ``[index, fields]``, and zeros so that the length tells little. It is large and
read often, so it is copied as little as can be.
"""

import hmac
from dataclasses import replace
from typing import Any, Final

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from memory.errors import CorruptError, InvalidInputError
from memory.keys import ThreadKeys
from memory.kinds import NUMBERS, Turn, from_fields, to_fields
from memory.records import HEAD_BYTES, NONCE_BYTES, VERSION
from memory.view import MAX_STATE_BYTES as MAX_VIEW_BYTES
from memory.view import View

# More text than any model's prompt takes; of longer turns, fewer are kept.
MAX_WINDOW_BYTES: Final = 1 << 19
MAX_STATE_BYTES: Final = MAX_VIEW_BYTES + 2 * MAX_WINDOW_BYTES

_DIGITS: Final = 10
_HEADER_BYTES: Final = _DIGITS + 1 + HEAD_BYTES
_LENGTH_BYTES: Final = 4
_TAG_BYTES: Final = 16
_LABEL: Final = b"sottovoce memory v2 state\x00"


def seal_state(keys: ThreadKeys, view: View, *, nonce: bytes) -> bytes:
    """Seal a view; `nonce`: 12 fresh random bytes.

    Raises InvalidInputError where it is larger than `MAX_STATE_BYTES` once sealed.
    """
    if len(nonce) != NONCE_BYTES:
        raise InvalidInputError("A nonce has 12 bytes; pass it in full.")
    folded, window = view.encode(), _window(view)
    lengths = [len(part).to_bytes(_LENGTH_BYTES, "big") for part in (folded, window)]
    content = b"".join([*lengths, folded, window])
    room = MAX_STATE_BYTES - _HEADER_BYTES - NONCE_BYTES - _TAG_BYTES
    if len(content) > room:
        raise InvalidInputError(f"A state has {len(content)} bytes, and {room} can be kept.")
    padded = content.ljust(min(_padded(len(content)), room), b"\x00")
    header = b"%010d" % view.position.length + bytes([VERSION]) + view.position.head
    cipher = ChaCha20Poly1305(keys.state_key())
    return header + nonce + cipher.encrypt(nonce, padded, _associated_data(keys, header))


def open_state(keys: ThreadKeys, sealed: bytes) -> View:
    """Return the view that was sealed; where it stands in the chain is the caller's to check.

    Raises CorruptError for anything but what `seal_state` made for this thread.
    """
    if len(sealed) > MAX_STATE_BYTES:
        raise CorruptError(0, "the sealed state is larger than any that is written")
    header, body = sealed[:_HEADER_BYTES], memoryview(sealed)[_HEADER_BYTES + NONCE_BYTES :]
    index = covered(sealed)
    if index is None or len(body) < _TAG_BYTES:
        raise CorruptError(0, "the sealed state was cut off, or something else is in its place")
    if header[_DIGITS] != VERSION:
        raise CorruptError(
            index,
            f"the sealed state has format version {header[_DIGITS]}, this program reads {VERSION}",
        )
    nonce = sealed[_HEADER_BYTES : _HEADER_BYTES + NONCE_BYTES]
    try:
        cipher = ChaCha20Poly1305(keys.state_key())
        plaintext = cipher.decrypt(nonce, body, _associated_data(keys, header))
    except InvalidTag:
        raise CorruptError(
            index, "the sealed state was altered, cut off, or is of another thread"
        ) from None
    try:
        view = _view(plaintext)
    except (cbor2.CBORDecodeError, InvalidInputError, TypeError, ValueError, RecursionError):
        raise CorruptError(index, "the sealed state does not hold a view") from None
    if (view.position.length, view.position.head) != (index, header[_DIGITS + 1 :]):
        raise CorruptError(index, "the sealed state is of another place than it says")
    return view


def covered(sealed: bytes) -> int | None:
    """Return how many records a sealed state says it covers, None where it says nothing."""
    digits = sealed[:_DIGITS]
    return int(digits) if len(digits) == _DIGITS and digits.isdigit() else None


def _window(view: View) -> bytes:
    """Encode the newest turns that have room, oldest first."""
    kept: list[bytes] = []
    room = MAX_WINDOW_BYTES
    for index, turn in reversed(view.turns):
        encoded = cbor2.dumps(_entry(index, turn), canonical=True)
        room -= len(encoded)
        if room < 0:
            break
        kept.append(encoded)
    # Each alone and then side by side, so that the limit counts what is written.
    return b"".join(reversed(kept))


def _view(plaintext: bytes) -> View:
    """Strict: what does not encode to the same bytes is refused, here and by `View.decode`."""
    begin = 2 * _LENGTH_BYTES
    middle = begin + int.from_bytes(plaintext[:_LENGTH_BYTES], "big")
    end = middle + int.from_bytes(plaintext[_LENGTH_BYTES:begin], "big")
    if end > len(plaintext) or plaintext.count(0, end) != len(plaintext) - end:
        raise InvalidInputError("A state must be followed by zeros alone.")
    view = View.decode(plaintext[begin:middle])
    window = plaintext[middle:end]
    turns = []
    for index, fields in cbor2.loads(b"\x9f" + window + b"\xff"):
        turn = from_fields(NUMBERS[Turn], fields)
        if isinstance(turn, Turn):  # the number says that it is
            turns.append((index, turn))
    # All in one go, as that is faster: the list's own head is the one of so many zeros.
    again = cbor2.dumps([_entry(*one) for one in turns], canonical=True)
    header = cbor2.dumps([0] * len(turns))[: -len(turns) or None]
    if len(window) > MAX_WINDOW_BYTES or not hmac.compare_digest(again, header + window):
        raise InvalidInputError("The window's turns must be in the one form that is allowed.")
    return replace(view, turns=tuple(turns))


def _entry(index: int, turn: Turn) -> list[Any]:
    return [index, to_fields(turn)]


def _associated_data(keys: ThreadKeys, header: bytes) -> bytes:
    return _LABEL + bytes.fromhex(keys.thread_id) + header


def _padded(size: int) -> int:
    """Round up to eight lengths for each doubling, at least 512 bytes apart."""
    step = max(512, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step
