"""The benches' arithmetic and the shape of their report; never how fast anything is."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.bench import FULL, QUICK, as_json, as_table, main
from loadtest.bench_functions import seal, verify
from loadtest.bench_path import Measured, compare, path
from loadtest.bench_relay import relay
from loadtest.rounds import Comparison, Effort, Spread, side_by_side

TINY = Effort(rounds=5, slice_s=0.0, streams=(1, 2), turns=2, tokens=3)
MACHINE = {"cores": 2, "load_before": 0.5, "python": "3.11.7", "system": "Linux x86_64"}
ROUNDS = ((3.0, 1.0), (8.0, 2.0), (5.0, 5.0), (30.0, 3.0), (12.0, 2.0))
HAND_MADE = Comparison("one thing", "another thing", "ms", ROUNDS)


def test_a_ratio_is_of_each_round_and_not_of_medians() -> None:
    """Each round's ratio is taken before the median, so that a slow minute cancels out."""
    assert HAND_MADE.ratio == Spread(median=4.0, low=1.0, high=10.0)
    assert HAND_MADE.added == Spread(median=6.0, low=0.0, high=27.0)
    assert HAND_MADE.ours == Spread(median=8.0, low=3.0, high=30.0)
    assert HAND_MADE.other == Spread(median=2.0, low=1.0, high=5.0)


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    """Everything three times as slow from the third round on: times move, the ratio does not."""
    rounds = tuple((10.0 * slow, 4.0 * slow) for slow in (1, 1, 3, 3, 3))
    assert replace(HAND_MADE, rounds=rounds).ratio == Spread(2.5, 2.5, 2.5)


def test_functions_take_turns() -> None:
    """A B A B …, as many rounds as asked for, with nothing of one kind twice in a row."""
    calls: list[str] = []

    def ours() -> None:
        calls.append("A")

    def other() -> None:
        calls.append("B")

    found = side_by_side("x", "y", ours, other, TINY)
    assert len(found.rounds) == TINY.rounds
    # One call each is a round here; what comes before is the warm-up.
    assert calls[-2 * TINY.rounds :] == ["A", "B"] * TINY.rounds


def measured(waits: tuple[float, ...], tokens: int, wall_s: float, **cpu: float) -> Measured:
    """One measurement of the path."""
    return Measured(waits, tokens, wall_s, cpu)


def test_figures_of_the_path() -> None:
    """Milliseconds to the first token, tokens/s, and CPU time per thousand tokens."""
    pairs = [
        (
            measured((0.07, 0.06, 0.09, 0.2), 100, 4.0, devices=0.02, edge=0.03),
            measured((0.05, 0.04, 0.051, 0.052), 100, 2.0, devices=0.01),
        )
    ] * 5
    first, speed, devices, edge = compare(16, pairs)
    assert [one.name for one in (first, speed, devices, edge)] == [
        "first token p50, at 16",
        "speed, at 16",
        "CPU of devices, at 16",
        "CPU of edge, at 16",
    ]
    assert first.rounds[0] == pytest.approx((70.0, 50.0))
    assert first.added.median == pytest.approx(20.0)
    assert speed.rounds[0] == pytest.approx((25.0, 50.0))
    assert speed.ratio.median == pytest.approx(0.5)
    assert devices.rounds[0] == pytest.approx((200.0, 100.0))
    assert edge.rounds[0] == pytest.approx((300.0, 100.0))


def test_the_report_has_every_round_and_says_what_ran_beside() -> None:
    """JSON holds what the table is made of; the table names units, spread and machine."""
    found = {"seal": [HAND_MADE], "verify": [replace(HAND_MADE, name="two things")]}
    document = json.loads(json.dumps(as_json(found, QUICK, MACHINE), allow_nan=False))
    assert document["machine"] == MACHINE
    assert document["effort"]["rounds"] == 5
    (one,) = document["benches"]["seal"]
    assert one["rounds"] == [list(pair) for pair in ROUNDS]
    assert one["ratio"] == {"median": 4.0, "low": 1.0, "high": 10.0}
    head, *lines = as_table(found, QUICK, MACHINE).splitlines()
    assert "5 rounds" in head
    assert "2 cores, load 0.5" in head
    (line,) = [line for line in lines if "one thing" in line]
    assert line.split()[2:] == [
        *("another", "thing", "8", "2", "4.00", "1.00", "–", "10.00", "+6", "ms")
    ]


@pytest.mark.parametrize("effort", [FULL, QUICK])
def test_five_rounds_at_least(effort: Effort) -> None:
    """Fewer rounds would have no spread to speak of."""
    assert effort.rounds >= 5


@pytest.mark.parametrize(("bench", "count"), [(seal, 6), (verify, 3)])
def test_functions_are_measured(bench: object, count: int) -> None:
    """What is compared works: a proof that does not hold would end the bench."""
    found = list(bench(TINY))  # type: ignore[operator]
    assert len(found) == len({one.name for one in found}) == count
    for one in found:
        assert len(one.rounds) == TINY.rounds
        assert min(one.other.low, one.ours.low) > 0


@pytest.mark.integration
async def test_the_path_is_measured() -> None:
    """A real system and real devices: every figure of every number of streams, all positive."""
    async with asyncio.timeout(500):
        found = [one async for one in path(replace(TINY, rounds=1))]
    for streams in TINY.streams:
        names = [one.name for one in found if one.name.endswith(f", at {streams}")]
        assert names[:2] == [f"first token p50, at {streams}", f"speed, at {streams}"]
        assert f"CPU of devices, at {streams}" in names
    assert all(min(one.ours.low, one.other.low) > 0 for one in found)


@pytest.mark.integration
async def test_the_relay_is_measured() -> None:
    """Real processes: latency by link and by HTTP, CPU time and memory, all positive."""
    async with asyncio.timeout(500):
        found = [one async for one in relay(replace(TINY, rounds=1))]
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    for name in (
        "chunk p99, in step, at 2",
        "chunk p99, one stalls, at 2",
        "chunk p99, plain HTTP",
    ):
        assert [one for one in names if one.startswith(name)]
    if sys.platform == "linux":
        assert [one for one in names if one.startswith("CPU, in step")]
        assert names[-1].startswith("memory of a stream")
        assert all(min(one.ours.low, one.other.low) > 0 for one in found)


def test_it_prints_json_and_writes_the_same_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--only seal --quick --json --out FILE`: one document, twice; progress stays apart."""
    out = tmp_path / "bench.json"
    assert main(["--only", "seal", "--quick", "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document == json.loads(out.read_bytes())
    assert list(document["benches"]) == ["seal"]
    assert "seal and open" in printed.err


def test_a_report_that_cannot_be_written_is_said_before_minutes_are_spent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line and exit code 2."""
    assert main(["--only", "seal", "--quick", "--out", "/nowhere/bench.json"]) == 2
    error = capsys.readouterr().err
    assert "--out" in error
    assert "seal and open" not in error
