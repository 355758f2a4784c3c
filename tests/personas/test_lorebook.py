"""Lorebooks wake as Character Card V3 says."""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import pytest

from personas.decorators import parse_decorators
from personas.errors import PersonaError
from personas.lore_entries import MAX_INSTRUCTIONS, MAX_PATTERNS, composed
from personas.lorebook import (
    MAX_PASSES,
    Said,
    Woken,
    entry_id,
    match,
    prepare,
    refuse_heavy,
    wake,
)
from personas.model import Lorebook, LorebookEntry


def _entry(content: str = "lore", keys: Sequence[str] = ("pier",), **more: Any) -> LorebookEntry:
    return LorebookEntry(content=content, keys=tuple(keys), **more)


def _tavern(**settings: Any) -> str:
    return json.dumps({"selectiveLogic": 0} | settings)


def _wake(
    *entries: LorebookEntry, said: str | Sequence[str] = "the old pier", **more: Any
) -> Woken:
    texts = [said] if isinstance(said, str) else said
    roles = ("user", "assistant")
    # The newest message is the user's.
    messages = [Said(roles[(len(texts) - 1 - at) % 2], text) for at, text in enumerate(texts)]
    book = {key: more.pop(key) for key in list(more) if key in Lorebook.model_fields}
    options = {"count_tokens": len, "room": 10_000} | more
    return wake(Lorebook(entries=entries, **book), messages, **options)


def _woken(*entries: LorebookEntry, **more: Any) -> list[str]:
    return [one.content for one in _wake(*entries, **more).entries]


@pytest.mark.parametrize(
    ("entry", "said", "wakes"),
    [
        (_entry(), "the old pier", True),
        (_entry(), "the old Pier", True),
        (_entry(case_sensitive=True), "the old Pier", False),
        (_entry(case_sensitive=True), "the old pier", True),
        (_entry(), "the piers", True),
        (_entry(extensions=_tavern(match_whole_words=True)), "the piers", False),
        (_entry(extensions=_tavern(match_whole_words=True)), "piers. (pier)", True),
        (_entry(keys=("cafe\u0301",)), "un caf\u00e9", True),
        (_entry(keys=("STRASSE",)), "die Straße", True),
        (_entry(keys=()), "the old pier", False),
        (_entry(keys=("",)), "the old pier", False),
        (_entry(keys=("jetty", "pier")), "the old pier", True),
        (_entry(enabled=False), "the old pier", False),
        (_entry(enabled=False, constant=True), "the old pier", False),
        (_entry(""), "the old pier", False),
        (_entry("@@depth 1\n\n"), "the old pier", False),
        (_entry(keys=("no",), constant=True), "the old pier", True),
        (_entry(secondary_keys=("night",), selective=True), "the old pier", False),
        (_entry(secondary_keys=("night",), selective=True), "the pier at night", True),
        (_entry(secondary_keys=("night",)), "the old pier", True),
        (_entry(secondary_keys=("night",), selective=True, constant=True), "x", True),
        (_entry(keys=("/p.er/",), use_regex=True), "the old pier", True),
        (_entry(keys=("/P.ER/i",), use_regex=True), "the old pier", True),
        (_entry(keys=("/P.ER/",), use_regex=True), "the old pier", False),
        (_entry(keys=("^old$",), use_regex=True), "the\nold\npier", False),
        (_entry(keys=("/^old$/m",), use_regex=True), "the\nold\npier", True),
        (_entry(keys=(r"\u{70}\u0069er",), use_regex=True), "the old pier", True),
        (_entry(keys=("p.er",)), "the old pier", False),
        (_entry(keys=("pier", "("), use_regex=True), "the old pier", False),
        (_entry(keys=("no",), use_regex=True, constant=True), "the old pier", False),
        (_entry(use_regex=True, selective=True, secondary_keys=("no",)), "the pier", True),
        # SillyTavern says `use_regex` of every entry and means keys between slashes.
        (_entry(keys=("p.er",), use_regex=True, extensions=_tavern()), "the old pier", False),
        (_entry(keys=("/p.er/",), extensions=_tavern()), "the old pier", True),
        (_entry(keys=("no",), use_regex=True, constant=True, extensions=_tavern()), "x", True),
    ],
)
def test_which_keys_match(entry: LorebookEntry, said: str, wakes: bool) -> None:
    """Keys, case, constants, secondary keys and patterns."""
    assert bool(_woken(entry, said=said)) == wakes


