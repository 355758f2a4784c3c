"""An enclave of the test's own, on loopback: the real log, Valkey, gateway, agent and server."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import functools
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from memory.keys import derive_thread_key
from memory.store import ThreadStore
from personas.digest import persona_digest
from personas.library import load_library
from personas.registry import Registry
from proofs.evidence.base import Platform
from proofs.evidence.simulated import SimulatedPlatform
from proofs.log.service import LogConfig, serve
from proofs.note import parse_vkey
from proofs.policy import Policy
from runtime.enclave.agent import Agent
from runtime.enclave.api import to_base64url
from runtime.enclave.completions import Completions
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.embedding.static import StaticEmbedder
from runtime.enclave.engines.base import Engine
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.epochs import EpochStore
from runtime.enclave.gateway import STALLED_S, Gateway
from runtime.enclave.identity import Identity, IdentityKeeper, load_platform, release_digest
from runtime.enclave.mailboxes import Mailboxes
from runtime.enclave.memory_routes import memory_routes
from runtime.enclave.outbox import Outbox
from runtime.enclave.persona_log import StepLog
from runtime.enclave.persona_routes import PersonaRoutes
from runtime.enclave.persona_source import PersonaSource
from runtime.enclave.places import Places
from runtime.enclave.receiving import RECEIVE_BUDGET_BYTES, RECEIVE_S, Receiver
from runtime.enclave.remembering import Remembering
from runtime.enclave.routes import Routes
from runtime.enclave.server import make_server
from runtime.enclave.views import Views
from runtime.serving import bound_site
from runtime.streams import enclave_key
from runtime.telemetry import EnclaveMetrics, MemoryMetrics
from transport import media
from transport.bhttp import Request, Response, decode_response, encode_request
from transport.keyconfig import KeyConfig, decode_key_config_list
from transport.ohttp import ChunkedRequestSealer, encapsulate
from transport.relay.config import RelayConfig
from transport.relay.server import serve as serve_relay

GATEWAY = "enclave-0"
WREN = load_library().get("wren")
WREN_DIGEST = persona_digest(WREN)


def pem(key: Ed25519PrivateKey) -> bytes:
    """A private key as its file holds it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class World:
    """A folder with a development root and a log's files, and the Redis between its parts."""

    folder: Path
    client: Redis
    url: str
    root: Ed25519PrivateKey

    def platform(self, *, debug: bool = False) -> SimulatedPlatform:
        """A machine under the development root."""
        file = self.folder / "root.pem"
        file.write_bytes(pem(self.root))
        return load_platform(file, debug=debug)

    def keeper(
        self,
        *,
        gateway: str = GATEWAY,
        lifetime_s: int = 3600,
        evidence_interval_s: int = 3600,
        debug: bool = False,
        engine: Engine | None = None,
        platform: Platform | None = None,
        embedder: Embedder | None = None,
    ) -> IdentityKeeper:
        """A new enclave's."""
        return IdentityKeeper(
            self.client,
            gateway,
            engine or ScriptedEngine(),
            platform or self.platform(debug=debug),
            lifetime_s=lifetime_s,
            evidence_interval_s=evidence_interval_s,
            embedder=embedder,
        )

    @contextlib.asynccontextmanager
    async def log(self) -> AsyncIterator[None]:
        """The real log, while the block runs."""
        stop = asyncio.Event()
        config = LogConfig(
            host="127.0.0.1",
            port=0,
            directory=self.folder / "log",
            redis_url=self.url,
            origin="test/log",
            key_file=self.folder / "log.key",
            batch_interval_s=0.01,
            registry=CollectorRegistry(),
        )
        task = asyncio.create_task(serve(config, stop))
        try:
            while not (self.folder / "log" / "vkey").exists():
                assert not task.done(), task.exception()
                await asyncio.sleep(0.01)
            yield
        finally:
            stop.set()
            await task

    def policy(self) -> Policy:
        """What `sotto up` demands: this root, this log, this release."""
        vkey = (self.folder / "log" / "vkey").read_text().strip()
        return Policy(
            allow_simulated=True,
            kinds=("simulated",),
            simulated_roots=(self.root.public_key().public_bytes_raw(),),
            measurements=({"release": release_digest()},),
            log_keys=(parse_vkey(vkey),),
        )

    async def announced(self) -> dict[bytes, bytes]:
        """What an edge would hand on."""
        return await self.client.hgetall(enclave_key(GATEWAY))

    async def wait_announced(self) -> dict[bytes, bytes]:
        """The same, when it is there."""
        async with asyncio.timeout(60):
            while not (found := await self.announced()):  # noqa: ASYNC110 - Redis has no event
                await asyncio.sleep(0.02)
        return found


