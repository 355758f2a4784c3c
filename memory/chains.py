"""Chains of sealed records in Redis: followed page by page, and appended to."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from memory.errors import CorruptError, InvalidInputError, RollbackError, UnavailableError
from memory.keys import ThreadKeys
from memory.opening import PAGE, Opening, check_genuine, check_note, no_tombstone, put_back
from memory.records import (
    HEAD_BYTES,
    NONCE_BYTES,
    Gap,
    Record,
    Tombstone,
    Turn,
    is_stub,
    open_record,
    seal,
    stub,
)
from memory.redis_io import RedisThreads, Script
from memory.state import MAX_STATE_BYTES
from memory.thread import Position, judge

OPEN: Final = Script("open.lua")
_APPEND: Final = Script("append.lua")
_TRIES: Final = 8


class Chains(RedisThreads):
    """Reads and appends chains; what they mean to a thread is the store's to say."""

    async def ask(self, keys: ThreadKeys, opening: Opening) -> list[Any]:
        """Ask the next question of an opening, in one round trip; return what it can take."""
        if not opening.needs_state:
            return list(await self.run(OPEN, keys, *opening.question()))
        for _ in range(_TRIES):
            state, reply = await self.run_with_state(
                OPEN, keys, *opening.question(), most=MAX_STATE_BYTES
            )
            # Not in one step with the script: a new state may have come between.
            if state[:10] == reply[4]:
                return [*reply[:4], state, *reply[5:]]
        raise UnavailableError("the stored state changes all the time")

    async def end(self, keys: ThreadKeys) -> Position:
        """Return where the store says that a thread ends: not proven."""
        length, head, tag, request, *_ = await self.run(OPEN, keys, 0, b"", 1, b"")
        if tag:
            check_note(keys, tag, request)
        if length and len(head) != HEAD_BYTES:
            raise CorruptError(length - 1, "the head that is kept beside the records was changed")
        return Position(length, head) if length else Position.genesis(keys)

    async def several(self, keys: ThreadKeys, indexes: list[int]) -> list[bytes]:
        """As it says above; where one is missing, the thread may have been erased meanwhile."""
        try:
            return await super().several(keys, indexes)
        except CorruptError:
            await self.end(keys)
            raise

    async def scan(
        self, keys: ThreadKeys, *, position: Position
    ) -> AsyncIterator[tuple[int, Record | None]]:
        """Read a thread from its beginning to `position`: each index with its record, or None.

        None is an erased record. Whether those were erased at their owner's request, and none was
        put back, is known at the end only: rely on nothing before.

        Raises RollbackError where the chain does not lead to `position`.
        """
        erased: set[int] = set()
        stubs: set[int] = set()
        kept: set[int] = set()
        async for index, sealed in self.walk(keys, Position.genesis(keys), position):
            if is_stub(sealed):
                stubs.add(index)
                yield index, None
                continue
            try:
                record = open_record(keys, index, sealed)
            except CorruptError:
                check_genuine(keys, index, [sealed], position.length)
                raise
            if isinstance(record, Tombstone):
                erased.update(record.erased)
            if not isinstance(record, Gap):
                kept.add(index)
            yield index, record
        if kept & erased:
            raise put_back(min(kept & erased))
        if stubs - erased:
            await self.believe(keys, position, stubs - erased)

    async def walk(
        self, keys: ThreadKeys, start: Position, end: Position
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Follow the chain from one position to another; each index with its record or stub.

        Raises CorruptError where it is broken, RollbackError where it does not lead to `end`.
        """
        place = start
        while place.length < end.length:
            begin = place.length
            page = await self.page(keys, begin, min(PAGE, end.length - begin))
            if not page:
                await self.end(keys)  # it was forgotten meanwhile, perhaps
                raise RollbackError(end.length, begin, "this enclave")
            try:
                for index, sealed in enumerate(page, begin):
                    place = place.follow(sealed)
                    judge(place, end, "this enclave")
                    yield index, sealed
            except (CorruptError, RollbackError):
                check_genuine(keys, begin, page, end.length)
                raise

    async def believe(self, keys: ThreadKeys, place: Position, stubs: set[int]) -> None:
        """Look after `place` for the tombstones of stubs that were read by then.

        Raises CorruptError where one has none.
        """
        left = set(stubs)
        while left:
            begin = place.length
            page = await self.page(keys, begin, PAGE)
            if not page:
                raise no_tombstone(min(left))
            for index, sealed in enumerate(page, begin):
                place = place.follow(sealed)
                if not is_stub(sealed):
                    record = open_record(keys, index, sealed)
                    if isinstance(record, Tombstone):
                        left.difference_update(record.erased)

    async def append(
        self,
        keys: ThreadKeys,
        position: Position,
        records: Sequence[Record],
        stubs: Mapping[int, bytes],
    ) -> tuple[bytes, bytes, Position]:
        """Return the script's verdict, its number, and the position after the records."""
        after, arguments = position, list[bytes | int]()
        for record in records:
            nonce = os.urandom(NONCE_BYTES)
            sealed = seal(keys, after.length, after.head, record, nonce=nonce)
            tag = keys.turn_tag(record.turn_id) if isinstance(record, Turn) else b""
            arguments += [sealed, tag]
            after = after.follow(sealed)
        for index, one in stubs.items():
            arguments += [index, one]
        places = (position.length, position.head, after.head)
        verdict, number, *more = await self.run(
            _APPEND, keys, *places, len(records), len(stubs), *arguments, index=position.length
        )
        if verdict == b"erased":
            check_note(keys, number, *more)
        return verdict, number, after

    async def stubs(self, keys: ThreadKeys, indexes: list[int]) -> dict[int, bytes]:
        """Return what is to stand at these indexes; refuse to erase what others rest on."""
        stubs = {}
        found = await self.several(keys, indexes)
        for index, sealed in zip(indexes, found, strict=True):
            if is_stub(sealed):
                continue
            if isinstance(open_record(keys, index, sealed), Tombstone):
                raise InvalidInputError(
                    f"Record {index} is a tombstone: it says what was erased, and stays."
                )
            stubs[index] = stub(sealed)
        return stubs
