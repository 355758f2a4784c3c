"""The shapes of OpenAI's chat completions, as far as a persona can mean them.

What a program sends and cannot have is refused by name, never passed over: a program that asked
for JSON, tools or probabilities must not take prose for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from personas.listing import Listing
from runtime.enclave.api import COMPLETION_ID_PREFIX, ApiError
from runtime.enclave.engines.base import FinishReason, Message
from runtime.enclave.query import read_number, read_query, refused_query

MAX_MESSAGES = 1024
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_TOKENS = 1 << 20
MAX_MODELS = 500
DEFAULT_MODELS = 200

# A member that names who asks, or how OpenAI should run its own service: what is answered does
# not depend on it. It is dropped unread.
_DROPPED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "user",
    }
)
# A member that would change the answer, and the values with which it does not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (False, True),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
}
# Parts of an assistant's message that programs send back as they got them.
_NEUTRAL_IN_MESSAGES: dict[str, tuple[Any, ...]] = {"annotations": ([],), "tool_calls": ([],)}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


def _joined(content: object) -> object:
    """A list of text parts as one text; what is neither is left to the validation."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)} if len(part) == 2:
                texts.append(text)
            case _:
                raise PydanticCustomError("unsupported_parameter", "only parts of text can be read")
    return "".join(texts)


class ChatMessage(_Body):
    """One message of the conversation; `developer` is the newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)] = Field(repr=False)


class StreamOptions(_Body):
    """`include_obfuscation` is accepted and has no effect: shaping is chosen by a field."""

    include_usage: bool = False
    include_obfuscation: bool = False


def _stops(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
_Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


class ChatRequest(_Body):
    """``POST /v1/chat/completions``.

    Attributes:
        model: A persona's handle.
        messages: The whole conversation; nothing else is remembered.
        stream: Answer with events as the reply is made.
        stream_options: Only with `stream`.
        temperature, top_p, max_tokens, max_completion_tokens: Instead of the persona's own.
        stop: Texts that end the reply.
        seed: As `Sampling.seed`.
    """

    model: Annotated[str, Field(max_length=64)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    stop: Annotated[
        list[_Stop], Field(max_length=MAX_STOPS, repr=False), BeforeValidator(_stops)
    ] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None

    def engine_messages(self) -> list[Message]:
        """The conversation as engines read it."""
        return [
            Message("system" if one.role == "developer" else one.role, one.content)
            for one in self.messages
        ]


def parse_chat_request(body: bytes) -> ChatRequest:
    """Validate one request body.

    Raises:
        ApiError: `unsupported_parameter` for what cannot be had here, `invalid_request` for what
            is malformed; names the member, never its value.
    """
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ApiError(400, "invalid_request", "the body is not JSON") from None
    if not isinstance(raw, dict):
        raise ApiError(400, "invalid_request", "the body is not a JSON object")
    asked = _meaningful(raw, _NEUTRAL, "")
    if isinstance(messages := asked.get("messages"), list):
        asked["messages"] = [
            _meaningful(one, _NEUTRAL_IN_MESSAGES, f"messages.{at}.")
            if isinstance(one, dict)
            else one
            for at, one in enumerate(messages)
        ]
    try:
        request = ChatRequest.model_validate(asked)
    except ValidationError as error:
        raise _refusal(error) from None
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise ApiError(
            400,
            "invalid_request",
            "max_tokens is the older name of max_completion_tokens; send one of them",
            "max_tokens",
        )
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "invalid_request", "stream_options: only with stream", "stream_options")
    return request


def _meaningful(
    raw: dict[str, Any], neutral: dict[str, tuple[Any, ...]], place: str
) -> dict[str, Any]:
    """Without members that are null, dropped, or have a value that changes nothing."""
    kept = {}
    for name, value in raw.items():
        if value is None or name in _DROPPED or (name in neutral and value in neutral[name]):
            continue
        if name in neutral:
            raise _unsupported(place + name)
        kept[name] = value
    return kept


def _unsupported(param: str) -> ApiError:
    # What a client sends is its own; but only so much of it comes back.
    param = param[:128]
    return ApiError(
        400,
        "unsupported_parameter",
        f"{param} is not supported here with this value, and leaving it out would change what you "
        "asked for; send the request without it",
        param,
    )


def _refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"])
    if first["type"] in {"extra_forbidden", "unsupported_parameter"}:
        return _unsupported(param)
    return ApiError(400, "invalid_request", f"{param or 'body'}: {first['msg']}", param or None)


def completion_id(receipt_id: bytes) -> str:
    """The id of a completion tells that of its receipt."""
    return COMPLETION_ID_PREFIX + receipt_id.hex()


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """What every object about one completion says of it.

    Attributes:
        receipt_id: 16 bytes.
        created: Unix seconds.
        model: The persona's handle.
        fingerprint: Names the model behind it.
    """

    receipt_id: bytes
    created: int
    model: str
    fingerprint: str

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": completion_id(self.receipt_id),
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }

    def whole(self, text: str, finish: FinishReason, usage: dict[str, int]) -> dict[str, Any]:
        """A ``chat.completion``."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish.value}
        return self._object("chat.completion", [choice], usage=usage)

    def chunk(self, delta: dict[str, str], finish: FinishReason | None = None) -> dict[str, Any]:
        """A ``chat.completion.chunk``."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion.chunk", [choice])

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk, where the program asked for usage."""
        return self._object("chat.completion.chunk", [], usage=usage)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens of prompt and reply."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


@dataclass(frozen=True, slots=True)
class ModelsQuery:
    """Which models are listed.

    Attributes:
        after: Behind this handle; None: from the first.
        limit: At most so many.
    """

    after: str | None = None
    limit: int = DEFAULT_MODELS


def parse_models_query(query: bytes) -> ModelsQuery:
    """Read the query of ``GET /v1/models``. Raises ApiError."""
    # Some programs say who asks, as in a completion's body.
    asked = {name: one for name, (one,) in read_query(query, ("after", "limit", "user")).items()}
    limit = read_number("limit", asked.get("limit", str(DEFAULT_MODELS)), MAX_MODELS)
    if not limit:
        raise refused_query(f"must be a number from 1 to {MAX_MODELS}", "limit")
    return ModelsQuery(asked.get("after"), limit)


def model_object(listing: Listing, created: int, notice: str | None) -> dict[str, Any]:
    """A persona as a model; besides OpenAI's members there is which version it is, and what every
    user should know of the model behind it."""
    return {
        "id": listing.handle,
        "object": "model",
        "created": created,
        "owned_by": listing.author,
        "persona_digest": listing.digest.hex(),
        "notice": notice,
    }


def model_list(models: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of models, in the shape of OpenAI's lists that have pages."""
    return {
        "object": "list",
        "data": models,
        "first_id": models[0]["id"] if models else None,
        "last_id": models[-1]["id"] if models else None,
        "has_more": more,
    }
