"""The client of Oblivious HTTP: one-shot (RFC 9458) and chunked (chunked OHTTP draft).

Sealing a request returns the only object that can open its answer. Every object serves one
exchange. Nothing here reads a clock; randomness is the HPKE ephemeral key alone, which tests may
give as `ephemeral_seed`.
"""

from __future__ import annotations

from transport import hpke
from transport.encapsulation import (
    CHUNKED_REQUEST_LABEL,
    CHUNKED_RESPONSE_LABEL,
    DEFAULT_LIMIT,
    REQUEST_LABEL,
    RESPONSE_LABEL,
    ChunkOpener,
    RequestHeader,
    application_export,
    response_aead,
    seal_chunks,
)
from transport.errors import TruncatedError, UsageError
from transport.hpke import ResponseAead, SuiteId
from transport.keyconfig import KeyConfig


class _Sender:
    """A request's header, encapsulated key and HPKE context."""

    __slots__ = ("context", "enc", "header")

    def __init__(
        self, config: KeyConfig, suite: SuiteId | None, label: bytes, seed: bytes | None
    ) -> None:
        suite = suite or config.choose_suite()
        if suite not in config.suites:
            raise UsageError(f"key configuration {config.key_id} does not offer suite {suite}")
        self.header = RequestHeader(config.key_id, config.kem_id, suite)
        self.enc, self.context = hpke.setup_sender(
            config.kem_id, config.public_key, suite, self.header.info(label), seed
        )

    def start(self) -> bytes:
        return self.header.encode() + self.enc

    def response_aead(self, label: bytes, nonce: bytes) -> ResponseAead:
        return response_aead(self.context, label, self.header.suite, self.enc, nonce)

    def nonce_length(self) -> int:
        return hpke.aead(self.header.suite).entropy_length


def encapsulate(
    config: KeyConfig,
    request: bytes,
    *,
    suite: SuiteId | None = None,
    ephemeral_seed: bytes | None = None,
) -> tuple[bytes, ResponseOpener]:
    """Seal one Binary HTTP request whole (RFC 9458 section 4.3).

    Args:
        config: The gateway's key configuration.
        request: The encoded request.
        suite: One of the configuration's suites; None takes the first supported.
        ephemeral_seed: The ephemeral private key, for test vectors only.

    Returns:
        The encapsulated request (message/ohttp-req) and what opens its response.

    Raises:
        UnknownKeyError, UsageError: No suite in common, or a suite that is not offered.
        MessageError: The configuration's public key is invalid.
    """
    sender = _Sender(config, suite, REQUEST_LABEL, ephemeral_seed)
    return sender.start() + sender.context.seal(request, b""), ResponseOpener(sender)


class ResponseOpener:
    """Opens the one response to a one-shot request, once."""

    __slots__ = ("_sender", "_used")

    def __init__(self, sender: _Sender) -> None:
        """Made by `encapsulate` only."""
        self._sender = sender
        self._used = False

    def export(self, label: bytes, length: int) -> bytes:
        """See `transport.encapsulation.application_export`."""
        return application_export(self._sender.context, label, length)

    def open(self, data: bytes) -> bytes:
        """Open a whole encapsulated response (RFC 9458 section 4.4).

        Raises:
            TruncatedError, DecryptionError: The response is cut, altered or not for this request.
            UsageError: Called twice.
        """
        if self._used:
            raise UsageError("this response was opened before; each request has one response")
        self._used = True
        nonce_length = self._sender.nonce_length()
        if len(data) < nonce_length + hpke.TAG_LENGTH:
            raise TruncatedError("the encapsulated response ends inside its nonce or tag")
        opener = self._sender.response_aead(RESPONSE_LABEL, data[:nonce_length])
        return opener.open(0, data[nonce_length:], b"")


class ChunkedRequestSealer:
    """Seals a request chunk by chunk (message/ohttp-chunked-req)."""

    __slots__ = ("_ended", "_opener_taken", "_sender", "_start")

    def __init__(
        self,
        config: KeyConfig,
        *,
        suite: SuiteId | None = None,
        ephemeral_seed: bytes | None = None,
    ) -> None:
        """Set up one exchange; arguments and errors as for `encapsulate`."""
        self._sender = _Sender(config, suite, CHUNKED_REQUEST_LABEL, ephemeral_seed)
        self._start = self._sender.start()
        self._ended = False
        self._opener_taken = False

    @property
    def enc(self) -> bytes:
        """The encapsulated key, which names this exchange at both ends."""
        return self._sender.enc

    def seal(self, data: bytes, *, final: bool = False) -> bytes:
        """Seal the next part; the first output starts with header and encapsulated key.

        Data over 16384 bytes become several chunks.

        Raises:
            UsageError: After the final chunk, or with nothing to send in a non-final one.
        """
        if self._ended:
            raise UsageError("the request's final chunk is sealed; start a new request")
        chunks = seal_chunks(self._sender.context.seal, data, final=final)
        self._ended = final
        start, self._start = self._start, b""
        return start + chunks

    def export(self, label: bytes, length: int) -> bytes:
        """See `transport.encapsulation.application_export`."""
        return application_export(self._sender.context, label, length)

    def response_opener(self, *, limit: int = DEFAULT_LIMIT) -> ChunkedResponseOpener:
        """What opens this exchange's response, once; `limit` bounds its plaintext in bytes."""
        if self._opener_taken:
            raise UsageError("the response opener was taken before; each request has one response")
        self._opener_taken = True
        return ChunkedResponseOpener(self._sender, limit)


class ChunkedResponseOpener:
    """Opens a response as it comes (message/ohttp-chunked-res)."""

    __slots__ = ("_chunks", "_limit", "_nonce", "_sender")

    def __init__(self, sender: _Sender, limit: int) -> None:
        """Made by `ChunkedRequestSealer.response_opener` only."""
        self._sender = sender
        self._limit = limit
        self._nonce = bytearray()
        self._chunks: ChunkOpener | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in any cut; return the plaintexts of the chunks that they complete.

        Raises:
            DecryptionError, LimitError, UsageError: See `ChunkOpener.feed`.
        """
        if self._chunks is None:
            missing = self._sender.nonce_length() - len(self._nonce)
            self._nonce += data[:missing]
            data = data[missing:]
            if len(self._nonce) < self._sender.nonce_length():
                return []
            aead = self._sender.response_aead(CHUNKED_RESPONSE_LABEL, bytes(self._nonce))
            self._chunks = ChunkOpener(_CountedOpen(aead), self._limit)
        return self._chunks.feed(data)

    def finish(self) -> bytes:
        """The outer stream has ended: open the final chunk; its plaintext may be empty.

        Raises:
            TruncatedError: The response is incomplete.
            DecryptionError: The final chunk does not open.
        """
        if self._chunks is None:
            raise TruncatedError("the response ended inside its nonce; ask again")
        return self._chunks.finish()


class _CountedOpen:
    """Opens chunk after chunk under nonces that count up from zero."""

    __slots__ = ("_aead", "_counter")

    def __init__(self, aead: ResponseAead) -> None:
        self._aead = aead
        self._counter = 0

    def __call__(self, sealed: bytes, aad: bytes) -> bytes:
        plaintext = self._aead.open(self._counter, sealed, aad)
        self._counter += 1
        return plaintext