@functools.cache
def static_embedder() -> StaticEmbedder:
    """The one that ships, loaded once."""
    return StaticEmbedder().load()


def newest(keeper: IdentityKeeper) -> Identity:
    """The current identity, which must be there."""
    assert keeper.current is not None
    return keeper.current


@dataclass
class Enclave:
    """A running enclave and the clients' view of it."""

    port: int
    keeper: IdentityKeeper
    outbox: Outbox
    places: Places
    agent: Agent
    completions: Completions
    remembering: Remembering
    registry: CollectorRegistry
    http: aiohttp.ClientSession
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def count(self, name: str, **labels: str) -> float:
        """A counter, summed over the labels that are not given."""
        return sum(
            sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def configs(self) -> tuple[KeyConfig, ...]:
        """The key configurations, as a standard client fetches them."""
        async with self.http.get(f"{self.url}/ohttp-keys") as answer:
            assert answer.content_type == media.OHTTP_KEYS
            return decode_key_config_list(await answer.read())

    async def post(self, body: Any, media_type: str) -> tuple[int, str, bytes]:
        """Status, media type and body of the gateway's answer."""
        headers = {"Content-Type": media_type}
        async with self.http.post(f"{self.url}/ohttp", data=body, headers=headers) as answer:
            return answer.status, answer.content_type, await answer.read()

    async def one_shot(self, request: bytes, config: KeyConfig | None = None) -> Response:
        """One exchange of a plain RFC 9458 client."""
        sealed, opener = encapsulate(config or (await self.configs())[0], request)
        status, kind, body = await self.post(sealed, media.OHTTP_REQUEST)
        assert (status, kind) == (200, media.OHTTP_RESPONSE), body
        return decode_response(opener.open(body))

    async def chunked(
        self, request: bytes, config: KeyConfig | None = None
    ) -> tuple[Response, list[bytes]]:
        """One exchange in chunks: the response, and the opened chunks."""
        sealer = ChunkedRequestSealer(config or (await self.configs())[0])
        status, kind, body = await self.post(
            sealer.seal(request, final=True), media.OHTTP_CHUNKED_REQUEST
        )
        assert (status, kind) == (200, media.OHTTP_CHUNKED_RESPONSE), body
        opener = sealer.response_opener()
        chunks = [*opener.feed(body), opener.finish()]
        return decode_response(b"".join(chunks)), chunks


@contextlib.asynccontextmanager
async def running_enclave(
    world: World,
    engine: Engine | None = None,
    *,
    lifetime_s: int = 3600,
    platform: Platform | None = None,
    agent_kind: type[Agent] = Agent,
    receive_s: float = RECEIVE_S,
    budget_bytes: int = RECEIVE_BUDGET_BYTES,
    stalled_s: float = STALLED_S,
    max_turns: int = 256,
    debug: bool = False,
    gateway: str = GATEWAY,
    own_log: bool = True,
) -> AsyncIterator[Enclave]:
    """Log and enclave, while the block runs."""
    engine = engine or ScriptedEngine(first_token_s=0, token_s=0)
    await engine.start()
    registry = CollectorRegistry()
    outbox = Outbox(world.client)
    metrics = EnclaveMetrics(registry, queue=engine.queued, pending=outbox.pending)
    outbox.on_issued = metrics.receipts.inc
    embedder = static_embedder()
    keeper = world.keeper(
        gateway=gateway, lifetime_s=lifetime_s, engine=engine, platform=platform, embedder=embedder
    )
    places = Places(max_turns, outbox)
    store = ThreadStore(world.client)
    remembering = Remembering(engine, store, Views(), MemoryMetrics(registry), embedder=embedder)
    agent = agent_kind(
        engine, store, outbox, metrics, places=places, remembering=remembering, debug=debug
    )
    completions = Completions(engine, outbox, metrics, places=places)
    epochs = EpochStore(world.client)
    published = Registry(world.client)
    personas = PersonaSource(load_library(), published)
    shelves = PersonaRoutes(personas, published, StepLog(world.client, published), debug=debug)
    routes = Routes(
        personas,
        agent,
        completions,
        outbox,
        epochs,
        notice=engine.notice,
        extra={
            **shelves.table(),
            **memory_routes(agent, store, outbox, embedder),
            **Mailboxes(world.client).table(),
        },
    )
    receiver = Receiver(keeper, receive_s=receive_s, budget_bytes=budget_bytes)
    resource = Gateway(receiver, routes, metrics, stalled_s=stalled_s)
    async with (
        world.log() if own_log else contextlib.nullcontext(),
        bound_site(make_server(resource, keeper), "127.0.0.1", 0) as port,
        aiohttp.ClientSession() as http,
    ):
        await keeper.rotate()
        handing = asyncio.create_task(outbox.run())
        try:
            yield Enclave(
                port, keeper, outbox, places, agent, completions, remembering, registry, http
            )
            await agent.close(5)
            await completions.close(5)
            await remembering.close(5)
            assert await outbox.drain(60) == 0
            assert places.taken == 0, "every place was given back"
        finally:
            handing.cancel()
            await asyncio.gather(handing, return_exceptions=True)
            await engine.close()


@contextlib.asynccontextmanager
async def relay(enclave: Enclave) -> AsyncIterator[str]:
    """A real relay in front of an enclave, while the block runs; its address."""
    stop = asyncio.Event()
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = RelayConfig(
        host="127.0.0.1", port=0, gateways={GATEWAY: enclave.url}, registry=CollectorRegistry()
    )
    task = asyncio.create_task(serve_relay(config, stop, started=listening.set_result))
    try:
        yield f"http://127.0.0.1:{await listening}"
    finally:
        stop.set()
        await task


def inner(
    body: Any = None,
    *,
    method: bytes = b"POST",
    path: bytes = b"/v1/turns",
    date: float | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A Binary HTTP request with a Date field and a JSON body."""
    stamp = email.utils.formatdate(time.time() if date is None else date, usegmt=True).encode()
    fields = ((b"content-type", b"application/json"), (b"date", stamp), *headers)
    content = b"" if body is None else json.dumps(body).encode()
    return encode_request(Request(method, b"https", b"enclave", path, fields, content))


def a_turn(number: int, **changes: Any) -> dict[str, Any]:
    """A valid request for a turn in a thread of its own, with changes."""
    master = number.to_bytes(32, "big")
    turn = {
        "thread_key": to_base64url(derive_thread_key(master, "wren")),
        "turn_id": f"{number:032x}",
        "persona": {"handle": "wren", "digest": WREN_DIGEST.hex()},
        "message": "hello",
    }
    return {**turn, **changes}


def completion(**changes: Any) -> dict[str, Any]:
    """A valid request for a completion, with changes."""
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "wren", "messages": messages, **changes}


def error_of(response: Response) -> dict[str, Any]:
    """A refusal inside the encapsulation."""
    error: dict[str, Any] = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
