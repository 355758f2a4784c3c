"""Links to one server, made when they are needed and made again when they break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import aiohttp

from transport.errors import LimitError, LinkClosedError, MuxUnsupportedError
from transport.relay.link import Link

_MAX_DOUBLINGS: Final = 16


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Pauses between attempts to reach a server that is away, in seconds; doubled at each failure.

    Attributes:
        min_s, max_s: The shortest and the longest.
    """

    min_s: float = 0.1
    max_s: float = 5.0


class LinkPool:
    """All links of this process to one server.

    One is enough until it carries as many streams as it may; then another is made beside it.

    Args:
        session: HTTP client.
        base_url: The server's; its links are at `<base>/mux`.
        reconnect: When to try again.
        max_links: At once.
        attempted: Told after each attempt whether the server was there.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        reconnect: Reconnect,
        max_links: int = 16,
        attempted: Callable[[bool], None] = lambda there: None,
    ) -> None:
        """Connect at the first use."""
        self._session = session
        self._url = f"{base_url.rstrip('/')}/mux"
        self._reconnect = reconnect
        self._max_links = max_links
        self._attempted = attempted
        self._links: list[Link] = []
        self._connecting: asyncio.Task[Link] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._made_at = 0.0
        self._avoided_until = 0.0

    def ready(self) -> Link | None:
        """A live link with room for a stream, if there is one."""
        alive = [link for link in self._links if not link.closed]
        if self._links and not alive:
            # A server that lets us in and hangs up at once is not asked again at once.
            self._retry_at = max(self._retry_at, self._made_at + self._reconnect.min_s)
        self._links = alive
        return next((link for link in self._links if link.has_room), None)

    def connect(self) -> asyncio.Task[Link]:
        """The attempt that is under way, or a new one; all who wait share it, so shield it.

        Raises:
            LinkClosedError: The server was away a moment ago; it is not asked again yet.
            LimitError: There are as many links as there may be, and all are full.
        """
        if self._connecting is None:
            if asyncio.get_running_loop().time() < self._retry_at:
                raise LinkClosedError("it was away a moment ago; try again shortly")
            if len(self._links) >= self._max_links:
                raise LimitError(f"{self._max_links} links are full; wait for a stream to end")
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        return self._connecting

    async def get(self) -> Link:
        """A link with room for a stream.

        Raises:
            MuxUnsupportedError: The server is there but does not speak the protocol.
            LinkClosedError: The server is away, or was a moment ago.
            LimitError: As in `connect`.
        """
        while (link := self.ready()) is None:
            await asyncio.shield(self.connect())
        return link

    def avoid(self) -> None:
        """Be avoided for the longest pause: the server said that it takes no more."""
        self._avoided_until = asyncio.get_running_loop().time() + self._reconnect.max_s

    @property
    def avoided(self) -> bool:
        """Whether streams should rather go elsewhere, if there is an elsewhere."""
        return asyncio.get_running_loop().time() < self._avoided_until

    async def _connect(self) -> Link:
        try:
            link = await Link.connect(self._session, self._url)
        except MuxUnsupportedError:
            self._attempted(True)
            raise
        except LinkClosedError:
            pause = min(self._reconnect.min_s * 2**self._failures, self._reconnect.max_s)
            self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
            self._retry_at = asyncio.get_running_loop().time() + pause
            self._attempted(False)
            raise
        self._failures = 0
        self._made_at = asyncio.get_running_loop().time()
        self._links.append(link)
        self._attempted(True)
        return link

    def _connected(self, task: asyncio.Task[Link]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # those who wait have it too, if anyone does

    async def close(self) -> None:
        """Close every link."""
        if self._connecting is not None:
            self._connecting.cancel()
            with suppress(asyncio.CancelledError, LinkClosedError):
                await self._connecting
        await asyncio.gather(*(link.close() for link in self._links))
