"""Verdicts: what was checked, what came out, what that proves and what it does not.

They stay separate, in one fixed order, because no single tick could say all of it: a fresh,
intact receipt from an enclave whose hardware nobody vouches for is none of "good" and "bad".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """What came out of a check."""

    HOLDS = "holds"
    FAILS = "fails"
    NOT_CHECKED = "not_checked"


class Subject(StrEnum):
    """What a verdict is about; the order here is the order in every report."""

    ORIGIN = "origin"
    INTEGRITY = "integrity"
    INCLUSION = "inclusion"
    FRESHNESS = "freshness"
    TCB = "tcb"
    CUSTODY = "custody"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check.

    Attributes:
        name: A value of `Subject`.
        status: Holds, fails or was not checked.
        detail: What was found, in a sentence.
        proves: What a reader may conclude where it holds.
        does_not_prove: What a reader may not conclude even then.
    """

    name: Subject
    status: Status
    detail: str
    proves: str
    does_not_prove: str

    def to_json(self) -> dict[str, str]:
        """The verdict as a JSON object of texts."""
        return {key: str(value) for key, value in asdict(self).items()}


_MEANING: dict[Subject, tuple[str, str]] = {
    Subject.ORIGIN: (
        "The keys were made on a platform of a pinned root, running software that the policy "
        "allows.",
        "That the software is free of faults, or that nobody attacked the machine physically.",
    ),
    Subject.INTEGRITY: (
        "Not a bit of the claims and of what their keys signed has changed.",
        "That the answer is true: a model can be wrong in an intact receipt.",
    ),
    Subject.INCLUSION: (
        "The digest stands in the log that the policy names, for its monitors to see.",
        "That the log shows everyone the same tree: only witnesses could say so.",
    ),
    Subject.FRESHNESS: (
        "It was made while the keys were valid and the evidence young enough.",
        "That the machine has not been compromised since the evidence was collected.",
    ),
    Subject.TCB: (
        "Firmware and microcode are at or above the policy's floor, under no refused advisory.",
        "That no flaw is known elsewhere, or unknown to everyone.",
    ),
    Subject.CUSTODY: (
        "Somebody whom the policy names vouches for where the machine stands.",
        "That whoever holds the machine did not open it.",
    ),
    Subject.GPU: (
        "The GPU's report is genuine and was made for these very keys.",
        "That model weights are the ones named: the claims carry their digest, software loads "
        "them.",
    ),
}
_SIMULATED = "Anything about hardware: this evidence is SIMULATED, made with a development key."
_ABOUT_HARDWARE = {Subject.ORIGIN, Subject.TCB, Subject.CUSTODY, Subject.GPU}


def verdict(name: Subject, status: Status, detail: str, *, simulated: bool) -> Verdict:
    """A verdict with the texts that belong to its subject."""
    proves, does_not_prove = _MEANING[name]
    if simulated and name in _ABOUT_HARDWARE:
        proves = "Only that the flow is complete: a development key stands in for the hardware."
        does_not_prove = _SIMULATED
    return Verdict(name, status, detail, proves, does_not_prove)
