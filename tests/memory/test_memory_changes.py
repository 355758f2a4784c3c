"""What tells of a change comes back for what it may have changed, and for nothing else."""

import numpy as np
import pytest

from memory.changes import asks_what_was, tells_of_change
from memory.items import CHANGE, NO_TURN
from memory.recall import Query, Recalled, recall
from memory.records import Notes
from memory.vectors import quantise
from memory.view import View
from tests.memory.memories import DAY, MODEL, START, Thread, cost, texts, turn

DIM = 64
TOPIC, SUBJECT = np.eye(2, DIM, dtype=np.float32)
OLD = "The oboe and its reeds keep me busy."
NEW = "I sold it, the banjo has its place."


@pytest.mark.parametrize(
    "message",
    [
        "We're living in York now!",
        "I gave up on that one.",
        "No longer a smoker, me.",
        "It was replaced by a heron. How are you?",
        "They switched to trams.",
    ],
)
def test_a_change_is_told(message: str) -> None:
    """By any of the words that English has for it."""
    assert tells_of_change(message)


@pytest.mark.parametrize(
    "message", ["", "I play the oboe.", "What is new with you now?", "I like knowing things."]
)
def test_no_change_is_told(message: str) -> None:
    """Nor is one told by a question, or by a word within another."""
    assert not tells_of_change(message)


def test_a_question_about_what_was() -> None:
    """The past tense, or a word for an earlier time."""
    assert asks_what_was("Which instrument did I play?")
    assert asks_what_was("Who is my ex?")
    assert not asks_what_was("Which instrument do I play?")


def told(*messages: tuple[str, np.ndarray], common: float = 0) -> View:
    """Forty turns of small talk with these among them, one after each third.

    `common`: what all small talk has in common.
    """
    rng = np.random.default_rng(5)
    thread = Thread()
    waiting = list(messages)
    for number in range(40):
        talk = np.concatenate([np.zeros(2), rng.normal(size=DIM - 2)])
        talk[-1] += common
        said = [(f"Small talk {number} on weather {number}.", talk)]
        if number % 3 == 2 and waiting:
            said.append(waiting.pop(0))
        for message, vector in said:
            index = thread.add(turn(thread.length, message))
            thread.add(Notes(index, MODEL, quantise(vector)))
    return View.decode(thread.view.encode())


def asked(view: View, text: str, *, budget: int = 60, since: int = NO_TURN) -> tuple[Recalled, ...]:
    """What is recalled for a question about the topic."""
    query = Query(text, TOPIC, MODEL, START + 1000 * DAY)
    return recall(view, query, budget=budget, cost=cost, since=since)


# The question knows nothing of the subject by which the change is near to what was said before.
BEFORE = (OLD, TOPIC + SUBJECT)
AFTER = (NEW, SUBJECT)


def test_what_changed_comes_back_after_what_it_changed() -> None:
    """It has nothing in common with the question itself, and is the last word."""
    old, new = asked(told(BEFORE, AFTER), "What do I make music with?")
    assert OLD in old.text
    assert NEW in new.text
    assert new.score < old.score


def test_changes_leave_room_for_the_rest() -> None:
    """Eight of them come back, and those that stand in the prompt already are not among these."""
    changes = [
        (f"I sold number {number}, the banjo has its place.", SUBJECT) for number in range(12)
    ]
    view = told(BEFORE, *changes)
    there = int(np.flatnonzero(view.items.rows["flags"] & CHANGE)[2])
    since = int(view.items.rows["index"][there])
    for recalled, many in (
        (asked(view, "What do I make music with?", budget=900), 8),
        (asked(view, "What do I make music with?", budget=900, since=since), 2),
    ):
        assert texts(recalled).count("banjo") == many


@pytest.mark.parametrize(
    ("view", "question"),
    [
        (told(BEFORE, AFTER), "What did I make music with?"),
        (told(AFTER, BEFORE), "What do I make music with?"),
        (told(BEFORE, ("It sits in the attic.", SUBJECT)), "What do I make music with?"),
        (told(BEFORE, (NEW, -SUBJECT)), "What do I make music with?"),
    ],
    ids=["asks what was", "older", "no change", "not near"],
)
def test_nothing_else_comes_back_with_it(view: View, question: str) -> None:
    """Where what was is asked for, or the other turn is older, tells no change, or is not near."""
    assert [OLD in one.text for one in asked(view, question)] == [True]


def test_a_change_that_was_not_embedded_is_near_to_nothing() -> None:
    """It can be found by its words alone."""
    view = told(BEFORE, (NEW, np.zeros(DIM)), common=3)
    assert np.count_nonzero(view.items.rows["flags"] & CHANGE) == 1
    assert [OLD in one.text for one in asked(view, "What do I make music with?")] == [True]
    assert NEW in texts(asked(view, "Where is my banjo?"))
