"""What a person sees and changes of their memory: real enclave, log, Valkey, relay and device."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
import pytest

from memory.errors import CorruptError
from memory.exports import from_json
from memory.keys import ThreadKeys, derive_thread_key
from memory.kinds import (
    NUMBERS,
    Fact,
    Gap,
    Notes,
    Pin,
    Record,
    Ref,
    Summary,
    Tombstone,
    to_fields,
)
from memory.ledger import Ledger
from memory.markdown import from_markdown
from memory.records import STUB_BYTES, open_record
from memory.store import ThreadStore
from proofs.erasure import Scope, decode_erasure
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.relays import RelayCarrier
from runtime.errors import SottoError
from runtime.streams import LEAVES_STREAM
from tests.runtime.enclave_world import (
    WREN,
    Enclave,
    World,
    a_turn,
    inner,
    relay,
    running_enclave,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

JUNO = "My dog is called Juno."
LEEDS = "I live in Leeds."


@pytest.fixture
async def enclave(world: World) -> AsyncIterator[Enclave]:
    """Log and a debug enclave, which tells its prompts."""
    async with running_enclave(world, debug=True) as enclave:
        yield enclave


@pytest.fixture
async def way(enclave: Enclave) -> AsyncIterator[str]:
    """A relay's address."""
    async with relay(enclave) as url:
        yield url


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


@pytest.fixture
async def device(world: World, way: str, home: DeviceHome) -> AsyncIterator[Device]:
    """A device on it."""
    async with Device(home, world.policy(), RelayCarrier([way])) as device:
        yield device


@dataclass
class Person:
    """Who talks to wren from a device."""

    device: Device
    enclave: Enclave
    events: list[dict[str, Any]] = field(default_factory=list)

    async def say(self, message: str) -> dict[str, Any]:
        """One turn, and its notes; its last event."""
        self.events = [event async for event in self.device.turn(WREN, message)]
        await self.enclave.remembering.settled()
        last = self.events[-1]
        assert last["type"] == "response.completed", last
        await self.device.wait_settled(last["receipt_id"], 60)
        return last

    def prompt(self) -> str:
        """The prompt of the last turn."""
        created = next(one for one in self.events if one["type"] == "response.created")
        return json.dumps(created["prompt"])

    async def memories(self, **wanted: Any) -> list[dict[str, Any]]:
        """What is listed."""
        found = await self.device.memories.page("wren", **wanted)
        return list(found["memories"])

    async def fact(self, word: str) -> dict[str, Any]:
        """The fact with a word in it."""
        (found,) = [one for one in await self.memories(kinds=["fact"]) if word in one["text"]]
        return found


@pytest.fixture
def person(device: Device, enclave: Enclave) -> Person:
    """The person."""
    return Person(device, enclave)


async def refused(work: Awaitable[object]) -> SottoError:
    """The refusal, in one line."""
    with pytest.raises(SottoError) as caught:
        await work
    assert "\n" not in str(caught.value)
    return caught.value


async def stored(world: World, keys: ThreadKeys) -> list[bytes]:
    """A thread's records as Redis has them."""
    found = await world.client.lrange(f"{{t:{keys.thread_id}}}:records", 0, -1)  # type: ignore[misc]
    return list(found)


async def records(world: World, keys: ThreadKeys) -> list[tuple[int, Record | None]]:
    """A thread's records, opened."""
    store = ThreadStore(world.client)
    end = (await store.open(keys, expected=None)).view.position
    return [one async for one in store.scan(keys, position=end)]


def on_disk(home: DeviceHome) -> bytes:
    """All bytes of the device's database."""
    return b"".join(file.read_bytes() for file in home.path.glob("device.db*"))


# Seeing.


async def test_what_is_remembered_is_listed_found_and_shown(person: Person) -> None:
    """Turns and facts with dates and sources, in pages, by kind, and by a question's words."""
    await person.say(JUNO)
    await person.say(LEEDS)
    everything = await person.memories()
    assert [one["kind"] for one in everything].count("turn") == 2
    fact = await person.fact("Juno")
    assert fact["sources"] == [everything[0]["ref"]]
    assert fact["time"] > 0
    paged, after = [], None
    while True:
        page = await person.device.memories.page("wren", limit=1, after=after)
        assert page["total"] == len(everything)
        paged += page["memories"]
        if (after := page["next"]) is None:
            break
    assert paged == everything
    found = await person.device.memories.search("wren", "what is the dog's name", limit=3)
    assert "Juno" in found["memories"][0]["text"]
    assert all("Leeds" not in one["text"] for one in found["memories"])
    facts = await person.device.memories.search("wren", "dog", kinds=["fact"])
    assert {one["kind"] for one in facts["memories"]} == {"fact"}
    shown = await person.memories(refs=[fact["ref"]])
    assert shown == [fact]


