"""The `vllm` embedder: a pooling model in process, by vLLM's own `AsyncLLM`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.enclave.embedding.base import MAX_CHARACTERS, Vectors, embedder_id, normalised
from runtime.enclave.engines.base import EngineError
from runtime.enclave.engines.vllm import (
    WORKER_EXTENSION,
    checked_manifest,
    prepare_environment,
    reason,
)
from runtime.enclave.weights import SignedBy


class VllmEmbedder:
    """`Embedder` over vLLM with ``runner="pooling"``.

    Args:
        model: Folder or hub name of a model that vLLM can embed with.
        signed: Whose signature it must have; None loads an unsigned one.
        gpu_share: Share of a GPU's memory that it takes.
    """

    name = "vllm"

    def __init__(
        self, model: str, *, signed: SignedBy | None = None, gpu_share: float = 0.05
    ) -> None:
        self.id = b""
        self.dim = 0
        self._source = model
        self._signed = signed
        self._gpu_share = gpu_share
        self._llm: Any = None
        self._tokenizer: Any = None
        self._most_tokens = 0
        self._manifest: dict[str, str] = {}
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Digest and load the model, and embed once to learn its dimension."""
        self._manifest = await asyncio.to_thread(checked_manifest, self._source, self._signed)
        try:
            on_cpu = prepare_environment(self._source)
            self._load(on_cpu)
            self.dim = int((await self._vectors(["hello"])).shape[1])
        except EngineError:
            raise
        except Exception as error:  # vLLM raises many kinds; each means: no embedder
            await self.close()
            raise EngineError(
                f"vLLM could not load the embedding model {self._source!r}: {reason(error)}; "
                "check the folder or name, and that it is a model for embeddings",
                code="embedder_start",
            ) from error
        self.id = embedder_id(self.name, self._manifest)

    def _load(self, on_cpu: bool) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            model=self._source,
            runner="pooling",
            enable_prefix_caching=False,
            enable_log_requests=False,
            disable_log_stats=True,
            distributed_executor_backend="uni" if on_cpu else None,
            enforce_eager=on_cpu,
            worker_extension_cls=WORKER_EXTENSION,
            # The model that answers has the rest of a GPU that both share.
            gpu_memory_utilization=self._gpu_share,
        )
        self._llm = AsyncLLM.from_engine_args(arguments)
        self._tokenizer = self._llm.get_tokenizer()
        self._most_tokens = int(self._llm.model_config.max_model_len)

    async def close(self) -> None:
        """Stop the engine and its workers."""
        if self._llm is not None:
            self._llm.shutdown(timeout=0)
            self._llm = None

    def manifest(self) -> dict[str, str]:
        """SHA-256 (hex) of each file below the model's folder; of a hub's name, the name alone."""
        return dict(self._manifest)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        try:
            return await self._vectors(texts)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(
                f"vLLM failed while it embedded: {type(error).__name__}", code="embedder_failed"
            ) from error

    async def _vectors(self, texts: Sequence[str]) -> Vectors:
        # Side by side: vLLM makes batches of what is there.
        return normalised(np.stack(await asyncio.gather(*map(self._vector, texts))))

    async def _vector(self, text: str) -> Vectors:
        from vllm import PoolingParams, TokensPrompt

        if self._llm is None:
            raise EngineError("the vllm embedder is not started", code="embedder_failed")
        ids = self._tokenizer.encode(text[:MAX_CHARACTERS])[: self._most_tokens]
        if not ids:
            return np.zeros(self.dim, dtype=np.float32)
        outputs = self._llm.encode(
            TokensPrompt(prompt_token_ids=ids),
            PoolingParams(task="embed"),
            f"embed-{next(self._numbers)}",
        )
        async for output in outputs:
            if output.finished:
                data = output.outputs.data.float().cpu().numpy()
                return np.asarray(data, dtype=np.float32).reshape(-1)
        raise EngineError("vLLM ended an embedding without a vector", code="embedder_failed")
