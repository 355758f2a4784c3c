"""Decoding of Binary HTTP messages (RFC 9292), piece by piece or whole, in either framing.

A decoder is a table of steps, one per part of the message. Each step takes its part from the
buffer if it is all there; content is passed on without waiting for the rest of its chunk. Limits
are checked on lengths, before their bytes are awaited. What is refused stands in
`transport.bhttp.rules`.

Between two calls a decoder holds control data and one field section that are not yet whole: at most
`Limits.header_bytes` bytes each, in at most `Limits.field_lines` field lines; nothing of content
or padding. During a call it takes the input 64 KiB at a time, so that what it holds beside the
events that it returns does not grow with the input.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import ClassVar, Final

from transport import varint
from transport.bhttp.messages import (
    DEFAULT_LIMITS,
    INDETERMINATE_REQUEST,
    INDETERMINATE_RESPONSE,
    KNOWN_REQUEST,
    KNOWN_RESPONSE,
    Content,
    End,
    Event,
    Fields,
    Limits,
    Request,
    RequestHead,
    Response,
    ResponseHead,
)
from transport.bhttp.rules import (
    ContentCount,
    check_control_data,
    check_field,
    check_host,
    check_trailers,
    is_informational,
)
from transport.errors import LimitError, MessageError, TruncatedError, UsageError

_SLICE: Final = 1 << 16


class _Part(Enum):
    FRAMING = auto()
    CONTROL = auto()
    HEADERS = auto()
    CONTENT = auto()
    CHUNK = auto()
    TRAILERS = auto()
    PADDING = auto()


class _Decoder:
    """The parts that requests and responses share; a subclass knows the control data."""

    _FRAMINGS: ClassVar[dict[int, bool]]  # framing indicator -> known length

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        """Decode one message within `limits`."""
        self._limits = limits
        self._buffer = bytearray()
        self._part = _Part.FRAMING
        self._known = True
        self._fields: list[tuple[bytes, bytes]] = []
        self._section_left: int | None = None  # of a known-length field section that has begun
        self._header_bytes = 0
        self._field_lines = 0
        self._chunk_left = 0
        self._content_left = limits.content_bytes
        self._content_begun = False
        self._count = ContentCount()
        self._pieces = bytearray()
        self._padding_left = limits.padding_bytes
        self._events: list[Event] = []
        self._over = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Take bytes in any cut; return what they complete.

        Raises:
            MessageError: The bytes are no such message.
            LimitError: A part is larger than the limits allow.
            UsageError: The message has ended or failed before.
        """
        self._check_open()
        self._over = True  # until this call ends well
        for start in range(0, len(data), _SLICE):
            self._buffer += data if len(data) <= _SLICE else data[start : start + _SLICE]
            while self._buffer and _STEPS[self._part](self):
                pass
            self._pass_on()
        self._over = False
        return self._take_events()

    def finish(self) -> list[Event]:
        """The input has ended; return what its end completes.

        A message may end before any section whose rest is empty: "Decoders MUST treat missing
        truncated fields as equivalent to having been sent with the length field set to zero"
        (RFC 9292 section 3.8).

        Raises:
            TruncatedError: The input ended inside a part.
            MessageError: The content is not as long as its Content-Length says.
            UsageError: The message has ended or failed before.
        """
        self._check_open()
        self._over = True
        if not self._may_end():
            raise TruncatedError(f"the message ended inside its {self._part.name.lower()}")
        if self._part is _Part.HEADERS:
            self._end_headers()
        if self._part is _Part.CONTENT:
            self._count.end()
        if self._part is not _Part.PADDING:
            self._events.append(End())
        return self._take_events()

    def _check_open(self) -> None:
        if self._over:
            raise UsageError("this message has ended or failed; decode the next with a new decoder")

    def _may_end(self) -> bool:
        if self._buffer or self._fields or self._section_left is not None:
            return False
        if self._part is _Part.HEADERS:
            return self._head_is_final()
        if self._part is _Part.CONTENT:
            return not self._content_begun
        return self._part in {_Part.TRAILERS, _Part.PADDING}

    def _emit(self, event: Event) -> None:
        self._pass_on()
        self._events.append(event)

    def _pass_on(self) -> None:
        """Content gathered from the chunks of one slice leaves as one piece."""
        if self._pieces:
            self._events.append(Content(bytes(self._pieces)))
            self._pieces = bytearray()

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _framing(self) -> bool:
        header = varint.decode(self._buffer)
        if header is None:
            return False
        indicator, offset = header
        if indicator not in self._FRAMINGS:
            raise MessageError(f"framing indicator {indicator} is not one for this kind of message")
        self._known = self._FRAMINGS[indicator]
        return self._advance(offset, _Part.CONTROL)

    def _advance(self, offset: int, part: _Part) -> bool:
        del self._buffer[:offset]
        self._part = part
        return True

    def _control(self) -> bool:
        raise NotImplementedError

    def _head_is_final(self) -> bool:
        raise NotImplementedError

    def _end_headers(self) -> None:
        raise NotImplementedError

    def _take_fields(self) -> Fields:
        fields = tuple(self._fields)
        self._fields = []
        return fields

    def _check_header_bytes(self, more: int) -> None:
        if self._header_bytes + more > self._limits.header_bytes:
            raise LimitError(
                f"header data of {self._header_bytes + more} bytes is over "
                f"{self._limits.header_bytes}; send less"
            )

    def _check_field_lines(self) -> None:
        self._field_lines += 1
        if self._field_lines > self._limits.field_lines:
            raise LimitError(f"there are over {self._limits.field_lines} field lines; send fewer")

    def _length_prefixed(self, offset: int) -> tuple[int, int] | None:
        """Start and end of the length-prefixed bytes at `offset`, or None until all are here."""
        header = varint.decode(self._buffer, offset)
        if header is None:
            return None
        length, start = header
        end = start + length
        if self._section_left is not None and end > self._section_left:
            raise MessageError("a field line runs past the end of its section")
        self._check_header_bytes(end)
        return (start, end) if end <= len(self._buffer) else None

    def _headers(self) -> bool:
        if not self._field_section():
            return False
        self._end_headers()
        return True

    def _trailers(self) -> bool:
        if not self._field_section():
            return False
        trailers = self._take_fields()
        check_trailers(trailers)
        self._emit(End(trailers))
        self._part = _Part.PADDING
        return True

    def _field_section(self) -> bool:
        """Gather field lines; True once the section is complete."""
        if self._known and self._section_left is None:
            header = varint.decode(self._buffer)
            if header is None:
                return False
            length, offset = header
            self._check_header_bytes(length)
            self._section_left = length
            del self._buffer[:offset]
        while self._section_left != 0:
            if not self._known and self._terminated():
                return True
            if not self._field_line():
                return False
        self._section_left = None
        return True

    def _terminated(self) -> bool:
        """Take the zero that ends an indeterminate-length section (RFC 9292 section 3.2)."""
        header = varint.decode(self._buffer)
        if header is None or header[0] != 0:
            return False
        del self._buffer[: header[1]]
        return True

    def _field_line(self) -> bool:
        """Take one field line, once it is all there."""
        name = self._length_prefixed(0)
        value = None if name is None else self._length_prefixed(name[1])
        if name is None or value is None:
            return False
        self._check_field_lines()
        line = bytes(self._buffer[slice(*name)]), bytes(self._buffer[slice(*value)])
        check_field(*line)
        self._fields.append(line)
        self._header_bytes += value[1]
        if self._section_left is not None:
            self._section_left -= value[1]
        del self._buffer[: value[1]]
        return True

    def _content(self) -> bool:
        header = varint.decode(self._buffer)
        if header is None:
            return False
        length, offset = header
        if length > self._content_left:
            raise LimitError(f"content is over {self._limits.content_bytes} bytes; send less")
        self._content_left -= length
        self._count.add(length)
        if self._known or length == 0:
            self._count.end()
        self._chunk_left = length
        self._content_begun = True
        return self._advance(offset, _Part.CHUNK if length else _Part.TRAILERS)

    def _chunk(self) -> bool:
        piece = self._buffer[: self._chunk_left]
        self._pieces += piece
        self._chunk_left -= len(piece)
        done = _Part.TRAILERS if self._known else _Part.CONTENT
        return self._advance(len(piece), _Part.CHUNK if self._chunk_left else done)

    def _padding(self) -> bool:
        zeros = len(self._buffer) - len(self._buffer.lstrip(b"\x00"))
        if zeros > self._padding_left:
            raise LimitError(f"padding is over {self._limits.padding_bytes} bytes; pad less")
        if zeros < len(self._buffer):
            raise MessageError("bytes other than zero follow the message (RFC 9292 section 3.8)")
        self._padding_left -= zeros
        self._buffer.clear()
        return False


