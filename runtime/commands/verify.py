"""`sotto verify FILE`: does it hold? Offline, by anyone."""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import Any

from proofs.archive_report import ArchiveReport
from proofs.disclosure import Said
from proofs.errors import ProofError, RefusedError
from proofs.evidence.base import Collateral
from proofs.report import BundleReport, CheckpointReport, EvidenceReport
from runtime.collateral import MAX_FILE, StoredCollateral, load_collateral
from runtime.commands.common import add_home, load_policy, print_json, say
from runtime.errors import Exit, SottoError
from runtime.exporting import new_file
from runtime.recognise import Terms, Verified, verify_file
from runtime.report_page import (
    Page,
    archive_page,
    bundle_page,
    checkpoint_page,
    evidence_page,
    receipt_page,
)
from runtime.report_text import print_page

_NONCE_BYTES, _REPORT_DATA_BYTES = 32, 64


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "verify",
        help="verify a receipt, an archive, a bundle, a checkpoint or evidence, offline",
        description="Tells by its content what FILE is, and verifies it under a policy, without "
        "network: a disclosed receipt (sotto receipts --save), an archive (sotto receipts "
        "--export, sotto audit export), an attestation bundle (bytes, or the JSON of GET "
        "/attestation), a log's checkpoint, or evidence (a TDX quote, a SEV-SNP report, NVIDIA's "
        "JSON). Exit codes: 0 it holds, 1 it does not, 2 the file cannot be read.",
    )
    parser.add_argument("file", type=Path, help="what to verify")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a report, one page")
    parser.add_argument(
        "--at",
        type=parse_time,
        metavar="TIME",
        help="judge as of this time: unix seconds or ISO 8601 (default: now)",
    )
    add_collateral(parser)
    parser.add_argument(
        "--nonce",
        type=lambda text: _hex(text, _NONCE_BYTES),
        metavar="HEX",
        help="of evidence of GPUs: the 32 bytes that they should have signed",
    )
    parser.add_argument(
        "--report-data",
        type=lambda text: _hex(text, _REPORT_DATA_BYTES),
        metavar="HEX",
        help="of evidence of a CPU: the 64 bytes that it should have signed",
    )
    add_home(parser)
    parser.set_defaults(run=run)


def add_collateral(parser: argparse.ArgumentParser) -> None:
    """``--collateral``."""
    parser.add_argument(
        "--collateral",
        type=Path,
        metavar="PATH",
        help="newer statements of the hardware's makers: a folder (tdx.json, snp/*.der, snp/*.crl, "
        "rims/*.swidtag, ocsp/*.der), or Intel's JSON alone; judges the TCB anew",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.html is not None and _is_same(args.html, args.file):
        raise SottoError(
            f"--html {args.html} is the file to verify; choose another place", exit_code=Exit.USAGE
        )
    policy, source = load_policy(args)
    terms = Terms(
        policy,
        int(time.time()) if args.at is None else args.at,
        read_collateral(args.collateral),
        args.nonce,
        args.report_data,
        keep_said=args.html is not None or not args.json,
    )
    found = _verify(args.file, terms)
    page = make_page(found, source)
    if args.html is not None:
        _write_html(args.html, page)
    if args.json:
        print_json(to_json(found, source))
    else:
        print_page(page)
        if args.html is not None:
            say(f"\nThe same as a page: {args.html}")
    return Exit.OK if page.holds else Exit.FAILED


def make_page(found: Verified, source: str) -> Page:
    """What is shown of it; `source` names the policy."""
    report = found.report
    if isinstance(report, ArchiveReport):
        return archive_page(report, source)
    if isinstance(report, BundleReport):
        return bundle_page(report, source)
    if isinstance(report, CheckpointReport):
        return checkpoint_page(report, source)
    if isinstance(report, EvidenceReport):
        return evidence_page(report, source)
    return receipt_page(report, found.said, source)


def to_json(found: Verified, source: str) -> dict[str, object]:
    """The report for programs; `type` says which kind of file it is."""
    said = {} if found.said is None else {"said": _said_json(found.said)}
    return {"type": found.kind, "policy": source, **found.report.to_json(), **said}


def _said_json(said: Said) -> dict[str, str]:
    return {"request": said.request.decode("utf-8", "replace"), "response": said.response}


def read_collateral(path: Path | None) -> StoredCollateral:
    """A folder's collateral, or Intel's JSON alone.

    Raises:
        SottoError: It cannot be read.
    """
    if path is None or path.is_dir():
        return load_collateral(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        text = data.decode()
    except OSError as error:
        raise _unreadable(path, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise _unreadable(path, "is no text: give Intel's JSON, or a folder") from None
    if len(data) > MAX_FILE:
        raise _unreadable(path, f"has more than {MAX_FILE} bytes: it is no collateral")
    return StoredCollateral(Collateral(tdx=text))


def _verify(path: Path, terms: Terms) -> Verified:
    try:
        return verify_file(path, terms)
    except OSError as error:
        raise _unreadable(path, f"cannot be read ({error.strerror})") from None
    except RefusedError as error:
        # Before there is a report: the file speaks against itself.
        raise SottoError(f"{path} does not hold: {error}", code="refused") from None
    except ProofError as error:
        raise SottoError(f"{path}: {error}", code="unreadable", exit_code=Exit.USAGE) from None


def _write_html(path: Path, page: Page) -> None:
    from runtime.report_html import render_html

    # It may hold what was said: for its owner's eyes until he hands it on.
    with new_file(path) as file:
        file.write(render_html(page).encode(errors="replace"))


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False  # one of the two is not there


def _unreadable(path: Path, why: str) -> SottoError:
    return SottoError(f"{path} {why}", code="unreadable", exit_code=Exit.USAGE)


def _hex(text: str, size: int) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != size:
        raise argparse.ArgumentTypeError(f"write {size} bytes as {2 * size} hex digits")
    return data


def parse_time(text: str) -> int:
    """Unix seconds from unix seconds or ISO 8601; without a zone it is UTC."""
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither unix seconds nor ISO 8601, such as 2026-11-20T12:00:00Z"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0, int(moment.timestamp()))
