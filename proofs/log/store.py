"""The log's folder: tiles, entries and the checkpoint, written so that no crash forks the log.

Order of a commit: tiles and entry bundles first, each whole (written aside, synced, renamed),
then the checkpoint, last and in one rename. Until that rename the tree is the old one, and what
lies beyond it is overwritten by the next commit. Nobody is told of a checkpoint before it is
durable.

Trusted: the disk keeps what it synced, and nobody else writes the folder. The lock refuses a
second writer of this program; the comparison at commit notices one that went around it. A
folder restored from an old backup would fork the log, and only witnesses can tell: never do it.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

from proofs import merkle
from proofs.checkpoint import Checkpoint, open_checkpoint
from proofs.errors import LogError, ProofError
from proofs.log.files import sync_directories, write_whole
from proofs.note import Signer
from proofs.tiles import (
    WIDTH,
    Tile,
    decode_entries,
    encode_entries,
    new_entry_bundles,
    new_tiles,
)


class LogStore:
    """The folder of one log, held open by one writer.

    After a `LogError` out of `append` the store is closed: open it again, which finds out what
    is on the disk.

    Args:
        directory: The folder; made where absent.
        signer: The log's key, under its origin.

    Raises:
        LogError: Another writer holds it, or what lies there is not this log, whole.
    """

    def __init__(self, directory: Path, signer: Signer) -> None:
        self._directory = directory
        self._signer = signer
        self._size = 0
        self._node = lru_cache(maxsize=65536)(self._read_node)
        try:
            directory.mkdir(parents=True, exist_ok=True)
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
            self._published, self._head = self._open()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    @property
    def directory(self) -> Path:
        """The folder."""
        return self._directory

    @property
    def head(self) -> Checkpoint:
        """The last durable tree head."""
        return self._head

    @property
    def published(self) -> str:
        """The last durable signed checkpoint, as it is served."""
        return self._published

    def subtree(self, start: int, end: int) -> bytes:
        """The hash over entries `start` to `end` (excluded), a `proofs.merkle.Subtree`."""
        size = end - start
        if size & (size - 1) == 0 and start % size == 0:
            return self._node(size.bit_length() - 1, start // size)
        middle = start + merkle.split(size)
        return merkle.node_hash(self.subtree(start, middle), self.subtree(middle, end))

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """Committed entries from `start` to `end` (excluded).

        Raises:
            LogError: A bundle is missing or damaged.
        """
        for index in range(start // WIDTH, -(-end // WIDTH)):
            width = min(WIDTH, self._size - index * WIDTH)
            try:
                found = decode_entries(self._read(Tile(None, index, width)), width)
            except (OSError, ProofError) as error:
                raise LogError(f"{self._damaged()} An entry bundle: {error}") from error
            yield from found[max(0, start - index * WIDTH) : end - index * WIDTH]

    def append(self, entries: Sequence[bytes]) -> None:
        """Add entries, each under 64 KiB, and publish the new head; durable on return.

        Raises:
            LogError: Nothing was published by this call, or nothing is known: open again.
        """
        try:
            size = self._write_tiles(entries)
            self._publish(Checkpoint(self._signer.name, size, self.subtree(0, size)))
        except OSError as error:
            self._fail()
            raise LogError(_unwritable(self._directory, error)) from error
        except BaseException:
            self._fail()
            raise
        self._drop_partial(size - len(entries), size)

    def _fail(self) -> None:
        # Cached nodes may be of leaves that were never committed.
        self._node.cache_clear()
        self.close()

    def _open(self) -> tuple[str, Checkpoint]:
        """Load the head and make sure that the tiles are of it."""
        path = self._directory / "checkpoint"
        try:
            if not path.exists():
                return self._begin()
            published = path.read_text("utf-8")
            head = open_checkpoint(published, [self._signer.verifier])
            self._size = head.size
            root = self.subtree(0, head.size) if head.size else merkle.EMPTY_ROOT
        except (OSError, ValueError) as error:
            raise LogError(f"{self._damaged()} {type(error).__name__}: {error}") from error
        except LogError:
            raise
        except ProofError as error:
            raise LogError(f"{self._damaged()} Its checkpoint: {error}") from error
        if root != head.root:
            raise LogError(f"{self._damaged()} Its tiles do not lead to the checkpoint's root.")
        return published, head

    def _begin(self) -> tuple[str, Checkpoint]:
        """Publish the head of the empty tree, in a folder that never had another."""
        if (self._directory / "tile").exists():
            raise LogError(f"{self._damaged()} It has tiles and no checkpoint.")
        self._published = ""
        head = Checkpoint(self._signer.name, 0, merkle.EMPTY_ROOT)
        return self._publish(head), head

    def _damaged(self) -> str:
        return (
            f"The log in {self._directory} is damaged, or of another key or origin. Restore it "
            "whole from a mirror, with its key; going on would fork it."
        )

    def _publish(self, head: Checkpoint) -> str:
        """Compare and swap the checkpoint."""
        path = self._directory / "checkpoint"
        current = path.read_text("utf-8") if path.exists() else ""
        if current != self._published:
            raise LogError(
                f"Somebody else replaced the checkpoint in {self._directory}. Two writers would "
                "fork the log: find the other one before starting again."
            )
        published = self._signer.sign(head.format()).format()
        write_whole(path, published.encode())
        sync_directories([path], self._directory)
        self._published, self._head, self._size = published, head, head.size
        return published

    def _write_tiles(self, entries: Sequence[bytes]) -> int:
        """Write what a tree with `entries` added has and the committed one has not."""
        old = self._size
        size = old + len(entries)
        written = []
        fresh = [merkle.leaf_hash(entry) for entry in entries]
        tiles = list(new_tiles(old, size))
        for level in range(len({tile.level for tile in tiles})):
            first = old >> 8 * level
            kept = self._hashes(level, first // WIDTH, first % WIDTH) if first % WIDTH else []
            row, fresh = kept + fresh, []
            for place, tile in enumerate(tile for tile in tiles if tile.level == level):
                hashes = row[place * WIDTH : (place + 1) * WIDTH]
                written.append(self._write(tile, b"".join(hashes)))
                if tile.width == WIDTH:
                    fresh.append(merkle.root(hashes))
        kept = list(self.entries(old - old % WIDTH, old))
        row = kept + list(entries)
        for place, tile in enumerate(new_entry_bundles(old, size)):
            bundle = encode_entries(row[place * WIDTH : (place + 1) * WIDTH])
            written.append(self._write(tile, bundle))
        sync_directories(written, self._directory)
        self._size = size
        return size

    def _write(self, tile: Tile, data: bytes) -> Path:
        path = self._directory / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        return path

    def _read(self, tile: Tile) -> bytes:
        return (self._directory / tile.path).read_bytes()

    def _read_node(self, height: int, index: int) -> bytes:
        """The hash of a complete subtree. Such hashes never change, so they are kept."""
        level, inside = divmod(height, 8)
        if inside:
            left, right = self._node(height - 1, 2 * index), self._node(height - 1, 2 * index + 1)
            return merkle.node_hash(left, right)
        tile = index // WIDTH
        width = min(WIDTH, (self._size >> 8 * level) - tile * WIDTH)
        return self._hashes(level, tile, width)[index % WIDTH]

    def _hashes(self, level: int, index: int, width: int) -> list[bytes]:
        size = merkle.HASH_SIZE
        try:
            data = self._read(Tile(level, index, width))
        except OSError as error:
            raise LogError(f"{self._damaged()} A tile: {error}") from error
        if len(data) != width * size:
            raise LogError(f"{self._damaged()} A tile has {len(data)} bytes.")
        return [data[i : i + size] for i in range(0, len(data), size)]

    def _drop_partial(self, old: int, size: int) -> None:
        """Delete partial tiles whose full tile is there, as the specification allows."""
        for tile in (*new_tiles(old, size), *new_entry_bundles(old, size)):
            if tile.width == WIDTH:
                partial = self._directory / f"{tile.path}.p"
                shutil.rmtree(partial, ignore_errors=True)


def _unwritable(directory: Path, error: OSError) -> str:
    return (
        f"The log's folder {directory} cannot be written ({error.strerror}). Check its disk's "
        "space and its permissions, then start again; nothing published is lost."
    )
