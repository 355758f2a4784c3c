"""A Merkle tree as its tiles show it: hashes of subtrees, and entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from proofs import merkle
from proofs.errors import LogError, UnreadableError
from proofs.tiles import WIDTH, Tile, decode_entries

ReadTile = Callable[[Tile], bytes]
_KEPT_TILES = 512  # of up to 8 KiB
_KEPT_NODES = 65536


class TileTree:
    """Reads hashes and entries of a tree of `size` out of tiles.

    Hashes are believed as they are read. Whoever does not trust the tiles compares what comes of
    them with a signed root.

    Args:
        read: Gives a tile's bytes; raises LogError where it cannot.
        size: Entries of the tree. May grow: complete subtrees never change.
    """

    def __init__(self, read: ReadTile, size: int) -> None:
        self._read = read
        self.size = size
        self._tile = lru_cache(maxsize=_KEPT_TILES)(self._read_tile)
        self._node = lru_cache(maxsize=_KEPT_NODES)(self._read_node)

    def forget(self) -> None:
        """Read everything anew."""
        self._tile.cache_clear()
        self._node.cache_clear()

    def root(self) -> bytes:
        """The root of the whole tree."""
        return self.subtree(0, self.size) if self.size else merkle.EMPTY_ROOT

    def subtree(self, start: int, end: int) -> bytes:
        """The hash over entries `start` to `end` (excluded), a `proofs.merkle.Subtree`.

        Raises:
            LogError: A tile is missing or has not its size.
        """
        size = end - start
        if size & (size - 1) == 0 and start % size == 0:
            return self._node(size.bit_length() - 1, start // size)
        middle = start + merkle.split(size)
        return merkle.node_hash(self.subtree(start, middle), self.subtree(middle, end))

    def hashes(self, level: int, index: int, width: int) -> list[bytes]:
        """The first `width` hashes of a tile.

        Raises:
            LogError: As `subtree`.
        """
        data, size = self._tile(level, index, width), merkle.HASH_SIZE
        return [data[i : i + size] for i in range(0, len(data), size)]

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """Entries from `start` to `end` (excluded).

        Raises:
            LogError: A bundle is missing or damaged.
        """
        for index in range(start // WIDTH, -(-end // WIDTH)):
            tile = Tile(None, index, min(WIDTH, self.size - index * WIDTH))
            try:
                found = decode_entries(self._read(tile), tile.width)
            except UnreadableError as error:
                raise LogError(f"{tile.path}: {error}") from error
            yield from found[max(0, start - index * WIDTH) : end - index * WIDTH]

    def _read_node(self, height: int, index: int) -> bytes:
        """The hash of a complete subtree."""
        level, inside = divmod(height, 8)
        if inside:
            left, right = self._node(height - 1, 2 * index), self._node(height - 1, 2 * index + 1)
            return merkle.node_hash(left, right)
        tile, place = divmod(index, WIDTH)
        width = min(WIDTH, (self.size >> 8 * level) - tile * WIDTH)
        size = merkle.HASH_SIZE
        return self._tile(level, tile, width)[place * size : (place + 1) * size]

    def _read_tile(self, level: int, index: int, width: int) -> bytes:
        tile = Tile(level, index, width)
        data = self._read(tile)
        if len(data) != width * merkle.HASH_SIZE:
            raise LogError(f"The tile {tile.path} has {len(data)} bytes, which is not its size.")
        return data
