"""Many receipts in one file that verifies alone: a conversation, or an audit of a time range.

Encoding: a CBOR sequence (RFC 8742) of byte strings, each of which holds one record, a
deterministic CBOR array. So one hundred thousand receipts are written and read one at a time.

| record | array |
|---|---|
| header | `["sottovoce-archive-v1", kind, created, since, until]` |
| bundle | `["bundle", attestation bundle, log proof, digest of the next epoch's bundle or null]` |
| receipt | `["receipt", thread or null, receipt, log proof, COSE Receipt, said or null]` |
| erasure | `["erasure", thread, erasure receipt, log proof, COSE Receipt]` |
| log | `["log", checkpoint, first, end]` |
| entry | `["entry", index, entry, [hash...], id or null, sealed receipt or null]` |
| end | `["end", number of records before it, checksum]` |

The header comes first and the end last. A bundle stands once, anywhere between. Threads are
numbered from 0 in the order in which they come, each thread's receipts together, oldest first.
Receipts of completions, which belong to no thread, have null and follow; then come erasures. `log`
stands before its entries and is an operator's: entries `first` to `end` (excluded) of the tree of
one checkpoint, by index. Proofs that are not to be had are empty. Times are unix seconds; the range
is `since` to `until` (excluded).

The checksum is SHA-256 over all bytes before the record that holds it. As in a disclosure, it is
against damage and not against forgery.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from proofs import cbor
from proofs.bundle import MAX_BUNDLE
from proofs.disclosure import (
    CHECKSUM_SIZE,
    MAX_COSE_RECEIPT,
    MAX_SAID,
    Said,
    read_proof,
    read_said,
)
from proofs.errors import UnreadableError
from proofs.merkle import HASH_SIZE, MAX_PATH
from proofs.note import MAX_NOTE
from proofs.receipt import MAX_RECEIPT
from proofs.tlogproof import MAX_PROOF

LABEL = "sottovoce-archive-v1"
MAX_RECORD = MAX_BUNDLE + MAX_RECEIPT + MAX_PROOF + MAX_COSE_RECEIPT + MAX_SAID
MAX_RECORDS = 1_000_000
MAX_ARCHIVE = 4 * 1024**3
MAX_SEALED = MAX_RECEIPT + 64
_MAX_ENTRY = 65535
_MAX_ID = 128
_LONGEST_HEAD = 9
_BYTE_STRING = 2

Source = Callable[[int, int], bytes]
"""Reads: (offset, length) to as many bytes, fewer only where the file ends."""


class Kind(StrEnum):
    """What an archive is about."""

    CONVERSATION = "conversation"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Header:
    """What an archive says of itself; nobody signs it.

    Attributes:
        kind: A conversation, or an audit of a time range.
        created: When it was written, unix seconds.
        since: Start of the range, unix seconds.
        until: End of the range, excluded.
    """

    kind: Kind
    created: int
    since: int
    until: int

    def __post_init__(self) -> None:
        for name in ("created", "since", "until"):
            cbor.as_uint(getattr(self, name), f"the archive's '{name}'")
        if self.since > self.until:
            raise UnreadableError("the archive's range ends before it begins. Get it again.")

    def items(self) -> list[object]:
        """As an array of the encoding."""
        return [LABEL, str(self.kind), self.created, self.since, self.until]


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """An attestation bundle, once for all receipts that name it.

    Attributes:
        bundle: The bundle.
        proof: Text of its log proof, empty where there is none.
        following: Digest of the next epoch's bundle, None where there is none yet.
    """

    bundle: bytes
    proof: str
    following: bytes | None = None

    def __post_init__(self) -> None:
        cbor.as_bytes(self.bundle, "an attestation bundle", most=MAX_BUNDLE)
        read_proof(self.proof)
        _digest_or_none(self.following, "the digest of a next bundle")

    @property
    def digest(self) -> bytes:
        """What receipts name it by, 32 bytes."""
        return hashlib.sha256(self.bundle).digest()

    def items(self) -> list[object]:
        """As an array of the encoding."""
        return ["bundle", self.bundle, self.proof, self.following]


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A receipt with what proves it.

    Attributes:
        thread: Number of its thread here, None for a completion.
        receipt: The signed receipt.
        proof: Text of its log proof, empty where there is none.
        cose_receipt: Its COSE Receipt, empty where there is none.
        said: What was said, where its owner discloses it.
    """

    thread: int | None
    receipt: bytes
    proof: str
    cose_receipt: bytes
    said: Said | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.thread is not None:
            cbor.as_uint(self.thread, "a thread's number", MAX_RECORDS)
        cbor.as_bytes(self.receipt, "a receipt", most=MAX_RECEIPT)
        read_proof(self.proof)
        cbor.as_bytes(self.cose_receipt, "a COSE Receipt", least=0, most=MAX_COSE_RECEIPT)

    def items(self) -> list[object]:
        """As an array of the encoding."""
        said = None if self.said is None else self.said.items()
        return ["receipt", self.thread, self.receipt, self.proof, self.cose_receipt, said]


