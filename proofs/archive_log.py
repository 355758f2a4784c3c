"""The part of a log that an archive shows: steps (7) and (8) of `proofs.verify_archive`."""

from __future__ import annotations

from proofs.archive import EntryRecord, LogRecord
from proofs.archive_report import Collected
from proofs.checkpoint import parse_checkpoint
from proofs.errors import UnreadableError
from proofs.findings import Findings
from proofs.logsteps import check_head
from proofs.merkle import leaf_hash, verify_inclusion
from proofs.note import parse_note
from proofs.policy import Policy
from proofs.verdict import Status, Subject


class LogRange:
    """A range of entries under one checkpoint, held against it entry by entry.

    Attributes:
        leaves: Hashes of the entries that were come to.
    """

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
