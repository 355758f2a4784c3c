"""The enclave as a process: engine, memory, identity, gateway resource, in that order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import CollectorRegistry

from memory.store import ThreadStore
from personas.library import load_library
from runtime.config import EnclaveConfig, EngineConfig
from runtime.enclave.agent import Agent
from runtime.enclave.api import MAX_REQUEST_BYTES
from runtime.enclave.engines.base import Engine, EngineError
from runtime.enclave.gateway import Gateway
from runtime.enclave.identity import IdentityKeeper, load_platform
from runtime.enclave.outbox import Outbox
from runtime.errors import SetupError
from runtime.redis_client import connect_redis
from runtime.serving import bound_site, cancelled, until_stopped
from runtime.telemetry import EnclaveMetrics, serve_metrics
from transport import media
from transport.errors import LinkClosedError
from transport.keyconfig import encode_key_config_list
from transport.relay.link import Link, server_websocket

log = logging.getLogger(__name__)

# A stop must end within 5 s: turns get most of it, receipts the rest.
_TURN_GRACE_S = 2.5
_RECEIPT_GRACE_S = 0.5


def make_engine(config: EngineConfig) -> Engine:
    """Choose the engine; heavy libraries are imported only here."""
    match config.kind:
        case "embedded":
            from runtime.enclave.engines.embedded import EmbeddedEngine

            return EmbeddedEngine()
        case "vllm":
            from runtime.enclave.engines.vllm import VllmEngine

            if not config.model:
                raise SetupError(
                    "the vllm engine needs a model: `make run ENGINE=vllm MODEL=<folder or name>`"
                )
            return VllmEngine(config.model, max_model_len=config.context_tokens)
        case "openai":
            from runtime.enclave.engines.openai import OpenAiEngine

            if not config.model or not config.base_url:
                raise SetupError("the openai engine needs `model` and `base_url`")
            return OpenAiEngine(
                config.base_url, config.model, context_tokens=config.context_tokens or 4096
            )
        case "scripted":
            from runtime.enclave.engines.scripted import ScriptedEngine

            return ScriptedEngine(
                first_token_s=config.first_token_s, token_s=config.token_s, tokens=config.tokens
            )


class _HttpExchange:
    """One HTTP request as an `Exchange`."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None

    @property
    def content_type(self) -> str:
        return self._request.content_type

    @property
    def response(self) -> web.StreamResponse:
        """What was sent; a gateway that sent nothing is a defect."""
        return self._response or web.Response(status=500)

    async def receive(self) -> bytes | None:
        return await self._request.content.readany() or None

    async def send_head(self, status: int, content_type: str) -> None:
        headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
        if content_type in media.CHUNKED_TYPES:
            headers["Incremental"] = "?1"
        self._response = web.StreamResponse(status=status, headers=headers)
        await self._response.prepare(self._request)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        if self._response is None:
            raise RuntimeError("send_head comes first")
        try:
            await self._response.write(data)
            if end:
                await self._response.write_eof()
        except ConnectionError as error:
            raise LinkClosedError("the client closed the connection") from error


def make_app(gateway: Gateway, identities: IdentityKeeper) -> web.Application:
    """``POST /ohttp``, ``GET /ohttp-keys``, ``GET /mux``, ``GET /healthz``."""

    async def ohttp(request: web.Request) -> web.StreamResponse:
        exchange = _HttpExchange(request)
        await gateway.handle(exchange)
        return exchange.response

    async def keys(_: web.Request) -> web.Response:
        configs = tuple(identities[key_id].config for key_id in reversed(list(identities)))
        return web.Response(body=encode_key_config_list(configs), content_type=media.OHTTP_KEYS)

    async def mux(request: web.Request) -> web.StreamResponse:
        ws = server_websocket()
        await ws.prepare(request)
        await Link.serve(ws, gateway.handle)
        return ws

    async def healthz(_: web.Request) -> web.Response:
        ready = identities.current is not None
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.router.add_post("/ohttp", ohttp)
    app.router.add_get("/ohttp-keys", keys)
    app.router.add_get("/mux", mux)
    app.router.add_get("/healthz", healthz)
    return app


@contextlib.asynccontextmanager
async def _started(engine: Engine) -> AsyncIterator[Engine]:
    try:
        await engine.start()
    except EngineError as error:
        raise SetupError(str(error), code=error.code) from None
    try:
        yield engine
    finally:
        await engine.close()


async def serve(config: EnclaveConfig, stop: asyncio.Event) -> None:
    """Run the enclave until `stop`; raises SetupError where it cannot start."""
    platform = load_platform(config.simulated_root, debug=config.debug)
    registry = CollectorRegistry()
    async with (
        contextlib.AsyncExitStack() as stack,
        connect_redis(config.redis_url) as client,
    ):
        engine = await stack.enter_async_context(_started(make_engine(config.engine)))
        outbox = Outbox(client)
        metrics = EnclaveMetrics(registry, queue=engine.queued, pending=outbox.pending)
        outbox.on_issued = metrics.receipts.inc
        identities = IdentityKeeper(
            client, config.gateway, engine, platform, lifetime_s=config.key_lifetime_s
        )
        agent = Agent(
            engine,
            ThreadStore(client),
            outbox,
            metrics,
            max_turns=config.max_turns,
            debug=config.debug,
        )
        gateway = Gateway(identities, agent, load_library(), metrics)
        serve_metrics(registry, config.metrics_port)
        tasks = [asyncio.create_task(outbox.run()), asyncio.create_task(identities.run())]
        try:
            async with bound_site(make_app(gateway, identities), config.host, config.port):
                await until_stopped(stop, tasks)
                await identities.withdraw()
                await agent.close(_TURN_GRACE_S)
                if left := await outbox.drain(_RECEIPT_GRACE_S):
                    log.warning("%d receipts were not handed over; resend those turns", left)
        finally:
            await cancelled(tasks)
