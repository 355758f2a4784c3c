"""The device's database: its form, the steps from earlier forms, and how it is opened and used."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from runtime.client.master import FILE
from runtime.errors import SetupError, SottoError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowT = TypeVar("RowT", bound="DataclassInstance")

_FIRST_FORM = """
CREATE TABLE IF NOT EXISTS threads (
    persona TEXT PRIMARY KEY, position TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS enclaves (
    enclave_id TEXT PRIMARY KEY, bundle BLOB NOT NULL, proof TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
    receipt_id TEXT PRIMARY KEY,
    turn_id TEXT NOT NULL,
    persona TEXT NOT NULL,
    enclave_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    commitments BLOB NOT NULL,
    receipt BLOB,
    proof TEXT,
    problem TEXT
) STRICT;
"""
_COMPLETIONS = "ALTER TABLE receipts ADD COLUMN seal_key BLOB"
# Verdicts are a history: what was once found is never rewritten. They hold digests and no text, so
# forgetting a thread, which leaves its receipts, has no need to delete any.
_PROOFS = """
ALTER TABLE threads ADD COLUMN thread INTEGER NOT NULL DEFAULT 0;
ALTER TABLE enclaves ADD COLUMN next TEXT;
ALTER TABLE receipts ADD COLUMN thread INTEGER NOT NULL DEFAULT 0;
ALTER TABLE receipts ADD COLUMN persona_digest BLOB;
ALTER TABLE receipts ADD COLUMN cose BLOB;
CREATE TABLE said (
    receipt_id TEXT PRIMARY KEY, request BLOB NOT NULL, response TEXT NOT NULL
) STRICT;
CREATE TABLE sealings (
    receipt_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    enclave_id TEXT NOT NULL,
    request_salt BLOB NOT NULL,
    response_salt BLOB NOT NULL,
    PRIMARY KEY (receipt_id, number)
) STRICT;
CREATE TABLE erasures (
    receipt_id TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,
    persona TEXT NOT NULL,
    thread INTEGER NOT NULL,
    time INTEGER NOT NULL,
    enclave_id TEXT,
    receipt BLOB,
    proof TEXT,
    cose BLOB
) STRICT;
CREATE TABLE verdicts (
    receipt_id TEXT NOT NULL,
    evaluated_at INTEGER NOT NULL,
    policy TEXT NOT NULL,
    holds INTEGER NOT NULL,
    verdicts TEXT NOT NULL
) STRICT;
CREATE INDEX verdicts_by_receipt ON verdicts (receipt_id);
CREATE TRIGGER verdicts_are_not_rewritten BEFORE UPDATE ON verdicts
BEGIN SELECT RAISE(ABORT, 'a verdict is never rewritten'); END;
CREATE TRIGGER verdicts_are_not_deleted BEFORE DELETE ON verdicts
BEGIN SELECT RAISE(ABORT, 'a verdict is never deleted'); END;
"""
# Erasures of some records, and rotations; which places of the present thread were erased, by
# whichever device; and the smallest number that a next thread may have.
_MEMORY = """
ALTER TABLE erasures ADD COLUMN scope TEXT NOT NULL DEFAULT 'thread';
ALTER TABLE erasures ADD COLUMN asked TEXT NOT NULL DEFAULT '';
ALTER TABLE erasures ADD COLUMN target INTEGER;
ALTER TABLE threads ADD COLUMN next INTEGER NOT NULL DEFAULT 0;
CREATE TABLE erased (
    persona TEXT NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (persona, place)
) STRICT;
"""
# Whose a published handle is, and the newest step of it that was seen and proven.
_HANDLES = """
CREATE TABLE handles (
    handle TEXT PRIMARY KEY, key BLOB NOT NULL, number INTEGER NOT NULL, step BLOB NOT NULL
) STRICT;
"""
# Steps from one form of the database to the next; `user_version` counts those that were taken.
_MIGRATIONS = (_COMPLETIONS, _PROOFS, _MEMORY, _HANDLES)


def open_database(folder: Path) -> sqlite3.Connection:
    """The database in a device's folder, in this version's form.

    Raises:
        SetupError: A newer version wrote it.
        OSError, sqlite3.Error: It cannot be used.
    """
    path = folder / "device.db"
    # SQLite does not wait its turn to change the journal's mode, so first starts queue here.
    with (folder / FILE).open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        # Made before SQLite makes it for others to read; its journal takes the same mode.
        path.touch(mode=0o600)
        path.chmod(0o600)
        database = sqlite3.connect(path, isolation_level=None, timeout=10)
        try:
            # What is deleted is overwritten: a conversation that is forgotten is not left in
            # pages that nobody uses.
            database.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA secure_delete=ON;" + _FIRST_FORM
            )
            _migrate(database, path)
        except (sqlite3.Error, SetupError):
            database.close()
            raise
        return database


def _migrate(database: sqlite3.Connection, path: Path) -> None:
    """Bring a database of an earlier version to this one's form; each step whole or not at all."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise SetupError(
            f"{path} was written by a newer Sottovoce; update this one, or choose another folder "
            "with --home or SOTTO_HOME"
        )
    for number, step in enumerate(_MIGRATIONS[version:], version + 1):
        database.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")


class Database:
    """The statements of a device. A row is a dataclass whose fields are the table's columns.

    Every method raises SottoError where the disk is full, the file is damaged, or another program
    holds it.

    Args:
        folder: The device's.

    Raises:
        SetupError, OSError, sqlite3.Error: As `open_database`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connection = open_database(folder)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def execute(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of one statement."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise SottoError(
                f"the device's database in {self._folder} cannot be used ({error}); look at the "
                "disk, and try again",
                code="home",
            ) from error

    def select(
        self, kind: type[RowT], table: str, which: str = "", values: tuple[object, ...] = ()
    ) -> list[RowT]:
        """Whole rows of a table; `which` is what follows its name in the statement."""
        query = f"SELECT {_columns(kind)} FROM {table} {which}"  # noqa: S608 - constants
        return [kind(*row) for row in self.execute(query, values)]

    def insert(self, table: str, row: DataclassInstance, otherwise: str = "") -> None:
        """Add a row; `otherwise` is the statement's ON CONFLICT clause."""
        values = astuple(row)
        marks = ", ".join("?" * len(values))
        into = f"{table} ({_columns(type(row))})"
        self.execute(f"INSERT INTO {into} VALUES ({marks}) {otherwise}", values)  # noqa: S608 - as above

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's statements, or none."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(SottoError):
                self.execute("ROLLBACK")
            raise

    def checkpoint(self) -> None:
        """Leave nothing of what was deleted in the journal.

        Another program that reads the database now delays it, and its own end does it then.
        """
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _columns(kind: type[DataclassInstance]) -> str:
    return ", ".join(one.name for one in fields(kind))
