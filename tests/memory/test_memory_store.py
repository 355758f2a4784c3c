"""Threads in a real Valkey server: what its operator can read, and what he can undo."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from memory.errors import (
    AnsweredError,
    ConflictError,
    CorruptError,
    ForgottenError,
    InvalidInputError,
    RollbackError,
    UnavailableError,
)
from memory.keys import ThreadKeys, derive_thread_key
from memory.records import Turn
from memory.store import ThreadStore
from memory.thread import Answered, Position

KEYS = ThreadKeys(derive_thread_key(b"m" * 32, "fern"))
OTHER = ThreadKeys(derive_thread_key(b"m" * 32, "moss"))
RECORDS = f"{{t:{KEYS.thread_id}}}:records"
TURNS = f"{{t:{KEYS.thread_id}}}:turns"
REQUEST = b"request to forge"

pytestmark = pytest.mark.integration


def _turn(number: int, message: str = "", reply: str = "") -> Turn:
    return Turn(
        turn_id=b"turn" + number.to_bytes(12),
        time=1_790_000_000 + number,
        message=message or f"message {number}",
        reply=reply or f"reply {number}",
        outcome="completed",
        receipt_id=b"rcpt" + number.to_bytes(12),
    )


async def _fill(
    store: ThreadStore, count: int, *, keys: ThreadKeys = KEYS, start: int = 0
) -> list[Position]:
    """Append turns; return the positions before the first and after each."""
    positions = [(await store.load(keys, expected=None, last=1)).position]
    for number in range(start, start + count):
        positions.append(await store.append(keys, positions[-1], _turn(number)))
    return positions


async def _entries(redis: Redis, name: str = RECORDS) -> list[tuple[bytes, dict[Any, Any]]]:
    return [(entry, fields) for entry, fields in await redis.xrange(name)]


async def _replace(redis: Redis, entries: list[tuple[bytes, dict[Any, Any]]]) -> None:
    """Do what only an operator can: write the stream anew."""
    await redis.delete(RECORDS)
    for entry, fields in entries:
        await redis.xadd(RECORDS, fields, id=entry)


async def _everything(redis: Redis) -> bytes:
    """All keys, fields and values that the server holds, in one string of bytes."""
    parts: list[bytes] = []
    async for key in redis.scan_iter():
        parts.append(key)
        if await redis.type(key) == b"stream":
            for entry, fields in await _entries(redis, key):
                parts += [entry, *fields.keys(), *fields.values()]
        else:
            for field, value in (await redis.hgetall(key)).items():
                parts += [field, value]
    return b"\n".join(parts)


async def test_a_new_thread_is_empty(redis_client: Redis) -> None:
    """Loading what was never written gives the first position and writes nothing."""
    thread = await ThreadStore(redis_client).load(KEYS, expected=None, last=20)
    assert thread.turns == ()
    assert thread.position == Position.genesis(KEYS)
    assert await redis_client.dbsize() == 0


async def test_turns_come_back_oldest_first(redis_client: Redis) -> None:
    """The newest turns are returned, as many as were asked for."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 5)
    for last in range(8):
        thread = await store.load(KEYS, expected=positions[-1], last=last)
        assert thread.position == positions[-1]
        assert thread.turns == tuple(_turn(number) for number in range(max(0, 5 - last), 5))


async def test_nothing_of_a_conversation_is_readable_in_redis(redis_client: Redis) -> None:
    """No word, name, id or key is found in any key or value, plain, in hexadecimal or base64."""
    store = ThreadStore(redis_client)
    words = ["aubergine", "Wilhelmina", "I am afraid of flying", "naïve café", "completed"]
    turn = _turn(7, message=" ".join(words[:3]), reply=" ".join(words[2:]))
    position = await store.append(KEYS, Position.genesis(KEYS), turn)
    await store.append(KEYS, position, _turn(8, message="aubergine " * 500))

    held = await _everything(redis_client)
    secrets = [word.encode() for word in words] + [b"fern", b"m" * 32, KEYS.cache_salt.encode()]
    secrets += [turn.turn_id, turn.receipt_id, KEYS.record_key(0), bytes.fromhex(KEYS.cache_salt)]
    secrets += [turn.time.to_bytes(4), str(turn.time).encode()]
    for secret in secrets:
        assert secret.lower() not in held.lower()
        assert secret.hex().encode() not in held.lower()
        # The middle of a base64 text does not depend on what stands around it, at three offsets.
        for offset in range(3):
            coded = base64.b64encode(bytes(offset) + secret)[4:-4]
            assert len(coded) < 4 or coded not in held
    assert KEYS.thread_id.encode() in held


