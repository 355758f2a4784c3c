"""`sotto memory`: what is remembered of you, and how to change it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from memory.errors import MemoryStoreError
from memory.exports import MAX_EXPORT_BYTES, from_json
from memory.kinds import Notes, Record, Ref, Turn
from memory.markdown import from_markdown
from proofs.erasure import decode_erasure
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.memories import Memories
from runtime.client.rows import ErasureRow
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_way,
    carrier,
    confirm,
    home_folder,
    load_policy,
    note,
    plain,
    print_json,
    say,
)
from runtime.commands.forget import check_handle
from runtime.errors import Exit, SottoError
from runtime.exporting import new_file

_SETTLE_S = 5.0
_PAGE = 200
_SHOWN = 72
_SHOWN_LEAST = 24
_BEFORE_TEXT = 37  # reference, time and kind of a line
KINDS = {"facts": "fact", "turns": "turn", "summary": "summary"}

_Json = dict[str, Any]
_Act = Callable[[argparse.Namespace, Memories, Device], Awaitable[int]]


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "memory",
        help="see, search, correct, keep and forget what a persona remembers of you",
        description="What a persona remembers of you. A memory is named by its reference, such as "
        "m12 or m13.0, which `sotto memory list` shows.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, act: _Act, text: str, *, changes: bool = False) -> Any:
        one = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.add_argument("persona", help="the persona's handle")
        one.add_argument("--json", action="store_true", help="print JSON")
        add_way(one)
        add_home(one)
        one.set_defaults(run=run, act=act)
        if changes:
            one.add_argument("--yes", action="store_true", help="do not ask")
        return one

    _add_reading(action)
    _add_changing(action)


def _add_reading(action: Callable[..., Any]) -> None:
    one = action("list", _list, "list what is remembered, oldest first")
    _add_kind(one)
    one.add_argument("--pinned", action="store_true", help="only what is kept in every prompt")
    one.add_argument("--superseded", action="store_true", help="also what no longer holds")
    one.add_argument("--after", metavar="REF", help="what follows this memory")
    one.add_argument("--limit", type=int, help="at most so many (default: all)")
    one = action("search", _search, "find memories by words and by meaning, in all of the thread")
    one.add_argument("query", help="words, or a question")
    _add_kind(one)
    one.add_argument("--limit", type=int, default=10, help="at most so many (default: 10)")
    one = action("show", _show, "show memories whole")
    one.add_argument("refs", nargs="+", metavar="REF")
    one = action("why", _why, "show what stood in the prompt of a turn")
    one.add_argument(
        "turn", nargs="?", help="reference, turn id or receipt id; the last turn without"
    )
    one = action("export", _export, "write all that is remembered to a file")
    one.add_argument("file", type=Path, help="where to; a file that is there is replaced")
    one.add_argument("--format", choices=("json", "markdown"), help="default: by the file's name")


def _add_kind(parser: Any) -> None:
    parser.add_argument(
        "--kind",
        choices=sorted(KINDS),
        action="append",
        default=[],
        help="only these; can be given more than once",
    )


def _add_changing(action: Callable[..., Any]) -> None:
    for name, text in (("pin", "keep a memory in every prompt"), ("unpin", "undo a pin")):
        action(name, _pin, text).add_argument("ref", metavar="REF")
    one = action("write", _write, "add a fact in your own words")
    one.add_argument("text", help="one sentence")
    one.add_argument("--about", help="its subject, such as user.dog.name")
    one.add_argument("--importance", type=int, help="0 to 100 (default: 80)")
    one.add_argument("--pinned", action="store_true", help="keep it in every prompt")
    one = action("edit", _edit, "put a fact of your own words in the place of another")
    one.add_argument("ref", metavar="REF", help="the fact that no longer holds")
    one.add_argument("text", help="what holds instead")
    one.add_argument("--about", help="its subject (default: as it was)")
    one.add_argument("--importance", type=int, help="0 to 100 (default: as it was)")
    one = action("forget", _forget, "have memories erased, with a signed receipt", changes=True)
    one.add_argument("refs", nargs="*", metavar="REF", help="memories to erase")
    one.add_argument("--query", help="forget what a search for this finds, as far as you confirm")
    one.add_argument("--limit", type=int, default=10, help="with --query: at most so many")
    one.add_argument("--all", action="store_true", help="the whole conversation")
    one.add_argument(
        "--keep-turns", action="store_true", help="of a fact: leave the turns it was learned from"
    )
    one = action("import", _import, "add what an export holds; all of it or nothing")
    one.add_argument("file", type=Path, help="an export: JSON, or Markdown (.md), facts alone")
    action("rotate", _rotate, "move the conversation to a new key", changes=True)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    _check(args)
    policy, _ = load_policy(args)
    home = DeviceHome(home_folder(args))
    try:
        home.thread_keys(args.persona)
        # A mistyped handle has an empty memory, too, and nothing would look wrong.
        check_handle(args.persona, home)
        device = Device(home, policy, carrier(args))
        return asyncio.run(_act(args, device))
    except MemoryStoreError as error:  # of the handle, before anything was asked
        raise SottoError(str(error), code=error.code, exit_code=Exit.USAGE) from None
    finally:
        home.close()


def _check(args: argparse.Namespace) -> None:
    """What can be seen to be wrong before anybody is asked."""
    refs = [*getattr(args, "refs", ()), *filter(None, (getattr(args, "ref", None),))]
    for ref in refs:
        try:
            Ref.parse(ref)
        except MemoryStoreError as error:
            raise SottoError(str(error), code="invalid_request", exit_code=Exit.USAGE) from None
    if args.action == "forget" and sum((bool(refs), args.query is not None, args.all)) != 1:
        raise SottoError(
            "say what to forget: references, --query TEXT, or --all", exit_code=Exit.USAGE
        )
    if args.action == "import":
        args.records = _read(args.file)


async def _act(args: argparse.Namespace, device: Device) -> int:
    async with device:
        code: int = await args.act(args, device.memories, device)
        if device.simulated and not args.json:
            note(SIMULATED_LINE)
        return code


async def _list(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    wanted: _Json = {
        "kinds": [KINDS[one] for one in args.kind],
        "superseded": args.superseded,
        "pinned": args.pinned,
        "after": args.after,
    }
    found: list[_Json] = []
    while True:
        left = None if args.limit is None else args.limit - len(found)
        limit = _PAGE if left is None else min(left, _PAGE)
        page = await memories.page(args.persona, **wanted, limit=limit)
        found += page["memories"]
        wanted["after"] = page["next"]
        if page["next"] is None or (left is not None and left <= len(page["memories"])):
            break
    if args.json:
        told = {"memories": found, "total": page["total"], "next": page["next"]}
        print_json({**told, "simulated": device.simulated})
        return Exit.OK
    if not found:
        chosen = args.kind or args.pinned or args.after
        say(
            "Nothing that is remembered fits."
            if chosen
            else f"Nothing is remembered with {args.persona}."
        )
    table(found)
    if page["next"] is not None:
        say(f"{page['total']} in all; --after {page['next']} shows more.")
    return Exit.OK


async def _search(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    kinds = [KINDS[one] for one in args.kind]
    found = await memories.search(args.persona, args.query, kinds=kinds, limit=args.limit)
    if args.json:
        print_json({"memories": found["memories"], "simulated": device.simulated})
        return Exit.OK
    if not found["memories"]:
        say("Nothing that is remembered fits.")
    table(found["memories"])
    return Exit.OK


async def _show(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    found = (await memories.page(args.persona, refs=args.refs, superseded=True))["memories"]
    if args.json:
        print_json({"memories": found, "simulated": device.simulated})
        return Exit.OK
    for one in found:
        _whole(one)
    return Exit.OK


async def _why(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    found = await memories.why(args.persona, args.turn)
    if args.json:
        kept = {name: value for name, value in found.items() if name not in ("position", "erased")}
        print_json({**kept, "simulated": device.simulated})
        return Exit.OK
    show_why(found)
    return Exit.OK


def show_why(found: _Json) -> None:
    """What stood in a turn's prompt, for people."""
    turn = found["turn"]
    say(f"{turn['ref']}  {_when(turn['time'])}  {_line(turn['text'])}")
    window = found["window"]
    if window:
        say(f"Turns in the prompt as they were: {window[0]} to {window[-1]} ({len(window)}).")
    else:
        say("No earlier turn stood in the prompt as it was.")
    if found["summary"] is not None:
        say("Summary of what came before:")
        table([found["summary"]])
    if found["recalled"]:
        say("Recalled:")
        table(found["recalled"])
    else:
        say("Nothing was recalled.")
    if found["lore"]:
        say(f"Entries of the persona's lorebook: {', '.join(found['lore'])}")
    if found["learned"]:
        say("Learned from it:")
        table(found["learned"])


