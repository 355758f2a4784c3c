"""The edge's one multiplexed connection to the relay, made again when it breaks."""

from __future__ import annotations

import asyncio

import aiohttp

from transport.errors import LinkClosedError
from transport.relay.link import Link

_BACKOFF_S = (0.0, 0.1, 0.3, 0.6, 1.0)


class RelayLink:
    """Hands out the live link, making one at a time.

    Args:
        session: HTTP client.
        relay_url: Base address of the relay.
    """

    def __init__(self, session: aiohttp.ClientSession, relay_url: str) -> None:
        self._session = session
        self._url = relay_url.rstrip("/") + "/mux"
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link] | None = None

    async def get(self) -> Link:
        """The link; raises LinkClosedError where the relay stays away for some two seconds."""
        if self._link is not None and not self._link.closed:
            return self._link
        # All who wait share one attempt, so that nobody waits for the attempts of others.
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Link:
        last: LinkClosedError | None = None
        for pause in _BACKOFF_S:
            await asyncio.sleep(pause)
            try:
                self._link = await Link.connect(self._session, self._url)
            except LinkClosedError as error:
                last = error
            else:
                return self._link
        raise last or LinkClosedError("the relay is away; try later")

    async def close(self) -> None:
        """Close the link."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
