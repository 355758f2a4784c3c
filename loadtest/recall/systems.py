"""Three ways to answer a question about a long history, under one budget of tokens.

- `memory`: the product's own pipeline. Turns become records, notes are taken of each as the enclave
  takes them, a view is folded, and `memory.recall` fills its share of the budget, as in a prompt;
  the newest turns take the rest.
- `last turns`: the newest turns alone, in all of the budget.
- `embeddings`: the turns whose embeddings are nearest to the question's, in all of the budget, in
  the order in which they were said. Same embedder, vectors in full precision.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from loadtest.recall.histories import History, Said
from loadtest.recall.measures import Line, Shown
from memory.facts import Learned, merge
from memory.keys import MAX_INDEX, RECEIPT_ID_BYTES, TURN_ID_BYTES
from memory.recall import Query, Recalled, recall, recall_share, recent_within
from memory.records import HEAD_BYTES, Ref, Turn
from memory.rules import rule_based
from memory.thread import Position
from memory.vectors import quantise
from memory.view import View

Vectors = npt.NDArray[np.float32]
Cost = Callable[[str], int]
Extractor = Callable[[str], Sequence[Learned]]
"""What finds facts in a message."""

EXTRACTORS: dict[str, Extractor] = {"rules": rule_based, "none": lambda message: ()}
"""A model that follows instructions finds more; none is small enough to be evaluated here."""

_EVERYTHING = 1 << 20  # of a budget, for a ranking
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DAY = re.compile(rf"^(?:\d{{1,2}} )?{_MONTH}(?: \d{{4}})?[,:]|\(since [^()]*\)$")
_OUTDATED = ("Until ", "(no longer so since ")  # how memory.recall says it


class Embedder(Protocol):
    """What is needed of `StaticEmbedder`."""

    id: bytes

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of length 1, float32 of shape (n, dim)."""
        ...


class System(Protocol):
    """One way to answer."""

    name: str

    def show(self, question: str, vector: Vectors, budget: int) -> Shown:
        """What it has for a question whose embedding is given, in `budget` tokens."""
        ...


def said(turn: Said) -> str:
    """A turn as a prompt has it, for every system."""
    return f"User: {turn.message}\nPersona: {turn.reply}"


