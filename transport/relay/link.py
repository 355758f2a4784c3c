"""The multiplexed connection over a websocket (subprotocol `sotto-mux.v1`).

Used between our own roles only. All that streams queue during one tick of the event loop leaves
in one websocket message: writes to sockets are what costs, not frames.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import aiohttp
from aiohttp import web

from transport import mux
from transport.errors import (
    LimitError,
    LinkClosedError,
    MessageError,
    MuxUnsupportedError,
    StreamResetError,
    TransportError,
    UsageError,
)
from transport.mux_frames import ResetCode

SUBPROTOCOL: Final = "sotto-mux.v1"
HEARTBEAT_S: Final = 25.0
_CONNECT_TIMEOUT_S: Final = 10.0
_CLOSE_TIMEOUT_S: Final = 5.0
_MESSAGE_BYTES: Final = 256 * 1024
_MAX_MESSAGE_BYTES: Final = 4 * _MESSAGE_BYTES
# A peer that gives credit but does not read its socket: past this the link is closed. Resets do
# not take back what is queued, so credit alone would not bound it.
_MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024
# A server reads no further requests while so much of its answers waits to be written: a client that
# sends and does not read must not cost more than it spends. Clients always read, so neither end can
# come to wait for the other.
_PAUSE_READING_BYTES: Final = 1024 * 1024

_log = logging.getLogger(__name__)

Handler = Callable[["Stream"], Awaitable[None]]
WebSocket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


def server_websocket() -> web.WebSocketResponse:
    """A server's websocket with the settings that both ends of a link rely on.

    Prepare it with the request, then pass it to `Link.serve`.
    """
    return web.WebSocketResponse(
        protocols=(SUBPROTOCOL,),
        compress=False,
        heartbeat=HEARTBEAT_S,
        max_msg_size=_MAX_MESSAGE_BYTES,
    )


class Stream:
    """One request and its response on a link. Any method may raise the errors of `receive`."""

    __slots__ = (
        "_changed",
        "_ended",
        "_error",
        "_head",
        "_link",
        "_received",
        "_sent_end",
        "content_type",
        "stream_id",
        "target",
    )

    def __init__(self, link: Link, stream_id: int, target: str, content_type: str) -> None:
        """Made by `Link` only."""
        self._link = link
        self.stream_id = stream_id
        self.target = target
        self.content_type = content_type
        # Not a list of what came: frames of a byte or two would each take an object's memory.
        self._received = bytearray()
        self._ended = False
        self._sent_end = False
        self._head: tuple[int, str] | None = None
        self._error: TransportError | None = None
        self._changed: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        """Name the stream by its number: a target may say more than a log should hold."""
        return f"<Stream {self.stream_id}>"

    @property
    def abandoned(self) -> bool:
        """Whether either end reset the stream, or its link is gone."""
        return self._error is not None

    @property
    def over(self) -> bool:
        """Whether both directions have ended, or the stream was abandoned."""
        return self._error is not None or (self._ended and self._sent_end)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send `data`, waiting only for this stream's credit; `end` closes this direction.

        Raises:
            UsageError: This direction has ended or, on a server, has not begun.
        """
        view = memoryview(data)
        while True:
            self._check()
            if self._sent_end:
                raise UsageError("this end of the stream has ended; open another")
            piece = view[: self._link.mux.writable(self.stream_id)]
            view = view[len(piece) :]
            self._link.mux.send(self.stream_id, bytes(piece), end=end and not view)
            self._link.schedule_flush()
            if not view:
                self._sent_end = end
                self._link.forget_if_over(self)
                return
            await self._change()

    async def send_head(self, status: int, content_type: str) -> None:
        """Begin the response (server only)."""
        self._check()
        self._link.mux.send_head(self.stream_id, status, content_type)
        self._link.schedule_flush()

    async def head(self) -> tuple[int, str]:
        """Wait for the response to begin (client only): its status and content type."""
        while self._head is None:
            self._check()
            await self._change()
        return self._head

    async def receive(self) -> bytes | None:
        """All that has come and was not yet taken, waiting for some; None after a clean end.

        Raises:
            StreamResetError: Either end abandoned the stream.
            LinkClosedError: The connection is gone.
        """
        while not self._received:
            if self._ended:
                return None
            self._check()
            await self._change()
        data = self._take()
        self._consumed(len(data))
        return data

    async def pipe(self, onward: Stream, meter: mux.Meter) -> None:
        """Send all that comes on this stream on another, up to and with its end.

        What comes is passed on as it comes, without a task that wakes for each chunk. What the
        other stream does not take now is kept: at most one window, since credit is given back
        only for what was passed on.

        Raises:
            LimitError: More came than `meter` allows.
        """
        link = self._link
        splice = mux.Splice(onward._link.mux, onward.stream_id, meter, onward._link.flush_soon)
        try:
            while True:
                if self._received:
                    data = self._take()
                    if meter.passed + len(data) > meter.limit:
                        raise LimitError(f"more than {meter.limit} bytes came")
                    await onward.send(data)
                    meter.passed += len(data)
                    self._consumed(len(data))
                elif self._ended:
                    await onward.send(b"", end=True)
                    return
                else:
                    self._check()
                    link.mux.splice(self.stream_id, splice)
                    await self._change()
        finally:
            link.mux.splice(self.stream_id, None)

    def _take(self) -> bytes:
        data = bytes(self._received)
        self._received.clear()
        return data

    def _consumed(self, size: int) -> None:
        self._link.mux.consumed(self.stream_id, size)
        self._link.schedule_flush()

    async def wait_reset(self) -> None:
        """Wait until the stream is abandoned, and raise why. Cancel it to stop waiting."""
        while True:
            self._check()
            await self._change()

    def reset(self, code: int = ResetCode.CANCELLED) -> None:
        """Abandon the stream; nothing happens if it is over."""
        if self._error is None:
            self._link.mux.reset(self.stream_id, code)
            self._link.schedule_flush()
            self._fail(StreamResetError("this end abandoned the stream", code=code))
            self._link.forget_if_over(self)

    def _check(self) -> None:
        if self._error is not None:
            # A copy, so that waiters in several tasks do not share one traceback.
            error = self._error
            if isinstance(error, StreamResetError):
                raise StreamResetError(str(error), code=error.code)
            raise type(error)(str(error))

    async def _change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.add(future)
        try:
            await future
        finally:
            self._changed.discard(future)

    def _notify(self) -> None:
        for future in self._changed:
            if not future.done():
                future.set_result(None)

    def _fail(self, error: TransportError) -> None:
        if self._error is None:
            self._error = error
            if not self._ended:
                self._received.clear()  # a cut stream is of no use
            self._notify()

    def _apply(self, event: mux.Event) -> None:
        """Take one event of the connection."""
        match event:
            case mux.DataReceived(data=data):
                self._received += data
            case mux.HeadReceived(status=status, content_type=content_type):
                self._head = (status, content_type)
            case mux.StreamEnded():
                self._ended = True
            case mux.StreamReset(code=code):
                self._fail(StreamResetError(f"the peer reset the stream, code {code}", code=code))
            case _:
                pass
        self._notify()


