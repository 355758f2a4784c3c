"""Turns that leave no trace: what a device brings along for them, and their receipts.

Nothing here is written anywhere. A receipt can be verified as long as the device runs that asked.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from memory.keys import ThreadKeys
from proofs.verify import AttestedEnclave, verify_receipt
from runtime.client.carrier import StreamLostError
from runtime.enclave.api import MAX_SAID, RECEIPTS_PATH
from runtime.errors import SottoError
from runtime.sealing import open_receipt

_KEPT = 64
_MAX_SAID_BYTES = 64 * 1024
_POLL_S = 0.2

Said = tuple[tuple[str, str], ...]


def new_turn_id() -> str:
    """32 hex digits. Each try has one of its own: what nobody keeps cannot be told again."""
    return os.urandom(16).hex()


def fitting(said: Sequence[tuple[str, str]]) -> Said:
    """The newest exchanges, as many as a request may bring along."""
    kept: list[tuple[str, str]] = []
    left = _MAX_SAID_BYTES
    for one in reversed(said[-MAX_SAID:]):
        left -= len(orjson.dumps(one))
        if left < 0:
            break
        kept.append(one)
    return tuple(reversed(kept))


@dataclass(frozen=True, slots=True)
class Expected:
    """What the receipt of an incognito turn must say.

    Attributes:
        key: Opens it, 32 bytes from the exchange.
        attested: Who answered.
        persona: Digest, 32 bytes.
        outcome: How it ended.
        commitments: To what was said and answered, 64 bytes.
    """

    key: bytes = field(repr=False)
    attested: AttestedEnclave
    persona: bytes
    outcome: str
    commitments: bytes


class Unkept:
    """Receipts of incognito turns, while the device runs.

    Args:
        ask: The JSON that any enclave has at a path.
    """

    def __init__(self, ask: Callable[[bytes], Awaitable[dict[str, Any]]]) -> None:
        self._ask = ask
        self._expected: OrderedDict[str, Expected] = OrderedDict()

    def expect(self, receipt_id: str, expected: Expected) -> None:
        """A turn has ended; of very many the newest are remembered."""
        self._expected[receipt_id] = expected
        while len(self._expected) > _KEPT:
            self._expected.popitem(last=False)

    async def verify(self, receipt_id: str, timeout_s: float) -> bool:
        """Whether the receipt came in time, is signed by who answered, and is of this turn.

        Raises:
            SottoError: It is not what it must be (`receipt_mismatch`), or no such turn is known.
            proofs.errors.ProofError: The attested key did not sign it.
        """
        expected = self._expected.get(receipt_id)
        if expected is None:
            raise SottoError(
                f"the receipt {receipt_id} is of no incognito turn of this session; nothing else "
                "is known of it",
                code="receipt_unknown",
            )
        try:
            async with asyncio.timeout(timeout_s):
                sealed = await self._fetch(receipt_id)
        except TimeoutError:
            return False
        keys = ThreadKeys(expected.key)
        cose = open_receipt(keys, bytes.fromhex(receipt_id), sealed)
        receipt = verify_receipt(cose, expected.attested)
        stated = receipt.request + receipt.response
        if (
            not hmac.compare_digest(stated, expected.commitments)
            or receipt.receipt_id.hex() != receipt_id
            or receipt.persona != expected.persona
            or str(receipt.outcome) != expected.outcome
            or receipt.head_before != receipt.head_after
        ):
            raise SottoError(
                "the receipt does not say what this device asked and read, or says that something "
                "was remembered; do not rely on this enclave",
                code="receipt_mismatch",
            )
        return True

    async def _fetch(self, receipt_id: str) -> bytes:
        while True:
            try:
                answer = await self._ask(RECEIPTS_PATH + b"/" + receipt_id.encode())
                if isinstance(sealed := answer.get("sealed"), str):
                    return base64.b64decode(sealed, validate=True)
            except (StreamLostError, SottoError, ValueError):
                pass  # on its way still, or the way is broken
            await asyncio.sleep(_POLL_S)
