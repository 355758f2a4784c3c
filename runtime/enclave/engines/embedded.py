"""The `embedded` engine: a small model in this process, on the CPU, with nothing to download.

Each reply runs in a worker thread of its own, one token a step, and hands its text to the
event loop. There are as many workers as processors; further replies wait in order of arrival.
No state is shared between replies, so no cache can tell one thread's prompt to another.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from runtime.enclave.engines.base import Delta, EngineError, FinishReason, Message, Sampling
from runtime.enclave.engines.toy.network import ToyMeta, ToyNetwork, ToyState
from runtime.enclave.engines.toy.sample import draw
from runtime.enclave.engines.toy.text import ReplyDecoder, ToyText
from runtime.enclave.weights import SignedBy, check_manifest

TOY_FOLDER = Path(__file__).parent / "toy"
LOADED_FILES = ("meta.json", "model.onnx", "tokenizer.json")
_NOTICE = (
    "{model} is a toy for the first five minutes: it makes small talk in English and knows "
    "nothing. For a real model: make run ENGINE=vllm MODEL=<folder or name>"
)


@dataclass(frozen=True, slots=True)
class _Loaded:
    meta: ToyMeta
    text: ToyText
    network: ToyNetwork
    digests: dict[str, str]
    pool: ThreadPoolExecutor


@dataclass(slots=True)
class _Job:
    """One reply between its worker thread and the event loop."""

    prompt: list[int]
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    deltas: asyncio.Queue[Delta | EngineError] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    started: bool = False
    work: Future[None] | None = None


class EmbeddedEngine:
    """A bundled small model behind the engine protocol; see `base.Engine` for the contract."""

    name = "embedded"
    instructable = False

    def __init__(
        self,
        folder: Path = TOY_FOLDER,
        *,
        parallel: int | None = None,
        signed: SignedBy | None = None,
    ) -> None:
        """Prepares, loads nothing.

        Args:
            folder: Model folder as `tools/train_toy.py` writes it.
            parallel: Most replies in the making at once; by default one per processor.
            signed: Whose signature the model must have; None loads an unsigned one.
        """
        if parallel is not None and parallel < 1:
            raise ValueError("parallel must be at least 1")
        self.model = "sotto-toy"
        self.context_tokens = 0
        self.notice: str | None = None
        self._folder = folder
        self._parallel = parallel or os.cpu_count() or 1
        self._signed = signed
        self._loaded: _Loaded | None = None
        self._jobs: dict[str, _Job] = {}

    async def start(self) -> None:
        """Loads the model; raises EngineError with a remedy."""
        if self._loaded is not None:
            return
        loaded = await asyncio.to_thread(_load, self._folder, self._parallel, self._signed)
        self.model = loaded.meta.name
        self.context_tokens = loaded.meta.context_tokens
        self.notice = _NOTICE.format(model=self.model)
        self._loaded = loaded

    async def close(self) -> None:
        """Ends all replies as cancelled and frees the model. Safe to call twice."""
        for request_id in list(self._jobs):
            await self.abort(request_id)
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            await asyncio.to_thread(loaded.pool.shutdown)

    def manifest(self) -> dict[str, str]:
        """SHA-256 (hex) of each file that was loaded, by file name."""
        return dict(self._ready().digests)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the formatted prompt, the generation prefix included.

        For one that is far over the window, a lower bound that is over it, too.
        """
        text = self._ready().text
        # The event loop is not to tokenize what is refused anyway.
        fewest = text.fewest_tokens(messages)
        return fewest if fewest > self.context_tokens else len(text.prompt(messages))

    def queued(self) -> int:
        """Replies waiting for a worker."""
        return sum(not job.started for job in self._jobs.values())

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """Generates a reply; the last delta carries `finish`.

        A reply that reaches the end of the context window ends with FinishReason.LENGTH.

        Raises:
            EngineError: `prompt_too_long`, `invalid_sampling`, `duplicate_request`,
                `not_started` or `engine_failed`.
        """
        del cache_salt  # replies share no cache
        loaded = self._ready()
        _check_sampling(sampling)
        if request_id in self._jobs:
            raise EngineError(
                "A reply with this request id is already being made, so the two could not be "
                "told apart. Use a fresh id for every request.",
                code="duplicate_request",
            )
        job = _Job(_fitting_prompt(loaded, messages), sampling, asyncio.get_running_loop())
        self._jobs[request_id] = job
        job.work = loaded.pool.submit(_work, loaded, job)
        try:
            while True:
                item = await job.deltas.get()
                if job.cancelled.is_set():
                    # The worker may be tokens ahead; what was not read is not part of the reply.
                    yield Delta("", 0, FinishReason.CANCELLED)
                    return
                if isinstance(item, EngineError):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            del self._jobs[request_id]
            job.cancelled.set()
            job.work.cancel()

    async def abort(self, request_id: str) -> None:
        """Stops a reply within one token; its stream ends with CANCELLED. Idempotent."""
        job = self._jobs.get(request_id)
        if job is not None and not job.cancelled.is_set():
            job.cancelled.set()
            if job.work is not None:
                job.work.cancel()
            # Wakes a reader that waits for a token that will not come.
            job.deltas.put_nowait(Delta("", 0, FinishReason.CANCELLED))

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError(
                "The embedded engine is not running: it was not started, or it was closed. "
                "Call start() first.",
                code="not_started",
            )
        return self._loaded


