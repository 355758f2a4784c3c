"""What comes back into a prompt: what fits, what holds, and never more than there is room for."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.facts import Learned
from memory.items import NO_TURN
from memory.recall import Query, recall, recent_within
from memory.records import Fact, Notes, Pin, Ref
from memory.rules import rule_based
from memory.vectors import normalise, quantise
from memory.view import View
from memory.words import terms
from memory.words import words as words_of
from tests.memory.memories import KEYS, MODEL, START, Thread, cost, facts_of, texts, turn


def _lived(*places: str) -> Thread:
    """Somebody who lived in several places, and talked of much else in between."""
    thread = Thread()
    for number, place in enumerate(places):
        thread.say(f"I live in {place}." if number == 0 else f"I moved to {place}.")
        for what in ("chess", "bread", "the opera", "snow", "my garden"):
            thread.say(f"Today I thought about {what} for {number + 2} hours.")
    return thread


def test_what_was_said_comes_back_for_a_question_about_it() -> None:
    """The fact stands in the prompt, and what has nothing to do with it does not."""
    recalled = texts(_lived("Leeds").ask("Where do I live?"))
    assert "The user lives in Leeds." in recalled
    assert "opera" not in recalled


def test_an_updated_fact_is_not_recalled_as_current() -> None:
    """The old home stands only beside the new one, and says until when it was."""
    thread = _lived("Leeds", "York", "Bergen")
    for budget in range(0, 120, 3):
        recalled = thread.ask("Where do I live, and where did I live before?", budget=budget)
        lines = [one.text for one in recalled]
        for at, line in enumerate(lines):
            if "Leeds" in line or "York" in line:
                assert line.startswith("Until ") or "no longer so since" in line
                assert any("Bergen" in later for later in lines[at:])
    assert "Until" in texts(thread.ask("Where did I live before?"))


def test_a_turn_that_said_what_changed_is_marked() -> None:
    """The old words of the user are dated, and say that they no longer hold."""
    thread = Thread()
    thread.say("I live in Leeds, right by the canal where the narrow boats are.")
    thread.say("I moved to York.")
    for one in thread.ask("What did I say about the canal and the narrow boats?"):
        if one.kind == "turn" and "Leeds" in one.text:
            assert "no longer so since" in one.text
            break
    else:
        pytest.fail("the turn was not recalled at all")


def test_an_outdated_turn_is_left_out_where_the_new_value_has_no_room() -> None:
    """A fact whose successor does not fit is not told at all."""
    thread = Thread()
    thread.say("I live in Leeds.")
    thread.say(
        "I moved to York.", learned=[Learned("The user lives in York " + "far " * 40, "user.home")]
    )
    recalled = texts(thread.ask("Do I live in Leeds?", budget=12))
    assert "lives in Leeds" not in recalled


def test_pinned_facts_stand_first_and_always() -> None:
    """A pinned fact is there for every message, until it is let go."""
    thread = _lived("Leeds")
    ref = thread.write(Learned("The user is afraid of dogs."))
    assert "dogs" not in texts(thread.ask("Where do I live?"))
    thread.add(Pin(ref, True))
    recalled = thread.ask("Where do I live?")
    assert (recalled[0].ref, recalled[0].kind) == (ref, "pin")
    assert "Leeds" in texts(recalled)
    assert thread.ask("", budget=5) == ()
    thread.add(Pin(ref, False))
    assert "dogs" not in texts(thread.ask("Where do I live?"))


def test_a_pin_goes_over_to_what_supersedes() -> None:
    """Who pinned their home wants their home in the prompt, not the old one."""
    thread = Thread()
    thread.say("I live in Leeds.")
    thread.add(Pin(Ref(1, 0), True))
    thread.say("I moved to York.")
    recalled = thread.ask("How are you?")
    assert [one.kind for one in recalled] == ["pin"]
    assert "York" in recalled[0].text


def test_what_stands_in_the_prompt_is_not_recalled() -> None:
    """Neither turns of the window nor facts that only they told, unless pinned."""
    thread = _lived("Leeds")
    assert thread.ask("Where do I live?", since=0) == ()
    assert "Leeds" in texts(thread.ask("Where do I live?", since=1))
    owned = thread.write(Learned("The user lives near a lake."))
    assert [one.ref for one in thread.ask("Where do I live?", since=0)] == [owned]
    thread.add(Pin(Ref(1, 0), True))
    assert [one.ref for one in thread.ask("Where do I live?", since=0)] == [Ref(1, 0), owned]


def test_meaning_finds_what_words_do_not() -> None:
    """A turn without a word in common comes back by its embedding."""
    vector = np.eye(1, 8, dtype=np.float32)[0]
    records = [(0, turn(0, "Chopin and Liszt")), (1, Notes(0, MODEL, quantise(vector)))]
    view = View.empty(KEYS)
    view = view.fold(records, replace(view.position, length=2))
    query = Query("music", vector, MODEL, START)
    assert len(recall(view, query, budget=50, cost=cost, since=2)) == 1
    for other in (replace(query, model=b"modeltwo"), replace(query, vector=None)):
        assert recall(view, other, budget=50, cost=cost, since=2) == ()


def test_the_same_is_not_told_twice() -> None:
    """A turn that says no more than a fact that stands there already is left out."""
    thread = Thread()
    for _ in range(5):
        thread.say("I live in Leeds.")
    assert len(thread.ask("Where do I live?")) == 1
    assert facts_of(thread.view) == ["The user lives in Leeds."]


def test_the_newest_stands_last() -> None:
    """Where nobody saw that one thing replaced another, the newer one is the last word."""
    thread = Thread()
    for drink in ("tea", "cocoa", "cider"):
        thread.say(f"I had {drink} with breakfast again.", learned=[])
    said = [one.when for one in thread.ask("What do I have with breakfast?")]
    assert len(said) == 3
    assert said == sorted(said)


def test_a_recalled_memory_is_never_stored_again_as_new() -> None:
    """What memory put into the persona's mouth is no memory: not as a fact, not as a turn's."""
    thread = _lived("Leeds")
    recalled = thread.ask("Where do I live?")
    known = facts_of(thread.view)
    for _ in range(3):
        index = thread.say(
            "And where do I live?",
            f"I remember! {texts(recalled)}",
            recalled=tuple(one.ref for one in recalled),
        )
        item = thread.view.find(Ref(index))
        assert item is None or item.extra == ""
    assert facts_of(thread.view) == known
    assert not any(notes.facts or notes.sources for notes in _last_notes(thread, 3))


def test_what_the_persona_came_up_with_can_be_asked_for() -> None:
    """A reply that owes nothing to memory is found, and told as the persona's own."""
    thread = _lived("Leeds")
    thread.say("What shall I read next?", "Try Middlemarch, a long novel.")
    assert 'You: "Try Middlemarch' in texts(thread.ask("Which novel did you recommend?"))


