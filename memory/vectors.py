"""Embeddings in one byte for each dimension: a quarter of their size, and as good for ranking."""

from typing import Final

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidInputError
from memory.kinds import MAX_VECTOR_BYTES

Vector = npt.NDArray[np.float32]

_MOST: Final = 127


def quantise(vector: npt.NDArray[np.floating]) -> bytes:
    """Return a vector as int8, stretched so that its largest part is 127; nothing for a zero one.

    What counts is its direction; its length is lost. Raises InvalidInputError where it has more
    than 4096 dimensions, or parts that are no numbers.
    """
    if vector.ndim != 1 or not 0 < vector.size <= MAX_VECTOR_BYTES:
        raise InvalidInputError(
            f"An embedding has 1 to {MAX_VECTOR_BYTES} dimensions; choose a model with fewer."
        )
    most = float(np.max(np.abs(vector)))
    if not np.isfinite(most):
        raise InvalidInputError("An embedding holds what is no number; embed the text again.")
    if most == 0:
        return b""
    whole: npt.NDArray[np.int8] = np.rint(vector * (_MOST / most)).astype(np.int8)
    return whole.tobytes()


def dequantise(data: bytes) -> Vector:
    """Return the vector of length 1 that `quantise` kept, as float32."""
    return normalise(np.frombuffer(data, dtype=np.int8).astype(np.float32))


def normalise(vector: npt.NDArray[np.floating]) -> Vector:
    """Return a vector of length 1 with the same direction; zero stays zero."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else vector, dtype=np.float32)
