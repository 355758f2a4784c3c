"""`sotto forget PERSONA`: have a conversation erased, and keep the receipt of it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from memory.thread import Position
from personas.errors import PersonaError
from personas.library import load_library
from proofs.erasure import decode_erasure
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.rows import ErasureRow
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_way,
    carrier,
    home_folder,
    load_policy,
    note,
    print_json,
    say,
)
from runtime.errors import Exit, SottoError

_SETTLE_S = 5.0


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "forget",
        help="have the conversation with a persona erased",
        description="The enclave erases the conversation and signs that it did; this device "
        "forgets what was said and begins a new one. Receipts stay. Nothing brings it back.",
    )
    parser.add_argument("persona", help="the persona's handle")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print JSON; needs --yes")
    add_way(parser)
    add_home(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    policy, _ = load_policy(args)
    home = DeviceHome(home_folder(args))
    try:
        check_handle(args.persona, home)
        if not args.yes and not _confirmed(args):
            say("Nothing was forgotten.")
            return Exit.FAILED
        device = Device(home, policy, carrier(args))
        return asyncio.run(_forget(args, home, device))
    finally:
        home.close()


def check_handle(handle: str, home: DeviceHome) -> None:
    """Refuse a handle that nobody has: a persona that is gone has memories all the same, where
    this device knows it."""
    try:
        load_library().get(handle)
    except PersonaError as error:
        if not home.knows(handle):
            raise SottoError(
                f"{error} This device has no conversation with it either.",
                code="persona_unknown",
                exit_code=Exit.USAGE,
            ) from None


def _confirmed(args: argparse.Namespace) -> bool:
    if args.json or not sys.stdin.isatty():
        raise SottoError(
            "forgetting cannot be undone, and nobody is here to be asked; say --yes",
            code="not_confirmed",
            exit_code=Exit.USAGE,
        )
    say(f"Forget everything that was said to {args.persona}, here and in memory?")
    say("Nothing brings it back. Type the persona's handle to go on: ", end="")
    handle: str = args.persona
    try:
        return input().strip() == handle
    except EOFError:
        say()
        return False


async def _forget(args: argparse.Namespace, home: DeviceHome, device: Device) -> int:
    known = home.position(args.persona)
    async with device:
        row = await device.forget(args.persona)
        simulated = device.simulated
        row = await device.wait_erased(row.receipt_id, _SETTLE_S) or row
    fewer = _fewer(row, known)
    if args.json:
        print_json({**_json(row), "simulated": simulated, "fewer_than_seen": fewer})
        return Exit.OK
    if simulated:
        note(SIMULATED_LINE)
    records = _length(row)
    plural = "" if records == 1 else "s"
    say(f"Forgotten: {records} record{plural}. Receipt {row.receipt_id}, {row.status}.")
    if fewer:
        say(
            "The store held fewer records than this device has seen: somebody may have a copy "
            "of the rest. This device's key for them is not used again."
        )
    return Exit.OK


def _length(row: ErasureRow) -> int:
    return decode_erasure(row.receipt or b"").unverified.length


def _fewer(row: ErasureRow, known: str | None) -> bool:
    """Whether the store held less than this device had seen."""
    return known is not None and _length(row) < Position.parse(known).length


def _json(row: ErasureRow) -> dict[str, object]:
    shown = ("receipt_id", "persona", "thread", "enclave_id", "time", "status")
    return {name: getattr(row, name) for name in shown} | {"records": _length(row)}
