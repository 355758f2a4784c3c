"""One sealed request and its answer: Binary HTTP inside chunked OHTTP."""

from __future__ import annotations

import email.utils
from collections.abc import AsyncIterable, AsyncIterator

import orjson

from runtime.client.connection import StreamLostError
from runtime.enclave.api import REQUEST_SALT_LABEL, RESPONSE_SALT_LABEL, SALT_BYTES
from runtime.errors import SottoError
from transport.bhttp import Content, Request, ResponseDecoder, ResponseHead, encode_request
from transport.bhttp import Event as BhttpEvent
from transport.errors import TransportError
from transport.keyconfig import KeyConfig
from transport.ohttp import ChunkedRequestSealer, ChunkedResponseOpener


class Exchange:
    """One exchange, used once.

    Args:
        config: The verified enclave's key configuration.
    """

    def __init__(self, config: KeyConfig) -> None:
        self._sealer = ChunkedRequestSealer(config)
        self.salts = (
            self._sealer.export(REQUEST_SALT_LABEL, SALT_BYTES),
            self._sealer.export(RESPONSE_SALT_LABEL, SALT_BYTES),
        )

    def seal(self, path: bytes, body: bytes) -> bytes:
        """The whole encapsulated request."""
        headers = (
            (b"content-type", b"application/json"),
            # RFC 9458 §6.5: the gateway refuses what is too old to be remembered as used.
            (b"date", email.utils.formatdate(usegmt=True).encode()),
        )
        request = Request(b"POST", b"https", b"enclave", path, headers, body)
        return self._sealer.seal(encode_request(request), final=True)

    async def open(self, stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Content of the answer as it comes.

        Raises:
            SottoError: The enclave refused, inside the encapsulation.
            StreamLostError: The answer does not open, or was cut.
        """
        opener = self._sealer.response_opener()
        decoder = ResponseDecoder()
        status = 0
        refusal = b""
        async for event in _events(stream, opener, decoder):
            if isinstance(event, ResponseHead):
                status = event.status
            elif isinstance(event, Content) and status == 200:
                yield event.data
            elif isinstance(event, Content):
                refusal += event.data
        if status != 200:
            problem = orjson.loads(refusal)["error"]
            raise SottoError(problem["message"], code=problem["code"])


async def _events(
    stream: AsyncIterable[bytes], opener: ChunkedResponseOpener, decoder: ResponseDecoder
) -> AsyncIterator[BhttpEvent]:
    """Open and decode a sealed response as it comes."""
    try:
        async for data in stream:
            for plaintext in opener.feed(data):
                for event in decoder.feed(plaintext):
                    yield event
        for event in [*decoder.feed(opener.finish()), *decoder.finish()]:
            yield event
    except TransportError as error:
        raise StreamLostError("unsealed", f"the answer does not open: {error}") from error
