"""A paced script in place of a model, for load tests: it measures everything but a model.

Never a default, never called a model: its notice says so on every screen that shows a reply.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncGenerator, Sequence

from runtime.enclave.engines.base import Delta, EngineError, FinishReason, Message, Sampling

_TEXT = (
    "this is a paced script and not a model it only keeps time so that a load test measures "
    "everything around one"
)
_WORDS = tuple(_TEXT.split())


class ScriptedEngine:
    """`Engine` that emits one word per tick.

    Args:
        first_token_s: Pause before the first token, seconds.
        token_s: Pause between tokens, seconds; 0 emits as fast as the reader takes them.
        tokens: Length of each reply in tokens.
    """

    name = "scripted"
    model = "script"
    context_tokens = 8192
    notice: str | None = "SCRIPTED: paced words for load tests, not a model."
    instructable = False

    def __init__(
        self, *, first_token_s: float = 0.05, token_s: float = 0.02, tokens: int = 64
    ) -> None:
        self._first_token_s = first_token_s
        self._token_s = token_s
        self._tokens = tokens
        self._aborts: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """End every running script."""
        for event in self._aborts.values():
            event.set()

    def manifest(self) -> dict[str, str]:
        """The script's pace and words, so that two scripts are two identities."""
        text = f"{self._first_token_s} {self._token_s} {self._tokens} {' '.join(_WORDS)}"
        return {"script": hashlib.sha256(text.encode()).hexdigest()}

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """One token per word, told by the spaces between them, and one per message."""
        said = " ".join([message.content for message in messages if message.content])
        return len(messages) + said.count(" ") + bool(said)

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.stream`."""
        del cache_salt  # nothing is cached
        if self.count_tokens(messages) + 1 > self.context_tokens:
            raise EngineError(
                f"the prompt does not fit {self.context_tokens} tokens", code="prompt_too_long"
            )
        abort = self._aborts[request_id] = asyncio.Event()
        words = [f"{word} " for word in itertools.islice(itertools.cycle(_WORDS), self._tokens)]
        text = "".join(words[: sampling.max_tokens])
        stops = [at for at in map(text.find, sampling.stop) if at >= 0]
        text = text[: min(stops, default=len(text))]
        whole = bool(stops) or self._tokens <= sampling.max_tokens
        finish = FinishReason.STOP if whole else FinishReason.LENGTH
        # Not the loop's clock, which counts whole milliseconds under uvloop.
        due = time.perf_counter() + self._first_token_s
        said = 0
        try:
            for word in words:
                # Pace against the clock, not the reader: a late tick is not carried over.
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += self._token_s
                if abort.is_set():
                    yield Delta("", 0, FinishReason.CANCELLED)
                    return
                start, said = said, said + len(word)
                ended = said >= len(text)
                yield Delta(text[start:said], 1, finish if ended else None)
                if ended:
                    return
        finally:
            self._aborts.pop(request_id, None)

    async def abort(self, request_id: str) -> None:
        """End at the next tick."""
        if event := self._aborts.get(request_id):
            event.set()

    def queued(self) -> int:
        """A script never queues."""
        return 0
