"""What recall compares, as arrays: facts and earlier turns, one row for each.

Arrays because a thread is opened for every turn: they are read from bytes without a copy, and one
product of matrices scores all of them. An `Items` is never changed; `Draft` makes the next one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from memory.keys import MAX_INDEX
from memory.kinds import MAX_IMPORTANCE, MAX_TIME, Ref
from memory.words import MAX_TERMS, Terms

Rows = npt.NDArray[np.void]
Mask = npt.NDArray[np.bool_]

FACT: Final = 1
PINNED: Final = 2
SUPERSEDED: Final = 4
CHANGE: Final = 8  # a turn that tells that something is no longer as it was
_FLAGS: Final = FACT | PINNED | SUPERSEDED | CHANGE

WHOLE: Final = 255  # place of a reference that names a record, not a fact in it
NO_TURN: Final = MAX_INDEX  # first source of a fact that its owner wrote

ROW: Final = np.dtype(
    [
        ("index", "<u4"),
        ("at", "u1"),
        ("flags", "u1"),
        ("importance", "u1"),
        ("terms", "u1"),  # how many
        ("by_index", "<u4"),  # the fact that superseded it
        ("by_at", "u1"),
        ("first", "<u4"),  # of a fact: its earliest source
        ("time", "<i8"),  # of a fact: since when it holds
        ("until", "<i8"),  # when it, or something said in that turn, was superseded; 0 if never
        ("norm", "<f4"),  # of its vector; 0 without one
        ("text", "<u2"),  # bytes
        ("extra", "<u2"),  # bytes: a fact's key, a turn's reply
    ]
)
LINK: Final = np.dtype([("index", "<u4"), ("at", "u1"), ("turn", "<u4")])


@dataclass(frozen=True, slots=True)
class Item:
    """A fact, or an earlier turn in short.

    `time`: since when a fact holds, or when the turn was, in Unix seconds. `until`: when a fact
    was superseded, or something said in the turn. `extra`: a fact's key, or the reply in short.
    """

    ref: Ref
    fact: bool
    text: str = field(repr=False)
    extra: str = field(repr=False)
    importance: int
    time: int
    until: int | None
    superseded_by: Ref | None
    pinned: bool


def reference(index: Any, at: Any) -> Ref:
    """Make a reference from two numbers of a row."""
    return Ref(int(index), None if at == WHOLE else int(at))


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """How the vectors of items lie; each is thought of as of length 1.

    `inverse` is what makes them so, 0 where there is none; `embedded` says how many there are;
    `mean` is their mean and `lengths` how far each lies from it.
    """

    inverse: npt.NDArray[np.float32]
    embedded: int
    mean: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.float32]

    @classmethod
    def of(cls, vectors: npt.NDArray[np.float32], norms: npt.NDArray[np.float32]) -> "Spread":
        """Compute it; all in float32: mixed matrices are multiplied the slow way."""
        inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        embedded = int(np.count_nonzero(norms))
        mean = np.asarray((inverse @ vectors) / max(embedded, 1), np.float32)
        # For a unit x: |x - m|^2 = 1 - 2xm + mm.
        squares = 1 - 2 * (vectors @ mean) * inverse + mean @ mean
        return cls(inverse, embedded, mean, np.sqrt(np.maximum(squares, 1e-9)))


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Rows of `ROW` in the order of their references, and beside them vectors, texts, terms, links.

    `vectors` is int8 of shape (n, dim). A link says that a turn was the source of a fact.
    `dim` is 0 where nothing has a vector.
    """

    rows: Rows
    vectors: npt.NDArray[np.int8]
    text: npt.NDArray[np.uint8] = field(repr=False)
    terms: Terms = field(repr=False)
    links: Rows
    text_ends: npt.NDArray[np.int64] = field(init=False, repr=False)
    _spread: list[Spread] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        sizes = self.rows["text"].astype(np.int64) + self.rows["extra"]
        object.__setattr__(self, "text_ends", np.cumsum(sizes))

    def floats(self) -> npt.NDArray[np.float32]:
        """Return the vectors as float32: four times as large, so they are not kept."""
        return self.vectors.astype(np.float32)

    def spread(self, floats: npt.NDArray[np.float32] | None = None) -> Spread:
        """Return how the vectors lie; computed once. `floats`: where `floats()` is at hand."""
        if not self._spread:
            known = self.floats() if floats is None else floats
            self._spread.append(Spread.of(known, self.rows["norm"]))
        return self._spread[0]

    @classmethod
    def none(cls) -> "Items":
        """Return items without a row."""
        return cls(
            np.zeros(0, ROW),
            np.zeros((0, 0), np.int8),
            np.zeros(0, np.uint8),
            np.zeros(0, np.uint32),
            np.zeros(0, LINK),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, those of `spread` included."""
        parts = (self.rows, self.vectors, self.text, self.terms, self.links, self.text_ends)
        return sum(part.nbytes for part in parts) + 4 * (2 * len(self) + self.dim)

    def row(self, ref: Ref) -> int | None:
        """Return the row of a reference."""
        return find_row(self.rows, ref)

    def item(self, row: int) -> Item:
        """Return one row with its texts."""
        # All columns at once, in the order of `ROW`: one by one they cost ten times as much.
        index, at, flags, importance, _, by_index, by_at, _, time, until, _, text, extra = (
            self.rows[row].item()
        )
        end = int(self.text_ends[row])
        both = self.text[end - extra - text : end].tobytes()
        return Item(
            reference(index, at),
            flags & FACT != 0,
            both[:text].decode(),
            both[text:].decode(),
            importance,
            time,
            until or None,
            reference(by_index, by_at) if flags & SUPERSEDED else None,
            flags & PINNED != 0,
        )

    def items(self, mask: Mask) -> Iterator[Item]:
        """Yield the rows of a mask with their texts."""
        return (self.item(int(row)) for row in np.flatnonzero(mask))

    def flagged(self, flags: int, wanted: int) -> Mask:
        """Return which rows have, of these flags, exactly the wanted ones."""
        return np.asarray((self.rows["flags"] & flags) == wanted)

    def shared(self, asked: Terms) -> npt.NDArray[np.int64]:
        """Return how many of these terms each row has."""
        hits = np.isin(self.terms, asked)
        owners = np.repeat(np.arange(len(self)), self.rows["terms"])
        return np.bincount(owners[hits], minlength=len(self))

    def take(self, keep: Mask) -> "Items":
        """Return the rows of a mask, and the links of the facts among them."""
        rows = self.rows[keep]
        sizes = self.rows["text"].astype(np.int64) + self.rows["extra"]
        return Items(
            rows,
            self.vectors[keep],
            self.text[np.repeat(keep, sizes)],
            self.terms[np.repeat(keep, self.rows["terms"])],
            self.links[np.isin(_keys(self.links), _keys(rows))],
        )

    def problem(self) -> str:
        """Say what is wrong with arrays that came from bytes, or nothing."""
        rows, sizes = self.rows, self.rows["text"].astype(np.int64) + self.rows["extra"]
        begins = self.text_ends - sizes
        cuts = np.concatenate([begins, begins + rows["text"]])
        cuts = cuts[cuts < len(self.text)]
        fact = (rows["flags"] & FACT) != 0
        checks = {
            "flags": not np.any(rows["flags"] & ~np.uint8(_FLAGS)),
            "importance": not np.any(rows["importance"] > MAX_IMPORTANCE),
            "time": not any(np.any((rows[one] < 0) | (rows[one] > MAX_TIME)) for one in _TIMES),
            "norm": bool(np.all(np.isfinite(rows["norm"]) & (rows["norm"] >= 0))),
            "a reference": bool(np.all(np.where(fact, rows["at"] < 64, rows["at"] == WHOLE)))
            and not np.any((rows["by_at"] >= 64) & (rows["by_at"] != WHOLE))
            and not np.any(np.diff(_keys(rows)) <= 0),
            "terms": not np.any(rows["terms"] > MAX_TERMS)
            and int(rows["terms"].sum(dtype=np.int64)) == len(self.terms),
            "the texts": int(sizes.sum()) == len(self.text)
            and not np.any(self.text[cuts] & 0xC0 == 0x80)
            and _is_text(self.text),
        }
        return next((name for name, fine in checks.items() if not fine), "")


_TIMES: Final = ("time", "until")


def _is_text(data: npt.NDArray[np.uint8]) -> bool:
    try:
        data.tobytes().decode()
    except UnicodeDecodeError:
        return False
    return True


def _keys(rows: Rows) -> npt.NDArray[np.int64]:
    return np.asarray(rows["index"].astype(np.int64) << 8 | rows["at"])


def find_row(rows: Rows, ref: Ref) -> int | None:
    """Return where a reference stands."""
    at = WHOLE if ref.at is None else ref.at
    row = int(np.searchsorted(rows["index"], ref.index))
    # A record's facts stand side by side.
    while row < len(rows) and rows["index"][row] == ref.index:
        if rows["at"][row] == at:
            return row
        row += 1
    return None


class Draft:
    """Items that are being changed: what is added stands in the same arrays with room behind."""

    __slots__ = ("_base", "_dim", "_links", "_rows", "_size", "_terms", "_texts", "_vectors")

    def __init__(self, base: Items) -> None:
        self._start(base)

    def _start(self, base: Items) -> None:
        self._base = base
        self._size = len(base)
        self._rows: Rows = np.concatenate([base.rows, np.zeros(32, ROW)])
        self._dim = base.dim
        # Copied when the first vector is set in it.
        self._vectors: npt.NDArray[np.int8] | None = None
        self._texts: list[bytes] = []
        self._terms: list[Terms] = []
        self._links: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> Rows:
        """The rows so far; their columns may be written to."""
        return self._rows[: self._size]

    def row(self, ref: Ref) -> int | None:
        """Return the row of a reference."""
        return find_row(self.rows, ref)

    def add(
        self,
        ref: Ref,
        texts: tuple[str, str],
        terms: Terms,
        *,
        time: int,
        importance: int,
        flags: int = 0,
        first: int = 0,
    ) -> int:
        """Append a row and return its number; its two texts have at most 65,535 bytes each."""
        if self._size == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros(len(self._rows), ROW)])
        # Half a surrogate pair cannot stand in a record, and is replaced all the same.
        text, extra = (one.encode("utf-8", "replace") for one in texts)
        at = WHOLE if ref.at is None else ref.at
        # All columns at once, in the order of `ROW`: one by one they cost five times as much.
        start = (ref.index, at, flags, importance, len(terms))
        self._rows[self._size] = (*start, 0, 0, first, time, 0, 0, len(text), len(extra))
        self._texts += [text, extra]
        self._terms.append(terms)
        self._size += 1
        return self._size - 1

    def embed(self, row: int, vector: bytes) -> None:
        """Set the vector of a row; one of another length than the others' is left out."""
        values = np.frombuffer(vector, np.int8)
        floats = values.astype(np.float32)
        norm = float(np.sqrt(floats @ floats))
        if not norm or (self._dim and len(values) != self._dim):
            return
        self._dim = len(values)
        room = len(self._rows)
        if self._vectors is None or len(self._vectors) < room:
            grown = np.zeros((room, self._dim), np.int8)
            known = self._base.vectors if self._vectors is None else self._vectors
            if known.size:
                grown[: len(known)] = known
            self._vectors = grown
        self._vectors[row] = values
        self._rows[row]["norm"] = norm

    def terms(self, row: int) -> Terms:
        """Return the terms of a row."""
        known = len(self._base)
        if row >= known:
            return self._terms[row - known]
        end = int(self._base.rows["terms"][: row + 1].sum(dtype=np.int64))
        return self._base.terms[end - int(self._base.rows["terms"][row]) : end]

    @property
    def dim(self) -> int:
        """Length of a vector; 0 where nothing has one."""
        return self._dim

    def link(self, ref: Ref, turn: int) -> None:
        """Say that a turn was the source of a fact."""
        self._links.append((ref.index, WHOLE if ref.at is None else ref.at, turn))

    def sources(self, ref: Ref) -> set[int]:
        """Return the turns that are linked to a fact."""
        at = WHOLE if ref.at is None else ref.at
        known = self._base.links
        mask = (known["index"] == ref.index) & (known["at"] == at)
        found = {int(turn) for turn in known["turn"][mask]}
        return found | {
            turn for index, place, turn in self._links if (index, place) == (ref.index, at)
        }

    def forget_vectors(self) -> None:
        """Drop all vectors: another model makes them from here on."""
        self.rows["norm"] = 0
        self._dim = 0
        self._vectors = None
        base = self._base
        none = np.zeros((len(base), 0), np.int8)
        self._base = Items(base.rows, none, base.text, base.terms, base.links)

    def keep(self, mask: Mask, *, without: Sequence[int] = ()) -> None:
        """Keep the rows of a mask, and no link to the turns in `without`."""
        items = self.finish().take(mask)
        links = items.links[~np.isin(items.links["turn"], np.array(without, np.int64))]
        self._start(Items(items.rows, items.vectors, items.text, items.terms, links))

    def finish(self) -> Items:
        """Return what stands here now."""
        base = self._base
        vectors = np.zeros((self._size, self._dim), np.int8)
        known = base.vectors if self._vectors is None else self._vectors[: self._size]
        if known.size:
            vectors[: len(known)] = known
        text = np.frombuffer(b"".join(self._texts), np.uint8)
        links = np.array(self._links, LINK)
        return Items(
            self.rows.copy(),
            vectors,
            np.concatenate([base.text, text]),
            np.concatenate([base.terms, *self._terms]),
            np.concatenate([base.links, links]),
        )