@pytest.mark.parametrize(
    ("logic", "said", "wakes"),
    [
        (0, "pier a", True), (0, "pier", False),
        (1, "pier a", True), (1, "pier a b", False),
        (2, "pier", True), (2, "pier a", False),
        (3, "pier a b", True), (3, "pier a", False),
    ],
)  # fmt: skip
def test_secondary_keys_as_sillytavern_combines_them(logic: int, said: str, wakes: bool) -> None:
    """Any, not all, none, all."""
    entry = _entry(
        selective=True,
        secondary_keys=(" a", " b"),
        extensions=_tavern(selectiveLogic=logic),
    )
    entry = entry.model_copy(update={"secondary_keys": ("a", "b"), "keys": ("pier",)})
    assert bool(_woken(entry, said=said)) == wakes


def test_only_the_newest_messages_are_searched() -> None:
    """`scan_depth` of the book, or the entry's decorator in its place."""
    said = ["a pier", "yes", "and then"]
    assert _woken(_entry(), said=said) == ["lore"]
    assert _woken(_entry(), said=said, scan_depth=2) == []
    assert _woken(_entry(), said=said, scan_depth=3) == ["lore"]
    assert _woken(_entry(), said="a pier", scan_depth=0) == []
    assert _woken(_entry("@@scan_depth 3\nlore"), said=said, scan_depth=1) == ["lore"]
    assert _woken(_entry("@@scan_depth 1\nlore"), said=said) == []


def test_entries_wake_each_other_only_where_the_book_says_so() -> None:
    """Recursion has an end, reaches past the scan depth, and each comes once."""
    one = _entry("a lamp hangs there")
    two = _entry("the lamp is green; pier", keys=("lamp",))
    assert _woken(one, two) == ["a lamp hangs there"]
    assert _woken(one, two, recursive_scanning=False) == ["a lamp hangs there"]
    assert len(_woken(one, two, recursive_scanning=True, scan_depth=1)) == 2
    shy = two.model_copy(update={"extensions": _tavern(exclude_recursion=True)})
    assert len(_woken(one, shy, recursive_scanning=True)) == 1
    quiet = one.model_copy(update={"extensions": _tavern(prevent_recursion=True)})
    assert len(_woken(quiet, two, recursive_scanning=True)) == 1
    chain = [_entry(f"k{at + 1}.", keys=(f"k{at}.",)) for at in range(40)]
    assert len(_woken(*chain, said="k0.", recursive_scanning=True)) == MAX_PASSES


def test_hidden_keys_wake_and_comments_do_not() -> None:
    """What macros hide from the prompt is seen by recursion, or not, as each says."""
    one = _entry("{{hidden_key:lamp}} {{// boat}} {{comment: rope}}")
    others = [_entry(key, keys=(key,)) for key in ("lamp", "boat", "rope")]
    woken = _woken(one, *others, recursive_scanning=True)
    assert woken[1:] == ["lamp"]
    assert _woken(_entry(keys=("{{char}} said",)), said="zo said", names=("Zo", "Ann")) == ["lore"]


@pytest.mark.parametrize(
    ("decorators", "more", "wakes"),
    [
        ("@@activate_only_after 2", {"assistant_count": 1}, False),
        ("@@activate_only_after 2", {"assistant_count": 2}, True),
        ("@@activate_only_every 3", {"assistant_count": 4}, False),
        ("@@activate_only_every 3", {"assistant_count": 6}, True),
        ("@@activate_only_every 0", {"assistant_count": 4}, True),
        ("@@is_greeting 1", {"greeting": 0}, False),
        ("@@is_greeting 1", {"greeting": 1}, True),
        ("@@additional_keys night,dark", {}, False),
        ("@@additional_keys night, old", {}, True),
        ("@@additional_keys old\n@@additional_keys night", {}, False),
        ("@@exclude_keys old", {}, False),
        ("@@exclude_keys night", {}, True),
        ("@@dont_activate", {}, False),
        ("@@dont_activate\n@@activate", {}, True),
        ("@@activate", {"said": "nothing"}, True),
        ("@@activate\n@@activate_only_after 9", {}, True),
        ("@@unknown\n@@@dont_activate", {}, False),
        ("@@depth 1\n@@@dont_activate", {}, True),
        ("@@one\n@@@two\n@@@three\n@@@four\n@@@five\n@@@dont_activate", {}, False),
        ("@@instruct_depth 5\n@@@dont_activate", {}, False),
        ("@@role nobody\n@@@dont_activate", {}, False),
        ("@@is_user_icon a", {}, True),
        ("@@@dont_activate", {}, True),
        ("@@is_greeting 1\n@@is_greeting 0", {"greeting": 0}, False),
    ],
)
def test_decorators_that_decide(decorators: str, more: dict[str, Any], wakes: bool) -> None:
    """Each condition, what overrides it, and chains of fallbacks."""
    assert _woken(_entry(f"{decorators}\nlore"), **more) == (["lore"] if wakes else [])


