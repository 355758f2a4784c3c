"""Steps of published personas in the transparency log: each behind its claim, in one breath."""

from __future__ import annotations

import asyncio
import time

import redis.asyncio
import redis.exceptions

from personas.authorship import SignedStep, claim_entry
from personas.errors import RegistryError
from personas.registry import Proofs, Registry
from runtime.redis_client import hash_fields
from runtime.streams import LEAVES_STREAM, receipt_key

_POLL_S = 0.05
_ASK_AGAIN_S = 30.0
_MOST_ASKED = 4_096
# Directly after each other: a step counts only behind its claim, so that there is one for it.
_APPEND = (
    "redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'entry', ARGV[2])\n"
    "redis.call('XADD', KEYS[1], '*', 'id', ARGV[3], 'entry', ARGV[4])\n"
)


class StepLog:
    """Brings steps into the log and fetches their proofs.

    Args:
        client: Redis, between this enclave and the log.
        registry: Where proofs are kept.
    """

    def __init__(self, client: redis.asyncio.Redis, registry: Registry) -> None:
        self._redis = client
        self._registry = registry
        self._asked: dict[bytes, float] = {}

    async def prove(self, signed: SignedStep, wait_s: float) -> Proofs | None:
        """A step's proofs, kept; None where the log has not answered in time, or Redis is away."""
        try:
            return await self._prove(signed, wait_s)
        except (redis.exceptions.RedisError, RegistryError, OSError):
            # It was taken; whoever reads the handle later asks for the proofs again.
            return None

    async def _prove(self, signed: SignedStep, wait_s: float) -> Proofs | None:
        step = signed.step
        claim, entry = claim_entry(step.handle, step.number), step.log_entry
        until = time.monotonic() + wait_s
        while True:
            (proof,) = await hash_fields(self._redis, receipt_key(entry.hex()), "proof")
            (before,) = await hash_fields(self._redis, receipt_key(claim.hex()), "proof")
            if proof is not None and before is not None:
                proofs = Proofs(before.decode(), proof.decode())
                await self._registry.keep_proofs(step.handle, step.number, proofs)
                self._asked.pop(entry, None)
                return proofs
            await self._ask(claim, entry)
            if time.monotonic() >= until:
                return None
            await asyncio.sleep(_POLL_S)

    async def _ask(self, claim: bytes, entry: bytes) -> None:
        """Again after a while: a Redis that failed over may have lost them, and the log takes
        each entry once."""
        if time.monotonic() - self._asked.get(entry, -_ASK_AGAIN_S) < _ASK_AGAIN_S:
            return
        await self._redis.eval(_APPEND, 1, LEAVES_STREAM, claim.hex(), claim, entry.hex(), entry)
        if len(self._asked) >= _MOST_ASKED:
            self._asked.pop(next(iter(self._asked)))
        self._asked[entry] = time.monotonic()
