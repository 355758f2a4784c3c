"""Passages of a persona's documents that have to do with a message: by meaning and by words.

A document is cut at its paragraphs. A passage counts where its embedding lies near the message's or
where it shares its rarer words; nothing here understands tables, code or other structure.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from memory.words import Terms, terms
from personas.model import Knowledge, Persona
from runtime.enclave.embedding.base import Embedder, Vectors
from runtime.enclave.engines.base import EngineError
from runtime.enclave.generation import log_defect

PASSAGE_CHARACTERS = 700
MAX_PASSAGES = 4096
"""Of one persona; what follows is never found."""
_BASES = 32
# How long a turn waits for documents that nobody has asked about yet.
_PATIENCE_S = 0.05
_FLOOR = 0.25
_BREAK = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?…。！？])\s+")


@dataclass(frozen=True, slots=True)
class Base:
    """Passages in order, with their vectors (n, dim; none: 0 columns) and words."""

    passages: tuple[str, ...] = field(repr=False)
    vectors: Vectors = field(repr=False)
    words: tuple[Terms, ...] = field(repr=False)

    def look_up(
        self, message: str, vector: Vectors | None, budget: int, cost: Callable[[str], int]
    ) -> list[str]:
        """The passages that fit best, the best first, worth `budget` tokens by `cost`."""
        scores = self._scores(message, vector)
        found = []
        for at in np.argsort(-scores, kind="stable"):
            if scores[at] < _FLOOR:
                break
            tokens = cost(self.passages[at])
            if tokens <= budget:
                budget -= tokens
                found.append(self.passages[at])
        return found

    def _scores(self, message: str, vector: Vectors | None) -> Vectors:
        asked = terms(message)
        # A message may have no words that say anything.
        shape = (len(self.words), len(asked))
        shared = np.array([np.isin(asked, own) for own in self.words]).reshape(shape)
        rarity = np.log1p(len(self.words) / (1 + shared.sum(axis=0)))
        by_words = shared @ rarity / max(float(rarity.sum()), 1e-9)
        if vector is None or self.vectors.shape[1] != len(vector):
            return np.asarray(by_words, dtype=np.float32)
        near = np.clip(self.vectors @ vector, 0, 1)
        return np.asarray((by_words + near) / 2, dtype=np.float32)


class Library:
    """Documents of personas that are spoken to, made ready once and kept for a while.

    Args:
        embedder: Makes vectors; None for words alone.
    """

    def __init__(self, embedder: Embedder | None) -> None:
        self._embedder = embedder
        self._bases: OrderedDict[int, tuple[Persona, asyncio.Task[Base]]] = OrderedDict()

    async def base(self, persona: Persona, patience_s: float | None = _PATIENCE_S) -> Base | None:
        """A persona's documents; None where it has none, or they are not ready in time.

        A turn does not wait: they are there for the next one.
        """
        if not persona.knowledge:
            return None
        known = self._bases.get(id(persona))
        if known is None:
            task = asyncio.create_task(self._make(persona.knowledge))
            # The persona is held too, so that no other gets its address.
            known = self._bases[id(persona)] = (persona, task)
            while len(self._bases) > _BASES:
                self._bases.popitem(last=False)
        await asyncio.wait({known[1]}, timeout=patience_s)
        return known[1].result() if known[1].done() else None

    async def close(self) -> None:
        """Stop making documents ready."""
        tasks = [task for _, task in self._bases.values()]
        self._bases.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, documents: Sequence[Knowledge]) -> Base:
        found = await asyncio.to_thread(passages, documents)
        words = await asyncio.to_thread(lambda: tuple(map(terms, found)))
        vectors = np.zeros((len(found), 0), dtype=np.float32)
        if self._embedder is not None:
            try:
                vectors = await self._embedder.embed(found)
            except EngineError as error:
                log_defect("embedding of documents", error)
        return Base(tuple(found), vectors, words)


def passages(documents: Sequence[Knowledge]) -> list[str]:
    """Cut documents at paragraphs, and long paragraphs at sentences; each names its document."""
    found: list[str] = []
    for document in documents:
        kept = ""
        for paragraph in _BREAK.split(document.text):
            for piece in _pieces(" ".join(paragraph.split())):
                if kept and len(kept) + len(piece) > PASSAGE_CHARACTERS:
                    found.append(f"{document.name}: {kept}")
                    kept = ""
                kept = f"{kept} {piece}".strip()
        if kept:
            found.append(f"{document.name}: {kept}")
        if len(found) >= MAX_PASSAGES:
            break
    return found[:MAX_PASSAGES]


def _pieces(paragraph: str) -> list[str]:
    if len(paragraph) <= PASSAGE_CHARACTERS:
        return [paragraph] if paragraph else []
    return [
        sentence[start : start + PASSAGE_CHARACTERS]
        for sentence in _SENTENCE.split(paragraph)
        for start in range(0, len(sentence), PASSAGE_CHARACTERS)
    ]
