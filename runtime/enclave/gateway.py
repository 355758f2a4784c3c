"""The gateway resource: opens encapsulated requests, refuses replays, streams sealed answers.

Works over one HTTP request (any standard OHTTP client, through any relay) and over one stream
of the multiplexed link (our own relay) alike. Errors that a client must see before it can trust
the encapsulation travel outside as problem details; all others travel inside (RFC 9458 §5.2).
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from memory.keys import ThreadKeys
from personas.digest import persona_digest
from personas.errors import PersonaError
from personas.library import Library
from runtime.enclave.agent import Agent
from runtime.enclave.api import (
    CANCEL_PATH,
    MAX_REQUEST_BYTES,
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SALT_BYTES,
    TURNS_PATH,
    ApiError,
    CancelRequest,
    TurnRequest,
    parse_body,
)
from runtime.enclave.identity import IdentityKeeper
from runtime.enclave.turns import TurnCall
from runtime.telemetry import EnclaveMetrics
from transport import media
from transport.bhttp import (
    Request,
    Response,
    ResponseEncoder,
    decode_request,
    encode_response,
)
from transport.errors import (
    ClockSkewError,
    LimitError,
    LinkClosedError,
    ReplayError,
    StreamResetError,
    TransportError,
    UnknownKeyError,
)
from transport.gateway import (
    ChunkedRequestOpener,
    ChunkedResponseSealer,
    ResponseSealer,
    decapsulate,
)
from transport.replay import ReplayCache
from transport.sse import encode_event

log = logging.getLogger(__name__)

DATE_WINDOW_S = 300
REPLAY_CAPACITY = 1_000_000

_JSON = ((b"content-type", b"application/json"),)
_EVENTS = ((b"content-type", b"text/event-stream"),)


class Exchange(Protocol):
    """One request and its response, whatever carries them."""

    @property
    def content_type(self) -> str:
        """Media type of the request."""
        ...

    async def receive(self) -> bytes | None:
        """The next bytes of the request; None at its clean end."""
        ...

    async def send_head(self, status: int, content_type: str) -> None:
        """Begin the response."""
        ...

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes of the response at once."""
        ...


@dataclass(frozen=True, slots=True)
class _Opened:
    """An opened request and the secrets of its exchange."""

    request: Request
    key_id: int
    request_salt: bytes
    response_salt: bytes


class _Reply:
    """What a route answers: a status and JSON, or events as they come."""

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        events: AsyncIterator[list[dict[str, Any]]] | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.events = events

    async def parts(self) -> AsyncIterator[bytes]:
        """The content, in the pieces in which it comes to exist."""
        if self.events is None:
            yield self.body
            return
        async for batch in self.events:
            # What is ready together shares one chunk; what comes first never waits.
            yield b"".join(map(encode_event, batch))


