"""The multiplexed connection without I/O: order, credit, violations, every cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.errors import LimitError, MessageError, TransportError, UsageError
from transport.mux import (
    INITIAL_WINDOW,
    DataReceived,
    Event,
    HeadReceived,
    Meter,
    MuxConnection,
    Role,
    Splice,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowOpened,
)
from transport.mux_frames import (
    MAX_PAYLOAD,
    FrameType,
    ResetCode,
    encode_frame,
    encode_head,
    encode_open,
    encode_window,
)


class Ends:
    """A client and a server, and what each has heard."""

    def __init__(self, max_streams: int = 16) -> None:
        self.client = MuxConnection(Role.CLIENT, max_streams=max_streams)
        self.server = MuxConnection(Role.SERVER, max_streams=max_streams)

    def to_server(self) -> list[Event]:
        return self.server.receive_data(self.client.data_to_send())

    def to_client(self) -> list[Event]:
        return self.client.receive_data(self.server.data_to_send())

    def opened(self) -> int:
        stream_id = self.client.open("gateway", "message/ohttp-chunked-req")
        self.to_server()
        return stream_id


def joined(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived))


def test_one_exchange() -> None:
    """A request and its response arrive as they were sent, and the stream is over at both ends."""
    ends = Ends()
    stream = ends.client.open("gateway", "a/b")
    ends.client.send(stream, b"request", end=True)
    assert ends.to_server() == [
        StreamOpened(stream, "gateway", "a/b"),
        DataReceived(stream, b"request"),
        StreamEnded(stream),
    ]
    ends.server.send_head(stream, 200, "c/d")
    ends.server.send(stream, b"response")
    ends.server.send(stream, b"", end=True)
    assert ends.to_client() == [
        HeadReceived(stream, 200, "c/d"),
        DataReceived(stream, b"response"),
        StreamEnded(stream),
    ]
    assert ends.client.open_streams == ends.server.open_streams == 0


def test_all_that_is_queued_leaves_at_once() -> None:
    """Everything since the last call comes out in one piece, then nothing."""
    ends = Ends()
    for _ in range(3):
        ends.client.send(ends.client.open("g", "a/b"), b"data")
    assert ends.client.queued_bytes == len(ends.client.data_to_send())
    assert ends.client.data_to_send() == b""


def test_any_cut_gives_the_same_events() -> None:
    """Whole, byte by byte, and in two pieces at every place: the same events."""
    client = MuxConnection(Role.CLIENT)
    for number in range(3):
        stream = client.open(f"g{number}", "a/b")
        client.send(stream, b"x" * number * 10, end=number == 1)
    client.reset(1, 9)
    data = client.data_to_send()
    whole = MuxConnection(Role.SERVER).receive_data(data)
    assert StreamReset(1, 9) in whole
    bytewise = MuxConnection(Role.SERVER)
    assert [one for byte in data for one in bytewise.receive_data(bytes([byte]))] == whole
    for cut in range(len(data)):
        server = MuxConnection(Role.SERVER)
        assert server.receive_data(data[:cut]) + server.receive_data(data[cut:]) == whole


def test_large_data_are_split_into_frames() -> None:
    """Data over a frame's size come in several pieces and whole."""
    ends = Ends()
    stream = ends.opened()
    sent = random.Random(1).randbytes(MAX_PAYLOAD * 2 + 5)
    ends.client.send(stream, sent)
    events = ends.to_server()
    assert joined(events) == sent
    assert len(events) == 3


def test_a_stalled_stream_holds_its_window_and_stalls_no_other() -> None:
    """Without credit a sender stops at the window; another stream on the connection goes on."""
    ends = Ends()
    stalled, other = ends.opened(), ends.opened()
    assert ends.client.send(stalled, bytes(INITIAL_WINDOW)) == 0
    with pytest.raises(UsageError):
        ends.client.send(stalled, b"x")
    assert ends.client.writable(other) == INITIAL_WINDOW
    ends.client.send(other, b"moves")
    assert len(joined(ends.to_server())) == INITIAL_WINDOW + 5


def test_consumption_gives_credit_back() -> None:
    """What the receiver uses up, the sender may send again, over many windows."""
    ends = Ends()
    stream = ends.opened()
    total = 0
    while total < 5 * INITIAL_WINDOW:
        size = min(ends.client.writable(stream), 100_000)
        assert size > 0
        ends.client.send(stream, bytes(size))
        got = len(joined(ends.to_server()))
        assert got == size
        ends.server.consumed(stream, got)
        for event in ends.to_client():
            assert isinstance(event, WindowOpened)
            assert event.writable == ends.client.writable(stream)
        total += got


def test_credit_is_never_more_than_was_received() -> None:
    """An application that claims to have used more than came is refused."""
    ends = Ends()
    stream = ends.opened()
    ends.client.send(stream, bytes(10))
    ends.to_server()
    ends.server.consumed(stream, 10)
    with pytest.raises(UsageError):
        ends.server.consumed(stream, 1)