_STEPS: Final[dict[_Part, Callable[[_Decoder], bool]]] = {
    _Part.FRAMING: _Decoder._framing,
    _Part.CONTROL: lambda decoder: decoder._control(),
    _Part.HEADERS: _Decoder._headers,
    _Part.CONTENT: _Decoder._content,
    _Part.CHUNK: _Decoder._chunk,
    _Part.TRAILERS: _Decoder._trailers,
    _Part.PADDING: _Decoder._padding,
}


class RequestDecoder(_Decoder):
    """Decodes one request in either framing: `RequestHead`, `Content` pieces, `End`."""

    _FRAMINGS: ClassVar[dict[int, bool]] = {KNOWN_REQUEST: True, INDETERMINATE_REQUEST: False}

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        """Decode one request within `limits`."""
        super().__init__(limits)
        self._head: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b"")

    def _control(self) -> bool:
        """Method, scheme, authority, path, each after its length (RFC 9292 section 3.4)."""
        spans = []
        offset = 0
        for _ in range(4):
            span = self._length_prefixed(offset)
            if span is None:
                return False
            spans.append(span)
            offset = span[1]
        method, scheme, authority, path = (bytes(self._buffer[slice(*span)]) for span in spans)
        check_control_data(method, scheme, authority, path)
        self._head = method, scheme, authority, path
        return self._advance(offset, _Part.HEADERS)

    def _head_is_final(self) -> bool:
        return True

    def _end_headers(self) -> None:
        head = RequestHead(*self._head, headers=self._take_fields())
        self._head = (b"", b"", b"", b"")
        check_host(head.scheme, head.authority, head.headers)
        self._count = ContentCount(head.headers)
        self._header_bytes = self._field_lines = 0
        self._emit(head)
        self._part = _Part.CONTENT


