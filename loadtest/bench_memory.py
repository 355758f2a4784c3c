"""The bench of memory: its size, how long a thread takes to open, and what it adds to a turn.

Threads are made from a seed and written through the real store into a real Valkey, whose
append-only file is synced at every write, as in the product.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from loadtest.bench_memory_turn import first_tokens
from loadtest.memory_size import TURNS, Taken, grow, real_valkey, sealed_sizes
from loadtest.reports import nearest_rank
from loadtest.rounds import Comparison, Effort, progress
from loadtest.threads import Writer, Written
from memory.store import ThreadStore

LENGTHS = (100, 1_000, 10_000)
_OPENINGS = 50  # of each thread in a round


async def memory(effort: Effort) -> AsyncIterator[Comparison]:
    """Size of a turn and of many threads, opening of long ones."""
    many = 4000 if effort.streams[-1] >= 64 else 800
    for comparison in sizes(await grow(many)):
        yield comparison
    async with real_valkey() as client:
        store = ThreadStore(client)
        writer = Writer(store)
        progress("memory: writing long threads")
        threads = [await writer.write(f"long {length}", length) for length in LENGTHS]
        for comparison in await openings(store, threads, effort):
            yield comparison
        for comparison in await first_tokens(client, writer, (TURNS, *LENGTHS[:2]), effort):
            yield comparison


async def openings(
    store: ThreadStore, threads: Sequence[Written], effort: Effort
) -> list[Comparison]:
    """Opening each thread for a turn, by turns: cold from its stored state, warm from a view.

    The first thread is what the others are measured against.
    """

    async def cold(one: Written) -> None:
        await store.open(one.keys, expected=one.position)

    async def warm(one: Written) -> None:
        await store.open(one.keys, expected=one.position, cached=one.view)

    found = []
    for name, opening in (("cold", cold), ("warm", warm)):
        waits: list[list[list[float]]] = []
        for number in range(effort.rounds + 1):
            progress(f"memory: opening threads {name}, round {number}")
            waits.append(await _by_turns(opening, threads))
        del waits[0]  # round 0 warms up
        for percent in (50, 99):
            short, *longer = (
                _percentiles([one[at] for one in waits], percent) for at in range(len(threads))
            )
            found += [
                Comparison(
                    f"opening {name} p{percent}, {one.view.count} turns",
                    f"{threads[0].view.count} turns",
                    "ms",
                    tuple(zip(mine, short, strict=True)),
                )
                for one, mine in zip(threads[1:], longer, strict=True)
            ]
    return found


async def _by_turns(
    opening: Callable[[Written], Awaitable[None]], threads: Sequence[Written]
) -> list[list[float]]:
    """Milliseconds of some openings of each thread, one of each after the other."""
    waits: list[list[float]] = [[] for _ in threads]
    for _ in range(_OPENINGS):
        for at, one in enumerate(threads):
            began = time.perf_counter()
            await opening(one)
            waits[at].append((time.perf_counter() - began) * 1e3)
    return waits


def _percentiles(rounds: Sequence[Sequence[float]], percent: int) -> list[float]:
    return [nearest_rank(sorted(one), percent) for one in rounds]


def sizes(steps: Sequence[Taken]) -> list[Comparison]:
    """Bytes beside what was said, and whether Redis takes as much for each thread of many."""
    sealed = sealed_sizes()
    first, last = steps[0], steps[-1]
    return [
        Comparison(
            f"{name}, sealed", "what was said", "bytes", ((getattr(sealed, field), sealed.said),)
        )
        for name, field in (("a turn", "turn"), ("its notes", "notes"))
    ] + [
        Comparison(
            f"{name} of a thread, at {last.threads}",
            f"at {first.threads}",
            "KiB",
            ((value(last) / last.threads / 1024, value(first) / first.threads / 1024),),
        )
        for name, value in _ROOM
    ]


_ROOM: tuple[tuple[str, Callable[[Taken], int]], ...] = (
    ("Redis memory", lambda one: one.memory),
    ("append-only file", lambda one: one.file),
)
