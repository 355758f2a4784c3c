"""The link over real websockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from transport.errors import (
    LinkClosedError,
    MuxUnsupportedError,
    StreamResetError,
    UsageError,
)
from transport.mux import INITIAL_WINDOW, MuxConnection, Role
from transport.mux_frames import FrameType, ResetCode, encode_frame
from transport.relay.link import SUBPROTOCOL, Link, Stream, server_websocket
from transport.relay.pool import LinkPool, Reconnect

pytestmark = pytest.mark.integration


class Server:
    """A server of links that can drop them."""

    def __init__(self, handler: Callable[[Stream], Awaitable[None]]) -> None:
        self._handler = handler
        self.sockets: list[web.WebSocketResponse] = []
        self.served = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        ws = server_websocket()
        await ws.prepare(request)
        self.sockets.append(ws)
        try:
            await Link.serve(ws, self._handler, max_streams=8)
        finally:
            self.served.set()
        return ws


@asynccontextmanager
async def serving(handler: Callable[[Stream], Awaitable[None]]) -> AsyncIterator[Server]:
    server = Server(handler)
    app = web.Application()
    app.router.add_get("/mux", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        for ws in server.sockets:
            await ws.close()
        await runner.cleanup()


@asynccontextmanager
async def linked(
    handler: Callable[[Stream], Awaitable[None]],
) -> AsyncIterator[tuple[Server, Link]]:
    async with serving(handler) as server, aiohttp.ClientSession() as session:
        link = await Link.connect(session, f"{server.url}/mux", max_streams=8)
        try:
            yield server, link
        finally:
            await link.close()


async def echo(stream: Stream) -> None:
    await stream.send_head(200, stream.content_type)
    while (data := await stream.receive()) is not None:
        await stream.send(data)
    await stream.send(b"", end=True)


async def read_all(stream: Stream) -> bytes:
    data = b""
    while (part := await stream.receive()) is not None:
        data += part
    return data


async def test_streams_echo_side_by_side() -> None:
    """Several streams larger than their window pass through one connection whole."""
    async with linked(echo) as (_, link):

        async def one(number: int) -> None:
            sent = bytes([number]) * (INITIAL_WINDOW * 3 + number)
            stream = link.open(f"target-{number}", "a/b")

            async def feed() -> None:
                await stream.send(sent[:100])
                await stream.send(sent[100:], end=True)

            sending = asyncio.create_task(feed())
            assert await stream.head() == (200, "a/b")
            assert await read_all(stream) == sent
            await sending

        await asyncio.gather(*(one(number) for number in range(5)))
        assert link.mux.open_streams == 0


async def test_handler_sees_target_and_type() -> None:
    """What the client asked for reaches the handler."""
    seen: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

    async def handler(stream: Stream) -> None:
        seen.set_result((stream.target, stream.content_type))
        await echo(stream)

    async with linked(handler) as (_, link):
        await link.open("gateway-1", "message/ohttp-req").send(b"x")
        assert await seen == ("gateway-1", "message/ohttp-req")


async def test_send_waits_for_this_streams_credit_only() -> None:
    """A stream whose reader sleeps stops at its window while another goes through."""
    wake = asyncio.Event()

    async def handler(stream: Stream) -> None:
        if stream.target == "sleeper":
            await wake.wait()
        await echo(stream)

    async with linked(handler) as (_, link):
        sleeper = link.open("sleeper", "a/b")
        blocked = asyncio.create_task(sleeper.send(bytes(2 * INITIAL_WINDOW), end=True))
        quick = link.open("quick", "a/b")
        await quick.send(bytes(INITIAL_WINDOW // 2), end=True)
        assert len(await read_all(quick)) == INITIAL_WINDOW // 2
        assert not blocked.done()
        wake.set()
        assert len(await read_all(sleeper)) == 2 * INITIAL_WINDOW
        await blocked


async def test_resets_reach_the_other_end_with_their_code() -> None:
    """Either end's reset is raised at the other, wherever it waits, and the link lives on."""
    codes: asyncio.Queue[int] = asyncio.Queue()

    async def handler(stream: Stream) -> None:
        await stream.send_head(200, "a/b")
        if stream.target == "server-resets":
            stream.reset(ResetCode.TOO_LARGE)
            return
        for wait in (stream.wait_reset, stream.receive):
            try:
                await wait()
            except StreamResetError as error:
                codes.put_nowait(error.code)

    async with linked(handler) as (_, link):
        stream = link.open("server-resets", "a/b")
        with pytest.raises(StreamResetError) as caught:
            while True:
                await stream.receive()
        assert caught.value.code == ResetCode.TOO_LARGE
        with pytest.raises(StreamResetError):
            await stream.send(b"more")

        stream = link.open("client-resets", "a/b")
        await stream.head()
        stream.reset(ResetCode.TIMEOUT)
        assert [await codes.get(), await codes.get()] == [ResetCode.TIMEOUT] * 2
        assert not link.closed


