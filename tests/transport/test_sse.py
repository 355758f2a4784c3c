"""Server-sent events: what is written is read, in any cut, within a limit."""

from __future__ import annotations

import tracemalloc

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.errors import LimitError, MessageError, UsageError
from transport.sse import EventDecoder, encode_event

STREAM = (
    b"\xef\xbb\xbfdata: first\n\n"
    b": a comment\n\n"
    b'event: delta\ndata: {"a":1}\n\n'
    b"data:no space\r\ndata:  two spaces\r\n\r\n"
    b"id: 7\rdata\r\r"
    b"data: a\r:a comment inside: data: no\r\ndata: b\n\n\n\n"
    b": ends with a return\r:\r\r\n"
    b" : no comment\n"
    b"\xef\xbb\xbfdata: a second mark\n"
    b"data: [DONE]\n\n"
    b":"
)
EVENTS = [b"first", b'{"a":1}', b"no space\n two spaces", b"", b"a\nb", b"[DONE]"]


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


@pytest.mark.parametrize("flood", [b"data: " + b"x" * 100, b"data: x\n" * 20, b"id: 1\r\n" * 20])
def test_endless_events_are_refused(flood: bytes) -> None:
    """One long line, or many lines without a blank one, pass no limit."""
    with pytest.raises(LimitError):
        EventDecoder(limit=64).feed(flood)
    with pytest.raises(LimitError):
        decoder = EventDecoder(limit=64)
        for byte in flood:
            decoder.feed(bytes([byte]))


def test_an_event_of_exactly_the_limit_passes_in_any_cut() -> None:
    """Line ends do not count, so that a CRLF cut in two counts as one that is not."""
    event = b"data: 0123\r\ndata: 4567\r\n\r\n"
    for limit, passes in ((20, True), (19, False)):
        for cut in range(len(event) + 1):
            decoder = EventDecoder(limit)
            try:
                events = decoder.feed(event[:cut]) + decoder.feed(event[cut:])
            except LimitError:
                events = []
            assert events == ([b"0123\n4567"] if passes else [])


@pytest.mark.parametrize("padding", [b":" + b"." * 999 + b"\n\n", b":\r\n", b"\n", b"\r", b":."])
def test_padding_costs_nothing(padding: bytes) -> None:
    """Comments and blank lines, a mebibyte in one line or many, count for no event."""
    flood = padding * ((1 << 20) // len(padding))
    decoder = EventDecoder(limit=16)
    tracemalloc.start()
    try:
        assert decoder.feed(flood + b"\ndata: a\n\n") == [b"a"]
        for start in range(0, len(flood), 1000):
            assert decoder.feed(flood[start : start + 1000]) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.feed(b"\ndata: 0123456789\n\n") == [b"0123456789"]
    assert held < 8192


def test_padding_inside_an_event_leaves_its_limit() -> None:
    """A comment between the lines of an event is passed over; the event's own lines count on."""
    decoder = EventDecoder(limit=16)
    assert decoder.feed(b"data: a\n:" + b"." * 100 + b"\ndata: b\n\n") == [b"a\nb"]
    with pytest.raises(LimitError):
        decoder.feed(b"data: a\n:\ndata: b\n:\ndata: c\n\n")


def test_an_end_inside_padding_loses_nothing() -> None:
    """A stream may end inside a comment, but not inside a field's line."""
    whole = EventDecoder()
    whole.feed(b"data: a\n\n:...")
    whole.finish()
    cut = EventDecoder()
    cut.feed(b"data: a\n\ndat")
    with pytest.raises(MessageError):
        cut.finish()


def test_what_is_no_json_is_not_sent() -> None:
    """A value without a JSON form is refused at the sender."""
    with pytest.raises(UsageError):
        encode_event({"a": object()})
