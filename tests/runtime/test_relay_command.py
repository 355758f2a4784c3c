"""`sotto relay` as an independent operator runs it: a process, a line, signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.system import sotto

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FREE = ("--port", "0", "--metrics-port", "0")
AWAY = "http://127.0.0.1:1"


@contextmanager
def relay(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running relay and the line that it printed; stopped by SIGTERM, which must be clean."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime", "relay", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_a_url_is_all_that_it_takes() -> None:
    """One line says where it listens, for which gateway, and where its metrics are."""
    with relay("--gateway", f"{AWAY}/", *FREE) as (process, line):
        words = line.split()
        assert words[0] == "relay:"
        assert words[2:4] == ["for", "127.0.0.1;"]
        for url in (f"{words[1]}/healthz", words[-1]):
            with urllib.request.urlopen(url) as answer:
                assert answer.status == 200
        with urllib.request.urlopen(f"{words[1]}/gateways") as answer:
            assert json.load(answer) == {"gateways": ["127.0.0.1"]}
        with urllib.request.urlopen(words[-1]) as answer:
            assert b'sotto_relay_gateway_up{gateway="127.0.0.1"} 0.0' in answer.read()
        # Being without its gateway is said, and no reason to end.
        assert process.stderr is not None
        assert "gateway 127.0.0.1 is away" in process.stderr.readline()
        assert process.poll() is None


def test_json_is_for_programs() -> None:
    """The same on one line of JSON; names are as given."""
    arguments = ("--gateway", f"one={AWAY}", "--gateway", f"two={AWAY}/base", "--json")
    with relay(*arguments, *FREE) as (_, line):
        told = json.loads(line)
        assert told["gateways"] == ["one", "two"]
        assert set(told) == {"relay", "gateways", "metrics"}


def test_a_file_has_all_settings(tmp_path: Path) -> None:
    """Every limit can be set, and what is not one is named."""
    file = tmp_path / "relay.toml"
    limits = "".join(
        f"{name} = 7\n"
        for name in (
            *("max_streams", "max_client_streams", "max_connections", "max_request_bytes"),
            *("max_response_bytes", "head_timeout_s", "request_timeout_s", "idle_timeout_s"),
            *("exchange_timeout_s", "drain_s"),
        )
    )
    gateways = f'[gateways]\n"g.example" = "{AWAY}"\n'
    file.write_text(f"port = 0\nmetrics_port = 0\n{limits}{gateways}")
    with relay("--config", str(file), "--json") as (_, line):
        assert json.loads(line)["gateways"] == ["g.example"]
    file.write_text(f"max_stream = 7\n{gateways}")
    done = sotto("relay", "--config", str(file))
    assert (done.returncode, "max_stream" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--gateway URL"),
        (("--gateway", "example.com"), "NAME=URL"),
        (("--gateway", "http://[::1]:1"), "name"),
        (("--gateway", "http://["), "NAME=URL"),
        (("--gateway", "=http://h"), "gateway"),
        (("--gateway", "Upper=http://h"), "NAME=URL"),
        (("--gateway", "g=ftp://h"), "http(s)://"),
        (("--gateway", "http://user:hunter2@h"), "http(s)://"),
        (("--gateway", "http://h/?q"), "http(s)://"),
        (("--gateway", "http://h:1", "--gateway", "http://h:2"), "NAME=URL"),
        (("--gateway", "g=http://h", "--config", "relay.toml"), "--config"),
        (("--config", "/nowhere/relay.toml"), "/nowhere/relay.toml"),
        (("--gateway", "http://h", "--port", "70000"), "port"),
    ],
)
def test_what_cannot_work_is_a_usage_error(arguments: tuple[str, ...], said: str) -> None:
    """One line that says what to do, exit code 2, and no password in it."""
    done = sotto("relay", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("which", ["--port", "--metrics-port"])
def test_a_taken_port_is_said(which: str) -> None:
    """Exit code 2, with or without JSON."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ("relay", "--gateway", AWAY, *FREE, which, port)
        done = sotto(*arguments)
        assert done.returncode == 2
        assert port in done.stderr.splitlines()[-1]
        done = sotto(*arguments, "--json")
        assert done.returncode == 2
        assert port in json.loads(done.stdout)["error"]["message"]


def test_an_interrupt_is_a_clean_end_too() -> None:
    """Ctrl-C is how a person stops it."""
    with relay("--gateway", AWAY, *FREE) as (process, _):
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