async def _refuse(stream: Stream) -> None:
    """A client's handler: only clients open streams, so it is never called."""
    stream.reset(ResetCode.REFUSED)


class Link:
    """One connection carrying many streams."""

    def __init__(self, ws: WebSocket, role: mux.Role, handler: Handler, max_streams: int) -> None:
        """Made by `connect` and `serve` only."""
        self.mux = mux.MuxConnection(role, max_streams=max_streams)
        self._reads_always = role is mux.Role.CLIENT
        self._ws = ws
        self._handler = handler
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: LinkClosedError | None = None
        self._flush_wanted = asyncio.Event()
        self._written = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        *,
        max_streams: int = mux.DEFAULT_MAX_STREAMS,
    ) -> Link:
        """Connect as a client.

        Raises:
            MuxUnsupportedError: The server answers but does not speak this protocol.
            LinkClosedError: The server cannot be reached.
        """
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                ws = await session.ws_connect(
                    url,
                    protocols=(SUBPROTOCOL,),
                    compress=0,
                    heartbeat=HEARTBEAT_S,
                    max_msg_size=_MAX_MESSAGE_BYTES,
                )
        except aiohttp.WSServerHandshakeError as error:
            kind = LinkClosedError if error.status >= 500 else MuxUnsupportedError
            raise kind(f"the peer answered {error.status}, not {SUBPROTOCOL}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LinkClosedError(f"cannot connect: {type(error).__name__}; try later") from error
        if ws.protocol != SUBPROTOCOL:
            await ws.close()
            raise MuxUnsupportedError(f"the peer did not agree to {SUBPROTOCOL}")
        link = cls(ws, mux.Role.CLIENT, _refuse, max_streams)
        link._reader = asyncio.create_task(link._run())
        return link

    @classmethod
    async def serve(
        cls,
        ws: web.WebSocketResponse,
        handler: Handler,
        *,
        max_streams: int = mux.DEFAULT_MAX_STREAMS,
    ) -> None:
        """Serve a prepared websocket; each stream runs `handler` as a task.

        A handler that returns before its response has ended, or raises, resets its stream. A
        stream's reset does not cancel its handler; `Stream.wait_reset` tells. When the link
        closes, handlers run on and find their streams closed: this returns when the last one
        has. Cancelling it cancels them.

        Raises:
            MuxUnsupportedError: The client did not ask for the subprotocol.
        """
        if ws.ws_protocol != SUBPROTOCOL:
            await ws.close(code=aiohttp.WSCloseCode.PROTOCOL_ERROR)
            raise MuxUnsupportedError(f"the client did not ask for {SUBPROTOCOL}")
        await cls(ws, mux.Role.SERVER, handler, max_streams)._serve()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._error is not None

    @property
    def has_room(self) -> bool:
        """Whether one more stream can be open on this link."""
        return self.mux.open_streams < self.mux.max_streams

    def open(self, target: str, content_type: str) -> Stream:
        """Open a stream (client only).

        Raises:
            LinkClosedError: The connection is gone.
            LimitError: Too many streams are open.
            UsageError: The target or content type is not 1 to 255 visible ASCII characters.
        """
        if self._error is not None:
            raise LinkClosedError(str(self._error))
        self._check_queue()
        stream = Stream(self, self.mux.open(target, content_type), target, content_type)
        self._streams[stream.stream_id] = stream
        self.schedule_flush()
        return stream

    async def close(self) -> None:
        """Close the connection; every stream on it fails with `LinkClosedError`."""
        self._fail("this end closed the link")
        await self._close_websocket()
        if self._reader is not None:
            await asyncio.wait({self._reader})

    def schedule_flush(self) -> None:
        """Write what is queued, if anything is, after this tick of the loop."""
        if self.mux.queued_bytes:
            self.flush_soon()

    def flush_soon(self) -> None:
        """Write what will be queued in this tick of the loop."""
        if not self._flush_wanted.is_set():
            self._flush_wanted.set()

    def forget_if_over(self, stream: Stream) -> None:
        """Pass no further events to a stream that has ended both ways or was reset."""
        # Not asked of the connection: it is ahead of the events that the stream has taken.
        if stream.over:
            self._streams.pop(stream.stream_id, None)

    async def _run(self) -> None:
        self._writer = asyncio.create_task(self._write())
        try:
            async for message in self._ws:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    raise MessageError("the peer sent something other than a binary message")
                for event in self.mux.receive_data(message.data):
                    self._dispatch(event)
                self._check_queue()
                self.schedule_flush()
                await self._catch_up()
            self._fail("the peer closed the link or fell silent")
        except TransportError as error:
            _log.warning("link closed: %s", error)
            self._fail("the peer broke the protocol")
        finally:
            self._fail("the link was shut down")
            self._writer.cancel()
            await self._close_websocket()

    async def _catch_up(self) -> None:
        """On a server, wait until most of what is queued has been written."""
        while not (self._reads_always or self.closed):
            if self.mux.queued_bytes <= _PAUSE_READING_BYTES:
                return
            self._written.clear()
            await self._written.wait()

    def _check_queue(self) -> None:
        if self.mux.queued_bytes > _MAX_QUEUED_BYTES:
            raise LimitError("too much waits to be written; the peer does not read its socket")

    async def _serve(self) -> None:
        try:
            await self._run()
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()

    def _dispatch(self, event: mux.Event) -> None:
        if isinstance(event, mux.StreamOpened):
            if len(self._tasks) >= 2 * self.mux.max_streams:
                # Streams that are reset as fast as they are opened outrun their handlers' ends.
                self.mux.reset(event.stream_id, ResetCode.REFUSED)
                return
            stream = Stream(self, event.stream_id, event.target, event.content_type)
            self._streams[event.stream_id] = stream
            task = asyncio.create_task(self._handle(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        known = self._streams.get(event.stream_id)
        if known is not None:
            known._apply(event)
            self.forget_if_over(known)

    async def _handle(self, stream: Stream) -> None:
        try:
            await self._handler(stream)
        except TransportError as error:
            _log.info("stream %d ended: %s", stream.stream_id, type(error).__name__)
        except Exception as error:
            # No traceback: it would show what the handler was working on.
            _log.error("stream %d: its handler failed: %s", stream.stream_id, type(error).__name__)
        finally:
            if not stream.over:
                stream.reset(ResetCode.INTERNAL)

    async def _write(self) -> None:
        try:
            while True:
                await self._flush_wanted.wait()
                self._flush_wanted.clear()
                data = self.mux.data_to_send()
                for start in range(0, len(data), _MESSAGE_BYTES):
                    await self._ws.send_bytes(data[start : start + _MESSAGE_BYTES])
                self._written.set()
        except (aiohttp.ClientError, OSError) as error:
            self._fail(f"writing failed: {type(error).__name__}")
            await self._close_websocket()

    async def _close_websocket(self) -> None:
        """Close politely if the peer still reads; the connection is dropped in any case."""
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._ws.close()

    def _fail(self, why: str) -> None:
        if self._error is not None:
            return
        self._error = LinkClosedError(f"the link is closed: {why}; open a new one")
        for stream in tuple(self._streams.values()):
            stream._fail(self._error)
        self._streams.clear()
        self._written.set()
