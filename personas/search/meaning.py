"""Cosines between what is asked and what listings say."""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from personas.listing import Listing

PASSAGES: Final = 6
"""Of one listing, at most: longer ones are told in longer passages."""
_ENDS: Final = re.compile(r"(?<=[.!?\n])\s+|(?<=[。！？])")
_CANDIDATES: Final = 500
_BATCH: Final = 2_048

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Embed = Callable[[Sequence[str]], Floats]
"""Texts to vectors of length 1, shape (n, dim)."""


def passages(listing: Listing) -> list[str]:
    """The tagline, and the description in at most `PASSAGES` - 1 runs of whole sentences."""
    sentences = [part for part in _ENDS.split(listing.description) if part.strip()]
    runs = min(len(sentences), PASSAGES - 1)
    cuts = [round(number * len(sentences) / runs) for number in range(runs + 1)] if runs else []
    told = [" ".join(sentences[a:b]) for a, b in itertools.pairwise(cuts)]
    return [text for text in (listing.tagline, *told) if text] or [listing.name]


class Meaning:
    """The vectors of listings, by row.

    Each row has one vector of everything (float32, compared with every query) and up to
    `PASSAGES` of its parts (one byte a number, compared where the former is near). For 100,000
    rows of 256 numbers that is 102 MB and 156 MB.

    Args:
        embed: Makes vectors; all by one model.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._whole: Floats = np.zeros((0, 0), np.float32)
        self._parts: npt.NDArray[np.int8] = np.zeros((0, PASSAGES, 0), np.int8)
        self._scales: Floats = np.zeros((0, PASSAGES), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors."""
        return self._whole.nbytes + self._parts.nbytes + self._scales.nbytes

    def query(self, text: str) -> Floats:
        """The vector of one text, shape (dim,)."""
        vector: Floats = self._embed([text])[0]
        return vector

    def alike(self, word: str, others: Sequence[str]) -> Floats:
        """Cosines of a word with others."""
        vectors = self._embed([word, *others])
        cosines: Floats = vectors[1:] @ vectors[0]
        return cosines

    def of(self, row: int) -> Floats:
        """The vector of one listing, shape (dim,)."""
        vector: Floats = self._whole[row]
        return vector

    def put(self, rows: Sequence[int], listings: Sequence[Listing]) -> None:
        """Embed listings and keep them at these rows."""
        for start in range(0, len(rows), _BATCH):
            told = [passages(listing) for listing in listings[start : start + _BATCH]]
            vectors = self._embed([text for texts in told for text in texts])
            self._reserve(max(rows) + 1, vectors.shape[1])
            at = 0
            for row, texts in zip(rows[start : start + _BATCH], told, strict=True):
                parts = vectors[at : at + len(texts)]
                at += len(texts)
                total = parts.sum(axis=0)
                self._whole[row] = total / max(float(np.linalg.norm(total)), 1e-9)
                scales = np.maximum(np.abs(parts).max(axis=1), 1e-9) / 127
                self._scales[row] = 0  # a passage that there is not is like nothing
                self._scales[row, : len(texts)] = scales
                self._parts[row, : len(texts)] = np.rint(parts / scales[:, None])

    def clear(self, row: int) -> None:
        """Forget what stood there."""
        self._whole[row] = 0
        self._parts[row] = 0
        self._scales[row] = 0

    def _reserve(self, rows: int, dim: int) -> None:
        if rows <= len(self._whole):
            return
        held = len(self._whole)
        size = max(rows, held + held // 2)
        whole = np.zeros((size, dim), np.float32)
        parts = np.zeros((size, PASSAGES, dim), np.int8)
        scales = np.zeros((size, PASSAGES), np.float32)
        if held:
            whole[:held], parts[:held], scales[:held] = self._whole, self._parts, self._scales
        self._whole, self._parts, self._scales = whole, parts, scales

    def near(self, vector: Floats, passing: npt.NDArray[np.bool_]) -> Rows:
        """The rows nearest as a whole, `_CANDIDATES` of those that pass."""
        if np.count_nonzero(passing) <= _CANDIDATES:
            return np.flatnonzero(passing)
        cosines = self._whole[: len(passing)] @ vector
        cosines[~passing] = -np.inf
        return np.sort(np.argpartition(-cosines, _CANDIDATES)[:_CANDIDATES])

    def wholes(self, vector: Floats, rows: Rows) -> Floats:
        """Cosines of these rows as a whole."""
        return self._whole[rows] @ vector if len(rows) else np.zeros(0, np.float32)

    def best_parts(self, vector: Floats, rows: Rows) -> tuple[Floats, Rows]:
        """Of each of these rows, the largest cosine of a passage, and which it is."""
        if not len(rows):
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        cosines = self._parts[rows].astype(np.float32) @ vector * self._scales[rows]
        return cosines.max(axis=1), cosines.argmax(axis=1)
