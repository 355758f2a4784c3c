"""What a hostile client, a hostile gateway or a curious operator can make a relay do."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import generate_latest
from relay_roles import RunningRelay, edge_link, eventually, running_relay

from transport import media
from transport.errors import LinkClosedError, StreamResetError
from transport.mux import DEFAULT_MAX_STREAMS, INITIAL_WINDOW, MuxConnection, Role
from transport.mux_frames import ResetCode
from transport.relay.link import SUBPROTOCOL, Link, Stream, server_websocket

pytestmark = pytest.mark.integration

OTHER_CLIENT = "127.0.0.2"
CHUNKED = {"Content-Type": media.OHTTP_CHUNKED_REQUEST}
HEAD = (
    b"POST /gateway/g HTTP/1.1\r\nHost: relay\r\nContent-Type: message/ohttp-chunked-req\r\n"
    b"Transfer-Encoding: chunked\r\n"
)


class EchoGateway:
    """Sends back what comes, as it comes; a real server with nothing sealed."""

    def __init__(self) -> None:
        self.sockets: list[web.WebSocketResponse] = []
        self.fetched: list[tuple[str, dict[str, str]]] = []
        self.documents: dict[str, web.Response | Callable[[], Awaitable[web.Response]]] = {}
        self.content_type = media.OHTTP_CHUNKED_RESPONSE
        self.url = ""

    async def http(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": self.content_type})
        await response.prepare(request)
        while data := await request.content.readany():
            await response.write(data)
        return response

    async def mux(self, request: web.Request) -> web.StreamResponse:
        ws = server_websocket()
        await ws.prepare(request)
        self.sockets.append(ws)
        await Link.serve(ws, self.stream)
        return ws

    async def stream(self, stream: Stream) -> None:
        await stream.send_head(200, self.content_type)
        while (data := await stream.receive()) is not None:
            await stream.send(data)
        await stream.send(b"", end=True)

    async def document(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.fetched.append((request.path_qs, dict(request.headers)))
        found = self.documents.get(path)
        if found is None:
            return web.Response(status=404)
        return found if isinstance(found, web.Response) else await found()


@asynccontextmanager
async def echo_gateway(*, mux: bool) -> AsyncIterator[EchoGateway]:
    gateway = EchoGateway()
    app = web.Application()
    app.router.add_post("/ohttp", gateway.http)
    if mux:
        app.router.add_get("/mux", gateway.mux)
    app.router.add_get("/{path}", gateway.document)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield gateway
    finally:
        for ws in gateway.sockets:
            await ws.close()
        await runner.cleanup()


@asynccontextmanager
async def link_gateway(handler: Callable[[Stream], Awaitable[None]]) -> AsyncIterator[str]:
    """A gateway that does `handler` to each stream of its links; its base URL."""
    async with echo_gateway(mux=True) as gateway:
        gateway.stream = handler  # type: ignore[method-assign]
        yield gateway.url


@asynccontextmanager
async def raw_client(
    relay: RunningRelay, address: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = relay.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(address, 0))
    try:
        yield reader, writer
    finally:
        writer.close()


def chunk(data: bytes) -> bytes:
    """One chunk of an HTTP/1.1 body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def closed(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the relay hangs up."""
    async with asyncio.timeout(60):
        try:
            return await reader.read(-1)
        except ConnectionError:
            return b""


@pytest.mark.parametrize("mux", [True, False])
@pytest.mark.parametrize("by_link", [True, False])
async def test_no_chunk_waits_for_the_next_in_either_direction(mux: bool, by_link: bool) -> None:
    """Each chunk has gone to the gateway and come back before the client makes another."""
    parts = [b"one", b"two" * 4000, b"x"]
    async with (
        echo_gateway(mux=mux) as gateway,
        running_relay({"g": gateway.url}) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as link,
    ):
        if by_link:
            stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
            for part in parts:
                await stream.send(part)
                back = b""
                while len(back) < len(part):
                    back += await stream.receive() or b""
                assert back == part
            await stream.send(b"", end=True)
            assert await stream.receive() is None
            return
        turns = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            for part in parts:
                yield part
                await turns.wait()
                turns.clear()

        url = f"{relay.url}/gateway/g"
        async with session.post(url, data=body(), headers=CHUNKED) as response:
            for part in parts:
                assert await response.content.readexactly(len(part)) == part
                turns.set()
            assert await response.read() == b""


async def test_the_gateway_gets_these_bytes_and_no_others() -> None:
    """A raw socket in the gateway's place reads a request in which nothing is the client's."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET "):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            got.set_result(head + await reader.readuntil(b"0\r\n\r\n"))
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: message/ohttp-chunked-res; telltale=1\r\n"
                b"Set-Cookie: telltale=1\r\nServer: telltale\r\nContent-Length: 6\r\n\r\nanswer"
            )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(gateway, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        running_relay({"g": f"http://127.0.0.1:{port}/base"}) as relay,
        raw_client(relay, OTHER_CLIENT) as (reader, writer),
    ):
        writer.write(
            HEAD.replace(b"/gateway/g", b"/gateway/g?telltale=1").replace(
                b"chunked-req", b"chunked-req; telltale=1"
            )
            + b"User-Agent: telltale\r\nCookie: telltale=1\r\nVia: 1.1 telltale\r\n"
            b"Forwarded: for=127.0.0.2\r\nX-Forwarded-For: 127.0.0.2\r\nX-Real-IP: 127.0.0.2\r\n"
            b"Referer: telltale\r\nAccept-Language: telltale\r\nOrigin: telltale\r\n"
            b"Authorization: telltale\r\nConnection: close\r\n\r\n"
            + chunk(b"sealed")
            + b"0\r\nTelltale: trailer\r\n\r\n"
        )
        answer = await closed(reader)
    assert (await got).lower() == (
        b"post /base/ohttp http/1.1\r\nhost: 127.0.0.1:%d\r\n"
        b"content-type: message/ohttp-chunked-req\r\nincremental: ?1\r\n"
        b"transfer-encoding: chunked\r\n\r\n6\r\nsealed\r\n0\r\n\r\n" % port
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"telltale" not in head
    assert b"\r\nIncremental: ?1" in head
    assert b"answer" in body


@pytest.mark.parametrize("mux", [True, False])
@pytest.mark.parametrize("content_type", ["text/html", "application/json", "message/ohttp-req"])
async def test_only_oblivious_http_comes_back(mux: bool, content_type: str) -> None:
    """A gateway cannot make the relay serve pages: 502, and not a byte of its answer."""
    async with (
        echo_gateway(mux=mux) as gateway,
        running_relay({"g": gateway.url}) as relay,
        aiohttp.ClientSession() as session,
    ):
        gateway.content_type = content_type
        async with session.post(
            f"{relay.url}/gateway/g", data=b"<script>", headers=CHUNKED
        ) as response:
            assert response.status == 502
            assert response.content_type == media.PROBLEM_JSON
            assert b"script" not in await response.read()


async def test_a_reader_that_stalls_misses_nothing() -> None:
    """What the relay holds for a stalled stream comes whole and in order when it reads again."""
    sent = b"".join(b"%08d" % number for number in range(8 * INITIAL_WINDOW // 8))
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as link,
    ):
        stalled = link.open("g", media.OHTTP_CHUNKED_REQUEST)

        async def feed() -> None:
            for start in range(0, len(sent), 1000):
                await stalled.send(sent[start : start + 1000])
            await stalled.send(b"", end=True)

        feeding = asyncio.create_task(feed())
        # Eight windows; each direction of each hop holds one, and the feeder waits for the rest.
        quick = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        for number in range(50):
            await quick.send(b"%d" % number)
            assert await quick.receive() == b"%d" % number
        assert not feeding.done()
        got = b""
        while (data := await stalled.receive()) is not None:
            got += data
        assert got == sent
        await feeding


async def test_nothing_is_unpacked() -> None:
    """A field that calls the body compressed makes of a few bytes no more than these."""
    body = gzip.compress(bytes(1 << 20))
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}) as relay,
        aiohttp.ClientSession() as session,
    ):
        headers = {**CHUNKED, "Content-Encoding": "gzip"}
        url = f"{relay.url}/gateway/g"
        async with session.post(url, data=body, headers=headers) as response:
            assert await response.read() == body


