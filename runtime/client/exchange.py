"""One sealed request and its answer: Binary HTTP inside chunked OHTTP."""

from __future__ import annotations

import contextlib
import email.utils
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from proofs.receipt import commitment
from runtime.client.carrier import Stream, StreamLostError
from runtime.client.rows import Sealing
from runtime.enclave.api import (
    COMPLETION_RECEIPT_LABEL,
    INCOGNITO_RECEIPT_LABEL,
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SALT_BYTES,
)
from runtime.errors import SottoError
from transport.bhttp import (
    Content,
    Fields,
    Request,
    ResponseDecoder,
    ResponseHead,
    encode_request,
)
from transport.bhttp import Event as BhttpEvent
from transport.errors import TransportError
from transport.keyconfig import KeyConfig
from transport.ohttp import ChunkedRequestSealer, ChunkedResponseOpener
from transport.shaping import SHAPING_HEADER, Shaping, padded

JSON_HEADERS: Final[Fields] = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What only the two ends of one exchange know, from its HPKE exporter."""

    request_salt: bytes = field(repr=False)
    response_salt: bytes = field(repr=False)
    receipt_key: bytes = field(repr=False)
    incognito_key: bytes = field(repr=False)

    def commitments(self, request: bytes, response: bytes) -> bytes:
        """What a receipt of this exchange commits to: 64 bytes."""
        return commitment(self.request_salt, "request", request) + commitment(
            self.response_salt, "response", response
        )

    def sealing(self, enclave_id: str) -> Sealing:
        """What is kept of it, so that its owner can disclose what was said."""
        return Sealing(enclave_id, self.request_salt, self.response_salt)


class Exchange:
    """One exchange, used once.

    Args:
        config: The verified enclave's key configuration.
        shaping: How request and answer are padded.
    """

    def __init__(self, config: KeyConfig, shaping: Shaping) -> None:
        self._sealer = ChunkedRequestSealer(config)
        self._shaping = shaping
        self.secrets = Secrets(
            self._sealer.export(REQUEST_SALT_LABEL, SALT_BYTES),
            self._sealer.export(RESPONSE_SALT_LABEL, SALT_BYTES),
            self._sealer.export(COMPLETION_RECEIPT_LABEL, SALT_BYTES),
            self._sealer.export(INCOGNITO_RECEIPT_LABEL, SALT_BYTES),
        )

    def seal(self, method: bytes, path: bytes, headers: Fields, body: bytes, now: float) -> bytes:
        """The whole encapsulated request, at `now` in unix seconds."""
        own = (
            # RFC 9458 section 6.5: the gateway refuses what is too old to be remembered as used.
            (b"date", email.utils.formatdate(now, usegmt=True).encode()),
            (SHAPING_HEADER, self._shaping.value.encode()),
        )
        request = Request(method, b"https", b"enclave", path, (*headers, *own), body)
        return self._sealer.seal(padded(encode_request(request), self._shaping), final=True)

    async def answer(self, stream: Stream) -> SealedResponse:
        """Wait for the answer's head.

        Raises:
            StreamLostError: It does not open, or was cut.
            SottoError: See `Stream`.
        """
        events = _events(stream, self._sealer.response_opener())
        try:
            head = await _final_head(events)
        except BaseException:
            await events.aclose()
            await stream.aclose()
            raise
        return SealedResponse(head, self.secrets, events, stream)


async def _final_head(events: AsyncIterator[BhttpEvent]) -> ResponseHead:
    async for event in events:
        if isinstance(event, ResponseHead) and event.status >= 200:
            return event
    raise StreamLostError("unsealed", "the answer has no head; send it again")


class SealedResponse:
    """An answer as it comes. Read it to its end or close it.

    Attributes:
        status: 200 to 599.
        secrets: Of the exchange that it answers.
    """

    def __init__(
        self,
        head: ResponseHead,
        secrets: Secrets,
        events: AsyncGenerator[BhttpEvent, None],
        stream: Stream,
    ) -> None:
        """Made by `Exchange.answer` only."""
        self.status = head.status
        self.secrets = secrets
        self._headers = head.headers
        self._events = events
        self._stream = stream

    def header(self, name: bytes) -> str:
        """A field's value, empty where there is none."""
        found = next((value for key, value in self._headers if key == name), b"")
        return found.decode("latin-1")

    async def content(self) -> AsyncGenerator[bytes, None]:
        """The content in the pieces in which it was sealed.

        Raises:
            StreamLostError: It does not open, or was cut.
        """
        async with aclosing(self):
            async for event in self._events:
                if isinstance(event, Content):
                    yield event.data

    async def read(self) -> bytes:
        """All of the content; Binary HTTP's limits bound it."""
        async with aclosing(self.content()) as content:
            return b"".join([part async for part in content])

    async def read_json(self) -> dict[str, Any]:
        """The content as a JSON object.

        Raises:
            SottoError: The enclave refused, or does not speak as it should.
        """
        try:
            body = orjson.loads(await self.read())
            if self.status == 200 and isinstance(body, dict):
                return body
            problem = body["error"]
            raise SottoError(str(problem["message"]), code=str(problem["code"]))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise SottoError(
                f"the enclave answered {self.status} in words that this version does not know; "
                "update Sottovoce on this device",
                code="enclave_unknown",
            ) from None

    async def aclose(self) -> None:
        """Give up what has not come; whoever waits for more of it gets StreamLostError."""
        await self._stream.aclose()
        with contextlib.suppress(RuntimeError):  # it is being read, and ends by itself
            await self._events.aclose()


async def _events(
    stream: AsyncIterable[bytes], opener: ChunkedResponseOpener
) -> AsyncGenerator[BhttpEvent, None]:
    """Open and decode a sealed response as it comes."""
    decoder = ResponseDecoder()
    try:
        async for data in stream:
            for plaintext in opener.feed(data):
                for event in decoder.feed(plaintext):
                    yield event
        for event in [*decoder.feed(opener.finish()), *decoder.finish()]:
            yield event
    except TransportError as error:
        raise StreamLostError("unsealed", f"the answer does not open: {error}") from error
