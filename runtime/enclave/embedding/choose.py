"""Which embedder a configuration means."""

from __future__ import annotations

from runtime.config import EmbeddingConfig
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.weights import embedding_signed_by
from runtime.errors import SetupError


def make_embedder(config: EmbeddingConfig) -> Embedder | None:
    """Choose the embedder; heavy libraries are imported only here. None: recall is by words alone.

    Raises:
        SetupError: The configuration lacks something, or has too much.
    """
    signed = embedding_signed_by(config)
    match config.kind:
        case "static":
            from runtime.enclave.embedding.static import StaticEmbedder

            return StaticEmbedder()
        case "vllm":
            from runtime.enclave.embedding.vllm import VllmEmbedder

            if not config.model:
                raise SetupError(
                    "embedding.kind `vllm` needs embedding.model: the folder or name of a model "
                    "for embeddings"
                )
            return VllmEmbedder(config.model, signed=signed, gpu_share=config.gpu_share)
        case "none":
            return None
