"""Replay protection: once within the window, never after it, and no guessing."""

from __future__ import annotations

import random

import pytest

from transport.errors import ClockSkewError, LimitError, ReplayError, TransportError, UsageError
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


def test_a_clock_set_back_revives_nothing() -> None:
    """After memory expired, a clock that jumps back does not make old dates fresh."""
    cache = ReplayCache(60, 10)
    cache.check(b"a", 1000, 1000)
    cache.check(b"b", 2000, 2000)
    with pytest.raises(ClockSkewError):
        cache.check(b"a", 1000, 1000)


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


def test_it_agrees_with_an_exact_model() -> None:
    """Over a long random run, no request is refused that was not sent before, and none twice."""
    draw = random.Random(1)
    cache = ReplayCache(20, 10_000)
    accepted: set[bytes] = set()
    now = 1000
    for _ in range(5000):
        now += draw.randrange(2)
        enc, date = draw.randbytes(1), now + draw.randrange(-25, 26)
        tagged = enc + date.to_bytes(4, "big")  # a date belongs to its request
        try:
            cache.check(tagged, date, now)
        except ReplayError:
            assert tagged in accepted
        except ClockSkewError:
            assert abs(date - now) > 20
        except TransportError:
            raise
        else:
            assert tagged not in accepted
            accepted.add(tagged)
    assert len(cache) < 1000


def test_impossible_settings_are_refused() -> None:
    """A cache without window or capacity would protect nothing."""
    for window, capacity in ((0, 1), (1, 0)):
        with pytest.raises(UsageError):
            ReplayCache(window, capacity)
