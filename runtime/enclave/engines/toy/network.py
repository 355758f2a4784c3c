"""The toy model's network: one ONNX graph, stepped token by token.

`tools/toy_export.py` documents the graph's inputs and outputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ToyMeta:
    """meta.json: what the graph alone does not tell."""

    name: str
    context_tokens: int
    layers: int
    heads: int
    head_width: int
    role_tokens: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises OSError, or ValueError, KeyError or TypeError where the file is not ours."""
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return cls(**(meta | {"role_tokens": tuple(meta["role_tokens"])}))


class ToyNetwork:
    """The loaded weights, shared by all replies; safe to use from several threads."""

    def __init__(self, folder: Path, meta: ToyMeta) -> None:
        """Loads model.onnx; raises the inference library's error."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Replies run in parallel, so one reply gets one thread and no spinning pool.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.meta = meta
        self.session: Any = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.vocab: int = self.session.get_outputs()[0].shape[2]


class ToyState:
    """One reply in the making: its cache, extended in place by every step.

    Not safe for use from two threads at once.
    """

    def __init__(self, network: ToyNetwork, capacity: int) -> None:
        """Makes room for `capacity` tokens, prompt and reply together."""
        meta = network.meta
        self._network = network
        self._capacity = capacity
        self._seen = 0
        self._binding: Any = network.session.io_binding()
        shape = (1, meta.heads, capacity, meta.head_width)
        names = [f"{layer}.{side}" for layer in range(meta.layers) for side in ("key", "value")]
        self._cache = {name: np.zeros(shape, dtype=np.float32) for name in names}
        for name, array in self._cache.items():
            self._bind(f"past.{name}", array)
            self._bind(f"now.{name}", array, output=True)

    def _bind(self, name: str, array: NDArray[Any], *, output: bool = False) -> None:
        """Points a graph input or output at an array, which the caller keeps alive."""
        bind = self._binding.bind_output if output else self._binding.bind_input
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def extend(self, ids: list[int], *, every: bool = False) -> Logits:
        """Reads more tokens and predicts what follows.

        Args:
            ids: Tokens that come after those already seen, at least one.
            every: Logits after each of them, not only after the last.

        Returns:
            Logits (1 or len(ids), vocab).

        Raises:
            ValueError: There is no room for them.
        """
        self._seen += len(ids)
        if self._seen > self._capacity:
            raise ValueError(f"room for {self._capacity} tokens, asked for {self._seen}")
        kept = np.arange(len(ids)) if every else np.array([len(ids) - 1])
        inputs: dict[str, NDArray[Any]] = {
            "ids": np.array([ids], dtype=np.int64),
            "keep": kept.astype(np.int64),
            "seen_less_one": np.array([self._seen - 1], dtype=np.int32),
            "seen": np.array(self._seen, dtype=np.int32),
        }
        logits: NDArray[np.float32] = np.empty(
            (1, len(kept), self._network.vocab), dtype=np.float32
        )
        for name, array in inputs.items():
            self._bind(name, array)
        self._bind("logits", logits, output=True)
        self._network.session.run_with_iobinding(self._binding)
        last: Logits = logits[0]
        return last
