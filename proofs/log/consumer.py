"""From the Redis Stream into the log: leaves in, proofs out, nothing lost and nothing twice.

Contract. An enclave adds `id` (text) and `entry` (32 bytes) to the stream `sotto:leaves`. The
log answers in the hash `sotto:receipt:<id>`, fields `proof` (text of a c2sp.org/tlog-proof) and
`cose` (a COSE receipt of the same tree head), and announces `id` on the stream `sotto:settled`. A
leaf is acknowledged only after its proofs are stored, and the sequencer keeps an entry's place,
so a batch that is interrupted anywhere is simply done again.

One batch at a time: commit, cosign, publish, prove, settle. The stream is read only as fast as
batches settle, so what comes meanwhile waits there and makes the next batch larger.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from proofs.log.sequencer import Sequenced, Sequencer
from proofs.log.witnesses import Witnesses

_log = logging.getLogger(__name__)

LEAVES = "sotto:leaves"
SETTLED = "sotto:settled"
GROUP = "log"
# One writer, so one name: what it had taken before a crash is its own to finish.
_CONSUMER = "log"
_SETTLED_KEPT = 100_000
_MAX_ID = 128
# How long a stop may wait for a quiet stream.
_BLOCK_MS = 250
# Leaves whose proofs go to Redis in one round trip.
_SETTLE_STEP = 512
_BACKOFF_MAX_S = 5.0

_Message = tuple[bytes, dict[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the log counts."""

    entries: Counter
    malformed: Counter
    batch_seconds: Histogram
    pending: Gauge
    size: Gauge

    @classmethod
    def register(cls, registry: CollectorRegistry) -> Metrics:
        """Register all of them."""
        return cls(
            Counter("sotto_log_entries", "Leaves settled.", registry=registry),
            Counter("sotto_log_malformed", "Stream entries that are no leaf.", registry=registry),
            Histogram(
                "sotto_log_batch_seconds", "From a batch read to its proofs.", registry=registry
            ),
            Gauge("sotto_log_pending", "Leaves waiting in the stream.", registry=registry),
            Gauge("sotto_log_size", "Entries in the log.", registry=registry),
        )


