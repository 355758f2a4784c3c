"""The device: verify enclaves, seal turns, read answers, keep receipts that hold.

Nothing that comes from the edge is believed: bundles are verified under the user's policy before
anything is sealed to their keys, answers open only with this exchange's keys, receipts must be
signed by the attested enclave and must commit to what was in fact said.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from personas.digest import persona_digest
from personas.model import Persona
from proofs.policy import Policy
from runtime.client.carrier import Carrier, StreamLostError
from runtime.client.epochs import EpochBook
from runtime.client.exchange import JSON_HEADERS, SealedResponse, Secrets
from runtime.client.forgetting import Forgetting
from runtime.client.home import DeviceHome
from runtime.client.incognito import Unkept
from runtime.client.memories import Memories
from runtime.client.receipts import ReceiptBook
from runtime.client.rows import ErasureRow, ReceiptRow, Told
from runtime.client.sealed import Call, LiveEnclave, SealedHttp, choose_any
from runtime.client.turns import TurnOptions, Turns
from runtime.enclave.api import (
    CANCEL_PATH,
    RECEIPTS_PATH,
    CancelRequest,
    PersonaReference,
)
from runtime.errors import SottoError
from transport.shaping import DEFAULT_SHAPING, Shaping

# Where nobody pushes receipts they are asked for, ever less often, until somebody asks again.
_POLL_FIRST_S = 0.2
_POLL_MOST_S = 5.0
_POLLS = 24
_POLLS_AT_ONCE = 8
# As long as the longest reply: a cadence at most doubles its number of frames.
_PADDING_S = 300.0
_DEFAULT = TurnOptions()


class Device:
    """A person's device. Use as an asynchronous context manager.

    Args:
        home: Keys, positions and receipts.
        policy: What an enclave must prove.
        carrier: How sealed bytes reach enclaves: `Connection` or `RelayCarrier`.
        shaping: How requests and answers are padded.
        clock: Unix seconds, by which requests are dated.
    """

    def __init__(
        self,
        home: DeviceHome,
        policy: Policy,
        carrier: Carrier,
        *,
        shaping: Shaping = DEFAULT_SHAPING,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self._home = home
        self._carrier = carrier
        self._http = SealedHttp(carrier, policy, shaping=shaping, clock=clock)
        self._epochs = EpochBook(home, policy, self._ask)
        self._forgetting = Forgetting(home, self._http, self._epochs)
        self.memories = Memories(home, self._forgetting)
        self._receipts = ReceiptBook(home, policy, self._epochs, self._ask_for_receipts)
        self._unkept = Unkept(self._ask)
        self._turns = Turns(home, self._http, self.memories, self._unkept, self.drain)
        self._draining: set[asyncio.Task[None]] = set()
        self._polling = asyncio.Semaphore(_POLLS_AT_ONCE)

    async def __aenter__(self) -> Device:
        await self._carrier.start(self._receipts.take, self._receipts.ask_again)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
        await self._receipts.close()
        await self._carrier.close()

    async def enclaves(self) -> list[LiveEnclave]:
        """Live enclaves that hold under the policy.

        Raises:
            SottoError: There is none; says what was wrong with those that were refused.
        """
        return await self._http.enclaves()

    @property
    def simulated(self) -> bool:
        """Whether no hardware stands behind an enclave that was verified last; say so."""
        return self._http.simulated

    def forget_enclaves(self) -> None:
        """Ask anew before the next exchange: a restarted enclave has new keys."""
        self._http.forget()

    async def request(
        self,
        call: Call,
        pick: Callable[[list[LiveEnclave]], LiveEnclave] = choose_any,
        on_seal: Callable[[LiveEnclave, Secrets], None] = lambda enclave, secrets: None,
    ) -> SealedResponse:
        """A request of a program's own; see `SealedHttp.request`."""
        return await self._http.request(call, pick, on_seal)

    def drain(self, content: AsyncGenerator[bytes, None], receipt_id: str = "") -> None:
        """Let the padding after the last word come, although nobody waits for it, and then ask for
        the receipt.

        A watcher who saw it cut, or something asked before its end, would know where the words
        ended.
        """

        async def read() -> None:
            with contextlib.suppress(StreamLostError, SottoError, TimeoutError):
                async with contextlib.aclosing(content), asyncio.timeout(_PADDING_S):
                    async for _ in content:
                        pass

        task = asyncio.create_task(read())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
        if receipt_id:
            self._receipts.expect(receipt_id, asyncio.shield(task))

    async def drained(self) -> None:
        """Wait until all padding has come."""
        await asyncio.gather(*self._draining)

    def expect_receipt(self, row: ReceiptRow, told: Told, enclave: LiveEnclave) -> None:
        """An answer has ended: note what its receipt must say, and what was said."""
        self._keep(enclave)
        self._home.expect_receipt(row, told)

    def ask_for_receipt(self, receipt_id: str) -> None:
        """See to it that a receipt comes, where no padding follows its answer."""
        self._receipts.expect(receipt_id)

    def turn(
        self,
        persona: Persona | PersonaReference,
        message: str,
        *,
        options: TurnOptions = _DEFAULT,
    ) -> AsyncIterator[dict[str, Any]]:
        """Say something; yields the enclave's events as they come, each text once.

        Besides the events of docs/protocol.md there is ``response.restarted``, where an enclave
        died before it had answered and another begins anew: text so far is void; and
        ``thread.moved``, where another device of this person forgot the conversation or rotated
        its key, and this turn goes into the next.

        Raises:
            SottoError: Refused, failed, or the system stayed away for a minute.
        """
        return self._turns.run(reference_of(persona), message, options)

    async def cancel(self, persona: Persona | PersonaReference, turn_id: str) -> bool:
        """Stop a running turn; whether one was running.

        Raises:
            SottoError: None was stopped, and not every enclave could be asked.
        """
        request = CancelRequest(thread_key=self._home.thread_key(persona.handle), turn_id=turn_id)
        call = Call(b"POST", CANCEL_PATH, JSON_HEADERS, request.model_dump_json().encode())
        stopped, failure = False, None
        for enclave in await self.enclaves():
            # Twice: the relay that the first try took may be away.
            for _ in range(2):
                try:
                    answer = await (await self._http.send(enclave, call)).read_json()
                except (StreamLostError, SottoError) as error:
                    failure = error
                else:
                    stopped, failure = stopped or bool(answer["cancelled"]), None
                    break
        if failure is not None and not stopped:
            raise SottoError(f"the stop did not arrive: {failure}", code=failure.code)
        return stopped

    async def forget(self, persona: str) -> ErasureRow:
        """Have the present thread with a persona erased, and forget what was said in it here.

        The next turn begins the next thread, so a copy of the old one's store is never read again.

        Args:
            persona: A handle; it need not be one that is known here.

        Raises:
            SottoError: Refused, the receipt of it does not hold, or the system stayed away for a
                minute. The same erasure goes on when this is called again.
        """
        row = await self._forgetting.forget(persona)
        self._receipts.expect(row.receipt_id)
        return row

    async def complete(self, receipt_id: str) -> bool:
        """Fetch what came after a receipt: the log's COSE receipt, where the edge gave none, and
        the next evidence about the keys that signed it.

        Returns:
            Whether the next evidence is here.

        Raises:
            SottoError: It does not hold (code `evidence_refused`), or nobody could be asked.
        """
        row = self._home.receipt(receipt_id)
        if row is None or row.receipt is None:
            return False
        try:
            if row.proof is not None and row.cose is None:
                self._take(receipt_id, await self._ask(RECEIPTS_PATH + b"/" + receipt_id.encode()))
            return await self._epochs.complete(row.enclave_id)
        except StreamLostError as error:
            raise SottoError(str(error), code=error.code) from error
        except SottoError as error:
            if error.code in ("evidence_unknown", "receipt_unknown", "not_found"):
                return False
            raise

    async def verify_incognito(self, receipt_id: str, timeout_s: float) -> bool:
        """Whether the receipt of an incognito turn of this session came in time, and holds.

        Raises:
            SottoError: It does not hold, or there was no such turn.
            proofs.errors.ProofError: Not signed by who answered.
        """
        return await self._unkept.verify(receipt_id, timeout_s)

    async def wait_settled(self, receipt_id: str, timeout_s: float) -> ReceiptRow | None:
        """Wait until a receipt is settled or refused; its row, whatever came of it."""
        await self._receipts.wait(receipt_id, timeout_s)
        return self._home.receipt(receipt_id)

    async def wait_erased(self, receipt_id: str, timeout_s: float) -> ErasureRow | None:
        """Wait until the receipt of an erasure is settled; its row, whatever came of it."""
        await self._receipts.wait(receipt_id, timeout_s)
        return self._home.erasure(receipt_id)

    async def wait_receipts(self, timeout_s: float) -> None:
        """Wait until all receipts that are awaited are settled or refused, or the time is up."""
        await self._receipts.wait_all(timeout_s)

    def _keep(self, enclave: LiveEnclave) -> None:
        """Keep a verified bundle, for disclosures later."""
        self._home.bundles.keep(enclave.attested.enclave_id, enclave.bundle, enclave.inclusion)

    async def _ask_for_receipts(self, receipt_ids: list[str]) -> None:
        if not await self._carrier.subscribe(receipt_ids):
            await asyncio.gather(*map(self._poll_receipt, receipt_ids))

    async def _ask(self, path: bytes) -> dict[str, Any]:
        """The JSON that any enclave has at a path."""
        return await (await self.request(Call(b"GET", path))).read_json()

    async def _poll_receipt(self, receipt_id: str) -> None:
        """Ask enclaves for one receipt until it is settled; any of them can answer."""
        for number in range(_POLLS):
            await asyncio.sleep(min(_POLL_FIRST_S * 2**number, _POLL_MOST_S))
            with contextlib.suppress(StreamLostError, SottoError):
                async with self._polling:
                    answer = await self._ask(RECEIPTS_PATH + b"/" + receipt_id.encode())
                self._take(receipt_id, answer)
            row = self._receipts.row(receipt_id)
            if row is None or row.status in ("settled", "refused"):
                return

    def _take(self, receipt_id: str, answer: dict[str, Any]) -> None:
        """An enclave's answer about a receipt, as the edge's events would tell it."""
        told = {name: answer.get(name) for name in ("sealed", "proof", "cose")}
        told = {name: value for name, value in told.items() if isinstance(value, str)}
        for kind, part in (("receipt", "sealed"), ("settled", "proof")):
            if part in told:
                event = {"type": f"response.{kind}", "receipt_id": receipt_id}
                self._receipts.take({**event, **told})


def reference_of(persona: Persona | PersonaReference) -> PersonaReference:
    """Handle and digest, by which an enclave answers as this persona or not at all."""
    if isinstance(persona, PersonaReference):
        return persona
    return PersonaReference(handle=persona.handle, digest=persona_digest(persona).hex())
