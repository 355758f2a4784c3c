"""`sotto witness`: cosign the checkpoints of logs that only grow, alone, as anyone may."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from runtime.commands.alone import (
    add_config,
    add_listening,
    announce,
    choose_config,
    http_url,
    metrics_url,
)
from runtime.errors import Exit


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "witness",
        help="run a witness of transparency logs",
        description="Cosigns the checkpoints of logs that only grow (c2sp.org/tlog-witness). "
        "docs/witness.md says how to run one.",
    )
    add_config(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="its folder: keys, made on first start, and records",
    )
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="VKEY",
        help="a log's key, as its operator publishes it; may be repeated",
    )
    parser.add_argument("--name", help="its name in cosignatures, for ever, such as example.com/w1")
    add_listening(parser, 8474, "where it listens and its keys")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from runtime import roles
    from runtime.config import WitnessRoleConfig
    from runtime.telemetry import setup_logging

    given = {
        "host": args.host,
        "port": args.port,
        "metrics_port": args.metrics_port,
        "directory": None if args.data is None else str(args.data),
        "logs": args.log or None,
        "name": args.name,
    }
    config = choose_config(
        WitnessRoleConfig,
        args.config,
        given,
        needed=frozenset({"directory", "logs"}),
        source="the witness's options",
        usage="say where and for which log: sotto witness --data DIR --log VKEY",
    )

    def listening(port: int, metrics_port: int, vkeys: tuple[str, ...]) -> None:
        url, metrics = http_url(config.host, port), metrics_url(metrics_port)
        names = _names(config.logs)
        told = {"witness": url, "vkeys": vkeys, "logs": names, "metrics": metrics}
        line = (
            f"witness {vkeys[0].partition('+')[0]}: {url} for {', '.join(names)}; "
            f"its keys: {config.directory / 'vkey'}; metrics: {metrics}"
        )
        announce(line, told if args.json else None)

    setup_logging("witness")
    roles.run_until_stopped(
        lambda stop: roles.run_witness(config, stop, listening=listening), lifeline=args.lifeline
    )
    return Exit.OK


def _names(vkeys: tuple[str, ...]) -> list[str]:
    return sorted({vkey.partition("+")[0] for vkey in vkeys})
