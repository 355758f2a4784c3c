"""The log's folder: tiles, entries, head and checkpoint, written so that no crash forks the log.

Two steps. A commit writes tiles and entry bundles first, each whole (written aside, synced,
renamed), then `head`, the log's own signed tree head, last and in one rename. Until that rename
the tree is the old one, and what lies beyond it is overwritten by the next commit. A publication
writes `checkpoint`: the head with the cosignatures that were asked for in between. Nobody is
shown a head before it is durable, and nothing that was shown is ever taken back; so a head that
a crash kept from being published is published by the next start.

`checkpoint` and `tile/` are right for any file server at any moment: partial tiles stay until a
checkpoint that has the full ones is served.

Trusted: the disk keeps what it synced, and nobody else writes the folder. The lock refuses a
second writer of this program; the comparison at commit notices one that went around it. A
folder restored from an old backup would fork the log, and only witnesses can tell: never do it.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from proofs import merkle
from proofs.checkpoint import Checkpoint, open_checkpoint
from proofs.errors import LogError, ProofError
from proofs.log.files import sync_directories, write_whole
from proofs.log.history import History
from proofs.log.tree import TileTree
from proofs.note import Note, Signer, parse_note
from proofs.tiles import WIDTH, Tile, encode_entries, new_entry_bundles, new_tiles

HEAD, CHECKPOINT, HISTORY = "head", "checkpoint", "history"


class LogStore:
    """The folder of one log, held open by one writer.

    After a `LogError` out of `commit` or `publish` the store is closed: open it again, which
    finds out what is on the disk.

    Args:
        directory: The folder; made where absent.
        signer: The log's key, under its origin.

    Raises:
        LogError: Another writer holds it, or what lies there is not this log, whole.
    """

    def __init__(self, directory: Path, signer: Signer) -> None:
        self._directory = directory
        self._signer = signer
        self._tree = TileTree(self._read, 0)
        self._signed_head = self._published = ""
        self._head = self._served = Checkpoint(signer.name, 0, merkle.EMPTY_ROOT)
        try:
            _make(directory)
            self._lock = (directory / "lock").open("ab")
        except OSError as error:
            raise LogError(_unwritable(directory, error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise LogError(
                f"Another process writes the log in {directory}. Two writers would fork it: stop "
                "the other one first."
            ) from error
        try:
            self._open()
            self._history = self._open_history()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._history.close()
        self._lock.close()

    @property
    def directory(self) -> Path:
        """The folder."""
        return self._directory

    @property
    def signer(self) -> Signer:
        """The log's key."""
        return self._signer

    @property
    def tree(self) -> TileTree:
        """The committed tree."""
        return self._tree

    @property
    def head(self) -> Checkpoint:
        """The committed tree head; durable."""
        return self._head

    @property
    def signed_head(self) -> str:
        """The note of `head` with the log's own signature and no other."""
        return self._signed_head

    @property
    def served(self) -> Checkpoint:
        """The published tree head; of the empty tree where nothing is published."""
        return self._served

    @property
    def published(self) -> str:
        """The note that is served, empty where nothing is published."""
        return self._published

    @property
    def is_published(self) -> bool:
        """Whether the committed head is what is served."""
        return self._published != "" and self._served == self._head

    def commit(self, entries: Sequence[bytes]) -> None:
        """Add entries, each under 64 KiB, and make the new head durable. Nothing is served yet.

        Raises:
            LogError: Nothing was committed by this call, or nothing is known: open again.
        """
        self._check_open()
        try:
            size = self._write_tiles(entries)
            self._tree.size = size
            head = Checkpoint(self._signer.name, size, self._tree.root())
            self._write_head(self._signer.sign(head.format()).format(), head)
        except OSError as error:
            self._fail()
            raise LogError(_unwritable(self._directory, error)) from error
        except BaseException:
            self._fail()
            raise

    def publish(self, note: str, at: int) -> None:
        """Serve `note`: the committed head, cosigned by whoever did; durable on return.

        Args:
            note: A checkpoint whose text is that of `signed_head`, with the log's signature.
            at: Now, in unix milliseconds, for the history.

        Raises:
            LogError: It is another one, and nothing changed; or it could not be written: open
                again.
        """
        self._check_open()
        if note == self._published:
            return
        try:
            if open_checkpoint(note, [self._signer.verifier]) != self._head:
                raise LogError("Not the log's committed head: publishing it would fork the log.")
        except ProofError as error:
            raise LogError(f"The cosigned checkpoint cannot be published. {error}") from error
        before = self._served.size
        try:
            self._swap(CHECKPOINT, self._published, note)
            # In this order: a reader of both finds every tile of the note it is given.
            self._served, self._published = self._head, note
            self._history.append(at, self._head.size)
        except OSError as error:
            self._fail()
            raise LogError(_unwritable(self._directory, error)) from error
        except BaseException:
            self._fail()
            raise
        self._drop_partial(before, self._head.size)

    def _check_open(self) -> None:
        if self._lock.closed:
            raise LogError(f"The log in {self._directory} was closed. Open it again.")

    def _fail(self) -> None:
        # Cached nodes may be of leaves that were never committed.
        self._tree.forget()
        self.close()

    def _open(self) -> None:
        """Load head and checkpoint, and make sure that the tiles are of both."""
        try:
            if not (self._directory / HEAD).exists():
                self._begin()
            self._signed_head = (self._directory / HEAD).read_text("utf-8")
            self._head = open_checkpoint(self._signed_head, [self._signer.verifier])
            self._tree.size = self._head.size
            if self._tree.root() != self._head.root:
                raise LogError("Its tiles do not lead to the head's root.")
            if (self._directory / CHECKPOINT).exists():
                self._published = (self._directory / CHECKPOINT).read_text("utf-8")
                self._served = open_checkpoint(self._published, [self._signer.verifier])
            size = self._served.size
            if size > self._head.size:
                raise LogError(f"It serves {size} entries and has {self._head.size}.")
            if size and self._tree.subtree(0, size) != self._served.root:
                raise LogError("Its tiles do not lead to the checkpoint's root.")
        except (OSError, ValueError) as error:
            raise LogError(f"{self._damaged()} {type(error).__name__}: {error}") from error
        except ProofError as error:
            raise LogError(f"{self._damaged()} {error}") from error

    def _begin(self) -> None:
        """Write the first `head`: of the empty tree, or of a folder that has only a checkpoint.

        Earlier versions kept the head in `checkpoint`. A folder with a history is of this one,
        and its head may be ahead of what it serves, so there a lost head is a lost log.
        """
        checkpoint = self._directory / CHECKPOINT
        if (self._directory / HISTORY).exists():
            raise LogError(f"It has no file '{HEAD}'.")
        if checkpoint.exists():
            note = parse_note(checkpoint.read_text("utf-8"))
            head = open_checkpoint(note.format(), [self._signer.verifier])
            self._write_head(_own(note, self._signer), head)
        elif (self._directory / "tile").exists():
            raise LogError("It has tiles, and neither head nor checkpoint.")
        else:
            head = Checkpoint(self._signer.name, 0, merkle.EMPTY_ROOT)
            self._write_head(self._signer.sign(head.format()).format(), head)

    def _open_history(self) -> History:
        """The history, whose last record a crash may have kept from it."""
        checkpoint = self._directory / CHECKPOINT
        try:
            at = checkpoint.stat().st_mtime_ns // 1_000_000 if self._published else 0
            history = History(self._directory / HISTORY, self._head.size)
            try:
                history.append(at, self._served.size)
            except BaseException:
                history.close()
                raise
            return history  # noqa: TRY300
        except OSError as error:
            raise LogError(_unwritable(self._directory, error)) from error

    def _damaged(self) -> str:
        return (
            f"The log in {self._directory} is damaged, or of another key or origin. Restore it "
            "whole from a mirror, with its key; going on would fork it."
        )

    def _write_head(self, note: str, head: Checkpoint) -> None:
        self._swap(HEAD, self._signed_head, note)
        self._signed_head, self._head = note, head

    def _swap(self, name: str, before: str, after: str) -> None:
        """Compare and swap a file; durable on return."""
        path = self._directory / name
        if (path.read_text("utf-8") if path.exists() else "") != before:
            raise LogError(
                f"Somebody else replaced '{name}' in {self._directory}. Two writers would fork "
                "the log: find the other one before starting again."
            )
        write_whole(path, after.encode())
        sync_directories([path], self._directory)

    def _write_tiles(self, entries: Sequence[bytes]) -> int:
        """Write what a tree with `entries` added has and the committed one has not."""
        old = self._tree.size
        size = old + len(entries)
        written = []
        fresh = [merkle.leaf_hash(entry) for entry in entries]
        tiles = list(new_tiles(old, size))
        for level in range(len({tile.level for tile in tiles})):
            first = old >> 8 * level
            inside = first % WIDTH
            kept = self._tree.hashes(level, first // WIDTH, inside) if inside else []
            row, fresh = kept + fresh, []
            for place, tile in enumerate(tile for tile in tiles if tile.level == level):
                hashes = row[place * WIDTH : (place + 1) * WIDTH]
                written.append(self._write(tile, b"".join(hashes)))
                if tile.width == WIDTH:
                    fresh.append(merkle.root(hashes))
        kept = list(self._tree.entries(old - old % WIDTH, old))
        row = kept + list(entries)
        for place, tile in enumerate(new_entry_bundles(old, size)):
            bundle = encode_entries(row[place * WIDTH : (place + 1) * WIDTH])
            written.append(self._write(tile, bundle))
        sync_directories(written, self._directory)
        return size

    def _write(self, tile: Tile, data: bytes) -> Path:
        path = self._directory / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        return path

    def _read(self, tile: Tile) -> bytes:
        try:
            return (self._directory / tile.path).read_bytes()
        except OSError as error:
            raise LogError(f"The tile {tile.path} cannot be read ({error.strerror}).") from error

    def _drop_partial(self, old: int, size: int) -> None:
        """Delete partial tiles whose full tile is served, as the specification allows."""
        for tile in (*new_tiles(old, size), *new_entry_bundles(old, size)):
            if tile.width == WIDTH:
                partial = self._directory / f"{tile.path}.p"
                shutil.rmtree(partial, ignore_errors=True)


def _make(directory: Path) -> None:
    """Make the folder, its name as durable as what will be written in it.

    The key lies elsewhere: were it kept and the folder lost, the next start would fork the log.
    """
    if not directory.exists():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directories([directory], directory.parent)


def _own(note: Note, signer: Signer) -> str:
    """The note without the signatures of others."""
    name, key_id = signer.name, signer.verifier.key_id
    own = tuple(s for s in note.signatures if (s.name, s.key_id) == (name, key_id))
    return Note(note.text, own).format()


def _unwritable(directory: Path, error: OSError) -> str:
    return (
        f"The log's folder {directory} cannot be written ({error.strerror}). Check its disk's "
        "space and its permissions, then start again; nothing published is lost."
    )