@pytest.mark.parametrize("failure", ["raises", "returns"])
async def test_a_handler_that_does_not_finish_resets_its_stream(failure: str) -> None:
    """A client never waits for a response whose handler is gone, and never takes it as whole."""

    async def handler(stream: Stream) -> None:
        await stream.send_head(200, "a/b")
        await stream.send(b"part")
        if failure == "raises":
            raise RuntimeError("a fault in the handler")

    async with linked(handler) as (_, link):
        stream = link.open("g", "a/b")
        with pytest.raises(StreamResetError) as caught:
            await read_all(stream)
        assert caught.value.code == ResetCode.INTERNAL
        assert not link.closed


async def test_losing_the_connection_ends_every_stream() -> None:
    """When the server drops the link, waiting clients are told, and so are its own handlers."""
    ended = asyncio.Event()

    async def handler(stream: Stream) -> None:
        await stream.send_head(200, "a/b")
        try:
            await stream.receive()
        except LinkClosedError:
            ended.set()

    async with linked(handler) as (server, link):
        streams = [link.open("g", "a/b") for _ in range(3)]
        for stream in streams:
            await stream.head()
        await server.sockets[0].close()
        for stream in streams:
            with pytest.raises(LinkClosedError):
                await stream.receive()
        await ended.wait()
        await server.served.wait()
        assert link.closed
        with pytest.raises(LinkClosedError):
            link.open("g", "a/b")


async def test_closing_ends_waiting_calls() -> None:
    """A client that closes its link does not leave its own streams waiting."""
    async with linked(echo) as (_, link):
        stream = link.open("g", "a/b")
        waiting = [asyncio.create_task(wait()) for wait in (stream.receive, stream.wait_reset)]
        await stream.head()
        await link.close()
        for task in waiting:
            with pytest.raises(LinkClosedError):
                await task


async def test_a_reset_after_the_end_frees_a_waiting_sender() -> None:
    """A server that answers early and then drops the rest of a request tells the sender so."""

    async def handler(stream: Stream) -> None:
        await stream.send_head(413, "a/b")
        await stream.send(b"too large", end=True)

    async with linked(handler) as (_, link):
        stream = link.open("g", "a/b")
        with pytest.raises(StreamResetError):
            await stream.send(bytes(2 * INITIAL_WINDOW))
        assert await read_all(stream) == b"too large"


async def test_a_whole_response_outlives_the_link() -> None:
    """A response that came to its end can be read after the connection is gone."""

    async def handler(stream: Stream) -> None:
        await stream.send_head(200, "a/b")
        await stream.send(b"all of it", end=True)
        await stream.receive()

    async with linked(handler) as (_, link):
        stream = link.open("g", "a/b")
        other = link.open("g", "a/b")
        await stream.head()
        await read_all(other)
        await link.close()
        assert await read_all(stream) == b"all of it"


