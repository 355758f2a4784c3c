"""What the owner of a thread may change of its memory without erasing: pin, write, edit."""

from __future__ import annotations

import time
from dataclasses import replace

from memory.facts import canonical, single_valued
from memory.keys import ThreadKeys
from memory.kinds import Fact, Notes, Pin, Ref
from memory.ledger import Ledger, Memory
from memory.thread import Position
from memory.view import View
from runtime.enclave.api import ApiError
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.memory_api import EditRequest, PinRequest, WriteRequest
from runtime.enclave.memory_json import Json, shown
from runtime.enclave.memory_threads import Threads, known
from runtime.enclave.memory_vectors import embedded


class Editor:
    """Changes what is remembered in its owner's words. Errors are those of `Threads`.

    Args:
        threads: The way to them.
        embedder: Makes vectors; None where recall is by words alone.
    """

    def __init__(self, threads: Threads, embedder: Embedder | None) -> None:
        self._threads = threads
        self._embedder = embedder

    async def pin(self, asked: PinRequest) -> Json:
        """Pin a fact that holds, or a turn, or let it go."""

        async def once(keys: ThreadKeys, view: View) -> Json:
            memory, position = await self._memory(keys, view, asked.ref), view.position
            if memory.kind == "summary":
                raise ApiError(400, "invalid_request", "a summary cannot be pinned; pin a fact")
            if asked.pinned and memory.superseded is not None:
                raise _superseded(memory, "pin")
            if memory.pinned != asked.pinned:
                record = Pin(asked.ref, asked.pinned)
                position = await self._threads.store.append(keys, position, [record])
                memory = replace(memory, pinned=asked.pinned)
            return _answer(position, memory)

        return await self._threads.change(asked, once)

    async def write(self, asked: WriteRequest) -> Json:
        """Add a fact in its owner's words, unless it is there."""

        about = canonical(asked.about) or asked.about

        async def once(keys: ThreadKeys, view: View) -> Json:
            known = view.facts()
            for one in known:
                if one.text == asked.text:
                    memory = await self._memory(keys, view, one.ref)
                    return _answer(view.position, memory)
            old = [one for one in known if single_valued(about) and one.extra == about]
            fact = Fact(
                asked.text,
                about,
                asked.importance,
                int(time.time()),
                supersedes=tuple(one.ref for one in old),
                pinned=asked.pinned or any(one.pinned for one in old),
            )
            return await self._append_fact(keys, view, fact)

        return await self._threads.change(asked, once)

    async def edit(self, asked: EditRequest) -> Json:
        """Put a fact in its owner's words in the place of another."""

        async def once(keys: ThreadKeys, view: View) -> Json:
            old = await self._memory(keys, view, asked.ref)
            if old.kind != "fact":
                raise ApiError(400, "invalid_request", f"{old.ref} is no fact; only facts change")
            if old.superseded is not None:
                newer = await self._memory(keys, view, old.superseded)
                if newer.text == asked.text and not newer.sources:
                    return _answer(view.position, newer)
                raise _superseded(old, "edit")
            fact = Fact(
                asked.text,
                old.about if asked.about is None else canonical(asked.about) or asked.about,
                old.importance if asked.importance is None else asked.importance,
                int(time.time()),
                supersedes=(old.ref,),
                pinned=old.pinned,
            )
            return await self._append_fact(keys, view, fact)

        return await self._threads.change(asked, once)

    async def _append_fact(self, keys: ThreadKeys, view: View, fact: Fact) -> Json:
        index = view.position.length
        notes = await embedded(self._embedder, Notes(None, facts=(fact,)))
        after = await self._threads.store.append(keys, view.position, [notes])
        return _answer(after, Ledger([(index, notes)]).memories()[0])

    async def _memory(self, keys: ThreadKeys, view: View, ref: Ref) -> Memory:
        """A memory of this name: from the view, or where it has left that, from the thread."""
        held = _in_view(view, ref)
        return held or known(await self._threads.fold(keys, view.position), ref)


def _superseded(old: Memory, what: str) -> ApiError:
    return ApiError(
        409, "memory_superseded", f"{old.superseded} took the place of {old.ref}; {what} that one"
    )


def _answer(position: Position, memory: Memory) -> Json:
    return {"position": str(position), "memory": shown(memory)}


def _in_view(view: View, ref: Ref) -> Memory | None:
    """A fact or a turn as the ledger would show it; None where the view does not have all of it."""
    item = view.find(ref)
    if item is None:
        return None
    if not item.fact:
        turn = next((one for index, one in view.turns if Ref(index) == ref), None)
        if turn is None:
            return None
        said = Memory(ref, "turn", turn.time, turn.message, turn.reply, turn=turn)
        return replace(said, pinned=item.pinned)
    return Memory(
        ref,
        "fact",
        item.time,
        item.text,
        about=item.extra,
        importance=item.importance,
        sources=view.sources(ref),
        pinned=item.pinned,
        superseded=item.superseded_by,
        until=item.until,
    )