@dataclass(frozen=True, slots=True)
class ErasureRecord:
    """An erasure receipt with what proves it.

    Attributes:
        thread: Number of the thread here; one without receipts has a number of its own.
        receipt: The signed erasure receipt.
        proof: Text of its log proof, empty where there is none.
        cose_receipt: Its COSE Receipt, empty where there is none.
    """

    thread: int
    receipt: bytes
    proof: str
    cose_receipt: bytes

    def __post_init__(self) -> None:
        cbor.as_uint(self.thread, "a thread's number", MAX_RECORDS)
        cbor.as_bytes(self.receipt, "an erasure receipt", most=MAX_RECEIPT)
        read_proof(self.proof)
        cbor.as_bytes(self.cose_receipt, "a COSE Receipt", least=0, most=MAX_COSE_RECEIPT)

    def items(self) -> list[object]:
        """As an array of the encoding."""
        return ["erasure", self.thread, self.receipt, self.proof, self.cose_receipt]


@dataclass(frozen=True, slots=True)
class LogRecord:
    """Which part of a log follows.

    Attributes:
        checkpoint: The signed checkpoint that every entry's path leads to.
        first: Index of the first entry.
        end: Index after the last one.
    """

    checkpoint: str
    first: int
    end: int

    def __post_init__(self) -> None:
        cbor.as_text(self.checkpoint, "the checkpoint", MAX_NOTE)
        cbor.as_uint(self.first, "the first entry's index")
        cbor.as_uint(self.end, "the index after the last entry")
        if not self.first <= self.end <= self.first + MAX_RECORDS:
            raise UnreadableError(f"the entries' range should have 0 to {MAX_RECORDS} entries.")

    def items(self) -> list[object]:
        """As an array of the encoding."""
        return ["log", self.checkpoint, self.first, self.end]


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """One entry of the log.

    Attributes:
        index: Where it stands.
        entry: Its bytes; a digest of what was logged.
        path: Inclusion proof (RFC 9162 section 2.1.3) in the tree of the checkpoint.
        identifier: Under which receipt id it was logged, where that is still known.
        sealed: The sealed receipt, where it is still kept; only its owner can open it.
    """

    index: int
    entry: bytes
    path: tuple[bytes, ...]
    identifier: str | None = None
    sealed: bytes | None = None

    def __post_init__(self) -> None:
        cbor.as_uint(self.index, "an entry's index")
        cbor.as_bytes(self.entry, "an entry", least=0, most=_MAX_ENTRY)
        if len(self.path) > MAX_PATH:
            raise UnreadableError("an entry's path is longer than any tree is high. Refuse it.")
        for one in self.path:
            cbor.as_bytes(one, "a hash of an entry's path", size=HASH_SIZE)
        if self.identifier is not None:
            cbor.as_text(self.identifier, "an entry's id", _MAX_ID)
        if self.sealed is not None:
            cbor.as_bytes(self.sealed, "a sealed receipt", most=MAX_SEALED)

    def items(self) -> list[object]:
        """As an array of the encoding."""
        return ["entry", self.index, self.entry, list(self.path), self.identifier, self.sealed]


