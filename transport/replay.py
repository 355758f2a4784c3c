"""Replay protection for a gateway (RFC 9458 section 6.5).

A request names its time in a Date field; the gateway takes it only within a window around its
own clock and remembers every encapsulated key for as long as its date stays inside the window.
"""

from __future__ import annotations

import hashlib
import heapq

from transport.errors import ClockSkewError, LimitError, ReplayError, UsageError


class ReplayCache:
    """Remembers encapsulated keys exactly: no false alarm, nothing forgotten too early.

    Memory is bounded by `capacity`; a full cache refuses new requests, because forgetting one
    would let it be replayed.
    """

    __slots__ = ("_capacity", "_expiries", "_latest", "_seen", "_window")

    def __init__(self, window_s: int, capacity: int) -> None:
        """Accept dates up to `window_s` seconds from now and hold up to `capacity` keys."""
        if window_s < 1 or capacity < 1:
            raise UsageError("a replay cache needs a window and a capacity of at least 1")
        self._window = window_s
        self._capacity = capacity
        self._latest = 0
        self._seen: set[bytes] = set()
        self._expiries: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        """Keys held now."""
        return len(self._seen)

    def check(self, enc: bytes, date: int, now: int) -> None:
        """Accept a request once. Times are seconds since 1970.

        Raises:
            ClockSkewError: The date is outside the window.
            ReplayError: The encapsulated key was accepted before.
            LimitError: The cache is full; the client may try again within the window.
        """
        # A clock set back must not revive requests whose memory has expired.
        self._latest = now = max(now, self._latest)
        if abs(now - date) > self._window:
            raise ClockSkewError(
                f"the request's date is {date - now:+d} s from the gateway's clock, outside "
                f"{self._window} s; correct the clock and seal the request anew"
            )
        while self._expiries and self._expiries[0][0] < now:
            self._seen.discard(heapq.heappop(self._expiries)[1])
        digest = hashlib.sha256(enc).digest()
        if digest in self._seen:
            raise ReplayError("this request was received before; seal it anew to send it again")
        if len(self._seen) >= self._capacity:
            raise LimitError(
                f"the replay cache holds {self._capacity} requests and forgets none inside the "
                "window; try again later or give the gateway a larger capacity"
            )
        self._seen.add(digest)
        heapq.heappush(self._expiries, (date + self._window, digest))
