"""Vectors of facts that somebody wrote or imported."""

from __future__ import annotations

from dataclasses import replace

from memory.kinds import Notes
from memory.vectors import quantise
from runtime.enclave.embedding.base import Embedder


async def embedded(embedder: Embedder | None, notes: Notes) -> Notes:
    """The same notes; vectors of another model are made anew, where their text is here."""
    if embedder is None or notes.model == embedder.id:
        return notes
    texts = [fact.text for fact in notes.facts]
    vectors = await embedder.embed(texts) if texts else ()
    facts = tuple(
        replace(fact, vector=quantise(vector))
        for fact, vector in zip(notes.facts, vectors, strict=True)
    )
    return replace(notes, model=embedder.id, vector=b"", facts=facts)