async def test_why_names_what_stood_in_a_prompt(person: Person) -> None:
    """By reference, turn's id, receipt's id, or as the last; what was forgotten since says so."""
    memories = person.device.memories
    first = await person.say(JUNO)
    second = await person.say("What is my dog called?")
    why = await memories.why("wren", None)
    turns = await person.memories(kinds=["turn"])
    assert why["turn"]["turn_id"] == second["turn_id"]
    assert why["window"] == [turns[0]["ref"]]
    for name in (
        turns[1]["ref"],
        second["turn_id"],
        second["receipt_id"],
        second["receipt_id"][:8],
    ):
        assert (await memories.why("wren", name))["turn"] == why["turn"]
    learned = (await memories.why("wren", first["turn_id"]))["learned"]
    assert any("Juno" in one["text"] for one in learned)
    assert (await refused(memories.why("wren", "ab" * 16))).code == "memory_unknown"
    assert (await refused(memories.why("wren", "m999"))).code == "memory_unknown"
    fact = await memories.write("wren", "I am allergic to walnuts.", pinned=True)
    await person.say("Shall I eat cake?")
    recalled = (await memories.why("wren", None))["recalled"]
    assert fact["memory"]["ref"] in [one["ref"] for one in recalled]
    await memories.forget("wren", [fact["memory"]["ref"]])
    gone = (await memories.why("wren", None))["recalled"]
    assert {"ref": fact["memory"]["ref"], "forgotten": True} in gone


# Changing.


async def test_an_edit_takes_the_place_and_the_old_one_says_until_when(person: Person) -> None:
    """It supersedes once, however often it is sent; an old one cannot be edited again."""
    memories = person.device.memories
    await person.say(JUNO)
    old = await person.fact("Juno")
    new = (await memories.edit("wren", old["ref"], "My dog is called Rex."))["memory"]
    again = (await memories.edit("wren", old["ref"], "My dog is called Rex."))["memory"]
    assert again == new
    assert new["about"] == old["about"]
    listed = await person.memories(kinds=["fact"])
    assert old["ref"] not in [one["ref"] for one in listed]
    (kept,) = await person.memories(refs=[old["ref"]])
    assert (kept["superseded_by"], kept["until"]) == (new["ref"], new["time"])
    error = await refused(memories.edit("wren", old["ref"], "My dog is called Max."))
    assert (error.code, new["ref"] in str(error)) == ("memory_superseded", True)
    error = await refused(memories.pin("wren", old["ref"]))
    assert (error.code, new["ref"] in str(error)) == ("memory_superseded", True)
    await person.say("What is my dog called?")
    assert "Rex" in person.prompt()


async def test_pins_and_written_facts_stand_in_every_prompt(person: Person) -> None:
    """Until they are let go; the same words twice are one fact."""
    memories = person.device.memories
    one = (await memories.write("wren", "I am allergic to walnuts."))["memory"]
    assert (await memories.write("wren", "I am allergic to walnuts."))["memory"] == one
    assert one["sources"] == []
    await memories.pin("wren", one["ref"])
    assert [pin["ref"] for pin in await person.memories(pinned=True)] == [one["ref"]]
    await person.say("Good morning!")
    assert "walnuts" in person.prompt()
    await memories.pin("wren", one["ref"], pinned=False)
    assert await person.memories(pinned=True) == []


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda m: m.pin("wren", "m99"), "memory_unknown"),
        (lambda m: m.edit("wren", "m99.0", "x"), "memory_unknown"),
        (lambda m: m.forget("wren", ["m99"]), "memory_unknown"),
        (lambda m: m.plan("wren", ["m99"]), "memory_unknown"),
        (lambda m: m.page("wren", refs=["m99"]), "memory_unknown"),
        (lambda m: m.page("wren", after="m99"), "memory_unknown"),
        (lambda m: m.edit("wren", "m0", "x"), "invalid_request"),
        (lambda m: m.pin("wren", "dog"), "invalid_request"),
        (lambda m: m.page("wren", limit=0), "invalid_request"),
        (lambda m: m.search("wren", ""), "invalid_request"),
        (lambda m: m.write("wren", "x" * 501), "invalid_request"),
        (lambda m: m.write("wren", "\ud800"), "invalid_request"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_line(
    act: Callable[[Any], Awaitable[object]], code: str, person: Person
) -> None:
    """And changes nothing."""
    await person.say("Good morning!")
    before = await person.memories()
    assert (await refused(act(person.device.memories))).code == code
    assert await person.memories() == before


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda m: m.write("wren", ""), "the text is empty"),
        (lambda m: m.write("wren", "x" * 501), "the text has 500 characters at most"),
        (lambda m: m.write("wren", "x", importance=200), "the importance is 100 at most"),
        (lambda m: m.write("wren", "x", about="A b"), "the about is made of small letters"),
        (lambda m: m.page("wren", limit=0), "the limit is 1 at least"),
        (lambda m: m.page("wren", after="dog"), "A memory's reference reads m<record>"),
        (lambda m: m.plan("wren", []), "no refs are named"),
        (lambda m: m.plan("wren", ["m1"] * 501), "500 refs at most, and these are 501"),
    ],
)
async def test_what_is_wrong_is_told_in_words(
    act: Callable[[Any], Awaitable[object]], words: str, person: Person
) -> None:
    """Of the project's own, and before anybody is asked."""
    assert words in str(await refused(act(person.device.memories)))


