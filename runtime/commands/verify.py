"""`sotto verify FILE`: does a disclosed receipt hold? Offline, by anyone."""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import Any

from proofs.disclosure import MAX_DISCLOSURE
from proofs.errors import ProofError
from proofs.verdict import Status
from proofs.verify import Report, verify_disclosure
from runtime.commands.common import SIMULATED_LINE, add_home, load_policy, print_json, say
from runtime.errors import Exit, SottoError

_MARKS = {Status.HOLDS: "holds", Status.FAILS: "FAILS", Status.NOT_CHECKED: "not checked"}


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "verify",
        help="verify a saved receipt offline",
        description="Exit codes: 0 it holds, 1 it does not, 2 the file cannot be read.",
    )
    parser.add_argument("file", type=Path, help="a file from `sotto receipts --save`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--at",
        type=_time,
        help="judge as of this time: unix seconds or ISO 8601 (default: now)",
    )
    add_home(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    policy, source = load_policy(args)
    at = int(time.time()) if args.at is None else args.at
    try:
        with args.file.open("rb") as file:
            data = file.read(MAX_DISCLOSURE + 1)
        report = verify_disclosure(data, policy, at)
    except OSError as error:
        raise SottoError(
            f"{args.file} cannot be read ({error.strerror})",
            code="unreadable",
            exit_code=Exit.USAGE,
        ) from None
    except ProofError as error:
        raise SottoError(f"{args.file}: {error}", code="unreadable", exit_code=Exit.USAGE) from None
    if args.json:
        print_json({**report.to_json(), "policy": source})
    else:
        _print(report, source)
    return Exit.OK if report.holds else Exit.FAILED


def _print(report: Report, source: str) -> None:
    receipt = report.receipt
    say(f"Receipt {receipt.receipt_id.hex()}: {'HOLDS' if report.holds else 'DOES NOT HOLD'}")
    when = datetime.datetime.fromtimestamp(receipt.time, datetime.UTC).isoformat()
    say(f"  {receipt.outcome} turn {receipt.turn_index} at {when}, by {report.claims.engine}")
    say(f"  model {report.claims.model}, persona {receipt.persona.hex()[:16]}")
    say(f"  enclave {report.enclave_id[:16]}, policy: {source}")
    if report.simulated:
        say(f"  {SIMULATED_LINE}")
    say()
    for verdict in report.verdicts:
        say(f"{verdict.name:<10} {_MARKS[verdict.status]:<12} {verdict.detail}")
        if verdict.status is Status.HOLDS:
            say(f"{'':<10} proves:      {verdict.proves}")
            say(f"{'':<10} proves not:  {verdict.does_not_prove}")
    say("\nNo verdict says that the answer is true: a model can be wrong and attested.")


def _time(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither unix seconds nor ISO 8601, such as 2026-11-20T12:00:00Z"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())
