"""What the owner of a thread may see and change of its memory (docs/memory.md).

What lists, searches, explains or erases reads the whole thread, which costs as much as it is long;
a few do so at a time. What changes something has the thread to itself in this enclave, and appends
as any writer does: another enclave may come between, and then the thread is read once more.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import cbor2

from memory.errors import (
    AnsweredError,
    ConflictError,
    CorruptError,
    ForgottenError,
    InvalidInputError,
    MemoryStoreError,
    UnavailableError,
)
from memory.exports import to_json, to_markdown
from memory.facts import canonical, single_valued
from memory.forgetting import ErasurePlan, plan_erasure
from memory.keys import ThreadKeys
from memory.kinds import (
    MAX_ERASED,
    Fact,
    Notes,
    Pin,
    Record,
    Ref,
    Summary,
    Tombstone,
    Turn,
    from_fields,
)
from memory.ledger import Ledger, Memory, search
from memory.store import MAX_BATCH as MAX_APPENDED
from memory.store import ThreadStore
from memory.thread import Position
from memory.vectors import Vector, quantise
from memory.view import View
from proofs.erasure import Erasure, Scope, sign_erasure, thread_commitment
from runtime.enclave.agent import Agent
from runtime.enclave.api import ApiError
from runtime.enclave.binding import Binding
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.memory_api import (
    MAX_PLACES,
    EditRequest,
    ExportRequest,
    ForgetRecordsRequest,
    ImportRequest,
    ListRequest,
    MemoryRequest,
    PinRequest,
    RotateRequest,
    SearchRequest,
    WhyRequest,
    WriteRequest,
)
from runtime.enclave.outbox import Outbox
from runtime.sealing import seal_receipt

T = TypeVar("T")
Json = dict[str, Any]

MAX_PER_THREAD: Final = 4
"""Requests about one thread that are answered side by side."""
MAX_READING: Final = 4
"""Threads that are read whole at a time."""
MAX_READ_BYTES: Final = 256 * 2**20
"""About how much of one thread is held at once."""

_TRIES: Final = 4
_EXPORT_PIECE: Final = 32 * 1024  # characters
_NO_RECORD: Final = (
    cbor2.CBORDecodeError,
    InvalidInputError,
    TypeError,
    ValueError,
    KeyError,
    RecursionError,
)
_STATUS: Final[tuple[tuple[type[MemoryStoreError], int], ...]] = (
    (InvalidInputError, 400),
    (UnavailableError, 503),
    (MemoryStoreError, 409),
)


def refusal_of(error: MemoryStoreError) -> ApiError:
    """What a device is told of an error of memory."""
    status = next(number for kind, number in _STATUS if isinstance(error, kind))
    return ApiError(status, error.code, str(error))


class Memories:
    """Lists, searches and changes threads at their owner's request.

    Every method raises MemoryStoreError where the thread is damaged, rolled back, gone or out of
    reach, and ApiError where it refuses.

    Args:
        agent: Has the locks of threads and what is kept of them in the clear.
        store: Sealed memory.
        outbox: Where receipts of erasures go.
        embedder: Makes vectors; None where recall is by words alone.
        clock: Unix seconds.
    """

    def __init__(
        self,
        agent: Agent,
        store: ThreadStore,
        outbox: Outbox,
        embedder: Embedder | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._agent = agent
        self._store = store
        self._outbox = outbox
        self._embedder = embedder
        self._clock = clock
        self._asked: Counter[str] = Counter()
        self._reading = asyncio.Semaphore(MAX_READING)

    async def page(self, asked: ListRequest) -> Json:
        """One page of memories."""
        position, ledger = await self._read(asked)
        if asked.refs:
            chosen = [_known(ledger, ref) for ref in asked.refs]
            return self._as_page(position, ledger, chosen, len(chosen), None)
        chosen = [one for one in ledger.memories() if _wanted(one, asked)]
        total = len(chosen)
        if asked.after is not None:
            chosen = [one for one in chosen if one.ref > asked.after]
        page = chosen[: asked.limit]
        following = page[-1].ref if len(chosen) > len(page) else None
        return self._as_page(position, ledger, page, total, following)

    def _as_page(
        self,
        position: Position,
        ledger: Ledger,
        page: Sequence[Memory],
        total: int,
        following: Ref | None,
    ) -> Json:
        return {
            "position": str(position),
            "memories": [shown(one) for one in page],
            "total": total,
            "next": None if following is None else str(following),
            "erased": _places(ledger),
        }

    async def search(self, asked: SearchRequest) -> Json:
        """Memories that fit a question, best first."""
        position, ledger = await self._read(asked)
        among = [one for one in ledger.memories() if not asked.kinds or one.kind in asked.kinds]
        vector = (await self._vectors([asked.query]))[0]
        hits = await asyncio.to_thread(
            search, among, asked.query, vector=vector, model=self._model, limit=asked.limit
        )
        found = [{**shown(one), "score": round(score, 6)} for one, score in hits]
        return {"position": str(position), "memories": found, "erased": _places(ledger)}

    async def why(self, asked: WhyRequest) -> Json:
        """What stood in the prompt of a turn, and what was learned from it."""
        position, ledger = await self._read(asked)
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
        summary = None if turn.summary is None else _shown_or_gone(ledger, Ref(turn.summary))
        return {
            "position": str(position),
            "turn": shown(memory),
            "recalled": [_shown_or_gone(ledger, ref) for ref in turn.recalled],
            "window": window,
            "summary": summary,
            "lore": [one.hex() for one in turn.lore],
            "learned": learned,
            "erased": _places(ledger),
        }

    async def pin(self, asked: PinRequest) -> Json:
        """Pin a fact or a turn, or let it go."""

        async def once(keys: ThreadKeys, view: View) -> Json:
            memory, position = await self._memory(keys, view, asked.ref), view.position
            if memory.kind == "summary":
                raise ApiError(400, "invalid_request", "a summary cannot be pinned; pin a fact")
            if memory.pinned != asked.pinned:
                record = Pin(asked.ref, asked.pinned)
                position = await self._store.append(keys, position, [record])
                memory = replace(memory, pinned=asked.pinned)
            return {"position": str(position), "memory": shown(memory)}

        return await self._change(asked, once)

    async def write(self, asked: WriteRequest) -> Json:
        """Add a fact in its owner's words, unless it is there."""

        about = canonical(asked.about) or asked.about

        async def once(keys: ThreadKeys, view: View) -> Json:
            known = view.facts()
            for one in known:
                if one.text == asked.text:
                    memory = await self._memory(keys, view, one.ref)
                    return {"position": str(view.position), "memory": shown(memory)}
            old = [one for one in known if single_valued(about) and one.extra == about]
            fact = Fact(
                asked.text,
                about,
                asked.importance,
                int(self._clock()),
                supersedes=tuple(one.ref for one in old),
                pinned=asked.pinned or any(one.pinned for one in old),
            )
            return await self._append_fact(keys, view, fact)

        return await self._change(asked, once)

    async def edit(self, asked: EditRequest) -> Json:
        """Put a fact in its owner's words in the place of another."""

        async def once(keys: ThreadKeys, view: View) -> Json:
            old = await self._memory(keys, view, asked.ref)
            if old.kind != "fact":
                raise ApiError(400, "invalid_request", f"{old.ref} is no fact; only facts change")
            if old.superseded is not None:
                newer = await self._memory(keys, view, old.superseded)
                if newer.text == asked.text and not newer.sources:
                    return {"position": str(view.position), "memory": shown(newer)}
                raise ApiError(
                    409,
                    "memory_superseded",
                    f"{old.superseded} took the place of {old.ref}; edit that one",
                )
            fact = Fact(
                asked.text,
                old.about if asked.about is None else canonical(asked.about) or asked.about,
                old.importance if asked.importance is None else asked.importance,
                int(self._clock()),
                supersedes=(old.ref,),
                pinned=old.pinned,
            )
            return await self._append_fact(keys, view, fact)

        return await self._change(asked, once)

    async def _append_fact(self, keys: ThreadKeys, view: View, fact: Fact) -> Json:
        index = view.position.length
        notes = await self._embedded(Notes(None, facts=(fact,)))
        after = await self._store.append(keys, view.position, [notes])
        memory = Ledger([(index, notes)]).memories()[0]
        return {"position": str(after), "memory": shown(memory)}

    async def _memory(self, keys: ThreadKeys, view: View, ref: Ref) -> Memory:
        """A memory of this name: from the view, or where it has left that, from the thread."""
        known = _in_view(view, ref)
        return known if known is not None else _known(await self._fold(keys, view.position), ref)

    async def forget(self, asked: ForgetRecordsRequest, binding: Binding) -> Json:
        """Erase memories and what hangs together with them; or say what that would be."""
        if asked.dry_run:
            position, ledger = await self._read(asked)
            plan = await asyncio.to_thread(_planned, ledger, asked)
            told = [_shown_or_gone(ledger, one.ref) for one in plan.shown]
            mentions = [str(ref) for ref in plan.mentions]
            return {"position": str(position), "would": told, "mentions": mentions}
        request_id = bytes.fromhex(asked.request_id)

        async def once(keys: ThreadKeys, view: View) -> Json:
            position = view.position
            ledger = await self._fold(keys, position)
            done = ledger.erasure(request_id)
            if done is None:
                plan = await asyncio.to_thread(_planned, ledger, asked)
                tombstone = Tombstone(request_id, int(self._clock()), plan.refs, plan.erase)
                # What remains stands before the tombstone, where the plan says.
                records = [*plan.append, tombstone]
                position = await self._store.append(keys, position, records, erase=plan.erase)
                done = position.length - 1, tombstone
            sealed = await self._sign_records(keys, binding, ledger, *done)
            answer = {"position": str(position), "erased": list(done[1].erased)}
            return {**answer, **_receipt(keys, request_id, sealed)}

        return await self._change(asked, once)

    async def _sign_records(
        self,
        keys: ThreadKeys,
        binding: Binding,
        ledger: Ledger,
        index: int,
        tombstone: Tombstone,
    ) -> bytes:
        """The sealed receipt of the erasure whose tombstone is at `index`."""
        before, after = await self._store.place(keys, index)
        newest = ledger.turn(lambda _: True)
        erasure = await self._stated(
            keys,
            tombstone.request_id,
            binding,
            None if newest is None else newest.turn,
            scope=Scope.RECORDS,
            head=before.head,
            length=len(tombstone.erased),
            after=after.head,
        )
        return await self._hand_over(keys, tombstone.request_id, erasure, binding)

    async def export(self, asked: ExportRequest) -> AsyncIterator[Json]:
        """Events of an export: text in pieces, and a last one that says that it is whole."""
        position, ledger = await self._read(asked)
        make = to_json if asked.format == "json" else to_markdown
        text = await asyncio.to_thread(make, ledger.records.items())
        return _pieces(text, position)

    async def import_batch(self, asked: ImportRequest) -> Json:
        """Write records at their place into a thread, those that are not there yet."""
        keys = ThreadKeys(asked.thread_key)
        records = await self._embedded_all(_batch(asked))
        async with self._agent.alone(keys):
            position = (await self._store.open(keys, expected=None)).view.position
            if position.length < asked.at:
                raise ApiError(
                    409,
                    "memory_conflict",
                    f"the thread has {position.length} records, and this batch begins at "
                    f"{asked.at}; send the batches in their order",
                )
            if position.length > asked.at:
                there = await self._there(keys, position, asked.at, records)
                records = records[there:]
            for start in range(0, len(records), MAX_APPENDED):
                position = await self._append_imported(
                    keys, position, records[start : start + MAX_APPENDED]
                )
        return {"position": str(position)}

    async def _append_imported(
        self, keys: ThreadKeys, position: Position, records: Sequence[Record]
    ) -> Position:
        with contextlib.suppress(AnsweredError):
            after = await self._store.append(keys, position, records)
            if after.length == position.length + len(records):
                return after
        raise ApiError(
            409,
            "memory_present",
            "a turn of the import is in this conversation already, and would stand there twice; "
            "nothing was changed. Forget the conversation first, or import its facts alone, from "
            "Markdown",
        )

    async def _there(
        self, keys: ThreadKeys, position: Position, at: int, records: Sequence[Record]
    ) -> int:
        """How many of these records stand at their places already."""
        count = min(position.length - at, len(records))
        async for index, record in self._store.scan(keys, position=position):
            if at <= index < at + count and record != records[index - at]:
                raise ApiError(
                    409,
                    "memory_conflict",
                    f"record {index} of the thread is another than the one to be written there; "
                    "begin the import again",
                )
        return count

    async def rotate(self, asked: RotateRequest, binding: Binding) -> Json:
        """Carry a thread over to a new key: copy it, or end the old one."""
        keys, new = ThreadKeys(asked.thread_key), ThreadKeys(asked.new_thread_key)
        if keys == new:
            raise ApiError(400, "invalid_request", "the new key is the old one; make another")
        request_id = bytes.fromhex(asked.request_id)
        async with self._agent.alone(keys, erasing=True):
            if asked.step == "copy":
                return await self._copy(keys, new, _seen(asked))
            end: Position | None = None
            # One that is gone already may have ended at this very request: the store says so.
            with contextlib.suppress(ForgottenError):
                end = (await self._store.open(keys, expected=_seen(asked))).view.position
            done = await self._store.rotate(
                keys, new, request_id, copied=asked.copied, expected=end
            )
            erased, position = done.erased, done.position
            erasure_id = keys.erasure_id(request_id)
            sealed = (await self._outbox.handed_over(erasure_id.hex())).sealed
            if sealed is None:
                turns = (await self._store.open(new, expected=None)).view.turns
                erasure = await self._stated(
                    keys,
                    request_id,
                    binding,
                    turns[-1][1] if turns else None,
                    scope=Scope.ROTATION,
                    head=erased.head,
                    length=erased.length,
                    after=position.head,
                )
                sealed = await self._hand_over(keys, request_id, erasure, binding)
            return {"position": str(position), **_receipt(keys, request_id, sealed)}

    async def _copy(self, keys: ThreadKeys, new: ThreadKeys, seen: Position | None) -> Json:
        for _ in range(_TRIES):
            source = (await self._store.open(keys, expected=seen)).view.position
            try:
                copied = await self._store.copy(keys, new, source, beyond=True)
            except ConflictError:
                continue
            except CorruptError:
                await self._verify(keys, source)  # raises where it is this thread that is damaged
                raise ApiError(
                    409,
                    "memory_conflict",
                    "the thread of the new key holds something else; begin with another key",
                ) from None
            return {"copied": source.length, "position": str(copied)}
        raise ConflictError(source.length, source.length)

    async def _stated(
        self,
        keys: ThreadKeys,
        request_id: bytes,
        binding: Binding,
        last: Turn | None,
        *,
        scope: Scope,
        head: bytes | None,
        length: int,
        after: bytes,
    ) -> Erasure:
        claims = binding.identity.claims
        erasure_id = keys.erasure_id(request_id)
        previous = None if last is None else await self._outbox.digest(keys, last.receipt_id)
        return Erasure(
            erasure_id=erasure_id,
            enclave=binding.identity.bundle_digest,
            release=claims.release,
            time=int(self._clock()),
            epoch=claims.epoch,
            scope=scope,
            thread=thread_commitment(keys.erasure_salt(erasure_id), bytes.fromhex(keys.thread_id)),
            head=head,
            length=length,
            previous=previous,
            after=after,
        )

    async def _hand_over(
        self, keys: ThreadKeys, request_id: bytes, erasure: Erasure, binding: Binding
    ) -> bytes:
        """Sign an erasure, unless it was signed before, and give it to its owner and the log."""
        erasure_id = keys.erasure_id(request_id)
        sealed = (await self._outbox.handed_over(erasure_id.hex())).sealed
        if sealed is None:
            signed = sign_erasure(erasure, binding.identity.receipt_key)
            sealed = seal_receipt(keys, erasure_id, signed, os.urandom(12))
        return await self._outbox.hand_over_erasure(keys, erasure_id, sealed)

    async def _read(self, asked: MemoryRequest) -> tuple[Position, Ledger]:
        keys = ThreadKeys(asked.thread_key)
        position = (await self._store.open(keys, expected=_seen(asked))).view.position
        return position, await self._fold(keys, position)

    async def _fold(self, keys: ThreadKeys, position: Position) -> Ledger:
        """All records up to a position; nothing is relied on before the last is verified."""
        records: list[tuple[int, Record | None]] = []
        room = MAX_READ_BYTES
        async with self._reading:
            async for index, record in self._store.scan(keys, position=position):
                records.append((index, record))
                room -= _size(record)
                if room < 0:
                    raise ApiError(
                        413,
                        "memory_too_large",
                        f"this conversation takes more than {MAX_READ_BYTES} bytes, which is too "
                        "much to be looked through at once; it can be rotated, or forgotten whole",
                    )
            # Of a long thread that takes a second, in which others want to be answered.
            return await asyncio.to_thread(Ledger, records)

    async def _verify(self, keys: ThreadKeys, position: Position) -> None:
        async for _ in self._store.scan(keys, position=position):
            pass

    @contextlib.contextmanager
    def asking(self, thread_key: bytes) -> Iterator[None]:
        """Answer one request about a thread; ApiError where too many of it are not answered yet."""
        name = ThreadKeys(thread_key).thread_id
        if self._asked[name] >= MAX_PER_THREAD:
            raise ApiError(
                429,
                "too_many_requests",
                f"{MAX_PER_THREAD} requests about this memory are not answered yet; wait for one",
            )
        self._asked[name] += 1
        try:
            yield
        finally:
            self._asked[name] -= 1
            if not self._asked[name]:
                del self._asked[name]

    async def _change(
        self,
        asked: MemoryRequest,
        once: Callable[[ThreadKeys, View], Awaitable[T]],
    ) -> T:
        """Do something to a thread, once more where another writer came between."""
        keys = ThreadKeys(asked.thread_key)
        seen = _seen(asked)
        erasing = isinstance(asked, ForgetRecordsRequest)
        async with self._agent.alone(keys, erasing=erasing):
            for _ in range(_TRIES - 1):
                try:
                    return await once(keys, (await self._store.open(keys, expected=seen)).view)
                except ConflictError:
                    continue
            return await once(keys, (await self._store.open(keys, expected=seen)).view)

    @property
    def _model(self) -> bytes:
        return b"" if self._embedder is None else self._embedder.id

    async def _vectors(self, texts: Sequence[str]) -> list[Vector | None]:
        if self._embedder is None or not texts:
            return [None] * len(texts)
        return list(await self._embedder.embed(texts))

    async def _embedded(self, notes: Notes) -> Notes:
        (made,) = await self._embedded_all([notes])
        if not isinstance(made, Notes):
            raise TypeError("notes stay notes")
        return made

    async def _embedded_all(self, records: Sequence[Record]) -> list[Record]:
        """The same records; vectors of another model are made anew, where their text is here."""
        if self._embedder is None:
            return list(records)
        made: list[Record] = []
        for record in records:
            if not isinstance(record, Notes) or record.model == self._model:
                made.append(record)
                continue
            vectors = await self._vectors([fact.text for fact in record.facts])
            facts = tuple(
                replace(fact, vector=b"" if vector is None else quantise(vector))
                for fact, vector in zip(record.facts, vectors, strict=True)
            )
            made.append(replace(record, model=self._model, vector=b"", facts=facts))
        return made