def test_a_sender_that_ignores_credit_is_cut_off() -> None:
    """More data than the window is a violation, seen at the first byte too many."""
    ends = Ends()
    stream = ends.opened()
    frame = encode_frame(FrameType.DATA, stream, bytes(MAX_PAYLOAD))
    ends.server.receive_data(frame * (INITIAL_WINDOW // MAX_PAYLOAD))
    with pytest.raises(LimitError):
        ends.server.receive_data(encode_frame(FrameType.DATA, stream, b"x"))
    with pytest.raises(UsageError):
        ends.server.receive_data(b"")


@pytest.mark.parametrize("end", [Role.CLIENT, Role.SERVER])
def test_reset_ends_both_directions(end: Role) -> None:
    """Either end may abandon a stream; frames that cross the reset are ignored."""
    ends = Ends()
    stream = ends.opened()
    ends.server.send_head(stream, 200, "a/b")
    ends.to_client()
    one, other = (ends.client, ends.server) if end is Role.CLIENT else (ends.server, ends.client)
    other.send(stream, b"crossing")
    one.reset(stream, ResetCode.TIMEOUT)
    one.reset(stream, ResetCode.TIMEOUT)
    assert other.receive_data(one.data_to_send()) == [StreamReset(stream, ResetCode.TIMEOUT)]
    assert one.receive_data(other.data_to_send()) == []
    assert ends.client.open_streams == ends.server.open_streams == 0
    with pytest.raises(UsageError):
        other.send(stream, b"more")
    other.consumed(stream, 5)
    assert other.writable(stream) == 0


def test_each_direction_ends_by_itself() -> None:
    """A server may answer in full before the request has ended."""
    ends = Ends()
    stream = ends.opened()
    ends.server.send_head(stream, 413, "a/b")
    ends.server.send(stream, b"no", end=True)
    assert StreamEnded(stream) in ends.to_client()
    ends.client.send(stream, b"late", end=True)
    assert ends.to_server() == [DataReceived(stream, b"late"), StreamEnded(stream)]
    assert ends.client.open_streams == ends.server.open_streams == 0


def test_too_many_streams() -> None:
    """A client stops itself at the limit; a server refuses one more by resetting it alone."""
    ends = Ends(max_streams=2)
    for _ in range(2):
        ends.opened()
    with pytest.raises(LimitError):
        ends.client.open("g", "a/b")
    assert ends.server.receive_data(encode_open(3, "g", "a/b")) == []
    assert ends.server.open_streams == 2
    ends.client = MuxConnection(Role.CLIENT)
    for _ in range(3):
        ends.client.open("g", "a/b")
    assert ends.to_client() == [StreamReset(3, ResetCode.REFUSED)]


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x00\x00\x00\x00\x00\x00\x01",
        b"\x07\x00\x00\x00\x00\x00\x00\x01",
        encode_open(1, "g", "a/b"),
        encode_open(0, "g", "a/b"),
        encode_frame(FrameType.OPEN, 2, b""),
        encode_frame(FrameType.OPEN, 2, b"\x00\x03a/b"),
        encode_frame(FrameType.OPEN, 2, b"\x01g\x04a/b"),
        encode_frame(FrameType.OPEN, 2, b"\x01g\x03a/b\x00"),
        encode_frame(FrameType.OPEN, 2, b"\x01\xff\x03a/b"),
        encode_frame(FrameType.OPEN, 2, b"\x01\n\x03a/b"),
        encode_head(1, 200, "a/b"),
        encode_frame(FrameType.HEAD, 1, b"\x00"),
        encode_frame(FrameType.DATA, 1),
        encode_frame(FrameType.DATA, 2, b"x"),
        encode_frame(FrameType.DATA, 0, b"x"),
        encode_frame(FrameType.END, 1, b"x"),
        encode_frame(FrameType.END, 1) * 2,
        encode_frame(FrameType.END, 1) + encode_frame(FrameType.DATA, 1, b"x"),
        encode_frame(FrameType.RESET, 1, b"\x01"),
        encode_frame(FrameType.RESET, 9, b"\x00\x01"),
        encode_frame(FrameType.WINDOW, 1, bytes(4)),
        encode_frame(FrameType.WINDOW, 1, b"\x01"),
        encode_window(1, 1),
        encode_window(1, 0xFFFF_FFFF),
    ],
)
def test_violations_end_the_connection(frame: bytes) -> None:
    """Frames that are malformed or that a state forbids are refused, and all after them."""
    ends = Ends()
    assert ends.opened() == 1
    with pytest.raises(MessageError):
        ends.server.receive_data(frame)
    with pytest.raises(UsageError):
        ends.server.receive_data(b"")


def test_oversize_frames_are_refused_by_their_length() -> None:
    """A frame over the limit is refused when its header comes."""
    ends = Ends()
    stream = ends.opened()
    header = (FrameType.DATA << 24 | MAX_PAYLOAD + 1).to_bytes(4, "big")
    with pytest.raises(LimitError):
        ends.server.receive_data(header + stream.to_bytes(4, "big"))


