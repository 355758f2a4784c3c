"""The device: verify enclaves, seal turns, read answers, keep receipts that hold.

Nothing that comes from the edge is believed: bundles are verified under the user's policy before
anything is sealed to their keys, answers open only with this exchange's keys, receipts must be
signed by the attested enclave and must commit to what was in fact said.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from personas.digest import persona_digest
from personas.model import Persona
from proofs.errors import ProofError
from proofs.policy import Policy
from proofs.receipt import commitment, decode_receipt
from proofs.verify import AttestedEnclave, verify_bundle, verify_receipt, verify_settled
from runtime.client.connection import Connection, StreamLostError
from runtime.client.exchange import Exchange
from runtime.client.home import DeviceHome, ReceiptRow
from runtime.enclave.api import (
    CANCEL_PATH,
    FINAL_EVENTS,
    TURNS_PATH,
    CancelRequest,
    PersonaReference,
    TurnRequest,
)
from runtime.errors import SottoError
from runtime.sealing import open_receipt
from transport.errors import TransportError
from transport.keyconfig import KeyConfig, decode_key_config
from transport.sse import EventDecoder

# Bundles are verified once and used until they are this old; then the edge is asked again.
_ENCLAVES_FRESH_S = 60.0
# A turn is sent again, under the same id, for this long while parts of the system restart.
_RETRY_FOR_S = 60.0
_RETRY_PAUSE_S = 0.3
# Codes inside the encapsulation after which another try can succeed.
_RETRYABLE = frozenset({"stopping", "overloaded", "memory_unavailable"})


@dataclass(frozen=True, slots=True)
class LiveEnclave:
    """A verified enclave and the gateway name by which relays reach it."""

    gateway: str
    attested: AttestedEnclave
    key_config: KeyConfig
    bundle: bytes
    inclusion: str


@dataclass(slots=True)
class _Turn:
    """One turn over all of its tries."""

    persona: Persona
    message: str
    turn_id: str
    enclave: LiveEnclave | None = None
    text: str = ""
    ended: bool = False
    commitment_salts: list[tuple[bytes, bytes]] = field(default_factory=list, repr=False)


class Device:
    """A person's device on one edge.

    Args:
        home: Keys, positions and receipts.
        policy: What an enclave must prove.
        edge_url: Address of the edge's ``/v1/realtime``.
    """

    def __init__(self, home: DeviceHome, policy: Policy, edge_url: str) -> None:
        self._home = home
        self._policy = policy
        self._connection = Connection(edge_url, on_event=self._event, on_reconnect=self._ask_again)
        self._enclaves: list[LiveEnclave] = []
        self._verified_at = 0.0
        self._waiting: dict[str, asyncio.Event] = {}
        # Verified once each: an enclave lives a day, a device meets a few.
        self._attested: dict[str, AttestedEnclave] = {}
        self._asks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Device:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        for task in self._asks:
            task.cancel()
        await self._connection.__aexit__(*exception)

    async def enclaves(self) -> list[LiveEnclave]:
        """Live enclaves that hold under the policy.

        Raises:
            SottoError: There is none; says what was wrong with those that were refused.
        """
        if self._enclaves and time.monotonic() - self._verified_at < _ENCLAVES_FRESH_S:
            return self._enclaves
        refused: list[str] = []
        found = []
        for entry in await self._connection.enclaves():
            try:
                found.append(_verify(entry, self._policy))
            except (ProofError, TransportError, ValueError) as error:
                refused.append(str(error))
        if not found:
            if refused:
                raise SottoError(
                    f"no enclave holds under the policy in force: {refused[0]}",
                    code="enclave_refused",
                )
            raise SottoError(
                "no enclave is announced; it may be starting: try again in a moment",
                code="enclave_away",
            )
        self._enclaves, self._verified_at = found, time.monotonic()
        return found

    async def turn(self, persona: Persona, message: str) -> AsyncIterator[dict[str, Any]]:
        """Say something; yields the enclave's events as they come, each text once.

        Besides the events of docs/protocol.md there is ``response.restarted``, where an enclave
        died before it had answered and another begins anew: text so far is void.

        Raises:
            SottoError: Refused, failed, or the system stayed away for a minute.
        """
        turn = _Turn(persona, message, os.urandom(16).hex())
        deadline = time.monotonic() + _RETRY_FOR_S
        while True:
            try:
                async for event in self._try(turn):
                    yield event
            except StreamLostError as error:
                if turn.ended:
                    return  # the enclave's last word was read; only padding after it was cut
                problem = SottoError(str(error), code=error.code)
            except SottoError as error:
                if error.code not in _RETRYABLE | {"enclave_away"}:
                    raise
                problem = error
            else:
                return
            if time.monotonic() > deadline:
                raise problem
            self._enclaves = []  # the next try asks anew: a restarted enclave has new keys
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def cancel(self, persona: Persona, turn_id: str) -> bool:
        """Stop a running turn; whether one was running."""
        request = CancelRequest(thread_key=self._home.thread_key(persona.handle), turn_id=turn_id)
        stopped = False
        for enclave in await self.enclaves():
            exchange = Exchange(enclave.key_config)
            stream = await self._connection.open_stream(enclave.gateway)
            await stream.send(exchange.seal(CANCEL_PATH, request.model_dump_json().encode()))
            body = b"".join([part async for part in exchange.open(stream)])
            stopped = stopped or bool(orjson.loads(body)["cancelled"])
        return stopped

    async def wait_settled(self, receipt_id: str, timeout_s: float) -> ReceiptRow | None:
        """Wait until a receipt is settled or refused; its row, whatever came of it."""
        row = self._home.receipt(receipt_id)
        if row is not None and row.status in ("waiting", "received"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._await_receipt(receipt_id).wait()
        return self._home.receipt(receipt_id)

    async def _try(self, turn: _Turn) -> AsyncIterator[dict[str, Any]]:
        handle = turn.persona.handle
        keys = self._home.thread_keys(handle)
        enclave = choose(await self.enclaves(), keys.thread_id)
        exchange = Exchange(enclave.key_config)
        request = TurnRequest(
            thread_key=self._home.thread_key(handle),
            turn_id=turn.turn_id,
            persona=PersonaReference(handle=handle, digest=persona_digest(turn.persona).hex()),
            message=turn.message,
            position=self._home.position(handle),
        )
        turn.enclave = enclave
        self._home.keep_enclave(enclave.attested.enclave_id, enclave.bundle, enclave.inclusion)
        turn.commitment_salts.append(exchange.salts)
        stream = await self._connection.open_stream(enclave.gateway)
        await stream.send(exchange.seal(TURNS_PATH, request.model_dump_json().encode()))
        decoder = EventDecoder()
        text = ""
        async for data in exchange.open(stream):
            for raw in decoder.feed(data):
                event = orjson.loads(raw)
                if event["type"] == "response.output_text.delta":
                    text += event["delta"]
                    async for shown in self._show(turn, text):
                        yield shown
                    continue
                if event["type"] in FINAL_EVENTS:
                    whole = event["type"] != "response.failed"
                    async for shown in self._show(turn, text, whole=whole):
                        yield shown
                    self._finish(turn, event)
                elif turn.text:
                    continue  # a second response.created says nothing new
                yield {**event, "enclave_id": enclave.attested.enclave_id}

    async def _show(
        self, turn: _Turn, text: str, *, whole: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Deltas of a repeated stream begin again; show only what has not been shown.

        A whole reply that is shorter than what was shown is another reply.
        """
        if turn.text == text or (turn.text.startswith(text) and not whole):
            return
        if not text.startswith(turn.text):
            turn.text = ""
            yield {"type": "response.restarted"}
        delta, turn.text = text[len(turn.text) :], text
        yield {"type": "response.output_text.delta", "delta": delta}

    def _finish(self, turn: _Turn, event: dict[str, Any]) -> None:
        enclave = turn.enclave
        if enclave is None:
            raise RuntimeError("a turn that ends was sent")
        if event["type"] == "response.failed":
            error = event["error"]
            if error["code"] in _RETRYABLE:
                raise SottoError(error["message"], code=error["code"])
            turn.text = ""
        outcome = event["type"].removeprefix("response.")
        pairs = [
            commitment(request, "request", turn.message.encode())
            + commitment(response, "response", turn.text.encode())
            for request, response in turn.commitment_salts
        ]
        self._home.expect_receipt(
            ReceiptRow(
                receipt_id=event["receipt_id"],
                turn_id=turn.turn_id,
                persona=turn.persona.handle,
                enclave_id=enclave.attested.enclave_id,
                time=int(time.time()),
                outcome=outcome,
                commitments=b"".join(pairs),
            )
        )
        if position := event.get("position"):
            self._home.set_position(turn.persona.handle, position)
        turn.ended = True
        self._await_receipt(event["receipt_id"])

    def _await_receipt(self, receipt_id: str) -> asyncio.Event:
        """Ask for a receipt, once; the event is set when it is settled or refused."""
        if receipt_id not in self._waiting:
            self._waiting[receipt_id] = asyncio.Event()
            self._ask([receipt_id])
        return self._waiting[receipt_id]

    def _ask_again(self) -> None:
        """A new socket knows nothing of what was awaited on the old one."""
        if waiting := [key for key, event in self._waiting.items() if not event.is_set()]:
            self._ask(waiting)

    def _ask(self, receipt_ids: list[str]) -> None:
        """Ask in the background: an answer that was read does not wait for a socket."""

        async def subscribe() -> None:
            # Where the edge has closed the session, another can be asked later.
            with contextlib.suppress(SottoError):
                await self._connection.subscribe(receipt_ids)

        task = asyncio.create_task(subscribe())
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind not in ("response.receipt", "response.settled"):
            return
        receipt_id = event["receipt_id"]
        row = self._home.receipt(receipt_id)
        if row is None or row.status in ("refused", "settled"):
            return  # what was verified stays so, whatever an edge sends after it
        try:
            if kind == "response.receipt" and row.receipt is None:
                self._keep_receipt(row, event["sealed"])
            elif kind == "response.settled" and row.receipt is not None:
                verify_settled(row.receipt, event["proof"], self._policy)
                self._home.keep_proof(receipt_id, event["proof"])
                self._done(receipt_id)
        except (ProofError, SottoError, ValueError) as error:
            self._home.refuse_receipt(receipt_id, str(error))
            self._done(receipt_id)

    def _keep_receipt(self, row: ReceiptRow, sealed: str) -> None:
        keys = self._home.thread_keys(row.persona)
        cose = open_receipt(keys, bytes.fromhex(row.receipt_id), base64.b64decode(sealed))
        # The turn may have been answered by one enclave and asked for again of another.
        signer = decode_receipt(cose).unverified.enclave.hex()
        if (attested := self._attested.get(signer)) is None:
            bundle, inclusion = self._kept(signer)
            attested = verify_bundle(bundle, inclusion, self._policy, row.time)
            self._attested[signer] = attested
        receipt = verify_receipt(cose, attested)
        stated = receipt.request + receipt.response
        expected = [row.commitments[i : i + 64] for i in range(0, len(row.commitments), 64)]
        if receipt.receipt_id.hex() != row.receipt_id or not any(
            hmac.compare_digest(stated, pair) for pair in expected
        ):
            raise SottoError(
                "the receipt does not commit to what this device sent and read; keep it as "
                "evidence and do not rely on this enclave",
                code="receipt_mismatch",
            )
        self._home.keep_receipt(row.receipt_id, signer, cose)

    def _kept(self, enclave_id: str) -> tuple[bytes, str]:
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


def _verify(entry: dict[str, str], policy: Policy) -> LiveEnclave:
    bundle = base64.b64decode(entry["bundle"], validate=True)
    attested = verify_bundle(bundle, entry["proof"], policy, int(time.time()))
    config = decode_key_config(attested.key_configs[0])
    return LiveEnclave(entry["gateway"], attested, config, bundle, entry["proof"])


def choose(enclaves: list[LiveEnclave], thread_id: str) -> LiveEnclave:
    """Rendezvous hashing: a thread stays with one enclave while it lives, so its cache holds."""

    def weight(enclave: LiveEnclave) -> bytes:
        return hashlib.sha256(f"{enclave.gateway} {thread_id}".encode()).digest()

    return max(enclaves, key=weight)
