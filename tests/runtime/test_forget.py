"""Forgetting a whole thread: what the enclave erases and signs, what the device forgets, and what
an attacker gains: nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from memory.keys import ThreadKeys, derive_thread_key
from memory.store import ThreadStore
from memory.thread import Erased
from proofs.erasure import (
    Scope,
    SignedErasure,
    decode_erasure,
    erasure_entry,
    sign_erasure,
    thread_commitment,
)
from proofs.receipt import decode_receipt
from proofs.tlogproof import parse_tlog_proof
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.relays import RelayCarrier
from runtime.enclave.agent import Agent
from runtime.enclave.api import ApiError, to_base64url
from runtime.enclave.binding import Binding
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.outbox import Outbox
from runtime.enclave.places import Places
from runtime.errors import SottoError
from runtime.redis_client import hash_fields
from runtime.sealing import open_receipt, seal_receipt
from runtime.streams import receipt_key
from runtime.telemetry import EnclaveMetrics
from tests.e2e.system import System, sotto
from tests.runtime.enclave_world import (
    WREN,
    Enclave,
    World,
    a_turn,
    error_of,
    inner,
    newest,
    relay,
    running_enclave,
)
from transport import media
from transport.bhttp import decode_response
from transport.ohttp import encapsulate

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def keys_of(number: int) -> ThreadKeys:
    """The keys of the thread that `a_turn` of this number is in."""
    return ThreadKeys(derive_thread_key(number.to_bytes(32, "big"), "wren"))


def forgetting(number: int, request_id: int = 0xF) -> bytes:
    """A request to forget that thread."""
    body = {"thread_key": a_turn(number)["thread_key"], "turn_id": f"{request_id:032x}"}
    return inner(body, path=b"/v1/threads/forget")


async def said(enclave: Enclave, number: int, turn_id: int) -> None:
    """One turn in a thread, and its notes: two records."""
    response, _ = await enclave.chunked(inner(a_turn(number, turn_id=f"{turn_id:032x}")))
    assert b"response.completed" in response.content
    await enclave.remembering.settled()


async def forgotten(enclave: Enclave, number: int, request_id: int = 0xF) -> SignedErasure:
    """Ask for a thread to be forgotten; the receipt as its owner opens it."""
    response = await enclave.one_shot(forgetting(number, request_id))
    assert response.status == 200, response.content
    answer = json.loads(response.content)
    keys = keys_of(number)
    erasure_id = keys.erasure_id(request_id.to_bytes(16, "big"))
    assert answer["receipt_id"] == erasure_id.hex()
    return decode_erasure(open_receipt(keys, erasure_id, base64.b64decode(answer["sealed"])))


async def stored(client: Redis, number: int) -> int:
    """How many records of a thread are there."""
    return int(await client.llen(f"{{t:{keys_of(number).thread_id}}}:records"))


@pytest.fixture
async def enclave(world: World) -> AsyncIterator[Enclave]:
    """Log and enclave."""
    async with running_enclave(world) as enclave:
        yield enclave


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


# The enclave.


async def test_a_thread_is_erased_and_the_enclave_signs_that(
    world: World, enclave: Enclave
) -> None:
    """Head, length, the last receipt and the thread under its salt; others' threads stay."""
    for turn_id in (1, 2):
        await said(enclave, 1, turn_id)
    await said(enclave, 2, 3)
    store, keys = ThreadStore(world.client), keys_of(1)
    before = (await store.open(keys, expected=None)).view
    signed = await forgotten(enclave, 1)
    assert await stored(world.client, 1) == 0
    assert await stored(world.client, 2) == 2
    current = newest(enclave.keeper)
    erasure = signed.verify(current.bundle_digest, current.claims)
    assert (erasure.length, erasure.head) == (4, before.position.head)
    last = before.turns[-1][1].receipt_id
    (sealed,) = await hash_fields(world.client, receipt_key(last.hex()), "sealed")
    assert sealed is not None
    assert erasure.previous == decode_receipt(open_receipt(keys, last, sealed)).digest
    salt = keys.erasure_salt(erasure.erasure_id)
    assert erasure.thread == thread_commitment(salt, bytes.fromhex(keys.thread_id))


async def test_an_erasure_settles_in_the_log_as_receipts_do(world: World, enclave: Enclave) -> None:
    """Under its own entry, and a reader of the log learns no thread's id from it."""
    await said(enclave, 1, 1)
    signed = await forgotten(enclave, 1)
    name = signed.unverified.erasure_id.hex()
    proof = None
    async with asyncio.timeout(60):
        while proof is None:
            (proof,) = await hash_fields(world.client, receipt_key(name), "proof")
            await asyncio.sleep(0.02)
    entry = erasure_entry(signed.encoded)
    parse_tlog_proof(proof.decode()).verify(entry, world.policy().log_keys)
    assert bytes.fromhex(keys_of(1).thread_id) not in signed.encoded


