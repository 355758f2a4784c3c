"""A thread as a turn needs it: its newest turns, and what can be recalled, folded from records.

A view is bounded whatever the thread's length, so that a long thread opens as fast as a short one.
Where there is more to remember than fits, what is least worth keeping leaves the view; it stays in
the thread. Nothing here is truth: a view can be folded anew from the chain at any time.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import cbor2
import numpy as np

from memory.changes import tells_of_change
from memory.errors import InvalidInputError
from memory.items import (
    CHANGE,
    FACT,
    LINK,
    NO_TURN,
    PINNED,
    ROW,
    SUPERSEDED,
    Draft,
    Item,
    Items,
    Mask,
    reference,
)
from memory.keys import MAX_INDEX, ThreadKeys
from memory.kinds import (
    LORE_ID_BYTES,
    MAX_VECTOR_BYTES,
    MODEL_ID_BYTES,
    Fact,
    Notes,
    Pin,
    Record,
    Ref,
    Summary,
    Tombstone,
    Turn,
)
from memory.thread import Position
from memory.words import MAX_TERMS, content, fact_terms, merged, terms

WINDOW: Final = 64  # newest turns whose text is kept whole
MAX_ITEMS: Final = 768
MAX_PINNED: Final = 64
MAX_ERASED: Final = 65_536  # indexes of erased records that are known; the newest
MAX_LORE: Final = 1024
MAX_STATE_BYTES: Final = 4 * 2**20

_SLACK: Final = 64  # rows above the limit before some leave: each time costs a copy
_MAX_MATRIX: Final = MAX_ITEMS * 1024
_MAX_TEXT: Final = 512 * 1024
_MAX_LINKS: Final = 4 * MAX_ITEMS
_MESSAGE_CHARS: Final = 240
_REPLY_CHARS: Final = 120
_MAGIC: Final = b"SV2"
_HEAD_FIELDS: Final = 13


class Indexes:
    """A set of record indexes in ascending order, as an array."""

    __slots__ = ("array",)

    def __init__(self, array: "np.typing.NDArray[np.uint32] | None" = None) -> None:
        self.array = np.zeros(0, np.uint32) if array is None else array

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int):
            return False
        place = int(np.searchsorted(self.array, index))
        return place < len(self.array) and int(self.array[place]) == index

    def __iter__(self) -> Iterator[int]:
        return map(int, self.array)

    def __len__(self) -> int:
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Indexes) and np.array_equal(self.array, other.array)

    __hash__ = None  # type: ignore[assignment]

    def union(self, indexes: Iterable[int]) -> "Indexes":
        """Return these and others; of very many, the newest."""
        more = np.fromiter(indexes, np.uint32)
        return Indexes(np.union1d(self.array, more)[-MAX_ERASED:])


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What is known of a thread at `position`.

    `turns`: the newest, at most `WINDOW`, with their indexes, oldest first. `count`: how many turns
    there were, so that the first of `turns` has the ordinal `count - len(turns)`. `model`: id of
    the embedding model of the vectors, empty without any. `pending`: turns without notes. `lore`:
    id of a lorebook's entry to the index of the turn that last woke it.
    """

    position: Position
    turns: tuple[tuple[int, Turn], ...] = field(default=(), repr=False)
    count: int = 0
    summary: tuple[int, Summary] | None = None
    model: bytes = b""
    items: Items = field(default_factory=Items.none, repr=False)
    erased: Indexes = field(default_factory=Indexes, repr=False)
    pending: tuple[int, ...] = ()
    lore: Mapping[bytes, int] = field(default_factory=dict, repr=False)

    @classmethod
    def empty(cls, keys: ThreadKeys) -> "View":
        """Return the view of a thread that holds nothing yet."""
        return cls(Position.genesis(keys))

    @property
    def noted(self) -> int:
        """Turns with an index below have notes."""
        return self.pending[0] if self.pending else self.position.length

    @property
    def nbytes(self) -> int:
        """About how much memory it takes, in bytes."""
        said = sum(len(turn.message) + len(turn.reply) for _, turn in self.turns)
        return (
            4096 + self.items.nbytes + self.erased.array.nbytes + 2 * said + 500 * len(self.turns)
        )

    def fold(self, records: Iterable[tuple[int, Record | None]], position: Position) -> "View":
        """Return the view at `position`, after these records; None is an erased one.

        Records that it covers already may come again: of them, turns fill the window, which
        `encode` leaves out. All others come in ascending order, without a hole.
        """
        fold = _Fold(self)
        for index, record in records:
            fold.take(index, record)
        return fold.finish(position)

    def unnoted(self) -> tuple[tuple[int, Turn], ...]:
        """Return the turns of the window from which nothing was learned yet, oldest first."""
        return tuple((index, turn) for index, turn in self.turns if index in self.pending)

    def facts(self) -> list[Item]:
        """Return the facts that hold, in the order in which they were learned."""
        return list(self.items.items(self.items.flagged(FACT | SUPERSEDED, FACT)))

    def find(self, ref: Ref) -> Item | None:
        """Return a memory in view."""
        row = self.items.row(ref)
        return None if row is None else self.items.item(row)

    def sources(self, ref: Ref) -> tuple[int, ...]:
        """Return the turns that told a fact in view, ascending."""
        return tuple(sorted(Draft(self.items).sources(ref)))

    def encode(self) -> bytes:
        """Return all but the window's turns, in at most `MAX_STATE_BYTES`."""
        items, head = self.items, self._head()
        arrays = (items.rows, items.vectors, items.text, items.terms, items.links)
        parts = [np.ascontiguousarray(one).tobytes() for one in arrays]
        erased = self.erased.array.astype("<u4").tobytes()
        return b"".join([_MAGIC, len(head).to_bytes(4, "big"), head, *parts, erased])

    def _head(self) -> bytes:
        """Encode what is no array, and the arrays' sizes."""
        items, summary = self.items, self.summary
        return cbor2.dumps(
            [
                self.position.length,
                self.position.head,
                self.count,
                None
                if summary is None
                else [summary[0], summary[1].text, summary[1].before, summary[1].time],
                self.model,
                len(items),
                items.dim,
                len(items.text),
                len(items.terms),
                len(items.links),
                len(self.erased),
                list(self.pending),
                [[one, self.lore[one]] for one in self.lore],
            ],
            canonical=True,
        )

    @classmethod
    def decode(cls, data: bytes) -> "View":
        """Read what `encode` wrote; arrays share its bytes.

        Raises InvalidInputError for anything else.
        """
        try:
            view = _decode(data)
        except (cbor2.CBORDecodeError, InvalidInputError, TypeError, ValueError, RecursionError):
            view = None
        if view is None:
            raise InvalidInputError(
                "A thread's state is not in the one form that is allowed; fold it anew."
            )
        return view


