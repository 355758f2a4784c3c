"""`sotto personas handover|withdraw|restore|history`: a handle's other steps, and all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from personas.authorship import MAX_STEP_BYTES, StepKind, decode_signed, fingerprint, verify_chain
from proofs.times import moment
from runtime.client.registry import Chain, read_chain
from runtime.client.restoring import restore
from runtime.client.submission import Submission
from runtime.commands.common import confirm, counted, plain
from runtime.commands.creator import Creator, add_command, said_step, told_step
from runtime.errors import Exit, SottoError
from runtime.exporting import new_file


def add_parsers(actions: Any) -> None:
    """Register the commands."""
    one = add_command(
        actions,
        "handover",
        _hand_over,
        "hand a handle over to another key",
        "The owner writes an offer into a file, and the new owner accepts it.",
    )
    one.add_argument("handle", nargs="?", help="whose")
    one.add_argument("--to", metavar="KEY", help="the new owner's public key, 64 hex digits")
    one.add_argument("--out", type=Path, metavar="FILE", help="where the offer is written")
    one.add_argument(
        "--accept", type=Path, metavar="FILE", help="accept an offer, as the new owner"
    )
    one.add_argument("--yes", action="store_true", help="do not ask")
    one = add_command(
        actions,
        "withdraw",
        _withdraw,
        "let nobody talk to a persona any more",
        "The handle stays its owner's; only a newer version brings it back.",
    )
    one.add_argument("handle", help="whose")
    one.add_argument("--yes", action="store_true", help="do not ask")
    one = add_command(
        actions,
        "restore",
        _restore,
        "send again what a store lost of a handle",
        "Exit code 1: some of it is not on this device.",
    )
    one.add_argument("handle", help="whose")
    one = add_command(actions, "history", _history, "show a handle's steps, verified")
    one.add_argument("handle", help="whose")


async def _hand_over(creator: Creator) -> int:
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
    whom = fingerprint(new_key)
    confirm(
        args,
        f"Offer {args.handle} to {whom}? Once they accept, it is theirs, and they alone can give "
        "it back.",
    )
    with new_file(args.out, replace=False) as file:
        file.write(signed.encode())
    creator.tell(
        {"handle": args.handle, "to": whom, "file": str(args.out)},
        f"The offer of {args.handle} to {whom} is in {plain(str(args.out))}.",
        "They accept it with: sotto personas handover --accept FILE",
    )
    return Exit.OK


async def _accept(creator: Creator) -> int:
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
    done = await creator.send(Submission.of(signed))
    mark = fingerprint(signed.step.new_key)
    creator.tell(
        {**told_step(handle, done), "fingerprint": mark},
        said_step(f"{handle} is yours", done),
        f"Give people: {handle}@{mark}",
    )
    return Exit.OK


async def _withdraw(creator: Creator) -> int:
    handle = creator.args.handle
    step = await creator.step(handle, StepKind.WITHDRAW)
    confirm(
        creator.args,
        f"Withdraw {handle}? Nobody is answered under it any more, whatever version they began "
        "with; only a newer version brings it back.",
    )
    done = await creator.send(Submission.of(step))
    creator.tell(told_step(handle, done), said_step(f"Withdrew {handle}", done))
    return Exit.OK


async def _restore(creator: Creator) -> int:
    handle = creator.args.handle
    done = await restore(creator.device, creator.home, creator.sent, creator.keys.signing(), handle)
    told = {
        "handle": handle,
        "restored": [one.number for one in done.steps],
        "length": done.length,
        "missing": done.missing,
    }
    lines = [f"The store has all {done.length} steps of {handle} that this device knows."]
    if done.length == 1:
        lines = [f"The store has the one step of {handle} that this device knows."]
    if done.steps:
        sent = counted(len(done.steps), "step")
        lines = [f"Sent {sent} of {handle} again; it has {done.length} now."]
    if done.missing:
        lines.append(f"Not here: {done.missing} more. Restore them from where they were sent.")
    creator.tell(told, *lines)
    return Exit.FAILED if done.missing else Exit.OK


async def _history(creator: Creator) -> int:
    handle = creator.args.handle
    chain = await read_chain(creator.device, creator.home, handle)
    state = chain.state
    lines = [
        f"{handle}: {'WITHDRAWN' if state.withdrawn else 'published'}, of the key",
        f"  {fingerprint(state.key)}",
    ]
    for signed in chain.steps:
        step = signed.step
        what = str(step.kind)
        if step.listing is not None:
            shown = "private, " if step.listing.private else ""
            what += f" {step.listing.version} ({shown}{step.listing.digest.hex()[:16]})"
        if step.new_key:
            what += f" to {fingerprint(step.new_key)}"
        lines.append(f"  {step.number:>3}  {moment(step.time)}  {what}")
    lines.append(
        "Every step is signed, and stands in a log that your policy names."
        if chain.logged
        else "Every step is signed. Your policy asks for no log, so others may be shown others."
    )
    creator.tell(_history_json(chain), *lines)
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
