"""`sotto personas publish` and what follows it, on a running system of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from personas.authorship import fingerprint
from runtime.commands.common import SIMULATED_LINE
from tests.e2e.system import ROOT, System, sotto

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

_LIBRARY = Path(__file__).parents[2] / "personas" / "library"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("personas") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


def _file(folder: Path, handle: str, version: str = "1.0.0") -> Path:
    text = (_LIBRARY / "wren.toml").read_text()
    text = text.replace('handle = "wren"', f'handle = "{handle}"')
    file = folder / f"{handle}-{version}.toml"
    file.write_text(text.replace('version = "1.0.0"', f'version = "{version}"'))
    return file


def _words(system: System, home: Path, *words: object) -> list[str]:
    """A command of a device of its own."""
    return [
        *("personas", *map(str, words), "--home", str(home), "--edge", system.edge),
        *("--policy", str(system.home / "policy.toml")),
    ]


def _run(system: System, home: Path, *words: object, code: int = 0) -> Any:
    """What one command prints as JSON."""
    done = sotto(*_words(system, home, *words, "--json"))
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def _read(system: System, home: Path, *words: object) -> str:
    """What one command prints for people; on standard error the same line as every command."""
    done = sotto(*_words(system, home, *words))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == SIMULATED_LINE + "\n"
    return done.stdout


def _asked(system: System, home: Path, answer: str, *words: object) -> tuple[int, str]:
    """One command at a terminal where somebody types an answer: exit code, and what was asked."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "runtime", *_words(system, home, *words)],
            cwd=ROOT,
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout


def test_from_a_file_to_a_chat_on_another_device(system: System, tmp_path: Path) -> None:
    """Published, talked to with its fingerprint, handed over, withdrawn, and no more to be had."""
    mine, theirs, reader = tmp_path / "mine", tmp_path / "theirs", tmp_path / "reader"
    done = _run(system, mine, "publish", _file(tmp_path, "night-owl"))
    assert (done["number"], done["proven"], done["private"]) == (0, True, False)
    said = system.chat(f"night-owl@{done['fingerprint']}", "hello", home=reader)
    assert said["persona"] == {"handle": "night-owl", "digest": done["digest"]}
    again = _run(system, mine, "publish", _file(tmp_path, "night-owl"), code=1)
    assert again["error"]["code"] == "published"
    stranger = _run(system, theirs, "publish", _file(tmp_path, "night-owl", "2.0.0"), code=1)
    assert stranger["error"]["code"] == "not_owner"

    key = json.loads(sotto("personas", "keys", "--json", "--home", str(theirs)).stdout)["key"]
    offer = tmp_path / "offer.json"
    _run(system, mine, "handover", "night-owl", "--to", key, "--out", offer, "--yes")
    assert _run(system, theirs, "handover", "--accept", offer)["number"] == 1
    stale = _run(system, theirs, "handover", "--accept", offer, code=2)
    assert "step 2 should stand here" in stale["error"]["message"]
    _run(system, theirs, "publish", _file(tmp_path, "night-owl", "2.0.0"))
    history = _run(system, reader, "history", "night-owl")
    assert [one["kind"] for one in history["steps"]] == ["publish", "hand-over", "publish"]
    assert history["fingerprint"] == fingerprint(bytes.fromhex(key))
    assert history["logged"]

    # Each device has what it sent.
    simulated = {"simulated": True}
    whole = _run(system, theirs, "restore", "night-owl")
    assert whole == {"handle": "night-owl", "restored": [], "length": 3, "missing": 0} | simulated
    copies = [one.name for one in sorted((theirs / "published" / "night-owl").iterdir())]
    assert copies == ["1.json", "2.json"]

    _run(system, theirs, "withdraw", "night-owl", "--yes")
    assert system.chat("night-owl", "hello", home=reader)["error"]["code"] == "persona_withdrawn"
    audit = sotto(*("personas", "audit", str(system.data / "log"), "--json", "--home", str(reader)))
    assert (audit.returncode, json.loads(audit.stdout)["holds"]) == (0, True)


