"""`sotto chat` in a terminal: what the keys do, and what is shown while nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from runtime.client.home import DeviceHome
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.identity import release_digest
from tests.e2e.system import ROOT
from tests.runtime.enclave_world import World, relay, running_enclave
from tests.runtime.middle import Middle, Seen

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
# Standard input becomes the controlling terminal, so that keys become signals.
_IN_A_TERMINAL = """
import fcntl, termios
from runtime.cli import main
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
main()
"""
_PASTE_TOLD = "\x1b[?2004h"  # the terminal is asked to say where a paste begins and ends
_CTRL_C, _CTRL_D = b"\x03", b"\x04"


class Terminal:
    """A chat in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._end, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_A_TERMINAL, "chat", *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self._end, False)
        self.shown = ""

    @property
    def echoes(self) -> bool:
        """Whether it shows what is typed."""
        return bool(termios.tcgetattr(self._end)[3] & termios.ECHO)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._end, keys)

    async def wait_for(self, words: str) -> str:
        """Until the words are on the screen, after all that was waited for before.

        Returns:
            What stood between.
        """
        async with asyncio.timeout(60):
            while words not in self.shown:
                with contextlib.suppress(BlockingIOError, OSError):
                    self.shown += os.read(self._end, 65536).decode(errors="replace")
                await asyncio.sleep(0.02)
        before, _, self.shown = self.shown.partition(words)
        return before

    async def end(self) -> int:
        """Wait for its end; the exit code."""
        try:
            return await asyncio.to_thread(self.process.wait, 60)
        finally:
            self.process.kill()
            os.close(self._end)


@pytest.fixture
async def middle(world: World) -> AsyncIterator[Middle]:
    """In front of a relay to an enclave whose replies take most of a minute."""
    engine = ScriptedEngine(first_token_s=0, token_s=0.2, tokens=2000)
    async with (
        running_enclave(world, engine) as enclave,
        relay(enclave) as url,
        Middle(url).running() as middle,
    ):
        yield middle


def policy_file(world: World) -> Path:
    """What `sotto up` would write for that enclave."""
    root = world.root.public_key().public_bytes_raw().hex()
    vkey = (world.folder / "log" / "vkey").read_text().strip()
    file = world.folder / "policy.toml"
    file.write_text(
        f'allow_simulated = true\nsimulated_roots = ["{root}"]\n'
        f'measurements = [{{ release = "{release_digest().hex()}" }}]\nlog_keys = ["{vkey}"]\n'
    )
    return file


def chat(world: World, middle: Middle) -> Terminal:
    """With wren."""
    home = ("--home", str(world.folder / "home"))
    policy = ("--policy", str(policy_file(world)))
    return Terminal("wren", "--relay", middle.url, *home, *policy)


async def test_ctrl_c_ends_the_waiting_for_a_reply_that_does_not_begin(
    world: World, middle: Middle
) -> None:
    """A relay is silent for minutes; the person is not held for as long, and may go on."""
    silent = True

    async def swallow(seen: Seen) -> web.Response | None:
        return await asyncio.Future() if silent and seen.method == "POST" else None

    middle.instead = swallow
    terminal = chat(world, middle)
    await terminal.wait_for("you> ")
    terminal.type(b"hello\r")
    async with asyncio.timeout(60):
        while not middle.exchanges:  # noqa: ASYNC110 - it is a process of its own
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


@pytest.fixture
async def quick(world: World) -> AsyncIterator[Middle]:
    """In front of a relay to an enclave whose replies take two seconds."""
    engine = ScriptedEngine(first_token_s=0, token_s=0.2, tokens=10)
    async with (
        running_enclave(world, engine) as enclave,
        relay(enclave) as url,
        Middle(url).running() as middle,
    ):
        yield middle


async def test_ctrl_c_at_the_prompt_clears_the_line_and_ends_nothing_at_once(
    world: World, quick: Middle
) -> None:
    """Whoever wanted to stop a reply that had just ended stays in the chat."""
    terminal = chat(world, quick)
    await terminal.wait_for("you> ")
    terminal.type(b"a message that is")
    await terminal.wait_for("that is")
    terminal.type(_CTRL_C)
    assert "once more" not in await terminal.wait_for("you> ")
    terminal.type(_CTRL_C)
    await terminal.wait_for("[Ctrl-C once more, or Ctrl-D, ends the chat]")
    await terminal.wait_for("you> ")
    terminal.type(b"/help\r")
    await terminal.wait_for("/quit")
    await terminal.wait_for("you> ")
    terminal.type(_CTRL_C)
    await terminal.wait_for("once more")
    await terminal.wait_for("you> ")
    terminal.type(_CTRL_C)
    assert await terminal.end() == 0
    assert quick.exchanges == []


