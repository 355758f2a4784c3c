"""What is erased is gone from Redis: single records, whole threads, threads under an old key."""

import asyncio
import os
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from memory.errors import (
    ConflictError,
    CorruptError,
    ForgottenError,
    InvalidInputError,
    RollbackError,
    RotatedError,
    TurnForgottenError,
    UnavailableError,
)
from memory.keys import ThreadKeys
from memory.records import Gap, Ref, is_stub
from memory.store import ThreadStore
from memory.thread import Erased, Position
from tests.memory.threads import (
    KEYS,
    OTHER,
    RECORDS,
    REQUEST,
    STATE,
    TURNS,
    Copy,
    everything,
    fill,
    names,
    notes,
    put,
    records_of,
    save,
    set_head,
    tombstone,
    turn,
    whole,
)

NEW = ThreadKeys(b"a new key of the same thread 32b")
ROTATION = b"request to renew"

pytestmark = pytest.mark.integration


async def test_erased_records_are_gone_from_redis(redis_client: Redis) -> None:
    """Not a byte of their seals stays, in the list or in a state, and the chain holds."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 9)
    cached = (await store.open(KEYS, expected=None)).view
    state = await save(store, cached)
    sealed = await records_of(redis_client)
    # Out of order, and more than one record with them: D learns a fact anew, say.
    records = [tombstone(2, 5), notes(4)]
    after = await store.append(KEYS, positions[-1], records, erase=[5, 2])
    held = await everything(redis_client)
    for index in (2, 5):
        assert sealed[index][45:] not in held
        assert sealed[index][33:80] not in held
    assert state[60:120] not in held
    assert await redis_client.exists(STATE) == 0
    stored = await records_of(redis_client)
    assert [index for index, one in enumerate(stored) if is_stub(one)] == [2, 5]

    expected = [turn(number) for number in range(9)]
    left = [one for one in expected if one not in (turn(2), turn(5))]
    for view in (None, cached):
        for seen in (None, positions[0], positions[3], after):
            opened = await store.open(KEYS, expected=seen, cached=view)
            assert [one for _, one in opened.view.turns] == left
            assert opened.view.position == after
    read = await whole(store)
    assert [index for index, one in enumerate(read) if one is None] == [2, 5]
    assert read[9:] == records


async def test_an_erased_turn_is_not_answered_again(redis_client: Redis) -> None:
    """A device that sends it once more learns that it was forgotten."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 4)
    end = await store.append(KEYS, positions[-1], [tombstone(1)], erase=[1])
    view = (await store.open(KEYS, expected=None)).view
    for cached in (None, view):
        with pytest.raises(TurnForgottenError):
            await store.open(KEYS, expected=None, turn_id=turn(1).turn_id, cached=cached)
    with pytest.raises(TurnForgottenError):
        await store.find(KEYS, turn(1).turn_id)
    with pytest.raises(TurnForgottenError):
        await store.append(KEYS, end, [turn(1)])
    # Nobody's word but a tombstone's is taken for it.
    sealed = await records_of(redis_client)
    await put(redis_client, sealed[:4])
    for call in (
        store.find(KEYS, turn(1).turn_id),
        store.append(KEYS, positions[-1], [turn(1)]),
    ):
        with pytest.raises(CorruptError, match="record 1: it was taken out"):
            await call


