"""Threads in a real Valkey server: written, read, raced for, and unreadable to its operator."""

import asyncio
import base64
import os
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from memory.errors import (
    AnsweredError,
    ConflictError,
    CorruptError,
    InvalidInputError,
    RollbackError,
    UnavailableError,
)
from memory.records import Fact, Notes, Pin, Ref, Summary
from memory.store import MAX_BATCH, ThreadStore
from memory.thread import Answered, Position
from memory.view import View
from tests.memory.threads import (
    KEYS,
    OTHER,
    STATE,
    TURNS,
    everything,
    fill,
    notes,
    save,
    turn,
    whole,
)

pytestmark = pytest.mark.integration


async def test_a_new_thread_is_empty(redis_client: Redis) -> None:
    """Opening what was never written gives the first position and writes nothing."""
    store = ThreadStore(redis_client)
    for expected in (None, Position.genesis(KEYS)):
        opened = await store.open(KEYS, expected=expected, turn_id=bytes(16))
        assert opened.view.position == Position.genesis(KEYS)
        assert (opened.view.turns, opened.answered, opened.covered) == ((), None, 0)
    assert await whole(store) == []
    assert await redis_client.dbsize() == 0


async def test_records_come_back_as_they_were(redis_client: Redis) -> None:
    """Every kind of record, appended alone or together, is read in its place."""
    store = ThreadStore(redis_client)
    records = [
        replace(turn(0), recalled=(Ref(3), Ref(4, 1)), window=2, summary=1, lore=(b"eight by",)),
        Notes(0, b"a model!", b"\x01\xff" * 128, (Fact("The dog is Rex.", "user.dog"),)),
        Summary("They spoke of a dog.", 1, 1_790_000_000),
        turn(1),
        Pin(Ref(1, 0), True),
        notes(3),
    ]
    first = await store.append(KEYS, Position.genesis(KEYS), records[:1])
    last = await store.append(KEYS, first, records[1:])
    assert last.length == 6
    assert await whole(store) == records
    opened = await store.open(KEYS, expected=first, turn_id=turn(1).turn_id)
    assert [one for _, one in opened.view.turns] == [records[0], turn(1)]
    assert opened.answered is not None
    assert opened.answered.turn == turn(1)
    assert (opened.answered.before.length, opened.answered.after.length) == (3, 4)


async def test_a_long_thread_is_read_in_pages(redis_client: Redis) -> None:
    """However many records there are, they are opened in order and from wherever a reader is."""
    store = ThreadStore(redis_client)
    position = Position.genesis(KEYS)
    views: list[View] = []
    for start in range(0, 600, 150):
        batch = [turn(number) for number in range(start, start + 150)]
        position = await store.append(KEYS, position, batch)
        views.append((await store.open(KEYS, expected=position)).view)
    assert await whole(store) == [turn(number) for number in range(600)]
    for cached in views:
        before = cached.encode()
        opened = await store.open(KEYS, expected=views[1].position, cached=cached)
        assert opened.view.position == position
        assert opened.view.turns == views[-1].turns
        assert cached.encode() == before
    assert (await store.open(KEYS, expected=None, cached=views[-1])).view is views[-1]


async def test_a_state_opens_to_the_same_view(redis_client: Redis) -> None:
    """What was folded once is not folded again, and what came after is."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 40)
    folded = await store.open(KEYS, expected=None)
    assert (folded.covered, folded.state_due) == (0, True)
    await save(store, folded.view)
    opened = await store.open(KEYS, expected=None)
    assert (opened.covered, opened.state_due) == (40, False)
    assert opened.view.turns == folded.view.turns
    assert opened.view.encode() == folded.view.encode()
    await store.append(KEYS, positions[-1], [notes(number) for number in range(32)])
    for cached in (None, folded.view):
        later = await store.open(KEYS, expected=positions[3], cached=cached)
        assert (later.covered, later.state_due) == (40, True)
        assert later.view.position.length == 72
        assert len(later.view.facts()) == 32


async def test_a_state_is_kept_only_where_the_thread_ends(redis_client: Redis) -> None:
    """One that a record has overtaken is not stored: what it holds may be erased by then."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 3)
    view = (await store.open(KEYS, expected=None)).view
    later = await save(store, view)
    await store.append(KEYS, positions[-1], [turn(3)])
    assert not await store.save_state(KEYS, view, nonce=os.urandom(12))
    assert await redis_client.get(STATE) == later
    assert not await store.save_state(OTHER, View.empty(OTHER), nonce=os.urandom(12))
    assert await redis_client.exists(f"{{t:{OTHER.thread_id}}}:state") == 0


