"""The `sotto` command."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import NoReturn

from runtime.errors import Exit, SottoError

ROLES = ("edge", "enclave")
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
        "memory",
        "pair",
        "personas",
        "attest",
        "policy",
        "release",
        "model",
        "relay",
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
        parser.add_argument("--config", type=Path, required=True, help="its TOML file")
        parser.add_argument(
            "--lifeline", action="store_true", help="stop when standard input closes"
        )
        parser.set_defaults(run=_run_role)


def _run_role(args: argparse.Namespace) -> int:
    from runtime import roles

    roles.run_role(args.command, args.config, lifeline=args.lifeline)
    return Exit.OK


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
