"""The log as a process: takes leaves from Redis and serves static files to everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from proofs.errors import LogError, UnreadableError
from proofs.log.consumer import Consumer, Metrics
from proofs.log.files import write_whole
from proofs.log.keyfile import load_or_create_signer
from proofs.log.sequencer import Sequencer
from proofs.log.store import LogStore
from proofs.log.witnesses import WitnessAddress, Witnesses
from proofs.tiles import parse_tile

_log = logging.getLogger(__name__)
# Longer than any read blocks; a server that is cut off in silence is noticed.
_REDIS_TIMEOUT_S = 10.0
Started = Callable[[int, str], None]
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How a log runs.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        directory: The log's folder; the vkey is written to `vkey` in it.
        redis_url: Where the streams are; may hold a password, so it is never shown.
        origin: The log's name in checkpoints, such as `example.com/log`.
        key_file: The signing key, made on first start.
        batch_interval_s: How long a leaf waits for others before its batch is taken.
        batch_size: Most leaves of a batch.
        receipt_ttl_s: How long a proof stays in Redis.
        witnesses: Who is asked to cosign each head before it is published.
        quorum: How many of them must.
        registry: Where metrics are registered.
    """

    host: str
    port: int
    directory: Path
    redis_url: str = field(repr=False)
    origin: str
    key_file: Path
    batch_interval_s: float = 0.25
    # At 2,000 leaves/s, what piles up while a slow quorum takes 2 s.
    batch_size: int = 4096
    receipt_ttl_s: int = 30 * 24 * 3600
    witnesses: Sequence[WitnessAddress] = ()
    quorum: int = 0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)


def make_application(store: LogStore) -> web.Application:
    """The read interface of c2sp.org/tlog-tiles, and `/healthz`."""
    application = web.Application()
    application.router.add_get("/checkpoint", _checkpoint(store))
    application.router.add_get(r"/{path:tile/.+}", _tile(store))
    application.router.add_get("/healthz", _health)
    return application


def _checkpoint(store: LogStore) -> _Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        if not store.published:
            raise web.HTTPNotFound(text="Nothing is published yet.\n")
        return web.Response(
            text=store.published,
            content_type="text/plain",
            charset="utf-8",
            headers={"Cache-Control": "public, max-age=1"},
        )

    return handle


def _tile(store: LogStore) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            # The path as sent: a second spelling of a tile has no place in caches.
            tile = parse_tile(request.rel_url.raw_path.removeprefix("/"))
        except UnreadableError as error:
            raise web.HTTPNotFound(text=f"{error}\n") from error
        if not tile.is_covered(store.served.size):
            raise web.HTTPNotFound(text="The checkpoint's tree has no such tile.\n")
        return web.FileResponse(
            store.directory / tile.path,
            headers={
                "Content-Type": "application/octet-stream",
                "Cache-Control": "public, max-age=31536000, immutable",
            },
        )

    return handle


async def _health(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})


async def serve(config: LogConfig, stop: asyncio.Event, *, started: Started | None = None) -> None:
    """Run the log until `stop` is set; `started` is told the port and the log's vkey.

    Raises:
        LogError: The folder, the key or the port cannot be used, or the store failed.
    """
    signer = load_or_create_signer(config.key_file, config.origin)
    store = await asyncio.to_thread(LogStore, config.directory, signer)
    try:
        sequencer = await asyncio.to_thread(Sequencer, store)
    except BaseException:
        store.close()
        raise
    try:
        write_whole(config.directory / "vkey", f"{signer.verifier.format()}\n".encode())
        await _run(config, store, sequencer, stop, started)
    finally:
        sequencer.close()


async def _run(
    config: LogConfig,
    store: LogStore,
    sequencer: Sequencer,
    stop: asyncio.Event,
    started: Started | None,
) -> None:
    vkey = store.signer.verifier
    witnesses = None
    if config.witnesses:
        witnesses = Witnesses(config.witnesses, config.quorum, log=vkey, registry=config.registry)
    runner = web.AppRunner(make_application(store), access_log=None, handler_cancellation=True)
    redis: Redis = Redis.from_url(
        config.redis_url, protocol=2, decode_responses=False, socket_timeout=_REDIS_TIMEOUT_S
    )
    consumer = Consumer(
        redis,
        sequencer,
        Metrics.register(config.registry),
        config.batch_interval_s,
        config.batch_size,
        config.receipt_ttl_s,
        witnesses,
    )
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, config.host, config.port).start()
        except OSError as error:
            raise LogError(
                f"The log cannot listen on {config.host}:{config.port} ({error.strerror}). Choose "
                "another port."
            ) from error
        port = runner.addresses[0][1]
        _log.info("log %s of size %d on port %d", config.origin, sequencer.size, port)
        if started is not None:
            started(port, vkey.format())
        # Ends by itself when `stop` is set, between two batches.
        await consumer.run(stop)
    finally:
        await runner.cleanup()
        if witnesses is not None:
            await witnesses.close()
        with suppress(Exception):
            await redis.aclose()
