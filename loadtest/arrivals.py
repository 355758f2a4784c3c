"""When turns begin: pure functions of a seed, with no clock and no sleeping.

Two processes, because they answer two questions. In the *closed* one a client speaks again when
it has been answered, as people do; a system that slows down is then asked less. In the *Poisson*
one turns come at their own rate whatever the system does; measured from the moment at which a
turn was due, a stall cannot hide behind the questions that were never asked ("coordinated
omission", Gil Tene, "How NOT to Measure Latency").
"""

from __future__ import annotations

import random
from collections.abc import Iterator


def first_turns(clients: int, think_s: float, seed: int) -> tuple[float, ...]:
    """Closed arrivals: when each client speaks first, in seconds from the start.

    Spread evenly at random over one think time, so that clients do not march in step; with no
    think time all begin at once.
    """
    rng = random.Random(f"first turns {seed}")
    return tuple(rng.uniform(0.0, think_s) for _ in range(clients))


def poisson(rate: float, *, turns: int, duration_s: float, seed: int) -> Iterator[float]:
    """Open arrivals: when turns are due, in seconds from the start, rising.

    Args:
        rate: Mean turns per second, over all clients; above 0.
        turns: At most this many.
        duration_s: None is due at or after this time.
        seed: The same seed gives the same times.
    """
    rng = random.Random(f"poisson {seed}")
    due = 0.0
    for _ in range(turns):
        due += rng.expovariate(rate)
        if due >= duration_s:
            return
        yield due
