"""Checkpoints, c2sp.org/tlog-checkpoint: a log's size and root, as the text of a signed note."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proofs import b64
from proofs.errors import RefusedError, UnreadableError
from proofs.merkle import HASH_SIZE
from proofs.note import Note, VerifierKey, parse_note


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head.

    Attributes:
        origin: The log's name.
        size: How many entries the tree has.
        root: The tree's root hash, 32 bytes.
        extensions: Further lines, opaque; our logs write none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def format(self) -> str:
        """The text of the note."""
        lines = (self.origin, str(self.size), b64.encode(self.root), *self.extensions)
        return "\n".join(lines) + "\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse the text of a checkpoint's note.

    Raises:
        UnreadableError: Not a checkpoint.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() or not all(lines):
        raise UnreadableError("A checkpoint has three or more lines, none empty. Get it again.")
    origin, size, encoded_root, *extensions = lines
    root = b64.decode(encoded_root, "the checkpoint's root hash")
    if len(root) != HASH_SIZE:
        raise UnreadableError("The checkpoint's root hash should have 32 bytes. Get it again.")
    return Checkpoint(origin, b64.decimal(size, "the checkpoint's size"), root, tuple(extensions))


def verify_checkpoint(note: Note, keys: Iterable[VerifierKey]) -> Checkpoint:
    """The checkpoint in `note`, if one of `keys` signed it under its own origin.

    Raises:
        UnreadableError: The note's text is no checkpoint.
        RefusedError: No such signature. A log signs for its own origin and no other, so a key
            counts only where its name is the origin.
    """
    checkpoint = parse_checkpoint(note.text)
    of_origin = [key for key in keys if key.name == checkpoint.origin]
    if not of_origin:
        raise RefusedError("The checkpoint is of a log whose key is not pinned. Pin it, or refuse.")
    note.verify(of_origin)
    return checkpoint


def open_checkpoint(data: str, keys: Iterable[VerifierKey]) -> Checkpoint:
    """Parse and verify a published checkpoint; raises as `parse_note` and `verify_checkpoint`."""
    return verify_checkpoint(parse_note(data), keys)
