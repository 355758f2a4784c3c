"""`sotto personas audit`: does a log hold a place of some handle twice?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from personas.authorship import claim_entry
from proofs.errors import ProofError
from proofs.log.reader import LogReader, open_source
from runtime.client.home import DeviceHome
from runtime.client.rows import HandlePin
from runtime.commands.common import add_home, counted, home_folder, print_json, say
from runtime.errors import Exit, SottoError


def add_parsers(actions: Any) -> None:
    """Register the command."""
    parser = actions.add_parser(
        "audit",
        help="look through a log for handles that were given twice",
        description="Reads every entry. Of the handles that this device has seen, and of those "
        "named, each step must have one claim in the log, and there must be no claim after the "
        "newest. Exit codes: 0 all holds, 1 something does not, 2 the log cannot be read.",
    )
    parser.add_argument("log", metavar="DIR|URL", help="a log's folder, a mirror's, or a URL")
    parser.add_argument(
        "--handle", action="append", default=[], help="one that this device has not seen, too"
    )
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_home(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong: a stable word, and a sentence."""

    code: str
    text: str


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    home = DeviceHome(home_folder(args))
    try:
        pins = home.pins.all()
    finally:
        home.close()
    named = sorted(set(args.handle) - {one.handle for one in pins})
    try:
        with LogReader(open_source(args.log)) as reader:
            size, origin = reader.checkpoint.size, reader.checkpoint.origin
            problems = find_problems(reader.entries(0, size), pins, named)
    except ProofError as error:
        raise SottoError(f"{args.log}: {error}", code="unreadable", exit_code=Exit.USAGE) from None
    if args.json:
        told = [{"code": one.code, "text": one.text} for one in problems]
        seen = [one.handle for one in pins]
        print_json(
            {
                "holds": not problems,
                "origin": origin,
                "size": size,
                "handles": [*seen, *named],
                "problems": told,
            }
        )
    else:
        entries = counted(size, "entry", "entries")
        say(f"Log {origin} of {entries}: {'DOES NOT HOLD' if problems else 'HOLDS'}")
        others = counted(len(named), "other")
        say(f"  {counted(len(pins), 'handle')} that this device has seen, {others} by name")
        for one in problems:
            say(f"{one.code}: {one.text}")
    return Exit.FAILED if problems else Exit.OK


def find_problems(
    entries: Iterable[bytes], pins: Iterable[HandlePin], handles: Iterable[str] = ()
) -> list[Problem]:
    """Read a log's entries once, in order.

    An honest log takes each entry once, so that any that stands there twice is told, whoever's
    it is; it is a claim where a handle that is given here has it.

    Args:
        entries: 32 bytes each, about as much memory is taken as they have.
        pins: What the device has seen.
        handles: Others, of which only step 0 is looked for.
    """
    claims: dict[bytes, tuple[str, int]] = {}
    newest = {pin.handle: pin.number for pin in pins}
    for handle, number in [*newest.items(), *((one, 0) for one in handles)]:
        for place in range(number + 2):
            claims[claim_entry(handle, place)] = handle, place
    seen: set[bytes] = set()
    problems = []
    for index, entry in enumerate(entries):
        if entry in seen:
            whose = claims.get(entry)
            problems.append(
                Problem("entry_twice", f"entry {index} stands in the log before")
                if whose is None
                else Problem(
                    "claimed_twice",
                    f"step {whose[1]} of `{whose[0]}` is claimed once more at entry {index}: "
                    "the operator gave its place to two steps",
                )
            )
        seen.add(entry)
    for entry, (handle, place) in claims.items():
        if handle in newest and place <= newest[handle] and entry not in seen:
            problems.append(
                Problem("claim_missing", f"step {place} of `{handle}` has no claim in this log")
            )
        elif handle in newest and place > newest[handle] and entry in seen:
            problems.append(
                Problem(
                    "newer_step",
                    f"`{handle}` has a step {place} in the log that this device was not shown: "
                    f"`sotto personas history {handle}` should show it",
                )
            )
    return problems