# Forgetting.


async def test_forgetting_a_fact_forgets_exactly_its_own(
    world: World, person: Person, home: DeviceHome
) -> None:
    """Its turn, its notes and their words on the device go; all else stays as it was."""
    memories, keys = person.device.memories, home.thread_keys("wren")
    first = await person.say(JUNO)
    second = await person.say(LEEDS)
    fact = await person.fact("Juno")
    kept = [one for one in await person.memories() if "Leeds" in one["text"]]
    before = await stored(world, keys)
    assert b"Juno" in on_disk(home)
    plan = await memories.plan("wren", [fact["ref"]])
    assert await stored(world, keys) == before, "a plan changes nothing"
    assert all("Leeds" not in one["text"] for one in plan["would"])
    row = await memories.forget("wren", [fact["ref"]])
    after = await stored(world, keys)
    erased = [at for at, one in enumerate(after) if len(one) == STUB_BYTES]
    ledger = Ledger(await records(world, keys))
    assert {f"m{at}" for at in erased} >= {fact["sources"][0]}
    assert all(after[at] == one for at, one in enumerate(before) if at not in erased)
    assert "Juno" not in json.dumps([one.text for one in ledger.memories()])
    assert [one for one in await person.memories() if "Leeds" in one["text"]] == kept
    assert b"Juno" not in on_disk(home)
    assert b"Leeds" in on_disk(home)
    assert home.transcripts.said(first["receipt_id"]) is None
    assert home.transcripts.said(second["receipt_id"]) is not None
    await person.say("What is my dog called, and where do I live?")
    assert "Juno" not in person.prompt()
    assert "Leeds" in person.prompt()
    stated = decode_erasure(row.receipt or b"").unverified
    assert (stated.scope, stated.length) == (Scope.RECORDS, len(erased))
    again = await refused(memories.forget("wren", [fact["sources"][0]]))
    assert again.code == "memory_forgotten"


async def test_a_turn_is_forgotten_with_what_was_learned_from_it_alone(person: Person) -> None:
    """A fact that another turn told stays; `keep_turns` leaves the turns of a fact."""
    memories = person.device.memories
    await person.say(LEEDS)
    await person.say(JUNO)
    turn = (await person.fact("Juno"))["sources"][0]
    await memories.forget("wren", [turn])
    texts = [one["text"] for one in await person.memories()]
    assert all("Juno" not in text for text in texts)
    fact = await person.fact("Leeds")
    await memories.forget("wren", [fact["ref"]], keep_turns=True)
    left = [one for one in await person.memories() if "Leeds" in one["text"]]
    assert [one["kind"] for one in left] == ["turn"]


