"""A device's receipts: awaited, opened, verified, kept.

Receipts come after the answers, out of band and through parties that are not trusted. One is kept
when it opens with the thread's key, is signed by the attested enclave that answered, and commits
to what this device in fact sent and read.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from memory.keys import ThreadKeys
from proofs.errors import ProofError
from proofs.policy import Policy
from proofs.receipt import decode_receipt
from proofs.verify import AttestedEnclave, verify_bundle, verify_receipt, verify_settled
from runtime.client.home import DeviceHome, ReceiptRow
from runtime.errors import SottoError
from runtime.sealing import open_receipt

log = logging.getLogger(__name__)


class ReceiptBook:
    """What is awaited and what has come.

    Args:
        home: Where receipts are kept.
        policy: What an enclave, and a log, must prove.
        subscribe: Asks for receipts by id, and lets `take` see what comes.
    """

    def __init__(
        self,
        home: DeviceHome,
        policy: Policy,
        subscribe: Callable[[list[str]], Awaitable[None]],
    ) -> None:
        self._home = home
        self._policy = policy
        self._subscribe = subscribe
        self._waiting: dict[str, asyncio.Event] = {}
        # Whose answers' padding is still on its way: not asked for yet.
        self._early: set[str] = set()
        # Verified once each: an enclave lives a day, a device meets a few.
        self._attested: dict[str, AttestedEnclave] = {}
        self._asks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop asking."""
        for task in self._asks:
            task.cancel()
        await asyncio.gather(*self._asks, return_exceptions=True)

    def expect(self, receipt_id: str, padding: Awaitable[None] | None = None) -> None:
        """Ask for the receipt of an answer, after the padding that follows its last word.

        Whoever sees a device ask for a receipt knows that the words have ended.
        """
        if receipt_id in self._waiting:
            return
        self._waiting[receipt_id] = asyncio.Event()
        self._ask([receipt_id], padding)

    async def wait(self, receipt_id: str, timeout_s: float) -> ReceiptRow | None:
        """Wait until a receipt is settled or refused; its row, whatever came of it."""
        row = self._home.receipt(receipt_id)
        if row is not None and row.status in ("waiting", "received"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._await(receipt_id).wait()
        return self._home.receipt(receipt_id)

    async def wait_all(self, timeout_s: float) -> None:
        """Wait until nothing more is awaited, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(event.wait() for event in self._waiting.values()))

    def _await(self, receipt_id: str) -> asyncio.Event:
        """Ask for a receipt, once; the event is set when it is settled or refused."""
        self.expect(receipt_id)
        return self._waiting[receipt_id]

    def ask_again(self) -> None:
        """A new socket knows nothing of what was awaited on the old one."""
        if waiting := [key for key in self._waiting if key not in self._early]:
            self._ask(waiting)

    def _ask(self, receipt_ids: list[str], padding: Awaitable[None] | None = None) -> None:
        """Ask in the background: an answer that was read does not wait for a socket."""

        async def subscribe() -> None:
            if padding is not None:
                self._early.update(receipt_ids)
                try:
                    await padding
                finally:
                    self._early.difference_update(receipt_ids)
            # Where the edge has closed the session, another can be asked later.
            with contextlib.suppress(SottoError):
                await self._subscribe(receipt_ids)

        task = asyncio.create_task(subscribe())
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    def take(self, event: dict[str, Any]) -> None:
        """What came about a receipt, from an edge or from whoever was asked.

        What is not about an awaited receipt is left alone.
        """
        handle = {"response.receipt": self._receipt, "response.settled": self._settled}.get(
            event["type"]
        )
        if handle is None:
            return
        try:
            row = self._home.receipt(event["receipt_id"])
            # What was verified stays so, whatever an edge sends after it.
            if row is not None and row.status not in ("refused", "settled"):
                handle(row, event)
        except (ProofError, SottoError, ValueError) as error:
            # Anyone on the way can send what does not open or prove, and must not be able to void
            # a receipt with it: the true one may still come, by another edge.
            log.info("ignored %s for %s: %s", event["type"], event["receipt_id"], error)

    def _receipt(self, row: ReceiptRow, event: dict[str, Any]) -> None:
        if row.receipt is not None:
            return
        keys = (
            self._home.thread_keys(row.persona)
            if row.seal_key is None
            else ThreadKeys(row.seal_key)
        )
        sealed = base64.b64decode(event["sealed"])
        cose = open_receipt(keys, bytes.fromhex(row.receipt_id), sealed)
        try:
            self._keep(row, cose)
        except (ProofError, SottoError) as error:
            # It opened, so whoever held the key made it: this says something of them.
            self._home.refuse_receipt(row.receipt_id, str(error))
            self._done(row.receipt_id)

    def _settled(self, row: ReceiptRow, event: dict[str, Any]) -> None:
        if row.receipt is None:
            return
        verify_settled(row.receipt, event["proof"], self._policy)
        self._home.keep_proof(row.receipt_id, event["proof"])
        self._done(row.receipt_id)

    def _keep(self, row: ReceiptRow, cose: bytes) -> None:
        # The turn may have been answered by one enclave and asked for again of another.
        signer = decode_receipt(cose).unverified.enclave.hex()
        if (attested := self._attested.get(signer)) is None:
            bundle, inclusion = self._bundle_of(signer)
            attested = verify_bundle(bundle, inclusion, self._policy, row.time)
            self._attested[signer] = attested
        receipt = verify_receipt(cose, attested)
        stated = receipt.request + receipt.response
        expected = [row.commitments[i : i + 64] for i in range(0, len(row.commitments), 64)]
        says = (receipt.receipt_id.hex(), str(receipt.outcome))
        if says != (row.receipt_id, row.outcome) or not any(
            hmac.compare_digest(stated, pair) for pair in expected
        ):
            raise SottoError(
                "the receipt does not commit to what this device sent and read; keep it as "
                "evidence and do not rely on this enclave",
                code="receipt_mismatch",
            )
        self._home.keep_receipt(row.receipt_id, signer, cose)

    def _bundle_of(self, enclave_id: str) -> tuple[bytes, str]:
        try:
            return self._home.enclave(enclave_id)
        except KeyError:
            raise SottoError(
                "the receipt is of an enclave that this device never spoke to; keep it as "
                "evidence and do not rely on this edge",
                code="receipt_mismatch",
            ) from None

    def _done(self, receipt_id: str) -> None:
        if waiting := self._waiting.pop(receipt_id, None):
            waiting.set()
