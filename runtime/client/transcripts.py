"""What was said, with the salts that let its owner show it to others; and what of it was erased.

Statements only: whoever calls has a transaction open, and checkpoints after what was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple

from proofs.disclosure import Said
from proofs.receipt import decode_receipt
from runtime.client.database import Database
from runtime.client.rows import Sealing, Told


class Transcripts:
    """Texts of turns and completions, by the id of their receipt."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, receipt_id: str, told: Told) -> None:
        """Keep what was said, with the salts of each time that it was sealed."""
        self._database.execute(
            "INSERT OR REPLACE INTO said VALUES (?, ?, ?)",
            (receipt_id, told.request, told.response),
        )
        for number, one in enumerate(told.sealings):
            self._database.execute(
                "INSERT OR REPLACE INTO sealings VALUES (?, ?, ?, ?, ?)",
                (receipt_id, number, *astuple(one)),
            )

    def sealings(self, receipt_id: str) -> list[Sealing]:
        """To whom a turn was sealed and the salts, as long as they are kept."""
        which = "WHERE receipt_id = ? ORDER BY number"
        return self._database.select(Sealing, "sealings", which, (receipt_id,))

    def bind(self, receipt_id: str, receipt: bytes, sealing: int, persona: str | None) -> bool:
        """A receipt came for one of the sealings; the salts of others are deleted.

        No receipt carries their commitments. Where the turn is one with a persona and was erased
        before its receipt came, its text goes as well; whether it did.
        """
        self._database.execute(
            "DELETE FROM sealings WHERE receipt_id = ? AND number <> ?", (receipt_id, sealing)
        )
        erased = self.erased(persona) if persona is not None else ()
        gone = bool(erased) and _place(receipt) in erased
        if gone:
            self.forget(receipt_id)
        return gone

    def said(self, receipt_id: str) -> Said | None:
        """What was said, with the salts of the receipt's commitments; None where it is not kept,
        or the receipt is not here yet."""
        rows = self._database.execute(
            "SELECT request, request_salt, response, response_salt "
            "FROM said JOIN sealings USING (receipt_id) JOIN receipts USING (receipt_id) "
            "WHERE receipt_id = ? AND receipt IS NOT NULL",
            (receipt_id,),
        )
        return Said(*rows[0]) if len(rows) == 1 else None

    def forget(self, receipt_id: str) -> None:
        """Forget what was said under a receipt."""
        self._forget("(?)", (receipt_id,))

    def forget_threads(self, persona: str, thread: int) -> None:
        """Forget what was said in the threads with a persona up to this number."""
        # Threads before it were forgotten, or rotated into it. Of completions with the persona,
        # which belong to no thread, the text goes as well.
        self._forget(
            "(SELECT receipt_id FROM receipts WHERE persona = ? AND (thread <= ? OR turn_id = ''))",
            (persona, thread),
        )
        self._database.execute("DELETE FROM erased WHERE persona = ?", (persona,))

    def _forget(self, chosen: str, values: tuple[object, ...]) -> None:
        for table in ("said", "sealings"):
            self._database.execute(
                f"DELETE FROM {table} WHERE receipt_id IN {chosen}",  # noqa: S608 - constants
                values,
            )

    def erased(self, persona: str) -> set[int]:
        """Places of the present thread that were erased; a rotation leaves each where it was."""
        rows = self._database.execute("SELECT place FROM erased WHERE persona = ?", (persona,))
        return {int(place) for (place,) in rows}

    def erase(self, persona: str, thread: int, places: Iterable[int], *, present: bool) -> int:
        """Forget what was said in the turns at these places of a thread; how many texts went.

        Where it is the present one, also of turns whose receipt comes later.
        """
        new = set(places) - self.erased(persona)
        # An answer about an earlier thread may come late; places in the present one are others'.
        for place in new if present else ():
            self._database.execute("INSERT INTO erased VALUES (?, ?)", (persona, place))
        rows = self._database.execute(
            "SELECT receipt_id, receipt FROM receipts JOIN said USING (receipt_id) "
            "WHERE persona = ? AND thread <= ? AND turn_id <> '' AND receipt IS NOT NULL",
            (persona, thread if new else -1),
        )
        gone = [one for one, receipt in rows if _place(receipt) in new]
        for receipt_id in gone:
            self.forget(receipt_id)
        return len(gone)


def _place(receipt: bytes) -> int:
    """Where a receipt's turn stands in its thread."""
    return decode_receipt(receipt).unverified.turn_index
