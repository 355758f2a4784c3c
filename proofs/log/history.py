"""When which size was published, so that a range of time is a range of entries.

A file of records, appended to and never rewritten: milliseconds of unix time, then the size, 8
bytes each, big-endian. Times never fall and sizes always grow. A record says by when its entries
could be seen; it is the operator's word, and nothing signs it.
"""

from __future__ import annotations

import bisect
import os
from pathlib import Path

from proofs.log.files import sync_directories

_RECORD = 16


class History:
    """The writer's side. Of one log, by one writer.

    Args:
        path: The file; made where absent.
        most: The committed size. A record of more is not of this log, or was torn by a crash.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, most: int) -> None:
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._count = os.fstat(self._file).st_size // _RECORD
            while self._count and not self._is_whole(most):
                self._count -= 1
            os.ftruncate(self._file, self._count * _RECORD)
            os.fsync(self._file)
            if is_new:
                sync_directories([path], path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, at: int, size: int) -> None:
        """Record that `size` was published `at`, in unix milliseconds; durable on return.

        A size that is recorded already is not recorded again, and a clock that was set back
        stands still.

        Raises:
            OSError: It cannot be written.
        """
        last_at, last_size = _record(self._file, self._count - 1) if self._count else (0, 0)
        if size <= last_size:
            return
        record = max(at, last_at, 1).to_bytes(8, "big") + size.to_bytes(8, "big")
        if os.pwrite(self._file, record, self._count * _RECORD) != _RECORD:
            raise OSError("the disk took a part of a record")
        os.fdatasync(self._file)
        self._count += 1

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _is_whole(self, most: int) -> bool:
        """Whether the last record is one that was written whole."""
        at, size = _record(self._file, self._count - 1)
        before = _record(self._file, self._count - 2) if self._count > 1 else (1, 0)
        return at >= before[0] and before[1] < size <= most


def entries_between(path: Path, since: int, until: int) -> range:
    """The entries that were published from `since` to `until` (excluded), unix milliseconds.

    Raises:
        OSError: The file cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        count = os.fstat(file).st_size // _RECORD

        def size_before(moment: int) -> int:
            place = bisect.bisect_left(range(count), moment, key=lambda n: _record(file, n)[0])
            return _record(file, place - 1)[1] if place else 0

        start = size_before(since)
        return range(start, max(start, size_before(until)))
    finally:
        os.close(file)


def _record(file: int, number: int) -> tuple[int, int]:
    data = os.pread(file, _RECORD, number * _RECORD)
    return int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big")