def token_cost() -> Cost:
    """A counter of tokens: the byte-pair encoding that comes with the embedder.

    What was counted once is known: counting is the engine's work, and no part of a latency.
    """
    folder = Path(str(import_module("wordllama").__file__)).parent / "tokenizers"
    tokenizer: Any = import_module("tokenizers").Tokenizer.from_file(
        str(folder / "l2_supercat_tokenizer_config.json")
    )

    @functools.lru_cache(maxsize=1 << 17)
    def cost(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return cost


class LastTurns:
    """The newest turns alone."""

    name = "last turns"

    def __init__(self, history: History, cost: Cost) -> None:
        self._lines = [Line(said(one), frozenset({at})) for at, one in enumerate(history.turns)]
        self._cost = cost

    def show(self, question: str, vector: Vectors, budget: int) -> Shown:
        """The same for every question."""
        prompt = recent_within(self._lines, budget, lambda line: self._cost(line.text), step=1)
        return Shown(tuple(self._lines[::-1]), prompt, 0, 0)


class Embeddings:
    """The turns nearest to the question."""

    name = "embeddings"

    def __init__(self, history: History, cost: Cost, vectors: Vectors) -> None:
        self._lines = [Line(said(one), frozenset({at})) for at, one in enumerate(history.turns)]
        self._cost = cost
        self._vectors = vectors

    def show(self, question: str, vector: Vectors, budget: int) -> Shown:
        """Best first into the budget; one that does not fit leaves its room to the next."""
        ranking = np.argsort(-(self._vectors @ vector), kind="stable")
        chosen: list[int] = []
        left = budget
        for at in map(int, ranking):
            tokens = self._cost(self._lines[at].text)
            if tokens <= left:
                chosen.append(at)
                left -= tokens
            if left < _LEAST_TURN:
                break
        return Shown(
            tuple(self._lines[at] for at in ranking),
            tuple(self._lines[at] for at in sorted(chosen)),
            len(chosen),
            budget - left,
        )


_LEAST_TURN = 8  # tokens that no turn goes below


class Memory:
    """The product's pipeline over one history.

    Args:
        vectors: Embeddings of the messages.
        extract: What finds facts in a message.
    """

    name = "memory"

    def __init__(
        self,
        history: History,
        cost: Cost,
        embedder: Embedder,
        vectors: Vectors,
        extract: Extractor,
    ) -> None:
        self._cost = cost
        self._model = embedder.id
        self._now = history.now
        self.seconds: list[float] = []
        """Of each recall under a budget."""
        self._ranked: dict[str, tuple[Line, ...]] = {}
        self.view = _fold(history, embedder, vectors, extract)

    def show(self, question: str, vector: Vectors, budget: int) -> Shown:
        """Recall in its share of the budget, the newest turns in the rest."""
        turns = self.view.turns
        share = recall_share(budget, budget)
        window = recent_within(
            turns,
            budget - share,
            lambda one: self._cost(_spoken(one[1])),
            first=self.view.count - len(turns),
        )
        query = Query(question, vector, self._model, self._now)
        since = window[0][0] if window else MAX_INDEX
        began = time.perf_counter()
        recalled = recall(self.view, query, budget=share, cost=self._cost, since=since)
        self.seconds.append(time.perf_counter() - began)
        if question not in self._ranked:
            found = recall(self.view, query, budget=_EVERYTHING, cost=_no_cost, since=MAX_INDEX)
            self._ranked[question] = self._lines(sorted(found, key=lambda one: -one.score))
        return Shown(
            self._ranked[question],
            tuple(Line(_spoken(turn), frozenset({index // 2})) for index, turn in window)
            + self._lines(recalled),
            len(recalled),
            sum(one.tokens for one in recalled),
        )

    def _lines(self, recalled: Sequence[Recalled]) -> tuple[Line, ...]:
        return tuple(
            Line(
                one.text,
                self._sources(one.ref),
                recalled=True,
                dated=bool(_DAY.search(one.text)),
                outdated=any(mark in one.text for mark in _OUTDATED),
            )
            for one in recalled
        )

    def _sources(self, ref: Ref) -> frozenset[int]:
        if ref.at is None:
            return frozenset({ref.index // 2})
        links = self.view.items.links
        mine = (links["index"] == ref.index) & (links["at"] == ref.at)
        return frozenset(int(turn) // 2 for turn in links["turn"][mine])


def _fold(history: History, embedder: Embedder, vectors: Vectors, extract: Extractor) -> View:
    """Turn 0, its notes, turn 1, its notes, …: record 2n is turn n."""
    view = View(_position(0))
    for at, one in enumerate(history.turns):
        index = 2 * at
        turn = Turn(
            turn_id=index.to_bytes(TURN_ID_BYTES, "big"),
            time=one.time,
            message=one.message,
            reply=one.reply,
            outcome="completed",
            receipt_id=index.to_bytes(RECEIPT_ID_BYTES, "big"),
        )
        view = view.fold([(index, turn)], _position(index + 1))
        learned = extract(one.message)
        facts = embedder.encode([fact.text for fact in learned])
        notes = merge(
            view,
            index,
            learned,
            time=one.time,
            model=embedder.id,
            vector=quantise(vectors[at]),
            vectors=[quantise(fact) for fact in facts],
        )
        view = view.fold([(index + 1, notes)], _position(index + 2))
    return view


def _position(length: int) -> Position:
    # No chain is walked here, so there are no heads.
    return Position(length, bytes(HEAD_BYTES))


def _no_cost(text: str) -> int:
    return 0


def _spoken(turn: Turn) -> str:
    return said(Said(turn.message, turn.reply, turn.time))
