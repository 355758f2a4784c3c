"""What a device keeps: its master secret, where each thread stands, its receipts, and what was
said, with the salts that let its owner show it to others.

One folder, readable by its user alone. Whoever has the master secret has the memory: there is
no account to recover it with.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from memory.keys import ThreadKeys, derive_thread_key
from proofs.disclosure import Disclosure, Later
from proofs.erasure import Scope
from runtime.client.bundles import Bundles
from runtime.client.database import Database
from runtime.client.master import load_or_make
from runtime.client.pins import HandlePins
from runtime.client.rows import ErasureRow, ReceiptRow, Told
from runtime.client.transcripts import Transcripts
from runtime.client.verdict_history import VerdictHistory
from runtime.errors import SetupError, SottoError


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
            self._master = load_or_make(path)
            self.database = Database(path)
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"the device folder {path} cannot be used ({error}); choose one that you can "
                "write with --home or SOTTO_HOME"
            ) from error

        self.bundles = Bundles(self.database)
        self.pins = HandlePins(self.database)
        self.transcripts = Transcripts(self.database)
        self.verdicts = VerdictHistory(self.database)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def thread(self, persona: str) -> int:
        """The number of this user's thread with a persona: how often one was forgotten."""
        rows = self.database.execute("SELECT thread FROM threads WHERE persona = ?", (persona,))
        return int(rows[0][0]) if rows else 0

    def thread_key(self, persona: str, thread: int | None = None) -> bytes:
        """The key of a thread with a persona, 32 bytes; of the present one if none is named."""
        number = self.thread(persona) if thread is None else thread
        return derive_thread_key(self._master, persona, number)

    def thread_keys(self, persona: str, thread: int | None = None) -> ThreadKeys:
        """What is derived from that key."""
        return ThreadKeys(self.thread_key(persona, thread))

    def position(self, persona: str) -> str | None:
        """The last place in the memory chain that this device saw."""
        rows = self.database.execute("SELECT position FROM threads WHERE persona = ?", (persona,))
        return str(rows[0][0]) or None if rows else None

    def knows(self, persona: str) -> bool:
        """Whether this device has a conversation with a persona, or has seen its handle."""
        return (
            self.position(persona) is not None
            or self.thread(persona) > 0
            or self.pins.of(persona) is not None
            or any(row.persona == persona for row in self.receipts())
        )

    def set_position(self, persona: str, position: str, thread: int | None = None) -> None:
        """Remember where the chain stands; an earlier place than the one known is not taken.

        Answers can arrive out of order. A device that went back would let a store go back too.
        The place of a thread that has been forgotten meanwhile is not taken either; nor that of an
        empty one, which says nothing: this device would seem to have talked with that persona.
        """
        if position.startswith("0."):
            return
        number = self.thread(persona) if thread is None else thread
        # The text begins with the length, which is what a cast to INTEGER reads.
        self.database.execute(
            "INSERT INTO threads (persona, position, thread) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET position = excluded.position "
            "WHERE excluded.thread = thread "
            "AND CAST(excluded.position AS INTEGER) > CAST(position AS INTEGER)",
            (persona, position, number),
        )

    def expect_receipt(self, row: ReceiptRow, told: Told | None = None) -> None:
        """Note a finished turn whose receipt is on its way, and what was said in it.

        Where the turn was sealed again meanwhile, its receipt may commit to that exchange.
        """
        with self.database.transaction():
            found = self.receipt(row.receipt_id)
            if found is not None and found.receipt is not None:
                return
            again = "ON CONFLICT DO UPDATE SET commitments = excluded.commitments"
            self.database.insert("receipts", row, again)
            # A turn that ends after its thread was forgotten leaves no text behind.
            forgotten = row.turn_id and self._is_forgotten(row.persona, row.thread)
            if told is not None and not forgotten:
                self.transcripts.keep(row.receipt_id, told)

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
        said = self.transcripts.said(receipt_id) if with_text else None
        if with_text and said is None:
            raise SottoError(
                f"what was said under the receipt {row.receipt_id} is not kept here: it was "
                "forgotten, or an earlier version of Sottovoce kept the receipt alone",
                code="text_not_kept",
            )
        bundle, proof = self.bundles.get(row.enclave_id)
        later = self.bundles.later(row.enclave_id)
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
        with self.database.transaction():
            self.database.execute(
                "UPDATE receipts SET receipt = ?, enclave_id = ?, seal_key = NULL "
                "WHERE receipt_id = ?",
                (receipt, enclave_id, receipt_id),
            )
            row = self.receipt(receipt_id)
            of_thread = row.persona if row is not None and row.turn_id else None
            forgotten = self.transcripts.bind(receipt_id, receipt, sealing, of_thread)
        if forgotten:
            self.database.checkpoint()

    def keep_proof(self, receipt_id: str, proof: str) -> None:
        """Keep a verified inclusion proof: the receipt is settled."""
        self.database.execute(
            "UPDATE receipts SET proof = ? WHERE receipt_id = ?", (proof, receipt_id)
        )

    def keep_cose(self, receipt_id: str, cose: bytes) -> None:
        """Keep the log's verified COSE receipt, of a turn's receipt or of an erasure's."""
        for table in ("receipts", "erasures"):
            self.database.execute(
                f"UPDATE {table} SET cose = ? WHERE receipt_id = ?",  # noqa: S608 - constants
                (cose, receipt_id),
            )

    def refuse_receipt(self, receipt_id: str, problem: str) -> None:
        """Note that what came is not this turn's receipt; its words cannot be shown to anybody."""
        with self.database.transaction():
            self.database.execute(
                "UPDATE receipts SET problem = ?, seal_key = NULL WHERE receipt_id = ?",
                (problem, receipt_id),
            )
            # Nor would the device learn which turn they are of, if that is forgotten.
            self.transcripts.forget(receipt_id)
        self.database.checkpoint()

    def receipts(self) -> Iterator[ReceiptRow]:
        """All receipts, oldest first."""
        yield from self.database.select(ReceiptRow, "receipts", "ORDER BY time, rowid")

    def receipt(self, receipt_id: str) -> ReceiptRow | None:
        """One receipt by id."""
        which = "WHERE receipt_id = ?"
        rows = self.database.select(ReceiptRow, "receipts", which, (receipt_id,))
        return rows[0] if rows else None

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
        with self.database.transaction():
            thread = self.thread(persona)
            for row in self.pending_erasures(persona, scope, thread):
                if row.asked == asked:
                    return row
                if scope is Scope.ROTATION:
                    raise SottoError(
                        "another import or rotation of this conversation is not at its end",
                        code="rotation_pending",
                    )
            keys = self.thread_keys(persona, thread)
            receipt_id = keys.erasure_id(bytes.fromhex(request_id)).hex()
            row = ErasureRow(receipt_id, request_id, persona, thread, now, scope=scope, asked=asked)
            if scope is Scope.ROTATION:
                row = replace(row, target=self._reserve(persona, thread))
            self.database.insert("erasures", row)
        return row

    def _reserve(self, persona: str, thread: int) -> int:
        """A thread's number that was never given."""
        rows = self.database.execute("SELECT next FROM threads WHERE persona = ?", (persona,))
        target = max(thread + 1, int(rows[0][0]) if rows else 0)
        self.database.execute(
            "INSERT INTO threads (persona, position, thread, next) VALUES (?, '', ?, ?) "
            "ON CONFLICT DO UPDATE SET next = excluded.next",
            (persona, thread, target + 1),
        )
        return target

    def abandon_erasure(self, row: ErasureRow) -> None:
        """Forget that an erasure was begun. A number that a rotation had is not given again."""
        self.database.execute(
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
        with self.database.transaction():
            self.database.execute(
                "UPDATE erasures SET receipt = ?, enclave_id = ?, time = ? WHERE receipt_id = ?",
                (receipt, enclave_id, erased_at, row.receipt_id),
            )
            match Scope(row.scope):
                case Scope.THREAD:
                    self.transcripts.forget_threads(row.persona, row.thread)
                    self._go_to(row.persona, self._reserve(row.persona, row.thread), "")
                case Scope.ROTATION:
                    self._go_to(row.persona, row.following, position)
                case Scope.RECORDS:
                    self._erase(row.persona, row.thread, places)
        self.database.checkpoint()
        return replace(row, enclave_id=enclave_id, receipt=receipt, time=erased_at)

    def _go_to(self, persona: str, thread: int, position: str) -> None:
        """Go on with the thread of this number; never with an earlier one."""
        self.database.execute(
            "INSERT INTO threads (persona, position, thread) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET position = excluded.position, thread = excluded.thread "
            "WHERE excluded.thread > thread",
            (persona, position, thread),
        )

    def move_on(self, persona: str, thread: int) -> bool:
        """Another device of this person forgot the thread of this number, or rotated its key: go on
        with the next one. False where this device is about to do so itself, or has done it.
        """
        with self.database.transaction():
            begun = self.pending_erasures(persona, Scope.THREAD, thread)
            if begun or self.thread(persona) != thread:
                return False
            self._go_to(persona, thread + 1, "")
        return True

    def forget_texts(self, persona: str, thread: int) -> None:
        """Forget what was said in the threads with a persona up to this number."""
        with self.database.transaction():
            self.transcripts.forget_threads(persona, thread)
        self.database.checkpoint()

    def note_erased(self, persona: str, thread: int, places: Iterable[int]) -> int:
        """Forget what was said in the turns at these places of a thread, also of those whose
        receipt comes later; how many texts went.
        """
        with self.database.transaction():
            forgotten = self._erase(persona, thread, places)
        if forgotten:
            self.database.checkpoint()
        return forgotten

    def _erase(self, persona: str, thread: int, places: Iterable[int]) -> int:
        present = thread == self.thread(persona)
        return self.transcripts.erase(persona, thread, places, present=present)

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

    def pending_erasures(
        self, persona: str, scope: Scope | None = None, thread: int | None = None
    ) -> list[ErasureRow]:
        """Erasures that were begun with a persona and have no receipt yet, oldest first; only those
        of a scope, of the present thread or of this one, where a scope is named.
        """
        begun = [row for row in self.erasures() if row.persona == persona and row.receipt is None]
        wanted = (scope, self.thread(persona) if thread is None else thread)
        return [row for row in begun if scope is None or (row.scope, row.thread) == wanted]

    def keep_erasure_proof(self, receipt_id: str, proof: str) -> None:
        """Keep the verified inclusion proof of an erasure's receipt: it is settled."""
        self.database.execute(
            "UPDATE erasures SET proof = ? WHERE receipt_id = ?", (proof, receipt_id)
        )

    def erasures(self) -> list[ErasureRow]:
        """All erasures, oldest first."""
        return self.database.select(ErasureRow, "erasures", "ORDER BY time, rowid")

    def erasure(self, receipt_id: str) -> ErasureRow | None:
        """One erasure by its receipt's id."""
        return next((row for row in self.erasures() if row.receipt_id == receipt_id), None)