class Gateway:
    """Answers exchanges.

    Args:
        identities: Key ring and receipts' signers.
        agent: Runs turns.
        library: The personas that this enclave speaks as.
        metrics: Counters.
    """

    def __init__(
        self, identities: IdentityKeeper, agent: Agent, library: Library, metrics: EnclaveMetrics
    ) -> None:
        self._identities = identities
        self._agent = agent
        self._library = library
        self._digests = {one.handle: persona_digest(one).hex() for one in library}
        self._metrics = metrics
        self._replays = ReplayCache(DATE_WINDOW_S, REPLAY_CAPACITY)

    async def handle(self, exchange: Exchange) -> None:
        """Serve one exchange to its end; every refusal is answered, none is raised."""
        try:
            if exchange.content_type == media.OHTTP_CHUNKED_REQUEST:
                await self._chunked(exchange)
            elif exchange.content_type == media.OHTTP_REQUEST:
                await self._one_shot(exchange)
            else:
                await _problem(exchange, 415, "about:blank", "this is an OHTTP gateway")
        except UnknownKeyError:
            self._metrics.refused.labels("unknown_key").inc()
            await _problem(
                exchange, 400, media.PROBLEM_OHTTP_KEY, "fetch the key configuration anew"
            )
        except LimitError:
            self._metrics.refused.labels("limit").inc()
            await _problem(exchange, 413, "about:blank", "the request is too large")
        except TransportError as error:
            self._metrics.refused.labels("malformed").inc()
            log.info("refused: %s", type(error).__name__)
            await _problem(exchange, 400, "about:blank", "the encapsulated request is malformed")

    async def _chunked(self, exchange: Exchange) -> None:
        opener = ChunkedRequestOpener(self._identities, limit=MAX_REQUEST_BYTES)
        plaintext = bytearray()
        while (data := await exchange.receive()) is not None:
            for chunk in opener.feed(data):
                plaintext += chunk
        plaintext += opener.finish()
        sealer = opener.response_sealer(os.urandom(opener.nonce_length))
        reply = await self._reply(bytes(plaintext), opener)
        await _stream(exchange, reply, sealer)

    async def _one_shot(self, exchange: Exchange) -> None:
        body = bytearray()
        while (data := await exchange.receive()) is not None:
            body += data
            if len(body) > MAX_REQUEST_BYTES:
                raise LimitError("the request is too large")
        plaintext, sealer = decapsulate(self._identities, bytes(body))
        reply = await self._reply(plaintext, sealer)
        content = b"".join([part async for part in reply.parts()])
        headers = _JSON if reply.events is None else _EVENTS
        response = encode_response(Response(reply.status, headers, content))
        await exchange.send_head(200, media.OHTTP_RESPONSE)
        await exchange.send(sealer.seal(response, os.urandom(sealer.nonce_length)), end=True)

    async def _reply(
        self, plaintext: bytes, opener: ChunkedRequestOpener | ResponseSealer
    ) -> _Reply:
        try:
            request = decode_request(plaintext)
            self._refuse_replay(request, opener.enc)
            opened = _Opened(
                request,
                opener.key_id,
                opener.export(REQUEST_SALT_LABEL, SALT_BYTES),
                opener.export(RESPONSE_SALT_LABEL, SALT_BYTES),
            )
            return await self._route(opened)
        except ApiError as error:
            self._metrics.refused.labels(error.code).inc()
            return _Reply(error.status, error.body())
        except TransportError:
            refusal = ApiError(400, "malformed", "the inner request is not Binary HTTP (RFC 9292)")
            return _Reply(refusal.status, refusal.body())

    def _refuse_replay(self, request: Request, enc: bytes) -> None:
        """RFC 9458 §6.5: a Date inside the window, and each encapsulated key once."""
        values = [value for name, value in request.headers if name == b"date"]
        try:
            (value,) = values
            # IMF-fixdate and nothing else (RFC 9110 section 5.6.7).
            text = value.decode("ascii")
            moment = datetime.datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT")  # noqa: DTZ007 - GMT
            date = int(moment.replace(tzinfo=datetime.UTC).timestamp())
        except ValueError:
            raise ApiError(400, "date_missing", "send one Date field, as IMF-fixdate") from None
        try:
            self._replays.check(enc, date, int(time.time()))
        except ClockSkewError as error:
            raise ApiError(400, "date", str(error)) from None
        except ReplayError as error:
            raise ApiError(409, "replayed", str(error)) from None
        except LimitError as error:
            raise ApiError(503, "overloaded", str(error)) from None

    async def _route(self, opened: _Opened) -> _Reply:
        request = opened.request
        if request.path not in (TURNS_PATH, CANCEL_PATH):
            raise ApiError(404, "not_found", "no such resource; see docs/protocol.md")
        if request.method != b"POST":
            raise ApiError(405, "method_not_allowed", "use POST")
        if request.path == CANCEL_PATH:
            cancel = parse_body(CancelRequest, request.content)
            keys = ThreadKeys(cancel.thread_key)
            stopped = await self._agent.cancel(keys, bytes.fromhex(cancel.turn_id))
            return _Reply(200, orjson.dumps({"cancelled": stopped}))
        return _Reply(200, events=self._turn(opened))

    def _turn(self, opened: _Opened) -> AsyncIterator[list[dict[str, Any]]]:
        turn = parse_body(TurnRequest, opened.request.content)
        try:
            persona = self._library.get(turn.persona.handle)
        except PersonaError as error:
            raise ApiError(404, "persona_unknown", str(error)) from None
        if self._digests[persona.handle] != turn.persona.digest:
            raise ApiError(
                409,
                "persona_mismatch",
                f"this enclave's {persona.handle} is not the version that you asked for; "
                "update Sottovoce on this device, or choose another enclave",
            )
        try:
            identity = self._identities.identity(opened.key_id)
        except KeyError:  # in the moment between opening the request and this line
            raise ApiError(400, "key_expired", "seal it to this enclave's newer key") from None
        call = TurnCall(
            request=turn,
            keys=ThreadKeys(turn.thread_key),
            persona=persona,
            identity=identity,
            key_id=opened.key_id,
            request_salt=opened.request_salt,
            response_salt=opened.response_salt,
        )
        return self._agent.submit(call).follow()


async def _stream(exchange: Exchange, reply: _Reply, sealer: ChunkedResponseSealer) -> None:
    """Seal each part the moment it exists; a reader that is gone only ends the reading."""
    headers = _JSON if reply.events is None else _EVENTS
    encoder = ResponseEncoder(reply.status, headers)
    try:
        await exchange.send_head(200, media.OHTTP_CHUNKED_RESPONSE)
        pending = encoder.start()
        async for part in reply.parts():
            pending += encoder.content(part)
            await exchange.send(sealer.seal(pending))
            pending = b""
        await exchange.send(sealer.seal(pending + encoder.finish(), final=True), end=True)
    except (LinkClosedError, StreamResetError):
        log.info("a reader left; its turn goes on")


async def _problem(exchange: Exchange, status: int, kind: str, detail: str) -> None:
    """Problem details (RFC 9457) outside the encapsulation."""
    body = orjson.dumps({"type": kind, "status": status, "title": detail})
    try:
        await exchange.send_head(status, media.PROBLEM_JSON)
        await exchange.send(body, end=True)
    except TransportError:
        log.info("the client left before its refusal")
