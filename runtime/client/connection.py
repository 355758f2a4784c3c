"""The device's websocket: many sealed streams, reconnecting and resuming by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from runtime.errors import SottoError
from runtime.wire import (
    HEARTBEAT_S,
    MAX_BINARY_BYTES,
    SUBPROTOCOL,
    EnclavesList,
    Frame,
    Ping,
    ReceiptSubscribe,
    ResponseCreate,
    SessionResume,
    StreamReset,
    WireError,
    decode_frame,
    decode_server_event,
    encode_event,
)

log = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 0.1
_MOST_BACKOFF_S = 2.0
_OPEN_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 5.0
_NO_RETURN = range(4500, 5000)
_PIECE = MAX_BINARY_BYTES // 2
# Sealed events are small next to the sockets' own limit, but a list of bundles is not.
_MAX_EVENT_BYTES = 4 * 1024 * 1024


class StreamLostError(Exception):
    """A stream broke and cannot be resumed; the same turn may be sent again.

    Attributes:
        code: Machine word.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SealedStream:
    """One sealed exchange on the socket."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self.received = 0
        self._queue: asyncio.Queue[bytes | StreamLostError | None] = asyncio.Queue()

    async def send(self, data: bytes) -> None:
        """Send the whole sealed request."""
        pieces = range(0, len(data), _PIECE)
        for start in pieces:
            piece = data[start : start + _PIECE]
            end = start + len(piece) == len(data)
            await self._connection.send(Frame(self.stream_id, start, piece, end).encode())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Sealed bytes of the response as they come; ends where the response ends.

        Raises:
            StreamLostError: It broke.
        """
        try:
            while (item := await self._queue.get()) is not None:
                if isinstance(item, StreamLostError):
                    raise item
                yield item
        finally:
            await self._connection.forget(self)

    def take(self, frame: Frame) -> None:
        """Accept the next bytes; a gap or a repeat would corrupt the answer, so it is refused."""
        if frame.offset != self.received:
            raise WireError("the edge sent a frame out of place")
        self.received += len(frame.data)
        if frame.data:
            self._queue.put_nowait(frame.data)
        if frame.end:
            self._queue.put_nowait(None)

    def fail(self, code: str, message: str) -> None:
        """End with StreamLostError."""
        self._queue.put_nowait(StreamLostError(code, message))