async def test_an_early_answer_comes_whole() -> None:
    """A gateway that answers before it has the request, and drops the rest, is still heard."""
    answer = bytes(range(256)) * (2 * INITIAL_WINDOW // 256)
    answered = asyncio.Event()

    async def refuse(stream: Stream) -> None:
        await stream.send_head(413, media.PROBLEM_JSON)
        await stream.send(answer, end=True)
        answered.set()

    async with (
        link_gateway(refuse) as url,
        running_relay({"g": url}) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as link,
    ):
        stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        sending = asyncio.create_task(stream.send(bytes(4 * INITIAL_WINDOW)))
        await answered.wait()
        # Half of it lies in the relay when the gateway resets its stream.
        await asyncio.sleep(0.2)
        got = b""
        while (data := await stream.receive()) is not None:
            got += data
        assert got == answer
        with pytest.raises(StreamResetError):
            await sending
        ended = {"gateway": "g", "outcome": "completed"}
        await eventually(lambda: relay.metric("sotto_relay_streams_total", **ended) == 1)


@pytest.mark.parametrize("by_link", [True, False])
@pytest.mark.parametrize("which", ["max_request_bytes", "max_response_bytes"])
async def test_a_message_past_its_limit_is_broken_off(which: str, by_link: bool) -> None:
    """Neither direction passes a byte over the limit, and a cut response does not look whole."""
    async with (
        echo_gateway(mux=by_link) as gateway,
        running_relay({"g": gateway.url}, **{which: 1000}) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as link,
    ):
        if by_link:
            stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
            await stream.head()
            await stream.send(bytes(1000))
            got = 0
            with pytest.raises(StreamResetError) as caught:
                while True:
                    got += len(await stream.receive() or b"")
                    if got == 1000:
                        await stream.send(b"x")
            assert caught.value.code == ResetCode.TOO_LARGE
            assert got == 1000
        else:
            came_back = asyncio.Event()

            async def body() -> AsyncIterator[bytes]:
                yield bytes(1000)
                await came_back.wait()
                yield b"x"

            url = f"{relay.url}/gateway/g"
            async with session.post(url, data=body(), headers=CHUNKED) as response:
                assert await response.content.readexactly(1000) == bytes(1000)
                came_back.set()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.content.read()
        ended = {"gateway": "g", "outcome": "too_large"}
        await eventually(lambda: relay.metric("sotto_relay_streams_total", **ended) == 1)


@pytest.mark.parametrize("sent", [b"", b"POST /gateway/g HTT", HEAD, HEAD + b"X: " + b"y" * 100])
async def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    """Slow-loris heads hold a place for `head_timeout_s` and no longer, however they trickle."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, head_timeout_s=0.5) as relay,
        raw_client(relay) as (reader, writer),
    ):
        writer.write(sent)
        assert await closed(reader) == b""
        refused = {"reason": "slow_head"}
        assert relay.metric("sotto_relay_connections_refused_total", **refused) == 1
        assert relay.metric("sotto_relay_connections_open") == 0


async def test_a_further_head_is_not_waited_for_either() -> None:
    """A connection that was kept alive is no way around it; without a byte it is kept longer."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, head_timeout_s=0.3) as relay,
        raw_client(relay) as (reader, writer),
    ):
        for _ in range(2):  # one after the other on one connection
            writer.write(HEAD + b"\r\n" + chunk(b"sealed") + b"0\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readuntil(b"0\r\n\r\n") == chunk(b"sealed") + b"0\r\n\r\n"
            await asyncio.sleep(0.6)
        writer.write(b"POST /gate")
        assert await closed(reader) == b""


@pytest.mark.parametrize("size", [9_000, 70_000])
async def test_a_head_that_is_too_large_is_refused(size: int) -> None:
    """Nobody fills the relay's memory with header fields."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}) as relay,
        raw_client(relay) as (reader, writer),
    ):
        writer.write(HEAD + b"X: " + b"y" * size + b"\r\n\r\n")
        assert b" 400 Bad Request" in (await closed(reader)).partition(b"\r\n")[0]


async def test_a_trickling_body_has_an_end() -> None:
    """Bytes that keep coming do not keep a place: the whole request has a time of its own."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, request_timeout_s=0.5, idle_timeout_s=60) as relay,
        raw_client(relay) as (reader, writer),
    ):
        writer.write(HEAD + b"\r\n")

        async def trickle() -> None:
            while True:
                writer.write(chunk(b"x"))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        answer = await closed(reader)
        trickling.cancel()
        assert not answer.endswith(b"0\r\n\r\n")
        ended = {"gateway": "g", "outcome": "timeout"}
        await eventually(lambda: relay.metric("sotto_relay_streams_total", **ended) == 1)


