"""Replay protection for a gateway (RFC 9458 section 6.5).

A request names its time in a Date field; the gateway takes it only within a window around its
own clock and remembers every encapsulated key for as long as its date stays inside the window.
A gateway keeps one cache for each of its keys and drops it with the key: what was sealed to a
key that is gone cannot be opened, and so not be replayed.
"""

from __future__ import annotations

import hashlib
import heapq

from transport.errors import ClockSkewError, LimitError, ReplayError, UsageError

_DIGEST_LENGTH = 16


class ReplayCache:
    """Remembers encapsulated keys: no false alarm, and nothing forgotten too early.

    Memory is bounded by `capacity`, at about 115 bytes for each key held (resident memory, CPython
    3.11, 100,000 keys and more; twice that for a moment while the set behind it grows). A full
    cache refuses new requests, because forgetting one would let it be replayed. A key is held
    until its date leaves the window: one window for a request dated now, two for one dated as far
    in the future as is accepted. So r requests a second want a capacity of r * 2 * window.

    Keys are remembered by digests of 128 bits: two alike by chance are not to be met, and one
    that is made to be alike refuses nobody but who made both.

    The clock may move. Forward: what it passes over is forgotten; when it comes back, requests
    with dates up to the latest forgotten one are refused for their date, for one window at most.
    Back: nothing is forgotten until it is right again.
    """

    __slots__ = ("_by_expiry", "_capacity", "_expiries", "_forgotten", "_seen", "_window")

    def __init__(self, window_s: int, capacity: int) -> None:
        """Accept dates up to `window_s` seconds from now and hold up to `capacity` keys."""
        if window_s < 1 or capacity < 1:
            raise UsageError("a replay cache needs a window and a capacity of at least 1")
        self._window = window_s
        self._capacity = capacity
        self._seen: set[bytes] = set()
        # Dates are whole seconds: no more lists than seconds in two windows.
        self._by_expiry: dict[int, list[bytes]] = {}
        self._expiries: list[int] = []
        self._forgotten: int | None = None

    def __len__(self) -> int:
        """Keys held now."""
        return len(self._seen)

    def check(self, enc: bytes, date: int, now: int) -> None:
        """Accept a request once. Times are seconds since 1970.

        Raises:
            ClockSkewError: The date is outside the window, or so old that a request of its time
                may have been forgotten.
            ReplayError: The encapsulated key was accepted before.
            LimitError: The cache is full; the client may try again within the window.
        """
        self._forget(now)
        if abs(now - date) > self._window:
            raise ClockSkewError(
                f"the request's date is {date - now:+d} s from the gateway's clock, outside "
                f"{self._window} s; correct the clock and seal the request anew"
            )
        expiry = date + self._window
        if self._forgotten is not None and expiry <= self._forgotten:
            raise ClockSkewError(
                "the gateway's clock was set back, past requests that it has forgotten; seal the "
                f"request anew in {self._forgotten - expiry + 1} s"
            )
        digest = hashlib.blake2b(enc, digest_size=_DIGEST_LENGTH).digest()
        if digest in self._seen:
            raise ReplayError("this request was received before; seal it anew to send it again")
        if len(self._seen) >= self._capacity:
            raise LimitError(
                f"the replay cache holds {self._capacity} requests and forgets none inside the "
                "window; try again later or give the gateway a larger capacity"
            )
        self._seen.add(digest)
        held = self._by_expiry.get(expiry)
        if held is None:
            heapq.heappush(self._expiries, expiry)
            held = self._by_expiry[expiry] = []
        held.append(digest)

    def _forget(self, now: int) -> None:
        """Drop the keys whose date has left the window."""
        while self._expiries and self._expiries[0] < now:
            expiry = heapq.heappop(self._expiries)
            self._seen.difference_update(self._by_expiry.pop(expiry))
            self._forgotten = expiry  # never less than before: such are refused above
