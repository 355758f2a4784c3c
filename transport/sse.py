"""Server-sent events: one JSON value per event, and an incremental decoder.

Source: WHATWG HTML, section 9.2 "Server-sent events". Only the data of an event is kept; event
names, identifiers and retry times are read and dropped, because nothing here uses them.
"""

from __future__ import annotations

import orjson

from transport.errors import LimitError, MessageError, UsageError

DEFAULT_EVENT_LIMIT = 1 << 20


def encode_event(event: object) -> bytes:
    """Encode a JSON value as one event: `data: ...`, blank line.

    Raises:
        UsageError: The value has no JSON form.
    """
    try:
        return b"data: " + orjson.dumps(event) + b"\n\n"
    except TypeError as error:
        raise UsageError("the event has no JSON form; use plain JSON types") from error


class EventDecoder:
    """Cuts a byte stream into the data of its events, holding at most one event."""

    __slots__ = ("_buffer", "_data", "_limit", "_size", "_skip_newline", "_started")

    def __init__(self, limit: int = DEFAULT_EVENT_LIMIT) -> None:
        """Accept events of up to `limit` bytes, field names included."""
        self._limit = limit
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._skip_newline = False
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in any cut; return the data of the events that they complete.

        Raises:
            LimitError: An event is larger than the limit.
        """
        events: list[bytes] = []
        for piece in data.splitlines(keepends=True):
            line_piece = piece
            if self._skip_newline:
                # The second half of a CRLF that was cut between two feeds, or a new line.
                self._skip_newline = False
                if piece == b"\n":
                    continue
            self._size += len(line_piece)
            if self._size > self._limit:
                raise LimitError(f"an event is over {self._limit} bytes; the server sends too much")
            self._buffer += line_piece
            if line_piece[-1:] in {b"\n", b"\r"}:
                self._skip_newline = line_piece[-1:] == b"\r"
                line = bytes(self._buffer).rstrip(b"\r\n")
                self._buffer.clear()
                self._line(line, events)
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if not self._started:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
            self._data = []
            self._size = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            MessageError: It ended inside an event, which is lost.
        """
        if self._buffer or self._data:
            raise MessageError("the event stream ended inside an event; ask the server again")
