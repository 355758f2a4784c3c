"""Forwarding of one exchange: two pumps, each passing on bytes the moment they come."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from transport import media
from transport.errors import (
    LimitError,
    LinkClosedError,
    StreamResetError,
    TransportError,
    UpstreamError,
)
from transport.mux import Meter
from transport.mux_frames import ResetCode
from transport.relay.config import RelayConfig
from transport.relay.link import Stream
from transport.relay.upstream import Upstream

# What may come back: sealed responses, and why there is none (RFC 9458 section 5.2).
_RESPONSE_TYPES: Final = frozenset(
    {media.OHTTP_RESPONSE, media.OHTTP_CHUNKED_RESPONSE, media.PROBLEM_JSON}
)


class Inbound(Protocol):
    """The client's side of an exchange, over HTTP or a link."""

    @property
    def abandoned(self) -> bool:
        """Whether the client is gone."""
        ...

    async def receive(self) -> bytes | None:
        """The next request bytes, None after a clean end."""
        ...

    async def send_head(self, status: int, content_type: str) -> None:
        """Begin the response."""
        ...

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send the next response bytes."""
        ...

    async def wait_reset(self) -> None:
        """Wait until the client is gone, and raise."""
        ...

    def reset(self, code: int) -> None:
        """Break the response off, so that it cannot be taken for whole."""
        ...


class InboundGoneError(TransportError):
    """The client went away during its exchange."""


class Exchange:
    """One request and its response, on their way through the relay."""

    __slots__ = (
        "_began",
        "_config",
        "_inbound",
        "_overdue",
        "_passed_at",
        "_request_meter",
        "_request_over",
        "_response_meter",
        "_seen",
        "_timer",
        "_upstream",
        "head_sent",
    )

    def __init__(self, config: RelayConfig, inbound: Inbound, upstream: Upstream) -> None:
        """Join a client's side and a gateway's side."""
        self._config = config
        self._inbound = inbound
        self._upstream = upstream
        self._request_meter = Meter(config.max_request_bytes)
        self._response_meter = Meter(config.max_response_bytes)
        self._request_over = False
        loop = asyncio.get_running_loop()
        self._began = self._passed_at = loop.time()
        self._seen = (0, 0)
        self._overdue: asyncio.Future[None] = loop.create_future()
        self._timer = loop.call_later(self._tick_s, self._tick)
        self.head_sent = False

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes of the request and of the response that were passed on so far."""
        return self._request_meter.passed, self._response_meter.passed

    async def run(self) -> None:
        """Forward until the response has ended; abandon the upstream on any failure.

        The response may end before the request has: what is left of the request is dropped.

        Raises:
            InboundGoneError: The client went away.
            LimitError: The request or the response is too large.
            TimeoutError: Nothing passed for too long, or the request or the whole took too long.
            UpstreamError: The gateway failed, or answered with what is not Oblivious HTTP.
        """
        response = asyncio.create_task(self._response())
        request = asyncio.create_task(self._request())
        watch = asyncio.create_task(self._inbound.wait_reset())
        waiting: set[asyncio.Future[None]] = {response, request, watch, self._overdue}
        code: int = ResetCode.CANCELLED
        try:
            while not response.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    one.result()
                self._check_overdue()
        except (StreamResetError, LinkClosedError) as error:
            # Either side's stream may have failed under the other's task.
            if self._inbound.abandoned:
                raise InboundGoneError("the client went away") from error
            raise UpstreamError("the gateway broke the exchange off") from error
        except LimitError:
            code = ResetCode.TOO_LARGE
            raise
        except TimeoutError:
            code = ResetCode.TIMEOUT
            raise
        finally:
            self._timer.cancel()
            tasks = (response, request, watch)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._upstream.reset(code)

    def _check_overdue(self) -> None:
        if self._overdue.done():
            raise TimeoutError

    async def _request(self) -> None:
        try:
            await _pass(self._inbound, self._upstream, self._request_meter)
        except (StreamResetError, LinkClosedError):
            if self._inbound.abandoned:
                raise
            # The gateway takes no more of it. Its response may be whole all the same.
        self._request_over = True

    async def _response(self) -> None:
        status, content_type = await self._upstream.head()
        if content_type not in _RESPONSE_TYPES:
            raise UpstreamError("the gateway answered with what is not Oblivious HTTP")
        self.head_sent = True
        await self._inbound.send_head(status, content_type)
        await _pass(self._upstream, self._inbound, self._response_meter)

    @property
    def _tick_s(self) -> float:
        config = self._config
        shortest = min(config.idle_timeout_s, config.request_timeout_s, config.exchange_timeout_s)
        return shortest / 4

    def _tick(self) -> None:
        """Look now and then whether bytes have passed: a timer for each chunk would cost more."""
        loop, config = asyncio.get_running_loop(), self._config
        now, passed = loop.time(), self.passed
        if passed != self._seen:
            self._seen, self._passed_at = passed, now
        age = now - self._began
        if (
            now - self._passed_at >= config.idle_timeout_s
            or age >= config.exchange_timeout_s
            or (age >= config.request_timeout_s and not self._request_over)
        ):
            if not self._overdue.done():
                self._overdue.set_result(None)
        else:
            self._timer = loop.call_later(self._tick_s, self._tick)


async def _pass(source: Inbound | Upstream, sink: Inbound | Upstream, meter: Meter) -> None:
    if isinstance(source, Stream) and isinstance(sink, Stream):
        await source.pipe(sink, meter)
        return
    while (data := await source.receive()) is not None:
        if meter.passed + len(data) > meter.limit:
            raise LimitError(f"more than {meter.limit} bytes came")
        await sink.send(data)
        meter.passed += len(data)
    await sink.send(b"", end=True)
