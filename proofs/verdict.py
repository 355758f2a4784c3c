"""Verdicts: what was checked, what came out, what that proves and what it does not.

They stay separate, in one fixed order, because no single tick could say all of it: a fresh,
intact receipt from an enclave whose hardware nobody vouches for is none of "good" and "bad".
"""

from __future__ import annotations

from dataclasses import dataclass
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
        codes: A stable word for each reason why it fails; else empty.
    """

    name: Subject
    status: Status
    detail: str
    proves: str
    does_not_prove: str
    codes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The verdict as a JSON object."""
        return {
            "name": str(self.name),
            "status": str(self.status),
            "detail": self.detail,
            "proves": self.proves,
            "does_not_prove": self.does_not_prove,
            "codes": list(self.codes),
        }


_MEANING: dict[Subject, tuple[str, str]] = {
    Subject.ORIGIN: (
        "The keys were made on a platform of a pinned root, running software that the policy "
        "allows.",
        "That the software is free of faults, that nothing leaks through side channels, or that "
        "nobody attacked the machine physically.",
    ),
    Subject.INTEGRITY: (
        "Not a bit of the claims and of what their keys signed has changed.",
        "That the answer is true: a model can be wrong in an intact receipt.",
    ),
    Subject.INCLUSION: (
        "The digest stands in the log that the policy names, for its monitors to see.",
        "That the log shows everyone the same tree: its operator alone says so, and only "
        "witnesses could tell.",
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
        "That model weights are the ones named (the claims carry their digest, software loads "
        "them), or that nobody probed the GPU physically.",
    ),
}
_WITNESSED = (
    "The digest stands in the log that the policy names, in a tree that {count} or more witnesses "
    "saw, and saw only grow.",
    "That log and witnesses do not work together to show somebody another tree.",
)
_AGAIN = (
    "It was made while the keys were valid and the evidence young enough, and the same keys were "
    "attested before and after.",
    "That the machine was not compromised between the two, unseen by both.",
)
_SIMULATED = (
    "Only that the flow is complete: a development key stands in for the hardware.",
    "Anything about hardware: this evidence is SIMULATED, made with a development key.",
)
_ABOUT_HARDWARE = {Subject.ORIGIN, Subject.TCB, Subject.CUSTODY, Subject.GPU}


def verdict(
    name: Subject,
    status: Status,
    detail: str,
    *,
    codes: tuple[str, ...] = (),
    simulated: bool = False,
    witnesses: int = 0,
    again: bool = False,
) -> Verdict:
    """A verdict with the texts that belong to its subject.

    Args:
        name, status, detail, codes: As of `Verdict`.
        simulated: Whether no hardware stands behind the evidence.
        witnesses: How many witnesses had to cosign the tree.
        again: Whether the keys were attested once more after the turn.
    """
    proves, does_not_prove = _MEANING[name]
    if simulated and name in _ABOUT_HARDWARE:
        proves, does_not_prove = _SIMULATED
    elif witnesses and name is Subject.INCLUSION:
        proves, does_not_prove = _WITNESSED[0].format(count=witnesses), _WITNESSED[1]
    elif again and name is Subject.FRESHNESS:
        proves, does_not_prove = _AGAIN
    return Verdict(name, status, detail, proves, does_not_prove, codes)
