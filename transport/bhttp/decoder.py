"""Decoding of Binary HTTP messages (RFC 9292), piece by piece or whole, in either framing.

A decoder is a table of steps, one per part of the message. Each step takes its part from the
buffer if it is all there; content is passed on without waiting for the rest of its chunk. Limits
are checked on lengths, before their bytes are awaited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar

from transport import varint
from transport.bhttp.messages import (
    DEFAULT_LIMITS,
    INDETERMINATE_REQUEST,
    INDETERMINATE_RESPONSE,
    KNOWN_REQUEST,
    KNOWN_RESPONSE,
    Fields,
    Limits,
    Request,
    Response,
    ResponseHead,
    check_control_data,
    check_field,
    is_informational,
)
from transport.errors import LimitError, MessageError, TruncatedError, UsageError


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Control data and header fields of a request."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    headers: Fields = ()


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of content, never empty; pieces do not follow the sender's chunks."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The end of the message, with its trailer fields."""

    trailers: Fields = ()


Event = RequestHead | ResponseHead | Content | End


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
        self._fields_bytes = 0
        self._chunk_left = 0
        self._content_left = limits.content_bytes
        self._content_begun = False
        self._padding_left = limits.padding_bytes
        self._events: list[Event] = []
        self._over = False
        self._steps: dict[_Part, Callable[[], bool]] = {
            _Part.FRAMING: self._framing,
            _Part.CONTROL: self._control,
            _Part.HEADERS: self._headers,
            _Part.CONTENT: self._content,
            _Part.CHUNK: self._chunk,
            _Part.TRAILERS: self._trailers,
            _Part.PADDING: self._padding,
        }

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes in any cut; return what they complete.

        Raises:
            MessageError: The bytes are no such message.
            LimitError: A part is larger than the limits allow.
            UsageError: The message has ended or failed before.
        """
        if self._over:
            raise UsageError("this message has ended or failed; decode the next with a new decoder")
        self._over = True  # until this call ends well
        self._buffer += data
        while self._buffer and self._steps[self._part]():
            pass
        self._over = False
        return self._take_events()

    def finish(self) -> list[Event]:
        """The input has ended; return what its end completes.

        A message may end before any section whose rest is empty: "Decoders MUST treat missing
        truncated fields as equivalent to having been sent with the length field set to zero"
        (RFC 9292 section 3.8).

        Raises:
            TruncatedError: The input ended inside a part.
            UsageError: The message has ended or failed before.
        """
        if self._over:
            raise UsageError("this message has ended or failed; decode the next with a new decoder")
        self._over = True
        if self._buffer or self._fields or not self._may_end():
            raise TruncatedError(f"the message ended inside its {self._part.name.lower()}")
        if self._part is _Part.HEADERS:
            self._end_headers()
        if self._part is not _Part.PADDING:
            self._events.append(End())
        return self._take_events()

    def _may_end(self) -> bool:
        if self._part is _Part.HEADERS:
            return self._head_is_final()
        if self._part is _Part.CONTENT:
            return not self._content_begun
        return self._part in {_Part.TRAILERS, _Part.PADDING}

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
        self._fields_bytes = 0
        return fields

    def _check_header_size(self, size: int) -> None:
        if size > self._limits.header_bytes:
            raise LimitError(
                f"header data of {size} bytes is over {self._limits.header_bytes}; send less"
            )

    def _length_prefixed(self, offset: int) -> tuple[int, int] | None:
        """Start and end of the length-prefixed bytes at `offset`, or None until all are here."""
        header = varint.decode(self._buffer, offset)
        if header is None:
            return None
        length, start = header
        self._check_header_size(length)
        return (start, start + length) if start + length <= len(self._buffer) else None

    def _headers(self) -> bool:
        if not self._field_section():
            return False
        self._end_headers()
        return True

    def _trailers(self) -> bool:
        if not self._field_section():
            return False
        self._events.append(End(self._take_fields()))
        self._part = _Part.PADDING
        return True

    def _field_section(self) -> bool:
        """Gather field lines; True once the section is complete."""
        if self._known:
            span = self._length_prefixed(0)
            if span is None:
                return False
            offset, end = span
            while offset < end:
                offset = self._field_line(offset, end)
            del self._buffer[:end]
            return True
        return self._terminated_fields()

    def _terminated_fields(self) -> bool:
        """Field lines until a name of length zero (RFC 9292 section 3.2)."""
        offset = 0
        done = False
        while not done:
            header = varint.decode(self._buffer, offset)
            if header is None:
                break
            if header[0] == 0:
                offset, done = header[1], True
                break
            name = self._length_prefixed(offset)
            value = None if name is None else self._length_prefixed(name[1])
            if value is None:
                break
            self._check_header_size(self._fields_bytes + value[1] - offset)
            self._fields_bytes += value[1] - offset
            offset = self._field_line(offset, value[1])
        del self._buffer[:offset]
        return done

    def _field_line(self, offset: int, end: int) -> int:
        """Read the field line at `offset`, which must lie before `end`; return its own end."""
        name = self._length_prefixed(offset)
        value = None if name is None else self._length_prefixed(name[1])
        if name is None or value is None or value[1] > end:
            raise MessageError("a field line runs past the end of its section")
        line = bytes(self._buffer[slice(*name)]), bytes(self._buffer[slice(*value)])
        check_field(*line)
        self._fields.append(line)
        return value[1]

    def _content(self) -> bool:
        header = varint.decode(self._buffer)
        if header is None:
            return False
        length, offset = header
        if length > self._content_left:
            raise LimitError(f"content is over {self._limits.content_bytes} bytes; send less")
        self._content_left -= length
        self._chunk_left = length
        self._content_begun = True
        if length == 0:
            return self._advance(offset, _Part.TRAILERS)
        return self._advance(offset, _Part.CHUNK)

    def _chunk(self) -> bool:
        piece = bytes(self._buffer[: self._chunk_left])
        self._chunk_left -= len(piece)
        self._events.append(Content(piece))
        done = _Part.TRAILERS if self._known else _Part.CONTENT
        return self._advance(len(piece), _Part.CHUNK if self._chunk_left else done)

    def _padding(self) -> bool:
        if any(self._buffer):
            raise MessageError("bytes other than zero follow the message (RFC 9292 section 3.8)")
        self._padding_left -= len(self._buffer)
        if self._padding_left < 0:
            raise LimitError(f"padding is over {self._limits.padding_bytes} bytes; pad less")
        self._buffer.clear()
        return False


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
        self._check_header_size(offset)
        method, scheme, authority, path = (bytes(self._buffer[slice(*span)]) for span in spans)
        check_control_data(method, scheme, authority, path)
        self._head = method, scheme, authority, path
        return self._advance(offset, _Part.HEADERS)

    def _head_is_final(self) -> bool:
        return True

    def _end_headers(self) -> None:
        self._events.append(RequestHead(*self._head, headers=self._take_fields()))
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
        self._informational_bytes = 0

    def _control(self) -> bool:
        header = varint.decode(self._buffer)
        if header is None:
            return False
        self._status, offset = header
        is_informational(self._status)
        return self._advance(offset, _Part.HEADERS)

    def _head_is_final(self) -> bool:
        return not is_informational(self._status)

    def _end_headers(self) -> None:
        head = ResponseHead(self._status, self._take_fields())
        self._events.append(head)
        if not self._head_is_final():
            # Informational responses repeat; together they stay within one header limit.
            size = 8 + sum(len(name) + len(value) for name, value in head.headers)
            self._informational_bytes += size
            self._check_header_size(self._informational_bytes)
        self._part = _Part.CONTENT if self._head_is_final() else _Part.CONTROL


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
