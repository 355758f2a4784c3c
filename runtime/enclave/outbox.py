"""The proof path: receipts are built, signed, sealed and handed over after the last token.

Nothing here stands between a person and an answer. If Redis is away the outbox waits and
tries again; the turn was answered and stays answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import redis.asyncio
import redis.exceptions
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from memory.keys import ThreadKeys
from proofs.erasure import Erasure, erasure_entry, sign_erasure
from proofs.receipt import Receipt, receipt_entry, sign_receipt
from runtime.errors import SottoError
from runtime.redis_client import hash_fields
from runtime.sealing import open_receipt, seal_receipt
from runtime.streams import LEAVES_STREAM, receipt_key

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_FIRST_S = 0.1
_RETRY_MOST_S = 5.0
# Waiting for a proof is worth this long; settled receipts get the log's own expiry.
UNSETTLED_TTL_S = 30 * 86400
# More unsigned receipts than this means that Redis has been away for long under load.
CAPACITY = 100_000
_NEWEST_KEPT = 10_000


@dataclass(frozen=True, slots=True, repr=False)
class ReceiptJob:
    """A finished turn's receipt, not yet signed, and the keys that seal it for its owner.

    Attributes:
        again: The turn was answered before: hand its receipt over only where it was lost.
        chained: A later receipt under the same keys will name this one.
    """

    receipt: Receipt
    signer: Ed25519PrivateKey
    keys: ThreadKeys
    again: bool = False
    chained: bool = True


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What Redis has of a receipt; each part None where it is not there (yet).

    Attributes:
        sealed: The receipt, for its owner.
        proof: The log's tlog-proof.
        cose: The log's COSE receipt (RFC 9942).
    """

    sealed: bytes | None
    proof: bytes | None
    cose: bytes | None


