"""The SHA-256 Merkle tree of RFC 9162 section 2.1 (the hashing of RFC 6962).

Trees are seen through `subtree`: a function from `(start, end)` to the hash of the entries in
that half-open range, asked only for ranges that are whole subtrees of the tree. So the same
code makes proofs from a list in memory and from tiles on a disk.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()
HASH_SIZE = 32
# A path has one hash per level, and an index has at most 63 bits here.
MAX_PATH = 63

Subtree = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry), RFC 9162 section 2.1.1."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), RFC 9162 section 2.1.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two smaller than `size` (> 1)."""
    return 1 << (size - 1).bit_length() - 1


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; `EMPTY_ROOT` over none."""
    if not leaves:
        return EMPTY_ROOT
    # Pairwise, passing an odd last hash up unchanged, gives the same tree as splitting at
    # the largest power of two, without recursion.
    level = list(leaves)
    while len(level) > 1:
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) & ~1 :]
    return level[0]


def subtree_of(leaves: Sequence[bytes]) -> Subtree:
    """A `Subtree` over leaf hashes in memory."""
    return lambda start, end: root(leaves[start:end])


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The path of entry `index` in the tree of `size`, from the leaf's sibling upwards.

    RFC 9162 section 2.1.3.1.

    Raises:
        ValueError: `index` is not in the tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"No entry {index} in a tree of {size}.")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(start, middle))
            start = middle
    return path[::-1]


def consistency_proof(first: int, second: int, subtree: Subtree) -> list[bytes]:
    """The proof that the tree of `first` is a prefix of the tree of `second`.

    RFC 9162 section 2.1.4.1; empty where either is trivial.

    Raises:
        ValueError: Not 0 < first <= second.
    """
    if not 0 < first <= second:
        raise ValueError(f"No consistency from a tree of {first} to one of {second}.")
    path: list[bytes] = []
    start, end = 0, second
    while first != end:
        middle = start + split(end - start)
        if first <= middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(start, middle))
            start = middle
    # The old tree's root is known to the verifier; any other subtree is not.
    if start > 0:
        path.append(subtree(start, end))
    return path[::-1]


def inclusion_root(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root that `path` leads to from leaf hash `leaf`; None where the path has not its shape.

    RFC 9162 section 2.1.3.2, steps 1 to 5.
    """
    if not 0 <= index < size or len(path) > MAX_PATH:
        return None
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return r if sn == 0 else None


def verify_inclusion(
    index: int, size: int, leaf: bytes, path: Sequence[bytes], tree_root: bytes
) -> bool:
    """Whether leaf hash `leaf` stands at `index` of the tree of `size` with that root."""
    if not _are_hashes(leaf, tree_root, *path):
        return False
    found = inclusion_root(index, size, leaf, path)
    return found is not None and hmac.compare_digest(found, tree_root)


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether the tree of `first` entries is a prefix of the tree of `second`.

    RFC 9162 section 2.1.4.2. From the tree of no entries nothing follows, so it never holds.
    """
    if not 0 < first <= second:
        return False
    if first == second:
        return not path and hmac.compare_digest(first_root, second_root)
    if not 0 < len(path) <= MAX_PATH + 1 or not _are_hashes(first_root, second_root, *path):
        return False
    # (1) A first tree that is a whole subtree is not repeated in the path.
    hashes = list(path) if first & (first - 1) else [first_root, *path]
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = hashes[0]
    for c in hashes[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and hmac.compare_digest(fr, first_root) and hmac.compare_digest(sr, second_root)


def _are_hashes(*values: bytes) -> bool:
    return all(len(value) == HASH_SIZE for value in values)
