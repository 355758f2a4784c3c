"""A real gateway on loopback for the relay's tests, and a client's side of chunked OHTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from transport import media
from transport.bhttp import RequestDecoder, RequestHead, ResponseDecoder, ResponseEncoder
from transport.gateway import ChunkedRequestOpener, decapsulate
from transport.keyconfig import GatewayKey
from transport.ohttp import ChunkedRequestSealer
from transport.relay.config import RelayConfig
from transport.relay.link import Link, Stream, server_websocket
from transport.relay.server import serve

Reply = Callable[[bytes], Awaitable[None]]
Target = Callable[[bytes, Reply], Awaitable[None]]


class Gateway:
    """Opens requests for real; `target` gets the path and a function that sends content."""

    def __init__(self, target: Target, *, offers_mux: bool = True) -> None:
        self.key = GatewayKey.generate(7, b"gateway seed of the relay tests!")
        self.target = target
        self.offers_mux = offers_mux
        self.seen_headers: list[dict[str, str]] = []
        self.aborted = asyncio.Event()
        self._links: set[web.WebSocketResponse] = set()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/ohttp", self._http)
        if self.offers_mux:
            app.router.add_get("/mux", self._mux)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for ws in tuple(self._links):
            await ws.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _http(self, request: web.Request) -> web.StreamResponse:
        self.seen_headers.append(dict(request.headers))
        if request.content_type == media.OHTTP_REQUEST:
            plain, sealer = decapsulate({7: self.key}, await request.read())
            nonce = os.urandom(sealer.nonce_length)
            return web.Response(body=sealer.seal(plain, nonce), content_type=media.OHTTP_RESPONSE)
        response = web.StreamResponse(headers={"Content-Type": media.OHTTP_CHUNKED_RESPONSE})

        async def receive() -> bytes | None:
            return await request.content.readany() or None

        async def begin() -> None:
            await response.prepare(request)

        async def send(data: bytes) -> None:
            await response.write(data)

        await self._exchange(receive, begin, send)
        return response

    async def _mux(self, request: web.Request) -> web.StreamResponse:
        self.seen_headers.append(dict(request.headers))
        ws = server_websocket()
        await ws.prepare(request)
        self._links.add(ws)
        try:
            await Link.serve(ws, self._stream)
        finally:
            self._links.discard(ws)
        return ws

    async def _stream(self, stream: Stream) -> None:
        async def begin() -> None:
            await stream.send_head(200, media.OHTTP_CHUNKED_RESPONSE)

        work = asyncio.create_task(self._exchange(stream.receive, begin, stream.send))
        watch = asyncio.create_task(stream.wait_reset())
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        watch.cancel()
        outcome, _ = await asyncio.gather(work, watch, return_exceptions=True)
        if outcome is None:
            await stream.send(b"", end=True)
        else:
            self.aborted.set()

    async def _exchange(
        self,
        receive: Callable[[], Awaitable[bytes | None]],
        begin: Callable[[], Awaitable[None]],
        send: Reply,
    ) -> None:
        opener = ChunkedRequestOpener({7: self.key})
        decoder = RequestDecoder()
        events = []
        while (data := await receive()) is not None:
            for plain in opener.feed(data):
                events += decoder.feed(plain)
        events += decoder.feed(opener.finish()) + decoder.finish()
        head = next(event for event in events if isinstance(event, RequestHead))
        sealer = opener.response_sealer(os.urandom(opener.nonce_length))
        encoder = ResponseEncoder(200, ((b"content-type", b"text/plain"),))
        await begin()
        await send(sealer.seal(encoder.start()))

        async def reply(content: bytes) -> None:
            await send(sealer.seal(encoder.content(content)))

        try:
            await self.target(head.path, reply)
        except asyncio.CancelledError:
            self.aborted.set()
            raise
        await send(sealer.seal(encoder.finish(), final=True))


class Exchange:
    """A client's side: what to send, and the content that came."""

    def __init__(self, gateway: Gateway, request: bytes) -> None:
        sealer = ChunkedRequestSealer(gateway.key.config)
        self.body = sealer.seal(request[:9]) + sealer.seal(request[9:], final=True)
        self._opener = sealer.response_opener()
        self._decoder = ResponseDecoder()

    def feed(self, data: bytes) -> bytes:
        events = [event for plain in self._opener.feed(data) for event in self._decoder.feed(plain)]
        return b"".join(getattr(event, "data", b"") for event in events)

    def finish(self) -> None:
        self._decoder.feed(self._opener.finish())
        self._decoder.finish()


class RunningRelay:
    """A relay that listens."""

    def __init__(self, config: RelayConfig, port: int) -> None:
        self.config = config
        self.url = f"http://127.0.0.1:{port}"
        self.stop = asyncio.Event()

    def metric(self, name: str, **labels: str) -> float:
        return self.config.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def running_relay(
    gateways: dict[str, str], **settings: int | float
) -> AsyncIterator[RunningRelay]:
    """Run a relay on a free port; leaving stops it."""
    config = RelayConfig(
        gateways=gateways, port=0, registry=CollectorRegistry(), **{"drain_s": 0.2, **settings}
    )
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(serve(config, stop, started=listening.set_result))
    await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
    relay = RunningRelay(config, await listening)
    relay.stop = stop
    try:
        yield relay
    finally:
        stop.set()
        await task


@asynccontextmanager
async def running_gateway(target: Target, *, offers_mux: bool = True) -> AsyncIterator[Gateway]:
    """Run a gateway on a free port."""
    gateway = Gateway(target, offers_mux=offers_mux)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


@asynccontextmanager
async def edge_link(session: aiohttp.ClientSession, relay: RunningRelay) -> AsyncIterator[Link]:
    """Connect to the relay as one of our own edges."""
    link = await Link.connect(session, f"{relay.url}/mux")
    try:
        yield link
    finally:
        await link.close()


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until another task or process has made `condition` true."""
    async with asyncio.timeout(60):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


__all__ = [
    "Exchange",
    "Gateway",
    "Reply",
    "RunningRelay",
    "edge_link",
    "eventually",
    "running_gateway",
    "running_relay",
]
