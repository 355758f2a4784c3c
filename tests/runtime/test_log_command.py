"""`sotto log` as an operator runs it alone: a process, a line, a stop, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w
from redis import Redis

from proofs.note import parse_vkey
from proofs.tlogproof import parse_tlog_proof
from tests.e2e.system import sotto

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FREE = ("--port", "0", "--metrics-port", "0")
ENTRY = bytes(range(32))


@contextmanager
def log(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running log and the line that it printed; stopped by SIGTERM, which must be clean."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime", "log", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.fixture
def address(tmp_path: Path, valkey: str) -> Path:
    """The file with the address of a server, emptied."""
    with Redis.from_url(valkey) as client:
        client.flushall()
    path = tmp_path / "redis-url"
    path.write_text(valkey + "\n")
    return path


def settle(url: str, name: str) -> str:
    with Redis.from_url(url, decode_responses=True) as client:
        client.xadd("sotto:leaves", {"id": name, "entry": ENTRY})
        after = "0"
        while True:
            for _, messages in client.xread({"sotto:settled": after}, block=1000):
                for after, fields in messages:  # noqa: B007
                    if fields["id"] == name:
                        return str(client.hget(f"sotto:receipt:{name}", "proof"))


def test_a_folder_and_redis_are_all_that_it_takes(
    tmp_path: Path, valkey: str, address: Path
) -> None:
    """It says where it listens and its key, settles a leaf, and its folder passes the audit."""
    options = ("--data", str(tmp_path), "--redis-url-file", str(address), *FREE)
    more = ("--origin", "log.example/mine", "--batch-interval", "0.05", "--batch-size", "10")
    with log(*options, *more, "--json") as (_, line):
        told = json.loads(line)
        key = parse_vkey(told["vkey"])
        assert (set(told), key.name) == ({"log", "vkey", "metrics"}, "log.example/mine")
        proof = parse_tlog_proof(settle(valkey, "one"))
        assert proof.verify(ENTRY, [key]).size == 1
        with urllib.request.urlopen(told["metrics"]) as answer:
            assert b"sotto_log_entries_total" in answer.read()
        done = sotto("log", "audit", told["log"], "--key", told["vkey"])
        assert (done.returncode, done.stderr) == (0, "")
    with log(*options, "--origin", "log.example/mine") as (_, line):
        assert told["vkey"] in line
    done = sotto("log", "audit", str(tmp_path / "log"), "--key", told["vkey"], "--json")
    assert (done.returncode, json.loads(done.stdout)["size"]) == (0, 1)


def test_a_file_has_all_settings(tmp_path: Path, valkey: str, address: Path) -> None:
    """As `sotto up` runs it, with a lifeline; closing that is a clean stop, too."""
    file = tmp_path / "log.toml"
    settings = {
        "port": 0,
        "metrics_port": 0,
        "redis_url": valkey,
        "directory": str(tmp_path / "log"),
        "key_file": str(tmp_path / "log.key"),
        "batch_size": 5,
        "witness_quorum": 0,
        "witnesses": [],
    }
    file.write_text(tomli_w.dumps(settings))
    with log("--config", str(file), "--lifeline") as (process, line):
        assert line.startswith("log localhost/sottovoce-log: http://127.0.0.1:")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--data DIR"),
        (["--data", "."], "--redis-url-file"),
        (["--config", "absent.toml"], "cannot be read"),
        (["--config", "absent.toml", "--port", "1"], "stands alone"),
        (["--data", ".", "--redis-url-file", "absent"], "cannot be read"),
        (["--data", ".", "--witness", "http://host"], "URL,VKEY"),
        (["--data", ".", "--redis-url-file", "{url}", "--witness", "http://host,x"], "witness"),
        (["--data", ".", "--redis-url-file", "{url}", "--witness", "nowhere,x"], "witness"),
        (["--data", ".", "--redis-url-file", "{url}", "--batch-interval", "0"], "batch_interval_s"),
        (["--data", ".", "--redis-url-file", "{url}", "--port", "70000"], "port"),
    ],
)
def test_what_cannot_be_run_is_explained(
    tmp_path: Path, address: Path, arguments: list[str], says: str
) -> None:
    """One line, exit 2, and never the address of Redis."""
    address.write_text("redis://user:secret@host")
    done = subprocess.run(
        [sys.executable, "-m", "runtime", "log", *(a.format(url=address) for a in arguments)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert says in done.stderr
    assert "secret" not in done.stderr
