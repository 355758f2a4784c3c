"""`sotto witness` as anyone runs it: a process, a line, signals, exit codes, and kill -9."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import b64, merkle
from proofs.checkpoint import Checkpoint, open_checkpoint
from proofs.cosignature import Cosigner, verify_cosignatures
from proofs.note import COSIGNER_KEYS, Signer, parse_note, parse_vkey
from tests.e2e.system import sotto

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FREE = ("--port", "0", "--metrics-port", "0")
LOG = Signer("log.example/one", Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32))
VKEY = LOG.verifier.format()
PATH = f"/{sha256(LOG.name.encode()).hexdigest()}/checkpoint"


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A running witness and the line that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime", "witness", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


@contextmanager
def witness(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Stopped by SIGTERM, which must be clean."""
    process, line = start(*arguments)
    try:
        yield process, line
    finally:
        process.terminate()
        assert process.wait(60) == 0


def leaves(size: int, own: str = "a") -> list[bytes]:
    return [merkle.leaf_hash(f"{own} {n}".encode()) for n in range(size)]


def head(size: int, own: str = "a") -> str:
    return LOG.sign(Checkpoint(LOG.name, size, merkle.root(leaves(size, own))).format()).format()


def ask(url: str, old: int, size: int, own: str = "a") -> tuple[int, str]:
    """One add-checkpoint call: status and body."""
    proof: list[bytes] = []
    if 0 < old < size:
        proof = merkle.consistency_proof(old, size, merkle.subtree_of(leaves(size, own)))
    body = "\n".join([f"old {old}", *map(b64.encode, proof), "", head(size, own)])
    try:
        with urllib.request.urlopen(f"{url}/add-checkpoint", body.encode(), 60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_folder_and_a_key_are_all_that_it_takes(tmp_path: Path) -> None:
    """One line says who it is, where it listens, for which log, and where keys and metrics are."""
    folder = tmp_path / "witness"
    with witness("--data", str(folder), "--log", VKEY, *FREE) as (process, line):
        words = line.split()
        assert words[0] == "witness"
        assert words[1].startswith("sottovoce-witness/")
        assert words[3:5] == ["for", f"{LOG.name};"]
        vkeys = Path(line.split("; ")[1].split(": ")[1]).read_text().splitlines()
        for url in (f"{words[2]}/healthz", words[-1]):
            with urllib.request.urlopen(url) as answer:
                assert answer.status == 200
        status, body = ask(words[2], 0, 5)
        assert status == 200
        keys = [parse_vkey(vkey, COSIGNER_KEYS) for vkey in vkeys]
        assert len(verify_cosignatures(parse_note(head(5) + body), keys)) == 2
        with urllib.request.urlopen(words[-1]) as answer:
            assert b'sotto_witness_size{log="log.example/one"} 5.0' in answer.read()
        assert process.poll() is None
    # What a witness logs and shows never holds its private keys.
    assert "PRIVATE" not in line


def test_json_is_for_programs(tmp_path: Path) -> None:
    """The same on one line of JSON, with the keys to hand out; a restart keeps them."""
    arguments = ("--data", str(tmp_path), "--log", VKEY, "--json", *FREE)
    with witness(*arguments, "--name", "witness.example/w1") as (_, line):
        told = json.loads(line)
        assert set(told) == {"witness", "vkeys", "logs", "metrics"}
        assert told["logs"] == [LOG.name]
        assert [vkey.split("+")[0] for vkey in told["vkeys"]] == ["witness.example/w1"] * 2
    with witness(*arguments) as (_, line):
        assert json.loads(line)["vkeys"] == told["vkeys"]


def test_a_file_has_all_settings(tmp_path: Path) -> None:
    """Every option has its key, and what is not one is named."""
    file = tmp_path / "witness.toml"
    text = (
        'host = "127.0.0.1"\nport = 0\nmetrics_port = 0\nname = "w.example/1"\n'
        f'directory = "{tmp_path / "data"}"\nlogs = ["{VKEY}"]\n'
    )
    file.write_text(text)
    with witness("--config", str(file), "--json") as (_, line):
        assert json.loads(line)["logs"] == [LOG.name]
    file.write_text(text.replace("logs", "log"))
    done = sotto("witness", "--config", str(file))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--data DIR --log VKEY"),
        (("--log", VKEY), "--data DIR --log VKEY"),
        (("--data", "d"), "--data DIR --log VKEY"),
        (("--data", "d", "--config", "witness.toml"), "--config"),
        (("--config", "/nowhere/witness.toml"), "/nowhere/witness.toml"),
        (("--data", "d", "--log", "nonsense", *FREE), "name+id+key"),
        (("--data", "d", "--log", VKEY[:-4], *FREE), "verifier key"),
        (
            (
                *("--data", "d", "--log"),
                Cosigner("w", LOG.key).verifier.format(),
                *FREE,
            ),
            "type 0x01",
        ),
        (("--data", "d", "--log", VKEY, "--name", "a b", *FREE), "name"),
        (("--data", "d", "--log", VKEY, "--port", "70000"), "port"),
        (("--data", "/proc/witness", "--log", VKEY, *FREE), "/proc/witness"),
    ],
)
def test_what_cannot_work_is_a_usage_error(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """One line that says what to do, and exit code 2."""
    done = sotto("witness", *(str(tmp_path / "d") if one == "d" else one for one in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("which", ["--port", "--metrics-port"])
def test_a_taken_port_is_said(which: str, tmp_path: Path) -> None:
    """Exit code 2, with or without JSON."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ("witness", "--data", str(tmp_path), "--log", VKEY, *FREE, which, port)
        done = sotto(*arguments)
        assert done.returncode == 2
        assert port in done.stderr.splitlines()[-1]
        done = sotto(*arguments, "--json")
        assert done.returncode == 2
        assert port in json.loads(done.stdout)["error"]["message"]


def test_two_processes_cannot_have_one_folder(tmp_path: Path) -> None:
    """The second says so, and the first goes on."""
    arguments = ("--data", str(tmp_path), "--log", VKEY, *FREE)
    with witness(*arguments) as (process, _):
        done = sotto("witness", *arguments)
        assert (done.returncode, "Another process" in done.stderr) == (2, True)
        assert process.poll() is None


def test_an_interrupt_and_a_lifelines_end_are_clean_ends(tmp_path: Path) -> None:
    """Ctrl-C is how a person stops it; a supervisor that is gone takes it along."""
    arguments = ("--data", str(tmp_path), "--log", VKEY, *FREE)
    with witness(*arguments) as (process, _):
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    with witness(*arguments, "--lifeline") as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def test_killed_anywhere_it_knows_what_it_said(tmp_path: Path) -> None:
    """After kill -9 in the middle of requests, no acknowledged size is forgotten, no fork taken."""
    chance = random.Random(8)
    arguments = ("--data", str(tmp_path), "--log", VKEY, "--json", *FREE)
    cosigned = 0
    for _ in range(6):
        process, line = start(*arguments)
        told = json.loads(line)
        keys = [parse_vkey(vkey, COSIGNER_KEYS) for vkey in told["vkeys"]]
        status, body = ask(told["witness"], cosigned + 1000, cosigned + 1000)
        assert status == 409
        recorded = int(body)
        # One that was recorded as the process died may be there; none that was told is missing.
        assert cosigned <= recorded <= cosigned + 1
        if recorded:
            with urllib.request.urlopen(told["witness"] + PATH) as answer:
                text = answer.read().decode()
            assert open_checkpoint(text, [LOG.verifier]).size == recorded
            assert len(verify_cosignatures(parse_note(text), keys)) == 2
            assert ask(told["witness"], recorded, recorded, own="b")[0] == 422
            assert ask(told["witness"], recorded, recorded + 1, own="b")[0] == 422
        cosigned = recorded
        for _ in range(2):  # of a slow machine the timer would not leave any
            assert ask(told["witness"], cosigned, cosigned + 1)[0] == 200
            cosigned += 1
        killer = threading.Timer(chance.uniform(0.05, 0.4), process.kill)
        killer.start()
        try:
            while ask(told["witness"], cosigned, cosigned + 1)[0] == 200:
                cosigned += 1
        except (OSError, http.client.HTTPException):
            pass  # killed
        killer.join()
        assert process.wait(60) == -signal.SIGKILL
    assert cosigned >= 12
