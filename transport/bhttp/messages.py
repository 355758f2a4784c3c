"""The types of Binary HTTP messages (RFC 9292)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Fields = tuple[tuple[bytes, bytes], ...]
"""Field lines in order: lowercase name, value."""

KNOWN_REQUEST: Final = 0
KNOWN_RESPONSE: Final = 1
INDETERMINATE_REQUEST: Final = 2
INDETERMINATE_RESPONSE: Final = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts.

    Attributes:
        header_bytes: Encoded bytes of a request's control data, and of each field section. The
            header sections of a response's informational and final heads count together.
        field_lines: Field lines of each section, counted likewise; an informational head counts
            as one more.
        content_bytes: All content of one message.
        padding_bytes: Zeros after the message (RFC 9292 section 3.8).
    """

    header_bytes: int = 64 * 1024
    field_lines: int = 512
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
class RequestHead:
    """Control data and header fields of a request."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    headers: Fields = ()


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


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of content, never empty; pieces do not follow the sender's chunks."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The end of the message, with its trailer fields."""

    trailers: Fields = ()


Event = RequestHead | ResponseHead | Content | End
