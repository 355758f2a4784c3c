"""Which records must go so that a memory is forgotten, and what of them must be written anew.

With a turn go its notes, the facts that nothing else told, and every summary that covers it. With
a fact go the turns that told it, unless its owner keeps them, and the summaries of those; what else
was learned from such a turn stays, and what the fact had superseded holds again. With a summary go
those that were made of it. Records are erased whole: what remains of one is written again at the
chain's end, under new references.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from memory.errors import InvalidInputError
from memory.kinds import MAX_ERASED, Notes, Pin, Record, Ref, Summary, Turn
from memory.view import shorten

_SHOWN_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Shown:
    """One memory that goes, for its owner's eyes; `time` in Unix seconds."""

    ref: Ref
    kind: str  # "turn", "fact" or "summary"
    text: str = field(repr=False)
    time: int


@dataclass(frozen=True, slots=True)
class ErasurePlan:
    """What an erasure does to a thread of `length` records.

    `erase`: indexes of the records that become stubs, ascending. `append`: what says again what
    remains of them; it must stand at the indexes from `length` on, and the tombstone after it.
    `refs`: what was asked for. `shown`: the memories that go. `mentions`: turns that stay, and had
    one of those in their prompt: their replies may speak of it.
    """

    length: int
    refs: tuple[Ref, ...]
    erase: tuple[int, ...]
    append: tuple[Record, ...]
    shown: tuple[Shown, ...]
    mentions: tuple[Ref, ...]


def plan_erasure(
    records: Iterable[tuple[int, Record | None]], refs: Iterable[Ref], *, keep_turns: bool = False
) -> ErasurePlan:
    """Plan an erasure over all records of a thread, in order; None is one that was erased before.

    Raises InvalidInputError where a reference names no memory, or one that is gone, or where more
    goes than one tombstone can name.
    """
    return _Plan(dict(records), tuple(sorted(set(refs))), keep_turns).result()


