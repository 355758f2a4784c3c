"""`sotto memory` and the chat's own commands: tables, JSON, files, one line for what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import main
from tests.e2e.system import System, sotto
from tests.runtime.test_chat_terminal import Terminal

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
_CTRL_D = b"\x04"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system, whose processes have their own rights in Redis."""
    system = System(tmp_path_factory.mktemp("memory") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


@pytest.fixture
def where(system: System, tmp_path: Path) -> tuple[str, ...]:
    """A new device of that system."""
    policy = str(system.home / "policy.toml")
    return ("--home", str(tmp_path / "home"), "--edge", system.edge, "--policy", policy)


def memory(where: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in this process: each of its own takes a second to start."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main(["memory", *arguments, *where])
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def told(where: tuple[str, ...], *arguments: str) -> dict[str, Any]:
    """What it prints as JSON."""
    done = memory(where, *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["simulated"] is True
    return answer


def said(system: System, where: tuple[str, ...], message: str) -> None:
    """One turn."""
    assert system.chat("wren", message, home=where[1])["outcome"] == "completed"


def learned(where: tuple[str, ...], word: str) -> None:
    """Wait for a fact with a word in it: notes are made after the reply."""
    deadline = time.monotonic() + 60
    while word not in json.dumps(told(where, "list", "wren", "--kind", "facts")["memories"]):
        assert time.monotonic() < deadline, "no notes were made"


def settled(where: tuple[str, ...], done: dict[str, Any]) -> None:
    """Wait for an erasure's receipt to settle, where the command itself waited too short."""
    deadline = time.monotonic() + 60
    while done["status"] != "settled":
        assert time.monotonic() < deadline, done
        rows = json.loads(sotto("receipts", "--json", *where).stdout)["erasures"]
        (done,) = [one for one in rows if one["receipt_id"] == done["receipt_id"]]


def test_a_memory_is_seen_corrected_and_forgotten(
    system: System, where: tuple[str, ...], tmp_path: Path
) -> None:
    """One after the other, by a person and by a program; the receipt is verified by anybody."""
    said(system, where, "Good morning!")
    ref = told(where, "write", "wren", "I live in Leeds.", "--about", "user.home")["memory"]["ref"]
    table = memory(where, "list", "wren")
    assert "SIMULATED" in table.stderr
    assert f"{ref:<8} " in table.stdout
    assert "I live in Leeds.  (yours)" in table.stdout
    assert "Good morning!" in table.stdout
    new = told(where, "edit", "wren", ref, "I live in York.")["memory"]["ref"]
    assert memory(where, "pin", "wren", new).returncode == 0
    assert [one["ref"] for one in told(where, "list", "wren", "--pinned")["memories"]] == [new]
    shown = memory(where, "show", "wren", ref).stdout
    assert f"then {new}" in shown
    assert "about: user.home" in shown
    why = memory(where, "why", "wren").stdout
    assert "Good morning!" in why
    assert "No earlier turn" in why
    asked = memory(where, "forget", "wren", new)
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    done = told(where, "forget", "wren", "--query", "York", "--yes")
    settled(where, done)
    assert (done["scope"], done["records"] >= 1) == ("records", True)
    assert all("York" not in one["text"] for one in told(where, "list", "wren")["memories"])
    file = tmp_path / "erasure"
    home = where[:4]
    assert sotto("receipts", "--save", done["receipt_id"], str(file), *home).returncode == 0
    verdict = sotto("verify", str(file), "--policy", where[5], "--allow-simulated")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    gone = memory(where, "show", "wren", new)
    assert gone.returncode == 1
    assert f"sotto: {new} was forgotten" in gone.stderr


def test_a_memory_is_taken_along(system: System, where: tuple[str, ...], tmp_path: Path) -> None:
    """Exported, forgotten, imported, rotated: the same memories."""
    said(system, where, "My dog is called Juno.")
    learned(where, "Juno")
    told(where, "write", "wren", "I like tea.")
    before = told(where, "list", "wren")["memories"]
    for name in ("wren.json", "wren.md"):
        written = told(where, "export", "wren", str(tmp_path / name))
        assert written["bytes"] == (tmp_path / name).stat().st_size
        assert (tmp_path / name).stat().st_mode & 0o77 == 0, "for its owner alone"
    told(where, "forget", "wren", "--all", "--yes")
    assert told(where, "list", "wren")["memories"] == []
    told(where, "import", "wren", str(tmp_path / "wren.json"))
    assert told(where, "list", "wren")["memories"] == before
    rotated = told(where, "rotate", "wren", "--yes")
    settled(where, rotated)
    assert rotated["scope"] == "rotation"
    assert told(where, "list", "wren")["memories"] == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.json", None, "cannot be read"),
        ("cut.json", b'{"format":"sottovoce memory"', "line 1"),
        ("other.json", b'{"a": 1}', "sotto memory export"),
        ("other.md", b"# Shopping\n", "line 1"),
        ("bytes.json", b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_file_that_is_no_export_is_refused_with_file_place_and_remedy(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    """Before anything is asked of anybody."""
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    line = refused(tmp_path, "import", "wren", str(file))
    assert str(file) in line
    assert words in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("forget", "wren", "--yes"),
        ("forget", "wren", "m1", "--all", "--yes"),
        ("show", "wren", "m0.0", "m01"),
        ("pin", "wren", "dog"),
        ("list", "w" * 300),
        ("list", ""),
        ("write", "wrenn", "I like tea."),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """With one line and exit code 2, before anybody is asked."""
    refused(tmp_path, *arguments)


def refused(folder: Path, *arguments: str) -> str:
    """The one line of a refusal, where nobody listens who could be asked."""
    home = ("--home", str(folder / "home"), "--allow-simulated")
    done = memory((*home, "--edge", "ws://127.0.0.1:1/v1/realtime"), *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("sotto: ")
    return line


async def test_a_chat_has_its_memory_at_hand(system: System, where: tuple[str, ...]) -> None:
    """/help, /memory, /why, /pin, /forget and /incognito; what is unknown is not said to wren."""
    await asyncio.to_thread(told, where, "write", "wren", "I like tea.")
    terminal = Terminal("wren", *where)
    await terminal.wait_for("you> ")
    for typed, shown in (
        (b"/help", "/incognito on|off"),
        (b"/remember", "there is no /remember"),
        (b"/memory", "I like tea."),
        (b"/memory tea", "I like tea."),
        (b"/why", "no turn yet"),
        (b"/pin m0.0", "stays in every prompt"),
        (b"/pin", "say which"),
        (b"/incognito on", "(incognito)> "),
    ):
        terminal.type(typed + b"\r")
        await terminal.wait_for(shown)
    terminal.type(b"a secret of mine\r")
    await terminal.wait_for("paced script")
    await terminal.wait_for("(incognito)> ")
    terminal.type(b"/incognito off\r")
    await terminal.wait_for("remembered again")
    await terminal.wait_for("you> ")
    terminal.type(b"/forget m0.0\r")
    await terminal.wait_for("Type yes: ")
    terminal.type(b"yes\r")
    await terminal.wait_for("forgotten; receipt")
    await terminal.wait_for("you> ")
    terminal.type(b"//slash\r")
    await terminal.wait_for("paced script")
    await terminal.wait_for("you> ")
    terminal.type(_CTRL_D)
    assert await terminal.end() == 0
    left = await asyncio.to_thread(told, where, "list", "wren")
    texts = [one["text"] for one in left["memories"]]
    assert texts == ["/slash"], "nothing of the secret, and nothing of the tea"
    assert b"a secret" not in b"".join(
        file.read_bytes() for file in Path(where[1]).glob("device.db*")
    )
