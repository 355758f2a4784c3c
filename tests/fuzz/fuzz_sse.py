"""Server-sent events, against a reading of the whole stream at once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fuzz_support import Target, held, pieces

from transport.errors import LimitError
from transport.sse import EventDecoder, encode_event

LIMIT = 64


def _reference(data: bytes) -> list[bytes]:
    """What WHATWG HTML section 9.2.6 makes of a stream."""
    events = []
    gathered: list[bytes] = []
    *lines, _ = re.split(rb"\r\n|\r|\n", data.removeprefix(b"\xef\xbb\xbf"))
    for line in lines:
        name, _, value = line.partition(b":")
        if not line:
            events += [b"\n".join(gathered)] if gathered else []
            gathered = []
        elif name == b"data":
            gathered.append(value.removeprefix(b" "))
    return events


def _feed(decoder: EventDecoder, cut: Iterable[bytes], limit: int) -> list[bytes] | None:
    events = []
    try:
        for piece in cut:
            events += decoder.feed(piece)
            assert held(decoder) <= limit + 3
    except LimitError:
        return None
    return events


def _sse(data: bytes) -> None:
    assert _feed(EventDecoder(1 << 20), pieces(data), len(data)) == _reference(data)
    limited = _feed(EventDecoder(LIMIT), [data], LIMIT)
    assert limited == _feed(EventDecoder(LIMIT), pieces(data), LIMIT)
    assert limited is None or limited == _reference(data)


def _seeds() -> Iterable[bytes]:
    yield b"".join(map(encode_event, ({"type": "a", "delta": "b\n"}, [], "\r\n", None)))
    yield b"\xef\xbb\xbfdata: a\r\ndata:b\r\n\r\n"
    yield b": comment\n\n:\r:\r\n\ndata\n\nid: 7\revent: x\r\r"
    yield b"data: a\n:" + b"." * 200 + b"\ndata: b\n\n"
    yield b"data: " + b"x" * 100 + b"\n\n"
    yield b"data: [DONE]\n\ndata: cut"


TARGETS = {"sse": Target(_sse, _seeds, 512, 3000)}
