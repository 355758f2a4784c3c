"""Sealed records: as Redis holds them, and as whoever has a thread's key could have sealed them."""

from __future__ import annotations

from collections.abc import Iterable

import cbor2
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from fuzz_support import Target, mutate

from memory.errors import CorruptError, MemoryStoreError
from memory.keys import ThreadKeys
from memory.kinds import NUMBERS, to_fields
from memory.records import (
    Fact,
    Gap,
    Notes,
    Pin,
    Record,
    Ref,
    Summary,
    Tombstone,
    Turn,
    genesis_head,
    open_record,
    seal,
)
from memory.state import open_state, seal_state
from memory.thread import Position
from memory.view import View

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
    recalled=(Ref(3), Ref(4, 1)),
    window=2,
    summary=1,
    lore=(b"l" * 8,),
)
FACT = Fact("The dog is Rex.", "user.dog", 50, 5, (1,), (Ref(2, 0),), b"v" * 16, True)
RECORDS: tuple[Record, ...] = (
    TURN,
    Notes(1, b"m" * 8, b"v" * 16, (FACT,), ((Ref(1, 0), 3),)),
    Summary("They spoke of a dog.", 3, 5),
    Pin(Ref(1, 0), True),
    Tombstone(b"r" * 16, 5, (Ref(3),), (3, 4)),
    Gap(),
)
VIEW = View.empty(KEYS).fold([(0, TURN), (1, RECORDS[1]), (2, RECORDS[2])], Position(3, b"h" * 32))


def _sealed(data: bytes) -> None:
    sealed = seal(KEYS, 0, GENESIS, TURN, nonce=NONCE)
    changed = mutate(sealed, data[1:]) if data[:1] == b"\x01" else data
    try:
        assert open_record(KEYS, 0, changed) == TURN
    except CorruptError:
        assert changed != sealed


def _plaintext(data: bytes) -> None:
    """Any content under a true seal: a record that seals to the same bytes, or corrupt."""
    size = 512 if len(data) < 512 else 1024
    plaintext = (data + b"\x80").ljust(size, b"\x00")[:size]
    label = b"sottovoce memory v2 record\x00\x02" + bytes.fromhex(KEYS.thread_id)
    place = label + bytes(8) + GENESIS
    body = ChaCha20Poly1305(KEYS.record_key(0)).encrypt(NONCE, plaintext, place)
    sealed = b"\x02" + GENESIS + NONCE + body
    try:
        record = open_record(KEYS, 0, sealed)
    except CorruptError as error:
        assert "seal" not in error.reason
        return
    assert seal(KEYS, 0, GENESIS, record, nonce=NONCE) == sealed


def _position(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        position = Position.parse(text)
    except MemoryStoreError:
        return
    assert str(position) == text


def _reference(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        ref = Ref.parse(text)
    except MemoryStoreError:
        return
    assert str(ref) == text


def _state(data: bytes) -> None:
    """A state that was changed, or anything in its place: what was sealed, or corrupt."""
    sealed = seal_state(KEYS, VIEW, nonce=NONCE)
    changed = mutate(sealed, data[1:]) if data[:1] == b"\x01" else data
    try:
        view = open_state(KEYS, changed)
    except CorruptError:
        assert changed != sealed
        return
    assert changed == sealed
    assert view.encode() == VIEW.encode()


def _state_content(data: bytes) -> None:
    """Any content under a true seal: a view that seals to the same bytes, or corrupt."""
    header = b"%010d\x02" % VIEW.position.length + VIEW.position.head
    place = b"sottovoce memory v2 state\x00" + bytes.fromhex(KEYS.thread_id) + header
    body = ChaCha20Poly1305(KEYS.state_key()).encrypt(NONCE, data, place)
    sealed = header + NONCE + body
    try:
        view = open_state(KEYS, sealed)
    except CorruptError as error:
        assert "altered" not in error.reason
        return
    again = seal_state(KEYS, view, nonce=NONCE)
    assert open_state(KEYS, again).encode() == view.encode()


def _content(**changes: object) -> bytes:
    fields = dict(zip(TURN.__dataclass_fields__, to_fields(TURN), strict=True)) | changes
    return b"\x01" + cbor2.dumps(list(fields.values()), canonical=True)


def _sealed_seeds() -> Iterable[bytes]:
    return [seal(KEYS, 0, GENESIS, TURN, nonce=NONCE), b"\x01", b"\x01\x00\x00\x40\x01"]


def _plaintext_seeds() -> Iterable[bytes]:
    yield _content()
    yield _content(receipt_digest=None, message="", reply="\u2014", outcome="failed")
    yield b"\x02" + cbor2.dumps(1)
    for record in RECORDS[1:]:
        yield bytes([NUMBERS[type(record)]]) + cbor2.dumps(to_fields(record), canonical=True)
    for tag, value in ((0, "x"), (4, [9, 9]), (30, [1, 0]), (35, "(")):
        yield b"\x01" + cbor2.dumps(cbor2.CBORTag(tag, value))
    yield b"\x01" + b"\x81" * 200


def _state_seeds() -> Iterable[bytes]:
    return [seal_state(KEYS, VIEW, nonce=NONCE), b"\x01", b"\x01\x00\x00\x40\x01", b"0000000003"]


def _state_content_seeds() -> Iterable[bytes]:
    sealed = seal_state(KEYS, VIEW, nonce=NONCE)
    place = b"sottovoce memory v2 state\x00" + bytes.fromhex(KEYS.thread_id) + sealed[:43]
    yield ChaCha20Poly1305(KEYS.state_key()).decrypt(NONCE, sealed[55:], place)
    yield bytes(8)
    yield b"\xff" * 8


TARGETS = {
    "memory-sealed": Target(_sealed, _sealed_seeds, 640),
    "memory-plaintext": Target(_plaintext, _plaintext_seeds, 900),
    "memory-reference": Target(_reference, lambda: [b"m12", b"m13.0", b"m4294967295.63"], 24),
    "memory-state": Target(_state, _state_seeds, 4096),
    "memory-state-content": Target(_state_content, _state_content_seeds, 4096),
    "memory-position": Target(_position, lambda: [b"3." + b"0" * 64, b"0." + b"f" * 64], 128),
}