async def test_only_what_a_tombstone_names_is_erased(redis_client: Redis) -> None:
    """A writer cannot leave a stub that no reader will believe, nor erase a tombstone."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 4)
    before = await everything(redis_client)
    for records, erase in (
        ([turn(9)], [1]),
        ([tombstone(1)], []),
        ([tombstone(1)], [2]),
        ([tombstone(1, 2)], [2]),
        ([tombstone(4)], [4]),
        ([tombstone(1), tombstone(2)], [1]),
    ):
        with pytest.raises(InvalidInputError, match="what the appended tombstones name"):
            await store.append(KEYS, positions[-1], records, erase=erase)
    assert await everything(redis_client) == before
    end = await store.append(KEYS, positions[-1], [tombstone(1)], erase=[1])
    with pytest.raises(InvalidInputError, match="Record 4 is a tombstone"):
        await store.append(KEYS, end, [tombstone(4)], erase=[4])
    # What is erased already may be named again.
    end = await store.append(KEYS, end, [tombstone(1, 2)], erase=[1, 2])
    assert [one is None for one in await whole(store)] == [False, True, True, *[False] * 3]
    with pytest.raises(ConflictError):
        await store.append(KEYS, positions[-1], [tombstone(0)], erase=[0])
    assert (await whole(store))[0] == turn(0)


async def test_a_state_from_before_an_erasure_is_not_stored_after_it(redis_client: Redis) -> None:
    """A copy that an enclave still had in the making does not bring back what was erased."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 4)
    view = (await store.open(KEYS, expected=None)).view
    await store.append(KEYS, positions[-1], [tombstone(1)], erase=[1])
    assert not await store.save_state(KEYS, view, nonce=os.urandom(12))
    assert await redis_client.exists(STATE) == 0


async def test_a_scan_stands_an_erasure_that_comes_meanwhile(redis_client: Redis) -> None:
    """A record that is erased while a thread is read is one that was erased, not one taken out."""
    store = ThreadStore(redis_client)
    position = Position.genesis(KEYS)
    for start in (0, 200):
        batch = [turn(number) for number in range(start, start + 200)]
        position = await store.append(KEYS, position, batch)
    end = position
    read = []
    async for index, record in store.scan(KEYS, position=end):
        read.append(record)
        if index == 130:
            position = await store.append(KEYS, position, [tombstone(5, 300)], erase=[5, 300])
            await fill(store, 150, start=500)
    assert [index for index, one in enumerate(read) if one is None] == [300]
    assert len(read) == 400


async def test_opening_stands_an_erasure_that_comes_meanwhile(redis_client: Redis) -> None:
    """Opened again and again while records are erased, a thread is never called corrupt."""
    store = ThreadStore(redis_client)
    position = Position.genesis(KEYS)
    for start in range(0, 400, 200):
        batch = [turn(number) for number in range(start, start + 200)]
        position = await store.append(KEYS, position, batch)
    ended = False

    async def read() -> int:
        times = 0
        while not ended:
            await store.open(KEYS, expected=position)
            times += 1
        return times

    reading = asyncio.create_task(read())
    end = position
    for index in range(0, 400, 10):
        end = await store.append(KEYS, end, [tombstone(index)], erase=[index])
        await asyncio.sleep(0)
    ended = True
    assert await reading > 1
    assert len((await store.open(KEYS, expected=end)).view.erased) == 40


async def test_a_forgotten_thread_leaves_a_note_alone(redis_client: Redis) -> None:
    """What there was is told; no record, tag or state stays; other threads stay as they are."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 3)
    await save(store, (await store.open(KEYS, expected=None)).view)
    await fill(store, 2, keys=OTHER)
    erased = await store.forget(KEYS, REQUEST)
    assert erased == Erased(3, positions[-1].head)
    await _check_gone(redis_client)
    assert (await store.open(OTHER, expected=None)).view.position.length == 2
    assert await store.forget(KEYS, REQUEST) == erased, "a lost answer is told again"
    assert await store.forget(KEYS, bytes(16)) == Erased(0, None)
    assert await store.forget(KEYS, REQUEST) == erased
    await _check_gone(redis_client)


async def _check_gone(client: Redis, keys: ThreadKeys = KEYS) -> None:
    """Of a forgotten thread there is a note that stays, and nothing else."""
    records, turns, state = names(keys)
    assert await client.exists(records, state) == 0
    assert set(await client.hkeys(turns)) == {b"erasure", b"request", b"length", b"head"}
    assert await client.ttl(turns) == -1


async def test_a_forgotten_thread_takes_nothing_more(redis_client: Redis) -> None:
    """Turns that run elsewhere, devices that come back in a year: each is told, none writes."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 2)
    view = (await store.open(KEYS, expected=None)).view
    await store.forget(KEYS, REQUEST)
    for expected in (None, *positions):
        for cached in (None, view):
            with pytest.raises(ForgottenError) as caught:
                await store.open(KEYS, expected=expected, cached=cached)
            assert caught.value.code == "thread_forgotten"
    for position in positions:
        with pytest.raises(ForgottenError):
            await store.append(KEYS, position, [turn(9)])
    with pytest.raises(ForgottenError):
        await whole(store, position=positions[-1])
    with pytest.raises(ForgottenError):
        await store.append(KEYS, positions[-1], [tombstone(1)], erase=[1])
    assert not await store.save_state(KEYS, view, nonce=bytes(12))
    await _check_gone(redis_client)


