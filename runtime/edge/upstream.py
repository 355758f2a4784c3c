"""The edge's ways to the relays: links that are made again when they break."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import aiohttp

from transport import media
from transport.errors import LimitError, LinkClosedError
from transport.relay.link import Link, Stream
from transport.relay.pool import LinkPool, Reconnect

_BACKOFF_S = (0.0, 0.1, 0.3, 0.6, 1.0)
_RECONNECT = Reconnect(min_s=0.05, max_s=1.0)


class RelayLinks:
    """Opens each stream through one of the relays.

    Args:
        session: HTTP client.
        relay_urls: Base addresses of the relays.
    """

    def __init__(self, session: aiohttp.ClientSession, relay_urls: Sequence[str]) -> None:
        self._pools = [LinkPool(session, url, reconnect=_RECONNECT) for url in relay_urls]

    async def open(self, gateway: str) -> RelayStream:
        """A stream to a gateway; raises LinkClosedError where every relay stays away for some two
        seconds, and LimitError where those that are there are full."""
        failure: LinkClosedError | LimitError = LinkClosedError("the relay is away; try later")
        for pause in _BACKOFF_S:
            await asyncio.sleep(pause)
            try:
                pool = self._choose() or await self._connect()
                link = await pool.get()
                stream = link.open(gateway, media.OHTTP_CHUNKED_REQUEST)
                return RelayStream(stream, pool)
            except (LinkClosedError, LimitError) as error:
                failure = error
        raise failure

    def _choose(self) -> LinkPool | None:
        """One of the relays that are there, while the others are asked again in the background.

        By chance, not in turn: in turn, each of two relays would know that between two streams
        that it carried there was exactly one that it did not, and so the edge's whole traffic.
        """
        there = []
        for pool in self._pools:
            if pool.ready() is not None:
                there.append(pool)
            else:
                _attempt(pool)
        # A 503 may be the gateway's, whom one relay cannot reach better than another: it must not
        # keep the edge from all of them.
        willing = [pool for pool in there if not pool.avoided] or there
        return secrets.choice(willing) if willing else None

    async def _connect(self) -> LinkPool:
        """The first relay that answers; one that does not costs the others no time."""
        pools = {attempt: pool for pool in self._pools if (attempt := _attempt(pool)) is not None}
        if pools:
            done, _ = await asyncio.wait(pools, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if not attempt.cancelled() and attempt.exception() is None:
                    return pools[attempt]
        # The attempts that are still under way go on; whoever was refused is asked again soon.
        raise LinkClosedError("the relay is away; try later")

    async def close(self) -> None:
        """Close every link."""
        await asyncio.gather(*(pool.close() for pool in self._pools))


class RelayStream:
    """One stream through one relay.

    Args:
        stream: To send on and to receive from.
        pool: Links to its relay.
    """

    def __init__(self, stream: Stream, pool: LinkPool) -> None:
        self.stream = stream
        self._pool = pool

    def avoid_relay(self) -> None:
        """Use the other relays for a moment, if any is there: this one takes no further streams."""
        self._pool.avoid()


def _attempt(pool: LinkPool) -> asyncio.Task[Link] | None:
    """An attempt to reach a relay that is under way; None while it is too early for another."""
    try:
        return pool.connect()
    except (LinkClosedError, LimitError):
        return None
