"""Turns through an enclave with memory: what comes back, and what an incognito one leaves."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from memory.keys import ThreadKeys, derive_thread_key
from memory.records import Turn
from memory.store import ThreadStore
from proofs.errors import ProofError
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.incognito import fitting
from runtime.client.relays import RelayCarrier
from runtime.client.turns import TurnOptions
from runtime.enclave.api import MAX_SAID
from runtime.enclave.engines.base import Delta, Message, Sampling
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.errors import SottoError
from runtime.streams import LEAVES_STREAM, SETTLED_STREAM, receipt_key
from tests.runtime.enclave_world import (
    WREN,
    Enclave,
    World,
    a_turn,
    error_of,
    inner,
    relay,
    running_enclave,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PRIVATE = "an aubergine in the attic"


class Listener(ScriptedEngine):
    """Keeps what it was asked, so that a test can say what a model would have read."""

    def __init__(self, *, context_tokens: int = 8192) -> None:
        super().__init__(first_token_s=0, token_s=0, tokens=8)
        self.context_tokens = context_tokens
        self.heard: list[list[Message]] = []
        self.salts: list[str] = []

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """As scripted."""
        self.heard.append(list(messages))
        self.salts.append(cache_salt)
        stream = super().stream(request_id, messages, sampling, cache_salt=cache_salt)
        async for delta in stream:
            yield delta


@pytest.fixture
def engine() -> Listener:
    """One for each test."""
    return Listener()


@pytest.fixture
async def enclave(world: World, engine: Listener) -> AsyncIterator[Enclave]:
    """Log and enclave."""
    async with running_enclave(world, engine) as enclave:
        yield enclave


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


async def say(device: Device, message: str, **options: Any) -> dict[str, Any]:
    """A turn; its last event, with the text."""
    text, last = "", {}
    async for event in device.turn(WREN, message, options=TurnOptions(**options)):
        text += event.get("delta", "")
        last = event
    return {**last, "text": text}


async def dump(client: Redis) -> dict[bytes, bytes | None]:
    """All of Redis, but what beats by itself."""
    keys = sorted(await client.keys())
    return {key: await client.dump(key) for key in keys if not key.startswith(b"sotto:enclave")}


def folder(home: DeviceHome) -> tuple[list[str], set[str]]:
    """What the device's database says, and which files there are."""
    with sqlite3.connect(f"file:{home.path / 'device.db'}?mode=ro", uri=True) as database:
        rows = list(database.iterdump())
    return rows, {file.name for file in home.path.iterdir() if file.is_file()}


async def quiet(enclave: Enclave, client: Redis) -> None:
    """Wait until notes, receipts and the log have nothing left to do."""
    await enclave.remembering.settled()
    assert await enclave.outbox.drain(60) == 0
    async with asyncio.timeout(60):
        while True:
            receipts = await client.keys("sotto:receipt:*")
            if all([await client.hexists(key, "proof") for key in receipts]):
                return
            await asyncio.sleep(0.02)


async def test_a_fact_comes_back_when_its_turn_has_left_the_window(
    world: World, home: DeviceHome
) -> None:
    """Learned after the reply, found by meaning, named in the turn's record and the usage."""
    engine = Listener(context_tokens=2100)
    async with (
        running_enclave(world, engine) as enclave,
        relay(enclave) as url,
        Device(home, world.policy(), RelayCarrier([url])) as device,
    ):
        await say(device, "My dog is called Rex.")
        await enclave.remembering.settled()
        for number in range(12):
            last = await say(device, f"{number}: " + "it rains and rains today " * 30)
            assert last["type"] == "response.completed"
        await enclave.remembering.settled()
        last = await say(device, "What is the name of my dog?", user="Ann")
        heard = engine.heard[-1]
        assert not any(message.content == "My dog is called Rex." for message in heard)
        assert "Rex" in heard[-1].content
        assert "What you remember of Ann:" in heard[-1].content
        assert last["usage"]["recalled"] >= 1
        opened = await ThreadStore(world.client).open(home.thread_keys("wren"), expected=None)
        turn: Turn = opened.view.turns[-1][1]
        assert len(turn.recalled) == last["usage"]["recalled"]
        known = [opened.view.find(ref) for ref in turn.recalled]
        assert any(one is not None and "Rex" in one.text for one in known)
        assert turn.window > 0
        assert enclave.count("sotto_memory_recalled_total") >= 1
        assert enclave.count("sotto_memory_opening_seconds_count", view="warm") >= 12