def test_an_entry_remembers_that_it_woke() -> None:
    """The ids of one turn are what later turns are asked with."""
    keep = _entry("@@keep_activate_after_match\nkept")
    once = _entry("@@dont_activate_after_match\nonce")
    first = _wake(keep, once)
    assert [one.content for one in first.entries] == ["kept", "once"]
    assert first.ids == (entry_id(keep), entry_id(once))
    assert all(len(one) == 8 for one in first.ids)
    assert _woken(keep, once, said="nothing", woken=first.ids) == ["kept"]
    assert _woken(keep, once, said="nothing") == []
    assert _woken(keep, once, woken=dict.fromkeys(first.ids, 3)) == ["kept"]


@pytest.mark.parametrize(
    ("entry", "position", "depth", "role"),
    [
        (_entry(), "after_char", 0, "system"),
        (_entry(position="before_char"), "before_char", 0, "system"),
        (_entry("@@depth 3\nx", position="before_char"), "depth", 3, "system"),
        (_entry("@@depth -2\nx"), "depth", 0, "system"),
        (_entry("@@depth 3\n@@role assistant\nx"), "depth", 3, "assistant"),
        (_entry("@@depth 3\n@@position after_desc\nx"), "after_desc", 0, "system"),
        (_entry("@@position moon\n@@@position before_desc\nx"), "before_desc", 0, "system"),
        (_entry("@@position personality\nx"), "personality", 0, "system"),
        (_entry("@@position scenario\nx"), "after_char", 0, "system"),
        (_entry("@@position scenario\n@@depth 2\nx"), "depth", 2, "system"),
        (_entry(extensions=_tavern(position=4, depth=2, role=1)), "depth", 2, "user"),
        (_entry(extensions=_tavern(position=0)), "before_char", 0, "system"),
        (
            _entry(extensions=_tavern(position=2), position="before_char"),
            "before_char",
            0,
            "system",
        ),
    ],
)
def test_where_an_entry_stands(entry: LorebookEntry, position: str, depth: int, role: str) -> None:
    """Fields, decorators and SillyTavern's numbers; a section that is not there does not count."""
    (woken,) = _wake(entry, sections=("personality",)).entries
    assert (woken.position, woken.depth, woken.role) == (position, depth, role)


def test_the_order_is_that_of_insertion() -> None:
    """Lower numbers first; those that are the same stay in the book's order."""
    entries = [_entry(f"{at}", insertion_order=order) for at, order in enumerate((5, 1.5, 5, -2))]
    assert _woken(*entries) == ["3", "1", "0", "2"]


def test_the_lowest_gives_way() -> None:
    """Priority decides, the order of insertion where there is none; the room comes after."""
    low = _entry("a" * 10, insertion_order=9, priority=1)
    mid = _entry("b" * 10, insertion_order=5)
    high = _entry("c" * 10, insertion_order=1, priority=7)
    assert [one[0] for one in _woken(low, mid, high)] == ["c", "b", "a"]
    assert [one[0] for one in _woken(low, mid, high, token_budget=29)] == ["c", "b"]
    assert [one[0] for one in _woken(low, mid, high, token_budget=10)] == ["c"]
    assert [one[0] for one in _woken(low, mid, high, room=20)] == ["c", "b"]
    weak = _entry("@@ignore_on_max_context\n" + "d" * 10, insertion_order=100)
    assert [one[0] for one in _woken(low, mid, high, weak, room=30)] == ["c", "b", "a"]
    woken = _wake(low, mid, high, token_budget=0)
    assert (woken.entries, woken.left_out, len(woken.ids)) == ((), 3, 3)


def test_an_entry_can_turn_parts_of_the_prompt_off() -> None:
    """Only while it is in the prompt."""
    entry = _entry("@@disable_ui_prompt system_prompt\nlore")
    assert _wake(entry).disabled == {"system_prompt"}
    assert _wake(entry, said="no").disabled == frozenset()


def test_a_probability_is_decided_by_the_seed() -> None:
    """The same turn gives the same answer; many turns give the share."""
    entry = _entry(extensions=_tavern(useProbability=True, probability=30))
    hits = [bool(_woken(entry, seed=bytes([at]))) for at in range(200)]
    assert hits == [bool(_woken(entry, seed=bytes([at]))) for at in range(200)]
    assert 30 < sum(hits) < 90
    off = _entry(extensions=_tavern(useProbability=False, probability=0))
    assert _woken(off) == ["lore"]