Record = BundleRecord | ReceiptRecord | ErasureRecord | LogRecord | EntryRecord


class ArchiveWriter:
    """Writes an archive record by record.

    Args:
        write: Takes the bytes, in order.
        header: What the archive is about.
    """

    def __init__(self, write: Callable[[bytes], object], header: Header) -> None:
        self._write = write
        self._hash = hashlib.sha256()
        self._records = 0
        self._bytes = 0
        self._put(header.items())

    def add(self, record: Record) -> None:
        """Write one record.

        Raises:
            UnreadableError: The archive would be longer than one may be; narrow its range.
        """
        self._put(record.items())

    def close(self) -> None:
        """Write the end; without it the file is unreadable."""
        end = ["end", self._records, self._hash.digest()]
        self._write(cbor.encode(cbor.encode(end)))

    def _put(self, items: list[object]) -> None:
        data = cbor.encode(cbor.encode(items))
        self._records += 1
        self._bytes += len(data)
        # The end must still fit.
        if self._records > MAX_RECORDS or self._bytes > MAX_ARCHIVE - 64:
            raise UnreadableError(
                f"The archive would be longer than {MAX_RECORDS} records or {MAX_ARCHIVE} bytes. "
                "Narrow its range."
            )
        self._hash.update(data)
        self._write(data)


