"""`sotto personas`: who is there to talk to, and what creators do with personas."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from personas.digest import persona_digest
from personas.library import load_library
from runtime.commands.common import print_json, say
from runtime.errors import Exit

# Each adds its own commands below this one.
_MODULES: tuple[str, ...] = (
    "personas_files",
    "personas_try",
    "personas_cards",
    "personas_keys",
    "personas_publish",
    "personas_handles",
    "personas_audit",
    "personas_search",
)


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "personas",
        help="list, find, write, test and publish personas",
        description="Without a further command, lists the personas of the bundled library.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    for module in _MODULES:
        importlib.import_module(f"runtime.commands.{module}").add_parsers(actions)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    library = load_library()
    if args.json:
        print_json(
            {
                "personas": [
                    {
                        "handle": one.handle,
                        "name": one.name,
                        "tagline": one.tagline,
                        "digest": persona_digest(one).hex(),
                    }
                    for one in library
                ]
            }
        )
    else:
        for one in library:
            say(f"{one.handle:<10} {one.name}: {one.tagline}")
    return Exit.OK
