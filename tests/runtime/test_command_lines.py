"""Command lines that are wrong, and what a terminal shows of long lines."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli import main
from runtime.commands.common import wrapped
from tests.e2e.system import ROOT, free_port


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("cht", "did you mean `sotto chat`?"),
        ("enclav", "did you mean `sotto enclave`?"),
        ("zzzz", "there is no command 'zzzz'. `sotto --help`"),
    ],
)
def test_a_mistyped_command_is_told_the_nearest(
    typed: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit 2."""
    code, out, err = ended(capsys, typed, "wren")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_a_wrong_command_line_is_one_line_for_people_and_json_for_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With where to read on; a program that asked for JSON gets it in this case, too."""
    code, out, err = ended(capsys, "memory", "edit", "wren", "m1.0")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("sotto: ")
    assert "`sotto memory edit --help`" in err
    code, out, err = ended(capsys, "memory", "edit", "wren", "m1.0", "--json")
    assert (code, err) == (2, "")
    assert json.loads(out)["error"]["code"] == "usage"


def test_no_command_at_all_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error with exit 2, since nothing was done; `--version` is a line."""
    code, out, err = ended(capsys)
    assert (code, out) == (2, "")
    assert "talk to a persona" in err
    code, out, _ = ended(capsys, "--version")
    assert code == 0
    assert out.startswith("sottovoce ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--engine", "vllm"), "--model FOLDER"),
        (("--engine", "openai", "--model", "x"), "needs --base-url URL;"),
        (("--engine", "openai"), "needs --base-url URL and --model NAME;"),
    ],
)
def test_what_an_engine_lacks_is_said_before_anything_starts(
    options: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the options to give; no folder is made."""
    data = tmp_path / "data"
    code, _, err = ended(capsys, "up", "--allow-simulated", "--data", str(data), *options)
    assert code == 2
    assert says in err
    assert "Starting" not in err
    assert not data.exists()


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_an_engine_that_cannot_be_is_told_once(tmp_path: Path) -> None:
    """A server outside of the enclave: the reason in one line, and no talk of a defect."""
    command = ["up", "--allow-simulated", "--no-chat", "--data", str(tmp_path / "data")]
    engine = ["--engine", "openai", "--base-url", "http://192.0.2.1/v1", "--model", "x"]
    done = subprocess.run(
        [sys.executable, "-m", "runtime", *command, *engine, "--port", str(free_port())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "outside this enclave" in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("sotto: enclave did not start: the model server")
    assert "defect" not in done.stderr


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_a_system_starts_beside_folders_named_as_our_packages(tmp_path: Path) -> None:
    """`sotto personas import … --out personas` makes one, in the folder where people work."""
    (tmp_path / "personas" / "zoe").mkdir(parents=True)
    options = ["--allow-simulated", "--no-chat", "--engine", "scripted"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "runtime", "up", *options, "--port", str(free_port())],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Sottovoce is ready")
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_breaks_lines_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs get them as they are; what has no spaces, such as an address, stays whole."""
    monkeypatch.setenv("COLUMNS", "20")
    text = "no words are broken but at ws://127.0.0.1:8470/v1/realtime-x or so"
    assert wrapped(text, io.StringIO()) == text
    lines = wrapped(text, _Terminal()).splitlines()
    assert " ".join(lines) == text
    assert "ws://127.0.0.1:8470/v1/realtime-x" in lines
    assert [len(line) for line in lines if "://" not in line] == [19, 6, 5]
