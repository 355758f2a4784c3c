"""Lorebook entries made ready to be looked for: decorators read, keys folded, patterns compiled."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import re2  # type: ignore[import-untyped]

from personas.decorators import parse_decorators
from personas.jsontext import as_number, parse_json
from personas.model import Lorebook, LorebookEntry
from personas.patterns import BadPatternError, Pattern, compile_pattern, is_slashed

GRAM: Final = 3
"""Letters by which a key is known not to stand in a text, before it is looked for."""
MAX_PATTERNS: Final = 256
"""Regular expressions of one book: each takes time and memory of the enclave."""
MAX_INSTRUCTIONS: Final = 16_384
"""Of all of them together, as RE2 compiles them."""
# Sorting the marks of one letter takes time with the square of their number; 30 are the most that
# Unicode's stream-safe texts have (UAX #15, section 12).
_MANY_MARKS: Final = re2.compile(r"\p{M}{31}")


@dataclass(frozen=True, slots=True)
class Flaw:
    """What of a lorebook is not obeyed.

    Attributes:
        place: In the card.
        problem: What is wrong there.
        limit: Whether it exceeds a limit on patterns: so nobody publishes it.
    """

    place: str
    problem: str
    limit: bool = False


@dataclass(slots=True)
class Entry:
    """An entry made ready: keys folded, patterns compiled, decorators read."""

    entry: LorebookEntry
    id: bytes
    text: str
    decorators: dict[str, Any]
    tavern: dict[str, Any]
    sensitive: bool
    keys: tuple[str | Pattern, ...]
    secondary: tuple[str | Pattern, ...]
    additional: tuple[tuple[str | Pattern, ...], ...]
    exclude: tuple[str | Pattern, ...]
    depth: int | None
    whole: bool
    constant: bool
    broken: bool
    logic: int
    grams: frozenset[str] | None

    @property
    def conditional(self) -> bool:
        """Whether more than keys decides."""
        return bool(self.additional or self.exclude or self.secondary)

    @property
    def rank(self) -> float:
        """By which entries give way: the lowest goes first."""
        return self.entry.insertion_order if self.entry.priority is None else self.entry.priority


@dataclass(frozen=True, slots=True)
class Prepared:
    """A lorebook made ready for many calls of `wake`; keep it as long as its persona."""

    book: Lorebook
    entries: tuple[Entry, ...] = field(repr=False)
    flaws: tuple[Flaw, ...]


def entry_id(entry: LorebookEntry) -> bytes:
    """8 bytes that name an entry by what it says: they outlive its place in the book."""
    told = "\x00".join((*entry.keys, "\x01", entry.content))
    return hashlib.sha256(b"sottovoce lore\x00" + told.encode()).digest()[:8]


class _Room:
    """What patterns of one book may still be and take."""

    def __init__(self) -> None:
        self._patterns = MAX_PATTERNS
        self._instructions = MAX_INSTRUCTIONS

    def compile(self, source: str, ignore_case: bool) -> Pattern:
        """Raises BadPatternError."""
        if not self._patterns:
            raise BadPatternError(
                f"the book has more than {MAX_PATTERNS} patterns, and this one is not looked for: "
                "write some as plain keys",
                limit=True,
            )
        self._patterns -= 1
        pattern = compile_pattern(source, ignore_case=ignore_case)
        if pattern.size > self._instructions:
            raise BadPatternError(
                f"the book's patterns take more than {MAX_INSTRUCTIONS} instructions together, and "
                "this one is not looked for: write some as plain keys, or with fewer repetitions",
                limit=True,
            )
        self._instructions -= pattern.size
        return pattern


def prepare(book: Lorebook) -> Prepared:
    """Read decorators and compile patterns. Never raises: what cannot be obeyed is a flaw."""
    flaws: list[Flaw] = []
    room = _Room()
    entries = tuple(_ready(entry, at, flaws, room) for at, entry in enumerate(book.entries))
    return Prepared(book, entries, tuple(flaws))


# What SillyTavern writes into the extensions of every entry.
_TAVERN_MARKS: Final = frozenset({"selectiveLogic", "exclude_recursion", "display_index"})
# What it can ask for and we do not do, with the value that asks for nothing.
_UNSUPPORTED: Final[dict[str, Any]] = {
    "group": "",
    "sticky": 0,
    "cooldown": 0,
    "vectorized": False,
    "delay_until_recursion": False,
    "match_persona_description": False,
    "match_character_description": False,
    "match_character_personality": False,
    "match_character_depth_prompt": False,
    "match_scenario": False,
    "match_creator_notes": False,
    "automation_id": "",
}


def _ready(entry: LorebookEntry, at: int, flaws: list[Flaw], room: _Room) -> Entry:
    place = f"lorebook.entries[{at}]"
    decorated = parse_decorators(entry.content)
    extensions = parse_json(entry.extensions) if entry.extensions else {}
    tavern = extensions if _TAVERN_MARKS & extensions.keys() else {}
    regex = entry.use_regex and not tavern
    for name in decorated.ignored:
        flaws.append(Flaw(f"{place}.content", f"the decorator `@@{name}` is not obeyed"))
    for name, nothing in _UNSUPPORTED.items():
        if tavern.get(name) and str(tavern[name]) != str(nothing):
            flaws.append(Flaw(f"{place}.extensions.{name}", "SillyTavern's setting is not obeyed"))
    sensitive = entry.case_sensitive is True or tavern.get("case_sensitive") is True
    broken = False

    def ready(values: Sequence[str], where: str, as_regex: bool) -> tuple[str | Pattern, ...]:
        nonlocal broken
        made: list[str | Pattern] = []
        for index, value in enumerate(values):
            if as_regex or (tavern and is_slashed(value)):
                try:
                    made.append(room.compile(value, entry.case_sensitive is False))
                except BadPatternError as error:
                    broken = broken or as_regex
                    flaws.append(Flaw(f"{place}.{where}[{index}]", str(error), error.limit))
            elif folded := fold(value.strip(), sensitive):
                made.append(folded)
        return tuple(made)

    values = decorated.values
    keys = ready(entry.keys, "keys", regex)
    additional = tuple(
        ready(words, "content", regex) for words in values.get("additional_keys", ())
    )
    if regex:
        # Here the specification makes them further patterns, not a condition.
        keys, additional = (*keys, *(key for more in additional for key in more)), ()
    return Entry(
        entry=entry,
        id=entry_id(entry),
        text=decorated.text,
        decorators=values,
        tavern=tavern,
        sensitive=sensitive,
        keys=keys,
        secondary=ready(entry.secondary_keys, "secondary_keys", False)
        if entry.selective and not regex
        else (),
        additional=additional,
        exclude=() if regex else ready(values.get("exclude_keys", ()), "content", False),
        depth=values.get("scan_depth", whole_number(tavern.get("scan_depth"))),
        whole=tavern.get("match_whole_words") is True,
        constant=bool(entry.constant) and not regex,
        broken=broken,
        logic=whole_number(tavern.get("selectiveLogic")) or 0,
        grams=_grams(keys),
    )


def _grams(keys: Sequence[str | Pattern]) -> frozenset[str] | None:
    """The first letters of each key, for a quick no; None where a key cannot be known by them."""
    plain = [key for key in keys if isinstance(key, str)]
    if len(plain) < len(keys) or any(len(key) < GRAM or "{{" in key or "<" in key for key in plain):
        return None
    return frozenset(key[:GRAM] for key in plain)


def whole_number(value: Any) -> int | None:
    """A whole number from 0 to a million, or None."""
    number = as_number(value)
    return int(number) if number is not None and 0 <= number <= 1_000_000 else None


def fold(text: str, sensitive: bool) -> str:
    """The form in which keys and texts are compared."""
    normal = composed(text)
    return normal if sensitive else normal.casefold()


def composed(text: str) -> str:
    """The text in Unicode's form C; as it is, where a letter has more than 30 marks."""
    if text.isascii() or _MANY_MARKS.search(text.encode("utf-8", "replace")) is not None:
        return text
    return unicodedata.normalize("NFC", text)