async def test_an_enclave_that_died_before_it_signed_is_made_good_for(
    world: World, person: Person, home: DeviceHome
) -> None:
    """The erasure is there; the same request signs it, and erases nothing twice."""
    memories, keys = person.device.memories, home.thread_keys("wren")
    await person.say(JUNO)
    turn = (await person.fact("Juno"))["sources"][0]
    asked = json.dumps({"refs": [turn], "keep_turns": False}, separators=(",", ":"))
    begun = home.begin_erasure("wren", "d" * 32, 0, scope=Scope.RECORDS, asked=asked)
    store = ThreadStore(world.client)
    position = (await store.open(keys, expected=None)).view.position
    erased = tuple(range(position.length))
    tombstone = Tombstone(bytes.fromhex("d" * 32), 1, (Ref.parse(turn),), erased)
    after = await store.append(keys, position, [tombstone], erase=erased)
    await memories.resume("wren")
    row = home.erasure(begun.receipt_id)
    assert row is not None
    stated = decode_erasure(row.receipt or b"").unverified
    assert (stated.length, stated.head, stated.after) == (
        len(erased),
        position.head,
        after.head,
    )
    assert len(await stored(world, keys)) == after.length
    assert home.pending_erasures("wren") == []
    assert b"Juno" not in on_disk(home)


async def test_the_same_request_is_the_same_erasure(
    world: World, person: Person, home: DeviceHome
) -> None:
    """One tombstone and one receipt, also where the device lost the answer."""
    keys = home.thread_keys("wren")
    await person.say(JUNO)
    row = await person.device.memories.forget("wren", ["m0"])
    length = len(await stored(world, keys))
    home.database.execute("UPDATE erasures SET receipt = NULL, enclave_id = NULL")
    await person.device.memories.resume("wren")
    assert len(await stored(world, keys)) == length
    kept = home.erasure(row.receipt_id)
    assert kept is not None
    assert kept.receipt == row.receipt


async def test_an_erasure_settles_and_names_both_heads(person: Person, home: DeviceHome) -> None:
    """In the log, as every receipt; the next turn's memory begins at or behind the head after."""
    await person.say(JUNO)
    row = await person.device.memories.forget("wren", ["m0"])
    settled = await person.device.wait_erased(row.receipt_id, 60)
    assert settled is not None
    assert settled.status == "settled"
    stated = decode_erasure(settled.receipt or b"").unverified
    assert stated.after not in (None, stated.head)
    assert (
        home.position(
            "wren",
        )
        is not None
    )
    assert stated.after is not None
    assert stated.after.hex() in str(home.position("wren"))


# Another device.


@pytest.fixture
def other_home(home: DeviceHome, tmp_path: Path) -> Iterator[DeviceHome]:
    """Another device of the same person: the same master secret."""
    folder = tmp_path / "other"
    folder.mkdir(mode=0o700)
    shutil.copy(home.path / "master.key", folder / "master.key")
    other = DeviceHome(folder)
    yield other
    other.close()


@pytest.mark.parametrize("looks", ["memories", "say"])
async def test_another_device_forgets_what_was_forgotten(
    looks: str, world: World, way: str, person: Person, other_home: DeviceHome
) -> None:
    """Its words of an erased turn go when it next looks or speaks; those of others stay."""
    async with Device(other_home, world.policy(), RelayCarrier([way])) as device:
        other = Person(device, person.enclave)
        await other.say(JUNO)
        await other.say(LEEDS)
        await person.device.memories.forget("wren", [(await person.fact("Juno"))["ref"]])
        assert b"Juno" in on_disk(other_home)
        await getattr(other, looks)(*(["hello"] if looks == "say" else []))
        assert b"Juno" not in on_disk(other_home)
        assert b"Leeds" in on_disk(other_home)


async def test_another_device_follows_a_conversation_that_was_forgotten(
    world: World, way: str, person: Person, other_home: DeviceHome
) -> None:
    """It says so, forgets its words, and goes on in the new one; also over several at once."""
    async with Device(other_home, world.policy(), RelayCarrier([way])) as device:
        other = Person(device, person.enclave)
        await other.say(JUNO)
        for _ in range(3):
            await person.device.forget("wren")
        last = await other.say("hello")
        moved = [one for one in other.events if one["type"] == "thread.moved"]
        assert [one["reason"] for one in moved] == ["thread_forgotten"] * 3
        assert last["usage"]["remembered_turns"] == 0
        assert other_home.thread("wren") == 3
        assert b"Juno" not in on_disk(other_home)
        assert [one["text"] for one in await person.memories(kinds=["turn"])] == ["hello"]


async def test_another_device_follows_a_rotation(
    world: World, way: str, person: Person, other_home: DeviceHome
) -> None:
    """It keeps its words, because nothing was forgotten, and the conversation goes on."""
    async with Device(other_home, world.policy(), RelayCarrier([way])) as device:
        other = Person(device, person.enclave)
        await other.say(JUNO)
        await person.device.memories.rotate("wren")
        last = await other.say("hello")
        assert other.events[0]["type"] == "thread.moved"
        assert last["usage"]["remembered_turns"] == 1
        assert b"Juno" in on_disk(other_home)


