"""The bench of the whole sealed path: from devices through edge and relay to the enclave's engine.

What it is measured against is the same engine at the same pace, consumed in this process with
nothing in between: the least that any service around an engine can cost.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.arrivals import first_turns
from loadtest.client import Client
from loadtest.drivers import device_folder
from loadtest.reports import nearest_rank
from loadtest.rounds import Comparison, Effort, progress
from loadtest.scenarios import BUILT_IN
from personas.library import load_library
from proofs.policy import Policy
from runtime.config import EngineConfig
from runtime.enclave.engines.base import Message, Sampling
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.errors import SottoError
from runtime.up import HOST, Running, UpOptions, ports_of, up

# The scripted engine's own pace: 50 tokens/s to each reader.
_FIRST_TOKEN_S = 0.05
_TOKEN_S = 0.02
_ROLES = ("edge", "relay", "enclave")
_HERE = "devices"  # this process: it plays the devices, or consumes the bare engine
SETTLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement of some streams at once.

    Attributes:
        waits: From the start of each turn to its first text, seconds.
        tokens: Of all turns.
        wall_s: From the first moment at which a turn could start to the end of the last.
        cpu_s: CPU time by process; empty where the operating system does not tell.
    """

    waits: tuple[float, ...]
    tokens: int
    wall_s: float
    cpu_s: dict[str, float]


async def path(effort: Effort) -> AsyncIterator[Comparison]:
    """Time to first token, tokens/s and CPU time, for each number of streams."""
    progress("the sealed path: starting a system")
    pairs: dict[int, list[tuple[Measured, Measured]]] = {n: [] for n in effort.streams}
    with tempfile.TemporaryDirectory(prefix="sotto-bench-") as data:
        async with up(UpOptions(Path(data), free_ports(), pace(effort))) as system:
            for number in range(effort.rounds + 1):
                for streams, found in pairs.items():
                    progress(f"the sealed path: round {number}, {streams} streams")
                    sealed = await _sealed(system, streams, effort)
                    found.append((sealed, await _bare(streams, effort)))
    for streams, found in pairs.items():
        for comparison in compare(streams, found[1:]):  # round 0 warms up
            yield comparison


