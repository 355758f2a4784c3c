"""Threads for tests: turns by number, and what only an operator of Redis can do to them."""

import os
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from memory.keys import ThreadKeys, derive_thread_key
from memory.records import Fact, Notes, Record, Ref, Tombstone, Turn
from memory.store import ThreadStore
from memory.thread import Position
from memory.view import View

KEYS = ThreadKeys(derive_thread_key(b"m" * 32, "fern"))
OTHER = ThreadKeys(derive_thread_key(b"m" * 32, "moss"))
REQUEST = b"request to forge"


def names(keys: ThreadKeys = KEYS) -> tuple[str, str, str]:
    """Return the names in Redis of a thread's records, turns and state."""
    place = f"{{t:{keys.thread_id}}}"
    return f"{place}:records", f"{place}:turns", f"{place}:state"


RECORDS, TURNS, STATE = names()


def turn(number: int, message: str = "", reply: str = "") -> Turn:
    """Return the turn with this number."""
    return Turn(
        turn_id=b"turn" + number.to_bytes(12),
        time=1_790_000_000 + number,
        message=message or f"message {number}",
        reply=reply or f"reply {number}",
        outcome="completed",
        receipt_id=b"rcpt" + number.to_bytes(12),
    )


def notes(number: int) -> Notes:
    """Return notes of the turn at this index, with one fact."""
    return Notes(number, facts=(Fact(f"The dog is {number} years old.", sources=(number,)),))


def tombstone(*erased: int) -> Tombstone:
    """Return the record of an erasure of these indexes."""
    return Tombstone(REQUEST, 1_790_000_000, tuple(Ref(one) for one in erased), erased)


async def fill(
    store: ThreadStore, count: int, *, keys: ThreadKeys = KEYS, start: int = 0
) -> list[Position]:
    """Append turns, one by one; return the positions before the first and after each."""
    positions = [(await store.open(keys, expected=None)).view.position]
    for number in range(start, start + count):
        positions.append(await store.append(keys, positions[-1], [turn(number)]))
    return positions


async def whole(
    store: ThreadStore, keys: ThreadKeys = KEYS, position: Position | None = None
) -> list[Record | None]:
    """Read all records of a thread, up to where it ends or to a position."""
    end = position or (await store.open(keys, expected=None)).view.position
    return [record async for _, record in store.scan(keys, position=end)]


async def save(store: ThreadStore, view: View, keys: ThreadKeys = KEYS) -> bytes:
    """Store a state; return it as Redis holds it."""
    assert await store.save_state(keys, view, nonce=os.urandom(12))
    return bytes(await store._io._redis.get(names(keys)[2]))


async def records_of(redis: Redis, keys: ThreadKeys = KEYS) -> list[bytes]:
    """Return a thread's records as Redis holds them."""
    return list(await redis.lrange(names(keys)[0], 0, -1))


async def put(redis: Redis, records: list[bytes], keys: ThreadKeys = KEYS) -> None:
    """Do what only an operator can: write a thread's list anew."""
    await redis.delete(names(keys)[0])
    if records:
        await redis.rpush(names(keys)[0], *records)


async def set_head(redis: Redis, head: bytes, keys: ThreadKeys = KEYS) -> None:
    """Do what only an operator can: change the head beside the records."""
    await redis.hset(names(keys)[1], "head", head)  # type: ignore[arg-type]


async def everything(redis: Redis) -> bytes:
    """Return all keys, fields and values that the server holds, in one string of bytes."""
    parts: list[Any] = []
    async for key in redis.scan_iter():
        parts.append(key)
        match await redis.type(key):
            case b"list":
                parts += await redis.lrange(key, 0, -1)
            case b"hash":
                parts += [one for pair in (await redis.hgetall(key)).items() for one in pair]
            case _:
                parts.append(await redis.get(key))
    return b"\n".join(parts)


@dataclass
class Copy:
    """A thread as Redis held it at some time: what an operator can put back."""

    parts: tuple[bytes | None, ...]

    @classmethod
    async def of(cls, redis: Redis, keys: ThreadKeys = KEYS) -> "Copy":
        """Take a copy."""
        return cls(tuple([await redis.dump(name) for name in names(keys)]))

    async def restore(self, redis: Redis, keys: ThreadKeys = KEYS) -> None:
        """Put it back."""
        for name, part in zip(names(keys), self.parts, strict=True):
            await redis.delete(name)
            if part is not None:
                await redis.restore(name, 0, part)
