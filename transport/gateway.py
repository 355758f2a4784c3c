"""The gateway of Oblivious HTTP: one-shot (RFC 9458) and chunked (chunked OHTTP draft).

Replay protection is the caller's: `enc` names a request, `transport.replay` remembers it.
"""

from __future__ import annotations

from collections.abc import Mapping

from transport import hpke
from transport.encapsulation import (
    CHUNKED_REQUEST_LABEL,
    CHUNKED_RESPONSE_LABEL,
    DEFAULT_LIMIT,
    HEADER_LENGTH,
    REQUEST_LABEL,
    RESPONSE_LABEL,
    ChunkOpener,
    ChunkSealer,
    Exchange,
    RequestHeader,
    check_whole,
)
from transport.errors import TruncatedError, UnknownKeyError, UsageError
from transport.hpke import Opener, Sealer
from transport.keyconfig import GatewayKey

KeyRing = Mapping[int, GatewayKey]
"""The gateway's keys by key identifier."""


def _find_key(keys: KeyRing, header: RequestHeader) -> GatewayKey:
    """The key that the header names; a KEM or suite it does not offer is an unknown key too."""
    key = keys.get(header.key_id)
    if key is None or key.config.kem_id != header.kem_id or header.suite not in key.config.suites:
        raise UnknownKeyError(
            f"key {header.key_id} with KEM {header.kem_id:#06x} and suite "
            f"{header.suite.kdf_id:#06x}/{header.suite.aead_id:#06x} is not held here; "
            "fetch the key configuration anew"
        )
    return key


def _set_up(
    key: GatewayKey, header: RequestHeader, enc: bytes, label: bytes
) -> tuple[Exchange, Opener]:
    opener, exporter = key.private_key.recipient(header.suite, enc, header.info(label))
    return Exchange(header, enc, exporter), opener


def decapsulate(keys: KeyRing, data: bytes) -> tuple[bytes, ResponseSealer]:
    """Open one encapsulated request whole (RFC 9458 section 4.3).

    Returns:
        The Binary HTTP request's bytes and what seals its response.

    Raises:
        TruncatedError: The message ends inside header, encapsulated key or tag.
        UnknownKeyError: This gateway does not hold the key or suite.
        DecryptionError: The message does not open.
        LimitError: The message is over `DEFAULT_LIMIT` bytes.
    """
    check_whole(len(data))
    header = RequestHeader.decode(data)
    key = _find_key(keys, header)
    enc_end = HEADER_LENGTH + hpke.kem(header.kem_id).enc_length
    if len(data) < enc_end + hpke.TAG_LENGTH:
        raise TruncatedError("the encapsulated request ends inside its key or tag; send it again")
    exchange, opener = _set_up(key, header, bytes(data[HEADER_LENGTH:enc_end]), REQUEST_LABEL)
    return opener.open(bytes(data[enc_end:]), b""), ResponseSealer(exchange)


class ResponseSealer:
    """Seals the one response to a one-shot request, once."""

    __slots__ = ("_exchange", "_used")

    def __init__(self, exchange: Exchange) -> None:
        """Made by `decapsulate` only."""
        self._exchange = exchange
        self._used = False

    @property
    def key_id(self) -> int:
        """The identifier of the key that opened the request."""
        return self._exchange.header.key_id

    @property
    def enc(self) -> bytes:
        """The encapsulated key, which names this exchange at both ends."""
        return self._exchange.enc

    @property
    def nonce_length(self) -> int:
        """Random bytes that `seal` wants as its nonce."""
        return self._exchange.nonce_length

    def export(self, label: bytes, length: int) -> bytes:
        """See `transport.encapsulation.Exchange.export`."""
        return self._exchange.export(label, length)

    def seal(self, response: bytes, nonce: bytes) -> bytes:
        """Seal a whole Binary HTTP response under `nonce_length` fresh random bytes.

        Raises:
            UsageError: Called twice, or the nonce has the wrong length.
            LimitError: The response is over `DEFAULT_LIMIT` bytes.
        """
        check_whole(len(response))
        if self._used:
            raise UsageError("this request is answered; each request has one response")
        keys = self._exchange.response_key(RESPONSE_LABEL, nonce)
        self._used = True
        return nonce + Sealer(*keys).seal(response, b"")


class ChunkedRequestOpener(ChunkOpener):
    """Opens a request as it comes (message/ohttp-chunked-req).

    `feed` raises `UnknownKeyError` as soon as the seven bytes of a header are here that name a
    key, KEM or suite which this gateway does not hold.
    """

    __slots__ = ("_exchange", "_key", "_keys", "_sealer_taken")

    def __init__(self, keys: KeyRing, *, limit: int = DEFAULT_LIMIT) -> None:
        """Wait for one request under any of `keys`; `limit` bounds its plaintext in bytes."""
        super().__init__(HEADER_LENGTH, limit)
        self._keys = keys
        self._key: GatewayKey | None = None
        self._exchange: Exchange | None = None
        self._sealer_taken = False

    def _begin(self, start: bytes) -> None:
        header = RequestHeader.decode(start)
        if self._key is None:
            self._key = _find_key(self._keys, header)
            self._missing = hpke.kem(header.kem_id).enc_length
        else:
            enc = start[HEADER_LENGTH:]
            self._exchange, opener = _set_up(self._key, header, enc, CHUNKED_REQUEST_LABEL)
            self._open = opener.open

    def _opened(self) -> Exchange:
        if self._exchange is None:
            raise UsageError("the request's header has not arrived; feed more first")
        return self._exchange

    @property
    def header_open(self) -> bool:
        """Whether the header and encapsulated key are here, so that the rest can be asked for."""
        return self._exchange is not None

    @property
    def key_id(self) -> int:
        """The identifier of the key that opens the request; `UsageError` before the header."""
        return self._opened().header.key_id

    @property
    def enc(self) -> bytes:
        """The encapsulated key, which names this exchange; `UsageError` before the header."""
        return self._opened().enc

    @property
    def nonce_length(self) -> int:
        """Random bytes that `response_sealer` wants; `UsageError` before the header."""
        return self._opened().nonce_length

    def export(self, label: bytes, length: int) -> bytes:
        """See `transport.encapsulation.Exchange.export`; `UsageError` before the header.

        The secret means something only after a chunk has opened: until then anyone could have
        written the header.
        """
        return self._opened().export(label, length)

    def response_sealer(self, nonce: bytes) -> ChunkedResponseSealer:
        """What seals this exchange's response, once, under `nonce_length` fresh random bytes.

        Raises:
            UsageError: Before the header, taken twice, or a nonce of the wrong length.
        """
        if self._sealer_taken:
            raise UsageError("the response sealer was taken before; each request has one response")
        keys = self._opened().response_key(CHUNKED_RESPONSE_LABEL, nonce)
        self._sealer_taken = True
        return ChunkedResponseSealer(Sealer(*keys).seal, nonce)


class ChunkedResponseSealer(ChunkSealer):
    """Seals a response chunk by chunk (message/ohttp-chunked-res).

    Made by `ChunkedRequestOpener.response_sealer` only. The first output of `seal` starts with the
    response nonce.
    """

    __slots__ = ()