async def test_an_incognito_turn_leaves_no_trace(
    world: World, enclave: Enclave, engine: Listener, home: DeviceHome
) -> None:
    """Redis differs by a receipt under its random id and a leaf, the device's folder by nothing."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        await say(device, "My dog is called Rex.")
        await quiet(enclave, world.client)
        await device.wait_receipts(60)
        before, held = await dump(world.client), folder(home)
        first = await say(device, PRIVATE, incognito=())
        enclave.remembering.views.clear()
        last = await say(device, "and now?", incognito=((PRIVATE, first["text"]),))
        await device.drained()
        await quiet(enclave, world.client)
        after = await dump(world.client)
        assert folder(home) == held
        assert len(enclave.remembering.views) == 0, "it opened the thread and kept no view of it"
        changed = {key for key in before | after if before.get(key) != after.get(key)}
        mine = {receipt_key(one["receipt_id"]).encode() for one in (first, last)}
        others = {key for key in changed - mine if key.startswith(b"{t:")}
        assert others == set()
        assert mine <= changed
        # What the log passes on: a digest, and that the receipt is settled.
        assert {key for key in changed - mine if not key.startswith(b"sotto:log")} <= {
            LEAVES_STREAM.encode(),
            SETTLED_STREAM.encode(),
        }
        # Memory was read, and what was said incognito is known within its own conversation.
        assert engine.heard[1][1].content == "My dog is called Rex."
        said = [message.content for message in engine.heard[2]]
        assert said[1] == "My dog is called Rex."
        assert said[3:] == [PRIVATE, first["text"], "and now?"]
        # The next one knows nothing of it.
        last = await say(device, "hello")
        assert not any(PRIVATE in message.content for message in engine.heard[3])
        assert last["usage"]["remembered_turns"] == 1
    assert len(set(engine.salts)) == 3, "each incognito turn has a cache of its own"
    assert engine.salts[0] == engine.salts[3]
    for file in home.path.iterdir():
        if file.is_file():
            assert PRIVATE.encode() not in file.read_bytes()


async def test_a_device_that_only_ever_spoke_incognito_knows_nobody(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """Not even whom it has spoken to."""
    held = folder(home)
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        last = await say(device, PRIVATE, incognito=())
        assert last["type"] == "response.completed"
        await device.drained()
    assert folder(home) == held


async def test_its_receipt_holds_for_whoever_asked(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """As long as the device runs; it says that nothing was remembered."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        await say(device, "My dog is called Rex.")
        last = await say(device, PRIVATE, incognito=())
        assert await device.verify_incognito(last["receipt_id"], 60)
        with pytest.raises(SottoError, match="no incognito turn"):
            await device.verify_incognito("0" * 32, 60)
        expected = device._unkept._expected
        right = expected[last["receipt_id"]]
        for wrong in (
            dataclasses.replace(right, commitments=bytes(64)),
            dataclasses.replace(right, persona=bytes(32)),
            dataclasses.replace(right, outcome="cancelled"),
            dataclasses.replace(right, key=bytes(32)),
        ):
            expected[last["receipt_id"]] = wrong
            with pytest.raises((SottoError, ProofError)):
                await device.verify_incognito(last["receipt_id"], 60)
    assert home.receipt(last["receipt_id"]) is None


async def test_the_enclave_keeps_nothing_of_it_to_tell_again(
    world: World, enclave: Enclave
) -> None:
    """The same id once more is a new turn; one that is remembered is told again."""
    turn = a_turn(1, incognito={"said": [["a", "b"]]})
    first, _ = await enclave.chunked(inner(turn))
    second, _ = await enclave.chunked(inner(turn))
    for one in (first, second):
        assert b"response.completed" in one.content
        assert b"replayed" not in one.content
    ids = [
        json.loads(one.content.split(b"data: ")[1].split(b"\n")[0])["receipt_id"]
        for one in (first, second)
    ]
    assert ids[0] != ids[1]
    keys = ThreadKeys(derive_thread_key((1).to_bytes(32, "big"), "wren"))
    assert await world.client.keys(f"*{keys.thread_id}*") == []
    position = json.loads(second.content.split(b"data: ")[-1].split(b"\n")[0])["position"]
    assert position.startswith("0."), "a thread that holds nothing still does"


async def test_an_incognito_turn_still_sees_through_a_rollback(
    world: World, enclave: Enclave
) -> None:
    """It reads memory, so memory has to be what the device knows."""
    place = "3." + "ab" * 32
    response, _ = await enclave.chunked(inner(a_turn(1, incognito={}, position=place)))
    assert b"memory_rollback" in response.content


@pytest.mark.parametrize(
    "wrong",
    [
        {"incognito": True},
        {"incognito": {"said": [["a"]]}},
        {"incognito": {"said": [["", "b"]]}},
        {"incognito": {"said": [["a", "b"]] * (MAX_SAID + 1)}},
        {"incognito": {"more": 1}},
        {"user": ""},
        {"user": "two\nlines"},
        {"user": " x"},
        {"user": "x" * 65},
        {"greeting": -1},
        {"greeting": "0"},
    ],
)
async def test_what_a_turn_may_say_is_checked(enclave: Enclave, wrong: dict[str, Any]) -> None:
    """Refused by the member's name, without its value."""
    response = await enclave.one_shot(inner(a_turn(1, **wrong)))
    error = error_of(response)
    assert (response.status, error["code"]) == (400, "invalid_request")
    assert next(iter(wrong)) in error["message"]
    assert "lines" not in error["message"]


async def test_options_that_no_enclave_takes_are_refused_here(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """Before anything is sent."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        for wrong in ({"user": "a\nb"}, {"greeting": -1}, {"incognito": (("", ""),)}):
            with pytest.raises(SottoError) as caught:
                await say(device, "hello", **wrong)
            assert caught.value.code == "options_invalid"


def test_of_a_long_incognito_conversation_the_newest_part_is_brought() -> None:
    """As much as a request may hold."""
    said = [(f"{number}", "x" * 3000) for number in range(100)]
    kept = fitting(said)
    assert kept == tuple(said[-len(kept) :])
    assert 15 < len(kept) < MAX_SAID
    assert fitting([("a", "b")] * 100) == (("a", "b"),) * MAX_SAID
    assert fitting([]) == ()


async def test_a_debug_enclave_shows_the_parts_of_a_prompt(world: World) -> None:
    """Each with its name and length; others show nothing."""
    async with running_enclave(world, debug=True) as enclave:
        response, _ = await enclave.chunked(inner(a_turn(1)))
        created = json.loads(response.content.split(b"data: ")[1].split(b"\n")[0])
        assert created["parts"][0]["name"] == "system"
        assert all(part["tokens"] > 0 and part["text"] for part in created["parts"])
        assert created["prompt"][-1] == {"role": "user", "content": "hello"}
    async with running_enclave(world) as enclave:
        response, _ = await enclave.chunked(inner(a_turn(2)))
        assert b'"parts"' not in response.content
