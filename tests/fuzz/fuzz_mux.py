"""The multiplexed connection: frames re-encode, and any cut means the same to either role."""

from __future__ import annotations

from collections.abc import Iterable

from fuzz_support import Target, held, pieces

from transport.errors import TransportError
from transport.mux import DataReceived, Event, MuxConnection, Role, StreamOpened
from transport.mux_frames import (
    MAX_PAYLOAD,
    Frame,
    FrameParser,
    FrameType,
    decode_head,
    decode_open,
    decode_reset,
    decode_window,
    encode_frame,
    encode_head,
    encode_open,
    encode_reset,
    encode_window,
)

MAX_STREAMS = 4
_HEADER = 8


def _parse(cut: list[bytes]) -> list[Frame] | type[TransportError]:
    parser = FrameParser()
    frames: list[Frame] = []
    try:
        for piece in cut:
            frames += parser.feed(piece)
            assert held(parser) < MAX_PAYLOAD + _HEADER
    except TransportError as error:
        return type(error)
    return frames


def _re_encode(frame: Frame) -> bytes:
    """The frame made again from what its payload means."""
    kind, stream_id, payload = frame
    match kind:
        case FrameType.OPEN:
            return encode_open(stream_id, *decode_open(payload))
        case FrameType.HEAD:
            return encode_head(stream_id, *decode_head(payload))
        case FrameType.RESET:
            return encode_reset(stream_id, decode_reset(payload))
        case FrameType.WINDOW:
            return encode_window(stream_id, decode_window(payload))
        case _:
            return encode_frame(*frame)


def _frames(data: bytes) -> None:
    frames = _parse([data])
    assert frames == _parse(pieces(data))
    if isinstance(frames, type):
        return
    assert data.startswith(b"".join(encode_frame(*frame) for frame in frames))
    for frame in frames:
        try:
            assert _re_encode(frame) == encode_frame(*frame)
        except TransportError:
            continue


def _connection(role: Role) -> MuxConnection:
    connection = MuxConnection(role, max_streams=MAX_STREAMS)
    if role is Role.CLIENT:
        for _ in range(3):
            connection.open("gateway", "message/ohttp-chunked-req")
    return connection


def _receive(role: Role, cut: list[bytes]) -> tuple[list[Event], bytes] | None:
    """Events and what is sent because of them, or None where the connection failed.

    Which error it fails with may depend on the cut: frames are parsed before they are acted on.
    """
    connection = _connection(role)
    events: list[Event] = []
    try:
        for piece in cut:
            events += connection.receive_data(piece)
            assert connection.open_streams <= MAX_STREAMS
    except TransportError:
        return None
    assert held(connection) < MAX_PAYLOAD + _HEADER + 256 + connection.queued_bytes
    return events, connection.data_to_send()


def _serve(role: Role, cut: list[bytes]) -> None:
    """A server that answers, or a client that reads: what it does is never its own mistake."""
    connection = _connection(role)
    try:
        for piece in cut:
            for event in connection.receive_data(piece):
                if isinstance(event, StreamOpened) and connection.writable(event.stream_id):
                    connection.send_head(event.stream_id, 200, "message/ohttp-chunked-res")
                    connection.send(event.stream_id, b"ab", end=event.stream_id % 2 == 0)
                elif isinstance(event, DataReceived):
                    connection.consumed(event.stream_id, len(event.data))
            sent = connection.data_to_send()
            assert not isinstance(_parse([sent]), type)
    except TransportError:
        return


def _server(data: bytes) -> None:
    assert _receive(Role.SERVER, [data]) == _receive(Role.SERVER, pieces(data))
    _serve(Role.SERVER, pieces(data))


def _client(data: bytes) -> None:
    assert _receive(Role.CLIENT, [data]) == _receive(Role.CLIENT, pieces(data))
    _serve(Role.CLIENT, pieces(data))


def _server_seeds() -> Iterable[bytes]:
    opened = [encode_open(number, "gateway", "message/ohttp-req") for number in range(1, 7)]
    data = encode_frame(FrameType.DATA, 1, b"abc")
    yield opened[0] + data + encode_frame(FrameType.END, 1)
    yield b"".join(opened) + data + encode_reset(2, 1) + encode_window(3, 1000) + data
    yield opened[0] + encode_frame(FrameType.END, 1) + data
    yield opened[1] + opened[0]


def _client_seeds() -> Iterable[bytes]:
    head = encode_head(1, 200, "message/ohttp-res")
    data = encode_frame(FrameType.DATA, 1, b"abc")
    yield head + data + data + encode_frame(FrameType.END, 1)
    yield encode_reset(2, 6) + encode_window(1, 1 << 20) + head + encode_head(3, 599, "a")
    yield data


TARGETS = {
    "mux-frames": Target(_frames, lambda: [*_server_seeds(), *_client_seeds()]),
    "mux-server": Target(_server, _server_seeds, runs=2000),
    "mux-client": Target(_client, _client_seeds, runs=2000),
}
