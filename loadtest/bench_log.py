"""The bench of the log: leaves at a steady rate through the real log process and a real Valkey.

The log runs on one core of its own; Valkey and the hand that feeds it share the others. A leaf's
time is from its addition to the stream to the announcement that its proofs are there.
"""

from __future__ import annotations

import asyncio
import bisect
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from loadtest.bench_relay import child
from loadtest.reports import nearest_rank
from loadtest.rounds import Comparison, Effort, progress
from runtime.errors import SottoError
from runtime.streams import LEAVES_STREAM, SETTLED_STREAM, receipt_key
from runtime.valkey import EmbeddedValkey

_RATE: Final = 2000
_TICK_S: Final = 0.01
_BACKLOG_S: Final = 5
_TARGET_P50_MS: Final = 600.0
_TARGET_P99_MS: Final = 2000.0
_START_S: Final = 120.0
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Settled:
    """One measurement.

    Attributes:
        waits: Of each leaf, from its addition to its announcement, in rising order, seconds.
        rate: Leaves settled each second: those after the first batch, by the time from the first
            announcement to the last.
        wall_s: From the first addition to the last announcement.
        cpu_s: The log's CPU time meanwhile.
        proof_bytes: Length of the last leaf's tlog-proof.
        cose_bytes: Length of its COSE receipt.
    """

    waits: tuple[float, ...]
    rate: float
    wall_s: float
    cpu_s: float
    proof_bytes: int
    cose_bytes: int

    def percentile_ms(self, percent: int) -> float:
        """Nearest rank, in milliseconds."""
        return nearest_rank(self.waits, percent) * 1e3


@dataclass(frozen=True, slots=True)
class _Log:
    """The log's process, and Redis as the enclave and the edge see it."""

    pid: int
    enclave: Redis
    edge: Redis


async def log(effort: Effort) -> AsyncIterator[Comparison]:
    """Rate, latency and CPU time at 2,000 leaves/s, the most there is, and sizes of proofs."""
    seconds = 10 if effort.streams[-1] >= 64 else 4
    with tempfile.TemporaryDirectory(prefix="sotto-bench-") as folder:
        async with _running(Path(folder)) as running:
            steady = []
            for number in range(effort.rounds + 1):  # round 0 warms up
                progress(f"the log: {_RATE} leaves/s for {seconds} s, round {number}")
                steady.append(await _measure(running, seconds * _RATE, _RATE))
            del steady[0]
            burst = []
            for number in range(3):
                progress(f"the log: a backlog of {_BACKLOG_S * _RATE} leaves, round {number}")
                burst.append(await _measure(running, _BACKLOG_S * _RATE, None))
    at = f"at {_RATE}/s"
    yield _against_target(f"leaves settled {at}", "leaves/s", [o.rate for o in steady], _RATE)
    for percent, target in ((50, _TARGET_P50_MS), (99, _TARGET_P99_MS)):
        values = [one.percentile_ms(percent) for one in steady]
        yield _against_target(f"settled p{percent} {at}", "ms", values, target)
    cores = [one.cpu_s / one.wall_s for one in steady]
    yield _against_target(f"the log's CPU {at}", "cores", cores, 1.0)
    yield _against_target("a backlog", "leaves/s", [one.rate for one in burst], _RATE)
    sizes = tuple((float(o.proof_bytes), float(o.cose_bytes)) for o in steady)
    yield Comparison("a tlog-proof", "COSE receipt", "bytes", sizes)


def _against_target(name: str, unit: str, values: list[float], target: float) -> Comparison:
    return Comparison(name, "target", unit, tuple((value, target) for value in values))