def test_people_read_what_became_of_it(system: System, tmp_path: Path) -> None:
    """In sentences, with what to hand out; what ends a persona or gives it away asks first."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    lines = _read(system, mine, "publish", _file(tmp_path, "day-owl")).splitlines()
    shown = json.loads(sotto("personas", "keys", "--json", "--home", str(mine)).stdout)
    assert lines[0] == "Published day-owl 1.0.0: step 0, proven by the log."
    assert lines[1].startswith("Digest ")
    assert lines[2:] == [f"Give people: day-owl@{shown['fingerprint']}"]

    key = json.loads(sotto("personas", "keys", "--json", "--home", str(theirs)).stdout)["key"]
    offer = tmp_path / "offer.json"
    give = ("handover", "day-owl", "--to", key, "--out", offer)
    for words in (give, ("withdraw", "day-owl")):
        nobody = _run(system, mine, *words, code=2)
        assert nobody["error"]["code"] == "not_confirmed"
        code, asked = _asked(system, mine, "no", *words)
        assert code == 1
        assert asked.endswith("Type yes: ")
    assert not offer.exists()
    assert len(_run(system, mine, "history", "day-owl")["steps"]) == 1

    code, said = _asked(system, mine, "yes", *give)
    assert code == 0
    assert f"The offer of day-owl to {fingerprint(bytes.fromhex(key))} is in {offer}." in said
    there = _run(system, mine, *give, "--yes", code=2)
    assert "File exists" in there["error"]["message"]
    lines = _read(system, theirs, "handover", "--accept", offer).splitlines()
    assert lines[0] == "day-owl is yours: step 1, proven by the log."
    code, said = _asked(system, theirs, "yes", "withdraw", "day-owl")
    assert code == 0
    assert said.endswith("Withdrew day-owl: step 2, proven by the log.\n")
    said = _read(system, theirs, "restore", "day-owl")
    assert said == "The store has all 3 steps of day-owl that this device knows.\n"


def test_a_private_persona(system: System, tmp_path: Path) -> None:
    """It answers when its creator's device has opened it for the enclave, and not before; its
    document and its other files come along."""
    mine, reader = tmp_path / "mine", tmp_path / "reader"
    file = _file(tmp_path, "secret-owl")
    (tmp_path / "lamps.md").write_text("The lamp behind the third shelf is the sign.\n")
    (tmp_path / "rain.ogg").write_bytes(b"OggS" * 20_000)
    text = file.read_text().replace("handle = ", 'files = ["rain.ogg"]\nhandle = ', 1)
    file.write_text(text + '\n[[knowledge]]\npath = "lamps.md"\n')
    done = _run(system, mine, "publish", file, "--private")
    assert done["private"]
    assert (done["files"], done["files_left_out"]) == (1, 0)
    refused = system.chat("secret-owl", "hello", home=reader)
    assert refused["error"]["code"] == "persona_not_granted"
    (one,) = _run(system, mine, "grant", "secret-owl")["grants"]
    assert one["problem"] is None
    assert one["simulated"] is True
    said = system.chat("secret-owl", "hello", home=reader)
    assert said["persona"]["digest"] == done["digest"]
    assert said["outcome"] == "completed"
    nobody = _run(system, reader, "grant", "secret-owl", code=1)
    assert nobody["error"]["code"] == "no_key"


def test_a_policy_that_refuses_simulated_evidence_grants_nothing(
    system: System, tmp_path: Path
) -> None:
    """A private definition is sealed to enclaves that hold under the creator's policy alone."""
    done = sotto(
        *("personas", "grant", "secret-owl", "--json", "--home", str(tmp_path)),
        *("--edge", system.edge),
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "enclave_refused"


def test_a_persona_with_a_document(system: System, tmp_path: Path) -> None:
    """Its text is in the definition, so the file that it came from is not sent."""
    file = _file(tmp_path, "gardener")
    (tmp_path / "leeks.md").write_text("Leeks are sown in March.\n")
    file.write_text(file.read_text() + '\n[[knowledge]]\npath = "leeks.md"\n')
    done = _run(system, tmp_path / "mine", "publish", file)
    assert (done["number"], done["files"], done["files_left_out"]) == (0, 0, 0)
    said = system.chat("gardener", "You?", home=tmp_path / "reader")
    assert said["persona"]["digest"] == done["digest"]
