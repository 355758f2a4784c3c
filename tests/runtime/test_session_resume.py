"""A device whose network breaks: no gap, no repeat, no second generation."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from personas.library import load_library
from proofs.policy import Policy
from runtime.client.connection import Connection
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from tests.e2e.system import System
from tests.runtime.home_support import turns_remembered

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
WREN = load_library().get("wren")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("resume") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


class Cable:
    """A TCP forwarder between device and edge that a test can pull out."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @contextlib.asynccontextmanager
    async def plugged(self) -> AsyncIterator[Cable]:
        """Forward while the block runs."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.pull()

    def pull(self) -> None:
        """Cut every connection, without a closing handshake."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, upstream_writer}
        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, upstream_writer))
                group.create_task(_copy(upstream_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def device(system: System, tmp_path: Path) -> AsyncIterator[tuple[Device, DeviceHome, Cable]]:
    """A device of its own, with a cable to the edge."""
    home = DeviceHome(tmp_path / "home")
    policy = Policy.load(system.home / "policy.toml")
    async with Cable(system.port).plugged() as cable:
        edge = f"ws://127.0.0.1:{cable.port}/v1/realtime"
        async with Device(home, policy, Connection(edge)) as device:
            yield device, home, cable
    home.close()


def counted(system: System, port: int, name: str) -> float:
    """A metric's value, 0 where it has never been counted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{system.port + port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def test_a_reply_continues_where_the_cable_was_pulled(
    system: System, device: tuple[Device, DeviceHome, Cable]
) -> None:
    """Pulled three times in one reply: every word once, in order, one generation."""
    phone, home, cable = device
    generated = counted(system, 1002, "sotto_turns_total")
    resumed = counted(system, 1000, 'sotto_sessions_resumed_total{outcome="resumed"}')
    words: list[str] = []
    async for event in phone.turn(WREN, "hello"):
        assert event["type"] != "response.restarted"
        if event["type"] == "response.output_text.delta":
            words += event["delta"].split()
            if len(words) in (5, 20, 40):
                cable.pull()
    assert len(words) == 64
    assert words[:6] == ["this", "is", "a", "paced", "script", "and"]
    assert counted(system, 1002, "sotto_turns_total") - generated == 1
    assert counted(system, 1000, 'sotto_sessions_resumed_total{outcome="resumed"}') > resumed
    assert (home.position("wren") or "").startswith("1.")


async def test_receipts_come_on_the_new_cable(device: tuple[Device, DeviceHome, Cable]) -> None:
    """What was awaited on a socket that died is asked for again."""
    phone, home, cable = device
    receipt_id = ""
    async for event in phone.turn(WREN, "hello"):
        receipt_id = event.get("receipt_id", receipt_id)
        if event["type"] == "response.completed":
            cable.pull()
    row = await phone.wait_settled(receipt_id, 60)
    assert row is not None
    assert row.status == "settled"
    assert home.receipt(receipt_id) == row


async def test_a_cancelled_reply_stops_and_is_kept(
    device: tuple[Device, DeviceHome, Cable],
) -> None:
    """What was said before the stop is remembered, and there is a receipt for it too."""
    phone, home, _ = device
    words: list[str] = []
    for _ in range(5):  # on a busy machine the reply may be whole before the stop arrives
        before, final, stopped = home.position("wren"), {}, False
        words.clear()
        async for event in phone.turn(WREN, "hello"):
            if event["type"] == "response.created":
                turn_id = event["turn_id"]
            elif event["type"] == "response.output_text.delta":
                words += event["delta"].split()
                if len(words) == 5:
                    stopped = await phone.cancel(WREN, turn_id)
            else:
                final = event
        if stopped:
            break
    assert final["type"] == "response.cancelled"
    assert 5 <= len(words) < 64
    assert home.position("wren") not in (None, before)
    row = await phone.wait_settled(final["receipt_id"], 60)
    assert row is not None
    assert (row.status, row.outcome) == ("settled", "cancelled")
    assert await phone.cancel(WREN, turn_id) is False


async def test_many_turns_share_one_socket(device: tuple[Device, DeviceHome, Cable]) -> None:
    """Six personas answer at once on one websocket."""
    phone, _, _ = device

    async def one(handle: str) -> str:
        text = ""
        async for event in phone.turn(load_library().get(handle), "hello"):
            text += event.get("delta", "")
        return text

    handles = [persona.handle for persona in load_library()]
    replies = await asyncio.gather(*(one(handle) for handle in handles))
    assert len(replies) == 6
    assert {len(reply.split()) for reply in replies} == {64}


async def test_turns_of_one_thread_wait_for_each_other(
    device: tuple[Device, DeviceHome, Cable],
) -> None:
    """Two messages sent at once are two turns in one order; none is lost."""
    phone, _, _ = device

    async def one() -> list[str]:
        return [event["type"] async for event in phone.turn(WREN, "hello")]

    for events in await asyncio.gather(one(), one()):
        assert events[-1] == "response.completed"
    assert await turns_remembered(phone) == 2
