"""The device: verify enclaves, seal turns, read answers, keep receipts that hold.

Nothing that comes from the edge is believed: bundles are verified under the user's policy before
anything is sealed to their keys, answers open only with this exchange's keys, receipts must be
signed by the attested enclave and must commit to what was in fact said.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
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
from proofs.receipt import commitment
from proofs.verify import AttestedEnclave, verify_bundle
from runtime.client.connection import Connection, StreamLostError
from runtime.client.exchange import Exchange
from runtime.client.home import DeviceHome, ReceiptRow
from runtime.client.receipts import ReceiptBook
from runtime.enclave.api import (
    CANCEL_PATH,
    FINAL_EVENTS,
    MAX_MESSAGE_CHARACTERS,
    TURNS_PATH,
    CancelRequest,
    PersonaReference,
    TurnRequest,
)
from runtime.errors import Exit, SottoError
from transport.errors import TransportError
from transport.keyconfig import KeyConfig, decode_key_config
from transport.sse import EventDecoder

# Bundles are verified once and used until they are this old; then the edge is asked again.
_ENCLAVES_FRESH_S = 60.0
# A turn is sent again, under the same id, for this long while parts of the system restart.
_RETRY_FOR_S = 60.0
_RETRY_PAUSE_S = 0.3
# Codes inside the encapsulation after which another try can succeed.
_RETRYABLE = frozenset(
    {
        "answered_elsewhere",
        "edge_away",
        "enclave_away",
        "key_expired",
        "memory_unavailable",
        "overloaded",
        "stopping",
        "too_many_turns",
    }
)


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
        self._receipts = ReceiptBook(home, policy, self._subscribe)
        self._connection = Connection(
            edge_url, on_event=self._receipts.take, on_reconnect=self._receipts.ask_again
        )
        self._enclaves: list[LiveEnclave] = []
        self._verified_at = 0.0

    async def _subscribe(self, receipt_ids: list[str]) -> None:
        await self._connection.subscribe(receipt_ids)

    async def __aenter__(self) -> Device:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._receipts.close()
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
        _check_message(message)
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
                if error.code not in _RETRYABLE:
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
            try:
                body = b"".join([part async for part in exchange.open(stream)])
            except StreamLostError as error:
                raise SottoError(f"the stop did not arrive: {error}", code=error.code) from error
            stopped = stopped or bool(orjson.loads(body)["cancelled"])
        return stopped

    async def wait_settled(self, receipt_id: str, timeout_s: float) -> ReceiptRow | None:
        """Wait until a receipt is settled or refused; its row, whatever came of it."""
        return await self._receipts.wait(receipt_id, timeout_s)

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
        self._receipts.expect(
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


def _verify(entry: dict[str, str], policy: Policy) -> LiveEnclave:
    bundle = base64.b64decode(entry["bundle"], validate=True)
    attested = verify_bundle(bundle, entry["proof"], policy, int(time.time()))
    config = decode_key_config(attested.key_configs[0])
    return LiveEnclave(entry["gateway"], attested, config, bundle, entry["proof"])


def choose(enclaves: list[LiveEnclave], thread_id: str) -> LiveEnclave:
    """Rendezvous hashing: a thread stays with one enclave while it lives, so its cache holds.

    By the attested id, not by the gateway's name: an edge could list one enclave under a thousand
    names and know threads again by the name that each of them picks.
    """
    by_id = {enclave.attested.enclave_id: enclave for enclave in reversed(enclaves)}

    def weight(enclave_id: str) -> bytes:
        return hashlib.sha256(f"{enclave_id} {thread_id}".encode()).digest()

    return by_id[max(by_id, key=weight)]


def _check_message(message: str) -> None:
    try:
        message.encode()
    except UnicodeEncodeError:
        wrong = "is not text that can be sent (it holds half a character)"
    else:
        if 0 < len(message) <= MAX_MESSAGE_CHARACTERS:
            return
        wrong = f"has {len(message)} characters; a message has 1 to {MAX_MESSAGE_CHARACTERS}"
    raise SottoError(f"the message {wrong}", code="message_invalid", exit_code=Exit.USAGE)
