"""All that a thread remembers, as its owner sees it: folded from every record, nothing left out.

Recall works on a bounded view; this is for lists, searches, exports and explanations, which are
asked for seldom and may cost as much as the thread is long.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from memory.kinds import Fact, Notes, Pin, Record, Ref, Summary, Tombstone, Turn
from memory.vectors import Vector, dequantise
from memory.words import content

Kind = Literal["fact", "summary", "turn"]

# BM25 as Robertson and Zaragoza give it ("The Probabilistic Relevance Framework", 2009), and
# reciprocal rank fusion as Cormack, Clarke and Büttcher do (SIGIR 2009).
_K1: Final = 1.2
_B: Final = 0.75
_FUSION: Final = 60
# Below this cosine, a text has nothing to do with the question.
_NEAR: Final = 0.3


@dataclass(frozen=True, slots=True)
class Memory:
    """One memory.

    Attributes:
        ref: Its name.
        kind: What it is.
        time: When it was said, made, or began to hold; Unix seconds.
        text: The fact, the summary, or what the person said.
        reply: Of a turn: what was answered.
        about, importance, sources: Of a fact: see `memory.kinds.Fact`; a source that was erased is
            not among them.
        before: Of a summary: it covers the turns before this index.
        pinned: Kept in every prompt.
        superseded: The newer fact in its place.
        until: When that began to hold; Unix seconds.
        vector: Its embedding in int8, made by the model with the id `model`; empty without one.
        turn: The record of a turn.
    """

    ref: Ref
    kind: Kind
    time: int
    text: str = field(repr=False)
    reply: str = field(default="", repr=False)
    about: str = field(default="", repr=False)
    importance: int = 0
    sources: tuple[int, ...] = ()
    before: int | None = None
    pinned: bool = False
    superseded: Ref | None = None
    until: int | None = None
    vector: bytes = field(default=b"", repr=False)
    model: bytes = b""
    turn: Turn | None = field(default=None, repr=False)


class Ledger:
    """What a thread's records come to.

    Attributes:
        records: What is there, by index.
        erased: Indexes of what was erased, gaps of before a rotation among them.
        tombstones: Erasures, by index.
    """

    def __init__(self, records: Iterable[tuple[int, Record | None]]) -> None:
        """Fold records with their indexes, oldest first; None stands for one that was erased."""
        self.records: dict[int, Record] = {}
        self.erased: set[int] = set()
        self.tombstones: dict[int, Tombstone] = {}
        self._memories: dict[Ref, Memory] = {}
        for index, record in records:
            self.take(index, record)
        self._memories = dict(sorted(self._memories.items()))

    def take(self, index: int, record: Record | None) -> None:
        """Fold one record more."""
        match record:
            case Turn():
                ref = Ref(index)
                self._memories[ref] = Memory(
                    ref, "turn", record.time, record.message, record.reply, turn=record
                )
            case Summary():
                ref = Ref(index)
                self._memories[ref] = Memory(
                    ref, "summary", record.time, record.text, before=record.before
                )
            case Notes():
                self._take_notes(index, record)
            case Pin():
                self._change(record.ref, pinned=record.pinned)
            case Tombstone():
                self.tombstones[index] = record
            case _:
                self.erased.add(index)
                return
        self.records[index] = record

    def _take_notes(self, index: int, notes: Notes) -> None:
        if notes.turn is not None:
            self._change(Ref(notes.turn), vector=notes.vector, model=notes.model)
        for at, fact in enumerate(notes.facts):
            ref = Ref(index, at)
            for old in fact.supersedes:
                self._change(old, superseded=ref, until=fact.since)
            self._memories[ref] = self._fact(ref, fact, notes.model)
        for ref, turn in notes.sources:
            known = self._memories.get(ref)
            if known is not None and turn in self.records:
                self._change(ref, sources=(*known.sources, turn))

    def _fact(self, ref: Ref, fact: Fact, model: bytes) -> Memory:
        return Memory(
            ref,
            "fact",
            fact.since,
            fact.text,
            about=fact.about,
            importance=fact.importance,
            sources=tuple(one for one in fact.sources if one in self.records),
            pinned=fact.pinned,
            vector=fact.vector,
            model=model,
        )

    def _change(self, ref: Ref, **changes: object) -> None:
        known = self._memories.get(ref)
        if known is not None:
            self._memories[ref] = replace(known, **changes)  # type: ignore[arg-type]

    def get(self, ref: Ref) -> Memory | None:
        """The memory of this name, None where there is none or no longer."""
        return self._memories.get(ref)

    def was_forgotten(self, ref: Ref) -> bool:
        """Whether a memory of this name may have been here: its record was erased."""
        return ref.index in self.erased

    def all_records(self) -> list[tuple[int, Record | None]]:
        """All records with their indexes, oldest first; None where one was erased."""
        indexes = sorted({*self.records, *self.erased})
        return [(index, self.records.get(index)) for index in indexes]

    def memories(self) -> list[Memory]:
        """All of them, in the order of the thread."""
        return list(self._memories.values())

    def turn(self, matches: Callable[[Turn], bool]) -> Memory | None:
        """The newest turn that matches."""
        for memory in reversed(self._memories.values()):
            if memory.turn is not None and matches(memory.turn):
                return memory
        return None

    def erasure(self, request_id: bytes) -> tuple[int, Tombstone] | None:
        """The erasure that was asked for under an id, and the index of its tombstone."""
        for index, tombstone in self.tombstones.items():
            if hmac.compare_digest(tombstone.request_id, request_id):
                return index, tombstone
        return None


def search(
    memories: Sequence[Memory],
    query: str,
    *,
    vector: Vector | None,
    model: bytes,
    limit: int,
) -> list[tuple[Memory, float]]:
    """Return the memories that fit a question best, by words and by meaning, best first.

    Args:
        memories: What to look through.
        query: The question.
        vector: Its embedding, of length 1; None where there is none.
        model: Id of the model that made it; another's vectors are not compared.
        limit: At most so many.

    Returns:
        Memories and their scores, which say nothing but the order.
    """
    scores = np.zeros(len(memories))
    for ranking in (_by_words(memories, query), _by_meaning(memories, vector, model)):
        for place, at in enumerate(ranking):
            scores[at] += 1 / (_FUSION + place)
    best = np.argsort(-scores, kind="stable")[:limit]
    return [(memories[at], float(scores[at])) for at in best if scores[at] > 0]


def _by_words(memories: Sequence[Memory], query: str) -> list[int]:
    asked = content(query)
    texts = [[*content(one.text), *content(one.reply)] for one in memories]
    mean = sum(map(len, texts)) / len(texts) if texts else 1.0
    found: dict[int, float] = {}
    for word in asked:
        holders = [at for at, text in enumerate(texts) if word in text]
        weight = math.log(1 + (len(texts) - len(holders) + 0.5) / (len(holders) + 0.5))
        for at in holders:
            count, size = texts[at].count(word), len(texts[at])
            share = count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * size / (mean or 1)))
            found[at] = found.get(at, 0.0) + weight * share
    return sorted(found, key=lambda at: (-found[at], -at))


def _by_meaning(memories: Sequence[Memory], vector: Vector | None, model: bytes) -> list[int]:
    if vector is None:
        return []
    places = [
        at
        for at, one in enumerate(memories)
        if one.model == model and len(one.vector) == vector.size
    ]
    if not places:
        return []
    near = np.stack([dequantise(memories[at].vector) for at in places]) @ vector
    order = np.argsort(-near, kind="stable")
    return [places[at] for at in order if near[at] >= _NEAR]
