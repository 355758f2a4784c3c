"""Whole threads for their owner: read in bounds, changed one request after the other.

What lists, searches, explains or erases reads the whole thread, which costs as much as it is long;
a few do so at a time. What changes something has the thread to itself in this enclave, and appends
as any writer does: another enclave may come between, and then the thread is read once more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

from memory.errors import ConflictError
from memory.keys import ThreadKeys
from memory.kinds import Notes, Record, Ref, Summary, Turn
from memory.ledger import Ledger, Memory
from memory.store import ThreadStore
from memory.thread import Position
from memory.view import View
from runtime.enclave.agent import Agent
from runtime.enclave.api import ApiError
from runtime.enclave.memory_api import MemoryRequest

T = TypeVar("T")

MAX_PER_THREAD: Final = 4
"""Requests about one thread that are answered side by side."""
MAX_READING: Final = 4
"""Threads that are read whole at a time."""
MAX_READ_BYTES: Final = 256 * 2**20
"""About how much of one thread is held at once."""
TRIES: Final = 4
"""How often a thread is read where other writers come between."""


class Threads:
    """Threads as their owner's requests find them.

    Every method raises MemoryStoreError where the thread is damaged, rolled back, gone or out of
    reach, and ApiError where it refuses.

    Args:
        agent: Has the locks of threads and what is kept of them in the clear.
        store: Sealed memory.
    """

    def __init__(self, agent: Agent, store: ThreadStore) -> None:
        self.store = store
        self._agent = agent
        self._asked: Counter[str] = Counter()
        self._reading = asyncio.Semaphore(MAX_READING)

    @contextlib.contextmanager
    def asking(self, thread_key: bytes) -> Iterator[None]:
        """Answer one request about a thread; ApiError where too many of it are not answered yet."""
        name = ThreadKeys(thread_key).thread_id
        if self._asked[name] >= MAX_PER_THREAD:
            raise ApiError(
                429,
                "too_many_requests",
                f"{MAX_PER_THREAD} requests about this memory are not answered yet; wait for one",
            )
        self._asked[name] += 1
        try:
            yield
        finally:
            self._asked[name] -= 1
            if not self._asked[name]:
                del self._asked[name]

    async def position(self, keys: ThreadKeys, asked: MemoryRequest) -> Position:
        """Where the thread ends; it must hold what the device saw last."""
        return (await self.store.open(keys, expected=_seen(asked))).view.position

    async def read(self, asked: MemoryRequest) -> tuple[Position, Ledger]:
        """The thread that a request is about, whole."""
        keys = ThreadKeys(asked.thread_key)
        position = await self.position(keys, asked)
        return position, await self.fold(keys, position)

    async def fold(self, keys: ThreadKeys, position: Position) -> Ledger:
        """All records up to a position; nothing is relied on before the last is verified."""
        records: list[tuple[int, Record | None]] = []
        room = MAX_READ_BYTES
        async with self._reading:
            async for index, record in self.store.scan(keys, position=position):
                records.append((index, record))
                room -= _size(record)
                if room < 0:
                    raise ApiError(
                        413,
                        "memory_too_large",
                        f"this conversation takes more than {MAX_READ_BYTES} bytes, which is too "
                        "much to be looked through at once; it can be rotated, or forgotten whole",
                    )
            # Of a long thread that takes a second, in which others want to be answered.
            return await asyncio.to_thread(Ledger, records)

    def alone(
        self, keys: ThreadKeys, *, erasing: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """Have a thread to oneself in this enclave; see `Agent.alone`."""
        return self._agent.alone(keys, erasing=erasing)

    async def change(
        self,
        asked: MemoryRequest,
        once: Callable[[ThreadKeys, View], Awaitable[T]],
        *,
        erasing: bool = False,
    ) -> T:
        """Do something to a thread, once more where another writer came between."""
        keys, expected = ThreadKeys(asked.thread_key), _seen(asked)
        async with self.alone(keys, erasing=erasing):
            for left in reversed(range(TRIES)):
                try:
                    return await once(keys, (await self.store.open(keys, expected=expected)).view)
                except ConflictError:
                    if not left:
                        raise
        raise RuntimeError("the last try returns or raises")


def _seen(asked: MemoryRequest) -> Position | None:
    return None if asked.position is None else Position.parse(asked.position)


def known(ledger: Ledger, ref: Ref) -> Memory:
    """The memory of this name; ApiError where there is none, or it was forgotten."""
    memory = ledger.get(ref)
    if memory is not None:
        return memory
    if ledger.was_forgotten(ref):
        raise ApiError(
            410,
            "memory_forgotten",
            f"{ref} was forgotten. What else was remembered beside it has another reference now; "
            "list the memories",
        )
    raise ApiError(
        404, "memory_unknown", f"nothing is remembered as {ref}; list the memories to see theirs"
    )


def _size(record: Record | None) -> int:
    """About how many bytes a record takes while it is held."""
    match record:
        case Turn():
            return 1024 + 2 * (len(record.message) + len(record.reply))
        case Notes():
            facts = (512 + 2 * len(one.text) + len(one.vector) for one in record.facts)
            return 512 + len(record.vector) + sum(facts)
        case Summary():
            return 512 + 2 * len(record.text)
    return 256
