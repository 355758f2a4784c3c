"""The bench of what receipts cost the reader of an answer: the same system with and without them.

Both systems run side by side and take turns; the one without has an enclave whose outbox drops
every receipt before it is built, so that neither enclave, Redis, log, edge nor device has work.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench_path import SETTLE_S, devices, free_ports, pace, starts
from loadtest.client import Client
from loadtest.records import Turn
from loadtest.reports import nearest_rank
from loadtest.rounds import Comparison, Effort, progress
from memory.keys import ThreadKeys
from runtime.config import EnclaveConfig, load_config
from runtime.enclave.outbox import Outbox, ReceiptJob
from runtime.enclave.server import serve
from runtime.errors import SottoError
from runtime.roles import run_until_stopped
from runtime.telemetry import setup_logging
from runtime.up import Running, UpOptions, up

_MODULE = "loadtest.bench_receipts"


class NoReceipts(Outbox):
    """An outbox that takes receipts and forgets them unbuilt."""

    def put(self, job: ReceiptJob) -> None:
        """Drop it."""

    async def digest(self, keys: ThreadKeys, receipt_id: bytes) -> bytes | None:
        """None: there is no receipt that a next one could name."""
        return None


@dataclass(frozen=True, slots=True)
class _Waits:
    """What a reader notices, in milliseconds."""

    first_token: float
    gap_p50: float
    gap_p99: float


async def receipts(effort: Effort) -> AsyncIterator[Comparison]:
    """Time to first token and between tokens, with receipts over without."""
    progress("receipts on and off: starting two systems")
    pairs: dict[int, list[tuple[_Waits, _Waits]]] = {n: [] for n in effort.streams}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sotto-bench-")))
        systems = [
            await stack.enter_async_context(
                up(UpOptions(folder / name, free_ports(), pace(effort), enclave_module=module))
            )
            for name, module in (("with", "runtime"), ("without", _MODULE))
        ]
        for number in range(effort.rounds + 1):
            for streams, found in pairs.items():
                progress(f"receipts on and off: round {number}, {streams} streams")
                on, off = [
                    await _measure(system, streams, effort, settle=settle)
                    for system, settle in zip(systems, (True, False), strict=True)
                ]
                found.append((on, off))
    for streams, found in pairs.items():
        for comparison in _compare(streams, found[1:]):  # round 0 warms up
            yield comparison


def _compare(streams: int, pairs: list[tuple[_Waits, _Waits]]) -> list[Comparison]:
    figures: dict[str, Callable[[_Waits], float]] = {
        "first token p50": lambda one: one.first_token,
        "between tokens p50": lambda one: one.gap_p50,
        "between tokens p99": lambda one: one.gap_p99,
    }
    return [
        Comparison(
            f"{name}, at {streams}",
            "no receipts",
            "ms",
            tuple((figure(on), figure(off)) for on, off in pairs),
        )
        for name, figure in figures.items()
    ]


async def _measure(system: Running, streams: int, effort: Effort, *, settle: bool) -> _Waits:
    async with devices(system, streams) as clients:
        each = [
            _converse(client, start, effort, settle=settle)
            for client, start in zip(clients, starts(streams, effort), strict=True)
        ]
        turns = [turn for said in await asyncio.gather(*each) for turn in said]
    waits = sorted(turn.first_token - turn.scheduled for turn in turns if turn.first_token)
    gaps = sorted(gap for turn in turns for gap in turn.gaps)
    return _Waits(
        nearest_rank(waits, 50) * 1e3, nearest_rank(gaps, 50) * 1e3, nearest_rank(gaps, 99) * 1e3
    )


async def _converse(client: Client, start: float, effort: Effort, *, settle: bool) -> list[Turn]:
    """Turns one after the other; receipts of the earlier settle while the later stream."""
    await client.sleep_until(start)
    said = [await client.say(client.now()) for _ in range(effort.turns)]
    for turn, receipt_id in said:
        if not turn.ok or receipt_id is None:
            raise SottoError(f"a turn of the bench failed ({turn.error}); nothing compares")
        if settle and (await client.settle(turn, receipt_id, SETTLE_S)).receipt != "settled":
            raise SottoError("a receipt of the bench did not settle; nothing compares")
    return [turn for turn, _ in said]


def _main() -> None:
    """The enclave without receipts, started as `sotto enclave --config FILE --lifeline` is."""
    config = load_config(EnclaveConfig, Path(sys.argv[sys.argv.index("--config") + 1]))
    setup_logging("enclave")
    run_until_stopped(lambda stop: serve(config, stop, outbox=NoReceipts), lifeline=True)


if __name__ == "__main__":
    _main()
