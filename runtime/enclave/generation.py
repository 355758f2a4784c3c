"""One reply in the making, whatever asked for it: read the engine, measure, keep the text."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Callable

from runtime.enclave.engines.base import Engine, FinishReason, Sampling
from runtime.enclave.prompt import Prompt
from runtime.telemetry import EnclaveMetrics

log = logging.getLogger(__name__)


class Generation:
    """A reply and its progress.

    Args:
        engine: Started engine.
        metrics: Counters.

    Attributes:
        cancelled: Somebody asked to stop it; `cancel` sets it.
        finish: Why it ended, once it has.
        tokens: Its length so far.
    """

    __slots__ = (
        "_engine",
        "_metrics",
        "_parts",
        "_started",
        "cancelled",
        "finish",
        "request_id",
        "tokens",
    )

    def __init__(self, engine: Engine, metrics: EnclaveMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._parts: list[str] = []
        self._started = time.perf_counter()
        self.request_id = os.urandom(12).hex()
        self.cancelled = False
        self.finish = FinishReason.STOP
        self.tokens = 0

    @property
    def text(self) -> str:
        """What the engine has said so far."""
        return "".join(self._parts)

    async def cancel(self) -> None:
        """Stop it; what was said so far is kept."""
        self.cancelled = True
        await self._engine.abort(self.request_id)

    async def run(
        self, prompt: Prompt, sampling: Sampling, cache_salt: str, emit: Callable[[str], None]
    ) -> None:
        """Generate to the end, and hand on each new text.

        Raises:
            EngineError: The prompt does not fit, or the engine broke.
        """
        if self.cancelled:  # while it waited for its turn
            self.finish = FinishReason.CANCELLED
            return
        ttft = self._metrics.ttft.labels(self._engine.name)
        inter_token = self._metrics.inter_token.labels(self._engine.name)
        stream = self._engine.stream(
            self.request_id, prompt.messages, sampling, cache_salt=cache_salt
        )
        last = self._started
        # Leaving early, however it comes about, ends the work inside the engine too.
        async with contextlib.aclosing(stream):
            async for delta in stream:
                self.tokens += delta.tokens
                self.finish = delta.finish or self.finish
                if not delta.text:
                    continue
                now = time.perf_counter()
                if self._parts:
                    inter_token.observe((now - last) / max(1, delta.tokens))
                else:
                    ttft.observe(now - last)
                last = now
                self._parts.append(delta.text)
                emit(delta.text)


def log_defect(what: str, error: Exception) -> None:
    """Log where a defect is, and not what it says: its text may quote the conversation."""
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s failed: %s at\n%s", what, type(error).__name__, place)
