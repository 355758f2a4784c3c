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

from collections import Counter

from proofs.archive import (
    ArchiveReader,
    BundleRecord,
    EntryRecord,
    ErasureRecord,
    LogRecord,
    ReceiptRecord,
    Source,
)
from proofs.archive_bundles import Bundles
from proofs.archive_log import LogRange
from proofs.archive_report import (
    MAX_SAID_KEPT,
    ArchiveReport,
    Collected,
    Sums,
    Turn,
)
from proofs.archive_threads import Threads
from proofs.bundle import bundle_entry, decode_bundle
from proofs.claims import Claims, decode_claims
from proofs.disclosure import Disclosure, Later, Said
from proofs.erasure import decode_erasure, erasure_entry
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence.base import NO_COLLATERAL, Collateral
from proofs.evidencecache import EvidenceCache
from proofs.findings import Findings
from proofs.logsteps import check_cose, check_logged
from proofs.merkle import leaf_hash
from proofs.policy import Policy
from proofs.receipt import decode_receipt
from proofs.steps import Check
from proofs.times import moment
from proofs.verdict import Status, Subject
from proofs.verify import Report, verify_bundle, verify_disclosed

_LATEST_LOGGED_S = 24 * 3600


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
        self._bundles = Bundles(reader)
        self._threads = Threads(reader.header.since, self._found)
        self._enclaves: dict[str, str] = {}
        self._simulated = False
        self._erased: set[bytes] = set()
        self._last_thread, self._threads_ended = -1, False
        self._said: list[Turn] = []
        self._said_bytes = 0
        self._log: LogRange | None = None

    def read(self) -> None:
        """(1) All of it once: where it ends without an error, the file is whole."""
        for offset, record in self._reader.records():
            if isinstance(record, BundleRecord):
                self._bundles.add(record, offset)
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
                self._log = LogRange(record, self._found)
            else:
                if self._log is None:
                    raise UnreadableError("The archive has entries of no log. Get it again.")
                self._counts["entries"] += 1
                self._counts["sealed"] += record.sealed is not None
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
                self._threads.close()
                self._erasure(record)
            elif isinstance(record, EntryRecord) and self._log is not None:
                self._log.entry(record)
        self._threads.close()
        self._threads.end()
        self._check_unused()
        if self._log is not None:
            self._log.close()
            self._check_times(self._log)

    def _check_times(self, log: LogRange) -> None:
        """(9)"""
        header, fitting, others = self._reader.header, 0, 0
        for record in self._bundles.all():
            if leaf_hash(bundle_entry(record.bundle)) not in log.leaves:
                continue
            time = decode_claims(decode_bundle(record.bundle).claims).not_before
            # Logged a moment after it was made, or when the log was there again.
            if header.since - _LATEST_LOGGED_S <= time < header.until:
                fitting += 1
            else:
                others += 1
                text = (
                    f"it was attested at {moment(time)}, and its entry is said to be of the range"
                )
                self._found.fail(9, f"bundle {record.digest.hex()}", "range", text)
        text = f"bundles of the range that were attested in its time: {fitting}"
        self._found.see(9, text, checked=bool(fitting or others))

    def report(self) -> ArchiveReport:
        """What came out."""
        counts, found = self._counts, self._found
        counts["gaps"] = self._threads.gaps
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
            complete=not self._threads.gaps,
            simulated=self._simulated,
            counts={name: count for name, count in counts.items() if count},
            steps=found.steps(),
            tallies=self._sums.steps(),
            verdicts=self._sums.verdicts(),
            threads=tuple(self._threads.listed),
            findings=tuple(found.worst()),
            findings_total=found.total,
            enclaves=tuple(self._enclaves.items()),
            said=tuple(self._said),
        )

    def _receipt(self, record: ReceiptRecord) -> None:
        """(2), (4), (6)"""
        stated = decode_receipt(record.receipt).unverified
        where = stated.receipt_id.hex()
        self._threads.join(record.thread, record.receipt, stated)
        self._threads.check_unique(where, record.thread, stated)
        self._check_range(where, stated.time)
        bundle = self._bundles.get(stated.enclave)
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
        following = None if bundle.following is None else self._bundles.get(bundle.following)
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

    def _check_range(self, where: str, time: int) -> None:
        """(6)"""
        header = self._reader.header
        if not header.since <= time < header.until:
            text = f"its time, {moment(time)}, lies outside of the archive's range"
            self._found.fail(6, where, "range", text)

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
        self._threads.check_follows(where, record.thread, stated)
        bundle = self._bundles.get(stated.enclave)
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
        self._threads.carry_over(stated)

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
        for bundle in self._bundles.unused():
            claims = decode_claims(decode_bundle(bundle.bundle).claims)
            where = f"bundle {bundle.digest.hex()}"
            try:
                # As of the moment at which it was collected.
                self._attest(bundle, claims.not_before)
            except RefusedError as error:
                self._found.fail(10, where, Subject.ORIGIN, str(error))
            else:
                held += 1
        if held:
            self._found.see(10, f"bundles of no receipt here that hold: {held}")
