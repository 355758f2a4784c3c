"""Reads personas from TOML files; says in a sentence what is wrong with one and where."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from personas.errors import PersonaError
from personas.model import Dialogue, Exchange, Persona, Sampling

MAX_FILE_BYTES: Final = 65_536
_SHOWN: Final = 5  # problems named in one message

_KEYS: Final = tuple(
    {name for model in (Persona, Sampling, Dialogue, Exchange) for name in model.model_fields}
)


def load_persona(path: Path) -> Persona:
    """Read one persona. Raises PersonaError that names the file, the place, the rule, the remedy.

    No more than the limit is read, and the limit is checked before anything is parsed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PersonaError(
            f"{path}: cannot be read ({reason}). Give the path of a persona's TOML file."
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise PersonaError(
            f"{path}: the file is longer than the {MAX_FILE_BYTES} bytes a persona may have. "
            "Shorten it."
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PersonaError(
            f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8."
        ) from None
    return parse_persona(text, source=str(path))


def parse_persona(text: str, *, source: str) -> Persona:
    """Read a persona from TOML; `source` names it in errors. Raises PersonaError."""
    try:
        data = tomllib.loads(text)
    # Besides its own error, tomllib lets through those of int() and of its recursion.
    except (ValueError, RecursionError) as error:
        reason = str(error) or "it is nested too deeply"
        raise PersonaError(f"{source}: is not TOML: {reason}. Correct the file there.") from None
    try:
        return Persona.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        lines = [_explain(problem) for problem in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"and {len(problems) - _SHOWN} more")
        raise PersonaError(f"{source}: " + "; ".join(lines) + ".") from None


def _explain(problem: ErrorDetails) -> str:
    """Turn one of pydantic's findings into place, rule and remedy."""
    place = ""
    for part in problem["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    key = str(problem["loc"][-1]) if problem["loc"] else ""
    context: dict[str, Any] = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "remove it"
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
