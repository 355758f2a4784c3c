"""What the owner of a thread may have erased: some memories, or, with a rotation, the old key."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time

from memory.errors import ConflictError, CorruptError, ForgottenError
from memory.forgetting import ErasurePlan, plan_erasure
from memory.keys import ThreadKeys
from memory.kinds import Tombstone, Turn
from memory.ledger import Ledger
from memory.store import MAX_BATCH as MAX_APPENDED
from memory.thread import Erased, Position
from memory.view import View
from proofs.erasure import Erasure, Scope
from runtime.enclave.api import ApiError
from runtime.enclave.binding import Binding
from runtime.enclave.memory_api import ForgetRecordsRequest, RotateRequest
from runtime.enclave.memory_json import Json, shown_or_gone
from runtime.enclave.memory_threads import TRIES, Threads, known
from runtime.enclave.outbox import Outbox


class Eraser:
    """Erases, and signs that it did. Errors are those of `Threads`.

    Args:
        threads: The way to them.
        outbox: Where receipts of erasures go.
    """

    def __init__(self, threads: Threads, outbox: Outbox) -> None:
        self._threads = threads
        self._outbox = outbox

    async def forget(self, asked: ForgetRecordsRequest, binding: Binding) -> Json:
        """Erase memories and what hangs together with them; or say what that would be."""
        if asked.dry_run:
            position, ledger = await self._threads.read(asked)
            plan = await asyncio.to_thread(_planned, ledger, asked)
            told = [shown_or_gone(ledger, one.ref) for one in plan.shown]
            mentions = [str(ref) for ref in plan.mentions]
            return {"position": str(position), "would": told, "mentions": mentions}
        request_id = bytes.fromhex(asked.request_id)

        async def once(keys: ThreadKeys, view: View) -> Json:
            position = view.position
            ledger = await self._threads.fold(keys, position)
            done = ledger.erasure(request_id)
            if done is None:
                plan = await asyncio.to_thread(_planned, ledger, asked)
                tombstone = Tombstone(request_id, int(time.time()), plan.refs, plan.erase)
                # What remains stands before the tombstone, where the plan says.
                records = [*plan.append, tombstone]
                position = await self._threads.store.append(
                    keys, position, records, erase=plan.erase
                )
                done = position.length - 1, tombstone
            sealed = await self._sign_records(keys, binding, ledger, *done)
            answer = {"position": str(position), "erased": list(done[1].erased)}
            return {**answer, **_receipt(keys, request_id, sealed)}

        return await self._threads.change(asked, once, erasing=True)

    async def _sign_records(
        self,
        keys: ThreadKeys,
        binding: Binding,
        ledger: Ledger,
        index: int,
        tombstone: Tombstone,
    ) -> bytes:
        """The sealed receipt of the erasure whose tombstone is at `index`."""

        async def stated(erasure_id: bytes) -> Erasure:
            before, after = await self._threads.store.place(keys, index)
            newest = ledger.turn(lambda _: True)
            return binding.erasure(
                keys,
                erasure_id,
                Erased(len(tombstone.erased), before.head),
                await self._previous(keys, None if newest is None else newest.turn),
                scope=Scope.RECORDS,
                after=after.head,
            )

        return await self._outbox.erasure_receipt(
            keys, tombstone.request_id, binding.identity.receipt_key, stated
        )

    async def rotate(self, asked: RotateRequest, binding: Binding) -> Json:
        """Carry a thread over to a new key: copy it, or end the old one."""
        keys, new = ThreadKeys(asked.thread_key), ThreadKeys(asked.new_thread_key)
        if keys == new:
            raise ApiError(400, "invalid_request", "the new key is the old one; make another")
        request_id = bytes.fromhex(asked.request_id)
        async with self._threads.alone(keys, erasing=True):
            if asked.step == "copy":
                return await self._copy(keys, new, asked)
            end: Position | None = None
            # One that is gone already may have ended at this very request: the store says so.
            with contextlib.suppress(ForgottenError):
                end = await self._threads.position(keys, asked)
            done = await self._threads.store.rotate(
                keys, new, request_id, copied=asked.copied, expected=end
            )

            async def stated(erasure_id: bytes) -> Erasure:
                turns = (await self._threads.store.open(new, expected=None)).view.turns
                return binding.erasure(
                    keys,
                    erasure_id,
                    done.erased,
                    await self._previous(keys, turns[-1][1] if turns else None),
                    scope=Scope.ROTATION,
                    after=done.position.head,
                )

            sealed = await self._outbox.erasure_receipt(
                keys, request_id, binding.identity.receipt_key, stated
            )
        return {"position": str(done.position), **_receipt(keys, request_id, sealed)}

    async def _previous(self, keys: ThreadKeys, last: Turn | None) -> bytes | None:
        """Digest of the receipt of the thread's last turn."""
        return None if last is None else await self._outbox.digest(keys, last.receipt_id)

    async def _copy(self, keys: ThreadKeys, new: ThreadKeys, asked: RotateRequest) -> Json:
        for _ in range(TRIES):
            source = await self._threads.position(keys, asked)
            try:
                copied = await self._threads.store.copy(keys, new, source, beyond=True)
            except ConflictError:
                continue
            except CorruptError:
                async for _ in self._threads.store.scan(keys, position=source):
                    pass  # raises where it is this thread that is damaged
                raise ApiError(
                    409,
                    "memory_conflict",
                    "the thread of the new key holds something else; begin with another key",
                ) from None
            return {"copied": source.length, "position": str(copied)}
        raise ConflictError(source.length, source.length)


def _planned(ledger: Ledger, asked: ForgetRecordsRequest) -> ErasurePlan:
    for ref in asked.refs:
        known(ledger, ref)
    plan = plan_erasure(ledger.all_records(), asked.refs, keep_turns=asked.keep_turns)
    if len(plan.append) >= MAX_APPENDED:
        raise ApiError(
            400,
            "memory_invalid",
            f"of {len(plan.erase)} records, {len(plan.append)} would be written anew, and "
            f"{MAX_APPENDED - 1} can at once; forget fewer memories at a time",
        )
    return plan


def _receipt(keys: ThreadKeys, request_id: bytes, sealed: bytes) -> Json:
    receipt_id = keys.erasure_id(request_id).hex()
    return {"receipt_id": receipt_id, "sealed": base64.b64encode(sealed).decode()}
