"""`sotto receipts`: list this device's receipts, or save one for a stranger to verify."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

from proofs.disclosure import encode_disclosure
from runtime.client.device import Device
from runtime.client.home import DeviceHome, ReceiptRow
from runtime.commands.common import (
    add_home,
    add_way,
    carrier,
    home_folder,
    load_policy,
    print_json,
    say,
)
from runtime.errors import Exit, SottoError

_COLLECT_S = 3.0


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("receipts", help="list receipts, or save one to a file")
    parser.add_argument(
        "--save",
        nargs=2,
        metavar=("ID", "FILE"),
        help="write what a stranger needs to verify this receipt; ID may be its beginning",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--offline", action="store_true", help="do not ask for late ones")
    add_way(parser)
    add_home(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    home = DeviceHome(home_folder(args))
    try:
        if not args.offline:
            asyncio.run(_collect(args, home))
        if args.save is not None:
            return _save(args, home)
        rows = list(home.receipts())
        if args.json:
            print_json({"receipts": [_json(row) for row in rows]})
        elif not rows:
            say("No receipts yet: each answer brings one.")
        for row in rows if not args.json else ():
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.time))
            say(f"{row.receipt_id}  {when}  {row.persona:<12}  {row.outcome:<9}  {row.status}")
            if row.problem:
                say(f"    {row.problem}")
        return Exit.FAILED if any(row.status == "refused" for row in rows) else Exit.OK
    finally:
        home.close()


async def _collect(args: argparse.Namespace, home: DeviceHome) -> None:
    """Fetch what has settled since; an edge that is away only means an older list."""
    late = [r.receipt_id for r in home.receipts() if r.status in ("waiting", "received")]
    if not late:
        return
    policy, _ = load_policy(args)
    with contextlib.suppress(SottoError):
        async with Device(home, policy, carrier(args)) as device:
            await asyncio.gather(*(device.wait_settled(one, _COLLECT_S) for one in late))


def _save(args: argparse.Namespace, home: DeviceHome) -> int:
    prefix, name = args.save
    found = [row for row in home.receipts() if row.receipt_id.startswith(prefix)]
    if len(found) != 1:
        raise SottoError(
            f"{len(found) or 'no'} receipts begin with {prefix!r}; `sotto receipts` lists them",
            code="receipt_unknown",
            exit_code=Exit.USAGE,
        )
    (row,) = found
    if row.receipt is None or row.proof is None:
        raise SottoError(
            f"the receipt {row.receipt_id} is {row.status}; it can be saved when it is settled, "
            "a moment after the answer",
            code="receipt_not_settled",
        )
    bundle, bundle_proof = home.enclave(row.enclave_id)
    try:
        Path(name).write_bytes(encode_disclosure(row.receipt, row.proof, bundle, bundle_proof))
    except OSError as error:
        raise SottoError(
            f"{name} cannot be written ({error.strerror}); choose another place",
            exit_code=Exit.USAGE,
        ) from None
    if args.json:
        print_json({"receipt_id": row.receipt_id, "file": name})
    else:
        say(f"Saved {row.receipt_id} to {name}. Anyone can check it: sotto verify {name}")
    return Exit.OK


def _json(row: ReceiptRow) -> dict[str, object]:
    shown = ("receipt_id", "turn_id", "persona", "enclave_id", "time", "outcome", "status")
    return {name: getattr(row, name) for name in shown} | (
        {"problem": row.problem} if row.problem else {}
    )
