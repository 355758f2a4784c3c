"""vLLM in process: `AsyncLLM` with deltas, the model's own chat template, a salted prefix cache.

No HTTP hop stands between the agent and the engine: the gateway's event loop reads vLLM's
output queue itself. Works on a GPU and on vLLM's CPU build; on the CPU the settings below
keep the engine from starving the loop that serves it (docs/engines.md has the figures).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

from runtime.enclave.engines.base import Delta, EngineError, FinishReason, Message, Sampling
from runtime.enclave.weights import SignedBy, check_manifest, digest_files, find_files

# On few cores vLLM's multiprocessing executor spins on the core its own front end needs.
_CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
}
# The enclave talks to nobody but its relay, its Redis and its log.
_PRIVATE_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
WORKER_EXTENSION = "runtime.enclave.engines.vllm_worker.WorkerExtension"
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class VllmEngine:
    """`Engine` over vLLM's `AsyncLLM`.

    Args:
        model: Folder or hub name of a model with a chat template.
        max_model_len: Window in tokens; None takes the model's own.
        signed: Whose signature the model must have; None loads an unsigned one.
    """

    name = "vllm"
    instructable = True

    def __init__(
        self, model: str, *, max_model_len: int | None = None, signed: SignedBy | None = None
    ) -> None:
        self.model = Path(model).name if Path(model).is_dir() else model
        self.context_tokens = max_model_len or 0
        self.notice: str | None = None
        self._source = model
        self._max_model_len = max_model_len
        self._signed = signed
        self._llm: Any = None
        self._tokenizer: Any = None
        self._manifest: dict[str, str] = {}
        # What was counted last is mostly what is asked for next, and is long.
        self._counted: tuple[tuple[Message, ...], list[int]] | None = None
        self._running: set[str] = set()
        self._aborted: set[str] = set()

    async def start(self) -> None:
        """Digest and load the model; tens of seconds on a CPU."""
        self._manifest = await asyncio.to_thread(checked_manifest, self._source, self._signed)
        on_cpu = prepare_environment(self._source)
        try:
            await self._load(on_cpu)
        except EngineError:
            raise
        except Exception as error:  # vLLM raises many kinds; each means: no engine
            raise EngineError(
                f"vLLM could not load the model {self._source!r}: {reason(error)}; "
                "check the folder or name, and the memory it needs",
                code="engine_start",
            ) from error
        if getattr(self._tokenizer, "chat_template", None) is None:
            await self.close()
            raise EngineError(
                f"the model {self._source!r} has no chat template, so a persona cannot speak "
                "through it; choose an instruction-tuned model",
                code="engine_start",
            )

    async def _load(self, on_cpu: bool) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            model=self._source,
            # None is its default and means the model's own; its annotation forgets that.
            max_model_len=cast("int", self._max_model_len),
            enable_prefix_caching=True,
            enable_log_requests=False,
            disable_log_stats=True,
            distributed_executor_backend="uni" if on_cpu else None,
            enforce_eager=on_cpu,
            worker_extension_cls=WORKER_EXTENSION,
        )
        self._llm = AsyncLLM.from_engine_args(arguments)
        self._tokenizer = self._llm.get_tokenizer()
        self.context_tokens = int(self._llm.model_config.max_model_len)

    async def close(self) -> None:
        """Stop the engine and its workers."""
        if self._llm is not None:
            # Turns have ended by now and the engine keeps nothing: its worker need not take the
            # seconds that it takes by default, which a stop of the whole system does not have.
            self._llm.shutdown(timeout=0)
            self._llm = None

    def manifest(self) -> dict[str, str]:
        """SHA-256 of each file below a model's folder; for a hub's name, of the name alone."""
        return dict(self._manifest)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        try:
            encoded = self._tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )
        except Exception as error:  # the template is a program of the model's own
            raise EngineError(
                "the model's chat template refuses these messages "
                f"({type(error).__name__}); many want user and assistant to take turns",
                code="invalid_messages",
            ) from None
        return list(encoded["input_ids"])

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt under the model's own chat template."""
        prompt = self._encode(messages)
        self._counted = tuple(messages), prompt
        return len(prompt)

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        """Their tokens, as they were counted if they were counted last; not kept any longer."""
        counted, self._counted = self._counted, None
        if counted is not None and counted[0] == tuple(messages):
            return counted[1]
        return self._encode(messages)

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.stream`."""
        from vllm import TokensPrompt

        if self._llm is None:
            raise EngineError("vLLM is not running; restart the enclave")
        prompt = self._prompt(messages)
        if len(prompt) + 1 > self.context_tokens:
            raise EngineError(
                f"the prompt has {len(prompt)} tokens and the model's window is "
                f"{self.context_tokens}; shorten the persona or the message",
                code="prompt_too_long",
            )
        parameters = _parameters(sampling, self.context_tokens - len(prompt))
        self._running.add(request_id)
        try:
            outputs = self._llm.generate(
                TokensPrompt(prompt_token_ids=prompt, cache_salt=cache_salt),
                parameters,
                request_id,
            )
            async for output in outputs:
                (part,) = output.outputs
                finish = None
                if output.finished:
                    finish = _FINISH.get(part.finish_reason or "stop", FinishReason.CANCELLED)
                yield Delta(part.text, len(part.token_ids), finish)
        except asyncio.CancelledError:
            # vLLM turns its own abort into a cancellation of the reader; only ours is a result.
            if request_id not in self._aborted:
                raise
            yield Delta("", 0, FinishReason.CANCELLED)
        except EngineError:
            raise
        except Exception as error:  # EngineDeadError and relatives
            raise EngineError(f"vLLM failed while it answered: {reason(error)}") from error
        finally:
            self._running.discard(request_id)
            self._aborted.discard(request_id)

    async def abort(self, request_id: str) -> None:
        """Abort inside vLLM: the sequence leaves the batch and frees its cache blocks."""
        if request_id in self._running and self._llm is not None:
            self._aborted.add(request_id)
            await self._llm.abort(request_id)

    def queued(self) -> int:
        """Requests that vLLM holds and has not finished."""
        return len(self._running)


def prepare_environment(source: str) -> bool:
    """Set what vLLM reads from the environment when it is imported; whether it runs on the CPU.

    Raises:
        EngineError: `engine_missing`: it is not installed.
    """
    for name, value in _PRIVATE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import torch
    except ImportError as error:
        raise _missing() from error
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        for name, value in _CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    if Path(source).is_dir():
        # A local folder needs no hub; saying so keeps a start from waiting on the network.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import vllm  # noqa: F401 - whether it is there, before anything is loaded
    except ImportError as error:
        raise _missing() from error
    return on_cpu


def _missing() -> EngineError:
    return EngineError(
        "vLLM is not installed in this environment: run `make vllm` first, or use ENGINE=embedded",
        code="engine_missing",
    )


def _parameters(sampling: Sampling, room: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    schema = sampling.json_schema

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=min(sampling.max_tokens, room),
        seed=sampling.seed,
        stop=list(sampling.stop),
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=StructuredOutputsParams(json=schema) if schema is not None else None,
    )


def checked_manifest(source: str, signed: SignedBy | None) -> dict[str, str]:
    """Digests of a model's files, which must be those that were signed; raises EngineError."""
    folder = Path(source)
    if folder.is_dir():
        names = find_files(folder, signed.file(folder) if signed else None)
        manifest = digest_files(folder, names)
        check_manifest(manifest, signed, folder)
        return manifest
    if signed is not None:
        raise EngineError(
            f"a signature covers the files of a folder, and {source!r} is none; download the model "
            "first (hf download NAME --local-dir FOLDER) and name the folder",
            code="model_signature",
        )
    return {"hub": hashlib.sha256(source.encode()).hexdigest()}


def reason(error: Exception) -> str:
    """What went wrong inside vLLM, without what it quotes."""
    # The first line only: later lines of vLLM's errors may quote the request.
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
