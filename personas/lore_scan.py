"""Looks for the keys of lorebook entries in a conversation, within a bound on the work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from personas.jsontext import as_number
from personas.lore_entries import GRAM, Entry, composed, fold
from personas.macros import expand
from personas.model import Lorebook
from personas.patterns import Pattern

MAX_SCANNED: Final = 32_768
"""Characters of conversation that are searched, the newest ones."""
MAX_MATCHED: Final = 8_192
"""Of those, characters that patterns see."""
MAX_WORK: Final = 32_000_000
"""What one call may cost, near 1 ns each; a book made to be slow ends here, without further
matches."""
_PER_ENTRY: Final = 1_000
_PER_KEY: Final = 200
_PER_GRAM: Final = 20
_PER_LETTER: Final = 100  # of a text, once: folded, and its letters noted three by three
_PER_PLACE: Final = 300  # where a key stands, and may not be a whole word


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the conversation."""

    role: str
    text: str


class _SpentError(Exception):
    """Nothing is left of the work that one call may take."""


class _Text:
    """A text to look in: as it is, folded, and which three letters stand in it together."""

    __slots__ = ("_encoded", "_folded", "_grams", "exact")

    def __init__(self, text: str) -> None:
        self.exact = composed(text)
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
            self._encoded = self.exact[-MAX_MATCHED:].encode("utf-8", "replace")
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
        self, book: Lorebook, said: Sequence[Said], names: tuple[str, str], seed: bytes, work: int
    ) -> None:
        self._book = book
        self._names = names
        self._seed = seed
        self._work = work
        self._texts: dict[int, _Text] = {}
        self._fresh: _Text | None = None  # contents of the entries that woke last
        self._woken: list[str] = []  # contents of all that woke
        self._room = MAX_SCANNED  # characters that may still join them
        self._whole: dict[int, _Text] = {}
        self._triggered: set[int] = set()
        room = MAX_SCANNED
        self._messages: list[str] = []  # newest first
        for message in reversed(said):
            text = self._plain(message.text, room)
            self._messages.append(text)
            # What macros swallow was read, too.
            room -= max(len(text), len(message.text))
            if room <= 0:
                break

    def _plain(self, text: str, most: int) -> str:
        char, user = self._names
        return expand(
            text[:most], char=char, user=user, seed=self._seed, purpose="match", limit=most
        )

    @property
    def spent(self) -> bool:
        """Whether the work ended before all was looked for."""
        return self._work < 0

    def _spend(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise _SpentError

    def add(self, entries: Sequence[Entry]) -> bool:
        """Let contents wake others; False where they cannot."""
        texts: list[str] = []
        room = self._room
        for entry in entries if self._book.recursive_scanning else ():
            if room > 0 and entry.tavern.get("prevent_recursion") is not True:
                texts.append(self._plain(entry.text, room))
                room -= 1 + max(len(texts[-1]), min(room, len(entry.text)))
        self._room = room
        if not texts or self._work < 0:
            return False
        fresh = "\n".join(texts)
        self._woken.append(fresh)
        self._fresh = _Text(fresh)
        self._work -= len(fresh) * _PER_LETTER
        self._whole.clear()
        return True

    def _said(self, depth: int | None) -> _Text:
        depth = len(self._messages) if depth is None else min(depth, len(self._messages))
        if depth not in self._texts:
            # Oldest first, for patterns that reach over lines.
            text = "\n".join(reversed(self._messages[:depth]))
            self._spend(len(text) * _PER_LETTER)
            self._texts[depth] = _Text(text)
        return self._texts[depth]

    def _all(self, depth: int | None) -> _Text:
        """The conversation and all that woke."""
        said = self._said(depth)
        if not self._woken:
            return said
        if (key := -1 if depth is None else depth) not in self._whole:
            text = "\n".join((said.exact, *self._woken))
            self._spend(len(text) * _PER_LETTER)
            self._whole[key] = _Text(text)
        return self._whole[key]

    def matches(self, entry: Entry) -> bool:
        """Whether the entry's keys match: in the conversation, or in what woke since last asked.

        Never, once the work that one call may take is done.
        """
        try:
            return self._work >= 0 and self._matches(entry)
        except _SpentError:
            return False

    def _matches(self, entry: Entry) -> bool:
        self._spend(_PER_ENTRY)
        depth = self._book.scan_depth if entry.depth is None else entry.depth
        if entry.constant:
            triggered = True
        elif not (triggered := id(entry) in self._triggered):
            text = self._fresh or self._said(depth)
            self._spend(len(entry.grams or ()) * _PER_GRAM)
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
                self._spend(len(key) * _PER_KEY)
                key = fold(self._plain(key, MAX_MATCHED), entry.sensitive)
            # A text made for it lets each place be compared with much of the key.
            self._spend(_PER_KEY + len(place) * (1 + len(key) // 4))
            if not key:
                return False
            return self._has_word(place, key) if entry.whole else key in place
        # Where memory runs out, each instruction costs about 2 ns at every byte.
        self._spend(_PER_KEY + len(text.encoded) * (4 + 2 * key.size))
        return key.search(text.encoded)

    def _lucky(self, entry: Entry) -> bool:
        if entry.tavern.get("useProbability") is not True:
            return True
        chance = as_number(entry.tavern.get("probability"))
        if chance is None or chance >= 100:
            return True
        drawn = hashlib.blake2b(entry.id, digest_size=8, key=self._seed[:64]).digest()
        return int.from_bytes(drawn) % 10_000 < chance * 100

    def _has_word(self, text: str, word: str) -> bool:
        at = text.find(word)
        while at >= 0:
            self._spend(_PER_PLACE)
            end = at + len(word)
            before, after = text[at - 1 : at] if at else "", text[end : end + 1]
            if not (before.isalnum() or before == "_" or after.isalnum() or after == "_"):
                return True
            at = text.find(word, at + 1)
        return False
