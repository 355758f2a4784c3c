"""Figures from records, as a table for people and as JSON.

Percentiles are exact and by nearest rank: the p-th of n values is the smallest recorded value
that at least p % of them do not exceed, the ``ceil(p·n/100)``-th in order. Nothing is
interpolated, binned or sampled, so every figure is something that happened to somebody; with
fewer than 100 values p99 is the maximum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.records import Run, Turn
from runtime.commands.common import SIMULATED_LINE
from runtime.errors import Exit

PERCENTILES = "exact, nearest rank"
_SCRIPTED = "scripted"


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of `n` values; all None where there are none."""

    n: int
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None


def nearest_rank(ordered: Sequence[float], percent: int) -> float:
    """The percentile of values in rising order, of which there is at least one."""
    # Rounded up in integers: 0.07 * 100 in floats is more than 7, which would be a rank too far.
    return ordered[-(-percent * len(ordered) // 100) - 1]


def quantiles(values: Iterable[float]) -> Quantiles:
    """Sort and look up."""
    ordered = sorted(values)
    if not ordered:
        return Quantiles(0, None, None, None, None)
    p50, p90, p99 = (nearest_rank(ordered, percent) for percent in (50, 90, 99))
    return Quantiles(len(ordered), p50, p90, p99, ordered[-1])


@dataclass(frozen=True, slots=True)
class Report:
    """A run's figures; durations in seconds.

    Attributes:
        first_token: From due to the first text, of turns that completed.
        inter_token: Between neighbouring pieces of text, all of them pooled.
        turn: From due to the end of the reply.
        send_delay: From due to being sent: the wait for a free client, and this process's own
            lateness.
        receipt_delay: From the end of the reply to a verified inclusion proof.
        tokens_per_s: Pieces of text of completed turns over the run's wall time.
        errors: Failed turns by error code.
        receipts: Turns that have one, by how far it came.
    """

    run: Run
    first_token: Quantiles
    inter_token: Quantiles
    turn: Quantiles
    send_delay: Quantiles
    receipt_delay: Quantiles
    tokens_per_s: float
    turns_per_s: float
    ok: int
    errors: dict[str, int]
    receipts: dict[str, int]

    @property
    def scripted(self) -> bool:
        """Whether words came from a script and not from a model."""
        return any(one.engine == _SCRIPTED for one in self.run.engines)

    @property
    def settled_share(self) -> float | None:
        """Settled receipts over all of them; None where there is none."""
        total = sum(self.receipts.values())
        return self.receipts.get("settled", 0) / total if total else None

    @property
    def exit_code(self) -> int:
        """0 where every turn was answered and no receipt was refused."""
        if self.run.interrupted:
            return Exit.INTERRUPTED
        failed = self.ok < len(self.run.turns) or self.receipts.get("refused", 0) > 0
        return Exit.FAILED if failed or not self.run.turns else Exit.OK


def summarize(run: Run) -> Report:
    """All figures of a run."""
    ok = [turn for turn in run.turns if turn.ok]
    wall = run.wall_s or math.inf
    return Report(
        run=run,
        first_token=quantiles(
            turn.first_token - turn.scheduled for turn in ok if turn.first_token is not None
        ),
        inter_token=quantiles(gap for turn in ok for gap in turn.gaps),
        turn=quantiles(turn.done - turn.scheduled for turn in ok),
        send_delay=quantiles(
            turn.sent - turn.scheduled for turn in run.turns if turn.sent is not None
        ),
        receipt_delay=quantiles(
            turn.settled - turn.done for turn in run.turns if turn.settled is not None
        ),
        tokens_per_s=sum(turn.deltas for turn in ok) / wall,
        turns_per_s=len(ok) / wall,
        ok=len(ok),
        errors=_count(turn.error or turn.outcome for turn in run.turns if not turn.ok),
        receipts=_count(turn.receipt for turn in run.turns if turn.receipt is not None),
    )


def _count(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())


def as_json(report: Report, *, records: bool = False) -> dict[str, Any]:
    """The report as JSON values; with `records`, every turn too."""
    run = report.run
    document: dict[str, Any] = {
        "format": 1,
        "setup": asdict(run.setup),
        "engines": [asdict(engine) for engine in run.engines],
        "simulated": run.simulated,
        "scripted": report.scripted,
        "interrupted": run.interrupted,
        "percentiles": PERCENTILES,
        "token": "one piece of text as it came",
        "wall_s": run.wall_s,
        "seconds": {
            name: asdict(value)
            for name, value in (
                ("first_token", report.first_token),
                ("inter_token", report.inter_token),
                ("turn", report.turn),
                ("send_delay", report.send_delay),
                ("receipt_delay", report.receipt_delay),
            )
        },
        "tokens_per_s": report.tokens_per_s,
        "turns_per_s": report.turns_per_s,
        "turns": {
            "ok": report.ok,
            "failed": len(run.turns) - report.ok,
            "unfinished": run.unfinished,
            "restarts": sum(turn.restarts for turn in run.turns),
        },
        "errors": report.errors,
        "receipts": report.receipts,
        "settled_share": report.settled_share,
        "client_cpu_share": _cpu_share(run),
    }
    if records:
        document["records"] = [_record(turn) for turn in run.turns]
    return document


def _record(turn: Turn) -> dict[str, Any]:
    return {**asdict(turn), "gaps": [round(gap, 6) for gap in turn.gaps]}


def _cpu_share(run: Run) -> float | None:
    return run.cpu_s / run.wall_s if run.wall_s else None


def as_table(report: Report) -> str:
    """The report as aligned text."""
    rows = [
        ("first token", report.first_token),
        ("inter-token", report.inter_token),
        ("whole turn", report.turn),
        ("sent late by", report.send_delay),
        ("receipt after", report.receipt_delay),
    ]
    head = f"{'milliseconds':<14}{'n':>9}" + "".join(
        f"{name:>11}" for name in ("p50", "p90", "p99", "max")
    )
    return "\n".join(
        [
            *_heading(report),
            "",
            head,
            *(_row(name, value) for name, value in rows),
            "",
            *_end(report),
        ]
    )


def _heading(report: Report) -> list[str]:
    run, setup = report.run, report.run.setup
    arrival = (
        f"closed arrivals, {setup.think_s:g} s to think"
        if setup.rate is None
        else f"Poisson arrivals, {setup.rate:g} turns/s"
    )
    lines = [
        f"{setup.clients} clients · {arrival} · seed {setup.seed} · {run.wall_s:.1f} s",
        f"dialogues {setup.dialogues} · personas {', '.join(setup.personas)}",
    ]
    lines += [f"engine {one.engine} · model {one.model}" for one in run.engines]
    if run.interrupted:
        lines.append("INTERRUPTED: figures of the turns that had ended")
    if run.simulated:
        lines.append(SIMULATED_LINE)
    lines += sorted({one.notice for one in run.engines if one.notice})
    return lines


def _row(name: str, value: Quantiles) -> str:
    figures = (value.p50, value.p90, value.p99, value.max)
    cells = "".join(f"{'–' if one is None else f'{one * 1000:.1f}':>11}" for one in figures)
    return f"{name:<14}{value.n:>9}{cells}"


def _end(report: Report) -> list[str]:
    run = report.run
    total = len(run.turns)
    turns = f"{report.ok} of {total} ok · {report.turns_per_s:.2f}/s"
    if run.unfinished:
        turns += f" · {run.unfinished} unfinished"
    if restarts := sum(turn.restarts for turn in run.turns):
        turns += f" · {restarts} begun anew"
    share = report.settled_share
    settled = "none" if share is None else f"{share:.1%} settled"
    others = [f"{count} {state}" for state, count in report.receipts.items() if state != "settled"]
    errors = ", ".join(f"{count} {code}" for code, count in report.errors.items()) or "none"
    cpu = _cpu_share(run)
    return [
        f"tokens        {report.tokens_per_s:.1f}/s (one piece of text counts as one token)",
        f"turns         {turns}",
        f"errors        {errors}",
        f"receipts      {' · '.join([settled, *others])}",
        f"clients' CPU  {'–' if cpu is None else f'{cpu:.0%}'} of one core",
        f"percentiles   {PERCENTILES}; durations count from when a turn was due",
    ]
