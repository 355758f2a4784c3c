"""Archives for tests: a conversation with enclave, log and chain of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from proofs import merkle
from proofs.archive import (
    ArchiveWriter,
    BundleRecord,
    EntryRecord,
    ErasureRecord,
    Header,
    Kind,
    LogRecord,
    ReceiptRecord,
    Record,
    Source,
)
from proofs.archive_report import ArchiveReport
from proofs.bundle import bundle_entry, make_bundle
from proofs.checkpoint import Checkpoint
from proofs.cosereceipt import sign_root
from proofs.disclosure import Said
from proofs.erasure import Erasure, Scope, erasure_entry, sign_erasure
from proofs.evidence.simulated import SimulatedPlatform
from proofs.policy import Policy
from proofs.receipt import Outcome, commitment, decode_receipt, receipt_entry, sign_receipt
from proofs.tlogproof import TlogProof
from proofs.verify_archive import verify_archive
from tests.proofs.proofs_support import LOG, NOW, RECEIPT_KEY, claims, platform, policy, receipt

LATER = NOW + 86400
REQUEST_SALT, RESPONSE_SALT = b"q" * 32, b"a" * 32


def write(header: Header, records: Iterable[Record]) -> bytes:
    """An archive's bytes."""
    parts: list[bytes] = []
    writer = ArchiveWriter(parts.append, header)
    for record in records:
        writer.add(record)
    writer.close()
    return b"".join(parts)


def source(data: bytes) -> Source:
    """Reads bytes as a file is read."""
    return lambda at, length: data[at : at + length]


def judge(
    data: bytes, use: Policy | None = None, at: int = LATER, **options: bool
) -> ArchiveReport:
    """Verify an archive's bytes."""
    return verify_archive(source(data), len(data), use or policy(), at, **options)


@dataclass
class Conversation:
    """Turns of one thread by one enclave, all in one log.

    Attributes:
        receipts: Signed, oldest first.
        said: What was said in each turn.
        erasure: The thread's erasure receipt, where it was forgotten.
    """

    bundle: bytes
    receipts: list[bytes]
    said: list[Said]
    erasure: bytes | None = None
    entries: list[bytes] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        turns: int,
        *,
        forgotten: bool = False,
        number: int = 0,
        machine: SimulatedPlatform | None = None,
        start: int = NOW,
    ) -> Conversation:
        """A conversation of so many turns that began at `start`.

        `number` tells one thread from another.
        """
        attested = claims(not_before=start, not_after=start + 3600)
        made = make_bundle(attested, machine or platform(), start)
        receipts: list[bytes] = []
        words = []
        previous = None
        for turn in range(turns):
            said = Said(
                f"question {turn} <b>".encode(), REQUEST_SALT, f"answer {turn}", RESPONSE_SALT
            )
            words.append(said)
            stated = receipt(
                made.digest,
                receipt_id=(number * 1_000_000 + turn).to_bytes(16, "big"),
                turn_index=turn,
                previous=previous,
                head_before=_head(number, turn - 1),
                head_after=_head(number, turn),
                time=start + 60 + turn // 10,
                request=commitment(said.request_salt, "request", said.request),
                response=commitment(said.response_salt, "response", said.response.encode()),
                outcome=Outcome.COMPLETED,
            )
            signed = sign_receipt(stated, RECEIPT_KEY)
            receipts.append(signed)
            previous = decode_receipt(signed).digest
        erased = None
        if forgotten:
            stated_erasure = Erasure(
                erasure_id=bytes([number]) * 16,
                enclave=made.digest,
                release=b"r" * 32,
                time=start + 3000,
                epoch=4,
                scope=Scope.THREAD,
                thread=b"t" * 32,
                head=_head(number, turns - 1),
                length=turns,
                previous=previous,
            )
            erased = sign_erasure(stated_erasure, RECEIPT_KEY)
        story = cls(made.encode(), receipts, words, erased)
        story.entries = [b"e" * 32, bundle_entry(story.bundle), *map(receipt_entry, receipts)]
        if erased is not None:
            story.entries.append(erasure_entry(erased))
        return story

    def log(self) -> Log:
        """Its log."""
        return Log(self.entries)

    def records(self, *, with_text: bool = False, thread: int = 0) -> list[Record]:
        """Everything, as records of an archive."""
        log = self.log()
        found: list[Record] = [BundleRecord(self.bundle, log.proof(bundle_entry(self.bundle)))]
        for one, said in zip(self.receipts, self.said, strict=True):
            entry = receipt_entry(one)
            found.append(
                ReceiptRecord(
                    thread, one, log.proof(entry), log.cose(entry), said if with_text else None
                )
            )
        if self.erasure is not None:
            entry = erasure_entry(self.erasure)
            found.append(ErasureRecord(thread, self.erasure, log.proof(entry), log.cose(entry)))
        return found

    def archive(self, *, with_text: bool = False, since: int = 0, until: int = LATER) -> bytes:
        """The archive of the whole of it."""
        return write(
            Header(Kind.CONVERSATION, LATER, since, until), self.records(with_text=with_text)
        )


def _head(number: int, turn: int) -> bytes | None:
    return None if turn < 0 else number.to_bytes(16, "big") + turn.to_bytes(16, "big")


class Log:
    """Proofs of a list of entries, all against one checkpoint."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.entries = list(entries)
        self._places = {entry: index for index, entry in enumerate(self.entries)}
        leaves = [merkle.leaf_hash(one) for one in self.entries]
        self._subtree: Callable[[int, int], bytes] = _remembering(merkle.subtree_of(leaves))
        self.head = Checkpoint(LOG.name, len(leaves), merkle.root(leaves))
        self.note = LOG.sign(self.head.format())
        self._root = sign_root(self.head, LOG)

    def path(self, index: int) -> tuple[bytes, ...]:
        """The inclusion proof of the entry at an index."""
        return tuple(merkle.inclusion_proof(index, len(self.entries), self._subtree))

    def proof(self, entry: bytes) -> str:
        """The tlog-proof of an entry."""
        index = self._places[entry]
        return TlogProof(index, self.path(index), self.note).format()

    def cose(self, entry: bytes) -> bytes:
        """The COSE Receipt of an entry."""
        index = self._places[entry]
        return self._root.receipt(index, self.path(index))

    def records(self, first: int, end: int) -> list[Record]:
        """An operator's records of a range."""
        found: list[Record] = [LogRecord(self.note.format(), first, end)]
        found += [EntryRecord(i, self.entries[i], self.path(i)) for i in range(first, end)]
        return found


def _remembering(subtree: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    known: dict[tuple[int, int], bytes] = {}

    def find(start: int, end: int) -> bytes:
        if (start, end) not in known:
            middle = start + merkle.split(end - start) if end - start > 1 else end
            known[start, end] = (
                merkle.node_hash(find(start, middle), find(middle, end))
                if end - start > 1
                else subtree(start, end)
            )
        return known[start, end]

    return find


def changed(record: ReceiptRecord, **changes: object) -> ReceiptRecord:
    """A record of a receipt that was signed again with other statements."""
    stated = replace(decode_receipt(record.receipt).unverified, **changes)  # type: ignore[arg-type]
    return replace(record, receipt=sign_receipt(stated, RECEIPT_KEY))
