"""Records of a made-up thread, and the view that they fold to."""

from collections.abc import Iterable, Sequence

import numpy as np

from memory.facts import Learned, merge
from memory.items import NO_TURN
from memory.keys import ThreadKeys
from memory.recall import Query, Recalled, recall
from memory.records import Notes, Record, Ref, Tombstone, Turn
from memory.rules import rule_based
from memory.thread import Position
from memory.view import View

KEYS = ThreadKeys(b"k" * 32)
MODEL = b"modelone"
START = 1_780_000_000
DAY = 86_400


def turn(number: int, message: str, reply: str = "I see.", **fields: object) -> Turn:
    """A turn, said on day `number`."""
    numbered = number.to_bytes(16, "big")
    when = START + number * DAY
    return Turn(numbered, when, message, reply, "completed", numbered, **fields)  # type: ignore[arg-type]


class Thread:
    """A thread that is written record by record, as the enclave writes it."""

    def __init__(self) -> None:
        self.records: list[tuple[int, Record | None]] = []
        self.view = View.empty(KEYS)
        self._turns = 0

    @property
    def length(self) -> int:
        """How many records there are."""
        return len(self.records)

    def add(self, *records: Record) -> int:
        """Append records; the index of the first."""
        begin = self.length
        new = list(enumerate(records, begin))
        self.records += new
        self.view = self.view.fold(new, Position(self.length, bytes(32)))
        return begin

    def say(
        self,
        message: str,
        reply: str = "I see.",
        learned: Sequence[Learned] | None = None,
        **fields: object,
    ) -> int:
        """A turn and its notes, whose facts are found by rules unless they are given."""
        said = turn(self._turns, message, reply, **fields)
        self._turns += 1
        index = self.add(said)
        found = rule_based(message) if learned is None else learned
        self.add(merge(self.view, index, found, time=said.time))
        return index

    def write(self, learned: Learned) -> Ref:
        """A fact in its owner's words."""
        return Ref(self.add(merge(self.view, None, [learned], time=START)), 0)

    def erase(self, erase: Sequence[int], refs: Sequence[Ref] = ()) -> None:
        """A tombstone, and gone is what it names."""
        stone = Tombstone(bytes(16), START, tuple(refs), tuple(erase))
        self.add(stone)
        gone = set(erase)
        self.records = [(at, None if at in gone else one) for at, one in self.records]

    def anew(self) -> View:
        """The view folded from all records at once, as where no state was kept."""
        return View.empty(KEYS).fold(self.records, self.view.position)

    def ask(self, text: str, *, budget: int = 200, since: int = NO_TURN) -> tuple[Recalled, ...]:
        """What is recalled for a message on day 1000."""
        query = Query(text, None, b"", START + 1000 * DAY)
        return recall(self.view, query, budget=budget, cost=cost, since=since)


def cost(text: str) -> int:
    """One token for each word."""
    return len(text.split())


def texts(recalled: Iterable[Recalled]) -> str:
    """All that was recalled, in lines."""
    return "\n".join(one.text for one in recalled)


def embedding(seed: int, dim: int = 256) -> bytes:
    """A vector as notes have it."""
    rng = np.random.default_rng(seed)
    whole: bytes = rng.integers(-127, 128, dim, dtype=np.int8).tobytes()
    return whole


def facts_of(view: View) -> list[str]:
    """The texts of the facts that hold."""
    return [item.text for item in view.facts()]


def notes_of(records: Iterable[tuple[int, Record | None]]) -> list[Notes]:
    """The notes among records."""
    return [one for _, one in records if isinstance(one, Notes)]
