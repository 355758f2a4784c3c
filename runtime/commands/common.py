"""Where commands find the device's folder, its policy and the edge, how they print and ask."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TextIO

import orjson

from proofs.policy import Policy
from runtime.client.carrier import Carrier
from runtime.client.places import DEFAULT_EDGE, find_carrier, find_home, find_policy
from runtime.errors import Exit, SottoError
from transport.shaping import DEFAULT_SHAPING, Shaping

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SIMULATED_LINE = (
    "SIMULATED attestation: no confidential hardware stands behind this enclave. "
    "It shows the flow and proves nothing about the machine."
)


def add_home(parser: argparse.ArgumentParser) -> None:
    """``--home`` and ``--policy``, listed behind what is the command's own."""
    group = parser.add_argument_group("this device")
    group.add_argument(
        "--home",
        type=Path,
        help="this device's folder (default: SOTTO_HOME, else data/device here, else "
        "~/.local/share/sottovoce)",
    )
    group.add_argument(
        "--policy",
        type=Path,
        help="what an enclave must prove (default: SOTTO_POLICY, else policy.toml in the "
        "device's folder, else a built-in policy that refuses simulated evidence)",
    )
    group.add_argument(
        "--allow-simulated",
        action="store_true",
        help="let simulated evidence pass, where the policy does not; says so on every screen",
    )


def add_edge(parser: argparse._ActionsContainer) -> None:
    """``--edge``."""
    parser.add_argument(
        "--edge",
        default=os.environ.get("SOTTO_EDGE", DEFAULT_EDGE),
        help=f"the edge's websocket (default: SOTTO_EDGE, else {DEFAULT_EDGE})",
    )


def add_way(parser: argparse.ArgumentParser) -> None:
    """``--edge`` or ``--relay``, listed behind what is the command's own."""
    group = parser.add_argument_group("the way to an enclave")
    add_edge(group)
    parser.set_defaults(edge=None)
    group.add_argument(
        "--relay",
        action="append",
        default=[],
        metavar="URL",
        help="go straight to this relay, without an edge; given twice, each exchange goes through "
        "one of the two, so that neither sees every exchange",
    )


def _shaping(text: str) -> Shaping:
    try:
        return Shaping(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(Shaping)}") from None


def add_shaping(parser: argparse.ArgumentParser) -> None:
    """``--shaping``."""
    parser.add_argument(
        "--shaping",
        type=_shaping,
        choices=list(Shaping),
        default=DEFAULT_SHAPING,
        help="what sizes and times may tell to whoever watches: off hides nothing, bucket pads "
        f"sizes, cadence sends one size on a clock (default: {DEFAULT_SHAPING})",
    )


def home_folder(args: argparse.Namespace) -> Path:
    """The device's folder."""
    return find_home(args.home)


def load_policy(args: argparse.Namespace) -> tuple[Policy, str]:
    """The policy in force and where it comes from."""
    return find_policy(args.policy, home_folder(args), allow_simulated=args.allow_simulated)


def carrier(args: argparse.Namespace) -> Carrier:
    """How sealed bytes travel: `add_way` reads it from the command line."""
    return find_carrier(args.edge, args.relay)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()


def say(text: str = "", *, end: str = "\n") -> None:
    """Text for people on standard output, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def wrapped(text: str, stream: TextIO) -> str:
    """A paragraph, broken between words where a terminal shows it; unchanged for programs."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def note(text: str) -> None:
    """A paragraph for people beside what was asked for: on standard error."""
    sys.stderr.write(wrapped(text, sys.stderr) + "\n")


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts, such as "1 entry", "2 entries" or "no entries"."""
    what = one if number == 1 else many or f"{one}s"
    return f"{number:,} {what}" if number else f"no {what}"


def confirm(args: argparse.Namespace, question: str) -> None:
    """Ask whoever is here, unless `--yes` was said.

    Raises:
        SottoError: They do not want it, or nobody is here.
    """
    if args.yes:
        return
    if args.json or not sys.stdin.isatty():
        raise SottoError(
            "this asks before it does anything, and nobody is here to answer; say --yes",
            code="not_confirmed",
            exit_code=Exit.USAGE,
        )
    say(f"{question} Type yes: ", end="")
    answer = ""
    with contextlib.suppress(EOFError):
        answer = input().strip()
    if answer != "yes":
        raise SottoError("nothing was changed", code="not_confirmed")


def plain(text: str) -> str:
    """A model's words without control characters: a terminal would obey them."""
    return _CONTROL.sub(" ", text)


def dim(text: str) -> str:
    """Less important text, where the terminal can show it."""
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
