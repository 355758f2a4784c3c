"""Server-sent events: what is written is read, in any cut, within a limit."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.errors import LimitError, MessageError, UsageError
from transport.sse import EventDecoder, encode_event

STREAM = (
    b"\xef\xbb\xbf: a comment\n\n"
    b'event: delta\ndata: {"a":1}\n\n'
    b"data:no space\r\ndata:  two spaces\r\n\r\n"
    b"id: 7\rdata\r\r"
    b"data: [DONE]\n\n"
)
EVENTS = [b'{"a":1}', b"no space\n two spaces", b"", b"[DONE]"]


def test_events_in_any_cut() -> None:
    """All line ends, comments and other fields, whole, bytewise and cut at every place."""
    assert EventDecoder().feed(STREAM) == EVENTS
    bytewise = EventDecoder()
    assert [one for byte in STREAM for one in bytewise.feed(bytes([byte]))] == EVENTS
    for cut in range(len(STREAM)):
        decoder = EventDecoder()
        assert decoder.feed(STREAM[:cut]) + decoder.feed(STREAM[cut:]) == EVENTS
        decoder.finish()


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none())))
def test_json_events_round_trip(events: list[object]) -> None:
    """Any JSON value survives, whatever line ends its text holds."""
    data = b"".join(map(encode_event, events))
    assert [orjson.loads(one) for one in EventDecoder().feed(data)] == events


def test_an_event_ends_at_its_blank_line() -> None:
    """A stream cut inside an event is an error, not an event."""
    decoder = EventDecoder()
    assert decoder.feed(b'data: {"a":1}\n') == []
    with pytest.raises(MessageError):
        decoder.finish()


@pytest.mark.parametrize("flood", [b"data: " + b"x" * 100, b"data: x\n" * 20, b": " + b"x" * 100])
def test_endless_events_are_refused(flood: bytes) -> None:
    """One long line, many lines, or a comment without end pass no limit."""
    with pytest.raises(LimitError):
        EventDecoder(limit=64).feed(flood)
    with pytest.raises(LimitError):
        decoder = EventDecoder(limit=64)
        for byte in flood:
            decoder.feed(bytes([byte]))


def test_what_is_no_json_is_not_sent() -> None:
    """A value without a JSON form is refused at the sender."""
    with pytest.raises(UsageError):
        encode_event({"a": object()})