@pytest.mark.parametrize("word", [b"/quit", b"/exit"])
async def test_several_lines_are_one_message(world: World, quick: Middle, word: bytes) -> None:
    """Pasted, or typed between quotation marks; what is typed meanwhile waits for its prompt."""
    terminal = chat(world, quick)
    await terminal.wait_for(_PASTE_TOLD)
    await terminal.wait_for("you> ")
    terminal.type(b"\x1b[200~one\rtwo\x1b[201~\r")
    await terminal.wait_for("not a model.]")
    await terminal.wait_for("\nWren Castellane> this is")
    terminal.type(b'"""three')
    assert '"""' not in await terminal.wait_for("you> ")
    await terminal.wait_for('"""three')
    terminal.type(b'\r\rfour"""\r')
    await terminal.wait_for("Wren Castellane> this is")
    await terminal.wait_for("you> ")
    terminal.type(word + b"\r")
    assert await terminal.end() == 0
    with contextlib.closing(DeviceHome(world.folder / "home")) as home:
        kept = [home.transcripts.said(row.receipt_id) for row in home.receipts()]
    assert [one.request for one in kept if one] == [b"one\ntwo", b"three\n\nfour"]


async def test_a_chat_that_is_terminated_leaves_the_terminal_as_it_was(
    world: World, middle: Middle
) -> None:
    """Also in the middle of a reply, while it shows no keys."""
    terminal = chat(world, middle)
    assert terminal.echoes
    await terminal.wait_for("you> ")
    terminal.type(b"hello\r")
    await terminal.wait_for("this is")
    assert not terminal.echoes
    terminal.process.terminate()
    assert await asyncio.to_thread(terminal.process.wait, 60) == 128 + signal.SIGTERM
    assert terminal.echoes
    await terminal.end()


async def test_a_reply_that_nobody_waited_for_is_shown_later(world: World, quick: Middle) -> None:
    """The enclave had the message, and the relay lost the answer; the persona remembers it."""
    answered = asyncio.Event()

    async def lose(seen: Seen) -> web.Response | None:
        if seen.method != "POST" or answered.is_set():
            return None
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                quick.target + seen.path,
                data=seen.body,
                headers={"Content-Type": seen.headers["Content-Type"], "Incremental": "?1"},
            ) as response,
        ):
            await response.read()
        answered.set()
        return await asyncio.Future()

    quick.instead = lose
    terminal = chat(world, quick)
    await terminal.wait_for("you> ")
    terminal.type(b"hello\r")
    await terminal.wait_for("[nothing comes")
    await answered.wait()
    terminal.type(_CTRL_C)
    await terminal.wait_for("not waited for")
    for message, late in ((b"hello again\r", True), (b"once more\r", False)):
        await terminal.wait_for("you> ")
        terminal.type(message)
        if late:
            await terminal.wait_for("answered meanwhile")
            await terminal.wait_for("Wren Castellane> this is a paced")
        assert "meanwhile" not in await terminal.wait_for("Wren Castellane> this is a paced")
    await terminal.wait_for("you> ")
    terminal.type(_CTRL_D)
    assert await terminal.end() == 0


async def test_ctrl_c_ends_the_waiting_for_an_edge(tmp_path: Path) -> None:
    """One that accepts and says nothing: exit code 130, and not a word about tasks."""
    came = asyncio.Event()
    server = await asyncio.start_server(lambda *_: came.set(), "127.0.0.1", 0)
    async with server:
        edge = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/realtime"
        terminal = Terminal("wren", "--edge", edge, "--home", str(tmp_path / "home"))
        async with asyncio.timeout(60):
            await came.wait()
        terminal.type(_CTRL_C)
        await terminal.wait_for("^C")
        assert await asyncio.to_thread(terminal.process.wait, 60) == 130
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await terminal.wait_for("pending")
        assert terminal.shown.strip() == ""
        await terminal.end()
