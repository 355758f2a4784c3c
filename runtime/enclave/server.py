"""The enclave as a process: engine, memory, identity, gateway resource, in that order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import aiohttp
import redis.asyncio
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry

from memory.store import ThreadStore
from personas.library import load_library
from personas.registry import Registry
from runtime.config import EnclaveConfig, EngineConfig
from runtime.enclave.agent import Agent
from runtime.enclave.completions import Completions
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.embedding.choose import make_embedder
from runtime.enclave.engines.base import Engine, EngineError
from runtime.enclave.epochs import EpochStore
from runtime.enclave.gateway import Gateway
from runtime.enclave.identity import IdentityKeeper
from runtime.enclave.mailboxes import Mailboxes
from runtime.enclave.memory_routes import memory_routes
from runtime.enclave.outbox import Outbox
from runtime.enclave.persona_log import StepLog
from runtime.enclave.persona_routes import PersonaRoutes
from runtime.enclave.persona_source import PersonaSource
from runtime.enclave.places import Places
from runtime.enclave.receiving import Receiver, UnsupportedMediaTypeError, check_size
from runtime.enclave.remembering import Remembering
from runtime.enclave.routes import Routes
from runtime.enclave.search_routes import PersonaSearch
from runtime.enclave.tee.platform import make_platform
from runtime.enclave.views import Views
from runtime.enclave.weights import signed_by
from runtime.errors import SetupError
from runtime.redis_client import connect_redis
from runtime.serving import bound_site, cancelled, until_stopped
from runtime.telemetry import EnclaveMetrics, MemoryMetrics, serve_metrics
from transport import media
from transport.errors import LinkClosedError, MuxUnsupportedError, TruncatedError
from transport.keyconfig import encode_key_config_list
from transport.relay.link import Link, server_websocket

log = logging.getLogger(__name__)

# A stop must end within 5 s: turns get most of it, receipts the rest.
_TURN_GRACE_S = 2.5
_NOTES_GRACE_S = 0.3
_RECEIPT_GRACE_S = 0.5
# Also the longest that a client may take for the head of its request.
_KEEP_ALIVE_S = 75.0

_HALF_CLOSED_S = 1.0


def make_engine(config: EngineConfig) -> Engine:
    """Choose the engine; heavy libraries are imported only here."""
    signed = signed_by(config)
    match config.kind:
        case "embedded":
            from runtime.enclave.engines.embedded import EmbeddedEngine

            return EmbeddedEngine(signed=signed)
        case "vllm":
            from runtime.enclave.engines.vllm import VllmEngine

            if not config.model:
                raise SetupError(
                    "the vllm engine needs a model: `make run ENGINE=vllm MODEL=<folder or name>`"
                )
            return VllmEngine(config.model, max_model_len=config.context_tokens, signed=signed)
        case "openai":
            from runtime.enclave.engines.openai import OpenAiEngine

            if not config.model or not config.base_url:
                raise SetupError("the openai engine needs `model` and `base_url`")
            try:
                return OpenAiEngine(
                    config.base_url, config.model, context_tokens=config.context_tokens or 4096
                )
            except EngineError as error:  # an address outside of the enclave
                raise SetupError(str(error), code=error.code) from None
        case "scripted":
            from runtime.enclave.engines.scripted import ScriptedEngine

            return ScriptedEngine(
                first_token_s=config.first_token_s, token_s=config.token_s, tokens=config.tokens
            )


class _Connection(web.RequestHandler):
    """A connection whose client may close its side when it has sent its request.

    aiohttp takes the end of the client's side for the end of all, and drops the answer.
    """

    __slots__ = ("ended", "lost", "request", "tolerant")

    def __init__(self, server: web.Server, *, loop: asyncio.AbstractEventLoop) -> None:
        # No access log: it would hold addresses. The client's own pool closes idle ones first.
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # as aiohttp's own runner passes it
            keepalive_timeout=_KEEP_ALIVE_S,
            # What is refused is still read to its end, but as it comes.
            auto_decompress=False,
        )
        self.request: web.BaseRequest | None = None
        self.ended = False
        self.tolerant = True
        self.lost: asyncio.Future[None] = loop.create_future()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's own type
        """Keep the connection for the answer to what is here; a cut request is told so."""
        self.ended = True
        if not self.tolerant:
            return False
        if self.request is None:
            # What came just before may not have reached its handler yet.
            asyncio.get_running_loop().call_later(_HALF_CLOSED_S, self._close_if_idle)
        else:
            self._end_request(self.request)
        return True

    def begin(self, request: web.BaseRequest) -> None:
        """A handler has the request now."""
        self.request = request
        if self.ended:
            self._end_request(request)

    def finish(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """The handler has answered."""
        self.request = None
        if self.ended and not self._messages:  # none was sent behind this one
            response.force_close()
        if request.content.exception() is not None:
            request.content.feed_eof()  # or aiohttp would read on

    def log_exception(self, *_: object, exc_info: object = None, **__: object) -> None:
        """What, but neither from where nor what it says, as aiohttp would have it."""
        log.warning("an HTTP connection failed: %s", type(exc_info).__name__)

    def _end_request(self, request: web.BaseRequest) -> None:
        if not request.content.is_eof():
            request.content.set_exception(_cut())

    def _close_if_idle(self) -> None:
        if self.request is None:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody reads the answer any more."""
        if not self.lost.done():
            self.lost.set_result(None)
        super().connection_lost(exc)


