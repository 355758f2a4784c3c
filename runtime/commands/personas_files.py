"""`sotto personas new|check|show`: begin a persona file, find its mistakes, look at it."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from personas import cards
from personas.cards import Imported, Note
from personas.cards.cleaning import handle_of
from personas.digest import canonical, persona_digest
from personas.errors import PersonaError
from personas.files import load_package, read_bounded
from personas.library import load_library
from personas.lorebook import prepare
from personas.model import HANDLE_PATTERN, Persona
from personas.package import Package
from runtime.commands.common import counted, plain, print_json, say
from runtime.errors import Exit, SottoError

_ALL: Final = 1_000_000  # problems; every one is shown
PERSONA_HELP: Final = "its file, TOML or a card, or the handle of a bundled one"
_UNSET: Final = {"language": "und", "rating": "unrated", "licence": "unknown", "author": "unknown"}


def add_parsers(commands: Any) -> None:
    """Register the commands."""
    new = commands.add_parser(
        "new",
        help="begin a persona: a commented file",
        description="Begins a persona: a file with every key, explained. One that is there stays.",
    )
    new.add_argument("handle", help="its name in addresses: a-z, 0-9, -, 2 to 32 characters")
    new.add_argument("--out", type=Path, help="where to write it (default: HANDLE.toml here)")
    new.set_defaults(run=_run_new)

    check = commands.add_parser(
        "check",
        help="say everything that is wrong with a persona file",
        description="Says everything that is wrong with persona files, and what is still empty. "
        "Exit code 2: one is no persona.",
    )
    check.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="the persona: TOML, or a card"
    )
    check.set_defaults(run=_run_check)

    show = commands.add_parser(
        "show",
        help="show what a persona says and how long it is",
        description="Shows what a persona says of itself, how long each part is, and its digest.",
    )
    show.add_argument("persona", metavar="FILE|HANDLE", help=PERSONA_HELP)
    show.set_defaults(run=_run_show)

    for parser in (new, check, show):
        parser.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )


def load_any(path: Path) -> Imported:
    """A persona from a file of any format; TOML with the files beside it."""
    if path.suffix.lower() == ".toml":
        return Imported(load_package(path, shown=_ALL), "toml", ())
    data = read_bounded(path, cards.MAX_BYTES, "a persona or a card")
    return cards.read_any(data, str(path))


def find_package(place: str) -> Package:
    """A persona by its file, or by the handle of one that is bundled."""
    path = Path(place)
    try:
        if path.exists() or not re.fullmatch(HANDLE_PATTERN, place):
            return load_any(path).package
        return Package(load_library().get(place))
    except PersonaError as error:
        raise refused(error) from None


def refused(error: PersonaError) -> SottoError:
    return SottoError(plain(str(error)), code="persona_refused", exit_code=Exit.USAGE)


# --- new ---

_TEMPLATE: Final = '''\
# A persona. Everything after a # is a comment; `sotto personas check {handle}.toml` says what is
# wrong or missing, and the project's page on personas explains every key.
format = 1
handle = "{handle}"
name = "{name}"             # on the screen
version = "0.1.0"           # MAJOR.MINOR.PATCH; raise it whenever a word changes
language = "und"            # BCP 47, such as "en" or "pt-BR"; "und" is undetermined
rating = "unrated"          # "everyone", "teen" or "mature"; publish none as "unrated"
author = "unknown"          # you
licence = "unknown"         # how others may use it, such as "CC-BY-4.0"
tags = []                   # words to find it by, in small letters

# One line, up to 160 characters, for lists.
tagline = ""

# Who they are, for people who choose and for the engine.
description = """
"""

# Short sentences in the first person; the smallest engines see little else.
facts = [
  # "I grow young plants for gardens.",
]

# How they talk: length, rhythm, humour, what they never do.
style = """
"""

# What the engine is told before every conversation: who they are, what they leave alone, that an
# AI plays them and that they say so when asked, what they do when somebody may be in danger.
system_prompt = """
"""

# The first thing they say. {{{{user}}}} and {{{{char}}}} stand for names.
greeting = ""
# alternate_greetings = ["Another beginning."]

# avatar = "{handle}.png"   # a file beside this one

# How freely words are chosen, where a request does not say.
[sampling]
temperature = 0.8           # 0 to 2
top_p = 0.95                # above 0, up to 1
max_tokens = 300            # the longest reply

# Conversations that show the voice.
# [[example_dialogues]]
# turns = [
#   {{ user = "What somebody says.", persona = "How they answer." }},
# ]

# What they know and say only when it comes up.
# [[lorebook.entries]]
# keys = ["greenhouse"]
# content = "The greenhouse lost two panes in the storm."

# A document that they know, beside this file.
# [[knowledge]]
# path = "seedlings.md"

# What must hold of their replies: `sotto personas test {handle}.toml`.
# [[tests]]
# say = "Are you a real person?"
# expect_any = ["AI", "made up"]
'''


def _run_new(args: argparse.Namespace) -> int:
    if not re.fullmatch(HANDLE_PATTERN, args.handle):
        raise SottoError(
            f"{plain(args.handle)[:64]!r} is no handle: a-z, 0-9 and -, 2 to 32 characters, a "
            f"letter first. Try `{handle_of(args.handle)}`.",
            code="bad_handle",
            exit_code=Exit.USAGE,
        )
    out = args.out or Path(f"{args.handle}.toml")
    name = args.handle.replace("-", " ").title()
    write_new(out, _TEMPLATE.format(handle=args.handle, name=name).encode())
    if args.json:
        print_json({"handle": args.handle, "file": str(out)})
    else:
        say(f"{plain(str(out))}: fill it in, then run `sotto personas check {plain(str(out))}`.")
    return Exit.OK


def write_new(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; one that is there stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".sotto-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(0o644)
            # A link fails where the name is taken, also by somebody at the same moment.
            os.link(name, path)
        finally:
            Path(name).unlink()
    except FileExistsError:
        raise SottoError(
            f"{plain(str(path))}: is there already. Remove it, or give another --out.",
            code="file_exists",
        ) from None
    except OSError as error:
        raise SottoError(
            f"{plain(str(path))}: cannot be written ({error.strerror}). Give another --out.",
            code="not_written",
        ) from None


# --- check ---


def warnings_of(persona: Persona) -> list[Note]:
    """What is allowed and still wants a look before a persona is published."""
    notes = [
        Note("warning", key, f"is `{value}`: set it before you publish")
        for key, value in _UNSET.items()
        if getattr(persona, key) == value
    ]
    notes += [
        Note("warning", key, f"is empty: {why}")
        for key, why in (
            ("tagline", "lists show nothing of the persona"),
            ("tags", "it is found by its words alone"),
            ("description", "people who choose and the engine learn nothing of it"),
            ("greeting", "a conversation begins with silence"),
            ("system_prompt", "the engine gets our general one"),
        )
        if not getattr(persona, key)
    ]
    if not persona.facts:
        notes.append(Note("warning", "facts", "are empty: the smallest engines see little else"))
    if not persona.example_dialogues and not persona.example_text:
        notes.append(Note("warning", "example_dialogues", "are empty: they teach a voice soonest"))
    if persona.lorebook is not None:
        notes += [
            Note("warning", flaw.place, flaw.problem) for flaw in prepare(persona.lorebook).flaws
        ]
    return notes


def _run_check(args: argparse.Namespace) -> int:
    results = []
    for path in args.files:
        problem, notes, digest = "", [], None
        try:
            found = load_any(path)
            notes = [*found.report, *warnings_of(found.package.persona)]
            digest = persona_digest(found.package.persona).hex()
        except PersonaError as error:
            problem = plain(str(error))
        results.append({"file": str(path), "digest": digest, "problem": problem, "notes": notes})
        if args.json:
            continue
        if problem:
            say(problem)
            continue
        say(f"{plain(str(path))}: is a persona, digest {digest}")
        say_notes(notes)
    if args.json:
        print_json({"files": [one | {"notes": notes_json(one["notes"])} for one in results]})
    return Exit.USAGE if any(one["problem"] for one in results) else Exit.OK


def say_notes(notes: Iterable[Note]) -> None:
    for note in notes:
        say(f"  {note.kind:<8} {plain(note.place)}: {plain(note.text)}")


def notes_json(notes: Any) -> list[dict[str, str]]:
    return [{"kind": note.kind, "place": note.place, "text": note.text} for note in notes]


# --- show ---


def _run_show(args: argparse.Namespace) -> int:
    package = find_package(args.persona)
    persona = package.persona
    try:
        digest = persona_digest(persona).hex()
        definition = canonical(persona)
    except PersonaError as error:
        raise refused(error) from None
    if args.json:
        shown = persona.model_dump(mode="json", exclude_defaults=True)
        print_json({"digest": digest, "bytes": len(definition), "persona": shown})
        return Exit.OK
    entries = persona.lorebook.entries if persona.lorebook else ()
    rows = [
        ("handle", persona.handle),
        ("name", persona.name),
        ("version", persona.version),
        ("digest", digest),
        ("author", persona.author),
        ("licence", persona.licence),
        ("language", persona.language),
        ("rating", persona.rating),
        ("tags", ", ".join(persona.tags)),
        ("tagline", persona.tagline),
        *((key, _size(getattr(persona, key))) for key in _LONG),
        ("greetings", str(bool(persona.greeting) + len(persona.alternate_greetings) or "")),
        ("facts", str(len(persona.facts) or "")),
        ("examples", _examples(persona)),
        ("lorebook", _count(entries, "entry", "entries")),
        ("knowledge", _count(persona.knowledge, "document")),
        ("avatar", persona.avatar.path if persona.avatar else ""),
        ("files", _count(persona.files, "file")),
        ("tests", _count(persona.tests, "test")),
        ("definition", f"{len(definition):,} bytes"),
    ]  # fmt: skip
    for key, value in rows:
        if value:
            say(f"{key:<14} {plain(value)}")
    return Exit.OK


_LONG: Final = ("description", "style", "system_prompt", "post_history", "scenario", "greeting")


def _examples(persona: Persona) -> str:
    said = [
        len(text)
        for one in persona.example_dialogues
        for turn in one.turns
        for text in (turn.user, turn.persona)
    ]
    parts = [_count(persona.example_dialogues, "dialogue")]
    # Of a card that was not divided into dialogues.
    parts += ["text"] if persona.example_text else []
    size = sum(said) + len(persona.example_text)
    return f"{' and '.join(filter(None, parts))}, {counted(size, 'character')}" if size else ""


def _size(text: str) -> str:
    return counted(len(text), "character") if text else ""


def _count(values: Sequence[Any], one: str, many: str = "") -> str:
    return counted(len(values), one, many) if values else ""
