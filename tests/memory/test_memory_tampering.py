"""What an operator can do to a thread in Redis, and what is found of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from memory.errors import ConflictError, CorruptError, MemoryStoreError, RollbackError
from memory.records import stub
from memory.store import ThreadStore
from memory.thread import Position
from memory.view import View
from tests.memory.threads import (
    KEYS,
    OTHER,
    RECORDS,
    STATE,
    TURNS,
    Copy,
    everything,
    fill,
    names,
    put,
    records_of,
    save,
    set_head,
    tombstone,
    turn,
    whole,
)

pytestmark = pytest.mark.integration

ERASED = 3
BASE = 22  # where a cached view or the state stands
END = 27


@dataclass
class World:
    """A thread of 27 records, of which 20 is the tombstone of 3, and what was kept of its past."""

    redis: Redis
    store: ThreadStore
    positions: list[Position]  # by length
    sealed: list[bytes]
    erased: bytes
    young: View  # at 20 records
    cached: View
    state: bytes
    old: Copy  # at 20 records

    async def open(self, start: str, expected: int | None = None) -> View:
        """Open it from nothing, from the state at 22 records, or from a cached view at 22."""
        if start == "state":
            await self.redis.set(STATE, self.state)
        else:
            await self.redis.delete(STATE)
        opened = await self.store.open(
            KEYS,
            expected=None if expected is None else self.positions[expected],
            cached=self.cached if start == "cached" else None,
        )
        return opened.view

    async def refused(
        self, start: str, kind: type[MemoryStoreError], found: str, expected: int | None = None
    ) -> None:
        """Opening fails so, says what was found, changes nothing, and so does reading it whole."""
        with pytest.raises(kind, match=found) as caught:
            await self.open(start, expected)
        assert "Nothing was" in str(caught.value)
        before = await everything(self.redis)
        if (await records_of(self.redis))[:END] != self.sealed:
            with pytest.raises(MemoryStoreError):
                await whole(self.store, position=self.positions[-1])
        assert await everything(self.redis) == before


@pytest.fixture
async def world(redis_client: Redis) -> World:
    """A thread, untouched."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 20)
    old = await Copy.of(redis_client)
    young = (await store.open(KEYS, expected=None)).view
    erased = (await records_of(redis_client))[ERASED]
    positions.append(await store.append(KEYS, positions[-1], [tombstone(ERASED)], erase=[ERASED]))
    positions += (await fill(store, BASE - 21, start=20))[1:]
    cached = (await store.open(KEYS, expected=positions[-1])).view
    state = await save(store, cached)
    positions += (await fill(store, END - BASE, start=40))[1:]
    sealed = await records_of(redis_client)
    return World(redis_client, store, positions, sealed, erased, young, cached, state, old)


STARTS = ["nothing", "state", "cached"]


@pytest.mark.parametrize("start", STARTS)
async def test_an_untouched_thread_opens_from_anywhere(world: World, start: str) -> None:
    """From nothing, the state or a cached view, and wherever the device was: the same turns."""
    turns = [turn(number) for number in [0, 1, 2, *range(4, 21), 40, 41, 42, 43, 44]]
    for expected in (None, *range(END + 1)):
        view = await world.open(start, expected)
        assert view.position == world.positions[-1]
        assert [one for _, one in view.turns] == turns
        assert list(view.erased) == [ERASED]
    assert world.cached.position.length == BASE
    records = await whole(world.store)
    assert records[ERASED] is None
    assert len(records) == END


