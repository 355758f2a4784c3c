"""Metrics and logs: ids, sizes, digests and timings; never content, addresses or keys."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from threading import Thread
from wsgiref.simple_server import WSGIServer

from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from runtime.errors import SetupError

_LATENCY = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
_OPENING = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
_INTER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0)


class EnclaveMetrics:
    """What the enclave counts. Engine queue and pending receipts are read when scraped."""

    def __init__(
        self, registry: CollectorRegistry, *, queue: Callable[[], int], pending: Callable[[], int]
    ) -> None:
        self.turns = Counter(
            "sotto_turns", "Turns by outcome", ["engine", "outcome"], registry=registry
        )
        self.completions = Counter(
            "sotto_completions",
            "Chat completions by outcome",
            ["engine", "outcome"],
            registry=registry,
        )
        self.ttft = Histogram(
            "sotto_time_to_first_token_seconds",
            "From the opened request to the first text",
            ["engine"],
            buckets=_LATENCY,
            registry=registry,
        )
        self.inter_token = Histogram(
            "sotto_inter_token_seconds",
            "Between deltas of one reply, per token",
            ["engine"],
            buckets=_INTER_TOKEN,
            registry=registry,
        )
        self.refused = Counter(
            "sotto_gateway_refused",
            "Requests refused by the gateway",
            ["reason"],
            registry=registry,
        )
        self.receipts = Counter("sotto_receipts_issued", "Receipts handed over", registry=registry)
        Gauge("sotto_engine_queue", "Requests inside the engine", registry=registry).set_function(
            queue
        )
        Gauge(
            "sotto_receipts_pending", "Receipts not yet handed over", registry=registry
        ).set_function(pending)


class MemoryMetrics:
    """What the enclave counts of memory: how much and how long, never what."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.notes = Counter(
            "sotto_memory_notes", "Threads whose notes were due", ["outcome"], registry=registry
        )
        self.facts = Counter("sotto_memory_facts", "Facts learned", registry=registry)
        self.summaries = Counter("sotto_memory_summaries", "Summaries made", registry=registry)
        self.recalled = Counter(
            "sotto_memory_recalled", "Memories that were put into prompts", registry=registry
        )
        self.opening = Histogram(
            "sotto_memory_opening_seconds",
            "From the begin of a turn to its opened thread",
            ["view"],
            buckets=_OPENING,
            registry=registry,
        )
        self.remembering = Histogram(
            "sotto_memory_remembering_seconds",
            "Notes and summaries of a turn, after its answer",
            buckets=_LATENCY,
            registry=registry,
        )
        self.pending = Gauge("sotto_memory_pending", "Threads whose notes wait", registry=registry)
        self.views = Gauge("sotto_memory_views", "Threads that are open", registry=registry)


class EdgeMetrics:
    """What the edge counts; it cannot see a turn, only streams."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sockets = Gauge("sotto_open_sockets", "Open websockets", registry=registry)
        self.streams = Gauge("sotto_open_streams", "Open sealed streams", registry=registry)
        self.streams_total = Counter(
            "sotto_streams", "Sealed streams by outcome", ["outcome"], registry=registry
        )
        self.first_byte = Histogram(
            "sotto_stream_first_byte_seconds",
            "From the sealed request's end to the first sealed byte back",
            buckets=_LATENCY,
            registry=registry,
        )
        self.receipts = Counter(
            "sotto_receipts_pushed", "Receipt events pushed", ["kind"], registry=registry
        )
        self.resumed = Counter(
            "sotto_sessions_resumed", "Resume requests by outcome", ["outcome"], registry=registry
        )


def serve_metrics(registry: CollectorRegistry, port: int) -> tuple[WSGIServer, Thread]:
    """Serve Prometheus metrics on loopback; raises SetupError where the port is taken."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    try:
        return start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise SetupError(
            f"the metrics port {port} on loopback is taken ({error.strerror}); "
            "choose another metrics_port"
        ) from error


def setup_logging(role: str) -> None:
    """One line per event on standard error, the role's name first."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s {role} %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    # These log peers' addresses at INFO or DEBUG.
    for name in ("aiohttp.access", "websockets", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_only_the_place)


def _only_the_place(record: logging.LogRecord) -> bool:
    """Where a handler failed. aiohttp would add who asked, and what it could not read."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        return False  # a client's mistake, as often as it likes
    place = "".join(traceback.format_tb(error.__traceback__)) if error is not None else ""
    record.msg, record.args = "an HTTP handler failed: %s at\n%s", (type(error).__name__, place)
    record.exc_info = record.exc_text = None
    return True
