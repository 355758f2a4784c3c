"""What comes out of the verification of an archive."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from proofs.archive import Header
from proofs.report import Report
from proofs.steps import Step
from proofs.verdict import Status, Subject, Verdict

MAX_FINDINGS = 100
MAX_THREADS_LISTED = 100
MAX_SAID_KEPT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the archive that does not hold.

    Attributes:
        where: Id of a receipt in hex, or another name of the place.
        subject: What it counts against, such as `integrity` or `chain`.
        detail: What was found.
    """

    where: str
    subject: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ArchiveStep:
    """What came out of one step.

    Attributes:
        number: As in this module's text.
        title: What was looked at.
        status: Holds, fails, or not checked.
        detail: What was found.
        meaning: What it means where it holds.
    """

    number: int
    title: str
    status: Status
    detail: str
    meaning: str

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something held over all receipts.

    Attributes:
        number: Of the step; 0 for a verdict.
        title: Of the step, or the verdict's subject.
        holds, fails, not_checked: Counts.
        meaning: What it means where it holds.
        does_not_prove: What it does not mean even then; empty for a step.
    """

    number: int
    title: str
    holds: int
    fails: int
    not_checked: int
    meaning: str
    does_not_prove: str = ""

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        counts = {"holds": self.holds, "fails": self.fails, "not_checked": self.not_checked}
        named = {"number": self.number} if self.number else {}
        unproven = {"does_not_prove": self.does_not_prove} if self.does_not_prove else {}
        return {**named, "title": self.title, **counts, "meaning": self.meaning, **unproven}


@dataclass(frozen=True, slots=True)
class Thread:
    """The receipts of one thread.

    Attributes:
        number: As in the archive.
        receipts: How many.
        first, last: Times of the first and the last, unix seconds.
        gaps: What is missing, for people.
        contradictions: What cannot be, for people.
        notes: What is neither: where it begins, links that nothing names.
    """

    number: int
    receipts: int
    first: int
    last: int
    gaps: tuple[str, ...]
    contradictions: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said in one turn whose receipt commits to it; content, never to be logged."""

    receipt_id: str
    thread: int | None
    time: int
    request: bytes = field(repr=False)
    response: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What came out of an archive.

    Attributes:
        header: What it says of itself.
        evaluated_at: Unix seconds, as given.
        holds: Whether no step fails.
        complete: Whether no turn is missing between two that are here.
        simulated: Whether any bundle has no hardware behind it.
        counts: Records by kind; also `said`, `holding` and `sealed`.
        steps: The steps of this module that were come to.
        tallies: The steps of single receipts, summed over all.
        verdicts: The verdicts on single receipts, summed over all.
        threads: At most `MAX_THREADS_LISTED`.
        findings: What does not hold, worst first, at most `MAX_FINDINGS`.
        findings_total: How many there are.
        enclaves: Ids of the enclaves that signed, with model names.
        said: What was said where its receipt holds and `keep_said` was asked for; at most
            `MAX_SAID_KEPT` bytes of it, from the beginning.
    """

    header: Header
    evaluated_at: int
    holds: bool
    complete: bool
    simulated: bool
    counts: dict[str, int]
    steps: tuple[ArchiveStep, ...]
    tallies: tuple[Tally, ...]
    verdicts: tuple[Tally, ...]
    threads: tuple[Thread, ...]
    findings: tuple[Finding, ...]
    findings_total: int
    enclaves: tuple[tuple[str, str], ...]
    said: tuple[Turn, ...] = field(default=(), repr=False)

    @property
    def only_gaps(self) -> bool:
        """Whether nothing is wrong but that turns are missing."""
        return not self.holds and self.findings_total == self.counts.get("gaps", 0)

    def to_json(self) -> dict[str, object]:
        """As a JSON object; never with what was said."""
        return {
            "holds": self.holds,
            "complete": self.complete,
            "simulated": self.simulated,
            "evaluated_at": self.evaluated_at,
            "archive": str(self.header.kind),
            "created": self.header.created,
            "since": self.header.since,
            "until": self.header.until,
            "counts": self.counts,
            "steps": [step.to_json() for step in self.steps],
            "receipt_steps": [tally.to_json() for tally in self.tallies],
            "verdicts": [tally.to_json() for tally in self.verdicts],
            "threads": [thread.to_json() for thread in self.threads],
            "findings": [finding.to_json() for finding in self.findings],
            "findings_total": self.findings_total,
            "enclaves": [{"enclave_id": one, "model": model} for one, model in self.enclaves],
        }


_TITLES = {
    1: (
        "The file is whole",
        "No record was damaged or cut by accident. Whoever changes a file on purpose makes its "
        "checksum fit: what that leaves is found below.",
    ),
    2: (
        "Every receipt holds",
        "Each turn was answered by an attested enclave that signed for it; the steps of single "
        "receipts say what was looked at.",
    ),
    3: (
        "Every erasure receipt holds",
        "An attested enclave stated that it forgot the thread. Copies made before are not covered.",
    ),
    4: (
        "Receipts agree with each other",
        "Each turn of a thread follows from the one before; no turn stands there twice.",
    ),
    5: (
        "No turn is missing in between",
        "From the first turn here to the last, every turn of a thread has its receipt here.",
    ),
    6: ("Times lie in the range", "Every turn ended within the time that the archive is about."),
    7: (
        "The log's checkpoint",
        "A log that the policy names signed the state of its tree, and witnesses saw it where the "
        "policy wants them.",
    ),
    8: (
        "Entries of the range",
        "These digests, and no others, stand at these places of the log; none was changed, moved "
        "or taken out since.",
    ),
    9: (
        "Times of the range",
        "The times that the hardware signed with the bundles among the entries lie where the range "
        "says.",
    ),
    10: (
        "Bundles of the range",
        "The enclaves that ran in this time were attested, as of their own time.",
    ),
}
_RANK = {name: place for place, name in enumerate(("chain", *Subject, "range", "gap"))}


@dataclass(slots=True)
class Collected:
    """Collects what holds and what does not, by step."""

    seen: dict[int, str] = field(default_factory=dict)
    unchecked: set[int] = field(default_factory=set)
    failed: Counter[int] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    total: int = 0

    def see(self, number: int, text: str, *, checked: bool = True) -> None:
        """Note what a step found; it holds unless something fails, or nothing was looked at."""
        self.seen[number] = text
        if not checked:
            self.unchecked.add(number)

    def fail(self, number: int, where: str, subject: str, detail: str) -> None:
        """Note what does not hold."""
        self.failed[number] += 1
        self.total += 1
        self.findings.append(Finding(where, str(subject), detail))
        # A hostile archive has as many as it likes: only the worst are kept.
        if len(self.findings) >= 2 * MAX_FINDINGS:
            self.findings = self.worst()

    def worst(self) -> list[Finding]:
        """The worst, by what they count against."""
        ranked = sorted(self.findings, key=lambda one: _RANK.get(one.subject, len(_RANK)))
        return ranked[:MAX_FINDINGS]

    def steps(self) -> tuple[ArchiveStep, ...]:
        """Every step that was come to, by number."""
        found = []
        for number in sorted({*self.seen, *self.failed}):
            title, meaning = _TITLES[number]
            failed = self.failed[number]
            detail = self.seen.get(number, "")
            if failed:
                detail = f"{failed} {'findings' if failed > 1 else 'finding'}; {detail}".rstrip(
                    "; "
                )
            status = Status.NOT_CHECKED if number in self.unchecked else Status.HOLDS
            if failed:
                status = Status.FAILS
            found.append(ArchiveStep(number, title, status, detail, meaning))
        return tuple(found)


@dataclass(slots=True)
class Sums:
    """Steps and verdicts of single receipts, summed over many."""

    counts: Counter[tuple[object, Status]] = field(default_factory=Counter)
    texts: dict[object, Step | Verdict] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        """Add one receipt's."""
        for step in report.steps:
            self.texts.setdefault(step.number, step)
            self.counts[step.number, step.status] += 1
        for one in report.verdicts:
            self.texts.setdefault(one.name, one)
            self.counts[one.name, one.status] += 1

    def steps(self) -> tuple[Tally, ...]:
        """Steps of single receipts, by number."""
        steps = [one for one in self.texts.values() if isinstance(one, Step)]
        return tuple(
            Tally(one.number, one.title, *self._counts(one.number), one.meaning)
            for one in sorted(steps, key=lambda one: one.number)
        )

    def verdicts(self) -> tuple[Tally, ...]:
        """Verdicts on single receipts, in their fixed order."""
        verdicts = [one for one in self.texts.values() if isinstance(one, Verdict)]
        return tuple(
            Tally(0, one.name, *self._counts(one.name), one.proves, one.does_not_prove)
            for one in verdicts
        )

    def _counts(self, key: object) -> tuple[int, int, int]:
        held, failed, open_ = (self.counts[key, status] for status in Status)
        return held, failed, open_