@dataclass(frozen=True, slots=True)
class Consumer:
    """Feeds a sequencer from Redis.

    Attributes:
        redis: A client that answers in bytes and speaks RESP2.
        sequencer: Where leaves go.
        metrics: What is counted.
        batch_interval_s: How long a leaf waits for others, at most, before its batch is taken.
        batch_size: Most leaves of a batch; as many are taken at once.
        receipt_ttl_s: How long a proof stays in Redis.
        witnesses: Who must cosign a head before it is published; None: nobody.
    """

    redis: Redis
    sequencer: Sequencer
    metrics: Metrics
    batch_interval_s: float
    batch_size: int
    receipt_ttl_s: int
    witnesses: Witnesses | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; when Redis is away, wait and go on.

        Raises:
            LogError: The store failed. Start again; whatever was taken is taken up again.
        """
        self.metrics.size.set(self.sequencer.size)
        # Of an earlier run that ended between commit and publication.
        await self._publish(stop)
        backoff = 0.1
        while not stop.is_set():
            try:
                await self._join()
                await self._reclaim(stop)
                taken = 0.0
                while not stop.is_set():
                    messages = await self._gather(stop, taken)
                    taken = time.monotonic()
                    await self._process(messages, stop)
                    backoff = 0.1
            except (RedisError, OSError) as error:
                # Not the error's text: it may hold the server's address or password.
                _log.warning("redis away (%s), again in %.1f s", type(error).__name__, backoff)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), backoff)
                backoff = min(2 * backoff, _BACKOFF_MAX_S)

    async def _join(self) -> None:
        try:
            await self.redis.xgroup_create(LEAVES, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _reclaim(self, stop: asyncio.Event) -> None:
        """Finish what was taken and not acknowledged, by this process or one before it."""
        while not stop.is_set():
            _, messages, *_ = await self.redis.xautoclaim(
                LEAVES, GROUP, _CONSUMER, min_idle_time=0, start_id="0-0", count=self.batch_size
            )
            if not messages:
                return
            await self._process(messages, stop)

    async def _gather(self, stop: asyncio.Event, taken: float) -> list[_Message]:
        """Take what is there, wait for the batch's clock, then take what came meanwhile.

        Args:
            stop: Ends the waiting.
            taken: When the batch before was taken, by the monotonic clock: whatever is there by
                now came after it.
        """
        messages = await self._read(self.batch_size, None)
        if not messages:
            messages = await self._read(self.batch_size, _BLOCK_MS)
            taken = time.monotonic()
        left = taken + self.batch_interval_s - time.monotonic()
        if messages and len(messages) < self.batch_size and left > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), left)
            messages += await self._read(self.batch_size - len(messages), None)
        return messages

    async def _read(self, count: int, block: int | None) -> list[_Message]:
        # redis-py types every shape of every protocol; RESP2 gives pairs of stream and messages.
        streams: Any = await self.redis.xreadgroup(
            GROUP, _CONSUMER, {LEAVES: ">"}, count=count, block=block
        )
        return [message for _, messages in streams for message in messages]

    async def _process(self, messages: Sequence[_Message], stop: asyncio.Event) -> None:
        if not messages:
            return
        with self.metrics.batch_seconds.time():
            leaves = [leaf for m in messages if (leaf := self._leaf(m)) is not None]
            places = await asyncio.to_thread(self.sequencer.commit, leaves)
            if not await self._publish(stop):
                return
            settled = await asyncio.to_thread(self.sequencer.prove, places)
            await self._settle(settled)
            await self._acknowledge([stream_id for stream_id, _ in messages])
        self.metrics.entries.inc(len(settled))
        self.metrics.size.set(self.sequencer.size)
        self.metrics.pending.set(await self.redis.xlen(LEAVES))

    async def _publish(self, stop: asyncio.Event) -> bool:
        """Have the head cosigned, and serve it; False where `stop` came before the quorum."""
        if self.sequencer.is_published:
            return True
        note = self.sequencer.signed_head
        if self.witnesses is not None:
            cosigning = asyncio.create_task(
                self.witnesses.cosign(note, self.sequencer.size, self.sequencer.consistency)
            )
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({cosigning, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not cosigning.done():
                    return False
                note = cosigning.result()
            finally:
                # Not left behind: it may still read the tree in a thread.
                for task in (cosigning, stopping):
                    task.cancel()
                await asyncio.gather(cosigning, stopping, return_exceptions=True)
        await asyncio.to_thread(self.sequencer.publish, note)
        return True

    def _leaf(self, message: _Message) -> tuple[str, bytes] | None:
        stream_id, fields = message
        name, entry = fields.get(b"id", b""), fields.get(b"entry", b"")
        if len(entry) != 32 or not 0 < len(name) <= _MAX_ID or not name.isascii():
            self.metrics.malformed.inc()
            _log.warning("stream entry %s is no leaf, skipped", stream_id.decode())
            return None
        return name.decode(), entry

    async def _settle(self, settled: Sequence[Sequenced]) -> None:
        """Store the proofs and announce them."""
        for start in range(0, len(settled), _SETTLE_STEP):
            # No transaction: the keys lie in different slots of a cluster, and doing it twice is
            # harmless.
            pipeline = self.redis.pipeline(transaction=False)
            for one in settled[start : start + _SETTLE_STEP]:
                key = f"sotto:receipt:{one.id}"
                # The first proof stays: another leaf under the same id cannot take its place. And
                # it comes last: whoever sees it sees the COSE receipt too.
                pipeline.hsetnx(key, "cose", one.cose)
                pipeline.hsetnx(key, "proof", one.proof)
                pipeline.expire(key, self.receipt_ttl_s)
                pipeline.xadd(SETTLED, {"id": one.id}, maxlen=_SETTLED_KEPT, approximate=True)
            for number, answer in enumerate(await pipeline.execute(raise_on_error=False)):
                # Something else lies under that name, and always will: no reason to stand still.
                if number % 4 < 2 and str(answer).startswith("WRONGTYPE"):
                    _log.warning("a proof has no place: its key in redis is no hash, left out")
                elif isinstance(answer, RedisError):
                    raise answer

    async def _acknowledge(self, stream_ids: Sequence[bytes]) -> None:
        """Let the stream forget what is settled.

        Everything up to the last of a batch was delivered to this group in order, and what
        an earlier batch left pending was taken up first; so all before it is done.
        """
        await self.redis.xack(LEAVES, GROUP, *stream_ids)
        milliseconds, _, sequence = max(stream_ids, key=_order).decode().partition("-")
        await self.redis.xtrim(
            LEAVES, minid=f"{milliseconds}-{int(sequence) + 1}", approximate=False
        )


def _order(stream_id: bytes) -> tuple[int, ...]:
    return tuple(int(part) for part in stream_id.split(b"-"))
