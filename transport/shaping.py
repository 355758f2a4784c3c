"""Shaping: what the sizes and the number of sealed messages may tell to whoever watches them.

A model's reply, streamed token by token, shows its topic through encryption by the sizes and times
of its pieces (Whisper Leak, arXiv 2511.03675). Here are the sizes: paddings, buckets and frames,
without a clock. docs/shaping.md says what each setting costs and what it leaves.

Sizes of chunks are chosen so that their *sealed* sizes are round: a content chunk of Binary HTTP
and the OHTTP chunk around it add the same number of bytes to each (`CHUNK_OVERHEAD`).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from transport.hpke import TAG_LENGTH


class Shaping(StrEnum):
    """How a reply is shaped: the device chooses, the enclave applies."""

    OFF = "off"
    """As the content comes."""
    BUCKET = "bucket"
    """Each chunk, and the whole, has one of a few sizes; times are as they come."""
    CADENCE = "cadence"
    """Chunks of one size on a clock, whether or not there is something to say."""


DEFAULT_SHAPING: Final = Shaping.BUCKET
SHAPING_HEADER: Final = b"sotto-shaping"
"""Field of the inner request; absent means `DEFAULT_SHAPING`."""

MIN_PADDED: Final = 1024
"""The least `padded_length`: a message of a few hundred characters fits in."""

CHUNK_OVERHEAD: Final = 2 + 2 + TAG_LENGTH
"""What sealing adds to content of 64 to 16365 bytes: a length of two bytes (RFC 9000 section 16)
as a content chunk (RFC 9292 section 3.2), another as an OHTTP chunk, and the AEAD's tag."""

UNIT: Final = 128
"""Sealed bytes of the smallest bucket, in which an event with one token fits."""
BUCKETS: Final = tuple(UNIT * units - CHUNK_OVERHEAD for units in (1, 2, 3, 4, 8, 16, 32, 64))
"""Content bytes of a chunk: sealed, 128 to 8192, and none is split by the sealer. In 384 fits a
chunk of OpenAI's with one token."""
MIN_UNITS: Final = 32
"""The least total of a stream in buckets, in `UNIT`s: sealed, 4096 bytes."""

FRAME: Final = 1024 - CHUNK_OVERHEAD
"""Content bytes of each frame of a cadence: sealed, 1024."""
MIN_FRAMES: Final = 64
"""Frames of the shortest cadence."""


def rung(count: int) -> int:
    """The least power of two that is not below `count`: 1, 2, 4, 8, ..."""
    return 1 << max(0, count - 1).bit_length()


def padded_length(size: int) -> int:
    """The length to which a whole message of `size` bytes is padded.

    A power of two and at least `MIN_PADDED`: eight lengths up to 128 KiB, which is one of them, so
    that a message within that limit stays within it. At most twice the size for what is over the
    least; 1.44 times on average where sizes are spread evenly over their logarithms.
    """
    return max(MIN_PADDED, rung(size))


def padded(message: bytes, shaping: Shaping) -> bytes:
    """A whole Binary HTTP message at its `padded_length`, by zeros after it (RFC 9292 section 3.8);
    as it is where shaping is off."""
    if shaping is Shaping.OFF:
        return message
    return message + bytes(padded_length(len(message)) - len(message))


def event_padding(size: int) -> bytes:
    """Exactly `size` bytes that every reader of server-sent events drops.

    A comment and the blank line after it; blank lines alone where there is no room for one. They
    may stand before, between and after events (WHATWG HTML section 9.2.6), never inside one.
    """
    return b"\n" * size if size < 3 else b":" + b"." * (size - 3) + b"\n\n"


class BucketPadder:
    """Pads the parts of one event stream to `BUCKETS`, and its total to a ladder.

    The total is counted as sealed, in `UNIT`s: it ends on a power of two and at `MIN_UNITS` or
    more. The response's head and its final chunk come on top, the same for every stream.
    """

    __slots__ = ("_units",)

    def __init__(self) -> None:
        self._units = 0

    def pad(self, part: bytes) -> Iterator[bytes]:
        """One or more whole events, as chunks of bucket sizes; all but the last one are full."""
        for start in range(0, len(part), BUCKETS[-1]):
            piece = part[start : start + BUCKETS[-1]]
            bucket = next(size for size in BUCKETS if size >= len(piece))
            self._units += (bucket + CHUNK_OVERHEAD) // UNIT
            yield piece + event_padding(bucket - len(piece))

    def finish(self) -> Iterator[bytes]:
        """Chunks of padding up to the next total of the ladder; the largest come first."""
        missing = max(MIN_UNITS, rung(self._units)) - self._units
        self._units += missing
        for bucket in reversed(BUCKETS):
            units = (bucket + CHUNK_OVERHEAD) // UNIT
            yield from [event_padding(bucket)] * (missing // units)
            missing %= units


class FrameFiller:
    """Turns the parts of one event stream into frames of exactly `FRAME` bytes.

    Parts are whole events, so that the queue ends on a boundary between events: the one place
    where padding is put. What is longer than a frame goes on in the next one.
    """

    __slots__ = ("_frames", "_queue")

    def __init__(self) -> None:
        self._queue = bytearray()
        self._frames = 0

    @property
    def queued(self) -> int:
        """Bytes that wait for a frame."""
        return len(self._queue)

    @property
    def at_rung(self) -> bool:
        """Whether the stream may end here: nothing waits, and the number of frames is on the
        ladder: a power of two, and at least `MIN_FRAMES`."""
        return not self._queue and self._frames == max(MIN_FRAMES, rung(self._frames))

    def add(self, part: bytes) -> None:
        """Queue one or more whole events."""
        self._queue += part

    def take(self) -> bytes:
        """The next frame."""
        piece = bytes(self._queue[:FRAME])
        del self._queue[:FRAME]
        self._frames += 1
        return piece + event_padding(FRAME - len(piece))
