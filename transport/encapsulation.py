"""What both ends of Oblivious HTTP share: header, labels, response keys, chunk framing.

Sources: RFC 9458 section 4 for the one-shot form, draft-ietf-ohai-chunked-ohttp for chunks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from transport import hpke, varint
from transport.errors import DecryptionError, LimitError, TruncatedError, UsageError
from transport.hpke import TAG_LENGTH, ResponseAead, SuiteId

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


class Exporter(Protocol):
    """Either end's HPKE context, as far as exporting goes."""

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """The HPKE exporter."""
        ...


def application_export(context: Exporter, label: bytes, length: int) -> bytes:
    """Export a secret for the application, under a label of its own.

    Labels that start with `message/` are refused: OHTTP derives response keys under such labels
    (RFC 9458 section 4.6), and an application must never hold those.

    Raises:
        UsageError: The label is reserved, or the length is not 1 to 8160 bytes.
    """
    if label.startswith(_MEDIA_LABEL_PREFIX):
        raise UsageError(f"export label {label!r} is reserved for response keys; choose another")
    return context.export(label, length)


def response_aead(
    context: Exporter, label: bytes, suite: SuiteId, enc: bytes, nonce: bytes
) -> ResponseAead:
    """Derive the response key and nonce (RFC 9458 section 4.4; same in the chunked draft)."""
    sizes = hpke.aead(suite)
    secret = context.export(label, sizes.entropy_length)
    prk = hpke.hkdf_sha256_extract(enc + nonce, secret)
    key = hpke.hkdf_sha256_expand(prk, b"key", sizes.key_length)
    base_nonce = hpke.hkdf_sha256_expand(prk, b"nonce", sizes.nonce_length)
    return ResponseAead(suite, key, base_nonce)


def check_nonce(suite: SuiteId, nonce: bytes) -> None:
    """Refuse a response nonce whose length is not max(Nn, Nk)."""
    expected = hpke.aead(suite).entropy_length
    if len(nonce) != expected:
        raise UsageError(f"a response nonce of this suite has {expected} bytes, not {len(nonce)}")


def seal_chunks(seal: Callable[[bytes, bytes], bytes], data: bytes, *, final: bool) -> bytes:
    """Seal `data` as framed chunks of at most `MAX_CHUNK` bytes, the last one final on request.

    Raises:
        UsageError: `data` is empty and not final: a non-final chunk must carry something.
    """
    if not data and not final:
        raise UsageError("a non-final chunk must not be empty; send data or seal with final=True")
    out = bytearray()
    for piece, last in _pieces(data):
        if last and final:
            # Length 0 marks the final chunk, which runs to the end of the outer stream.
            out += b"\x00"
            out += seal(piece, FINAL_AAD)
        else:
            sealed = seal(piece, b"")
            out += varint.encode(len(sealed))
            out += sealed
    return bytes(out)


def _pieces(data: bytes) -> Iterator[tuple[bytes, bool]]:
    if len(data) <= MAX_CHUNK:
        yield data, True
        return
    for start in range(0, len(data), MAX_CHUNK):
        yield data[start : start + MAX_CHUNK], start + MAX_CHUNK >= len(data)


class ChunkOpener:
    """Cuts a stream into sealed chunks and opens them, holding at most one chunk.

    After any error it stays dead: a sender that was wrong once gets no second try.
    """

    __slots__ = ("_buffer", "_dead", "_final", "_left", "_open")

    def __init__(self, open_chunk: Callable[[bytes, bytes], bytes], limit: int) -> None:
        self._open = open_chunk
        self._buffer = bytearray()
        self._final = False
        self._left = limit
        self._dead = False

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """Take bytes as they come; return the plaintexts of the chunks that they complete.

        Raises:
            LimitError: A chunk or the message is larger than allowed; nothing more is held.
            DecryptionError: A chunk does not open or is empty.
            UsageError: The stream has ended or failed before.
        """
        self._check_alive()
        self._dead = True  # until this call ends well
        plaintexts = []
        view = memoryview(data)
        while True:
            # Take no more than one chunk into the buffer, however much the caller hands over.
            room = MAX_CHUNK + TAG_LENGTH + 8 - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            plaintexts += self._complete_chunks()
            if not view:
                break
        self._dead = False
        return plaintexts

    def _complete_chunks(self) -> list[bytes]:
        plaintexts = []
        offset = 0
        while not self._final:
            header = varint.decode(self._buffer, offset)
            if header is None:
                break
            length, start = header
            if length == 0:
                self._final = True
                offset = start
                break
            self._check_length(length)
            if length <= TAG_LENGTH:
                # "A receiver MUST treat the receipt of a chunk that contains no data as
                # equivalent to a decryption error, unless that chunk is the final chunk."
                raise DecryptionError("a non-final chunk holds no data; the sender is faulty")
            if len(self._buffer) < start + length:
                break
            offset = start + length
            plaintexts.append(self._open(bytes(self._buffer[start:offset]), b""))
            self._left -= length - TAG_LENGTH
        del self._buffer[:offset]
        if self._final:
            self._check_length(len(self._buffer))
        return plaintexts

    def _check_length(self, sealed_length: int) -> None:
        if sealed_length > MAX_CHUNK + TAG_LENGTH:
            raise LimitError(
                f"a chunk of {sealed_length} bytes is over {MAX_CHUNK + TAG_LENGTH}; "
                "send smaller chunks"
            )
        if sealed_length - TAG_LENGTH > self._left:
            raise LimitError("the message is larger than this end accepts; send less")

    def finish(self) -> bytes:
        """The outer stream has ended: open the final chunk and return its plaintext.

        Raises:
            TruncatedError: The stream ended before a final chunk.
            DecryptionError: The final chunk does not open.
            UsageError: The stream has ended or failed before.
        """
        self._check_alive()
        self._dead = True
        if not self._final or len(self._buffer) < TAG_LENGTH:
            raise TruncatedError(
                "the message ended before its final chunk; what came before may be incomplete"
            )
        sealed = bytes(self._buffer)
        self._buffer.clear()
        return self._open(sealed, FINAL_AAD)

    def _check_alive(self) -> None:
        if self._dead:
            raise UsageError("this message has ended or failed; start a new one")