@pytest.mark.parametrize(
    ("start", "kind", "found"),
    [
        ("nothing", CorruptError, "record 19: the head .* records were cut off or added"),
        ("state", CorruptError, "record 20: it is missing: the sealed state covers 22 .* holds 20"),
        ("cached", RollbackError, "holds 20 records where this enclave has seen 22"),
    ],
)
async def test_truncation_is_found(
    world: World, start: str, kind: type[MemoryStoreError], found: str
) -> None:
    """Records cut off the end show without the help of a device; with it they are a rollback."""
    await put(world.redis, world.sealed[:20])
    await world.refused(start, kind, found)
    seen = "holds 20 records where the device has seen 27"
    await world.refused(start, RollbackError, seen, expected=END)
    await set_head(world.redis, world.positions[20].head)
    if start == "nothing":
        # The limit of the promise: a whole older chain is genuine to who remembers nothing.
        with pytest.raises(CorruptError, match="no request of its owner erased it"):
            await world.open(start)
    else:
        await world.refused(start, kind, found)
    await world.refused(start, RollbackError, seen, expected=END)


@pytest.mark.parametrize(
    ("start", "kind", "found"),
    [
        ("state", CorruptError, "the sealed state covers 22 records and the store holds 20"),
        ("cached", RollbackError, "holds 20 records where this enclave has seen 22"),
    ],
)
async def test_a_rollback_is_found(
    world: World, start: str, kind: type[MemoryStoreError], found: str
) -> None:
    """A whole older copy, put back, is older than what the device, state or cached view saw."""
    await world.old.restore(world.redis)
    await world.refused(start, kind, found)
    for length in (21, END):
        seen = f"holds 20 records where the device has seen {length}"
        for other in STARTS:
            await world.refused(other, RollbackError, seen, expected=length)
    view = await world.open("nothing", 20)
    assert view.position == world.positions[20]  # the limit: to who has seen no more, it is whole


@pytest.mark.parametrize("more", [3, 7, 150])
@pytest.mark.parametrize(
    ("start", "kind", "found"),
    [
        (
            "state",
            CorruptError,
            "record 22: the sealed state does not lead there: .* two histories",
        ),
        ("cached", RollbackError, "record 21 is not the one this enclave has seen"),
    ],
)
async def test_a_fork_is_found(
    world: World, start: str, kind: type[MemoryStoreError], found: str, more: int
) -> None:
    """A history that was continued otherwise is not the one that was seen, also when longer."""
    await world.old.restore(world.redis)
    await fill(world.store, more, start=100)
    await world.refused(start, kind, found)
    for length in (21, 22, 23):
        seen = f"record {length - 1} is not the one the device has seen"
        await world.refused("nothing", RollbackError, seen, expected=length)
    await world.open("nothing", 20)
    # The device's own record, put into the other history, does not bridge the two.
    records = await records_of(world.redis)
    await put(world.redis, [*records[:21], world.sealed[21], *records[22:]])
    for other in STARTS:
        with pytest.raises(
            (CorruptError, RollbackError), match=r"histories|is not the one|missing"
        ):
            await world.open(other, 20)


def _swap(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:23], sealed[24], sealed[23], *sealed[25:]]


def _drop(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:23], *sealed[24:]]


def _drop_and_fill(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:23], *sealed[24:], sealed[26]]


def _replay(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:24], sealed[22], *sealed[25:]]


def _add_again(sealed: list[bytes]) -> list[bytes]:
    return [*sealed, sealed[22]]


def _alter(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:25], sealed[25][:-1] + bytes([sealed[25][-1] ^ 1]), *sealed[26:]]


def _cut(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:25], sealed[25][:-1], *sealed[26:]]


def _empty(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:25], b"", *sealed[26:]]


def _old_version(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:25], b"\x01" + sealed[25][1:], *sealed[26:]]


def _take_out(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:24], stub(sealed[24]), *sealed[25:]]


def _take_out_last(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:26], stub(sealed[26])]


def _stub_of_another(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:24], stub(sealed[23]), *sealed[25:]]


