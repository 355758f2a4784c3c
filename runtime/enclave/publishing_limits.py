"""How much creators may publish in an hour: each key for itself, all within what an enclave takes.

A key says nothing of who has it, and anybody can make more keys. So those that own nothing here
yet share a part of the whole: whoever makes a thousand of them keeps only other newcomers out. Who
claims a handle with each of some keys gets past that (docs/publishing.md says how far).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from runtime.enclave.api import ApiError

MAX_KEYS: Final = 4_096
"""Keys that are remembered; the one that was longest silent is forgotten first."""


@dataclass(frozen=True, slots=True)
class Hourly:
    """What is taken in an hour.

    Attributes:
        total: From all together.
        newcomers: Of that, from keys that do not own what they publish under, and without a key.
        key: From one key.
    """

    total: float
    newcomers: float
    key: float


class _Allowance:
    """So much in an hour, given back as time passes."""

    __slots__ = ("_at", "_left", "_most")

    def __init__(self, most: float) -> None:
        self._most = most
        self._left = most
        self._at = time.monotonic()

    def left(self) -> float:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._most / 3600)
        self._at = now
        return self._left

    def take(self, amount: float) -> None:
        self._left -= amount


class Allowances:
    """Counts what is taken, by key; in this process's memory alone.

    Args:
        most: In an hour.
    """

    def __init__(self, most: Hourly) -> None:
        self._most = most
        self._total = _Allowance(most.total)
        self._newcomers = _Allowance(most.newcomers)
        self._keys: OrderedDict[bytes, _Allowance] = OrderedDict()

    def take(self, amount: float, key: bytes | None, *, owner: bool) -> None:
        """Count something that is to be kept.

        Args:
            amount: Of it.
            key: Who sends it, proven by a signature; None where nobody says.
            owner: Whether the key owns the handle that it is for.

        Raises:
            ApiError: It is too much; nothing is counted.
        """
        own = None if key is None else self._of(key)
        if own is not None and own.left() < amount:
            raise _too_much("this key has published as much as one key may", "later")
        shared = [self._total] if owner else [self._total, self._newcomers]
        if any(one.left() < amount for one in shared):
            raise _too_much(
                "more is being published than this enclave takes", "later, or at another enclave"
            )
        for one in shared if own is None else (*shared, own):
            one.take(amount)

    def _of(self, key: bytes) -> _Allowance:
        found = self._keys.get(key)
        if found is None:
            found = self._keys[key] = _Allowance(self._most.key)
            if len(self._keys) > MAX_KEYS:
                self._keys.popitem(last=False)
        self._keys.move_to_end(key)
        return found


def _too_much(what: str, when: str) -> ApiError:
    return ApiError(429, "too_much_published", f"{what} in an hour; try again {when}")
