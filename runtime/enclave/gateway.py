"""The gateway resource: opens encapsulated requests, refuses replays, seals answers.

Works over one HTTP request (any standard OHTTP client, through any relay) and over one stream
of the multiplexed link (our own relay) alike.

What goes wrong before a request has come whole and opened to its end is told outside the
encapsulation as problem details, all else inside (RFC 9458 section 5.2). The draft on chunks does
not say what becomes of a request whose first chunks open and a later one does not. It is told
outside as well: the encapsulation of such a request could not be removed, and one answer for every
broken request tells nobody which of its chunks had opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import logging
import os
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import orjson

from runtime.enclave.api import (
    MAX_REQUEST_BYTES,
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SALT_BYTES,
    ApiError,
)
from runtime.enclave.binding import Binding
from runtime.enclave.generation import log_defect
from runtime.enclave.receiving import (
    BusyError,
    Exchange,
    Received,
    Receiver,
    SlowRequestError,
    UnsupportedMediaTypeError,
)
from runtime.enclave.routes import Call, Reply, Routes, header, refusal
from runtime.enclave.shaped import shaped
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
from transport.gateway import ChunkedResponseSealer, ResponseSealer
from transport.shaping import DEFAULT_SHAPING, SHAPING_HEADER, Shaping, padded

log = logging.getLogger(__name__)

STALLED_S = 120.0
"""Longest time for which a reader may take nothing of what waits for it: it holds a whole reply."""

_BLANK = "about:blank"


@dataclass(frozen=True, slots=True)
class _Problem:
    """A refusal outside the encapsulation: its reason in metrics, and its details (RFC 9457)."""

    reason: str
    status: int
    title: str
    kind: str = _BLANK


# The first that fits.
_PROBLEMS: tuple[tuple[type[TransportError], _Problem], ...] = (
    (
        UnknownKeyError,
        _Problem("unknown_key", 400, "fetch the key configuration anew", media.PROBLEM_OHTTP_KEY),
    ),
    (UnsupportedMediaTypeError, _Problem("media_type", 415, "this is an OHTTP gateway")),
    (LimitError, _Problem("limit", 413, "the request is too large")),
    (SlowRequestError, _Problem("slow", 408, "the request did not come whole in time")),
    (BusyError, _Problem("busy", 503, "too many requests at once; try again in a moment")),
    (TransportError, _Problem("malformed", 400, "the encapsulated request is malformed")),
)


class Gateway:
    """Answers exchanges.

    Args:
        receiver: Receives and opens requests.
        routes: Answers what was opened.
        metrics: Counters.
        stalled_s: See `STALLED_S`.
    """

    def __init__(
        self,
        receiver: Receiver,
        routes: Routes,
        metrics: EnclaveMetrics,
        *,
        stalled_s: float = STALLED_S,
    ) -> None:
        self._receiver = receiver
        self._routes = routes
        self._metrics = metrics
        self._stalled_s = stalled_s

    async def handle(self, exchange: Exchange) -> None:
        """Serve one exchange to its end; every refusal is answered, none is raised."""
        try:
            received = await self._receiver.receive(exchange)
        except TransportError as error:
            problem = next(one for kind, one in _PROBLEMS if isinstance(error, kind))
            self._metrics.refused.labels(problem.reason).inc()
            log.info("refused: %s", type(error).__name__)
            await _refuse_outside(exchange, problem)
            return
        await _while_read(exchange, self._answer(exchange, received))

    async def _answer(self, exchange: Exchange, received: Received) -> None:
        shaping, reply = await self._reply(received)
        reader = _Reader(exchange, self._stalled_s)
        try:
            if isinstance(received.opener, ResponseSealer):
                await _send_whole(reader, reply, shaping, received.opener)
            else:
                opener = received.opener
                sealer = opener.response_sealer(os.urandom(opener.nonce_length))
                await _send_chunks(reader, reply, shaping, sealer)
        finally:
            reply.close()

    async def _reply(self, received: Received) -> tuple[Shaping, Reply]:
        """How to answer, and what."""
        shaping = DEFAULT_SHAPING
        try:
            request = _decoded(received.plaintext)
            shaping = _shaping(request)
            stale = _refuse_replay(request, received)
            if stale is not None:
                self._metrics.refused.labels("date").inc()
                return shaping, stale
            opener = received.opener
            binding = Binding(
                received.held.identity,
                opener.key_id,
                opener.export(REQUEST_SALT_LABEL, SALT_BYTES),
                opener.export(RESPONSE_SALT_LABEL, SALT_BYTES),
            )
            return shaping, await self._routes.answer(
                Call(request, binding, shaping, opener.export)
            )
        except ApiError as error:
            self._metrics.refused.labels(error.code).inc()
            return shaping, refusal(error)
        except TransportError:
            self._metrics.refused.labels("malformed_inside").inc()
            return shaping, refusal(
                ApiError(400, "malformed", "the inner request is not Binary HTTP (RFC 9292)")
            )
        except Exception as error:
            log_defect("request", error)
            return shaping, refusal(
                ApiError(500, "internal", "the enclave failed; its operator has the place")
            )


def _decoded(plaintext: bytes) -> Request:
    if len(plaintext) > MAX_REQUEST_BYTES:
        raise ApiError(413, "request_too_large", f"a request has at most {MAX_REQUEST_BYTES} bytes")
    return decode_request(plaintext)


def _shaping(request: Request) -> Shaping:
    asked = header(request, SHAPING_HEADER)
    try:
        return DEFAULT_SHAPING if asked is None else Shaping(asked.decode("ascii"))
    except ValueError:
        known = ", ".join(Shaping)
        raise ApiError(
            400, "invalid_shaping", f"{SHAPING_HEADER.decode()} is one of {known}"
        ) from None


def _refuse_replay(request: Request, received: Received) -> Reply | None:
    """RFC 9458 section 6.5: a Date inside the window, and each encapsulated key once.

    Returns:
        The answer to a date that is not, with which any client can correct its clock (section
        6.5.2); None where all is well.

    Raises:
        ApiError: A replay, or the cache is full.
    """
    now = int(time.time())
    try:
        date = _date(header(request, b"date"))
        received.held.replays.check(received.opener.enc, date, now)
    except ReplayError as error:
        raise ApiError(409, "replayed", str(error)) from None
    except LimitError as error:
        raise ApiError(503, "overloaded", str(error)) from None
    except ClockSkewError as error:
        problem = {
            "type": media.PROBLEM_DATE,
            "title": "the Date field is missing or outside the gateway's window",
            "status": 400,
            "detail": str(error),
        }
        headers = (
            (b"content-type", media.PROBLEM_JSON.encode()),
            (b"date", email.utils.formatdate(now, usegmt=True).encode()),
        )
        return Reply(400, headers, orjson.dumps(problem))
    return None


def _date(value: bytes | None) -> int:
    """Unix seconds of a Date field; `ClockSkewError` for anything but an IMF-fixdate."""
    text = (value or b"").decode("ascii", "replace")
    try:
        moment = datetime.datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT")  # noqa: DTZ007 - GMT
        date = int(moment.replace(tzinfo=datetime.UTC).timestamp())
        # IMF-fixdate and nothing else (RFC 9110 section 5.6.7): no other spelling of the same time,
        # no wrong weekday.
        exact = email.utils.formatdate(date, usegmt=True) == text
    except ValueError:
        exact = False
    if not exact:
        raise ClockSkewError("send one Date field, as IMF-fixdate")
    return date


@dataclass(frozen=True, slots=True)
class _Reader:
    """Who reads an answer, for as long as it does."""

    exchange: Exchange
    stalled_s: float

    async def begin(self, content_type: str) -> None:
        await self.exchange.send_head(200, content_type)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        try:
            async with asyncio.timeout(self.stalled_s):
                await self.exchange.send(data, end=end)
        except TimeoutError:
            self.exchange.reset()
            raise LinkClosedError(f"the reader took nothing for {self.stalled_s:g} s") from None


async def _send_whole(
    reader: _Reader, reply: Reply, shaping: Shaping, sealer: ResponseSealer
) -> None:
    """RFC 9458 knows whole messages alone, so that events are gathered first."""
    body = reply.body
    if reply.events is not None:
        body = b"".join([part async for part in reply.events])
    response = _encoded(reply, body, shaping)
    await reader.begin(media.OHTTP_RESPONSE)
    await reader.send(sealer.seal(response, os.urandom(sealer.nonce_length)), end=True)


async def _send_chunks(
    reader: _Reader, reply: Reply, shaping: Shaping, sealer: ChunkedResponseSealer
) -> None:
    """Seal each piece the moment it exists."""
    await reader.begin(media.OHTTP_CHUNKED_RESPONSE)
    if reply.events is None:
        response = _encoded(reply, reply.body, shaping)
        await reader.send(sealer.seal(response, final=True), end=True)
        return
    encoder = ResponseEncoder(reply.status, reply.headers)
    pending = encoder.start()
    async with contextlib.aclosing(shaped(reply.events, shaping)) as parts:
        async for part in parts:
            await reader.send(sealer.seal(pending + encoder.content(part)))
            pending = b""
    await reader.send(sealer.seal(pending + encoder.finish(), final=True), end=True)


def _encoded(reply: Reply, body: bytes, shaping: Shaping) -> bytes:
    """A whole response, padded unless the device chose not."""
    return padded(encode_response(Response(reply.status, reply.headers, body)), shaping)


async def _while_read(exchange: Exchange, answer: Coroutine[Any, Any, None]) -> None:
    """Answer until it is done or its reader has left; a turn behind it goes on all the same."""
    answering = asyncio.create_task(answer)
    leaving = asyncio.create_task(exchange.wait_reset())
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.wait((answering, leaving))
    for task in (answering, leaving):
        match None if task.cancelled() else task.exception():
            case LinkClosedError() | StreamResetError():
                log.info("a reader left")
            case Exception() as error:
                # The answer ends without its final chunk, which its reader will not take.
                log_defect("answer", error)


async def _refuse_outside(exchange: Exchange, problem: _Problem) -> None:
    details = {"type": problem.kind, "status": problem.status, "title": problem.title}
    try:
        await exchange.send_head(problem.status, media.PROBLEM_JSON)
        await exchange.send(orjson.dumps(details), end=True)
    except TransportError:
        log.info("the client left before its refusal")
