"""Figures: percentiles with known answers, and what a report says and leaves out."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.records import Engine, Run, Setup, Turn
from loadtest.reports import as_json, as_table, nearest_rank, quantiles, summarize

SETUP = Setup(
    edge="ws://127.0.0.1:8470/v1/realtime",
    clients=2,
    turns=2,
    arrival="closed",
    rate=None,
    duration_s=600.0,
    think_s=0.5,
    receipts_s=10.0,
    seed=7,
    personas=("wren",),
    dialogues="built in",
)
# Exact in binary, so that sums and differences below are too.
FIRST = Turn(
    client=0,
    turn=0,
    scheduled=0.0,
    sent=0.0,
    first_token=0.25,
    deltas=3,
    gaps=(0.125, 0.25),
    done=1.0,
    outcome="completed",
    receipt="settled",
    settled=1.5,
)
STALLED = dataclasses.replace(
    FIRST, client=1, scheduled=0.5, sent=2.5, first_token=3.0, gaps=(0.5,), deltas=2, done=4.0,
    settled=4.25,
)  # fmt: skip
FAILED = Turn(
    client=0,
    turn=1,
    scheduled=1.0,
    sent=1.0,
    first_token=1.25,
    deltas=2,
    gaps=(0.0625,),
    done=2.0,
    outcome="failed",
    error="engine_failed",
    receipt="received",
)
UNSENT = Turn(
    client=1,
    turn=1,
    scheduled=1.0,
    sent=None,
    first_token=None,
    deltas=0,
    gaps=(),
    done=3.0,
    outcome="failed",
    error="not_sent",
)
ENGINE = Engine("scripted", "script", "SCRIPTED: paced words for load tests, not a model.")


def run_of(*turns: Turn) -> Run:
    """A run of four seconds."""
    return Run(SETUP, turns, (ENGINE,), simulated=True, wall_s=4.0, cpu_s=1.0)


def test_percentiles_by_hand() -> None:
    """Nearest rank, from a table that can be checked in the head."""
    hundred = [float(n) for n in range(1, 101)]
    assert [nearest_rank(hundred, p) for p in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    # The example of nearest rank that textbooks give: five values.
    five = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert [nearest_rank(five, p) for p in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]
    ten = quantiles(range(10, 0, -1))
    assert (ten.n, ten.p50, ten.p90, ten.p99, ten.max) == (10, 5, 9, 10, 10)
    one = quantiles([2.0])
    assert (one.p50, one.p99, one.max) == (2.0, 2.0, 2.0)
    assert quantiles([]).p50 is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_a_value_that_happened(values: list[float], percent: int) -> None:
    """It is the smallest recorded value that at least p % of the values do not exceed."""
    value = nearest_rank(sorted(values), percent)
    assert value in values
    assert sum(one <= value for one in values) * 100 >= percent * len(values)
    assert sum(one < value for one in values) * 100 < percent * len(values)


def test_figures_of_known_records() -> None:
    """Each figure of three answers and failures, worked out by hand."""
    report = summarize(run_of(FIRST, STALLED, FAILED, UNSENT))
    assert (report.first_token.p50, report.first_token.max) == (0.25, 2.5)
    assert (report.inter_token.n, report.inter_token.p50, report.inter_token.max) == (3, 0.25, 0.5)
    assert (report.turn.p50, report.turn.max) == (1.0, 3.5)
    assert (report.receipt_delay.p50, report.receipt_delay.max) == (0.25, 0.5)
    assert (report.send_delay.n, report.send_delay.max) == (3, 2.0)
    assert (report.tokens_per_s, report.turns_per_s, report.ok) == (5 / 4, 2 / 4, 2)
    assert report.errors == {"engine_failed": 1, "not_sent": 1}
    assert report.receipts == {"settled": 2, "received": 1}
    assert report.settled_share == 2 / 3


def test_a_stall_counts_from_when_the_turn_was_due() -> None:
    """A turn that waited 2 s for its client and was then answered at once was not fast."""
    report = summarize(run_of(STALLED))
    assert report.first_token.p50 == STALLED.first_token - STALLED.scheduled == 2.5  # type: ignore[operator]
    assert report.send_delay.p50 == 2.0


def test_a_failed_turn_does_not_improve_the_figures() -> None:
    """Half an answer counts as an error, and neither as latency nor as tokens."""
    with_failure, without = summarize(run_of(FIRST, FAILED)), summarize(run_of(FIRST))
    for name in ("first_token", "inter_token", "turn", "tokens_per_s", "turns_per_s"):
        assert getattr(with_failure, name) == getattr(without, name)


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (run_of(FIRST, STALLED), 0),
        (run_of(FIRST, FAILED), 1),
        (run_of(FIRST, UNSENT), 1),
        (run_of(dataclasses.replace(FIRST, outcome="cancelled")), 1),
        (run_of(dataclasses.replace(FIRST, receipt="refused", settled=None)), 1),
        (run_of(dataclasses.replace(FIRST, receipt="received", settled=None)), 0),
        (run_of(), 1),
        (dataclasses.replace(run_of(FIRST), interrupted=True), 130),
    ],
)
def test_exit_codes(run: Run, code: int) -> None:
    """0 says that everybody was answered and no receipt was refused, and nothing less."""
    assert summarize(run).exit_code == code


def test_the_table_says_what_stands_behind_it() -> None:
    """Nobody can take a script for a model, simulated evidence for hardware, half for whole."""
    run = dataclasses.replace(run_of(FIRST, STALLED, FAILED), interrupted=True, unfinished=3)
    table = as_table(summarize(run))
    for words in (
        "SIMULATED",
        "SCRIPTED",
        "INTERRUPTED",
        "engine scripted · model script",
        "2 clients",
        "closed arrivals",
        "seed 7",
        "2 of 3 ok",
        "3 unfinished",
        "1 engine_failed",
        "66.7% settled · 1 received",
        "25% of one core",
    ):
        assert words in table
    row = next(line for line in table.splitlines() if line.startswith("first token"))
    assert row.split() == ["first", "token", "2", "250.0", "2500.0", "2500.0", "2500.0"]


def test_the_table_of_nothing() -> None:
    """A run in which nothing ended still prints, with dashes instead of zeros."""
    empty = Run(SETUP, (), (), simulated=False, wall_s=0.0, cpu_s=0.0, interrupted=True)
    table = as_table(summarize(empty))
    assert "–" in table
    assert "SIMULATED" not in table
    document = json.loads(json.dumps(as_json(summarize(empty)), allow_nan=False))
    assert document["seconds"]["first_token"]["p50"] is None
    assert document["settled_share"] is None


def test_json_says_the_same_and_more() -> None:
    """The document carries the setup, the figures in seconds and, where asked, each turn."""
    report = summarize(run_of(FIRST, STALLED, FAILED, UNSENT))
    document = json.loads(json.dumps(as_json(report, records=True), allow_nan=False))
    assert document["setup"]["seed"] == 7
    assert document["simulated"] is document["scripted"] is True
    assert document["seconds"]["first_token"] == {
        "n": 2, "p50": 0.25, "p90": 2.5, "p99": 2.5, "max": 2.5,
    }  # fmt: skip
    assert document["turns"] == {"ok": 2, "failed": 2, "unfinished": 0, "restarts": 0}
    assert [one["error"] for one in document["records"]] == [
        None, None, "engine_failed", "not_sent",
    ]  # fmt: skip
    assert document["records"][0]["gaps"] == [0.125, 0.25]
    assert "records" not in as_json(report)
