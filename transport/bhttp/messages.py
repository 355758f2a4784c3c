"""The types of Binary HTTP messages (RFC 9292), and their encoding.

Encoding a whole message uses the known-length framing, `ResponseEncoder` the
indeterminate-length one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from transport import varint
from transport.errors import MessageError, UsageError

Fields = tuple[tuple[bytes, bytes], ...]
"""Field lines in order: lowercase name, value."""

KNOWN_REQUEST: Final = 0
KNOWN_RESPONSE: Final = 1
INDETERMINATE_REQUEST: Final = 2
INDETERMINATE_RESPONSE: Final = 3

# RFC 9292 section 4 refers to RFC 9113 section 8.2.1: names are lowercase tokens (which keeps
# out pseudo-fields, whose names start with a colon), values hold no NUL, CR or LF and no white
# space at either end.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[^\x00\r\n \t](?:[^\x00\r\n]*[^\x00\r\n \t])?)?")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET_PART = re.compile(rb"[^\x00-\x20\x7f]*")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts, in bytes.

    Attributes:
        header_bytes: Control data, and each field section.
        content_bytes: All content of one message.
        padding_bytes: Zeros after the message (RFC 9292 section 3.8).
    """

    header_bytes: int = 64 * 1024
    content_bytes: int = 16 * 1024 * 1024
    padding_bytes: int = 16 * 1024 * 1024


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `authority` is empty where the Host field or the gateway says it."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    headers: Fields = ()
    content: bytes = b""
    trailers: Fields = ()


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and header fields of a final (200 to 599) or informational (100 to 199) response."""

    status: int
    headers: Fields = ()


@dataclass(frozen=True, slots=True)
class Response:
    """A response, after any informational ones that came before it."""

    status: int
    headers: Fields = ()
    content: bytes = b""
    trailers: Fields = ()
    informational: tuple[ResponseHead, ...] = ()


def check_field(name: bytes, value: bytes) -> None:
    """Refuse a field line that HTTP does not allow; `MessageError`."""
    if _NAME.fullmatch(name) is None:
        raise MessageError(f"field name of {len(name)} bytes is not a lowercase HTTP token")
    if _VALUE.fullmatch(value) is None:
        raise MessageError(f"the value of field {name!r} holds NUL, CR, LF or outer white space")


def check_control_data(method: bytes, scheme: bytes, authority: bytes, path: bytes) -> None:
    """Refuse control data that could not be a request line; `MessageError`."""
    if _METHOD.fullmatch(method) is None:
        raise MessageError("the request's method is not an HTTP token")
    for part in (scheme, authority, path):
        if _TARGET_PART.fullmatch(part) is None:
            raise MessageError("the request's scheme, authority or path holds white space")


def is_informational(status: int) -> bool:
    """Whether `status` is 1xx; `MessageError` outside 100 to 599 (RFC 9292 section 3.5)."""
    if not 100 <= status <= 599:
        raise MessageError(f"status {status} is not an HTTP status code")
    return status < 200


def _prefixed(data: bytes) -> bytes:
    return varint.encode(len(data)) + data


def _field_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = bytearray()
    for name, value in fields:
        try:
            check_field(name, value)
        except MessageError as error:
            raise UsageError(str(error)) from error
        lines += _prefixed(name)
        lines += _prefixed(value)
    return bytes(lines)


def _known_body(headers: Fields, content: bytes, trailers: Fields) -> bytes:
    return b"".join(
        (_prefixed(_field_lines(headers)), _prefixed(content), _prefixed(_field_lines(trailers)))
    )


def encode_request(request: Request) -> bytes:
    """Encode as a known-length request (RFC 9292 section 3.1).

    Raises:
        UsageError: A field, the method or the target is not valid HTTP.
    """
    control = (request.method, request.scheme, request.authority, request.path)
    try:
        check_control_data(*control)
    except MessageError as error:
        raise UsageError(str(error)) from error
    return b"".join(
        (
            varint.encode(KNOWN_REQUEST),
            *map(_prefixed, control),
            _known_body(request.headers, request.content, request.trailers),
        )
    )


def _status(status: int, *, informational: bool) -> bytes:
    try:
        matches = is_informational(status) is informational
    except MessageError:
        matches = False
    if not matches:
        raise UsageError(f"status {status} cannot stand here in a response")
    return varint.encode(status)


def encode_response(response: Response) -> bytes:
    """Encode as a known-length response (RFC 9292 section 3.1).

    Raises:
        UsageError: A status or field is not valid HTTP.
    """
    parts = [varint.encode(KNOWN_RESPONSE)]
    for head in response.informational:
        parts.append(_status(head.status, informational=True))
        parts.append(_prefixed(_field_lines(head.headers)))
    parts.append(_status(response.status, informational=False))
    parts.append(_known_body(response.headers, response.content, response.trailers))
    return b"".join(parts)


class ResponseEncoder:
    """Encodes an indeterminate-length response as it is made (RFC 9292 section 3.2)."""

    __slots__ = ("_head", "_state")

    def __init__(self, status: int, headers: Fields = ()) -> None:
        """Prepare a response; `UsageError` for a status or field that is not valid HTTP."""
        self._head = b"".join(
            (
                varint.encode(INDETERMINATE_RESPONSE),
                _status(status, informational=False),
                _field_lines(headers),
                b"\x00",
            )
        )
        self._state = "new"

    def _move(self, expected: str, after: str) -> None:
        if self._state != expected:
            raise UsageError(f"the response encoder is {self._state}, not {expected}")
        self._state = after

    def start(self) -> bytes:
        """Framing indicator, status and header fields; first, once."""
        self._move("new", "started")
        return self._head

    def content(self, data: bytes) -> bytes:
        """One content chunk; nothing for no data, since a chunk of length zero ends content."""
        self._move("started", "started")
        return _prefixed(data) if data else b""

    def finish(self, trailers: Fields = ()) -> bytes:
        """The end of content, and trailer fields; last, once."""
        lines = _field_lines(trailers)
        self._move("started", "finished")
        return b"\x00" + lines + b"\x00"
