"""Drives many clients against a running system, within limits of count and time."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import tempfile
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.arrivals import first_turns, poisson
from loadtest.client import TURN_TIMEOUT_S, Client
from loadtest.records import Run, Setup, Turn
from loadtest.scenarios import Dialogues
from personas.model import Persona
from proofs.policy import Policy
from runtime.errors import SetupError, SottoError

_CONNECT_AT_ONCE = 16
_FILES_PER_CLIENT = 4  # a socket, and a database with its log and index
_FILES_BESIDES = 128
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - a folder of our own with mode 0700 is made in it
_HOME_BYTES = 6 * 2**20  # a device's database with its write-ahead log at its largest


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in turns and receipts."""

    ended: int
    failed: int
    running: int
    waiting: int
    receipts: int


class Load:
    """One run.

    Args:
        setup: What to do.
        policy: What each device demands of an enclave.
        personas: Whom the clients talk to, handed out in turns.
        dialogues: What they say.
    """

    def __init__(
        self, setup: Setup, policy: Policy, personas: tuple[Persona, ...], dialogues: Dialogues
    ) -> None:
        self._setup = setup
        self._policy = policy
        self._personas = personas
        self._dialogues = dialogues
        self._clients: list[Client] = []
        self._turns: list[Turn] = []
        self._running = 0
        self._due: asyncio.Queue[float | None] = asyncio.Queue()
        self._backlog = 0
        self._settling: set[asyncio.Task[None]] = set()

    def progress(self) -> Progress:
        """For whoever watches."""
        return Progress(
            ended=len(self._turns),
            failed=sum(not turn.ok for turn in self._turns),
            running=self._running,
            waiting=self._backlog,
            receipts=len(self._settling),
        )

    async def run(self, stop: asyncio.Event) -> Run:
        """Connect, speak, wait for receipts; ends early where `stop` is set.

        Raises:
            SetupError: The run cannot start: no edge, no enclave that holds, no folder.
        """
        _allow_files(self._setup.clients * _FILES_PER_CLIENT + _FILES_BESIDES)
        with device_folder(self._setup.clients) as folder:
            try:
                interrupted = await self._connect(folder, stop)
                return await self._measure(stop, interrupted=interrupted)
            finally:
                # Side by side: where the edge went away, each socket's goodbye waits for long.
                closing = (client.close() for client in self._clients)
                await asyncio.gather(*closing, return_exceptions=True)

    async def _connect(self, folder: Path, stop: asyncio.Event) -> bool:
        """Let all clients connect and verify an enclave; whether that was interrupted."""
        setup = self._setup
        gate = asyncio.Semaphore(_CONNECT_AT_ONCE)

        async def connect(number: int) -> None:
            async with gate:
                client = Client(
                    number,
                    folder=folder / str(number),
                    policy=self._policy,
                    edge_url=setup.edge,
                    persona=self._personas[number % len(self._personas)],
                    lines=self._dialogues.lines(number, setup.seed),
                )
                self._clients.append(client)
                await client.connect()

        try:
            return await _interrupted(stop, (connect(n) for n in range(setup.clients)))
        except SottoError as error:
            raise SetupError(str(error), code=error.code) from error
        except TimeoutError as error:
            raise SetupError(
                f"the edge at {setup.edge} accepts sockets and does not answer on them; look at "
                "its log, or try fewer --clients",
                code="edge_silent",
            ) from error

    async def _measure(self, stop: asyncio.Event, *, interrupted: bool) -> Run:
        cpu, epoch = time.process_time(), time.perf_counter()
        for client in self._clients:
            client.epoch = epoch
        interrupted = interrupted or await _interrupted(stop, self._work())
        unfinished = self._running + self._backlog
        cpu = time.process_time() - cpu
        interrupted = await self._settle_all(stop, interrupted=interrupted)
        return Run(
            setup=self._setup,
            turns=tuple(self._turns),
            engines=tuple(sorted({e for c in self._clients for e in c.engines}, key=str)),
            simulated=any(client.simulated for client in self._clients),
            wall_s=max((turn.done for turn in self._turns), default=0.0),
            cpu_s=cpu,
            unfinished=unfinished,
            interrupted=interrupted,
        )

    def _work(self) -> Iterator[Coroutine[Any, Any, None]]:
        setup = self._setup
        if setup.rate is not None:
            yield self._arrive(setup.rate)
            yield from (self._answer_next(client) for client in self._clients)
            return
        starts = first_turns(setup.clients, setup.think_s, setup.seed)
        for client, start in zip(self._clients, starts, strict=True):
            yield self._converse(client, start)

    async def _converse(self, client: Client, due: float) -> None:
        """Closed arrivals: speak, listen, think."""
        for _ in range(self._setup.turns):
            if due >= self._setup.duration_s:
                return
            await client.sleep_until(due)
            await self._turn(client, due)
            due = client.now() + self._setup.think_s

    async def _arrive(self, rate: float) -> None:
        """Poisson arrivals: what is due is due, whether or not a client is free to say it."""
        setup, clock = self._setup, self._clients[0]
        turns = setup.clients * setup.turns
        for due in poisson(rate, turns=turns, duration_s=setup.duration_s, seed=setup.seed):
            await clock.sleep_until(due)
            self._backlog += 1
            self._due.put_nowait(due)
        for _ in self._clients:
            self._due.put_nowait(None)

    async def _answer_next(self, client: Client) -> None:
        while (due := await self._due.get()) is not None:
            self._backlog -= 1
            if client.now() < self._setup.duration_s + TURN_TIMEOUT_S:
                await self._turn(client, due)
            else:
                # A run ends; to leave out what it never sent would flatter the system.
                self._turns.append(client.give_up(due))

    async def _turn(self, client: Client, due: float) -> None:
        self._running += 1
        turn, receipt_id = await client.say(due)
        self._running -= 1
        self._turns.append(turn)
        if receipt_id is not None:
            # Beside the conversation: nobody waits for a receipt before speaking again.
            settling = self._settle(client, len(self._turns) - 1, receipt_id)
            task = asyncio.create_task(settling)
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, client: Client, place: int, receipt_id: str) -> None:
        turn = self._turns[place]
        self._turns[place] = await client.settle(turn, receipt_id, self._setup.receipts_s)

    async def _settle_all(self, stop: asyncio.Event, *, interrupted: bool) -> bool:
        """Wait for the receipts still on their way, unless somebody waits for the report."""
        tasks = list(self._settling)
        if not interrupted:
            return await _interrupted(stop, (_join(task) for task in tasks))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return True


