"""`sotto personas keys|publish|handover|withdraw|grant|history`: what creators do with a handle."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from personas.authorship import (
    MAX_FILES,
    MAX_PIECES,
    MAX_STEP_BYTES,
    PIECE_BYTES,
    HandleState,
    SignedStep,
    StepKind,
    decode_signed,
    fingerprint,
    next_step,
    public_key,
    sign_step,
    verify_chain,
)
from personas.digest import canonical
from personas.errors import PersonaError
from personas.files import load_package, read_bounded
from personas.listing import Listing
from personas.model import Persona
from personas.package import Package, named
from personas.sealing import NONCE_BYTES, seal_definition
from runtime.client.creator import CreatorKeys
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.registry import Chain, Granted, Published, grant, publish, read_chain
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_way,
    carrier,
    home_folder,
    load_policy,
    plain,
    print_json,
    say,
)
from runtime.commands.report import moment
from runtime.enclave.api import PersonaReference
from runtime.errors import Exit, SottoError
from runtime.exporting import new_file

_WATCH_S = 20.0
# An enclave that holds too many lets the least used go.
_GRANT_AGAIN_S = 1_800.0


@dataclass(frozen=True, slots=True)
class _Creator:
    """What every command here works with.

    Attributes:
        args: The command line.
        home: The device's folder.
        keys: The creator's keys in it.
        device: Verified enclaves.
    """

    args: argparse.Namespace
    home: DeviceHome
    keys: CreatorKeys
    device: Device

    async def state(self, handle: str) -> HandleState | None:
        """What the chain proves now; None where nobody has published."""
        try:
            return (await read_chain(self.device, self.home, handle)).state
        except SottoError as error:
            if error.code != "persona_unknown":
                raise
            return None

    async def owned(self, handle: str) -> HandleState:
        """The same, where this device's key owns the handle."""
        state = await self.state(handle)
        if state is None:
            raise SottoError(f"nobody has published `{handle[:64]}`", code="persona_unknown")
        mine = public_key(self.keys.signing())
        if state.key != mine:
            raise SottoError(
                f"`{handle}` belongs to the key {fingerprint(state.key)}, and this device's is "
                f"{fingerprint(mine)}; import the key that owns it with "
                "`sotto personas keys --import FILE`",
                code="not_owner",
            )
        return state

    async def step(self, handle: str, kind: StepKind, **more: Any) -> SignedStep:
        """The next step of a handle that is owned, signed."""
        key = self.keys.signing()
        state = await self.owned(handle)
        at = max(int(time.time()), state.time)
        step = next_step(state, kind, handle=handle, key=public_key(key), time=at, **more)
        return sign_step(step, key)


_Work = Callable[[_Creator], Awaitable[int]]


def add_parsers(actions: Any) -> None:
    """Register the commands."""
    keys = actions.add_parser(
        "keys",
        help="show, make, export or import your creator's key",
        description="Makes the key that signs where there is none, and shows its public half.",
    )
    where = keys.add_mutually_exclusive_group()
    where.add_argument("--export", type=Path, metavar="FILE", help="write the keys into this file")
    where.add_argument("--import", type=Path, metavar="FILE", dest="take", help="take keys from it")
    keys.add_argument(
        "--handle",
        help="with --export: only what opens this private persona, for a new owner",
    )
    keys.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_home(keys)
    keys.set_defaults(run=run_keys)

    one = _add(actions, "publish", _publish, "publish a persona, or a new version of one")
    one.add_argument("file", type=Path, help="the persona: TOML, or a card")
    one.add_argument(
        "--private",
        action="store_true",
        help="seal the definition: only enclaves that you grant it to can read it",
    )
    one = _add(actions, "handover", _hand_over, "hand a handle over to another key")
    one.add_argument("handle", nargs="?", help="whose")
    one.add_argument("--to", metavar="KEY", help="the new owner's public key, 64 hex digits")
    one.add_argument("--out", type=Path, metavar="FILE", help="where the offer is written")
    one.add_argument(
        "--accept", type=Path, metavar="FILE", help="accept an offer, as the new owner"
    )
    one = _add(actions, "withdraw", _withdraw, "let nobody talk to a persona any more")
    one.add_argument("handle", help="whose")
    one = _add(actions, "grant", _grant, "open a private persona for the live enclaves")
    one.add_argument("handle", help="whose")
    one.add_argument("--watch", action="store_true", help="go on with enclaves as they come")
    one = _add(actions, "history", _history, "show a handle's steps, verified")
    one.add_argument("handle", help="whose")


