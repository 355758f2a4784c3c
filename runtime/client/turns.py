"""One turn: sealed, told as it comes, tried again where the way broke, and what is kept of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from runtime.client.carrier import StreamLostError
from runtime.client.exchange import JSON_HEADERS, Secrets
from runtime.client.forgetting import MAX_STEPS, THREAD_GONE, moved_line
from runtime.client.home import DeviceHome
from runtime.client.incognito import Expected, Unkept, fitting, new_turn_id
from runtime.client.memories import Memories
from runtime.client.retrying import RETRYABLE, Retrying
from runtime.client.rows import ReceiptRow, Sealing, Told
from runtime.client.sealed import Call, LiveEnclave, SealedHttp, choose
from runtime.enclave.api import (
    FINAL_EVENTS,
    MAX_MESSAGE_CHARACTERS,
    MAX_USER_CHARACTERS,
    TURNS_PATH,
    Incognito,
    PersonaReference,
    TurnRequest,
)
from runtime.enclave.memory_api import MAX_PLACES
from runtime.errors import Exit, SottoError
from transport.sse import EventDecoder

Drain = Callable[[AsyncGenerator[bytes, None], str], None]
"""Lets the padding of an answer come, and then asks for the receipt of this id, if any."""


@dataclass(frozen=True, slots=True, repr=False)
class TurnOptions:
    """What a turn may say besides its message.

    Attributes:
        user: What the persona calls the person, one line of at most 64 characters; None for nothing
            in particular.
        greeting: Which of the persona's greetings began the conversation, from 0; None for none.
        incognito: Messages and replies of the conversation so far, for one that leaves no trace:
            it reads memory, and neither enclave nor device keep anything of it. None for a turn
            that is remembered.
    """

    user: str | None = None
    greeting: int | None = None
    incognito: tuple[tuple[str, str], ...] | None = None


@dataclass(slots=True, repr=False)
class _Turn:
    """One turn over all of its tries."""

    persona: PersonaReference
    message: str
    options: TurnOptions
    turn_id: str
    thread: int
    enclave: LiveEnclave | None = None
    text: str = ""
    receipt_id: str = ""
    sealings: list[tuple[Sealing, Secrets]] = field(default_factory=list)

    steps: int = 0
    erased: int = 0

    @property
    def incognito(self) -> bool:
        return self.options.incognito is not None

    def thread_is_gone(self, error: SottoError) -> bool:
        """Whether the thread was ended before the turn began."""
        return error.code in THREAD_GONE and not self.text


class Turns:
    """The turns of one device.

    Args:
        home: Keys, positions and receipts.
        http: The way to enclaves.
        memories: Follow a thread that another device ended.
        unkept: Receipts of incognito turns.
        drain: What to do when an answer's last word is here.
    """

    def __init__(
        self, home: DeviceHome, http: SealedHttp, memories: Memories, unkept: Unkept, drain: Drain
    ) -> None:
        self._home = home
        self._http = http
        self._memories = memories
        self._unkept = unkept
        self._drain = drain

    async def run(
        self, persona: PersonaReference, message: str, options: TurnOptions
    ) -> AsyncIterator[dict[str, Any]]:
        """See `Device.turn`."""
        _check_message(message)
        thread = self._home.thread(persona.handle)
        turn = _Turn(persona, message, options, new_turn_id(), thread)
        retrying = Retrying()
        while True:
            try:
                async for event in self._try(turn):
                    yield event
            except (StreamLostError, SottoError) as error:
                if isinstance(error, SottoError) and turn.thread_is_gone(error):
                    yield await self._follow(turn, error)
                    continue
                await retrying.after(error)
            else:
                await self._forget_erased(turn)
                return
            self._http.forget()  # a restarted enclave has new keys

    async def _forget_erased(self, turn: _Turn) -> None:
        """Learn which records another device had erased, where this one does not know of all."""
        handle = turn.persona.handle
        if min(turn.erased, MAX_PLACES) > len(self._home.transcripts.erased(handle)):
            # The answer is here all the same, and the next turn says so again.
            with contextlib.suppress(SottoError, StreamLostError):
                await self._memories.page(handle, limit=1)

    async def _follow(self, turn: _Turn, error: SottoError) -> dict[str, Any]:
        """Go on with the next thread, where another device ended this one; says so."""
        turn.steps += 1
        if turn.steps > MAX_STEPS or not await self._memories.follow(
            turn.persona.handle, turn.thread, error
        ):
            raise error
        turn.thread = self._home.thread(turn.persona.handle)
        turn.turn_id = new_turn_id()
        turn.sealings.clear()
        message = moved_line(turn.persona.handle, error.code)
        return {"type": "thread.moved", "reason": error.code, "message": message}

    async def _try(self, turn: _Turn) -> AsyncIterator[dict[str, Any]]:
        handle = turn.persona.handle
        if self._home.thread(handle) != turn.thread:
            raise SottoError(
                "this conversation was forgotten while the turn ran; say it again, in a new one",
                code="thread_forgotten",
            )
        keys = self._home.thread_keys(handle, turn.thread)
        if turn.incognito:
            turn.turn_id = new_turn_id()
            turn.sealings.clear()
        call = Call(b"POST", TURNS_PATH, JSON_HEADERS, self._request(turn))

        def sealed(enclave: LiveEnclave, secrets: Secrets) -> None:
            if not turn.incognito:
                attested = enclave.attested
                self._home.bundles.keep(attested.enclave_id, enclave.bundle, enclave.inclusion)
            turn.enclave = enclave
            turn.sealings.append((secrets.sealing(enclave.attested.enclave_id), secrets))

        response = await self._http.request(
            call, lambda enclaves: choose(enclaves, keys.thread_id), sealed
        )
        if response.status != 200:
            await response.read_json()  # raises what the enclave says
        content = response.content()
        try:
            async for event in self._events(turn, content):
                yield event
        finally:
            if turn.receipt_id:
                # Nobody waits for the receipt of a turn that is not kept.
                self._drain(content, "" if turn.incognito else turn.receipt_id)
            else:
                await content.aclose()

    def _request(self, turn: _Turn) -> bytes:
        options, said = turn.options, turn.options.incognito
        try:
            request = TurnRequest(
                thread_key=self._home.thread_key(turn.persona.handle, turn.thread),
                turn_id=turn.turn_id,
                persona=turn.persona,
                message=turn.message,
                position=self._home.position(turn.persona.handle),
                user=options.user,
                greeting=options.greeting,
                incognito=None if said is None else Incognito(said=fitting(said)),
            )
            return request.model_dump_json(exclude_none=True).encode()
        except (ValidationError, UnicodeEncodeError, TypeError, ValueError):
            raise SottoError(
                "the turn's options are not what an enclave takes: a user's name is one line of "
                f"at most {MAX_USER_CHARACTERS} characters, a greeting's number is not negative, "
                "and what was said is text",
                code="options_invalid",
                exit_code=Exit.USAGE,
            ) from None

    async def _events(
        self, turn: _Turn, content: AsyncIterator[bytes]
    ) -> AsyncIterator[dict[str, Any]]:
        """A turn's events, up to its last."""
        decoder = EventDecoder()
        text = ""
        async for data in content:
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
                yield {**event, "enclave_id": _answering(turn).attested.enclave_id}
                if turn.receipt_id:
                    return

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
        if event["type"] == "response.failed":
            error = event["error"]
            gone = error["code"] in THREAD_GONE and not turn.text
            if gone or error["code"] in RETRYABLE:
                raise SottoError(error["message"], code=error["code"])
            turn.text = ""
        outcome = event["type"].removeprefix("response.")
        if turn.incognito:
            self._finish_incognito(turn, event, outcome)
            return
        message, text = turn.message.encode(), turn.text.encode()
        pairs = [secrets.commitments(message, text) for _, secrets in turn.sealings]
        self._home.expect_receipt(
            ReceiptRow(
                receipt_id=event["receipt_id"],
                turn_id=turn.turn_id,
                persona=turn.persona.handle,
                enclave_id=_answering(turn).attested.enclave_id,
                time=int(time.time()),
                outcome=outcome,
                commitments=b"".join(pairs),
                thread=turn.thread,
                persona_digest=bytes.fromhex(turn.persona.digest),
            ),
            Told(message, turn.text, tuple(sealing for sealing, _ in turn.sealings)),
        )
        turn.erased = int(event.get("erased", 0))
        if position := event.get("position"):
            self._home.set_position(turn.persona.handle, position, turn.thread)
        turn.receipt_id = event["receipt_id"]

    def _finish_incognito(self, turn: _Turn, event: dict[str, Any], outcome: str) -> None:
        """Nothing is written: what its receipt must say is known while this device runs."""
        _, secrets = turn.sealings[-1]
        turn.receipt_id = event["receipt_id"]
        self._unkept.expect(
            turn.receipt_id,
            Expected(
                secrets.incognito_key,
                _answering(turn).attested,
                bytes.fromhex(turn.persona.digest),
                outcome,
                secrets.commitments(turn.message.encode(), turn.text.encode()),
            ),
        )


def _answering(turn: _Turn) -> LiveEnclave:
    if turn.enclave is None:
        raise RuntimeError("a turn that is answered was sent")
    return turn.enclave


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
