"""The body of `add-checkpoint`, c2sp.org/tlog-witness, for both of its ends."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from proofs import b64
from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.errors import UnreadableError
from proofs.merkle import HASH_SIZE, MAX_PATH
from proofs.note import Note, parse_note

# 63 hashes, and a checkpoint with 16 signatures of at most 5 kB (c2sp.org/signed-note) in base64.
MAX_REQUEST = 128 * 1024
SIZE_TYPE = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request to cosign.

    Attributes:
        old: The size of the tree that the witness cosigned last.
        proof: The consistency proof from that tree to the new one.
        note: The new signed checkpoint.
        checkpoint: What stands in its text; believe it when the note is verified.
    """

    old: int
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint

    def format(self) -> str:
        """The body."""
        lines = [f"old {self.old}", *map(b64.encode, self.proof), ""]
        return "\n".join(lines) + "\n" + self.note.format()


def parse_add_checkpoint(data: bytes) -> AddCheckpoint:
    """Parse a body.

    Raises:
        UnreadableError: Not such a body, or one that does not re-encode to itself.
    """
    if len(data) > MAX_REQUEST:
        raise UnreadableError(f"The request has more than {MAX_REQUEST} bytes. Send fewer.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UnreadableError("The request is not UTF-8.") from error
    head, blank, published = text.partition("\n\n")
    first, *lines = head.split("\n")
    if not blank or not first.startswith("old "):
        raise UnreadableError("The request does not start with an old size and a proof.")
    old = b64.decimal(first.removeprefix("old "), "the old size")
    if len(lines) > MAX_PATH:
        raise UnreadableError(f"The proof has more than {MAX_PATH} hashes.")
    proof = tuple(b64.decode(line, "a hash of the proof") for line in lines)
    if any(len(p) != HASH_SIZE for p in proof):
        raise UnreadableError("A hash of the proof has not 32 bytes.")
    note = parse_note(published)
    request = AddCheckpoint(old, proof, note, parse_checkpoint(note.text))
    if request.format() != text:
        raise UnreadableError("The request does not re-encode to itself.")
    return request


def checkpoint_path(origin: str) -> str:
    """Where a witness serves what it cosigned of a log, under its monitoring prefix."""
    return f"/{sha256(origin.encode()).hexdigest()}/checkpoint"
