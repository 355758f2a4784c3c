"""After the reply: facts, embeddings, summaries and the sealed state, in the background.

Nothing here stands before an answer. What an enclave leaves undone, because it died, was busy or
stopped, the next turn of the thread makes good for: a turn without notes says so by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from memory.errors import ConflictError, ForgottenError, MemoryStoreError
from memory.extraction import (
    EXTRACTION_SCHEMA,
    extraction_messages,
    parse_extraction,
    parse_summary,
    summary_messages,
)
from memory.facts import Learned, merge
from memory.items import Item
from memory.keys import ThreadKeys
from memory.recall import Query, recall
from memory.records import NONCE_BYTES, Record, Summary, Turn
from memory.rules import rule_based
from memory.store import STATE_EVERY, ThreadStore
from memory.thread import Position
from memory.vectors import quantise
from memory.view import View
from personas.model import MemoryPolicy
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.engines.base import Engine, EngineError, Message, Sampling
from runtime.enclave.generation import log_defect
from runtime.enclave.prompt import WINDOW_STEP, cost_of
from runtime.enclave.views import Views
from runtime.telemetry import MemoryMetrics

log = logging.getLogger(__name__)

AT_ONCE = 2
CAPACITY = 1024
# Of turns that were left without notes; the rest is for the turns after.
_TURNS_AT_ONCE = 8
_TRIES = 8
# A summary covers turns before they leave the view, which holds 64.
_SUMMARISED_FROM = 48
_MOST_SUMMARISED = 32
# How long the engine is left to those who wait for an answer.
_PATIENCE_S = 5.0
_LOOK_EVERY_S = 0.02
_ASK_S = 120.0
_FACTS_TOKENS = 512
_SUMMARY_TOKENS = 400
_KNOWN_BUDGET = 1200
_SCHEMA = orjson.dumps(EXTRACTION_SCHEMA).decode()


@dataclass(frozen=True, slots=True, repr=False)
class Job:
    """A turn was answered: what its thread is to remember of it.

    Attributes:
        keys: The thread's.
        policy: The persona's.
        position: Where the thread ended after the turn.
        window: Index of the first record whose turn stood in its prompt.
    """

    keys: ThreadKeys
    policy: MemoryPolicy
    position: Position
    window: int


class Remembering:
    """Takes notes of turns, a few threads at a time and one job of a thread after the other.

    Args:
        engine: Started engine; asked for facts and summaries if it follows instructions.
        store: Sealed memory.
        views: Open views, of which the newest is kept.
        metrics: Counters.
        embedder: Makes vectors; None for recall by words alone.
        at_once: Threads at a time.
        capacity: Threads that may wait; further ones are left to their next turn.
    """

    def __init__(
        self,
        engine: Engine,
        store: ThreadStore,
        views: Views,
        metrics: MemoryMetrics,
        *,
        embedder: Embedder | None = None,
        at_once: int = AT_ONCE,
        capacity: int = CAPACITY,
    ) -> None:
        self.views = views
        self.metrics = metrics
        self.embedder = embedder
        self._engine = engine
        self._store = store
        self._at_once = at_once
        self._capacity = capacity
        self._waiting: OrderedDict[str, Job] = OrderedDict()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        metrics.pending.set_function(self.pending)
        metrics.views.set_function(lambda: len(views))

    def pending(self) -> int:
        """Threads whose notes are not made yet (a gauge)."""
        return len(self._waiting) + len(self._running)

    def put(self, job: Job) -> None:
        """A turn was answered. Never blocks, and of a thread only the newest job counts."""
        if self._closed:
            return
        if job.keys.thread_id not in self._waiting and len(self._waiting) >= self._capacity:
            self.metrics.notes.labels("left").inc()
            return
        self._waiting[job.keys.thread_id] = job
        self._quiet.clear()
        self._begin()

    async def forget(self, keys: ThreadKeys) -> None:
        """Let go of a thread; when this returns, nothing of it is written any more."""
        self._waiting.pop(keys.thread_id, None)
        if (task := self._running.get(keys.thread_id)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.views.drop(keys)

    async def settled(self) -> None:
        """Wait until nothing is left to do."""
        await self._quiet.wait()

    async def close(self, grace_s: float) -> None:
        """Take no more, let what is begun end within the grace, and leave the rest."""
        self._closed = True
        self._waiting.clear()
        if tasks := list(self._running.values()):
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self) -> None:
        """Start what may start: one job of a thread at a time."""
        for thread_id in list(self._waiting):
            if len(self._running) >= self._at_once:
                break
            if thread_id not in self._running:
                job = self._waiting.pop(thread_id)
                task = self._running[thread_id] = asyncio.create_task(self._run(job))
                task.add_done_callback(functools.partial(self._end, thread_id))
        if not self._running and not self._waiting:
            self._quiet.set()

    def _end(self, thread_id: str, _: asyncio.Task[None]) -> None:
        del self._running[thread_id]
        self._begin()

    async def _run(self, job: Job) -> None:
        started = time.perf_counter()
        outcome = "failed"
        try:
            await self._remember(job)
            outcome = "made"
        except ForgottenError:
            outcome = "forgotten"
        except (MemoryStoreError, EngineError, TimeoutError) as error:
            # The next turn of the thread tries again.
            log.warning("notes were not made: %s", type(error).__name__)
        except Exception as error:
            log_defect("remembering", error)
        finally:
            self.metrics.notes.labels(outcome).inc()
            self.metrics.remembering.observe(time.perf_counter() - started)

    async def _remember(self, job: Job) -> None:
        cached = self.views.get(job.keys)
        opened = await self._store.open(job.keys, expected=job.position, cached=cached)
        view = opened.view
        if job.policy.facts or job.policy.recall:
            for index, turn in view.unnoted()[:_TURNS_AT_ONCE]:
                view = await self._note(job, view, index, turn)
        if job.policy.summary and self._engine.instructable:
            view = await self._summarise(job, view)
        self.views.put(job.keys, view)
        view.items.spread()  # so that the next turn need not wait for it
        if view.position.length - opened.covered >= STATE_EVERY:
            await self._store.save_state(job.keys, view, nonce=os.urandom(NONCE_BYTES))

    async def _note(self, job: Job, view: View, index: int, turn: Turn) -> View:
        """Append the notes of one turn, unless somebody else did."""
        erased = view.erased
        learned = await self._learn(job, view, index, turn)
        model, vectors = await self._vectors([turn.message, *(one.text for one in learned)])
        for _ in range(_TRIES):
            # By another replica; or the turn was erased, or what its facts were understood by: then
            # the next turn has it noted anew.
            if index not in view.pending or view.erased != erased:
                return view
            notes = merge(
                view,
                index,
                learned,
                time=turn.time,
                model=model,
                vector=vectors[0],
                vectors=vectors[1:],
            )
            if (next_view := await self._append(job.keys, view, notes)) is not None:
                self.metrics.facts.inc(len(notes.facts))
                return next_view
            view = await self._reopen(job.keys, view)
        raise ConflictError(view.position.length, view.position.length)

    async def _learn(self, job: Job, view: View, index: int, turn: Turn) -> list[Learned]:
        if not job.policy.facts:
            return []
        if not self._engine.instructable:
            return rule_based(turn.message)
        before = next((one.reply for at, one in reversed(view.turns) if at < index), "")
        known = _near(view, turn)
        asked = extraction_messages(turn.message, before, known)
        sampling = Sampling(temperature=0, max_tokens=_FACTS_TOKENS, json_schema=_SCHEMA)
        answer = await self._ask(job.keys, asked, sampling)
        if answer is None:
            return rule_based(turn.message)
        return parse_extraction(answer, turn.message, known)

    async def _vectors(self, texts: Sequence[str]) -> tuple[bytes, list[bytes]]:
        """The embedding model's id and a vector for each text; nothing where there is no model."""
        if self.embedder is None:
            return b"", [b""] * len(texts)
        found = await self.embedder.embed(texts)
        return self.embedder.id, [quantise(one) for one in found]

    async def _summarise(self, job: Job, view: View) -> View:
        """Append a summary where enough turns lie before the window, or will leave the view."""
        told = view.summary[1] if view.summary is not None else None
        limit = job.window
        if len(view.turns) > _SUMMARISED_FROM:
            limit = max(limit, view.turns[-_SUMMARISED_FROM][0])
        begin = told.before if told is not None else 0
        outside = [(at, one) for at, one in view.turns if begin <= at < limit]
        outside = outside[:_MOST_SUMMARISED]
        if len(outside) < WINDOW_STEP:
            return view
        said = [one for _, one in outside if one.reply]
        asked = summary_messages(told.text if told is not None else "", said)
        answer = await self._ask(
            job.keys, asked, Sampling(temperature=0, max_tokens=_SUMMARY_TOKENS)
        )
        text = parse_summary(answer) if answer is not None else ""
        if not text:
            return view
        summary = Summary(text, outside[-1][0] + 1, int(time.time()))
        known = view.summary
        for _ in range(_TRIES):
            if view.summary != known or any(at in view.erased for at, _ in outside):
                return view  # another one came between, or something in it was forgotten
            if (next_view := await self._append(job.keys, view, summary)) is not None:
                self.metrics.summaries.inc()
                return next_view
            view = await self._reopen(job.keys, view)
        raise ConflictError(view.position.length, view.position.length)

    async def _append(self, keys: ThreadKeys, view: View, record: Record) -> View | None:
        """The view with the record; None where another writer came first."""
        try:
            position = await self._store.append(keys, view.position, [record])
        except ConflictError:
            return None
        return view.fold([(view.position.length, record)], position)

    async def _reopen(self, keys: ThreadKeys, view: View) -> View:
        return (await self._store.open(keys, expected=view.position, cached=view)).view

    async def _ask(
        self, keys: ThreadKeys, asked: Sequence[tuple[str, str]], sampling: Sampling
    ) -> str | None:
        """The model's answer; None where it cannot read the question."""
        messages = [Message("system" if role == "system" else "user", text) for role, text in asked]
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        # Polled: engines have no event for it, and nobody waits here.
        while self._engine.queued() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        try:
            if self._engine.count_tokens(messages) + sampling.max_tokens > (
                self._engine.context_tokens
            ):
                return None
            stream = self._engine.stream(
                os.urandom(12).hex(), messages, sampling, cache_salt=keys.cache_salt
            )
            async with asyncio.timeout(_ASK_S), contextlib.aclosing(stream):
                return "".join([delta.text async for delta in stream])
        except EngineError as error:
            if error.code in ("invalid_messages", "prompt_too_long"):
                return None
            raise


def _near(view: View, turn: Turn) -> list[Item]:
    """Facts that hold and that a turn may have changed."""
    query = Query(turn.message, None, b"", turn.time)
    found = recall(view, query, budget=_KNOWN_BUDGET, cost=cost_of, since=view.position.length)
    items = (view.find(one.ref) for one in found if one.ref.at is not None)
    return [one for one in items if one is not None and one.until is None]