# Rotation.


async def test_a_rotation_keeps_all_and_leaves_old_copies_closed(
    world: World, person: Person, home: DeviceHome
) -> None:
    """Same memories under the same names; neither key opens what the other one sealed."""
    memories, old = person.device.memories, home.thread_keys("wren")
    first = await person.say(JUNO)
    await person.say(LEEDS)
    await memories.forget("wren", [(await person.fact("Leeds"))["ref"]])
    before, copy = await person.memories(), await stored(world, old)
    row = await memories.rotate("wren")
    new = home.thread_keys("wren")
    assert home.thread("wren") == 1
    assert await person.memories() == before
    assert await stored(world, old) == []
    sealed = await stored(world, new)
    for keys, one in ((new, copy[0]), (old, sealed[0])):
        with pytest.raises(CorruptError):
            open_record(keys, 0, one)
    # The operator puts the copy back; nobody reads it any more.
    await world.client.rpush(f"{{t:{old.thread_id}}}:records", *copy)  # type: ignore[misc]
    assert (await person.say("hello"))["usage"]["remembered_turns"] == 1
    stated = decode_erasure(row.receipt or b"").unverified
    assert (stated.scope, stated.length) == (Scope.ROTATION, len(copy))
    assert home.transcripts.said(first["receipt_id"]) is not None, "nothing was forgotten"
    await memories.forget("wren", ["m0"])
    assert home.transcripts.said(first["receipt_id"]) is None, (
        "a turn keeps its place over a rotation"
    )


async def test_a_rotation_whose_answer_was_lost_is_finished_later(
    world: World, person: Person, home: DeviceHome
) -> None:
    """The device learns that its own rotation was done, and gets the receipt of it."""
    await person.say(JUNO)
    row = await person.device.memories.rotate("wren")
    given = (await world.client.xinfo_stream(LEAVES_STREAM))["entries-added"]
    home.database.execute("UPDATE erasures SET receipt = NULL, enclave_id = NULL")
    home.database.execute("UPDATE threads SET thread = 0")
    assert "Juno" in (await person.memories())[0]["text"]
    kept = home.erasure(row.receipt_id)
    assert kept is not None
    assert (kept.receipt, home.thread("wren")) == (row.receipt, 1)
    # An enclave that died may have signed it, and not given it to the log.
    assert (await world.client.xinfo_stream(LEAVES_STREAM))["entries-added"] == given + 1


# Export and import.


async def exported(device: Device, form: str = "json") -> bytes:
    """An export whole."""
    return "".join([part async for part in device.memories.export("wren", form)]).encode()


async def test_what_is_exported_forgotten_and_imported_is_the_same(
    person: Person, home: DeviceHome
) -> None:
    """Same references, texts, dates, sources, pins; and it is recalled again."""
    memories = person.device.memories
    await person.say(JUNO)
    await person.say(LEEDS)
    old = (await memories.write("wren", "I like tea."))["memory"]["ref"]
    await memories.edit("wren", old, "I like coffee.")
    await memories.pin("wren", (await person.fact("Leeds"))["ref"])
    await memories.forget("wren", [(await person.fact("Juno"))["ref"]])
    before = await person.memories(superseded=True)
    data = await exported(person.device)
    await person.device.forget("wren")
    assert await person.memories() == []
    done = await memories.import_records("wren", from_json(data))
    assert await person.memories(superseded=True) == before
    assert done.records == len(from_json(data))
    assert home.pending_erasures("wren") == []
    await person.say("Where do I live?")
    assert "Leeds" in person.prompt()


async def test_facts_of_a_markdown_file_join_a_conversation(person: Person) -> None:
    """Behind what is there, which stays as it was."""
    await person.say(JUNO)
    before = await person.memories()
    await person.device.memories.write("wren", "I am allergic to walnuts.")
    text = await exported(person.device, "markdown")
    assert b"Juno" in text
    assert b"walnuts" in text
    await person.device.memories.import_records("wren", from_markdown(text))
    after = await person.memories()
    assert after[: len(before)] == before
    assert sum("walnuts" in one["text"] for one in after) == 2


