"""What a verification found, as a page: one form for every kind of file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from proofs.archive_report import ArchiveReport, ArchiveStep, Finding, Tally, Thread, Turn
from proofs.disclosure import Said
from proofs.receipt import Receipt
from proofs.report import BundleReport, CheckpointReport, EvidenceReport, Judgement, Report
from proofs.steps import Check, Step
from proofs.times import moment
from proofs.verdict import Status

NOT_PROVEN = (
    "That the answer is true. No verdict says that the answer is true: a model can be wrong in "
    "an intact receipt.",
    "That nobody listened by a side channel: timing, caches, memory access and power tell of what "
    "a processor does, and not every such channel is known or closed.",
    "That nobody attacked the machine physically: whoever holds it can open it, and attacks on "
    "the memory bus have read and forged what a TEE keeps.",
    "That the software is free of faults: it is measured, which says which software it is.",
    "That sizes and times told nothing to whoever watched the network.",
)
_OF_ARCHIVES = (
    "That nothing else was said. An archive can leave out whole threads, the first and the last "
    "turns of one, turns that failed, and completions; and it can show one thread as two.",
    "Its range and when it was written: nobody signs these. The times in receipts are signed.",
)
_OF_LOGS = (
    "When the entries were published: the range is the operator's word. Times in bundles and of "
    "cosignatures are signed.",
    "What the entries are about: a log has digests. A receipt that its owner opens can be held "
    "against its entry, and only by that its content becomes known.",
)
_OF_EVIDENCE = (
    "That this evidence belongs to any keys, turn or time: nothing ties it to them here, unless "
    "you had it made for a nonce of your own.",
)
_OF_CHECKPOINTS = (
    "That any entry stands in the log: a checkpoint is the head of a tree, and each entry needs a "
    "proof of its own.",
)
NOT_SHOWN = "Turns whose words are not shown here, as they do not hold or are too many"
INCOMPLETE = "IS NOT COMPLETE; what is there holds"
WORDS = {Status.HOLDS: "holds", Status.FAILS: "FAILS", Status.NOT_CHECKED: "not checked"}
_SUMMED = {Status.HOLDS: "hold", Status.FAILS: "FAIL", Status.NOT_CHECKED: "not checked"}
_ABOUT_HARDWARE = frozenset(
    check.number
    for check in (
        Check.KIND,
        Check.SIGNATURES,
        Check.ROOT,
        Check.SOFTWARE,
        Check.DEBUG,
        Check.CLAIMS_BOUND,
        Check.AGE,
        Check.TCB,
        Check.CUSTODY,
        Check.GPU_SIGNATURES,
        Check.GPU_BOUND,
        Check.GPU_STATE,
        Check.LATER,
    )
)
_OF_ATTESTED = frozenset({2, 3, 9, 10})  # steps of an archive
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Line:
    """A step or a verdict as it is shown.

    Attributes:
        number: Of a step, 0 for a verdict.
        title: What was looked at.
        status: What came out.
        told: The status in words, with counts where there are several.
        detail: What was found, empty for counts.
        meaning: What it means where it holds.
        unproven: What it does not mean even then, of a verdict.
        lead: How the meaning is to be read: it means that, or would.
    """

    number: int
    title: str
    status: Status
    told: str
    detail: str
    meaning: str
    unproven: str = ""
    lead: str = "Means"


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that is shown of one file.

    Attributes:
        what: What was verified, such as `Receipt 00ff…`.
        holds: The outcome.
        outcome: The same in words.
        simulated: Whether no hardware stands behind it.
        facts: Names and values under the headline; believe them only where it holds.
        steps: The numbered steps.
        inner: Of an archive, the steps of its receipts, summed.
        verdicts: All that were come to.
        threads, findings, findings_total: Of an archive.
        fields: Names and values of a receipt.
        said: What was said, where it is disclosed and its receipt holds.
        unsaid: How many turns have words in the file that are not among these.
        not_proven: What a reader may not conclude.
    """

    what: str
    holds: bool
    outcome: str
    simulated: bool
    facts: tuple[tuple[str, str], ...]
    steps: tuple[Line, ...]
    verdicts: tuple[Line, ...]
    not_proven: tuple[str, ...]
    inner: tuple[Line, ...] = ()
    threads: tuple[Thread, ...] = ()
    findings: tuple[Finding, ...] = ()
    findings_total: int = 0
    fields: tuple[tuple[str, str], ...] = ()
    said: tuple[Turn, ...] = field(default=(), repr=False)
    unsaid: int = 0

    @property
    def headline(self) -> str:
        """The outcome in a line."""
        return f"{self.what}: {self.outcome}"


def _outcome(holds: bool) -> str:
    return "HOLDS" if holds else "DOES NOT HOLD"


def receipt_page(report: Report, said: Said | None, source: str) -> Page:
    """The page of a disclosed receipt; `said` is what it commits to, or nothing."""
    receipt, claims = report.receipt, report.claims
    about = "a turn" if receipt.head_after or receipt.head_before else "a reply without memory"
    facts = (
        ("About", f"{about} that {_ENDED[str(receipt.outcome)]} at {moment(receipt.time)}"),
        ("Model", f"{claims.model}, by the engine {claims.engine}"),
        ("Persona", receipt.persona.hex()),
        ("Enclave", report.enclave_id),
        *_judged(report, source),
    )
    turns: tuple[Turn, ...] = ()
    if said is not None:
        name = receipt.receipt_id.hex()
        turns = (Turn(name, None, receipt.time, said.request, said.response),)
    page = _page(f"Receipt {receipt.receipt_id.hex()}", report, facts, ())
    return replace(page, fields=_fields(receipt), said=turns)


