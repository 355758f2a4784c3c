"""Decorators of lorebook entries (Character Card V3, "Decorators"): `@@name value` lines.

They are the lines that begin a content; the first line that is neither blank nor a decorator
begins the text. Of a chain of fallbacks (`@@@name`), the first that we know and can obey counts.
What only makes sense outside a chat, or needs what we do not have, counts as not known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

# Of one entry; a longer list is somebody trying something.
MAX_DECORATORS: Final = 64
_MOST: Final = 1_000_000


def _number(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if -_MOST <= number <= _MOST and number == int(number) else None


def _counted(text: str) -> int | None:
    number = _number(text)
    return number if number is not None and number >= 0 else None


def _divisor(text: str) -> int | None:
    return _number(text) or None


def _flag(text: str) -> bool | None:
    # Without a value; `true` is how some programs write the same.
    return True if text.lower() in ("", "true") else None


def _words(text: str) -> tuple[str, ...] | None:
    return tuple(word for part in text.split(",") if (word := part.strip())) or None


def _one_of(*names: str) -> Callable[[str], str | None]:
    return lambda text: text if text in names else None


# Not here, so never obeyed: `instruct_depth`, `instruct_scan_depth`, `reverse_depth` and
# `reverse_instruct_depth`, which a chat ignores, and `is_user_icon`.
_KNOWN: Final[dict[str, Callable[[str], Any]]] = {
    "activate_only_after": _counted,
    "activate_only_every": _divisor,
    "keep_activate_after_match": _flag,
    "dont_activate_after_match": _flag,
    "depth": _number,
    "role": _one_of("assistant", "system", "user"),
    "scan_depth": _counted,
    "is_greeting": _counted,
    "position": _one_of("after_desc", "before_desc", "personality", "scenario"),
    "ignore_on_max_context": _flag,
    "additional_keys": _words,
    "exclude_keys": _words,
    "dont_activate": _flag,
    "activate": _flag,
    "disable_ui_prompt": _one_of("post_history_instructions", "system_prompt"),
}
_REPEATABLE: Final = frozenset({"additional_keys"})


@dataclass(frozen=True, slots=True)
class Decorated:
    """A content taken apart.

    Attributes:
        values: What each decorator in force says, by name; a list where one may stand twice.
        text: The content without decorators and the blank lines around them.
        ignored: Names of decorators that nothing stood in for.
    """

    values: dict[str, Any]
    text: str
    ignored: tuple[str, ...]


def parse_decorators(content: str) -> Decorated:
    """Take a content apart; never raises."""
    if "@@" not in content:
        return Decorated({}, content, ())
    lines = content.split("\n")
    values: dict[str, Any] = {}
    ignored: list[str] = []
    at = count = 0
    failed = ""  # the decorator that waits for a fallback
    while at < len(lines) and count < MAX_DECORATORS:
        line = lines[at].strip()
        if not line:
            at += 1
            continue
        if not line.startswith("@@"):
            break
        at += 1
        count += 1
        fallback = line.startswith("@@@")
        name, _, text = line.lstrip("@").partition(" ")
        if not fallback:
            if failed:
                ignored.append(failed)
            failed = ""
        elif not failed:
            continue  # what it stands in for is in force
        value = _KNOWN[name](text.strip()) if name in _KNOWN else None
        if value is None:
            failed = failed or name[:64]
            continue
        failed = ""
        if name in _REPEATABLE:
            values.setdefault(name, []).append(value)
        else:
            values.setdefault(name, value)
    if failed:
        ignored.append(failed)
    if count == 0:
        return Decorated({}, content, ())
    return Decorated(values, "\n".join(lines[at:]).strip("\n"), tuple(ignored))
