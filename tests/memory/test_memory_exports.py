"""Exports: all that is remembered as a file, read back strictly or not at all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import InvalidInputError
from memory.exports import from_json, to_json
from memory.facts import Learned
from memory.ledger import Ledger
from memory.markdown import from_markdown, to_markdown
from memory.records import Fact, Gap, Notes, Pin, Record, Ref, Summary, Turn
from memory.view import View
from tests.memory.memories import KEYS, MODEL, START, Thread, embedding, facts_of, turn


def _thread() -> Thread:
    thread = Thread()
    thread.say("I live in Leeds.", lore=(b"\x00\xff" * 4,))
    thread.say("I moved to *York*.", "\u0000 line\nline")
    thread.say("I moved to York.")
    thread.add(Summary("All\nof it.", 4, START), Pin(Ref(5, 0), True))
    thread.add(Notes(None, MODEL, b"", (Fact("Vector.", vector=embedding(1, 8)),)))
    thread.erase([0, 1])
    return thread


def test_an_export_reads_back_exactly() -> None:
    """Every record that is left stands at its place again, with a gap where one was erased."""
    thread = _thread()
    text = to_json(thread.records)
    records = from_json(text.encode())
    assert records[:2] == [Gap(), Gap()]
    assert records[2:] == [one for _, one in thread.records[2:-1]]
    assert to_json(enumerate(records)) == text
    view = View.empty(KEYS).fold(list(enumerate(records)), thread.view.position)
    assert facts_of(view) == facts_of(thread.view)
    assert "Leeds" not in text


records = st.one_of(
    st.builds(
        Turn,
        turn_id=st.binary(min_size=16, max_size=16),
        time=st.integers(0, 2**53 - 1),
        message=st.text(st.characters(exclude_categories=["Cs"])),
        reply=st.text(st.characters(exclude_categories=["Cs"])),
        outcome=st.sampled_from(["completed", "cancelled", "failed"]),
        receipt_id=st.binary(min_size=16, max_size=16),
        receipt_digest=st.none() | st.binary(min_size=32, max_size=32),
    ),
    st.builds(
        Notes,
        turn=st.just(0) | st.none(),
        model=st.just(b"m" * 8),
        vector=st.binary(max_size=20),
        facts=st.lists(
            st.builds(
                Fact,
                text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
                about=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
                importance=st.integers(0, 100),
                since=st.integers(0, 2**53 - 1),
                vector=st.binary(max_size=9),
                pinned=st.booleans(),
            ),
            max_size=3,
        ).map(tuple),
    ),
)


@given(st.lists(records, max_size=5))
def test_any_records_survive_an_export(made: list[Record]) -> None:
    """Any text, time and vector comes back as it was, and Markdown's facts can be read."""
    text = to_json(enumerate(made))
    assert from_json(text.encode()) == made
    json.loads(text)
    blank = Ledger([(0, Notes(None, facts=(Fact(" \x1f "),)))])
    assert from_markdown(to_markdown(blank.memories()).encode()) == []
    told = from_markdown(to_markdown(Ledger(enumerate(made)).memories()).encode())
    lines = {
        " ".join(fact.text.split()) for one in made if isinstance(one, Notes) for fact in one.facts
    }
    assert {fact.text for one in told if isinstance(one, Notes) for fact in one.facts} <= lines