async def _join(task: asyncio.Task[None]) -> None:
    await task


async def _interrupted(stop: asyncio.Event, work: Iterable[Coroutine[Any, Any, None]]) -> bool:
    """Do all of it, or cancel what is left once `stop` is set; whether it was.

    The first failure cancels the rest and is raised.
    """
    tasks = [asyncio.create_task(one) for one in work]
    stopping = asyncio.create_task(stop.wait())
    whole = asyncio.gather(*tasks)
    either: list[asyncio.Future[Any]] = [whole, stopping]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if whole.done():
            whole.result()
        return not whole.done()
    finally:
        for one in (*tasks, stopping):
            one.cancel()
        await asyncio.gather(*tasks, *either, return_exceptions=True)


@contextlib.contextmanager
def device_folder(clients: int) -> Iterator[Path]:
    """For the devices' secrets and receipts; gone with the run.

    In memory where there is room: a person's device writes to a disk of its own, and hundreds of
    them on one disk would measure that disk.
    """
    try:
        room = shutil.disk_usage(_MEMORY_FOLDER).free > clients * _HOME_BYTES
    except OSError:
        room = False
    try:
        folder = tempfile.TemporaryDirectory(
            prefix="sotto-loadtest-", dir=_MEMORY_FOLDER if room else None
        )
    except OSError as error:
        raise SetupError(
            f"no temporary folder for the clients can be made ({error}); set TMPDIR to one that "
            "you can write",
            code="folder",
        ) from error
    with folder as name:
        yield Path(name)


def _allow_files(needed: int) -> None:
    """Raise this process's limit of open files as far as it may be raised itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SetupError(
            f"so many clients need {needed} open files and this machine allows {hard}; use fewer "
            "--clients, or raise the limit with `ulimit -Hn`",
            code="open_files",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
