"""`sotto personas import|export`: cards, characters, agents and lorebooks of other programs."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from personas import cards
from personas.cards import FORMATS, Note
from personas.digest import canonical
from personas.errors import PersonaError
from personas.files import load_package, read_bounded, write_persona
from personas.model import Lorebook, Persona
from personas.package import Package
from runtime.commands.common import plain, print_json, say
from runtime.commands.personas_files import (
    PERSONA_HELP,
    find_package,
    load_any,
    notes_json,
    refused,
    say_notes,
    write_new,
)
from runtime.errors import Exit, SottoError

_SUFFIXES: Final = (".png", ".apng", ".json", ".charx", ".af", ".toml")
_ENDINGS: Final = {
    "png": ".png",
    "charx": ".charx",
    "letta": ".af",
    "toml": ".toml",
}
# Personas of one name in one folder.
_MAX_ALIKE: Final = 1_000


def add_parsers(commands: Any) -> None:
    """Register the commands."""
    bring = commands.add_parser(
        "import",
        help="read character cards, characters, agents and lorebooks as persona files",
        description="Reads PNG, JSON and CHARX cards, Eliza characters, Letta agent files and "
        "lorebooks; a folder stands for every such file in it. Each persona becomes a folder "
        "HANDLE with HANDLE.toml and its files. What cannot be read is said and changes nothing.",
    )
    bring.add_argument(
        "files", nargs="+", type=Path, metavar="FILE|FOLDER", help="cards, or folders of them"
    )
    bring.add_argument("--out", type=Path, default=Path(), help="where to put them (default: here)")
    bring.add_argument(
        "--into",
        type=Path,
        metavar="PERSONA",
        help="add lorebooks to this persona file instead of making personas of them",
    )
    bring.set_defaults(run=_run_import)

    export = commands.add_parser(
        "export",
        help="write a persona for other programs",
        description="Writes a persona in the format of other programs, and says what that has no "
        "place for. A file that is there stays.",
    )
    export.add_argument("persona", metavar="FILE|HANDLE", help=PERSONA_HELP)
    export.add_argument("--format", choices=FORMATS, default="png", help="which (default: png)")
    export.add_argument("--out", type=Path, help="the file (default: HANDLE with the ending)")
    export.set_defaults(run=_run_export)

    for parser in (bring, export):
        parser.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one file; `unchanged`: it was imported before, and nothing was written."""

    file: Path
    out: Path | None
    format: str
    problem: str
    report: tuple[Note, ...]
    unchanged: bool = False


def _run_import(args: argparse.Namespace) -> int:
    paths = list(_spread(args.files))
    if not paths:
        raise SottoError(
            "there is no file to read in what you named; name cards, or a folder that holds some",
            code="nothing_to_import",
            exit_code=Exit.USAGE,
        )
    bring = _import_book if args.into is not None else _import_one
    results = []
    for path in paths:
        result = bring(path, args)
        results.append(result)
        if not args.json:
            if result.problem:
                say(result.problem)
            elif result.unchanged:
                say(f"{plain(str(path))}: is there already, unchanged, in {plain(str(result.out))}")
            else:
                say(f"{plain(str(path))} ({result.format}) -> {plain(str(result.out))}")
                say_notes(result.report)
    failed = sum(bool(one.problem) for one in results)
    if args.json:
        print_json({"files": [_result_json(one) for one in results]})
    elif len(results) > 1:
        same = sum(one.unchanged for one in results)
        there = f"; {same} {'was' if same == 1 else 'were'} there already" if same else ""
        new = len(results) - failed - same
        say(f"{new} of {len(results)} {'was' if new == 1 else 'were'} imported{there}.")
    return Exit.USAGE if failed else Exit.OK


def _result_json(result: _Result) -> dict[str, Any]:
    return {
        "file": str(result.file),
        "out": str(result.out) if result.out else None,
        "format": result.format,
        "problem": result.problem,
        "unchanged": result.unchanged,
        "report": notes_json(result.report),
    }