def bundle_page(report: BundleReport, source: str) -> Page:
    """The page of an attestation bundle."""
    claims = report.claims
    facts = (
        ("Model", f"{claims.model}, by the engine {claims.engine}"),
        ("Manifest", claims.model_manifest.hex()),
        ("Release", claims.release.hex()),
        ("Keys", f"valid from {moment(claims.not_before)} to {moment(claims.not_after)}"),
        *_judged(report, source),
    )
    return _page(f"Attestation bundle {report.enclave_id}", report, facts, ())


def checkpoint_page(report: CheckpointReport, source: str) -> Page:
    """The page of a log's checkpoint."""
    head = report.checkpoint
    facts = (
        ("Log", head.origin),
        ("Entries", str(head.size)),
        ("Root", head.root.hex()),
        *_judged(report, source),
    )
    return _page("Checkpoint", report, facts, _OF_CHECKPOINTS)


def evidence_page(report: EvidenceReport, source: str) -> Page:
    """The page of evidence without claims."""
    appraisal = report.appraisal
    facts = (
        ("Kind", report.kind),
        ("Root", appraisal.root.hex()),
        *_judged(report, source),
    )
    return _page("Evidence", report, facts, _OF_EVIDENCE)


def archive_page(report: ArchiveReport, source: str) -> Page:
    """The page of an archive."""
    header = report.header
    name = str(header.kind).capitalize() if header.kind == "conversation" else "Audit"
    since = moment(header.since) if header.since else "the beginning"
    enclaves = "; ".join(f"{one[:16]} ({model})" for one, model in report.enclaves[:8])
    facts = (
        ("Written", moment(header.created)),
        ("Range", f"from {since} to {moment(header.until)}"),
        ("Contains", _counted(report.counts)),
        ("Enclaves", enclaves + ("; and more" if len(report.enclaves) > 8 else "")),
        ("Judged", f"as of {moment(report.evaluated_at)}"),
        ("Policy", source),
    )
    more = _OF_LOGS if "entries" in report.counts else _OF_ARCHIVES
    return Page(
        what=f"{name} archive",
        holds=report.holds,
        outcome=INCOMPLETE if report.only_gaps else _outcome(report.holds),
        simulated=report.simulated,
        facts=tuple((name, value) for name, value in facts if value),
        steps=_steps(report.steps, _OF_ATTESTED if report.simulated else _NONE),
        verdicts=tuple(_tally(one) for one in report.verdicts),
        not_proven=(*NOT_PROVEN, *more),
        inner=tuple(
            _tally(one, simulated=report.simulated and one.number in _ABOUT_HARDWARE)
            for one in report.tallies
        ),
        threads=report.threads,
        findings=report.findings,
        findings_total=report.findings_total,
        said=report.said,
        unsaid=report.counts.get("said", 0) - len(report.said),
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {counts[name]}" for name in _COUNTED if name in counts) or "nothing"


_COUNTED = ("receipts", "said", "threads", "erasures", "bundles", "entries", "sealed", "gaps")
_ENDED = {"completed": "was completed", "cancelled": "was cancelled", "failed": "failed"}


def _page(
    what: str, report: Judgement, facts: tuple[tuple[str, str], ...], more: tuple[str, ...]
) -> Page:
    return Page(
        what=what,
        holds=report.holds,
        outcome=_outcome(report.holds),
        simulated=report.simulated,
        facts=facts,
        steps=_steps(report.steps, _ABOUT_HARDWARE if report.simulated else _NONE),
        verdicts=_verdicts(report),
        not_proven=(*more, *NOT_PROVEN),
    )


def _judged(report: Judgement, source: str) -> tuple[tuple[str, str], ...]:
    return ("Judged", f"as of {moment(report.evaluated_at)}"), ("Policy", source)


def _steps(
    steps: Sequence[Step] | Sequence[ArchiveStep], simulated: frozenset[int]
) -> tuple[Line, ...]:
    return tuple(
        Line(
            s.number,
            s.title,
            s.status,
            WORDS[s.status],
            s.detail,
            s.meaning,
            lead=_lead(s.status, simulated=s.number in simulated),
        )
        for s in steps
    )


def _lead(status: Status, *, simulated: bool) -> str:
    if simulated:
        return "With hardware it would mean"
    return "Means" if status is Status.HOLDS else "Would mean"


def _verdicts(report: Judgement) -> tuple[Line, ...]:
    return tuple(
        Line(0, str(v.name), v.status, WORDS[v.status], v.detail, v.proves, v.does_not_prove)
        for v in report.verdicts
    )


def _tally(one: Tally, *, simulated: bool = False) -> Line:
    counts = {Status.FAILS: one.fails, Status.HOLDS: one.holds, Status.NOT_CHECKED: one.not_checked}
    status = next((s for s, count in counts.items() if count), Status.NOT_CHECKED)
    told = ", ".join(f"{count} {_SUMMED[s]}" for s, count in counts.items() if count)
    return Line(
        one.number,
        one.title,
        status,
        told,
        "",
        one.meaning,
        one.does_not_prove,
        _lead(status, simulated=simulated),
    )


def _fields(receipt: Receipt) -> tuple[tuple[str, str], ...]:
    shown = []
    for name in Receipt.__slots__:
        value = getattr(receipt, name)
        text = value.hex() if isinstance(value, bytes) else "none" if value is None else str(value)
        shown.append((name.replace("_", " "), text))
    return tuple(shown)


def speech(turn: Turn) -> Sequence[tuple[str, str]]:
    """Who said what."""
    asked = turn.request.decode("utf-8", "replace")
    return ("request", asked), ("response", turn.response)
