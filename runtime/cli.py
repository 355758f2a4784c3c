"""The `sotto` command."""

from __future__ import annotations

import argparse
import difflib
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


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong with a command line as every other error is told."""

    def error(self, message: str) -> NoReturn:
        """Raise SottoError in place of a page of usage."""
        said = message.removeprefix("argument ")
        raise SottoError(
            f"{said}; `{self.prog} --help` says what it takes",
            code="usage",
            exit_code=Exit.USAGE,
        )


def build_parser(argv: list[str]) -> argparse.ArgumentParser:
    """Commands and their options; imports no more than the command that `argv` names.

    A role that starts should not load what a chat or a load test needs.

    Raises:
        SottoError: `argv` names a command that is none.
    """
    parser = _Parser(
        prog="sotto",
        description="AI personas that you can confide in.",
        epilog="`sotto COMMAND --help` says more. Exit codes: 0 done, 1 it failed or does not "
        "hold, 2 usage or unreadable, 130 interrupted.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"sottovoce {importlib.metadata.version('sottovoce')}",
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
    elif named and not named.startswith("-"):
        near = difflib.get_close_matches(named, [*modules, *ROLES], n=1)
        meant = f"; did you mean `sotto {near[0]}`?" if near else "."
        raise SottoError(
            f"there is no command {named[:40]!r}{meant} `sotto --help` lists all",
            code="usage",
            exit_code=Exit.USAGE,
        )
    for module in modules.values():
        importlib.import_module(module).add_parser(commands)
    _add_roles(commands)
    return parser


def _add_roles(commands: argparse._SubParsersAction[_Parser]) -> None:
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
        parser = build_parser(argv)
        if argv:
            args = parser.parse_args(argv)
            code = args.run(args)
        else:
            parser.print_help(sys.stderr)
            code = Exit.USAGE
    except SottoError as error:
        code = _report(error, as_json=getattr(args, "json", "--json" in argv))
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
            SottoError(
                f"{type(error).__name__}: {error}. This is a defect of Sottovoce; "
                "SOTTO_TRACEBACK=1 shows where it is, for a report",
                code="internal",
            ),
            as_json=getattr(args, "json", "--json" in argv),
        )
    sys.exit(int(code))


def _report(error: SottoError, *, as_json: bool) -> int:
    """Tell people in one line, programs in JSON; the exit code."""
    from runtime.commands.common import note, plain, print_json

    if as_json:
        print_json({"error": {"code": error.code, "message": str(error)}})
    else:
        # It may repeat names that somebody else chose.
        note("sotto: " + plain(str(error)).replace("\n", " "))
    return error.exit_code
