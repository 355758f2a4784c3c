"""`sotto personas publish|grant`: a definition for everybody, or for enclaves it is opened for."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from personas.authorship import (
    MAX_FILES,
    MAX_PIECES,
    PIECE_BYTES,
    SignedStep,
    StepKind,
    fingerprint,
    next_step,
    public_key,
    sign_step,
)
from personas.digest import canonical
from personas.errors import PersonaError
from personas.files import load_package, read_bounded
from personas.listing import Listing
from personas.lorebook import refuse_heavy
from personas.package import Package, named
from personas.sealing import (
    MAX_FILE_BYTES,
    NONCE_BYTES,
    file_address,
    seal_definition,
    seal_file,
)
from proofs.times import moment
from runtime.client.publishing import Granted, Published, grant
from runtime.client.submission import Submission
from runtime.commands.common import SIMULATED_LINE, counted, note, plain, print_json, say
from runtime.commands.creator import Creator, add_command, said_step, told_step
from runtime.enclave.api import PersonaReference
from runtime.errors import Exit, SottoError

_WATCH_S = 20.0
# An enclave that holds too many lets the least used go.
_GRANT_AGAIN_S = 1_800.0


def add_parsers(actions: Any) -> None:
    """Register the commands."""
    one = add_command(
        actions,
        "publish",
        _publish,
        "publish a persona, or a new version of one",
        "Whoever publishes first under a handle owns it.",
    )
    one.add_argument("file", type=Path, help="the persona: TOML, or a card")
    one.add_argument(
        "--private",
        action="store_true",
        help="seal the definition: only enclaves that you grant it to can read it",
    )
    one = add_command(
        actions,
        "grant",
        _grant,
        "open a private persona for the live enclaves",
        "A grant ends with an enclave's keys, after a day at most. Exit code 1: one refused it.",
    )
    one.add_argument("handle", help="whose")
    one.add_argument("--watch", action="store_true", help="go on with enclaves as they come")


async def _publish(creator: Creator) -> int:
    args = creator.args
    package = _read(args.file)
    persona = package.persona
    key = creator.keys.signing(make=True)
    mine = public_key(key)
    state = await creator.state(persona.handle)
    if state is not None:
        await creator.owned(persona.handle)
    listing = Listing.of(persona, key=mine, private=args.private)
    known = None if state is None else state.find(listing.digest)
    if known is not None and state is not None and not state.withdrawn:
        raise SottoError(
            f"`{persona.handle}` {persona.version} is published already, as it stands here; "
            "raise `version` in the file for a new one",
            code="published",
        )
    # A clock that is slow must not make a step that no chain takes.
    at = max(int(time.time()), 0 if state is None else state.time)
    listing = replace(listing, created=at)
    step = next_step(
        state, StepKind.PUBLISH, handle=persona.handle, key=mine, time=at, listing=listing
    )
    signed = sign_step(step, key)
    definition, files = canonical(persona), _files(package, private=args.private)
    sent: Mapping[bytes, bytes | Sequence[bytes]] = files
    if args.private:
        # Kept before it is used: a definition whose key is lost is lost.
        opening = creator.keys.make_opening(persona.handle, listing.digest)
        definition, sent = _sealed(opening, listing, definition, files)
    done = await creator.send(Submission.of(signed, definition, sent))
    _tell_published(creator, package, signed, done, len(files))
    return Exit.OK


def _tell_published(
    creator: Creator, package: Package, signed: SignedStep, done: Published, files: int
) -> None:
    listing = signed.step.listing
    assert listing is not None  # noqa: S101  # a step that publishes has one
    handle, mark = listing.handle, fingerprint(signed.step.key)
    left_out = len(_named(package)) - files
    told = {
        **told_step(handle, done),
        "version": listing.version,
        "digest": listing.digest.hex(),
        "private": listing.private,
        "files": files,
        "files_left_out": left_out,
        "fingerprint": mark,
    }
    kind = " (private)" if listing.private else ""
    lines = [
        said_step(f"Published {handle} {listing.version}{kind}", done),
        f"Digest {listing.digest.hex()}",
    ]
    if files or left_out:
        rest = f", {left_out} left out: too long, empty or too many" if left_out else ""
        lines.append(f"With {counted(files, 'file')}{rest}.")
    lines.append(f"Give people: {handle}@{mark}")
    if listing.private:
        lines.append(f"Nobody can talk to it before: sotto personas grant {handle} --watch")
    creator.tell(told, *lines)


def _read(path: Path) -> Package:
    """A persona's file in any format that there is."""
    if path.suffix.lower() == ".toml":
        package = load_package(path)
    else:
        from personas.cards import MAX_BYTES, read_any

        package = read_any(read_bounded(path, MAX_BYTES, "a persona's file"), path.name).package
    try:
        refuse_heavy(package.persona.lorebook)
    except PersonaError as error:
        raise PersonaError(f"{path}: {error}") from None
    return package


