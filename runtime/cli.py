"""The `sotto` command."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import re
import sys
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from runtime.errors import Exit, SottoError
from transport.relay.name import GATEWAY_NAME

ROLES = ("edge", "enclave", "relay")
_COMMANDS = {
    name: f"runtime.commands.{name}"
    for name in (
        "up",
        "chat",
        "proxy",
        "receipts",
        "verify",
        "audit",
        "forget",
        "personas",
        "attest",
        "policy",
        "release",
        "model",
        "witness",
        "log",
    )
}


def build_parser(argv: list[str]) -> argparse.ArgumentParser:
    """Commands and their options; imports no more than the command that `argv` names.

    A role that starts should not load what a chat or a load test needs.
    """
    parser = argparse.ArgumentParser(
        prog="sotto", description="AI personas that you can confide in."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = dict(_COMMANDS)
    for point in importlib.metadata.entry_points(group="sottovoce.commands"):
        modules[point.name] = point.value
    named = argv[0] if argv else ""
    if named in modules:
        modules = {named: modules[named]}
    elif named in ROLES:
        modules = {}
    for module in modules.values():
        importlib.import_module(module).add_parser(commands)
    _add_roles(commands)
    return parser


def _add_roles(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for role in ROLES:
        parser = commands.add_parser(role, help=f"run the {role} alone")
        parser.add_argument("--config", type=Path, required=role != "relay", help="its TOML file")
        parser.add_argument(
            "--lifeline", action="store_true", help="stop when standard input closes"
        )
        if role == "relay":
            _add_relay(parser)
        parser.set_defaults(run=_run_relay if role == "relay" else _run_role)


def _add_relay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gateway",
        action="append",
        default=[],
        metavar="[NAME=]URL",
        help="a gateway to relay to, instead of --config; its name is the URL's host where none "
        "is given; may be repeated",
    )
    parser.add_argument("--port", type=int, help="where to listen (default: 8471)")
    parser.add_argument("--host", help="on which address (default: 127.0.0.1)")
    parser.add_argument("--metrics-port", type=int, help="metrics, on loopback (default: 9471)")
    parser.add_argument("--json", action="store_true", help="say where it listens in JSON")


def _run_role(args: argparse.Namespace) -> int:
    from runtime import roles

    roles.run_role(args.command, args.config, lifeline=args.lifeline)
    return Exit.OK


def _run_relay(args: argparse.Namespace) -> int:
    from runtime import roles
    from runtime.config import RelayRoleConfig, load_config, parse_config
    from runtime.telemetry import setup_logging

    given = {
        "host": args.host,
        "port": args.port,
        "metrics_port": args.metrics_port,
        "gateways": _gateways(args.gateway) or None,
    }
    options = {key: value for key, value in given.items() if value is not None}
    if args.config is not None and options:
        raise SottoError(
            "--config FILE stands alone: write host, port, metrics_port and gateways into the file",
            exit_code=Exit.USAGE,
        )
    if args.config is not None:
        config = load_config(RelayRoleConfig, args.config)
    elif "gateways" in options:
        config = parse_config(RelayRoleConfig, options, "the relay's options")
    else:
        raise SottoError("say which gateway: sotto relay --gateway URL", exit_code=Exit.USAGE)

    def listening(port: int, metrics_port: int) -> None:
        relay = _http_url(config.host, port)
        metrics = _http_url("127.0.0.1", metrics_port) + "/metrics"
        names = sorted(config.gateways)
        if args.json:
            told = {"relay": relay, "gateways": names, "metrics": metrics}
            line = json.dumps(told)
        else:
            line = f"relay: {relay} for {', '.join(names)}; metrics: {metrics}"
        # Whoever started it need not stay to read this.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    setup_logging("relay")
    roles.run_until_stopped(
        lambda stop: roles.run_relay(config, stop, listening=listening), lifeline=args.lifeline
    )
    return Exit.OK


def _http_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _gateways(given: list[str]) -> dict[str, str]:
    """Gateways by name; a URL alone has its host for a name."""
    found: dict[str, str] = {}
    for one in given:
        named = not one.startswith(("http://", "https://"))
        name, _, url = one.partition("=") if named else (_host(one), "", one)
        if not url.startswith(("http://", "https://")):
            raise SottoError(
                "a gateway is given as URL or NAME=URL, with a URL of the form "
                "http(s)://host[:port][/path]",
                exit_code=Exit.USAGE,
            )
        if re.fullmatch(GATEWAY_NAME, name) is None:
            raise SottoError(
                "a gateway's name has lowercase letters, digits, . _ and - only; where its host is "
                "no such name, give one: --gateway NAME=URL",
                exit_code=Exit.USAGE,
            )
        if name in found:
            raise SottoError(
                f"two gateways are named {name}; give each a name: --gateway NAME=URL",
                exit_code=Exit.USAGE,
            )
        found[name] = url.rstrip("/")
    return found


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point: errors that a person can meet are one line; exit codes are `Exit`."""
    argv = sys.argv[1:] if argv is None else argv
    args = argparse.Namespace()
    try:
        # What a command imports takes a moment, in which Ctrl-C may come, too.
        args = build_parser(argv).parse_args(argv)
        code = args.run(args)
    except SottoError as error:
        code = _report(args, error)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`sotto receipts | head`): nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    except Exception as error:
        if "SOTTO_TRACEBACK" in os.environ:
            raise
        code = _report(
            args,
            SottoError(
                f"{type(error).__name__}: {error}. This is a defect of Sottovoce; "
                "SOTTO_TRACEBACK=1 shows where it is, for a report",
                code="internal",
            ),
        )
    sys.exit(int(code))


def _report(args: argparse.Namespace, error: SottoError) -> int:
    """Tell people in one line, programs in JSON; the exit code."""
    from runtime.commands.common import plain, print_json

    if getattr(args, "json", False):
        print_json({"error": {"code": error.code, "message": str(error)}})
    else:
        # It may repeat names that somebody else chose.
        line = plain(str(error)).replace("\n", " ")
        sys.stderr.write(f"sotto: {line}\n")
    return error.exit_code
