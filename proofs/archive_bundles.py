"""The attestation bundles of an archive, read again where they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from proofs.archive import ArchiveReader, BundleRecord
from proofs.errors import UnreadableError

_KEPT = 8


class Bundles:
    """Bundles by their digest; places of all are known, a few are kept in memory."""

    def __init__(self, reader: ArchiveReader) -> None:
        self._reader = reader
        self._offsets: dict[bytes, int] = {}
        self._unused: set[bytes] = set()
        self._recent: OrderedDict[bytes, BundleRecord] = OrderedDict()

    def add(self, record: BundleRecord, offset: int) -> None:
        """Note where a bundle stands."""
        if record.digest in self._offsets:
            raise UnreadableError("The archive holds a bundle twice. Get it again.")
        self._offsets[record.digest] = offset
        self._unused.add(record.digest)

    def get(self, digest: bytes) -> BundleRecord | None:
        """The bundle that a receipt names; None where it is not here."""
        if digest not in self._offsets:
            return None
        self._unused.discard(digest)
        record = self._recent.get(digest)
        if record is None:
            record = self._recent[digest] = self._read(digest)
            if len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        return record

    def all(self) -> Iterator[BundleRecord]:
        """All of them, in the order of the file."""
        return map(self._read, self._offsets)

    def unused(self) -> Iterator[BundleRecord]:
        """Those that nothing asked for so far, in the same order."""
        return map(self._read, [one for one in self._offsets if one in self._unused])

    def _read(self, digest: bytes) -> BundleRecord:
        record = self._reader.record_at(self._offsets[digest])
        if not isinstance(record, BundleRecord) or record.digest != digest:
            raise UnreadableError("The archive changed while it was read. Try again.")
        return record
