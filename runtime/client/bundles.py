"""Attestation bundles that a device verified, kept for disclosures later."""

from __future__ import annotations

from runtime.client.database import Database


class Bundles:
    """Verified bundles with their log proofs, by the enclave's id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, enclave_id: str, bundle: bytes, proof: str) -> None:
        """Keep a verified bundle; the first under an id stays."""
        self._database.execute(
            "INSERT OR IGNORE INTO enclaves (enclave_id, bundle, proof) VALUES (?, ?, ?)",
            (enclave_id, bundle, proof),
        )

    def follow(self, enclave_id: str, later: str) -> None:
        """Note which kept bundle is the first of the same keys after this one."""
        self._database.execute(
            "UPDATE enclaves SET next = ? WHERE enclave_id = ? AND next IS NULL",
            (later, enclave_id),
        )

    def get(self, enclave_id: str) -> tuple[bytes, str]:
        """A kept bundle and its proof; KeyError where it is not here."""
        rows = self._database.execute(
            "SELECT bundle, proof FROM enclaves WHERE enclave_id = ?", (enclave_id,)
        )
        if not rows:
            raise KeyError(enclave_id)
        bundle, proof = rows[0]
        return bytes(bundle), str(proof)

    def later(self, enclave_id: str) -> tuple[bytes, str] | None:
        """The bundle of the epoch after this one and its proof; None where it is not here."""
        rows = self._database.execute(
            "SELECT l.bundle, l.proof FROM enclaves e JOIN enclaves l ON l.enclave_id = e.next "
            "WHERE e.enclave_id = ?",
            (enclave_id,),
        )
        return (bytes(rows[0][0]), str(rows[0][1])) if rows else None
