"""Threads in Redis: a stream of sealed records and a hash of turn tags, in one hash slot.

The client's own retry policy bounds how long a call waits for a server that is away. The server
needs `appendonly yes` and `appendfsync always` for an append to outlive its crash: with
`everysec`, Redis and Valkey also hold back writes while a sync is under way, and a killed server
forgets up to two seconds of what it acknowledged.
"""

import hashlib
import hmac
import os
import re
from importlib import resources
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from memory.errors import (
    AnsweredError,
    ConflictError,
    CorruptError,
    ForgottenError,
    RollbackError,
    UnavailableError,
)
from memory.keys import ThreadKeys
from memory.records import HEAD_BYTES, NONCE_BYTES, Turn, open_record, previous_head, seal
from memory.thread import Answered, Erased, Position, Thread, judge, walk


class _Script:
    """A script beside this module; called by its digest, which the server knows after once."""

    def __init__(self, name: str) -> None:
        self.text = resources.files("memory").joinpath(name).read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_APPEND: Final = _Script("append.lua")
_ERASE: Final = _Script("erase.lua")
_ENTRY_ID: Final = re.compile(rb"([1-9][0-9]{0,9})-0")
_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,9}")
# Longer than any turn that runs at the time, or device that asks again for a lost answer.
_ERASURE_KEPT_S: Final = 86_400
_PAGE: Final = 64  # records per read where a device is far behind

_Entry = tuple[bytes, dict[bytes, bytes]]


class ThreadStore:
    """Reads and appends threads; holds no state of its own.

    `redis` must return bytes (`decode_responses=False`). Every method raises UnavailableError
    where Redis is away, CorruptError where what it holds was not written with the thread's key.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def load(self, keys: ThreadKeys, *, expected: Position | None, last: int) -> Thread:
        """Read the newest `last` turns, and prove that the chain passes through `expected`.

        One read where the device is at most `last` records behind; where it is further behind,
        the records in between are read in pages and followed, not opened. Nothing is written.

        Raises RollbackError where the chain does not pass through `expected`.
        """
        # At least one, so that the head is proven even where no turn is wanted.
        count = max(last, 1)
        entries = await _answer(self._redis.xrevrange(_records(keys), count=count))
        start, sealed, stored_head = _newest(keys, entries[::-1], count)
        turns = [open_record(keys, start.length + at, one) for at, one in enumerate(sealed)]
        if expected is not None:
            if expected.length > start.length + len(sealed):
                raise RollbackError(expected.length, start.length + len(sealed))
            if expected.length == 0:
                judge(Position.genesis(keys), expected)
            elif expected.length < start.length:
                await self._bridge(keys, expected, start)
        end = walk(start, sealed, expected)
        if not hmac.compare_digest(stored_head, end.head):
            raise CorruptError(end.length - 1, "the head beside it is not the one after it")
        return Thread(end, tuple(turns[max(0, len(turns) - last) :]))

    async def append(self, keys: ThreadKeys, position: Position, turn: Turn) -> Position:
        """Append a turn after `position`; return the position after it.

        The same turn, sent again, changes nothing and returns the position after its first record.
        Raises AnsweredError where the turn id has another answer, ConflictError where the head
        moved, ForgottenError where the thread was erased, InvalidInputError where the turn is too
        large; none of them writes.
        """
        nonce = os.urandom(NONCE_BYTES)
        sealed = seal(keys, position.length, position.head, turn, nonce=nonce)
        after = position.follow(sealed)
        tag = keys.turn_tag(turn.turn_id)
        arguments = (position.length, position.head, tag, sealed, after.head)
        verdict, number = await self._run(_APPEND, keys, *arguments, index=position.length)
        if verdict == b"appended":
            return after
        if verdict == b"erased":
            raise ForgottenError
        if verdict == b"moved":
            raise ConflictError(position.length, _index(number))
        stored = await self._read_turn(keys, turn.turn_id, _index(number))
        # Its own record, after an acknowledgement that was lost; another's has another receipt.
        if stored.turn.receipt_id != turn.receipt_id:
            raise AnsweredError
        return stored.after

    async def find(self, keys: ThreadKeys, turn_id: bytes) -> Answered | None:
        """Return the turn that was already answered under `turn_id`, and where it stands."""
        tag = keys.turn_tag(turn_id)
        number = await _answer(self._redis.hget(_turns(keys), tag))
        if number is None:
            return None
        return await self._read_turn(keys, turn_id, _index(number))

    async def forget(self, keys: ThreadKeys, request_id: bytes) -> Erased:
        """Erase a thread, whatever state it is in; return what there was.

        No turn that runs now writes into it any more, at whichever replica: for a day it takes no
        turns at all. The same request (16 bytes) is told the same again within that day. Backups
        are not reached.
        """
        length, head = await self._run(_ERASE, keys, keys.turn_tag(request_id), _ERASURE_KEPT_S)
        return Erased(length, head if len(head) == HEAD_BYTES else None)

    async def _read_turn(self, keys: ThreadKeys, turn_id: bytes, index: int) -> Answered:
        ((sealed, _),) = await self._range(keys, index, 1)
        turn = open_record(keys, index, sealed)
        if not hmac.compare_digest(turn.turn_id, turn_id):
            raise CorruptError(index, "it is not the turn that it is listed as")
        before = Position(index, previous_head(sealed, index))
        return Answered(turn, before, before.follow(sealed))

    async def _bridge(self, keys: ThreadKeys, expected: Position, start: Position) -> None:
        """Follow the chain from where the device left it to where the newest records begin."""
        position = expected
        while position.length < start.length:
            count = min(_PAGE, start.length - position.length)
            records = [one for one, _ in await self._range(keys, position.length, count)]
            if position is expected:
                # The first link tells another history from a broken one.
                first = previous_head(records[0], expected.length)
                judge(Position(expected.length, first), expected)
            position = walk(position, records, None)
        if not position.same(start):
            raise CorruptError(start.length, "it does not follow the record before it")

    async def _range(self, keys: ThreadKeys, index: int, count: int) -> list[tuple[bytes, bytes]]:
        """Read `count` records from `index`, each with the head stored beside it."""
        first, final = f"{index + 1}-0", f"{index + count}-0"
        entries = await _answer(self._redis.xrange(_records(keys), first, final))
        fields = [_fields(entry, index + at) for at, entry in enumerate(entries)]
        if len(fields) != count:
            raise CorruptError(index + len(fields), "it is missing")
        return fields

    async def _run(self, script: _Script, keys: ThreadKeys, *arguments: Any, index: int = 0) -> Any:
        """Run a script over the thread's two keys, which lie in one slot."""
        given = (2, _records(keys), _turns(keys), *arguments)
        try:
            return await _answer(self._redis.evalsha(script.sha, *given), index)
        except NoScriptError:
            # EVAL also teaches the script to the node that owns the slot.
            return await _answer(self._redis.eval(script.text, *given), index)


