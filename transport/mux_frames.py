"""Frames of the multiplexed connection between our own roles: encoding and strict parsing.

    Frame { type (8), payload length (24), stream id (32), payload }
    OPEN    { target length (8), target, content type length (8), content type }
    HEAD    { status (16), content type length (8), content type }
    DATA    { bytes, at least one }
    END     { }
    RESET   { code (16) }
    WINDOW  { credit in bytes (32), at least one }

Integers are big-endian. Target and content type are visible ASCII.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from transport.errors import LimitError, MessageError, UsageError

MAX_PAYLOAD: Final = 32 * 1024
MAX_STREAM_ID: Final = (1 << 32) - 1

_HEADER = struct.Struct("!II")
HEADER_BYTES: Final = _HEADER.size
_SHORT = struct.Struct("!H")
_LONG = struct.Struct("!I")


class FrameType(IntEnum):
    """The first byte of a frame."""

    OPEN = 1
    HEAD = 2
    DATA = 3
    END = 4
    RESET = 5
    WINDOW = 6


class ResetCode(IntEnum):
    """Why a stream was abandoned. Unknown codes are passed on as they are."""

    CANCELLED = 1
    INTERNAL = 2
    REFUSED = 3
    TIMEOUT = 4
    TOO_LARGE = 5
    UPSTREAM = 6
    LINK_CLOSED = 7


_TYPES: Final = {int(one): one for one in FrameType}


Frame = tuple[FrameType, int, bytes]
"""Type, stream id and payload, whose format depends on the type. Bare, since a relay reads one for
every chunk: a named tuple takes ten times as long to make, a frozen dataclass twenty."""


def encode_frame(frame_type: FrameType, stream_id: int, payload: bytes | memoryview = b"") -> bytes:
    """Encode one frame."""
    return encode_header(frame_type, stream_id, len(payload)) + payload


def encode_header(frame_type: FrameType, stream_id: int, length: int) -> bytes:
    """Encode what precedes a payload of `length` bytes."""
    return _HEADER.pack(frame_type << 24 | length, stream_id)


def _text(value: str) -> bytes:
    if not (value.isascii() and value.isprintable() and 1 <= len(value) <= 0xFF):
        raise UsageError("a target or content type is 1 to 255 visible ASCII characters")
    return bytes((len(value),)) + value.encode("ascii")


def encode_open(stream_id: int, target: str, content_type: str) -> bytes:
    """Encode OPEN; `UsageError` for text that a frame cannot carry."""
    return encode_frame(FrameType.OPEN, stream_id, _text(target) + _text(content_type))


def encode_head(stream_id: int, status: int, content_type: str) -> bytes:
    """Encode HEAD; `UsageError` for text or a status that a frame cannot carry."""
    if not 200 <= status <= 599:
        raise UsageError(f"status {status} is not that of a final response")
    return encode_frame(FrameType.HEAD, stream_id, _SHORT.pack(status) + _text(content_type))


def encode_reset(stream_id: int, code: int) -> bytes:
    """Encode RESET."""
    return encode_frame(FrameType.RESET, stream_id, _SHORT.pack(code))


def encode_window(stream_id: int, credit: int) -> bytes:
    """Encode WINDOW."""
    return encode_frame(FrameType.WINDOW, stream_id, _LONG.pack(credit))


def _decode_text(payload: bytes, offset: int) -> tuple[str, int]:
    length = payload[offset] if offset < len(payload) else 0
    end = offset + 1 + length
    raw = payload[offset + 1 : end]
    if not length or len(raw) < length or not (raw.isascii() and raw.decode("ascii").isprintable()):
        raise MessageError("a frame's target or content type is cut, empty or not visible ASCII")
    return raw.decode("ascii"), end


def decode_open(payload: bytes) -> tuple[str, str]:
    """Target and content type of OPEN; `MessageError` where malformed."""
    target, offset = _decode_text(payload, 0)
    content_type, end = _decode_text(payload, offset)
    if end != len(payload):
        raise MessageError("bytes follow the content type in an OPEN frame")
    return target, content_type


def decode_head(payload: bytes) -> tuple[int, str]:
    """Status and content type of HEAD; `MessageError` where malformed."""
    content_type, end = _decode_text(payload, _SHORT.size)
    (status,) = _SHORT.unpack_from(payload)
    if end != len(payload) or not 200 <= status <= 599:
        raise MessageError("a HEAD frame holds no final status or is too long")
    return status, content_type


def decode_reset(payload: bytes) -> int:
    """Code of RESET; `MessageError` where malformed."""
    if len(payload) != _SHORT.size:
        raise MessageError(f"a RESET frame holds {_SHORT.size} bytes, not {len(payload)}")
    return int.from_bytes(payload, "big")


def decode_window(payload: bytes) -> int:
    """Credit of WINDOW; `MessageError` where malformed or zero."""
    credit = int.from_bytes(payload, "big")
    if len(payload) != _LONG.size or credit == 0:
        raise MessageError("a WINDOW frame holds a credit of four bytes and at least one")
    return credit


class FrameParser:
    """Cuts a byte stream into frames, holding at most one incomplete frame between calls."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        """Start at a frame boundary."""
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes.

        Raises:
            LimitError: A frame's payload is over `MAX_PAYLOAD`.
            MessageError: A frame's type is unknown.
        """
        if self._rest:
            data = self._rest + data
        # Names of this call's own: this loop runs once for every chunk that a relay passes on.
        unpack, types, header = _HEADER.unpack_from, _TYPES, HEADER_BYTES
        frames: list[Frame] = []
        offset, last = 0, len(data) - header
        while offset <= last:
            word, stream_id = unpack(data, offset)
            length = word & 0xFF_FFFF
            if length > MAX_PAYLOAD:
                raise LimitError(f"a frame of {length} bytes is over {MAX_PAYLOAD}")
            frame_type = types.get(word >> 24)
            if frame_type is None:
                raise MessageError(f"frame type {word >> 24} is unknown")
            start = offset + header
            end = start + length
            if end > len(data):
                break
            frames.append((frame_type, stream_id, data[start:end]))
            offset = end
        self._rest = data[offset:]
        return frames
