"""Which entry stands where: what keeps an entry that is delivered twice from being logged twice.

A cache beside the tiles, in SQLite because it must not grow with the log in memory. It is
brought up to the committed tree at every start, and rebuilt from the tiles when it is broken.
It also keeps the id that each entry was first handed in under, for whoever must find receipts
by time. That alone is not in the tiles: what is rebuilt has no ids.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from proofs.errors import LogError
from proofs.log.store import LogStore

INDEX = "index.sqlite"
_REBUILD_STEP = 4096
# In KiB. Entries are random, so that each one looks up and writes a page of its own.
_CACHE_KIB = 32 * 1024


class EntryIndex:
    """Finds entries of a store's committed tree by their value.

    Args:
        store: The store that it belongs to; lies in its folder as `index.sqlite`.

    Raises:
        LogError: It can neither be read nor rebuilt.
    """

    def __init__(self, store: LogStore) -> None:
        path = store.directory / INDEX
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
            self.add(start, [(None, entry) for entry in store.tree.entries(start, end)])

    def find(self, entry: bytes) -> int | None:
        """The place of `entry` in the log, None where it is not in it."""
        row = self._db.execute("SELECT place FROM entries WHERE entry = ?", (entry,)).fetchone()
        return None if row is None else int(row[0])

    def add(self, start: int, entries: Sequence[tuple[str | None, bytes]]) -> None:
        """Note committed entries that stand from `start` on, as `(id, entry)`."""
        with self._db:
            self._db.executemany(
                "INSERT INTO entries (entry, place, id) VALUES (?, ?, ?)",
                [(entry, start + offset, name) for offset, (name, entry) in enumerate(entries)],
            )

    def name(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Note the ids of entries that came in without one: a crash came between, or a rebuild."""
        with self._db:
            self._db.executemany(
                "UPDATE entries SET id = ? WHERE entry = ? AND id IS NULL", entries
            )

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def ids_between(directory: Path, start: int, end: int) -> Iterator[tuple[int, str]]:
    """Index and id of the entries from `start` to `end` (excluded), where the id is kept.

    For readers of a log's folder; the writer may be at work.

    Raises:
        LogError: There is no index that can be read.
    """
    path = directory / INDEX
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            yield from db.execute(
                "SELECT place, id FROM entries"
                " WHERE place >= ? AND place < ? AND id IS NOT NULL ORDER BY place",
                (start, end),
            )
    except sqlite3.Error as error:
        raise LogError(f"{path} cannot be read ({error}). Give the folder of a log.") from error


def _open(path: Path) -> sqlite3.Connection:
    # Ids are for the operator; a web server over this folder, run by another user, has none.
    path.touch(mode=0o600)
    path.chmod(0o600)  # earlier versions kept no ids, and left it open
    # One writer uses it, from one thread at a time.
    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute(
        "CREATE TABLE IF NOT EXISTS entries"
        " (entry BLOB PRIMARY KEY, place INTEGER NOT NULL, id TEXT) WITHOUT ROWID"
    )
    if "id" not in {column[1] for column in db.execute("PRAGMA table_info(entries)")}:
        db.execute("ALTER TABLE entries ADD COLUMN id TEXT")
    db.execute("CREATE UNIQUE INDEX IF NOT EXISTS places ON entries (place)")
    return db