class _Server(web.Server):
    """aiohttp's low-level server, with connections of our kind."""

    def __call__(self) -> _Connection:
        return _Connection(self, loop=asyncio.get_running_loop())


_Handler = Callable[[web.BaseRequest, _Connection], Awaitable[web.StreamResponse]]


def _cut() -> TruncatedError:
    return TruncatedError("the connection ended inside the request; send it again")


class _HttpExchange:
    """One HTTP request as an `Exchange`."""

    def __init__(self, request: web.BaseRequest, lost: asyncio.Future[None]) -> None:
        self._request = request
        self._lost = lost
        self._begun = False
        self._response: web.StreamResponse | None = None

    @property
    def content_type(self) -> str:
        return self._request.content_type

    @property
    def response(self) -> web.StreamResponse:
        """What was sent; a gateway that sent nothing is a defect."""
        return self._response or web.Response(status=500)

    async def receive(self) -> bytes | None:
        try:
            if not self._begun:
                await self._begin()
            return await self._request.content.readany() or None
        except (aiohttp.ClientError, HttpProcessingError, web.RequestPayloadError):
            raise _cut() from None
        except ConnectionError:
            raise LinkClosedError("the client closed the connection") from None

    async def _begin(self) -> None:
        self._begun = True
        check_size(self._request.content_length or 0)
        if "Content-Encoding" in self._request.headers:
            raise UnsupportedMediaTypeError("an encapsulated request has no content coding")
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._request.writer.output_size = 0

    async def send_head(self, status: int, content_type: str) -> None:
        headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
        if content_type in media.CHUNKED_TYPES:
            headers["Incremental"] = "?1"
        self._response = web.StreamResponse(status=status, headers=headers)
        try:
            await self._response.prepare(self._request)
        except ConnectionError as error:
            raise LinkClosedError("the client closed the connection") from error

    async def send(self, data: bytes, *, end: bool = False) -> None:
        if self._response is None:
            raise RuntimeError("send_head comes first")
        try:
            await self._response.write(data)
            if end:
                await self._response.write_eof()
        except ConnectionError as error:
            raise LinkClosedError("the client closed the connection") from error

    async def wait_reset(self) -> None:
        await asyncio.shield(self._lost)
        raise LinkClosedError("the client closed the connection")

    def reset(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def make_server(gateway: Gateway, identities: IdentityKeeper) -> web.Server:
    """The gateway resource, what a client must know of it, and our own roles' link to it."""

    async def ohttp(request: web.BaseRequest, connection: _Connection) -> web.StreamResponse:
        exchange = _HttpExchange(request, connection.lost)
        await gateway.handle(exchange)
        return exchange.response

    async def keys(*_: object) -> web.StreamResponse:
        body = encode_key_config_list(identities.key_configs())
        return web.Response(body=body, content_type=media.OHTTP_KEYS)

    async def attestation(*_: object) -> web.StreamResponse:
        return web.Response(body=identities.attestation(), content_type="application/json")

    async def mux(request: web.BaseRequest, connection: _Connection) -> web.StreamResponse:
        ws = server_websocket()
        if not ws.can_prepare(request).ok:
            return web.Response(status=426, headers={"Upgrade": "websocket"})
        connection.tolerant = False  # a link ends with its client's side
        await ws.prepare(request)
        try:
            await Link.serve(ws, gateway.handle)
        except MuxUnsupportedError:
            log.info("a websocket without the subprotocol was closed")
        return ws

    async def healthz(*_: object) -> web.StreamResponse:
        ready = identities.current is not None
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    routes: dict[str, dict[str, _Handler]] = {
        "/ohttp": {"POST": ohttp},
        "/ohttp-keys": {"GET": keys},
        "/attestation": {"GET": attestation},
        "/mux": {"GET": mux},
        "/healthz": {"GET": healthz},
    }

    async def route(request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        if not isinstance(connection, _Connection):
            raise TypeError("the server makes connections of one kind")
        methods = routes.get(request.path)
        handler = None if methods is None else methods.get(request.method)
        connection.begin(request)
        if methods is None:
            response: web.StreamResponse = web.Response(status=404)
        elif handler is None:
            response = web.Response(status=405, headers={"Allow": ", ".join(methods)})
        else:
            response = await handler(request, connection)
        connection.finish(request, response)
        return response

    return _Server(route)


_Model = TypeVar("_Model", Engine, Embedder)


@contextlib.asynccontextmanager
async def _started(model: _Model) -> AsyncIterator[_Model]:
    try:
        await model.start()
    except EngineError as error:
        raise SetupError(str(error), code=error.code) from None
    try:
        yield model
    finally:
        await model.close()


async def serve(
    config: EnclaveConfig,
    stop: asyncio.Event,
    *,
    outbox: Callable[[redis.asyncio.Redis], Outbox] = Outbox,
) -> None:
    """Run the enclave until `stop`; raises SetupError where it cannot start.

    `outbox` makes what hands receipts over; a benchmark gives one that does not.
    """
    platform = make_platform(config)
    registry = CollectorRegistry()
    async with (
        contextlib.AsyncExitStack() as stack,
        connect_redis(config.redis_url) as client,
    ):
        engine = await stack.enter_async_context(_started(make_engine(config.engine)))
        embedder = make_embedder(config.embedding)
        if embedder is not None:
            await stack.enter_async_context(_started(embedder))
        receipts = outbox(client)
        metrics = EnclaveMetrics(registry, queue=engine.queued, pending=receipts.pending)
        receipts.on_issued = metrics.receipts.inc
        identities = IdentityKeeper(
            client,
            config.gateway,
            engine,
            platform,
            lifetime_s=config.key_lifetime_s,
            evidence_interval_s=config.evidence_interval_s,
            embedder=embedder,
        )
        store = ThreadStore(client)
        remembering = Remembering(
            engine, store, Views(), MemoryMetrics(registry), embedder=embedder
        )
        places = Places(config.max_turns, receipts)
        agent = Agent(
            engine,
            store,
            receipts,
            metrics,
            places=places,
            remembering=remembering,
            debug=config.debug,
        )
        completions = Completions(engine, receipts, metrics, places=places)
        epochs = EpochStore(client)
        published = Registry(client)
        personas = PersonaSource(load_library(), published)
        shelves = PersonaRoutes(
            personas,
            published,
            StepLog(client, published),
            publish=config.personas.publish == "open",
            debug=config.debug,
        )
        finder = PersonaSearch(personas, embedder)
        routes = Routes(
            personas,
            agent,
            completions,
            receipts,
            epochs,
            notice=engine.notice,
            extra={
                **shelves.table(),
                **finder.table(),
                **memory_routes(agent, store, receipts, embedder),
                **Mailboxes(client).table(),
            },
        )
        gateway = Gateway(Receiver(identities), routes, metrics)
        serve_metrics(registry, config.metrics_port)
        tasks = [
            asyncio.create_task(receipts.run()),
            asyncio.create_task(identities.run()),
            asyncio.create_task(personas.run()),
            asyncio.create_task(finder.run()),
        ]
        try:
            async with bound_site(make_server(gateway, identities), config.host, config.port):
                await until_stopped(stop, tasks)
                await identities.withdraw()
                places.close()
                await asyncio.gather(agent.close(_TURN_GRACE_S), completions.close(_TURN_GRACE_S))
                # What is not noted by then, the next turn of its thread makes good for.
                await remembering.close(_NOTES_GRACE_S)
                if left := await receipts.drain(_RECEIPT_GRACE_S):
                    log.warning("%d receipts were not handed over; resend those turns", left)
        finally:
            await cancelled(tasks)