def compare(streams: int, pairs: list[tuple[Measured, Measured]]) -> list[Comparison]:
    """The figures of rounds (sealed path, bare engine)."""

    def figure(name: str, unit: str, rounds: Iterable[tuple[float, float]]) -> Comparison:
        return Comparison(f"{name}, at {streams}", "bare engine", unit, tuple(rounds))

    def p50(one: Measured) -> float:
        return nearest_rank(sorted(one.waits), 50) * 1e3

    def cpu(one: Measured, process: str) -> float:
        return one.cpu_s[process] / one.tokens * 1e6

    return [
        figure("first token p50", "ms", ((p50(a), p50(b)) for a, b in pairs)),
        figure("speed", "tokens/s", ((a.tokens / a.wall_s, b.tokens / b.wall_s) for a, b in pairs)),
        *(
            figure(
                f"CPU of {name}", "ms/1000 tok", ((cpu(a, name), cpu(b, _HERE)) for a, b in pairs)
            )
            for name in pairs[0][0].cpu_s
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Reply:
    """One turn, in seconds since the start of its measurement."""

    wait_s: float
    tokens: int
    done: float


def _measured(
    replies: Iterable[_Reply], before: dict[str, float], after: dict[str, float]
) -> Measured:
    found = list(replies)
    return Measured(
        waits=tuple(one.wait_s for one in found),
        tokens=sum(one.tokens for one in found),
        wall_s=max(one.done for one in found),
        cpu_s={name: after[name] - before[name] for name in before},
    )


def pace(effort: Effort) -> EngineConfig:
    """The scripted engine at the benches' pace."""
    return EngineConfig(
        kind="scripted", first_token_s=_FIRST_TOKEN_S, token_s=_TOKEN_S, tokens=effort.tokens
    )


@asynccontextmanager
async def devices(system: Running, streams: int) -> AsyncIterator[list[Client]]:
    """Devices whom nobody has met before, connected, their clock starting now."""
    policy = Policy.load(system.options.policy_file)
    persona = next(iter(load_library()))
    with device_folder(streams) as folder:
        clients = [
            Client(
                number,
                folder=folder / str(number),
                policy=policy,
                edge_url=system.options.edge_url,
                persona=persona,
                lines=BUILT_IN.lines(number, seed=0),
            )
            for number in range(streams)
        ]
        try:
            for client in clients:
                await client.connect()
            epoch = time.perf_counter()
            for client in clients:
                client.epoch = epoch
            yield clients
        finally:
            await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


async def _sealed(system: Running, streams: int, effort: Effort) -> Measured:
    """Devices with one stream each."""
    async with devices(system, streams) as clients:
        before = _cpu_seconds(system)
        each = [
            _converse(client, start, effort)
            for client, start in zip(clients, starts(streams, effort), strict=True)
        ]
        replies = [reply for said in await asyncio.gather(*each) for reply in said]
        return _measured(replies, before, _cpu_seconds(system))


async def _converse(client: Client, start: float, effort: Effort) -> list[_Reply]:
    """Turns one after the other, and then their receipts, which are part of the CPU time."""
    await client.sleep_until(start)
    said = [await client.say(client.now()) for _ in range(effort.turns)]
    replies = []
    for turn, receipt_id in said:
        if not turn.ok or turn.first_token is None or receipt_id is None:
            raise SottoError(f"a turn of the sealed path failed ({turn.error}); nothing compares")
        await client.settle(turn, receipt_id, SETTLE_S)
        replies.append(_Reply(turn.first_token - turn.scheduled, turn.deltas, turn.done))
    return replies


async def _bare(streams: int, effort: Effort) -> Measured:
    """The engine alone, read by as many readers that start at the same times."""
    engine = ScriptedEngine(first_token_s=_FIRST_TOKEN_S, token_s=_TOKEN_S, tokens=effort.tokens)
    before, epoch = _cpu_seconds(None), time.perf_counter()
    begins = starts(streams, effort)
    each = [_read(engine, f"{n}", epoch + start, epoch, effort) for n, start in enumerate(begins)]
    replies = [reply for read in await asyncio.gather(*each) for reply in read]
    return _measured(replies, before, _cpu_seconds(None))


async def _read(
    engine: ScriptedEngine, name: str, start: float, epoch: float, effort: Effort
) -> list[_Reply]:
    await asyncio.sleep(start - time.perf_counter())
    replies = []
    for turn in range(effort.turns):
        asked, first, tokens = time.perf_counter(), 0.0, 0
        prompt = [Message("user", "hello")]
        async for delta in engine.stream(f"{name} {turn}", prompt, Sampling(), cache_salt=""):
            if not tokens:
                first = time.perf_counter()
            tokens += delta.tokens
        replies.append(_Reply(first - asked, tokens, time.perf_counter() - epoch))
    return replies


def starts(streams: int, effort: Effort) -> tuple[float, ...]:
    """Spread over one reply: people do not begin in step."""
    reply_s = _FIRST_TOKEN_S + _TOKEN_S * (effort.tokens - 1)
    return first_turns(streams, reply_s, seed=0)


def _cpu_seconds(system: Running | None) -> dict[str, float]:
    """CPU time so far of this process and, on Linux alone, of the system's roles."""
    seconds = {_HERE: time.process_time()}
    if system is not None and sys.platform == "linux":
        for child in system.supervisor.children:
            if child.name in _ROLES and child.pid is not None:
                # What clock_getcpuclockid(3) gives for a process id; /proc has whole ticks only.
                seconds[child.name] = time.clock_gettime(~child.pid << 3 | 2)
    return seconds


def free_ports() -> int:
    """A port with the others that a system takes, all free a moment ago."""
    while True:
        port = random.randrange(30_000, 31_700)
        try:
            for one in ports_of(port):
                with socket.socket() as probe:
                    probe.bind((HOST, one))
        except OSError:
            continue
        return port