async def test_a_state_keeps_as_many_long_turns_as_have_room(redis_client: Redis) -> None:
    """Its size is bounded; the newest turns are those that are kept."""
    store = ThreadStore(redis_client)
    position = Position.genesis(KEYS)
    for number in range(6):
        position = await store.append(KEYS, position, [turn(number, reply="ä" * 60_000)])
    sealed = await save(store, (await store.open(KEYS, expected=None)).view)
    assert 4 * 120_000 < len(sealed) < 1 << 20
    opened = await store.open(KEYS, expected=None)
    assert [one.time - 1_790_000_000 for _, one in opened.view.turns] == [2, 3, 4, 5]


async def test_nothing_of_a_conversation_is_readable_in_redis(redis_client: Redis) -> None:
    """No word, name, id or key is found in any key or value, plain, in hexadecimal or base64."""
    store = ThreadStore(redis_client)
    words = ["aubergine", "Wilhelmina", "I am afraid of flying", "naïve café", "completed"]
    said = turn(7, message=" ".join(words[:3]), reply=" ".join(words[2:]))
    position = await store.append(KEYS, Position.genesis(KEYS), [said])
    learned = Notes(0, facts=(Fact("She is called Wilhelmina.", "user.name", sources=(0,)),))
    position = await store.append(KEYS, position, [learned, turn(8, message="aubergine " * 500)])
    await save(store, (await store.open(KEYS, expected=None)).view)

    held = await everything(redis_client)
    secrets = [word.encode() for word in words] + [b"fern", b"m" * 32, KEYS.cache_salt.encode()]
    secrets += [said.turn_id, said.receipt_id, KEYS.record_key(0), bytes.fromhex(KEYS.cache_salt)]
    secrets += [said.time.to_bytes(4), str(said.time).encode(), KEYS.state_key(), b"user.name"]
    for secret in secrets:
        assert secret.lower() not in held.lower()
        assert secret.hex().encode() not in held.lower()
        # The middle of a base64 text does not depend on what stands around it, at three offsets.
        for offset in range(3):
            coded = base64.b64encode(bytes(offset) + secret)[4:-4]
            assert len(coded) < 4 or coded not in held
    assert KEYS.thread_id.encode() in held


async def test_all_keys_of_a_thread_share_one_hash_slot(redis_client: Redis) -> None:
    """On a cluster, a script finds everything on one node."""
    store = ThreadStore(redis_client)
    await fill(store, 1)
    await save(store, (await store.open(KEYS, expected=None)).view)
    keys = [key async for key in redis_client.scan_iter()]
    assert len(keys) == 3
    assert {await redis_client.execute_command("CLUSTER KEYSLOT", key) for key in keys} == {
        await redis_client.execute_command("CLUSTER KEYSLOT", f"t:{KEYS.thread_id}")
    }


