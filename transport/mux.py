"""Many byte streams on one connection between our own roles, without I/O.

A client opens streams, each a request and its response: OPEN, DATA, END one way; HEAD, DATA, END
the other. Each direction of each stream has its own credit: a sender may have `INITIAL_WINDOW`
bytes unconsumed at the receiver and no more, so a stalled stream holds that much and stalls no
other. Frames are described in `transport.mux_frames`.

The I/O layer passes what arrives to `receive_data`, acts on the events, and writes
`data_to_send` once per tick of its loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from transport.errors import LimitError, MessageError, UsageError
from transport.mux_frames import (
    HEADER_BYTES,
    MAX_PAYLOAD,
    MAX_STREAM_ID,
    Frame,
    FrameParser,
    FrameType,
    ResetCode,
    decode_head,
    decode_open,
    decode_reset,
    decode_window,
    encode_frame,
    encode_head,
    encode_header,
    encode_open,
    encode_reset,
    encode_window,
)

INITIAL_WINDOW: Final = 256 * 1024
"""Bytes of DATA that either side may send on a new stream before the other gives credit."""
DEFAULT_MAX_STREAMS: Final = 1024


class Role(Enum):
    """Which end of the connection this is; only the client opens streams."""

    CLIENT = auto()
    SERVER = auto()


class _Phase(Enum):
    """How far one direction of a stream has come."""

    HEAD = auto()
    BODY = auto()
    ENDED = auto()


# The request direction starts in BODY, since OPEN is its head; the response direction in HEAD.
# What is not in this table is a violation, in either direction.
_TRANSITIONS: Final[dict[tuple[_Phase, FrameType], _Phase]] = {
    (_Phase.HEAD, FrameType.HEAD): _Phase.BODY,
    (_Phase.BODY, FrameType.DATA): _Phase.BODY,
    (_Phase.BODY, FrameType.END): _Phase.ENDED,
}


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The client opened a stream (server only)."""

    stream_id: int
    target: str
    content_type: str


@dataclass(frozen=True, slots=True)
class HeadReceived:
    """The response began (client only)."""

    stream_id: int
    status: int
    content_type: str


