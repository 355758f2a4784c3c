"""The persona agent: open memory, build the prompt, stream the reply, remember, then prove.

Order is the contract (docs/architecture.md): the reply streams as it is made, the turn is in
sealed memory before ``response.completed``, and receipt and notes come after.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import redis.exceptions

from memory.errors import (
    ConflictError,
    CorruptError,
    ForgottenError,
    MemoryStoreError,
    RollbackError,
    RotatedError,
)
from memory.keys import ThreadKeys
from memory.kinds import MAX_LINKS
from memory.recall import Query, Recalled, recall
from memory.records import Turn
from memory.store import Opened, ThreadStore
from memory.thread import Answered, Position
from memory.view import View
from personas.model import Persona
from proofs.erasure import Erasure
from proofs.receipt import Outcome
from runtime.enclave.api import ApiError, error_object
from runtime.enclave.binding import Binding
from runtime.enclave.embedding.base import Vectors
from runtime.enclave.engines.base import Engine, EngineError, FinishReason, Sampling
from runtime.enclave.generation import Generation, log_defect
from runtime.enclave.knowledge import Library
from runtime.enclave.outbox import Outbox, ReceiptJob
from runtime.enclave.places import Places
from runtime.enclave.prompt import (
    Cost,
    Prompt,
    PromptTooLongError,
    Scene,
    build_prompt,
    match_scene,
)
from runtime.enclave.remembering import Job, Remembering
from runtime.enclave.turns import KEEP_FINISHED, KEEP_FINISHED_S, RunningTurn, TurnCall, TurnTable
from runtime.enclave.views import Views
from runtime.telemetry import EnclaveMetrics

# They are answered one after the other; a person sends few at once.
MAX_TURNS_PER_THREAD = 4
_APPEND_TRIES = 4


class Agent:
    """Runs turns: at most one at a time in a thread, many threads side by side.

    Args:
        engine: Started engine.
        store: Sealed memory.
        outbox: Where receipts go after the last token.
        metrics: Counters.
        places: How many replies may be in the making at once.
        remembering: Takes notes after the answer; None remembers turns alone.
        debug: Put the built prompt into ``response.created``, sealed for the device. The
            attestation evidence of such an enclave says DEBUG.
    """

    def __init__(
        self,
        engine: Engine,
        store: ThreadStore,
        outbox: Outbox,
        metrics: EnclaveMetrics,
        *,
        places: Places,
        remembering: Remembering | None = None,
        debug: bool = False,
    ) -> None:
        self._engine = engine
        self._store = store
        self._outbox = outbox
        self._metrics = metrics
        self._places = places
        self._remembering = remembering
        self._views = remembering.views if remembering is not None else Views()
        self._embedder = remembering.embedder if remembering is not None else None
        self._documents = Library(self._embedder)
        self._debug = debug
        self._table = TurnTable()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Erasures by thread and request's id: those that run, and receipts of those that just ran.
        self._erasing: dict[tuple[str, bytes], asyncio.Task[bytes]] = {}
        self._erased: dict[tuple[str, bytes], bytes] = {}

    def submit(self, call: TurnCall) -> RunningTurn:
        """Start a turn, or listen to the one that has this id.

        Raises:
            ApiError: Too many turns, no room for receipts, the thread is being forgotten, or the
                enclave is stopping.
        """
        if any(thread_id == call.keys.thread_id for thread_id, _ in self._erasing):
            raise ApiError(409, "thread_forgotten", "this thread is being forgotten")
        if turn := self._table.get(call.keys, call.turn_id):
            return turn
        if self._table.count(call.keys) >= MAX_TURNS_PER_THREAD:
            raise ApiError(
                429,
                "too_many_turns",
                f"{MAX_TURNS_PER_THREAD} turns of this thread are not answered yet; wait for one",
            )
        self._places.enter()
        turn = RunningTurn(call, Generation(self._engine, self._metrics))
        self._table.add(turn)
        turn.task = asyncio.create_task(self._run(turn))
        # Not in the task itself: one that is cancelled before its first step runs no line of it.
        turn.task.add_done_callback(lambda _: self._places.leave())
        return turn

    async def cancel(self, keys: ThreadKeys, turn_id: bytes) -> bool:
        """Stop a running turn; what was said so far is kept. False where none runs."""
        turn = self._table.get(keys, turn_id)
        if turn is None or turn.finished:
            return False
        await turn.generation.cancel()
        return True

    async def forget(self, keys: ThreadKeys, request_id: bytes, binding: Binding) -> bytes:
        """Erase a thread: no turn that runs here writes after it. The same id is one erasure.

        Returns:
            The receipt, sealed for the thread's owner, when it is handed over to the log.

        Raises:
            ApiError: There is no place for it, the store is away, or the enclave is stopping.
        """
        key = (keys.thread_id, request_id)
        if (known := self._erased.get(key)) is not None:
            return known
        task = self._erasing.get(key)
        if task is None:
            self._places.enter()
            task = self._erasing[key] = asyncio.create_task(self._erase(keys, request_id, binding))
            task.add_done_callback(lambda done: self._keep_erasure(key, done))
        try:
            # Whoever asked may leave; what is begun is brought to its receipt.
            return await asyncio.shield(task)
        except RotatedError as error:
            raise ApiError(409, error.code, str(error)) from None
        except (MemoryStoreError, redis.exceptions.RedisError, OSError):
            raise ApiError(
                503, "memory_unavailable", "the store is away; ask again under the same id"
            ) from None

    def _keep_erasure(self, key: tuple[str, bytes], task: asyncio.Task[bytes]) -> None:
        """As for turns: told again from here for a while, and from Redis after that."""
        self._places.leave()
        del self._erasing[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._erased[key] = task.result()
        asyncio.get_running_loop().call_later(KEEP_FINISHED_S, self._erased.pop, key, None)
        if len(self._erased) > KEEP_FINISHED:
            self._erased.pop(next(iter(self._erased)))

    async def _erase(self, keys: ThreadKeys, request_id: bytes, binding: Binding) -> bytes:
        for turn in self._table.of_thread(keys):
            await turn.generation.cancel()
        async with self._locks.setdefault(keys.thread_id, asyncio.Lock()):
            return await self._outbox.erasure_receipt(
                keys,
                request_id,
                binding.identity.receipt_key,
                lambda _: self._erased_now(keys, request_id, binding),
            )

    async def _erased_now(self, keys: ThreadKeys, request_id: bytes, binding: Binding) -> Erasure:
        """Erase; what there is to sign of it."""
        previous = None
        if self._remembering is not None:
            await self._remembering.forget(keys)
        try:
            opened = await self._store.open(keys, expected=None, cached=self._views.get(keys))
            previous = await self._previous_receipt(keys, opened.view)
        except (CorruptError, ForgottenError, RollbackError):
            pass  # what cannot be read can still be forgotten
        erased = await self._store.forget(keys, request_id)
        self._table.forget(keys)
        self._views.drop(keys)
        return binding.erasure(keys, keys.erasure_id(request_id), erased, previous)

    @contextlib.asynccontextmanager
    async def alone(self, keys: ThreadKeys, *, erasing: bool = False) -> AsyncIterator[None]:
        """Have a thread to oneself in this enclave, after the turn that runs.

        With `erasing`, no notes are taken meanwhile either, and what is kept of the thread in the
        clear is dropped at the end.
        """
        async with self._locks.setdefault(keys.thread_id, asyncio.Lock()):
            if erasing and self._remembering is not None:
                await self._remembering.forget(keys)
            try:
                yield
            finally:
                if erasing:
                    self._table.forget(keys)
                    self._views.drop(keys)

    async def close(self, grace_s: float) -> None:
        """Let running turns end within the grace, then stop them; `Places` refuses new ones."""
        tasks: list[asyncio.Task[Any]] = [
            *(turn.task for turn in self._table.running() if turn.task is not None),
            *self._erasing.values(),
        ]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._documents.close()

    async def _run(self, turn: RunningTurn) -> None:
        lock = self._locks.setdefault(turn.call.keys.thread_id, asyncio.Lock())
        try:
            async with lock:
                await self._answer(turn)
        except MemoryStoreError as error:
            self._fail(turn, error.code, str(error), None)
        except asyncio.CancelledError:
            self._fail(turn, "stopping", "the enclave stopped; send the same turn again", None)
            raise
        except Exception as error:
            log_defect("turn", error)
            self._fail(turn, "internal", "the enclave failed; its operator has the place", None)
        finally:
            # A failed turn changed nothing, so the same id may try again; of an incognito one
            # nothing is kept.
            keep = turn.outcome != "response.failed" and not turn.call.incognito
            self._table.finish(turn, keep=keep)

    async def _answer(self, turn: RunningTurn) -> None:
        call = turn.call
        opened, vector = await self._open(call)
        if opened.answered is not None:
            # A turn that is in memory is not generated again.
            self._replay(turn, opened.answered)
            return
        view = opened.view
        try:
            prompt = await self._prompt(call, view, vector)
        except PromptTooLongError:
            self._fail(
                turn,
                "prompt_too_long",
                f"the message does not fit the model's window of {self._engine.context_tokens} "
                "tokens; shorten it",
                view,
            )
            return
        except EngineError as error:
            self._fail(turn, error.code, str(error), view)
            return
        receipt_id = os.urandom(16)
        sampling = _sampling(call.persona, prompt)
        shown: dict[str, Any] = {"notice": self._engine.notice} if self._engine.notice else {}
        if self._debug:
            shown["prompt"] = [asdict(message) for message in prompt.messages]
            shown["parts"] = [asdict(part) for part in prompt.parts]
        self._created(turn, receipt_id, **shown)
        reply = turn.generation
        try:
            await reply.run(
                prompt,
                sampling,
                call.own_keys.cache_salt,
                lambda text: turn.emit({"type": "response.output_text.delta", "delta": text}),
            )
        except EngineError as error:
            self._fail(turn, error.code, str(error), view, receipt_id)
            return
        cancelled = reply.finish is FinishReason.CANCELLED
        record = _record(call, prompt, reply, receipt_id, cancelled=cancelled)
        if call.incognito:
            place = Answered(record, view.position, view.position)
        else:
            place = await self._append(call, view, record)
        turn.emit(_ended(place, prompt, reply, len(view.erased)))
        self._metrics.turns.labels(self._engine.name, record.outcome).inc()
        self._prove(call, place, sampling)
        if self._remembering is not None and not call.incognito:
            policy, window = call.persona.memory, prompt.window
            self._remembering.put(Job(call.keys, policy, place.after, window))

    async def _open(self, call: TurnCall) -> tuple[Opened, Vectors | None]:
        """The thread and the message's embedding, side by side."""
        started = time.perf_counter()
        cached = self._views.get(call.keys)
        opened, vector = await asyncio.gather(
            self._store.open(
                call.keys,
                expected=_position(call.request.position),
                turn_id=None if call.incognito else call.turn_id,
                cached=cached,
            ),
            self._embed(call),
        )
        if not call.incognito:
            self._views.put(call.keys, opened.view)
        if self._remembering is not None:
            warm = "warm" if cached is not None else "cold"
            self._remembering.metrics.opening.labels(warm).observe(time.perf_counter() - started)
        return opened, vector

    async def _embed(self, call: TurnCall) -> Vectors | None:
        """The message's vector; None without an embedder, or where it broke."""
        if self._embedder is None or not call.persona.memory.recall:
            return None
        try:
            (vector,) = await self._embedder.embed([call.request.message])
        except EngineError as error:
            # Memory is found by its words then.
            log_defect("embedding", error)
            return None
        return np.asarray(vector)

    async def _prompt(self, call: TurnCall, view: View, vector: Vectors | None) -> Prompt:
        request, persona = call.request, call.persona
        documents = await self._documents.base(persona) if persona.knowledge else None
        model = self._embedder.id if self._embedder is not None else b""
        query = Query(request.message, vector, model, int(time.time()))

        def recalled(budget: int, cost: Cost, since: int) -> tuple[Recalled, ...]:
            return recall(view, query, budget=budget, cost=cost, since=since)

        scene = Scene(
            persona,
            request.message,
            turns=view.turns,
            count=view.count,
            length=view.position.length,
            summary=view.summary,
            said=request.incognito.said if request.incognito is not None else (),
            user=request.user or "",
            greeting=request.greeting,
            woken=view.lore,
            recall=recalled,
            look_up=None
            if documents is None
            else lambda budget, cost: documents.look_up(request.message, vector, budget, cost),
            seed=bytes.fromhex(call.keys.thread_id),
            costs=self._views.costs(call.keys),
        )
        prompt = build_prompt(await match_scene(scene), self._engine, detail=self._debug)
        if self._remembering is not None:
            self._remembering.metrics.recalled.inc(len(prompt.recalled))
        return prompt

    async def _previous_receipt(self, keys: ThreadKeys, view: View) -> bytes | None:
        if not view.turns:
            return None
        return await self._outbox.digest(keys, view.turns[-1][1].receipt_id)

    def _created(self, turn: RunningTurn, receipt_id: bytes, **more: Any) -> None:
        """The first event of every turn that is answered."""
        turn.emit(
            {
                "type": "response.created",
                "turn_id": turn.call.request.turn_id,
                "receipt_id": receipt_id.hex(),
                "engine": self._engine.name,
                "model": self._engine.model,
                **more,
            }
        )

    async def _append(self, call: TurnCall, view: View, record: Turn) -> Answered:
        """Append where the thread ends now; notes or another device's turn may have come between.

        The turn before this one may be another by then, and so may its receipt.
        """
        for left in reversed(range(_APPEND_TRIES)):
            previous = await self._previous_receipt(call.keys, view)
            record = replace(record, receipt_digest=previous)
            try:
                after = await self._store.append(call.keys, view.position, [record])
            except ConflictError:
                if not left:
                    raise
                opened = await self._store.open(call.keys, expected=view.position, cached=view)
                view = opened.view
            else:
                break
        if after.length == view.position.length + 1:
            # Not where it had been appended before, and the acknowledgement was lost.
            self._views.put(call.keys, view.fold([(view.position.length, record)], after))
        return Answered(record, view.position, after)

    def _replay(self, turn: RunningTurn, place: Answered) -> None:
        """Answer a turn that is already in memory: the same reply, no second generation."""
        record = place.turn
        self._created(turn, record.receipt_id, replayed=True)
        turn.emit({"type": "response.output_text.delta", "delta": record.reply})
        turn.emit(
            {
                "type": f"response.{record.outcome}",
                "turn_id": turn.call.request.turn_id,
                "receipt_id": record.receipt_id.hex(),
                "replayed": True,
                "position": str(place.after),
            }
        )
        # An enclave that died between answer and receipt left none: this one makes good for it.
        self._prove(turn.call, place, None, again=True)

    def _fail(
        self,
        turn: RunningTurn,
        code: str,
        message: str,
        view: View | None,
        receipt_id: bytes | None = None,
    ) -> None:
        """Tell the device, change no memory, and still leave a receipt."""
        if turn.finished:
            return  # the device has its answer; what broke after it is in the log
        receipt_id = receipt_id or os.urandom(16)
        turn.emit(
            {
                "type": "response.failed",
                "turn_id": turn.call.request.turn_id,
                "receipt_id": receipt_id.hex(),
                "error": error_object(code, message),
            }
        )
        self._metrics.turns.labels(self._engine.name, Outcome.FAILED.value).inc()
        record = Turn(
            turn_id=turn.call.turn_id,
            time=int(time.time()),
            message=turn.call.request.message,
            reply="",
            outcome=Outcome.FAILED.value,
            receipt_id=receipt_id,
        )
        place = view.position if view is not None else Position.genesis(turn.call.keys)
        self._prove(turn.call, Answered(record, place, place), None)

    def _prove(
        self, call: TurnCall, place: Answered, sampling: Sampling | None, *, again: bool = False
    ) -> None:
        """Queue the receipt; nothing here waits."""
        record = place.turn
        receipt = call.binding.receipt(
            record.receipt_id,
            persona=bytes.fromhex(call.request.persona.digest),
            request=record.message.encode(),
            response=record.reply,
            sampling=sampling,
            outcome=Outcome(record.outcome),
            ended=record.time,
            head_before=place.before.head if place.before.length else None,
            head_after=place.after.head if place.after.length else None,
            turn_index=place.before.length,
            previous=record.receipt_digest,
        )
        # No receipt names one of a turn that memory does not hold.
        chained = record.outcome != Outcome.FAILED.value and not call.incognito
        self._outbox.put(
            ReceiptJob(receipt, call.binding.identity.receipt_key, call.own_keys, again, chained)
        )