class ResponseDecoder(_Decoder):
    """Decodes one response in either framing.

    `ResponseHead` for each informational response and for the final one, `Content` pieces, `End`.
    """

    _FRAMINGS: ClassVar[dict[int, bool]] = {KNOWN_RESPONSE: True, INDETERMINATE_RESPONSE: False}

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        """Decode one response within `limits`."""
        super().__init__(limits)
        self._status = 0

    def _control(self) -> bool:
        header = varint.decode(self._buffer)
        if header is None:
            return False
        self._status, offset = header
        if is_informational(self._status):
            self._check_field_lines()
        return self._advance(offset, _Part.HEADERS)

    def _head_is_final(self) -> bool:
        return not is_informational(self._status)

    def _end_headers(self) -> None:
        head = ResponseHead(self._status, self._take_fields())
        self._emit(head)
        if is_informational(head.status):
            self._part = _Part.CONTROL
            return
        self._count = ContentCount(head.headers, may_be_empty=True)
        self._header_bytes = self._field_lines = 0
        self._part = _Part.CONTENT


def _decode_whole(decoder: _Decoder, data: bytes) -> list[Event]:
    return [*decoder.feed(data), *decoder.finish()]


def _body(events: list[Event]) -> tuple[bytes, Fields]:
    content = b"".join(event.data for event in events if isinstance(event, Content))
    trailers = next(event.trailers for event in events if isinstance(event, End))
    return content, trailers


def decode_request(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Request:
    """Decode one whole request in either framing.

    Raises:
        MessageError, TruncatedError, LimitError: See `RequestDecoder.feed` and `finish`.
    """
    events = _decode_whole(RequestDecoder(limits), data)
    head = next(event for event in events if isinstance(event, RequestHead))
    content, trailers = _body(events)
    return Request(
        head.method, head.scheme, head.authority, head.path, head.headers, content, trailers
    )


def decode_response(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Response:
    """Decode one whole response in either framing.

    Raises:
        MessageError, TruncatedError, LimitError: See `ResponseDecoder.feed` and `finish`.
    """
    events = _decode_whole(ResponseDecoder(limits), data)
    *informational, head = [event for event in events if isinstance(event, ResponseHead)]
    content, trailers = _body(events)
    return Response(head.status, head.headers, content, trailers, tuple(informational))
