"""Derives a whole log anew from its files, and holds what it finds against what they say.

In one pass over the entries: each entry's hash against its tile, each tile against the one above
it, the root against the checkpoint, and on the way the tree as it was at an earlier checkpoint.
Memory does not grow with the log.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proofs import merkle
from proofs.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from proofs.cosignature import verify_cosignatures
from proofs.errors import ProofError, UnreadableError
from proofs.log.reader import LogReader
from proofs.note import COSIGNER_KEYS, NOTE_KEYS, Note, VerifierKey
from proofs.tiles import MAX_LEVEL, WIDTH, Tile, decode_entries

ENTRY_SIZE = 32
_MAX_PROBLEMS = 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """Something of the log that does not hold.

    Attributes:
        code: `signature`, `cosignature`, `missing`, `tile`, `entry`, `root` or `consistency`.
        text: What, and what it means.
    """

    code: str
    text: str


@dataclass(slots=True)
class Audit:
    """What an audit found.

    Attributes:
        checkpoint: Of what tree.
        signed_by: Whether a pinned key of the log signed it; None where no key was given.
        cosigned_by: Names of the pinned witnesses that cosigned it, with the time of each.
        files: How many tiles and bundles were read.
        since: Size of the earlier checkpoint, None where none was given.
        problems: Empty where all holds; the first 20.
    """

    checkpoint: Checkpoint
    signed: bool | None = None
    cosigned_by: tuple[tuple[str, int], ...] = ()
    files: int = 0
    since: int | None = None
    problems: list[AuditProblem] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def note(self, code: str, text: str) -> None:
        """Add a problem."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(AuditProblem(code, text))


def audit_log(
    reader: LogReader,
    keys: Sequence[VerifierKey] = (),
    *,
    since: Note | None = None,
    progress: Progress = lambda _done, _size: None,
) -> Audit:
    """Audit all of a log as of the reader's checkpoint.

    Args:
        reader: The log.
        keys: The log's own and witnesses'. A key of the log, where one is given, must have signed
            both checkpoints, and of the witnesses one at least the served one.
        since: An earlier checkpoint, from which the log must have grown.
        progress: Told how many entries are done, of how many.

    Raises:
        LogError: The log cannot be read any further.
        UnreadableError: `since` is no checkpoint.
    """
    head = reader.checkpoint
    audit = Audit(head)
    own = [key for key in keys if key.key_type in NOTE_KEYS]
    if own:
        audit.signed = _is_signed(audit, reader.note, own, "checkpoint")
    _check_cosignatures(audit, reader.note, [k for k in keys if k.key_type in COSIGNER_KEYS])
    earlier = None
    if since is not None:
        earlier = parse_checkpoint(since.text)
        audit.since = earlier.size
        if own:
            _is_signed(audit, since, own, "earlier checkpoint")
        if earlier.origin != head.origin:
            audit.note("consistency", "The earlier checkpoint is of a log of another name.")
        elif earlier.size > head.size:
            text = f"The log had {earlier.size} entries and has {head.size}: it was rolled back."
            audit.note("consistency", text)
    comparable = earlier is not None and earlier.origin == head.origin
    _Walk(reader, audit, earlier if comparable else None).run(progress)
    return audit


def _is_signed(audit: Audit, note: Note, keys: Sequence[VerifierKey], what: str) -> bool:
    try:
        verify_checkpoint(note, keys)
    except ProofError as error:
        audit.note("signature", f"The {what}: {error}")
        return False
    return True


def _check_cosignatures(audit: Audit, note: Note, keys: Sequence[VerifierKey]) -> None:
    try:
        found = verify_cosignatures(note, keys)
    except ProofError as error:
        audit.note("cosignature", f"The checkpoint: {error}")
        return
    audit.cosigned_by = tuple((one.key.name, one.time) for one in found)
    if keys and not found:
        audit.note("cosignature", "None of the pinned witnesses cosigned the checkpoint.")


