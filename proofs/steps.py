"""The numbered steps of a verification: what each one looks at, and what it means.

`proofs.verify` numbers them in its text; the code that takes a step names it, so that each
finding has a place in every report. Numbers and codes of findings are stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from proofs.verdict import Status, Subject


class Check(Enum):
    """A step: its number, the subject whose verdict it counts for, title and meaning."""

    number: int
    subject: Subject
    title: str
    meaning: str

    def __init__(self, number: int, subject: Subject, title: str, meaning: str) -> None:
        self.number = number
        self.subject = subject
        self.title = title
        self.meaning = meaning

    READ = (
        1,
        Subject.INTEGRITY,
        "Read every part",
        "Each part is what it says it is, in its one encoding; one digest names one thing.",
    )
    KIND = (
        2,
        Subject.ORIGIN,
        "Kind of evidence",
        "The policy accepts this kind of hardware at all.",
    )
    SIGNATURES = (
        3,
        Subject.ORIGIN,
        "Signatures of the CPU's evidence",
        "The report was signed inside the hardware, and the maker of the hardware certified the "
        "key that signed it.",
    )
    ROOT = (
        4,
        Subject.ORIGIN,
        "Root of the CPU's chain",
        "The maker is one that the policy names, not somebody who calls himself so.",
    )
    SOFTWARE = (
        5,
        Subject.ORIGIN,
        "Software that was measured",
        "What the hardware measured is what the claims say, and the policy lets it run.",
    )
    DEBUG = (
        6,
        Subject.ORIGIN,
        "Debug mode",
        "Nobody outside of the machine can look into its memory by asking for it.",
    )
    CLAIMS_BOUND = (
        7,
        Subject.INTEGRITY,
        "Claims bound to the CPU",
        "The CPU signed exactly these keys, this model, this validity and this GPU evidence; "
        "evidence of another machine, time or key cannot be put in its place.",
    )
    VALIDITY = (
        8,
        Subject.FRESHNESS,
        "Validity of the keys",
        "The keys were in use at that time, neither before nor after their life.",
    )
    AGE = (
        9,
        Subject.FRESHNESS,
        "Age of the evidence",
        "The hardware was asked recently enough, and not in the future.",
    )
    TCB = (
        10,
        Subject.TCB,
        "Firmware, microcode and advisories",
        "No flaw that the policy refuses is known of this firmware, microcode or release.",
    )
    CUSTODY = (
        11,
        Subject.CUSTODY,
        "Who vouches for the place",
        "Somebody whom the policy names says that this machine stands in good hands.",
    )
    GPU_SIGNATURES = (
        12,
        Subject.GPU,
        "Signatures of the GPU's evidence",
        "Each GPU signed its report with a key that its maker certified, under a pinned root.",
    )
    GPU_BOUND = (
        13,
        Subject.GPU,
        "GPU bound to the claims",
        "The GPUs signed a number made of these very claims: theirs is no evidence of other keys, "
        "of another enclave or of another epoch.",
    )
    GPU_STATE = (
        14,
        Subject.GPU,
        "State of the GPU",
        "Number, mode, driver, firmware and measurements of the GPUs are as the policy wants.",
    )
    BUNDLE_LOGGED = (
        15,
        Subject.INCLUSION,
        "Bundle in the log",
        "The keys stand where everyone can see them: nobody was given keys of his own unseen.",
    )
    RECEIPT_SIGNED = (
        16,
        Subject.INTEGRITY,
        "Receipt signed by the attested key",
        "The enclave of this bundle stated exactly this of the turn.",
    )
    SAID = (
        17,
        Subject.INTEGRITY,
        "What was said",
        "The words in the file are those that the receipt commits to, to the letter.",
    )
    RECEIPT_LOGGED = (
        18,
        Subject.INCLUSION,
        "Receipt in the log",
        "The receipt existed when the log took it, and cannot be withdrawn unseen.",
    )
    COSE_RECEIPT = (
        19,
        Subject.INCLUSION,
        "COSE Receipt of the log",
        "The same log says the same in the form of RFC 9942, for other programs.",
    )
    RECEIPT_TIME = (
        20,
        Subject.FRESHNESS,
        "Time of the receipt",
        "The turn ended before the time of this verdict.",
    )
    LATER = (
        21,
        Subject.FRESHNESS,
        "Attested again after the turn",
        "The same keys were found on the same machine, in good state, after the turn as before.",
    )
    CHECKPOINT = (
        22,
        Subject.INCLUSION,
        "Signature of the log",
        "A log that the policy names signed this state of its tree.",
    )
    WITNESSES = (
        23,
        Subject.INCLUSION,
        "Cosignatures of witnesses",
        "As many witnesses as the policy wants saw this tree, and that it only ever grew.",
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What came out of one step.

    Attributes:
        number: As in the text of `proofs.verify`.
        title: What was looked at.
        subject: The verdict that it counts for.
        status: Holds, fails or was not checked.
        detail: What was found.
        meaning: What it means where it holds, in plain words.
        codes: A stable word for each reason why it fails, such as `cpu_root`; else empty.
    """

    number: int
    title: str
    subject: Subject
    status: Status
    detail: str
    meaning: str
    codes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The step as a JSON object."""
        return {
            "number": self.number,
            "title": self.title,
            "subject": str(self.subject),
            "status": str(self.status),
            "detail": self.detail,
            "meaning": self.meaning,
            "codes": list(self.codes),
        }
