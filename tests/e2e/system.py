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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runtime.up import ports_of

ROOT = Path(__file__).parents[2]
ROLES = ("valkey", "witness", "log", "enclave", "relay", "edge")


def free_port() -> int:
    """An edge's port that is free, with all others that a system takes."""
    while True:
        port = random.randrange(20_000, 30_000)
        try:
            for one in ports_of(port):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
        except OSError:
            continue
        return port


def sotto(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
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
            self.process.wait(30)
            pytest.fail(f"not ready: {line!r}\n{(self.data / 'up.err').read_text()[-3000:]}")
        return line

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the supervisor alone and wait for its end; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
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
        deadline = time.monotonic() + 60
        while True:
            rows = self.receipts()
            if sum(row["status"] == "settled" for row in rows) >= count:
                return rows
            if time.monotonic() > deadline:
                pytest.fail(f"not settled: {[row['status'] for row in rows]}\n{self.logs()}")
            time.sleep(0.2)

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

    def kill(self, role: str) -> int:
        """End one role the hard way; its process id."""
        pid = self.children()[role]
        os.kill(pid, signal.SIGKILL)
        return pid

    def logs(self) -> str:
        """What every role wrote."""
        return "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')}"
            for file in sorted((self.data / "logs").glob("*.log"))
        )