@pytest.mark.parametrize("damage", ["string", "no hash", "damaged record", "no records", "note"])
async def test_what_cannot_be_read_can_be_forgotten(redis_client: Redis, damage: str) -> None:
    """A person may forget a thread whatever somebody has done to it; nothing is made up."""
    store = ThreadStore(redis_client)
    await fill(store, 2)
    match damage:
        case "string":
            await redis_client.set(RECORDS, b"not a list")
        case "no hash":
            await redis_client.delete(RECORDS, TURNS)
            await redis_client.set(TURNS, b"not a hash")
        case "damaged record":
            await put(redis_client, [b"x"])
            await set_head(redis_client, b"too short")
        case "no records":
            await redis_client.delete(RECORDS)
        case _:
            await redis_client.delete(RECORDS, TURNS)
            note: Any = {"erasure": bytes(16), "request": b"", "length": "7"}
            await redis_client.hset(TURNS, mapping=note)
    erased = await store.forget(KEYS, REQUEST)
    assert erased == Erased(1 if damage == "damaged record" else 0, None)
    assert await store.forget(KEYS, REQUEST) == erased
    await _check_gone(redis_client)
    with pytest.raises(ForgottenError):
        await store.open(KEYS, expected=None)


async def test_forgetting_fails_clearly_while_redis_is_away(
    valkey_process: Any, own_redis_client: Redis
) -> None:
    """Nothing is said to be forgotten that may not be."""
    valkey_process.kill()
    with pytest.raises(UnavailableError):
        await ThreadStore(own_redis_client).forget(KEYS, REQUEST)


async def test_a_full_server_forgets(valkey_process: Any, own_redis_client: Redis) -> None:
    """Where there is no memory left, forgetting is what makes room."""
    store = ThreadStore(own_redis_client)
    await fill(store, 2)
    await own_redis_client.config_set("maxmemory", 1)
    assert (await store.forget(KEYS, REQUEST)).length == 2
    await _check_gone(own_redis_client)


async def _thread(store: ThreadStore) -> list[Any]:
    """A thread of 150 records of which two are erased; what its copy should be."""
    position = Position.genesis(KEYS)
    records: list[Any] = []
    for start in range(0, 140, 70):
        batch = [
            replace(turn(number), recalled=(Ref(number),)) if number % 2 == 0 else notes(number - 1)
            for number in range(start, start + 70)
        ]
        position = await store.append(KEYS, position, batch)
        records += batch
    records.append(tombstone(0, 70))
    position = await store.append(KEYS, position, records[-1:], erase=[0, 70])
    batch = [turn(number) for number in range(200, 209)]
    await store.append(KEYS, position, batch)
    records += batch
    return [Gap() if index in (0, 70) else one for index, one in enumerate(records)]


