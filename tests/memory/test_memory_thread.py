"""Positions and the walk along a chain, without a store."""

import pytest

from memory.errors import CorruptError, InvalidInputError, RollbackError
from memory.keys import ThreadKeys
from memory.records import Turn, seal, stub
from memory.thread import Position, walk

KEYS = ThreadKeys(b"k" * 32)


def _turn(number: int) -> Turn:
    return Turn(number.to_bytes(16), number, f"message {number}", "reply", "completed", bytes(16))


def _chain(length: int, nonce: bytes = bytes(12)) -> tuple[list[bytes], list[Position]]:
    positions = [Position.genesis(KEYS)]
    sealed = []
    for index in range(length):
        sealed.append(seal(KEYS, index, positions[-1].head, _turn(index), nonce=nonce))
        positions.append(positions[-1].follow(sealed[-1]))
    return sealed, positions


def test_the_text_of_a_position_reads_back() -> None:
    """A device can keep a position as text and send it back unchanged."""
    for position in (Position(0, bytes(32)), Position(2**32, b"\xff" * 32), _chain(3)[1][-1]):
        assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1",
        "1." + "0" * 63,
        "1." + "0" * 65,
        "01." + "0" * 64,
        "+1." + "0" * 64,
        "1_0." + "0" * 64,
        "-1." + "0" * 64,
        " 1." + "0" * 64,
        "1." + "0" * 64 + "\n",
        "1." + "A" * 64,
        "1." + "g" * 64,
        "1." + "0 " * 32,
        "1." + "0" * 64 + ".",
        "٣." + "0" * 64,
        "²." + "0" * 64,
        "4294967297." + "0" * 64,
        "9" * 5000 + "." + "0" * 64,
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    """One position has one text, so two texts are never the same place."""
    with pytest.raises(InvalidInputError):
        Position.parse(text)


@pytest.mark.parametrize(("length", "head"), [
    (-1, bytes(32)), (2**32 + 1, bytes(32)), (1.0, bytes(32)), (True, bytes(32)),
    (1, bytes(31)), (1, "0" * 32),
])  # fmt: skip
def test_an_impossible_position_cannot_be_made(length: int, head: bytes) -> None:
    """Wrong lengths and heads are refused where they appear."""
    with pytest.raises(InvalidInputError):
        Position(length, head)


def test_a_walk_ends_where_the_writer_did() -> None:
    """From any start, following the records leads to the last head."""
    sealed, positions = _chain(5)
    for start in range(6):
        assert walk(positions[start], sealed[start:], positions[-1]) == positions[-1]


def test_a_walk_passes_through_what_the_device_saw() -> None:
    """An older position of the same chain is accepted, one of another history is refused."""
    sealed, positions = _chain(5)
    _, other = _chain(5, nonce=b"n" * 12)
    for seen in positions:
        assert walk(positions[0], sealed, seen) == positions[5]
    for seen in other[1:]:
        with pytest.raises(RollbackError):
            walk(positions[0], sealed, seen)


def test_records_that_changed_places_break_the_walk() -> None:
    """Swapped, repeated or missing records are noticed at the first wrong link."""
    sealed, positions = _chain(4)
    a, b, c, d = sealed
    for order in ([b, a, c, d], [a, a, b, c], [a, c, d], [a, b, d, c]):
        with pytest.raises(CorruptError):
            walk(positions[0], order, None)


def test_a_walk_leads_over_stubs() -> None:
    """Where records were erased, the same heads follow from what stayed of them."""
    sealed, positions = _chain(5)
    for erased in ({0}, {4}, {1, 2}, set(range(5))):
        left = [stub(one) if at in erased else one for at, one in enumerate(sealed)]
        for seen in positions:
            assert walk(positions[0], left, seen) == positions[5]
    with pytest.raises(CorruptError):
        walk(positions[0], [stub(sealed[0]), stub(sealed[2])], None)
