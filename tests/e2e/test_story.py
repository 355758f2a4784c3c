"""The main job, as a person lives it: talk, come back after a restart, check the receipts."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import redis

from tests.e2e.system import System, sotto

MESSAGES = [
    "Hello! My dog Biscuit and I just moved to Quillhampton.",
    "How are you today?",
    "I am nervous about my interview at the zeppelin museum.",
    "What do you like to do?",
    "I like baking bread with rosemary.",
    "Do you have any pets?",
    "It rained all day here.",
    "What music do you like?",
    "I would love to learn the cello.",
    "Thank you for listening.",
]
# Not one of four letters, which random bytes in base64 have now and then.
PERSONA = "nirmal"
_PIECE = 16
SECRETS = ["Biscuit", "Quillhampton", "zeppelin", "rosemary", "cello", "museum", "interview"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]


@pytest.fixture(params=["embedded", pytest.param("vllm", marks=pytest.mark.vllm)])
def system(request: pytest.FixtureRequest, system_folder: Path) -> System:
    """A debug system on each real engine, not started yet."""
    options: tuple[str, ...] = ("--engine", request.param, "--debug")
    if request.param == "vllm":
        options += ("--model", str(request.getfixturevalue("tiny_model")))
    return System(system_folder, options)


def test_ten_turns_a_restart_and_an_eleventh(system: System, tmp_path: Path) -> None:
    """Eleven turns over a restart: remembered, sealed everywhere, settled, verified offline."""
    system.start()
    try:
        replies = []
        for message in MESSAGES:
            turn = system.chat(PERSONA, message)
            assert turn["exit"] == 0, turn
            assert turn["outcome"] == "completed"
            assert turn["simulated"] is True
            replies.append(turn["text"])
        no_word_in_redis(system, [*SECRETS, *excerpts(replies)])
    finally:
        code = system.stop()
    assert code == 0
    system.start()
    try:
        eleventh = system.chat(PERSONA, "What is my dog called?")
        assert eleventh["exit"] == 0, eleventh
        prompt = json.dumps(eleventh["prompt"])
        assert "Biscuit" in prompt, "the first turn is in the eleventh's prompt"
        assert prompt.index("Biscuit") < prompt.index("What is my dog called?")
        assert eleventh["usage"]["remembered_turns"] == 10
        rows = system.settled_receipts(11)
        no_word_in_redis(system, SECRETS)
    finally:
        system.stop()
    assert [row["outcome"] for row in rows] == ["completed"] * 11
    for number, row in enumerate(rows):
        holds(system, row["receipt_id"], tmp_path / f"{number}.sotto-receipt")
    every_log_is_silent(system, [*SECRETS, *excerpts(replies)])


def no_word_in_redis(system: System, words: list[str]) -> None:
    """Read every key and value as the thief of the whole store would, and find no word."""
    raw = [file.read_bytes() for file in (system.data / "valkey").rglob("*") if file.is_file()]
    haystack = b"\0".join(raw)
    assert len(haystack) > 10_000, "the append-only file is where we look"
    for word in [*words, PERSONA, "Nirmal", "Bagchi", "127.0.0.1"]:
        for form in forms(word):
            assert form not in haystack, f"{word} can be read in Redis"


def forms(word: str) -> list[bytes]:
    """A word as it could be hidden in plain sight."""
    plain = word.encode()
    shifts = [base64.b64encode(b"x" * n + plain)[4:-4] for n in range(3)]
    return [
        plain,
        plain.lower(),
        plain.upper(),
        plain.hex().encode(),
        *(s for s in shifts if len(s) > 5),
    ]


def excerpts(replies: list[str]) -> list[str]:
    """Pieces of what the model said: long enough that no program says the same by chance."""
    pieces = {
        reply[at : at + _PIECE] for reply in replies for at in range(0, len(reply) - _PIECE + 1, 8)
    }
    return sorted(one for one in pieces if one.isascii() and sum(map(str.isalpha, one)) > 8)


def holds(system: System, receipt_id: str, file: Path) -> None:
    """A stranger verifies the receipt with the file and a policy, and nothing else."""
    saved = sotto(
        "receipts", "--offline", "--save", receipt_id, str(file), "--home", str(system.home)
    )
    assert saved.returncode == 0, saved.stderr
    policy = str(system.home / "policy.toml")
    verified = sotto("verify", str(file), "--policy", policy, "--json", "--home", "/nonexistent")
    report = json.loads(verified.stdout)
    assert (verified.returncode, report["holds"]) == (0, True), report
    assert report["receipt"]["receipt_id"] == receipt_id
    # The built-in policy refuses what no hardware stands behind.
    assert sotto("verify", str(file), "--home", "/nonexistent").returncode == 1


def every_log_is_silent(system: System, words: list[str]) -> None:
    """No role's log, and no configuration, holds a word of the conversation."""
    for folder in ("logs", "config", "log"):
        for file in (system.data / folder).rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                for word in words:
                    assert word.encode() not in content, f"{word} stands in {file.name}"


def test_roles_reach_no_more_of_redis_than_they_need(scripted: System) -> None:
    """The edge, which knows addresses, cannot read memory; nor can the log; nor write there."""
    assert scripted.chat("wren", "hello")["exit"] == 0
    scripted.settled_receipts(1)
    for role in ("edge", "log"):
        lines = (scripted.data / "config" / f"{role}.toml").read_text().splitlines()
        url = next(line.split('"')[1] for line in lines if line.startswith("redis_url"))
        with redis.Redis.from_url(url) as client:
            for command in (
                ("XRANGE", "{t:0}:records", "-", "+"),
                ("SET", "{t:0}:records", "x"),
                ("DEL", "{t:0}:records"),
                ("KEYS", "*"),
                # Key patterns do not bind these, and thread ids are names of keys.
                ("SCAN", "0"),
                ("RANDOMKEY",),
                ("CLIENT", "TRACKING", "ON", "BCAST"),
                ("MONITOR",),
                ("FUNCTION", "FLUSH"),
                ("CONFIG", "GET", "*"),
                ("FLUSHALL",),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)
            if role == "edge":
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.xadd("sotto:settled", {"id": "x"})


def test_secrets_stand_in_no_argument_list(scripted: System) -> None:
    """Whoever may list processes learns no password and no key."""
    passwords = []
    for file in (scripted.data / "config").glob("*.toml"):
        assert file.stat().st_mode & 0o077 == 0, "only its owner reads a configuration"
        for line in file.read_text().splitlines():
            if line.startswith("redis_url"):
                passwords.append(line.split(":")[2].split("@")[0])
    assert len(passwords) == 3
    for pid in scripted.children().values():
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert not any(password in arguments for password in passwords)
