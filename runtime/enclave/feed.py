"""What is made step by step, for readers that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """Items as they come, for any number of readers, each from the first item.

    Whoever puts never waits: a slow reader holds up nobody, and finds what it missed.
    """

    __slots__ = ("_ended", "_items", "_wake")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._ended = False
        self._wake = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended

    @property
    def last(self) -> T | None:
        """The newest item, None before the first."""
        return self._items[-1] if self._items else None

    def put(self, item: T) -> None:
        """Add an item and wake every reader."""
        self._items.append(item)
        self._notify()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._notify()

    async def follow(self) -> AsyncGenerator[list[T], None]:
        """All items from the first, in batches of whatever is ready."""
        seen = 0
        while True:
            wake = self._wake
            if seen < len(self._items):
                batch = self._items[seen:]
                seen = len(self._items)
                yield batch
            elif self._ended:
                return
            else:
                await wake.wait()

    def _notify(self) -> None:
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()
