"""One simulated person: a real device that says lines and notes when the answers came."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.records import Engine, Turn
from personas.model import Persona
from proofs.policy import Policy
from runtime.client.connection import Connection
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.errors import SottoError

# A turn without an end by then is a failure to whoever waits for it.
TURN_TIMEOUT_S = 120.0
_ASK_S = 1.0


@dataclass(slots=True)
class _Draft:
    """A turn under way."""

    first_token: float | None = None
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)
    outcome: str = "failed"
    error: str | None = None
    restarts: int = 0
    receipt_id: str | None = None

    def restart(self) -> None:
        """The text so far is void."""
        self.first_token = None
        self.gaps.clear()
        self.restarts += 1


class Client:
    """A device of its own, with a secret, a folder and a socket of its own.

    Args:
        number: From 0.
        folder: For its secret and receipts.
        persona: Whom it talks to.
        lines: What it says, without end.

    Attributes:
        epoch: `time.perf_counter` at the start of the run; set when all clients are there.
        engines: All that have answered it.
        simulated: Whether an enclave that it verified has simulated attestation.
    """

    def __init__(
        self,
        number: int,
        *,
        folder: Path,
        policy: Policy,
        edge_url: str,
        persona: Persona,
        lines: Iterator[str],
    ) -> None:
        self._number = number
        self._home = DeviceHome(folder)
        self._device = Device(self._home, policy, Connection(edge_url))
        self._persona = persona
        self._lines = lines
        self._said = 0
        self.epoch = 0.0
        self.engines: set[Engine] = set()
        self.simulated = False

    async def connect(self) -> None:
        """Connect, and verify an enclave before anything is measured.

        Raises:
            SottoError: No edge answers, or no enclave holds under the policy.
            TimeoutError: The edge does not say which enclaves there are.
        """
        await self._device.__aenter__()
        enclaves = await self._device.enclaves()
        self.simulated = any(one.attested.simulated for one in enclaves)

    async def close(self) -> None:
        """Leave."""
        try:
            await self._device.__aexit__(None, None, None)
        finally:
            self._home.close()

    def now(self) -> float:
        """Seconds since the start of the run.

        Not the event loop's clock: uvloop's has whole milliseconds, and stands still in a tick.
        """
        return time.perf_counter() - self.epoch

    async def sleep_until(self, due: float) -> None:
        """Return at or after that time of the run."""
        # Again where a timer goes off a little early.
        while (pause := due - self.now()) > 0:  # noqa: ASYNC110 - it waits for the clock alone
            await asyncio.sleep(pause)

    async def say(self, scheduled: float) -> tuple[Turn, str | None]:
        """Say the next line; what came of it, and the id of its receipt where there is one."""
        number, self._said = self._said, self._said + 1
        draft = _Draft()
        sent = self.now()
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await self._listen(draft)
        except TimeoutError:
            draft.outcome, draft.error = "failed", "timeout"
        except SottoError as error:
            draft.outcome, draft.error = "failed", error.code
        except Exception as error:
            # What a device cannot explain is a finding of the run and not the end of it.
            draft.outcome, draft.error = "failed", f"client_{type(error).__name__}"
        turn = Turn(
            client=self._number,
            turn=number,
            scheduled=scheduled,
            sent=sent,
            first_token=draft.first_token,
            deltas=0 if draft.first_token is None else len(draft.gaps) + 1,
            gaps=tuple(draft.gaps),
            done=self.now(),
            outcome=draft.outcome,
            error=draft.error,
            restarts=draft.restarts,
            receipt=None if draft.receipt_id is None else "waiting",
        )
        return turn, draft.receipt_id

    def give_up(self, scheduled: float) -> Turn:
        """The record of a turn that was due and could not be sent before the run ended."""
        number, self._said = self._said, self._said + 1
        return Turn(
            client=self._number,
            turn=number,
            scheduled=scheduled,
            sent=None,
            first_token=None,
            deltas=0,
            gaps=(),
            done=self.now(),
            outcome="failed",
            error="not_sent",
        )

    async def settle(self, turn: Turn, receipt_id: str, timeout_s: float) -> Turn:
        """The turn with what came of its receipt within the time."""
        row = None
        with contextlib.suppress(TimeoutError):
            # The device's own limit begins when it has asked, and asking needs a socket.
            async with asyncio.timeout(timeout_s + _ASK_S):
                row = await self._device.wait_settled(receipt_id, timeout_s)
        when = self.now()
        if row is None:
            return turn
        return dataclasses.replace(
            turn,
            receipt=row.status,
            settled=when if row.status == "settled" else None,
        )

    async def _listen(self, draft: _Draft) -> None:
        async for event in self._device.turn(self._persona, next(self._lines)):
            match event["type"]:
                case "response.output_text.delta":
                    now = self.now()
                    if draft.first_token is None:
                        draft.first_token = now
                    else:
                        draft.gaps.append(now - draft.last)
                    draft.last = now
                case "response.created":
                    self.engines.add(Engine(event["engine"], event["model"], event.get("notice")))
                case "response.restarted":
                    draft.restart()
                case kind:
                    draft.outcome = kind.removeprefix("response.")
                    draft.receipt_id = event["receipt_id"]
                    if "error" in event:
                        draft.error = event["error"]["code"]
