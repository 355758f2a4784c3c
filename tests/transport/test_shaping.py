"""Shaping: what a watcher sees of sizes and counts, and that no reader sees a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from transport.bhttp import ResponseEncoder
from transport.gateway import ChunkedRequestOpener
from transport.keyconfig import GatewayKey
from transport.ohttp import ChunkedRequestSealer
from transport.shaping import (
    BUCKETS,
    CHUNK_OVERHEAD,
    FRAME,
    MIN_FRAMES,
    MIN_PADDED,
    MIN_UNITS,
    UNIT,
    BucketPadder,
    FrameFiller,
    event_padding,
    padded_length,
    rung,
)
from transport.sse import EventDecoder, encode_event

KEY = GatewayKey.generate(1, bytes(range(32)))
EVENTS = st.lists(
    st.text(max_size=40).map(lambda text: encode_event({"delta": text}))
    | st.integers(0, 3 * BUCKETS[-1]).map(lambda size: encode_event("x" * size)),
    max_size=30,
)


def in_buckets(parts: Iterable[bytes]) -> list[bytes]:
    """One stream."""
    padder = BucketPadder()
    return [item for part in parts for item in padder.pad(part)] + list(padder.finish())


def in_frames(parts: Iterable[bytes]) -> list[bytes]:
    """One stream whose parts are all there before its first frame."""
    filler = FrameFiller()
    for part in parts:
        filler.add(part)
    frames = [filler.take()]
    while not filler.at_rung:
        frames.append(filler.take())
    return frames


SHAPES = (in_buckets, in_frames)


def sealed_sizes(items: list[bytes]) -> list[int]:
    """Bytes of each sealed chunk, its length prefix included, as they stand on the wire.

    The first is without the response's nonce and head, the last is the final chunk.
    """
    device, gateway = ChunkedRequestSealer(KEY.config), ChunkedRequestOpener({1: KEY})
    gateway.feed(device.seal(b"request", final=True))
    gateway.finish()
    sealer = gateway.response_sealer(bytes(gateway.nonce_length))
    encoder = ResponseEncoder(200, ((b"content-type", b"text/event-stream"),))
    head = encoder.start()
    sizes = [len(sealer.seal(head + encoder.content(items[0]))) - len(head) - gateway.nonce_length]
    sizes += [len(sealer.seal(encoder.content(item))) for item in items[1:]]
    return [*sizes, len(sealer.seal(encoder.finish(), final=True))]


@settings(deadline=None)
@given(EVENTS)
def test_sealed_chunks_have_sizes_of_the_list(parts: list[bytes]) -> None:
    """Whatever is said, each sealed chunk has a bucket's size and the total is on the ladder."""
    sizes = sealed_sizes(in_buckets(parts))
    final = sizes.pop()
    assert final == sealed_sizes([b"another"])[-1]
    assert set(sizes) <= {size + CHUNK_OVERHEAD for size in BUCKETS}
    units, rest = divmod(sum(sizes), UNIT)
    assert rest == 0
    assert units == rung(units) >= MIN_UNITS
    padder = BucketPadder()
    said = sum(len(item) + CHUNK_OVERHEAD for part in parts for item in padder.pad(part)) // UNIT
    assert units == max(MIN_UNITS, rung(said))


@settings(deadline=None)
@given(EVENTS)
def test_sealed_frames_have_one_size(parts: list[bytes]) -> None:
    """Whatever is said, each sealed frame has the same size, and their number is on the ladder."""
    *sizes, _final = sealed_sizes(in_frames(parts))
    assert set(sizes) == {FRAME + CHUNK_OVERHEAD}
    assert len(sizes) == rung(len(sizes)) >= MIN_FRAMES
    assert len(sizes) == max(MIN_FRAMES, rung(-(-sum(map(len, parts)) // FRAME)))


@pytest.mark.parametrize("shape", SHAPES)
def test_replies_on_one_rung_look_alike(shape: Callable[[Iterable[bytes]], list[bytes]]) -> None:
    """Two replies of the same number of tokens, or in frames of any number, give the same sizes."""
    short = [encode_event({"delta": text}) for text in ("I", " am", " a", " nurse", ".")]
    other = [encode_event({"delta": text}) for text in (" Extraordinarily", " 😀", "", " so", "!")]
    assert sealed_sizes(shape(short)) == sealed_sizes(shape(other))
    if shape is in_frames:
        assert sealed_sizes(shape(short * 100)) == sealed_sizes(shape(other))


@settings(deadline=None)
@given(EVENTS, st.sampled_from(SHAPES), st.data())
def test_readers_see_what_was_said(
    parts: list[bytes], shape: Callable[[Iterable[bytes]], list[bytes]], data: st.DataObject
) -> None:
    """Our decoder and the `openai` package's give the events of the unshaped stream, in any cut."""
    said = EventDecoder().feed(b"".join(parts))
    content = b"".join(shape(parts))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=20)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True) if a < b]
    decoder = EventDecoder()
    assert [event for piece in pieces for event in decoder.feed(piece)] == said
    decoder.finish()
    theirs = [event.data.encode() for event in SSEDecoder().iter_bytes(iter(pieces))]
    assert theirs == said


