"""What counts as remembered, on lines made by hand: each measure can be met and can be missed."""

from __future__ import annotations

import pytest

from loadtest.recall.histories import Kind, Question, Statement
from loadtest.recall.measures import Line, Shown, difference, estimate, score

LEEDS, GHENT = Statement(3, "Leeds"), Statement(90, "Ghent")
MOVED = Question(Kind.UPDATED, "city", "Where do I live?", wanted=(GHENT,), stale=(LEEDS,))


def line(text: str, *turns: int, **kind: bool) -> Line:
    """A line that these turns said."""
    return Line(text, frozenset(turns), **kind)


OLD, NEW = line("I live in Leeds.", 3), line("Boxes everywhere: I now live in Ghent.", 90)
FILLER = line("I like Ghent and Leeds.", 40)


def shown(*lines: Line) -> Shown:
    """A system that recalled these, in this order, and shows them so."""
    return Shown(lines, lines, recalled=len(lines), tokens=9 * len(lines))


def test_recall_counts_places_in_the_ranking() -> None:
    """Second place is not among the first one, and is among the first five."""
    found = score(MOVED, shown(FILLER, NEW))
    assert (found["recall@1"], found["recall@5"], found["recall@10"]) == (0, 1, 1)


def test_of_several_facts_recall_is_a_share_and_the_prompt_needs_all() -> None:
    """One of two is half of the recall, and no answer."""
    both = Question(Kind.SEVERAL, "pets", "?", wanted=(LEEDS, GHENT))
    assert score(both, shown(OLD, FILLER))["recall@5"] == 0.5
    assert score(both, shown(OLD, FILLER))["in prompt"] == 0
    assert score(both, shown(OLD, NEW))["in prompt"] == 1


@pytest.mark.parametrize(
    "other",
    [
        line("Boxes everywhere: I now live in …", 90),
        line("I now live in Ghentbrugge.", 90),
        FILLER,
        line("I live in Ghent.", 91),
    ],
)
def test_an_answer_is_the_words_from_the_turn_that_said_them(other: Line) -> None:
    """Neither the turn without the words, nor longer words, nor the words of another turn."""
    assert score(MOVED, shown(NEW))["in prompt"] == 1
    assert score(MOVED, shown(other))["in prompt"] == 0


@pytest.mark.parametrize(
    ("prompt", "wrong", "right"),
    [
        ((), 0, 0),
        ((FILLER,), 0, 0),
        ((OLD,), 1, 0),
        ((NEW, OLD), 1, 0),
        ((OLD, NEW), 0, 1),
        ((NEW,), 0, 1),
        ((NEW, line("I live in Leeds.", 3, outdated=True)), 0, 1),
        ((line("I live in Leeds.", 3, outdated=True),), 0, 0),
        ((OLD, NEW, OLD), 1, 0),
        ((NEW, line("I live in Leeds.", 3, recalled=True)), 1, 0),
        ((NEW, line("3 May: I live in Leeds.", 3, recalled=True, dated=True)), 0, 1),
        ((OLD, line("3 May: I live in Ghent.", 90, recalled=True, dated=True)), 1, 0),
    ],
)
def test_wrong_after_an_update(prompt: tuple[Line, ...], wrong: int, right: int) -> None:
    """The older value counts as current unless the newer one follows, or it says that it is old.

    Between conversation and memories only a date tells what is older.
    """
    found = score(MOVED, shown(*prompt))
    assert (found["wrong"], found["right"]) == (wrong, right)
    # A share of those prompts alone that tell either.
    assert found.get("wrong of told") == (wrong if wrong or right else None)


def test_what_was_never_said_costs_what_was_recalled() -> None:
    """Nothing recalled is nothing in vain; there is no answer to be found."""
    never = Question(Kind.NEVER, "", "What is my blood type?")
    assert score(never, shown()) == {"in vain": 0, "tokens in vain": 0}
    assert score(never, shown(FILLER, OLD)) == {"in vain": 1, "tokens in vain": 18}


def test_an_interval_is_over_histories() -> None:
    """Histories that differ give a wide interval, however many questions each has."""
    alike = estimate([[1.0, 0.0] * 20] * 10)
    apart = estimate([[1.0] * 40, [0.0] * 40] * 5)
    assert alike.value == apart.value == 0.5
    assert alike.low == alike.high == 0.5
    assert apart.low < 0.35
    assert apart.high > 0.65
    assert apart == estimate([[1.0] * 40, [0.0] * 40] * 5)


def test_a_lead_is_taken_question_by_question() -> None:
    """Ahead by the same in every history is certain, whatever the histories are like."""
    ahead = difference([[1.0, 1.0], [0.5, 0.5]], [[0.5, 0.5], [0.0, 0.0]])
    assert (ahead.value, ahead.low, ahead.high) == (0.5, 0.5, 0.5)


def test_a_lead_where_one_has_fewer_values_is_that_of_the_means() -> None:
    """Each mean is over its own values, and the interval over the same histories for both."""
    ahead = difference([[1.0], [0.0, 0.0]] * 10, [[], [0.0, 1.0]] * 10)
    assert ahead.value == pytest.approx(1 / 3 - 1 / 2)
    assert ahead.questions == 20
    assert -0.5 <= ahead.low < ahead.value < ahead.high <= 0.5
    same = difference([[1.0, 0.0], [1.0]] * 5, [[1.0, 0.0], [1.0]] * 5)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_of_no_question_nothing_is_known() -> None:
    """The interval is all that may be."""
    none = estimate([[], []])
    assert (none.low, none.high, none.questions) == (0, 1, 0)
    ahead = difference([[0.25]], [[]])
    assert (ahead.value, ahead.low, ahead.high, ahead.questions) == (0.25, -1, 1, 0)
