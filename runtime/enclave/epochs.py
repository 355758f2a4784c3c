"""Attestation bundles in Redis, so that any replica can hand one on to whoever holds a receipt
that names it. They are public: the log has their digests, and every device gets one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from proofs.claims import MAX_LIFETIME_S
from runtime.enclave.outbox import UNSETTLED_TTL_S, patiently
from runtime.redis_client import hash_fields
from runtime.streams import bundle_key

# Receipts may name a bundle as long as its keys live, and are asked for this long after.
_TTL_S = MAX_LIFETIME_S + UNSETTLED_TTL_S


@dataclass(frozen=True, slots=True)
class Epoch:
    """A bundle as it stands in Redis.

    Attributes:
        bundle: Encoded.
        proof: Its tlog-proof.
        next: Hex of the digest of the first bundle of the same keys after it; None before.
    """

    bundle: bytes
    proof: str
    next: str | None


class EpochStore:
    """Writes and reads bundles.

    Args:
        client: Redis; the only keys touched are bundles'.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client

    async def keep(self, bundle: bytes, proof: str) -> None:
        """Store a bundle under its digest, however long Redis is away."""
        await self._set(hashlib.sha256(bundle).hexdigest(), {"bundle": bundle, "proof": proof})

    async def follow(self, before: bytes, after: bytes) -> None:
        """Note by digests which bundle came after which, however long Redis is away."""
        await self._set(before.hex(), {"next": after.hex()})

    async def find(self, digest: str) -> Epoch | None:
        """The bundle with this digest (hex); None where it is not there.

        Raises:
            redis.exceptions.RedisError, OSError: Redis is away.
        """
        bundle, proof, after = await hash_fields(
            self._redis, bundle_key(digest), "bundle", "proof", "next"
        )
        if bundle is None or proof is None:
            return None
        return Epoch(bundle, proof.decode(), None if after is None else after.decode())

    async def _set(self, digest: str, fields: dict[Any, Any]) -> None:
        key = bundle_key(digest)

        async def write() -> None:
            async with self._redis.pipeline(transaction=False) as batch:
                batch.hset(key, mapping=fields)
                batch.expire(key, _TTL_S)
                await batch.execute()

        await patiently(write, digest)