async def test_an_exchange_has_an_end() -> None:
    """Chunks to and fro do not keep an exchange for ever."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, exchange_timeout_s=0.5) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as link,
    ):
        stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        with pytest.raises(StreamResetError) as caught:
            while True:
                await stream.send(b"x")
                await stream.receive()
        assert caught.value.code == ResetCode.TIMEOUT


async def test_one_client_cannot_take_all_places() -> None:
    """Over plain HTTP and links together; another client still gets in, and places come back."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, max_client_streams=3) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as link,
    ):
        streams = [link.open("g", media.OHTTP_CHUNKED_REQUEST) for _ in range(2)]
        for stream in streams:
            assert (await stream.head())[0] == 200
        async with raw_client(relay) as (reader, writer), raw_client(relay) as (other, further):
            writer.write(HEAD + b"\r\n")
            assert b" 200 " in await reader.readline()
            further.write(HEAD + b"\r\n")
            assert b" 429 " in await other.readline()
            stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
            assert (await stream.head())[0] == 429
            async with raw_client(relay, OTHER_CLIENT) as (another, writing):
                writing.write(HEAD + b"\r\n")
                assert b" 200 " in await another.readline()
        streams[0].reset()
        await eventually(lambda: relay.metric("sotto_relay_streams_open") == 1)
        assert (await link.open("g", media.OHTTP_CHUNKED_REQUEST).head())[0] == 200
        assert relay.metric("sotto_relay_refused_total", reason="client_full") == 2


