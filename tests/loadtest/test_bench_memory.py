"""The bench of memory on small threads, with a real Valkey; never how fast or large anything is."""

from __future__ import annotations

import itertools
import json

import pytest
from redis.asyncio import Redis

from loadtest.bench_memory import openings, sizes
from loadtest.bench_memory_turn import first_tokens
from loadtest.memory_size import Sealed, Taken, as_json, as_table, main, sealed_sizes
from loadtest.rounds import Effort
from loadtest.threads import Maker, Writer
from memory.records import BUCKETS, Notes, Turn
from memory.store import ThreadStore

TINY = Effort(rounds=2, slice_s=0.0, streams=(1,), turns=1, tokens=3)
STEPS = [Taken(10, 10_000, 20_000), Taken(20, 18_000, 40_000), Taken(40, 40_000, 80_000)]


async def test_a_thread_is_written_as_the_enclave_writes_it(redis_client: Redis) -> None:
    """Turns and notes in turn, a state behind the end, and every stored record opens."""
    store = ThreadStore(redis_client)
    thread = await Writer(store).write("x", 40)
    assert thread.position.length == 80
    opened = await store.open(thread.keys, expected=thread.position)
    assert 0 < opened.covered < 80
    assert opened.view.count == 40
    assert not opened.view.unnoted()
    records = [one async for _, one in store.scan(thread.keys, position=thread.position)]
    assert [type(one) for one in records] == [Turn, Notes] * 40


def test_records_are_the_same_for_the_same_name() -> None:
    """And others for another."""
    maker = Maker()
    assert maker.records("a", 0, 4) == maker.records("a", 0, 4)
    assert maker.records("a", 0, 4) != maker.records("b", 0, 4)


async def test_threads_are_opened_by_turns(redis_client: Redis) -> None:
    """Cold and warm, p50 and p99, of each longer thread against the first."""
    store = ThreadStore(redis_client)
    writer = Writer(store)
    threads = [await writer.write(f"{length}", length) for length in (3, 40)]
    found = await openings(store, threads, TINY)
    assert [one.name for one in found] == [
        f"opening {name} p{percent}, 40 turns" for name in ("cold", "warm") for percent in (50, 99)
    ]
    assert all(one.against == "3 turns" and len(one.rounds) == TINY.rounds for one in found)
    assert all(min(one.ours.low, one.other.low) > 0 for one in found)


async def test_turns_with_and_without_memory(redis_client: Redis) -> None:
    """Through the real agent: both answer, cold and warm, and the thread stays as it was."""
    writer = Writer(ThreadStore(redis_client))
    found = await first_tokens(redis_client, writer, (5,), TINY)
    assert [one.name for one in found] == [
        "first token cold, 5 turns",
        "added to it cold, 5 turns",
        "first token warm, 5 turns",
        "added to it warm, 5 turns",
    ]
    assert found[0].other.low > 0
    assert found[1].rounds[0][0] == pytest.approx(found[0].rounds[0][0] - found[0].rounds[0][1])


def test_memory_grows_with_threads(capsys: pytest.CaptureFixture[str]) -> None:
    """A server of its own: more threads take more memory and more of the file; as JSON."""
    assert main(["--threads", "80", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    steps = document["steps"]
    assert [one["threads"] for one in steps] == [10, 20, 40, 80]
    for less, more in itertools.pairwise(steps):
        assert less["memory"] < more["memory"]
        assert less["file"] < more["file"]


def test_figures_of_size() -> None:
    """What a further thread takes is the slope; a million takes a million times that."""
    sealed = Sealed(turn=600.0, notes=800.0, said=300.0, buckets={"512": 3, "1024": 1})
    document = json.loads(json.dumps(as_json(STEPS, sealed), allow_nan=False))
    assert document["memory_for_each_further_thread"] == 1000
    assert document["file_for_each_further_thread"] == 2000
    assert document["memory_for_a_million"] == 10**9
    assert [one["memory_each"] for one in document["steps"]] == [1000, 900, 1000]
    assert "512: 75%, 1024: 25%" in as_table(STEPS, sealed)
    each = {one.name: one for one in sizes(STEPS)}["Redis memory of a thread, at 40"]
    assert each.rounds == ((1000 / 1024, 1000 / 1024),)


def test_sealed_sizes_are_those_of_buckets() -> None:
    """Every record has a size of the format; a turn seals to more than was said."""
    sealed = sealed_sizes()
    assert set(map(int, sealed.buckets)) <= set(BUCKETS)
    assert sealed.turn > sealed.said > 0
    assert sealed.notes > BUCKETS[0]


def test_a_number_of_threads_that_shows_nothing_is_refused() -> None:
    """One line, as for every wrong argument."""
    with pytest.raises(SystemExit):
        main(["--threads", "3"])