def _stub_of_nothing(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:24], stub(sealed[24])[:33] + bytes(32), *sealed[25:]]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_swap, "record 23: record 24 stands there: records were moved, repeated or taken out"),
        (_drop, "record 23: record 24 stands there"),
        (_drop_and_fill, "record 23: record 24 stands there"),
        (_replay, "record 24: record 22 stands there"),
        (_add_again, "record 27: record 22 stands there"),
        (_alter, "record 25: it was altered, or is a record of another thread"),
        (_cut, "record 25: no record has 572 bytes"),
        (_empty, "record 25: no record has 0 bytes"),
        (_old_version, "record 25: its format version is 1, this program reads 2"),
        (_take_out, "record 24: it was taken out, and no request of its owner erased it"),
        (_take_out_last, "record 26: it was taken out, and no request of its owner erased it"),
        (_stub_of_another, "record 24: it does not follow the record before it"),
        (_stub_of_nothing, "record 25: it does not follow the record before it"),
    ],
)
async def test_a_rearranged_chain_is_refused(
    world: World, start: str, change: Callable[[list[bytes]], list[bytes]], found: str
) -> None:
    """Reordered, dropped, replayed, altered or taken out: each is found, and named."""
    await put(world.redis, change(world.sealed))
    await world.refused(start, CorruptError, found)
    await world.refused(start, CorruptError, found, expected=24)


@pytest.mark.parametrize("start", STARTS)
async def test_every_byte_of_a_record_counts(world: World, start: str) -> None:
    """A changed bit in the newest record is found, and told from a rollback."""
    newest = world.sealed[-1]
    for at in range(0, len(newest), 23):
        damaged = bytearray(newest)
        damaged[at] ^= 0x10
        await put(world.redis, [*world.sealed[:-1], bytes(damaged)])
        for expected in (None, END):
            with pytest.raises(CorruptError) as caught:
                await world.open(start, expected)
            assert caught.value.index == END - 1


@pytest.mark.parametrize("start", STARTS)
async def test_records_of_another_thread_are_found(world: World, start: str) -> None:
    """One record of another thread, or all of them with its head, open nowhere in this one."""
    theirs = await fill(world.store, END, keys=OTHER)
    others = await records_of(world.redis, OTHER)
    await put(world.redis, [*world.sealed[:24], others[24], *world.sealed[25:]])
    found = "record 24: it was altered, or is a record of another thread"
    await world.refused(start, CorruptError, found)
    await put(world.redis, others)
    await set_head(world.redis, theirs[-1].head)
    found = "it was altered, or is a record of another thread"
    await world.refused(start, CorruptError, found)
    await world.refused(start, CorruptError, found, expected=END)


@pytest.mark.parametrize("start", STARTS)
async def test_an_erased_record_that_was_put_back_is_found(world: World, start: str) -> None:
    """Whoever kept an erased record cannot have it remembered again."""
    await put(world.redis, [*world.sealed[:ERASED], world.erased, *world.sealed[ERASED + 1 :]])
    found = "record 3: it was erased at its owner's request and has been put back"
    with pytest.raises(CorruptError, match=found):
        await whole(world.store, position=world.positions[-1])
    # From the state or a cached view it is read only where the device stands before it.
    await world.refused(start, CorruptError, found, expected=2)
    if start == "nothing":
        await world.refused(start, CorruptError, found)
    else:
        view = await world.open(start)
        assert all(index != ERASED for index, _ in view.turns)
    with pytest.raises(CorruptError, match=found):
        await world.store.open(KEYS, expected=None, turn_id=turn(ERASED).turn_id)
    # A view from before the erasure, and a device that is further back.
    with pytest.raises(CorruptError, match=found):
        await world.store.open(KEYS, expected=world.positions[2], cached=world.young)


