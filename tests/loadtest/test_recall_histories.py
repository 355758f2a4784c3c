"""Histories are the same for the same seed, and say what their questions ask for."""

from __future__ import annotations

import itertools
import re

import pytest

from loadtest.recall.histories import Dialogue, Half, History, Kind, compose, load
from loadtest.recall.topics import CHANGING, EVENTS, FIXED, GROUPS, NEVER, Topic
from runtime.errors import SetupError
from tests.loadtest.recall_data import CSV, needs_data

pytestmark = needs_data


@pytest.fixture(scope="module")
def dialogues() -> tuple[Dialogue, ...]:
    """The data set."""
    return load(CSV)


@pytest.fixture(scope="module")
def histories(dialogues: tuple[Dialogue, ...]) -> list[History]:
    """Some of the held-out half."""
    return [compose(dialogues, number, Half.HELD_OUT) for number in range(4)]


def test_the_same_seed_makes_the_same_history(
    dialogues: tuple[Dialogue, ...], histories: list[History]
) -> None:
    """All of it, and another number makes another one."""
    assert compose(dialogues, 1, Half.HELD_OUT) == histories[1]
    assert histories[0].turns != histories[1].turns


def test_a_history_is_long_and_asks_all_kinds(histories: list[History]) -> None:
    """More than 500 turns in order of time, and several questions of each kind."""
    for history in histories:
        assert len(history.turns) > 500
        assert all(a.time < b.time for a, b in itertools.pairwise(history.turns))
        for kind in Kind:
            assert sum(one.kind is kind for one in history.questions) >= 3


def test_a_statement_stands_in_its_turn(histories: list[History]) -> None:
    """With its words; what held before was said before."""
    for history in histories:
        for question in history.questions:
            for one in (*question.wanted, *question.stale):
                assert one.value in history.turns[one.turn].message
            if question.kind is Kind.UPDATED:
                assert question.stale
                assert all(old.turn < question.wanted[0].turn for old in question.stale)
            assert bool(question.wanted) is (question.kind is not Kind.NEVER)


def test_filler_that_speaks_of_a_topic_is_left_out(
    dialogues: tuple[Dialogue, ...], histories: list[History]
) -> None:
    """One right answer for each question: nothing of the data set says another."""
    data = {message for dialogue in dialogues for message, _ in dialogue.turns}
    topics = {one.name: one.clash for one in (*CHANGING, *FIXED, *EVENTS)}
    topics |= {one.name: one.clash for one in GROUPS}
    for history in histories:
        filler = [one.message for one in history.turns if one.message in data]
        assert len(filler) > 400
        for question in history.questions:
            if question.topic in topics:
                clash = re.compile(topics[question.topic], re.IGNORECASE)
                assert not [one for one in filler if clash.search(one)]


def test_the_halves_share_no_wording(dialogues: tuple[Dialogue, ...]) -> None:
    """What something was tuned on is not what is reported: neither questions nor filler."""
    tuning, held_out = ([compose(dialogues, number, half) for number in range(3)] for half in Half)

    def asked(histories: list[History]) -> set[str]:
        questions = (question for history in histories for question in history.questions)
        return {one.text for one in questions if one.kind is not Kind.PASSING}

    assert asked(tuning).isdisjoint(asked(held_out))
    for histories, own in ((tuning, dialogues[0::2]), (held_out, dialogues[1::2])):
        data = {message for dialogue in dialogues for message, _ in dialogue.turns}
        data -= {message for dialogue in own for message, _ in dialogue.turns}
        assert not [one for history in histories for one in history.turns if one.message in data]


@pytest.mark.parametrize("topic", [*CHANGING, *FIXED, *EVENTS], ids=lambda one: one.name)
def test_every_topic_has_wordings_for_both_halves(topic: Topic) -> None:
    """As many for one as for the other, with a place for the value where one is told."""
    for wordings in (topic.says, topic.asks, topic.changes, topic.before):
        assert len(wordings) % 2 == 0
    assert all("{v}" in one for one in (*topic.says, *topic.changes))
    assert len(GROUPS) >= 4
    assert len(NEVER) >= 8


def test_too_few_dialogues_are_said(dialogues: tuple[Dialogue, ...]) -> None:
    """Not a shorter history."""
    with pytest.raises(SetupError, match="whole data set"):
        compose(dialogues[:20], 0, Half.TUNING)
