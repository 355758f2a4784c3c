"""Looks for the keys of lorebook entries in a conversation, within a bound on the work."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from personas.jsontext import as_number
from personas.lore_entries import GRAM, Entry, fold
from personas.macros import expand
from personas.model import Lorebook
from personas.patterns import Pattern

MAX_SCANNED: Final = 131_072
"""Characters of conversation that are searched, the newest ones."""
# Characters that one call may compare; a book made to be slow ends here, without further matches.
_WORK: Final = 200_000_000
_REGEX_WEIGHT: Final = 16


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the conversation."""

    role: str
    text: str


class _Text:
    """A text to look in: as it is, folded, and which three letters stand in it together."""

    __slots__ = ("_encoded", "_folded", "_grams", "exact")

    def __init__(self, text: str) -> None:
        self.exact = unicodedata.normalize("NFC", text)
        self._folded: str | None = None
        self._encoded: bytes | None = None
        self._grams: dict[bool, set[str]] = {}

    def of(self, sensitive: bool) -> str:
        if sensitive:
            return self.exact
        if self._folded is None:
            self._folded = self.exact.casefold()
        return self._folded

    @property
    def encoded(self) -> bytes:
        if self._encoded is None:
            self._encoded = self.exact.encode("utf-8", "replace")
        return self._encoded

    def grams(self, sensitive: bool) -> set[str]:
        found = self._grams.get(sensitive)
        if found is None:
            text = self.of(sensitive)
            found = {text[at : at + GRAM] for at in range(len(text) - GRAM + 1)}
            self._grams[sensitive] = found
        return found


class Scan:
    """The texts that keys are looked for in, and what looking may still cost."""

    def __init__(
        self, book: Lorebook, said: Sequence[Said], names: tuple[str, str], seed: bytes
    ) -> None:
        self._book = book
        self._names = names
        self._seed = seed
        self._work = _WORK
        self._texts: dict[int, _Text] = {}
        self._fresh: _Text | None = None  # contents of the entries that woke last
        self._woken: list[str] = []  # contents of all that woke
        self._whole: dict[int, _Text] = {}
        self._triggered: set[int] = set()
        room = MAX_SCANNED
        self._messages: list[str] = []  # newest first
        for message in reversed(said):
            text = self._plain(message.text)[:room]
            self._messages.append(text)
            room -= len(text)
            if room <= 0:
                break

    def _plain(self, text: str) -> str:
        char, user = self._names
        return expand(text, char=char, user=user, seed=self._seed, purpose="match")

    def add(self, entries: Sequence[Entry]) -> bool:
        """Let contents wake others; False where they cannot."""
        texts = [
            self._plain(entry.text)
            for entry in entries
            if entry.tavern.get("prevent_recursion") is not True
        ]
        room = MAX_SCANNED - sum(map(len, self._woken))
        if not self._book.recursive_scanning or not texts or room <= 0:
            return False
        fresh = "\n".join(texts)[:room]
        self._woken.append(fresh)
        self._fresh = _Text(fresh)
        self._whole.clear()
        return True

    def _said(self, depth: int | None) -> _Text:
        depth = len(self._messages) if depth is None else min(depth, len(self._messages))
        if depth not in self._texts:
            # Oldest first, for patterns that reach over lines.
            self._texts[depth] = _Text("\n".join(reversed(self._messages[:depth])))
        return self._texts[depth]

    def _all(self, depth: int | None) -> _Text:
        """The conversation and all that woke."""
        said = self._said(depth)
        if not self._woken:
            return said
        if (key := -1 if depth is None else depth) not in self._whole:
            self._whole[key] = _Text("\n".join((said.exact, *self._woken)))
        return self._whole[key]

    def matches(self, entry: Entry) -> bool:
        """Whether the entry's keys match: in the conversation, or in what woke since last asked."""
        depth = self._book.scan_depth if entry.depth is None else entry.depth
        if entry.constant:
            triggered = True
        elif not (triggered := id(entry) in self._triggered):
            text = self._fresh or self._said(depth)
            if entry.grams is None or not entry.grams.isdisjoint(text.grams(entry.sensitive)):
                triggered = any(self._holds(key, text, entry) for key in entry.keys)
                if triggered:
                    self._triggered.add(id(entry))
        if not triggered:
            return False
        if not (entry.conditional or entry.tavern):
            return True

        def holds(key: str | Pattern) -> bool:
            return self._holds(key, self._all(depth), entry)

        return (
            all(any(map(holds, keys)) for keys in entry.additional)
            and not any(map(holds, entry.exclude))
            and (entry.constant or not entry.secondary or self._second(entry, holds))
            and self._lucky(entry)
        )

    @staticmethod
    def _second(entry: Entry, holds: Callable[[str | Pattern], bool]) -> bool:
        found = map(holds, entry.secondary)
        match entry.logic:  # SillyTavern's; 0 is what the specification says
            case 1:
                return not all(found)
            case 2:
                return not any(found)
            case 3:
                return all(found)
            case _:
                return any(found)

    def _holds(self, key: str | Pattern, text: _Text, entry: Entry) -> bool:
        if isinstance(key, str):
            place = text.of(entry.sensitive)
            if "{{" in key or "<" in key:
                key = fold(self._plain(key), entry.sensitive)
            self._work -= len(place)
            if self._work < 0 or not key:
                return False
            return _has_word(place, key) if entry.whole else key in place
        self._work -= len(text.exact) * _REGEX_WEIGHT
        return self._work >= 0 and key.search(text.encoded)

    def _lucky(self, entry: Entry) -> bool:
        if entry.tavern.get("useProbability") is not True:
            return True
        chance = as_number(entry.tavern.get("probability"))
        if chance is None or chance >= 100:
            return True
        drawn = hashlib.blake2b(entry.id, digest_size=8, key=self._seed[:64]).digest()
        return int.from_bytes(drawn) % 10_000 < chance * 100


def _has_word(text: str, word: str) -> bool:
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        before, after = text[at - 1 : at] if at else "", text[end : end + 1]
        if not (before.isalnum() or before == "_" or after.isalnum() or after == "_"):
            return True
        at = text.find(word, at + 1)
    return False