def shown(memory: Memory) -> Json:
    """A memory as JSON: what has nothing to say is left out."""
    turn = memory.turn
    members: Json = {
        "ref": str(memory.ref),
        "kind": memory.kind,
        "time": memory.time,
        "text": memory.text,
        "pinned": memory.pinned,
    }
    if memory.kind == "fact":
        members |= {
            "about": memory.about,
            "importance": memory.importance,
            "sources": [str(Ref(one)) for one in memory.sources],
        }
    if memory.superseded is not None:
        members |= {"superseded_by": str(memory.superseded), "until": memory.until}
    if memory.before is not None:
        members["before"] = str(Ref(memory.before))
    if turn is not None:
        members |= {
            "reply": memory.reply,
            "outcome": turn.outcome,
            "turn_id": turn.turn_id.hex(),
            "receipt_id": turn.receipt_id.hex(),
        }
    return members


def _shown_or_gone(ledger: Ledger, ref: Ref) -> Json:
    memory = ledger.get(ref)
    return {"ref": str(ref), "forgotten": True} if memory is None else shown(memory)


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


def _size(record: Record | None) -> int:
    """About how many bytes a record takes while it is held."""
    match record:
        case Turn():
            return 1024 + 2 * (len(record.message) + len(record.reply))
        case Notes():
            facts = (512 + 2 * len(one.text) + len(one.vector) for one in record.facts)
            return 512 + len(record.vector) + sum(facts)
        case Summary():
            return 512 + 2 * len(record.text)
    return 256