async def test_one_client_cannot_take_all_connections() -> None:
    """Nor hold connections that it does not use; those of others are accepted."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, max_client_streams=2, max_connections=6) as relay,
    ):
        host, port = relay.url.removeprefix("http://").split(":")
        held = [
            await asyncio.open_connection(host, int(port), local_addr=(OTHER_CLIENT, 0))
            for _ in range(4)
        ]
        await eventually(lambda: relay.metric("sotto_relay_connections_open") == 4)
        async with raw_client(relay, OTHER_CLIENT) as (reader, _):
            assert await closed(reader) == b""
        async with raw_client(relay) as (reader, writer), raw_client(relay):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
            assert b" 200 " in await reader.readline()
            await eventually(lambda: relay.metric("sotto_relay_connections_open") == 6)
            async with raw_client(relay) as (refused_reader, _):
                assert await closed(refused_reader) == b""
        for _, writer in held:
            writer.close()
        await eventually(lambda: relay.metric("sotto_relay_connections_open") == 0)
        reasons = ("full", "client_full")
        refused = "sotto_relay_connections_refused_total"
        assert [relay.metric(refused, reason=one) for one in reasons] == [1, 1]


@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
async def test_a_client_that_leaves_frees_its_place(how: str) -> None:
    """Whichever way it goes, another takes its place at once."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, max_streams=1) as relay,
    ):
        async with raw_client(relay) as (reader, writer):
            writer.write(HEAD + b"\r\n" + chunk(b"sealed"))
            await reader.readuntil(chunk(b"sealed"))
            match how:
                case "reset":
                    writer.transport.abort()
                case "close":
                    writer.close()
                case _:
                    writer.write_eof()
            gone = {"gateway": "g", "outcome": "client_gone"}
            await eventually(lambda: relay.metric("sotto_relay_streams_total", **gone) == 1)
        async with raw_client(relay) as (reader, writer):
            writer.write(HEAD + b"\r\n")
            assert b" 200 " in await reader.readline()


async def test_a_full_link_gets_another_beside_it() -> None:
    """More streams than one link may carry are not refused."""
    count = DEFAULT_MAX_STREAMS + 6
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, max_client_streams=count) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as one,
        edge_link(session, relay) as other,
    ):
        streams = [
            (one, other)[number % 2].open("g", media.OHTTP_CHUNKED_REQUEST)
            for number in range(count)
        ]
        for stream in streams:
            assert (await stream.head())[0] == 200
        assert len(gateway.sockets) == 2
        await streams[-1].send(b"last")
        assert await streams[-1].receive() == b"last"


