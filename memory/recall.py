"""What of a thread goes back into the prompt: the newest turns, and what fits the new message.

Ranking: cosine of embeddings, less what all of a thread's have in common (Mu and Viswanath, 2018,
arXiv 1702.01417), and BM25 (Robertson and Zaragoza, 2009, with term frequency 1, as texts are
short), each between 0 and 1, weighted; then gently by importance and age. What was superseded
comes back only beside what superseded it, and says until when it held. A later turn that tells of a
change comes back for what it is near to, as in pseudo-relevance feedback (Rocchio, 1971): it may
say that this is no longer so, in words that are nobody's question.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from memory.changes import asks_what_was
from memory.items import (
    CHANGE,
    FACT,
    NO_TURN,
    PINNED,
    SUPERSEDED,
    Item,
    Items,
    Mask,
    Rows,
    reference,
)
from memory.kinds import Ref
from memory.vectors import Vector
from memory.view import View
from memory.words import Terms, content, hashed, meaning, words

Scores = npt.NDArray[np.float64]
Kind = Literal["fact", "turn", "pin"]
TurnT = TypeVar("TurnT")

_DAY: Final = 86_400
_LEAST: Final = 8  # tokens that a memory takes at least, near enough
_MISSES: Final = 4  # memories that were too long for what was left, before no more are tried
_CANDIDATES: Final = 32  # of the best, how many are tried for the budget
_LENGTH_WEIGHT: Final = 0.4  # BM25's b: short texts all
_FACT_LENGTH: Final = 0.3  # of the mean, at most
_WORDS_WEIGHT: Final = 0.25
_NEARLY_SAME: Final = 0.7  # cosine, of few texts whose common part is not known
_COMMON_FROM: Final = 32  # embeddings that tell what they have in common
_IMPORTANCE_WEIGHT: Final = 0.15
_RECENCY_WEIGHT: Final = 0.1
_RECENCY_DAYS: Final = 30
_RECENT_DAYS: Final = 60  # of which a day and a month are enough to name one
_FACT_BONUS: Final = 0.05
_OUTDATED: Final = 0.8  # what was superseded is worth less than what holds
_SUBJECTS: Final = 3  # memories that say best what the message is about
_CHANGES: Final = 8  # turns that may have changed it
_CHANGE_WEIGHT: Final = 4.0  # of the cosine: near is as good as the memory itself
_BESIDE: Final = 0.8  # at most, of that memory's worth
_FLOOR: Final = 0.1  # below, a memory has nothing to do with the message
_LONGEST_CHAIN: Final = 64
_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)
_LAST_TIME: Final = 253_402_300_799  # the end of the year 9999, after which dates have no form

_TIME_TEXT: Final = (
    "when since until till long ago last first before after earlier later previously formerly used "
    "former previous ex date day week month year yesterday recently lately still now today "
    "currently anymore longer new old changed switched"
)
_TIME_WORDS: Final = frozenset(_TIME_TEXT.split())


@dataclass(frozen=True, slots=True)
class Query:
    """What is to be remembered for: the new message, its embedding, and the time in Unix seconds.

    `vector` has length 1 and comes from the model with id `model`; None where there is none.
    """

    text: str = field(repr=False)
    vector: Vector | None = field(repr=False)
    model: bytes
    now: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """One memory as it shall stand in the prompt, and what it costs there.

    `when`: since when a fact holds, or when the turn was, in Unix seconds.
    """

    ref: Ref
    kind: Kind
    text: str = field(repr=False)
    tokens: int
    score: float
    when: int


def recall(
    view: View, query: Query, *, budget: int, cost: Callable[[str], int], since: int
) -> tuple[Recalled, ...]:
    """Choose the memories for one prompt, in the order in which they shall stand there.

    Pinned ones are chosen first, then the best by `score`; they stand in the order of time.

    `cost` counts a text's tokens; those of all that is returned add up to `budget` at most. Turns
    with an index from `since` on stand in the prompt already: they are left out, and so is a fact
    that was said in none but them, unless it is pinned.
    """
    items = view.items
    rows = items.rows
    fact = rows["flags"] & FACT != 0
    first = np.where(fact, rows["first"], rows["index"])
    there = (first >= since) & ~(fact & (first == NO_TURN))
    pinned = items.flagged(PINNED | SUPERSEDED, PINNED)
    if budget <= 0 or not np.any(pinned | ~there):
        return ()  # as in every thread that stands in its prompt whole
    asked = content(query.text).keys()
    relevance = _relevance(items, query, asked, view.model)
    if not asks_what_was(query.text):
        relevance = _with_changes(items, relevance, ~there)
    scores = _with_priors(rows, relevance, query.now)
    chosen = _Chosen(items, query, asked, scores, budget=budget, cost=cost)
    for row in _best_first(pinned, scores):
        chosen.add(row, "pin")
    for row in _best_first(~there & (relevance >= _FLOOR), scores)[:_CANDIDATES]:
        if chosen.full:
            break
        chosen.consider(row)
    return chosen.result()


def recall_share(left: int, most: int) -> int:
    """Return how many of the tokens that are left recall may have; the newest turns get the rest.

    Where little is left, memories are worth more than a longer stretch of talk: at equal room they
    answer ten times as many questions (docs/performance.md), and the newest third still
    holds the conversation together. `most` is all they ever get.
    """
    return min(2 * left // 3, most)


def recent_within(
    turns: Sequence[TurnT],
    budget: int,
    cost: Callable[[TurnT], int],
    *,
    first: int = 0,
    step: int = 8,
) -> tuple[TurnT, ...]:
    """Return the newest turns whose costs add up to `budget` at most, oldest first.

    The first turn that does not fit ends the choice, so that what is left is a conversation
    without holes. `cost` counts what one turn takes in the prompt, in tokens. `first` is the
    ordinal of `turns[0]` in the thread. Where not all of the thread fits, the choice begins at an
    ordinal that is a multiple of `step`, if one is among those that fit: so it begins at the same
    turn for some turns on end, and the engine's prefix cache holds.
    """
    start = len(turns)
    left = budget
    while start > 0:
        left -= cost(turns[start - 1])
        if left < 0:
            break
        start -= 1
    stepped = start + -(first + start) % step
    return tuple(turns[stepped if stepped < len(turns) else start :])


def _best_first(mask: Mask, scores: Scores) -> list[int]:
    found = np.flatnonzero(mask)
    ordered: list[int] = found[np.argsort(-scores[found], kind="stable")].tolist()
    return ordered


def _relevance(items: Items, query: Query, asked: Set[str], model: bytes) -> Scores:
    """Say how much each row has to do with the query, from 0 to 1."""
    by_words = _bm25(items, hashed(asked))
    rows, vector = items.rows, query.vector
    if vector is None or query.model != model or vector.shape != (items.dim,):
        return by_words
    near = _nearness(items, vector)
    both = _WORDS_WEIGHT * by_words + (1 - _WORDS_WEIGHT) * near
    # What was not embedded yet is found by its words.
    return np.where(rows["norm"] > 0, both, by_words)


def _nearness(items: Items, vector: Vector) -> Scores:
    """Return the cosine with each row's embedding, from 0 to 1; of many rows, less their mean."""
    vectors = items.floats()
    spread = items.spread(vectors)
    if spread.embedded < _COMMON_FROM:
        return np.asarray(np.clip((vectors @ vector) * spread.inverse / _NEARLY_SAME, 0, 1))
    rest = vector - spread.mean
    # For a unit x: (x - m)(q - m) = x(q - m) - m(q - m).
    near = (vectors @ rest) * spread.inverse - spread.mean @ rest
    length = max(float(np.linalg.norm(rest)), 1e-9)
    return np.asarray(np.clip(near / (spread.lengths * length), 0, 1))