def _known(ledger: Ledger, ref: Ref) -> Memory:
    memory = ledger.get(ref)
    if memory is not None:
        return memory
    if ledger.was_forgotten(ref):
        raise ApiError(
            410,
            "memory_forgotten",
            f"{ref} was forgotten. What else was remembered beside it has another reference now; "
            "list the memories",
        )
    raise ApiError(
        404, "memory_unknown", f"nothing is remembered as {ref}; list the memories to see theirs"
    )


def _wanted(memory: Memory, asked: ListRequest) -> bool:
    return (
        (not asked.kinds or memory.kind in asked.kinds)
        and (asked.superseded or memory.superseded is None)
        and (memory.pinned or not asked.pinned)
    )


def _planned(ledger: Ledger, asked: ForgetRecordsRequest) -> ErasurePlan:
    for ref in asked.refs:
        _known(ledger, ref)
    plan = plan_erasure(ledger.all_records(), asked.refs, keep_turns=asked.keep_turns)
    if len(plan.erase) > MAX_ERASED or len(plan.append) >= MAX_APPENDED:
        raise ApiError(
            400,
            "memory_invalid",
            f"{len(plan.erase)} records would go at once, and {MAX_ERASED} can, with "
            f"{MAX_APPENDED - 1} that are written anew; forget fewer memories at a time",
        )
    return plan