_HEAD = '{"format":"sottovoce memory","version":1,"records":['
_PIN = '{"index":3,"kind":"pin","ref":"m1.0","pinned":true}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1"),
        ("[]", "another kind of file"),
        ("nul", "line 1"),
        ('{"a":1,"a":2}', "twice"),
        ("[" * 100_000, "too deep"),
        ('{"version":' + "9" * 5000 + "}", "too long"),
        ('{"format":"x","version":1,"records":[]}', "format must be"),
        ('{"format":"sottovoce memory","version":2,"records":[]}', "version is 2"),
        ('{"format":"sottovoce memory","version":true,"records":[]}', "format must be"),
        ('{"format":"sottovoce memory","version":1,"records":{}}', "must be a list"),
        (_HEAD + "NaN]}", "finite"),
        (_HEAD + "1]}", "records[0]: must be an object"),
        (_HEAD + '{"index":0,"kind":"tombstone"}]}', "records[0].kind"),
        (_HEAD + '{"index":4000000000,"kind":"pin"}]}', "records[0].index"),
        (_HEAD + _PIN + "," + _PIN + "]}", "records[1].index"),
        (_HEAD + _PIN.replace("true", "1") + "]}", "records[0].pinned: must be true or false"),
        (_HEAD + _PIN.replace("m1.0", "m01.0") + "]}", "records[0].ref"),
        (_HEAD + _PIN.replace("m1.0", "m9.0") + "]}", "names a record that comes after it"),
        (_HEAD + _PIN.replace("}", ',"x":1}') + "]}", "records[0].x"),
        (_HEAD + '{"index":0,"kind":"summary","text":"a","before":0}]}', "records[0].time"),
        (
            _HEAD + '{"index":0,"kind":"notes","turn":null,"facts":[{"text":"\\ud800"}]}]}',
            "records[0].facts[0].text: holds half",
        ),
        (
            _HEAD + '{"index":0,"kind":"notes","turn":null,"vector":"AB=="}]}',
            "records[0].vector: must be bytes in base64",
        ),
        (
            _HEAD + '{"index":0,"kind":"notes","turn":null,"model":"AA"}]}',
            "records[0].model: must be bytes in small hex",
        ),
        (
            _HEAD
            + '{"index":0,"kind":"notes","turn":null,"facts":[{"text":"a","importance":101}]}]}',
            "records[0].facts[0]",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_rule(text: str, said: str) -> None:
    """The error says where, what is wrong, and what to do; never what the file holds."""
    with pytest.raises(InvalidInputError) as caught:
        from_json(text.encode())
    assert said in str(caught.value)
    assert str(caught.value).rstrip().endswith(".")
    assert caught.value.__cause__ is None


def test_what_is_no_text_is_refused() -> None:
    """A picture is no export."""
    for read in (from_json, from_markdown):
        with pytest.raises(InvalidInputError, match="UTF-8"):
            read(b"\x89PNG\xff")


def test_an_export_that_was_cut_is_refused() -> None:
    """Half an export is not taken for a whole one."""
    data = to_json(_thread().records).rstrip().encode()
    for size in range(0, len(data), 7):
        with pytest.raises(InvalidInputError):
            from_json(data[:size])


def test_markdown_tells_everything_and_gives_its_facts_back() -> None:
    """Facts with their validity, the summary and the turns are there; facts are read again."""
    thread = _thread()
    ref = thread.write(Learned("The user # likes `x` <b> & [y](z).", "user.likes.x", 7))
    text = to_markdown(Ledger(thread.records).memories())
    assert text.startswith("# What is remembered\n")
    assert f"- [{ref}] since " in text
    assert "until " not in text
    assert "> All\n> of it." in text
    assert "\n> line\n" in text
    assert "<b>" not in text
    read = [fact for one in from_markdown(text.encode()) for fact in one.facts]  # type: ignore[union-attr]
    assert [(one.text, one.pinned, one.importance) for one in read] == [
        (item.text, item.pinned, item.importance) for item in thread.view.facts()
    ]
    assert all(one.sources == () for one in read)
    again = from_markdown(text.replace("\n", "\r\n").encode())
    assert again == from_markdown(text.encode())


def test_markdown_says_until_when_something_held() -> None:
    """What was superseded stands apart, and is not read back as a fact that holds."""
    thread = Thread()
    thread.say("I live in Leeds.")
    thread.say("I moved to York.")
    text = to_markdown(Ledger(thread.records).memories())
    assert "- [m1.0] until 2026-" in text
    assert sum(len(one.facts) for one in from_markdown(text.encode())) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("The user lives in Leeds.", "line 5: a fact is one line like"),
        ("- [m1.0] since 2026-02-30T00:00:00Z, importance 1: x", "no such date"),
        ("- [m1.0] since 2026-02-03T00:00:00Z, importance 101: x", "importance must be"),
        ("- [m1.0] since 2026-02-03T00:00:00Z, importance 1:", "a fact is one line like"),
        ("- [m1.0] since 2026-02-03T00:00:00Z, importance 1: " + "x" * 501, "501 characters"),
        ("- [m1] since 2026-02-03T00:00:00Z, importance 1: x", "a fact is one line like"),
    ],
)
def test_a_wrong_line_of_markdown_is_named(line: str, said: str) -> None:
    """A line among the facts that is none stops the import, with its number."""
    with pytest.raises(InvalidInputError, match="line 5") as caught:
        from_markdown(f"# What is remembered\n\n## Facts\n\n{line}\n".encode())
    assert said in str(caught.value)
    with pytest.raises(InvalidInputError, match="line 1"):
        from_markdown(b"# My notes\n\n## Facts\n")


def test_a_turn_of_any_length_is_exported_whole() -> None:
    """What the view keeps short is not short in an export."""
    said = "elephant " * 5000
    (record,) = from_json(to_json([(0, turn(0, said))]).encode())
    assert isinstance(record, Turn)
    assert record.message == said
