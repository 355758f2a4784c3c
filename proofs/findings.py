"""From single checks to verdicts: collects what held and what did not, per subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from proofs.errors import RefusedError
from proofs.policy import Policy
from proofs.verdict import Status, Subject, Verdict, verdict


@dataclass(slots=True)
class Findings:
    """Collects, per subject, what fails and what was seen; verdicts come out in fixed order."""

    simulated: bool
    failed: dict[Subject, list[str]] = field(default_factory=dict)
    seen: dict[Subject, list[str]] = field(default_factory=dict)
    skipped: dict[Subject, str] = field(default_factory=dict)

    def check(self, subject: Subject, holds: bool, seen: str, otherwise: str) -> None:
        """Note `seen` where it holds, else `otherwise`, what is wrong and what to do."""
        (self.seen if holds else self.failed).setdefault(subject, []).append(
            seen if holds else otherwise
        )

    def attempt(self, subject: Subject, step: Callable[[], str]) -> None:
        """Run a step that returns what it saw or refuses; unreadable input ends everything."""
        try:
            self.check(subject, True, step(), "")
        except RefusedError as error:
            self.check(subject, False, "", str(error).rstrip("."))

    def skip(self, subject: Subject, why: str) -> None:
        """Note that nothing was checked, which is no failure."""
        self.skipped[subject] = why

    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict for each subject."""
        return tuple(self._verdict(subject) for subject in Subject)

    def _verdict(self, subject: Subject) -> Verdict:
        if subject in self.failed:
            status, told = Status.FAILS, "; ".join(self.failed[subject])
        elif subject in self.skipped or subject not in self.seen:
            status = Status.NOT_CHECKED
            told = self.skipped.get(subject, "nothing about it could be checked")
        else:
            status, told = Status.HOLDS, "; ".join(self.seen[subject])
        return verdict(subject, status, told, simulated=self.simulated)


def holding(verdicts: Iterable[Verdict], policy: Policy) -> bool:
    """Whether nothing fails, and only what the policy leaves open went unchecked."""
    optional = set()
    if policy.custody.kind == "none":
        optional.add(Subject.CUSTODY)
    if not policy.require_inclusion:
        optional.add(Subject.INCLUSION)
    return all(
        v.status is Status.HOLDS or (v.status is Status.NOT_CHECKED and v.name in optional)
        for v in verdicts
    )
