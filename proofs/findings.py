"""From single checks to steps and verdicts: collects what held and what did not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from proofs.errors import RefusedError
from proofs.policy import Policy
from proofs.steps import Check, Step
from proofs.verdict import Status, Subject, Verdict, verdict


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step fails: a stable word for programs, a text for people."""

    code: str
    text: str


@dataclass(slots=True)
class _Noted:
    seen: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    blocked: bool = False


@dataclass(slots=True)
class Findings:
    """Collects, per step, what fails and what was seen; everything comes out in fixed order.

    Attributes:
        simulated: Whether no hardware stands behind the evidence.
        witnesses: How many witnesses had to cosign the log's tree.
        again: Whether the keys were attested once more after the turn.
    """

    simulated: bool = False
    witnesses: int = 0
    again: bool = False
    _noted: dict[Check, _Noted] = field(default_factory=dict)

    def _at(self, check: Check) -> _Noted:
        return self._noted.setdefault(check, _Noted())

    def see(self, check: Check, seen: str) -> None:
        """Note what held."""
        self._at(check).seen.append(seen)

    def fail(self, check: Check, code: str, text: str) -> None:
        """Note what does not hold: a stable word, and what is wrong."""
        self._at(check).failed.append(Failure(code, text))

    def check(self, check: Check, holds: bool, seen: str, code: str, otherwise: str) -> None:
        """Note `seen` where it holds, else the failure."""
        if holds:
            self.see(check, seen)
        else:
            self.fail(check, code, otherwise)

    def attempt(self, check: Check, code: str, step: Callable[[], str]) -> bool:
        """Run a step that returns what it saw or refuses; unreadable input ends everything.

        Returns:
            Whether it held.
        """
        try:
            self.see(check, step())
        except RefusedError as error:
            self.fail(check, code, str(error).rstrip("."))
            return False
        return True

    def skip(self, check: Check, why: str) -> None:
        """Note that nothing was checked, which is no failure.

        A subject's verdict is then left to its other steps, and unchecked where it has none.
        """
        self._at(check).skipped.append(why)

    def block(self, check: Check, why: str) -> None:
        """Note that a step could not be taken: its subject stays unchecked, whatever else held."""
        self.skip(check, why)
        self._at(check).blocked = True

    def failures(self, subjects: Iterable[Subject] = tuple(Subject)) -> tuple[Failure, ...]:
        """Every failure of those subjects, in the order of the steps."""
        wanted = set(subjects)
        return tuple(
            failure
            for check, noted in self._ordered()
            if check.subject in wanted
            for failure in noted.failed
        )

    def _ordered(self) -> list[tuple[Check, _Noted]]:
        return sorted(self._noted.items(), key=lambda item: item[0].number)

    def steps(self) -> tuple[Step, ...]:
        """Every step that was come to, by number."""
        return tuple(_step(check, noted) for check, noted in self._ordered())

    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict for each subject."""
        return tuple(self._verdict(subject) for subject in Subject)

    def _verdict(self, subject: Subject) -> Verdict:
        noted = [one for check, one in self._ordered() if check.subject is subject]
        failed = [failure for one in noted for failure in one.failed]
        seen = [text for one in noted for text in one.seen]
        skipped = [text for one in noted for text in one.skipped]
        if failed:
            status, told = Status.FAILS, [failure.text for failure in failed]
        elif not seen or any(one.blocked for one in noted):
            status, told = Status.NOT_CHECKED, skipped or ["nothing about it could be checked"]
        else:
            status, told = Status.HOLDS, seen
        codes = tuple(dict.fromkeys(failure.code for failure in failed))
        return verdict(
            subject,
            status,
            "; ".join(told),
            codes=codes,
            simulated=self.simulated,
            witnesses=self.witnesses,
            again=self.again,
        )


def _step(check: Check, noted: _Noted) -> Step:
    if noted.failed:
        status, told = Status.FAILS, [failure.text for failure in noted.failed]
    elif not noted.seen:
        status, told = Status.NOT_CHECKED, noted.skipped
    else:
        status, told = Status.HOLDS, noted.seen
    codes = tuple(dict.fromkeys(failure.code for failure in noted.failed))
    return Step(
        check.number,
        check.title,
        check.subject,
        status,
        "; ".join(told),
        check.meaning,
        codes,
    )


def objections(verdicts: Iterable[Verdict], policy: Policy) -> tuple[Verdict, ...]:
    """What fails, and what went unchecked although the policy does not leave it open."""
    optional = set()
    if policy.custody.kind == "none":
        optional.add(Subject.CUSTODY)
    if not policy.require_inclusion:
        optional.add(Subject.INCLUSION)
    if not policy.gpu.required:
        optional.add(Subject.GPU)
    return tuple(
        v
        for v in verdicts
        if v.status is Status.FAILS or (v.status is Status.NOT_CHECKED and v.name not in optional)
    )
