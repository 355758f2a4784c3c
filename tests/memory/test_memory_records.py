"""Sealed records: one form, one place, no readable length."""

from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from memory import records
from memory.errors import CorruptError, InvalidInputError
from memory.keys import ThreadKeys
from memory.records import BUCKETS, Turn, genesis_head, head_after, open_record, seal

KEYS = ThreadKeys(b"k" * 32)
OTHER = ThreadKeys(b"o" * 32)
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

turns = st.builds(
    Turn,
    turn_id=st.binary(min_size=16, max_size=16),
    time=st.integers(0, 2**53 - 1),
    message=st.text(max_size=2000),
    reply=st.text(max_size=2000),
    outcome=st.sampled_from(sorted(records.OUTCOMES)),
    receipt_id=st.binary(min_size=16, max_size=16),
    receipt_digest=st.none() | st.binary(min_size=32, max_size=32),
)


@given(turn=turns, index=st.integers(0, 2**32 - 1))
def test_what_was_sealed_opens_to_the_same_turn(turn: Turn, index: int) -> None:
    """Any text in any language comes back as it was, at any index."""
    sealed = seal(KEYS, index, GENESIS, turn, nonce=NONCE)
    assert open_record(KEYS, index, sealed) == turn
    assert len(sealed) - 61 in BUCKETS


@pytest.mark.parametrize("size", [1, 300])
def test_nothing_of_a_turn_is_readable_in_its_record(size: int) -> None:
    """Neither text nor ids of the turn stand in the sealed bytes."""
    turn = replace(TURN, message="aubergine " * size, reply="ratatouille " * size)
    sealed = seal(KEYS, 0, GENESIS, turn, nonce=NONCE)
    for secret in (b"aubergine", b"ratatouille", b"completed", turn.turn_id, turn.receipt_id):
        assert secret not in sealed


def test_short_turns_have_one_length() -> None:
    """Whoever reads Redis cannot tell "yes" from a paragraph."""
    lengths = {
        len(seal(KEYS, 0, GENESIS, replace(TURN, message="m" * size), nonce=NONCE))
        for size in range(0, 350, 7)
    }
    assert lengths == {512 + 61}


def test_a_record_opens_only_in_its_place() -> None:
    """Another thread's key, another index or another predecessor does not open it."""
    sealed = seal(KEYS, 3, GENESIS, TURN, nonce=NONCE)
    elsewhere = sealed[:1] + bytes(32) + sealed[33:]
    for keys, index, data in ((OTHER, 3, sealed), (KEYS, 4, sealed), (KEYS, 3, elsewhere)):
        with pytest.raises(CorruptError) as caught:
            open_record(keys, index, data)
        assert caught.value.index == index


def test_a_flipped_bit_anywhere_is_refused() -> None:
    """Every bit of a record counts."""
    sealed = seal(KEYS, 0, GENESIS, TURN, nonce=NONCE)
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(CorruptError):
            open_record(KEYS, 0, bytes(damaged))


def test_a_record_of_any_other_length_is_refused() -> None:
    """Cut at every boundary, or with bytes after it, nothing opens."""
    sealed = seal(KEYS, 0, GENESIS, TURN, nonce=NONCE)
    for data in [sealed[:size] for size in range(len(sealed))] + [sealed + b"\x00", sealed * 2]:
        with pytest.raises(CorruptError):
            open_record(KEYS, 0, data)


def test_the_head_binds_order_and_content() -> None:
    """Two records in either order, or one bit apart, lead to different heads."""
    one, two = (seal(KEYS, n, GENESIS, TURN, nonce=NONCE) for n in (0, 1))
    forth = head_after(head_after(GENESIS, one), two)
    back = head_after(head_after(GENESIS, two), one)
    assert len({GENESIS, genesis_head(OTHER.thread_id), forth, back}) == 4


def _sealed_content(content: bytes, *, pad: bytes = b"\x80", size: int = 512) -> bytes:
    """Seal a plaintext that `seal` would not make, as somebody with the thread key could."""
    sealed = seal(KEYS, 0, GENESIS, TURN, nonce=NONCE)
    data = records._associated_data(KEYS, 0, GENESIS)
    plaintext = (content + pad).ljust(size, b"\x00")
    return sealed[:45] + ChaCha20Poly1305(KEYS.record_key(0)).encrypt(NONCE, plaintext, data)


FIELDS: list[Any] = [b"t" * 16, 5, "m", "r", "completed", b"r" * 16, None]


def _with(at: int, value: Any) -> bytes:
    return b"\x01" + cbor2.dumps([*FIELDS[:at], value, *FIELDS[at + 1 :]])


def test_the_case_table_starts_from_a_record_that_opens() -> None:
    """The refusals below are for what each case changes, not for how the case was made."""
    turn = open_record(KEYS, 0, _sealed_content(b"\x01" + cbor2.dumps(FIELDS)))
    assert turn == Turn(*FIELDS)


