"""A person's memory, seen and changed from their device (docs/memory.md)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from memory.errors import MemoryStoreError
from memory.kinds import Record
from memory.thread import Position
from proofs.erasure import Scope
from runtime.client.carrier import StreamLostError
from runtime.client.exchange import SealedResponse
from runtime.client.forgetting import MAX_STEPS, Forgetting, too_far
from runtime.client.home import DeviceHome
from runtime.client.importing import batches, encode
from runtime.client.rows import ErasureRow
from runtime.enclave.api import to_base64url
from runtime.enclave.memory_api import (
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
from runtime.errors import Exit, SottoError
from transport.errors import TransportError
from transport.sse import EventDecoder

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=MemoryRequest)
# How often an import begins again where turns come in between.
_MOVES = 4


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an import.

    Attributes:
        records: How many were written.
        row: The receipt of the old key's end.
    """

    records: int
    row: ErasureRow


class Memories:
    """What one device asks of its memories.

    Args:
        home: Keys, places, and what was said.
        forgetting: Asks for erasures.
    """

    def __init__(self, home: DeviceHome, forgetting: Forgetting) -> None:
        self._home = home
        self._forgetting = forgetting

    async def page(self, persona: str, **wanted: Any) -> dict[str, Any]:
        """One page of memories; `wanted` are the members of `ListRequest`.

        Raises:
            SottoError: As all that follow: refused, damaged, or the system stayed away.
        """
        return await self._ask(persona, ListRequest, wanted)

    async def search(self, persona: str, query: str, **wanted: Any) -> dict[str, Any]:
        """The memories that fit a question best; `wanted` are members of `SearchRequest`."""
        return await self._ask(persona, SearchRequest, {"query": query, **wanted})

    async def why(self, persona: str, turn: str | None) -> dict[str, Any]:
        """What stood in the prompt of a turn, named by reference, turn's id or receipt's id.

        None is the last turn. An id may be cut short where this device has its receipt.
        """
        if turn is None or turn.startswith("m"):
            return await self._ask(persona, WhyRequest, {"turn": turn})
        for row in self._home.receipts():
            if row.persona == persona and row.receipt_id.startswith(turn):
                return await self._ask(persona, WhyRequest, {"receipt_id": row.receipt_id})
            if row.persona == persona and row.turn_id.startswith(turn):
                return await self._ask(persona, WhyRequest, {"turn_id": row.turn_id})
        # Of another device, perhaps.
        try:
            return await self._ask(persona, WhyRequest, {"receipt_id": turn})
        except SottoError as error:
            if error.code != "memory_unknown":
                raise
        return await self._ask(persona, WhyRequest, {"turn_id": turn})

    async def pin(self, persona: str, ref: str, *, pinned: bool = True) -> dict[str, Any]:
        """Keep a memory in every prompt, or no longer."""
        return await self._ask(persona, PinRequest, {"ref": ref, "pinned": pinned})

    async def write(self, persona: str, text: str, **wanted: Any) -> dict[str, Any]:
        """Add a fact in one's own words; `wanted` are members of `WriteRequest`."""
        return await self._ask(persona, WriteRequest, {"text": text, **wanted})

    async def edit(self, persona: str, ref: str, text: str, **wanted: Any) -> dict[str, Any]:
        """Put a fact in the place of another, which stays as what held until now."""
        return await self._ask(persona, EditRequest, {"ref": ref, "text": text, **wanted})

    async def plan(
        self, persona: str, refs: Sequence[str], *, keep_turns: bool = False
    ) -> dict[str, Any]:
        """What would go if these memories were forgotten; nothing is changed."""
        members = {"request_id": "0" * 32, "refs": list(refs), "keep_turns": keep_turns}
        return await self._ask(persona, ForgetRecordsRequest, {**members, "dry_run": True})

    async def forget(
        self, persona: str, refs: Sequence[str], *, keep_turns: bool = False
    ) -> ErasureRow:
        """Have memories erased with what hangs together with them; the receipt of it, verified.

        What was said in erased turns is forgotten on this device as well.
        """
        await self.resume(persona)
        asked = orjson.dumps({"refs": list(refs), "keep_turns": keep_turns}).decode()

        async def once(thread: int) -> ErasureRow:
            row = self._home.begin_erasure(
                persona, os.urandom(16).hex(), int(time.time()), scope=Scope.RECORDS, asked=asked
            )
            try:
                return await self._forget_records(row)
            except SottoError as error:
                if error.code in _REFUSED:
                    self._home.abandon_erasure(row)
                raise

        return await self._on_thread(persona, once)

    async def resume(self, persona: str) -> None:
        """Bring erasures of records to an end that this device began and lost the answer of."""
        for row in self._home.pending_erasures(persona, Scope.RECORDS):
            try:
                await self._forget_records(row)
            except SottoError as error:
                if error.code not in _REFUSED:
                    raise
                self._home.abandon_erasure(row)

    async def _forget_records(self, row: ErasureRow) -> ErasureRow:
        members = {"request_id": row.request_id, **orjson.loads(row.asked)}
        request = self._made(row.persona, row.thread, ForgetRecordsRequest, members)
        erasure, signed, answer = await self._forgetting.erase(row, request)
        row = self._home.finish_erasure(
            row, erasure.enclave.hex(), signed, erasure.time, places=_erased(answer)
        )
        self._learn(row.persona, row.thread, answer)
        return row

    async def export(self, persona: str, form: str) -> AsyncGenerator[str, None]:
        """All that is remembered, as text in pieces: ``json`` or ``markdown``.

        Raises:
            SottoError: As the others; also where it was cut, which its last piece shows.
        """

        async def begin(thread: int) -> SealedResponse:
            request = self._made(persona, thread, ExportRequest, {"format": form})
            keys = self._home.thread_keys(persona, thread)
            response = await self._forgetting.send(keys, request)
            if response.status != 200:
                await response.read_json()  # raises what the enclave says
            return response

        response = await self._on_thread(persona, begin)
        decoder, whole = EventDecoder(), False
        try:
            async with contextlib.aclosing(response.content()) as content:
                async for data in content:
                    for raw in decoder.feed(data):
                        event = orjson.loads(raw)
                        if "error" in event:
                            raise SottoError(event["error"]["message"], code=event["error"]["code"])
                        whole = event["type"] == "memory.exported"
                        if event["type"] == "memory.export.delta":
                            yield event["delta"]
        except (StreamLostError, TransportError) as error:
            raise SottoError(str(error), code="export_cut") from error
        if not whole:
            raise SottoError("the export ended before its end; ask again", code="export_cut")

    async def rotate(self, persona: str) -> ErasureRow:
        """Carry a thread over to a new key; the receipt of the old one's end, verified.

        Every kept record is sealed anew, so a copy of the store from before cannot be opened with
        the new key, and nothing that is said from now on with the old one.
        """
        return await self._move(persona, (), "")

    async def import_records(self, persona: str, records: Sequence[Record]) -> Imported:
        """Add what an export holds to a thread: all of it, or nothing.

        The thread's records are carried over to a new key, what is imported is written behind
        them, and only when all is there, the old thread ends. An import that fails before that
        leaves the thread as it was.

        Args:
            persona: Whose thread.
            records: As `memory.exports.from_json` has them: references are indexes into them.

        Raises:
            SottoError: Also where one record is larger than a request.
        """
        encoded = encode(records)
        digest = hashlib.sha256(b"".join(encoded)).hexdigest()
        return Imported(len(encoded), await self._move(persona, records, digest))

    async def _move(self, persona: str, records: Sequence[Record], asked: str) -> ErasureRow:
        """Copy a thread under a new key, write records behind it, and end the old thread."""
        await self.resume(persona)

        async def once(_: int) -> ErasureRow:
            row = await self._begin_rotation(persona, asked)
            try:
                return await self._carry_over(row, records)
            except SottoError as error:
                # The thread itself is as it was, and what is left of this is nobody's.
                if error.code in _REFUSED:
                    await self._forgetting.abandon(row)
                raise

        for _ in range(_MOVES - 1):
            try:
                return await self._on_thread(persona, once)
            except SottoError as error:
                # Something was said meanwhile, and belongs before what is imported.
                if error.code != "memory_conflict":
                    raise
        return await self._on_thread(persona, once)

    async def _begin_rotation(self, persona: str, asked: str) -> ErasureRow:
        now = int(time.time())
        for row in self._home.pending_erasures(persona, Scope.ROTATION):
            if row.asked != asked:
                await self._forgetting.abandon(row)
        return self._home.begin_erasure(
            persona, os.urandom(16).hex(), now, scope=Scope.ROTATION, asked=asked
        )

    async def _carry_over(self, row: ErasureRow, records: Sequence[Record]) -> ErasureRow:
        copy = self._rotation(row, "copy")
        base = int((await self._forgetting.ask(row.persona, row.thread, copy))["copied"])
        await self._write_batches(row, base, encode(records, base))
        return await self._finish_rotation(row, base if records else None)

    async def _finish_rotation(self, row: ErasureRow, copied: int | None) -> ErasureRow:
        request = self._rotation(row, "finish", copied)
        erasure, signed, answer = await self._forgetting.erase(row, request)
        position = str(answer["position"])
        return self._home.finish_erasure(
            row, erasure.enclave.hex(), signed, erasure.time, position=position
        )

    async def _write_batches(self, row: ErasureRow, base: int, records: Sequence[bytes]) -> None:
        """Write records behind the first `base` of the new thread; one that is there stays."""
        for at, batch in batches(records):
            members = {"at": base + at, "records": base64.b64encode(batch).decode()}
            await self._one(row.persona, row.following, ImportRequest, members)

    def _rotation(self, row: ErasureRow, step: str, copied: int | None = None) -> RotateRequest:
        new = self._home.thread_key(row.persona, row.following)
        members = {
            "new_thread_key": to_base64url(new),
            "request_id": row.request_id,
            "step": step,
            "copied": copied,
        }
        return self._made(row.persona, row.thread, RotateRequest, members)

    async def _ask(
        self, persona: str, kind: type[MemoryRequest], members: dict[str, Any]
    ) -> dict[str, Any]:
        """One request about the present thread, whichever that is by now."""

        async def once(thread: int) -> dict[str, Any]:
            answer = await self._one(persona, thread, kind, members)
            self._learn(persona, thread, answer)
            return answer

        return await self._on_thread(persona, once)

    async def _one(
        self, persona: str, thread: int, kind: type[MemoryRequest], members: dict[str, Any]
    ) -> dict[str, Any]:
        """One request about a thread."""
        request = self._made(persona, thread, kind, members)
        return await self._forgetting.ask(persona, thread, request)

    def _made(
        self, persona: str, thread: int, kind: type[RequestT], members: dict[str, Any]
    ) -> RequestT:
        """A request that the enclave will take: what is wrong with it is told here already."""
        key = self._home.thread_key(persona, thread)
        present = thread == self._home.thread(persona)
        whole = {
            **members,
            "thread_key": to_base64url(key),
            "position": self._home.position(persona) if present else None,
        }
        given = {name: value for name, value in whole.items() if value is not None}
        try:
            return kind.model_validate_json(orjson.dumps(given))
        except (ValidationError, TypeError) as error:
            raise _unfit(error) from None

    async def follow(self, persona: str, thread: int, error: SottoError) -> bool:
        """Whether an error says that a thread is gone for good, and this device now goes on with
        the next: after a rotation of its own whose answer was lost, or as another device wanted it.
        """
        rotated = error.code == "thread_rotated"
        begun = self._home.pending_erasures(persona, Scope.ROTATION, thread)
        for row in begun if rotated else ():
            try:
                await self._finish_rotation(row, None)
            except SottoError as refused:
                if refused.code != "thread_rotated":
                    raise
            else:
                return True
        return self._forgetting.moved_on(persona, thread, error)

    async def _on_thread(self, persona: str, once: Callable[[int], Awaitable[T]]) -> T:
        """Do something with the present thread; where that is gone for good, with the next."""
        for _ in range(MAX_STEPS):
            thread = self._home.thread(persona)
            try:
                return await once(thread)
            except SottoError as error:
                if not await self.follow(persona, thread, error):
                    raise
        raise too_far()

    def _learn(self, persona: str, thread: int, answer: dict[str, Any]) -> None:
        """Keep where the thread stands, and forget the words of turns that were erased."""
        if isinstance(position := answer.get("position"), str):
            with contextlib.suppress(MemoryStoreError):
                self._home.set_position(persona, str(Position.parse(position)), thread)
        if erased := _erased(answer):
            self._home.note_erased(persona, thread, erased)