class ArchiveReader:
    """Reads an archive, one record in memory at a time.

    Args:
        read: The file.
        size: Its length in bytes.

    Raises:
        UnreadableError: It does not begin as an archive, or is longer than one may be.
    """

    def __init__(self, read: Source, size: int) -> None:
        if size > MAX_ARCHIVE:
            raise UnreadableError(f"The archive has more than {MAX_ARCHIVE} bytes. Refuse it.")
        self._read = read
        self._size = size
        head, self._start = self._item(0)
        label, kind, *times = cbor.as_array(_record(head), "the archive's header", 5)
        cbor.check_label(label, LABEL, "the archive")
        if type(kind) is not str or kind not in set(Kind):
            raise UnreadableError("The archive is of a kind that this version does not know.")
        created, since, until = (cbor.as_uint(t, "a time of the archive's header") for t in times)
        self.header = Header(Kind(kind), created, since, until)

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every record with its offset, for `record_at`.

        Raises:
            UnreadableError: Damaged or cut; only known for sure once the last one was read.
        """
        digest = hashlib.sha256()
        digest.update(self._read(0, self._start))
        at, count = self._start, 1
        while at < self._size:
            data, after = self._item(at)
            value = _record(data)
            if isinstance(value, list) and value and value[0] == "end":
                self._check_end(value, count, digest.digest(), after)
                return
            if count >= MAX_RECORDS:
                raise UnreadableError(f"The archive has more than {MAX_RECORDS} records.")
            digest.update(_head(len(data)) + data)
            yield at, _parse(value)
            at, count = after, count + 1
        raise UnreadableError("The archive is cut: its end is not there. Get it again.")

    def record_at(self, offset: int) -> Record:
        """The record at an offset that `records` gave."""
        return _parse(_record(self._item(offset)[0]))

    def _check_end(self, value: list[object], count: int, digest: bytes, after: int) -> None:
        _, stated, checksum = cbor.as_array(value, "the archive's end", 3)
        found = cbor.as_bytes(checksum, "the archive's checksum", size=CHECKSUM_SIZE)
        if stated != count or type(stated) is not int or after != self._size:
            raise UnreadableError("The archive has other records than it says. Get it again.")
        if not hmac.compare_digest(found, digest):
            raise UnreadableError("The archive is damaged: its checksum differs. Get it again.")

    def _item(self, at: int) -> tuple[bytes, int]:
        """The byte string at an offset, and where it ends (RFC 8949 section 3)."""
        head = self._read(at, _LONGEST_HEAD)
        if not head or head[0] >> 5 != _BYTE_STRING:
            raise UnreadableError("The archive is no sequence of byte strings. Get it again.")
        info = head[0] & 0x1F
        more = 0 if info < 24 else 1 << (info - 24)
        length = int.from_bytes(head[1 : 1 + more], "big") if more else info
        # Also refuses an indefinite length and heads longer than they need be.
        if info > 27 or not 0 < length <= MAX_RECORD or head[: 1 + more] != _head(length):
            raise UnreadableError("A record of the archive has an impossible length. Get it again.")
        start = at + 1 + more
        data = self._read(start, length)
        if len(data) != length:
            raise UnreadableError("The archive is cut. Get it again.")
        return data, start + length


def _head(length: int) -> bytes:
    """The shortest head of a byte string (RFC 8949 section 4.2.1)."""
    if length < 24:
        return bytes([_BYTE_STRING << 5 | length])
    power = next(p for p in range(4) if length < 1 << (8 << p))
    return bytes([_BYTE_STRING << 5 | 24 + power]) + length.to_bytes(1 << power, "big")


def _record(data: bytes) -> object:
    return cbor.decode(data, what="a record of the archive", limit=MAX_RECORD)


def _parse(value: object) -> Record:
    name = value[0] if isinstance(value, list) and value else None
    parser = _PARSERS.get(name) if isinstance(name, str) else None
    if parser is None:
        raise UnreadableError("A record of the archive is of no kind that this version knows.")
    length, parse = parser
    return parse(cbor.as_array(value, f"a record '{name}' of the archive", length))


def _parse_bundle(items: list[object]) -> BundleRecord:
    return BundleRecord(
        cbor.as_bytes(items[1], "an attestation bundle", most=MAX_BUNDLE),
        read_proof(items[2]),
        _digest_or_none(items[3], "the digest of a next bundle"),
    )


def _parse_receipt(items: list[object]) -> ReceiptRecord:
    return ReceiptRecord(
        None if items[1] is None else cbor.as_uint(items[1], "a thread's number"),
        cbor.as_bytes(items[2], "a receipt", most=MAX_RECEIPT),
        read_proof(items[3]),
        cbor.as_bytes(items[4], "a COSE Receipt", least=0, most=MAX_COSE_RECEIPT),
        None if items[5] is None else read_said(items[5]),
    )


def _parse_erasure(items: list[object]) -> ErasureRecord:
    return ErasureRecord(
        cbor.as_uint(items[1], "a thread's number"),
        cbor.as_bytes(items[2], "an erasure receipt", most=MAX_RECEIPT),
        read_proof(items[3]),
        cbor.as_bytes(items[4], "a COSE Receipt", least=0, most=MAX_COSE_RECEIPT),
    )


def _parse_log(items: list[object]) -> LogRecord:
    return LogRecord(
        cbor.as_text(items[1], "the checkpoint", MAX_NOTE),
        cbor.as_uint(items[2], "the first entry's index"),
        cbor.as_uint(items[3], "the index after the last entry"),
    )


def _parse_entry(items: list[object]) -> EntryRecord:
    path = cbor.as_list(items[3], "an entry's path", MAX_PATH)
    return EntryRecord(
        cbor.as_uint(items[1], "an entry's index"),
        cbor.as_bytes(items[2], "an entry", least=0, most=_MAX_ENTRY),
        tuple(cbor.as_bytes(one, "a hash of an entry's path", size=HASH_SIZE) for one in path),
        None if items[4] is None else cbor.as_text(items[4], "an entry's id", _MAX_ID),
        None if items[5] is None else cbor.as_bytes(items[5], "a sealed receipt", most=MAX_SEALED),
    )


_PARSERS: dict[str, tuple[int, Callable[[list[object]], Record]]] = {
    "bundle": (4, _parse_bundle),
    "receipt": (6, _parse_receipt),
    "erasure": (5, _parse_erasure),
    "log": (4, _parse_log),
    "entry": (6, _parse_entry),
}


def _digest_or_none(value: object, what: str) -> bytes | None:
    return None if value is None else cbor.as_bytes(value, what, size=32)
