"""`sotto personas publish` and what follows it, on a running system of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from personas.authorship import fingerprint
from tests.e2e.system import System, sotto

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

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


def _run(system: System, home: Path, *words: object, code: int = 0) -> Any:
    """One command of a device of its own; what it prints as JSON."""
    done = sotto(
        *("personas", *map(str, words), "--json", "--home", str(home), "--edge", system.edge),
        *("--policy", str(system.home / "policy.toml")),
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


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
    _run(system, mine, "handover", "night-owl", "--to", key, "--out", offer)
    assert _run(system, theirs, "handover", "--accept", offer)["number"] == 1
    stale = _run(system, theirs, "handover", "--accept", offer, code=2)
    assert "step 2 should stand here" in stale["error"]["message"]
    _run(system, theirs, "publish", _file(tmp_path, "night-owl", "2.0.0"))
    history = _run(system, reader, "history", "night-owl")
    assert [one["kind"] for one in history["steps"]] == ["publish", "hand-over", "publish"]
    assert history["fingerprint"] == fingerprint(bytes.fromhex(key))
    assert history["logged"]

    _run(system, theirs, "withdraw", "night-owl")
    assert system.chat("night-owl", "hello", home=reader)["error"]["code"] == "persona_withdrawn"
    audit = sotto(*("personas", "audit", str(system.data / "log"), "--json", "--home", str(reader)))
    assert (audit.returncode, json.loads(audit.stdout)["holds"]) == (0, True)


def test_a_private_persona(system: System, tmp_path: Path) -> None:
    """It answers when its creator's device has opened it for the enclave, and not before."""
    mine, reader = tmp_path / "mine", tmp_path / "reader"
    done = _run(system, mine, "publish", _file(tmp_path, "secret-owl"), "--private")
    assert done["private"]
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
