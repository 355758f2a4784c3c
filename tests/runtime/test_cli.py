"""Commands as a person or a program meets them: exit codes, one line, JSON."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.cli import main
from runtime.commands.common import plain
from runtime.errors import Exit
from tests.e2e.system import ROOT, System, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("cli") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


@pytest.fixture(scope="module")
def disclosed(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settled receipt in a file."""
    assert system.chat("marit", "hello")["exit"] == 0
    row = next(one for one in system.settled_receipts(1) if one["status"] == "settled")
    file = tmp_path_factory.mktemp("disclosed") / "one.sotto-receipt"
    with pytest.raises(SystemExit) as ended:
        main(["receipts", "--offline", "--save", row["receipt_id"], str(file), *home(system)])
    assert ended.value.code == 0
    return file


def home(system: System) -> list[str]:
    """Options that name the system's first device."""
    return ["--home", str(system.home)]


def policy(system: System) -> list[str]:
    """Options that name its policy, and no device."""
    return ["--policy", str(system.home / "policy.toml"), "--home", "/nonexistent"]


def test_one_turn_as_json_has_all_that_a_program_needs(system: System) -> None:
    """Text, latencies, ids, persona digest, enclave id."""
    turn = system.chat("tunde", "hello")
    assert turn["text"].startswith("this is a paced script")
    assert 0 < turn["ttft_ms"] < turn["total_ms"]
    assert len(turn["turn_id"]) == len(turn["receipt_id"]) == 32
    assert len(turn["persona"]["digest"]) == len(turn["enclave_id"]) == 64
    assert turn["usage"]["completion_tokens"] == 64
    assert turn["simulated"] is True
    assert "prompt" not in turn, "a normal build tells nobody its prompt"


def test_a_built_in_policy_refuses_to_talk_to_simulated_hardware(
    system: System, command: Command, tmp_path: Path
) -> None:
    """Without a word from its user a device trusts no simulation."""
    code, out, _ = command(
        *("chat", "wren", "--message", "hello", "--json", "--home", str(tmp_path)),
        *("--edge", system.edge),
    )
    assert code == 1
    error = json.loads(out)["error"]
    assert error["code"] == "enclave_refused"
    # Most who read it are in another folder than their device's.
    assert "--home" in error["message"]


def test_saying_so_is_not_enough_without_a_log(
    system: System, command: Command, tmp_path: Path
) -> None:
    """--allow-simulated lets the evidence pass, but a log that is not believed proves nothing."""
    code, out, _ = command(
        *("chat", "wren", "--message", "hello", "--json", "--home", str(tmp_path)),
        *("--edge", system.edge, "--allow-simulated"),
    )
    assert code == 1
    assert "inclusion" in json.loads(out)["error"]["message"]


def test_a_disclosed_receipt_holds_for_a_stranger(
    system: System, disclosed: Path, command: Command
) -> None:
    """File and policy are enough; the text names seven verdicts and what they leave open."""
    code, out, _ = command("verify", str(disclosed), *policy(system))
    assert code == 0
    for name in ("origin", "integrity", "inclusion", "freshness", "tcb", "custody", "gpu"):
        assert f"\n{name}" in out
    assert "SIMULATED" in out
    assert "No verdict says that the answer is true" in out


def test_a_flipped_bit_is_never_a_zero(
    system: System, disclosed: Path, command: Command, tmp_path: Path
) -> None:
    """Forty places over the whole file; proofs' own tests flip every bit."""
    data = disclosed.read_bytes()
    file = tmp_path / "flipped"
    for place in random.Random(5).sample(range(len(data) * 8), 40):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        assert command("verify", str(file), *policy(system))[0] in (1, 2)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_cut_file_is_unreadable(
    system: System, disclosed: Path, command: Command, tmp_path: Path, cut: int
) -> None:
    """Exit 2, and a line that says so."""
    file = tmp_path / "cut"
    file.write_bytes(disclosed.read_bytes()[:cut])
    code, _, err = command("verify", str(file), *policy(system))
    assert code == 2
    assert err.startswith("sotto: ")


def test_the_time_of_judging_is_an_argument(
    system: System, disclosed: Path, command: Command
) -> None:
    """Before the turn there was nothing to prove; ISO and unix times are read, others are not."""
    options = policy(system)
    assert command("verify", str(disclosed), "--at", "2001-01-01", *options)[0] == 1
    assert command("verify", str(disclosed), "--at", "978307200", *options)[0] == 1
    assert command("verify", str(disclosed), "--at", "2100-01-01T00:00:00Z", *options)[0] == 0
    assert command("verify", str(disclosed), "--at", "yesterday", *options)[0] == 2


