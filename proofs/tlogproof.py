"""Transparency log proofs, c2sp.org/tlog-proof@v1: an entry's inclusion, verifiable offline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proofs import b64, merkle
from proofs.checkpoint import Checkpoint, verify_checkpoint
from proofs.errors import RefusedError, UnreadableError
from proofs.note import MAX_NOTE, Note, VerifierKey, parse_note

MAX_PROOF = MAX_NOTE + 64 * 1024
_MAX_EXTRA = 32 * 1024
_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A proof that some entry stands in a log.

    Attributes:
        index: The entry's index, from 0.
        path: The inclusion proof, from the leaf's sibling upwards.
        checkpoint: The signed checkpoint of a tree that holds the entry.
        extra: Opaque data that nothing authenticates; never trusted here.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: Note
    extra: bytes | None = None

    def format(self) -> str:
        """The proof's text."""
        extra = [] if self.extra is None else [f"extra {b64.encode(self.extra)}"]
        path = (b64.encode(p) for p in self.path)
        return "\n".join([_HEADER, *extra, f"index {self.index}", *path, "", ""]) + (
            self.checkpoint.format()
        )

    def verify(self, entry: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
        """The checkpoint, if a log of `keys` signed it and its tree holds `entry` at the index.

        Raises:
            UnreadableError: The note's text is no checkpoint.
            RefusedError: The signature or the path does not hold.
        """
        checkpoint = verify_checkpoint(self.checkpoint, keys)
        leaf = merkle.leaf_hash(entry)
        if not merkle.verify_inclusion(
            self.index, checkpoint.size, leaf, self.path, checkpoint.root
        ):
            raise RefusedError("The path does not lead to the checkpoint's root. Refuse the proof.")
        return checkpoint


def parse_tlog_proof(data: str) -> TlogProof:
    """Parse a proof's text.

    Raises:
        UnreadableError: Not a proof, or one that does not re-encode to itself.
    """
    if len(data) > MAX_PROOF:
        raise UnreadableError(f"The log proof has more than {MAX_PROOF} characters. Refuse it.")
    head, blank, checkpoint = data.partition("\n\n")
    lines = head.split("\n")
    if not blank or lines.pop(0) != _HEADER or not lines:
        raise UnreadableError(f"The log proof does not start with '{_HEADER}'. Get it again.")
    extra = None
    if lines[0].startswith("extra "):
        extra = b64.decode(lines.pop(0).removeprefix("extra "), "the log proof's extra line")
        if len(extra) > _MAX_EXTRA:
            raise UnreadableError("The log proof's extra line is too long. Refuse it.")
    if not lines or not lines[0].startswith("index "):
        raise UnreadableError("The log proof has no index line. Get it again.")
    index = b64.decimal(lines.pop(0).removeprefix("index "), "the log proof's index")
    if len(lines) > merkle.MAX_PATH:
        raise UnreadableError("The log proof's path is longer than any tree is high. Refuse it.")
    path = tuple(b64.decode(line, "a hash of the log proof") for line in lines)
    if any(len(p) != merkle.HASH_SIZE for p in path):
        raise UnreadableError("A hash of the log proof has not 32 bytes. Get it again.")
    proof = TlogProof(index, path, parse_note(checkpoint), extra)
    if proof.format() != data:
        raise UnreadableError("The log proof does not re-encode to itself. Get it again.")
    return proof