class Connection:
    """A session with an edge. Use as an asynchronous context manager.

    Args:
        url: ``ws://`` or ``wss://`` address of the edge's ``/v1/realtime``.
        on_event: Called with each event that is not about a stream (receipts, for instance).
        on_reconnect: Called after each new socket, to ask again for what was awaited.
    """

    def __init__(
        self,
        url: str,
        *,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
        on_reconnect: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._on_event = on_event
        self._on_reconnect = on_reconnect
        self._socket: ClientConnection | None = None
        self._ready = asyncio.Event()
        self._token: str | None = None
        self._streams: dict[int, SealedStream] = {}
        self._next_stream = 1
        self._asking = asyncio.Lock()
        self._enclaves: asyncio.Future[list[dict[str, str]]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: SottoError | None = None
        self.reconnects = 0

    async def __aenter__(self) -> Self:
        socket = await self._open()
        self._task = asyncio.create_task(self._run(socket))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def send(self, data: str | bytes) -> None:
        """Send one message on the live socket, waiting for a reconnect where there is none."""
        while True:
            await self._ready.wait()
            if self._failure is not None:
                raise self._failure
            if self._socket is None:
                continue
            try:
                await self._socket.send(data)
            except ConnectionClosed:
                # A frame on a new socket would not continue its stream: the stream is lost, and
                # its owner is told by the resume; events may be sent again.
                if isinstance(data, bytes):
                    return
                self._ready.clear()
            else:
                return

    async def open_stream(self, gateway: str) -> SealedStream:
        """Open a sealed stream to a gateway by name."""
        stream = SealedStream(self, self._next_stream)
        self._next_stream += 1
        self._streams[stream.stream_id] = stream
        await self.send(encode_event(ResponseCreate(stream=stream.stream_id, gateway=gateway)))
        return stream

    async def forget(self, stream: SealedStream) -> None:
        """Stop caring for a stream; a running turn behind it goes on."""
        if self._streams.pop(stream.stream_id, None) is not None and self._ready.is_set():
            with contextlib.suppress(SottoError, ConnectionClosed):
                await self.send(encode_event(StreamReset(stream=stream.stream_id)))

    async def enclaves(self) -> list[dict[str, str]]:
        """What the edge says of live enclaves: to be verified, not believed."""
        async with self._asking:
            self._enclaves = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    await self.send(encode_event(EnclavesList()))
                    return await self._enclaves
            except TimeoutError:
                raise SottoError(
                    "the edge does not say which enclaves there are; try again in a moment",
                    code="enclave_away",
                ) from None

    async def subscribe(self, receipt_ids: list[str]) -> None:
        """Ask for receipts by id."""
        await self.send(encode_event(ReceiptSubscribe(receipt_ids=receipt_ids)))

    async def _open(self) -> ClientConnection:
        try:
            return await connect(
                self._url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                max_size=_MAX_EVENT_BYTES,
                open_timeout=_OPEN_TIMEOUT_S,
                logger=logging.getLogger("websockets.client"),
            )
        except (OSError, WebSocketException, TimeoutError) as error:
            raise SottoError(
                f"no Sottovoce edge answers at {self._url} ({type(error).__name__}); "
                "start one with `make run`, or give its address with --edge",
                code="edge_away",
            ) from error

    async def _run(self, socket: ClientConnection | None) -> None:
        """Read sockets, one after the other, until told not to come back."""
        backoff = _FIRST_BACKOFF_S
        while True:
            if socket is None:
                try:
                    socket = await self._open()
                except SottoError:
                    await asyncio.sleep(backoff)
                    backoff = min(backoff * 2, _MOST_BACKOFF_S)
                    continue
                self.reconnects += 1
            backoff = _FIRST_BACKOFF_S
            keepalive = asyncio.create_task(self._keepalive(socket))
            try:
                await self._read(socket)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else 1006
                if code in _NO_RETURN:
                    reason = closed.rcvd.reason if closed.rcvd is not None else ""
                    self._failure = SottoError(f"the edge closed the session: {reason}")
                    self._fail_all("closed", reason)
                    self._ready.set()
                    return
            except WireError as error:
                await socket.close()
                self._fail_all("protocol", str(error))
            finally:
                keepalive.cancel()
                self._ready.clear()
            socket = self._socket = None

    async def _keepalive(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                await socket.send(encode_event(Ping()))

    async def _read(self, socket: ClientConnection) -> None:
        async for data in socket:
            if isinstance(data, bytes):
                frame = decode_frame(data)
                if stream := self._streams.get(frame.stream):
                    stream.take(frame)
                continue
            event = decode_server_event(data)
            match event["type"]:
                case "session.created":
                    await self._begin(socket, event)
                case "session.resumed":
                    for stream_id in event["lost"]:
                        self._fail(stream_id, "not_resumable", "the edge forgot this stream")
                    self._token = event["token"]
                    self._live(socket)
                case "stream.failed":
                    error = event["error"]
                    self._fail(event["stream"], error["code"], error["message"])
                case "enclaves":
                    if self._enclaves is not None and not self._enclaves.done():
                        self._enclaves.set_result(event["enclaves"])
                case "error" if event["error"]["code"] == "not_resumable":
                    self._fail_all("not_resumable", event["error"]["message"])
                    self._live(socket)
                case _:
                    self._on_event(event)
        raise ConnectionClosed(None, None)

    async def _begin(self, socket: ClientConnection, event: dict[str, Any]) -> None:
        """First event of a socket: resume the earlier session where there is one."""
        old, self._token = self._token, event["session"]["token"]
        if old is None or not self._streams:
            self._live(socket)
            return
        received = {str(one.stream_id): one.received for one in self._streams.values()}
        await socket.send(encode_event(SessionResume(token=old, received=received)))

    def _live(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ready.set()
        self._on_reconnect()

    def _fail(self, stream_id: int, code: str, message: str) -> None:
        if stream := self._streams.pop(stream_id, None):
            stream.fail(code, message)

    def _fail_all(self, code: str, message: str) -> None:
        for stream_id in list(self._streams):
            self._fail(stream_id, code, message)
