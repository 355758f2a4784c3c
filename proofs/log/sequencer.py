"""Gives entries their place in the log and the proofs of it, each entry once."""

from __future__ import annotations

import hmac
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from proofs import merkle
from proofs.cosereceipt import sign_root
from proofs.errors import LogError
from proofs.log.index import EntryIndex
from proofs.log.store import LogStore
from proofs.note import parse_note
from proofs.tlogproof import TlogProof


@dataclass(frozen=True, slots=True)
class Sequenced:
    """An entry's place, proven against what is published.

    Attributes:
        id: The name that it was handed in under.
        index: Its index in the log.
        proof: Text of its c2sp.org/tlog-proof.
        cose: Its COSE receipt, of the same tree head.
    """

    id: str
    index: int
    proof: str
    cose: bytes


class Sequencer:
    """Takes batches through a store: commit, (cosign,) publish, prove.

    Blocking: it waits for the disk. One step at a time; between commit and publish only
    `consistency` may be called, from any thread.

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
        """How many entries are committed."""
        return self._store.head.size

    @property
    def signed_head(self) -> str:
        """The committed head, signed by the log alone: what witnesses are asked to cosign."""
        return self._store.signed_head

    @property
    def is_published(self) -> bool:
        """Whether the committed head is what is served."""
        return self._store.is_published

    def close(self) -> None:
        """Let go of the folder."""
        self._index.close()
        self._store.close()

    def commit(self, batch: Sequence[tuple[str, bytes]]) -> list[tuple[str, int]]:
        """Log a batch of `(id, entry)`; an entry that is there already keeps its place.

        Returns:
            Id and index of each of the batch, in its order. Durable, and not yet served.

        Raises:
            LogError: The store failed, and must be opened again.
        """
        try:
            places = {entry: self._find(entry) for _, entry in batch}
            # The first id of an entry is the one that is kept.
            names = {entry: name for name, entry in reversed(batch)}
            fresh = [entry for entry, place in places.items() if place is None]
            start = self.size
            if fresh:
                self._store.commit(fresh)
                self._index.add(start, [(names[entry], entry) for entry in fresh])
            known = [(names[entry], entry) for entry, at in places.items() if at is not None]
            if known:
                self._index.name(known)
        except sqlite3.Error as error:
            raise LogError(
                f"The log's index failed ({error}). Check the disk's space; a start repairs it."
            ) from error
        found = {entry: start + offset for offset, entry in enumerate(fresh)}
        found |= {entry: place for entry, place in places.items() if place is not None}
        return [(name, found[entry]) for name, entry in batch]

    def consistency(self, size: int) -> list[bytes]:
        """The proof that the committed tree grew from one of `size`; empty from an empty one.

        Raises:
            LogError: It never had that size, or a tile cannot be read.
        """
        if not 0 <= size <= self.size:
            raise LogError(f"The log has {self.size} entries, and {size} were asked about.")
        if size == 0:
            return []
        return merkle.consistency_proof(size, self.size, self._store.tree.subtree)

    def publish(self, note: str, now: Callable[[], float] = time.time) -> None:
        """Serve the committed head as `note`, which may have been cosigned.

        Raises:
            LogError: It is another head, or the store failed and must be opened again.
        """
        self._store.publish(note, int(now() * 1000))

    def prove(self, places: Sequence[tuple[str, int]]) -> list[Sequenced]:
        """Proofs of published entries, all against what is served now.

        Args:
            places: As `commit` returned them.
        """
        served = self._store.served
        note, root = parse_note(self._store.published), sign_root(served, self._store.signer)
        # Paths of neighbours share nearly all of their hashes.
        subtree = cache(self._store.tree.subtree)
        proven = []
        for name, index in places:
            path = tuple(merkle.inclusion_proof(index, served.size, subtree))
            proof = TlogProof(index, path, note).format()
            proven.append(Sequenced(name, index, proof, root.receipt(index, path)))
        return proven

    def _find(self, entry: bytes) -> int | None:
        place = self._index.find(entry)
        if place is not None and not hmac.compare_digest(
            self._store.tree.subtree(place, place + 1), merkle.leaf_hash(entry)
        ):
            raise LogError("The log's index names a wrong place. Delete index.sqlite and start.")
        return place
