"""The view of a thread: folded, bounded, and the same from bytes as from records."""

import dataclasses
import random

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError
from memory.records import Fact, Notes, Pin, Record, Ref, Summary, Tombstone, Turn
from memory.thread import Position
from memory.view import MAX_ITEMS, MAX_STATE_BYTES, WINDOW, View, shorten
from tests.memory.memories import KEYS, MODEL, START, Thread, embedding, facts_of, turn


def _long_thread(turns: int, *, dim: int = 256) -> list[tuple[int, Record | None]]:
    random.seed(turns)
    records: list[tuple[int, Record | None]] = []
    for number in range(turns):
        said = " ".join(f"word{random.randrange(5000)}" for _ in range(8))
        records.append((2 * number, turn(number, said, said[::-1])))
        fact = Fact(
            f"The user has {said}.",
            "user.home" if number % 5 else f"user.has.{number}",
            number % 100,
            START,
            (2 * number,),
            (Ref(2 * number - 1, 0),) if number % 7 == 1 else (),
            embedding(number, dim),
        )
        facts = (fact,) if number % 2 else ()
        records.append((2 * number + 1, Notes(2 * number, MODEL, embedding(number, dim), facts)))
    return records


def _view(records: list[tuple[int, Record | None]]) -> View:
    return View.empty(KEYS).fold(records, Position(len(records), b"h" * 32))


def test_a_view_reads_back_from_its_bytes() -> None:
    """What a turn needs is the same after a state was kept, but for the window's turns."""
    thread = Thread()
    thread.say("I live in Leeds.", lore=(b"l" * 8,))
    thread.say("I have a cat named Miso.")
    thread.add(Summary("They talked.", 2, START), Pin(Ref(1, 0), True))
    thread.say("I moved to York.")
    waiting = thread.add(turn(9, "Nothing was noted of this yet."))
    data = thread.view.encode()
    view = View.decode(data)
    assert view.encode() == data
    assert view.turns == ()
    assert view.facts() == thread.view.facts()
    assert (view.summary, view.position, view.pending, dict(view.lore), view.count) == (
        (4, Summary("They talked.", 2, START)),
        thread.view.position,
        (waiting,),
        {b"l" * 8: 0},
        4,
    )
    again = view.fold(thread.records, thread.view.position)
    assert again.turns == thread.view.turns
    assert again.unnoted() == ((waiting, thread.view.turns[-1][1]),)
    assert again.encode() == data


def test_a_view_that_was_kept_goes_on_as_one_that_was_not() -> None:
    """Folding on from bytes gives the same view as folding everything at once."""
    records = _long_thread(40)
    kept = View.decode(_view(records[:30]).encode())
    on = kept.fold(records, Position(len(records), b"h" * 32))
    assert on.encode() == _view(records).encode()
    assert on.turns == _view(records).turns


def test_folding_leaves_the_view_before_as_it_was() -> None:
    """A view may be in use by a turn while the next one is made of it."""
    thread = Thread()
    thread.say("I live in Leeds.")
    before, data = thread.view, thread.view.encode()
    thread.say("I moved to York.")
    thread.add(Pin(Ref(1, 0), True))
    thread.erase([0, 1])
    assert before.encode() == data
    assert facts_of(before) == ["The user lives in Leeds."]


def test_a_very_long_thread_has_a_bounded_view() -> None:
    """After 20,000 turns a view is no larger than its bound, and the newest is in it."""
    view = _view(_long_thread(20_000, dim=8))
    assert len(view.items) <= MAX_ITEMS + 64
    assert len(view.encode()) < MAX_STATE_BYTES
    assert len(view.turns) == WINDOW
    assert view.count == 20_000
    assert view.find(Ref(2 * 19_999)) is not None
    assert View.decode(view.encode()).encode() == view.encode()


def test_what_is_pinned_never_leaves_a_view() -> None:
    """However long the thread gets, a pinned fact of no importance stays."""
    records = _long_thread(1)
    records.append((2, Notes(None, facts=(Fact("The user has a scar.", pinned=True),))))
    later = [(at + 3, one) for at, one in _long_thread(3000, dim=8)]
    view = _view(records).fold(later, Position(3 + len(later), b"h" * 32))
    assert view.find(Ref(2, 0)) is not None
    assert view.find(Ref(0)) is None


def test_large_vectors_make_fewer_items() -> None:
    """The bound is in bytes: with four times the dimensions there are fewer rows."""
    view = _view(_long_thread(600, dim=4096))
    assert view.items.vectors.nbytes <= (MAX_ITEMS + 260) * 1024
    assert view.items.dim == 4096


def test_texts_of_any_length_are_kept_short() -> None:
    """A book as a message takes no more of a view than a long sentence."""
    thread = Thread()
    thread.say("elephant " * 20_000, "giraffe " * 20_000)
    item = thread.view.find(Ref(0))
    assert item is not None
    assert len(item.text) <= 240
    assert len(item.extra) <= 120
    assert shorten("one two three", 9) == "one two\u2026"