def test_missing_files_and_names_are_usage_errors(
    system: System, command: Command, tmp_path: Path
) -> None:
    """Exit 2 and what to do, for each thing that is not there."""
    missing = str(tmp_path / "missing")
    for arguments, word in (
        (("verify", missing), "cannot be read"),
        (("verify", missing, "--policy", missing), "policy"),
        (
            ("chat", "nobody", "--message", "x", "--edge", system.edge),
            "There is no persona 'nobody'",
        ),
        (("chat", "wren", "--json"), "--message"),
        (("receipts", "--offline", "--save", "ffff", missing), "no receipts begin with"),
    ):
        options = [] if "--policy" in arguments else home(system)
        code, out, err = command(*arguments, *options)
        assert code == 2, (arguments, err)
        assert word in out + err


def test_a_mistyped_handle_is_no_empty_conversation(
    system: System, command: Command, tmp_path: Path
) -> None:
    """Looked at, or erased: the persona of that name would seem to have forgotten."""
    where = ("--home", str(tmp_path), "--edge", system.edge, "--policy", policy(system)[1])
    for arguments in (
        ("memory", "list", "wrem"),
        ("memory", "forget", "wrem", "--all", "--yes"),
        ("forget", "wrem", "--yes"),
    ):
        code, out, err = command(*arguments, *where)
        assert (code, out) == (2, "")
        assert "Did you mean `wren`?" in err
    assert command("memory", "list", "wren", *where)[0] == 0


def test_a_choice_that_nothing_fits_is_not_an_empty_memory(
    system: System, command: Command
) -> None:
    """`--pinned` of a conversation without pins says so, and not that it is empty."""
    assert system.chat("quilla", "hello")["exit"] == 0
    where = (*home(system), "--edge", system.edge)
    assert "hello" in command("memory", "list", "quilla", *where)[1]
    assert command("memory", "list", "quilla", "--pinned", *where)[1] == (
        "Nothing that is remembered fits.\n"
    )


@pytest.mark.parametrize(
    "choice", [("--persona", "wrem"), ("--since", "2100-01-01"), ("--until", "1970-01-01")]
)
def test_an_export_of_nobody_or_no_time_leaves_the_file_that_is_there(
    system: System, command: Command, tmp_path: Path, choice: tuple[str, str]
) -> None:
    """An archive of nothing would take its place."""
    file = tmp_path / "all.sotto-archive"
    file.write_bytes(b"from before")
    code, _, err = command("receipts", "--offline", "--export", str(file), *choice, *home(system))
    assert code == 2
    assert choice[1] in err or "--since should lie before --until" in err
    assert file.read_bytes() == b"from before"


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--port", "99999", "0 to 65535"),
        ("--port", "x", "0 to 65535"),
        ("--shaping", "none", "off, bucket, cadence"),
    ],
)
def test_a_wrong_value_says_which_are_right(
    option: str, value: str, says: str, command: Command
) -> None:
    """In words, without names from the code."""
    code, _, err = command("proxy", option, value)
    assert code == 2
    assert says in err.splitlines()[-1]
    assert "_port" not in err


def test_a_models_words_do_not_command_the_terminal() -> None:
    """Lines and letters of every kind stay; what a terminal obeys does not."""
    assert plain("a\x1b]52;c;aGk=\x07b\r\x9b2J") == "a ]52;c;aGk= b  2J"
    kept = "Inês said:\n\t“Ja” 👩\u200d🚀"
    assert plain(kept) == kept


def test_ctrl_c_while_a_command_loads_is_no_traceback() -> None:
    """A start takes part of a second, longer on a busy machine."""
    program = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "runtime.commands.personas":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from runtime.cli import main
main(["personas"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (Exit.INTERRUPTED, "")


def test_no_edge_is_one_line_with_a_remedy(command: Command, tmp_path: Path) -> None:
    """For people on standard error, for programs as JSON."""
    edge = f"ws://127.0.0.1:{free_port()}/v1/realtime"
    options = ("--home", str(tmp_path), "--edge", edge, "--message", "x")
    code, _, err = command("chat", "wren", *options)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "make run" in err
    assert "Connection refused" in err
    code, out, _ = command("chat", "wren", "--json", *options)
    assert code == 1
    assert json.loads(out)["error"]["code"] == "edge_away"


def test_an_address_that_is_no_edge_says_how_one_begins(command: Command, tmp_path: Path) -> None:
    """In words, without a class's name."""
    where = ("--home", str(tmp_path), "--edge", "http://127.0.0.1:1")
    code, _, err = command("chat", "wren", "--message", "x", *where)
    assert code == 1
    assert "begins with ws:// or wss://" in err


def test_personas_are_listed_for_people_and_programs(command: Command) -> None:
    """Six of them, with the digests that receipts name."""
    code, out, _ = command("personas", "--json")
    assert code == 0
    listed = json.loads(out)["personas"]
    assert len(listed) == 6
    code, out, _ = command("personas")
    assert [line.split()[0] for line in out.splitlines()] == [one["handle"] for one in listed]


def test_a_reader_that_left_is_no_error() -> None:
    """`sotto personas | head` ends in silence, however little head has read."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "runtime", "personas", "--json"],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
