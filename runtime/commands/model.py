"""`sotto model`: sign the files of a model, or check them against a signature."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proofs.errors import UnreadableError
from proofs.log.files import write_whole
from proofs.modelsig import MAX_KEY, differences, load_signing_key, sign_manifest
from runtime.commands.common import print_json, say
from runtime.enclave.engines.base import EngineError
from runtime.enclave.identity import manifest_digest, whole_manifest
from runtime.enclave.weights import (
    SIGNATURE_NAME,
    SignedBy,
    below,
    digest_files,
    find_files,
    signed_manifest,
)
from runtime.errors import Exit, SottoError

_MAKE_KEY = (
    "make a pair with: openssl ecparam -name prime256v1 -genkey -noout -out model.pem && "
    "openssl ec -in model.pem -pubout -out model.pub"
)


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "model",
        help="sign a model's files, or check them against a signature",
        description="OpenSSF Model Signing v1.0 with a key. Exit codes of verify: 0 it holds, "
        "1 it does not, 2 something cannot be read.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    sign = verbs.add_parser("sign", help="write the signature of a model's files")
    sign.add_argument("--out", type=Path, help=f"its file (default: {SIGNATURE_NAME} in FOLDER)")
    verify = verbs.add_parser("verify", help="check a model's files against a signature")
    verify.add_argument("--signature", type=Path, help=f"default: {SIGNATURE_NAME} in FOLDER")
    for verb, key in ((sign, "the private key"), (verify, "the signer's public key")):
        verb.add_argument("folder", type=Path, metavar="FOLDER", help="the model's folder")
        verb.add_argument("--key", type=Path, help=f"{key}, in PEM: P-256, P-384 or P-521")
        verb.add_argument(
            "--engine",
            choices=["vllm", "embedded"],
            default="vllm",
            help="which files the model has: all below FOLDER, or the three that the embedded "
            "engine loads (default: vllm)",
        )
        verb.add_argument(
            "--embedding",
            default="static",
            metavar="WHICH",
            help="what recalls memory beside the model, which the digest for a policy covers too: "
            "`static`, `none`, or the folder of an embedding model (default: static)",
        )
        verb.add_argument("--json", action="store_true", help="print JSON")
    sign.set_defaults(run=_sign)
    verify.set_defaults(run=_verify)


def _sign(args: argparse.Namespace) -> int:
    out = args.out or args.folder / SIGNATURE_NAME
    try:
        with _key(args).open("rb") as file:
            key = load_signing_key(file.read(MAX_KEY + 1))
        files = _digests(args, out)
        ignored = {SIGNATURE_NAME, *below(args.folder, out)}
        name = args.folder.resolve().name or "model"
        write_whole(out, sign_manifest(files, key, name=name, ignored=ignored))
    except OSError as error:
        raise SottoError(
            f"{error.filename}: {error.strerror}; {_MAKE_KEY}"
            if error.filename == str(args.key)
            else f"{error.filename or out} cannot be written ({error.strerror}); choose another "
            "place with --out",
            exit_code=Exit.USAGE,
        ) from None
    except UnreadableError as error:
        raise SottoError(str(error), code="unreadable", exit_code=Exit.USAGE) from None
    digest = _whole_digest(args, files)
    if args.json:
        print_json({"signature": str(out), "files": len(files), "digest": digest})
    else:
        say(f"Signed {len(files)} files: {out}")
        _say_digest(digest)
    return Exit.OK


def _verify(args: argparse.Namespace) -> int:
    signed = SignedBy(_key(args), args.signature)
    file = signed.file(args.folder)
    try:
        manifest = signed_manifest(signed, args.folder)
    except EngineError as error:
        if error.code == "model_mismatch":
            raise SottoError(str(error), code=error.code) from None
        raise SottoError(str(error), code="unreadable", exit_code=Exit.USAGE) from None
    files = _digests(args, file)
    wrong = differences(manifest, files)
    digest = _whole_digest(args, files)
    if args.json:
        print_json(
            {
                "holds": not wrong,
                "digest": digest,
                "files": len(files),
                "signature": str(file),
                "differences": [{"code": one.code, "name": one.name} for one in wrong],
            }
        )
    elif wrong:
        say(f"{args.folder}: IS NOT the model that was signed")
        for one in wrong:
            say(f"  {one}")
    else:
        say(f"{args.folder}: holds, {len(files)} files as signed in {file}")
        _say_digest(digest)
    return Exit.FAILED if wrong else Exit.OK


def _key(args: argparse.Namespace) -> Path:
    if args.key is None:
        which = "the private key" if args.verb == "sign" else "the signer's public key"
        raise SottoError(f"say {which}: --key FILE; {_MAKE_KEY}", exit_code=Exit.USAGE)
    key: Path = args.key
    return key


def _digests(args: argparse.Namespace, signature: Path) -> Mapping[str, str]:
    """The model's files, by the rule of the engine that will load them."""
    try:
        if args.engine == "embedded":
            from runtime.enclave.engines.embedded import LOADED_FILES

            return digest_files(args.folder, LOADED_FILES, _show)
        return digest_files(args.folder, find_files(args.folder, signature), _show)
    except EngineError as error:
        raise SottoError(str(error), code="unreadable", exit_code=Exit.USAGE) from None


def _whole_digest(args: argparse.Namespace, files: Mapping[str, str]) -> str:
    """What an enclave with this model and this embedder states, in hex."""
    embedding: Mapping[str, str] = {}
    try:
        if args.embedding == "static":
            from runtime.enclave.embedding.static import static_manifest

            embedding = static_manifest()
        elif args.embedding != "none":
            folder = Path(args.embedding)
            embedding = digest_files(folder, find_files(folder), _show)
    except (EngineError, ImportError, OSError) as error:
        raise SottoError(
            f"--embedding {args.embedding}: {error}", code="unreadable", exit_code=Exit.USAGE
        ) from None
    return manifest_digest(whole_manifest(files, embedding)).hex()


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{done / 1e9:.1f} of {total / 1e9:.1f} GB{end}")
        sys.stderr.flush()


def _say_digest(digest: str) -> None:
    say(f'  in a policy, to accept this model: models = ["{digest}"]')
