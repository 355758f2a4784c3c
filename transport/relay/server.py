"""The relay resource of Oblivious HTTP (RFC 9458 sections 2, 5.2 and 6).

`POST /gateway/{name}` for anyone, `GET /mux` for our own edges, `GET /healthz`. So that a client
need not show itself to a gateway before its first message: `GET /gateways`, `GET
/gateway/{name}/ohttp-keys`, `GET /gateway/{name}/attestation`. Only gateways in the configuration
can be reached. A gateway learns the relay's address, the type of the sealed bytes, and the bytes;
nothing of the client. Nothing is logged about a client either.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

from aiohttp import web

from transport import media
from transport.errors import (
    LimitError,
    LinkClosedError,
    MuxUnsupportedError,
    TransportError,
    UpstreamError,
)
from transport.mux_frames import ResetCode
from transport.relay.config import RelayConfig, RelayMetrics
from transport.relay.door import Door, Hall, release
from transport.relay.exchange import Exchange, Inbound, InboundGoneError
from transport.relay.link import Link, Stream, server_websocket
from transport.relay.published import PUBLISHED, Published
from transport.relay.upstream import GatewayUpstream, make_session

_log = logging.getLogger(__name__)

UPSTREAM_TARGET: Final = "ohttp"
"""The target of streams towards a gateway: its gateway resource, as in `<base>/ohttp`."""

_DRAIN_LOOK_S: Final = 0.1
# A client that does not read its socket would otherwise be waited for without end.
_CLOSE_S: Final = 2.0
_BACKLOG: Final = 1024

# What ends an exchange early: outcome for the metrics, status and title for the client.
_FAILURES: Final[dict[type[Exception], tuple[str, int, str, ResetCode]]] = {
    LimitError: ("too_large", 413, "The message is too large", ResetCode.TOO_LARGE),
    TimeoutError: ("timeout", 504, "The exchange was silent for too long", ResetCode.TIMEOUT),
    UpstreamError: ("upstream", 502, "The gateway is away", ResetCode.UPSTREAM),
}


class _HttpInbound:
    """A client that came by plain HTTP. It satisfies `Inbound`."""

    def __init__(self, request: web.Request, *, last: bool) -> None:
        self._request = request
        self._last = last
        self.abandoned = False
        self.response: web.StreamResponse | None = None

    def _gone(self) -> LinkClosedError:
        self.abandoned = True
        return LinkClosedError("the client's connection is gone")

    async def receive(self) -> bytes | None:
        try:
            data = await self._request.content.readany()
        except (OSError, web.RequestPayloadError) as error:
            raise self._gone() from error
        return data or None

    async def send_head(self, status: int, content_type: str) -> None:
        headers = {"Content-Type": content_type}
        if content_type in media.CHUNKED_TYPES:
            headers["Incremental"] = "?1"
        self.response = web.StreamResponse(status=status, headers=headers)
        if self._last:
            self.response.force_close()
        try:
            await self.response.prepare(self._request)
        except OSError as error:
            raise self._gone() from error

    async def send(self, data: bytes, *, end: bool = False) -> None:
        if self.response is None:
            raise LinkClosedError("the response has not begun")
        try:
            if data:
                await self.response.write(data)
            if end:
                await self.response.write_eof()
        except OSError as error:
            raise self._gone() from error

    async def wait_reset(self) -> NoReturn:
        # The server cancels the handler when the client's connection goes.
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    def reset(self, code: int) -> None:
        # Without this the server would end the chunked body, and a cut response would look whole.
        if self._request.transport is not None:
            self._request.transport.abort()


class Relay:
    """A relay's state while it runs."""

    def __init__(self, config: RelayConfig) -> None:
        """Register metrics; connections come with `start`."""
        self._config = config
        self._metrics = RelayMetrics(config.registry)
        self.hall = Hall(config, self._metrics)
        self._gateways: dict[str, GatewayUpstream] = {}
        self._published: dict[tuple[str, str], Published] = {}
        self._probes: list[asyncio.Task[None]] = []
        self._sockets: Counter[web.WebSocketResponse] = Counter()
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def start(self, app: web.Application) -> None:
        """Set up the connections to gateways; `stop` takes them down."""
        self._session = make_session()
        for name, url in self._config.gateways.items():
            self._gateways[name] = GatewayUpstream(self._session, name, self._config, self._metrics)
            for path in PUBLISHED:
                self._published[name, path] = Published(self._session, url, path)

    def probe(self) -> None:
        """Find out in the background which gateways are there, and log it."""
        self._probes = [asyncio.create_task(one.probe()) for one in self._gateways.values()]

    async def stop(self, app: web.Application) -> None:
        """Close every connection."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await asyncio.gather(*(one.close() for one in self._published.values()))
        await asyncio.gather(*(one.close() for one in self._gateways.values()))
        await self._session.close()

    async def close_sockets(self, app: web.Application) -> None:
        """Close the edges' connections, or the server would wait for them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.gather(*(ws.close() for ws in tuple(self._sockets)))

    async def drain(self) -> None:
        """Refuse new exchanges and wait for those in progress, up to the configured time.

        Edges' connections are closed once they carry nothing, so that edges go elsewhere.
        """
        self._draining = True
        unused: set[web.WebSocketResponse] = set()
        try:
            async with asyncio.timeout(self._config.drain_s):
                while self._open:
                    # Twice unused: the end of its last stream may not have been written yet.
                    still = {ws for ws, streams in self._sockets.items() if not streams}
                    await asyncio.gather(*(ws.close() for ws in still & unused))
                    unused = still
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._idle.wait(), _DRAIN_LOOK_S)
        except TimeoutError:
            _log.warning("%d exchanges were cut short by the end of the drain", self._open)

    async def health(self, request: web.Request) -> web.Response:
        """Say whether new exchanges are taken: 200 or 503."""
        return web.Response(status=503 if self._draining else 200, text="")

    async def gateways(self, request: web.Request) -> web.Response:
        """Name the gateways."""
        return web.json_response({"gateways": sorted(self._gateways)})

    async def published(self, request: web.Request) -> web.StreamResponse:
        """Pass on what a gateway publishes of itself."""
        found = self._published.get((request.match_info["name"], request.match_info["path"]))
        if found is None:
            return _problem_response(404, "No such gateway, or nothing that it publishes")
        try:
            body = await found.get()
        except UpstreamError:
            return _problem_response(502, "The gateway is away, or does not publish this")
        return web.Response(body=body, content_type=found.content_type)

    async def http(self, request: web.Request) -> web.StreamResponse:
        """Relay one exchange that came by HTTP."""
        inbound = _HttpInbound(request, last=self._draining)
        door = self.hall.of(request)
        if (request.content_length or 0) > self._config.max_request_bytes:
            self._metrics.refused.labels(reason="too_large").inc()
            await self._problem(inbound, 413, "The message is too large")
        elif door is not None:
            name = request.match_info["name"]
            await self._relay(inbound, door.client, name, request.content_type)
        # A client that went away before the head is still owed an object by the server's API.
        return inbound.response or web.Response(status=502)

    async def mux(self, request: web.Request) -> web.StreamResponse:
        """Serve an edge's multiplexed connection."""
        ws = server_websocket()
        door = self.hall.of(request)
        if door is None or not ws.can_prepare(request).ok:
            return web.Response(status=426, headers={"Upgrade": "websocket"})
        client = door.client

        async def serve_stream(stream: Stream) -> None:
            self._sockets[ws] += 1
            try:
                await self._relay(stream, client, stream.target, stream.content_type)
            finally:
                self._sockets[ws] -= 1

        await ws.prepare(request)
        self._sockets[ws] = 0
        try:
            await Link.serve(ws, serve_stream, max_streams=self._config.max_client_streams)
        except MuxUnsupportedError:
            _log.info("a websocket without the subprotocol was closed")
        finally:
            del self._sockets[ws]
        return ws

    def _refusal(self, client: str, name: str, content_type: str) -> tuple[str, int, str] | None:
        """Reason for the metrics, status and title, where an exchange may not begin."""
        if name not in self._gateways:
            return "unknown_gateway", 404, "No such gateway"
        if content_type not in media.REQUEST_TYPES:
            title = "Only message/ohttp-req and message/ohttp-chunked-req are relayed"
            return "media_type", 415, title
        if self._draining:
            return "draining", 503, "The relay stops and takes no further exchanges"
        if self._open >= self._config.max_streams:
            return "full", 503, "The relay takes no further exchanges now"
        if self.hall.streams[client] >= self._config.max_client_streams:
            return "client_full", 429, "Too many exchanges of this client at once"
        return None

    async def _relay(self, inbound: Inbound, client: str, name: str, content_type: str) -> None:
        refusal = self._refusal(client, name, content_type)
        if refusal is not None:
            reason, status, title = refusal
            self._metrics.refused.labels(reason=reason).inc()
            await self._problem(inbound, status, title)
            return
        outcome = "client_gone"
        self._open += 1
        self._idle.clear()
        self.hall.streams[client] += 1
        try:
            outcome = await self._forward(inbound, name, content_type)
        finally:
            release(self.hall.streams, client)
            self._open -= 1
            if not self._open:
                self._idle.set()
            self._metrics.streams.labels(gateway=name, outcome=outcome).inc()

    async def _forward(self, inbound: Inbound, name: str, content_type: str) -> str:
        """Forward one exchange; return its outcome for the metrics."""
        try:
            upstream = await self._gateways[name].open(UPSTREAM_TARGET, content_type)
        except LimitError:
            await self._problem(inbound, 503, "The links to the gateway are full")
            return "refused"
        except UpstreamError:
            await self._problem(inbound, 502, "The gateway is away")
            return "upstream"
        exchange = Exchange(self._config, inbound, upstream)
        self._metrics.begin(exchange)
        try:
            await exchange.run()
        except InboundGoneError:
            inbound.reset(ResetCode.CANCELLED)
            return "client_gone"
        except (LimitError, TimeoutError, UpstreamError) as error:
            outcome, status, title, code = _FAILURES[type(error)]
            if exchange.head_sent:
                inbound.reset(code)
            else:
                await self._problem(inbound, status, title)
            return outcome
        finally:
            self._metrics.end(exchange)
        return "completed"

    async def _problem(self, inbound: Inbound, status: int, title: str) -> None:
        """Answer with problem details (RFC 9457)."""
        try:
            await inbound.send_head(status, media.PROBLEM_JSON)
            await inbound.send(_problem_body(status, title), end=True)
        except TransportError:
            _log.info("a client went away before it could be told: %d", status)


