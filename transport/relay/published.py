"""What a gateway publishes of itself, passed on so that a client need not show itself there.

Everyone is given the same bytes for a few seconds: a gateway cannot tell from its own log how many
asked, nor hand one of them keys of his own while it does not know who asks.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from transport import media
from transport.errors import UpstreamError
from transport.relay.upstream import AUTO_HEADERS

PUBLISHED: Final = {"ohttp-keys": media.OHTTP_KEYS, "attestation": "application/json"}
"""Media types by path below a gateway's base URL."""

_MAX_BYTES: Final = 1024 * 1024
_KEPT_S: Final = 5.0
_TIMEOUT_S: Final = 10.0


class Published:
    """One document of one gateway."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, path: str) -> None:
        """Fetch it when it is first asked for."""
        self.content_type = PUBLISHED[path]
        self._session = session
        self._url = f"{base_url}/{path}"
        self._body = b""
        self._fresh_until = 0.0
        self._fetching: asyncio.Task[bytes] | None = None

    async def get(self) -> bytes:
        """The document, at most some seconds old.

        Raises:
            UpstreamError: The gateway is away, or its answer is of another type or too large.
        """
        if asyncio.get_running_loop().time() < self._fresh_until:
            return self._body
        # All who wait share one request, and none who leaves ends it for the others.
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        return await asyncio.shield(self._fetching)

    async def _fetch(self) -> bytes:
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                self._session.get(
                    self._url, skip_auto_headers=AUTO_HEADERS, allow_redirects=False
                ) as response,
            ):
                if response.status != 200 or response.content_type != self.content_type:
                    raise UpstreamError(f"the gateway answered {response.status}, or another type")
                body = bytearray()
                async for data in response.content.iter_any():
                    if len(body) + len(data) > _MAX_BYTES:
                        raise UpstreamError(f"the gateway's answer is over {_MAX_BYTES} bytes")
                    body += data
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UpstreamError(f"the gateway is away: {type(error).__name__}") from error
        self._body = bytes(body)
        self._fresh_until = asyncio.get_running_loop().time() + _KEPT_S
        return self._body

    def _fetched(self, task: asyncio.Task[bytes]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # those who wait have it too, if anyone still does

    async def close(self) -> None:
        """Stop fetching."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
