"""A device's receipts: awaited, opened, verified, kept.

Receipts come after the answers, out of band and through parties that are not trusted. One is kept
when it opens with the thread's key, is signed by the attested enclave that answered, names the
persona that was asked for, and commits to what this device in fact sent and read.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from memory.keys import ThreadKeys
from proofs.cosereceipt import verify_cose_receipt
from proofs.erasure import erasure_entry
from proofs.errors import ProofError
from proofs.logsteps import require_witnesses
from proofs.policy import Policy
from proofs.receipt import decode_receipt, receipt_entry
from proofs.tlogproof import parse_tlog_proof
from proofs.verify import AttestedEnclave, verify_receipt, verify_settled
from runtime.client.carrier import StreamLostError
from runtime.client.epochs import EpochBook
from runtime.client.home import DeviceHome
from runtime.client.rows import ErasureRow, ReceiptRow
from runtime.errors import SottoError
from runtime.sealing import open_receipt

log = logging.getLogger(__name__)

_Event = dict[str, Any]
Row = ReceiptRow | ErasureRow

# A bundle that a receipt names is asked for this often, so far apart, before it is given up until
# the receipt is asked for again.
_LEARN_TRIES = 3
_LEARN_PAUSE_S = 1.0
# What may wait for one bundle: a receipt and its settlement, each perhaps sent twice.
_MOST_HELD = 8


class ReceiptBook:
    """What is awaited and what has come.

    Args:
        home: Where receipts are kept.
        policy: What a log must prove.
        epochs: Bundles that receipts name.
        subscribe: Asks for receipts by id, and lets `take` see what comes.
    """

    def __init__(
        self,
        home: DeviceHome,
        policy: Policy,
        epochs: EpochBook,
        subscribe: Callable[[list[str]], Awaitable[None]],
    ) -> None:
        self._home = home
        self._policy = policy
        self._epochs = epochs
        self._subscribe = subscribe
        self._waiting: dict[str, asyncio.Event] = {}
        # Whose answers' padding is still on its way: not asked for yet.
        self._early: set[str] = set()
        # Events that wait until the bundle that their receipt names is here.
        self._held: dict[str, list[_Event]] = {}
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

    def row(self, receipt_id: str) -> Row | None:
        """A receipt of a turn or of an erasure by its id."""
        return self._home.receipt(receipt_id) or self._home.erasure(receipt_id)

    async def wait(self, receipt_id: str, timeout_s: float) -> None:
        """Wait until a receipt is settled or refused, or the time is up."""
        row = self.row(receipt_id)
        if row is not None and row.status in ("waiting", "received"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._await(receipt_id).wait()

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

        self._spawn(subscribe())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    def take(self, event: _Event) -> None:
        """What came about a receipt, from an edge or from whoever was asked.

        What is not about an awaited receipt is left alone.
        """
        handle = {"response.receipt": self._receipt, "response.settled": self._settled}.get(
            event["type"]
        )
        if handle is None:
            return
        if (held := self._held.get(event["receipt_id"])) is not None:
            held.extend([event] if len(held) < _MOST_HELD else [])
            return
        try:
            row = self.row(event["receipt_id"])
            # What was verified stays so, whatever an edge sends after it.
            if row is not None and row.status != "refused":
                handle(row, event)
        except (ProofError, SottoError, ValueError) as error:
            # Anyone on the way can send what does not open or prove, and must not be able to void
            # a receipt with it: the true one may still come, by another edge.
            log.info("ignored %s for %s: %s", event["type"], event["receipt_id"], error)

    def _receipt(self, row: Row, event: _Event) -> None:
        if row.receipt is not None or isinstance(row, ErasureRow):
            return  # an erasure's comes with the answer
        keys = (
            self._home.thread_keys(row.persona, row.thread)
            if row.seal_key is None
            else ThreadKeys(row.seal_key)
        )
        sealed = base64.b64decode(event["sealed"])
        cose = open_receipt(keys, bytes.fromhex(row.receipt_id), sealed)
        try:
            # The turn may have been answered by one enclave and asked for again of another.
            signer = decode_receipt(cose).unverified.enclave.hex()
            attested = self._epochs.known(signer, row.time)
            if attested is not None:
                self._keep(row, cose, attested)
        except (ProofError, SottoError) as error:
            # It opened, so whoever held the key made it: this says something of them.
            self._refuse(row, error)
            return
        if attested is None:
            self._held[row.receipt_id] = [event]
            self._spawn(self._learn(row, signer))

    def _refuse(self, row: ReceiptRow, error: Exception) -> None:
        self._home.refuse_receipt(row.receipt_id, str(error))
        self._done(row.receipt_id)

    async def _learn(self, row: ReceiptRow, signer: str) -> None:
        """Fetch the bundle that a receipt names, and then take what came meanwhile."""
        try:
            learned = await self._learned(row, signer)
        finally:
            held = self._held.pop(row.receipt_id)
        for event in held if learned else ():
            self.take(event)

    async def _learned(self, row: ReceiptRow, signer: str) -> bool:
        sealings = self._home.transcripts.sealings(row.receipt_id)
        sealed_to = {row.enclave_id, *(one.enclave_id for one in sealings)}
        for number in range(_LEARN_TRIES):
            await asyncio.sleep(_LEARN_PAUSE_S if number else 0)
            try:
                await self._epochs.learn(signer, sealed_to, row.time)
            except ProofError as error:
                self._refuse(row, error)
                return False
            except (StreamLostError, SottoError) as error:
                if error.code == "receipt_mismatch":
                    self._refuse(row, error)
                    return False
                log.info("receipt %s waits for its evidence: %s", row.receipt_id, error)
            else:
                return True
        return False

    def _settled(self, row: Row, event: _Event) -> None:
        if row.receipt is None:
            return
        if row.proof is None:
            self._keep_proof(row, row.receipt, event["proof"])
        if row.cose is None and event.get("cose") is not None:
            self._keep_cose(row, row.receipt, event["cose"])

    def _keep_proof(self, row: Row, receipt: bytes, proof: str) -> None:
        if isinstance(row, ErasureRow):
            parsed = parse_tlog_proof(proof)
            parsed.verify(erasure_entry(receipt), self._policy.log_keys)
            require_witnesses(parsed.checkpoint, self._policy)
            self._home.keep_erasure_proof(row.receipt_id, proof)
        else:
            verify_settled(receipt, proof, self._policy)
            self._home.keep_proof(row.receipt_id, proof)
        self._done(row.receipt_id)

    def _keep_cose(self, row: Row, receipt: bytes, text: str) -> None:
        cose = base64.b64decode(text, validate=True)
        erasure = isinstance(row, ErasureRow)
        entry = erasure_entry(receipt) if erasure else receipt_entry(receipt)
        verify_cose_receipt(cose, entry, self._policy.log_keys)
        self._home.keep_cose(row.receipt_id, cose)

    def _keep(self, row: ReceiptRow, cose: bytes, attested: AttestedEnclave) -> None:
        receipt = verify_receipt(cose, attested)
        stated = receipt.request + receipt.response
        expected = [row.commitments[i : i + 64] for i in range(0, len(row.commitments), 64)]
        matching = [n for n, pair in enumerate(expected) if hmac.compare_digest(stated, pair)]
        says = (receipt.receipt_id.hex(), str(receipt.outcome))
        if says != (row.receipt_id, row.outcome) or not matching:
            raise SottoError(
                "the receipt does not commit to what this device sent and read; keep it as "
                "evidence and do not rely on this enclave",
                code="receipt_mismatch",
            )
        if row.persona_digest not in (None, receipt.persona):
            raise SottoError(
                "the receipt names another persona than the one that was asked for; keep it as "
                "evidence and do not rely on this enclave",
                code="receipt_mismatch",
            )
        self._home.keep_receipt(row.receipt_id, attested.enclave_id, cose, matching[0])

    def _done(self, receipt_id: str) -> None:
        if waiting := self._waiting.pop(receipt_id, None):
            waiting.set()