# Where this is said, nothing was changed, and will not be, however often it is asked.
_REFUSED = frozenset(
    {
        "import_too_large",
        "invalid_request",
        "memory_conflict",
        "memory_corrupt",
        "memory_forgotten",
        "memory_invalid",
        "memory_present",
        "memory_rollback",
        "memory_unknown",
        "request_too_large",
    }
)


def _erased(answer: dict[str, Any]) -> list[int]:
    """Places of erased records that an enclave names."""
    return [one for one in answer.get("erased", ()) if isinstance(one, int)]


# By the types of pydantic's errors, of which the messages are for programmers.
_UNFIT = {
    "greater_than_equal": "the {name} is {ge} at least",
    "less_than_equal": "the {name} is {le} at most",
    "string_pattern_mismatch": "the {name} is made of small letters, such as user.dog.name",
    "string_too_long": "the {name} has {max_length} characters at most",
    "string_too_short": "the {name} is empty",
    "too_long": "{max_length} {name} at most, and these are {actual_length}",
    "too_short": "no {name} are named",
    "value_error": "{error}",
}


def _unfit(error: ValidationError | TypeError) -> SottoError:
    said = "it is not text that can be sent (it holds half a character)"
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        name, context = ".".join(map(str, first["loc"])), first.get("ctx", {})
        said = _UNFIT.get(first["type"], "{name}: {msg}").format(name=name, **{**first, **context})
    return SottoError(f"this cannot be asked: {said}", code="invalid_request", exit_code=Exit.USAGE)