def _add(actions: Any, name: str, work: _Work, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=what, description=what)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_way(parser)
    add_home(parser)
    parser.set_defaults(run=lambda args: _run(args, work))
    return parser


def _run(args: argparse.Namespace, work: _Work) -> int:
    policy, _ = load_policy(args)
    folder = home_folder(args)

    async def run() -> int:
        async with Device(home, policy, carrier(args)) as device:
            return await work(_Creator(args, home, CreatorKeys(folder), device))

    home = DeviceHome(folder)
    try:
        return asyncio.run(run())
    except PersonaError as error:
        raise SottoError(str(error), code="persona", exit_code=Exit.USAGE) from None
    finally:
        home.close()


def run_keys(args: argparse.Namespace) -> int:
    """`sotto personas keys`."""
    if args.handle is not None and args.export is None:
        raise SottoError("--handle goes with --export FILE", exit_code=Exit.USAGE)
    folder = home_folder(args)
    DeviceHome(folder).close()  # makes the folder, for its owner alone
    keys = CreatorKeys(folder)
    moved: dict[str, int] = {}
    if args.take is not None:
        moved = {"imported": keys.take(args.take)}
    elif args.export is not None:
        moved = {"exported": keys.export(args.export, args.handle)}
    if args.handle is not None:
        told: dict[str, object] = dict(moved)
    else:
        key = public_key(keys.signing(make=args.export is None))
        told = {"key": key.hex(), "fingerprint": fingerprint(key), **moved}
    if args.json:
        print_json(told)
        return Exit.OK
    for name, value in told.items():
        say(f"{name:<15} {value}")
    if args.export is not None:
        say("Whoever has this file has these keys: keep it where you keep secrets.")
    return Exit.OK


async def _publish(creator: _Creator) -> int:
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
    definition = _sealed(creator.keys, persona, listing) if args.private else canonical(persona)
    files = {} if args.private else _files(package)
    done = await publish(creator.device, signed, definition, files)
    more = {
        "version": persona.version,
        "digest": listing.digest.hex(),
        "private": args.private,
        "files": len(files),
        "files_left_out": len(_named(package)) - len(files),
        "fingerprint": fingerprint(mine),
    }
    code = _tell(args, persona.handle, done, more)
    if args.private and not args.json:
        say(f"Nobody can talk to it before: sotto personas grant {persona.handle} --watch")
    return code


def _read(path: Path) -> Package:
    """A persona's file in any format that there is."""
    if path.suffix.lower() == ".toml":
        return load_package(path)
    from personas.cards import MAX_BYTES, read_any

    return read_any(read_bounded(path, MAX_BYTES, "a persona's file"), path.name).package


def _files(package: Package) -> dict[bytes, bytes]:
    """Those that an enclave takes: the first so many, none of them too long."""
    short = [
        (bytes.fromhex(digest), data)
        for digest, data in _named(package).items()
        if 0 < len(data) <= MAX_PIECES * PIECE_BYTES
    ]
    return dict(short[:MAX_FILES])


def _named(package: Package) -> dict[str, bytes]:
    # A document's file is none of them: its text is in the definition.
    theirs = {digest for _, digest in named(package.persona)}
    return {digest: data for digest, data in package.files.items() if digest in theirs}


def _sealed(keys: CreatorKeys, persona: Persona, listing: Listing) -> bytes:
    # Kept before it is used: a definition whose key is lost is lost.
    key = keys.make_opening(persona.handle, listing.digest)
    return seal_definition(
        key, persona.handle, listing.digest, canonical(persona), nonce=os.urandom(NONCE_BYTES)
    )