class _Walk:
    """One pass over the entries.

    `rows[n]` holds the hashes of complete subtrees of 256^n entries that no complete tile covers
    yet, derived from the entries and from nothing else.
    """

    def __init__(self, reader: LogReader, audit: Audit, earlier: Checkpoint | None) -> None:
        self._reader = reader
        self._audit = audit
        self._rows: list[list[bytes]] = [[] for _ in range(MAX_LEVEL + 1)]
        self._counts = [0] * (MAX_LEVEL + 1)  # complete tiles so far, by level
        self._earlier = earlier

    def run(self, progress: Progress) -> None:
        """Note every problem there is, as far as one can go on."""
        size, audit = self._audit.checkpoint.size, self._audit
        if self._earlier is not None and self._earlier.size == 0:
            self._compare_earlier(self._earlier, [])
        for start in range(0, size, WIDTH):
            leaves = self._leaves(start // WIDTH, min(WIDTH, size - start))
            if leaves is None:
                audit.note("missing", f"From entry {start} on nothing can be derived.")
                return
            if self._earlier is not None and start < self._earlier.size <= start + len(leaves):
                self._compare_earlier(self._earlier, leaves[: self._earlier.size - start])
            self._push(0, leaves)
            progress(start + len(leaves), size)
        for level in range(1, MAX_LEVEL + 1):
            if self._rows[level]:
                self._compare(level)
        if not hmac.compare_digest(_root(self._rows), audit.checkpoint.root):
            audit.note("root", "The entries lead to another root than the checkpoint's.")

    def _leaves(self, index: int, width: int) -> list[bytes] | None:
        """Leaf hashes of a bundle's entries; of its tile where there is no such bundle."""
        tile = self._fetch(Tile(0, index, width))
        bundle = self._fetch(Tile(None, index, width))
        told = None
        if tile is not None and len(tile) == width * merkle.HASH_SIZE:
            told = [tile[i : i + merkle.HASH_SIZE] for i in range(0, len(tile), merkle.HASH_SIZE)]
        elif tile is not None:
            self._audit.note("tile", f"{Tile(0, index, width).path} has not its size.")
        if bundle is None:
            return told
        try:
            entries = decode_entries(bundle, width)
        except UnreadableError as error:
            self._audit.note("entry", f"{Tile(None, index, width).path}: {error}")
            return told
        leaves = [merkle.leaf_hash(entry) for entry in entries]
        for place, entry in enumerate(entries):
            if len(entry) != ENTRY_SIZE:
                text = f"Entry {index * WIDTH + place} has {len(entry)} bytes, not {ENTRY_SIZE}."
                self._audit.note("entry", text)
            if told is not None and not hmac.compare_digest(told[place], leaves[place]):
                text = f"Entry {index * WIDTH + place} is not the one whose hash its tile has."
                self._audit.note("entry", text)
        return leaves

    def _push(self, level: int, hashes: list[bytes]) -> None:
        row = self._rows[level]
        row += hashes
        if len(row) < WIDTH:
            return
        if level:
            self._compare(level)
        self._counts[level] += 1
        self._rows[level] = []
        self._push(level + 1, [merkle.root(row)])

    def _compare(self, level: int) -> None:
        """Hold the last tile of a level above the leaves against what is derived for it."""
        row = self._rows[level]
        tile = Tile(level, self._counts[level], len(row))
        data = self._fetch(tile)
        if data is not None and not hmac.compare_digest(data, b"".join(row)):
            self._audit.note("tile", f"{tile.path} is not what the entries under it lead to.")

    def _compare_earlier(self, earlier: Checkpoint, leaves: list[bytes]) -> None:
        """Hold an earlier tree against the complete rows and the last of its leaves."""
        if not hmac.compare_digest(_root([leaves, *self._rows[1:]]), earlier.root):
            text = (
                f"The first {earlier.size} entries lead to another root than the earlier "
                "checkpoint's: the log has forked."
            )
            self._audit.note("consistency", text)

    def _fetch(self, tile: Tile) -> bytes | None:
        data = self._reader.find_tile(tile)
        if data is None:
            self._audit.note("missing", f"There is no {tile.path}, which the checkpoint covers.")
        else:
            self._audit.files += 1
        return data


def _root(rows: Sequence[Sequence[bytes]]) -> bytes:
    """The root over complete subtrees of 256^n entries each, those of row n before those below.

    All of a row are of one size and what is below them is smaller, so pairing them is splitting
    at the largest power of two.
    """
    below: list[bytes] = []
    for row in rows:
        if row or below:
            below = [merkle.root([*row, *below])]
    return below[0] if below else merkle.EMPTY_ROOT