@pytest.mark.parametrize("shape", SHAPES)
def test_every_cut_is_read_alike(shape: Callable[[Iterable[bytes]], list[bytes]]) -> None:
    """Cut at each byte, within an event and within padding, both decoders give the same events."""
    parts = [encode_event({"delta": text}) for text in ("Ja\r\n", "\n\n: data", "é" * 700)]
    content = b"".join(shape(parts))[: 2 * FRAME]
    said = EventDecoder().feed(b"".join(parts))
    for cut in range(len(content) + 1):
        decoder = EventDecoder()
        assert decoder.feed(content[:cut]) + decoder.feed(content[cut:]) == said
        theirs = SSEDecoder().iter_bytes(iter((content[:cut], content[cut:])))
        assert [event.data.encode() for event in theirs] == said


def test_padding_of_every_length_is_no_event() -> None:
    """One byte and more, between two events and before the first; nothing where none is wanted."""
    event = encode_event({"delta": "a"})
    for size in range(300):
        padding = event_padding(size)
        assert len(padding) == size
        stream = padding + event + padding + event + padding
        assert EventDecoder().feed(stream) == EventDecoder().feed(event) * 2
        assert len(list(SSEDecoder().iter_bytes(iter((stream,))))) == 2


def test_the_last_event_waits_for_no_padding() -> None:
    """What is said is in the earliest frame that has room for it, and padding only follows."""
    last = encode_event({"type": "response.completed"})
    first, *others = in_frames([b"data: 1\n\n", last])
    assert first.startswith(b"data: 1\n\n" + last + b":")
    assert not any(EventDecoder().feed(frame) for frame in others)
    first, *others = in_buckets([last])
    assert first.startswith(last)
    assert not any(EventDecoder().feed(item) for item in others)


def test_what_is_longer_than_a_frame_goes_on_in_the_next() -> None:
    """An event of three frames is not padded before its end."""
    event = encode_event("x" * (2 * FRAME + 10))
    frames = in_frames([event])
    assert b"".join(frames).startswith(event)
    assert frames[0] + frames[1] == event[: 2 * FRAME]


@given(st.integers(0, 1 << 20))
def test_padded_lengths(size: int) -> None:
    """Never less than the size, at most twice it, and the same for all sizes up to it."""
    padded = padded_length(size)
    assert size <= padded
    assert padded == MIN_PADDED or padded < 2 * size
    assert padded_length(padded) == padded
    assert padded & (padded - 1) == 0


def test_few_lengths_up_to_the_limit_of_requests() -> None:
    """Eight lengths up to 128 KiB, which is one of them, so that no request grows over it."""
    limit = 128 * 1024
    assert len({padded_length(size) for size in range(0, limit + 1, 64)}) == 8
    assert padded_length(limit) == limit


def test_sealing_adds_the_same_to_every_size() -> None:
    """Content of 64 to 16365 bytes becomes one chunk with `CHUNK_OVERHEAD` more; no other does."""
    _, *sizes, _ = sealed_sizes([b"first", *map(bytes, (63, 64, *BUCKETS, FRAME, 16365, 16366))])
    assert sizes[0] == 63 + CHUNK_OVERHEAD - 1
    assert sizes[1:-1] == [size + CHUNK_OVERHEAD for size in (64, *BUCKETS, FRAME, 16365)]
    assert sizes[-1] > 16366 + CHUNK_OVERHEAD
