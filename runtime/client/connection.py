"""The device's websocket: many sealed streams, reconnecting and resuming by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.typing import Subprotocol

from runtime.client.carrier import (
    MAX_ENCLAVES,
    SILENCE_S,
    UNKNOWN_KEY,
    StreamLostError,
    refused_key,
    shown,
)
from runtime.errors import SottoError
from runtime.wire import (
    HEARTBEAT_S,
    MAX_BINARY_BYTES,
    MAX_RECEIPTS_PER_EVENT,
    MAX_STREAMS,
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
# An edge that floods, or that does not answer a goodbye, holds nobody up.
_CLOSE_TIMEOUT_S = 1.0
_ANSWER_TIMEOUT_S = 5.0
# An edge that is away this long may be back tomorrow: whoever waits is told.
_AWAY_S = 20.0
_NO_RETURN = range(4500, 5000)
_PIECE = MAX_BINARY_BYTES // 2
# Sealed events are small next to the sockets' own limit, but a list of bundles is not.
_MAX_EVENT_BYTES = 4 * 1024 * 1024
# Sealed bytes that wait to be opened: more than any reply, less than what hurts a device.
_MAX_AHEAD_BYTES = 4 * 1024 * 1024
# What an edge says of a failed stream; any other word could pose as an enclave's.
_STREAM_ERRORS = frozenset(
    {
        *("relay_away", "gateway_refused", "stream_lost", "rate_limited", "request_timeout"),
        *("request_too_large", "bad_offset", "stream_reused", "too_many_streams"),
    }
)


def _why(error: Exception) -> str:
    """Why no socket was opened, in words."""
    match error:
        case InvalidURI() | ValueError():
            return "an edge's address begins with ws:// or wss://"
        case TimeoutError():
            return f"no answer within {_OPEN_TIMEOUT_S:.0f} s"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
        case OSError(strerror=str(text)):
            return text
    return type(error).__name__


class _Straight(connect):
    """Connects to the address given or not at all: an edge that could send a device on would make
    it knock at any door of its own network."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow none."""
        return exc


