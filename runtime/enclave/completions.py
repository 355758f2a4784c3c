"""Chat completions: any OpenAI program talks to a persona, which remembers nothing of it.

The program brings the whole conversation with each request, so there is no thread and no memory;
a completion whose reader has gone is ended, since nobody could ask for it again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import orjson

from memory.keys import ThreadKeys
from personas.model import Persona
from proofs.receipt import Outcome
from runtime.enclave.api import ApiError
from runtime.enclave.binding import Binding
from runtime.enclave.engines.base import Engine, EngineError, FinishReason, Sampling
from runtime.enclave.feed import Feed
from runtime.enclave.generation import Generation, log_defect
from runtime.enclave.openai_api import ChatRequest, CompletionShape, usage
from runtime.enclave.outbox import Outbox, ReceiptJob
from runtime.enclave.places import Places
from runtime.enclave.prompt import Prompt, PromptTooLongError, build_chat_prompt, match_chat
from runtime.telemetry import EnclaveMetrics
from transport.sse import encode_event

_DONE = b"data: [DONE]\n\n"
_STOPPING = "the enclave is stopping; send the request again"


@dataclass(frozen=True, slots=True, repr=False)
class CompletionCall:
    """One opened and validated request for a completion.

    Attributes:
        request: What the program asked.
        body: The request's exact bytes, to which the receipt commits.
        persona: Whom it wants to hear.
        digest: The persona's digest.
        keys: Of this exchange alone: they seal the receipt and salt the engine's cache.
        binding: What the receipt is bound to.
    """

    request: ChatRequest
    body: bytes
    persona: Persona
    digest: bytes
    keys: ThreadKeys
    binding: Binding


@dataclass(slots=True, eq=False, repr=False)
class Completion:
    """One completion in the making, for one reader.

    Attributes:
        call: What was asked.
        prompt: What the engine reads.
        sampling: How it samples.
        shape: What every object about it says.
        generation: The reply in the making.
        failure: Why there is no (whole) reply.
        task: What makes it.
    """

    call: CompletionCall
    prompt: Prompt
    sampling: Sampling
    shape: CompletionShape
    generation: Generation
    failure: ApiError | None = None
    task: asyncio.Task[None] | None = None
    texts: Feed[str] = field(default_factory=Feed)

    @property
    def _usage(self) -> dict[str, int]:
        return usage(self.prompt.tokens, self.generation.tokens)

    async def begun(self) -> None:
        """Wait for the first text, or for the end of a reply without any.

        Raises:
            ApiError: It failed before it had begun.
        """
        async for _ in self.texts.follow():
            return
        if self.failure is not None:
            raise self.failure

    async def whole(self) -> bytes:
        """Wait for the end; a ``chat.completion`` as JSON.

        Raises:
            ApiError: It failed.
        """
        async for _ in self.texts.follow():
            pass
        if self.failure is not None:
            raise self.failure
        reply = self.generation
        return orjson.dumps(self.shape.whole(reply.text, reply.finish, self._usage))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events as the reply is made."""
        options = self.call.request.stream_options
        head = encode_event(self.shape.chunk({"role": "assistant", "content": ""}))
        async for texts in self.texts.follow():
            # What is ready together is one chunk.
            yield head + encode_event(self.shape.chunk({"content": "".join(texts)}))
            head = b""
        if self.failure is not None:
            # OpenAI's servers say so in the stream, and end it without [DONE].
            yield head + b"data: " + self.failure.body() + b"\n\n"
            return
        tail = encode_event(self.shape.chunk({}, self.generation.finish))
        if options is not None and options.include_usage:
            tail += encode_event(self.shape.usage_chunk(self._usage))
        yield head + tail + _DONE

    def abandon(self) -> None:
        """Nobody reads on: end the reply, unless it is whole."""
        if self.task is not None:
            self.task.cancel()


