"""A relay in the test's own process, which passes everything on and keeps all that it saw."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web

_PASSED = ("Content-Type", "Incremental")


@dataclass(frozen=True, slots=True)
class Seen:
    """One request of a device: what a relay learns."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Middle:
    """In front of a real relay.

    Attributes:
        target: The real relay's address.
        seen: Every request, in order.
        answered: Every byte that went back.
        whole: Answers that were read to their end.
        instead: Given each request; what it returns, if anything, is answered in its place.
        on_part: Called before each part of a sealed answer goes back.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.BaseTransport] = set()
        self.url = ""
        self.seen: list[Seen] = []
        self.answered = bytearray()
        self.whole = 0
        self.instead: Callable[[Seen], Awaitable[web.Response | None]] = _nothing
        self.on_part: Callable[[], None] = lambda: None

    @property
    def exchanges(self) -> list[Seen]:
        """The sealed requests."""
        return [one for one in self.seen if one.method == "POST"]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Middle]:
        """Serve while the block runs, or until `stop`."""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
            try:
                yield self
            finally:
                await self.stop()

    async def stop(self) -> None:
        """Go away, for good."""
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def cut(self) -> None:
        """Drop every connection in the middle of whatever it carries."""
        for transport in self._transports:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        self._transports.clear()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            self._transports.add(request.transport)
        seen = Seen(request.method, request.path, dict(request.headers), await request.read())
        self.seen.append(seen)
        if (own := await self.instead(seen)) is not None:
            return own
        headers = {name: seen.headers[name] for name in _PASSED if name in seen.headers}
        async with self._session.request(
            seen.method, self.target + seen.path, data=seen.body or None, headers=headers
        ) as upstream:
            response = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": upstream.content_type}
            )
            await response.prepare(request)
            async for part in upstream.content.iter_any():
                self.on_part()
                self.answered += part
                await response.write(part)
            await response.write_eof()
            self.whole += 1
            return response


async def _nothing(seen: Seen) -> None:
    return None
