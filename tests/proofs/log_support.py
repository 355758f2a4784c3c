"""What the tests of the log share: a key, entries, and a stranger's audit of a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import merkle
from proofs.checkpoint import Checkpoint, open_checkpoint
from proofs.log.sequencer import Sequenced, Sequencer
from proofs.note import Signer
from proofs.tiles import decode_entries, new_entry_bundles, tiles_of

LOG = Signer("log.example/one", Ed25519PrivateKey.from_private_bytes(b"\x03" * 32))


def entry(number: int) -> bytes:
    """An entry that every run has again."""
    return hashlib.sha256(str(number).encode()).digest()


def batch(*numbers: int) -> list[tuple[str, bytes]]:
    """Entries under ids."""
    return [(str(n), entry(n)) for n in numbers]


def settle(sequencer: Sequencer, leaves: list[tuple[str, bytes]]) -> list[Sequenced]:
    """All steps of a batch, without witnesses."""
    places = sequencer.commit(leaves)
    sequencer.publish(sequencer.signed_head)
    return sequencer.prove(places)


def audit_folder(folder: Path) -> tuple[Checkpoint, list[bytes]]:
    """Read a log as a stranger does: checkpoint, tiles and entries from the files alone."""
    head = open_checkpoint((folder / "checkpoint").read_text(), [LOG.verifier])
    entries = []
    for tile in new_entry_bundles(0, head.size):
        entries += decode_entries((folder / tile.path).read_bytes(), tile.width)
    leaves = [merkle.leaf_hash(e) for e in entries]
    assert len(entries) == head.size
    assert merkle.root(leaves) == head.root
    for tile in tiles_of(head.size):
        assert tile.level is not None
        span = 256**tile.level
        first = tile.index * 256
        expected = b"".join(
            merkle.root(leaves[i * span : (i + 1) * span]) for i in range(first, first + tile.width)
        )
        assert (folder / tile.path).read_bytes() == expected
    return head, entries