async def test_the_same_request_is_the_same_erasure(world: World, enclave: Enclave) -> None:
    """At once, again, and of another enclave that has the same Redis; other ids are others."""
    await said(enclave, 1, 1)
    at_once = await asyncio.gather(*(forgotten(enclave, 1) for _ in range(4)))
    again = await forgotten(enclave, 1)
    assert {one.encoded for one in (*at_once, again)} == {again.encoded}
    assert again.unverified.length == 2
    other = another_agent(world)
    sealed = await other.forget(keys_of(1), (0xF).to_bytes(16, "big"), a_binding(enclave))
    assert open_receipt(keys_of(1), again.unverified.erasure_id, sealed) == again.encoded
    later = await forgotten(enclave, 1, request_id=0xE)
    assert (later.unverified.length, later.unverified.head) == (0, None)
    await other.close(1)


class Gated(Outbox):
    """Hands no erasure over before it may."""

    def __init__(self, client: Redis) -> None:
        super().__init__(client)
        self.reached, self.gate = asyncio.Event(), asyncio.Event()

    async def hand_over_erasure(self, keys: ThreadKeys, erasure_id: bytes, sealed: bytes) -> bytes:
        """Wait at the gate first."""
        self.reached.set()
        await self.gate.wait()
        return await super().hand_over_erasure(keys, erasure_id, sealed)


async def test_an_erasure_that_was_begun_is_signed_though_nobody_waits(
    world: World, enclave: Enclave
) -> None:
    """A device that is cut off when the thread is gone can still have the receipt of that."""
    await said(enclave, 1, 1)
    outbox = Gated(world.client)
    agent = another_agent(world, outbox)
    asked = asyncio.create_task(agent.forget(keys_of(1), bytes(16), a_binding(enclave)))
    await outbox.reached.wait()
    assert await stored(world.client, 1) == 0
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    outbox.gate.set()
    sealed = await agent.forget(keys_of(1), bytes(16), a_binding(enclave))
    erasure_id = keys_of(1).erasure_id(bytes(16))
    assert decode_erasure(open_receipt(keys_of(1), erasure_id, sealed)).unverified.length == 2


async def test_an_erasure_that_an_enclave_died_over_is_taken_up(
    world: World, enclave: Enclave
) -> None:
    """Erased and not signed: whoever is asked next signs what was erased, and not that nothing
    was."""
    await said(enclave, 1, 1)
    outbox = Gated(world.client)
    dying = another_agent(world, outbox)
    asked = asyncio.create_task(dying.forget(keys_of(1), bytes(16), a_binding(enclave)))
    await outbox.reached.wait()
    asked.cancel()
    await dying.close(0)
    signed = await forgotten(enclave, 1, 0)
    assert signed.unverified.length == 2
    assert signed.unverified.head is not None


async def test_two_enclaves_that_are_asked_at_once_give_one_receipt(
    world: World, enclave: Enclave
) -> None:
    """The log has a proof for one of them alone."""
    await said(enclave, 1, 1)
    outboxes = [Gated(world.client), Gated(world.client)]
    agents = [another_agent(world, outbox) for outbox in outboxes]
    binding = a_binding(enclave)
    asked = [asyncio.create_task(one.forget(keys_of(1), bytes(16), binding)) for one in agents]
    for outbox in outboxes:
        await outbox.reached.wait()
    for outbox in outboxes:
        outbox.gate.set()
    first, second = await asyncio.gather(*asked)
    assert first == second


def another_agent(world: World, outbox: Outbox | None = None) -> Agent:
    """A replica's, on the same Redis."""
    engine = ScriptedEngine(first_token_s=0, token_s=0)
    outbox = outbox or Outbox(world.client)
    metrics = EnclaveMetrics(CollectorRegistry(), queue=engine.queued, pending=outbox.pending)
    store = ThreadStore(world.client)
    return Agent(engine, store, outbox, metrics, places=Places(4, outbox))


def a_binding(enclave: Enclave) -> Binding:
    """Of an exchange with this enclave."""
    return Binding(newest(enclave.keeper), 0, bytes(32), bytes(32))


