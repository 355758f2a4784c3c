"""Tiles and entry bundles, c2sp.org/tlog-tiles: names, widths, and which a tree size needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proofs.errors import UnreadableError

WIDTH = 256
MAX_LEVEL = 7  # a tree has less than 2^63 entries, and each level covers 8 bits of an index
_ENTRIES = "entries"
_PATH = re.compile(
    r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of hashes or, where `level` is None, a bundle of entries.

    Attributes:
        level: 0 for leaf hashes, upwards; None for entries.
        index: The tile's place in its level.
        width: How many hashes or entries it holds, 1 to 256.
    """

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """The path under the log's prefix, without a leading slash."""
        digits = f"{self.index % 1000:03d}"
        rest = self.index // 1000
        while rest:
            digits = f"x{rest % 1000:03d}/{digits}"
            rest //= 1000
        level = _ENTRIES if self.level is None else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{digits}{partial}"

    def is_covered(self, size: int) -> bool:
        """Whether a tree of `size` has all that the tile holds."""
        hashes = size >> 8 * (self.level or 0)
        return self.index * WIDTH + self.width <= hashes


def parse_tile(path: str) -> Tile:
    """The tile that `path` names.

    Raises:
        UnreadableError: Not a tile's path, or not its only spelling.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise UnreadableError("That is no path of a tile. See c2sp.org/tlog-tiles.")
    level, digits, width = match.groups()
    tile = Tile(
        None if level == _ENTRIES else int(level),
        int(digits.replace("x", "").replace("/", "")),
        int(width or WIDTH),
    )
    if tile.path != path or tile.width > WIDTH or (tile.level or 0) > MAX_LEVEL:
        raise UnreadableError("That is no path of a tile. See c2sp.org/tlog-tiles.")
    return tile


def tiles_of(size: int) -> Iterator[Tile]:
    """Every tile of hashes that a tree of `size` has; partial ones at the right edge."""
    return new_tiles(0, size)


def new_tiles(old_size: int, size: int) -> Iterator[Tile]:
    """The tiles of hashes that a tree of `size` has and one of `old_size` had not."""
    for level in range(MAX_LEVEL + 1):
        before, hashes = old_size >> 8 * level, size >> 8 * level
        if hashes == before:
            return
        for index in range(before // WIDTH, -(-hashes // WIDTH)):
            yield Tile(level, index, min(WIDTH, hashes - index * WIDTH))


def new_entry_bundles(old_size: int, size: int) -> Iterator[Tile]:
    """The entry bundles that a tree of `size` has and one of `old_size` had not."""
    for tile in new_tiles(old_size, size):
        if tile.level == 0:
            yield Tile(None, tile.index, tile.width)


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """An entry bundle: each entry after its length in 2 bytes, big-endian."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_entries(data: bytes, width: int) -> list[bytes]:
    """The `width` entries of a bundle.

    Raises:
        UnreadableError: Cut, too long, or of another width.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or at + 2 > len(data) or len(entries) == width:
            raise UnreadableError("The entry bundle is cut or too long. Fetch it again.")
        entries.append(data[at + 2 : end])
        at = end
    if len(entries) != width:
        raise UnreadableError(f"The entry bundle has {len(entries)} entries, not {width}.")
    return entries
