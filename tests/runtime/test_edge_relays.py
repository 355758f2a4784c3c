"""The edge and its relays: how streams are shared out, and what one that is away costs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from runtime.edge.session import Session
from runtime.edge.upstream import RelayLinks
from runtime.telemetry import EdgeMetrics
from runtime.wire import Frame
from tests.e2e.system import free_port
from transport import media
from transport.errors import LinkClosedError
from transport.relay.link import Link, Stream, server_websocket

pytestmark = pytest.mark.integration


class Relay:
    """Counts streams and keeps what they carried; answers with `status`."""

    def __init__(self, port: int) -> None:
        self.status = 200
        self.requests: list[bytes] = []
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._sockets: list[web.WebSocketResponse] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/mux", self._mux)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        for ws in self._sockets:
            await ws.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _mux(self, request: web.Request) -> web.StreamResponse:
        ws = server_websocket()
        await ws.prepare(request)
        self._sockets.append(ws)
        await Link.serve(ws, self._stream)
        return ws

    async def _stream(self, stream: Stream) -> None:
        content_type = media.OHTTP_CHUNKED_RESPONSE if self.status == 200 else media.PROBLEM_JSON
        await stream.send_head(self.status, content_type)
        body = b""
        while (data := await stream.receive()) is not None:
            body += data
        self.requests.append(body)
        await stream.send(b"answer", end=True)


@asynccontextmanager
async def relays(count: int) -> AsyncIterator[list[Relay]]:
    started: list[Relay] = []
    for _ in range(count):
        started.append(Relay(free_port()))  # which nobody else takes while it is stopped
        await started[-1].start()
    try:
        yield started
    finally:
        for relay in started:
            await relay.stop()


@asynccontextmanager
async def links(*urls: str) -> AsyncIterator[RelayLinks]:
    async with aiohttp.ClientSession() as http:
        found = RelayLinks(http, urls)
        try:
            yield found
        finally:
            await found.close()


@pytest.fixture
def black_hole() -> AsyncIterator[str]:
    """The address of a server that accepts and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


async def send(ways: RelayLinks) -> None:
    """One stream to its end."""
    stream = (await ways.open("g")).stream
    await stream.send(b"sealed", end=True)
    while await stream.receive() is not None:
        pass


async def test_each_of_two_relays_carries_a_part() -> None:
    """Streams are shared out by chance: neither relay sees all, and each sees many."""
    async with relays(2) as (one, other), links(one.url, other.url) as ways:
        async with asyncio.timeout(60):
            while not (one.requests and other.requests):  # both are there
                await send(ways)
        before = [len(relay.requests) for relay in (one, other)]
        for _ in range(80):
            await send(ways)
        carried = [len(one.requests) - before[0], len(other.requests) - before[1]]
        assert sum(carried) == 80
        assert min(carried) > 8


async def test_a_relay_that_is_away_costs_nothing_and_is_tried_again() -> None:
    """While one is away the other carries everything; once it is back it has its part again."""
    async with relays(2) as (one, other), links(one.url, other.url) as ways:
        await one.stop()
        for _ in range(10):
            await send(ways)
        assert (len(one.requests), len(other.requests)) == (0, 10)
        await one.start()
        async with asyncio.timeout(60):
            while not one.requests:
                await send(ways)
                await asyncio.sleep(0.02)


async def test_a_relay_that_hangs_holds_up_no_stream(black_hole: str) -> None:
    """One that accepts connections and says nothing is waited for by nobody."""
    # Less than an attempt to reach such a one takes (10 s), and far more than the streams do.
    async with relays(1) as (relay,), links(black_hole, relay.url) as ways, asyncio.timeout(8):
        for _ in range(10):
            await send(ways)
        assert len(relay.requests) == 10


async def test_with_all_away_a_stream_fails() -> None:
    """After some attempts, in words."""
    async with links("http://127.0.0.1:1", "http://127.0.0.1:2") as ways:
        with pytest.raises(LinkClosedError, match="try"):
            await ways.open("g")


async def test_a_relay_that_takes_no_more_is_avoided_for_a_moment() -> None:
    """Its 503 turns the streams that follow to the other relay, and it is asked again later."""
    async with relays(2) as (one, other), links(one.url, other.url) as ways:
        one.status = 503
        session = Session(ways, EdgeMetrics(CollectorRegistry()))
        pool, _ = ways._pools
        number = 0
        async with asyncio.timeout(60):
            while not pool.avoided:
                number += 1
                session.open_stream(number, "g")
                await session.receive(Frame(number, 0, b"sealed", end=True))
                # A session has no event for it.
                while (stream := session._streams.get(number)) and not stream.ended:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                session.reset_stream(number)
        refused = len(one.requests)
        for _ in range(20):
            await send(ways)
            if not pool.avoided:  # on a machine that stood still meanwhile
                break
            assert len(one.requests) == refused
        one.status, seen = 200, len(one.requests)
        async with asyncio.timeout(60):
            while len(one.requests) == seen:
                await send(ways)
                await asyncio.sleep(0.02)
        session.close()


async def test_a_gateway_that_takes_no_more_costs_other_gateways_nothing() -> None:
    """Its 503 comes through every relay alike, and keeps no stream from any of them."""
    async with relays(2) as (one, other), links(one.url, other.url) as ways:
        one.status = other.status = 503
        session = Session(ways, EdgeMetrics(CollectorRegistry()))
        number = 0
        # Less than a moment of being avoided (1 s) for each.
        async with asyncio.timeout(30):
            while len(one.requests) + len(other.requests) < 40:
                if session.idle:
                    number += 1
                    session.open_stream(number, "g")
                    await session.receive(Frame(number, 0, b"sealed", end=True))
                await asyncio.sleep(0.01)
        session.close()


async def test_opening_a_stream_waits_for_no_relay(black_hole: str) -> None:
    """What comes of a request meanwhile is kept, and goes on whole once a relay is there."""
    relay = Relay(free_port())
    async with links(black_hole, relay.url) as ways:
        session = Session(ways, EdgeMetrics(CollectorRegistry()))
        session.open_stream(1, "g")
        await session.receive(Frame(1, 0, b"sea"))
        await session.receive(Frame(1, 3, b"led"))
        await relay.start()
        async with asyncio.timeout(60):
            while not session.idle and session._streams[1].upstream is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await session.receive(Frame(1, 6, b"", end=True))
            while not relay.requests:
                assert not session.idle, "the stream was given up"
                await asyncio.sleep(0.02)
        assert relay.requests == [b"sealed"]
        session.close()
    await relay.stop()