class _Plan:
    """What goes, found in the order: what was asked for, turns, facts, summaries."""

    def __init__(
        self, records: Mapping[int, Record | None], refs: tuple[Ref, ...], keep_turns: bool
    ) -> None:
        self._records = records
        self._refs = refs
        self._length = max(records, default=-1) + 1
        self._notes = {at: one for at, one in records.items() if isinstance(one, Notes)}
        self._known = {
            Ref(index, at): fact
            for index, notes in self._notes.items()
            for at, fact in enumerate(notes.facts)
        }
        self._sources = self._told()
        asked_facts, asked_turns, asked_summaries = self._asked()
        told = {turn for ref in asked_facts for turn in self._sources[ref]}
        self._turns = asked_turns | (set() if keep_turns else told)
        self._facts = asked_facts | {
            ref for ref, said in self._sources.items() if said and said <= asked_turns
        }
        # A summary tells a fact also where its owner keeps the turns.
        first = min(self._turns | told, default=self._length)
        self._summaries = {
            index
            for index, one in records.items()
            if isinstance(one, Summary)
            and (one.before > first or index >= min(asked_summaries, default=self._length))
        }

    def _told(self) -> dict[Ref, set[int]]:
        """Return the turns that told each fact, those that are still there."""
        sources = {ref: set(fact.sources) for ref, fact in self._known.items()}
        for notes in self._notes.values():
            for ref, turn in notes.sources:
                if ref in sources:
                    sources[ref].add(turn)
        there = {at for at, one in self._records.items() if isinstance(one, Turn)}
        return {ref: said & there for ref, said in sources.items()}

    def _asked(self) -> tuple[set[Ref], set[int], set[int]]:
        facts, turns, summaries = set(), set(), set()
        for ref in self._refs:
            record = self._records.get(ref.index)
            if ref in self._known:
                facts.add(ref)
            elif ref.at is None and isinstance(record, Turn):
                turns.add(ref.index)
            elif ref.at is None and isinstance(record, Summary):
                summaries.add(ref.index)
            else:
                raise InvalidInputError(
                    f"{ref} names no memory of this thread, or one that was forgotten; nothing "
                    "was changed. List the memories and name one of those."
                )
        return facts, turns, summaries

    def result(self) -> ErasurePlan:
        touched = self._touched()
        erase = sorted(self._turns | touched | self._summaries)
        if len(erase) > MAX_ERASED:
            raise InvalidInputError(
                f"{len(erase)} records would go, and at most {MAX_ERASED} go at once; nothing was "
                "changed. Forget less at once, or the whole conversation."
            )
        gone = {Ref(index) for index in self._turns} | self._facts
        mentions = tuple(
            Ref(index)
            for index, one in self._records.items()
            if isinstance(one, Turn)
            and index not in self._turns
            and not gone.isdisjoint(one.recalled)
        )
        append = (*self._written_again(touched), *self._last_summary())
        return ErasurePlan(self._length, self._refs, tuple(erase), append, self._shown(), mentions)

    def _touched(self) -> set[int]:
        """Return the notes that go: those of a turn, or with a fact, or that name what moves."""
        lost = {ref.index for ref in self._facts}
        touched = {at for at, one in self._notes.items() if one.turn in self._turns or at in lost}
        while True:
            more = {
                ref.index
                for ref, fact in self._known.items()
                if ref.index not in touched
                and any(old.index in touched and old not in self._facts for old in fact.supersedes)
            }
            if not more:
                return touched
            touched |= more

    def _written_again(self, touched: set[int]) -> list[Record]:
        """Return what remains of these notes, with references to where it will stand."""
        left: list[tuple[Notes, list[Ref]]] = []
        moved: dict[Ref, Ref] = {}
        for index in sorted(touched):
            notes = self._notes[index]
            kept = [Ref(index, at) for at in range(len(notes.facts))]
            kept = [ref for ref in kept if ref not in self._facts]
            # Without notes, what was forgotten would be learned anew from a turn that stays.
            if kept or notes.turn not in {None, *self._turns}:
                moved |= {ref: Ref(self._length + len(left), at) for at, ref in enumerate(kept)}
                left.append((notes, kept))
        return [self._remaining(notes, kept, moved) for notes, kept in left]

    def _remaining(self, notes: Notes, kept: list[Ref], moved: Mapping[Ref, Ref]) -> Notes:
        stays = notes.turn is not None and notes.turn not in self._turns
        facts = []
        for ref in kept:
            old = [one for one in self._known[ref].supersedes if one not in self._facts]
            facts.append(
                replace(
                    self._known[ref],
                    sources=tuple(sorted(self._sources[ref] - self._turns)),
                    supersedes=tuple(moved.get(one, one) for one in old),
                    pinned=self._pinned(ref),
                )
            )
        again = tuple((ref, turn) for ref, turn in notes.sources if self._stays(ref, turn, moved))
        return Notes(
            notes.turn if stays else None,
            notes.model,
            notes.vector if stays else b"",
            tuple(facts),
            again,
        )

    def _stays(self, ref: Ref, turn: int, moved: Mapping[Ref, Ref]) -> bool:
        # What moves has all its sources written into itself.
        return ref not in self._facts and ref not in moved and turn not in self._turns

    def _pinned(self, ref: Ref) -> bool:
        pins = [one for one in self._records.values() if isinstance(one, Pin) and one.ref == ref]
        return pins[-1].pinned if pins else self._known[ref].pinned

    def _last_summary(self) -> list[Record]:
        """Return the newest summary that stays, where a newer one goes: it is the one again."""
        made = {at: one for at, one in self._records.items() if isinstance(one, Summary)}
        stay = [index for index in made if index not in self._summaries]
        last = max(made, default=None)
        return [made[max(stay)]] if stay and last in self._summaries else []

    def _shown(self) -> tuple[Shown, ...]:
        shown = []
        for index in self._turns:
            turn = self._records[index]
            if isinstance(turn, Turn):
                shown.append(Shown(Ref(index), "turn", turn.message, turn.time))
        for index in self._summaries:
            summary = self._records[index]
            if isinstance(summary, Summary):
                shown.append(Shown(Ref(index), "summary", summary.text, summary.time))
        facts = ((ref, self._known[ref]) for ref in self._facts)
        shown += [Shown(ref, "fact", fact.text, fact.since) for ref, fact in facts]
        shown.sort(key=lambda one: one.ref)
        return tuple(replace(one, text=shorten(one.text, _SHOWN_CHARS)) for one in shown)
