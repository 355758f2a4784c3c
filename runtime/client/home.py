"""What a device keeps: its master secret, where each thread stands, and its receipts.

One folder, readable by its user alone. Whoever has the master secret has the memory: there is
no account to recover it with.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory.keys import ThreadKeys, derive_thread_key
from runtime.errors import SetupError, SottoError

_SCHEMA = """
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
# Steps from one form of the database to the next; `user_version` counts those that were taken.
_MIGRATIONS = ("ALTER TABLE receipts ADD COLUMN seal_key BLOB",)
_MASTER_BYTES = 32
_COLUMNS = (
    "receipt_id, turn_id, persona, enclave_id, time, outcome, commitments, receipt, proof, "
    "problem, seal_key"
)


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """The receipt of one turn, or of one completion, as far as it is here.

    Attributes:
        turn_id: Empty for a completion, which belongs to no thread.
        commitments: 64 bytes (request, response) for each time that the turn was sealed: the
            receipt must carry one of these pairs.
        receipt: COSE_Sign1, verified when it came; None before.
        proof: tlog-proof, verified when it came; None before.
        problem: Why the receipt was refused, None where it was not.
        seal_key: Of a completion: opens this receipt and nothing else. Forgotten when the receipt
            is here. None where the persona's thread key opens it.
    """

    receipt_id: str
    turn_id: str
    persona: str
    enclave_id: str
    time: int
    outcome: str
    commitments: bytes
    receipt: bytes | None = None
    proof: str | None = None
    problem: str | None = None
    seal_key: bytes | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """``refused``, ``settled``, ``received`` or ``waiting``."""
        if self.problem is not None:
            return "refused"
        if self.proof is not None:
            return "settled"
        return "waiting" if self.receipt is None else "received"


class DeviceHome:
    """The device's folder.

    Args:
        path: Made with mode 0700 where it does not exist.

    Raises:
        SetupError: It cannot be written, or the secret in it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._master = _load_or_make(path / "master.key")
            self._database = _open_database(path)
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"the device folder {path} cannot be used ({error}); choose one that you can "
                "write with --home or SOTTO_HOME"
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def thread_key(self, persona: str) -> bytes:
        """The key of this user's thread with a persona, 32 bytes."""
        return derive_thread_key(self._master, persona)

    def thread_keys(self, persona: str) -> ThreadKeys:
        """What is derived from that key."""
        return ThreadKeys(self.thread_key(persona))

    def _execute(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of one statement.

        Raises:
            SottoError: The disk is full, the file is damaged, or another program holds it.
        """
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise SottoError(
                f"the device's database in {self.path} cannot be used ({error}); look at the disk, "
                "and try again",
                code="home",
            ) from error

    def position(self, persona: str) -> str | None:
        """The last place in the memory chain that this device saw."""
        rows = self._execute("SELECT position FROM threads WHERE persona = ?", (persona,))
        return str(rows[0][0]) if rows else None

    def set_position(self, persona: str, position: str) -> None:
        """Remember where the chain stands; an earlier place than the one known is not taken.

        Answers can arrive out of order. A device that went back would let a store go back too.
        """
        # The text begins with the length, which is what a cast to INTEGER reads.
        self._execute(
            "INSERT INTO threads VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET position = excluded.position "
            "WHERE CAST(excluded.position AS INTEGER) > CAST(position AS INTEGER)",
            (persona, position),
        )

    def keep_enclave(self, enclave_id: str, bundle: bytes, proof: str) -> None:
        """Keep a verified bundle, for disclosures later."""
        self._execute(
            "INSERT OR IGNORE INTO enclaves VALUES (?, ?, ?)", (enclave_id, bundle, proof)
        )

    def enclave(self, enclave_id: str) -> tuple[bytes, str]:
        """A kept bundle and its proof; KeyError where it is not here."""
        rows = self._execute(
            "SELECT bundle, proof FROM enclaves WHERE enclave_id = ?", (enclave_id,)
        )
        if not rows:
            raise KeyError(enclave_id)
        bundle, proof = rows[0]
        return bytes(bundle), str(proof)

    def expect_receipt(self, row: ReceiptRow) -> None:
        """Note a finished turn whose receipt is on its way.

        Where the turn was sealed again meanwhile, its receipt may commit to that exchange.
        """
        self._execute(
            f"INSERT INTO receipts ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?) "  # noqa: S608 - constant column names
            "ON CONFLICT DO UPDATE SET commitments = excluded.commitments WHERE receipt IS NULL",
            (
                row.receipt_id,
                row.turn_id,
                row.persona,
                row.enclave_id,
                row.time,
                row.outcome,
                row.commitments,
                row.receipt,
                row.proof,
                row.problem,
                row.seal_key,
            ),
        )

    def keep_receipt(self, receipt_id: str, enclave_id: str, receipt: bytes) -> None:
        """Keep a verified receipt and which enclave signed it."""
        self._execute(
            "UPDATE receipts SET receipt = ?, enclave_id = ?, seal_key = NULL WHERE receipt_id = ?",
            (receipt, enclave_id, receipt_id),
        )

    def keep_proof(self, receipt_id: str, proof: str) -> None:
        """Keep a verified inclusion proof: the receipt is settled."""
        self._execute("UPDATE receipts SET proof = ? WHERE receipt_id = ?", (proof, receipt_id))

    def refuse_receipt(self, receipt_id: str, problem: str) -> None:
        """Note that what came is not this turn's receipt."""
        self._execute(
            "UPDATE receipts SET problem = ?, seal_key = NULL WHERE receipt_id = ?",
            (problem, receipt_id),
        )

    def receipts(self) -> Iterator[ReceiptRow]:
        """All receipts, oldest first."""
        query = f"SELECT {_COLUMNS} FROM receipts ORDER BY time, rowid"  # noqa: S608 - as above
        for row in self._execute(query):
            yield ReceiptRow(*row)

    def receipt(self, receipt_id: str) -> ReceiptRow | None:
        """One receipt by id."""
        rows = self._execute(
            f"SELECT {_COLUMNS} FROM receipts WHERE receipt_id = ?",  # noqa: S608 - as above
            (receipt_id,),
        )
        return ReceiptRow(*rows[0]) if rows else None


def _open_database(folder: Path) -> sqlite3.Connection:
    path = folder / "device.db"
    # SQLite does not wait its turn to change the journal's mode, so first starts queue here.
    with (folder / "master.key").open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        # Made before SQLite makes it for others to read; its journal takes the same mode.
        path.touch(mode=0o600)
        path.chmod(0o600)
        database = sqlite3.connect(path, isolation_level=None, timeout=10)
        try:
            database.executescript("PRAGMA journal_mode=WAL;" + _SCHEMA)
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


def _load_or_make(path: Path) -> bytes:
    # Two first starts at once must agree on one secret: only one of them can create the file,
    # and it appears under its name with all of its bytes.
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(os.urandom(_MASTER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    master = path.read_bytes()
    if len(master) != _MASTER_BYTES:
        raise SetupError(
            f"the master secret {path} is damaged ({len(master)} bytes instead of "
            f"{_MASTER_BYTES}); restore it from a backup: without it no memory can be opened"
        )
    return master