class StopsLate(ScriptedEngine):
    """Ends no turn before it may."""

    def __init__(self) -> None:
        super().__init__(first_token_s=0, token_s=0.2, tokens=2000)
        self.gate = asyncio.Event()

    async def abort(self, request_id: str) -> None:
        """Wait at the gate first."""
        await self.gate.wait()
        await super().abort(request_id)


async def test_a_running_turn_is_stopped_and_leaves_nothing(world: World) -> None:
    """It ends before the thread is erased, nothing is written after, and meanwhile none begins."""
    engine = StopsLate()
    async with running_enclave(world, engine) as enclave:
        running = asyncio.create_task(enclave.chunked(inner(a_turn(1))))
        async with asyncio.timeout(60):
            while enclave.places.taken == 0:  # noqa: ASYNC110 - the enclave has no event for it
                await asyncio.sleep(0.01)
        erasing = asyncio.create_task(forgotten(enclave, 1))
        async with asyncio.timeout(60):
            while enclave.places.taken == 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        late = await enclave.one_shot(inner(a_turn(1, turn_id="e" * 32)))
        engine.gate.set()
        response, _ = await running
        signed = await erasing
        assert b"response.cancelled" in response.content
        assert (late.status, error_of(late)["code"]) == (409, "thread_forgotten")
        assert await stored(world.client, 1) == 0
        assert signed.unverified.length in (1, 2), "what was said until then was remembered"
        # The turn that was stopped is not told again from this enclave's own memory.
        assert (await forgotten(enclave, 1, 0xD)).unverified.length == 0
        answer = (await enclave.chunked(inner(a_turn(1))))[0].content
        assert b"thread_forgotten" in answer
        assert b"replayed" not in answer


async def test_another_replicas_running_turn_cannot_write_after(world: World) -> None:
    """Its place in the chain is gone: it fails, and its device is told why."""
    async with running_enclave(world) as enclave:
        await said(enclave, 1, 1)
        store, keys = ThreadStore(world.client), keys_of(1)
        place = (await store.open(keys, expected=None)).view.position
        await forgotten(enclave, 1)
        response, _ = await enclave.chunked(inner(a_turn(1, turn_id="a" * 32, position=str(place))))
        assert b"thread_forgotten" in response.content
        assert await stored(world.client, 1) == 0


async def test_a_damaged_thread_can_be_forgotten(world: World, enclave: Enclave) -> None:
    """Nobody has to keep what somebody else has spoilt."""
    await said(enclave, 1, 1)
    name = f"{{t:{keys_of(1).thread_id}}}:records"
    await world.client.rpush(name, b"spoilt")
    await world.client.hset(name.replace("records", "turns"), "head", b"spoilt")
    signed = await forgotten(enclave, 1)
    assert await stored(world.client, 1) == 0
    assert (signed.unverified.length, signed.unverified.head) == (3, None)
    assert signed.unverified.previous is None


async def test_nobody_forgets_a_thread_without_its_key(world: World, enclave: Enclave) -> None:
    """The key names the thread: another key, as short or as long as can be, names another."""
    await said(enclave, 1, 1)
    signed = await forgotten(enclave, 2)
    assert signed.unverified.length == 0
    assert await stored(world.client, 1) == 2
    for thread_key in ("", to_base64url(bytes(31)), keys_of(1).thread_id, None):
        body = {"thread_key": thread_key, "turn_id": "0" * 32}
        response = await enclave.one_shot(inner(body, path=b"/v1/threads/forget"))
        assert (response.status, error_of(response)["code"]) == (400, "invalid_request")
    assert await stored(world.client, 1) == 2


async def test_a_recording_of_a_request_to_forget_forgets_nothing(
    world: World, enclave: Enclave
) -> None:
    """Whoever carried it and sends it once more is refused as any replay is."""
    await said(enclave, 1, 1)
    sealed, opener = encapsulate((await enclave.configs())[0], forgetting(1))
    status, _, _ = await enclave.post(sealed, media.OHTTP_REQUEST)
    assert status == 200
    await world.client.delete(f"{{t:{keys_of(1).thread_id}}}:turns")  # as in a day
    await said(enclave, 1, 2)
    _, _, body = await enclave.post(sealed, media.OHTTP_REQUEST)
    assert error_of(decode_response(opener.open(body)))["code"] == "replayed"
    assert await stored(world.client, 1) == 2, "what was said since is still there"


