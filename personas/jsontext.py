"""JSON that we keep for others: read within limits, written back with every number as it stood.

A card's `extensions` and unknown fields belong to other programs. Python's numbers would round
`12345678901234567890.5` and refuse `1e400`, and RFC 8785 has no integers beyond 2^53. So such
values live in a persona as JSON text: keys in the order and numbers in the spelling of the
source, nothing between tokens. That text is one string of the canonical form.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final

MAX_DEPTH: Final = 64
MAX_NODES: Final = 200_000

_TOKENS: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},:]', re.DOTALL)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# What every program reads alike (RFC 7493, section 2.2).
_SAFE: Final = 2**53 - 1


class JsonError(ValueError):
    """The text is not JSON, or more than we read; the message continues a sentence."""


class Number(str):
    """A number as its source spells it."""

    __slots__ = ()


def parse_json(text: str) -> Any:
    """Read JSON (RFC 8259); numbers become `Number`. Raises JsonError.

    Depth and number of values are checked before any of them is made. A key that stands twice in
    one object is refused: programs differ in which one they would take.
    """
    depth = nodes = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JsonError(f"is nested deeper than the {MAX_DEPTH} levels allowed")
        elif first in "]}":
            depth -= 1
        nodes += first in "[{,"
        if nodes > MAX_NODES:
            raise JsonError(f"holds more than the {MAX_NODES} values allowed")
    try:
        return json.loads(
            text,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise JsonError(f"is not JSON: line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise JsonError("is nested too deeply") from None


def _constant(name: str) -> Any:
    raise JsonError(f"holds {name}, which is no JSON value")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise JsonError("holds an object with the same key twice")
    return made


def write_json(value: Any) -> str:
    """Write a value compactly; what `parse_json` read is written as it stood.

    Half a surrogate pair is escaped, so that the result is valid Unicode. Raises JsonError for
    what JSON has no value for.
    """
    out: list[str] = []
    _write(value, out.append, 0)
    return "".join(out)


def _write(value: Any, put: Callable[[str], None], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise JsonError(f"is nested deeper than the {MAX_DEPTH} levels allowed")
    match value:
        case dict():
            put("{")
            for at, (key, inner) in enumerate(value.items()):
                if not isinstance(key, str):
                    raise JsonError("holds a key that is not text")
                put(("," if at else "") + _string(key) + ":")
                _write(inner, put, depth + 1)
            put("}")
        case list() | tuple():
            put("[")
            for at, inner in enumerate(value):
                put("," if at else "")
                _write(inner, put, depth + 1)
            put("]")
        case _:
            put(_scalar(value))


def _scalar(value: Any) -> str:
    match value:
        case Number():
            return str.__str__(value)
        case str():
            return _string(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return repr(value)
        case float():
            raise JsonError("holds a number that is not finite")
        case _:
            raise JsonError(f"holds a {type(value).__name__}, which JSON has no value for")


def _string(text: str) -> str:
    written = json.dumps(text, ensure_ascii=False)
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", written)


def as_number(value: Any) -> int | float | None:
    """The number that a value stands for, where RFC 8785 can write it; else None."""
    if isinstance(value, bool) or not isinstance(value, Number | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    whole = int(number)
    return whole if whole == number and abs(whole) <= _SAFE else number


def object_text(value: Any) -> str:
    """An object as the model keeps it: JSON text, and "" for an empty one. Raises JsonError."""
    if isinstance(value, str) and not isinstance(value, Number):
        if not value:
            return ""
        value = parse_json(value)
    if not isinstance(value, dict):
        raise JsonError("must be an object")
    return write_json(value) if value else ""
