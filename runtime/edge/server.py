"""The edge as a process: websockets for devices, links to the relays, receipts from Redis.

It knows addresses and timing, and nothing of what is said (docs/architecture.md). It keeps no
state but live sessions, so any number of edges can stand side by side.
"""

from __future__ import annotations

import asyncio
import base64
import http
import logging

import aiohttp
import redis.asyncio
import redis.exceptions
from prometheus_client import CollectorRegistry
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from runtime.config import EdgeConfig
from runtime.edge.receipts import ReceiptDesk
from runtime.edge.session import Session
from runtime.edge.upstream import RelayLinks
from runtime.redis_client import connect_redis, hash_fields
from runtime.serving import cancelled, port_error, until_stopped
from runtime.streams import ENCLAVES_SET, enclave_key
from runtime.telemetry import EdgeMetrics, serve_metrics
from runtime.wire import (
    CLOSE_PROTOCOL,
    CLOSE_RESTART,
    CLOSE_TOO_MUCH,
    HEARTBEAT_S,
    MAX_BINARY_BYTES,
    MAX_STREAMS,
    SUBPROTOCOL,
    ClientEvent,
    EnclavesList,
    Ping,
    ReceiptSubscribe,
    ResponseCreate,
    SessionResume,
    StreamReset,
    WireError,
    decode_client_event,
    decode_frame,
)

log = logging.getLogger(__name__)

# A device that sends this many broken events is not speaking our protocol.
_MAX_ERRORS = 8


class Edge:
    """Sessions of all sockets of this process."""

    def __init__(
        self,
        config: EdgeConfig,
        client: redis.asyncio.Redis,
        relays: RelayLinks,
        desk: ReceiptDesk,
        metrics: EdgeMetrics,
    ) -> None:
        self._config = config
        self._redis = client
        self._relays = relays
        self._desk = desk
        self._metrics = metrics
        self._detached: dict[str, tuple[Session, asyncio.TimerHandle]] = {}
        self._sockets = 0

    async def handle(self, socket: ServerConnection) -> None:
        """Serve one socket to its end."""
        if self._sockets >= self._config.max_sockets:
            await socket.close(CLOSE_RESTART, "this edge is full; try another or come back")
            return
        self._sockets += 1
        self._metrics.sockets.inc()
        session = Session(self._relays, self._metrics)
        try:
            await self._converse(socket, session)
        finally:
            self._sockets -= 1
            self._metrics.sockets.dec()

    async def _converse(self, socket: ServerConnection, session: Session) -> None:
        session.push(self._hello(session))
        holder = [session]
        writer = asyncio.create_task(self._write(socket, holder))
        errors = 0
        try:
            async for data in socket:
                event: ClientEvent | None = None
                try:
                    if isinstance(data, bytes):
                        await holder[0].receive(decode_frame(data))
                    else:
                        event = decode_client_event(data)
                        if isinstance(event, SessionResume):
                            holder[0] = self._resume(holder[0], event)
                            writer.cancel()
                            writer = asyncio.create_task(self._write(socket, holder))
                        else:
                            await self._event(holder[0], event)
                except WireError as error:
                    errors += 1
                    if errors > _MAX_ERRORS:
                        await socket.close(CLOSE_PROTOCOL, "too many broken events")
                        return
                    holder[0].push(_error_event(error, event.event_id if event else None))
        except ConnectionClosed:
            pass
        except WireError:
            await socket.close(CLOSE_TOO_MUCH, "too many events wait; reconnect later")
        finally:
            writer.cancel()
            self._detach(holder[0])

    async def _write(self, socket: ServerConnection, holder: list[Session]) -> None:
        try:
            await holder[0].write_to(socket)
        except ConnectionClosed:
            return

    async def _event(self, session: Session, event: object) -> None:
        match event:
            case ResponseCreate(stream=stream, gateway=gateway):
                session.open_stream(stream, gateway)
            case StreamReset(stream=stream):
                session.reset_stream(stream)
            case ReceiptSubscribe(receipt_ids=receipt_ids):
                await self._desk.subscribe(session, receipt_ids)
            case EnclavesList():
                session.push({"type": "enclaves", "enclaves": await self._enclaves()})
            case Ping():
                session.push({"type": "pong"})

    def _hello(self, session: Session) -> dict[str, object]:
        return {
            "type": "session.created",
            "session": {
                "mode": "sealed",
                "token": session.token,
                "resume_s": self._config.resume_s,
                "heartbeat_s": HEARTBEAT_S,
                "max_streams": MAX_STREAMS,
            },
        }

    def _resume(self, fresh: Session, event: SessionResume) -> Session:
        """Swap the socket's fresh session for the one it had, or say that it is gone."""
        if not fresh.unused:
            raise WireError("a session is resumed before anything else")
        found = self._detached.pop(event.token, None)
        if found is None:
            self._metrics.resumed.labels("not_resumable").inc()
            fresh.push(
                {
                    "type": "error",
                    "error": {
                        "type": "session_error",
                        "code": "not_resumable",
                        "message": "this session is not here any more; send the turns again",
                    },
                }
            )
            return fresh
        session, timer = found
        timer.cancel()
        self._desk.forget(fresh)
        fresh.close()
        lost = session.resume({int(k): v for k, v in event.received.items()})
        session.push({"type": "session.resumed", "token": session.token, "lost": lost})
        self._metrics.resumed.labels("resumed").inc()
        return session

    def _detach(self, session: Session) -> None:
        self._desk.forget(session)
        session.detach()
        if session.idle or self._config.resume_s == 0:
            session.close()
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._config.resume_s, self._expire, session.token)
        self._detached[session.token] = (session, timer)

    def _expire(self, token: str) -> None:
        session, _ = self._detached.pop(token)
        session.close()

    async def _enclaves(self) -> list[dict[str, str]]:
        """What the enclaves announce of themselves; devices verify it, so it needs no trust."""
        enclaves = []
        try:
            names = sorted(
                name.decode() if isinstance(name, bytes) else name
                for name in await self._redis.smembers(ENCLAVES_SET)
            )
            for name in names:
                bundle, proof = await hash_fields(self._redis, enclave_key(name), "bundle", "proof")
                if bundle is not None and proof is not None:
                    text = base64.b64encode(bundle).decode()
                    enclaves.append({"gateway": name, "bundle": text, "proof": proof.decode()})
        except (redis.exceptions.RedisError, OSError) as error:
            log.warning("enclaves unknown: %s", type(error).__name__)
            raise WireError("the list of enclaves is away; ask again", code="unavailable") from None
        return enclaves

    def close(self) -> None:
        """Give up the sessions that wait to be resumed."""
        for session, timer in self._detached.values():
            timer.cancel()
            session.close()
        self._detached.clear()