async def test_an_erasure_cannot_take_the_place_of_somebodys_receipt(
    world: World, enclave: Enclave
) -> None:
    """An id that an edge has seen is none that it can ask an erasure to be stored under."""
    await said(enclave, 1, 1)
    opened = await ThreadStore(world.client).open(keys_of(1), expected=None)
    name = opened.view.turns[-1][1].receipt_id
    assert await enclave.outbox.drain(60) == 0
    before = await hash_fields(world.client, receipt_key(name.hex()), "sealed")
    await forgotten(enclave, 2, request_id=int.from_bytes(name, "big"))
    assert await hash_fields(world.client, receipt_key(name.hex()), "sealed") == before


async def test_nothing_is_said_to_be_forgotten_while_the_store_is_away(
    world: World, valkey_process: Any, own_redis_client: Redis
) -> None:
    """503, and the same request goes on where it stopped when the store is back."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
    binding = Binding(newest(keeper), 0, bytes(32), bytes(32))
    outbox = Outbox(own_redis_client)
    engine = ScriptedEngine()
    metrics = EnclaveMetrics(CollectorRegistry(), queue=engine.queued, pending=outbox.pending)
    places = Places(4, outbox)
    agent = Agent(engine, ThreadStore(own_redis_client), outbox, metrics, places=places)
    valkey_process.kill()
    with pytest.raises(ApiError) as caught:
        await agent.forget(keys_of(1), bytes(16), binding)
    assert (caught.value.status, caught.value.code) == (503, "memory_unavailable")
    assert places.taken == 0
    valkey_process.start()
    sealed = await agent.forget(keys_of(1), bytes(16), binding)
    erasure_id = keys_of(1).erasure_id(bytes(16))
    assert decode_erasure(open_receipt(keys_of(1), erasure_id, sealed)).unverified.length == 0
    assert places.taken == 0


# The device.


async def reply(device: Device) -> dict[str, Any]:
    """One turn; its last event."""
    event: dict[str, Any] = {}
    async for each in device.turn(WREN, "an aubergine"):
        event = each
    return event


def on_disk(home: DeviceHome) -> bytes:
    """All bytes of the device's database."""
    return b"".join(file.read_bytes() for file in home.path.glob("device.db*"))