def _records(keys: ThreadKeys) -> str:
    return f"{{t:{keys.thread_id}}}:records"


def _turns(keys: ThreadKeys) -> str:
    return f"{{t:{keys.thread_id}}}:turns"


async def _answer(call: Any, index: int = 0) -> Any:
    """Await a call to Redis and turn its errors into this package's."""
    try:
        return await call
    except NoScriptError:
        raise
    except ResponseError as error:
        # XADD under an id that a removed record had, or a key of another type.
        if "ID specified" in str(error) or "WRONGTYPE" in str(error):
            raise CorruptError(index, "records were removed or replaced") from error
        raise UnavailableError(type(error).__name__) from error
    except (RedisError, RedisClusterException, OSError) as error:
        raise UnavailableError(type(error).__name__) from error


def _newest(
    keys: ThreadKeys, entries: list[_Entry], count: int
) -> tuple[Position, list[bytes], bytes]:
    """Check that entries are the end of a whole chain, by their ids alone.

    Returns the position before them, their sealed records, and the head stored with the last.
    """
    genesis = Position.genesis(keys)
    if not entries:
        return genesis, [], genesis.head
    newest = _ENTRY_ID.fullmatch(entries[-1][0])
    length = int(newest[1]) if newest else 0
    begin = length - len(entries)
    if begin < 0 or (begin > 0 and len(entries) < count):
        raise CorruptError(max(0, begin - 1), "it is missing")
    fields = [_fields(entry, begin + at) for at, entry in enumerate(entries)]
    sealed = [one for one, _ in fields]
    start = Position(begin, previous_head(sealed[0], begin)) if begin else genesis
    return start, sealed, fields[-1][1]


def _fields(entry: _Entry, index: int) -> tuple[bytes, bytes]:
    """Return the sealed record and the head after it; CorruptError for another entry's."""
    name, fields = entry
    if name != f"{index + 1}-0".encode() or fields.keys() != {b"r", b"h"}:
        raise CorruptError(index, "it is missing or was replaced")
    return fields[b"r"], fields[b"h"]


def _index(number: bytes) -> int:
    if not _NUMBER.fullmatch(number):
        raise CorruptError(0, "the list of answered turns was changed")
    return int(number)
