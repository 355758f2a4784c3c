"""What every embedder offers: one vector per text, and who made it.

Embedders run inside the enclave and see plaintext; a vector is as private as the text it was made
of. Vectors of two models cannot be compared, so each carries its model's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

MAX_CHARACTERS = 4096
"""Of one text; what follows is not part of its vector."""

ID_BYTES = 8


class Embedder(Protocol):
    """A model that turns texts into vectors.

    Attributes:
        name: Which embedder this is: ``static`` or ``vllm``.
        id: 8 bytes for name and weights; known once it is started.
        dim: Length of each vector; known once it is started.
    """

    name: str
    id: bytes
    dim: int

    async def start(self) -> None:
        """Load the model; raises EngineError with a remedy."""

    async def close(self) -> None:
        """Free the model. Safe to call twice."""

    def manifest(self) -> dict[str, str]:
        """SHA-256 (hex) of each file that was loaded, by file name."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of the texts, in their order: float32 of shape (n, dim).

        Each has length 1, or 0 where the model knows nothing of its text (an empty one, say).

        Raises:
            EngineError: The embedder broke, or is not started.
        """
        ...


def embedder_id(name: str, manifest: Mapping[str, str]) -> bytes:
    """The id of an embedder with these files: 8 bytes."""
    lines = "".join(f"{digest}  {file}\n" for file, digest in sorted(manifest.items()))
    return hashlib.sha256(f"sottovoce embedder\0{name}\0{lines}".encode()).digest()[:ID_BYTES]


def normalised(vectors: Vectors) -> Vectors:
    """Rows of length 1; one that is zero or no number becomes zero."""
    whole = np.isfinite(vectors).all()
    clean = vectors if whole else np.nan_to_num(vectors, nan=0.0, posinf=0.0, neginf=0.0)
    lengths = np.linalg.norm(clean, axis=1, keepdims=True)
    return np.asarray(clean / np.where(lengths == 0, 1, lengths), dtype=np.float32)
