"""How memory talks to Redis: scripts over one thread's keys, and its errors made this package's."""

import hashlib
import re
from importlib import resources
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from memory.errors import CorruptError, MemoryStoreError, UnavailableError
from memory.keys import ThreadKeys

_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,9}")
_AT_ONCE: Final = 128  # commands in one pipeline


class Script:
    """A script beside this module; called by its digest, which the server knows after once."""

    def __init__(self, name: str) -> None:
        self.text = resources.files("memory").joinpath(name).read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RedisThreads:
    """Reads of, and scripts over, what Redis holds of threads.

    Every method raises UnavailableError where Redis is away, CorruptError where something of
    another type stands under a thread's names.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def run(self, script: Script, keys: ThreadKeys, *arguments: Any, index: int = 0) -> Any:
        """Run a script over the thread's three keys, which lie in one slot.

        `index`: the record to name where something else stands under the thread's names.
        """
        given = _given(keys, arguments)
        try:
            return await _answer(self._redis.evalsha(script.sha, *given), index)
        except NoScriptError:
            # EVAL also teaches the script to the node that owns the slot.
            return await _answer(self._redis.eval(script.text, *given), index)

    async def run_with_state(
        self, script: Script, keys: ThreadKeys, *arguments: Any, most: int
    ) -> tuple[bytes, Any]:
        """Read the thread's state, then run a script, in one round trip but not in one step.

        Of a state longer than `most` bytes, one byte more is returned, so that it shows.
        """
        async with self._redis.pipeline(transaction=False) as batch:
            batch.getrange(_state(keys), 0, most)
            batch.evalsha(script.sha, *_given(keys, arguments))
            state, reply = await _answer(batch.execute(raise_on_error=False))
        if isinstance(reply, NoScriptError):
            reply = await self.run(script, keys, *arguments)
        for one in (state, reply):
            if isinstance(one, Exception):
                raise _translated(one, 0) from one
        return state, reply

    async def listed(self, keys: ThreadKeys, turn_id: bytes) -> int | None:
        """Return the index under which a turn is listed."""
        number = await _answer(self._redis.hget(_turns(keys), keys.turn_tag(turn_id)))
        return None if number is None else index_of(number)

    async def page(self, keys: ThreadKeys, start: int, count: int) -> list[bytes]:
        """Return records, sealed or stubs, from index `start`: fewer at the end."""
        found = self._redis.lrange(_records(keys), start, start + count - 1)
        return list(await _answer(found, start))

    async def several(self, keys: ThreadKeys, indexes: list[int]) -> list[bytes]:
        """Return the records at these indexes; CorruptError where one is missing."""
        found: list[bytes] = []
        for at in range(0, len(indexes), _AT_ONCE):
            async with self._redis.pipeline(transaction=False) as batch:
                for index in indexes[at : at + _AT_ONCE]:
                    batch.lindex(_records(keys), index)
                found += await _answer(batch.execute(), indexes[at])
        for index, sealed in zip(indexes, found, strict=True):
            if sealed is None:
                raise CorruptError(index, "it is missing")
        return found


def index_of(number: bytes) -> int:
    """Read an index from Redis; CorruptError for anything that no script wrote."""
    if not _NUMBER.fullmatch(number):
        raise CorruptError(0, "the list of answered turns was changed")
    return int(number)


def _records(keys: ThreadKeys) -> str:
    return f"{{t:{keys.thread_id}}}:records"


def _turns(keys: ThreadKeys) -> str:
    return f"{{t:{keys.thread_id}}}:turns"


def _state(keys: ThreadKeys) -> str:
    return f"{{t:{keys.thread_id}}}:state"


def _given(keys: ThreadKeys, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what follows a script's name: its keys and arguments."""
    return (3, _records(keys), _turns(keys), _state(keys), *arguments)


async def _answer(call: Any, index: int = 0) -> Any:
    """Await a call to Redis and turn its errors into this package's."""
    try:
        return await call
    except NoScriptError:
        raise
    except (RedisError, RedisClusterException, OSError) as error:
        raise _translated(error, index) from error


def _translated(error: Exception, index: int) -> MemoryStoreError:
    if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
        return CorruptError(index, "something else stands under the thread's names")
    return UnavailableError(type(error).__name__)
