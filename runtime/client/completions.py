"""OpenAI's surface on the device: requests go sealed to an enclave, replies come with receipts.

`sotto proxy` and the transport for `httpx` stand on this. A body passes byte for byte; of a
request's fields none passes: no key, no user agent, no cookie.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson

from personas.digest import persona_digest
from personas.library import Library, load_library
from runtime.client.carrier import StreamLostError
from runtime.client.device import Device
from runtime.client.exchange import JSON_HEADERS, SealedResponse, Secrets
from runtime.client.retrying import RETRYABLE
from runtime.client.rows import ReceiptRow, Told
from runtime.client.sealed import Call, LiveEnclave, choose, choose_any
from runtime.enclave.api import (
    COMPLETIONS_PATH,
    MODELS_PATH,
    PERSONA_DIGEST_HEADER,
    RECEIPT_ID_HEADER,
)
from runtime.errors import SottoError
from transport.errors import TransportError
from transport.sse import EventDecoder

MAX_BODY_BYTES: Final = 120 * 1024
"""What fits into a sealed request (`runtime.enclave.api.MAX_REQUEST_BYTES`) with its fields."""
EVENT_STREAM: Final = "text/event-stream"
_MODEL_PATH: Final = re.compile(re.escape(MODELS_PATH.decode()) + r"/[A-Za-z0-9._~-]{1,64}")
_SEARCH_PATH: Final = "/v1/personas"
_RECEIPT_ID: Final = re.compile(r"[0-9a-f]{32}")
# The way may break while parts of the system restart; programs try again by themselves, too.
_RETRY_FOR_S: Final = 5.0
_RETRY_PAUSE_S: Final = 0.3
_DONE: Final = b"[DONE]"


class Content(Protocol):
    """An answer's content as it comes. Read it to its end or close it."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces in which it came.

        Raises:
            StreamLostError: It broke.
        """
        ...

    async def aclose(self) -> None:
        """Read no further; ends the completion."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program gets.

    Attributes:
        status: HTTP status.
        headers: Names and values.
        content: See `Content`.
    """

    status: int
    headers: dict[str, str]
    content: Content


def refusal(
    status: int, code: str, message: str, *, retry: bool = False, param: str | None = None
) -> Answer:
    """An error in OpenAI's shape, made here; `retry` says whether another try may succeed."""
    body = orjson.dumps({"error": error_object(status, code, message, param)})
    headers = {"content-type": "application/json", "x-should-retry": str(retry).lower()}
    return Answer(status, headers, _whole(body))


def too_large() -> Answer:
    """The refusal of a body over `MAX_BODY_BYTES`."""
    return refusal(
        413,
        "request_too_large",
        f"a request has at most {MAX_BODY_BYTES} bytes; send fewer messages",
    )


