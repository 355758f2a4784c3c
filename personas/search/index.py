"""The index: what is asked, by words and by meaning, in one order."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from personas.errors import PersonaError
from personas.listing import Listing
from personas.search.columns import Columns
from personas.search.meaning import Embed, Meaning, passages
from personas.search.query import Hit, SearchQuery, SearchResult
from personas.search.words import FieldWeights, Understood, Words

_BEST: Final = 500  # by words, whose passages are compared too

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts how much; chosen on one half of the judged queries (docs/discovery.md).

    Attributes:
        words: Of the full-text score; 0 leaves words out.
        enough: The full-text score above which more adds nothing.
        passage: Of the nearest passage's cosine.
        whole: Of the cosine of all that a listing says; with both 0, meaning is left out.
        floor: The passage's cosine from which on meaning alone makes a match.
        shared: Of the part of all tags that a persona shares with one that it shall be like.
        fields: Of words, by where they stand.
    """

    words: float = 0.3
    enough: float = 0.6
    passage: float = 1.0
    whole: float = 1.0
    floor: float = 0.2
    shared: float = 0.2
    fields: FieldWeights = field(default_factory=FieldWeights)


WEIGHTS: Final = Weights()


class Index:
    """Listings that can be found. It belongs to one thread at a time.

    Args:
        embed: Makes vectors; None leaves meaning out.
        weights: What counts how much; may be exchanged between searches.
    """

    def __init__(self, *, embed: Embed | None = None, weights: Weights = WEIGHTS) -> None:
        self.weights = weights
        self._words = Words()
        self._meaning = None if embed is None else Meaning(embed)
        self._columns = Columns()
        self._listings: list[Listing | None] = []
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._ties = np.zeros(0, np.uint64)
        self._alive = np.zeros(0, bool)

    @classmethod
    def build(
        cls, listings: Iterable[Listing], *, embed: Embed | None, weights: Weights = WEIGHTS
    ) -> "Index":
        """An index of these listings, each handle once."""
        index = cls(embed=embed, weights=weights)
        index.update(listings)
        return index

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def vector_bytes(self) -> int:
        """Bytes of all vectors."""
        return 0 if self._meaning is None else self._meaning.nbytes

    def update(self, listings: Iterable[Listing] = (), withdrawn: Iterable[str] = ()) -> None:
        """Take up listings, in place of those with the same handle, and drop handles.

        Costs what the changed listings cost, whatever else there is; a listing that did not change
        costs nothing.
        """
        changed = [one for one in listings if self._listing(one.handle) != one]
        for handle in withdrawn:
            if handle in self._rows:
                self._drop(self._rows.pop(handle))
        if changed and self._meaning is not None:
            rows = [self._row(one.handle) for one in changed]
            self._meaning.put(rows, changed)
        for one in changed:
            row = self._row(one.handle)
            self._words.clear(row)
            self._words.put(row, one)
            self._columns.put(
                row,
                tag=one.tags,
                language=(one.language,),
                rating=(one.rating,),
                licence=(one.licence,),
                author=(one.author,),
            )
            self._listings[row] = one
            self._alive[row] = True
        self._words.commit()

    def listings(self) -> tuple[Listing, ...]:
        """All that can be found."""
        return tuple(one for one in self._listings if one is not None)

    def _listing(self, handle: str) -> Listing | None:
        row = self._rows.get(handle)
        return None if row is None else self._listings[row]

    def _row(self, handle: str) -> int:
        if handle not in self._rows:
            row = self._free.pop() if self._free else len(self._listings)
            if row == len(self._listings):
                self._listings.append(None)
            if row >= len(self._ties):
                self._ties = np.resize(self._ties, max(64, 2 * row))
                self._alive = np.resize(self._alive, len(self._ties))
            # Ties go to nobody's favour, and are broken alike by every enclave.
            self._ties[row] = int.from_bytes(hashlib.sha256(handle.encode()).digest()[:8], "big")
            self._alive[row] = False
            self._rows[handle] = row
        return self._rows[handle]

    def _drop(self, row: int) -> None:
        self._listings[row] = None
        self._alive[row] = False
        self._free.append(row)
        self._words.clear(row)
        if self._meaning is not None:
            self._meaning.clear(row)

    def search(self, query: SearchQuery) -> SearchResult:
        """Answer a query.

        Raises:
            PersonaError: `similar` names a handle that is not here.
        """
        passing = self._columns.passing(query, self._alive[: len(self._listings)])
        like = None
        if query.similar:
            like = self._rows.get(query.similar)
            if like is None:
                raise PersonaError(
                    f"There is no persona {query.similar[:64]!r} to compare with. "
                    "Search for it by name."
                )
            passing[like] = False
        understood = self._words.understand(
            self._asked(query, like),
            query.language,
            self.weights.fields,
            None if self._meaning is None else self._meaning.alike,
        )
        if not query.text.strip() and like is None:
            rows = np.flatnonzero(passing)
            scores = np.array([self._at(row).created for row in rows], np.float64)
            vector = None
        else:
            vector = self._vector(query, understood, like)
            rows, scores = self._scored(query, understood, vector, like, passing)
        page = self._order(rows, scores, query.offset + query.limit)[query.offset :]
        return SearchResult(
            hits=tuple(
                self._hit(int(rows[at]), float(scores[at]), query, understood, vector)
                for at in page
            ),
            total=len(rows),
            facets=self._columns.facets(rows),
            suggestions=(understood.text,) if query.text and understood.corrected else (),
        )

    def _at(self, row: int) -> Listing:
        listing = self._listings[row]
        if listing is None:
            raise RuntimeError("a row that was dropped is found")
        return listing

    def _asked(self, query: SearchQuery, like: int | None) -> str:
        """The words that are looked for: without vectors, likeness is one of words."""
        if like is None or self._meaning is not None:
            return query.text
        return f"{query.text} {self._at(like).tagline} ".lstrip()

    def _vector(
        self, query: SearchQuery, understood: Understood, like: int | None
    ) -> Floats | None:
        """What meanings are compared with. The text as it was written: a model knows parts of
        words, and a word put right wrongly would mean something else."""
        if self._meaning is None or not (self.weights.passage or self.weights.whole):
            return None
        if like is None:
            return self._meaning.query(query.text) if understood.terms else None
        vector = self._meaning.of(like)
        if understood.terms:
            vector = vector + self._meaning.query(query.text)
        return vector / max(float(np.linalg.norm(vector)), 1e-9)

    def _scored(
        self,
        query: SearchQuery,
        understood: Understood,
        vector: Floats | None,
        like: int | None,
        passing: npt.NDArray[np.bool_],
    ) -> tuple[Rows, npt.NDArray[np.float64]]:
        """All rows that match, and their scores."""
        weights = self.weights
        scores = np.zeros(len(passing), np.float64)
        matched = np.zeros(len(passing), bool)
        best = np.zeros(0, np.int64)
        if weights.words:
            rows, said = self._words.search(understood, query.language, weights.fields)
            there = passing[rows]
            rows, said = rows[there], said[there]  # the best first
            scores[rows] = weights.words * np.minimum(said, weights.enough)
            matched[rows] = True
            best = rows[:_BEST]
        if self._meaning is not None and vector is not None:
            rows = np.union1d(self._meaning.near(vector, passing), best)
            whole = self._meaning.wholes(vector, rows)
            nearest = whole if like is not None else self._meaning.best_parts(vector, rows)[0]
            meant = weights.passage * nearest + weights.whole * whole
            scores[rows] += np.maximum(meant, 0)
            # Every persona is more or less like another; not all mean what somebody asks.
            matched[rows if like is not None else rows[nearest >= weights.floor]] = True
        if like is not None:
            tags = frozenset(self._at(like).tags)
            share = self._columns.shared(tags, len(passing))
            scores += weights.shared * share
            if vector is None:
                matched |= passing & (share > 0)
        found = np.flatnonzero(matched)
        return found, scores[found]

    def _order(self, rows: Rows, scores: npt.NDArray[np.float64], most: int) -> Rows:
        """Places of the best `most`, in order; scores that differ by rounding are equal."""
        rounded = np.round(scores, 6)
        places = np.arange(len(rows))
        if len(rows) > most:
            least = np.partition(rounded, len(rows) - most)[len(rows) - most]
            places = np.flatnonzero(rounded >= least)
        order = np.lexsort((self._ties[rows[places]], -rounded[places]))
        ordered: Rows = places[order][:most]
        return ordered

    def _hit(
        self,
        row: int,
        score: float,
        query: SearchQuery,
        understood: Understood,
        vector: Floats | None,
    ) -> Hit:
        listing = self._at(row)
        words: tuple[str, ...] = ()
        if self.weights.words:
            words = self._words.matched(listing, understood, query.language)
        passage = ""
        if self._meaning is not None and vector is not None:
            nearest, which = self._meaning.best_parts(vector, np.array([row]))
            if nearest[0] >= self.weights.floor:
                passage = passages(listing)[which[0]]
        return Hit(listing, round(score, 6), words, passage)
