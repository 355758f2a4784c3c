"""Two things measured by turns, A B A B …, in one session, and the ratio between them.

A time alone says as much about the machine and its other work as about this project. Two times
taken one after the other, over and over, meet the same machine: their ratio is a claim that can
be checked elsewhere.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to do.

    Attributes:
        rounds: Pairs of measurements in each comparison, after a warm-up.
        slice_s: CPU time of one measurement of a function.
        streams: Replies at once, for each of which the path is measured.
        turns: Replies one after the other, of each stream in a round.
        tokens: Length of each reply.
    """

    rounds: int
    slice_s: float
    streams: tuple[int, ...]
    turns: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the rounds: their median, and the lowest and the highest; nothing is left out."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of one value or more."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing measured against another.

    Attributes:
        name: What is measured.
        against: What it is measured against.
        unit: Of all values.
        rounds: Pairs (ours, the other's), each taken one right after the other.
    """

    name: str
    against: str
    unit: str
    rounds: tuple[tuple[float, float], ...]

    @property
    def ours(self) -> Spread:
        """Of the thing itself."""
        return Spread.of([ours for ours, _ in self.rounds])

    @property
    def other(self) -> Spread:
        """Of what it is measured against."""
        return Spread.of([other for _, other in self.rounds])

    @property
    def ratio(self) -> Spread:
        """Ours over the other's, round by round, so that what slows both cancels out."""
        return Spread.of([ours / other for ours, other in self.rounds])

    @property
    def added(self) -> Spread:
        """Ours less the other's, round by round."""
        return Spread.of([ours - other for ours, other in self.rounds])


def side_by_side(
    name: str,
    against: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    effort: Effort,
) -> Comparison:
    """Measure two functions by turns, in CPU microseconds per call."""
    progress(name)
    calls = [max(1, round(effort.slice_s / cpu_per_call(work, 50))) for work in (ours, other)]
    rounds = [
        (cpu_per_call(ours, calls[0]) * 1e6, cpu_per_call(other, calls[1]) * 1e6)
        for _ in range(effort.rounds)
    ]
    return Comparison(name, against, "µs", tuple(rounds))


def progress(text: str) -> None:
    """For whoever waits."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def cpu_per_call(work: Callable[[], object], calls: int) -> float:
    """Of CPU time: what else runs on this machine counts for less than on a clock."""
    began = time.thread_time()
    for _ in range(calls):
        work()
    return (time.thread_time() - began) / calls
