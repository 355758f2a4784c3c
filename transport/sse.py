"""Server-sent events: one JSON value per event, and an incremental decoder.

Source: WHATWG HTML, section 9.2 "Server-sent events". Only the data of an event is kept; event
names, identifiers and retry times are read and dropped, because nothing here uses them.
"""

from __future__ import annotations

import orjson

from transport.errors import LimitError, MessageError, UsageError

DEFAULT_EVENT_LIMIT = 1 << 20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SLICE = 1 << 16


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
    """Cuts a byte stream into the data of its events.

    It holds at most one event, up to its limit. Comments and blank lines are passed over as they
    come, however long they are: replies may be padded with them for minutes.
    """

    __slots__ = ("_buffer", "_data", "_in_comment", "_limit", "_size", "_skip_newline", "_start")

    def __init__(self, limit: int = DEFAULT_EVENT_LIMIT) -> None:
        """Accept events of up to `limit` bytes: their lines with field names, less line ends."""
        self._limit = limit
        self._start: bytes | None = b""  # until it is known whether a byte order mark comes first
        self._buffer = bytearray()
        self._in_comment = False
        self._skip_newline = False
        self._data = bytearray()
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in any cut; return the data of the events that they complete.

        Raises:
            LimitError: An event is larger than the limit.
        """
        if self._start is not None:
            data = self._start + data
            if len(data) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(data):
                self._start = data
                return []
            self._start = None
            data = data.removeprefix(_BYTE_ORDER_MARK)
        events: list[bytes] = []
        for start in range(0, len(data), _SLICE):
            for piece in data[start : start + _SLICE].splitlines(keepends=True):
                if self._skip_newline and piece == b"\n":
                    self._skip_newline = False  # the second half of a CRLF that was cut in two
                else:
                    self._take(piece, events)
        return events

    def _take(self, piece: bytes, events: list[bytes]) -> None:
        """Take a line, or a part of one."""
        part = piece.rstrip(b"\r\n")
        if part[:1] == b":" and not self._buffer:
            self._in_comment = True
        if not self._in_comment:
            self._size += len(part)
            if self._size > self._limit:
                raise LimitError(f"an event is over {self._limit} bytes; the server sends too much")
            self._buffer += part
        self._skip_newline = piece[-1:] == b"\r"
        if len(part) == len(piece):
            return
        if not self._in_comment:
            self._line(bytes(self._buffer), events)
        self._buffer.clear()
        self._in_comment = False

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(bytes(self._data[:-1]))
            self._data.clear()
            self._size = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data += value.removeprefix(b" ") + b"\n"

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            MessageError: It ended inside an event, which is lost.
        """
        if self._start or self._buffer or self._data:
            raise MessageError("the event stream ended inside an event; ask the server again")
