"""Encoding of Binary HTTP messages (RFC 9292).

A whole message is encoded in the known-length framing, a message that is still being made in the
indeterminate-length one. Integers take the fewest bytes and no section is left out, so that each
message has one encoding in either framing, but for the cut of its content into chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transport import varint
from transport.bhttp.messages import (
    INDETERMINATE_REQUEST,
    INDETERMINATE_RESPONSE,
    KNOWN_REQUEST,
    KNOWN_RESPONSE,
    Fields,
    Request,
    Response,
)
from transport.bhttp.rules import (
    ContentCount,
    check_control_data,
    check_field,
    check_host,
    check_trailers,
    is_informational,
)
from transport.errors import MessageError, UsageError


@contextmanager
def _refusals() -> Iterator[None]:
    """What a decoder would refuse is a mistake of the caller here."""
    try:
        yield
    except MessageError as error:
        raise UsageError(str(error)) from error


def _prefixed(data: bytes) -> bytes:
    return varint.encode(len(data)) + data


def _field_lines(fields: Fields) -> bytes:
    lines = bytearray()
    for name, value in fields:
        check_field(name, value)
        lines += _prefixed(name)
        lines += _prefixed(value)
    return bytes(lines)


def _trailer_lines(trailers: Fields) -> bytes:
    check_trailers(trailers)
    return _field_lines(trailers)


def _control_data(
    method: bytes, scheme: bytes, authority: bytes, path: bytes, headers: Fields
) -> bytes:
    check_control_data(method, scheme, authority, path)
    check_host(scheme, authority, headers)
    return b"".join(map(_prefixed, (method, scheme, authority, path)))


def _status(status: int, *, informational: bool) -> bytes:
    if is_informational(status) is not informational:
        raise MessageError(f"status {status} cannot stand here in a response")
    return varint.encode(status)


def _padding(size: int) -> bytes:
    if size < 0:
        raise UsageError(f"padding of {size} bytes cannot be made; use 0 or more")
    return bytes(size)


def _known_body(message: Request | Response, padding: int) -> bytes:
    count = ContentCount(message.headers, may_be_empty=isinstance(message, Response))
    count.add(len(message.content))
    count.end()
    return b"".join(
        (
            _prefixed(_field_lines(message.headers)),
            _prefixed(message.content),
            _prefixed(_trailer_lines(message.trailers)),
            _padding(padding),
        )
    )


def encode_request(request: Request, *, padding: int = 0) -> bytes:
    """Encode as a known-length request (RFC 9292 section 3.1).

    Args:
        request: The request.
        padding: How many zero bytes follow it (section 3.8).

    Raises:
        UsageError: `transport.bhttp.rules` refuses the request, or padding is negative.
    """
    with _refusals():
        control = _control_data(
            request.method, request.scheme, request.authority, request.path, request.headers
        )
        return varint.encode(KNOWN_REQUEST) + control + _known_body(request, padding)


def encode_response(response: Response, *, padding: int = 0) -> bytes:
    """Encode as a known-length response (RFC 9292 section 3.1).

    Args:
        response: The response, with the informational ones before it.
        padding: How many zero bytes follow it (section 3.8).

    Raises:
        UsageError: `transport.bhttp.rules` refuses the response, or padding is negative.
    """
    with _refusals():
        parts = [varint.encode(KNOWN_RESPONSE)]
        for head in response.informational:
            parts.append(_status(head.status, informational=True))
            parts.append(_prefixed(_field_lines(head.headers)))
        parts.append(_status(response.status, informational=False))
        parts.append(_known_body(response, padding))
        return b"".join(parts)


class _Encoder:
    """Encodes an indeterminate-length message as it is made (RFC 9292 section 3.2)."""

    __slots__ = ("_count", "_head", "_indicator", "_state")

    def __init__(self, indicator: int, head: bytes, count: ContentCount) -> None:
        self._indicator = varint.encode(indicator)
        self._head = head
        self._count = count
        self._state = "new"

    def _move(self, expected: str, after: str) -> None:
        if self._state != expected:
            raise UsageError(f"the message's encoder is {self._state}, not {expected}")
        self._state = after

    def _take_indicator(self) -> bytes:
        indicator, self._indicator = self._indicator, b""
        return indicator

    def start(self) -> bytes:
        """Framing indicator, control data and header fields; first, once."""
        self._move("new", "started")
        return self._take_indicator() + self._head

    def content(self, data: bytes) -> bytes:
        """One content chunk; nothing for no data, since a chunk of length zero ends content."""
        self._move("started", "started")
        with _refusals():
            self._count.add(len(data))
        return _prefixed(data) if data else b""

    def finish(self, trailers: Fields = (), *, padding: int = 0) -> bytes:
        """The end of content, trailer fields and `padding` zero bytes; last, once."""
        with _refusals():
            end = b"\x00" + _trailer_lines(trailers) + b"\x00" + _padding(padding)
            self._move("started", "finished")
            self._count.end()
        return end


class RequestEncoder(_Encoder):
    """Encodes an indeterminate-length request: `start`, `content` as it comes, `finish`."""

    __slots__ = ()

    def __init__(
        self, method: bytes, scheme: bytes, authority: bytes, path: bytes, headers: Fields = ()
    ) -> None:
        """Prepare a request; `UsageError` if `transport.bhttp.rules` refuses it."""
        with _refusals():
            control = _control_data(method, scheme, authority, path, headers)
            head = control + _field_lines(headers) + b"\x00"
            super().__init__(INDETERMINATE_REQUEST, head, ContentCount(headers))


class ResponseEncoder(_Encoder):
    """Encodes an indeterminate-length response: `start`, `content` as it comes, `finish`."""

    __slots__ = ()

    def __init__(self, status: int, headers: Fields = ()) -> None:
        """Prepare a response; `UsageError` if `transport.bhttp.rules` refuses it."""
        with _refusals():
            head = _status(status, informational=False) + _field_lines(headers) + b"\x00"
            count = ContentCount(headers, may_be_empty=True)
            super().__init__(INDETERMINATE_RESPONSE, head, count)

    def informational(self, status: int, headers: Fields = ()) -> bytes:
        """An informational response (100 to 199) before the final one: before `start`."""
        with _refusals():
            head = _status(status, informational=True) + _field_lines(headers) + b"\x00"
        self._move("new", "new")
        return self._take_indicator() + head
