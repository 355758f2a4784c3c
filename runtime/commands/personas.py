"""`sotto personas`: who is there to talk to."""

from __future__ import annotations

import argparse
from typing import Any

from personas.digest import persona_digest
from personas.library import load_library
from runtime.commands.common import print_json, say
from runtime.errors import Exit


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("personas", help="list the personas of the bundled library")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


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