class Completions:
    """Makes completions.

    Args:
        engine: Started engine.
        outbox: Where receipts go after the last token.
        metrics: Counters.
        places: How many replies may be in the making at once.
    """

    def __init__(
        self, engine: Engine, outbox: Outbox, metrics: EnclaveMetrics, *, places: Places
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._metrics = metrics
        self._places = places
        self._running: set[Completion] = set()
        self._closed = False

    async def create(self, call: CompletionCall) -> Completion:
        """Begin a completion.

        Raises:
            ApiError: The prompt does not fit or the engine cannot read it, or there is no place.
        """
        # Before the prompt is made: a heavy lorebook's search is part of the work.
        self._places.enter()
        try:
            completion = await self._prepared(call)
        except BaseException:
            self._places.leave()
            raise
        self._running.add(completion)
        completion.task = asyncio.create_task(self._run(completion))
        # Not in the task itself: one that is cancelled before its first step runs no line of it.
        completion.task.add_done_callback(lambda task: self._finish(completion, task))
        return completion

    async def _prepared(self, call: CompletionCall) -> Completion:
        persona, request = call.persona, call.request
        asked = request.max_completion_tokens or request.max_tokens or persona.sampling.max_tokens
        try:
            messages = request.engine_messages()
            matched = await match_chat(persona, messages)
            prompt = build_chat_prompt(persona, messages, asked, self._engine, matched)
        except PromptTooLongError:
            raise ApiError(
                400,
                "context_length_exceeded",
                "persona and messages do not fit the model's window of "
                f"{self._engine.context_tokens} tokens; send fewer or shorter messages",
                "messages",
            ) from None
        except EngineError as error:
            raise _told(error) from None
        if self._closed:
            raise ApiError(503, "stopping", _STOPPING)
        own = persona.sampling
        sampling = Sampling(
            temperature=own.temperature if request.temperature is None else request.temperature,
            top_p=own.top_p if request.top_p is None else request.top_p,
            max_tokens=prompt.max_reply_tokens,
            seed=request.seed,
            stop=tuple(request.stop),
        )
        return Completion(
            call,
            prompt,
            sampling,
            CompletionShape(
                receipt_id=os.urandom(16),
                created=int(time.time()),
                model=persona.handle,
                fingerprint=call.binding.identity.claims.model_manifest.hex()[:16],
            ),
            Generation(self._engine, self._metrics),
        )

    async def close(self, grace_s: float) -> None:
        """Let running completions end within the grace, then stop them."""
        self._closed = True
        tasks = [one.task for one in self._running if one.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, completion: Completion) -> None:
        try:
            await completion.generation.run(
                completion.prompt,
                completion.sampling,
                completion.call.keys.cache_salt,
                completion.texts.put,
            )
        except EngineError as error:
            completion.failure = _told(error)
        except Exception as error:
            log_defect("completion", error)
            completion.failure = ApiError(
                500, "internal", "the enclave failed; its operator has the place"
            )

    def _finish(self, completion: Completion, task: asyncio.Task[None]) -> None:
        """Whatever came of it: tell the reader, leave a receipt, give the place back."""
        self._running.discard(completion)
        self._places.leave()
        generation, call = completion.generation, completion.call
        if completion.failure is not None:
            outcome = Outcome.FAILED
        elif task.cancelled() or generation.finish is FinishReason.CANCELLED:
            outcome = Outcome.CANCELLED
            completion.failure = ApiError(503, "stopping", _STOPPING)
        else:
            outcome = Outcome.COMPLETED
        completion.texts.end()
        self._metrics.completions.labels(self._engine.name, outcome.value).inc()
        receipt = call.binding.receipt(
            completion.shape.receipt_id,
            persona=call.digest,
            request=call.body,
            response=generation.text,
            sampling=completion.sampling,
            outcome=outcome,
        )
        self._outbox.put(
            ReceiptJob(receipt, call.binding.identity.receipt_key, call.keys, chained=False)
        )


def _told(error: EngineError) -> ApiError:
    """What a program is told of it."""
    asked = error.code in {"prompt_too_long", "invalid_sampling", "invalid_messages"}
    return ApiError(400 if asked else 500, error.code, str(error))