def _record(
    call: TurnCall, prompt: Prompt, reply: Generation, receipt_id: bytes, *, cancelled: bool
) -> Turn:
    """The turn for memory, without the receipt before it."""
    return Turn(
        turn_id=call.turn_id,
        time=int(time.time()),
        message=call.request.message,
        reply=reply.text,
        outcome=(Outcome.CANCELLED if cancelled else Outcome.COMPLETED).value,
        receipt_id=receipt_id,
        recalled=tuple(one.ref for one in prompt.recalled)[:MAX_LINKS],
        window=prompt.window,
        summary=prompt.summary,
        lore=prompt.lore[:MAX_LINKS],
    )


def _ended(place: Answered, prompt: Prompt, reply: Generation, erased: int) -> dict[str, Any]:
    """The last event of a turn that is in memory now."""
    return {
        "type": f"response.{place.turn.outcome}",
        "turn_id": place.turn.turn_id.hex(),
        "receipt_id": place.turn.receipt_id.hex(),
        "position": str(place.after),
        "erased": erased,
        "finish_reason": reply.finish.value,
        "usage": {
            "prompt_tokens": prompt.tokens,
            "completion_tokens": reply.tokens,
            "remembered_turns": prompt.remembered,
            "recalled": len(prompt.recalled),
        },
    }


def _position(text: str | None) -> Position | None:
    return None if text is None else Position.parse(text)


def _sampling(persona: Persona, prompt: Prompt) -> Sampling:
    return Sampling(
        temperature=persona.sampling.temperature,
        top_p=persona.sampling.top_p,
        max_tokens=prompt.max_reply_tokens,
    )
