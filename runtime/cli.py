"""The `sotto` command."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import NoReturn

from runtime.commands import chat, personas, receipts, up, verify
from runtime.errors import Exit, SottoError


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="sotto", description="AI personas that you can confide in."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (up, chat, receipts, verify, personas):
        module.add_parser(commands)
    for point in importlib.metadata.entry_points(group="sottovoce.commands"):
        point.load().add_parser(commands)
    _add_roles(commands)
    return parser


def _add_roles(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for role in ("edge", "enclave", "log", "relay"):
        parser = commands.add_parser(role, help=f"run the {role} alone")
        parser.add_argument("--config", type=Path, required=role != "relay", help="its TOML file")
        parser.add_argument(
            "--lifeline", action="store_true", help="stop when standard input closes"
        )
        if role == "relay":
            parser.add_argument(
                "--gateway",
                action="append",
                metavar="NAME=URL",
                help="a gateway to relay to, instead of --config; may be repeated",
            )
            parser.add_argument("--port", type=int, default=8471)
            parser.add_argument("--host", default="127.0.0.1")
            parser.add_argument("--metrics-port", type=int, default=9471)
        parser.set_defaults(run=_run_role)


def _run_role(args: argparse.Namespace) -> int:
    from runtime import roles
    from runtime.config import RelayRoleConfig
    from runtime.telemetry import setup_logging

    if args.command != "relay" or args.config is not None:
        roles.run_role(args.command, args.config, lifeline=args.lifeline)
        return Exit.OK
    gateways = dict(one.partition("=")[::2] for one in args.gateway or [])
    if not gateways or not all(gateways.values()):
        raise SottoError("say which gateways: sotto relay --gateway NAME=URL", exit_code=Exit.USAGE)
    config = RelayRoleConfig(
        host=args.host, port=args.port, metrics_port=args.metrics_port, gateways=gateways
    )
    setup_logging("relay")
    roles.run_until_stopped(lambda stop: roles.run_relay(config, stop), lifeline=args.lifeline)
    return Exit.OK


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point: errors that a person can meet are one line; exit codes are `Exit`."""
    args = build_parser().parse_args(argv)
    try:
        code = args.run(args)
    except SottoError as error:
        if getattr(args, "json", False):
            from runtime.commands.common import print_json

            print_json({"error": {"code": error.code, "message": str(error)}})
        else:
            sys.stderr.write(f"sotto: {error}\n")
        code = error.exit_code
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`sotto receipts | head`): nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    sys.exit(int(code))
