"""What a run leaves: one record per turn, and the run's frame around them.

All times are seconds from the start of the run on one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Arrival = Literal["closed", "poisson"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as its client met it.

    Attributes:
        client: Which client, from 0.
        turn: Which of that client's turns, from 0.
        scheduled: When it was due; every duration counts from here.
        sent: When its client began to seal and send it; None where it never came to that.
        first_token: When the first text of the reply came, None where none did. Where an
            enclave died and another answered anew, the first text of the reply that stood.
        deltas: Pieces of text that came.
        gaps: Time between neighbouring pieces; one fewer than `deltas`.
        done: When the turn ended, well or not.
        outcome: ``completed``, or what else became of it: ``cancelled``, ``failed``.
        error: Machine word for a failure.
        restarts: Times that an enclave died under the reply and another began anew.
        receipt: How far its receipt came: ``settled``, ``refused``, ``received`` or ``waiting``;
            None where the turn has none.
        settled: When the receipt's inclusion proof had been verified on the device.
    """

    client: int
    turn: int
    scheduled: float
    sent: float | None
    first_token: float | None
    deltas: int
    gaps: tuple[float, ...]
    done: float
    outcome: str
    error: str | None = None
    restarts: int = 0
    receipt: str | None = None
    settled: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the person had a whole answer."""
        return self.outcome == "completed"


@dataclass(frozen=True, slots=True)
class Engine:
    """Who answered, in the enclave's words."""

    engine: str
    model: str
    notice: str | None


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run was asked to do.

    Attributes:
        turns: Most turns of one client; over all clients, `clients` times as many.
        rate: Turns per second over all clients; None for closed arrivals.
        duration_s: No turn is due after this time.
        receipts_s: How long a receipt is waited for after its answer.
        dialogues: Where the messages come from.
    """

    edge: str
    clients: int
    turns: int
    arrival: Arrival
    rate: float | None
    duration_s: float
    think_s: float
    receipts_s: float
    seed: int
    personas: tuple[str, ...]
    dialogues: str


@dataclass(frozen=True, slots=True)
class Run:
    """A whole run.

    Attributes:
        engines: All that answered; more than one where an operator changed it meanwhile.
        simulated: Whether an enclave's attestation was simulated.
        wall_s: From the first moment at which a turn could be due to the end of the last turn.
        cpu_s: CPU time that this process, clients and sealing included, took for it.
        unfinished: Turns that were due or under way when somebody stopped the run.
        interrupted: Whether somebody did.
    """

    setup: Setup
    turns: tuple[Turn, ...]
    engines: tuple[Engine, ...]
    simulated: bool
    wall_s: float
    cpu_s: float
    unfinished: int = 0
    interrupted: bool = False
