"""Values of foreign files made fit for the model, with a note of everything that changed."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from personas.cards.report import CardError, Kind, Note
from personas.jsontext import Number, as_number
from personas.model import BREAKS, CONTROLS, HANDLE_PATTERN, MAX_TEXT

_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_SLUG: Final = re.compile(r"[^a-z0-9]+")
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})
_IN_TAGS: Final = _MARKS | {"Ll", "Lo", "Lm", "Nd", "Nl", "No"}
_MAX_NOTES: Final = 200


@dataclass(slots=True)
class Reader:
    """Reads values of one file; collects notes."""

    file: str
    notes: list[Note] = field(default_factory=list)

    def note(self, kind: Kind, place: str, text: str) -> None:
        """Add a line to the report."""
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(Note(kind, place, text))

    def refuse(self, place: str, rule: str, remedy: str) -> CardError:
        """The error that refuses this file."""
        return CardError(self.file, place, rule, remedy)

    def text(self, place: str, value: Any, *, strip: bool = True, most: int = MAX_TEXT) -> str:
        """Text without what prose has no place for; "" for what is not text.

        Raises CardError where it is too long: to cut a prompt would change who speaks.
        """
        if value is None:
            return ""
        if not isinstance(value, str) or isinstance(value, Number):
            self.note("changed", place, "is not text, so it is left out of the persona")
            return ""
        text = value.replace("\r\n", "\n").replace("\r", "\n")
        cleaned = CONTROLS.sub("", _SURROGATES.sub("\ufffd", text))
        if cleaned != text:
            self.note("changed", place, "held control or direction characters, left out")
        cleaned = cleaned.strip() if strip else cleaned
        if len(cleaned) > most:
            raise self.refuse(
                f"`{place}`",
                f"has {len(cleaned)} characters, more than the {most} allowed",
                "Shorten it, or move parts of it into lorebook entries.",
            )
        return cleaned

    def line(self, place: str, value: Any, most: int) -> str:
        """One line of at most `most` characters, cut where it is longer."""
        text = self.text(place, value)
        line = " ".join(BREAKS.sub(" ", text).split()) if BREAKS.search(text) else text
        if len(line) > most:
            self.note("changed", place, f"is cut to {most} characters")
            line = line[:most].strip()
        return line

    def lines(self, place: str, value: Any, *, strip: bool = False, most: int = 8_192) -> list[str]:
        """The texts of an array; what is not text is left out."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.note("changed", place, "is not an array, so it is left out of the persona")
            return []
        texts = [
            self.text(f"{place}[{at}]", one, strip=strip, most=most) for at, one in enumerate(value)
        ]
        return [text for one, text in zip(value, texts, strict=True) if isinstance(one, str)]

    def number(self, place: str, value: Any) -> int | float | None:
        """A number that our canonical form can write; None for anything else."""
        number = as_number(value)
        if number is None and value is not None:
            self.note("changed", place, "is not a number within 2^53, so it is left out")
        return number

    def whole(self, place: str, value: Any, most: int) -> int | None:
        """A whole number from 0 to `most`."""
        number = self.number(place, value)
        if number is None:
            return None
        kept = min(max(int(number), 0), most)
        if kept != number:
            self.note("changed", place, f"is taken as {kept}")
        return kept

    def flag(self, place: str, value: Any) -> bool | None:
        """True, false or nothing."""
        if value is None or isinstance(value, bool):
            return value
        self.note("changed", place, "is neither true nor false, so it is left out")
        return None

    def tags(self, place: str, values: Iterable[str]) -> list[str]:
        """Tags as we write them: small letters, hyphens; one that leaves nothing is left out."""
        made = [tag_of(value) for value in values]
        tags = list(dict.fromkeys(tag for tag in made if tag))
        if len(tags) > 64 or not all(made):
            self.note("changed", place, "some tags cannot be written as ours and are left out")
        return tags[:64]


def tag_of(text: str) -> str:
    """A tag from free text; "" where nothing is left."""
    # No more than can be in a tag, so that a letter with thousands of marks costs nothing.
    plain = unicodedata.normalize("NFC", text[:256]).lower()
    # A word's own letters may come with marks, as in Hindi, which `\w` has no place for.
    kept = (one if unicodedata.category(one) in _IN_TAGS else "-" for one in plain)
    tag = re.sub("-+", "-", "".join(kept)).strip("-")[:32].strip("-")
    return "" if not tag or unicodedata.category(tag[0]) in _MARKS else tag


def handle_of(name: str) -> str:
    """A handle from a name: its Latin letters and digits, else a few digits of its digest."""
    latin = unicodedata.normalize("NFKD", name.translate(_LETTERS)).encode("ascii", "ignore")
    slug = _SLUG.sub("-", latin.decode().lower()).strip("-")
    slug = slug.lstrip("0123456789-")[:32].strip("-")
    if re.fullmatch(HANDLE_PATTERN, slug):
        return slug
    return "persona-" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]


# Letters that Unicode does not take apart.
_LETTERS: Final = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
     "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"}
)  # fmt: skip