NOT_CANONICAL = {
    "empty": b"",
    "unknown kind": b"\x02" + cbor2.dumps(FIELDS),
    "kind alone": b"\x01",
    "field missing": b"\x01" + cbor2.dumps(FIELDS[:-1]),
    "field too many": b"\x01" + cbor2.dumps([*FIELDS, None]),
    "not an array": b"\x01" + cbor2.dumps("turn"),
    "map": b"\x01" + cbor2.dumps(dict(enumerate(FIELDS))),
    "bytes after it": b"\x01" + cbor2.dumps(FIELDS) + b"\x00",
    "long form of the time": b"\x01" + cbor2.dumps(FIELDS).replace(b"\x05", b"\x18\x05", 1),
    "indefinite array": b"\x01\x9f" + cbor2.dumps(FIELDS)[1:] + b"\xff",
    "cut short": b"\x01" + cbor2.dumps(FIELDS)[:-1],
    "time as a float": _with(1, 5.0),
    "time as a truth value": _with(1, True),
    "time before 1970": _with(1, -1),
    "time as a date": _with(1, cbor2.CBORTag(1, 5)),
    "message as bytes": _with(2, b"m"),
    "message as nothing": _with(2, None),
    "invalid text": b"\x01" + cbor2.dumps(FIELDS).replace(b"\x61m", b"\x61\xff"),
    "unknown outcome": _with(4, "done"),
    "short turn id": _with(0, b"t" * 15),
    "short receipt id": _with(5, b"r" * 15),
    "short digest": _with(6, b"d" * 31),
    "undefined digest": _with(6, cbor2.undefined),
    "nested deeply": b"\x01" + b"\x81" * 500,
}


@pytest.mark.parametrize("content", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_a_record_in_any_other_form_is_refused(content: bytes) -> None:
    """Even whoever holds the key can write a turn in one way only."""
    with pytest.raises(CorruptError):
        open_record(KEYS, 0, _sealed_content(content))


@pytest.mark.parametrize(("pad", "size"), [(b"", 512), (b"\x81", 512), (b"\x80", 1024)])
def test_padding_has_one_form(pad: bytes, size: int) -> None:
    """The marker must be there and the bucket the smallest, or lengths could carry a message."""
    content = b"\x01" + cbor2.dumps(FIELDS)
    with pytest.raises(CorruptError):
        open_record(KEYS, 0, _sealed_content(content, pad=pad, size=size))


def test_the_largest_turn_fits_and_the_next_is_refused() -> None:
    """The limit is exact, and is checked before anything is sealed."""
    room = BUCKETS[-1] - len(cbor2.dumps([*FIELDS[:2], "m" * 70_000, *FIELDS[3:]])) + 70_000 - 2
    fitting = Turn(*FIELDS[:2], "m" * room, *FIELDS[3:])
    assert len(seal(KEYS, 0, GENESIS, fitting, nonce=NONCE)) == BUCKETS[-1] + 61
    with pytest.raises(InvalidInputError):
        seal(KEYS, 0, GENESIS, replace(fitting, message="m" * (room + 1)), nonce=NONCE)
    with pytest.raises(InvalidInputError):
        seal(KEYS, 0, GENESIS, replace(fitting, message="é" * (room - 10)), nonce=NONCE)
    with pytest.raises(InvalidInputError):
        seal(KEYS, 0, GENESIS, replace(fitting, message="m" * 2**22), nonce=NONCE)


def test_half_a_surrogate_pair_is_refused_before_sealing() -> None:
    """Text that could not come back is not stored, and the message does not quote it."""
    with pytest.raises(InvalidInputError) as caught:
        seal(KEYS, 0, GENESIS, replace(TURN, message="secret \ud83d"), nonce=NONCE)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"turn_id": b"t" * 15},
        {"turn_id": bytearray(16)},
        {"time": -1},
        {"time": 1.5},
        {"time": 2**53},
        {"message": b"bytes"},
        {"reply": None},
        {"outcome": "done"},
        {"receipt_id": b""},
        {"receipt_digest": b"d" * 33},
    ],
)
def test_a_turn_with_a_wrong_field_cannot_be_made(change: dict[str, Any]) -> None:
    """The mistake shows where it is made, not when the record is read a year later."""
    with pytest.raises(InvalidInputError):
        replace(TURN, **change)


def test_a_turn_does_not_print_what_was_said() -> None:
    """A turn in a log line shows ids, never words."""
    assert "sister" not in repr(TURN)
    assert "What did" not in repr(TURN)


@pytest.mark.parametrize(("index", "previous", "nonce"), [
    (-1, GENESIS, NONCE), (2**32, GENESIS, NONCE), (0, GENESIS[:-1], NONCE), (0, GENESIS, b"n"),
])  # fmt: skip
def test_sealing_refuses_impossible_places(index: int, previous: bytes, nonce: bytes) -> None:
    """An index past the limit, a cut head or a short nonce seals nothing."""
    with pytest.raises(InvalidInputError):
        seal(KEYS, index, previous, TURN, nonce=nonce)