def _last_notes(thread: Thread, count: int) -> list[Notes]:
    found = [one for _, one in thread.records if isinstance(one, Notes)]
    return found[-count:]


_WORDS = "I live in Leeds York my dog Rex loves tea moved to not until since"
words = st.sampled_from(_WORDS.split())


@settings(max_examples=60, deadline=None)
@given(
    said=st.lists(st.lists(words, max_size=12).map(" ".join), max_size=12),
    asked=st.text(max_size=40) | st.lists(words, max_size=8).map(" ".join),
    budget=st.integers(-1, 60),
    since=st.integers(0, 30),
    pins=st.lists(st.integers(0, 24), max_size=4),
)
def test_no_budget_is_ever_exceeded(
    said: Sequence[str], asked: str, budget: int, since: int, pins: Sequence[int]
) -> None:
    """Whatever was said, pinned and asked, what comes back fits, once each, and names what is."""
    thread = Thread()
    for message in said:
        thread.say(message)
    for index in pins:
        thread.add(Pin(Ref(index), True), Pin(Ref(index, 0), True))
    recalled = thread.ask(asked, budget=budget, since=since)
    assert sum(one.tokens for one in recalled) <= max(budget, 0)
    assert all(one.tokens == cost(one.text) for one in recalled)
    assert len({one.ref for one in recalled}) == len(recalled)
    assert all(thread.view.find(one.ref) is not None for one in recalled)


@pytest.mark.parametrize(
    "message",
    [
        "\x00\x1f\ufeff",
        "a" * 300_000,
        "\U0001f600" * 5000,
        "\u202eI live in sdeeL",
        "日本に住んでいます。犬が好きです。",
        "I live in " + "Leeds " * 30_000,
        "(" * 50_000,
        "'" * 50_000,
        '"' * 50_001,
        "I like " + "and I like " * 20_000,
        "my " * 50_000 + "dog",
        "*" * 50_001,
        ", I" * 40_000,
    ],
    ids=range(13),
)
def test_hostile_messages_cost_little_and_break_nothing(message: str) -> None:
    """No text makes extraction, folding or recall fail, and none makes a large memory."""
    thread = Thread()
    thread.say(message, message)
    assert len(rule_based(message)) <= 8
    assert len(thread.view.encode()) < 20_000
    assert View.decode(thread.view.encode()).encode() == thread.view.encode()
    assert sum(one.tokens for one in thread.ask(message, budget=40)) <= 40


def test_a_text_without_spaces_is_found_by_its_parts() -> None:
    """Scripts without spaces between words are compared by pairs of characters."""
    thread = Thread()
    thread.say("京都に住んでいます。", learned=[])
    thread.say("寿司が好きです。", learned=[])
    assert [one.ref for one in thread.ask("京都はどう？")] == [Ref(0)]


