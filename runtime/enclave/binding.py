"""What binds a receipt to the exchange that it is about."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from memory.keys import ThreadKeys
from memory.thread import Erased
from proofs.erasure import Erasure, Scope, thread_commitment
from proofs.receipt import Outcome, Receipt, commitment
from runtime.enclave.engines.base import Sampling
from runtime.enclave.identity import Identity


@dataclass(frozen=True, slots=True, repr=False)
class Binding:
    """The enclave's identity in one exchange, and the exchange's own salts.

    Attributes:
        identity: The enclave identity whose key opened the request; its receipt key signs.
        key_id: Which of its key configurations.
        request_salt, response_salt: From the HPKE exporter of this exchange, 32 bytes each.
    """

    identity: Identity
    key_id: int
    request_salt: bytes
    response_salt: bytes

    def receipt(
        self,
        receipt_id: bytes,
        *,
        persona: bytes,
        request: bytes,
        response: str,
        sampling: Sampling | None,
        outcome: Outcome,
        ended: int | None = None,
        head_before: bytes | None = None,
        head_after: bytes | None = None,
        turn_index: int = 0,
        previous: bytes | None = None,
    ) -> Receipt:
        """The receipt of a reply; without the last four, of one that no memory holds.

        Args:
            receipt_id: 16 bytes.
            persona: Digest of the persona.
            request: What is committed to of the request.
            response: The reply's text, as far as it went.
            sampling: What the engine was told, None where it was told nothing.
            outcome: How the reply ended.
            ended: When, unix seconds; None for now.
            head_before, head_after, turn_index, previous: See `proofs.receipt.Receipt`.
        """
        claims = self.identity.claims
        return Receipt(
            receipt_id=receipt_id,
            enclave=self.identity.bundle_digest,
            key_config_id=self.key_id,
            persona=persona,
            model_manifest=claims.model_manifest,
            release=claims.release,
            request=commitment(self.request_salt, "request", request),
            response=commitment(self.response_salt, "response", response.encode()),
            head_before=head_before,
            head_after=head_after,
            turn_index=turn_index,
            previous=previous,
            sampling=sampling_digest(sampling),
            outcome=outcome,
            time=int(time.time()) if ended is None else ended,
            epoch=claims.epoch,
        )

    def erasure(
        self,
        keys: ThreadKeys,
        erasure_id: bytes,
        erased: Erased,
        previous: bytes | None,
        *,
        scope: Scope = Scope.THREAD,
        after: bytes | None = None,
    ) -> Erasure:
        """The receipt of an erasure that has just been done; see `proofs.erasure.Erasure`."""
        claims = self.identity.claims
        salt = keys.erasure_salt(erasure_id)
        return Erasure(
            erasure_id=erasure_id,
            enclave=self.identity.bundle_digest,
            release=claims.release,
            time=int(time.time()),
            epoch=claims.epoch,
            scope=scope,
            thread=thread_commitment(salt, bytes.fromhex(keys.thread_id)),
            head=erased.head,
            length=erased.length,
            previous=previous,
            after=after,
        )


def sampling_digest(sampling: Sampling | None) -> bytes:
    """SHA-256 of the sampling parameters as JSON with sorted keys; of ``null`` where none ran."""
    value: dict[str, Any] | None = asdict(sampling) if sampling is not None else None
    if value is not None and value["json_schema"] is None:
        del value["json_schema"]  # as the digest was before there were schemas
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()