def _problem_body(status: int, title: str) -> bytes:
    return json.dumps({"type": "about:blank", "title": title, "status": status}).encode()


def _problem_response(status: int, title: str) -> web.Response:
    return web.Response(
        status=status, body=_problem_body(status, title), content_type=media.PROBLEM_JSON
    )


@web.middleware
async def _watched(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Report a fault by its type alone: the server's own report names the client's address."""
    door = request.app[RELAY].hall.of(request)
    if door is not None:
        door.request_began()
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception as error:
        _log.error("a request failed: %s", type(error).__name__)
        return web.Response(status=500)
    finally:
        if door is not None:
            door.request_ended()


def _silent_log() -> logging.Logger:
    """For the HTTP server, whose messages hold clients' addresses."""
    silent = logging.Logger("transport.relay.http")
    silent.addHandler(logging.NullHandler())
    return silent


RELAY: Final = web.AppKey("relay", Relay)


def make_app(config: RelayConfig) -> web.Application:
    """The relay as an application, for `serve`."""
    relay = Relay(config)
    app = web.Application(middlewares=[_watched])
    app[RELAY] = relay
    app.on_startup.append(relay.start)
    app.on_shutdown.append(relay.close_sockets)
    app.on_cleanup.append(relay.stop)
    app.router.add_post("/gateway/{name}", relay.http)
    app.router.add_get("/gateway/{name}/{path}", relay.published)
    app.router.add_get("/gateways", relay.gateways)
    app.router.add_get("/mux", relay.mux)
    app.router.add_get("/healthz", relay.health)
    return app


async def serve(
    config: RelayConfig,
    stop: asyncio.Event,
    *,
    started: Callable[[int], None] | None = None,
) -> None:
    """Run a relay until `stop` is set, then drain it.

    `started` is told the port once the relay listens.

    Raises:
        OSError: The address cannot be bound.
    """
    app = make_app(config)
    relay = app[RELAY]
    # A client that vanishes ends its handler; no address reaches a log.
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_silent_log(),
        handler_cancellation=True,
        shutdown_timeout=1.0,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        behind = runner.server
        if behind is None:
            raise AssertionError("the runner is set up")
        listener = await asyncio.get_running_loop().create_server(
            lambda: Door(relay.hall, behind()), config.host, config.port, backlog=_BACKLOG
        )
        try:
            if started is not None:
                started(listener.sockets[0].getsockname()[1])
            relay.probe()
            await stop.wait()
        finally:
            listener.close()
        await relay.drain()
    finally:
        await runner.cleanup()
