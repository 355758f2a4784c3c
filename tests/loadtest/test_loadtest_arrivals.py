"""Arrival processes: their rate, their limits, and that a seed fixes them."""

from __future__ import annotations

import itertools
import statistics

from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import first_turns, poisson


def test_a_seed_fixes_the_times() -> None:
    """A run can be repeated turn by turn, and another seed is another run."""
    runs = [list(poisson(5.0, turns=50, duration_s=1e9, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert first_turns(9, 2.0, 1) == first_turns(9, 2.0, 1) != first_turns(9, 2.0, 2)


def test_poisson_gaps_are_exponential() -> None:
    """The mean gap is 1/rate, and as wide as its mean: turns come in clusters, as people do."""
    times = list(poisson(8.0, turns=40_000, duration_s=1e9, seed=3))
    gaps = [after - before for before, after in itertools.pairwise([0.0, *times])]
    assert abs(statistics.fmean(gaps) * 8.0 - 1.0) < 0.02
    assert abs(statistics.stdev(gaps) * 8.0 - 1.0) < 0.03
    # The distribution function at one mean: 1 - 1/e of the gaps are shorter.
    assert abs(sum(gap < 1 / 8.0 for gap in gaps) / len(gaps) - 0.632) < 0.01


@given(
    rate=st.floats(0.01, 1e4),
    turns=st.integers(0, 200),
    duration=st.floats(0.0, 100.0),
    seed=st.integers(),
)
def test_poisson_keeps_both_limits(rate: float, turns: int, duration: float, seed: int) -> None:
    """However fast turns come, there are no more than asked for and none after the end."""
    times = list(poisson(rate, turns=turns, duration_s=duration, seed=seed))
    assert len(times) <= turns
    assert times == sorted(times)
    assert all(0 < due < duration for due in times)
    if len(times) < turns:  # then it was the time that ended it: more time, more turns
        assert len(list(poisson(rate, turns=turns, duration_s=1e9, seed=seed))) > len(times)


def test_clients_do_not_march_in_step() -> None:
    """First turns are spread over one think time; without thinking all begin at once."""
    starts = first_turns(200, 4.0, 0)
    assert len(starts) == len(set(starts)) == 200
    assert all(0 <= start <= 4.0 for start in starts)
    assert abs(statistics.fmean(starts) - 2.0) < 0.3
    assert set(first_turns(5, 0.0, 0)) == {0.0}
