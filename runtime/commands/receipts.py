"""`sotto receipts`: list this device's receipts, hand them to others, judge them again."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from proofs.archive import Kind
from proofs.disclosure import encode_disclosure
from proofs.errors import ProofError
from proofs.evidencecache import EvidenceCache
from proofs.policy import Policy
from proofs.times import moment
from proofs.verify import verify_disclosed
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.rows import ErasureRow, ReceiptRow, VerdictRow
from runtime.commands.common import (
    add_home,
    add_way,
    carrier,
    home_folder,
    load_policy,
    plain,
    print_json,
    say,
)
from runtime.commands.verify import add_collateral, parse_time, read_collateral
from runtime.errors import Exit, SottoError
from runtime.exporting import Exported, Wanted, export_erasure, export_home, new_file
from runtime.report_page import WORDS

_COLLECT_S = 3.0


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "receipts",
        help="list receipts, save them for others, judge them again",
        description="Without an option, lists the receipts. docs/receipts.md says what they prove.",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--save",
        nargs=2,
        metavar=("ID", "FILE"),
        help="write what a stranger needs to verify this receipt, of a turn or of an erasure; ID "
        "may be its beginning",
    )
    action.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write all settled receipts as one archive, with their chain and erasures",
    )
    action.add_argument(
        "--check",
        action="store_true",
        help="judge all settled receipts under today's policy, and note what has changed",
    )
    action.add_argument("--history", metavar="ID", help="how a receipt was judged over time")
    parser.add_argument(
        "--with-text",
        action="store_true",
        help="with --save and --export: disclose what was said, with the salts that prove it",
    )
    parser.add_argument("--persona", help="with --export: receipts with this one alone")
    add_range(parser, "with --export: ")
    add_collateral(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--offline", action="store_true", help="do not ask for late ones")
    add_way(parser)
    add_home(parser)
    parser.set_defaults(run=run)


def add_range(parser: argparse.ArgumentParser, when: str = "", *, required: bool = False) -> None:
    """``--since`` and ``--until``."""
    for name, text in (("since", "from this time on"), ("until", "up to this time, excluded")):
        parser.add_argument(
            f"--{name}",
            type=parse_time,
            required=required,
            metavar="TIME",
            help=f"{when}{text}: unix seconds or ISO 8601",
        )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    _check_usage(args)
    home = DeviceHome(home_folder(args))
    try:
        if not args.offline and args.history is None:
            asyncio.run(_collect(args, home))
        if args.save is not None:
            return _save(args, home)
        if args.export is not None:
            return _export(args, home)
        if args.check:
            return _check(args, home)
        if args.history is not None:
            return _history(args, home)
        return _list(args, home)
    finally:
        home.close()


def _check_usage(args: argparse.Namespace) -> None:
    chosen, texts = args.export is not None, args.export is not None or args.save is not None
    for name, given, fits, actions in (
        ("--with-text", args.with_text, texts, "--save or --export"),
        ("--persona", args.persona is not None, chosen, "--export"),
        ("--since", args.since is not None, chosen, "--export"),
        ("--until", args.until is not None, chosen, "--export"),
    ):
        if given and not fits:
            raise SottoError(f"{name} goes with {actions}", exit_code=Exit.USAGE)


def _list(args: argparse.Namespace, home: DeviceHome) -> int:
    rows, erasures = list(home.receipts()), list(home.erasures())
    if args.json:
        told = [
            {name: getattr(row, name) for name in ("receipt_id", "persona", "time", "status")}
            for row in erasures
        ]
        print_json({"receipts": [_json(row) for row in rows], "erasures": told})
        return _outcome(rows)
    if not rows and not erasures:
        say("No receipts yet: each answer brings one.")
    for row in rows:
        say(_line(row, row.outcome))
        if row.problem:
            say(f"    {plain(row.problem)}")
    for erasure in erasures:
        say(_line(erasure, "rotated" if erasure.scope == "rotation" else "forgotten"))
    return _outcome(rows)


def _line(row: ReceiptRow | ErasureRow, outcome: str) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.time))
    return f"{row.receipt_id}  {when}  {row.persona:<12}  {outcome:<9}  {row.status}"


def _outcome(rows: Iterable[ReceiptRow]) -> int:
    return Exit.FAILED if any(row.status == "refused" for row in rows) else Exit.OK


async def _collect(args: argparse.Namespace, home: DeviceHome) -> None:
    """Fetch what has settled since, and for others the evidence that came after the turn.

    An edge that is away only means an older list, and files without what came later.
    """
    late = [r.receipt_id for r in home.receipts() if r.status in ("waiting", "received")]
    # One that is not signed yet is not asked for: `sotto forget` again goes on with it.
    erased = [r.receipt_id for r in home.erasures() if r.status == "received"]
    incomplete = list(_incomplete(args, home)) if args.save or args.export or args.check else []
    if not late and not erased and not incomplete:
        return
    policy, _ = load_policy(args)
    with contextlib.suppress(SottoError):
        async with Device(home, policy, carrier(args)) as device:
            await asyncio.gather(
                *(device.wait_settled(one, _COLLECT_S) for one in late),
                *(device.wait_erased(one, _COLLECT_S) for one in erased),
            )
            for receipt_id in incomplete:
                await device.complete(receipt_id)


def _incomplete(args: argparse.Namespace, home: DeviceHome) -> Iterable[str]:
    """Settled receipts whose enclave's next evidence, or whose COSE Receipt, is not here."""
    asked: set[str] = set()
    for row in home.receipts():
        wanted = args.save is None or row.receipt_id.startswith(args.save[0])
        if not wanted or row.status != "settled":
            continue
        if row.cose is None or (
            row.enclave_id not in asked and home.bundles.later(row.enclave_id) is None
        ):
            asked.add(row.enclave_id)
            yield row.receipt_id


