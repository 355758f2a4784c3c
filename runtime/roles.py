"""Run one role as a process: configuration, logging, signals, and the way down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from runtime.config import (
    EdgeConfig,
    EnclaveConfig,
    LogRoleConfig,
    RelayRoleConfig,
    WitnessRoleConfig,
    load_config,
)
from runtime.errors import SetupError, SottoError
from runtime.serving import port_error
from runtime.telemetry import serve_metrics, setup_logging

Stop = asyncio.Event
Listening = Callable[[int, int], None]
# The port, the metrics' port, and the log's vkey.
Logging = Callable[[int, int, str], None]
# The port, the metrics' port, and vkeys.
Witnessing = Callable[[int, int, tuple[str, ...]], None]


async def _edge(path: Path, stop: Stop) -> None:
    from runtime.edge.server import serve

    await serve(load_config(EdgeConfig, path), stop)


async def _enclave(path: Path, stop: Stop) -> None:
    from runtime.enclave.server import serve

    await serve(load_config(EnclaveConfig, path), stop)


async def _relay(path: Path, stop: Stop) -> None:
    await run_relay(load_config(RelayRoleConfig, path), stop)


async def run_relay(
    config: RelayRoleConfig, stop: Stop, *, listening: Listening | None = None
) -> None:
    """The relay needs no more than names and addresses of gateways.

    `listening` is told the ports of the relay and of its metrics.
    """
    from prometheus_client import CollectorRegistry

    from transport.errors import UsageError
    from transport.relay.config import RelayConfig
    from transport.relay.server import serve

    registry = CollectorRegistry()
    try:
        relay = RelayConfig(**config.model_dump(exclude={"metrics_port"}), registry=registry)
    except UsageError as error:
        raise SetupError(str(error)) from None
    metrics, _ = serve_metrics(registry, config.metrics_port)

    def started(port: int) -> None:
        if listening is not None:
            listening(port, metrics.server_port)

    try:
        await serve(relay, stop, started=started)
    except OSError as error:
        raise port_error(config.host, config.port, error) from None


async def _log(path: Path, stop: Stop) -> None:
    await run_log(load_config(LogRoleConfig, path), stop)


async def run_log(config: LogRoleConfig, stop: Stop, *, listening: Logging | None = None) -> None:
    """The log needs Redis, its folder and its key; `listening` is told what it is."""
    from prometheus_client import CollectorRegistry

    from proofs.errors import ProofError, UnreadableError
    from proofs.log.service import LogConfig, serve
    from proofs.log.witnesses import WitnessAddress
    from proofs.note import COSIGNER_KEYS, parse_vkey

    try:
        witnesses = tuple(
            WitnessAddress(parse_vkey(one.vkey, COSIGNER_KEYS), one.url) for one in config.witnesses
        )
    except UnreadableError as error:
        raise SetupError(f"a witness cannot be used: {error}") from None
    # A witness with two keys is listed twice under one URL, and counts once.
    majority = len({one.url.rstrip("/") for one in witnesses}) // 2 + 1 if witnesses else 0
    registry = CollectorRegistry()
    metrics, _ = serve_metrics(registry, config.metrics_port)
    log = LogConfig(
        **config.model_dump(exclude={"metrics_port", "witnesses", "witness_quorum"}),
        witnesses=witnesses,
        quorum=majority if config.witness_quorum is None else config.witness_quorum,
        registry=registry,
    )

    def started(port: int, vkey: str) -> None:
        if listening is not None:
            listening(port, metrics.server_port, vkey)

    try:
        await serve(log, stop, started=started)
    except ProofError as error:
        raise SottoError(str(error), code="log") from None


async def _witness(path: Path, stop: Stop) -> None:
    await run_witness(load_config(WitnessRoleConfig, path), stop)


async def run_witness(
    config: WitnessRoleConfig, stop: Stop, *, listening: Witnessing | None = None
) -> None:
    """The witness needs no more than the keys of logs; `listening` is told what it is."""
    from prometheus_client import CollectorRegistry

    from proofs.errors import LogError, UnreadableError
    from proofs.note import parse_vkey
    from proofs.witness.service import WitnessConfig, serve

    try:
        logs = tuple(parse_vkey(vkey) for vkey in config.logs)
    except UnreadableError as error:
        raise SetupError(f"a log's key cannot be used: {error}") from None
    registry = CollectorRegistry()
    metrics, _ = serve_metrics(registry, config.metrics_port)
    witness = WitnessConfig(
        host=config.host,
        port=config.port,
        directory=config.directory,
        logs=logs,
        name=config.name,
        registry=registry,
    )

    def started(port: int, vkeys: tuple[str, ...]) -> None:
        if listening is not None:
            listening(port, metrics.server_port, vkeys)

    try:
        await serve(witness, stop, started=started)
    except LogError as error:
        raise SetupError(str(error), code="witness") from None


ROLES: dict[str, Callable[[Path, Stop], Awaitable[None]]] = {
    "edge": _edge,
    "enclave": _enclave,
    "relay": _relay,
    "log": _log,
    "witness": _witness,
}


def run_role(role: str, path: Path, *, lifeline: bool = False) -> None:
    """Run a role until SIGTERM, SIGINT, or, with a lifeline, until standard input closes.

    The lifeline is how a supervisor that dies without a word takes its children with it.
    """
    setup_logging(role)
    run_until_stopped(lambda stop: ROLES[role](path, stop), lifeline=lifeline)


def run_until_stopped(main: Callable[[Stop], Awaitable[None]], *, lifeline: bool = False) -> None:
    """Run `main` with an event that is set when the process should end."""

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if lifeline:
            os.set_blocking(sys.stdin.fileno(), False)
            loop.add_reader(sys.stdin.fileno(), _lifeline_event, stop)
        await main(stop)

    try:
        uvloop.run(body())
    except OSError as error:
        raise SetupError(f"the operating system refused: {error}") from error


def _lifeline_event(stop: Stop) -> None:
    with contextlib.suppress(BlockingIOError):
        if not os.read(sys.stdin.fileno(), 64):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            stop.set()