def _files(package: Package, *, private: bool) -> dict[bytes, bytes]:
    """Those that an enclave takes: the first so many, none of them too long."""
    most = MAX_FILE_BYTES if private else MAX_PIECES * PIECE_BYTES
    short = [
        (bytes.fromhex(digest), data)
        for digest, data in _named(package).items()
        if 0 < len(data) <= most
    ]
    return dict(short[:MAX_FILES])


def _named(package: Package) -> dict[str, bytes]:
    # A document's file is none of them: its text is in the definition.
    theirs = {digest for _, digest in named(package.persona)}
    return {digest: data for digest, data in package.files.items() if digest in theirs}


def _sealed(
    key: bytes, listing: Listing, definition: bytes, files: Mapping[bytes, bytes]
) -> tuple[bytes, dict[bytes, list[bytes]]]:
    handle, digest = listing.handle, listing.digest
    sealed = seal_definition(key, handle, digest, definition, nonce=os.urandom(NONCE_BYTES))
    return sealed, {
        file_address(key, handle, one): seal_file(key, handle, one, data)
        for one, data in files.items()
    }


async def _grant(creator: Creator) -> int:
    args = creator.args
    state = await creator.state(args.handle)
    if state is None:
        raise SottoError(f"nobody has published `{args.handle[:64]}`", code="persona_unknown")
    listing = state.newest
    if not listing.private:
        raise SottoError(f"`{args.handle}` is public: it needs no grant", code="persona_public")
    key = creator.keys.opening(args.handle, listing.digest)
    if key is None:
        raise SottoError(
            f"the key of `{args.handle}` {listing.version} is not on this device; take it over "
            "with `sotto personas keys --import FILE`",
            code="no_key",
        )
    reference = PersonaReference(handle=args.handle, digest=listing.digest.hex())
    found = await grant(creator.device, reference, key)
    done = {one.keys for one in found if one.until is not None}
    _tell_grants(args, found)
    granted = time.monotonic()
    while args.watch:
        await asyncio.sleep(_WATCH_S)
        if time.monotonic() - granted > _GRANT_AGAIN_S:
            granted, done = time.monotonic(), set()
        creator.device.forget_enclaves()
        try:
            found = await grant(creator.device, reference, key, done)
        except SottoError as error:
            say(f"[{plain(str(error))}]")
            continue
        done |= {one.keys for one in found if one.until is not None}
        _tell_grants(args, found)
    return Exit.OK if len(done) == len(found) else Exit.FAILED


def _tell_grants(args: argparse.Namespace, found: list[Granted]) -> None:
    if args.json:
        if found or not args.watch:
            print_json(
                {
                    "grants": [
                        {
                            "enclave_id": one.enclave_id,
                            "gateway": one.gateway,
                            "until": one.until,
                            "problem": one.problem,
                            "simulated": one.simulated,
                        }
                        for one in found
                    ]
                }
            )
        return
    if any(one.simulated for one in found):
        note(SIMULATED_LINE)
    for one in found:
        what = f"until {moment(one.until)}" if one.until else f"REFUSED: {plain(one.problem or '')}"
        say(f"{plain(one.gateway)} {one.enclave_id[:16]} {what}")