def test_servers_do_not_open_and_clients_have_no_head() -> None:
    """Each role sends what is its own, and hears a violation otherwise."""
    ends = Ends()
    stream = ends.opened()
    with pytest.raises(UsageError):
        ends.server.open("g", "a/b")
    with pytest.raises(UsageError):
        ends.client.send_head(stream, 200, "a/b")
    with pytest.raises(UsageError):
        ends.server.send(stream, b"before the head")
    with pytest.raises(MessageError):
        ends.client.receive_data(encode_open(2, "g", "a/b"))
    fresh = Ends()
    stream = fresh.opened()
    with pytest.raises(MessageError):
        fresh.client.receive_data(encode_frame(FrameType.DATA, stream, b"before the head"))


def spliced(limit: int = 1 << 30) -> tuple[Ends, Ends, int, Meter, list[None]]:
    """Two connections, the second of which carries on what comes on a stream of the first."""
    first, second = Ends(), Ends()
    second.opened()  # so that the two streams have different ids
    stream, onward = first.opened(), second.opened()
    meter, woken = Meter(limit), list[None]()
    splice = Splice(second.client, onward, meter, lambda: woken.append(None))
    first.server.splice(stream, splice)
    return first, second, stream, meter, woken


def test_spliced_data_pass_on_without_events() -> None:
    """Frames come out of the other connection, which is woken once until it is read."""
    first, second, stream, meter, woken = spliced()
    for part in (b"one", b"two"):
        first.client.send(stream, part)
        assert first.to_server() == []
    assert len(woken) == 1
    assert [event[1] for event in second.to_server()] == [b"one", b"two"]  # type: ignore[index]
    assert meter.passed == 6
    first.client.send(stream, b"three", end=True)
    assert first.to_server() == [StreamEnded(stream)]
    assert len(woken) == 2


def test_spliced_data_give_credit_as_they_pass() -> None:
    """The sender can go on for ever as long as the receiver consumes."""
    first, second, stream, meter, _ = spliced()
    for _ in range(20):
        first.client.send(stream, bytes(first.client.writable(stream) // 2))
        assert first.to_server() == []
        for event in second.to_server():
            second.server.consumed(event.stream_id, len(joined([event])))
        first.to_client()
        second.to_client()
    assert meter.passed > 5 * INITIAL_WINDOW


@pytest.mark.parametrize("why", ["credit", "limit", "ended", "reset", "peer reset"])
def test_what_cannot_pass_comes_as_events_and_nothing_overtakes_it(why: str) -> None:
    """From the first frame that does not fit on, however small those behind it are."""
    first, second, stream, meter, _ = spliced(limit=10 if why == "limit" else 1 << 30)
    onward = 2
    match why:
        case "credit":
            second.client.send(onward, bytes(INITIAL_WINDOW - 10))
        case "ended":
            second.client.send(onward, b"", end=True)
        case "reset":
            second.client.reset(onward)
        case "peer reset":
            second.to_server()
            second.server.reset(onward)
            second.to_client()
    before = second.client.queued_bytes
    parts = [b"x" * 11, b"y"]
    for part in parts:
        first.client.send(stream, part)
    assert first.to_server() == [DataReceived(stream, part) for part in parts]
    assert second.client.queued_bytes == before
    assert meter.passed == 0
    first.server.consumed(stream, 12)
    with pytest.raises(UsageError):
        first.server.consumed(stream, 1)


@pytest.mark.parametrize("text", ["", "x" * 256, "ä", "a\n", "a\0"])
def test_text_that_a_frame_cannot_carry(text: str) -> None:
    """Targets and types are visible ASCII, and a refused one uses up nothing."""
    ends = Ends()
    for target, content_type in ((text, "a/b"), ("g", text)):
        with pytest.raises(UsageError):
            ends.client.open(target, content_type)
    stream = ends.opened()
    for status, content_type in ((200, text), (103, "a/b"), (600, "a/b")):
        with pytest.raises(UsageError):
            ends.server.send_head(stream, status, content_type)
    ends.server.send_head(stream, 200, "a/b")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise_never_escapes_the_error_tree(data: bytes) -> None:
    """Random bytes are frames or raise this package's errors."""
    ends = Ends()
    ends.opened()
    try:
        ends.server.receive_data(data)
    except TransportError:
        with pytest.raises(UsageError):
            ends.server.receive_data(b"")


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_many_streams_in_random_order(seed: int) -> None:
    """Streams that are sent, cut and consumed in random order each arrive as they were sent."""
    draw = random.Random(seed)
    ends = Ends()
    streams = [ends.opened() for _ in range(4)]
    sent = dict.fromkeys(streams, b"")
    got = dict.fromkeys(streams, b"")
    for _ in range(60):
        stream = draw.choice(streams)
        piece = draw.randbytes(min(draw.randrange(60_000), ends.client.writable(stream)))
        ends.client.send(stream, piece)
        sent[stream] += piece
        data = ends.client.data_to_send()
        cut = draw.randrange(len(data) + 1)
        for part in (data[:cut], data[cut:]):
            for event in ends.server.receive_data(part):
                assert isinstance(event, DataReceived)
                got[event.stream_id] += event.data
                ends.server.consumed(event.stream_id, len(event.data))
        ends.to_client()
    assert got == sent
