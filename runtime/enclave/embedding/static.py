"""The `static` embedder: a table of token vectors, averaged, by WordLlama; no GPU, no download.

Its 16 MB of weights ship with the package. A text takes under 0.1 ms, so a turn can be embedded on
the event loop while its memory is being read.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from runtime.enclave.embedding.base import MAX_CHARACTERS, Vectors, embedder_id, normalised
from runtime.enclave.engines.base import EngineError

_FILES = (
    "weights/l2_supercat_256.safetensors",
    "tokenizers/l2_supercat_tokenizer_config.json",
)
# Up to here the event loop does it by itself: a thread would cost more than it saves.
_INLINE_CHARACTERS = 8192


class StaticEmbedder:
    """`Embedder` over the weights that ship with WordLlama."""

    name = "static"
    dim = 256

    def __init__(self) -> None:
        self.id = b""
        self._model: Any = None
        self._manifest: dict[str, str] = {}

    async def start(self) -> None:
        """Digest and load the table; about half a second."""
        await asyncio.to_thread(self.load)

    def load(self) -> StaticEmbedder:
        """The same for callers without an event loop; gives itself back."""
        if self._model is not None:
            return self
        try:
            self._manifest = static_manifest()
            # One text at a time gains nothing by a pool of threads, and waits for it.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            # Its own folder as the cache and no download: it opens these files or none.
            self._model = import_module("wordllama").WordLlama.load(
                cache_dir=_folder(), dim=self.dim, disable_download=True
            )
        except (ImportError, OSError, ValueError) as error:
            raise EngineError(
                f"the static embedder could not be loaded ({type(error).__name__}); install "
                "Sottovoce's dependencies again, e.g. with `make run`, or set embedding.kind to "
                "`none`",
                code="embedder_start",
            ) from error
        self.id = embedder_id(self.name, self._manifest)
        return self

    async def close(self) -> None:
        """Free the table."""
        self._model = None

    def manifest(self) -> dict[str, str]:
        """SHA-256 (hex) of weights and tokenizer."""
        return dict(self._manifest)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return self.encode(texts)
        return await asyncio.to_thread(self.encode, texts)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """The same for callers without an event loop."""
        if self._model is None:
            raise EngineError("the static embedder is not started", code="embedder_failed")
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        # Half a surrogate pair has no token and would stop the tokenizer.
        clean = [text[:MAX_CHARACTERS].encode("utf-8", "replace").decode() for text in texts]
        return normalised(np.stack([self._pooled(text) for text in clean]))

    def _pooled(self, text: str) -> Vectors:
        """The mean of its tokens' vectors, as the library's `embed`, which takes twice as long for
        one text: it is made for batches."""
        ids = self._model.tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            return np.zeros(self.dim, dtype=np.float32)
        rows = self._model.embedding.take(ids, axis=0, mode="clip")
        return np.asarray(rows.mean(axis=0, dtype=np.float32))


def static_manifest() -> dict[str, str]:
    """SHA-256 (hex) of the files that the static embedder loads; ImportError without the package,
    OSError where one is missing."""
    folder = _folder()
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _FILES}


def _folder() -> Path:
    return Path(str(import_module("wordllama").__file__)).parent
