"""Forgetting: what goes with a memory, what stays of it, and that it does not come back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError
from memory.facts import Learned
from memory.forgetting import ErasurePlan, plan_erasure
from memory.records import Notes, Pin, Ref, Summary
from tests.memory.memories import START, Thread, facts_of, turn


def _forget(thread: Thread, *refs: Ref, keep_turns: bool = False) -> ErasurePlan:
    plan = plan_erasure(thread.records, refs, keep_turns=keep_turns)
    assert plan.length == thread.length
    thread.add(*plan.append)
    thread.erase(plan.erase, plan.refs)
    return plan


def test_with_a_fact_go_its_turns_and_what_was_made_of_them() -> None:
    """The turn that told it and the summary of that turn go."""
    thread = Thread()
    thread.say("I like chess.")
    told = thread.say("I live in Leeds. I like rain.")
    thread.add(Summary("The user lives in Leeds.", 4, START))
    thread.say("I like rain.")
    plan = _forget(thread, Ref(told + 1, 0))
    assert plan.erase == (told, told + 1, 4)
    assert [(str(one.ref), one.kind) for one in plan.shown] == [
        ("m2", "turn"),
        ("m3.0", "fact"),
        ("m4", "summary"),
    ]
    assert b"Leeds" not in thread.view.encode()
    assert facts_of(thread.view) == ["The user likes chess.", "The user likes rain."]
    assert thread.anew().encode() == thread.view.encode()
    assert all("Leeds" not in repr(vars(type(one))) for _, one in thread.records)


def test_what_else_the_turn_told_is_kept() -> None:
    """Whoever forgets that they live in Leeds has not asked to be forgotten as a nurse."""
    thread = Thread()
    told = thread.say("I live in Leeds. I work as a nurse.")
    plan = _forget(thread, Ref(told + 1, 0))
    assert [(str(one.ref), one.kind) for one in plan.shown] == [("m0", "turn"), ("m1.0", "fact")]
    assert facts_of(thread.view) == ["The user works as a nurse."]
    (notes,) = plan.append
    assert isinstance(notes, Notes)
    assert (notes.turn, notes.facts[0].sources) == (None, ())
    assert b"Leeds" not in thread.view.encode()
    # With the turn itself both go, for nothing else told them.
    other = Thread()
    told = other.say("I live in Leeds. I work as a nurse.")
    _forget(other, Ref(told))
    assert facts_of(other.view) == []


def test_a_fact_that_another_turn_told_stays_with_a_new_reference() -> None:
    """It is written again with the source that is left, pinned if it was."""
    thread = Thread()
    first = thread.say("I like rain.")
    second = thread.say("I like rain.")
    thread.add(Pin(Ref(1, 0), True))
    plan = _forget(thread, Ref(first))
    (notes,) = plan.append
    assert isinstance(notes, Notes)
    assert (notes.turn, notes.vector, notes.facts[0].sources) == (None, b"", (second,))
    (fact,) = thread.view.facts()
    assert (fact.ref, fact.pinned) == (Ref(5, 0), True)
    assert thread.anew().facts() == thread.view.facts()


def test_turns_can_be_kept_and_do_not_teach_it_again() -> None:
    """The words stay where their owner wants that, and the fact is not learned from them anew."""
    thread = Thread()
    told = thread.say("I live in Leeds. I like rain.")
    plan = _forget(thread, Ref(told + 1, 0), keep_turns=True)
    assert plan.erase == (told + 1,)
    for view in (thread.view, thread.anew()):
        assert facts_of(view) == ["The user likes rain."]
        assert view.unnoted() == ()
        assert view.find(Ref(told)) is not None


def test_what_was_superseded_stays_superseded_when_its_record_moves() -> None:
    """Writing notes again does not bring an old value back as the current one."""
    thread = Thread()
    told = thread.say("I live in Leeds. I like rain.")
    thread.say("I moved to York.")
    _forget(thread, Ref(told + 1, 1), keep_turns=True)
    for view in (thread.view, thread.anew()):
        assert facts_of(view) == ["The user moved to York and lives there."]
        assert "Leeds" in "".join(
            item.text for item in view.items.items(view.items.rows["at"] < 64)
        )


def test_an_older_summary_takes_over() -> None:
    """Where the newest goes, the newest that does not tell what was forgotten is said again."""
    thread = Thread()
    thread.say("I like chess.")
    thread.add(Summary("Chess.", 2, START))
    told = thread.say("I live in Leeds.")
    thread.add(Summary("Chess, Leeds.", 5, START))
    plan = _forget(thread, Ref(told))
    assert 2 not in plan.erase
    assert 5 in plan.erase
    assert thread.view.summary is not None
    assert thread.view.summary[1].text == "Chess."


def test_forgetting_a_summary_takes_those_made_of_it() -> None:
    """A later summary was made of the earlier one; turns and facts stay."""
    thread = Thread()
    thread.say("I like chess.")
    thread.add(Summary("One.", 2, START), Summary("Two.", 2, START))
    assert _forget(thread, Ref(2)).erase == (2, 3)
    assert facts_of(thread.view) == ["The user likes chess."]


def test_turns_that_had_it_in_their_prompt_are_named() -> None:
    """Their replies may speak of it: their owner decides."""
    thread = Thread()
    told = thread.say("I live in Leeds.")
    spoke = thread.say("Where do I live?", "In Leeds!", recalled=(Ref(told + 1, 0),))
    assert plan_erasure(thread.records, [Ref(told)]).mentions == (Ref(spoke),)


def test_what_its_owner_wrote_goes_alone() -> None:
    """A fact without sources takes nothing with it."""
    thread = Thread()
    thread.say("I like chess.")
    ref = thread.write(Learned("The user has a secret."))
    plan = _forget(thread, ref)
    assert (plan.erase, plan.append) == ((ref.index,), ())


@pytest.mark.parametrize("ref", ["m1", "m0.0", "m1.7", "m99", "m2", "m4294967295"])
def test_what_names_no_memory_is_refused(ref: str) -> None:
    """Notes themselves, pins, unknown places: nothing is planned, and the error says what to do."""
    thread = Thread()
    thread.say("I like chess.")
    thread.add(Pin(Ref(1, 0), True))
    with pytest.raises(InvalidInputError, match="List the memories"):
        plan_erasure(thread.records, [Ref.parse(ref)])


def test_what_was_forgotten_cannot_be_forgotten_again() -> None:
    """A stub is no memory."""
    thread = Thread()
    told = thread.say("I like chess.")
    _forget(thread, Ref(told))
    with pytest.raises(InvalidInputError):
        plan_erasure(thread.records, [Ref(told)])


_LINES = (
    "I live in Leeds. I like rain.",
    "I moved to York.",
    "I like rain.",
    "I like chess. I am 30.",
)


@settings(max_examples=80, deadline=None)
@given(
    said=st.lists(st.sampled_from(_LINES), min_size=1, max_size=6),
    picks=st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=4),
)
def test_after_any_erasures_both_ways_to_fold_agree(
    said: list[str], picks: list[tuple[int, bool]]
) -> None:
    """What goes is gone in the view as in the thread, and what stays, stays as it was."""
    thread = Thread()
    for message in said:
        thread.say(message)
    for pick, keep in picks:
        before = {item.text for item in thread.view.facts()}
        known = [item.ref for item in thread.view.items.items(thread.view.items.rows["time"] >= 0)]
        if not known:
            break
        ref = known[pick % len(known)]
        plan = _forget(thread, ref, keep_turns=keep)
        gone = {one.text for one in plan.shown if one.kind == "fact"}
        again = thread.anew()
        assert thread.view.facts() == again.facts()
        assert thread.view.find(ref) is None
        held = {item.text for item in thread.view.facts()}
        assert before - held <= gone


def test_an_erasure_has_a_largest_size() -> None:
    """More than one tombstone can name is refused before anything is written."""
    records = [(at, turn(at, "x")) for at in range(16_385)]
    with pytest.raises(InvalidInputError, match="16385 records would go"):
        plan_erasure(records, [Ref(at) for at, _ in records])
