"""What a relay is told at start: gateways, limits, and where to count."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from transport.errors import UsageError

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_BASE_URL: Final = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*[^/?#\s])?")


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """A relay's settings.

    Attributes:
        gateways: Allowed gateways, name to base URL without a final slash. The gateway resource
            is at `<base>/ohttp`, its multiplexed connection at `<base>/mux`.
        host, port: Where to listen; port 0 lets the system choose.
        max_streams: Exchanges at once, over all clients; further ones get 503.
        max_request_bytes, max_response_bytes: Per exchange.
        idle_timeout_s: Longest silence of either end within an exchange.
        drain_s: How long exchanges may go on after the relay is told to stop.
        reconnect_min_s, reconnect_max_s: Shortest and longest pause between connection attempts
            to a gateway that is away; doubled at each failure.
        registry: Where the relay's metrics are registered.
    """

    gateways: dict[str, str]
    host: str = "127.0.0.1"
    port: int = 8081
    max_streams: int = 4096
    max_request_bytes: int = 16 * 1024 * 1024
    max_response_bytes: int = 64 * 1024 * 1024
    idle_timeout_s: float = 120.0
    drain_s: float = 30.0
    reconnect_min_s: float = 0.1
    reconnect_max_s: float = 5.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Refuse names and URLs that could not work."""
        for name, url in self.gateways.items():
            if _NAME.fullmatch(name) is None:
                raise UsageError(f"gateway name {name!r} must be lowercase letters, digits, . _ -")
            if _BASE_URL.fullmatch(url) is None:
                raise UsageError(
                    f"the base URL of gateway {name!r} must be http(s)://host[:port][/path] "
                    "without a final slash"
                )


class RelayMetrics:
    """Counts, by gateway and outcome, never by client."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the relay's metrics."""
        self.streams_open = Gauge(
            "sotto_relay_streams_open", "Exchanges in progress.", registry=registry
        )
        self.streams = Counter(
            "sotto_relay_streams_total",
            "Exchanges that ended, by outcome.",
            ("gateway", "outcome"),
            registry=registry,
        )
        self._bytes = Counter(
            "sotto_relay_bytes_total",
            "Sealed bytes forwarded.",
            ("direction",),
            registry=registry,
        )
        self.request_bytes = self._bytes.labels(direction="request")
        self.response_bytes = self._bytes.labels(direction="response")
