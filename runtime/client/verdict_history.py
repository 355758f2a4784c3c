"""What was found of receipts, each time that it changed: never rewritten, never deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from proofs.verdict import Verdict
from runtime.client.database import Database
from runtime.client.rows import VerdictRow


class VerdictHistory:
    """Verdicts on receipts, by receipt."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
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
        with self._database.transaction():
            history = self.of(receipt_id)
            if history and history[-1].outcome == row.outcome:
                return False
            self._database.insert("verdicts", row)
        return True

    def of(self, receipt_id: str) -> list[VerdictRow]:
        """A receipt's history of verdicts, in the order in which they were found."""
        rows = self._database.select(
            VerdictRow, "verdicts", "WHERE receipt_id = ? ORDER BY rowid", (receipt_id,)
        )
        return [replace(row, holds=bool(row.holds)) for row in rows]  # SQLite has no booleans
