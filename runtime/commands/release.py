"""`sotto release`: sign which measurements a release has, or look into such a manifest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs.errors import LogError, RefusedError, UnreadableError
from proofs.log.files import write_whole
from proofs.log.keyfile import load_or_create_key
from proofs.note import Signer, parse_vkey
from proofs.release import (
    MAX_RELEASE,
    Release,
    open_release,
    parse_release,
    parse_set,
    read_note,
    release_entry,
    sign_release,
)
from runtime.commands.common import print_json, say
from runtime.errors import Exit, SottoError

_MAKE_KEY = "make one with: openssl genpkey -algorithm ed25519 -out release.pem"


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "release",
        help="sign which measurements a release has, or look into such a manifest",
        description="Exit codes of show: 0 it holds, 1 it is not signed by the key given, 2 it "
        "cannot be read.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    sign = verbs.add_parser("sign", help="write a signed release manifest")
    sign.add_argument(
        "--key", type=Path, required=True, help="the signer's Ed25519 private key, in PEM"
    )
    sign.add_argument("--name", required=True, help="the signer's name, such as example.org/sotto")
    sign.add_argument(
        "--release", required=True, metavar="HEX", help="the digest that claims and receipts name"
    )
    sign.add_argument("--version", required=True, help="the release's name for people")
    sign.add_argument(
        "--measurement",
        action="append",
        required=True,
        metavar="'KIND NAME=HEX...'",
        help="all that one kind of platform measures of it, such as 'tdx mrtd=... rtmr0=...'; "
        "may be repeated",
    )
    sign.add_argument("--out", type=Path, help="its file (default: standard output)")
    sign.set_defaults(run=_sign)
    show = verbs.add_parser("show", help="say what a release manifest holds")
    show.add_argument("file", type=Path, metavar="FILE", help="a release manifest")
    show.add_argument("--key", metavar="VKEY", help="who must have signed it")
    show.set_defaults(run=_show)
    for verb in (sign, show):
        verb.add_argument("--json", action="store_true", help="print JSON")


def _sign(args: argparse.Namespace) -> int:
    if not args.key.exists():
        raise SottoError(f"there is no key {args.key}; {_MAKE_KEY}", exit_code=Exit.USAGE)
    try:
        # The class of keys is abstract; that of this one is made by the library.
        key = load_or_create_key(args.key, Ed25519PrivateKey, "release signer")  # type: ignore[type-abstract]
        signer = Signer(args.name, key)
        release = Release(
            _digest(args.release),
            args.version,
            tuple(sorted({parse_set(one) for one in args.measurement})),
        )
        note = sign_release(release, signer)
        vkey = signer.verifier.format()
        if args.out is not None:
            write_whole(args.out, note.encode())
    except (LogError, UnreadableError) as error:
        raise SottoError(str(error), exit_code=Exit.USAGE) from None
    except OSError as error:
        raise SottoError(
            f"{args.out} cannot be written ({error.strerror}); choose another place with --out",
            exit_code=Exit.USAGE,
        ) from None
    if args.json:
        file = None if args.out is None else str(args.out)
        print_json({"file": file, "manifest": note, "vkey": vkey, **_plain(release, note.encode())})
    elif args.out is None:
        say(note, end="")
        sys.stderr.write(f"signed by {vkey}\n")
    else:
        say(f"Signed release {release.version}: {args.out}")
        say(f'  in a policy: release_keys = ["{vkey}"], releases = ["{args.out.name}"]')
    return Exit.OK


def _show(args: argparse.Namespace) -> int:
    try:
        keys = [] if args.key is None else [parse_vkey(args.key)]
    except UnreadableError as error:
        raise SottoError(f"--key: {error}", exit_code=Exit.USAGE) from None
    try:
        with args.file.open("rb") as file:
            data = file.read(MAX_RELEASE + 1)
        note = read_note(data)
        release = open_release(data, keys) if keys else parse_release(note.text)
    except OSError as error:
        raise SottoError(
            f"{args.file} cannot be read ({error.strerror})",
            code="unreadable",
            exit_code=Exit.USAGE,
        ) from None
    except UnreadableError as error:
        raise SottoError(f"{args.file}: {error}", code="unreadable", exit_code=Exit.USAGE) from None
    except RefusedError as error:
        raise SottoError(f"{args.file}: {error}", code="refused") from None
    signers = [one.name for one in note.signatures]
    if args.json:
        print_json({"verified": bool(keys), "signers": signers, **_plain(release, data)})
        return Exit.OK
    say(f"Release {release.version}, digest {release.digest.hex()}")
    for one in release.sets:
        say(f"  {one.format()}")
    said = "signed by" if keys else "NOT CHECKED (name the key with --key): says to be signed by"
    say(f"  {said} {', '.join(signers)}")
    say(f"  its entry in a log: {release_entry(data).hex()}")
    return Exit.OK


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if digest.hex() != text or not digest:
        raise UnreadableError("--release takes 64 digits of lower-case hex. Correct it.")
    return digest


def _plain(release: Release, data: bytes) -> dict[str, object]:
    return {
        "release": release.digest.hex(),
        "version": release.version,
        "measurements": [
            {"kind": one.kind, **{name: value.hex() for name, value in one.measurements}}
            for one in release.sets
        ],
        "entry": release_entry(data).hex(),
    }
