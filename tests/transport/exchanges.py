"""Whole chunked exchanges, kept so that either direction can be opened over and over."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from transport import hpke, varint
from transport.encapsulation import ChunkOpener
from transport.gateway import ChunkedRequestOpener
from transport.hpke import KEM_X25519_HKDF_SHA256, SUITES, SuiteId
from transport.keyconfig import GatewayKey
from transport.ohttp import ChunkedRequestSealer

PARTS = (b"one", b"two" * 20, b"three" * 12, b"end")
HEADER_LENGTH = 7


def make_key(kem_id: int, suite: SuiteId, key_id: int = 1) -> GatewayKey:
    """A gateway's key of this KEM that offers one suite, always the same."""
    private = hpke.PrivateKey.derive(kem_id, bytes(range(32)))
    return GatewayKey.from_private_key(key_id, private, suites=(suite,))


@dataclass(frozen=True)
class Wire:
    """One direction of an exchange.

    Attributes:
        name: KEM, suite and direction.
        data: The encapsulated message, whole.
        start: Bytes before the first chunk.
        opener: Makes an object that opens this message.
    """

    name: str
    data: bytes
    start: int
    opener: Callable[[], ChunkOpener]

    def open(self, *pieces: bytes) -> list[bytes]:
        """The plaintexts of the chunks, from bytes that come in these pieces."""
        opener = self.opener()
        return [*(chunk for piece in pieces for chunk in opener.feed(piece)), opener.finish()]

    def chunks(self) -> list[bytes]:
        """The framed chunks, without the message's start."""
        found, offset = [], self.start
        while True:
            prefix = varint.decode(self.data, offset)
            if prefix is None or prefix[0] == 0:
                return [*found, self.data[offset:]]
            found.append(self.data[offset : sum(prefix)])
            offset = sum(prefix)


def record(
    kem_id: int, suite: SuiteId, parts: tuple[bytes, ...] = PARTS, nonce_byte: int = 0
) -> tuple[Wire, Wire]:
    """Request and response of one exchange, each with these parts as chunks."""
    key = make_key(kem_id, suite)
    sealer = ChunkedRequestSealer(key.config)
    request = b"".join(map(sealer.seal, parts[:-1])) + sealer.seal(parts[-1], final=True)
    opener = ChunkedRequestOpener({1: key})
    opener.feed(request)
    answer = opener.response_sealer(bytes((nonce_byte,)) * opener.nonce_length)
    response = b"".join(map(answer.seal, parts[:-1])) + answer.seal(parts[-1], final=True)
    name = f"{kem_id:#06x}-{suite.kdf_id}-{suite.aead_id}"
    return (
        Wire(
            f"{name}-request",
            request,
            HEADER_LENGTH + len(sealer.enc),
            lambda: ChunkedRequestOpener({1: key}),
        ),
        # A sealer gives its opener away once; its copy has not given it yet.
        Wire(
            f"{name}-response",
            response,
            opener.nonce_length,
            lambda: copy.copy(sealer).response_opener(),
        ),
    )


COMBINATIONS = [
    *((kem_id, kem.offered[0]) for kem_id, kem in hpke.KEMS.items()),
    *((KEM_X25519_HKDF_SHA256, suite) for suite in SUITES[1:]),
]
"""Every KEM, and every suite."""
WIRES = [wire for kem_id, suite in COMBINATIONS for wire in record(kem_id, suite)]
