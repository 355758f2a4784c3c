"""`sotto chat` in a terminal: what Ctrl-C does while nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.e2e.system import ROOT, System
from tests.runtime.middle import Middle, Seen

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
# Standard input becomes the controlling terminal, so that keys become signals.
_IN_A_TERMINAL = """
import fcntl, termios
from runtime.cli import main
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
main()
"""
_CTRL_C, _CTRL_D = b"\x03", b"\x04"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("terminal") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


class Terminal:
    """A chat in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._end, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_A_TERMINAL, "chat", *arguments],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self._end, False)
        self.shown = ""

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._end, keys)

    async def wait_for(self, words: str) -> None:
        """Until the words are on the screen, after all that was waited for before."""
        async with asyncio.timeout(30):
            while words not in self.shown:
                with contextlib.suppress(BlockingIOError, OSError):
                    self.shown += os.read(self._end, 65536).decode(errors="replace")
                await asyncio.sleep(0.02)
        self.shown = self.shown.partition(words)[2]

    async def end(self) -> int:
        """Wait for its end; the exit code."""
        try:
            return await asyncio.to_thread(self.process.wait, 30)
        finally:
            self.process.kill()
            os.close(self._end)


@pytest.fixture
async def relay(system: System) -> AsyncIterator[Middle]:
    """In front of the system's own."""
    async with Middle(f"http://127.0.0.1:{system.port + 1}").running() as relay:
        yield relay


async def test_ctrl_c_ends_the_waiting_for_a_reply_that_does_not_begin(
    system: System, relay: Middle, tmp_path: Path
) -> None:
    """A relay is silent for minutes; the person is not held for as long, and may go on."""
    silent = True

    async def swallow(seen: Seen) -> web.Response | None:
        return await asyncio.Future() if silent and seen.method == "POST" else None

    relay.instead = swallow
    terminal = Terminal(
        *("wren", "--relay", relay.url, "--home", str(tmp_path / "home")),
        *("--policy", str(system.home / "policy.toml")),
    )
    await terminal.wait_for("you> ")
    terminal.type(b"hello\r")
    async with asyncio.timeout(20):
        while not relay.exchanges:  # noqa: ASYNC110 - it is a process of its own
            await asyncio.sleep(0.02)
    terminal.type(_CTRL_C)
    await terminal.wait_for("not waited for")
    silent = False
    await terminal.wait_for("you> ")
    terminal.type(b"hello again\r")
    await terminal.wait_for("paced script")
    terminal.type(_CTRL_C)
    await terminal.wait_for("[stopped]")
    terminal.type(_CTRL_D)
    assert await terminal.end() == 0


async def test_ctrl_c_ends_the_waiting_for_an_edge(tmp_path: Path) -> None:
    """One that accepts and says nothing: exit code 130, and not a word about tasks."""
    came = asyncio.Event()
    server = await asyncio.start_server(lambda *_: came.set(), "127.0.0.1", 0)
    async with server:
        edge = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/realtime"
        terminal = Terminal("wren", "--edge", edge, "--home", str(tmp_path / "home"))
        async with asyncio.timeout(20):
            await came.wait()
        terminal.type(_CTRL_C)
        await terminal.wait_for("^C")
        assert await asyncio.to_thread(terminal.process.wait, 30) == 130
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await terminal.wait_for("pending")
        assert terminal.shown.strip() == ""
        await terminal.end()