async def test_all_keys_of_a_thread_share_one_hash_slot(redis_client: Redis) -> None:
    """On a cluster, the script finds everything on one node."""
    await _fill(ThreadStore(redis_client), 1)
    keys = [key async for key in redis_client.scan_iter()]
    assert len(keys) == 2
    assert {await redis_client.execute_command("CLUSTER KEYSLOT", key) for key in keys} == {
        await redis_client.execute_command("CLUSTER KEYSLOT", f"t:{KEYS.thread_id}")
    }


async def test_a_device_that_is_behind_is_caught_up(redis_client: Redis) -> None:
    """Any position the thread ever had is found in it, however far back."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 200)
    for seen in (0, 1, 63, 64, 65, 130, 194, 195, 196, 200):
        thread = await store.load(KEYS, expected=positions[seen], last=5)
        assert thread.position == positions[-1]
        assert len(thread.turns) == 5


async def test_a_truncated_thread_is_refused_to_a_device_that_saw_more(redis_client: Redis) -> None:
    """The operator who restores an old copy is found out, and nothing is changed."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 6)
    entries = await _entries(redis_client)
    for kept in range(6):
        await _replace(redis_client, entries[:kept])
        before = await _everything(redis_client)
        with pytest.raises(RollbackError) as caught:
            await store.load(KEYS, expected=positions[6], last=3)
        assert (caught.value.code, caught.value.found) == ("memory_rollback", kept)
        assert await _everything(redis_client) == before


async def test_a_device_without_a_position_cannot_see_a_rollback(redis_client: Redis) -> None:
    """The limit of the promise: a whole older chain is genuine to one who remembers nothing."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 6)
    await _replace(redis_client, (await _entries(redis_client))[:4])
    assert (await store.load(KEYS, expected=None, last=9)).position == positions[4]


async def test_a_thread_rewritten_after_a_rollback_is_refused(redis_client: Redis) -> None:
    """A history that was continued otherwise is not the one the device saw, even when longer."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 6)
    entries = await _entries(redis_client)
    await redis_client.delete(TURNS)
    await _replace(redis_client, entries[:4])
    await _fill(store, 90, start=100)
    for seen in (5, 6):
        for last in (1, 20, 89, 90, 200):
            with pytest.raises(RollbackError):
                await store.load(KEYS, expected=positions[seen], last=last)
    for seen in range(5):
        await store.load(KEYS, expected=positions[seen], last=20)

    # The device's own record, put back in front of the other history, does not bridge the two.
    mixed = await _entries(redis_client)
    mixed[4:6] = entries[4:6]
    await _replace(redis_client, mixed)
    for seen in (4, 5, 6):
        for last in (1, 20, 89, 200):
            with pytest.raises((RollbackError, CorruptError)):
                await store.load(KEYS, expected=positions[seen], last=last)


async def test_a_replayed_old_head_does_not_accept_a_turn(redis_client: Redis) -> None:
    """Setting the head beside the newest record back is noticed by readers, moves no writer."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 3)
    entries = await _entries(redis_client)
    entries[-1][1][b"h"] = positions[2].head
    await _replace(redis_client, entries)
    with pytest.raises(CorruptError):
        await store.load(KEYS, expected=positions[3], last=3)
    with pytest.raises(ConflictError):
        await store.append(KEYS, positions[2], _turn(99))
    with pytest.raises(ConflictError):
        await store.append(KEYS, positions[3], _turn(99))


async def test_a_flipped_bit_in_any_byte_is_noticed(redis_client: Redis) -> None:
    """Each byte of the record and of the head beside it counts."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 2)
    entries = await _entries(redis_client)
    for field in (b"r", b"h"):
        original = entries[1][1][field]
        for at in range(0, len(original), 1 if len(original) < 64 else 7):
            damaged = bytearray(original)
            damaged[at] ^= 0x10
            await _replace(redis_client, [entries[0], (b"2-0", entries[1][1] | {field: damaged})])
            with pytest.raises(CorruptError) as caught:
                await store.load(KEYS, expected=positions[1], last=2)
            assert caught.value.index == 1