class DataReceived(NamedTuple):
    """Bytes came; call `consumed` when they are used, or the sender runs out of credit.

    A tuple, since a relay makes one for every chunk: a frozen dataclass takes twice the time.
    """

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer has sent all it will send on this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer abandoned the stream; nothing more can be sent or will come."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """The peer gave credit: `writable` bytes may be sent now."""

    stream_id: int
    writable: int


Event = StreamOpened | HeadReceived | DataReceived | StreamEnded | StreamReset | WindowOpened


@dataclass(slots=True)
class Meter:
    """Bytes that passed in one direction of a stream, and how many may."""

    limit: int
    passed: int = 0


@dataclass(frozen=True, slots=True)
class Splice:
    """Where the data of a stream go on arrival, instead of into events.

    Attributes:
        onward, stream_id: The connection and its stream, which has `_Stream.local` in BODY.
        meter: Counts what is passed on.
        wake: Called when `onward` has something to send and had nothing before.
    """

    onward: MuxConnection
    stream_id: int
    meter: Meter
    wake: Callable[[], None]


@dataclass(slots=True)
class _Stream:
    local: _Phase
    remote: _Phase
    send_window: int = INITIAL_WINDOW
    receive_window: int = INITIAL_WINDOW
    unreturned: int = 0
    splice: Splice | None = None


class MuxConnection:
    """One end of a connection."""

    def __init__(self, role: Role, *, max_streams: int = DEFAULT_MAX_STREAMS) -> None:
        """Start a connection that carries at most `max_streams` streams at once."""
        self._role = role
        self.max_streams = max_streams
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._parser = FrameParser()
        self._failed = False
        self._handlers: dict[FrameType, Callable[[Frame], Event | None]] = {
            FrameType.OPEN: self._on_open,
            FrameType.HEAD: self._on_head,
            FrameType.END: self._on_end,
            FrameType.RESET: self._on_reset,
            FrameType.WINDOW: self._on_window,
        }

    @property
    def open_streams(self) -> int:
        """Streams that have not ended in both directions or been reset."""
        return len(self._streams)

    @property
    def queued_bytes(self) -> int:
        """Bytes that `data_to_send` would return now."""
        return self._out_bytes

    # Receiving

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes in any cut; return what they mean, in order.

        Raises:
            MessageError, LimitError: The peer broke the protocol. The connection is of no more
                use; close it.
            UsageError: Called again after such an error.
        """
        if self._failed:
            raise UsageError("the connection failed; close it and open another")
        events: list[Event] = []
        self._failed = True  # until this call ends well
        for frame in self._parser.feed(data):
            # Nearly all frames are DATA, so they have no part in the table.
            event = (
                self._on_data(frame)
                if frame[0] is FrameType.DATA
                else self._handlers[frame[0]](frame)
            )
            if event is not None:
                events.append(event)
        self._failed = False
        return events

    def _on_open(self, frame: Frame) -> Event | None:
        if self._role is Role.CLIENT:
            raise MessageError("the server sent OPEN; only clients open streams")
        _, stream_id, payload = frame
        if stream_id <= self._last_id:
            raise MessageError(f"stream {stream_id} opened out of order")
        target, content_type = decode_open(payload)
        self._last_id = stream_id
        if len(self._streams) >= self.max_streams:
            self._queue(encode_reset(stream_id, ResetCode.REFUSED))
            return None
        self._streams[stream_id] = _Stream(local=_Phase.HEAD, remote=_Phase.BODY)
        return StreamOpened(stream_id, target, content_type)

    def _receiving(self, frame: Frame) -> _Stream | None:
        """The frame's stream, or None if it is over: frames may cross a reset on the wire."""
        frame_type, stream_id, _ = frame
        stream = self._streams.get(stream_id)
        if stream is None and not 1 <= stream_id <= self._last_id:
            raise MessageError(f"{frame_type.name} on stream {stream_id}, which never opened")
        return stream

    def _advance_remote(self, frame: Frame) -> _Stream | None:
        stream = self._receiving(frame)
        if stream is not None:
            frame_type, stream_id, _ = frame
            phase = _TRANSITIONS.get((stream.remote, frame_type))
            if phase is None:
                raise MessageError(
                    f"{frame_type.name} on stream {stream_id} while its peer's side is in "
                    f"{stream.remote.name}"
                )
            stream.remote = phase
        return stream

    def _on_head(self, frame: Frame) -> Event | None:
        status, content_type = decode_head(frame[2])
        if self._advance_remote(frame) is None:
            return None
        return HeadReceived(frame[1], status, content_type)

    def _on_data(self, frame: Frame) -> Event | None:
        _, stream_id, payload = frame
        if not payload:
            raise MessageError("a DATA frame is empty")
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote is not _Phase.BODY:
            stream = self._advance_remote(frame)
            if stream is None:
                return None
        size = len(payload)
        if size > stream.receive_window:
            raise LimitError(f"the peer sent more on stream {stream_id} than its credit")
        stream.receive_window -= size
        splice = stream.splice
        if splice is not None:
            if splice.onward._forward(splice, payload, size):
                stream.unreturned += size
                if stream.unreturned >= INITIAL_WINDOW // 2:
                    self._give_credit(stream_id, stream)
                return None
            # What comes next may not overtake this.
            stream.splice = None
        return DataReceived(stream_id, payload)

    def _forward(self, splice: Splice, payload: bytes, size: int) -> bool:
        """Queue a frame's payload that came on another connection, if it may pass now.

        What `send` does, in as few steps as there can be: a relay comes by once for every chunk.
        """
        meter = splice.meter
        stream = self._streams.get(splice.stream_id)
        if (
            stream is None
            or stream.local is not _Phase.BODY
            or size > stream.send_window
            or meter.passed + size > meter.limit
        ):
            return False
        meter.passed += size
        stream.send_window -= size
        if not self._out:
            splice.wake()
        self._out += (encode_header(FrameType.DATA, splice.stream_id, size), payload)
        self._out_bytes += HEADER_BYTES + size
        return True

    def _on_end(self, frame: Frame) -> Event | None:
        if frame[2]:
            raise MessageError("an END frame holds nothing")
        if self._advance_remote(frame) is None:
            return None
        self._drop_if_ended(frame[1])
        return StreamEnded(frame[1])

    def _on_reset(self, frame: Frame) -> Event | None:
        code = decode_reset(frame[2])
        if self._receiving(frame) is None:
            return None
        del self._streams[frame[1]]
        return StreamReset(frame[1], code)

    def _on_window(self, frame: Frame) -> Event | None:
        credit = decode_window(frame[2])
        stream = self._receiving(frame)
        if stream is None:
            return None
        stream.send_window += credit
        if stream.send_window > INITIAL_WINDOW:
            # Else a peer could have a whole response queued here, and read none of it.
            raise MessageError(f"the peer gave credit on stream {frame[1]} for what it had not got")
        return WindowOpened(frame[1], stream.send_window)

    # Sending

    def open(self, target: str, content_type: str) -> int:
        """Open a stream (client only); return its id.

        Raises:
            UsageError: On a server, or for text that is not 1 to 255 visible ASCII characters.
            LimitError: Too many streams are open, or identifiers are used up.
        """
        if self._role is Role.SERVER:
            raise UsageError("only clients open streams")
        if len(self._streams) >= self.max_streams or self._last_id >= MAX_STREAM_ID:
            raise LimitError(
                f"{len(self._streams)} streams are open; wait for one to end or use another "
                "connection"
            )
        self._queue(encode_open(self._last_id + 1, target, content_type))
        self._last_id += 1
        self._streams[self._last_id] = _Stream(local=_Phase.BODY, remote=_Phase.HEAD)
        return self._last_id

    def _advance_local(self, stream_id: int, frame_type: FrameType) -> _Stream:
        stream = self._streams.get(stream_id)
        phase = None if stream is None else _TRANSITIONS.get((stream.local, frame_type))
        if stream is None or phase is None:
            raise UsageError(f"{frame_type.name} cannot be sent on stream {stream_id} now")
        stream.local = phase
        return stream

    def send_head(self, stream_id: int, status: int, content_type: str) -> None:
        """Begin the response (server only); `UsageError` where it cannot begin now."""
        encoded = encode_head(stream_id, status, content_type)
        self._advance_local(stream_id, FrameType.HEAD)
        self._queue(encoded)

    def writable(self, stream_id: int) -> int:
        """Bytes that `send` takes now on this stream; 0 for a stream that is over."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.send_window

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> int:
        """Queue `data`, and the end of this direction on request; return the credit left.

        Raises:
            UsageError: More data than `writable`, or this direction cannot carry data now.
        """
        writable = self.writable(stream_id)
        if len(data) > writable and stream_id in self._streams:
            raise UsageError(f"{len(data)} bytes exceed the stream's credit of {writable}")
        if data:
            stream = self._advance_local(stream_id, FrameType.DATA)
            stream.send_window = writable = writable - len(data)
            for start in range(0, len(data), MAX_PAYLOAD):
                piece = data[start : start + MAX_PAYLOAD]
                self._queue(encode_header(FrameType.DATA, stream_id, len(piece)), piece)
        if end:
            self._advance_local(stream_id, FrameType.END)
            self._queue(encode_frame(FrameType.END, stream_id))
            self._drop_if_ended(stream_id)
        return writable

    def splice(self, stream_id: int, splice: Splice | None) -> None:
        """Pass data of a stream on as they come, without events, or stop doing so.

        It ends by itself where data cannot pass at once: those come as `DataReceived`.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.splice = splice

    def reset(self, stream_id: int, code: int = ResetCode.CANCELLED) -> None:
        """Abandon a stream; nothing happens if it is over."""
        if self._streams.pop(stream_id, None) is not None:
            self._queue(encode_reset(stream_id, code))

    def consumed(self, stream_id: int, size: int) -> None:
        """Say that `size` received bytes are used up, which gives the sender credit.

        Credit is sent back in halves of the window, so that small reads cost no frame each.

        Raises:
            UsageError: More than was received.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote is _Phase.ENDED:
            return
        if stream.receive_window + stream.unreturned + size > INITIAL_WINDOW:
            raise UsageError(f"stream {stream_id} consumed more than it received")
        stream.unreturned += size
        if stream.unreturned >= INITIAL_WINDOW // 2:
            self._give_credit(stream_id, stream)

    def _give_credit(self, stream_id: int, stream: _Stream) -> None:
        self._queue(encode_window(stream_id, stream.unreturned))
        stream.receive_window += stream.unreturned
        stream.unreturned = 0

    def data_to_send(self) -> bytes:
        """Everything queued since the last call."""
        data = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        return data

    def _queue(self, frame: bytes, payload: bytes = b"") -> None:
        self._out += (frame, payload)
        self._out_bytes += len(frame) + len(payload)

    def _drop_if_ended(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        if stream.local is _Phase.ENDED and stream.remote is _Phase.ENDED:
            del self._streams[stream_id]