def test_what_is_not_obeyed_is_a_flaw() -> None:
    """Places and words for a report; what asks for nothing is not mentioned."""
    book = Lorebook(
        entries=(
            _entry("@@risu_only 4\n@@@activate\nx"),
            _entry("@@risu_only 4\nx", keys=("/(?!a)/",), use_regex=True),
            _entry(extensions=_tavern(group="night", sticky=0, cooldown=3, vectorized=False)),
        )
    )
    places = [flaw.place for flaw in prepare(book).flaws]
    assert places == [
        "lorebook.entries[1].content",
        "lorebook.entries[1].keys[0]",
        "lorebook.entries[2].extensions.group",
        "lorebook.entries[2].extensions.cooldown",
    ]


def test_decorators_leave_no_blank_lines() -> None:
    """They and the lines around them go; the text behind them stays as it is."""
    found = parse_decorators("\n@@depth 5\n@@@instruct_depth 5\n\n  Some text\n@@not_one\n")
    assert found.values == {"depth": 5}
    assert found.text == "  Some text\n@@not_one"
    assert parse_decorators("plain\n@@depth 5").text == "plain\n@@depth 5"
    assert parse_decorators("@@depth x").ignored == ("depth",)


def test_a_book_made_to_be_slow_ends() -> None:
    """Work is bounded, so a turn is answered whatever a persona brings."""
    # The last of these stands in the text, and is not reached.
    last = _entry("reached", keys=("xxxx",))
    text = "x" * 32_000
    patterns = [_entry(keys=(f"/(x|y)*x(x|y){{30}}z{at}/",), use_regex=True) for at in range(256)]
    plain = [_entry(keys=tuple(f"xxx{at}" for at in range(250))) for _ in range(10)]
    words = [_entry(keys=("x",), extensions=_tavern(match_whole_words=True)) for _ in range(10)]
    depths = [_entry(keys=("xxxy",), content=f"@@scan_depth {at}\nlore") for at in range(99)]
    for slow in (patterns, plain, words):
        assert _woken(*slow, last, said=text, room=10) == []
        assert _woken(*slow[:5], last, said="xxxx", room=10) == ["reached"]
    assert _woken(*depths, last, said=[text[:320]] * 100, room=10) == []


def test_a_book_has_a_bounded_number_of_patterns() -> None:
    """Each takes memory; those that are too many are named, and do not match."""
    book = Lorebook(
        entries=tuple(
            _entry(f"{at}", ("/pier/",), use_regex=True) for at in range(MAX_PATTERNS + 1)
        )
    )
    ready = prepare(book)
    assert [flaw.place for flaw in ready.flaws] == [f"lorebook.entries[{MAX_PATTERNS}].keys[0]"]
    woken = wake(ready, [Said("user", "the pier")], count_tokens=len, room=10_000)
    assert len(woken.entries) == MAX_PATTERNS


def test_patterns_of_a_book_take_a_bounded_number_of_instructions() -> None:
    """A book that goes beyond is told with place, rule and remedy, and cannot be published."""
    costly = [
        _entry(f"{at}", (f"[ab]*a[ab]{{900}}x{at}",), use_regex=True)
        for at in range(MAX_INSTRUCTIONS // 900 + 1)
    ]
    book = Lorebook(entries=(*costly, _entry("last", ("/pier/",), use_regex=True)))
    (flaw,) = prepare(book).flaws
    assert flaw.limit
    assert flaw.place == f"lorebook.entries[{len(costly) - 1}].keys[0]"
    with pytest.raises(PersonaError, match=re.escape(flaw.place) + ".*instructions.*plain keys"):
        refuse_heavy(book)
    assert [one.content for one in _wake(*book.entries, said="the pier").entries] == ["last"]
    lookaround = Lorebook(entries=(_entry(keys=("/(?=pier)/",), use_regex=True),))
    assert not prepare(lookaround).flaws[0].limit
    refuse_heavy(lookaround)


def test_a_search_says_whether_it_looked_for_all() -> None:
    """With less work allowed it ends before, and says so; with enough it finds the same."""
    book = Lorebook(entries=tuple(_entry(f"{at}", (f"pier {at}",)) for at in range(50)))
    said = [Said("user", "pier 7 and pier 49")]
    assert not match(book, said, work=10_000).complete
    found = match(book, said)
    assert found.complete
    assert [one.text for one in found.entries] == ["4", "7", "49"]


def test_letters_with_very_many_marks_are_compared_as_they_are() -> None:
    """Sorting marks takes time with the square of their number; the text is left alone."""
    marks = "\u0301\u0316"
    assert composed("e" + marks) == unicodedata.normalize("NFC", "e" + marks) != "e" + marks
    many = "e" + marks * 16
    assert composed(many) == many
    assert _woken(_entry(), said=f"{many} pier") == ["lore"]
