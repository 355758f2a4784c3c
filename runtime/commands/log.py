"""`sotto log`: run the transparency log alone. `sotto log audit`: derive any log anew."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proofs.times import moment
from runtime.commands.alone import (
    add_config,
    add_listening,
    announce,
    choose_config,
    http_url,
    metrics_url,
)
from runtime.commands.common import print_json, say
from runtime.errors import Exit, SottoError

if TYPE_CHECKING:
    from proofs.log.audit import Audit
    from proofs.note import Note, VerifierKey

_PROGRESS_S = 2.0


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "log",
        help="run the transparency log alone, or audit one",
        description="Takes leaves from Redis, serves the log as static files "
        "(c2sp.org/tlog-tiles). docs/log.md says how to run one.",
    )
    add_config(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where its folder (DIR/log) and key (DIR/log.key) are",
    )
    parser.add_argument(
        "--redis-url-file",
        type=Path,
        metavar="FILE",
        help="holds the address of Redis or Valkey, which may have a password in it",
    )
    parser.add_argument(
        "--origin",
        help="the log's name, for ever, such as example.com/log (default: localhost/sottovoce-log)",
    )
    add_listening(parser, 8473, "where it listens and its key")
    parser.add_argument(
        "--batch-interval",
        type=float,
        metavar="SECONDS",
        help="how long a leaf waits for others (default: 0.25)",
    )
    parser.add_argument("--batch-size", type=int, help="most leaves of a batch (default: 4096)")
    parser.add_argument(
        "--witness",
        action="append",
        default=[],
        metavar="URL,VKEY",
        help="ask this witness to cosign each tree head; may be repeated",
    )
    parser.add_argument(
        "--witness-quorum", type=int, metavar="N", help="how many must (default: more than half)"
    )
    parser.set_defaults(run=run)
    _add_audit(parser.add_subparsers(dest="action", metavar="COMMAND"))


def _add_audit(actions: Any) -> None:
    parser = actions.add_parser(
        "audit",
        help="derive a log anew from its files",
        description="Every hash of every tile, every entry, the root, signatures, and growth from "
        "an earlier checkpoint. Exit codes: 0 all holds, 1 something does not, 2 the log cannot "
        "be read.",
    )
    parser.add_argument("place", metavar="DIR|URL", help="a log's folder, a mirror's, or a URL")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="VKEY",
        help="the log's key, which must have signed, or a witness's; may be repeated",
    )
    parser.add_argument(
        "--since-checkpoint",
        type=Path,
        metavar="FILE",
        help="an earlier checkpoint, from which the log must have grown",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_audit)


def run(args: argparse.Namespace) -> int:
    """Run the log."""
    from runtime import roles
    from runtime.config import LogRoleConfig
    from runtime.telemetry import setup_logging

    config = choose_config(
        LogRoleConfig,
        args.config,
        _given(args),
        needed=frozenset({"directory", "redis_url"}),
        source="the log's options",
        usage="say where, and where leaves come from: sotto log --data DIR --redis-url-file FILE",
    )

    def listening(port: int, metrics_port: int, vkey: str) -> None:
        url, metrics = http_url(config.host, port), metrics_url(metrics_port)
        told = {"log": url, "vkey": vkey, "metrics": metrics}
        line = f"log {config.origin}: {url}; its key: {vkey}; metrics: {metrics}"
        announce(line, told if args.json else None)

    setup_logging("log")
    roles.run_until_stopped(
        lambda stop: roles.run_log(config, stop, listening=listening), lifeline=args.lifeline
    )
    return Exit.OK


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Options under the configuration's keys; None where one was not given."""
    given = {
        "host": args.host,
        "port": args.port,
        "metrics_port": args.metrics_port,
        "origin": args.origin,
        "batch_interval_s": args.batch_interval,
        "batch_size": args.batch_size,
        "witnesses": [_witness(text) for text in args.witness] or None,
        "witness_quorum": args.witness_quorum,
    }
    if args.data is not None:
        given |= {"directory": str(args.data / "log"), "key_file": str(args.data / "log.key")}
    if args.redis_url_file is not None:
        given["redis_url"] = _read(args.redis_url_file, 4096).strip()
    return given


def _witness(text: str) -> dict[str, str]:
    url, comma, vkey = text.partition(",")
    if not comma:
        raise SottoError(
            "a witness is given as URL,VKEY: where it listens, and its key", exit_code=Exit.USAGE
        )
    return {"url": url, "vkey": vkey}


def run_audit(args: argparse.Namespace) -> int:
    """Audit a log."""
    from proofs.errors import ProofError
    from proofs.log.audit import audit_log
    from proofs.log.reader import LogReader, open_source
    from proofs.note import COSIGNER_KEYS, MAX_NOTE, NOTE_KEYS, parse_note, parse_vkey

    since: Note | None = None
    keys: list[VerifierKey] = []
    try:
        keys = [parse_vkey(vkey, NOTE_KEYS | COSIGNER_KEYS) for vkey in args.key]
        if args.since_checkpoint is not None:
            since = parse_note(_read(args.since_checkpoint, MAX_NOTE))
        with LogReader(open_source(args.place)) as reader:
            audit = audit_log(reader, keys, since=since, progress=_progress())
    except ProofError as error:
        raise SottoError(str(error), code="unreadable", exit_code=Exit.USAGE) from None
    if args.json:
        print_json(_as_json(audit))
    else:
        _print(audit)
    return Exit.OK if audit.holds else Exit.FAILED


def _progress() -> Callable[[int, int], None]:
    """Says on standard error how far it is, where that takes long."""
    said = time.monotonic()

    def tell(done: int, size: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _PROGRESS_S:
            said = time.monotonic()
            sys.stderr.write(f"{done} of {size} entries\n")
            sys.stderr.flush()

    return tell


def _as_json(audit: Audit) -> dict[str, Any]:
    return {
        "holds": audit.holds,
        "origin": audit.checkpoint.origin,
        "size": audit.checkpoint.size,
        "root": audit.checkpoint.root.hex(),
        "signed": audit.signed,
        "cosigned_by": [{"name": name, "time": at} for name, at in audit.cosigned_by],
        "files": audit.files,
        "since_size": audit.since,
        "problems": [{"code": one.code, "text": one.text} for one in audit.problems],
    }


def _print(audit: Audit) -> None:
    head = audit.checkpoint
    say(f"Log {head.origin} of {head.size} entries: {'HOLDS' if audit.holds else 'DOES NOT HOLD'}")
    say(f"  root       {head.root.hex()}")
    say(f"  files      {audit.files} tiles and bundles read, every hash derived anew")
    signed = {None: "not checked: no --key of the log was given", True: "by the pinned key"}
    say(f"  signature  {signed.get(audit.signed, 'DOES NOT HOLD')}")
    for name, at in audit.cosigned_by:
        say(f"  cosigned   by {name} at {moment(at)}")
    if audit.since is not None:
        say(f"  since      a checkpoint of {audit.since} entries")
    for problem in audit.problems:
        say(f"{problem.code}: {problem.text}")


def _read(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise SottoError(f"{path} has more than {limit} bytes", exit_code=Exit.USAGE)
        return data.decode()
    except OSError as error:
        raise SottoError(
            f"{path} cannot be read ({error.strerror})", code="unreadable", exit_code=Exit.USAGE
        ) from None
    except UnicodeDecodeError:
        raise SottoError(f"{path} is no text", code="unreadable", exit_code=Exit.USAGE) from None
