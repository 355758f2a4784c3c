"""The real system as a person starts it: `sotto up` and its processes."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from runtime.up import ports_of

ROOT = Path(__file__).parents[2]
ROLES = ("valkey", "witness", "log", "enclave", "relay", "edge")
# For what takes a second or two on a machine that has nothing else to do.
WAIT_S = 120.0


def free_port() -> int:
    """An edge's port that is free, with all others that a system takes.

    Between this look and the start, the tests of another worker must not take one of them.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    # A system's other ports are 1000 above; a bench begins where these ranges end.
    first = 14_000 + worker % 8 * 2000
    while True:
        port = random.randrange(first, first + 990)
        try:
            for one in ports_of(port):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
        except OSError:
            continue
        return port


def sotto(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@dataclass
class System:
    """One system of processes on a data folder; may be stopped and started again."""

    data: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None

    @property
    def home(self) -> Path:
        """The first device's folder."""
        return self.data / "device"

    @property
    def edge(self) -> str:
        """The edge's websocket."""
        return f"ws://127.0.0.1:{self.port}/v1/realtime"

    def start(self) -> str:
        """Start and wait for the line that says ready; returns it."""
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "up.err").open("a") as errors:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "runtime", "up", "--allow-simulated", "--no-chat"),
                    *("--data", str(self.data), "--port", str(self.port), *self.options),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("Sottovoce is ready"):
            self.process.wait(60)
            pytest.fail(f"not ready: {line!r}\n{(self.data / 'up.err').read_text()[-3000:]}")
        return line

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the supervisor alone and wait for its end; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def chat(self, persona: str, message: str, **options: Any) -> dict[str, Any]:
        """One turn; the JSON that it prints."""
        done = sotto(
            *("chat", persona, "--message", message, "--json"),
            *("--home", str(options.get("home", self.home)), "--edge", self.edge),
            *("--policy", str(self.home / "policy.toml")),
        )
        assert done.stdout, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        result["exit"] = done.returncode
        return result

    def receipts(self) -> list[dict[str, Any]]:
        """The device's receipts, after asking for late ones."""
        done = sotto("receipts", "--json", "--home", str(self.home), "--edge", self.edge)
        rows: list[dict[str, Any]] = json.loads(done.stdout)["receipts"]
        return rows

    def settled_receipts(self, count: int) -> list[dict[str, Any]]:
        """Wait until that many are settled."""
        rows: list[dict[str, Any]] = []

        def are_settled() -> bool:
            rows[:] = self.receipts()
            return sum(row["status"] == "settled" for row in rows) >= count

        self.wait(are_settled, "not settled")
        return rows

    def children(self) -> dict[str, int]:
        """Process ids of the roles, by what they were started with."""
        assert self.process is not None
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if parent != self.process.pid:
                continue
            names = [role for role in ROLES if role.encode() in command]
            role = names[0] if names else "valkey" if b"valkey" in command[0] else "?"
            found[role] = int(folder.name)
        return found

    def kill(self, role: str, number: int = signal.SIGKILL) -> int:
        """End one role, the hard way where nothing else is said; its process id."""
        pid = self.children()[role]
        os.kill(pid, number)
        return pid

    def wait_back(self, role: str, gone: int) -> None:
        """Wait until all roles are there and serve, one of them in another process than `gone`."""

        def are_back() -> bool:
            children = self.children()
            # A child that is not yet its own program has no name of a role.
            return set(children) == set(ROLES) and children[role] != gone and self.healthy()

        self.wait(are_back, f"{role} was not started again")

    def healthy(self) -> bool:
        """Whether each role that listens says that it serves."""
        for port in range(self.port, self.port + len(ROLES) - 1):
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", "/healthz")
                if connection.getresponse().status != 200:
                    return False
            except (OSError, HTTPException):
                return False
            finally:
                connection.close()
        return True

    def wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Wait until `condition` holds; fail with `otherwise` and every role's log."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{otherwise}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self) -> str:
        """What every role wrote."""
        return "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')}"
            for file in sorted((self.data / "logs").glob("*.log"))
        )
