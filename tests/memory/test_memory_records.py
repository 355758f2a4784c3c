"""Sealed records: one form, one place, no readable length."""

import hashlib
from collections.abc import Callable
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
from memory.records import (
    BUCKETS,
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
    head_after,
    is_stub,
    open_record,
    previous_head,
    seal,
    stub,
)

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

refs = st.builds(Ref, st.integers(0, 2**32 - 1), st.none() | st.integers(0, 63))
indexes = st.integers(0, 2**32 - 1)
facts = st.builds(
    Fact,
    text=st.text(min_size=1, max_size=500),
    about=st.text(max_size=80),
    importance=st.integers(0, 100),
    since=st.integers(0, 2**53 - 1),
    sources=st.lists(indexes, max_size=3).map(tuple),
    supersedes=st.lists(refs, max_size=3).map(tuple),
    vector=st.binary(max_size=64),
    pinned=st.booleans(),
)
others = st.one_of(
    st.builds(
        Notes,
        turn=st.none() | indexes,
        model=st.just(b"") | st.binary(min_size=8, max_size=8),
        vector=st.binary(max_size=64),
        facts=st.lists(facts, max_size=3).map(tuple),
        sources=st.lists(st.tuples(refs, indexes), max_size=3).map(tuple),
    ),
    st.builds(Summary, st.text(max_size=4000), indexes, st.integers(0, 2**53 - 1)),
    st.builds(Pin, refs, st.booleans()),
    st.builds(
        Tombstone,
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**53 - 1),
        st.lists(refs, max_size=5).map(tuple),
        st.sets(indexes, max_size=5).map(lambda some: tuple(sorted(some))),
    ),
    st.just(Gap()),
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
    recalled=st.lists(refs, max_size=3).map(tuple),
    window=indexes,
    summary=st.none() | indexes,
    lore=st.lists(st.binary(min_size=8, max_size=8), max_size=3).map(tuple),
)


@given(record=turns | others, index=indexes)
def test_what_was_sealed_opens_to_the_same_record(record: Record, index: int) -> None:
    """Any record, with text in any language, comes back as it was, at any index."""
    sealed = seal(KEYS, index, GENESIS, record, nonce=NONCE)
    assert open_record(KEYS, index, sealed) == record
    assert len(sealed) - 61 in BUCKETS
    assert not is_stub(sealed)


@given(ref=refs, other=refs)
def test_the_text_of_a_reference_reads_back(ref: Ref, other: Ref) -> None:
    """One memory has one name, and names are in the order of the records."""
    assert Ref.parse(str(ref)) == ref
    assert (ref < other) + (other < ref) + (ref == other) == 1
    assert Ref(ref.index) <= ref


@pytest.mark.parametrize(
    "text",
    ["", "m", "12", "m-1", "m01", "m1.", "m1.00", "m1.64", "m1.0.0", "m4294967296", "m1 ", "M1",
     "m²", "m1\n", "m" + "9" * 5000],
)  # fmt: skip
def test_any_other_text_is_no_reference(text: str) -> None:
    """What was mistyped is refused with the form that a reference has."""
    with pytest.raises(InvalidInputError, match="as in m12"):
        Ref.parse(text)


def test_a_stub_keeps_the_chain_and_nothing_else() -> None:
    """The head after a stub is the head after its record; of the record a digest stays."""
    first = seal(KEYS, 0, GENESIS, TURN, nonce=NONCE)
    head = head_after(GENESIS, first)
    second = seal(KEYS, 1, head, TURN, nonce=NONCE)
    left = stub(second)
    assert len(left) == 65
    assert is_stub(left)
    assert stub(left) == left
    assert previous_head(left, 1) == head
    assert head_after(head, left) == head_after(head, second)
    assert second[33:] not in left
    with pytest.raises(CorruptError, match="it was erased"):
        open_record(KEYS, 1, left)
    for other in (left[:-1], left + b"\x00", b"\x02" + left[1:], b""):
        assert not is_stub(other)
        with pytest.raises(CorruptError):
            previous_head(other, 1)


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


FIELDS: list[Any] = [
    b"t" * 16, 5, "m", "r", "completed", b"r" * 16, None, [[1, None], [2, 0]], 3, None, [b"l" * 8]
]  # fmt: skip


def _with(at: int, value: Any) -> bytes:
    return b"\x01" + cbor2.dumps([*FIELDS[:at], value, *FIELDS[at + 1 :]])


def test_the_case_table_starts_from_a_record_that_opens() -> None:
    """The refusals below are for what each case changes, not for how the case was made."""
    turn = open_record(KEYS, 0, _sealed_content(b"\x01" + cbor2.dumps(FIELDS)))
    recalled = (Ref(1), Ref(2, 0))
    assert turn == Turn(*FIELDS[:7], recalled=recalled, window=3, lore=(b"l" * 8,))
    assert open_record(KEYS, 0, _sealed_content(NOTES)) == Notes(1, facts=(Fact("f"),))


NOTES = b"\x02" + cbor2.dumps([1, b"", b"", [["f", "", 0, 0, [], [], b"", False]], []])