@pytest.mark.parametrize("expected", [1, 60, 140])
async def test_damage_far_behind_is_found_by_a_device_that_is_behind_it(
    redis_client: Redis, expected: int
) -> None:
    """Records that are only followed, not opened, are bound by their hashes, page after page."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 200)
    view = (await store.open(KEYS, expected=None)).view
    sealed = await records_of(redis_client)
    for change, found in (
        (sealed[150][:-1] + bytes([sealed[150][-1] ^ 1]), "record 150: it was altered"),
        (sealed[149], "record 150: record 149 stands there"),
        (stub(sealed[150]), "record 150: it was taken out"),
    ):
        await put(redis_client, [*sealed[:150], change, *sealed[151:]])
        with pytest.raises(CorruptError, match=found):
            await store.open(KEYS, expected=positions[expected], cached=view)
        await store.open(KEYS, expected=positions[180], cached=view)


async def test_a_head_that_was_set_back_moves_no_writer(world: World) -> None:
    """The head beside the records is noticed by readers where it is another, and by writers."""
    await set_head(world.redis, world.positions[26].head)
    for start in STARTS:
        with pytest.raises(CorruptError, match="the head was changed"):
            await world.open(start, END)
    for length in (26, 27):
        with pytest.raises(ConflictError):
            await world.store.append(KEYS, world.positions[length], [turn(99)])
    await world.redis.hdel(TURNS, "head")
    for start in STARTS:
        with pytest.raises(CorruptError, match="the head was changed"):
            await world.open(start)
    with pytest.raises(ConflictError):
        await world.store.append(KEYS, world.positions[27], [turn(99)])


async def test_a_position_of_another_thread_is_refused(world: World) -> None:
    """Even the empty position is a thread's own."""
    theirs = await fill(world.store, 2, keys=OTHER)
    for cached in (None, world.cached):
        with pytest.raises(RollbackError, match="of another thread"):
            await world.store.open(KEYS, expected=theirs[0], cached=cached)
        for seen in theirs[1:]:
            with pytest.raises(RollbackError, match="is not the one the device has seen"):
                await world.store.open(KEYS, expected=seen, cached=cached)


async def test_a_view_of_another_thread_is_refused(world: World) -> None:
    """A cached view that got under another thread's name does not mix two people's memories."""
    await fill(world.store, 30, keys=OTHER)
    with pytest.raises(RollbackError, match="this enclave has seen"):
        await world.store.open(OTHER, expected=None, cached=world.cached)


async def _change_state(redis: Redis, state: bytes) -> None:
    await redis.set(STATE, state)


def _foreign(state: bytes) -> bytes:
    return state[:10] + b"\x02" + bytes(32) + state[43:]


STATES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "altered": (lambda one: one[:-1] + bytes([one[-1] ^ 1]), "record 22: the sealed state was al"),
    "cut by one": (lambda one: one[:-1], "the sealed state was altered, cut off, or is of another"),
    "cut to nothing": (lambda one: one[:60], "the sealed state was cut off, or something else"),
    "one byte": (lambda one: b"0", "the sealed state was cut off, or something else"),
    "longer": (lambda one: one + b"\x00", "the sealed state was altered, cut off"),
    "much too long": (lambda one: one.ljust(6 << 20), "is larger than any that is written"),
    "another place": (lambda one: b"0000000021" + one[10:], "record 21: the sealed state was alt"),
    "far away": (lambda one: b"9999999999" + one[10:], "the sealed state was altered"),
    "not a number": (lambda one: b"       nan" + one[10:], "or something else is in its place"),
    "signed": (lambda one: b"-000000022" + one[10:], "or something else is in its place"),
    "other head": (_foreign, "the sealed state was altered"),
    "other version": (lambda one: one[:10] + b"\x01" + one[11:], "state has format version 1"),
}


@pytest.mark.parametrize(("change", "found"), STATES.values(), ids=STATES.keys())
async def test_a_state_that_was_changed_is_refused(
    world: World, change: Callable[[bytes], bytes], found: str
) -> None:
    """Every part of a state is bound to the thread and its place."""
    await _change_state(world.redis, change(world.state))
    with pytest.raises(CorruptError, match=found):
        await world.store.open(KEYS, expected=None)
    # Who has a cached view does not need it, and a missing one costs time alone.
    opened = await world.store.open(KEYS, expected=None, cached=world.cached)
    assert opened.view.position == world.positions[-1]
    await world.redis.delete(STATE)
    assert (await world.store.open(KEYS, expected=None)).view.position == world.positions[-1]