async def test_damage_before_the_newest_turns_is_noticed_by_a_device_behind_it(
    redis_client: Redis,
) -> None:
    """Records that are only followed, not opened, are bound by their hashes."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 8)
    entries = await _entries(redis_client)
    entries[4][1][b"r"] = entries[4][1][b"r"][:-1] + b"\x00"
    await _replace(redis_client, entries)
    with pytest.raises(CorruptError):
        await store.load(KEYS, expected=positions[3], last=2)
    del entries[4]
    await _replace(redis_client, entries)
    with pytest.raises(CorruptError):
        await store.load(KEYS, expected=positions[3], last=2)


def _swap(entries: list[Any]) -> list[Any]:
    (_, a), (_, b) = entries[1], entries[2]
    return [entries[0], (b"2-0", b), (b"3-0", a), entries[3]]


def _lose_one(entries: list[Any]) -> list[Any]:
    return [*entries[:2], entries[3]]


def _lose_one_and_close_the_gap(entries: list[Any]) -> list[Any]:
    return [*entries[:2], (b"3-0", entries[3][1])]


def _repeat(entries: list[Any]) -> list[Any]:
    return [*entries, (b"5-0", entries[3][1])]


def _lose_the_first(entries: list[Any]) -> list[Any]:
    return entries[1:]


def _count_from_another_number(entries: list[Any]) -> list[Any]:
    return [(b"%d-1" % (at + 1), fields) for at, (_, fields) in enumerate(entries)]


def _extra_field(entries: list[Any]) -> list[Any]:
    return [*entries[:3], (b"4-0", entries[3][1] | {b"x": b""})]


def _empty_record(entries: list[Any]) -> list[Any]:
    return [*entries[:3], (b"4-0", entries[3][1] | {b"r": b""})]


@pytest.mark.parametrize(
    "change",
    [
        _swap,
        _lose_one,
        _lose_one_and_close_the_gap,
        _repeat,
        _lose_the_first,
        _count_from_another_number,
        _extra_field,
        _empty_record,
    ],
)
@pytest.mark.parametrize("last", [4, 20])
async def test_a_rearranged_chain_is_refused(
    redis_client: Redis, change: Callable[[list[Any]], list[Any]], last: int
) -> None:
    """Whatever an operator does to the order of records, no reader takes it for a conversation."""
    store = ThreadStore(redis_client)
    await _fill(store, 4)
    await _replace(redis_client, change(await _entries(redis_client)))
    with pytest.raises(CorruptError):
        await store.load(KEYS, expected=None, last=last)


async def test_records_of_two_threads_cannot_be_exchanged(redis_client: Redis) -> None:
    """One person's memory placed under another's thread does not open."""
    store = ThreadStore(redis_client)
    await _fill(store, 3)
    await _fill(store, 3, keys=OTHER)
    theirs = await _entries(redis_client, f"{{t:{OTHER.thread_id}}}:records")
    await _replace(redis_client, theirs)
    with pytest.raises(CorruptError):
        await store.load(KEYS, expected=None, last=3)


async def test_a_position_of_another_thread_is_refused(redis_client: Redis) -> None:
    """Even the empty position is a thread's own."""
    store = ThreadStore(redis_client)
    theirs = await _fill(store, 2, keys=OTHER)
    with pytest.raises(RollbackError, match="of another thread"):
        await store.load(KEYS, expected=theirs[0], last=3)
    await _fill(store, 3)
    for seen in theirs:
        with pytest.raises(RollbackError):
            await store.load(KEYS, expected=seen, last=1)


