"""Views of threads that are in use, so that the next turn reads only what is new.

A view holds what was said, in the clear: there are few, they are dropped soon, and one is given out
only for the keys that opened it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from memory.keys import ThreadKeys
from memory.view import View

MAX_VIEWS = 512
MAX_BYTES = 256 * 2**20
TTL_S = 300.0


@dataclass(slots=True)
class _Entry:
    keys: ThreadKeys
    view: View
    size: int
    costs: dict[int, int]
    expiry: asyncio.TimerHandle


class Views:
    """Open views by thread, the one used longest ago first.

    Args:
        most: How many.
        most_bytes: How much memory they may take together, about.
        ttl_s: How long one is kept after it was last put here, in seconds.
    """

    def __init__(
        self, *, most: int = MAX_VIEWS, most_bytes: int = MAX_BYTES, ttl_s: float = TTL_S
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._ttl_s = ttl_s
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """About how much memory they take."""
        return self._bytes

    def get(self, keys: ThreadKeys) -> View | None:
        """The newest view of the thread that is here, for whoever has its keys."""
        entry = self._entries.get(keys.thread_id)
        # The name of a thread is no secret to Redis; the keys are.
        return entry.view if entry is not None and entry.keys == keys else None

    def costs(self, keys: ThreadKeys) -> dict[int, int]:
        """Tokens of turns by index, to be added to; kept as long as the thread's view."""
        entry = self._entries.get(keys.thread_id)
        return entry.costs if entry is not None and entry.keys == keys else {}

    def put(self, keys: ThreadKeys, view: View) -> None:
        """Keep a view, unless the one that is here is further on."""
        known = self.get(keys)
        if known is not None and known.position.length > view.position.length:
            return
        known_costs = self.costs(keys)
        self.drop(keys)
        size = view.nbytes
        if size > self._most_bytes:
            return
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(self._ttl_s, self.drop, keys)
        first = view.turns[0][0] if view.turns else 0
        costs = {index: cost for index, cost in known_costs.items() if index >= first}
        self._entries[keys.thread_id] = _Entry(keys, view, size, costs, expiry)
        self._bytes += size
        while len(self._entries) > self._most or self._bytes > self._most_bytes:
            self.drop(next(iter(self._entries.values())).keys)

    def drop(self, keys: ThreadKeys) -> None:
        """Let go of a thread's view: it was forgotten, or its key was rotated."""
        entry = self._entries.pop(keys.thread_id, None)
        if entry is not None:
            entry.expiry.cancel()
            self._bytes -= entry.size

    def clear(self) -> None:
        """Let go of all."""
        for entry in list(self._entries.values()):
            self.drop(entry.keys)
