"""Curly-brace macros of persona texts (Character Card V3, "Curly Braced Syntaxes").

One pass, innermost first, and what was put in is never read again: a user called `{{char}}` stays
so. What is not a macro we know stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

MAX_EXPANDED: Final = 262_144
_MAX_DEPTH: Final = 32
_MAX_SIDES: Final = 1_000_000_000

_TOKENS: Final = re.compile(r"\{\{|\}\}|<(?:char|bot|user)>", re.IGNORECASE)
_ROLL: Final = re.compile(r"d?([1-9][0-9]{0,9})", re.IGNORECASE)
_COMMA: Final = re.compile(r"(?<!\\),")
# A comma that came in with a value does not divide the list around it. This is a noncharacter,
# for internal use alone (Unicode Standard, section 23.7).
_HELD: Final = "\ufdd0"

Purpose = Literal["prompt", "match", "display"]


def expand(
    text: str,
    *,
    char: str,
    user: str,
    seed: bytes,
    pick: Callable[[int], int] | None = None,
    purpose: Purpose = "prompt",
    values: Mapping[str, str] | None = None,
    limit: int = MAX_EXPANDED,
) -> str:
    """Return `text` with its macros replaced, at most `limit` characters of it.

    Args:
        text: What a persona or a user wrote.
        char: The persona's nickname, or its name where it has none.
        user: The user's display name.
        seed: Decides `{{pick:...}}`: one seed, one text, one choice. A thread's id serves.
        pick: Draws 0 to n - 1 for `{{random:...}}` and `{{roll:...}}`; without it the seed does.
        purpose: "match" is for finding lorebook entries and keeps `{{hidden_key:...}}`;
            "display" keeps `{{comment:...}}`. Nothing of either stands in a "prompt".
        values: Further names in small letters, such as `original`, and what they stand for.
        limit: Characters of the result.
    """
    if "{{" not in text and "<" not in text:
        return text[:limit]
    known = {"char": char, "user": user} | dict(values or {})
    return _Expansion(known, seed, pick, purpose, limit).run(text)


@dataclass(slots=True)
class _Expansion:
    values: Mapping[str, str]
    seed: bytes
    pick: Callable[[int], int] | None
    purpose: Purpose
    limit: int
    seen: dict[str, int] = field(default_factory=dict)

    def run(self, text: str) -> str:
        frames: list[list[str]] = [[]]
        length = end = 0
        for token in _TOKENS.finditer(text):
            frames[-1].append(text[end : token.start()])
            length += token.start() - end
            end = token.end()
            match token[0]:
                case "{{" if len(frames) <= _MAX_DEPTH:
                    frames.append([])
                    continue
                case "}}" if len(frames) > 1:
                    inner = "".join(frames.pop())
                    put = self._macro(inner)
                    put = "{{" + inner + "}}" if put is None else self._hold(put, frames)
                case "{{" | "}}":
                    put = token[0]
                case name:
                    key = "user" if name.lower() == "<user>" else "char"
                    put = self._hold(self.values[key], frames)
            frames[-1].append(put)
            length += len(put)
            # What a macro swallows counts too: the bound is on work as well as on size.
            if length > self.limit:
                break
        else:
            frames[-1].append(text[end:])
        # Those that were never closed are plain text.
        whole = "{{".join("".join(frame) for frame in frames)
        return whole.replace(_HELD, ",")[: self.limit]

    @staticmethod
    def _hold(value: str, frames: list[list[str]]) -> str:
        return value.replace(",", _HELD) if len(frames) > 1 else value

    def _macro(self, inner: str) -> str | None:
        """What stands for `{{inner}}`; None where it is not one of ours."""
        if inner.startswith("//"):
            return ""
        name, colon, rest = inner.partition(":")
        name = name.strip().lower()
        if not colon:
            return self.values.get(name)
        match name:
            case "random" | "pick":
                options = _options(rest)
                return options[self._draw(name, inner, len(options))]
            case "roll":
                sides = _ROLL.fullmatch(rest.strip().removeprefix(":"))
                if sides is None or int(sides[1]) > _MAX_SIDES:
                    return None
                return str(1 + self._draw(name, inner, int(sides[1])))
            case "hidden_key":
                return rest.strip() if self.purpose == "match" else ""
            case "comment":
                return rest.strip() if self.purpose == "display" else ""
            case "reverse":
                return rest[::-1]
        return None

    def _draw(self, name: str, inner: str, count: int) -> int:
        if self.pick is not None and name != "pick":
            return self.pick(count) % count
        # The same words twice in one text are two choices; other words around them change none.
        ordinal = self.seen[inner] = self.seen.get(inner, 0) + 1
        told = b"%d:%s" % (ordinal, inner.encode("utf-8", "surrogatepass"))
        drawn = hashlib.blake2b(told, digest_size=8, key=self.seed[:64]).digest()
        return int.from_bytes(drawn) % count


def _options(rest: str) -> list[str]:
    """`A,B`, `:A,B` and `:A::B`; a backslash before a comma keeps it in the option."""
    if rest.startswith(":"):
        rest = rest[1:]
        if "::" in rest:
            return rest.split("::")
    return [option.replace("\\,", ",") for option in _COMMA.split(rest)]
