"""Copying a thread under another key, record by record, while it may still grow."""

from collections.abc import AsyncIterator
from typing import Final

from memory.chains import Chains
from memory.errors import ConflictError, CorruptError
from memory.keys import ThreadKeys
from memory.records import Gap, Record, Tombstone, is_stub, open_record
from memory.thread import Position

_AT_ONCE: Final = 64  # records that are appended at once


class Copy:
    """A thread's copy in the thread of another key: `old` and `new` are where each has come to.

    Begun anew after an error, it goes on from what the new thread holds, having compared it.
    `beyond`: the new thread is in use, and may hold more behind the copy.
    """

    def __init__(
        self, chains: Chains, keys: ThreadKeys, new_keys: ThreadKeys, *, beyond: bool = False
    ) -> None:
        self._chains = chains
        self._keys = keys
        self._new_keys = new_keys
        self._beyond = beyond
        self._begun = False
        self._batch: list[Record] = []
        self._erased: list[int] = []
        self.old = Position.genesis(keys)
        self.new = Position.genesis(new_keys)

    async def catch_up(self, end: Position) -> None:
        """Copy up to where the old thread ends.

        Raises ConflictError where another writer is at the new thread too, CorruptError where that
        holds something else.
        """
        if not self._begun:
            await self._compare(end)
        else:
            async for index, record in self._news(end):
                await self._take(index, record, end)
        self.old, self._begun = end, True

    async def _compare(self, end: Position) -> None:
        """Copy what the new thread lacks, after comparing what it has."""
        known = await self._chains.end(self._new_keys)
        if known.length > end.length and not self._beyond:
            grown = await self._chains.end(self._keys)
            if grown.length >= known.length:  # and somebody else has copied that already
                raise ConflictError(end.length, grown.length)
            raise CorruptError(end.length, "the thread of the new key holds more than the old one")
        copies = self._chains.walk(self._new_keys, self.new, known)
        self.new = known
        async for index, record in self._chains.scan(self._keys, position=end):
            if index >= known.length:
                await self._take(index, record, end)
                continue
            _, sealed = await anext(copies)
            copy = None if is_stub(sealed) else open_record(self._new_keys, index, sealed)
            if record is None and copy is not None and not isinstance(copy, Gap):
                self._erased.append(index)  # since it was copied; its tombstone comes
            elif record is not None and copy != record and not (copy is None and self._beyond):
                raise CorruptError(index, "the thread of the new key holds something else")

    async def _news(self, end: Position) -> AsyncIterator[tuple[int, Record | None]]:
        """Read what came to the old thread since; note what it erased of what was copied."""
        async for index, sealed in self._chains.walk(self._keys, self.old, end):
            record = None if is_stub(sealed) else open_record(self._keys, index, sealed)
            if isinstance(record, Tombstone):
                self._erased += [one for one in record.erased if one < self.new.length]
            yield index, record

    async def _take(self, index: int, record: Record | None, end: Position) -> None:
        self._batch.append(Gap() if record is None else record)
        if len(self._batch) < _AT_ONCE and index < end.length - 1:
            return
        stubs = await self._chains.stubs(self._new_keys, self._erased)
        verdict, _, after = await self._chains.append(self._new_keys, self.new, self._batch, stubs)
        if verdict != b"appended":
            raise ConflictError(self.new.length, after.length)
        self.new = after
        self._batch, self._erased = [], []
