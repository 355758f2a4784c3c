"""Verification of an archive: every receipt by itself, and all of them against each other.

No network, no clock: the evaluation time is an argument. The steps:

 (1) The file is whole: every record in its one encoding, and the checksum fits.
 (2) Every receipt holds, by the numbered steps of `proofs.verify`.
 (3) Every erasure receipt holds: attested, signed, logged.
 (4) The receipts of each thread agree with each other (`proofs.chain`), no two receipts of the
     file share an id or a predecessor, and none of a thread stands outside of it.
 (5) No turn is missing between the first and the last of a thread, nor between the last and the
     thread's erasure.
 (6) Every receipt is of the range that the archive is about.
 (7) A log that the policy believes, and as many witnesses as it wants, signed the checkpoint.
 (8) Every entry of the range stands at its index in the checkpoint's tree, none is left out.
 (9) The attested times of the bundles among them fit the range.
(10) Every bundle that belongs to no receipt here holds as of its own time.

(7) to (10) are of an operator's audit. A gap, (5), contradicts nothing and still fails: whoever
reads an archive as the whole of something must know that it is not.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict

from proofs.archive import (
    ArchiveReader,
    BundleRecord,
    EntryRecord,
    ErasureRecord,
    LogRecord,
    ReceiptRecord,
    Source,
)
from proofs.archive_report import (
    MAX_FINDINGS,
    MAX_SAID_KEPT,
    MAX_THREADS_LISTED,
    ArchiveReport,
    Collected,
    Sums,
    Thread,
    Turn,
)
from proofs.bundle import bundle_entry, decode_bundle
from proofs.chain import ChainFault, check_chain
from proofs.checkpoint import parse_checkpoint
from proofs.claims import Claims, decode_claims
from proofs.disclosure import Disclosure, Later, Said
from proofs.erasure import Erasure, Scope, decode_erasure, erasure_entry
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence.base import NO_COLLATERAL, Collateral
from proofs.evidencecache import EvidenceCache
from proofs.findings import Findings
from proofs.logsteps import check_cose, check_head, check_logged
from proofs.merkle import leaf_hash, verify_inclusion
from proofs.note import parse_note
from proofs.policy import Policy
from proofs.receipt import Receipt, decode_receipt
from proofs.steps import Check
from proofs.verdict import Status, Subject
from proofs.verify import Report, verify_bundle, verify_disclosed

_LATEST_LOGGED_S = 24 * 3600
_BUNDLES_KEPT = 8


def verify_archive(
    source: Source,
    size: int,
    policy: Policy,
    at: int,
    *,
    collateral: Collateral = NO_COLLATERAL,
    cache: EvidenceCache | None = None,
    keep_said: bool = False,
) -> ArchiveReport:
    """Verify an archive, alone and offline; holds one thread's receipts in memory at a time.

    Args:
        source: Reads the file.
        size: The file's length in bytes.
        policy: What is acceptable.
        at: Unix seconds at which to judge.
        collateral: What the verifier knows besides what the evidence brings along.
        cache: Appraisals made before.
        keep_said: Whether the report carries what was said, as far as its receipts hold.

    Returns:
        The report; ask its `holds`. What does not hold raises nothing here.

    Raises:
        UnreadableError: Not an archive, or damaged anywhere.
    """
    reader = ArchiveReader(source, size)
    run = _Verification(
        reader,
        policy,
        at,
        collateral=collateral,
        cache=cache or EvidenceCache(),
        keep_said=keep_said,
    )
    run.read()
    run.judge()
    return run.report()


class _Verification:
    """One run over an archive."""

    def __init__(
        self,
        reader: ArchiveReader,
        policy: Policy,
        at: int,
        *,
        collateral: Collateral,
        cache: EvidenceCache,
        keep_said: bool,
    ) -> None:
        self._reader = reader
        self._policy, self._at = policy, at
        self._collateral, self._cache = collateral, cache
        self._keep_said = keep_said
        self._found = Collected()
        self._sums = Sums()
        self._counts: Counter[str] = Counter()
        self._bundles: dict[bytes, int] = {}
        self._unused: set[bytes] = set()
        self._enclaves: dict[str, str] = {}
        self._simulated = False
        self._ids: set[bytes] = set()
        self._erased: set[bytes] = set()
        self._previous: set[bytes] = set()
        self._last_thread, self._threads_ended = -1, False
        self._threads: list[Thread] = []
        self._open: tuple[int, list[tuple[bytes, Receipt]]] | None = None
        self._last: dict[int, tuple[bytes, Receipt]] = {}
        # Threads that do not begin at their beginning, with the memory head at which they do; and
        # heads at which a thread went on under a new key.
        self._begun: list[tuple[bytes | None, str, str]] = []
        self._carried_over: set[bytes | None] = set()
        self._recent: OrderedDict[bytes, BundleRecord] = OrderedDict()
        self._said: list[Turn] = []
        self._said_bytes = 0
        self._log: _LogRange | None = None

    def read(self) -> None:
        """(1) All of it once: where it ends without an error, the file is whole."""
        for offset, record in self._reader.records():
            if isinstance(record, BundleRecord):
                if record.digest in self._bundles:
                    raise UnreadableError("The archive holds a bundle twice. Get it again.")
                self._bundles[record.digest] = offset
                self._counts["bundles"] += 1
            elif isinstance(record, ReceiptRecord):
                self._check_order(record.thread)
                self._counts["receipts"] += 1
                self._counts["said"] += record.said is not None
            elif isinstance(record, ErasureRecord):
                self._counts["erasures"] += 1
            elif isinstance(record, LogRecord):
                if self._log is not None:
                    raise UnreadableError("The archive speaks of two logs. Get it again.")
                self._log = _LogRange(record, self._found)
            else:
                if self._log is None:
                    raise UnreadableError("The archive has entries of no log. Get it again.")
                self._counts["entries"] += 1
                self._counts["sealed"] += record.sealed is not None
        self._unused = set(self._bundles)
        told = ", ".join(f"{name}: {count}" for name, count in self._counts.items() if count)
        self._counts["threads"] = self._last_thread + 1
        self._found.see(1, told or "it holds no receipts")

    def _check_order(self, thread: int | None) -> None:
        """Threads one after the other, then completions, then erasures, as the format has it."""
        if self._counts["erasures"]:
            raise UnreadableError("The archive has receipts after erasures. Get it again.")
        if thread is None:
            self._threads_ended = True
        elif self._threads_ended or thread not in {
            max(self._last_thread, 0),
            self._last_thread + 1,
        }:
            raise UnreadableError("The archive's threads are out of order. Get it again.")
        else:
            self._last_thread = thread

    def judge(self) -> None:
        """(2) to (10)"""
        if self._log is not None:
            self._log.check(self._policy)
        for _, record in self._reader.records():
            if isinstance(record, ReceiptRecord):
                self._receipt(record)
            elif isinstance(record, ErasureRecord):
                self._close_thread()
                self._erasure(record)
            elif isinstance(record, EntryRecord) and self._log is not None:
                self._log.entry(record)
        self._close_thread()
        # A thread begins behind others only where a rotation, which stands at the end, led to it.
        for head, where, text in self._begun:
            if head not in self._carried_over:
                self._counts["gaps"] += 1
                self._found.fail(5, where, "gap", text)
        self._check_unused()
        if self._log is not None:
            self._log.close()
            self._check_times(self._log)

    def _check_times(self, log: _LogRange) -> None:
        """(9)"""
        header, fitting, others = self._reader.header, 0, 0
        for digest, offset in self._bundles.items():
            record = self._bundle_at(offset)
            if leaf_hash(bundle_entry(record.bundle)) not in log.leaves:
                continue
            time = decode_claims(decode_bundle(record.bundle).claims).not_before
            # Logged a moment after it was made, or when the log was there again.
            if header.since - _LATEST_LOGGED_S <= time < header.until:
                fitting += 1
            else:
                others += 1
                text = f"it was attested at {time}, and its entry is said to be of the range"
                self._found.fail(9, f"bundle {digest.hex()}", "range", text)
        text = f"bundles of the range that were attested in its time: {fitting}"
        self._found.see(9, text, checked=bool(fitting or others))

    def report(self) -> ArchiveReport:
        """What came out."""
        counts, found = self._counts, self._found
        if receipts := counts["receipts"]:
            found.see(2, f"receipts that hold: {counts['holding']} of {receipts}")
            found.see(4, f"threads: {counts['threads']}")
            found.see(5, f"threads: {counts['threads']}")
        if erasures := counts["erasures"]:
            found.see(3, f"erasure receipts that hold: {counts['erasures_holding']} of {erasures}")
        if receipts or erasures:
            found.see(6, "every receipt's own time was held against it")
        return ArchiveReport(
            header=self._reader.header,
            evaluated_at=self._at,
            holds=not found.total,
            complete=not counts["gaps"],
            simulated=self._simulated,
            counts={name: count for name, count in counts.items() if count},
            steps=found.steps(),
            tallies=self._sums.steps(),
            verdicts=self._sums.verdicts(),
            threads=tuple(self._threads),
            findings=tuple(found.worst()),
            findings_total=found.total,
            enclaves=tuple(self._enclaves.items()),
            said=tuple(self._said),
        )

    def _receipt(self, record: ReceiptRecord) -> None:
        """(2), (4), (6)"""
        stated = decode_receipt(record.receipt).unverified
        where = stated.receipt_id.hex()
        self._join_thread(record.thread, record.receipt, stated)
        self._check_unique(where, record.thread, stated)
        self._check_range(where, stated.time)
        bundle = self._bundle(stated.enclave)
        if bundle is None:
            self._found.fail(
                2, where, Subject.ORIGIN, "its attestation bundle is not in the archive"
            )
            return
        report = self._verify(record, bundle)
        self._sums.add(report)
        self._met(report.enclave_id, report.claims.model, report.simulated)
        if not report.holds:
            self._note_failed(where, report)
            return
        self._counts["holding"] += 1
        if self._keep_said and record.said is not None:
            self._keep(where, record, record.said, stated.time)

    def _keep(self, where: str, record: ReceiptRecord, said: Said, time: int) -> None:
        self._said_bytes += len(said.request) + len(said.response.encode())
        if self._said_bytes <= MAX_SAID_KEPT:
            self._said.append(Turn(where, record.thread, time, said.request, said.response))

    def _verify(self, record: ReceiptRecord, bundle: BundleRecord) -> Report:
        following = None if bundle.following is None else self._bundle(bundle.following)
        disclosure = Disclosure(
            record.receipt,
            record.proof,
            record.cose_receipt,
            bundle.bundle,
            bundle.proof,
            None if following is None else Later(following.bundle, following.proof),
            record.said,
        )
        return verify_disclosed(
            disclosure, self._policy, self._at, collateral=self._collateral, cache=self._cache
        )

    def _note_failed(self, where: str, report: Report) -> None:
        failed = [one for one in report.verdicts if one.status is Status.FAILS]
        for one in failed:
            self._found.fail(2, where, one.name, one.detail)
        if not failed:
            unknown = [one.name for one in report.verdicts if one.status is Status.NOT_CHECKED]
            text = f"the policy wants more than could be checked: {', '.join(unknown)}"
            self._found.fail(2, where, Subject.ORIGIN, text)

    def _check_unique(self, where: str, thread: int | None, stated: Receipt) -> None:
        """The part of (4) that sees over the borders of threads."""
        if stated.receipt_id in self._ids:
            text = "another receipt of the archive has this id"
            self._found.fail(4, where, "chain", text)
        self._ids.add(stated.receipt_id)
        # Else the turns around one that is left out could be shown as what has no order.
        if thread is None and not _is_of_no_thread(stated):
            text = "it is of a turn, and stands among those of no thread"
            self._found.fail(4, where, "chain", text)
        # A turn that failed changed nothing, and the next one names the same receipt before it.
        if stated.previous is not None and stated.head_after != stated.head_before:
            if stated.previous in self._previous:
                text = "another turn of the archive names the same receipt before it"
                self._found.fail(4, where, "chain", text)
            self._previous.add(stated.previous)

    def _check_range(self, where: str, time: int) -> None:
        """(6)"""
        header = self._reader.header
        if not header.since <= time < header.until:
            text = f"its time {time} lies outside of the archive's range"
            self._found.fail(6, where, "range", text)

    def _join_thread(self, thread: int | None, encoded: bytes, stated: Receipt) -> None:
        if self._open is not None and self._open[0] != thread:
            self._close_thread()
        if thread is not None:
            if self._open is None:
                self._open = (thread, [])
            self._open[1].append((encoded, stated))

    def _close_thread(self) -> None:
        """(4), (5)"""
        if self._open is None:
            return
        number, receipts = self._open
        self._open = None
        gaps, contradictions, notes = [], [], []
        for problem in check_chain(receipts):
            where, text = problem.receipt_id.hex(), f"thread {number}: {problem.text}"
            if problem.contradicts:
                contradictions.append(problem.text)
                self._found.fail(4, where, "chain", text)
            elif problem.fault is ChainFault.MISSING:
                gaps.append(problem.text)
                self._found.fail(5, where, "gap", text)
            else:
                notes.append(problem.text)
                if problem.fault is ChainFault.BEGINNING and not self._reader.header.since:
                    first = next(one for _, one in receipts if one.receipt_id.hex() == where)
                    self._begun.append((first.head_before, where, text))
        self._counts["gaps"] += len(gaps)
        # A turn that failed is not of the thread, and no receipt names it.
        stored = [one for one in receipts if one[1].head_after != one[1].head_before]
        if stored:
            encoded, stated = max(stored, key=lambda one: one[1].turn_index)
            self._last[number] = hashlib.sha256(encoded).digest(), stated
        if len(self._threads) < MAX_THREADS_LISTED:
            times = [one.time for _, one in receipts]
            texts = (tuple(some[:MAX_FINDINGS]) for some in (gaps, contradictions, notes))
            self._threads.append(Thread(number, len(receipts), min(times), max(times), *texts))

    def _erasure(self, record: ErasureRecord) -> None:
        """(3), (6)"""
        signed = decode_erasure(record.receipt)
        stated = signed.unverified
        where = f"erasure {stated.erasure_id.hex()}"
        self._check_range(where, stated.time)
        if stated.erasure_id in self._erased:
            text = "another erasure receipt of the archive has this id"
            self._found.fail(4, where, "chain", text)
        self._erased.add(stated.erasure_id)
        self._check_follows(where, record.thread, stated)
        bundle = self._bundle(stated.enclave)
        if bundle is None:
            self._found.fail(
                3, where, Subject.ORIGIN, "its attestation bundle is not in the archive"
            )
            return
        try:
            claims = self._attest(bundle, stated.time)
            signed.verify(stated.enclave, claims)
            self._check_logged(record)
        except RefusedError as error:
            self._found.fail(3, where, Subject.INTEGRITY, str(error))
            return
        if stated.time > self._at:
            text = "it was erased after the time of this verdict"
            self._found.fail(3, where, Subject.FRESHNESS, text)
            return
        self._counts["erasures_holding"] += 1
        if stated.scope is Scope.ROTATION:
            self._carried_over.add(stated.after)

    def _check_follows(self, where: str, thread: int, stated: Erasure) -> None:
        """(4), (5) Whether what was erased is what the thread's last receipt here left.

        Nulls say nothing: an enclave has not always the receipt before, nor a store the head.
        """
        # A thread that lost some records only has turns after its erasure, too.
        if thread not in self._last or not stated.scope.ends_thread:
            return
        digest, last = self._last[thread]
        other_head = stated.head not in (None, last.head_after)
        if stated.previous not in (None, digest) or (stated.previous is None and other_head):
            text = (
                f"thread {thread} went on after turn {last.turn_index}, the last one here, or the "
                "erasure is of another thread"
            )
            self._counts["gaps"] += 1
            self._found.fail(5, where, "gap", text)
        # Notes may lie behind the last turn; where nothing does, its head is the one that went.
        elif other_head and stated.length <= last.turn_index + 1:
            text = f"it erased another memory head than turn {last.turn_index} left"
            self._found.fail(4, where, "chain", text)

    def _bundle(self, digest: bytes) -> BundleRecord | None:
        offset = self._bundles.get(digest)
        if offset is None:
            return None
        self._unused.discard(digest)
        record = self._recent.get(digest)
        if record is None:
            record = self._bundle_at(offset)
            self._recent[digest] = record
            if len(self._recent) > _BUNDLES_KEPT:
                self._recent.popitem(last=False)
        return record

    def _bundle_at(self, offset: int) -> BundleRecord:
        record = self._reader.record_at(offset)
        if not isinstance(record, BundleRecord):
            raise UnreadableError("The archive changed while it was read. Try again.")
        return record

    def _attest(self, bundle: BundleRecord, time: int) -> Claims:
        """The claims of a bundle that holds as of `time`; RefusedError where it does not."""
        enclave = verify_bundle(
            bundle.bundle, bundle.proof or None, self._policy, time, collateral=self._collateral
        )
        self._met(enclave.enclave_id, enclave.claims.model, enclave.simulated)
        return enclave.claims

    def _met(self, enclave_id: str, model: str, simulated: bool) -> None:
        self._enclaves[enclave_id] = model
        self._simulated = self._simulated or simulated

    def _check_logged(self, record: ErasureRecord) -> None:
        """Raises `RefusedError` where the policy wants an entry in a log and it is not."""
        findings, entry = Findings(), erasure_entry(record.receipt)
        checkpoint = check_logged(
            findings, Check.RECEIPT_LOGGED, entry, record.proof or None, self._policy
        )
        check_cose(findings, record.cose_receipt, entry, checkpoint, self._policy)
        for step in findings.steps():
            if step.status is Status.FAILS:
                raise RefusedError(step.detail)

    def _check_unused(self) -> None:
        """(10)"""
        held = 0
        for digest in sorted(self._unused, key=self._bundles.__getitem__):
            bundle = self._bundle(digest)
            if bundle is None:
                continue
            claims = decode_claims(decode_bundle(bundle.bundle).claims)
            where = f"bundle {digest.hex()}"
            try:
                # As of the moment at which it was collected.
                self._attest(bundle, claims.not_before)
            except RefusedError as error:
                self._found.fail(10, where, Subject.ORIGIN, str(error))
            else:
                held += 1
        if self._unused or held:
            self._found.see(10, f"bundles of no receipt here that hold: {held}")


def _is_of_no_thread(stated: Receipt) -> bool:
    """Whether it reads as a completion's does, and as those of turns whose memory was away do."""
    found = (stated.head_before, stated.head_after, stated.previous)
    return found == (None, None, None) and not stated.turn_index


