"""`sotto witness`: cosign the checkpoints of logs that only grow, alone, as anyone may."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from runtime.errors import Exit, SottoError


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "witness",
        help="run a witness of transparency logs",
        description="Cosigns the checkpoints of logs that only grow (c2sp.org/tlog-witness). "
        "docs/witness.md says how to run one.",
    )
    parser.add_argument("--config", type=Path, help="its TOML file, instead of the options")
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
    parser.add_argument("--port", type=int, help="where to listen (default: 8474)")
    parser.add_argument("--host", help="on which address (default: 127.0.0.1)")
    parser.add_argument("--metrics-port", type=int, help="metrics, on loopback (default: 9474)")
    parser.add_argument(
        "--json", action="store_true", help="say where it listens and its keys in JSON"
    )
    parser.add_argument("--lifeline", action="store_true", help="stop when standard input closes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from runtime import roles
    from runtime.config import WitnessRoleConfig, load_config, parse_config
    from runtime.telemetry import setup_logging

    given = {
        "host": args.host,
        "port": args.port,
        "metrics_port": args.metrics_port,
        "directory": None if args.data is None else str(args.data),
        "logs": args.log or None,
        "name": args.name,
    }
    options = {key: value for key, value in given.items() if value is not None}
    if args.config is not None and options:
        raise SottoError(
            "--config FILE stands alone: write host, port, metrics_port, directory, logs and name "
            "into the file",
            exit_code=Exit.USAGE,
        )
    if args.config is not None:
        config = load_config(WitnessRoleConfig, args.config)
    elif {"directory", "logs"} <= set(options):
        config = parse_config(WitnessRoleConfig, options, "the witness's options")
    else:
        raise SottoError(
            "say where and for which log: sotto witness --data DIR --log VKEY",
            exit_code=Exit.USAGE,
        )

    def listening(port: int, metrics_port: int, vkeys: tuple[str, ...]) -> None:
        host = f"[{config.host}]" if ":" in config.host else config.host
        url, metrics = f"http://{host}:{port}", f"http://127.0.0.1:{metrics_port}/metrics"
        if args.json:
            told = {"witness": url, "vkeys": vkeys, "logs": _names(config.logs), "metrics": metrics}
            line = json.dumps(told)
        else:
            line = (
                f"witness {vkeys[0].partition('+')[0]}: {url} for {', '.join(_names(config.logs))}"
                f"; its keys: {config.directory / 'vkey'}; metrics: {metrics}"
            )
        # Whoever started it need not stay to read this.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    setup_logging("witness")
    roles.run_until_stopped(
        lambda stop: roles.run_witness(config, stop, listening=listening), lifeline=args.lifeline
    )
    return Exit.OK


def _names(vkeys: tuple[str, ...]) -> list[str]:
    return sorted({vkey.partition("+")[0] for vkey in vkeys})
