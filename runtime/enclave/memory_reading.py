"""What the owner of a thread may see of its memory: lists, searches, explanations, exports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from memory.exports import to_json
from memory.kinds import Ref, Turn
from memory.ledger import Ledger, Memory, search
from memory.markdown import to_markdown
from memory.thread import Position
from runtime.enclave.api import ApiError
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.memory_api import ExportRequest, ListRequest, SearchRequest, WhyRequest
from runtime.enclave.memory_json import Json, shown, shown_or_gone, with_erased
from runtime.enclave.memory_threads import Threads, known

_EXPORT_PIECE: Final = 32 * 1024  # characters


class Reader:
    """Answers what changes nothing. Errors are those of `Threads`.

    Args:
        threads: The way to them.
        embedder: Makes vectors; None where recall is by words alone.
    """

    def __init__(self, threads: Threads, embedder: Embedder | None) -> None:
        self._threads = threads
        self._embedder = embedder

    async def page(self, asked: ListRequest) -> Json:
        """One page of memories."""
        position, ledger = await self._threads.read(asked)
        following = None
        if asked.refs:
            page = [known(ledger, ref) for ref in asked.refs]
            total = len(page)
        else:
            chosen = [one for one in ledger.memories() if _wanted(one, asked)]
            total = len(chosen)
            if asked.after is not None:
                # A page may end with a memory that is forgotten before the next is asked for.
                if not ledger.was_forgotten(asked.after):
                    known(ledger, asked.after)
                chosen = [one for one in chosen if one.ref > asked.after]
            page = chosen[: asked.limit]
            following = str(page[-1].ref) if len(chosen) > len(page) else None
        members = {"memories": [shown(one) for one in page], "total": total, "next": following}
        return with_erased(position, ledger, members)

    async def search(self, asked: SearchRequest) -> Json:
        """Memories that fit a question, best first."""
        position, ledger = await self._threads.read(asked)
        among = [one for one in ledger.memories() if not asked.kinds or one.kind in asked.kinds]
        vector, model = None, b""
        if self._embedder is not None:
            (vector,), model = await self._embedder.embed([asked.query]), self._embedder.id
        hits = await asyncio.to_thread(
            search, among, asked.query, vector=vector, model=model, limit=asked.limit
        )
        found = [{**shown(one), "score": round(score, 6)} for one, score in hits]
        return with_erased(position, ledger, {"memories": found})

    async def why(self, asked: WhyRequest) -> Json:
        """What stood in the prompt of a turn, and what was learned from it."""
        position, ledger = await self._threads.read(asked)
        memory = _asked_turn(ledger, asked)
        turn = memory.turn
        if turn is None:
            raise ApiError(400, "invalid_request", f"{memory.ref} is no turn; name a turn")
        index = memory.ref.index
        window = [
            str(one.ref)
            for one in ledger.memories()
            if one.kind == "turn" and turn.window <= one.ref.index < index
        ]
        learned = [
            shown(one) for one in ledger.memories() if one.kind == "fact" and index in one.sources
        ]
        summary = None if turn.summary is None else shown_or_gone(ledger, Ref(turn.summary))
        members = {
            "turn": shown(memory),
            "recalled": [shown_or_gone(ledger, ref) for ref in turn.recalled],
            "window": window,
            "summary": summary,
            "lore": [one.hex() for one in turn.lore],
            "learned": learned,
        }
        return with_erased(position, ledger, members)

    async def export(self, asked: ExportRequest) -> AsyncIterator[Json]:
        """Events of an export: text in pieces, and a last one that says that it is whole."""
        position, ledger = await self._threads.read(asked)
        if asked.format == "json":
            text = await asyncio.to_thread(to_json, ledger.records.items())
        else:
            text = await asyncio.to_thread(to_markdown, ledger.memories())
        return _pieces(text, position)


def _wanted(memory: Memory, asked: ListRequest) -> bool:
    return (
        (not asked.kinds or memory.kind in asked.kinds)
        and (asked.superseded or memory.superseded is None)
        and (memory.pinned or not asked.pinned)
    )


def _asked_turn(ledger: Ledger, asked: WhyRequest) -> Memory:
    if asked.turn is not None:
        return known(ledger, asked.turn)
    found = ledger.turn(lambda turn: _names(turn, asked))
    if found is not None:
        return found
    what = "no turn yet" if asked.turn_id is None and asked.receipt_id is None else "no such turn"
    raise ApiError(
        404,
        "memory_unknown",
        f"there is {what} in this thread, or it was forgotten; list its turns",
    )


def _names(turn: Turn, asked: WhyRequest) -> bool:
    if asked.turn_id is not None:
        return turn.turn_id.hex() == asked.turn_id
    return asked.receipt_id is None or turn.receipt_id.hex() == asked.receipt_id


async def _pieces(text: str, position: Position) -> AsyncIterator[Json]:
    for start in range(0, len(text), _EXPORT_PIECE):
        piece = text[start : start + _EXPORT_PIECE]
        yield {"type": "memory.export.delta", "delta": piece}
    yield {"type": "memory.exported", "position": str(position)}