async def test_a_rotated_thread_is_the_same_under_another_key(redis_client: Redis) -> None:
    """Every kept record is there at its index; of the old thread there is a note alone."""
    store = ThreadStore(redis_client)
    records = await _thread(store)
    before = (await store.open(KEYS, expected=None)).view
    rotated = await store.rotate(KEYS, NEW, ROTATION)
    assert rotated.erased == Erased(150, before.position.head)
    opened = await store.open(NEW, expected=rotated.position, turn_id=turn(204).turn_id)
    assert opened.covered == rotated.position.length == 150
    assert opened.answered is not None
    assert opened.answered.before.length == 145
    assert await whole(store, NEW) == records
    assert opened.view.turns == before.turns
    assert [str(one.ref) for one in opened.view.facts()] == [str(one.ref) for one in before.facts()]
    await _check_gone(redis_client)
    end = await store.append(NEW, rotated.position, [tombstone(3)], erase=[3])

    # The same request is told the same, also when the thread has gone on; others are refused.
    again = await store.rotate(KEYS, NEW, ROTATION)
    assert (again.erased, again.position) == (rotated.erased, end)
    for call in (
        lambda: store.rotate(KEYS, NEW, REQUEST),
        lambda: store.forget(KEYS, REQUEST),
        lambda: store.open(KEYS, expected=before.position),
        lambda: store.append(KEYS, before.position, [turn(300)]),
    ):
        with pytest.raises(RotatedError) as caught:
            await call()
        assert caught.value.code == "thread_rotated"
    assert len(await whole(store, NEW)) == 151
    # And once more: a gap stays a gap.
    third = ThreadKeys(b"third key of the same thread 32b")
    assert (await store.rotate(NEW, third, REQUEST)).position.length == 151
    records[3] = Gap()
    assert await whole(store, third) == [*records, tombstone(3)]


async def test_a_thread_that_was_cut_back_since_it_was_opened_is_not_rotated(
    redis_client: Redis,
) -> None:
    """Shorter, or as long and another: the old thread stays as it is."""
    store = ThreadStore(redis_client)
    await _thread(store)
    end = (await store.open(KEYS, expected=None)).view.position
    for seen in (Position(end.length + 1, bytes(32)), Position(end.length, bytes(32))):
        with pytest.raises(RollbackError):
            await store.rotate(KEYS, NEW, ROTATION, expected=seen)
    assert (await store.open(KEYS, expected=end)).view.position == end
    assert (await store.rotate(KEYS, NEW, ROTATION, expected=end)).erased.length == end.length


async def test_an_empty_thread_can_be_rotated(redis_client: Redis) -> None:
    """A person may renew a key before the first word."""
    store = ThreadStore(redis_client)
    rotated = await store.rotate(KEYS, NEW, ROTATION)
    assert rotated.erased == Erased(0, None)
    assert rotated.position == Position.genesis(NEW)
    with pytest.raises(RotatedError):
        await store.open(KEYS, expected=None)


async def _copied_in_part(store: ThreadStore, redis: Redis, count: int) -> list[Any]:
    """Leave what an enclave leaves that died when it had copied so many records of 140."""
    records: list[Any] = [
        turn(number) if number % 2 == 0 else notes(number - 1) for number in range(140)
    ]
    await store.append(KEYS, Position.genesis(KEYS), records)
    old, sealed = await Copy.of(redis), await records_of(redis)
    place = Position.genesis(KEYS)
    for one in sealed[:count]:
        place = place.follow(one)
    await put(redis, sealed[:count])
    if count:
        await set_head(redis, place.head)
    else:
        await redis.delete(TURNS)
    await store.rotate(KEYS, NEW, ROTATION)
    await old.restore(redis)
    return records


@pytest.mark.parametrize("count", [0, 1, 64, 100, 139, 140])
async def test_a_rotation_that_broke_off_is_resumed(redis_client: Redis, count: int) -> None:
    """Wherever it ended, the next one goes on from there, and erasures in between hold."""
    store = ThreadStore(redis_client)
    records = await _copied_in_part(store, redis_client, count)
    view = (await store.open(KEYS, expected=None)).view
    await store.append(KEYS, view.position, [tombstone(2, 75)], erase=[2, 75])
    sealed = await records_of(redis_client, NEW)
    assert len(sealed) == count
    rotated = await store.rotate(KEYS, NEW, ROTATION)
    assert rotated.position.length == rotated.erased.length == 141
    read = await whole(store, NEW)
    assert read[140] == tombstone(2, 75)
    # What was copied before it was erased is erased in the copy too, and is no gap.
    assert [read[2], read[75]] == [None if count > 2 else Gap(), None if count > 75 else Gap()]
    read[2], read[75] = records[2], records[75]
    assert read[:140] == records
    held = await everything(redis_client)
    for index in (2, 75):
        assert index >= count or sealed[index][33:80] not in held
    await _check_gone(redis_client)


