"""A witness as a process: c2sp.org/tlog-witness over HTTP, for logs to ask and anyone to read.

The submission prefix and the monitoring prefix are the same. `sign-subtree` is optional and not
served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from prometheus_client import CollectorRegistry

from proofs.cosignature import Cosigner
from proofs.ed25519 import raw_public
from proofs.errors import LogError, UnreadableError
from proofs.log.files import sync_directories, write_whole
from proofs.log.keyfile import load_or_create_key
from proofs.note import VerifierKey
from proofs.witness.protocol import MAX_REQUEST
from proofs.witness.state import WitnessFolder
from proofs.witness.witness import Answer, Metrics, Witness

_log = logging.getLogger(__name__)

_MAX_IN_PROGRESS = 128
_BODY_TIMEOUT_S = 10.0
_SHUTDOWN_S = 5.0
# Of a vkey's text: how much of the name's own fits into an ML-DSA-44 cosignature.
_MAX_NAME = 255
Started = Callable[[int, tuple[str, ...]], None]


@dataclass(frozen=True, slots=True)
class WitnessConfig:
    """How a witness runs.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        directory: Its folder: keys, made on first start, their vkeys in `vkey`, and records.
        logs: Keys of the logs that it cosigns.
        name: Its name in cosignatures, such as `example.com/w1`; None takes the one of earlier
            starts, or makes one of its key.
        registry: Where metrics are registered.
    """

    host: str
    port: int
    directory: Path
    logs: tuple[VerifierKey, ...]
    name: str | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)


def load_cosigners(directory: Path, name: str | None) -> tuple[Cosigner, ...]:
    """The witness's keys, Ed25519 and ML-DSA-44, made on first use; writes the file `vkey`.

    Raises:
        LogError: A key file cannot be used, or the name is not the one of earlier starts.
    """
    ed25519 = load_or_create_key(
        directory / "ed25519.pem",
        Ed25519PrivateKey,  # type: ignore[type-abstract]
        "witness",
    )
    ml_dsa = load_or_create_key(
        directory / "ml-dsa-44.pem",
        MLDSA44PrivateKey,  # type: ignore[type-abstract]
        "witness",
    )
    path = directory / "vkey"
    try:
        known = path.read_text("utf-8") if path.exists() else ""
        if name is None:
            # Two witnesses that nobody named should not have one name.
            name = known.partition("+")[0] or (
                f"sottovoce-witness/{sha256(raw_public(ed25519)).hexdigest()[:8]}"
            )
        cosigners = Cosigner(name, ed25519), Cosigner(name, ml_dsa)
        told = "".join(f"{one.verifier.format()}\n" for one in cosigners)
        if len(name.encode()) > _MAX_NAME:
            raise LogError(f"A witness's name has at most {_MAX_NAME} bytes. Choose another.")
        if known and known != told:
            raise LogError(
                f"{path} has another name or other keys. A witness keeps both for ever: go back "
                "to what it was, or start a new witness in an empty folder."
            )
        if not known:
            write_whole(path, told.encode())
            sync_directories([path], directory)
    except OSError as error:
        raise LogError(
            f"{path} cannot be used ({error.strerror}). Check its permissions."
        ) from error
    except (UnreadableError, UnicodeDecodeError) as error:
        raise LogError(f"The witness's name cannot name a key. {error}") from error
    return cosigners


def make_application(witness: Witness) -> web.Application:
    """The interface of c2sp.org/tlog-witness, and `/healthz`."""
    application = web.Application(client_max_size=MAX_REQUEST)
    in_progress = 0

    async def add_checkpoint(request: web.Request) -> web.StreamResponse:
        nonlocal in_progress
        if in_progress >= _MAX_IN_PROGRESS:
            return _response(Answer(503, "The witness is busy. Ask again.\n"), close=True)
        if request.content_length is not None and request.content_length > MAX_REQUEST:
            return _response(Answer(413, f"Send at most {MAX_REQUEST} bytes.\n"), close=True)
        in_progress += 1
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                # Without a length it is counted while it comes: HTTPRequestEntityTooLarge.
                body = await request.read()
            return _response(await asyncio.to_thread(witness.add_checkpoint, body))
        except TimeoutError:
            return _response(Answer(408, "The request did not come whole.\n"), close=True)
        except (ConnectionError, web.RequestPayloadError):
            # Not raised further: the server would log it, and anyone can send it all day long.
            return _response(Answer(400, "The request cannot be read.\n"), close=True)
        finally:
            in_progress -= 1

    async def checkpoint(request: web.Request) -> web.StreamResponse:
        # The path as sent: a second spelling has no place in caches.
        published = witness.published(request.rel_url.raw_path)
        if published is None:
            return _response(Answer(404, "This witness has cosigned no such log.\n"))
        return _response(Answer(200, published))

    async def health(_: web.Request) -> web.StreamResponse:
        return _response(Answer(200, "ok\n"))

    application.router.add_post("/add-checkpoint", add_checkpoint)
    application.router.add_get("/healthz", health)
    application.router.add_get("/{hash:[0-9a-f]{64}}/checkpoint", checkpoint)
    return application


def _response(answer: Answer, *, close: bool = False) -> web.Response:
    response = web.Response(
        status=answer.status,
        body=answer.body.encode(),
        content_type=answer.kind,
        charset="utf-8" if answer.kind == "text/plain" else None,
        headers={"Cache-Control": "no-store"},
    )
    if close:
        # What was not read must not be taken for the next request.
        response.force_close()
    return response


async def serve(
    config: WitnessConfig, stop: asyncio.Event, *, started: Started | None = None
) -> None:
    """Run the witness until `stop` is set; `started` is told its port and its vkeys.

    Raises:
        LogError: The folder, a key or the port cannot be used.
    """
    folder = await asyncio.to_thread(WitnessFolder, config.directory)
    try:
        cosigners = await asyncio.to_thread(load_cosigners, config.directory, config.name)
        witness = await asyncio.to_thread(
            Witness,
            config.directory,
            cosigners,
            config.logs,
            time.time,
            Metrics.register(config.registry),
        )
        runner = web.AppRunner(
            make_application(witness),
            access_log=None,
            shutdown_timeout=_SHUTDOWN_S,
            # No log sends a compressed request, and one could grow beyond any limit.
            auto_decompress=False,
        )
        try:
            await runner.setup()
            site = web.TCPSite(runner, config.host, config.port)
            try:
                await site.start()
            except OSError as error:
                raise LogError(
                    f"The witness cannot listen on {config.host}:{config.port} "
                    f"({error.strerror}). Choose another port."
                ) from error
            port = int(runner.addresses[0][1])
            _log.info(
                "witness %s for %d keys of logs on port %d",
                cosigners[0].name,
                len(config.logs),
                port,
            )
            if started is not None:
                started(port, tuple(one.verifier.format() for one in cosigners))
            await stop.wait()
        finally:
            await runner.cleanup()
            await asyncio.to_thread(witness.close)
    finally:
        folder.close()