async def test_a_stream_that_has_ended_takes_no_more() -> None:
    """Sending after the end is refused, not forgotten."""
    async with linked(echo) as (_, link):
        stream = link.open("g", "a/b")
        await stream.send(b"x", end=True)
        assert await read_all(stream) == b"x"
        with pytest.raises(UsageError):
            await stream.send(b"more")


async def test_a_peer_that_breaks_the_protocol_is_dropped() -> None:
    """A malformed frame, or a text message, closes the connection."""
    async with serving(echo) as server, aiohttp.ClientSession() as session:
        for data in (encode_frame(FrameType.DATA, 5, b"x"), "text"):
            ws = await session.ws_connect(f"{server.url}/mux", protocols=(SUBPROTOCOL,))
            await (ws.send_str(data) if isinstance(data, str) else ws.send_bytes(data))
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
            await ws.close()


async def test_streams_reset_as_fast_as_they_open_do_not_pile_up() -> None:
    """What a client gives up at once still costs a handler, of which there are only so many."""
    handlers = 0
    done = asyncio.Event()

    async def handler(stream: Stream) -> None:
        nonlocal handlers
        handlers += 1
        await done.wait()

    async with linked(handler) as (_, link):
        for _ in range(100):
            link.open("g", "a/b").reset()
        refused = link.open("g", "a/b")
        with pytest.raises(StreamResetError) as caught:
            await refused.head()
        assert caught.value.code == ResetCode.REFUSED
        assert handlers == 2 * 8
        done.set()


async def test_a_client_that_does_not_read_is_not_read() -> None:
    """What it asks costs the server little, however long it goes on asking."""
    handlers = 0

    async def handler(stream: Stream) -> None:
        nonlocal handlers
        handlers += 1
        await stream.send_head(200, "a/b")
        await stream.send(bytes(4096), end=True)

    asking = MuxConnection(Role.CLIENT, max_streams=1_000_000)

    def ask() -> bytes:
        for _ in range(8):
            stream_id = asking.open("g", "a/b")
            asking.send(stream_id, b"", end=True)
        return asking.data_to_send()

    async with serving(handler) as server, aiohttp.ClientSession() as session:
        ws = await session.ws_connect(f"{server.url}/mux", protocols=(SUBPROTOCOL,))
        connection = ws._response.connection
        assert connection is not None
        transport = connection.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        for _ in range(4_000):
            await ws.send_bytes(ask())
            await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        # The server's queue and the buffers of both sockets hold some thousands of answers.
        assert handlers < 10_000
        transport.abort()


async def test_a_server_that_hangs_up_at_once_is_left_alone() -> None:
    """Its pool gives up for a moment, where it could connect without end."""
    connected = 0

    async def hang_up(request: web.Request) -> web.StreamResponse:
        nonlocal connected
        connected += 1
        ws = server_websocket()
        await ws.prepare(request)
        await ws.close()
        return ws

    app = web.Application()
    app.router.add_get("/mux", hang_up)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as session:
        pool = LinkPool(session, url, reconnect=Reconnect(min_s=60, max_s=60))
        for _ in range(20):
            with pytest.raises(LinkClosedError):
                async with asyncio.timeout(60):
                    link = await pool.get()
                    await link.open("g", "a/b").head()
        await pool.close()
    await runner.cleanup()
    assert connected == 1


async def test_peers_that_do_not_speak_it_are_told_apart() -> None:
    """No subprotocol, no websocket, and no server are three answers: two mean plain HTTP."""
    async with serving(echo) as server, aiohttp.ClientSession() as session:
        ws = await session.ws_connect(f"{server.url}/mux")
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        await ws.close()
        with pytest.raises(MuxUnsupportedError):
            await Link.connect(session, f"{server.url}/absent")
        url = server.url
    async with aiohttp.ClientSession() as session:
        with pytest.raises(LinkClosedError) as caught:
            await Link.connect(session, f"{url}/mux")
        assert not isinstance(caught.value, MuxUnsupportedError)