def _error_event(error: WireError, event_id: str | None) -> dict[str, object]:
    told = {"type": "invalid_request_error", "code": error.code, "message": str(error)}
    # Names the event that was refused, where it was one that could be read.
    return {"type": "error", "error": told | ({"event_id": event_id} if event_id else {})}


async def serve(config: EdgeConfig, stop: asyncio.Event) -> None:
    """Run the edge until `stop`; raises SetupError where it cannot listen."""
    registry = CollectorRegistry()
    metrics = EdgeMetrics(registry)
    async with aiohttp.ClientSession() as http_session, connect_redis(config.redis_url) as client:
        relays = RelayLinks(http_session, config.relay_urls)
        desk = ReceiptDesk(client, metrics)
        edge = Edge(config, client, relays, desk, metrics)
        serve_metrics(registry, config.metrics_port)
        tail = asyncio.create_task(desk.run())
        try:
            server = await _listen(config, edge)
            await until_stopped(stop, [tail])
            server.close()
            await server.wait_closed()
        finally:
            await cancelled([tail])
            edge.close()
            await relays.close()


async def _listen(config: EdgeConfig, edge: Edge) -> Server:
    def answer_plain_http(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, '{"ready": true}\n')
        if request.path != "/v1/realtime":
            return connection.respond(
                http.HTTPStatus.NOT_FOUND, "the websocket is at /v1/realtime\n"
            )
        return None

    try:
        return await serve_websockets(
            edge.handle,
            config.host,
            config.port,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            # Sealed bytes do not shrink, and compression next to secrets leaks them.
            compression=None,
            max_size=MAX_BINARY_BYTES,
            # Unread messages per socket, each at most max_size: memory for thousands of sockets.
            max_queue=2,
            close_timeout=1,
            process_request=answer_plain_http,
            logger=logging.getLogger("websockets.server"),
        )
    except OSError as error:
        raise port_error(config.host, config.port, error) from None