NOT_CANONICAL = {
    "empty": b"",
    "no kind": b"\x00" + cbor2.dumps(FIELDS),
    "unknown kind": b"\x07" + cbor2.dumps([]),
    "another kind's fields": b"\x02" + cbor2.dumps(FIELDS),
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
    "reference with too many parts": _with(7, [[1, 0, 0]]),
    "reference that is a number": _with(7, [1]),
    "reference with a truth value": _with(7, [[True, None]]),
    "references in a map": _with(7, {1: 2}),
    "window before the first": _with(8, -1),
    "lore as text": _with(10, ["l" * 8]),
    "lore in one piece": _with(10, b"l" * 8),
    "fact that is empty": NOTES.replace(b"\x61f", b"\x60", 1),
    "fact of too little": NOTES.replace(b"\x88\x61f", b"\x87\x61f", 1)[:-3] + b"\xf4\x80",
    "pinned as a number": NOTES.replace(b"\xf4", b"\x00"),
    "model of a wrong size": NOTES.replace(b"\x40", b"\x41m", 1),
    "pin of nothing": b"\x04" + cbor2.dumps([None, True]),
    "tombstone out of order": b"\x05" + cbor2.dumps([b"r" * 16, 1, [], [2, 1]]),
    "tombstone that says it twice": b"\x05" + cbor2.dumps([b"r" * 16, 1, [], [1, 1]]),
    "gap with something in it": b"\x06" + cbor2.dumps([1]),
    "gap without fields": b"\x06",
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
    said: list[Any] = [*FIELDS[:7], [], 0, None, []]
    room = BUCKETS[-1] - len(cbor2.dumps([*said[:2], "m" * 70_000, *said[3:]])) + 70_000 - 2
    fitting = Turn(*said[:2], "m" * room, *said[3:7])
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
        {"recalled": [Ref(1)]},
        {"recalled": (1,)},
        {"recalled": (Ref(1),) * 1025},
        {"window": -1},
        {"summary": "3"},
        {"lore": (b"short",)},
    ],
)
def test_a_turn_with_a_wrong_field_cannot_be_made(change: dict[str, Any]) -> None:
    """The mistake shows where it is made, not when the record is read a year later."""
    with pytest.raises(InvalidInputError):
        replace(TURN, **change)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ref(-1),
        lambda: Ref(2**32),
        lambda: Ref(True),
        lambda: Ref(1, 64),
        lambda: Fact(""),
        lambda: Fact("f" * 501),
        lambda: Fact("f", about="a" * 81),
        lambda: Fact("f", importance=101),
        lambda: Fact("f", sources=[1]),  # type: ignore[arg-type]
        lambda: Fact("f", vector=b"v" * 4097),
        lambda: Fact("f", pinned=1),  # type: ignore[arg-type]
        lambda: Notes(-1),
        lambda: Notes(1, model=b"m"),
        lambda: Notes(1, facts=(Fact("f"),) * 65),
        lambda: Notes(1, facts=("f",)),  # type: ignore[arg-type]
        lambda: Notes(1, sources=((Ref(1), -1),)),
        lambda: Notes(1, sources=(Ref(1),)),  # type: ignore[arg-type]
        lambda: Summary("s" * 4001, 1, 1),
        lambda: Pin("m1", True),  # type: ignore[arg-type]
        lambda: Pin(Ref(1), 1),  # type: ignore[arg-type]
        lambda: Tombstone(b"r" * 16, 1, (), (2, 1)),
        lambda: Tombstone(b"r" * 16, 1, (), (1, 1)),
        lambda: Tombstone(b"r" * 15, 1, (), ()),
        lambda: Tombstone(b"r" * 16, 1, (), tuple(range(16_385))),
    ],
)
def test_what_is_outside_the_limits_cannot_be_made(make: Callable[[], object]) -> None:
    """Each field of each kind has its type and its size."""
    with pytest.raises(InvalidInputError):
        make()


def test_a_record_does_not_print_what_was_said() -> None:
    """A record in a log line shows ids, never words."""
    assert "sister" not in repr(TURN)
    assert "What did" not in repr(TURN)
    learned = Notes(1, facts=(Fact("Her sister is ill.", "user.sister"),))
    assert "sister" not in repr((learned, Summary("Of her sister.", 1, 1)))


@pytest.mark.parametrize(("index", "previous", "nonce"), [
    (-1, GENESIS, NONCE), (2**32, GENESIS, NONCE), (0, GENESIS[:-1], NONCE), (0, GENESIS, b"n"),
])  # fmt: skip
def test_sealing_refuses_impossible_places(index: int, previous: bytes, nonce: bytes) -> None:
    """An index past the limit, a cut head or a short nonce seals nothing."""
    with pytest.raises(InvalidInputError):
        seal(KEYS, index, previous, TURN, nonce=nonce)


def test_the_chain_never_changes() -> None:
    """What a device keeps of a thread must mean the same to every release."""
    sealed = seal(KEYS, 0, GENESIS, TURN, nonce=NONCE)
    digest = hashlib.sha256(sealed).digest()
    expected = hashlib.sha256(b"sottovoce memory v2 head\x00" + GENESIS + digest).digest()
    assert head_after(GENESIS, sealed) == expected
    assert stub(sealed) == b"\x00" + GENESIS + digest
    assert sealed[:45] == b"\x02" + GENESIS + NONCE