async def _pin(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    pinned = args.action == "pin"
    answer = await memories.pin(args.persona, args.ref, pinned=pinned)
    said = "stays in every prompt now" if pinned else "is in a prompt only where it fits"
    return _changed(args, device, answer, f"{args.ref} {said}.")


async def _write(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    more = {"about": args.about, "importance": args.importance, "pinned": args.pinned or None}
    answer = await memories.write(args.persona, args.text, **more)
    return _changed(args, device, answer, f"Remembered as {answer['memory']['ref']}.")


async def _edit(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    more = {"about": args.about, "importance": args.importance}
    answer = await memories.edit(args.persona, args.ref, args.text, **more)
    ref = answer["memory"]["ref"]
    return _changed(args, device, answer, f"{ref} holds now; {args.ref} is kept as what held.")


def _changed(args: argparse.Namespace, device: Device, answer: _Json, line: str) -> int:
    if args.json:
        print_json({"memory": answer["memory"], "simulated": device.simulated})
    else:
        say(line)
    return Exit.OK


async def _forget(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    if args.all:
        confirm(args, f"Forget everything that was said to {args.persona}?")
        return await _told_erasure(args, device, await device.forget(args.persona))
    refs = list(args.refs)
    if args.query is not None:
        found = await memories.search(args.persona, args.query, limit=args.limit)
        refs = [one["ref"] for one in found["memories"]]
        if not refs:
            raise SottoError("nothing that is remembered fits", code="memory_unknown")
    plan = await memories.plan(args.persona, refs, keep_turns=args.keep_turns)
    if not args.json:
        say("This goes:")
        table(plan["would"])
        if plan["mentions"]:
            say(f"Replies that stay may speak of it: {', '.join(plan['mentions'])}.")
    confirm(args, "Nothing brings it back. Forget it?")
    row = await memories.forget(args.persona, refs, keep_turns=args.keep_turns)
    return await _told_erasure(args, device, row)


async def _rotate(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    confirm(args, f"Move the conversation with {args.persona} to a new key?")
    return await _told_erasure(args, device, await memories.rotate(args.persona))


async def _told_erasure(args: argparse.Namespace, device: Device, row: ErasureRow) -> int:
    row = await device.wait_erased(row.receipt_id, _SETTLE_S) or row
    stated = decode_erasure(row.receipt or b"").unverified
    if args.json:
        told = {name: getattr(row, name) for name in ("receipt_id", "persona", "time", "status")}
        more = {"scope": row.scope, "records": stated.length, "simulated": device.simulated}
        print_json({**told, **more})
        return Exit.OK
    plural = "" if stated.length == 1 else "s"
    done = "Carried over to a new key" if row.scope == "rotation" else "Forgotten"
    say(f"{done}: {stated.length} record{plural}. Receipt {row.receipt_id}, {row.status}.")
    return Exit.OK


async def _export(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    form = args.format or ("markdown" if args.file.suffix == ".md" else "json")
    size = 0
    # Made first: a place that cannot be written is known before anything is asked for.
    with new_file(args.file) as file:
        async with contextlib.aclosing(memories.export(args.persona, form)) as pieces:
            async for piece in pieces:
                size += file.write(piece.encode())
    if args.json:
        told = {"file": str(args.file), "format": form, "bytes": size}
        print_json({**told, "simulated": device.simulated})
    else:
        say(f"Written to {args.file}: {size:,} bytes. Whoever has the file can read all of it.")
    return Exit.OK


async def _import(args: argparse.Namespace, memories: Memories, device: Device) -> int:
    records: list[Record] = args.records
    done = await memories.import_records(args.persona, records)
    facts = sum(len(one.facts) for one in records if isinstance(one, Notes))
    turns = sum(isinstance(one, Turn) for one in records)
    if args.json:
        told = {"records": done.records, "facts": facts, "turns": turns}
        print_json({**told, "receipt_id": done.row.receipt_id, "simulated": device.simulated})
    else:
        say(f"Imported {facts} facts and {turns} turns; the conversation has a new key.")
    return Exit.OK


def _read(path: Path) -> list[Record]:
    """The records of a file, all of them looked at before anything is written anywhere."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_EXPORT_BYTES + 1)
    except OSError as error:
        raise SottoError(
            f"{path} cannot be read ({error.strerror}); name an export's file",
            code="import_unreadable",
            exit_code=Exit.USAGE,
        ) from None
    read = from_markdown if path.suffix == ".md" else from_json
    try:
        return list(read(data))
    except MemoryStoreError as error:
        raise SottoError(f"{path}: {error}", code="import_invalid", exit_code=Exit.USAGE) from None


def table(memories: list[_Json]) -> None:
    """Memories for people, one in a line."""
    for one in memories:
        if one.get("forgotten"):
            say(f"{one['ref']:<8} forgotten since")
            continue
        marks = "*" if one["pinned"] else ""
        kind = one["kind"] + marks
        origin = _origin(one)
        line = _line(one["text"], _room(len(origin)))
        say(f"{one['ref']:<8} {_when(one['time'])}  {kind:<8}  {line}{origin}")


def _origin(one: _Json) -> str:
    """Where a fact comes from and until when it held, behind its text."""
    told = []
    if one["kind"] == "fact":
        told.append(f"from {', '.join(one['sources'])}" if one["sources"] else "yours")
    if "superseded_by" in one:
        told.append(f"until {_when(one['until'])[:10]}, then {one['superseded_by']}")
    return f"  ({'; '.join(told)})" if told else ""


def _whole(one: _Json) -> None:
    say(f"{one['ref']}  {_when(one['time'])}  {one['kind']}{_origin(one)}")
    for name in ("about", "importance", "pinned", "before", "outcome", "turn_id", "receipt_id"):
        if one.get(name) not in (None, "", False):
            say(f"  {name}: {one[name]}")
    say(plain(one["text"]))
    if one.get("reply"):
        say(f"> {plain(one['reply'])}")
    say()


def _when(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "at no known time"


def _room(after: int) -> int:
    """How many characters of a text fit into its line, with so many behind it."""
    if not sys.stdout.isatty():
        return _SHOWN
    left = shutil.get_terminal_size().columns - _BEFORE_TEXT - after
    return min(_SHOWN, max(_SHOWN_LEAST, left))


def _line(text: str, most: int = _SHOWN) -> str:
    line = " ".join(plain(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
