"""Children under one parent: started, watched, restarted, stopped, none left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import Exit, SetupError

log = logging.getLogger(__name__)

_POLL_S = 0.05
_RESTART_FIRST_S = 0.2
_RESTART_MOST_S = 5.0
# A child that lived this long was healthy: its next restart is a quick one again.
_SETTLED_S = 10.0

_PR_SET_PDEATHSIG = 1  # prctl(2)
# Loaded before any fork: a child may call it, and nothing else that is not async-signal-safe.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(slots=True)
class Child:
    """One process to keep alive.

    Attributes:
        name: Role's name, for people and for the log file.
        command: Program and arguments; secrets never stand here.
        healthy: Answers whether it serves.
        has_lifeline: It stops by itself when its standard input closes, as our roles do. Other
            programs are tied to this process by the kernel where it can (Linux).
    """

    name: str
    command: list[str]
    healthy: Callable[[], Awaitable[bool]]
    has_lifeline: bool = True
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    was_healthy: bool = False

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self.process is None else self.process.pid


class Supervisor:
    """Starts children, restarts those that die, and stops all of them.

    Args:
        logs: Folder for each child's output.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    @property
    def children(self) -> tuple[Child, ...]:
        """All children, in the order of their start."""
        return tuple(self._children)

    def log_file(self, name: str) -> Path:
        """Where a child's output goes."""
        return self._logs / f"{name}.log"

    async def start(self, child: Child) -> None:
        """Start one child; `wait_healthy` tells when it serves."""
        self._children.append(child)
        await self._spawn(child)
        self._watchers[child.name] = asyncio.create_task(self._watch(child))

    async def wait_healthy(self, children: list[Child], timeout_s: float) -> None:
        """Wait until all serve.

        Raises:
            SetupError: One of them ended, with the last line it wrote; or the time is up.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        for child in children:
            while not await child.healthy():
                process = child.process
                if process is not None and process.returncode == Exit.USAGE:
                    raise SetupError(f"{child.name} did not start: {self._last_line(child.name)}")
                if child.restarts > 2:
                    raise SetupError(
                        f"{child.name} keeps ending: {self._last_line(child.name)}; "
                        f"all of it is in {self.log_file(child.name)}"
                    )
                if asyncio.get_running_loop().time() > deadline:
                    raise SetupError(
                        f"{child.name} was not ready within {timeout_s:.0f} s; what it wrote is "
                        f"in {self.log_file(child.name)}"
                    )
                await asyncio.sleep(_POLL_S)
            child.was_healthy = True

    async def stop(self, waves: list[tuple[list[str], float]]) -> None:
        """Stop children in waves: SIGTERM to a wave, SIGKILL at its time, then the next.

        Args:
            waves: Names of children, and seconds since this call by which they must be gone.
        """
        self._stopping = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        for names, until in waves:
            wave = [c for c in self._children if c.name in names]
            await self._stop_wave(wave, max(0.0, began + until - loop.time()))

    async def _stop_wave(self, wave: list[Child], seconds: float) -> None:
        alive = {c.name: c.process for c in wave if c.process and c.process.returncode is None}
        for process in alive.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waits = [asyncio.create_task(process.wait()) for process in alive.values()]
        if waits:
            await asyncio.wait(waits, timeout=seconds)
        for name, process in alive.items():
            if process.returncode is None:
                log.warning("%s did not stop in %.1f s and was killed", name, seconds)
                # The whole session: an engine may have workers of its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        await asyncio.gather(*waits)

    async def _spawn(self, child: Child) -> None:
        with self.log_file(child.name).open("ab") as output:
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                # Held open while this process lives: see `roles.run_role`'s lifeline.
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                preexec_fn=None if child.has_lifeline else _die_with_parent,
                # Ctrl-C in a terminal reaches this process alone, which stops them in order.
                start_new_session=True,
            )

    async def _watch(self, child: Child) -> None:
        pause = _RESTART_FIRST_S
        while not self._stopping and child.process is not None:
            loop = asyncio.get_running_loop()
            started = loop.time()
            code = await child.process.wait()
            if code == Exit.USAGE and not child.was_healthy:
                # Its configuration is wrong: another start would end the same way, and
                # `wait_healthy` says why.
                return
            if loop.time() - started > _SETTLED_S:
                pause = _RESTART_FIRST_S
            log.warning("%s ended with code %d; starting it again", child.name, code)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RESTART_MOST_S)
            child.restarts += 1
            await self._spawn(child)

    def _last_line(self, name: str) -> str:
        try:
            lines = self.log_file(name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it wrote nothing"
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        return said.removeprefix("sotto: ")
