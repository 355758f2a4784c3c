"""The relay resource of Oblivious HTTP (RFC 9458 sections 2, 5.2 and 6).

`POST /gateway/{name}` for anyone, `GET /mux` for our own edges, `GET /healthz`. Only gateways in
the configuration can be reached. A gateway learns the relay's address, the type of the sealed
bytes, and the bytes; nothing of the client. Nothing is logged about a client either.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
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
from transport.relay.exchange import Exchange, Inbound, InboundGoneError
from transport.relay.link import Link, server_websocket
from transport.relay.upstream import GatewayUpstream, make_session

_log = logging.getLogger(__name__)

UPSTREAM_TARGET: Final = "ohttp"
"""The target of streams towards a gateway: its gateway resource, as in `<base>/ohttp`."""

# What ends an exchange early: outcome for the metrics, status and title for the client.
_FAILURES: Final[dict[type[Exception], tuple[str, int, str, ResetCode]]] = {
    LimitError: ("too_large", 413, "The message is too large", ResetCode.TOO_LARGE),
    TimeoutError: ("timeout", 504, "The exchange was silent for too long", ResetCode.TIMEOUT),
    UpstreamError: ("upstream", 502, "The gateway is away", ResetCode.UPSTREAM),
}


class _HttpInbound:
    """A client that came by plain HTTP. It satisfies `Inbound`."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None

    async def receive(self) -> bytes | None:
        try:
            data = await self._request.content.readany()
        except (OSError, web.RequestPayloadError) as error:
            raise LinkClosedError("the client's connection is gone") from error
        return data or None

    async def send_head(self, status: int, content_type: str) -> None:
        headers = {"Content-Type": content_type}
        if content_type in media.CHUNKED_TYPES:
            headers["Incremental"] = "?1"
        self.response = web.StreamResponse(status=status, headers=headers)
        try:
            await self.response.prepare(self._request)
        except OSError as error:
            raise LinkClosedError("the client's connection is gone") from error

    async def send(self, data: bytes, *, end: bool = False) -> None:
        if self.response is None:
            raise LinkClosedError("the response has not begun")
        try:
            if data:
                await self.response.write(data)
            if end:
                await self.response.write_eof()
        except OSError as error:
            raise LinkClosedError("the client's connection is gone") from error

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
        self._gateways: dict[str, GatewayUpstream] = {}
        self._sockets: set[web.WebSocketResponse] = set()
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def start(self, app: web.Application) -> None:
        """Set up the connections to gateways; `stop` takes them down."""
        self._session = make_session()
        for name, url in self._config.gateways.items():
            self._gateways[name] = GatewayUpstream(self._session, url, self._config)

    async def stop(self, app: web.Application) -> None:
        """Close every connection."""
        for gateway in self._gateways.values():
            await gateway.close()
        await self._session.close()

    async def close_sockets(self, app: web.Application) -> None:
        """Close the edges' connections, or the server would wait for them."""
        for ws in tuple(self._sockets):
            await ws.close()

    async def drain(self) -> None:
        """Refuse new exchanges and wait for those in progress, up to the configured time."""
        self._draining = True
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("%d exchanges were cut short by the end of the drain", self._open)

    async def health(self, request: web.Request) -> web.Response:
        """Say whether new exchanges are taken: 200 or 503."""
        return web.Response(status=503 if self._draining else 200, text="")

    async def http(self, request: web.Request) -> web.StreamResponse:
        """Relay one exchange that came by HTTP."""
        inbound = _HttpInbound(request)
        if (request.content_length or 0) > self._config.max_request_bytes:
            await self._problem(inbound, 413, "The message is too large")
        else:
            await self._relay(inbound, request.match_info["name"], request.content_type)
        # A client that went away before the head is still owed an object by the server's API.
        return inbound.response or web.Response(status=502)

    async def mux(self, request: web.Request) -> web.StreamResponse:
        """Serve an edge's multiplexed connection."""
        ws = server_websocket()
        if not ws.can_prepare(request).ok:
            return web.Response(status=426, headers={"Upgrade": "websocket"})
        await ws.prepare(request)
        self._sockets.add(ws)
        try:
            await Link.serve(
                ws,
                lambda stream: self._relay(stream, stream.target, stream.content_type),
                max_streams=self._config.max_streams,
            )
        except MuxUnsupportedError:
            _log.info("a websocket without the subprotocol was closed")
        finally:
            self._sockets.discard(ws)
        return ws

    def _refusal(self, name: str, content_type: str) -> tuple[int, str] | None:
        """Status and title where an exchange may not begin."""
        if name not in self._gateways:
            return 404, "No such gateway"
        if content_type not in media.REQUEST_TYPES:
            return 415, "Only message/ohttp-req and message/ohttp-chunked-req are relayed"
        if self._draining or self._open >= self._config.max_streams:
            return 503, "The relay takes no further exchanges now"
        return None

    async def _relay(self, inbound: Inbound, name: str, content_type: str) -> None:
        refusal = self._refusal(name, content_type)
        if refusal is not None:
            await self._problem(inbound, *refusal)
            return
        outcome = "client_gone"
        self._open += 1
        self._idle.clear()
        self._metrics.streams_open.inc()
        try:
            outcome = await self._forward(inbound, name, content_type)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()
            self._metrics.streams_open.dec()
            self._metrics.streams.labels(gateway=name, outcome=outcome).inc()

    async def _forward(self, inbound: Inbound, name: str, content_type: str) -> str:
        """Forward one exchange; return its outcome for the metrics."""
        try:
            upstream = await self._gateways[name].open(UPSTREAM_TARGET, content_type)
        except LimitError:
            await self._problem(inbound, 503, "The link to the gateway is full")
            return "refused"
        except UpstreamError:
            await self._problem(inbound, 502, "The gateway is away")
            return "upstream"
        exchange = Exchange(self._config, self._metrics, inbound, upstream)
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
        return "completed"

    async def _problem(self, inbound: Inbound, status: int, title: str) -> None:
        """Answer with problem details (RFC 9457)."""
        body = json.dumps({"type": "about:blank", "title": title, "status": status}).encode()
        try:
            await inbound.send_head(status, media.PROBLEM_JSON)
            await inbound.send(body, end=True)
        except TransportError:
            _log.info("a client went away before it could be told: %d", status)


@web.middleware
async def _private_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Report a fault by its type alone: the server's own report names the client's address."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception as error:
        _log.error("a request failed: %s", type(error).__name__)
        return web.Response(status=500)


def _silent_log() -> logging.Logger:
    """For the HTTP server, whose messages hold clients' addresses."""
    silent = logging.Logger("transport.relay.http")
    silent.addHandler(logging.NullHandler())
    return silent


RELAY: Final = web.AppKey("relay", Relay)


def make_app(config: RelayConfig) -> web.Application:
    """The relay as an application.

    Run it with `handler_cancellation=True`, `access_log=None` and a silent logger, as `serve`
    does: the first lets a client that vanishes end its exchange, the others keep addresses out of
    logs.
    """
    relay = Relay(config)
    app = web.Application(middlewares=[_private_errors])
    app[RELAY] = relay
    app.on_startup.append(relay.start)
    app.on_shutdown.append(relay.close_sockets)
    app.on_cleanup.append(relay.stop)
    app.router.add_post("/gateway/{name}", relay.http)
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
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_silent_log(),
        handler_cancellation=True,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        await site.start()
        if started is not None:
            started(runner.addresses[0][1])
        await stop.wait()
        await site.stop()
        await app[RELAY].drain()
    finally:
        await runner.cleanup()