class CutCarrier(RelayCarrier):
    """A way that ends after so many exchanges."""

    left = 10**6

    async def open_stream(self, gateway: str) -> Any:
        """One exchange, unless that was the last."""
        if self.left == 0:
            raise SottoError("the way was cut by the test", code="cut")
        self.left -= 1
        return await super().open_stream(gateway)


async def test_an_import_that_is_cut_anywhere_changes_nothing_and_goes_on_later(
    world: World, way: str, person: Person, home: DeviceHome
) -> None:
    """Between copy, batches and end: the conversation is as it was until all is there."""
    facts = "\n".join(
        f"- [m0.0] since 2026-05-03T10:22:31Z, importance 50: fact number {n} {'x' * 480}"
        for n in range(500)
    )
    batches = from_markdown(f"# What is remembered\n\n## Facts\n\n{facts}\n".encode())
    await person.say(JUNO)
    before = await person.memories()
    carrier = CutCarrier([way])
    stages = 0
    async with Device(home, world.policy(), carrier) as device:
        await device.enclaves()
        while True:
            carrier.left = stages
            try:
                await device.memories.import_records("wren", batches)
            except SottoError as error:
                assert error.code == "cut"
            else:
                break
            assert await person.memories() == before, f"cut after {stages} exchanges"
            stages += 1
    assert stages >= 4, "copy, at least two batches, and the end"
    after = await person.device.memories.page("wren", kinds=["fact"], limit=1)
    numbers = [one for one in before if one["kind"] == "fact"]
    assert after["total"] == len(numbers) + 500
    assert home.pending_erasures("wren") == []


async def test_an_import_does_not_lose_what_was_said_meanwhile(
    world: World, way: str, person: Person, home: DeviceHome
) -> None:
    """A turn between copy and end: it is there, before what was imported."""
    await person.say(JUNO)
    batch = from_markdown(
        b"# What is remembered\n\n## Facts\n\n"
        b"- [m0.0] since 2026-05-03T10:22:31Z, importance 50: I like tea.\n"
    )
    carrier = CutCarrier([way])
    async with Device(home, world.policy(), carrier) as device:
        await device.enclaves()
        carrier.left = 2
        assert (await refused(device.memories.import_records("wren", batch))).code == "cut"
        await person.say(LEEDS)
        carrier.left = 10**6
        await device.memories.import_records("wren", batch)
    texts = json.dumps(await person.memories())
    assert texts.index("Juno") < texts.index("Leeds") < texts.index("tea")


def batch_of(*records: Record) -> str:
    """Records as an import carries them."""
    encoded = [cbor2.dumps([NUMBERS[type(one)], to_fields(one)], canonical=True) for one in records]
    return base64.b64encode(b"".join(encoded)).decode()


async def imported(enclave: Enclave, at: int, records: str) -> tuple[int, str]:
    """A batch sent to the enclave as it is; status, and the code of a refusal."""
    body = {"thread_key": a_turn(7)["thread_key"], "at": at, "records": records}
    response = await enclave.one_shot(inner(body, path=b"/v1/memory/import"))
    return response.status, json.loads(response.content).get("error", {}).get("code", "")


async def test_a_batch_is_written_once_and_never_over_another(enclave: Enclave) -> None:
    """The same again is nothing new; another one in its place, or one too early, is a conflict."""
    tea, milk = (Notes(None, facts=(Fact(f"I like {one}."),)) for one in ("tea", "milk"))
    for _ in range(2):
        assert await imported(enclave, 0, batch_of(tea, Gap())) == (200, "")
    assert await imported(enclave, 1, batch_of(Gap(), milk)) == (200, "")
    assert await imported(enclave, 0, batch_of(milk)) == (409, "memory_conflict")
    assert await imported(enclave, 9, batch_of(milk)) == (409, "memory_conflict")
    body = {"thread_key": a_turn(7)["thread_key"]}
    response = await enclave.one_shot(inner(body, path=b"/v1/memory/list"))
    texts = [one["text"] for one in json.loads(response.content)["memories"]]
    assert texts == ["I like tea.", "I like milk."]