def _decode(data: bytes) -> View | None:
    begin = len(_MAGIC) + 4
    if len(data) > MAX_STATE_BYTES or len(data) < begin or not data.startswith(_MAGIC):
        return None
    end = begin + int.from_bytes(data[len(_MAGIC) : begin], "big")
    if end > len(data):
        return None
    read = data[begin:end]
    fields = cbor2.loads(read)
    if type(fields) is not list or len(fields) != _HEAD_FIELDS:
        return None
    length, head, count, summary, model, n, dim, text, words, links, erased, pending, lore = fields
    sizes = (count, n, dim, text, words, links, erased, *pending)
    if any(type(one) is not int or not 0 <= one <= MAX_INDEX for one in sizes):
        return None
    if type(model) is not bytes or len(model) not in {0, MODEL_ID_BYTES} or dim > MAX_VECTOR_BYTES:
        return None
    shapes = (
        (n, ROW),
        (n * dim, "i1"),
        (text, "u1"),
        (words, "<u4"),
        (links, LINK),
        (erased, "<u4"),
    )
    arrays: list[Any] = []
    for size, kind in shapes:
        dtype = np.dtype(kind)
        if end + size * dtype.itemsize > len(data):
            return None
        arrays.append(np.frombuffer(data, dtype, size, end))
        end += size * dtype.itemsize
    items = Items(arrays[0], arrays[1].reshape(n, dim), arrays[2], arrays[3], arrays[4])
    indexes = arrays[5]
    if end != len(data):
        return None
    if items.problem() or np.any(indexes[1:] <= indexes[:-1]) or not _ascending(pending):
        return None
    if any(type(one) is not bytes or len(one) != LORE_ID_BYTES for one, _ in lore):
        return None
    if any(type(at) is not int or not 0 <= at <= MAX_INDEX for _, at in lore):
        return None
    said = None if summary is None else (summary[0], Summary(*summary[1:]))
    if said is not None and (type(said[0]) is not int or not 0 <= said[0] <= MAX_INDEX):
        return None
    known = Indexes(indexes)
    view = View(
        Position(length, head), (), count, said, model, items, known, tuple(pending), dict(lore)
    )
    # The arrays are the very bytes that were read, so they would be written as they are.
    return view if view._head() == read else None


