"""Threads in Redis: a list of sealed records, a hash of turn tags and a sealed state, in one slot.

The client's own retry policy bounds how long a call waits for a server that is away. The server
needs `appendonly yes` and `appendfsync always` for an append to outlive its crash: with
`everysec`, Redis and Valkey also hold back writes while a sync is under way, and a killed server
forgets up to two seconds of what it acknowledged.
"""

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from memory.chains import Chains
from memory.errors import (
    AnsweredError,
    ConflictError,
    CorruptError,
    ForgottenError,
    InvalidInputError,
    RollbackError,
    RotatedError,
    TurnForgottenError,
)
from memory.keys import ThreadKeys
from memory.opening import (
    Opening,
    answered_by,
    check_note,
    put_back,
)
from memory.records import (
    HEAD_BYTES,
    NONCE_BYTES,
    Gap,
    Record,
    Tombstone,
    Turn,
    is_stub,
    open_record,
    previous_head,
)
from memory.redis_io import Script, index_of
from memory.rotation import Copy
from memory.state import seal_state
from memory.thread import Answered, Erased, Position, Rotated, judge
from memory.view import View

MAX_BATCH: Final = 256  # records in one append
# A state is due when so many records are not in the one that is stored: they are what a cold
# opening folds before its first token, and half as many cost twice the bytes written.
STATE_EVERY: Final = 16

_ROTATION_TRIES: Final = 32

_STATE: Final = Script("state.lua")
_ERASE: Final = Script("erase.lua")


@dataclass(frozen=True, slots=True)
class Opened:
    """What `open` found: the thread as a turn needs it, and the turn that was asked for.

    `covered` is how many records the stored state covers.
    """

    view: View
    answered: Answered | None
    covered: int

    @property
    def state_due(self) -> bool:
        """Whether `save_state` is worth its while."""
        return self.view.position.length - self.covered >= STATE_EVERY


