"""Replay protection: once within the window, never after it, and no guessing."""

from __future__ import annotations

import contextlib
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import ClockSkewError, LimitError, ReplayError, UsageError
from transport.replay import ReplayCache


def test_a_request_is_accepted_once() -> None:
    """The same encapsulated key is refused a second time, another is not."""
    cache = ReplayCache(60, 10)
    cache.check(b"a", 1000, 1000)
    with pytest.raises(ReplayError):
        cache.check(b"a", 1000, 1001)
    cache.check(b"b", 1000, 1001)


@pytest.mark.parametrize("offset", [-61, 61, -10_000_000_000, 10_000_000_000])
def test_dates_outside_the_window_are_refused(offset: int) -> None:
    """A date too far in the past or future is refused and not remembered."""
    cache = ReplayCache(60, 10)
    with pytest.raises(ClockSkewError):
        cache.check(b"a", 5000 + offset, 5000)
    cache.check(b"a", 5000, 5000)


def test_no_replay_at_any_time() -> None:
    """From acceptance on, a replay is refused at every second: as a replay or for its date."""
    for date in (940, 1000, 1060):
        cache = ReplayCache(60, 10)
        cache.check(b"a", date, 1000)
        for now in range(1000, 1300):
            with pytest.raises((ReplayError, ClockSkewError)):
                cache.check(b"a", date, now)


def test_requests_of_the_future_are_held_until_they_are_past() -> None:
    """A date ahead of the clock is remembered for two windows, not for one."""
    cache = ReplayCache(60, 10)
    cache.check(b"ahead", 1060, 1000)
    cache.check(b"now", 1000, 1000)
    for now in (1059, 1060, 1061, 1119, 1120):
        with pytest.raises(ReplayError):
            cache.check(b"ahead", 1060, now)
        assert len(cache) == (2 if now <= 1060 else 1)
    with pytest.raises(ClockSkewError):
        cache.check(b"ahead", 1060, 1121)
    assert len(cache) == 0


def test_a_clock_set_back_revives_nothing() -> None:
    """After memory expired, a clock that jumps back does not make old dates fresh."""
    cache = ReplayCache(60, 10)
    cache.check(b"a", 1000, 1000)
    cache.check(b"b", 2000, 2000)
    for now in range(900, 1100):
        with pytest.raises(ClockSkewError):
            cache.check(b"a", 1000, now)


def test_a_clock_that_ran_ahead_is_forgiven() -> None:
    """A jump far ahead and back revives nothing, and shuts nobody out for longer than a window."""
    cache = ReplayCache(60, 10)
    cache.check(b"a", 1000, 1000)
    cache.check(b"ahead", 1060, 1000)
    with pytest.raises(ClockSkewError):
        cache.check(b"b", 1001, 4_000_000_000)
    assert len(cache) == 0
    for now in range(1001, 1200):
        for enc, date in ((b"a", 1000), (b"ahead", 1060)):
            with pytest.raises(ClockSkewError):
                cache.check(enc, date, now)
        fresh = now.to_bytes(2, "big")
        if now <= 1060:
            with pytest.raises(ClockSkewError):
                cache.check(fresh, now, now)
        else:
            cache.check(fresh, now, now)
            break
    assert now == 1061


def test_a_clock_that_lags_forgets_nothing() -> None:
    """While the clock is behind, requests dated rightly are held until it has caught up."""
    cache = ReplayCache(60, 10)
    cache.check(b"a", 1000, 1000)
    cache.check(b"b", 1000, 950)
    for now in (950, 1000, 1060):
        for enc in (b"a", b"b"):
            with pytest.raises(ReplayError):
                cache.check(enc, 1000, now)


def test_a_full_cache_refuses_and_recovers() -> None:
    """At capacity nothing is forgotten; when dates leave the window there is room again."""
    cache = ReplayCache(60, 2)
    cache.check(b"a", 1000, 1000)
    cache.check(b"b", 1010, 1010)
    with pytest.raises(LimitError):
        cache.check(b"c", 1010, 1010)
    with pytest.raises(ReplayError):
        cache.check(b"a", 1000, 1010)
    cache.check(b"c", 1061, 1061)
    assert len(cache) == 2


@pytest.mark.parametrize("jumps", [False, True], ids=["steady", "jumping clock"])
def test_it_agrees_with_an_exact_model(jumps: bool) -> None:
    """Over a long random run, none is taken for a replay that was not sent before, none twice."""
    draw = random.Random(1)
    cache = ReplayCache(20, 10_000)
    accepted: set[bytes] = set()
    now = 1000
    for _ in range(5000):
        now += draw.randrange(-30, 33) if jumps else draw.randrange(2)
        enc, date = draw.randbytes(1), now + draw.randrange(-25, 26)
        tagged = enc + date.to_bytes(4, "big")  # a date belongs to its request
        try:
            cache.check(tagged, date, now)
        except ReplayError:
            assert tagged in accepted
        except ClockSkewError:
            assert jumps or abs(date - now) > 20
        else:
            assert abs(date - now) <= 20
            assert tagged not in accepted
            accepted.add(tagged)
    assert len(accepted) > 100
    assert len(cache) < 1000


def test_memory_per_key_is_as_stated() -> None:
    """A full cache takes what its documentation says, whatever the length of what it remembers."""
    count, window = 100_000, 300
    for length in (32, 1120):
        tracemalloc.start()
        try:
            cache = ReplayCache(window, count)
            for number in range(count):
                cache.check(number.to_bytes(length, "big"), 1000 + number % window, 1000)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(cache) == count
        assert held / count < 115


def test_memory_does_not_grow_with_time() -> None:
    """Window after window of new keys takes no more memory than the first."""
    cache = ReplayCache(10, 100_000)
    held = []
    tracemalloc.start()
    try:
        for now in range(1000, 1200):
            for number in range(1000):
                cache.check((now << 32 | number).to_bytes(32, "big"), now, now)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(cache) == 11_000
    assert max(held) < 2 * held[10]


@given(
    st.lists(
        st.tuples(st.binary(max_size=3), st.integers(-40, 40), st.integers(-40, 40)), max_size=30
    )
)
def test_nothing_but_our_errors(requests: list[tuple[bytes, int, int]]) -> None:
    """Any dates and clocks, before 1970 too, are answered or refused, and never over capacity."""
    cache = ReplayCache(10, 5)
    for enc, date, now in requests:
        with contextlib.suppress(ClockSkewError, ReplayError, LimitError):
            cache.check(enc, date, now)
        assert len(cache) <= 5


def test_impossible_settings_are_refused() -> None:
    """A cache without window or capacity would protect nothing."""
    for window, capacity in ((0, 1), (1, 0)):
        with pytest.raises(UsageError):
            ReplayCache(window, capacity)