async def test_a_device_forgets_what_was_said_and_begins_anew(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """No word and no salt is left on its disk, receipts stay, and the next thread is empty."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        first = await reply(device)
        row = await device.wait_settled(first["receipt_id"], 60)
        assert row is not None
        told = home.transcripts.said(row.receipt_id)
        assert told is not None
        assert b"aubergine" in on_disk(home)
        erased = await device.forget("wren")
        erased = await device.wait_erased(erased.receipt_id, 60) or erased
        second = await reply(device)
        await device.wait_settled(second["receipt_id"], 60)
        held = home.transcripts.said(second["receipt_id"])
    assert (erased.status, erased.thread, home.thread("wren")) == ("settled", 0, 1)
    assert home.transcripts.said(row.receipt_id) is None
    assert home.transcripts.sealings(row.receipt_id) == []
    assert told.request_salt not in on_disk(home)
    assert held is not None, "what is said since is kept"
    kept = home.receipt(row.receipt_id)
    assert kept is not None
    assert (kept.status, kept.receipt) == ("settled", row.receipt)
    assert home.disclosable(row.receipt_id).said is None
    with pytest.raises(SottoError) as caught:
        home.disclosable(row.receipt_id, with_text=True)
    assert caught.value.code == "text_not_kept"
    assert second["usage"]["remembered_turns"] == 0
    assert erased.receipt is not None
    assert decode_erasure(erased.receipt).unverified.length in (1, 2), "with notes or without"


async def test_no_word_is_left_on_the_disk_when_nothing_was_said_since(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """Neither in a page that nobody uses nor in the journal."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        last = await reply(device)
        await device.wait_settled(last["receipt_id"], 60)
        assert b"aubergine" in on_disk(home)
        assert b"paced script" in on_disk(home)
        await device.forget("wren")
        assert b"aubergine" not in on_disk(home)
        assert b"paced script" not in on_disk(home)


async def test_a_store_that_was_put_back_is_not_read_again(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """The operator's copy is under a key that this device does not use any more."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        await reply(device)
        thread_id = home.thread_keys("wren").thread_id
        names = [f"{{t:{thread_id}}}:{part}" for part in ("records", "turns")]
        copies = [await world.client.dump(name) for name in names]
        await device.forget("wren")
        for name, copy in zip(names, copies, strict=True):
            await world.client.restore(name, 0, copy, replace=True)
        last = await reply(device)
    assert last["usage"]["remembered_turns"] == 0


async def test_a_device_that_was_cut_off_goes_on_with_the_same_erasure(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """The enclave has erased; the device, asked again, gets the receipt of that."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        await reply(device)
        begun = home.begin_erasure("wren", os.urandom(16).hex(), 0)
        keys = home.thread_keys("wren")
        request_id = bytes.fromhex(begun.request_id)
        await enclave.agent.forget(keys, request_id, a_binding(enclave))
        erased = await device.forget("wren")
    assert erased.receipt_id == begun.receipt_id
    assert erased.receipt is not None
    assert decode_erasure(erased.receipt).unverified.length in (1, 2)
    assert [row.receipt_id for row in home.erasures()] == [begun.receipt_id]


async def test_a_turn_that_ends_after_its_thread_was_forgotten_leaves_nothing(
    world: World, home: DeviceHome
) -> None:
    """No text, no place; and its receipt is still verified."""
    engine = ScriptedEngine(first_token_s=0, token_s=0.2, tokens=2000)
    async with (
        running_enclave(world, engine) as enclave,
        relay(enclave) as url,
        Device(home, world.policy(), RelayCarrier([url])) as device,
    ):
        events = device.turn(WREN, "an aubergine")
        async for event in events:
            if event["type"] == "response.output_text.delta":
                break
        await device.forget("wren")
        async for event in events:
            last = event
        assert last["type"] == "response.cancelled"
        row = await device.wait_settled(last["receipt_id"], 60)
    assert row is not None
    assert (row.status, row.thread) == ("settled", 0)
    assert home.transcripts.said(row.receipt_id) is None
    assert home.transcripts.sealings(row.receipt_id) == []
    assert (home.thread("wren"), home.position("wren")) == (1, None)


@pytest.mark.parametrize(
    "what", ["another thread", "another id", "another scope", "another key", "not sealed"]
)
async def test_an_erasure_receipt_that_does_not_hold_ends_nothing(
    what: str, world: World, home: DeviceHome
) -> None:
    """What was said stays here until an enclave has signed that it forgot just that."""

    class Lying(Agent):
        """Signs something else."""

        async def forget(self, keys: ThreadKeys, request_id: bytes, binding: Binding) -> bytes:
            erasure_id = keys.erasure_id(request_id)
            about = keys_of(9) if what == "another thread" else keys
            stated = binding.erasure(about, erasure_id, Erased(1, bytes(32)), None)
            if what == "another id":
                stated = binding.erasure(keys, bytes(16), Erased(1, bytes(32)), None)
            if what == "another scope":
                stated = replace(stated, scope=Scope.RECORDS, after=bytes(32))
            other = Ed25519PrivateKey.generate()
            key = other if what == "another key" else binding.identity.receipt_key
            if what == "not sealed":
                return sign_erasure(stated, key)
            return seal_receipt(keys, erasure_id, sign_erasure(stated, key), bytes(12))

    async with (
        running_enclave(world, agent_kind=Lying) as enclave,
        relay(enclave) as url,
        Device(home, world.policy(), RelayCarrier([url])) as device,
    ):
        await reply(device)
        with pytest.raises(SottoError) as caught:
            await device.forget("wren")
    assert caught.value.code in ("receipt_mismatch", "receipt_unreadable")
    assert home.thread("wren") == 0
    assert b"aubergine" in on_disk(home)


# The command, over processes, each with its own rights in Redis.


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system."""
    system = System(tmp_path_factory.mktemp("forget") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


def test_a_person_forgets_a_conversation(system: System) -> None:
    """Said, forgotten with a receipt that settles, and the next turn remembers nothing."""
    where = ("--home", str(system.home), "--edge", system.edge)
    for remembered in (0, 1):
        turn = system.chat("wren", "hello")
        assert turn["usage"]["remembered_turns"] == remembered
    asked = sotto("forget", "wren", *where)
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    unknown = sotto("forget", "nobody-at-all", "--yes", *where)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    done = sotto("forget", "wren", "--yes", "--json", *where)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["thread"] == 0
    assert told["records"] in (2, 3, 4), "two turns, and notes as far as they were made"
    assert told["fewer_than_seen"] is False
    assert system.chat("wren", "hello")["usage"]["remembered_turns"] == 0
    again = sotto("forget", "wren", "--yes", *where)
    assert (again.returncode, " record" in again.stdout) == (0, True)
    assert [row["status"] for row in system.settled_receipts(3)] == ["settled"] * 3

    def erasures() -> list[str]:
        listed = json.loads(sotto("receipts", "--json", *where).stdout)["erasures"]
        return [row["status"] for row in listed]

    # The command waits for five seconds, which a busy machine may need.
    system.wait(lambda: erasures() == ["settled"] * 2, "the erasures are not settled")