async def test_a_state_of_another_thread_is_refused(world: World) -> None:
    """Two threads' states, exchanged, open in neither."""
    await fill(world.store, BASE, keys=OTHER)
    theirs = await save(world.store, (await world.store.open(OTHER, expected=None)).view, OTHER)
    await world.redis.set(STATE, theirs)
    await world.redis.set(names(OTHER)[2], world.state)
    for keys in (KEYS, OTHER):
        with pytest.raises(CorruptError, match=r"state was .* another thread"):
            await world.store.open(keys, expected=None)


async def test_an_old_state_costs_time_alone(redis_client: Redis) -> None:
    """A genuine older state hides no record, and brings nothing back that was erased since."""
    store = ThreadStore(redis_client)
    positions = await fill(store, 20)
    old = await save(store, (await store.open(KEYS, expected=None)).view)
    positions.append(await store.append(KEYS, positions[-1], [tombstone(5, 6)], erase=[5, 6]))
    positions += (await fill(store, 150, start=30))[1:]
    fresh = (await store.open(KEYS, expected=positions[-1])).view
    await redis_client.set(STATE, old)
    for expected in (None, positions[4], positions[-1]):
        opened = await store.open(KEYS, expected=expected)
        assert opened.covered == 20
        assert opened.view.position == fresh.position
        assert opened.view.turns == fresh.turns
        assert list(opened.view.erased) == [5, 6]
        assert opened.view.encode() == fresh.encode()


@pytest.mark.parametrize("name", [RECORDS, TURNS, STATE])
async def test_a_key_of_another_type_is_refused(world: World, name: str) -> None:
    """A name that was taken by something else is reported as damage, not as a crash."""
    await world.redis.delete(name)
    await world.redis.sadd(name, "x")
    with pytest.raises(CorruptError, match="something else stands under the thread's names"):
        await world.store.open(KEYS, expected=None)
    if name != STATE:
        with pytest.raises(CorruptError, match="something else stands"):
            await world.store.append(KEYS, world.positions[-1], [turn(99)])


async def _drop_tag(redis: Redis) -> None:
    await redis.hdel(TURNS, KEYS.turn_tag(turn(41).turn_id))  # type: ignore[arg-type]


async def _wrong_tag(redis: Redis) -> None:
    await redis.hset(TURNS, KEYS.turn_tag(turn(41).turn_id), "5")  # type: ignore[arg-type]


async def _far_tag(redis: Redis) -> None:
    await redis.hset(TURNS, KEYS.turn_tag(turn(41).turn_id), "99")  # type: ignore[arg-type]


async def _tag_of_a_stub(redis: Redis) -> None:
    await redis.hset(TURNS, KEYS.turn_tag(turn(41).turn_id), "20")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_drop_tag, "record 23: it is not in the list of answered turns any more"),
        (_wrong_tag, "record 5: it is not the turn that it is listed as"),
        (_far_tag, "record 99: it is missing, or is not the turn"),
        (_tag_of_a_stub, "record 20: it is not the turn that it is listed as"),
    ],
)
@pytest.mark.parametrize("start", STARTS)
async def test_a_changed_list_of_answered_turns_is_found(
    world: World, start: str, change: Callable[[Redis], Awaitable[None]], found: str
) -> None:
    """No other turn's answer is given out, and none is answered twice for want of its tag."""
    await change(world.redis)
    cached = world.cached if start == "cached" else None
    if start == "state":
        await world.redis.set(STATE, world.state)
    with pytest.raises(CorruptError, match=found):
        await world.store.open(KEYS, expected=None, turn_id=turn(41).turn_id, cached=cached)


async def test_a_note_of_an_erasure_that_nobody_asked_for_is_refused(world: World) -> None:
    """An operator can delete a thread, but cannot say that its owner had it forgotten."""
    for note in ({"erasure": bytes(16)}, {"erasure": bytes(16), "request": bytes(16)}):
        await world.redis.hset(TURNS, mapping=note)  # type: ignore[arg-type]
        for start in STARTS:
            with pytest.raises(CorruptError, match="a note that it was erased, which was not made"):
                await world.open(start)
        with pytest.raises(CorruptError, match="a note that it was erased, which was not made"):
            await world.store.append(KEYS, world.positions[-1], [turn(99)])
