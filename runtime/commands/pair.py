"""`sotto pair`: give another device of yours the keys to your conversations."""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
import time
from typing import Any

from runtime.client.handing import check_fresh
from runtime.client.home import DeviceHome
from runtime.client.pairing import LIMIT_S, MAX_DEVICE_NAME, Code, hand_over, take
from runtime.client.sealed import SealedHttp
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_way,
    carrier,
    home_folder,
    load_policy,
    note,
    plain,
    print_json,
    say,
)
from runtime.errors import Exit

_MAX_LINE = 256
_TOLD_EVERY_S = 60.0


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "pair",
        help="give another device of yours the keys to your conversations",
        description="On the device with the conversations: shows a code of twelve digits and "
        "waits. On the new device, with --join: asks for that code, or reads it from standard "
        "input. A code is good for one try and ten minutes.",
    )
    parser.add_argument("--join", action="store_true", help="this is the new device")
    parser.add_argument(
        "--name",
        default=platform.node(),
        help="with --join: what the other device calls this one (default: this machine's name)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_way(parser)
    add_home(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    policy, _ = load_policy(args)
    folder = home_folder(args)
    DeviceHome(folder).close()  # makes it where it is not there, and brings it up to date
    code = None
    if args.join:
        check_fresh(folder)
        code = _read_code()
    way = carrier(args)
    http = SealedHttp(way, policy)

    async def act() -> None:
        await way.start(lambda event: None, lambda: None)
        try:
            await (_hand_over(args, http) if code is None else _take(args, http, code))
        finally:
            await way.close()
        if http.simulated and not args.json:
            note(SIMULATED_LINE)

    asyncio.run(act())
    return Exit.OK


def _read_code() -> Code:
    """From standard input, not from an argument: all users of a machine see those."""
    if sys.stdin.isatty():
        sys.stderr.write("Code that the other device shows: ")
        sys.stderr.flush()
    return Code.parse(sys.stdin.readline(_MAX_LINE))


async def _hand_over(args: argparse.Namespace, http: SealedHttp) -> None:
    begun = told = time.monotonic()

    def show(code: Code) -> None:
        if args.json:
            print_json({"code": str(code), "seconds": int(LIMIT_S)})
            return
        say(f"Code: {code}")
        say("On the new device: sotto pair --join")
        say(f"Waiting for it, {LIMIT_S / 60:.0f} minutes at most. Who has the code gets the keys.")

    def progress() -> None:
        nonlocal told
        if not args.json and time.monotonic() - told >= _TOLD_EVERY_S:
            told = time.monotonic()
            sys.stderr.write(f"still waiting, {(begun + LIMIT_S - told) / 60:.0f} minutes left\n")

    name, count = await hand_over(http, home_folder(args), show, progress=progress)
    if args.json:
        print_json({"paired": {"name": name, "conversations": count}, "simulated": http.simulated})
        return
    say(f"Paired with {plain(name) or 'a device without a name'}: it has {_shown(count)} now.")
    say("Receipts and what was said on this device stay here.")


async def _take(args: argparse.Namespace, http: SealedHttp, code: Code) -> None:
    if not args.json:
        say("Asking the other device...")
    handed = await take(http, home_folder(args), code, args.name[:MAX_DEVICE_NAME])
    personas = sorted(persona for persona, *_ in handed.threads)
    if args.json:
        print_json({"joined": {"conversations": personas}, "simulated": http.simulated})
        return
    say(f"This device has {_shown(len(personas))} now{': ' if personas else '.'}", end="")
    say(plain(", ".join(personas)))
    say("Receipts and what was said before stay on the other device.")


def _shown(count: int) -> str:
    return f"{count} conversation{'' if count == 1 else 's'}"