def _load(folder: Path, parallel: int, signed: SignedBy | None) -> _Loaded:
    """Reads and hashes the model's files; raises EngineError."""
    try:
        digests = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in LOADED_FILES
        }
        check_manifest(digests, signed, folder)
        meta = ToyMeta.read(folder)
        text = ToyText(folder, meta.role_tokens)
        network = ToyNetwork(folder, meta)
        pool = ThreadPoolExecutor(parallel, thread_name_prefix="embedded-engine")
        return _Loaded(meta, text, network, digests, pool)
    except ImportError as error:
        raise EngineError(
            f"The embedded engine cannot start: the package {error.name} is missing. It comes "
            "with Sottovoce's dependencies; install them again, e.g. with `make run`.",
            code="engine_unavailable",
        ) from error
    except EngineError:
        raise
    except OSError as error:
        raise EngineError(
            f"The embedded engine cannot start: {error.filename} could not be read "
            f"({error.strerror}). Restore the file, or make a new model with "
            "tools/train_toy.py.",
            code="model_unreadable",
        ) from error
    # The libraries' own errors share no base class; whatever they say, the files are at fault.
    except Exception as error:
        raise EngineError(
            f"The embedded engine cannot start: the files in {folder} are not a model that it "
            f"can read ({type(error).__name__}). Restore the folder, or make a new model with "
            "tools/train_toy.py.",
            code="model_unreadable",
        ) from error


def _check_sampling(sampling: Sampling) -> None:
    if not (
        sampling.max_tokens >= 1
        and 0 < sampling.top_p <= 1
        and sampling.temperature >= 0
        and math.isfinite(sampling.temperature)
        and (sampling.seed is None or sampling.seed >= 0)
    ):
        raise EngineError(
            "The sampling parameters are out of range, so no reply was made. Use max_tokens of "
            "at least 1, top_p in (0, 1], a temperature of at least 0 and a seed of at least 0.",
            code="invalid_sampling",
        )


def _fitting_prompt(loaded: _Loaded, messages: Sequence[Message]) -> list[int]:
    """The prompt's ids, with room left for at least one token of reply."""
    limit = loaded.meta.context_tokens - 1
    # A cheap bound first: a huge message is not worth tokenizing to refuse it.
    needed = loaded.text.fewest_tokens(messages)
    prompt = [] if needed > limit else loaded.text.prompt(messages)
    needed = max(needed, len(prompt))
    if needed > limit:
        raise EngineError(
            f"The prompt is too long: it needs at least {needed} tokens, and {loaded.meta.name} "
            f"reads at most {limit} and answers in what is left of {limit + 1}. Send fewer or "
            "shorter messages, or use an engine with a larger context.",
            code="prompt_too_long",
        )
    return prompt


def _work(loaded: _Loaded, job: _Job) -> None:
    """Runs in a worker thread; ends the job's stream unless it was cancelled."""
    job.started = True

    def hand_over(item: Delta | EngineError) -> None:
        if not job.loop.is_closed():
            job.loop.call_soon_threadsafe(job.deltas.put_nowait, item)

    try:
        for delta in _generate(loaded, job):
            hand_over(delta)
    # Anything the library raises must reach the reader, or it would wait for ever. Only the
    # kind of error is named: its text might quote the prompt.
    except Exception as error:
        broken = EngineError(
            f"The embedded engine broke while it made this reply ({type(error).__name__}). "
            "Nothing of the reply was kept; send the message again."
        )
        broken.__cause__ = error
        hand_over(broken)


def _generate(loaded: _Loaded, job: _Job) -> Iterator[Delta]:
    """Steps the network until the reply ends; the last delta carries `finish`.

    A cancelled reply just stops: its stream says so by itself.
    """
    sampling, roles = job.sampling, loaded.text.role_start
    room = min(sampling.max_tokens, loaded.meta.context_tokens - len(job.prompt))
    rng = np.random.default_rng(sampling.seed)
    decoder = ReplyDecoder(sampling.stop)
    if job.cancelled.is_set():
        return
    state = ToyState(loaded.network, len(job.prompt) + room)
    logits = state.extend(job.prompt)[0]
    logits[roles:] = -np.inf  # a reply has at least one token of text
    for number in range(1, room + 1):
        if job.cancelled.is_set():
            return
        token = draw(logits, sampling.temperature, sampling.top_p, rng)
        if token >= roles:
            yield Delta(decoder.flush(), 0, FinishReason.STOP)
            return
        text = decoder.feed(loaded.text.bytes_of(token))
        if decoder.stopped:
            yield Delta(text, 1, FinishReason.STOP)
            return
        if number == room:
            yield Delta(text + decoder.flush(), 1, FinishReason.LENGTH)
            return
        yield Delta(text, 1)
        logits = state.extend([token])[0]
