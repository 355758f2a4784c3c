"""Shaping applied to a reply as it is made: `transport.shaping` with a clock (docs/shaping.md)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

from transport.shaping import BucketPadder, FrameFiller, Shaping

FRAME_PERIOD_S = 0.05
MAX_QUEUED_BYTES = 64 * 1024


async def shaped(parts: AsyncIterator[bytes], shaping: Shaping) -> AsyncGenerator[bytes, None]:
    """The content of an event stream, in the pieces that are to be sealed one by one.

    Closing the generator closes `parts`, and no task is left behind. What `parts` raises comes
    out after what it gave before.

    Args:
        parts: Each one or more whole events, at the moment at which it exists.
        shaping: Off and bucket pass each part on at once. Cadence gives a frame every
            `FRAME_PERIOD_S` from the first moment, and holds at most `MAX_QUEUED_BYTES` and one
            part for a reader that is slower than that.
    """
    async with _closing(parts):
        match shaping:
            case Shaping.OFF:
                async for part in parts:
                    if part:
                        yield part
            case Shaping.BUCKET:
                padder = BucketPadder()
                async for part in parts:
                    for item in padder.pad(part):
                        yield item
                for item in padder.finish():
                    yield item
            case Shaping.CADENCE:
                async with contextlib.aclosing(_cadence(parts)) as frames:
                    async for frame in frames:
                        yield frame


@contextlib.asynccontextmanager
async def _closing(parts: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """End the source with its reader, where the source can be ended."""
    try:
        yield
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()


async def _cadence(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    filler, room = FrameFiller(), asyncio.Event()

    async def fill() -> None:
        async for part in parts:
            filler.add(part)
            while filler.queued >= MAX_QUEUED_BYTES:
                room.clear()
                await room.wait()

    source = asyncio.create_task(fill())
    try:
        # Not the loop's clock, which counts whole milliseconds under uvloop.
        start, tick = time.perf_counter(), 0
        while True:
            yield filler.take()
            room.set()
            # Frames keep to the grid of the first one. A reader that was slow gets no burst: the
            # ticks that passed are gone, whatever waited for them.
            tick = max(tick, int((time.perf_counter() - start) / FRAME_PERIOD_S)) + 1
            due = start + tick * FRAME_PERIOD_S
            while (pause := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - for the clock alone
                await asyncio.sleep(pause)
            if source.done() and not filler.queued:
                source.result()
                if filler.at_rung:
                    return
    finally:
        source.cancel()
        await asyncio.gather(source, return_exceptions=True)