def error_object(
    status: int, code: str, message: str, param: str | None = None
) -> dict[str, str | None]:
    """The `error` member of OpenAI's bodies and events."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"message": message, "type": kind, "param": param, "code": code}


class Completions:
    """OpenAI's surface over one device.

    Args:
        device: Started.
        library: The personas that this device knows: of these, the version is pinned.
    """

    def __init__(self, device: Device, library: Library | None = None) -> None:
        self._device = device
        known = load_library() if library is None else library
        self._digests = {one.handle: persona_digest(one).hex().encode() for one in known}
        # Prefix caches live in enclaves: one program's completions go to one while it lives.
        self._token = os.urandom(16).hex()

    async def handle(self, method: str, path: str, body: bytes, query: str = "") -> Answer:
        """Serve one request of a program; `query` is what follows `?` in its URL.

        Raises:
            StreamLostError: The way broke before an answer had begun, or while it came.
            SottoError: There is no enclave that holds, or no way to one.
        """
        if path == COMPLETIONS_PATH.decode():
            if method != "POST":
                return _wrong_method("POST")
            if len(body) > MAX_BODY_BYTES:
                return too_large()
            return await self._complete(body)
        if path in {MODELS_PATH.decode(), _SEARCH_PATH} or _MODEL_PATH.fullmatch(path):
            if method != "GET":
                return _wrong_method("GET")
            asked = f"{path}?{query}" if query else path
            response = await self._send(_Sent(Call(b"GET", asked.encode("ascii", "replace"))))
            return _passed(response, await response.read())
        return refusal(
            404,
            "not_found",
            "Sottovoce serves /v1/chat/completions, /v1/models and /v1/personas; it has nothing "
            "else, and nothing was sent anywhere",
        )

    async def _complete(self, body: bytes) -> Answer:
        sent = _Sent(Call(b"POST", COMPLETIONS_PATH, JSON_HEADERS, body), _model(body))
        if digest := self._digests.get(sent.model):
            pinned = (*JSON_HEADERS, (PERSONA_DIGEST_HEADER, digest))
            sent.call = Call(b"POST", COMPLETIONS_PATH, pinned, body)
        response = await self._send(sent)
        if response.header(b"content-type") == EVENT_STREAM and response.status == 200:
            return Answer(200, _headers(response), _Following(self, sent, response))
        content = await response.read()
        if response.status == 200 and (
            receipt_id := self._expect(sent, response, "completed", _text(content))
        ):
            self._device.ask_for_receipt(receipt_id)
        return _passed(response, content)

    async def _send(self, sent: _Sent) -> SealedResponse:
        """Seal and send; again where the way broke before an answer had begun."""
        deadline = time.monotonic() + _RETRY_FOR_S

        def pick(enclaves: list[LiveEnclave]) -> LiveEnclave:
            if sent.model:
                return choose(enclaves, f"{self._token} {sent.model}")
            return choose_any(enclaves)

        while True:
            try:
                return await self._device.request(sent.call, pick, sent.sealed)
            except (StreamLostError, SottoError) as error:
                lost = isinstance(error, StreamLostError) or error.code in RETRYABLE
                if not lost or time.monotonic() > deadline:
                    raise
            self._device.forget_enclaves()
            await asyncio.sleep(_RETRY_PAUSE_S)

    def ended(
        self,
        sent: _Sent,
        response: SealedResponse,
        heard: _Heard,
        padding: AsyncGenerator[bytes, None],
    ) -> None:
        """The last word of a stream has come: await its receipt, and let its padding come."""
        self._device.drain(padding, self._expect(sent, response, heard.outcome, heard.text))

    def _expect(self, sent: _Sent, response: SealedResponse, outcome: str, text: str) -> str:
        """Note what the receipt must say; its id, empty where the enclave named none."""
        receipt_id = response.header(RECEIPT_ID_HEADER)
        if sent.enclave is None or not _RECEIPT_ID.fullmatch(receipt_id):
            return ""
        enclave_id = sent.enclave.attested.enclave_id
        pinned = self._digests.get(sent.model)
        said = text.encode("utf-8", "replace")
        row = ReceiptRow(
            receipt_id=receipt_id,
            turn_id="",
            persona=sent.model,
            enclave_id=enclave_id,
            time=int(time.time()),
            outcome=outcome,
            commitments=response.secrets.commitments(sent.call.body, said),
            seal_key=response.secrets.receipt_key,
            persona_digest=bytes.fromhex(pinned.decode()) if pinned is not None else None,
        )
        sealing = response.secrets.sealing(enclave_id)
        told = Told(sent.call.body, said.decode(), (sealing,))
        self._device.expect_receipt(row, told, sent.enclave)
        return receipt_id


@dataclass(slots=True)
class _Sent:
    """A request, and which enclave it was last sealed to."""

    call: Call
    model: str = ""
    enclave: LiveEnclave | None = None

    def sealed(self, enclave: LiveEnclave, secrets: Secrets) -> None:
        """Note the enclave."""
        self.enclave = enclave


class _Following:
    """The events of a streamed completion as they come, without the padding between them."""

    def __init__(self, completions: Completions, sent: _Sent, response: SealedResponse) -> None:
        self._completions = completions
        self._sent = sent
        self._response = response
        self._content = response.content()
        self._heard = _Heard()

    def __aiter__(self) -> _Following:
        return self

    async def __anext__(self) -> bytes:
        heard = self._heard
        if heard.outcome:
            raise StopAsyncIteration
        try:
            async for part in self._content:
                events = heard.feed(part)
                if heard.outcome:
                    # At once: many programs read no further than the last word.
                    self._completions.ended(self._sent, self._response, heard, self._content)
                if events:
                    return events
        except TransportError as error:
            raise StreamLostError("unsealed", f"the reply is malformed: {error}") from error
        raise StreamLostError("stream_lost", "the reply ended before it was whole")

    async def aclose(self) -> None:
        """Stop reading: an enclave ends a reply that nobody reads."""
        if not self._heard.outcome:
            await self._response.aclose()


@dataclass(slots=True)
class _Heard:
    """What was read of a stream of completion chunks.

    Attributes:
        outcome: What its receipt must say; empty until the last word has come.
    """

    text: str = field(default="", repr=False)
    outcome: str = ""
    decoder: EventDecoder = field(default_factory=EventDecoder, repr=False)

    def feed(self, part: bytes) -> bytes:
        """Take content; the whole events in it, without padding."""
        events = self.decoder.feed(part)
        for data in events:
            self._take(data)
        return b"".join(b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n" for data in events)

    def _take(self, data: bytes) -> None:
        if data == _DONE:
            self.outcome = "completed"
            return
        chunk = _json(data)
        if isinstance(error := chunk.get("error"), dict):
            # OpenAI's servers end a stream that failed with the error, and without [DONE].
            self.outcome = "cancelled" if error.get("code") == "stopping" else "failed"
            return
        self.text += _first_choice(chunk, "delta")


def _headers(response: SealedResponse) -> dict[str, str]:
    """The few fields that mean something to a program."""
    names = (b"content-type", RECEIPT_ID_HEADER)
    found = {name.decode(): response.header(name) for name in names}
    return {name: value for name, value in found.items() if value}


def _passed(response: SealedResponse, content: bytes) -> Answer:
    return Answer(response.status, _headers(response), _whole(content))


async def _whole(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _wrong_method(right: str) -> Answer:
    return refusal(405, "method_not_allowed", f"use {right}")


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _model(body: bytes) -> str:
    """The persona asked for; the enclave, not the device, judges the rest of the body."""
    model = _json(body).get("model")
    return model if isinstance(model, str) else ""


def _text(body: bytes) -> str:
    return _first_choice(_json(body), "message")


def _first_choice(value: dict[str, Any], member: str) -> str:
    match value:
        case {"choices": [{**first}, *_]}:
            match first.get(member):
                case {"content": str(text)}:
                    return text
    return ""
