"""Dialogues: what is taken from a data set, what is refused, and who says what."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from loadtest.lines import DIALOGUES
from loadtest.scenarios import BUILT_IN, COLUMN, Dialogues, find_dialogues, load_dialogues
from runtime.enclave.api import MAX_MESSAGE_CHARACTERS
from runtime.errors import SetupError

HEADER = ["user 1 personas", "user 2 personas", COLUMN]


def write(path: Path, *conversations: str, header: list[str] = HEADER) -> Path:
    """A CSV as the data set has it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        rows.writerows(["I bake.", "I knit.", conversation] for conversation in conversations)
    return path


def test_takes_the_users_lines_in_order(tmp_path: Path) -> None:
    """Only what "User 1" says is sent, once each, also where a dialogue is bulleted."""
    plain = "User 1: Hi!\nUser 2: Hello, User 1: you?\nUser 1: Well: User 2: said so.\nUser 1:  \n"
    bulleted = "* User 1: One\n*User 2: Two\n\n*User 1: Three  \r\nNobody says this"
    found = load_dialogues(write(tmp_path / "one.csv", plain, "User 2: alone", bulleted))
    assert found.dialogues == (("Hi!", "Well: User 2: said so."), ("One", "Three"))
    assert found.source == "one.csv (2 dialogues)"


def test_a_client_goes_on_with_another_dialogue() -> None:
    """Lines come in whole dialogues, without end, the same for a seed and not for all clients."""
    talk = Dialogues("test", (("a1", "a2"), ("b1", "b2", "b3"), ("c1",)))
    said = list(itertools.islice(talk.lines(0, 7), 60))
    assert said == list(itertools.islice(talk.lines(0, 7), 60))
    rest = said
    while len(rest) >= 3:
        whole = next(one for one in talk.dialogues if one[0] == rest[0])
        assert tuple(rest[: len(whole)]) == whole
        rest = rest[len(whole) :]
    assert set(said) == {"a1", "a2", "b1", "b2", "b3", "c1"}
    assert len({tuple(itertools.islice(talk.lines(n, 7), 30)) for n in range(20)}) > 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column"),
        ("a,b\n1,2\n", "no column"),
        (f"a,{COLUMN}\n1,nobody speaks\n", "nobody says anything"),
        (f"a,{COLUMN}\nonly one field\n", "nobody says anything"),
        (f'a,{COLUMN}\n1,"User 1: {"x" * (MAX_MESSAGE_CHARACTERS + 1)}"\n', "more than a turn"),
        (f'a,{COLUMN}\n1,"{"x" * 200_000}"\n', "cannot be read"),
    ],
)
def test_refuses_what_is_not_the_data_set(tmp_path: Path, text: str, says: str) -> None:
    """A wrong file is one clear line before anything is sent, not a run of odd figures."""
    path = tmp_path / "wrong.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SetupError, match=says):
        load_dialogues(path)


def test_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are not text are said as such."""
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.csv", tmp_path, tmp_path / "bytes.csv"):
        with pytest.raises(SetupError, match="cannot be read") as caught:
            load_dialogues(path)
        assert caught.value.exit_code == 2


def test_finds_the_data_or_says_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen file comes first, then SOTTO_DATA; without either the report says built in."""
    monkeypatch.delenv("SOTTO_DATA", raising=False)
    assert find_dialogues(None) is BUILT_IN
    assert BUILT_IN.source.startswith("built in")
    monkeypatch.setenv("SOTTO_DATA", str(tmp_path))
    assert find_dialogues(None) is BUILT_IN
    (tmp_path / "synthetic-persona-chat").mkdir()
    write(tmp_path / "synthetic-persona-chat" / "valid.csv", "User 1: from the folder")
    assert find_dialogues(None).dialogues == (("from the folder",),)
    chosen = write(tmp_path / "mine.csv", "User 1: chosen")
    assert find_dialogues(chosen).dialogues == (("chosen",),)


def test_the_built_in_lines_are_enough_to_talk() -> None:
    """Forty different lines, none empty, so that memories and prompts differ."""
    lines = [line for dialogue in DIALOGUES for line in dialogue]
    assert len(lines) == len(set(lines)) >= 40
    assert all(line.strip() == line != "" for line in lines)