def _find(home: DeviceHome, prefix: str) -> ReceiptRow | ErasureRow:
    rows: list[ReceiptRow | ErasureRow] = [*home.receipts(), *home.erasures()]
    found = [row for row in rows if prefix and row.receipt_id.startswith(prefix)]
    if len(found) != 1:
        raise SottoError(
            f"{len(found) or 'no'} receipts begin with {prefix!r}; `sotto receipts` lists them",
            code="receipt_unknown",
            exit_code=Exit.USAGE,
        )
    return found[0]


def _save(args: argparse.Namespace, home: DeviceHome) -> int:
    prefix, name = args.save
    row = _find(home, prefix)
    if isinstance(row, ErasureRow):
        _save_erasure(args, home, row, Path(name))
    else:
        disclosure = home.disclosable(row.receipt_id, with_text=args.with_text)
        with new_file(Path(name)) as file:
            file.write(encode_disclosure(disclosure))
    if args.json:
        print_json({"receipt_id": row.receipt_id, "file": name, "with_text": args.with_text})
        return Exit.OK
    say(f"Saved {row.receipt_id} to {name}. Anyone can check it: sotto verify {name}")
    if args.with_text:
        say("The file holds what was said in this turn, word for word: whoever has it can read it.")
    return Exit.OK


def _save_erasure(args: argparse.Namespace, home: DeviceHome, row: ErasureRow, path: Path) -> None:
    if args.with_text:
        raise SottoError(
            "the receipt of an erasure has no text: what was said is forgotten",
            exit_code=Exit.USAGE,
        )
    if row.receipt is None or row.proof is None:
        raise SottoError(
            f"the erasure {row.receipt_id} is {row.status}; it can be saved when it is settled",
            code="receipt_not_settled",
        )
    with new_file(path) as file:
        export_erasure(home, row, int(time.time()), file.write)


def _export(args: argparse.Namespace, home: DeviceHome) -> int:
    now = int(time.time())
    if (args.since or 0) >= (now if args.until is None else args.until):
        raise SottoError(
            "--since should lie before --until, which is now where it is not given",
            code="usage",
            exit_code=Exit.USAGE,
        )
    if args.persona is not None and not home.knows(args.persona):
        # An archive of nothing would take the place of one that is there.
        raise SottoError(
            f"there are no receipts with {args.persona!r}; `sotto receipts` lists them",
            code="persona_unknown",
            exit_code=Exit.USAGE,
        )
    wanted = Wanted(
        Kind.CONVERSATION,
        now,
        args.since or 0,
        args.until,
        args.persona,
        args.with_text,
    )
    return write_archive(home, wanted, args.export, as_json=args.json)


def write_archive(home: DeviceHome, wanted: Wanted, path: Path, *, as_json: bool) -> int:
    """Export from a device's folder into a file, and say what is in it and what is not."""
    with new_file(path) as file:
        try:
            exported = export_home(home, wanted, file.write)
        except ProofError as error:
            raise SottoError(str(error), code="export") from None
    if as_json:
        print_json(
            {
                "file": str(path),
                "counts": dict(exported.counts),
                "unsettled": exported.unsettled,
                "textless": exported.textless,
                "with_text": wanted.with_text,
            }
        )
    else:
        tell_export(exported, path, with_text=wanted.with_text)
    return Exit.OK


