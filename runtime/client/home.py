"""What a device keeps: its master secret, where each thread stands, its receipts, and what was
said, with the salts that let its owner show it to others.

One folder, readable by its user alone. Whoever has the master secret has the memory: there is
no account to recover it with.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import orjson

from memory.keys import ThreadKeys, derive_thread_key
from proofs.disclosure import Disclosure, Later, Said
from proofs.erasure import Scope
from proofs.receipt import decode_receipt
from proofs.verdict import Verdict
from runtime.client.database import open_database
from runtime.client.rows import ErasureRow, HandlePin, ReceiptRow, Sealing, Told, VerdictRow
from runtime.errors import SetupError, SottoError

_MASTER_BYTES = 32
_COLUMNS = (
    "receipt_id, turn_id, persona, enclave_id, time, outcome, commitments, receipt, proof, "
    "problem, seal_key, thread, persona_digest, cose"
)
_ERASURE = (
    "receipt_id, request_id, persona, thread, time, enclave_id, receipt, proof, cose, scope, "
    "asked, target"
)


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
            self._database = open_database(path)
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"the device folder {path} cannot be used ({error}); choose one that you can "
                "write with --home or SOTTO_HOME"
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def thread(self, persona: str) -> int:
        """The number of this user's thread with a persona: how often one was forgotten."""
        rows = self._execute("SELECT thread FROM threads WHERE persona = ?", (persona,))
        return int(rows[0][0]) if rows else 0

    def thread_key(self, persona: str, thread: int | None = None) -> bytes:
        """The key of a thread with a persona, 32 bytes; of the present one if none is named."""
        number = self.thread(persona) if thread is None else thread
        return derive_thread_key(self._master, persona, number)

    def thread_keys(self, persona: str, thread: int | None = None) -> ThreadKeys:
        """What is derived from that key."""
        return ThreadKeys(self.thread_key(persona, thread))

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

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block's statements, or none."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            with contextlib.suppress(SottoError):
                self._execute("ROLLBACK")
            raise

    def position(self, persona: str) -> str | None:
        """The last place in the memory chain that this device saw."""
        rows = self._execute("SELECT position FROM threads WHERE persona = ?", (persona,))
        return str(rows[0][0]) or None if rows else None

    def knows(self, persona: str) -> bool:
        """Whether this device has a conversation with a persona, or has seen its handle."""
        return (
            self.position(persona) is not None
            or self.thread(persona) > 0
            or self.pin(persona) is not None
            or any(row.persona == persona for row in self.receipts())
        )

    def set_position(self, persona: str, position: str, thread: int | None = None) -> None:
        """Remember where the chain stands; an earlier place than the one known is not taken.

        Answers can arrive out of order. A device that went back would let a store go back too.
        The place of a thread that has been forgotten meanwhile is not taken either.
        """
        number = self.thread(persona) if thread is None else thread
        # The text begins with the length, which is what a cast to INTEGER reads.
        self._execute(
            "INSERT INTO threads (persona, position, thread) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET position = excluded.position "
            "WHERE excluded.thread = thread "
            "AND CAST(excluded.position AS INTEGER) > CAST(position AS INTEGER)",
            (persona, position, number),
        )

    def keep_enclave(self, enclave_id: str, bundle: bytes, proof: str) -> None:
        """Keep a verified bundle, for disclosures later."""
        self._execute(
            "INSERT OR IGNORE INTO enclaves (enclave_id, bundle, proof) VALUES (?, ?, ?)",
            (enclave_id, bundle, proof),
        )

    def follow_enclave(self, enclave_id: str, later: str) -> None:
        """Note which kept bundle is the first of the same keys after this one."""
        self._execute(
            "UPDATE enclaves SET next = ? WHERE enclave_id = ? AND next IS NULL",
            (later, enclave_id),
        )

    def later(self, enclave_id: str) -> tuple[bytes, str] | None:
        """The bundle of the epoch after this one and its proof; None where it is not here."""
        rows = self._execute(
            "SELECT l.bundle, l.proof FROM enclaves e JOIN enclaves l ON l.enclave_id = e.next "
            "WHERE e.enclave_id = ?",
            (enclave_id,),
        )
        return (bytes(rows[0][0]), str(rows[0][1])) if rows else None

    def enclave(self, enclave_id: str) -> tuple[bytes, str]:
        """A kept bundle and its proof; KeyError where it is not here."""
        rows = self._execute(
            "SELECT bundle, proof FROM enclaves WHERE enclave_id = ?", (enclave_id,)
        )
        if not rows:
            raise KeyError(enclave_id)
        bundle, proof = rows[0]
        return bytes(bundle), str(proof)

    def pins(self) -> list[HandlePin]:
        """Published handles that this device has seen, by name."""
        rows = self._execute("SELECT handle, key, number, step FROM handles ORDER BY handle")
        return [HandlePin(*row) for row in rows]

    def pin(self, handle: str) -> HandlePin | None:
        """What this device has seen of a published handle."""
        return next((one for one in self.pins() if one.handle == handle), None)

    def keep_pin(self, pin: HandlePin) -> None:
        """Remember a newer step of a handle; an older one than the one known is not taken."""
        self._execute(
            "INSERT INTO handles (handle, key, number, step) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET key = excluded.key, number = excluded.number, "
            "step = excluded.step WHERE excluded.number > number",
            astuple(pin),
        )

    def expect_receipt(self, row: ReceiptRow, told: Told | None = None) -> None:
        """Note a finished turn whose receipt is on its way, and what was said in it.

        Where the turn was sealed again meanwhile, its receipt may commit to that exchange.
        """
        marks = ",".join("?" * len(_COLUMNS.split(",")))
        with self._transaction():
            found = self.receipt(row.receipt_id)
            if found is not None and found.receipt is not None:
                return
            self._execute(
                f"INSERT INTO receipts ({_COLUMNS}) VALUES ({marks}) "  # noqa: S608 - constants
                "ON CONFLICT DO UPDATE SET commitments = excluded.commitments",
                astuple(row),
            )
            # A turn that ends after its thread was forgotten leaves no text behind.
            forgotten = row.turn_id and self._is_forgotten(row.persona, row.thread)
            if told is not None and not forgotten:
                self._keep_told(row.receipt_id, told)

    def _keep_told(self, receipt_id: str, told: Told) -> None:
        self._execute(
            "INSERT OR REPLACE INTO said VALUES (?, ?, ?)",
            (receipt_id, told.request, told.response),
        )
        for number, one in enumerate(told.sealings):
            self._execute(
                "INSERT OR REPLACE INTO sealings VALUES (?, ?, ?, ?, ?)",
                (receipt_id, number, *astuple(one)),
            )

    def sealings(self, receipt_id: str) -> list[Sealing]:
        """To whom a turn was sealed and the salts, as long as they are kept."""
        rows = self._execute(
            "SELECT enclave_id, request_salt, response_salt FROM sealings WHERE receipt_id = ? "
            "ORDER BY number",
            (receipt_id,),
        )
        return [Sealing(*row) for row in rows]

    def said(self, receipt_id: str) -> Said | None:
        """What was said, with the salts of the receipt's commitments; None where it is not kept,
        or the receipt is not here yet."""
        rows = self._execute(
            "SELECT request, request_salt, response, response_salt "
            "FROM said JOIN sealings USING (receipt_id) JOIN receipts USING (receipt_id) "
            "WHERE receipt_id = ? AND receipt IS NOT NULL",
            (receipt_id,),
        )
        return Said(*rows[0]) if len(rows) == 1 else None

    def disclosable(self, receipt_id: str, *, with_text: bool = False) -> Disclosure:
        """What a stranger needs to verify a receipt; with the text only where its owner wants.

        Raises:
            SottoError: There is no such receipt, it is not settled yet, or its text is not kept.
        """
        row = self.receipt(receipt_id)
        if row is None:
            raise SottoError(f"there is no receipt {receipt_id} here", code="receipt_unknown")
        if row.receipt is None or row.proof is None:
            raise SottoError(
                f"the receipt {row.receipt_id} is {row.status}; it can be saved when it is "
                "settled, a moment after the answer",
                code="receipt_not_settled",
            )
        said = self.said(receipt_id) if with_text else None
        if with_text and said is None:
            raise SottoError(
                f"what was said under the receipt {row.receipt_id} is not kept here: it was "
                "forgotten, or an earlier version of Sottovoce kept the receipt alone",
                code="text_not_kept",
            )
        bundle, proof = self.enclave(row.enclave_id)
        later = self.later(row.enclave_id)
        return Disclosure(
            receipt=row.receipt,
            receipt_proof=row.proof,
            cose_receipt=row.cose or b"",
            bundle=bundle,
            bundle_proof=proof,
            later=Later(*later) if later is not None else None,
            said=said,
        )

    def keep_receipt(
        self, receipt_id: str, enclave_id: str, receipt: bytes, sealing: int = 0
    ) -> None:
        """Keep a verified receipt, which enclave signed it, and which sealing it commits to.

        The salts of others are deleted: no receipt carries their commitments.
        """
        with self._transaction():
            self._execute(
                "UPDATE receipts SET receipt = ?, enclave_id = ?, seal_key = NULL "
                "WHERE receipt_id = ?",
                (receipt, enclave_id, receipt_id),
            )
            self._execute(
                "DELETE FROM sealings WHERE receipt_id = ? AND number <> ?", (receipt_id, sealing)
            )
            row = self.receipt(receipt_id)
            erased = self._erased(row.persona) if row is not None and row.turn_id else ()
            # A turn that was erased before its receipt came.
            if erased and _place(receipt) in erased:
                self._forget_said("(?)", (receipt_id,))

    def keep_proof(self, receipt_id: str, proof: str) -> None:
        """Keep a verified inclusion proof: the receipt is settled."""
        self._execute("UPDATE receipts SET proof = ? WHERE receipt_id = ?", (proof, receipt_id))

    def keep_cose(self, receipt_id: str, cose: bytes) -> None:
        """Keep the log's verified COSE receipt, of a turn's receipt or of an erasure's."""
        for table in ("receipts", "erasures"):
            self._execute(
                f"UPDATE {table} SET cose = ? WHERE receipt_id = ?",  # noqa: S608 - constants
                (cose, receipt_id),
            )

    def refuse_receipt(self, receipt_id: str, problem: str) -> None:
        """Note that what came is not this turn's receipt; its words cannot be shown to anybody."""
        with self._transaction():
            self._execute(
                "UPDATE receipts SET problem = ?, seal_key = NULL WHERE receipt_id = ?",
                (problem, receipt_id),
            )
            # Nor would the device learn which turn they are of, if that is forgotten.
            self._forget_said("(?)", (receipt_id,))

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

    def begin_erasure(
        self,
        persona: str,
        request_id: str,
        now: int,
        *,
        scope: Scope = Scope.THREAD,
        asked: str = "",
    ) -> ErasureRow:
        """Note that the present thread with a persona, or some of it, is to be forgotten.

        Where that was begun before and not brought to its end, it is the same erasure again. A
        rotation gets a number for the thread that goes on, which nothing else gets.

        Raises:
            SottoError: A rotation that was begun for something else is not at its end (code
                `rotation_pending`).
        """
        with self._transaction():
            thread = self.thread(persona)
            for row in self.pending_erasures(persona):
                if (row.thread, row.scope) != (thread, scope):
                    continue
                if row.asked == asked:
                    return row
                if scope is Scope.ROTATION:
                    raise SottoError(
                        "another import or rotation of this conversation is not at its end",
                        code="rotation_pending",
                    )
            keys = self.thread_keys(persona, thread)
            receipt_id = keys.erasure_id(bytes.fromhex(request_id)).hex()
            target = self._reserve(persona, thread) if scope is Scope.ROTATION else None
            row = ErasureRow(
                receipt_id,
                request_id,
                persona,
                thread,
                now,
                scope=scope,
                asked=asked,
                target=target,
            )
            marks = ",".join("?" * len(_ERASURE.split(",")))
            self._execute(
                f"INSERT INTO erasures ({_ERASURE}) VALUES ({marks})",  # noqa: S608 - constants
                astuple(row),
            )
        return row

    def _reserve(self, persona: str, thread: int) -> int:
        """A thread's number that was never given."""
        rows = self._execute("SELECT next FROM threads WHERE persona = ?", (persona,))
        target = max(thread + 1, int(rows[0][0]) if rows else 0)
        self._execute(
            "INSERT INTO threads (persona, position, thread, next) VALUES (?, '', ?, ?) "
            "ON CONFLICT DO UPDATE SET next = excluded.next",
            (persona, thread, target + 1),
        )
        return target

    def abandon_erasure(self, row: ErasureRow) -> None:
        """Forget that an erasure was begun. A number that a rotation had is not given again."""
        self._execute(
            "DELETE FROM erasures WHERE receipt_id = ? AND receipt IS NULL", (row.receipt_id,)
        )

    def finish_erasure(
        self,
        row: ErasureRow,
        enclave_id: str,
        receipt: bytes,
        erased_at: int,
        *,
        position: str = "",
        places: Iterable[int] = (),
    ) -> ErasureRow:
        """Keep a verified erasure receipt, and forget here what was forgotten there.

        Of a thread: what was said in it, and the next one begins. Of records: what was said in the
        turns at `places`. After a rotation nothing is forgotten, and the thread goes on under its
        new number at `position`. Receipts stay, with commitments that nobody can open any more.
        """
        with self._transaction():
            self._execute(
                "UPDATE erasures SET receipt = ?, enclave_id = ?, time = ? WHERE receipt_id = ?",
                (receipt, enclave_id, erased_at, row.receipt_id),
            )
            match Scope(row.scope):
                case Scope.THREAD:
                    self._forget_texts(row.persona, row.thread)
                    self._go_to(row.persona, self._reserve(row.persona, row.thread), "")
                case Scope.ROTATION:
                    self._go_to(row.persona, row.target or row.thread + 1, position)
                case Scope.RECORDS:
                    self._note_erased(row.persona, row.thread, places)
        self._checkpoint()
        return replace(row, enclave_id=enclave_id, receipt=receipt, time=erased_at)

    def _go_to(self, persona: str, thread: int, position: str) -> None:
        """Go on with the thread of this number; never with an earlier one."""
        self._execute(
            "INSERT INTO threads (persona, position, thread) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET position = excluded.position, thread = excluded.thread "
            "WHERE excluded.thread > thread",
            (persona, position, thread),
        )

    def move_on(self, persona: str, thread: int) -> bool:
        """Another device of this person forgot the thread of this number, or rotated its key: go on
        with the next one. False where this device is about to do so itself, or has done it.
        """
        with self._transaction():
            begun = any(
                (row.thread, row.scope) == (thread, Scope.THREAD)
                for row in self.pending_erasures(persona)
            )
            if begun or self.thread(persona) != thread:
                return False
            self._go_to(persona, thread + 1, "")
        return True

    def forget_texts(self, persona: str, thread: int) -> None:
        """Forget what was said in the threads with a persona up to this number."""
        with self._transaction():
            self._forget_texts(persona, thread)
        self._checkpoint()

    def _forget_texts(self, persona: str, thread: int) -> None:
        # Threads before it were forgotten, or rotated into it. Of completions with the persona,
        # which belong to no thread, the text goes as well.
        self._forget_said(
            "(SELECT receipt_id FROM receipts WHERE persona = ? AND (thread <= ? OR turn_id = ''))",
            (persona, thread),
        )
        self._execute("DELETE FROM erased WHERE persona = ?", (persona,))

    def _forget_said(self, chosen: str, values: tuple[object, ...]) -> None:
        for table in ("said", "sealings"):
            self._execute(
                f"DELETE FROM {table} WHERE receipt_id IN {chosen}",  # noqa: S608 - constants
                values,
            )

    def note_erased(self, persona: str, thread: int, places: Iterable[int]) -> int:
        """Forget what was said in the turns at these places of a thread, also of those whose
        receipt comes later; how many texts went.
        """
        with self._transaction():
            forgotten = self._note_erased(persona, thread, places)
        if forgotten:
            self._checkpoint()
        return forgotten

    def _note_erased(self, persona: str, thread: int, places: Iterable[int]) -> int:
        new = set(places) - self._erased(persona)
        # An answer about an earlier thread may come late; places in the present one are others'.
        for place in new if thread == self.thread(persona) else ():
            self._execute("INSERT INTO erased VALUES (?, ?)", (persona, place))
        rows = self._execute(
            "SELECT receipt_id, receipt FROM receipts JOIN said USING (receipt_id) "
            "WHERE persona = ? AND thread <= ? AND turn_id <> '' AND receipt IS NOT NULL",
            (persona, thread if new else -1),
        )
        gone = [one for one, receipt in rows if _place(receipt) in new]
        for receipt_id in gone:
            self._forget_said("(?)", (receipt_id,))
        return len(gone)

    def _erased(self, persona: str) -> set[int]:
        """Places of the present thread that were erased; a rotation leaves each where it was."""
        rows = self._execute("SELECT place FROM erased WHERE persona = ?", (persona,))
        return {int(place) for (place,) in rows}

    def erased_count(self, persona: str) -> int:
        """How many records of the present thread this device knows to be erased."""
        return len(self._erased(persona))

    def _is_forgotten(self, persona: str, thread: int) -> bool:
        """Whether what was said in a thread is not in the present one."""
        rotated = {
            row.thread: row.target
            for row in self.erasures()
            if row.persona == persona and row.scope == Scope.ROTATION and row.receipt is not None
        }
        present = self.thread(persona)
        while thread < present and (target := rotated.get(thread)) is not None:
            thread = target
        return thread != present

    def _checkpoint(self) -> None:
        # Or the text would stay in the journal for a while. Another program that reads the
        # database now delays it, and its own end does it then.
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def pending_erasures(self, persona: str) -> list[ErasureRow]:
        """Erasures that were begun with a persona and have no receipt yet, oldest first."""
        return [row for row in self.erasures() if row.persona == persona and row.receipt is None]

    def keep_erasure_proof(self, receipt_id: str, proof: str) -> None:
        """Keep the verified inclusion proof of an erasure's receipt: it is settled."""
        self._execute("UPDATE erasures SET proof = ? WHERE receipt_id = ?", (proof, receipt_id))

    def erasures(self) -> list[ErasureRow]:
        """All erasures, oldest first."""
        query = f"SELECT {_ERASURE} FROM erasures ORDER BY time, rowid"  # noqa: S608 - constants
        return [ErasureRow(*row) for row in self._execute(query)]

    def erasure(self, receipt_id: str) -> ErasureRow | None:
        """One erasure by its receipt's id."""
        return next((row for row in self.erasures() if row.receipt_id == receipt_id), None)

    def append_verdict(
        self,
        receipt_id: str,
        evaluated_at: int,
        policy: bytes,
        holds: bool,
        verdicts: Sequence[Verdict],
    ) -> bool:
        """Add what was found to a receipt's history, where it is not what was found last.

        Args:
            receipt_id: The receipt.
            evaluated_at: Unix seconds, as of which it was judged.
            policy: Digest of the policy, 32 bytes.
            holds: Whether it held.
            verdicts: In fixed order.

        Returns:
            Whether it was added.
        """
        told = orjson.dumps([one.to_json() for one in verdicts]).decode()
        row = VerdictRow(receipt_id, evaluated_at, policy.hex(), holds, told)
        with self._transaction():
            history = self.verdicts(receipt_id)
            if history and history[-1].outcome == row.outcome:
                return False
            self._execute("INSERT INTO verdicts VALUES (?, ?, ?, ?, ?)", astuple(row))
        return True

    def verdicts(self, receipt_id: str) -> list[VerdictRow]:
        """A receipt's history of verdicts, in the order in which they were found."""
        rows = self._execute(
            "SELECT receipt_id, evaluated_at, policy, holds, verdicts FROM verdicts "
            "WHERE receipt_id = ? ORDER BY rowid",
            (receipt_id,),
        )
        return [
            VerdictRow(one, at, policy, bool(holds), told) for one, at, policy, holds, told in rows
        ]


def _place(receipt: bytes) -> int:
    """Where a receipt's turn stands in its thread."""
    return decode_receipt(receipt).unverified.turn_index


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
