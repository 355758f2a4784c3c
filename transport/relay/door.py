"""Who may come in: connections by client, and how long each may take to say what it wants.

The HTTP server behind it bounds the sizes of heads, but waits for them without end.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import Final

from aiohttp import web

from transport.relay.config import RelayConfig, RelayMetrics

_IPV6_SITE_BITS: Final = 64


class Door(asyncio.Protocol):
    """One connection, on its way to the HTTP server behind."""

    def __init__(self, hall: Hall, server: web.RequestHandler) -> None:
        """Made by `Hall` only."""
        self.client = ""
        self._hall = hall
        self._server = server
        self._transport: asyncio.BaseTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let a client in, or hang up at once."""
        self.client = _client(transport)
        self._transport = transport
        if not self._hall.enter(self, self._server):
            self._transport = None
            if isinstance(transport, asyncio.Transport):
                transport.abort()
            return
        self._expect(self._hall.head_timeout_s)
        self._server.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on; the first of a further request start its clock."""
        if self._quiet:
            self._quiet = False
            self._expect(self._hall.head_timeout_s)
        if self._transport is not None:
            self._server.data_received(data)

    def eof_received(self) -> bool | None:
        """Hang up: nothing tells a client that has closed its half from one that is gone."""
        return None

    def pause_writing(self) -> None:
        """Pass on."""
        self._server.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._server.resume_writing()

    def connection_lost(self, error: BaseException | None) -> None:
        """Free the client's place."""
        self._cancel()
        if self._transport is not None:
            self._hall.leave(self, self._server)
            self._server.connection_lost(error)

    def request_began(self) -> None:
        """The head of a request has come whole."""
        self._quiet = False
        self._cancel()

    def request_ended(self) -> None:
        """Its response is sent; the client may keep the connection for another."""
        self._quiet = True
        self._expect(self._hall.keep_alive_s)

    def _expect(self, within_s: float) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(within_s, self._overdue)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self) -> None:
        if not self._quiet:
            self._hall.metrics.connections_refused.labels(reason="slow_head").inc()
        if isinstance(self._transport, asyncio.Transport):
            self._transport.abort()


class Hall:
    """All connections, and what each client has taken.

    Addresses are kept here, in memory, as long as something of theirs is open, and nowhere else.
    """

    def __init__(self, config: RelayConfig, metrics: RelayMetrics) -> None:
        """Begin empty."""
        self.metrics = metrics
        self.head_timeout_s = config.head_timeout_s
        self.keep_alive_s = config.idle_timeout_s
        self.streams: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._doors: dict[web.RequestHandler, Door] = {}
        self._max = config.max_connections
        # Room to be told that there are too many streams.
        self._max_of_client = 2 * config.max_client_streams

    def enter(self, door: Door, server: web.RequestHandler) -> bool:
        """Take a place, if there is one."""
        reason = None
        if len(self._doors) >= self._max:
            reason = "full"
        elif self._connections[door.client] >= self._max_of_client:
            reason = "client_full"
        if reason is not None:
            self.metrics.connections_refused.labels(reason=reason).inc()
            return False
        self._doors[server] = door
        self._connections[door.client] += 1
        self.metrics.connections.inc()
        return True

    def leave(self, door: Door, server: web.RequestHandler) -> None:
        """Give the place back."""
        del self._doors[server]
        release(self._connections, door.client)
        self.metrics.connections.dec()

    def of(self, request: web.Request) -> Door | None:
        """The door that a request came by; None where its client is gone already."""
        return self._doors.get(request.protocol)


def release(counts: Counter[str], client: str) -> None:
    """Take one off, and forget a client that has nothing left."""
    counts[client] -= 1
    if counts[client] <= 0:
        del counts[client]


def _client(transport: asyncio.BaseTransport) -> str:
    """Whom to count a connection for: of IPv6, all addresses that one customer is given."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return ""
    try:
        address = ipaddress.ip_address(peer[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(int(address) >> _IPV6_SITE_BITS)