@pytest.mark.parametrize(
    ("records", "code"),
    [
        (base64.b64encode(b"\xff").decode(), "memory_invalid"),
        (base64.b64encode(cbor2.dumps([2, []])).decode(), "memory_invalid"),
        (base64.b64encode(cbor2.dumps([99, []])).decode(), "memory_invalid"),
        (base64.b64encode(cbor2.dumps("notes")).decode(), "memory_invalid"),
        (batch_of(Gap())[:-4] + "AAAA", "memory_invalid"),
        (batch_of(Tombstone(bytes(16), 0, (), ())), "memory_invalid"),
        (batch_of(Pin(Ref(1), pinned=True)), "memory_invalid"),
        (batch_of(Notes(None, facts=(Fact("x", sources=(4,)),))), "memory_invalid"),
        (batch_of(Summary("x", 5, 0)), "memory_invalid"),
        ("not Base64!", "invalid_request"),
        ("", "invalid_request"),
    ],
)
async def test_a_batch_that_holds_anything_else_is_refused_whole(
    records: str, code: str, enclave: Enclave, world: World
) -> None:
    """What is no record, erases something, or names what comes after it."""
    assert await imported(enclave, 0, records) == (400, code)
    assert await stored(world, ThreadKeys(derive_thread_key((7).to_bytes(32, "big"), "wren"))) == []


# A store that somebody has tampered with.


@pytest.mark.parametrize(
    ("tamper", "code"),
    [("cut off", "memory_rollback"), ("altered", "memory_corrupt"), ("put back", "memory_corrupt")],
)
async def test_a_tampered_thread_is_told_and_not_changed(
    tamper: str, code: str, world: World, person: Person, home: DeviceHome
) -> None:
    """By lists, changes, exports and rotations alike; only forgetting it whole helps."""
    memories, keys = person.device.memories, home.thread_keys("wren")
    name = f"{{t:{keys.thread_id}}}:records"
    await person.say(JUNO)
    await person.say(LEEDS)
    sealed = await stored(world, keys)
    match tamper:
        case "cut off":
            await world.client.delete(name)
        case "altered":
            spoilt = sealed[1][:-1] + bytes([sealed[1][-1] ^ 1])
            await world.client.lset(name, 1, spoilt)  # type: ignore[misc]
        case _:
            await memories.forget("wren", ["m0"])
            await world.client.lset(name, 0, sealed[0])  # type: ignore[misc]
    spoilt_all = await stored(world, keys)
    for work in (
        memories.page("wren"),
        memories.write("wren", "I like tea."),
        memories.forget("wren", ["m0"]),
        memories.rotate("wren"),
        exported(person.device),
    ):
        error = await refused(work)
        assert error.code == code, str(error)
    assert await stored(world, keys) == spoilt_all
    await person.device.forget("wren")
    assert await person.memories() == []


async def test_a_change_waits_for_the_turn_that_runs(
    world: World, person: Person, home: DeviceHome
) -> None:
    """Both are there afterwards, in one order."""
    saying = asyncio.create_task(person.say(JUNO))
    await asyncio.sleep(0)
    await person.device.memories.write("wren", "I like tea.")
    with contextlib.suppress(asyncio.CancelledError):
        await saying
    texts = json.dumps(await person.memories())
    assert "Juno" in texts
    assert "tea" in texts
    assert home.position("wren") is not None
    assert len(await stored(world, home.thread_keys("wren"))) >= 2


# Several devices, of which one stops in the middle.


async def test_what_was_forgotten_does_not_come_back_from_another_devices_unfinished_import(
    world: World, way: str, person: Person, other_home: DeviceHome
) -> None:
    """Its copy of the conversation lies where the next one would begin, and is erased with it."""
    await person.say(JUNO)
    carrier = CutCarrier([way])
    async with Device(other_home, world.policy(), carrier) as device:
        await device.enclaves()
        carrier.left = 1
        assert (await refused(device.memories.rotate("wren"))).code == "cut"
    await person.device.forget("wren")
    assert await person.memories() == []
    await person.say("hello")
    assert "Juno" not in person.prompt()
    # The other one goes on with the same conversation, and not with its copy.
    async with Device(other_home, world.policy(), RelayCarrier([way])) as device:
        texts = [one["text"] for one in await Person(device, person.enclave).memories()]
    assert texts == ["hello"]


async def test_a_device_that_missed_a_rotation_forgets_the_conversation_all_the_same(
    world: World, way: str, person: Person, other_home: DeviceHome
) -> None:
    """It is the thread of the new key that goes; the device is not stuck at the old one."""
    await person.say(JUNO)
    async with Device(other_home, world.policy(), RelayCarrier([way])) as device:
        other = Person(device, person.enclave)
        assert "Juno" in (await other.memories())[0]["text"]
        await person.device.memories.rotate("wren")
        row = await device.forget("wren")
        assert decode_erasure(row.receipt or b"").unverified.length >= 1
        assert await other.memories() == []
        assert other_home.pending_erasures("wren") == []
    assert await person.memories() == []


