"""What every engine offers to the agent: stream deltas, count tokens, cancel.

One small protocol and no more, so that a model server, an in-process library and a paced
script look the same from above. Engines run inside the enclave: they see plaintext, and they
must never log it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol


class EngineError(Exception):
    """The engine cannot serve this request.

    The text says what happened, why, and what to do; it never holds prompt or reply text,
    because it travels to the user and into logs.

    Attributes:
        code: Stable machine word, e.g. ``engine_failed`` or ``prompt_too_long``.
    """

    def __init__(self, message: str, *, code: str = "engine_failed") -> None:
        super().__init__(message)
        self.code = code


class FinishReason(StrEnum):
    """Why a stream of deltas ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt; `system` comes first where it comes at all."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters that every engine understands.

    Attributes:
        temperature: 0 means greedy.
        top_p: Nucleus mass in (0, 1].
        max_tokens: Most tokens to generate, at least 1.
        seed: Same seed, same prompt, same engine build: same reply. None draws one.
        stop: Texts that end the reply; they are not part of it.
        json_schema: A JSON schema that the reply must keep to, as text. Engines that cannot
            constrain a reply pass it over, so whoever asks parses strictly.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 256
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the reply, as soon as it exists.

    Attributes:
        text: New text only; whole characters, may be empty.
        tokens: How many new tokens it stands for.
        finish: Set on the last delta of a stream, None before it.
    """

    text: str
    tokens: int
    finish: FinishReason | None = None


class Engine(Protocol):
    """A model that runs inside the enclave.

    Attributes:
        name: Which engine this is: ``vllm``, ``embedded``, ``openai`` or ``scripted``.
        model: The model's name, shown to people.
        context_tokens: Whole window: prompt and reply together.
        notice: A line that every user should see (a toy model, say), or None.
        instructable: Whether it follows instructions, so that it can be asked for facts and
            summaries. A toy or a script cannot.
    """

    name: str
    model: str
    context_tokens: int
    notice: str | None
    instructable: bool

    async def start(self) -> None:
        """Load the model; raises EngineError with a remedy."""

    async def close(self) -> None:
        """End all work and free the model. Safe to call twice."""

    def manifest(self) -> dict[str, str]:
        """SHA-256 (hex) of each file that was loaded, by file name; the model's identity."""
        ...

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the formatted prompt, the generation prefix included.

        Any number over the window will do for a prompt that exceeds it.

        Raises:
            EngineError: `invalid_messages`: the model knows no such conversation.
        """
        ...

    def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """Generate a reply; the last delta carries `finish`.

        Closing the generator or calling `abort` ends the work inside the engine too.

        Args:
            request_id: Unique among running requests.
            messages: The whole prompt.
            sampling: How to sample.
            cache_salt: Prompts with different salts never share cached state.

        Raises:
            EngineError: The prompt does not fit, or the engine broke.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop a running request; its stream ends with FinishReason.CANCELLED. Idempotent."""
        ...

    def queued(self) -> int:
        """Requests waiting for a place in the engine (a gauge)."""
        ...
