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
    ChunkSealer,
    Exchange,
    RequestHeader,
    check_whole,
)
from transport.errors import TruncatedError, UsageError
from transport.hpke import Opener, Sealer, SuiteId
from transport.keyconfig import KeyConfig


def _set_up(
    config: KeyConfig, suite: SuiteId | None, label: bytes, seed: bytes | None
) -> tuple[Exchange, Sealer]:
    suite = suite or config.choose_suite()
    if suite not in config.suites:
        raise UsageError(
            f"key configuration {config.key_id} does not offer suite {suite.kdf_id:#06x}/"
            f"{suite.aead_id:#06x}; choose one of its own"
        )
    header = RequestHeader(config.key_id, config.kem_id, suite)
    enc, sealer, exporter = hpke.setup_sender(
        config.kem_id, config.public_key, suite, header.info(label), seed
    )
    return Exchange(header, enc, exporter), sealer


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
        ephemeral_seed: The ephemeral private key of a DHKEM, for test vectors only.

    Returns:
        The encapsulated request (message/ohttp-req) and what opens its response.

    Raises:
        UnknownKeyError, UsageError: No suite in common, or a suite that is not offered.
        MessageError: The configuration's public key is invalid.
        LimitError: The request is over `DEFAULT_LIMIT` bytes.
    """
    check_whole(len(request))
    exchange, sealer = _set_up(config, suite, REQUEST_LABEL, ephemeral_seed)
    start = exchange.header.encode() + exchange.enc
    return start + sealer.seal(request, b""), ResponseOpener(exchange)


class ResponseOpener:
    """Opens the one response to a one-shot request, once."""

    __slots__ = ("_exchange", "_used")

    def __init__(self, exchange: Exchange) -> None:
        """Made by `encapsulate` only."""
        self._exchange = exchange
        self._used = False

    def export(self, label: bytes, length: int) -> bytes:
        """See `transport.encapsulation.Exchange.export`."""
        return self._exchange.export(label, length)

    def open(self, data: bytes) -> bytes:
        """Open a whole encapsulated response (RFC 9458 section 4.4).

        Raises:
            TruncatedError, DecryptionError: The response is cut, altered or not for this request.
            LimitError: The response is over `DEFAULT_LIMIT` bytes.
            UsageError: Called twice.
        """
        if self._used:
            raise UsageError("this response was opened before; each request has one response")
        self._used = True
        check_whole(len(data))
        nonce_length = self._exchange.nonce_length
        if len(data) < nonce_length + hpke.TAG_LENGTH:
            raise TruncatedError("the encapsulated response ends inside its nonce or tag")
        keys = self._exchange.response_key(RESPONSE_LABEL, data[:nonce_length])
        return Opener(*keys).open(data[nonce_length:], b"")


class ChunkedRequestSealer(ChunkSealer):
    """Seals a request chunk by chunk (message/ohttp-chunked-req).

    The first output of `seal` starts with header and encapsulated key.
    """

    __slots__ = ("_exchange", "_opener_taken")

    def __init__(
        self,
        config: KeyConfig,
        *,
        suite: SuiteId | None = None,
        ephemeral_seed: bytes | None = None,
    ) -> None:
        """Set up one exchange; arguments and errors as for `encapsulate`."""
        exchange, sealer = _set_up(config, suite, CHUNKED_REQUEST_LABEL, ephemeral_seed)
        super().__init__(sealer.seal, exchange.header.encode() + exchange.enc)
        self._exchange = exchange
        self._opener_taken = False

    @property
    def enc(self) -> bytes:
        """The encapsulated key, which names this exchange at both ends."""
        return self._exchange.enc

    def export(self, label: bytes, length: int) -> bytes:
        """See `transport.encapsulation.Exchange.export`."""
        return self._exchange.export(label, length)

    def response_opener(self, *, limit: int = DEFAULT_LIMIT) -> ChunkedResponseOpener:
        """What opens this exchange's response, once; `limit` bounds its plaintext in bytes."""
        if self._opener_taken:
            raise UsageError("the response opener was taken before; each request has one response")
        self._opener_taken = True
        return ChunkedResponseOpener(self._exchange, limit)


class ChunkedResponseOpener(ChunkOpener):
    """Opens a response as it comes (message/ohttp-chunked-res)."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange, limit: int) -> None:
        """Made by `ChunkedRequestSealer.response_opener` only."""
        super().__init__(exchange.nonce_length, limit)
        self._exchange = exchange

    def _begin(self, start: bytes) -> None:
        self._open = Opener(*self._exchange.response_key(CHUNKED_RESPONSE_LABEL, start)).open
