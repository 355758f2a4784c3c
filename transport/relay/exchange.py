"""Forwarding of one exchange: two pumps, each passing on bytes the moment they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from transport.errors import (
    LimitError,
    LinkClosedError,
    StreamResetError,
    TransportError,
    UpstreamError,
)
from transport.mux_frames import ResetCode
from transport.relay.config import RelayConfig, RelayMetrics
from transport.relay.upstream import Upstream


class Inbound(Protocol):
    """The client's side of an exchange, over HTTP or a link."""

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

    __slots__ = ("_config", "_inbound", "_metrics", "_upstream", "head_sent")

    def __init__(
        self, config: RelayConfig, metrics: RelayMetrics, inbound: Inbound, upstream: Upstream
    ) -> None:
        """Join a client's side and a gateway's side."""
        self._config = config
        self._metrics = metrics
        self._inbound = inbound
        self._upstream = upstream
        self.head_sent = False

    async def run(self) -> None:
        """Forward until the response has ended; abandon the upstream on any failure.

        The response may end before the request has: what is left of the request is dropped.

        Raises:
            InboundGoneError: The client went away.
            LimitError: The request or the response is too large.
            TimeoutError: One side was silent for too long.
            UpstreamError: The gateway failed.
        """
        tasks = [
            asyncio.create_task(self._response()),
            asyncio.create_task(self._request()),
            asyncio.create_task(self._watch_inbound()),
        ]
        code: int = ResetCode.CANCELLED
        try:
            while not tasks[0].done():
                waited = {task for task in tasks if not task.done()}
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            tasks[0].result()
        except LimitError:
            code = ResetCode.TOO_LARGE
            raise
        except TimeoutError:
            code = ResetCode.TIMEOUT
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._upstream.reset(code)

    async def _watch_inbound(self) -> None:
        try:
            await self._inbound.wait_reset()
        except (StreamResetError, LinkClosedError) as error:
            raise InboundGoneError("the client went away") from error

    async def _request(self) -> None:
        left = self._config.max_request_bytes
        while True:
            try:
                async with asyncio.timeout(self._config.idle_timeout_s):
                    data = await self._inbound.receive()
            except (StreamResetError, LinkClosedError) as error:
                raise InboundGoneError("the client went away") from error
            if data is None:
                break
            left -= len(data)
            if left < 0:
                raise LimitError(f"the request is over {self._config.max_request_bytes} bytes")
            self._metrics.request_bytes.inc(len(data))
            await self._to_upstream(data, end=False)
        await self._to_upstream(b"", end=True)

    async def _to_upstream(self, data: bytes, *, end: bool) -> None:
        try:
            async with asyncio.timeout(self._config.idle_timeout_s):
                await self._upstream.send(data, end=end)
        except (StreamResetError, LinkClosedError) as error:
            raise UpstreamError("the gateway abandoned the exchange") from error

    async def _response(self) -> None:
        left = self._config.max_response_bytes
        try:
            async with asyncio.timeout(self._config.idle_timeout_s):
                status, content_type = await self._upstream.head()
        except (StreamResetError, LinkClosedError) as error:
            raise UpstreamError("the gateway abandoned the exchange") from error
        self.head_sent = True
        await self._to_inbound(self._inbound.send_head(status, content_type))
        while True:
            try:
                async with asyncio.timeout(self._config.idle_timeout_s):
                    data = await self._upstream.receive()
            except (StreamResetError, LinkClosedError) as error:
                raise UpstreamError("the gateway broke off its response") from error
            if data is None:
                break
            left -= len(data)
            if left < 0:
                raise LimitError(f"the response is over {self._config.max_response_bytes} bytes")
            self._metrics.response_bytes.inc(len(data))
            await self._to_inbound(self._inbound.send(data))
        await self._to_inbound(self._inbound.send(b"", end=True))

    async def _to_inbound(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._config.idle_timeout_s):
                await sending
        except (StreamResetError, LinkClosedError) as error:
            raise InboundGoneError("the client went away") from error
