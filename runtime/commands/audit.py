"""`sotto audit export`: a time range's receipts and proofs as one archive, to account for them."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

from proofs.archive import Kind
from proofs.errors import ProofError
from proofs.log.reader import LogReader, open_source
from runtime.client.home import DeviceHome
from runtime.commands.common import add_home, home_folder, print_json, say
from runtime.commands.receipts import add_range, tell_export, write_archive
from runtime.errors import Exit, SottoError
from runtime.exporting import Exported, LogRange, Wanted, export_log, new_file

_MAX_URL = 4096
_OPERATORS = """
What it proves: how many entries the log took in this range, at which places, and that none of
them was changed, moved or taken out since. A sealed receipt in it is one that was handed over
with its entry: once its owner opens it, anyone can hold it against that entry.
What it does not prove: what was said. Content is with the owners of the receipts alone. The time
range is by this log's own history; the bundles in it have times that hardware signed."""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "audit",
        help="export a time range's receipts and proofs, to account for them",
        description="Writes an archive that `sotto verify` checks alone. docs/audit.md says what "
        "one proves.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser(
        "export",
        help="write an archive of a time range",
        description="Of a device's receipts, or with --log of an operator's log.",
    )
    export.add_argument("file", type=Path, help="where to write the archive")
    add_range(export, required=True)
    export.add_argument(
        "--with-text",
        action="store_true",
        help="of a device: disclose what was said, with the salts that prove it",
    )
    export.add_argument("--log", metavar="DIR|URL", help="a log's folder, or the URL of one")
    export.add_argument(
        "--entries",
        type=_entries,
        metavar="FIRST:END",
        help="which entries of the log, END excluded; for a URL, which has no times",
    )
    export.add_argument(
        "--redis-url-file",
        type=Path,
        metavar="FILE",
        help="with --log: holds the address of Redis, for sealed receipts and bundles",
    )
    export.add_argument("--json", action="store_true", help="print JSON")
    add_home(export)
    export.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.since >= args.until:
        raise SottoError("--since should lie before --until", exit_code=Exit.USAGE)
    if args.log is not None:
        return _export_log(args)
    for name, value in (("--entries", args.entries), ("--redis-url-file", args.redis_url_file)):
        if value is not None:
            raise SottoError(f"{name} goes with --log", exit_code=Exit.USAGE)
    home = DeviceHome(home_folder(args))
    try:
        wanted = Wanted(
            Kind.AUDIT,
            int(time.time()),
            args.since,
            args.until,
            with_text=args.with_text,
        )
        return write_archive(home, wanted, args.file, as_json=args.json)
    finally:
        home.close()


def _export_log(args: argparse.Namespace) -> int:
    if args.with_text:
        raise SottoError(
            "--with-text is for a device: an operator's log has digests, and no text",
            exit_code=Exit.USAGE,
        )
    url = None if args.redis_url_file is None else _read_url(args.redis_url_file)
    wanted = LogRange(int(time.time()), args.since, args.until, args.entries)
    try:
        with LogReader(open_source(args.log)) as reader, new_file(args.file) as file:
            exported = export_log(reader, wanted, file.write, url)
            told = _log_json(args, reader, exported)
    except ProofError as error:
        raise SottoError(f"{args.log}: {error}", code="log") from None
    if args.json:
        print_json(told)
    else:
        tell_export(exported, args.file)
        say(_OPERATORS)
    return Exit.OK


def _log_json(args: argparse.Namespace, reader: LogReader, exported: Exported) -> dict[str, object]:
    return {
        "file": str(args.file),
        "counts": dict(exported.counts),
        "origin": reader.checkpoint.origin,
        "size": reader.checkpoint.size,
    }


def _entries(text: str) -> range:
    found = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form FIRST:END, such as 0:1000")
    return range(int(found[1]), int(found[2]))


def _read_url(path: Path) -> str:
    try:
        text = path.read_text("utf-8")[:_MAX_URL].strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise SottoError(f"{path} cannot be read ({why})", exit_code=Exit.USAGE) from None
    return text
