"""The relay's side towards a gateway: one multiplexed link, else plain streaming HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, Protocol

import aiohttp

from transport.errors import LinkClosedError, MuxUnsupportedError, UpstreamError
from transport.media import CHUNKED_TYPES
from transport.mux import DEFAULT_MAX_STREAMS
from transport.mux_frames import ResetCode
from transport.relay.config import RelayConfig, RelayMetrics
from transport.relay.link import Link
from transport.relay.pool import LinkPool, Reconnect

_log = logging.getLogger(__name__)

_RECHECK_MUX_S: Final = 60.0
AUTO_HEADERS: Final = ("User-Agent", "Accept", "Accept-Encoding")
"""What the HTTP client would add by itself, and a gateway has no use for."""


class Upstream(Protocol):
    """One exchange with a gateway. `transport.relay.link.Stream` is one."""

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send the next request bytes."""
        ...

    async def head(self) -> tuple[int, str]:
        """Wait for the response's status and content type."""
        ...

    async def receive(self) -> bytes | None:
        """The next response bytes, None after a clean end."""
        ...

    def reset(self, code: int = ResetCode.CANCELLED) -> None:
        """Abandon the exchange."""
        ...


class HttpExchange:
    """One streamed HTTP POST."""

    def __init__(self, session: aiohttp.ClientSession, url: str, content_type: str) -> None:
        """Begin to connect; errors come from `head` and `receive`."""
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        # Nothing of the client goes along: the sealed bytes' type is all the gateway is told.
        headers = {"Content-Type": content_type}
        if content_type in CHUNKED_TYPES:
            headers["Incremental"] = "?1"
        self._response: asyncio.Task[aiohttp.ClientResponse] = asyncio.create_task(
            self._post(session, url, headers)
        )

    async def _post(
        self, session: aiohttp.ClientSession, url: str, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        return await session.post(
            url,
            data=self._body(),
            headers=headers,
            skip_auto_headers=AUTO_HEADERS,
            allow_redirects=False,
        )

    async def _body(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            yield part

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Hand over request bytes, waiting until the part before them is taken."""
        if data:
            await self._parts.put(data)
        if end:
            await self._parts.put(None)

    async def head(self) -> tuple[int, str]:
        """Wait for the response's status and content type; `UpstreamError` if there is none."""
        try:
            response = await asyncio.shield(self._response)
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"the gateway is away: {type(error).__name__}") from error
        return response.status, response.content_type

    async def receive(self) -> bytes | None:
        """The next response bytes; `UpstreamError` if the response is cut."""
        try:
            data = await self._response.result().content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"the gateway broke off: {type(error).__name__}") from error
        return data or None

    def reset(self, code: int = ResetCode.CANCELLED) -> None:
        """Abandon the exchange by dropping its connection; HTTP/1.1 has no place for a code."""
        if not self._response.done():
            self._response.cancel()
        elif not self._response.cancelled() and self._response.exception() is None:
            self._response.result().close()


class GatewayUpstream:
    """Opens exchanges with one gateway, over shared links where the gateway offers them."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        name: str,
        config: RelayConfig,
        metrics: RelayMetrics,
    ) -> None:
        """Connect at the first exchange."""
        self.base_url = config.gateways[name]
        self._session = session
        self._name = name
        self._there: bool | None = None
        self._up = metrics.gateway_up.labels(gateway=name)
        self._plain_until = 0.0
        self._links = LinkPool(
            session,
            self.base_url,
            reconnect=Reconnect(config.reconnect_min_s, config.reconnect_max_s),
            max_links=-(-config.max_streams // DEFAULT_MAX_STREAMS),
            attempted=self._attempted,
        )

    async def open(self, target: str, content_type: str) -> Upstream:
        """Begin an exchange.

        Raises:
            UpstreamError: The gateway is away.
            LimitError: The links carry as many streams as they can.
        """
        link = await self._live_link()
        if link is None:
            return HttpExchange(self._session, f"{self.base_url}/ohttp", content_type)
        try:
            return link.open(target, content_type)
        except LinkClosedError as error:
            raise UpstreamError("the gateway's link closed just now; try again") from error

    async def probe(self) -> None:
        """Connect before anyone asks, so that the operator reads at once who is away."""
        with suppress(UpstreamError):
            await self._live_link()

    async def _live_link(self) -> Link | None:
        """A link with room, made anew if need be; None for a gateway that speaks plain HTTP."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._plain_until:
            return None
        try:
            return await self._links.get()
        except MuxUnsupportedError:
            self._plain_until = loop.time() + _RECHECK_MUX_S
            return None
        except LinkClosedError as error:
            raise UpstreamError("the gateway is away") from error

    def _attempted(self, there: bool) -> None:
        self._up.set(there)
        if there is not self._there:
            self._there = there
            if there:
                _log.info("gateway %s is there", self._name)
            else:
                _log.warning("gateway %s is away; the relay tries again", self._name)

    async def close(self) -> None:
        """Close the links, if there are any."""
        await self._links.close()


def make_session() -> aiohttp.ClientSession:
    """A session that keeps no cookies, reads no environment, and never decodes a body."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
        read_bufsize=64 * 1024,
    )