async def _hand_over(creator: _Creator) -> int:
    args = creator.args
    if args.accept is not None:
        if args.handle or args.to or args.out:
            raise SottoError("--accept FILE stands alone", exit_code=Exit.USAGE)
        return await _accept(creator)
    if not (args.handle and args.to and args.out):
        raise SottoError(
            "say whose, to whom, and where the offer goes: sotto personas handover HANDLE "
            "--to KEY --out FILE",
            exit_code=Exit.USAGE,
        )
    try:
        new_key = bytes.fromhex(args.to)
    except ValueError:
        new_key = b""
    if len(new_key) != 32:
        raise SottoError(
            "--to is the new owner's public key, 64 hex digits: `sotto personas keys` shows it on "
            "their device",
            exit_code=Exit.USAGE,
        )
    signed = await creator.step(args.handle, StepKind.HAND_OVER, new_key=new_key)
    with new_file(args.out) as file:
        file.write(signed.encode())
    told = {"handle": args.handle, "to": fingerprint(new_key), "file": str(args.out)}
    if args.json:
        print_json(told)
    else:
        say(f"The offer of `{args.handle}` to {told['to']} is in {args.out}.")
        say("They accept it with: sotto personas handover --accept FILE")
    return Exit.OK


async def _accept(creator: _Creator) -> int:
    path = creator.args.accept
    try:
        with path.open("rb") as file:
            offer = decode_signed(file.read(MAX_STEP_BYTES + 1))
    except OSError as error:
        raise SottoError(
            f"{path} cannot be read ({error.strerror})", exit_code=Exit.USAGE
        ) from None
    handle = offer.step.handle
    signed = offer.accepted(creator.keys.signing())
    chain = await read_chain(creator.device, creator.home, handle)
    verify_chain((*chain.steps, signed), handle=handle)
    done = await publish(creator.device, signed)
    return _tell(creator.args, handle, done, {"fingerprint": fingerprint(signed.step.new_key)})


async def _withdraw(creator: _Creator) -> int:
    handle = creator.args.handle
    done = await publish(creator.device, await creator.step(handle, StepKind.WITHDRAW))
    return _tell(creator.args, handle, done, {})


def _tell(args: argparse.Namespace, handle: str, done: Published, more: dict[str, object]) -> int:
    told = {
        "handle": handle,
        "number": done.number,
        "step": done.step.hex(),
        "proven": done.proven,
        **more,
    }
    if args.json:
        print_json(told)
        return Exit.OK
    for name, value in told.items():
        say(f"{name:<15} {value}")
    if not done.proven:
        say("The log has not taken it yet; devices believe it when it has.")
    return Exit.OK


async def _grant(creator: _Creator) -> int:
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
        say(SIMULATED_LINE)
    for one in found:
        what = f"until {moment(one.until)}" if one.until else f"REFUSED: {plain(one.problem or '')}"
        say(f"{plain(one.gateway)} {one.enclave_id[:16]} {what}")


async def _history(creator: _Creator) -> int:
    handle = creator.args.handle
    chain = await read_chain(creator.device, creator.home, handle)
    if creator.args.json:
        print_json(_history_json(chain))
        return Exit.OK
    state = chain.state
    say(f"{handle}: {'WITHDRAWN' if state.withdrawn else 'published'}, of the key")
    say(f"  {fingerprint(state.key)}")
    for signed in chain.steps:
        step = signed.step
        what = str(step.kind)
        if step.listing is not None:
            shown = "private, " if step.listing.private else ""
            what += f" {step.listing.version} ({shown}{step.listing.digest.hex()[:16]})"
        if step.new_key:
            what += f" to {fingerprint(step.new_key)}"
        say(f"  {step.number:>3}  {moment(step.time)}  {what}")
    say(
        "Every step is signed, and stands in a log that your policy names."
        if chain.logged
        else "Every step is signed. Your policy asks for no log, so others may be shown others."
    )
    return Exit.OK


def _history_json(chain: Chain) -> dict[str, object]:
    state = chain.state
    return {
        "handle": state.handle,
        "key": state.key.hex(),
        "fingerprint": fingerprint(state.key),
        "withdrawn": state.withdrawn,
        "logged": chain.logged,
        "steps": [
            {
                "number": one.step.number,
                "kind": one.step.kind,
                "time": one.step.time,
                "step": one.step.digest.hex(),
                "key": one.step.key.hex(),
                "new_key": one.step.new_key.hex() or None,
                "version": one.step.listing.version if one.step.listing else None,
                "digest": one.step.listing.digest.hex() if one.step.listing else None,
                "private": one.step.listing.private if one.step.listing else None,
            }
            for one in chain.steps
        ],
    }