def _ascending(values: Sequence[int]) -> bool:
    return all(one < other for one, other in itertools.pairwise(values))


class _Fold:
    """One pass over records, on copies of what it changes."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._start = view.position.length
        self._draft = Draft(view.items)
        self._turns = dict(view.turns)
        self._pending = list(view.pending)
        self._lore = dict(view.lore)
        self._erased = view.erased
        self._news = False
        self._count, self._summary, self._model = view.count, view.summary, view.model

    def take(self, index: int, record: Record | None) -> None:
        """Fold one record."""
        if isinstance(record, Turn) and index not in self._erased:
            self._turns[index] = record
        if index < self._start or record is None:
            return
        self._news = True
        match record:
            case Turn():
                self._turn(index, record)
            case Notes():
                self._notes(index, record)
            case Summary():
                self._summary = (index, record)
            case Pin():
                self._pin(record)
            case Tombstone():
                self._forget(record)
        if len(self._draft) > self._room() + _SLACK:
            self._evict()
        if len(self._turns) > 2 * WINDOW:
            self._turns = dict(sorted(self._turns.items())[-WINDOW:])
            del self._pending[:-WINDOW]

    def finish(self, position: Position) -> View:
        lore = dict(sorted(self._lore.items(), key=lambda one: one[1])[-MAX_LORE:])
        return View(
            position,
            tuple(sorted(self._turns.items()))[-WINDOW:],
            self._count,
            self._summary,
            self._model,
            self._draft.finish() if self._news else self._view.items,
            self._erased,
            tuple(self._pending[-WINDOW:]),
            lore,
        )

    def _turn(self, index: int, turn: Turn) -> None:
        self._count += 1
        self._pending.append(index)
        for one in turn.lore:
            self._lore[one] = index
        message = shorten(turn.message, _MESSAGE_CHARS)
        said = terms(message)
        if not len(said):
            return  # a greeting, or "yes": nothing to find it by
        reply = self._own_words(turn, message)
        known = merged(said, terms(reply))[:MAX_TERMS]
        # A turn that says more is worth more, and none as much as a fact learned from it.
        self._draft.add(
            Ref(index),
            (message, reply),
            known,
            flags=CHANGE if tells_of_change(message) else 0,
            importance=min(40, 4 * len(said)),
            time=turn.time,
        )

    def _own_words(self, turn: Turn, message: str) -> str:
        """Return the reply in short; nothing where it says again what it was told by memory.

        A recalled memory must not come back from the persona's mouth as one of its own.
        """
        reply = shorten(turn.reply, _REPLY_CHARS)
        if not turn.recalled or not reply:
            return reply
        rows = (self._draft.row(ref) for ref in turn.recalled)
        said = content(reply).keys() - content(message).keys()
        told = np.concatenate(
            [np.zeros(0, np.uint32), *(self._draft.terms(row) for row in rows if row is not None)]
        )
        return "" if np.isin(terms(" ".join(said)), told).any() else reply

    def _notes(self, index: int, notes: Notes) -> None:
        draft = self._draft
        if notes.model and notes.model != self._model:
            draft.forget_vectors()
            self._model = notes.model
        if notes.turn in self._pending:
            self._pending.remove(notes.turn)
        spoken = None if notes.turn is None else draft.row(Ref(notes.turn))
        if spoken is not None:
            if notes.model:
                draft.embed(spoken, notes.vector)
            worth = max((fact.importance for fact in notes.facts), default=0)
            draft.rows["importance"][spoken] = max(worth, draft.rows["importance"][spoken])
        for at, fact in enumerate(notes.facts):
            self._fact(Ref(index, at), fact, notes)
        for at, fact in enumerate(notes.facts):
            for old in fact.supersedes:
                self._supersede(old, Ref(index, at), max(fact.since, 1))
        for ref, turn in notes.sources:
            if draft.row(ref) is not None:
                draft.link(ref, turn)

    def _fact(self, ref: Ref, fact: Fact, notes: Notes) -> None:
        row = self._draft.add(
            ref,
            (fact.text, fact.about),
            fact_terms(fact.text, fact.about),
            flags=FACT | (PINNED if fact.pinned else 0),
            importance=fact.importance,
            first=min(fact.sources, default=NO_TURN),
            time=fact.since,
        )
        if notes.model:
            self._draft.embed(row, fact.vector)
        for turn in fact.sources:
            self._draft.link(ref, turn)

    def _supersede(self, old: Ref, new: Ref, time: int) -> None:
        row = None if old == new else self._draft.row(old)
        if row is None:
            return
        rows = self._draft.rows
        rows["flags"][row] |= SUPERSEDED
        rows["until"][row] = time
        rows["by_index"][row], rows["by_at"][row] = new.index, new.at
        self._mark(self._draft.sources(old) - self._draft.sources(new), time)

    def _mark(self, turns: set[int], time: int) -> None:
        """Mark turns with when something said in them was superseded; 0 takes that back."""
        said = np.array(sorted(turns), np.int64)
        rows = self._draft.rows
        rows["until"][np.isin(rows["index"], said) & (rows["flags"] & FACT == 0)] = time

    def _pin(self, pin: Pin) -> None:
        row = self._draft.row(pin.ref)
        if row is not None:
            flags = self._draft.rows["flags"]
            flags[row] = flags[row] | PINNED if pin.pinned else flags[row] & ~np.uint8(PINNED)

    def _forget(self, tombstone: Tombstone) -> None:
        gone = tombstone.erased
        self._erased = self._erased.union(gone)
        for index in gone:
            self._count -= self._turns.pop(index, None) is not None
        left = set(gone)
        self._pending = [index for index in self._pending if index not in left]
        self._lore = {one: at for one, at in self._lore.items() if at not in left}
        if self._summary and self._summary[0] in left:
            self._summary = None
        rows = self._draft.rows
        # What the erased facts had superseded holds again: nothing else is known.
        freed = (rows["flags"] & SUPERSEDED != 0) & np.isin(rows["by_index"], gone)
        for row in np.flatnonzero(freed):
            rows["flags"][row] &= ~np.uint8(SUPERSEDED)
            rows["until"][row] = rows["by_index"][row] = rows["by_at"][row] = 0
            fact = reference(rows["index"][row], rows["at"][row])
            self._mark(self._draft.sources(fact), 0)
        self._draft.keep(~np.isin(rows["index"], gone), without=gone)

    def _room(self) -> int:
        return min(MAX_ITEMS, _MAX_MATRIX // max(self._draft.dim, 1))

    def _evict(self) -> None:
        """Let go of what is least worth keeping."""
        items = self._draft.finish()
        self._draft.keep(_worth_keeping(items, self._room()))


def _worth_keeping(items: Items, room: int) -> Mask:
    """Choose rows: pinned ones, then facts that hold and turns, newer and more important first.

    A quarter of the room is for turns, where there are so many; an eighth at most is for facts
    that were superseded.
    """
    rows = items.rows
    flags = rows["flags"]
    fact, superseded = flags & FACT != 0, flags & SUPERSEDED != 0
    # Age is a row's place: 0 for the oldest, 1 for the newest.
    worth = rows["importance"] / 100 + np.arange(len(rows)) / max(len(rows), 1)
    keep = np.zeros(len(rows), bool)

    def choose(among: Mask, most: int) -> None:
        found = np.flatnonzero(among & ~keep)
        keep[found[np.argsort(-worth[found], kind="stable")][: max(0, most)]] = True

    choose((flags & PINNED != 0) & ~superseded, room)
    left = room - int(keep.sum())
    choose(~fact, left // 4)
    choose(fact & ~superseded, left - left // 4 - left // 8)
    choose(superseded, left // 8)
    choose(np.ones(len(rows), bool), room - int(keep.sum()))
    sizes = np.where(keep, rows["text"].astype(np.int64) + rows["extra"], 0)
    # From the newest back, as far as the texts have room.
    return keep & (np.cumsum(sizes[::-1])[::-1] <= _MAX_TEXT)


def shorten(text: str, most: int) -> str:
    """Return a text in one line of at most `most` characters, cut between words if it can be."""
    line = " ".join(text[: 8 * most].split())
    if len(line) <= most:
        return line
    cut = line[: most - 1]
    return (cut.rpartition(" ")[0] or cut) + "\u2026"