def tell_export(exported: Exported, path: Path, *, with_text: bool = False) -> None:
    """Say what went into an archive, and what did not."""
    counts = ", ".join(f"{name}: {count}" for name, count in exported.counts.items() if count)
    say(f"Wrote {path} ({counts or 'nothing of that range'}).")
    say(f"Anyone can check it: sotto verify {path}")
    if with_text and exported.counts["said"]:
        say("It holds what was said, word for word: whoever has the file can read it.")
    if exported.textless:
        say(f"Without text: {exported.textless} receipts, whose words are not kept here.")
    if exported.unsettled:
        say(
            f"Left out: {exported.unsettled} receipts that are not settled yet. The archive will "
            "say that turns are missing; export again later."
        )


def _check(args: argparse.Namespace, home: DeviceHome) -> int:
    policy, source = load_policy(args)
    collateral = read_collateral(args.collateral).collateral
    now, cache, known = int(time.time()), EvidenceCache(), policy_digest(policy)
    changes, counts = [], {"holds": 0, "fails": 0}
    for row in home.receipts():
        if row.status != "settled":
            continue
        try:
            disclosed = home.disclosable(row.receipt_id)
            report = verify_disclosed(disclosed, policy, now, collateral=collateral, cache=cache)
        except ProofError as error:
            raise SottoError(
                f"the receipt {row.receipt_id} is damaged here: {error}", code="damaged"
            ) from None
        counts["holds" if report.holds else "fails"] += 1
        before = home.verdicts.of(row.receipt_id)
        if home.verdicts.append(row.receipt_id, now, known, report.holds, report.verdicts):
            after = home.verdicts.of(row.receipt_id)[-1]
            changes.append((before[-1] if before else None, after))
    if args.json:
        told = [_change_json(before, after) for before, after in changes]
        print_json({"policy": source, "evaluated_at": now, **counts, "changes": told})
    else:
        for change in changes:
            _tell_change(*change)
        say(
            f"As of {moment(now)}, under {source}: {counts['holds']} receipts hold, "
            f"{counts['fails']} do not; {len(changes)} verdicts are new."
        )
    return Exit.FAILED if counts["fails"] else Exit.OK


def policy_digest(policy: Policy) -> bytes:
    """Names a policy in a history: SHA-256 over all of its settings."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return hashlib.sha256(orjson.dumps(policy.model_dump(), _hex_of, options)).digest()


def _hex_of(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError
    return value.hex()


def _change_json(before: VerdictRow | None, after: VerdictRow) -> dict[str, object]:
    return {
        "receipt_id": after.receipt_id,
        "before": None if before is None else _row_json(before),
        "after": _row_json(after),
    }


def _row_json(row: VerdictRow) -> dict[str, object]:
    return {
        "evaluated_at": row.evaluated_at,
        "policy": row.policy,
        "holds": row.holds,
        "verdicts": orjson.loads(row.verdicts),
    }


def _tell_change(before: VerdictRow | None, after: VerdictRow) -> None:
    outcome = "holds" if after.holds else "DOES NOT HOLD"
    say(f"{after.receipt_id}  {outcome}{'' if before else ', judged for the first time'}")
    was = {} if before is None else {v["name"]: v["status"] for v in orjson.loads(before.verdicts)}
    for verdict in orjson.loads(after.verdicts):
        name, status = verdict["name"], verdict["status"]
        changed = was.get(name, status) != status
        if changed or (status == "fails" and not before):
            told = f"{_word(was[name])} -> {_word(status)}" if changed else _word(status)
            say(f"    {name}: {told}: {plain(verdict['detail'])}")


def _word(status: str) -> str:
    return {str(key): word for key, word in WORDS.items()}[status]


def _history(args: argparse.Namespace, home: DeviceHome) -> int:
    row = _find(home, args.history)
    history = home.verdicts.of(row.receipt_id)
    if args.json:
        told = [_row_json(one) for one in history]
        print_json({"receipt_id": row.receipt_id, "history": told})
        return Exit.OK
    if not history:
        say(f"{row.receipt_id} was not judged yet: sotto receipts --check")
    for one in history:
        outcome = "holds" if one.holds else "DOES NOT HOLD"
        say(f"{moment(one.evaluated_at)}  {outcome}  policy {one.policy[:16]}")
        for verdict in orjson.loads(one.verdicts):
            detail = plain(verdict["detail"])
            say(f"    {verdict['name']:<10} {_word(verdict['status']):<12} {detail}")
    return Exit.OK


def _json(row: ReceiptRow) -> dict[str, object]:
    shown = ("receipt_id", "turn_id", "persona", "enclave_id", "time", "outcome", "status")
    return {name: getattr(row, name) for name in shown} | (
        {"problem": row.problem} if row.problem else {}
    )
