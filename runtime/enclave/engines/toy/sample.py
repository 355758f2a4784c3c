"""Drawing the next token from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw(
    logits: NDArray[np.float32], temperature: float, top_p: float, rng: np.random.Generator
) -> int:
    """Picks a token id.

    Args:
        logits: (vocab,).
        temperature: 0 picks the likeliest.
        top_p: Only the likeliest tokens that together reach this mass can be drawn.
        rng: Draws one number for each call with a temperature above 0.
    """
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()).astype(np.float64) / temperature
    weights = np.exp(scaled)
    order = np.argsort(-weights, kind="stable")
    mass = np.cumsum(weights[order])
    kept = int(np.searchsorted(mass, top_p * mass[-1])) + 1
    kept = min(kept, len(order))
    at = int(np.searchsorted(mass[:kept], rng.random() * mass[kept - 1], side="right"))
    return int(order[min(at, kept - 1)])