class ThreadStore:
    """Reads and appends threads; holds no state of its own.

    `redis` must return bytes (`decode_responses=False`). Every method raises UnavailableError
    where Redis is away, CorruptError where what it holds was not written with the thread's key
    or not there, and, but for `forget`, ForgottenError or RotatedError where the thread was erased.
    """

    def __init__(self, redis: Redis) -> None:
        self._io = Chains(redis)

    async def open(
        self,
        keys: ThreadKeys,
        *,
        expected: Position | None,
        turn_id: bytes | None = None,
        cached: View | None = None,
    ) -> Opened:
        """Return the thread's view at its end, and the turn with this id if it was answered.

        Starts from `cached`, a view of this thread, or else from the stored state, or else from
        the beginning; reads and opens what came after, and proves that the chain passes through
        where it started and through `expected`. One round trip where that is a page at most.
        `cached` itself is not changed. Nothing is written.

        Raises RollbackError where the chain does not pass through `expected` or `cached`,
        TurnForgottenError where the turn was erased.
        """
        opening = Opening(keys, expected, turn_id, cached)
        while not opening.take(await self._io.ask(keys, opening)):
            pass
        if suspects := opening.put_back():
            # Erased while further pages were read, or put back: what stands there now tells.
            for index, sealed in zip(suspects, await self._io.several(keys, suspects), strict=True):
                if not is_stub(sealed):
                    raise put_back(index)
        if expected is not None and 0 < expected.length < opening.begun.length:
            await self._bridge(keys, expected, opening)
        return Opened(opening.view, opening.answered, opening.covered)

    async def append(
        self,
        keys: ThreadKeys,
        position: Position,
        records: Sequence[Record],
        *,
        erase: Sequence[int] = (),
    ) -> Position:
        """Append records after `position`, all or none; return the position after them.

        `erase`: indexes below `position` whose records become stubs in the same step; Tombstones
        among `records` name exactly these.

        A turn, sent again, changes nothing: where one of `records` is a turn that is in memory,
        returns the position after it. Raises AnsweredError where a turn's id has another answer,
        ConflictError where the head moved, InvalidInputError where a record is too large, there
        are too many, or the tombstones and `erase` disagree; none of them writes.
        """
        if not 0 < len(records) <= MAX_BATCH:
            raise InvalidInputError(
                f"{len(records)} records were to be appended at once; append 1 to {MAX_BATCH}."
            )
        named = {index for one in records if isinstance(one, Tombstone) for index in one.erased}
        if set(erase) != named or any(index >= position.length for index in named):
            raise InvalidInputError(
                "What is erased must be what the appended tombstones name, and must be there; "
                "plan it from the thread as it stands."
            )
        stubs = await self._io.stubs(keys, sorted(named))
        verdict, number, after = await self._io.append(keys, position, records, stubs)
        if verdict == b"appended":
            return after
        if verdict == b"moved":
            raise ConflictError(position.length, index_of(number))
        answered = await self._read_turn(keys, None, index_of(number))
        for one in records:
            if isinstance(one, Turn) and one.turn_id == answered.turn.turn_id:
                # Its own record, after an acknowledgement that was lost; another's has another
                # receipt.
                if one.receipt_id != answered.turn.receipt_id:
                    raise AnsweredError
                return answered.after
        raise CorruptError(answered.before.length, "it is not the turn that it is listed as")

    async def find(self, keys: ThreadKeys, turn_id: bytes) -> Answered | None:
        """Return the turn that was already answered under `turn_id`, and where it stands.

        Raises TurnForgottenError where it was erased. That it was not put back after that, only
        `open` tells.
        """
        index = await self._io.listed(keys, turn_id)
        return None if index is None else await self._read_turn(keys, turn_id, index)

    def scan(
        self, keys: ThreadKeys, *, position: Position
    ) -> AsyncIterator[tuple[int, Record | None]]:
        """Read a thread from its beginning to `position`: each index with its record, or None.

        None is an erased record. Whether those were erased at their owner's request, and none was
        put back, is known at the end only: rely on nothing before.

        Raises RollbackError where the chain does not lead to `position`.
        """
        return self._io.scan(keys, position=position)

    async def save_state(self, keys: ThreadKeys, view: View, *, nonce: bytes) -> bool:
        """Keep a sealed copy of a view, so that the next `open` need not fold it anew.

        Returns whether it was kept: only while the thread ends where the view does, because a
        record in it may have been erased since. `nonce`: 12 fresh random bytes.
        """
        sealed, place = seal_state(keys, view, nonce=nonce), view.position
        kept = await self._io.run(
            _STATE, keys, place.length, place.head, sealed, index=place.length
        )
        return bool(kept)

    async def place(self, keys: ThreadKeys, index: int) -> tuple[Position, Position]:
        """Return the positions before and after a record that a scan has found at `index`."""
        (sealed,) = await self._io.several(keys, [index])
        before = Position(index, previous_head(sealed, index))
        return before, before.follow(sealed)

    async def forget(self, keys: ThreadKeys, request_id: bytes) -> Erased:
        """Erase a thread, whatever state it is in; return what there was.

        Nothing writes into it any more, at whichever replica. The same request (16 bytes) is told
        the same again. Backups are not reached.

        Raises RotatedError where the thread goes on under another key: forget that one.
        """
        tag = keys.erasure_tag(request_id)
        verdict, first, second = await self._io.run(_ERASE, keys, tag, request_id, b"")
        if verdict == b"noted":
            try:
                check_note(keys, first, second)
            except RotatedError:
                raise
            except ForgottenError:
                return Erased(0, None)
            except CorruptError:  # what nobody with the key wrote hinders nobody
                _, first, second = await self._io.run(_ERASE, keys, tag, request_id, b"1")
        return _erased(first, second)

    async def rotate(
        self,
        keys: ThreadKeys,
        new_keys: ThreadKeys,
        request_id: bytes,
        *,
        copied: int | None = None,
        expected: Position | None = None,
    ) -> Rotated:
        """Seal every kept record anew in the thread of `new_keys`; then erase the old thread.

        Indexes stay: where a record was erased, there is a `Gap`. Turns that come in the meantime
        are copied too, because a thread is erased only where it was copied whole. The same request
        (16 bytes) goes on where it broke off, and is told the same again. `copied`: how many
        records `copy` copied, where something else was written behind them since. `expected`:
        where `open` has just found that the old thread ends; it may have grown, and not shrunk.

        Raises ForgottenError where the thread was forgotten meanwhile, and then its copy is as
        well; RotatedError where another request rotated it; ConflictError where other writers left
        no quiet moment; CorruptError where the new thread holds something else.
        """
        tag = keys.erasure_tag(request_id, rotation=True)
        beyond = copied is not None
        copy = Copy(self._io, keys, new_keys, beyond=beyond)
        for _ in range(_ROTATION_TRIES):
            try:
                end = await self._io.end(keys)
                if expected is not None:
                    if end.length < expected.length:
                        raise RollbackError(expected.length, end.length, "this enclave")
                    judge(end, expected, "this enclave")
                if beyond and end.length != copied:
                    break
                await copy.catch_up(end)
            except ConflictError:
                copy = Copy(self._io, keys, new_keys, beyond=beyond)
                continue
            except RotatedError:
                pass  # the script says at whose request
            except ForgottenError:
                await self.forget(new_keys, request_id)
                raise
            place = (copy.old.length, copy.old.head if copy.old.length else b"")
            verdict, first, second = await self._io.run(_ERASE, keys, tag, request_id, b"", *place)
            if verdict == b"noted":
                check_note(keys, first, second)
            if verdict == b"erased":
                opened = await self.open(new_keys, expected=None)
                await self.save_state(new_keys, opened.view, nonce=os.urandom(NONCE_BYTES))
                return Rotated(_erased(first, second), opened.view.position)
        raise ConflictError(copy.old.length, copy.old.length)

    async def copy(
        self, keys: ThreadKeys, new_keys: ThreadKeys, end: Position, *, beyond: bool = False
    ) -> Position:
        """Bring the new thread up to the old one's `end`; return where it ends then.

        `beyond`: it may hold more than the copy, behind it.

        Raises ConflictError where another writer was there meanwhile, CorruptError where the new
        thread holds something else.
        """
        copy = Copy(self._io, keys, new_keys, beyond=beyond)
        await copy.catch_up(end)
        return copy.new

    async def _read_turn(self, keys: ThreadKeys, turn_id: bytes | None, index: int) -> Answered:
        (sealed,) = await self._io.several(keys, [index])
        if is_stub(sealed):
            place = Position(index, previous_head(sealed, index)).follow(sealed)
            await self._io.believe(keys, place, {index})
            raise TurnForgottenError
        return answered_by(keys, turn_id, index, sealed)

    async def _bridge(self, keys: ThreadKeys, expected: Position, opening: Opening) -> None:
        """Follow the chain from where the device left it to where the opening began to read."""
        begun = opening.begun
        (first,) = await self._io.several(keys, [expected.length])
        # The first link tells another history from a broken one.
        judge(Position(expected.length, previous_head(first, expected.length)), expected)
        stubs = set[int]()
        async for index, sealed in self._io.walk(keys, expected, begun):
            if is_stub(sealed):
                stubs.add(index)
            elif index in opening.view.erased and not isinstance(
                open_record(keys, index, sealed), Gap
            ):
                raise put_back(index)
        if unknown := {index for index in stubs if index not in opening.view.erased}:
            await self._io.believe(keys, opening.view.position, unknown)


def _erased(length: int, head: bytes) -> Erased:
    return Erased(length, head if len(head) == HEAD_BYTES else None)