class _LogRange:
    """(7) to (9): the part of a log that an archive shows."""

    def __init__(self, record: LogRecord, found: Collected) -> None:
        self._record = record
        self._found = found
        self._note = parse_note(record.checkpoint)
        self._head = parse_checkpoint(self._note.text)
        self._next = record.first
        self.leaves: set[bytes] = set()
        if record.end > self._head.size:
            raise UnreadableError("The archive's entries go beyond its checkpoint. Get it again.")

    def check(self, policy: Policy) -> None:
        """(7)"""
        findings = Findings()
        check_head(findings, self._note, policy)
        steps = findings.steps()
        for step in steps:
            if step.status is Status.FAILS:
                self._found.fail(7, "checkpoint", Subject.INCLUSION, step.detail)
        told = "; ".join(step.detail for step in steps if step.status is Status.HOLDS)
        self._found.see(7, told)

    def entry(self, record: EntryRecord) -> None:
        """(8) One entry, in its order."""
        if record.index != self._next:
            text = f"entry {record.index} stands where {self._next} should"
            self._found.fail(8, f"entry {record.index}", Subject.INCLUSION, text)
        self._next = record.index + 1
        head, leaf = self._head, leaf_hash(record.entry)
        self.leaves.add(leaf)
        if not verify_inclusion(record.index, head.size, leaf, record.path, head.root):
            text = "its path does not lead to the checkpoint's root"
            self._found.fail(8, f"entry {record.index}", Subject.INCLUSION, text)

    def close(self) -> None:
        """(8) Whether all were there."""
        record = self._record
        count = record.end - record.first
        self._found.see(8, f"entries: {count} from index {record.first} on, of {self._head.size}")
        if self._next != record.end:
            text = f"the entries end at {self._next} instead of {record.end}"
            self._found.fail(8, "log", Subject.INCLUSION, text)