@pytest.mark.parametrize("count", [0, 1, 100, 140])
async def test_what_is_forgotten_while_it_is_rotated_is_forgotten(
    redis_client: Redis, count: int
) -> None:
    """No copy under the new key outlives the request of its owner."""
    store = ThreadStore(redis_client)
    await _copied_in_part(store, redis_client, count)
    await store.forget(KEYS, REQUEST)
    assert await redis_client.llen(names(NEW)[0]) == count
    with pytest.raises(ForgottenError) as caught:
        await store.rotate(KEYS, NEW, ROTATION)
    assert caught.value.code == "thread_forgotten"
    await _check_gone(redis_client)
    await _check_gone(redis_client, NEW)


async def test_the_two_steps_of_a_rotation_can_be_taken_apart(redis_client: Redis) -> None:
    """A device may go over to the new thread, and speak there, before the old one is erased."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 70)
    copied = await store.copy(KEYS, NEW, positions[-1])
    assert await store.copy(KEYS, NEW, positions[-1]) == copied
    later = await store.append(NEW, copied, [turn(500), tombstone(4)], erase=[4])
    with pytest.raises(CorruptError, match="holds more"):
        await store.rotate(KEYS, NEW, ROTATION)
    with pytest.raises(ConflictError):
        await store.rotate(KEYS, NEW, ROTATION, copied=69)
    rotated = await store.rotate(KEYS, NEW, ROTATION, copied=70)
    assert (rotated.erased, rotated.position) == (Erased(70, positions[-1].head), later)
    await _check_gone(redis_client)


async def test_what_comes_during_a_rotation_is_not_lost(redis_client: Redis) -> None:
    """Each acknowledged turn and erasure is in the new thread, or was refused: the key changed."""
    store = ThreadStore(redis_client)
    copied = await _thread(store)
    acknowledged: list[Any] = []

    async def speak() -> None:
        view, pause = None, 0.01
        for number in range(1000, 1100):
            erased = number - 990
            records = [turn(number), tombstone(erased)]
            try:
                view = (await store.open(KEYS, expected=None, cached=view)).view
                await store.append(KEYS, view.position, records, erase=[erased])
            except RotatedError:
                return
            acknowledged.extend(records)
            copied[erased] = None
            if len(acknowledged) > 6:
                # Ever longer, until a rotation gets through on any machine.
                await asyncio.sleep(pause)
                pause *= 1.5

    speaking = asyncio.create_task(speak())
    await asyncio.sleep(0)
    rotated = await asyncio.gather(
        store.rotate(KEYS, NEW, ROTATION), store.rotate(KEYS, NEW, ROTATION)
    )
    await speaking
    assert acknowledged
    assert rotated[0].erased == rotated[1].erased
    read = await whole(store, NEW)
    assert read[150:] == acknowledged
    for index, record in enumerate(copied):
        assert read[index] == record or (record is None and read[index] == Gap())


async def test_a_rotation_into_a_thread_that_is_in_use_is_refused(redis_client: Redis) -> None:
    """Another memory is not written over, and the old thread stays."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 4)
    old = await Copy.of(redis_client)
    for count in (1, 4, 6):
        theirs = await fill(store, count, keys=NEW, start=50)
        with pytest.raises(CorruptError, match="the thread of the new key holds"):
            await store.rotate(KEYS, NEW, ROTATION)
        assert (await store.open(KEYS, expected=positions[-1])).view.position == positions[-1]
        assert (await store.open(NEW, expected=None)).view.position == theirs[-1]
        await redis_client.delete(*names(NEW))
    # An old copy of a thread that was rotated, put back with its note taken away.
    rotated = await store.rotate(KEYS, NEW, ROTATION)
    await fill(store, 1, keys=NEW, start=60)
    await old.restore(redis_client)
    with pytest.raises(CorruptError, match="the thread of the new key holds more"):
        await store.rotate(KEYS, NEW, ROTATION)
    assert (await store.open(NEW, expected=rotated.position)).view.position.length == 5
