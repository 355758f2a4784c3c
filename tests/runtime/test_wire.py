"""The websocket protocol's frames and events."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import wire


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=200), st.booleans())
def test_a_frame_survives_its_encoding(stream: int, offset: int, data: bytes, end: bool) -> None:
    """Whatever a device sends as a frame, the edge reads the same."""
    if not data and not end:
        return
    frame = wire.Frame(stream, offset, data, end)
    assert wire.decode_frame(frame.encode()) == frame


@pytest.mark.parametrize("length", range(13))
def test_a_cut_frame_is_refused(length: int) -> None:
    """A frame cut inside its header is an error and nothing else."""
    whole = wire.Frame(1, 0, b"x").encode()
    with pytest.raises(wire.WireError):
        wire.decode_frame(whole[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0\0" + bytes(8) + b"x",  # stream 0
        b"\0\0\0\1\2" + bytes(8) + b"x",  # unknown flag
        b"\0\0\0\1\0" + bytes(8),  # nothing, and no end
        bytes(wire.MAX_BINARY_BYTES + 1),  # too long
    ],
)
def test_a_frame_outside_the_protocol_is_refused(data: bytes) -> None:
    """Stream 0, unknown flags, emptiness and excess are refused."""
    with pytest.raises(wire.WireError):
        wire.decode_frame(data)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "ping"},
        {"type": "enclaves.list", "event_id": "a"},
        {"type": "response.create", "stream": 1, "gateway": "enclave-0"},
        {"type": "stream.reset", "stream": 7},
        {"type": "session.resume", "token": "a" * 32, "received": {"1": 5}},
        {"type": "receipt.subscribe", "receipt_ids": ["0" * 32]},
    ],
)
def test_every_event_of_the_protocol_is_read(event: dict[str, object]) -> None:
    """The events in docs/protocol.md are what the edge reads."""
    parsed = wire.decode_client_event(orjson.dumps(event))
    assert orjson.loads(wire.encode_event(parsed)) == event


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"type": "response.delete"}, "unknown_event"),
        ({}, "unknown_event"),
        ({"type": "ping", "secret-word": 1}, "invalid_event"),
        ({"type": "response.create", "stream": 0, "gateway": "enclave-0"}, "invalid_event"),
        ({"type": "response.create", "stream": 1, "gateway": "../secret-word"}, "invalid_event"),
        ({"type": "receipt.subscribe", "receipt_ids": ["secret-word"]}, "invalid_event"),
        (
            {"type": "session.resume", "token": "a" * 32, "received": {"secret-word": 1}},
            "invalid_event",
        ),
    ],
)
def test_an_event_outside_the_protocol_is_refused_without_quoting_it(
    event: dict[str, object], code: str
) -> None:
    """Errors name the place and the rule, never what was sent: they end in logs."""
    with pytest.raises(wire.WireError) as caught:
        wire.decode_client_event(orjson.dumps(event))
    assert caught.value.code == code
    assert "secret-word" not in str(caught.value)


def test_an_event_is_refused_by_length_before_it_is_parsed() -> None:
    """A megabyte of JSON costs the edge a length check."""
    with pytest.raises(wire.WireError) as caught:
        wire.decode_client_event(b"[" * (wire.MAX_TEXT_BYTES + 1))
    assert caught.value.code == "event_too_large"