async def test_a_draining_relay_sends_edges_elsewhere() -> None:
    """Links that carry nothing are closed; one that carries a reply, after it."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}, drain_s=60) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as unused,
        edge_link(session, relay) as used,
        edge_link(session, relay) as keeping,
    ):
        stream = used.open("g", media.OHTTP_CHUNKED_REQUEST)
        await stream.head()
        kept = keeping.open("g", media.OHTTP_CHUNKED_REQUEST)
        await kept.head()
        relay.stop.set()
        await eventually(lambda: unused.closed)
        await stream.send(b"the end", end=True)
        assert await stream.receive() == b"the end"
        assert await stream.receive() is None
        await eventually(lambda: used.closed)
        with pytest.raises(LinkClosedError):
            unused.open("g", media.OHTTP_CHUNKED_REQUEST)
        await kept.send(b"still here", end=True)
        assert await kept.receive() == b"still here"


async def test_an_edge_that_does_not_read_holds_up_no_stop() -> None:
    """Not even the word that its connection ends gets through to it."""
    streams = 100
    opened = MuxConnection(Role.CLIENT)
    for _ in range(streams):
        opened.send(opened.open("g", media.OHTTP_CHUNKED_REQUEST), b"", end=True)

    async def answer(stream: Stream) -> None:
        await stream.send_head(200, media.OHTTP_CHUNKED_RESPONSE)
        await stream.send(bytes(INITIAL_WINDOW), end=True)

    async with (
        asyncio.timeout(60),
        link_gateway(answer) as url,
        aiohttp.ClientSession() as session,
    ):
        async with running_relay({"g": url}) as relay:
            ws = await session.ws_connect(f"{relay.url}/mux", protocols=(SUBPROTOCOL,))
            connection = ws._response.connection
            assert connection is not None
            transport = connection.transport
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
            await ws.send_bytes(opened.data_to_send())
            ended = {"gateway": "g", "outcome": "completed"}
            await eventually(lambda: relay.metric("sotto_relay_streams_total", **ended) == streams)
        transport.abort()


async def test_no_failure_tells_the_operator_who_or_what(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After every failure that a client can provoke: no address, no body, in no log or metric."""
    caplog.set_level(logging.DEBUG)
    telltale = b"telltale"
    body = chunk(telltale)
    requests = [
        HEAD + b"\r\n" + body + b"0\r\n\r\n",
        HEAD + b"\r\n" + body,  # and then silence
        HEAD + b"\r\n" + body + b"garbled\r\n",
        HEAD + b"\r\n" + chunk(telltale * 1000) + b"0\r\n\r\n",
        HEAD.replace(b"/g ", b"/telltale ") + b"\r\n" + body + b"0\r\n\r\n",
        HEAD.replace(b"/g ", b"/away ") + b"\r\n" + body + b"0\r\n\r\n",
        HEAD.replace(b"ohttp-chunked-req", b"telltale") + b"\r\n" + body + b"0\r\n\r\n",
        HEAD + b"X-Telltale: " + telltale * 2000 + b"\r\n\r\n",
        b"telltale\r\n\r\n",
        b"POST /telltale HTTP/1.1\r\nContent-Length: telltale\r\n\r\n",
        b"GET /gateway/telltale/ohttp-keys HTTP/1.1\r\nHost: telltale\r\n\r\n",
        b"GET /gateway/away/attestation HTTP/1.1\r\nHost: telltale\r\n\r\n",
        b"GET /mux HTTP/1.1\r\nHost: telltale\r\nUpgrade: telltale\r\n\r\n",
        b"GET /telltale?telltale HTTP/1.1\r\nHost: telltale\r\n\r\n",
        b"POST /gateway/g HTTP/1.1\r\nHost: x\r\nTransfer-Enc",
    ]
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay(
            {"g": gateway.url, "away": "http://127.0.0.1:1"},
            idle_timeout_s=0.5,
            head_timeout_s=0.5,
            max_request_bytes=4000,
        ) as relay,
    ):

        async def try_one(sent: bytes) -> None:
            async with raw_client(relay, OTHER_CLIENT) as (reader, writer):
                writer.write(sent)
                await closed(reader)

        await asyncio.gather(*map(try_one, requests))
        connector = aiohttp.TCPConnector(local_addr=(OTHER_CLIENT, 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            # A link that breaks the protocol, and one that leaves in the middle of a stream.
            ws = await session.ws_connect(f"{relay.url}/mux", protocols=("sotto-mux.v1",))
            await ws.send_bytes(b"\xff" + telltale * 10)
            await ws.receive()
            await ws.close()
            async with edge_link(session, relay) as link:
                stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
                await stream.send(telltale)
                await stream.receive()
        await eventually(lambda: relay.metric("sotto_relay_streams_open") == 0)
        await eventually(lambda: relay.metric("sotto_relay_connections_open") == 0)
        page = generate_latest(relay.config.registry).decode()
    outcomes = ("completed", "timeout", "too_large", "upstream", "client_gone")
    assert not [one for one in outcomes if f'outcome="{one}"' not in page]
    logged = "\n".join(logging.Formatter().format(record) for record in caplog.records)
    assert "transport.relay" in "\n".join(record.name for record in caplog.records)
    for told in (page, logged):
        assert OTHER_CLIENT not in told
        assert "telltale" not in told.lower()


async def test_what_gateways_publish_is_passed_on() -> None:
    """Names, keys and attestation: fetched once for all who ask, with nothing of any of them."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url, "h": "http://127.0.0.1:1"}) as relay,
        aiohttp.ClientSession(headers={"User-Agent": "telltale", "Cookie": "telltale"}) as session,
    ):
        waiting = asyncio.Event()

        async def slow_keys() -> web.Response:
            await waiting.wait()
            return web.Response(body=b"keys", content_type=media.OHTTP_KEYS)

        gateway.documents = {
            "ohttp-keys": slow_keys,
            "attestation": web.json_response({"enclaves": []}),
        }

        async def get(path: str) -> tuple[int, str, bytes]:
            async with session.get(f"{relay.url}{path}") as response:
                return response.status, response.content_type, await response.read()

        assert json.loads((await get("/gateways"))[2]) == {"gateways": ["g", "h"]}
        askers = [asyncio.create_task(get("/gateway/g/ohttp-keys?telltale")) for _ in range(5)]
        await eventually(lambda: len(gateway.fetched) == 1)
        connections = "sotto_relay_connections_open"
        await eventually(lambda: relay.metric(connections) == 5)
        askers[0].cancel()  # it was the first, and what it began is not only its own
        await eventually(lambda: relay.metric(connections) == 4)
        waiting.set()
        for asker in askers[1:]:
            assert await asker == (200, media.OHTTP_KEYS, b"keys")
        assert (await get("/gateway/g/ohttp-keys"))[2] == b"keys"
        ((path, headers),) = gateway.fetched
        assert path == "/ohttp-keys"
        assert set(headers) == {"Host"}
        assert (await get("/gateway/g/attestation"))[:2] == (200, "application/json")
        for missing in ("/gateway/x/ohttp-keys", "/gateway/g/healthz", "/gateway/g/ohttp"):
            assert (await get(missing))[:2] == (404, media.PROBLEM_JSON)
        assert (await get("/gateway/h/ohttp-keys"))[:2] == (502, media.PROBLEM_JSON)
        assert [path for path, _ in gateway.fetched] == ["/ohttp-keys", "/attestation"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(body=b"<html>", content_type="text/html"),
        lambda: web.Response(body=bytes(1024 * 1024 + 1), content_type=media.OHTTP_KEYS),
        lambda: web.Response(status=302, headers={"Location": "/elsewhere"}),
        lambda: web.Response(status=500, body=b"x", content_type=media.OHTTP_KEYS),
    ],
)
async def test_other_answers_are_not_passed_on(answer: Callable[[], web.Response]) -> None:
    """A page, a flood, a redirection or an error in the keys' place is 502."""
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay({"g": gateway.url}) as relay,
        aiohttp.ClientSession() as session,
    ):
        gateway.documents = {"ohttp-keys": answer()}
        async with session.get(f"{relay.url}/gateway/g/ohttp-keys") as response:
            assert (response.status, response.content_type) == (502, media.PROBLEM_JSON)


async def test_a_gateway_that_accepts_and_says_nothing_holds_nobody() -> None:
    """Another gateway of the same relay is as quick as ever."""
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    async with (
        echo_gateway(mux=True) as gateway,
        running_relay(
            {"g": gateway.url, "silent": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        ) as relay,
        aiohttp.ClientSession() as session,
        edge_link(session, relay) as link,
    ):
        waiting = link.open("silent", media.OHTTP_CHUNKED_REQUEST)
        await waiting.send(b"x")
        stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        await stream.send(b"quick", end=True)
        assert await stream.receive() == b"quick"
        waiting.reset()
        silent.close()