class SealedStream:
    """One sealed exchange on the socket. It satisfies `runtime.client.carrier.Stream`."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self.received = 0
        self.ended = False
        self._waiting = 0
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
        while (item := await self._next()) is not None:
            if isinstance(item, StreamLostError):
                raise item
            self._waiting -= len(item)
            yield item

    async def aclose(self) -> None:
        """Give the stream up; a running turn behind it goes on."""
        await self._connection.forget(self)

    async def _next(self) -> bytes | StreamLostError | None:
        try:
            async with asyncio.timeout(SILENCE_S):
                return await self._queue.get()
        except TimeoutError:
            return StreamLostError("silent", "nothing came for long; send the turn again")

    def take(self, frame: Frame) -> None:
        """Accept the next bytes; a gap or a repeat would corrupt the answer, so it is refused."""
        if frame.offset != self.received:
            raise WireError("the edge sent a frame out of place")
        self.received += len(frame.data)
        self._waiting += len(frame.data)
        if self._waiting > _MAX_AHEAD_BYTES:
            raise WireError("the edge sent far more than an answer has")
        if frame.data:
            self._queue.put_nowait(frame.data)
        if frame.end:
            self.ended = True
            self._queue.put_nowait(None)

    def fail(self, code: str, message: str) -> None:
        """End with StreamLostError."""
        self._queue.put_nowait(StreamLostError(code, message))


class Connection:
    """A session with an edge. It satisfies `runtime.client.carrier.Carrier`.

    Args:
        url: ``ws://`` or ``wss://`` address of the edge's ``/v1/realtime``.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self._on_reconnect: Callable[[], None] = lambda: None
        self._socket: ClientConnection | None = None
        self._ready = asyncio.Event()
        self._token: str | None = None
        self._streams: dict[int, SealedStream] = {}
        self._next_stream = 1
        # An edge refuses more at once, and a resume has no room to name them.
        self._places = asyncio.Semaphore(MAX_STREAMS)
        self._asking = asyncio.Lock()
        self._enclaves: asyncio.Future[list[dict[str, str]]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: SottoError | None = None
        # The socket that has said `session.created`, and whether a resume on it is unanswered.
        self._greeted: ClientConnection | None = None
        self._resuming = False

    async def start(
        self, on_event: Callable[[dict[str, Any]], None], on_reconnect: Callable[[], None]
    ) -> None:
        """Open the first socket; the rest is made again by itself.

        Raises:
            SottoError: No edge answers.
        """
        self._on_event, self._on_reconnect = on_event, on_reconnect
        socket = await self._open()
        self._task = asyncio.create_task(self._run(socket))

    async def close(self) -> None:
        """Close the socket for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end(SottoError("this device has left its edge", code="closed"))
        if self._socket is not None:
            await self._socket.close()

    async def send(self, data: str | bytes) -> None:
        """Send one message on the live socket, waiting for a reconnect where there is none."""
        while True:
            try:
                async with asyncio.timeout(_AWAY_S):
                    await self._ready.wait()
            except TimeoutError:
                raise self._away() from None
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
                # The reader notices too and makes a new socket.
                await asyncio.sleep(_FIRST_BACKOFF_S)
            else:
                return

    async def open_stream(self, gateway: str) -> SealedStream:
        """Open a sealed stream to a gateway by name, when there is a place for it."""
        await self._places.acquire()
        stream = SealedStream(self, self._next_stream)
        self._next_stream += 1
        self._streams[stream.stream_id] = stream
        try:
            await self.send(encode_event(ResponseCreate(stream=stream.stream_id, gateway=gateway)))
        except BaseException:
            self._remove(stream.stream_id)
            raise
        return stream

    async def forget(self, stream: SealedStream) -> None:
        """Stop caring for a stream; a running turn behind it goes on."""
        left = self._remove(stream.stream_id) is not None and not stream.ended
        stream.fail("closed", "this answer was given up")
        if left and self._ready.is_set():
            with contextlib.suppress(SottoError, ConnectionClosed):
                await self.send(encode_event(StreamReset(stream=stream.stream_id)))

    async def enclaves(self) -> list[dict[str, str]]:
        """What the edge says of live enclaves: to be verified, not believed."""
        async with self._asking:
            self._enclaves = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    await self.send(encode_event(EnclavesList()))
                    return (await self._enclaves)[:MAX_ENCLAVES]
            except TimeoutError:
                raise SottoError(
                    "the edge does not say which enclaves there are; try again in a moment",
                    code="enclave_away",
                ) from None

    async def subscribe(self, receipt_ids: list[str]) -> bool:
        """Ask for receipts by id: the edge pushes them."""
        for start in range(0, len(receipt_ids), MAX_RECEIPTS_PER_EVENT):
            some = receipt_ids[start : start + MAX_RECEIPTS_PER_EVENT]
            await self.send(encode_event(ReceiptSubscribe(receipt_ids=some)))
        return True

    async def _open(self) -> ClientConnection:
        try:
            return await _Straight(
                self._url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                proxy=None,
                user_agent_header=None,  # says which program this is, and of which version
                max_size=_MAX_EVENT_BYTES,
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=_CLOSE_TIMEOUT_S,
                logger=logging.getLogger("websockets.client"),
            )
        except (OSError, WebSocketException, TimeoutError, ValueError) as error:
            raise self._away(_why(error)) from error

    def _away(self, why: str = "away") -> SottoError:
        return SottoError(
            f"no Sottovoce edge answers at {self._url} ({why}); start one with `make run`, or "
            "give its address with --edge",
            code="edge_away",
        )

    async def _run(self, socket: ClientConnection | None) -> None:
        """Read sockets, one after the other, until told not to come back."""
        backoff = _FIRST_BACKOFF_S
        lost_at = 0.0
        while True:
            if socket is None:
                try:
                    socket = await self._open()
                except SottoError:
                    if time.monotonic() - lost_at > _AWAY_S:
                        self._fail_all("edge_away", str(self._away()))
                    await asyncio.sleep(backoff)
                    backoff = min(backoff * 2, _MOST_BACKOFF_S)
                    continue
            backoff = _FIRST_BACKOFF_S
            keepalive = asyncio.create_task(self._keepalive(socket))
            try:
                await self._read(socket)
            except ConnectionClosed as closed:
                if closed.rcvd is not None and closed.rcvd.code in _NO_RETURN:
                    self._give_up(shown(closed.rcvd.reason))
                    return
            except WireError as error:
                self._ready.clear()
                self._fail_all("protocol", str(error))
                self._fail_question(str(error))
                await socket.close()
            finally:
                keepalive.cancel()
            self._ready.clear()
            socket = self._socket = None
            lost_at = time.monotonic()

    def _give_up(self, reason: str) -> None:
        """Told not to come back: whoever waits, now or later, gets the reason."""
        self._end(SottoError(f"the edge closed the session: {reason}", code="closed"))

    def _end(self, failure: SottoError) -> None:
        self._failure = failure
        self._fail_all(failure.code, str(failure))
        self._fail_question(str(failure))
        self._ready.set()

    def _fail_question(self, reason: str) -> None:
        if self._enclaves is not None and not self._enclaves.done():
            self._enclaves.set_exception(
                SottoError(
                    f"the edge does not say which enclaves there are: {reason}", code="enclave_away"
                )
            )

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
                    self._resumed(socket, event)
                case "stream.failed":
                    self._refused(event["stream"], event["error"])
                case "enclaves":
                    if self._enclaves is not None and not self._enclaves.done():
                        self._enclaves.set_result(event["enclaves"])
                case "error" if event["error"]["code"] == "not_resumable":
                    self._fail_all("not_resumable", shown(event["error"]["message"]))
                    if self._resuming:
                        self._live(socket)
                case _:
                    self._on_event(event)
        raise ConnectionClosed(None, None)

    async def _begin(self, socket: ClientConnection, event: dict[str, Any]) -> None:
        """First event of a socket: resume the earlier session where there is one."""
        if self._greeted is socket:
            raise WireError("the edge began its session twice")
        self._greeted = socket
        old, self._token = self._token, event["session"]["token"]
        if old is None or not self._streams:
            self._live(socket)
            return
        received = {str(one.stream_id): one.received for one in self._streams.values()}
        self._resuming = True
        await socket.send(encode_event(SessionResume(token=old, received=received)))

    def _resumed(self, socket: ClientConnection, event: dict[str, Any]) -> None:
        if not self._resuming:
            raise WireError("the edge resumed what was not asked for")
        for stream_id in event["lost"]:
            self._fail(stream_id, "not_resumable", "the edge forgot this stream")
        self._token = event["token"]
        self._live(socket)

    def _live(self, socket: ClientConnection) -> None:
        self._resuming = False
        self._socket = socket
        self._ready.set()
        self._on_reconnect()

    def _refused(self, stream_id: int, error: dict[str, str]) -> None:
        code = error["code"] if error["code"] in _STREAM_ERRORS else "stream_lost"
        if code == "gateway_refused" and refused_key(error["message"]):
            code = UNKNOWN_KEY
        self._fail(stream_id, code, shown(error["message"]))

    def _fail(self, stream_id: int, code: str, message: str) -> None:
        if stream := self._remove(stream_id):
            stream.fail(code, message)

    def _remove(self, stream_id: int) -> SealedStream | None:
        """Forget a stream, and give its place to the next."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._places.release()
        return stream

    def _fail_all(self, code: str, message: str) -> None:
        for stream_id in list(self._streams):
            self._fail(stream_id, code, message)
