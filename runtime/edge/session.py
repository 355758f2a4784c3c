"""One device's session at the edge: sealed streams that outlive a dropped socket.

The session keeps what came back of each stream, so that a device that reconnects in time
continues at the byte where it was cut. What the edge cannot resume it says so, and the device
sends the same turn again, sealed anew: an answered turn is not answered twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import secrets
from collections import deque
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from runtime.edge.upstream import RelayLinks, RelayStream
from runtime.telemetry import EdgeMetrics
from runtime.wire import (
    CLOSE_SLOW,
    HEARTBEAT_S,
    MAX_BINARY_BYTES,
    MAX_STREAMS,
    Frame,
    WireError,
    encode_event,
)
from transport import media
from transport.errors import TransportError
from transport.relay.link import Stream

log = logging.getLogger(__name__)

_MAX_REQUEST_BYTES = 256 * 1024
# Kept of one response for a resume; replies beyond it can only be resumed near their end.
_KEEP_BYTES = 1024 * 1024
# Read ahead of a slow or absent device; past it the relay's stream waits too.
_AHEAD_BYTES = 256 * 1024
_SEND_TIMEOUT_S = 20.0
_PIECE = MAX_BINARY_BYTES // 2
_MAX_EVENTS = 4096
_PROBLEM_BYTES = 4096
# A request is sealed whole before it is sent: one that stays half-sent only holds a place.
_REQUEST_S = 15.0
# New streams of one session: this many at once, then this many a second.
_BURST = 64
_STREAMS_PER_S = 4.0


class _SealedStream:
    """One request and response; the edge sees lengths and nothing else."""

    def __init__(self, stream_id: int, opened: float) -> None:
        self.stream_id = stream_id
        self.upstream: Stream | None = None
        # What came of the request before a relay was found.
        self.early = bytearray()
        self.request_bytes = 0
        self.request_ended = False
        self.sent_at = opened
        self.kept = bytearray()
        self.kept_from = 0
        self.ended = False
        self.cursor = 0
        self.end_sent = False
        self.task: asyncio.Task[None] | None = None
        self.deadline: asyncio.TimerHandle | None = None

    @property
    def total(self) -> int:
        """Bytes of the response so far."""
        return self.kept_from + len(self.kept)

    def keep(self, data: bytes) -> None:
        """Add bytes of the response, forgetting the oldest beyond what a resume needs."""
        self.kept += data
        surplus = min(len(self.kept) - _KEEP_BYTES, self.cursor - self.kept_from)
        if surplus > 0:
            del self.kept[:surplus]
            self.kept_from += surplus

    def next_frame(self) -> Frame | None:
        """The next unsent piece of the response."""
        if self.end_sent or (self.cursor == self.total and not self.ended):
            return None
        start = self.cursor - self.kept_from
        data = bytes(self.kept[start : start + _PIECE])
        end = self.ended and self.cursor + len(data) == self.total
        frame = Frame(self.stream_id, self.cursor, data, end)
        self.cursor += len(data)
        self.end_sent = end
        return frame


class Session:
    """Streams and events of one device, attached to at most one socket.

    Args:
        relays: Where sealed requests go.
        metrics: Counters.
    """

    def __init__(self, relays: RelayLinks, metrics: EdgeMetrics) -> None:
        self.token = secrets.token_urlsafe(24)
        self.subscriptions: dict[str, set[str]] = {}
        self._relays = relays
        self._metrics = metrics
        self._streams: dict[int, _SealedStream] = {}
        self._last_id = 0
        self._tokens = float(_BURST)
        self._refilled = asyncio.get_running_loop().time()
        self._events: deque[dict[str, Any]] = deque()
        self._sequence = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    def push(self, event: dict[str, Any]) -> None:
        """Queue one event; a device that lets too many pile up is told to come back."""
        if len(self._events) >= _MAX_EVENTS:
            raise WireError("too many events wait for this device", code="slow")
        self._events.append(event)
        self._wake.set()

    def first_push(self, receipt_id: str, kind: str) -> bool:
        """Whether this part of a receipt is wanted and has not been pushed yet; notes it."""
        pushed = self.subscriptions.get(receipt_id)
        if pushed is None or kind in pushed:
            return False
        pushed.add(kind)
        return True

    def open_stream(self, stream_id: int, gateway: str) -> None:
        """Open a stream to a gateway through a relay."""
        if stream_id <= self._last_id:
            self.push(_failed(stream_id, "stream_reused", "stream ids rise within a session"))
            return
        self._last_id = stream_id
        if len(self._streams) >= MAX_STREAMS:
            self.push(
                _failed(stream_id, "too_many_streams", f"at most {MAX_STREAMS} streams at once")
            )
            return
        loop = asyncio.get_running_loop()
        if not self._take_token(loop.time()):
            self.push(
                _failed(stream_id, "rate_limited", "too many turns at once; send it again later")
            )
            return
        stream = _SealedStream(stream_id, loop.time())
        self._streams[stream_id] = stream
        stream.deadline = loop.call_later(_REQUEST_S, self._expire_request, stream)
        self._metrics.streams.inc()
        # A relay that is slow to answer holds up this stream, and not the device's others.
        stream.task = asyncio.create_task(self._run(stream, gateway))

    async def receive(self, frame: Frame) -> None:
        """Pass sealed bytes of a request on, the moment they come."""
        stream = self._streams.get(frame.stream)
        if stream is None:
            return  # it failed a moment ago, and the device has been told
        if frame.offset != stream.request_bytes or stream.request_ended:
            self._drop(stream, "broken")
            self._fail(frame.stream, "bad_offset", "a frame does not continue its stream")
            return
        stream.request_bytes += len(frame.data)
        if stream.request_bytes > _MAX_REQUEST_BYTES:
            self._drop(stream, "too_large")
            self._fail(frame.stream, "request_too_large", "a request has at most 256 KiB")
            return
        stream.request_ended = frame.end
        stream.sent_at = asyncio.get_running_loop().time()
        if stream.upstream is None:
            stream.early += frame.data
            return
        try:
            await stream.upstream.send(frame.data, end=frame.end)
        except TransportError:
            return  # the pump sees it too, and tells the device

    def _take_token(self, now: float) -> bool:
        self._tokens = min(_BURST, self._tokens + (now - self._refilled) * _STREAMS_PER_S)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _expire_request(self, stream: _SealedStream) -> None:
        if not stream.request_ended and stream.stream_id in self._streams:
            self._drop(stream, "slow")
            self._fail(stream.stream_id, "request_timeout", "the sealed request did not come")

    def reset_stream(self, stream_id: int) -> None:
        """The device gives a stream up; the turn behind it goes on."""
        if stream := self._streams.get(stream_id):
            self._drop(stream, "reset")

    def detach(self) -> None:
        """The socket is gone: keep what can be resumed, give up half-sent requests."""
        for stream in list(self._streams.values()):
            if not stream.request_ended:
                self._drop(stream, "cut")

    def resume(self, received: dict[int, int]) -> list[int]:
        """Rewind each stream to what its device has; returns the streams that cannot resume."""
        lost = []
        for stream_id, offset in received.items():
            stream = self._streams.get(stream_id)
            if stream is None or not stream.kept_from <= offset <= stream.total:
                lost.append(stream_id)
                if stream is not None:
                    self._drop(stream, "lost")
                continue
            stream.cursor, stream.end_sent = offset, False
        for stream in list(self._streams.values()):
            if stream.stream_id not in received:
                self._drop(stream, "forgotten")
        self._wake.set()
        return lost

    def close(self) -> None:
        """Give up every stream."""
        for stream in list(self._streams.values()):
            self._drop(stream, "closed")

    @property
    def unused(self) -> bool:
        """No stream was opened and no receipt asked for."""
        return self._last_id == 0 and not self.subscriptions

    @property
    def idle(self) -> bool:
        """Nothing to resume."""
        return not self._streams

    async def write_to(self, socket: ServerConnection) -> None:
        """Write events and frames to one socket until it closes; each send has a deadline."""
        while True:
            self._wake.clear()
            wrote = False
            while self._events:
                await self._send(socket, self._text(self._events.popleft()))
                wrote = True
            # One piece of each stream in turn: a long reply does not hold up a short one.
            for stream in list(self._streams.values()):
                if (frame := stream.next_frame()) is not None:
                    await self._send(socket, frame.encode())
                    self._room.set()
                    wrote = True
                    if stream.end_sent:
                        self._drop(stream, "completed")
            if not wrote:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._wake.wait()
                except TimeoutError:
                    self._events.append({"type": "heartbeat"})

    async def _send(self, socket: ServerConnection, data: str | bytes) -> None:
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await socket.send(data)
        except TimeoutError:
            await socket.close(CLOSE_SLOW, "the device reads too slowly; reconnect and resume")
            raise ConnectionClosed(None, None) from None

    def _text(self, event: dict[str, Any]) -> str:
        self._sequence += 1
        return encode_event({**event, "sequence_number": self._sequence})

    async def _run(self, stream: _SealedStream, gateway: str) -> None:
        """Find a relay, send what came of the request until then, and pump the response."""
        try:
            way = await self._relays.open(gateway)
        except TransportError as error:
            self._drop(stream, "relay_away")
            self._fail(stream.stream_id, "relay_away", str(error))
            return
        stream.upstream = way.stream
        with contextlib.suppress(TransportError):  # the pump sees it too, and tells the device
            # It waits for nothing, so no later frame overtakes it: a whole request is within the
            # credit of a new stream.
            await way.stream.send(bytes(stream.early), end=stream.request_ended)
        stream.early.clear()
        await self._pump(stream, way)

    async def _pump(self, stream: _SealedStream, way: RelayStream) -> None:
        """Move the response from the relay into the session as it comes."""
        upstream = way.stream
        try:
            status, content_type = await upstream.head()
            if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
                way.avoid_relay()
            if content_type != media.OHTTP_CHUNKED_RESPONSE:
                body = bytearray()
                while (data := await upstream.receive()) and len(body) < _PROBLEM_BYTES:
                    body += data
                text = body[:_PROBLEM_BYTES].decode("utf-8", "replace")
                self._drop(stream, "refused")
                self._fail(stream.stream_id, "gateway_refused", text, status=status)
                return
            while (data := await upstream.receive()) is not None:
                if stream.total == 0:
                    waited = asyncio.get_running_loop().time() - stream.sent_at
                    self._metrics.first_byte.observe(waited)
                stream.keep(data)
                self._wake.set()
                while stream.total - stream.cursor > _AHEAD_BYTES:
                    self._room.clear()
                    await self._room.wait()
            stream.ended = True
            self._wake.set()
        except TransportError as error:
            log.info("stream lost: %s", type(error).__name__)
            self._drop(stream, "failed")
            self._fail(stream.stream_id, "stream_lost", "the way to the enclave broke; send again")

    def _fail(self, stream_id: int, code: str, message: str, *, status: int | None = None) -> None:
        # Never refused for want of room: there is at most one for each stream that was opened.
        self._events.append(_failed(stream_id, code, message, status=status))
        self._wake.set()

    def _drop(self, stream: _SealedStream, outcome: str) -> None:
        if self._streams.pop(stream.stream_id, None) is None:
            return
        self._metrics.streams.dec()
        self._metrics.streams_total.labels(outcome).inc()
        if stream.upstream is not None:
            stream.upstream.reset()
        if stream.deadline is not None:
            stream.deadline.cancel()
        if stream.task is not None and stream.task is not asyncio.current_task():
            stream.task.cancel()


def _failed(
    stream_id: int, code: str, message: str, *, status: int | None = None
) -> dict[str, Any]:
    event: dict[str, Any] = {"type": "stream.failed", "stream": stream_id}
    event["error"] = {"type": "transport_error", "code": code, "message": message}
    if status is not None:
        event["status"] = status
    return event