def test_state_is_refused_where_it_was_cut_or_made_longer() -> None:
    """Every cut and every tail is refused."""
    data = _view(_long_thread(3, dim=4)).encode()
    for size in range(len(data)):
        with pytest.raises(InvalidInputError):
            View.decode(data[:size])
    with pytest.raises(InvalidInputError):
        View.decode(data + b"\x00")


def test_nothing_stands_between_a_states_head_and_its_arrays() -> None:
    """Also where the head's length says so, or the head itself is written another way."""
    data = _view(_long_thread(3, dim=4)).encode()
    size = int.from_bytes(data[3:7], "big")
    head, arrays = data[7 : 7 + size], data[7 + size :]
    fields = cbor2.loads(head)
    for other in (head + b"\x00", head + head, b"\x9f" + head[1:] + b"\xff"):
        assert cbor2.loads(other) == fields
        with pytest.raises(InvalidInputError):
            View.decode(data[:3] + len(other).to_bytes(4, "big") + other + arrays)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_changed_state_is_refused_or_reads_to_itself(at: int, bit: int) -> None:
    """No changed byte makes another error, or a view with other bytes."""
    data = bytearray(_view(_long_thread(4, dim=4)).encode())
    data[at % len(data)] ^= 1 << bit
    try:
        view = View.decode(bytes(data))
    except InvalidInputError:
        return
    assert view.encode() == bytes(data)
    assert len(list(view.items.items(np.ones(len(view.items), bool)))) == len(view.items)


def test_notes_are_asked_for_once_for_each_turn() -> None:
    """A turn waits for its notes until they are there, also where a later one has its own."""
    thread = Thread()
    first, second = thread.add(turn(0, "one fish")), thread.add(turn(1, "two fish"))
    assert [index for index, _ in thread.view.unnoted()] == [first, second]
    thread.add(Notes(second))
    assert [index for index, _ in thread.view.unnoted()] == [first]
    assert thread.view.noted == first
    thread.add(Notes(first))
    assert thread.view.unnoted() == ()
    assert thread.view.noted == thread.length


def test_an_erased_turn_leaves_nothing_in_the_view() -> None:
    """Neither window nor items nor lore nor summary hold what a tombstone names."""
    thread = Thread()
    thread.say("I live in Leeds.", lore=(b"l" * 8,))
    thread.add(Summary("The user lives in Leeds.", 2, START))
    thread.erase([0, 1, 2])
    assert b"Leeds" not in thread.view.encode()
    assert (thread.view.turns, thread.view.summary, dict(thread.view.lore)) == ((), None, {})
    assert 1 in thread.view.erased
    assert 3 not in thread.view.erased
    again = thread.view.fold([(0, turn(0, "I live in Leeds."))], thread.view.position)
    assert again.turns == ()


def test_what_an_erased_fact_had_replaced_holds_again() -> None:
    """Forgetting the newer value leaves the older one, whether folded on or anew."""
    thread = Thread()
    thread.say("I live in Leeds.")
    thread.say("I moved to York.")
    assert facts_of(thread.view) == ["The user moved to York and lives there."]
    thread.erase([2, 3])
    assert facts_of(thread.view) == ["The user lives in Leeds."]
    assert thread.anew().facts() == thread.view.facts()
    said = thread.view.find(Ref(0))
    assert said is not None
    assert said.until is None


def test_another_model_makes_the_old_vectors_void() -> None:
    """Vectors of two models are never compared: the older ones are dropped, their texts stay."""
    records = _long_thread(4, dim=8)
    view = _view(records)
    assert np.all(view.items.rows["norm"] > 0)
    other = dataclasses.replace(Notes(8, b"modeltwo", embedding(1, 16)))
    later: list[tuple[int, Record | None]] = [(8, turn(4, "elephants are grey")), (9, other)]
    view = view.fold(later, Position(10, b"h" * 32))
    assert (view.model, view.items.dim) == (b"modeltwo", 16)
    assert [bool(one) for one in view.items.rows["norm"] > 0] == [False] * 6 + [True]


def test_old_records_fill_the_window_and_change_nothing_else() -> None:
    """What a state covers may be read again for the turns' texts."""
    records = _long_thread(50, dim=4)
    view = View.decode(_view(records).encode())
    filled = view.fold(records[-30:], view.position)
    assert [index for index, _ in filled.turns] == list(range(70, 100, 2))
    assert filled.encode() == view.encode()
    assert isinstance(filled.turns[0][1], Turn)


def test_a_thread_of_stubs_is_an_empty_view() -> None:
    """Records that were all erased fold to nothing."""
    stone = Tombstone(bytes(16), START, (), (0, 1))
    view = View.empty(KEYS).fold([(0, None), (1, None), (2, stone)], Position(3, bytes(32)))
    assert (len(view.items), view.turns, list(view.erased)) == (0, (), [0, 1])
