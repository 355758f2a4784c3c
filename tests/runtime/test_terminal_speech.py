"""Words that stream to a terminal, broken where a reader would."""

from __future__ import annotations

import contextlib
import io
import os
import pty

import pytest

from runtime.commands.terminal import Speech

_ENGLISH = (
    "I'm glad that you came. The rehearsal is in an hour,\nand nobody has coiled the "
    "rope.\n\nSee https://rigging.example/knots/and/how/to/tie/them, then ask me."
)
_MIXED = "Wörter, e\u0301a\u0301u\u0301 combined, 馬は速い and 한국어 words 🎪 between others."


def shown(deltas: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a terminal is given."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        with contextlib.redirect_stdout(terminal):
            speech = Speech("Wren")
            for delta in deltas:
                speech.say(delta)
            speech.end()
        told = b""
        while not told.endswith(b"\n"):
            told += os.read(ours, 65536)
    os.close(ours)
    lines = told.decode().split("\r\n")
    assert lines.pop() == ""
    return lines


def rows(line: str, columns: int) -> list[str]:
    """What a terminal makes of a line."""
    found, left = [""], columns
    for one in line:
        cells = 2 if one >= "\u2e80" else 0 if one == "\u0301" else 1
        if cells > left:
            found.append("")
            left = columns
        found[-1] += one
        left -= cells
    return found


@pytest.mark.parametrize("columns", [18, 24, 40])
@pytest.mark.parametrize("text", [_ENGLISH, _MIXED])
def test_words_are_whole_however_they_come(
    columns: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the screen no word is broken that fits a line, but those that are written without spaces;
    none is lost, and paragraphs stay.
    """
    whole = shown([text], columns, monkeypatch)
    assert " ".join(whole).split() == ["Wren>", *text.split()]
    assert whole.count("") == text.count("\n\n")
    seen = {word for line in whole for row in rows(line, columns) for word in row.split()}
    assert {word for word in text.split() if len(word) <= columns and word < "\u2e80"} <= seen
    assert shown(list(text), columns, monkeypatch) == whole
    thirds = [text[at : at + 3] for at in range(0, len(text), 3)]
    assert shown(thirds, columns, monkeypatch) == whole


def test_words_fill_a_line_to_its_last_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """One cell less, and the word goes to the next line; a wide character takes two."""
    assert shown(["hello there"], 17, monkeypatch) == ["Wren> hello there"]
    assert shown(["hello there"], 16, monkeypatch) == ["Wren> hello", "there"]
    assert shown(["馬馬 馬"], 13, monkeypatch) == ["Wren> 馬馬 馬"]
    assert shown(["馬馬 馬"], 12, monkeypatch) == ["Wren> 馬馬", "馬"]


def test_a_program_is_given_the_words_as_they_are() -> None:
    """Where there is no terminal nothing is broken or held back, and controls stay out."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        speech = Speech("Wren")
        speech.say(" a ")
        speech.say("\n")
        speech.say("long " * 50 + "\x1b[2J")
        assert out.getvalue() == "Wren> a \n" + "long " * 50 + " [2J"
        speech.note("a note")
        speech.say("again")
        speech.end(" [stopped]")
    assert out.getvalue().endswith("[2J\na note\nWren> again [stopped]\n")
