"""Gives entries their place in the log and the proof of it, each entry once."""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from proofs import merkle
from proofs.errors import LogError
from proofs.log.index import EntryIndex
from proofs.log.store import LogStore
from proofs.note import parse_note
from proofs.tlogproof import TlogProof


@dataclass(frozen=True, slots=True)
class Sequenced:
    """An entry's place.

    Attributes:
        id: The name that it was handed in under.
        index: Its index in the log.
        proof: Text of its c2sp.org/tlog-proof.
    """

    id: str
    index: int
    proof: str


class Sequencer:
    """Appends batches to a store. Blocking: it waits for the disk.

    Args:
        store: The store; closed with the sequencer.

    Raises:
        LogError: The index beside the store is beyond repair.
    """

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._index = EntryIndex(store)

    @property
    def size(self) -> int:
        """How many entries the log has."""
        return self._store.head.size

    def close(self) -> None:
        """Let go of the folder."""
        self._index.close()
        self._store.close()

    def append(self, batch: Sequence[tuple[str, bytes]]) -> list[Sequenced]:
        """Log a batch of `(id, entry)`; an entry that is there already keeps its place.

        Returns:
            One result for each of the batch, in its order, all against one checkpoint.

        Raises:
            LogError: The store failed, and must be opened again.
        """
        try:
            places = {entry: self._find(entry) for _, entry in batch}
            fresh = [entry for entry, place in places.items() if place is None]
            start = self.size
            if fresh:
                self._store.append(fresh)
                self._index.add(start, fresh)
        except sqlite3.Error as error:
            raise LogError(
                f"The log's index failed ({error}). Check the disk's space; a start repairs it."
            ) from error
        found = {entry: start + offset for offset, entry in enumerate(fresh)}
        found |= {entry: place for entry, place in places.items() if place is not None}
        return [Sequenced(name, found[entry], self._prove(found[entry])) for name, entry in batch]

    def _find(self, entry: bytes) -> int | None:
        place = self._index.find(entry)
        if place is not None and not hmac.compare_digest(
            self._store.subtree(place, place + 1), merkle.leaf_hash(entry)
        ):
            raise LogError("The log's index names a wrong place. Delete index.sqlite and start.")
        return place

    def _prove(self, index: int) -> str:
        path = merkle.inclusion_proof(index, self.size, self._store.subtree)
        return TlogProof(index, tuple(path), parse_note(self._store.published)).format()
