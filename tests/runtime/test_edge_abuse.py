"""A client that breaks the protocol costs the edge nothing that stays."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from runtime.edge.session import Session
from runtime.edge.upstream import RelayLinks
from runtime.telemetry import EdgeMetrics
from runtime.wire import SUBPROTOCOL, Frame, WireError
from tests.e2e.system import System

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("abuse") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


def open_streams(system: System) -> int:
    """What the edge holds now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{system.port + 1000}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(x for x in lines if x.startswith("sotto_open_streams ")).split()[1]))


async def until_no_stream_is_open(system: System) -> None:
    """Wait for the edge to let go."""
    deadline = time.monotonic() + 60
    while await asyncio.to_thread(open_streams, system):
        assert time.monotonic() < deadline, "streams stay open"
        await asyncio.sleep(0.1)


async def session(system: System) -> tuple[ClientConnection, str]:
    """A socket and its session's token."""
    socket = await connect(system.edge, subprotocols=[SUBPROTOCOL], compression=None)  # type: ignore[list-item]
    hello = json.loads(await socket.recv())
    assert hello["type"] == "session.created"
    return socket, hello["session"]["token"]


async def send(socket: ClientConnection, **event: Any) -> None:
    """Send one event."""
    await socket.send(json.dumps(event))


async def receive(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of that type."""
    while True:
        data = await socket.recv()
        if isinstance(data, str) and (event := json.loads(data))["type"] == kind:
            return dict(event)


@pytest.mark.parametrize(
    "received",
    [{"x": 1}, {"1": -1}, {"1": "1"}, {"0": 0}, {"1": 2**64}, {"٣": 1}, [1], "x"],
)
async def test_a_malformed_resume_leaves_nothing_behind(system: System, received: Any) -> None:
    """The session that it names is neither lost nor leaked."""
    first, token = await session(system)
    await send(first, type="response.create", stream=1, gateway="enclave-0")
    await first.send(Frame(1, 0, b"not a sealed request", end=True).encode())
    await first.close()
    second, _ = await session(system)
    await send(second, type="session.resume", token=token, received=received)
    assert (await receive(second, "error"))["error"]["code"] == "invalid_event"
    await second.close()
    assert "Traceback" not in system.logs()


async def test_a_resume_lets_go_of_the_session_that_it_replaces(system: System) -> None:
    """Half-open streams of a fresh socket cannot be hidden behind an old session."""
    first, token = await session(system)
    second, _ = await session(system)
    for stream in range(1, 9):
        await send(second, type="response.create", stream=stream, gateway="enclave-0")
    await first.close()
    await send(second, type="session.resume", token=token, received={})
    assert (await receive(second, "error"))["error"]["code"] == "invalid_event"
    await second.close()
    await until_no_stream_is_open(system)


async def test_half_sent_requests_are_dropped(system: System) -> None:
    """A stream whose request does not come holds no place for long."""
    socket, _ = await session(system)
    for stream in range(1, 17):
        await send(socket, type="response.create", stream=stream, gateway="enclave-0")
    event = await receive(socket, "stream.failed")
    assert event["error"]["code"] == "request_timeout"
    await until_no_stream_is_open(system)
    assert (await asyncio.to_thread(system.chat, "wren", "hello"))["exit"] == 0
    await socket.close()


async def test_one_socket_cannot_start_turns_without_end(system: System) -> None:
    """Opening and giving up streams in a loop runs into a limit of its own."""
    socket, _ = await session(system)
    codes = set()
    for stream in range(1, 200):
        await send(socket, type="response.create", stream=stream, gateway="enclave-0")
        await send(socket, type="stream.reset", stream=stream)
    async with asyncio.timeout(60):
        while "rate_limited" not in codes:
            codes.add((await receive(socket, "stream.failed"))["error"]["code"])
    await socket.close()


async def test_a_socket_that_talks_nonsense_is_closed(system: System) -> None:
    """A few errors are told, then the edge hangs up for good."""
    socket, _ = await session(system)
    with pytest.raises(ConnectionClosed) as closed:
        for _ in range(100):
            await socket.send("nonsense")
            await receive(socket, "error")
    assert closed.value.rcvd is not None
    assert 4500 <= closed.value.rcvd.code <= 4999
    assert "nonsense" not in system.logs()


async def test_streams_of_another_session_cannot_be_touched(system: System) -> None:
    """Stream ids belong to a session: another socket's frames and resets go nowhere."""
    first, _ = await session(system)
    second, _ = await session(system)
    await send(first, type="response.create", stream=1, gateway="enclave-0")
    await send(first, type="ping")
    await receive(first, "pong")
    await second.send(Frame(1, 0, b"x" * 100, end=True).encode())
    await send(second, type="stream.reset", stream=1)
    await send(second, type="ping")
    await receive(second, "pong")
    assert await asyncio.to_thread(open_streams, system) >= 1
    await first.close()
    await second.close()
    await until_no_stream_is_open(system)


async def test_an_error_names_the_event_that_it_is_about(system: System) -> None:
    """A device with several requests under way knows which of them was refused."""
    socket, _ = await session(system)
    for stream in (2, 1):  # ids must rise
        await send(socket, type="response.create", stream=stream, gateway="enclave-0")
    failed = await receive(socket, "stream.failed")
    assert (failed["stream"], failed["error"]["code"]) == (1, "stream_reused")
    await send(socket, type="session.resume", token="t" * 32, received={}, event_id="late")
    error = (await receive(socket, "error"))["error"]
    assert (error["code"], error["event_id"]) == ("invalid_event", "late")
    await socket.close()


async def test_refusals_do_not_pile_up_for_a_client_that_does_not_read() -> None:
    """Each event is refused and no answer is read: the session says that it is full."""
    async with aiohttp.ClientSession() as http:
        relay = RelayLinks(http, ["http://127.0.0.1:1"])
        full = Session(relay, EdgeMetrics(CollectorRegistry()))
        with pytest.raises(WireError) as caught:
            for _ in range(100_000):
                full.open_stream(0, "enclave-0")
        assert caught.value.code == "slow"


async def test_an_unknown_gateway_is_refused(system: System) -> None:
    """The relay knows its gateways, and the device reads that it does not know this one."""
    socket, _ = await session(system)
    await send(socket, type="response.create", stream=1, gateway="elsewhere")
    await socket.send(Frame(1, 0, b"x" * 100, end=True).encode())
    event = await receive(socket, "stream.failed")
    assert (event["stream"], event["status"]) == (1, 404)
    await socket.close()
