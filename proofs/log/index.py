"""Which entry stands where: what keeps an entry that is delivered twice from being logged twice.

A cache beside the tiles, in SQLite because it must not grow with the log in memory. It is
brought up to the committed tree at every start, and rebuilt from the tiles when it is broken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from proofs.errors import LogError
from proofs.log.store import LogStore

_REBUILD_STEP = 4096


class EntryIndex:
    """Finds entries of a store's committed tree by their value.

    Args:
        store: The store that it belongs to; lies in its folder as `index.sqlite`.

    Raises:
        LogError: It can neither be read nor rebuilt.
    """

    def __init__(self, store: LogStore) -> None:
        path = store.directory / "index.sqlite"
        try:
            self._db = _open(path)
            self._catch_up(store)
        except sqlite3.Error:
            # Whatever broke it, the tiles have all that it had.
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            try:
                self._db = _open(path)
                self._catch_up(store)
            except sqlite3.Error as error:
                raise LogError(
                    f"{path} cannot be written ({error}). Check space and permissions."
                ) from error

    def _catch_up(self, store: LogStore) -> None:
        size = store.head.size
        with self._db:
            self._db.execute("DELETE FROM entries WHERE place >= ?", (size,))
        (known,) = self._db.execute("SELECT COUNT(*) FROM entries").fetchone()
        for start in range(known, size, _REBUILD_STEP):
            end = min(start + _REBUILD_STEP, size)
            self.add(start, list(store.entries(start, end)))

    def find(self, entry: bytes) -> int | None:
        """The place of `entry` in the log, None where it is not in it."""
        row = self._db.execute("SELECT place FROM entries WHERE entry = ?", (entry,)).fetchone()
        return None if row is None else int(row[0])

    def add(self, start: int, entries: Sequence[bytes]) -> None:
        """Note committed entries that stand from `start` on."""
        with self._db:
            self._db.executemany(
                "INSERT INTO entries (entry, place) VALUES (?, ?)",
                [(entry, start + offset) for offset, entry in enumerate(entries)],
            )

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    # One writer uses it, from one thread at a time.
    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(
        "CREATE TABLE IF NOT EXISTS entries (entry BLOB PRIMARY KEY, place INTEGER NOT NULL)"
        " WITHOUT ROWID"
    )
    db.execute("CREATE UNIQUE INDEX IF NOT EXISTS places ON entries (place)")
    return db
