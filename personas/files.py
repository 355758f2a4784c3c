"""Personas as TOML files, with files beside them; says what is wrong with one and where."""

from __future__ import annotations

import difflib
import pathlib
import tomllib
from collections.abc import Callable
from typing import Any, Final

import tomli_w
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from personas import model
from personas.errors import PersonaError
from personas.model import MAX_KNOWLEDGE_TEXT, Persona
from personas.package import MAX_FILES_BYTES, Package, describe, sha256

MAX_FILE_BYTES: Final = 1_048_576
_SHOWN: Final = 5  # problems named in one message

_KEYS: Final = tuple(
    {
        name
        for kind in vars(model).values()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for name in kind.model_fields
    }
)
_PATHS: Final = TypeAdapter(model.Path)
_MEDIA_TYPES: Final = {".md": "text/markdown", ".txt": "text/plain"}

Read = Callable[[str], bytes]
"""Gives the bytes of a file beside the persona, by its path there; raises PersonaError."""


def load_persona(path: pathlib.Path) -> Persona:
    """Read one persona. Raises PersonaError that names the file, the place, the rule, the remedy.

    No more than the limit is read, and the limit is checked before anything is parsed. Files that
    the persona names are read too, since their digests are part of it.
    """
    return load_package(path).persona


def load_package(path: pathlib.Path, *, shown: int = _SHOWN) -> Package:
    """Read one persona and its files. Raises PersonaError as `load_persona` does.

    One message names at most `shown` problems.
    """
    data = read_bounded(path, MAX_FILE_BYTES, "a persona's TOML file")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PersonaError(
            f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8."
        ) from None
    files: dict[str, bytes] = {}

    def read(name: str) -> bytes:
        folder = path.parent.resolve()
        place = folder / name
        # A link may not lead out of the folder either.
        if not place.resolve().is_relative_to(folder):
            raise PersonaError(
                f"{path}: `{name}` is a link that leaves the persona's folder. Copy the file there."
            )
        left = MAX_FILES_BYTES - sum(map(len, files.values()))
        found = read_bounded(place, left, "a file beside the persona")
        files[sha256(found)] = found
        return found

    persona = parse_persona(text, source=str(path), read=read, shown=shown)
    return Package(persona, files)


def read_bounded(path: pathlib.Path, most: int, what: str) -> bytes:
    """Read a file of at most `most` bytes; no more is read. Raises PersonaError."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise PersonaError(f"{path}: cannot be read ({reason}). Give the path of {what}.") from None
    if len(data) > most:
        raise PersonaError(
            f"{path}: the file is longer than the {most} bytes that {what} may have. Shorten it."
        )
    return data


def parse_persona(
    text: str, *, source: str, read: Read | None = None, shown: int = _SHOWN
) -> Persona:
    """Read a persona from TOML; `source` names it in errors. Raises PersonaError.

    Without `read`, files must stand in it with their SHA-256, and knowledge with its text.
    """
    try:
        data = tomllib.loads(text)
    # Besides its own error, tomllib lets through those of int() and of its recursion.
    except (ValueError, RecursionError) as error:
        reason = str(error) or "it is nested too deeply"
        raise PersonaError(f"{source}: is not TOML: {reason}. Correct the file there.") from None
    _resolve(data, source, read)
    try:
        return Persona.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        lines = [_explain(problem) for problem in problems[:shown]]
        if len(problems) > shown:
            lines.append(f"and {len(problems) - shown} more")
        raise PersonaError(f"{source}: " + "; ".join(lines) + ".") from None


def write_persona(persona: Persona) -> str:
    """Return the persona as TOML that `parse_persona` reads as an equal one."""
    data = persona.model_dump(mode="python", exclude_defaults=True)
    return tomli_w.dumps(_without_none(data), multiline_strings=True)


def _without_none(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_none(one) for key, one in value.items() if one is not None}
        case list() | tuple():
            return [_without_none(one) for one in value]
        case _:
            return value


def _resolve(data: dict[str, Any], source: str, read: Read | None) -> None:
    """Put what is in the files that the persona names in the place of their paths."""
    if "avatar" in data:
        data["avatar"] = _file(data["avatar"], "avatar", source, read)
    if isinstance(data.get("files"), list):
        data["files"] = [
            _file(one, f"files[{at}]", source, read) for at, one in enumerate(data["files"])
        ]
    knowledge = data.get("knowledge")
    for at, one in enumerate(knowledge if isinstance(knowledge, list) else []):
        if isinstance(one, dict) and isinstance(one.get("path"), str) and "text" not in one:
            _read_knowledge(one, f"knowledge[{at}]", source, read)


def _file(value: Any, place: str, source: str, read: Read | None) -> Any:
    """The table that names a file, from its path or from such a table."""
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str) or (read is None and isinstance(value, dict)):
        return value  # the model says what is wrong with it
    found = _take(path, place, source, read)
    made = describe(path, found).model_dump()
    if isinstance(value, dict) and {**made, **value} != made:
        raise PersonaError(
            f"{source}: `{place}` is another file than its `sha256` or `size` says, or has a key "
            "that files do not have: put the right file there, or leave all but `path` out."
        )
    return made


def _take(path: str, place: str, source: str, read: Read | None) -> bytes:
    try:
        _PATHS.validate_python(path)
    except ValidationError as error:
        raise PersonaError(f"{source}: {_explain(error.errors()[0], place)}.") from None
    if read is None:
        raise PersonaError(
            f"{source}: `{place}` names a file, and there is no folder to read it from: load the "
            "persona from its own file."
        )
    return read(path)


def _read_knowledge(one: dict[str, Any], place: str, source: str, read: Read | None) -> None:
    path = one["path"]
    data = _take(path, f"{place}.path", source, read)
    suffix = pathlib.PurePosixPath(path).suffix.lower()
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise PersonaError(
            f"{source}: `{place}.path` names a file whose byte {error.start} is not UTF-8: save "
            "its text as UTF-8."
        ) from None
    if len(text) > MAX_KNOWLEDGE_TEXT:
        raise PersonaError(
            f"{source}: `{place}.path` names a file of {len(text)} characters, more than the "
            f"{MAX_KNOWLEDGE_TEXT} allowed: split or shorten it."
        )
    one.setdefault("name", pathlib.PurePosixPath(path).stem[:64])
    one.setdefault("media_type", _MEDIA_TYPES.get(suffix, "text/plain"))
    one["text"] = text
    one.setdefault("sha256", sha256(data))


def _explain(problem: ErrorDetails, place: str = "") -> str:
    """Turn one of pydantic's findings into place, rule and remedy."""
    for part in problem["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    key = str(problem["loc"][-1]) if problem["loc"] else ""
    context: dict[str, Any] = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"write `{near[0]}`, if you meant that" if near else "remove it"
            return f"`{place}` is not a key of this format: {hint}"
        case "missing":
            return f"`{place}` is missing: add it"
        case "string_pattern_mismatch":
            return f"`{place}` must match {context['pattern']}: change it"
        case "value_error":
            return f"`{place}` {context['error']}: change it"
        case _:
            rule = problem["msg"].removeprefix("Input ").removeprefix("String ")
            rule = rule.replace("tuple", "array", 1)  # the word of TOML
            return f"`{place}` {rule[:1].lower()}{rule[1:]}: change it"