def _spread(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(
                one for one in path.iterdir() if one.suffix.lower() in _SUFFIXES and one.is_file()
            )
        else:
            yield path


def _import_one(path: Path, args: argparse.Namespace) -> _Result:
    try:
        found = load_any(path)
        package, out, new = _place(found.package, args.out)
    except (PersonaError, SottoError) as error:
        return _Result(path, None, "", plain(str(error)), ())
    except OSError as error:
        problem = f"{path}: cannot be written to {args.out} ({error.strerror}). Give another --out."
        return _Result(path, None, "", plain(problem), ())
    handle = package.persona.handle
    report = found.report
    if handle != found.package.persona.handle:
        taken = Note("changed", "handle", f"is `{handle}`, since the other one is taken in --out")
        report = (*report, taken)
    return _Result(path, out, found.format, "", report, unchanged=not new)


def _place(package: Package, out: Path) -> tuple[Package, Path, bool]:
    """Write a persona's folder: made aside and renamed, so that it is there whole or not at all.

    Returns:
        The persona under the handle that it got, its file, and whether that was written now.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number in range(1, _MAX_ALIKE):
        handle = package.persona.handle
        if number > 1:
            handle = f"{handle[: 31 - len(str(number))]}-{number}"
        folder = out / handle
        if folder.exists():
            if _same(folder / f"{handle}.toml", package, handle):
                return _named(package, handle), folder / f"{handle}.toml", False
            continue
        made = _named(package, handle)
        aside = Path(tempfile.mkdtemp(dir=out, prefix=".sotto-"))
        try:
            for path, data in _contents(made).items():
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                (aside / path).write_bytes(data)
            # What was written is what is read again, before it gets its name.
            load_package(aside / f"{handle}.toml")
            aside.chmod(0o755)
            aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return made, folder / f"{handle}.toml", True
    raise SottoError(f"{out}: holds too many personas called `{package.persona.handle}`.")


def _named(package: Package, handle: str) -> Package:
    if handle == package.persona.handle:
        return package
    return Package(package.persona.model_copy(update={"handle": handle}), package.files)


def _same(path: Path, package: Package, handle: str) -> bool:
    """Whether the very same persona was imported before."""
    try:
        return load_package(path).persona == _named(package, handle).persona
    except PersonaError:
        return False


def _contents(package: Package) -> dict[str, bytes]:
    """The files of a persona's folder, by path."""
    persona = package.persona
    named = [*persona.files, *([persona.avatar] if persona.avatar else [])]
    contents = {f"{persona.handle}.toml": write_persona(persona).encode()}
    for file in named:
        data = package.read(file)
        if data is None:
            continue
        if contents.setdefault(file.path, data) != data or _shadows(file.path, contents):
            raise PersonaError(
                f"The card holds two files at `{file.path}`, or one whose name this folder needs. "
                "Rename it in the card."
            )
    return contents


def _shadows(path: str, contents: dict[str, bytes]) -> bool:
    """Whether some systems would take a path for another, or for a folder of another."""
    folded = path.casefold()
    return any(
        other != path
        and (
            other.casefold() == folded
            or folded.startswith(other.casefold() + "/")
            or other.casefold().startswith(folded + "/")
        )
        for other in contents
    )


def _import_book(path: Path, args: argparse.Namespace) -> _Result:
    """Add a lorebook to a persona's file, which is replaced whole."""
    try:
        data = read_bounded(path, cards.MAX_BYTES, "a lorebook")
        book, report = cards.read_lorebook(data, str(path))
        package = load_package(args.into)
        persona = package.persona
        merged = _merge(persona.lorebook, book)
        if merged == persona.lorebook:
            return _Result(path, args.into, "lorebook", "", report, unchanged=True)
        changed = Persona.model_validate(
            {**{key: getattr(persona, key) for key in Persona.model_fields}, "lorebook": merged}
        )
        canonical(changed)
    except PersonaError as error:
        return _Result(path, None, "", plain(str(error)), ())
    except ValueError:
        problem = f"{path}: has more entries than fit into {args.into}. Split the lorebook."
        return _Result(path, None, "", plain(problem), ())
    try:
        aside = args.into.with_name(f".sotto-{args.into.name}")
        aside.write_text(write_persona(changed), encoding="utf-8")
        aside.replace(args.into)
    except OSError as error:
        problem = f"{args.into}: cannot be written ({error.strerror}). Check its folder."
        return _Result(path, None, "", plain(problem), ())
    return _Result(path, args.into, "lorebook", "", report)


def _merge(old: Lorebook | None, new: Lorebook) -> Lorebook:
    if old is None:
        return new
    entries = (*old.entries, *(entry for entry in new.entries if entry not in old.entries))
    return Lorebook.model_validate(
        {**{key: getattr(old, key) for key in Lorebook.model_fields}, "entries": entries}
    )


def _run_export(args: argparse.Namespace) -> int:
    package = find_package(args.persona)
    handle = package.persona.handle
    out = args.out or Path(handle + _ENDINGS.get(args.format, ".json"))
    try:
        made = cards.export(package, args.format)
        beside = _contents(package) if args.format == "toml" else {}
    except PersonaError as error:
        raise refused(error) from None
    for path, data in beside.items():
        place = out.parent / path
        if path != f"{handle}.toml" and not (place.is_file() and place.read_bytes() == data):
            write_new(place, data)
    write_new(out, made.data)
    if args.json:
        print_json(
            {
                "file": str(out),
                "format": args.format,
                "bytes": len(made.data),
                "report": notes_json(made.report),
            }
        )
    else:
        say(f"{plain(str(out))}: {args.format}, {len(made.data):,} bytes")
        say_notes(made.report)
    return Exit.OK
