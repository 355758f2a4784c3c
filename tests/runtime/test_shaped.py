"""Shaping a reply as it is made: nothing waits that need not, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from runtime.enclave.shaped import FRAME_PERIOD_S, MAX_QUEUED_BYTES, shaped
from transport.shaping import BUCKETS, FRAME, MIN_FRAMES, Shaping
from transport.sse import EventDecoder, encode_event

PARTS = [encode_event({"delta": text}) for text in ("I", " am", " here", ".")]
LAST = encode_event({"type": "response.completed"})


class Source:
    """A reply that says when it was asked, and waits where it is told to."""

    def __init__(self, parts: list[bytes], *, then: Exception | None = None) -> None:
        self.asked = 0
        self.closed = False
        self.go_on = asyncio.Event()
        self._parts = parts
        self._then = then

    async def parts(self) -> AsyncIterator[bytes]:
        """The first part at once, the others when `go_on` is set."""
        try:
            for part in self._parts:
                self.asked += 1
                yield part
                await self.go_on.wait()
            if self._then is not None:
                raise self._then
        finally:
            self.closed = True


@contextlib.asynccontextmanager
async def shaping(source: Source, how: Shaping) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """The shaped reply, closed at the end."""
    async with contextlib.aclosing(shaped(source.parts(), how)) as items:
        yield items


def events(items: list[bytes]) -> list[bytes]:
    """What a reader makes of them."""
    decoder = EventDecoder()
    return [event for item in items for event in decoder.feed(item)]


@pytest.mark.parametrize("how", Shaping)
async def test_every_setting_gives_what_was_said(how: Shaping) -> None:
    """The events of the reply, in order, and of the sizes that the setting promises."""
    source = Source([*PARTS, LAST])
    source.go_on.set()
    async with shaping(source, how) as gen:
        items = [item async for item in gen]
    assert events(items) == events([*PARTS, LAST])
    match how:
        case Shaping.OFF:
            assert items == [*PARTS, LAST]
        case Shaping.BUCKET:
            assert {len(item) for item in items} <= set(BUCKETS)
        case Shaping.CADENCE:
            assert [len(item) for item in items] == [FRAME] * MIN_FRAMES
    assert source.closed


@pytest.mark.parametrize("how", [Shaping.OFF, Shaping.BUCKET])
async def test_the_first_token_never_waits(how: Shaping) -> None:
    """Each part goes out before there is another one."""
    source = Source(PARTS)
    async with shaping(source, how) as gen:
        assert events([await anext(gen)]) == events(PARTS[:1])
        assert source.asked == 1


async def test_a_cadence_runs_while_nothing_is_said() -> None:
    """Frames come from the first moment, on or after their tick, whether or not there is a word."""
    source = Source([b"", *PARTS])
    async with shaping(source, Shaping.CADENCE) as gen:
        start, frames = time.perf_counter(), []
        for number in range(5):
            frames.append(await anext(gen))
            # Never early; how late depends on the machine.
            assert time.perf_counter() - start >= number * FRAME_PERIOD_S
        assert [len(frame) for frame in frames] == [FRAME] * 5
        assert events(frames) == []
        source.go_on.set()
        assert events([await anext(gen), await anext(gen)]) == events(PARTS)


async def test_a_cadence_goes_on_after_the_last_word() -> None:
    """The final event is in an early frame; the frames after it are padding, up to the rung."""
    source = Source([*PARTS, LAST])
    source.go_on.set()
    async with shaping(source, Shaping.CADENCE) as gen:
        early = [await anext(gen), await anext(gen)]
        assert events(early)[-1:] == events([LAST])
        rest = [item async for item in gen]
    assert len(early) + len(rest) == MIN_FRAMES
    assert events(rest) == []


@pytest.mark.parametrize("how", Shaping)
async def test_closing_ends_everything(how: Shaping) -> None:
    """A reader that leaves early leaves no task, and the source is closed with it."""
    source = Source(PARTS)
    before = asyncio.all_tasks()
    gen = shaped(source.parts(), how)
    await anext(gen)
    await asyncio.sleep(0)  # a cadence has begun to read
    await gen.aclose()
    assert source.closed
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("how", Shaping)
async def test_a_cancelled_reader_ends_everything(how: Shaping) -> None:
    """Cancelling whoever waits for the next item ends source and tasks too."""
    source = Source(PARTS)
    before = asyncio.all_tasks()

    async def read() -> None:
        async with shaping(source, how) as gen:
            async for _ in gen:
                reading.set()

    reading = asyncio.Event()
    reader = asyncio.create_task(read())
    await reading.wait()
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert source.closed
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("how", Shaping)
async def test_what_the_source_raises_comes_out(how: Shaping) -> None:
    """After what it said before; nothing pads over a failure."""
    source = Source(PARTS, then=RuntimeError("broken"))
    source.go_on.set()
    items = []
    with pytest.raises(RuntimeError, match="broken"):
        async with shaping(source, how) as gen:
            async for item in gen:
                items.append(item)
    assert events(items) == events(PARTS)


async def test_a_slow_reader_bounds_the_queue() -> None:
    """A cadence asks its source for no more than its bound and one part, until frames are read."""
    part = encode_event("x" * 1000)
    source = Source([part] * 1000)
    source.go_on.set()
    async with shaping(source, Shaping.CADENCE) as gen:
        await anext(gen)
        for _ in range(2000):
            await asyncio.sleep(0)
        assert source.asked == -(-MAX_QUEUED_BYTES // len(part))
        asked = source.asked
        await anext(gen)
        await anext(gen)
        assert asked < source.asked <= asked + 3


async def test_a_reply_of_many_frames_ends_on_a_rung() -> None:
    """More than the shortest cadence holds: the next power of two, and nothing is lost."""
    parts = [encode_event("y" * (FRAME - 10)) for _ in range(MIN_FRAMES)]
    source = Source([*parts, LAST])
    source.go_on.set()
    async with shaping(source, Shaping.CADENCE) as gen:
        items = [item async for item in gen]
    assert events(items) == events([*parts, LAST])
    assert len(items) == 2 * MIN_FRAMES
