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
    RequestHeader,
    application_export,
    check_nonce,
    response_aead,
    seal_chunks,
)
from transport.errors import TruncatedError, UnknownKeyError, UsageError
from transport.hpke import RecipientContext, ResponseAead
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


class _Recipient:
    """A request's header, encapsulated key and HPKE context."""

    __slots__ = ("context", "enc", "header")

    def __init__(self, key: GatewayKey, header: RequestHeader, enc: bytes, label: bytes) -> None:
        self.header = header
        self.enc = enc
        self.context: RecipientContext = key.private_key.recipient(
            header.suite, enc, header.info(label)
        )

    def nonce_length(self) -> int:
        return hpke.aead(self.header.suite).entropy_length

    def response_aead(self, label: bytes, nonce: bytes) -> ResponseAead:
        check_nonce(self.header.suite, nonce)
        return response_aead(self.context, label, self.header.suite, self.enc, nonce)


def decapsulate(keys: KeyRing, data: bytes) -> tuple[bytes, ResponseSealer]:
    """Open one encapsulated request whole (RFC 9458 section 4.3).

    Returns:
        The Binary HTTP request's bytes and what seals its response.

    Raises:
        TruncatedError: The message ends inside header, encapsulated key or tag.
        UnknownKeyError: This gateway does not hold the key or suite.
        DecryptionError: The message does not open.
    """
    header = RequestHeader.decode(data)
    key = _find_key(keys, header)
    enc_end = HEADER_LENGTH + hpke.kem(header.kem_id).enc_length
    if len(data) < enc_end + hpke.TAG_LENGTH:
        raise TruncatedError("the encapsulated request ends inside its key or tag")
    recipient = _Recipient(key, header, bytes(data[HEADER_LENGTH:enc_end]), REQUEST_LABEL)
    return recipient.context.open(bytes(data[enc_end:]), b""), ResponseSealer(recipient)


class ResponseSealer:
    """Seals the one response to a one-shot request, once."""

    __slots__ = ("_recipient", "_used")

    def __init__(self, recipient: _Recipient) -> None:
        """Made by `decapsulate` only."""
        self._recipient = recipient
        self._used = False

    @property
    def key_id(self) -> int:
        """The identifier of the key that opened the request."""
        return self._recipient.header.key_id

    @property
    def enc(self) -> bytes:
        """The encapsulated key, which names this exchange at both ends."""
        return self._recipient.enc

    @property
    def nonce_length(self) -> int:
        """Random bytes that `seal` wants as its nonce."""
        return self._recipient.nonce_length()

    def export(self, label: bytes, length: int) -> bytes:
        """See `transport.encapsulation.application_export`."""
        return application_export(self._recipient.context, label, length)

    def seal(self, response: bytes, nonce: bytes) -> bytes:
        """Seal a whole Binary HTTP response under `nonce_length` fresh random bytes.

        Raises:
            UsageError: Called twice, or the nonce has the wrong length.
        """
        if self._used:
            raise UsageError("this request is answered; each request has one response")
        sealer = self._recipient.response_aead(RESPONSE_LABEL, nonce)
        self._used = True
        return nonce + sealer.seal(0, response, b"")


class ChunkedRequestOpener:
    """Opens a request as it comes (message/ohttp-chunked-req)."""

    __slots__ = ("_chunks", "_header_bytes", "_keys", "_limit", "_recipient", "_sealer_taken")

    def __init__(self, keys: KeyRing, *, limit: int = DEFAULT_LIMIT) -> None:
        """Wait for one request under any of `keys`; `limit` bounds its plaintext in bytes."""
        self._keys = keys
        self._limit = limit
        self._header_bytes = bytearray()
        self._recipient: _Recipient | None = None
        self._chunks: ChunkOpener | None = None
        self._sealer_taken = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in any cut; return the plaintexts of the chunks that they complete.

        Raises:
            UnknownKeyError: This gateway does not hold the key or suite; raised as soon as the
                seven header bytes are here.
            DecryptionError, LimitError, UsageError: See `ChunkOpener.feed`.
        """
        if self._chunks is None:
            data = self._feed_header(data)
        return [] if self._chunks is None else self._chunks.feed(data)

    def _feed_header(self, data: bytes) -> bytes:
        """Gather header and encapsulated key; return what follows them."""
        missing = HEADER_LENGTH - len(self._header_bytes)
        if missing > 0:
            self._header_bytes += data[:missing]
            data = data[missing:]
            if len(self._header_bytes) < HEADER_LENGTH:
                return b""
        header = RequestHeader.decode(self._header_bytes)
        key = _find_key(self._keys, header)
        end = HEADER_LENGTH + hpke.kem(header.kem_id).enc_length
        missing = end - len(self._header_bytes)
        self._header_bytes += data[:missing]
        if len(self._header_bytes) == end:
            enc = bytes(self._header_bytes[HEADER_LENGTH:])
            self._recipient = _Recipient(key, header, enc, CHUNKED_REQUEST_LABEL)
            self._chunks = ChunkOpener(self._recipient.context.open, self._limit)
        return data[missing:]

    def finish(self) -> bytes:
        """The outer stream has ended: open the final chunk; its plaintext may be empty.

        Raises:
            TruncatedError: The request is incomplete.
            DecryptionError: The final chunk does not open.
        """
        if self._chunks is None:
            raise TruncatedError("the request ended inside its header; send it again")
        return self._chunks.finish()

    def _opened(self) -> _Recipient:
        if self._recipient is None:
            raise UsageError("the request's header has not arrived; feed more first")
        return self._recipient

    @property
    def header_open(self) -> bool:
        """Whether the header and encapsulated key are here, so that the rest can be asked for."""
        return self._recipient is not None

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
        return self._opened().nonce_length()

    def export(self, label: bytes, length: int) -> bytes:
        """See `transport.encapsulation.application_export`; `UsageError` before the header.

        The secret means something only after a chunk has opened: until then anyone could have
        written the header.
        """
        return application_export(self._opened().context, label, length)

    def response_sealer(self, nonce: bytes) -> ChunkedResponseSealer:
        """What seals this exchange's response, once, under `nonce_length` fresh random bytes.

        Raises:
            UsageError: Before the header, taken twice, or a nonce of the wrong length.
        """
        if self._sealer_taken:
            raise UsageError("the response sealer was taken before; each request has one response")
        aead = self._opened().response_aead(CHUNKED_RESPONSE_LABEL, nonce)
        self._sealer_taken = True
        return ChunkedResponseSealer(aead, nonce)


class ChunkedResponseSealer:
    """Seals a response chunk by chunk (message/ohttp-chunked-res)."""

    __slots__ = ("_aead", "_counter", "_ended", "_start")

    def __init__(self, aead: ResponseAead, nonce: bytes) -> None:
        """Made by `ChunkedRequestOpener.response_sealer` only."""
        self._aead = aead
        self._start = nonce
        self._counter = 0
        self._ended = False

    def _seal_next(self, chunk: bytes, aad: bytes) -> bytes:
        sealed = self._aead.seal(self._counter, chunk, aad)
        self._counter += 1
        return sealed

    def seal(self, data: bytes, *, final: bool = False) -> bytes:
        """Seal the next part; the first output starts with the response nonce.

        Data over 16384 bytes become several chunks.

        Raises:
            UsageError: After the final chunk, or with nothing to send in a non-final one.
        """
        if self._ended:
            raise UsageError("the response's final chunk is sealed; nothing can follow it")
        chunks = seal_chunks(self._seal_next, data, final=final)
        self._ended = final
        start, self._start = self._start, b""
        return start + chunks
