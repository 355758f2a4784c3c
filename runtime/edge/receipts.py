"""Push receipts and their settlement to whoever asked for them by id.

Two streams are tailed once per process: receipts as the enclave hands them over, settlements as
the log makes them. The hash behind an id answers for the past, so an id can be asked for days
later and on any edge.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import defaultdict

import redis.asyncio
import redis.exceptions

from runtime.edge.session import Session
from runtime.redis_client import hash_fields
from runtime.streams import LEAVES_STREAM, SETTLED_STREAM, receipt_key
from runtime.telemetry import EdgeMetrics
from runtime.wire import WireError

log = logging.getLogger(__name__)

_BLOCK_MS = 1000
_BATCH = 512
MAX_SUBSCRIPTIONS = 4096


class ReceiptDesk:
    """Subscriptions of this edge's sessions.

    Args:
        client: Redis; only read.
        metrics: Counters.
    """

    def __init__(self, client: redis.asyncio.Redis, metrics: EdgeMetrics) -> None:
        self._redis = client
        self._metrics = metrics
        self._waiting: defaultdict[str, set[Session]] = defaultdict(set)

    async def subscribe(self, session: Session, receipt_ids: list[str]) -> None:
        """Push what is known of each id now, and the rest when it comes."""
        if len(session.subscriptions) + len(receipt_ids) > MAX_SUBSCRIPTIONS:
            raise WireError(
                f"a session waits for at most {MAX_SUBSCRIPTIONS} receipts",
                code="too_many_receipts",
            )
        for receipt_id in receipt_ids:
            session.subscriptions[receipt_id] = set()
            self._waiting[receipt_id].add(session)
        for receipt_id in receipt_ids:
            await self._look_up(receipt_id, (session,))

    def forget(self, session: Session) -> None:
        """Drop a session's subscriptions."""
        for receipt_id in list(session.subscriptions):
            self._unsubscribe(receipt_id, session)

    async def run(self) -> None:
        """Tail both streams until cancelled; Redis being away delays, and loses nothing."""
        places: dict[bytes | str | memoryview, int | bytes | str | memoryview] = {}
        while True:
            try:
                # "$" would skip what comes between two reads, so the place is fixed once.
                for name in (LEAVES_STREAM, SETTLED_STREAM):
                    if name not in places:
                        places[name] = await self._end(name)
                answer = await self._redis.xread(places, count=_BATCH, block=_BLOCK_MS)
            except (redis.exceptions.RedisError, OSError) as error:
                log.warning("receipts wait: %s", type(error).__name__)
                await asyncio.sleep(1.0)
                # What came meanwhile is found by id: everyone who waits is looked up again.
                await self._look_up_all()
                continue
            for name, entries in _streams(answer):
                for entry_id, fields in entries:
                    places[name] = entry_id
                    receipt_id = fields.get(b"id", b"").decode("ascii", "replace")
                    if sessions := self._waiting.get(receipt_id):
                        await self._look_up(receipt_id, tuple(sessions))

    async def _end(self, name: str) -> bytes | str:
        newest = await self._redis.xrevrange(name, count=1)
        return newest[0][0] or "0-0" if newest else "0-0"

    async def _look_up_all(self) -> None:
        for receipt_id in list(self._waiting):
            if sessions := self._waiting.get(receipt_id):
                await self._look_up(receipt_id, tuple(sessions))

    async def _look_up(self, receipt_id: str, sessions: tuple[Session, ...]) -> None:
        try:
            sealed, proof, cose = await hash_fields(
                self._redis, receipt_key(receipt_id), "sealed", "proof", "cose"
            )
        except (redis.exceptions.RedisError, OSError) as error:
            log.warning("receipt lookup waits: %s", type(error).__name__)
            return
        for session in sessions:
            try:
                self._push(session, receipt_id, sealed, proof, cose)
            except WireError:
                self._unsubscribe(receipt_id, session)

    def _push(
        self,
        session: Session,
        receipt_id: str,
        sealed: bytes | None,
        proof: bytes | None,
        cose: bytes | None,
    ) -> None:
        if sealed is not None and session.first_push(receipt_id, "receipt"):
            text = base64.b64encode(sealed).decode()
            session.push({"type": "response.receipt", "receipt_id": receipt_id, "sealed": text})
            self._metrics.receipts.labels("receipt").inc()
        if sealed is not None and proof is not None:
            if session.first_push(receipt_id, "settled"):
                event: dict[str, object] = {
                    "type": "response.settled",
                    "receipt_id": receipt_id,
                    "proof": proof.decode("utf-8", "replace"),
                }
                if cose is not None:  # a log of an earlier version makes none
                    event["cose"] = base64.b64encode(cose).decode()
                session.push(event)
                self._metrics.receipts.labels("settled").inc()
            self._unsubscribe(receipt_id, session)

    def _unsubscribe(self, receipt_id: str, session: Session) -> None:
        session.subscriptions.pop(receipt_id, None)
        if (waiting := self._waiting.get(receipt_id)) is not None:
            waiting.discard(session)
            if not waiting:
                del self._waiting[receipt_id]


def _streams(answer: object) -> list[tuple[str, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """One shape for XREAD's answer: RESP3 gives a map of batches, RESP2 a list of pairs."""
    if not answer:
        return []
    if isinstance(answer, dict):
        pairs = [
            (name, [e for batch in batches for e in batch]) for name, batches in answer.items()
        ]
    elif isinstance(answer, list):
        pairs = [(name, entries) for name, entries in answer]
    else:
        return []
    return [(bytes(name).decode(), entries) for name, entries in pairs]