async def test_of_writers_that_race_one_wins_and_nothing_is_lost(redis_client: Redis) -> None:
    """Every round, of many writers at one head exactly one appends and the rest are told."""
    store = ThreadStore(redis_client)
    position = Position.genesis(KEYS)
    for start in (0, 10, 20):
        results = await asyncio.gather(
            *(store.append(KEYS, position, _turn(start + n)) for n in range(10)),
            return_exceptions=True,
        )
        winners = [one for one in results if isinstance(one, Position)]
        losers = [one for one in results if isinstance(one, ConflictError)]
        assert (len(winners), len(losers)) == (1, 9)
        assert losers[0].found == position.length + 1
        position = winners[0]
    thread = await store.load(KEYS, expected=position, last=9)
    assert [turn.time // 10 for turn in thread.turns] == [179000000, 179000001, 179000002]


async def test_losers_of_a_race_append_on_a_second_try(redis_client: Redis) -> None:
    """Loading again after a conflict is enough: all turns end up in the thread, each once."""
    store = ThreadStore(redis_client)

    async def insist(number: int) -> None:
        while True:
            thread = await store.load(KEYS, expected=None, last=1)
            try:
                await store.append(KEYS, thread.position, _turn(number))
            except ConflictError:
                continue
            return

    await asyncio.gather(*(insist(number) for number in range(12)))
    thread = await store.load(KEYS, expected=None, last=99)
    assert sorted(turn.time - 1_790_000_000 for turn in thread.turns) == list(range(12))


async def test_a_turn_is_remembered_once(redis_client: Redis) -> None:
    """The same turn sent again, now or many turns later, changes nothing."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 3)
    before = await _everything(redis_client)
    for at in (positions[0], positions[1], positions[3]):
        assert await store.append(KEYS, at, _turn(0, reply="a second answer")) == positions[1]
        assert await store.append(KEYS, at, _turn(2)) == positions[3]
    other = replace(_turn(0), receipt_id=b"another receipt!")
    with pytest.raises(AnsweredError):
        await store.append(KEYS, positions[3], other)
    assert await _everything(redis_client) == before


async def test_an_answered_turn_is_found_by_its_id(redis_client: Redis) -> None:
    """A second enclave finds the answer that the first one gave before it died."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 30)
    assert await store.find(KEYS, _turn(4).turn_id) == Answered(
        _turn(4), positions[4], positions[5]
    )
    assert await store.find(KEYS, _turn(31).turn_id) is None
    assert await store.find(OTHER, _turn(4).turn_id) is None


async def test_a_list_of_answered_turns_that_was_changed_is_refused(redis_client: Redis) -> None:
    """No other turn's answer is given out for the one that was asked for."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 3)
    tag: Any = KEYS.turn_tag(_turn(0).turn_id)
    for value in ("1", "7", "-1", "", "x", "0x0", "00", "9" * 30):
        await redis_client.hset(TURNS, tag, value)
        with pytest.raises(CorruptError):
            await store.find(KEYS, _turn(0).turn_id)
        with pytest.raises(CorruptError):
            await store.append(KEYS, positions[3], _turn(0))


async def test_an_id_that_a_removed_record_had_is_not_used_again(redis_client: Redis) -> None:
    """Where the newest record was deleted in place, the server itself refuses the next."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 3)
    await redis_client.xdel(RECORDS, "3-0")
    with pytest.raises(CorruptError):
        await store.append(KEYS, positions[2], _turn(99))
    assert await store.find(KEYS, _turn(99).turn_id) is None


async def test_a_key_of_another_type_is_refused(redis_client: Redis) -> None:
    """A name that was taken by something else is reported as damage, not as a crash."""
    await redis_client.set(RECORDS, "x")
    store = ThreadStore(redis_client)
    with pytest.raises(CorruptError):
        await store.load(KEYS, expected=None, last=1)
    with pytest.raises(CorruptError):
        await store.append(KEYS, Position.genesis(KEYS), _turn(0))


async def test_a_turn_that_is_too_large_stores_nothing(redis_client: Redis) -> None:
    """The limit holds before Redis is asked."""
    store = ThreadStore(redis_client)
    with pytest.raises(InvalidInputError):
        await store.append(KEYS, Position.genesis(KEYS), _turn(0, reply="x" * 300_000))
    assert await redis_client.dbsize() == 0


async def test_the_script_is_taught_to_a_server_that_forgot_it(redis_client: Redis) -> None:
    """A restarted or failed-over server has no scripts; the append works all the same."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 1)
    await redis_client.script_flush()
    assert (await store.append(KEYS, positions[1], _turn(1))).length == 2


async def _output_bytes_and_commands(redis: Redis) -> tuple[int, int]:
    statistics = await redis.info("stats")
    return statistics["total_net_output_bytes"], statistics["total_commands_processed"]


async def test_loading_a_long_thread_reads_only_what_it_needs(redis_client: Redis) -> None:
    """Of 5,000 turns, a load of the last 20 costs the server what it costs of 50: one command."""
    store = ThreadStore(redis_client)
    costs = []
    positions = await _fill(store, 50)
    for more in (0, 4950):
        for number in range(50, 50 + more):
            positions.append(await store.append(KEYS, positions[-1], _turn(number)))
        before = await _output_bytes_and_commands(redis_client)
        overhead = await _output_bytes_and_commands(redis_client)
        thread = await store.load(KEYS, expected=positions[-2], last=20)
        after = await _output_bytes_and_commands(redis_client)
        assert thread.turns[-1] == _turn(len(positions) - 2)
        info = overhead[0] - before[0]
        costs.append((after[0] - overhead[0] - info, after[1] - overhead[1] - 1))
    (short_bytes, short_commands), (long_bytes, long_commands) = costs
    assert short_commands == long_commands == 1
    # Ids in the reply grow from two digits to four; nothing else does.
    assert 20 * 573 < short_bytes < long_bytes < short_bytes + 20 * 8


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_redis_protocols_serve(valkey: str, redis_client: Redis, protocol: int) -> None:
    """RESP2, which some managed servers speak, works as RESP3 does."""
    async with Redis.from_url(valkey, protocol=protocol) as client:
        store = ThreadStore(client)
        positions = await _fill(store, 30)
        thread = await store.load(KEYS, expected=positions[2], last=5)
        assert (thread.position, len(thread.turns)) == (positions[-1], 5)
        assert await store.find(KEYS, _turn(3).turn_id) == Answered(
            _turn(3), positions[3], positions[4]
        )
        assert await store.append(KEYS, positions[-1], _turn(3)) == positions[4]


async def test_a_killed_server_loses_no_acknowledged_turn(
    valkey_process: Any, own_redis_client: Redis
) -> None:
    """After the server is killed and started again, every turn is there and writing goes on."""
    store = ThreadStore(own_redis_client)
    positions = await _fill(store, 12)
    valkey_process.kill()
    with pytest.raises(UnavailableError):
        await store.load(KEYS, expected=positions[-1], last=20)
    with pytest.raises(UnavailableError):
        await store.append(KEYS, positions[-1], _turn(12))
    with pytest.raises(UnavailableError):
        await store.find(KEYS, _turn(1).turn_id)
    valkey_process.start()
    thread = await store.load(KEYS, expected=positions[-1], last=20)
    assert thread.turns == tuple(_turn(number) for number in range(12))
    assert (await store.append(KEYS, thread.position, _turn(12))).length == 13


async def test_a_server_that_takes_no_writes_is_unavailable(
    valkey_process: Any, own_redis_client: Redis
) -> None:
    """Out of memory or read-only, the server refuses, nothing is stored, and reading goes on."""
    store = ThreadStore(own_redis_client)
    positions = await _fill(store, 2)
    await own_redis_client.config_set("maxmemory", 1)
    with pytest.raises(UnavailableError):
        await store.append(KEYS, positions[-1], _turn(2))
    await own_redis_client.config_set("maxmemory", 0)
    await own_redis_client.config_set("min-replicas-to-write", 1)
    with pytest.raises(UnavailableError):
        await store.append(KEYS, positions[-1], _turn(2))
    assert (await store.load(KEYS, expected=positions[-1], last=5)).position == positions[-1]
    await own_redis_client.config_set("min-replicas-to-write", 0)
    assert (await store.append(KEYS, positions[-1], _turn(2))).length == 3


async def test_a_forgotten_thread_leaves_nothing(redis_client: Redis) -> None:
    """What there was is told; neither a record nor a turn's tag stays, nor, in time, the note of
    it; other threads stay as they are."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 3)
    await _fill(store, 2, keys=OTHER)
    erased = await store.forget(KEYS, REQUEST)
    assert (erased.length, erased.head) == (3, positions[-1].head)
    await _check_gone(redis_client)
    assert (await store.load(OTHER, expected=None, last=9)).position.length == 2
    again = await store.forget(KEYS, REQUEST)
    assert again == erased, "whose answer was lost is told the same again"
    other = await store.forget(KEYS, bytes(16))
    assert (other.length, other.head) == (0, None)
    await _check_gone(redis_client)


async def _check_gone(client: Redis) -> None:
    """Of a forgotten thread there is a note that expires, and nothing else."""
    assert await client.exists(RECORDS) == 0
    assert set(await client.hkeys(TURNS)) == {b"erasure", b"length", b"head"}
    assert 0 < await client.ttl(TURNS) <= 86_400


async def test_a_first_turn_that_runs_elsewhere_writes_into_no_forgotten_thread(
    redis_client: Redis,
) -> None:
    """An empty thread has no head that could move; until its note has gone it takes no turn."""
    store = ThreadStore(redis_client)
    begun = (await store.load(KEYS, expected=None, last=1)).position
    assert (await store.forget(KEYS, REQUEST)).length == 0
    with pytest.raises(ForgottenError):
        await store.append(KEYS, begun, _turn(0))
    await _check_gone(redis_client)
    await redis_client.delete(TURNS)
    assert (await store.append(KEYS, begun, _turn(0))).length == 1


async def test_no_turn_that_began_before_writes_into_a_forgotten_thread(
    redis_client: Redis,
) -> None:
    """Its place is gone, and where it was shows as a rollback: the writer does not go on."""
    store = ThreadStore(redis_client)
    positions = await _fill(store, 2)
    await store.forget(KEYS, REQUEST)
    with pytest.raises(ForgottenError):
        await store.append(KEYS, positions[-1], _turn(9))
    await redis_client.delete(TURNS)  # as in a day
    with pytest.raises(ConflictError):
        await store.append(KEYS, positions[-1], _turn(9))
    with pytest.raises(RollbackError):
        await store.load(KEYS, expected=positions[-1], last=1)
    assert await redis_client.exists(RECORDS, TURNS) == 0


@pytest.mark.parametrize(
    "damage", ["string", "no hash", "strange entry", "damaged record", "no records"]
)
async def test_what_cannot_be_read_can_be_forgotten(redis_client: Redis, damage: str) -> None:
    """A person may forget a thread whatever somebody has done to it; nothing is made up."""
    store = ThreadStore(redis_client)
    await _fill(store, 2)
    if damage == "string":
        await redis_client.set(RECORDS, b"not a stream")
    elif damage == "no hash":
        await redis_client.delete(RECORDS)
        await redis_client.set(TURNS, b"not a hash")
    elif damage == "strange entry":
        await redis_client.xadd(RECORDS, {"x": "y"})
    elif damage == "damaged record":
        await _replace(redis_client, [(b"1-0", {b"r": b"x", b"h": b"too short"})])
    else:
        await redis_client.delete(RECORDS)
    erased = await store.forget(KEYS, REQUEST)
    assert erased.head is None
    assert erased.length == {"strange entry": 3, "damaged record": 1}.get(damage, 0)
    await _check_gone(redis_client)


async def test_forgetting_fails_clearly_while_redis_is_away(
    valkey_process: Any, own_redis_client: Redis
) -> None:
    """Nothing is said to be forgotten that may not be."""
    valkey_process.kill()
    with pytest.raises(UnavailableError):
        await ThreadStore(own_redis_client).forget(KEYS, REQUEST)