async def test_an_import_of_what_is_there_already_is_refused_and_changes_nothing(
    person: Person, home: DeviceHome
) -> None:
    """A turn stands in a conversation once; and what came with it is not dropped in silence."""
    await person.say(JUNO)
    before, thread = await person.memories(), home.thread("wren")
    batch = from_json(await exported(person.device))
    error = await refused(person.device.memories.import_records("wren", batch))
    assert error.code == "memory_present", str(error)
    assert (await person.memories(), home.thread("wren")) == (before, thread)
    assert home.pending_erasures("wren") == []


async def test_a_rotation_does_not_end_a_thread_that_was_cut_back_since_it_was_copied(
    world: World, person: Person, home: DeviceHome
) -> None:
    """What was said between copy and end is missing: told, and the old thread stays."""
    memories, keys = person.device.memories, home.thread_keys("wren")
    await person.say(JUNO)
    names = [f"{{t:{keys.thread_id}}}:{one}" for one in ("records", "turns")]
    kept = [await world.client.dump(one) for one in names]
    row = home.begin_erasure("wren", "11" * 16, 1, scope=Scope.ROTATION)
    await memories._forgetting.ask("wren", row.thread, memories._rotation(row, "copy"))
    await person.say(LEEDS)
    for name, one in zip(names, kept, strict=True):
        await world.client.restore(name, 0, one, replace=True)
    error = await refused(memories._finish_rotation(row, None))
    assert error.code == "memory_rollback", str(error)
    assert await stored(world, keys) != []


async def test_a_pin_and_an_edit_read_no_more_than_a_turn_does(
    world: World, person: Person, home: DeviceHome
) -> None:
    """What is in view is changed without reading the thread from its beginning."""
    await person.say(JUNO)
    memories, ref = person.device.memories, (await person.fact("Juno"))["ref"]

    async def pages() -> int:
        stats = await world.client.info("commandstats")
        return int(stats["cmdstat_lrange"]["calls"])

    for work in (
        memories.pin("wren", ref),
        memories.edit("wren", ref, "My dog is called Juno the Second."),
        memories.write("wren", "I like tea."),
    ):
        before = await pages()
        await work
        assert await pages() == before + 1


async def test_a_written_fact_takes_the_place_of_one_about_the_same(person: Person) -> None:
    """Where its subject has one value, as with a fact that was learned."""
    memories = person.device.memories
    old = (await memories.write("wren", "I live in Leeds.", about="user.home"))["memory"]["ref"]
    new = (await memories.write("wren", "I live in York.", about="user.home"))["memory"]["ref"]
    (shown,) = await person.memories(refs=[old])
    assert shown["superseded_by"] == new
    await memories.write("wren", "I like tea.", about="user.likes.tea")
    await memories.write("wren", "I like chess.", about="user.likes.chess")
    assert len(await person.memories(kinds=["fact"])) == 3


async def test_one_thread_is_read_a_few_times_at_once_and_no_more(enclave: Enclave) -> None:
    """Whoever asks more often is told to wait, and holds up nobody else."""
    body = {"thread_key": a_turn(7)["thread_key"]}
    keys = ThreadKeys(derive_thread_key((7).to_bytes(32, "big"), "wren"))

    async def asked(name: str, **more: Any) -> int:
        path = b"/v1/memory/" + name.encode()
        return (await enclave.one_shot(inner({**body, **more}, path=path))).status

    async with enclave.agent.alone(keys):
        waiting = [asyncio.create_task(asked("write", text=f"fact {n}")) for n in range(6)]
        while sum(one.done() for one in waiting) < 2:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    assert sorted(await asyncio.gather(*waiting)) == [200] * 4 + [429] * 2
    assert await asked("list") == 200


async def test_an_erasure_that_breaks_off_leaves_nothing_in_the_clear(enclave: Enclave) -> None:
    """Whatever it ends with, the enclave lets go of the view that it had."""
    keys = ThreadKeys(derive_thread_key((7).to_bytes(32, "big"), "wren"))
    await enclave.one_shot(inner(a_turn(7)))
    await enclave.remembering.settled()
    assert enclave.remembering.views.get(keys) is not None
    with pytest.raises(ConnectionError):
        async with enclave.agent.alone(keys, erasing=True):
            raise ConnectionError
    assert enclave.remembering.views.get(keys) is None