class Outbox:
    """Hands receipts to the log through a Redis Stream, in order, at least once.

    Args:
        client: Redis; the only keys written are the receipt's hash and the leaves' stream.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._jobs: asyncio.Queue[ReceiptJob] = asyncio.Queue(maxsize=CAPACITY)
        self._busy = False
        # Newest receipt of a thread, so that the next one can name it without a read.
        self._newest: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        # What waits, by receipt id: a thread's next turn may end before its last receipt is out.
        self._waiting: dict[bytes, ReceiptJob] = {}
        self.on_issued: Callable[[], None] = lambda: None

    def has_room(self, receipts: int) -> bool:
        """Whether that many more fit; if not, the enclave refuses turns until Redis is back."""
        return self._jobs.qsize() + receipts <= CAPACITY

    def pending(self) -> int:
        """Receipts not yet handed over."""
        return self._jobs.qsize() + int(self._busy)

    def put(self, job: ReceiptJob) -> None:
        """Queue one receipt; never blocks. `has_room` was asked before the turn began."""
        self._jobs.put_nowait(job)
        if job.chained and not job.again:
            self._waiting[job.receipt.receipt_id] = job

    async def run(self) -> None:
        """Hand receipts over until cancelled."""
        task = asyncio.current_task()
        # redis-py can swallow a cancellation under load, and the stop would wait for ever.
        while task is None or not task.cancelling():
            job = await self._jobs.get()
            self._busy = True
            try:
                await self._hand_over(job)
            finally:
                self._busy = False
                self._waiting.pop(job.receipt.receipt_id, None)
            self.on_issued()

    async def drain(self, timeout_s: float) -> int:
        """Wait until all is handed over or the time is up; returns what is still pending."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        # Only on the way down, for half a second: not worth an event of its own.
        while self.pending() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return self.pending()

    async def digest(self, keys: ThreadKeys, receipt_id: bytes) -> bytes | None:
        """Digest of a thread's earlier receipt, for the next one to name.

        None where it is not to be had any more: it expired, or was lost with its enclave. The
        memory chain, not this link, is what proves that no turn is missing.
        """
        known = self._newest.get(keys.thread_id)
        if known is not None and known[0] == receipt_id:
            return known[1]
        job = self._waiting.get(receipt_id)
        if job is not None and job.keys == keys:
            # Signed once more when its turn comes, to the same bytes (RFC 8032 section 5.1.6).
            return _digest(sign_receipt(job.receipt, job.signer))
        try:
            (sealed,) = await hash_fields(self._redis, receipt_key(receipt_id.hex()), "sealed")
            found = sealed and open_receipt(keys, receipt_id, sealed)
        except (redis.exceptions.RedisError, OSError, SottoError):
            return None
        return _digest(found) if found else None

    async def handed_over(self, receipt_id: str) -> HandedOver:
        """What is there of a receipt.

        Raises:
            redis.exceptions.RedisError, OSError: Redis is away.
        """
        return HandedOver(
            *await hash_fields(self._redis, receipt_key(receipt_id), "sealed", "proof", "cose")
        )

    async def erasure_receipt(
        self,
        keys: ThreadKeys,
        request_id: bytes,
        signer: Ed25519PrivateKey,
        state: Callable[[bytes], Awaitable[Erasure]],
    ) -> bytes:
        """The sealed receipt of an erasure, handed over to the log.

        Args:
            keys: Of the thread.
            request_id: The same one is one erasure, and has one receipt.
            signer: The enclave's receipt key.
            state: What there is to sign, by the erasure's id; not asked where it was signed before,
                perhaps by an enclave that died then, or another.
        """
        erasure_id = keys.erasure_id(request_id)
        sealed = (await self.handed_over(erasure_id.hex())).sealed
        if sealed is None:
            signed = sign_erasure(await state(erasure_id), signer)
            sealed = seal_receipt(keys, erasure_id, signed, os.urandom(12))
        return await self.hand_over_erasure(keys, erasure_id, sealed)

    async def hand_over_erasure(self, keys: ThreadKeys, erasure_id: bytes, sealed: bytes) -> bytes:
        """Give a sealed erasure receipt to its owner and to the log at once, however long Redis is
        away.

        Returns the first one under this id: another replica may have made one at the same time.
        """
        key = receipt_key(erasure_id.hex())

        async def first() -> bytes:
            async with self._redis.pipeline(transaction=False) as batch:
                batch.hsetnx(key, "sealed", sealed)
                batch.hget(key, "sealed")
                _, kept = await batch.execute()
            return bytes(kept)

        kept = await patiently(first, erasure_id.hex())
        entry = erasure_entry(open_receipt(keys, erasure_id, kept))
        await append_leaf(self._redis, erasure_id.hex(), entry, kept)
        self.on_issued()
        return kept

    async def _hand_over(self, job: ReceiptJob) -> None:
        receipt_id = job.receipt.receipt_id
        if job.again and await self._is_there(receipt_id):
            return
        cose = sign_receipt(job.receipt, job.signer)
        if job.chained:
            self._newest[job.keys.thread_id] = (receipt_id, _digest(cose))
            while len(self._newest) > _NEWEST_KEPT:
                self._newest.popitem(last=False)
        sealed = seal_receipt(job.keys, receipt_id, cose, os.urandom(12))
        await append_leaf(self._redis, receipt_id.hex(), receipt_entry(cose), sealed)

    async def _is_there(self, receipt_id: bytes) -> bool:
        # No guess while Redis is away: a second receipt beside the first one's proof looks forged.
        key = receipt_key(receipt_id.hex())
        return bool(await patiently(lambda: self._redis.hexists(key, "sealed"), receipt_id.hex()))


def _digest(cose: bytes) -> bytes:
    """What a receipt names as `previous`: SHA-256 of the signed receipt before it."""
    return hashlib.sha256(cose).digest()


async def append_leaf(
    client: redis.asyncio.Redis, identifier: str, entry: bytes, sealed: bytes | None
) -> None:
    """Give the log one entry, however long Redis is away.

    The hash is written before the stream entry, so that whoever reads the entry finds it. A
    repeat after a lost answer is harmless: the log takes each entry once.
    """

    async def append() -> None:
        async with client.pipeline(transaction=False) as batch:
            if sealed is not None:
                key = receipt_key(identifier)
                batch.hset(key, mapping={"sealed": sealed})
                batch.expire(key, UNSETTLED_TTL_S)
            batch.xadd(LEAVES_STREAM, {"id": identifier, "entry": entry})
            await batch.execute()

    await patiently(append, identifier)


async def patiently(call: Callable[[], Awaitable[T]], identifier: str) -> T:
    """What Redis answers, however long it is away; `identifier` for the log."""
    delay = _RETRY_FIRST_S
    while True:
        try:
            return await call()
        except (redis.exceptions.RedisError, OSError) as error:
            log.warning("redis is away (%s); entry %s waits", type(error).__name__, identifier)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_MOST_S)
