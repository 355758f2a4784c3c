"""What both ends of Oblivious HTTP share: header, labels, response keys, chunk framing.

Sources: RFC 9458 section 4 for the one-shot form, draft-ietf-ohai-chunked-ohttp for chunks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from transport import hpke, varint
from transport.errors import DecryptionError, LimitError, TruncatedError, UsageError
from transport.hpke import TAG_LENGTH, Exporter, SuiteId

REQUEST_LABEL: Final = b"message/bhttp request"
RESPONSE_LABEL: Final = b"message/bhttp response"
CHUNKED_REQUEST_LABEL: Final = b"message/bhttp chunked request"
CHUNKED_RESPONSE_LABEL: Final = b"message/bhttp chunked response"
_MEDIA_LABEL_PREFIX: Final = b"message/"

MAX_CHUNK: Final = 16384
"""Plaintext bytes per chunk that every receiver must take; senders keep to it."""
DEFAULT_LIMIT: Final = 1 << 30
"""Plaintext bytes per message: the margin computed in the draft, section "Message Size Limits"."""
FINAL_AAD: Final = b"final"
_MAX_SEALED: Final = MAX_CHUNK + TAG_LENGTH
_FULL_LENGTH: Final = varint.encode(_MAX_SEALED)

_HEADER = struct.Struct("!BHHH")
HEADER_LENGTH: Final = _HEADER.size


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """The clear start of every encapsulated request: which key, KEM and suite."""

    key_id: int
    kem_id: int
    suite: SuiteId

    def encode(self) -> bytes:
        """The seven bytes of RFC 9458 section 4.1."""
        return _HEADER.pack(self.key_id, self.kem_id, *self.suite)

    @classmethod
    def decode(cls, data: bytes | bytearray) -> RequestHeader:
        """Read the first seven bytes of `data`; `TruncatedError` if there are fewer."""
        if len(data) < HEADER_LENGTH:
            raise TruncatedError("the encapsulated request ends inside its header")
        key_id, kem_id, kdf_id, aead_id = _HEADER.unpack_from(data)
        return cls(key_id, kem_id, SuiteId(kdf_id, aead_id))

    def info(self, label: bytes) -> bytes:
        """The HPKE info string: label, zero byte, header (RFC 9458 section 4.3)."""
        return label + b"\x00" + self.encode()


@dataclass(frozen=True, slots=True)
class Exchange:
    """What both ends of one exchange hold once its encapsulated key is known.

    Attributes:
        header: Of the request.
        enc: The encapsulated key, which names the exchange at both ends.
        exporter: Of the HPKE context.
    """

    header: RequestHeader
    enc: bytes
    exporter: Exporter = field(repr=False)

    @property
    def nonce_length(self) -> int:
        """Bytes of the response nonce: max(Nn, Nk) (RFC 9458 section 4.4)."""
        return hpke.aead(self.header.suite).entropy_length

    def export(self, label: bytes, length: int) -> bytes:
        """Export a secret for the application, under a label of its own.

        Labels that start with `message/` are refused: OHTTP derives response keys under such
        labels (RFC 9458 section 4.6), and an application must never hold those.

        Raises:
            UsageError: The label is reserved, or the length is not 1 to 255 * Nh bytes.
        """
        if label.startswith(_MEDIA_LABEL_PREFIX):
            raise UsageError(f"export label {label!r} is reserved for response keys; use another")
        return self.exporter.export(label, length)

    def response_key(self, label: bytes, nonce: bytes) -> tuple[SuiteId, bytes, bytes]:
        """Suite, key and base nonce of the response (RFC 9458 section 4.4, and for chunks alike).

        Raises:
            UsageError: The nonce does not have `nonce_length` bytes.
        """
        suite = self.header.suite
        kdf, aead = hpke.kdf(suite), hpke.aead(suite)
        if len(nonce) != aead.entropy_length:
            raise UsageError(
                f"a response nonce of this suite has {aead.entropy_length} bytes, not {len(nonce)}"
            )
        secret = self.exporter.export(label, aead.entropy_length)
        prk = kdf.extract(self.enc + nonce, secret)
        key = kdf.expand(prk, b"key", aead.key_length)
        return suite, key, kdf.expand(prk, b"nonce", hpke.NONCE_LENGTH)


def check_whole(size: int) -> None:
    """Refuse a one-shot message over `DEFAULT_LIMIT` bytes with `LimitError`."""
    if size > DEFAULT_LIMIT:
        raise LimitError(f"a message of {size} bytes is over {DEFAULT_LIMIT}; send less")


class ChunkSealer:
    """Seals one message as framed chunks, behind the bytes that it starts with."""

    __slots__ = ("_ended", "_left", "_seal", "_start")

    def __init__(
        self, seal: Callable[[bytes, bytes], bytes], start: bytes, limit: int = DEFAULT_LIMIT
    ) -> None:
        """Put `start` before the first chunk and seal up to `limit` plaintext bytes."""
        self._seal = seal
        self._start = start
        self._left = limit
        self._ended = False

    def seal(self, data: bytes, *, final: bool = False) -> bytes:
        """Seal the next part, as chunks of at most `MAX_CHUNK` bytes, the last final on request.

        Raises:
            UsageError: After the final chunk, or with nothing to send in a non-final one.
            LimitError: The message has become larger than one key should protect.
        """
        size = len(data)
        if self._ended:
            raise UsageError("this message's final chunk is sealed; start a new exchange")
        if size > self._left:
            raise LimitError("the message is larger than one key should protect; send less")
        if not size and not final:
            # "A non-final chunk MUST NOT contain a zero-length plaintext."
            raise UsageError("a non-final chunk holds something; send data or seal with final=True")
        self._left -= size
        out, self._start = self._start, b""
        if size > MAX_CHUNK:
            last = (size - 1) // MAX_CHUNK * MAX_CHUNK
            whole = (data[at : at + MAX_CHUNK] for at in range(0, last, MAX_CHUNK))
            out += b"".join(_FULL_LENGTH + self._seal(piece, b"") for piece in whole)
            data = data[last:]
        if final:
            self._ended = True
            # Length 0 marks the final chunk, which runs to the end of the outer stream.
            return out + b"\x00" + self._seal(data, FINAL_AAD)
        sealed = self._seal(data, b"")
        return out + varint.encode(len(sealed)) + sealed


class ChunkOpener:
    """Cuts a stream into sealed chunks and opens them, holding at most one chunk.

    The bytes before the first chunk are the subclass's: when `_missing` of them have come, it is
    asked to `_begin`. After any error it stays dead: a sender that was wrong once gets no second
    try.
    """

    __slots__ = ("_buffer", "_dead", "_final", "_left", "_missing", "_open", "_start")

    def __init__(self, missing: int, limit: int) -> None:
        """Wait for the first `missing` bytes; open up to `limit` plaintext bytes."""
        self._missing = missing
        self._start = bytearray()
        self._open: Callable[[bytes | bytearray, bytes], bytes] = _not_begun
        self._buffer = bytearray()
        self._final = False
        self._left = limit
        self._dead = False

    def _begin(self, start: bytes) -> None:
        """Set `_open`, or `_missing` where more bytes must come first."""
        raise NotImplementedError

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """Take bytes in any cut; return the plaintexts of the chunks that they complete.

        Raises:
            LimitError: A chunk or the message is larger than allowed; nothing more is held.
            DecryptionError: A chunk does not open or is empty.
            UsageError: The stream has ended or failed before.
        """
        if self._dead:
            raise _ended()
        self._dead = True  # until this call ends well
        if self._missing:
            data = self._feed_start(data)
        plaintexts: list[bytes] = []
        # Chunks that come whole are opened where they lie.
        done = 0 if self._buffer or self._final else self._open_whole(data, plaintexts)
        if done < len(data):
            self._keep(memoryview(data)[done:], plaintexts)
        self._dead = False
        return plaintexts

    def _feed_start(self, data: bytes | bytearray) -> bytes | bytearray:
        while self._missing and data:
            taken, data = data[: self._missing], data[self._missing :]
            self._start += taken
            self._missing -= len(taken)
            if not self._missing:
                self._begin(bytes(self._start))
        return data

    def _keep(self, view: memoryview, plaintexts: list[bytes]) -> None:
        while view:
            # Take no more than one chunk into the buffer, however much the caller hands over.
            room = _MAX_SEALED + 8 - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if not self._final:
                del self._buffer[: self._open_whole(self._buffer, plaintexts)]
            held = len(self._buffer)
            if self._final and (held > _MAX_SEALED or held - TAG_LENGTH > self._left):
                self._refuse(held)

    def _open_whole(self, data: bytes | bytearray, plaintexts: list[bytes]) -> int:
        """Open the chunks that are here whole; return the offset after them."""
        offset, size, open_chunk = 0, len(data), self._open
        while offset < size and (prefix := varint.decode(data, offset)) is not None:
            length, start = prefix
            if length == 0:
                self._final = True
                return start
            if length > _MAX_SEALED or length - TAG_LENGTH > self._left:
                self._refuse(length)
            if length <= TAG_LENGTH:
                # "A receiver MUST treat the receipt of a chunk that contains no data as
                # equivalent to a decryption error, unless that chunk is the final chunk."
                raise DecryptionError("a non-final chunk holds no data; the sender is faulty")
            end = start + length
            if size < end:
                break
            plaintexts.append(open_chunk(data[start:end], b""))
            self._left -= length - TAG_LENGTH
            offset = end
        return offset

    def _refuse(self, sealed_length: int) -> NoReturn:
        if sealed_length > _MAX_SEALED:
            raise LimitError(
                f"a chunk of {sealed_length} bytes is over {_MAX_SEALED}; send smaller chunks"
            )
        raise LimitError("the message is larger than this end accepts; send less")

    def finish(self) -> bytes:
        """The outer stream has ended: open the final chunk and return its plaintext.

        Raises:
            TruncatedError: The stream ended before a final chunk.
            DecryptionError: The final chunk does not open.
            UsageError: The stream has ended or failed before.
        """
        if self._dead:
            raise _ended()
        self._dead = True
        if not self._final or len(self._buffer) < TAG_LENGTH:
            raise TruncatedError(
                "the message ended before its final chunk; what came before may be incomplete"
            )
        sealed = bytes(self._buffer)
        self._buffer.clear()
        return self._open(sealed, FINAL_AAD)


def _not_begun(sealed: bytes | bytearray, aad: bytes) -> bytes:
    raise UsageError("the message's start has not come; feed it first")


def _ended() -> UsageError:
    return UsageError("this message has ended or failed; start a new exchange")
