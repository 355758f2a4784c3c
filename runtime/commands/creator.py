"""What the commands of creators work with: their keys, what they sent, verified enclaves."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from personas.authorship import (
    HandleState,
    SignedStep,
    StepKind,
    fingerprint,
    next_step,
    public_key,
    sign_step,
)
from personas.errors import PersonaError
from runtime.client.creator import CreatorKeys
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.publishing import Published, send
from runtime.client.registry import read_chain
from runtime.client.submission import Submission, Submissions
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_way,
    carrier,
    home_folder,
    load_policy,
    note,
    print_json,
    say,
)
from runtime.errors import Exit, SottoError


@dataclass(frozen=True, slots=True)
class Creator:
    """What every command works with that asks about a handle or takes a step of it.

    Attributes:
        args: The command line.
        home: The device's folder.
        keys: The creator's keys in it.
        sent: What this device sent.
        device: Verified enclaves.
    """

    args: argparse.Namespace
    home: DeviceHome
    keys: CreatorKeys
    sent: Submissions
    device: Device

    async def state(self, handle: str) -> HandleState | None:
        """What the chain proves now; None where nobody has published."""
        try:
            return (await read_chain(self.device, self.home, handle)).state
        except SottoError as error:
            if error.code == "persona_rollback":
                raise SottoError(
                    f"{error}. Where it is yours and the operator went back to an older backup: "
                    f"sotto personas restore {handle}",
                    code=error.code,
                ) from None
            if error.code != "persona_unknown":
                raise
            return None

    async def owned(self, handle: str) -> HandleState:
        """The same, where this device's key owns the handle."""
        state = await self.state(handle)
        if state is None:
            raise SottoError(f"nobody has published `{handle[:64]}`", code="persona_unknown")
        mine = public_key(self.keys.signing())
        if state.key != mine:
            raise SottoError(
                f"`{handle}` belongs to the key {fingerprint(state.key)}, and this device's is "
                f"{fingerprint(mine)}; import the key that owns it with "
                "`sotto personas keys --import FILE`",
                code="not_owner",
            )
        return state

    async def step(self, handle: str, kind: StepKind, **more: Any) -> SignedStep:
        """The next step of a handle that is owned, signed."""
        key = self.keys.signing()
        state = await self.owned(handle)
        at = max(int(time.time()), state.time)
        step = next_step(state, kind, handle=handle, key=public_key(key), time=at, **more)
        return sign_step(step, key)

    async def send(self, submission: Submission) -> Published:
        """Send a step; a copy stays on this device."""
        return await send(self.device, self.sent, submission, self.keys.signing())

    def tell(self, told: dict[str, object], *lines: str) -> None:
        """Print what came of it, as JSON or for people."""
        if self.args.json:
            print_json({**told, "simulated": self.device.simulated})
            return
        if self.device.simulated:
            note(SIMULATED_LINE)
        for line in lines:
            say(line)


Work = Callable[[Creator], Awaitable[int]]


def add_command(
    actions: Any, name: str, work: Work, what: str, more: str = ""
) -> argparse.ArgumentParser:
    """Register a command of creators, described by what it does; `more` is sentences."""
    described = f"{what[0].upper()}{what[1:]}. {more}".rstrip()
    parser: argparse.ArgumentParser = actions.add_parser(name, help=what, description=described)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_way(parser)
    add_home(parser)
    parser.set_defaults(run=lambda args: _run(args, work))
    return parser


def _run(args: argparse.Namespace, work: Work) -> int:
    policy, _ = load_policy(args)
    folder = home_folder(args)

    async def run() -> int:
        async with Device(home, policy, carrier(args)) as device:
            return await work(Creator(args, home, CreatorKeys(folder), Submissions(folder), device))

    home = DeviceHome(folder)
    try:
        return asyncio.run(run())
    except PersonaError as error:
        raise SottoError(str(error), code="persona", exit_code=Exit.USAGE) from None
    finally:
        home.close()


def told_step(handle: str, done: Published) -> dict[str, object]:
    """A step that was sent, for programs."""
    return {
        "handle": handle,
        "number": done.number,
        "step": done.step.hex(),
        "proven": done.proven,
    }


def said_step(what: str, done: Published) -> str:
    """A step that was sent, for people."""
    if done.proven:
        return f"{what}: step {done.number}, proven by the log."
    return f"{what}: step {done.number}. Devices believe it when the log has taken it."