async def test_of_writers_that_race_one_wins_and_nothing_is_lost(redis_client: Redis) -> None:
    """Every round, of many writers at one head exactly one appends and the rest are told."""
    store = ThreadStore(redis_client)
    position = Position.genesis(KEYS)
    for start in (0, 10, 20):
        results = await asyncio.gather(
            *(store.append(KEYS, position, [turn(start + n), notes(0)]) for n in range(10)),
            return_exceptions=True,
        )
        winners = [one for one in results if isinstance(one, Position)]
        losers = [one for one in results if isinstance(one, ConflictError)]
        assert (len(winners), len(losers)) == (1, 9)
        assert losers[0].found == position.length + 2
        position = winners[0]
    view = (await store.open(KEYS, expected=position)).view
    assert [one.time // 10 for _, one in view.turns] == [179000000, 179000001, 179000002]


async def test_two_stores_that_take_turns_lose_nothing(valkey: str, redis_client: Redis) -> None:
    """Two enclaves, each with a cached view of its own, write one thread in one order."""
    async with Redis.from_url(valkey, protocol=2) as client:
        stores = [ThreadStore(redis_client), ThreadStore(client)]

        async def speak(store: ThreadStore, numbers: range) -> None:
            view = None
            for number in numbers:
                while True:
                    view = (await store.open(KEYS, expected=None, cached=view)).view
                    try:
                        await store.append(KEYS, view.position, [turn(number), notes(number)])
                    except ConflictError:
                        continue
                    if number % 5 == 0:
                        view = (await store.open(KEYS, expected=None, cached=view)).view
                        await store.save_state(KEYS, view, nonce=os.urandom(12))
                    break

        await asyncio.gather(speak(stores[0], range(20)), speak(stores[1], range(100, 120)))
        for store in stores:
            view = (await store.open(KEYS, expected=None)).view
            said = [one.time - 1_790_000_000 for _, one in view.turns]
            assert sorted(said) == [*range(20), *range(100, 120)]
            assert [one for one in said if one < 100] == list(range(20))
            assert view.position.length == 80


async def test_a_turn_is_remembered_once(redis_client: Redis) -> None:
    """The same turn sent again, now or many turns later, changes nothing."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 3)
    before = await everything(redis_client)
    for at in (positions[0], positions[1], positions[3]):
        again = [turn(0, reply="a second answer")]
        assert await store.append(KEYS, at, again) == positions[1]
        assert await store.append(KEYS, at, [turn(2)]) == positions[3]
        assert await store.append(KEYS, at, [notes(1), turn(2)]) == positions[3]
    other = replace(turn(0), receipt_id=b"another receipt!")
    with pytest.raises(AnsweredError):
        await store.append(KEYS, positions[3], [other])
    assert await everything(redis_client) == before


async def test_an_answered_turn_is_found_by_its_id(redis_client: Redis) -> None:
    """A second enclave finds the answer that the first one gave before it died."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 90)
    there = Answered(turn(4), positions[4], positions[5])
    assert await store.find(KEYS, turn(4).turn_id) == there
    assert await store.find(KEYS, turn(91).turn_id) is None
    assert await store.find(OTHER, turn(4).turn_id) is None
    opened = await store.open(KEYS, expected=None, turn_id=turn(4).turn_id)
    assert opened.answered == there
    cached = opened.view
    opened = await store.open(KEYS, expected=None, turn_id=turn(4).turn_id, cached=cached)
    assert opened.answered == there
    opened = await store.open(KEYS, expected=None, turn_id=turn(91).turn_id, cached=cached)
    assert opened.answered is None


async def test_a_list_of_answered_turns_that_was_changed_is_refused(redis_client: Redis) -> None:
    """No other turn's answer is given out for the one that was asked for."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 3)
    tag: Any = KEYS.turn_tag(turn(0).turn_id)
    for value in ("1", "7", "-1", "", "x", "0x0", "00", "9" * 30, "4294967296"):
        await redis_client.hset(TURNS, tag, value)
        with pytest.raises(CorruptError):
            await store.find(KEYS, turn(0).turn_id)
        with pytest.raises(CorruptError):
            await store.append(KEYS, positions[3], [turn(0)])
        with pytest.raises(CorruptError):
            await store.open(KEYS, expected=None, turn_id=turn(0).turn_id)


async def test_what_is_too_large_stores_nothing(redis_client: Redis) -> None:
    """The limits hold before Redis is asked, and of several records none is stored."""
    store = ThreadStore(redis_client)
    genesis = Position.genesis(KEYS)
    for records in ([turn(0), turn(1, reply="x" * 300_000)], [], [turn(0)] * (MAX_BATCH + 1)):
        with pytest.raises(InvalidInputError):
            await store.append(KEYS, genesis, records)
    assert await redis_client.dbsize() == 0


async def test_scripts_are_taught_to_a_server_that_forgot_them(redis_client: Redis) -> None:
    """A restarted or failed-over server has no scripts; everything works all the same."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 1)
    await redis_client.script_flush()
    assert (await store.append(KEYS, positions[1], [turn(1)])).length == 2
    await redis_client.script_flush()
    view = (await store.open(KEYS, expected=None)).view
    await redis_client.script_flush()
    await save(store, view)
    await redis_client.script_flush()
    assert (await store.forget(KEYS, bytes(16))).length == 2


async def _output_bytes_and_commands(observer: Redis, client_id: int) -> tuple[int, int]:
    """What one client was sent so far, and how many commands there were of all."""
    (client,) = await observer.client_list(client_id=[client_id])
    commands = (await observer.info("stats"))["total_commands_processed"]
    return int(client["tot-net-out"]), commands


async def test_opening_reads_only_what_it_needs(valkey: str, redis_client: Redis) -> None:
    """One round trip from a state or a cached view, and of 1,500 records no more than of 50."""
    observer = Redis.from_url(valkey)
    store, client_id = ThreadStore(redis_client), await redis_client.client_id()
    costs = []
    position = Position.genesis(KEYS)
    for start, end in ((0, 50), (50, 1500)):
        for at in range(start, end, 150):
            batch = [turn(number) for number in range(at, min(at + 150, end))]
            position = await store.append(KEYS, position, batch)
        cached = (await store.open(KEYS, expected=None)).view
        seen = position
        position = await store.append(KEYS, position, [notes(1)])
        before = await _output_bytes_and_commands(observer, client_id)
        await store.open(KEYS, expected=seen, cached=cached, turn_id=bytes(16))
        after = await _output_bytes_and_commands(observer, client_id)
        # A script counts with the four commands that it runs; the observer's two do not.
        costs.append((after[0] - before[0], after[1] - before[1] - 2))
        await redis_client.delete(STATE)
    await observer.aclose()
    (short_bytes, short_commands), (long_bytes, long_commands) = costs
    assert short_commands == long_commands <= 6
    assert 573 < short_bytes < long_bytes + 8 < 900


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_redis_protocols_serve(valkey: str, redis_client: Redis, protocol: int) -> None:
    """RESP2, which some managed servers speak, works as RESP3 does."""
    async with Redis.from_url(valkey, protocol=protocol) as client:
        store = ThreadStore(client)
        positions = await fill(store, 30)
        opened = await store.open(KEYS, expected=positions[2], turn_id=turn(3).turn_id)
        assert opened.view.position == positions[-1]
        assert opened.answered == Answered(turn(3), positions[3], positions[4])
        await save(store, opened.view)
        assert (await store.open(KEYS, expected=positions[2])).view.turns == opened.view.turns
        assert await store.append(KEYS, positions[-1], [turn(3)]) == positions[4]
        assert (await store.forget(KEYS, bytes(16))).head == positions[-1].head


async def test_a_killed_server_loses_no_acknowledged_turn(
    valkey_process: Any, own_redis_client: Redis
) -> None:
    """After the server is killed and started again, every turn is there and writing goes on."""
    store = ThreadStore(own_redis_client)
    positions = await fill(store, 12)
    view = (await store.open(KEYS, expected=positions[-1])).view
    await save(store, view)
    valkey_process.kill()
    for call in (
        lambda: store.open(KEYS, expected=positions[-1]),
        lambda: store.append(KEYS, positions[-1], [turn(12)]),
        lambda: store.find(KEYS, turn(1).turn_id),
        lambda: store.save_state(KEYS, view, nonce=bytes(12)),
        lambda: whole(store, position=positions[-1]),
        lambda: store.rotate(KEYS, OTHER, bytes(16)),
    ):
        with pytest.raises(UnavailableError):
            await call()
    valkey_process.start()
    opened = await store.open(KEYS, expected=positions[-1])
    assert opened.covered == 12
    assert [one for _, one in opened.view.turns] == [turn(number) for number in range(12)]
    assert (await store.append(KEYS, opened.view.position, [turn(12)])).length == 13


async def test_a_server_that_takes_no_writes_is_unavailable(
    valkey_process: Any, own_redis_client: Redis
) -> None:
    """Out of memory or read-only, the server refuses, nothing is stored, and reading goes on."""
    store = ThreadStore(own_redis_client)
    positions = await fill(store, 2)
    view = (await store.open(KEYS, expected=None)).view
    for setting, value in (("maxmemory", 1), ("min-replicas-to-write", 1)):
        await own_redis_client.config_set(setting, value)
        with pytest.raises(UnavailableError):
            await store.append(KEYS, positions[-1], [turn(2)])
        with pytest.raises(UnavailableError):
            await store.save_state(KEYS, view, nonce=bytes(12))
        assert (await store.open(KEYS, expected=positions[-1])).view.position == positions[-1]
        assert len(await whole(store)) == 2
        await own_redis_client.config_set(setting, 0)
    assert (await store.append(KEYS, positions[-1], [turn(2)])).length == 3


async def test_reading_to_a_place_that_is_not_there_is_refused(redis_client: Redis) -> None:
    """A scan ends where the reader's view does, or says that it cannot."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 5)
    assert await whole(store, position=positions[3]) == [turn(0), turn(1), turn(2)]
    for elsewhere in (Position(5, bytes(32)), Position(7, bytes(32)), Position(2, bytes(32))):
        with pytest.raises(RollbackError, match="this enclave has seen"):
            await whole(store, position=elsewhere)