def _asked_turn(ledger: Ledger, asked: WhyRequest) -> Memory:
    if asked.turn is not None:
        return _known(ledger, asked.turn)
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


def _places(ledger: Ledger) -> list[int]:
    """Indexes of erased records, for devices that still hold what was said there."""
    return sorted(ledger.erased)[-MAX_PLACES:]


def _seen(asked: MemoryRequest) -> Position | None:
    return None if asked.position is None else Position.parse(asked.position)


def _receipt(keys: ThreadKeys, request_id: bytes, sealed: bytes) -> Json:
    receipt_id = keys.erasure_id(request_id).hex()
    return {"receipt_id": receipt_id, "sealed": base64.b64encode(sealed).decode()}


async def _pieces(text: str, position: Position) -> AsyncIterator[Json]:
    for start in range(0, len(text), _EXPORT_PIECE):
        piece = text[start : start + _EXPORT_PIECE]
        yield {"type": "memory.export.delta", "delta": piece}
    yield {"type": "memory.exported", "position": str(position)}


def _batch(asked: ImportRequest) -> list[Record]:
    """The records of a batch, each strictly what it should be, and pointing backwards only."""
    source = io.BytesIO(asked.records)
    records: list[Record] = []
    while source.tell() < len(asked.records):
        index = asked.at + len(records)
        record: Record | None = None
        with contextlib.suppress(*_NO_RECORD):
            number, fields = cbor2.load(source)
            record = from_fields(number, fields)
        if record is None or isinstance(record, Tombstone) or not _points_back(index, record):
            raise ApiError(
                400,
                "memory_invalid",
                f"record {index - asked.at} of the batch is none that can be imported; export "
                "the memory again",
            )
        records.append(record)
    return records


def _points_back(index: int, record: Record) -> bool:
    """Whether a record names none that comes after it."""
    match record:
        case Turn():
            named = [record.window, record.summary or 0, *(ref.index for ref in record.recalled)]
        case Notes():
            named = [record.turn or 0]
            for fact in record.facts:
                named += [*fact.sources, *(ref.index for ref in fact.supersedes)]
            named += [one for ref, turn in record.sources for one in (ref.index, turn)]
        case Summary():
            named = [record.before]
        case Pin():
            named = [record.ref.index]
        case _:
            named = []
    return max(named, default=0) <= index