def _with_changes(items: Items, relevance: Scores, among: Mask) -> Scores:
    """Raise the turns that tell of a change, where they may have changed what is asked for.

    Such a turn gains by how near it is to one of the memories that say best what the message is
    about, if that is older; it never counts for more than that memory does.
    """
    rows, spread = items.rows, items.spread()
    news = np.flatnonzero((rows["flags"] & CHANGE != 0) & among)
    if not len(news) or spread.embedded < _COMMON_FROM:
        return relevance
    best = relevance.argpartition(-_SUBJECTS)[-_SUBJECTS:]
    near = np.maximum(_centred(items, news) @ _centred(items, best).T, 0)
    index, known = rows["index"], relevance[best]
    gained = np.minimum(relevance[news, None] + _CHANGE_WEIGHT * known * near, _BESIDE * known)
    gained = (gained * (index[best] < index[news, None])).max(axis=1)
    most = gained.argsort(kind="stable")[-_CHANGES:]  # of equals, the newest
    raised = relevance.copy()
    raised[news[most]] = np.maximum(relevance[news[most]], gained[most])
    return raised


def _centred(items: Items, of: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return rows' embeddings less what all have in common, each of length 1."""
    spread = items.spread()
    inverse = spread.inverse[of, None]  # 0 for what was not embedded yet: that is near to nothing
    return (items.vectors[of] * inverse - spread.mean * (inverse > 0)) / spread.lengths[of, None]


def _bm25(items: Items, asked: Terms) -> Scores:
    """Return BM25 as a share of what a text with all the query's known words would get."""
    rows = items.rows
    scores = np.zeros(len(rows))
    # One by one: a query has few terms, and a row has each of them once.
    places = [(items.terms == term).nonzero()[0] for term in sorted(set(asked.tolist()))]
    frequency = np.array([len(found) for found in places])
    if not frequency.any():
        return scores
    rarity = np.log1p((len(rows) - frequency + 0.5) / (frequency + 0.5))
    lengths = rows["terms"].astype(np.float64)
    ends = lengths.cumsum()
    for found, weight in zip(places, rarity.tolist(), strict=True):
        scores[ends.searchsorted(found, "right")] += weight
    mean = max(float(lengths.mean()), 1)
    # The other words for its subject make a fact easier to find, and no longer to read.
    lengths = np.where(rows["flags"] & FACT != 0, np.minimum(lengths, _FACT_LENGTH * mean), lengths)
    length = 1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * lengths / mean
    most = float(rarity[frequency > 0].sum())
    return np.minimum(scores * 2.2 / (1 + 1.2 * length) / max(most, 1e-9), 1)


def _with_priors(rows: Rows, relevance: Scores, now: int) -> Scores:
    days = np.maximum(0, now - rows["time"]) / _DAY
    scores = relevance * (
        1
        + _IMPORTANCE_WEIGHT * rows["importance"] / 100
        + _RECENCY_WEIGHT * _RECENCY_DAYS / (_RECENCY_DAYS + days)
    )
    scores += np.where(rows["flags"] & FACT != 0, _FACT_BONUS, 0)
    return np.asarray(np.where(rows["until"] > 0, _OUTDATED, 1) * scores)


class _Chosen:
    """What was chosen so far, and the budget that is left."""

    def __init__(
        self,
        items: Items,
        query: Query,
        asked: Set[str],
        scores: Scores,
        *,
        budget: int,
        cost: Callable[[str], int],
    ) -> None:
        self._items = items
        self._left = budget
        self._cost = cost
        self._scores = scores
        self._asks_for_time = not _TIME_WORDS.isdisjoint(words(query.text))
        self._now = query.now
        self._asked = asked
        self._misses = 0
        self._found: dict[int, Recalled] = {}
        self._said: list[frozenset[str]] = []
        # Row of a superseded fact to the row of what holds instead.
        self._beside: dict[int, int] = {}

    @property
    def full(self) -> bool:
        """Whether hardly any memory fits any more."""
        return self._left < _LEAST or self._misses >= _MISSES

    def consider(self, row: int) -> None:
        """Take a row where it fits and says something new, and before it what superseded it."""
        if row in self._found:
            return
        item = self._items.item(row)
        if item.until is None:
            self._take(row, item, "fact" if item.fact else "turn")
            return
        changed = [row] if item.fact else self._changed_in(item.ref.index)
        heads = [self._head(old) for old in changed]
        for head in heads:
            if head is not None:
                self.add(head, "fact")
        if item.fact and heads[0] not in self._found:
            return
        self._take(row, item, "fact" if item.fact else "turn")
        if item.fact and row in self._found and heads[0] is not None:
            self._beside[row] = heads[0]

    def add(self, row: int, kind: Kind) -> None:
        """Take a row where it fits and says something new."""
        if row not in self._found:
            self._take(row, self._items.item(row), kind)

    def _take(self, row: int, item: Item, kind: Kind) -> None:
        text = self._text(item)
        tokens = self._cost(text)
        if tokens > self._left:
            self._misses += 1
            return
        if item.until is None:
            said = meaning(item.text)
            if any(map(said.issubset, self._said)):
                return
            self._said.append(said)
        self._left -= tokens
        score = float(self._scores[row])
        self._found[row] = Recalled(item.ref, kind, text, tokens, score, item.time)

    def result(self) -> tuple[Recalled, ...]:
        """Return what was chosen as it shall stand in the prompt: pinned first, then by time.

        The newest stands last, where a model minds it most, so that an older value which nobody
        saw superseded does not stand as the last word. What was superseded stands right before
        its successor.
        """

        def place(row: int) -> tuple[bool, int, int, int]:
            beside = self._beside.get(row, row)
            one = self._found[beside]
            return one.kind != "pin", one.when, beside, row

        return tuple(self._found[row] for row in sorted(self._found, key=place))

    def _text(self, item: Item) -> str:
        day = self._day(item.time)
        if not item.fact:
            # Whose words these are the prompt says once for all.
            text = f'{day}: "{item.text}"'
            # The reply only where it was asked for: what the user said is what counts.
            if self._is_asked_for(item):
                text += f' You: "{item.extra}"'
            if item.until is not None:
                text += f" (no longer so since {self._day(item.until)})"
            return text
        if item.until is not None:
            return f"Until {self._day(item.until)}: {item.text}"
        return f"{item.text} (since {day})" if self._asks_for_time else item.text

    def _is_asked_for(self, item: Item) -> bool:
        reply = item.extra.casefold()
        if not any(word in reply for word in self._asked):
            return False  # most are not, and that is cheap to see
        found = self._asked & content(item.extra).keys()
        return bool(found) and not found <= content(item.text).keys()

    def _day(self, time: int) -> str:
        """Name a day, as exactly as it is worth its tokens: "3 May", "May 2025", "3 May 2025"."""
        # Of the calendar that both sides can compute with: no zone of the user is known here.
        date = datetime.fromtimestamp(min(time, _LAST_TIME), UTC)
        month = _MONTHS[date.month - 1]
        if self._asks_for_time:
            return f"{date.day} {month} {date.year}"
        recent = abs(self._now - time) < _RECENT_DAYS * _DAY
        return f"{date.day} {month}" if recent else f"{month} {date.year}"

    def _head(self, row: int) -> int | None:
        """Return the row of what holds instead of a fact; None where it is not in view."""
        rows = self._items.rows
        for _ in range(_LONGEST_CHAIN):
            if not rows["flags"][row] & SUPERSEDED:
                return row
            found = self._items.row(reference(rows["by_index"][row], rows["by_at"][row]))
            if found is None:
                return None
            row = found
        return None

    def _changed_in(self, turn: int) -> list[int]:
        """Return the rows of the facts from a turn that were superseded."""
        links = self._items.links
        found = links[links["turn"] == turn]
        rows = (self._items.row(reference(one["index"], one["at"])) for one in found)
        flags = self._items.rows["flags"]
        return [row for row in rows if row is not None and flags[row] & SUPERSEDED]
