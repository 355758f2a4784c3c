"""The receipts of a thread name each other, whatever happens to its turns and its enclaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from memory.keys import ThreadKeys, derive_thread_key
from memory.store import ThreadStore
from proofs.chain import ChainFault, ChainProblem, check_chain
from proofs.receipt import Outcome, Receipt, decode_receipt
from runtime.enclave.agent import Agent
from runtime.enclave.api import PersonaReference, TurnRequest
from runtime.enclave.binding import Binding
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.identity import Identity
from runtime.enclave.outbox import Outbox
from runtime.enclave.places import Places
from runtime.enclave.turns import RunningTurn, TurnCall
from runtime.sealing import open_receipt
from runtime.telemetry import EnclaveMetrics
from tests.runtime.enclave_world import WREN, WREN_DIGEST, World, newest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
THREAD_KEY = derive_thread_key(b"m" * 32, "wren")
KEYS = ThreadKeys(THREAD_KEY)


@pytest.fixture
async def identity(world: World) -> Identity:
    """An enclave's, in the log."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
    return newest(keeper)


class Replica:
    """An enclave's agent and its outbox."""

    def __init__(self, world: World, identity: Identity, **engine: Any) -> None:
        script = ScriptedEngine(**{"first_token_s": 0, "token_s": 0, "tokens": 3, **engine})
        self.outbox = Outbox(world.client)
        metrics = EnclaveMetrics(
            CollectorRegistry(), queue=script.queued, pending=self.outbox.pending
        )
        store = ThreadStore(world.client)
        self.agent = Agent(script, store, self.outbox, metrics, places=Places(64, self.outbox))
        self._identity = identity

    def submit(
        self, number: int, message: str = "hello", position: str | None = None
    ) -> RunningTurn:
        """A turn, begun or listened to."""
        request = TurnRequest(
            thread_key=THREAD_KEY,
            turn_id=f"{number:032x}",
            persona=PersonaReference(handle="wren", digest=WREN_DIGEST.hex()),
            message=message,
            position=position,
        )
        binding = Binding(self._identity, 0, number.to_bytes(32, "big"), bytes(32))
        return self.agent.submit(TurnCall(request, KEYS, WREN, binding))

    async def say(self, number: int, message: str = "hello") -> dict[str, Any]:
        """A whole turn; its last event."""
        return await ended(self.submit(number, message))


async def ended(turn: RunningTurn) -> dict[str, Any]:
    """The last event of a turn."""
    last: dict[str, Any] = {}
    async for batch in turn.follow():
        last = batch[-1]
    return last


@contextlib.asynccontextmanager
async def replica(world: World, identity: Identity, **engine: Any) -> AsyncIterator[Replica]:
    """One that hands its receipts over, while the block runs."""
    one = Replica(world, identity, **engine)
    handing = asyncio.create_task(one.outbox.run())
    try:
        yield one
        assert await one.outbox.drain(60) == 0
    finally:
        handing.cancel()
        await asyncio.gather(handing, return_exceptions=True)
        await one.agent.close(0)


async def receipts(world: World) -> list[tuple[bytes, Receipt]]:
    """All of the thread's receipts that Redis has, oldest first."""
    found = []
    for key in await world.client.keys("sotto:receipt:*"):
        sealed = await world.client.hget(key, "sealed")
        if sealed is not None:
            name = bytes.fromhex(key.decode().rpartition(":")[2])
            encoded = open_receipt(KEYS, name, sealed)
            found.append((encoded, decode_receipt(encoded).unverified))
    return sorted(found, key=lambda one: (one[1].turn_index, one[1].outcome is not Outcome.FAILED))


async def problems(world: World) -> list[ChainProblem]:
    """What is found between them."""
    return check_chain(await receipts(world))


async def test_turns_that_end_in_every_way_leave_a_whole_chain(
    world: World, identity: Identity
) -> None:
    """Completed, failed before and between, cancelled, and sent again."""
    async with replica(world, identity) as one:
        assert (await one.say(1, "a " * 8190))["type"] == "response.failed"
        await one.say(2)
        assert (await one.say(3, "a " * 8190))["type"] == "response.failed"
        turn = one.submit(4)
        await one.agent.cancel(KEYS, turn.call.turn_id)
        assert (await ended(turn))["type"] == "response.cancelled"
        await one.say(5)
        assert await one.outbox.drain(60) == 0
    async with replica(world, identity) as fresh:
        assert (await fresh.say(2))["replayed"]
        await fresh.say(6)
    assert await problems(world) == []
    kinds = [str(receipt.outcome) for _, receipt in await receipts(world)]
    assert sorted(kinds) == ["cancelled", *["completed"] * 3, *["failed"] * 2]


async def test_an_enclave_that_hands_over_slowly_still_names_the_last_receipt(
    world: World, identity: Identity
) -> None:
    """A turn may follow before the receipt of the one before is signed and out."""
    slow = Replica(world, identity)
    for number in range(1, 5):
        await slow.say(number)
    assert slow.outbox.pending() == 4
    handing = asyncio.create_task(slow.outbox.run())
    assert await slow.outbox.drain(60) == 0
    handing.cancel()
    await asyncio.gather(handing, return_exceptions=True)
    assert await problems(world) == []


async def test_an_enclave_that_died_before_its_receipt_leaves_an_honest_gap(
    world: World, identity: Identity
) -> None:
    """The next turn names none; sent again, the turn gets its receipt, and nothing contradicts."""
    dead = Replica(world, identity)
    await dead.say(1)
    async with replica(world, identity) as one:
        await one.say(2)
        await one.say(3)
    (missing,) = await problems(world)
    assert (missing.fault, missing.contradicts) == (ChainFault.BEGINNING, False)
    async with replica(world, identity) as one:
        assert (await one.say(1))["replayed"]
    (unnamed,) = await problems(world)
    assert (unnamed.fault, unnamed.contradicts) == (ChainFault.UNNAMED, False)


async def test_two_devices_at_two_enclaves_at_once_contradict_nothing(
    world: World, identity: Identity
) -> None:
    """Whichever turn comes first, the next one names its receipt, or says that it cannot."""
    async with (
        replica(world, identity, token_s=0.003) as one,
        replica(world, identity, token_s=0.005) as other,
    ):
        for number in range(6):
            await asyncio.gather(one.say(10 + number), other.say(20 + number))
    found = await problems(world)
    assert [problem for problem in found if problem.contradicts] == []
    places = [receipt.turn_index for _, receipt in await receipts(world)]
    assert places == list(range(12))


async def test_a_turn_that_was_overtaken_names_the_receipt_of_the_turn_before_it(
    world: World, identity: Identity
) -> None:
    """Not that of the turn that was the last when it began."""
    async with (
        replica(world, identity) as quick,
        replica(world, identity, first_token_s=0.5) as slow,
    ):
        await quick.say(1)
        late = slow.submit(2)
        # It has read the thread when it says so.
        assert (await anext(late.follow()))[0]["type"] == "response.created"
        await quick.say(3)
        assert await quick.outbox.drain(60) == 0
        assert (await ended(late))["type"] == "response.completed"
    assert await problems(world) == []
    assert [receipt.turn_index for _, receipt in await receipts(world)] == [0, 1, 2]