async def _measure(running: _Log, count: int, rate: int | None) -> Settled:
    """Add leaves, at a rate or all at once, and hear of each that it is settled."""
    names = [secrets.token_hex(16) for _ in range(count)]
    added: dict[bytes, float] = {}
    last: Any = await running.edge.xrevrange(SETTLED_STREAM, count=1)
    hearing = asyncio.create_task(_hear(running.edge, last[0][0] if last else b"0", set(names)))
    cpu, began = _cpu_seconds(running.pid), time.perf_counter()
    await _add(running.enclave, names, added, rate)
    async with asyncio.timeout(_PATIENCE_S):
        heard = await hearing
    wall_s, cpu_s = time.perf_counter() - began, _cpu_seconds(running.pid) - cpu
    proof, cose = await running.edge.hmget(receipt_key(names[-1]), ["proof", "cose"])
    if proof is None or cose is None:
        raise SottoError("the log announced a leaf that has no proof: a defect to be reported")
    waits = sorted(at - added[name] for name, at in heard.items())
    times = sorted(heard.values())
    first = bisect.bisect_right(times, times[0] + _TICK_S)
    rate_found = (count - first) / (times[-1] - times[first - 1])
    return Settled(tuple(waits), rate_found, wall_s, cpu_s, len(proof), len(cose))


async def _add(redis: Redis, names: list[str], added: dict[bytes, float], rate: int | None) -> None:
    began = time.perf_counter()
    step = round(rate * _TICK_S) if rate else 500
    for number, start in enumerate(range(0, len(names), step)):
        if rate:
            await asyncio.sleep(began + number * _TICK_S - time.perf_counter())
        pipeline = redis.pipeline(transaction=False)
        at = time.perf_counter()
        for name in names[start : start + step]:
            added[name.encode()] = at
            pipeline.xadd(LEAVES_STREAM, {"id": name, "entry": secrets.token_bytes(32)})
        await pipeline.execute()


async def _hear(redis: Redis, after: bytes, names: set[str]) -> dict[bytes, float]:
    """When each of `names` was announced."""
    wanted = {name.encode() for name in names}
    heard: dict[bytes, float] = {}
    while len(heard) < len(wanted):
        streams: Any = await redis.xread({SETTLED_STREAM: after}, count=1000, block=1000)
        at = time.perf_counter()
        for _, messages in streams:
            for _, fields in messages:
                if fields[b"id"] in wanted:
                    heard.setdefault(fields[b"id"], at)
            after = messages[-1][0]
    return heard


@asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[_Log]:
    """Valkey, and the log as the command runs it, on a core of its own."""
    with _valkey(folder) as valkey:
        address = folder / "redis-url"
        address.touch(mode=0o600)
        address.write_text(valkey.url("log"), encoding="utf-8")
        options = ("--data", str(folder), "--redis-url-file", str(address))
        ports = ("--port", "0", "--metrics-port", "0", "--json", "--lifeline")
        async with child("-m", "runtime", "log", *options, *ports) as (pid, _):
            with _apart(pid):
                clients = [
                    Redis.from_url(valkey.url(role), protocol=2) for role in ("enclave", "edge")
                ]
                try:
                    yield _Log(pid, *clients)
                finally:
                    for client in clients:
                        await client.aclose()


@contextmanager
def _valkey(folder: Path) -> Iterator[EmbeddedValkey]:
    valkey = EmbeddedValkey(folder / "valkey")
    process = subprocess.Popen(valkey.command(), stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _START_S
        while not valkey.ready():
            if process.poll() is not None or time.monotonic() > end:
                raise SottoError("the bench's Valkey did not start; nothing to measure with")
            time.sleep(0.05)
        yield valkey
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _apart(pid: int) -> Iterator[None]:
    """The log on the last core, everything else that this process starts or is on the others."""
    if sys.platform != "linux" or len(cores := os.sched_getaffinity(0)) < 2:
        yield
        return
    last = max(cores)
    os.sched_setaffinity(pid, {last})
    os.sched_setaffinity(0, cores - {last})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process so far; on Linux alone, as in `loadtest.bench_path`."""
    return time.clock_gettime(~pid << 3 | 2) if sys.platform == "linux" else 0.0