def test_the_window_begins_at_the_same_turn_for_a_while() -> None:
    """A prefix that does not move is one that the engine has computed already."""
    begins = []
    for count in range(1, 60):
        first = max(0, count - 40)
        turns = list(range(first, count))
        kept = recent_within(turns, 20, lambda one: 1, first=first)
        assert kept == tuple(range(kept[0], count))
        assert len(kept) <= 20
        begins.append(kept[0])
    assert begins[:20] == [0] * 20
    assert all(begin % 8 == 0 for begin in begins)
    assert len(set(begins)) == 6
    assert recent_within([1, 2, 3], 2, lambda one: 1, first=1) == (2, 3)


def test_a_fact_from_before_the_calendar_ends_is_told() -> None:
    """A time that no calendar has does not stop a prompt from being made."""
    view = View.empty(KEYS)
    fact = Fact("The user is immortal.", since=2**53 - 1, pinned=True)
    view = view.fold([(0, Notes(None, facts=(fact,)))], replace(view.position, length=1))
    query = Query("When does it end?", None, b"", START)
    (one,) = recall(view, query, budget=20, cost=cost, since=0)
    assert "9999" in one.text


def _expected(view: View, query: Query) -> dict[Ref, float]:
    """What the formulas that are cited say of each row, one after the other and in float64."""
    items = view.items
    asked = set(terms(query.text).tolist())
    sizes = items.rows["terms"].astype(np.int64)
    ends = np.cumsum(sizes)
    known = [set(items.terms[end - n : end].tolist()) for end, n in zip(ends, sizes, strict=True)]
    rarity = {
        one: np.log1p((len(known) - found + 0.5) / (found + 0.5))
        for one in asked
        if (found := sum(one in row for row in known))
    }
    mean_length = sum(map(len, known)) / len(known)
    norms = items.rows["norm"].astype(float)
    units = [
        v / n if n else v * 0.0 for v, n in zip(items.vectors.astype(float), norms, strict=True)
    ]
    mean = np.sum(units, axis=0) / np.count_nonzero(norms)
    assert query.vector is not None
    rest = query.vector - mean
    scores = {}
    for row, unit in enumerate(units):
        item = items.item(row)
        length = min(len(known[row]), 0.3 * mean_length) if item.fact else len(known[row])
        found = sum(rarity.get(one, 0) for one in known[row])
        share = 2.2 / (1 + 1.2 * (0.6 + 0.4 * length / mean_length)) / sum(rarity.values())
        score = min(1.0, found * share)
        if norms[row]:
            away = unit - mean
            near = away @ rest / np.linalg.norm(away) / np.linalg.norm(rest)
            score = 0.25 * score + 0.75 * min(1.0, max(0.0, near))
        days = max(0, query.now - item.time) / 86_400
        score *= 1 + 0.15 * item.importance / 100 + 0.1 * 30 / (30 + days)
        score += 0.05 * item.fact
        scores[item.ref] = score * (0.8 if item.until is not None else 1)
    return scores


@pytest.mark.parametrize("prepared", [False, True])
def test_scores_are_what_the_formulas_say(prepared: bool) -> None:
    """Also where what all embeddings have in common was computed before, for this view alone."""
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(60, 16)) + 0.6
    thread = Thread()
    for number in range(30):
        vector, fact = (quantise(one) for one in vectors[2 * number : 2 * number + 2])
        at = thread.add(turn(number, f"Bread {number} and a garden, and bread.", "Nice garden!"))
        facts = (Fact(f"The user baked bread {number}.", "user.job", 40, START, (at,), (), fact),)
        thread.add(Notes(at, MODEL, vector, facts[: number % 2]))
        if prepared:
            thread.view.items.spread()
    thread.add(turn(30, "A garden that was not embedded yet"))
    query = Query("garden bread", normalise(rng.normal(size=16) + 0.6), MODEL, START + 86_400 * 40)
    expected = _expected(thread.view, query)
    found = recall(thread.view, query, budget=10**6, cost=lambda text: 0, since=NO_TURN)
    assert len(found) > 20
    for one in found:
        assert one.score == pytest.approx(expected[one.ref], rel=1e-4)
    least = min(one.score for one in found)
    assert all(score <= least * 1.0001 for score in sorted(expected.values())[: -len(found)])


def test_a_shortened_text_has_the_words_that_are_left() -> None:
    """The mark of where it was cut is no word, and joins none."""
    for text in ("my dog\u2026", "my\u2026dog", "my \u2026\u0301 dog", "\u2026my dog's"):
        assert words_of(text) == ["my", "dog"]
    assert words_of("I\u2019m not\u2026 caf\xe9\u2026") == ["i", "not", "caf\xe9"]
