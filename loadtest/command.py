"""`sotto loadtest run`: many real devices against a running system."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import uvloop

from loadtest.drivers import Load
from loadtest.records import Run, Setup
from loadtest.reports import as_json, as_table, summarize
from loadtest.scenarios import find_dialogues
from personas.errors import PersonaError
from personas.library import load_library
from personas.model import Persona
from runtime.commands.common import add_edge, add_home, load_policy, print_json, say
from runtime.errors import Exit, SetupError, SottoError

_MOST_CLIENTS = 4096
_MOST_TURNS = 10_000
_FEW_TURNS = 4
_LONG_S = 600.0


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("loadtest", help="measure a running system with real clients")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    run_parser = actions.add_parser(
        "run",
        help="let clients hold dialogues, and print figures",
        description="Each client is a device with a secret, a socket and receipts of its own. "
        "Exit code: 0 all turns answered, 1 some failed or a receipt was refused, 2 could not "
        "start, 130 interrupted.",
    )
    _add_load(run_parser)
    _add_output(run_parser)
    add_edge(run_parser)
    add_home(run_parser)
    run_parser.set_defaults(run=run)


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clients", type=_count(_MOST_CLIENTS), default=4, metavar="N", help="default: 4"
    )
    parser.add_argument(
        "--turns",
        type=_count(_MOST_TURNS),
        metavar="N",
        help=f"turns of each client (default: {_FEW_TURNS}, or as --duration allows)",
    )
    parser.add_argument(
        "--arrival",
        choices=["closed", "poisson"],
        default="closed",
        help="closed: a client speaks when it has been answered; poisson: turns come at --rate "
        "whatever the system does",
    )
    parser.add_argument(
        "--rate", type=_seconds, metavar="R", help="with poisson: turns per second, all clients"
    )
    parser.add_argument(
        "--duration",
        type=_seconds,
        metavar="S",
        help=f"no turn begins after S seconds (default: {_LONG_S:g})",
    )
    parser.add_argument(
        "--think",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="with closed: seconds between an answer and the next turn (default: 0)",
    )
    parser.add_argument(
        "--persona",
        nargs="+",
        metavar="HANDLE",
        help="whom the clients talk to, handed out in turns (default: all there are)",
    )
    parser.add_argument(
        "--dialogues",
        type=Path,
        metavar="FILE",
        help="CSV of Synthetic-Persona-Chat (default: synthetic-persona-chat/valid.csv in "
        "SOTTO_DATA, else built-in lines)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--receipts",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="how long to wait for a receipt to settle (default: 10)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file too")
    parser.add_argument("--records", action="store_true", help="put every turn into the JSON")


def _count(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else 0
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
        return value

    return parse


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 <= value < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 upwards")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        SottoError: It cannot start; exit code 2.
    """
    personas = _personas(args.persona)
    dialogues = find_dialogues(args.dialogues)
    policy, _ = load_policy(args)
    setup = _setup(args, personas, dialogues.source)
    if args.out is not None:
        _check_writable(args.out)
    load = Load(setup, policy, personas, dialogues)
    report = summarize(uvloop.run(_watched(load)))
    document = as_json(report, records=args.records)
    if args.out is not None:
        args.out.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    if args.json:
        print_json(document)
    else:
        say(as_table(report))
    return report.exit_code


def _personas(handles: list[str] | None) -> tuple[Persona, ...]:
    library = load_library()
    try:
        return tuple(library.get(handle) for handle in handles) if handles else tuple(library)
    except PersonaError as error:
        raise SottoError(str(error), code="persona_unknown", exit_code=Exit.USAGE) from None


def _setup(args: argparse.Namespace, personas: tuple[Persona, ...], dialogues: str) -> Setup:
    if (args.arrival == "poisson") != bool(args.rate):
        raise SetupError(
            "Poisson arrivals need a rate, and nothing else takes one: "
            "--arrival poisson --rate TURNS_PER_SECOND",
            code="rate",
        )
    few = _FEW_TURNS if args.duration is None else _MOST_TURNS
    return Setup(
        edge=args.edge,
        clients=args.clients,
        turns=few if args.turns is None else args.turns,
        arrival=args.arrival,
        rate=args.rate,
        duration_s=_LONG_S if args.duration is None else args.duration,
        think_s=args.think,
        receipts_s=args.receipts,
        seed=args.seed,
        personas=tuple(persona.handle for persona in personas),
        dialogues=dialogues,
    )


def _check_writable(path: Path) -> None:
    """Before the run: an hour's figures should not be lost to a typing error."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise SetupError(
            f"the report cannot be written to {path} ({error.strerror}); choose another --out",
            code="out",
        ) from None


async def _watched(load: Load) -> Run:
    """Run with Ctrl-C as a wish for the report, and progress on standard error."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    watching = asyncio.create_task(_show_progress(load))
    try:
        return await load.run(stop)
    finally:
        watching.cancel()
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _show_progress(load: Load) -> None:
    """One line that renews itself in a terminal, else a line now and then."""
    terminal = sys.stderr.isatty()
    pause = 1.0
    while True:
        await asyncio.sleep(pause)
        pause = 1.0 if terminal else 10.0
        now = load.progress()
        text = (
            f"{now.ended} turns ended, {now.failed} of them failed · {now.running} running · "
            f"{now.waiting} due · {now.receipts} receipts to come"
        )
        sys.stderr.write(f"\r\033[K{text}" if terminal else f"{text}\n")
        sys.stderr.flush()
