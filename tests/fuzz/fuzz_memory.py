"""Sealed records: as Redis holds them, and as whoever has a thread's key could have sealed them."""

from __future__ import annotations

from collections.abc import Iterable

import cbor2
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from fuzz_support import Target, mutate

from memory.errors import CorruptError, MemoryStoreError
from memory.keys import ThreadKeys
from memory.records import Turn, genesis_head, open_record, seal
from memory.thread import Position

KEYS = ThreadKeys(b"k" * 32)
GENESIS = genesis_head(KEYS.thread_id)
NONCE = b"n" * 12
TURN = Turn(
    turn_id=b"t" * 16,
    time=1_790_000_000,
    message="My sister called.",
    reply="What did she say?",
    outcome="completed",
    receipt_id=b"r" * 16,
    receipt_digest=b"d" * 32,
)


def _sealed(data: bytes) -> None:
    sealed = seal(KEYS, 0, GENESIS, TURN, nonce=NONCE)
    changed = mutate(sealed, data[1:]) if data[:1] == b"\x01" else data
    try:
        assert open_record(KEYS, 0, changed) == TURN
    except CorruptError:
        assert changed != sealed


def _plaintext(data: bytes) -> None:
    """Any content under a true seal: a turn that seals to the same bytes, or corrupt."""
    size = 512 if len(data) < 512 else 1024
    plaintext = (data + b"\x80").ljust(size, b"\x00")[:size]
    label = b"sottovoce memory v1 record\x00\x01" + bytes.fromhex(KEYS.thread_id)
    place = label + bytes(8) + GENESIS
    body = ChaCha20Poly1305(KEYS.record_key(0)).encrypt(NONCE, plaintext, place)
    sealed = b"\x01" + GENESIS + NONCE + body
    try:
        turn = open_record(KEYS, 0, sealed)
    except CorruptError as error:
        assert "seal" not in error.reason
        return
    assert seal(KEYS, 0, GENESIS, turn, nonce=NONCE) == sealed


def _position(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        position = Position.parse(text)
    except MemoryStoreError:
        return
    assert str(position) == text


def _content(**changes: object) -> bytes:
    fields = {name: getattr(TURN, name) for name in TURN.__dataclass_fields__} | changes
    return b"\x01" + cbor2.dumps(list(fields.values()), canonical=True)


def _sealed_seeds() -> Iterable[bytes]:
    return [seal(KEYS, 0, GENESIS, TURN, nonce=NONCE), b"\x01", b"\x01\x00\x00\x40\x01"]


def _plaintext_seeds() -> Iterable[bytes]:
    yield _content()
    yield _content(receipt_digest=None, message="", reply="\u2014", outcome="failed")
    yield b"\x02" + cbor2.dumps(1)
    for tag, value in ((0, "x"), (4, [9, 9]), (30, [1, 0]), (35, "(")):
        yield b"\x01" + cbor2.dumps(cbor2.CBORTag(tag, value))
    yield b"\x01" + b"\x81" * 200


TARGETS = {
    "memory-sealed": Target(_sealed, _sealed_seeds, 640),
    "memory-plaintext": Target(_plaintext, _plaintext_seeds, 900),
    "memory-position": Target(_position, lambda: [b"3." + b"0" * 64, b"0." + b"f" * 64], 128),
}
