"""What a relay is told at start: gateways, limits, and where to count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from transport.errors import UsageError
from transport.relay.name import GATEWAY_NAME

_NAME: Final = re.compile(GATEWAY_NAME)
_BASE_URL: Final = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*[^/?#\s])?")


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """A relay's settings.

    Attributes:
        gateways: Allowed gateways, name to base URL without a final slash. The gateway resource
            is at `<base>/ohttp`, its multiplexed connection at `<base>/mux`.
        host, port: Where to listen; port 0 lets the system choose.
        max_streams: Exchanges at once, over all clients; further ones get 503.
        max_client_streams: Exchanges at once of one client address (of IPv6 its /64), which may
            have twice as many connections. Behind a reverse proxy all clients have one address:
            set it to `max_streams` there, and let the proxy count.
        max_connections: Connections at once, over all clients; further ones are closed.
        max_request_bytes, max_response_bytes: Per exchange.
        head_timeout_s: For the head of a request to come whole.
        request_timeout_s: For a request to come whole, from its head.
        idle_timeout_s: Longest silence within an exchange, in both directions at once; an idle
            connection is kept as long.
        exchange_timeout_s: For a whole exchange.
        drain_s: How long exchanges may go on after the relay is told to stop.
        reconnect_min_s, reconnect_max_s: Shortest and longest pause between connection attempts
            to a gateway that is away; doubled at each failure.
        registry: Where the relay's metrics are registered.
    """

    gateways: dict[str, str]
    host: str = "127.0.0.1"
    port: int = 8081
    max_streams: int = 4096
    max_client_streams: int = 1024
    max_connections: int = 8192
    max_request_bytes: int = 16 * 1024 * 1024
    max_response_bytes: int = 64 * 1024 * 1024
    head_timeout_s: float = 10.0
    request_timeout_s: float = 120.0
    idle_timeout_s: float = 120.0
    exchange_timeout_s: float = 3600.0
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


class Passing(Protocol):
    """An exchange in progress."""

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes of its request and of its response so far."""
        ...


class RelayMetrics(Collector):
    """Counts, by gateway and outcome, never by client."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the relay's metrics."""
        self.streams = Counter(
            "sotto_relay_streams_total",
            "Exchanges that ended, by outcome.",
            ("gateway", "outcome"),
            registry=registry,
        )
        self.refused = Counter(
            "sotto_relay_refused_total",
            "Exchanges that did not begin, by reason.",
            ("reason",),
            registry=registry,
        )
        self.connections = Gauge(
            "sotto_relay_connections_open", "Connections of clients.", registry=registry
        )
        self.connections_refused = Counter(
            "sotto_relay_connections_refused_total",
            "Connections of clients that were closed at once, or before a request had come.",
            ("reason",),
            registry=registry,
        )
        self.gateway_up = Gauge(
            "sotto_relay_gateway_up",
            "Whether the last attempt to reach the gateway succeeded.",
            ("gateway",),
            registry=registry,
        )
        self._open: set[Passing] = set()
        self._ended_bytes = (0, 0)
        # The page is read in a thread of its own.
        self._lock = Lock()
        registry.register(self)

    def begin(self, exchange: Passing) -> None:
        """Count the bytes of an exchange from now on."""
        with self._lock:
            self._open.add(exchange)

    def end(self, exchange: Passing) -> None:
        """Count it among those that ended."""
        with self._lock:
            self._open.discard(exchange)
            self._ended_bytes = _sum([self._ended_bytes, exchange.passed])

    def collect(self) -> Iterator[Metric]:
        """What is counted where it passes, since a lock for every chunk would cost too much."""
        with self._lock:
            parts = [one.passed for one in self._open]
            totals = _sum([self._ended_bytes, *parts])
        yield GaugeMetricFamily(
            "sotto_relay_streams_open", "Exchanges in progress.", value=len(parts)
        )
        passed = CounterMetricFamily(
            "sotto_relay_bytes", "Sealed bytes forwarded.", labels=("direction",)
        )
        for direction, total in zip(("request", "response"), totals, strict=True):
            passed.add_metric((direction,), total)
        yield passed


def _sum(pairs: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(one for one, _ in pairs), sum(other for _, other in pairs)
