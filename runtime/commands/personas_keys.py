"""`sotto personas keys`: the key that owns a creator's handles, and those of private personas."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from personas.authorship import fingerprint, public_key
from runtime.client.creator import CreatorKeys
from runtime.client.home import DeviceHome
from runtime.commands.common import add_home, counted, home_folder, plain, print_json, say
from runtime.errors import Exit, SottoError


def add_parsers(actions: Any) -> None:
    """Register the command."""
    keys = actions.add_parser(
        "keys",
        help="show, make, export or import your creator's key",
        description="Makes the key that signs where there is none, and shows its public half.",
    )
    where = keys.add_mutually_exclusive_group()
    where.add_argument(
        "--export", type=Path, metavar="FILE", help="write the keys into this new file"
    )
    where.add_argument("--import", type=Path, metavar="FILE", dest="take", help="take keys from it")
    keys.add_argument(
        "--handle",
        help="with --export: only what opens this private persona, for a new owner",
    )
    keys.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_home(keys)
    keys.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    """`sotto personas keys`."""
    if args.handle is not None and args.export is None:
        raise SottoError("--handle goes with --export FILE", exit_code=Exit.USAGE)
    folder = home_folder(args)
    DeviceHome(folder).close()  # makes the folder, for its owner alone
    keys = CreatorKeys(folder)
    moved: dict[str, int] = {}
    if args.take is not None:
        moved = {"imported": keys.take(args.take)}
    elif args.export is not None:
        moved = {"exported": keys.export(args.export, args.handle)}
    if args.handle is not None:
        told: dict[str, object] = dict(moved)
    else:
        key = public_key(keys.signing(make=args.export is None))
        told = {"key": key.hex(), "fingerprint": fingerprint(key), **moved}
    if args.json:
        print_json(told)
        return Exit.OK
    for name, value in told.items():
        if name not in moved:
            say(f"{name:<11} {value}")
    if args.take is not None:
        say(f"Took over {counted(moved['imported'], 'key')} that this device did not have.")
    if args.export is not None:
        say(f"Wrote {counted(moved['exported'], 'key')} into {plain(str(args.export))}.")
        say("Whoever has this file has these keys: keep it where you keep secrets.")
    return Exit.OK
