"""What travels inside the encapsulation: requests from the device, events back (docs/protocol.md).

Only the device and the enclave can read these.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, ClassVar, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

MAX_MESSAGE_CHARACTERS = 16_384
MAX_USER_CHARACTERS = 64
MAX_SAID = 64
"""Exchanges of an incognito conversation that a request brings along."""
MAX_REQUEST_BYTES = 128 * 1024
"""Of one Binary HTTP request, padding included."""

TURNS_PATH = b"/v1/turns"
CANCEL_PATH = b"/v1/turns/cancel"
FORGET_PATH = b"/v1/threads/forget"
COMPLETIONS_PATH = b"/v1/chat/completions"
MODELS_PATH = b"/v1/models"
RECEIPTS_PATH = b"/v1/receipts"
EVIDENCE_PATH = b"/v1/evidence"

CREATOR_HEADER = b"sotto-creator"
PERSONA_DIGEST_HEADER = b"sotto-persona-digest"
"""Field of a completion's request: answer as this version of the persona, or not at all."""
RECEIPT_ID_HEADER = b"sotto-receipt-id"
"""Field of a completion's response, whatever came of it."""
COMPLETION_ID_PREFIX = "chatcmpl-"
"""A completion's id is this and its receipt's id."""

# Labels of the HPKE exporter; secrets that only the two ends know (docs/receipts.md).
REQUEST_SALT_LABEL = b"sottovoce v1 request commitment salt"
RESPONSE_SALT_LABEL = b"sottovoce v1 response commitment salt"
COMPLETION_RECEIPT_LABEL = b"sottovoce v1 completion receipt key"
INCOGNITO_RECEIPT_LABEL = b"sottovoce v1 incognito receipt key"
SALT_BYTES = 32


class ApiError(Exception):
    """A request that the enclave refuses, told to the device inside the encapsulation.

    Attributes:
        status: Of the inner response.
        code: Stable machine word.
        param: The member of the request that is at fault, if it is one.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> bytes:
        """JSON in the shape of OpenAI's errors."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})


def error_object(code: str, message: str) -> dict[str, str]:
    """The `error` member of a turn's events."""
    return {"type": "sotto_error", "code": code, "message": message}


def _from_base64url(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        data = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64url") from None
    if to_base64url(data) != value:
        raise ValueError("not canonical base64url")
    return data


def to_base64url(data: bytes) -> str:
    """Base64url without padding (RFC 4648 §5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


Bytes32 = Annotated[
    bytes,
    Field(min_length=32, max_length=32),
    BeforeValidator(_from_base64url),
    PlainSerializer(to_base64url, return_type=str),
]
Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    thread_key: Bytes32 = Field(repr=False)
    turn_id: Hex16


class PersonaReference(BaseModel):
    """A persona by handle and digest: the enclave answers as this one or not at all."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    handle: Annotated[str, Field(max_length=64)]
    digest: Hex32


def _one_line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable text without spaces around it")
    return text


UserName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_USER_CHARACTERS),
    AfterValidator(_one_line),
]
Text = Annotated[str, Field(max_length=MAX_MESSAGE_CHARACTERS)]
Message = Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARACTERS)]


class Incognito(BaseModel):
    """That a turn leaves no trace; the conversation so far is the device's to bring.

    Attributes:
        said: Messages and replies of this conversation, oldest first.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    said: Annotated[
        tuple[Annotated[tuple[Message, Text], Field(strict=False)], ...],
        Field(max_length=MAX_SAID, strict=False),
    ] = Field(default=(), repr=False)


class TurnRequest(_Body):
    """``POST /v1/turns``.

    Attributes:
        thread_key: Opens the thread's memory; the enclave forgets it with the turn.
        turn_id: Random; the same id is the same turn, however often it is sent.
        persona: Whom the device wants to hear.
        message: What the person said.
        position: The last place in the memory chain that this device saw, or None for none.
        user: What the persona calls the person; None for nothing in particular.
        greeting: Which of the persona's greetings began the conversation: 0 for its first, then
            the alternates; None for none.
        incognito: That the turn leaves no trace; None for one that is remembered.
    """

    persona: PersonaReference
    message: Message = Field(repr=False)
    position: Annotated[str, Field(max_length=96)] | None = None
    user: UserName | None = Field(default=None, repr=False)
    greeting: Annotated[int, Field(ge=0, le=255)] | None = None
    incognito: Incognito | None = None


class CancelRequest(_Body):
    """``POST /v1/turns/cancel``: end a running turn; what was said so far is kept."""


class ForgetRequest(_Body):
    """``POST /v1/threads/forget``: erase the thread; `turn_id` is the erasure's own, random."""

    path: ClassVar[bytes] = FORGET_PATH


BodyT = TypeVar("BodyT", bound=BaseModel)


def parse_body(kind: type[BodyT], body: bytes) -> BodyT:
    """Validate one request body; raises ApiError that names the field, never its value."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise ApiError(400, "invalid_request", f"{place}: {first['msg']}") from None


FINAL_EVENTS: frozenset[str] = frozenset(
    {"response.completed", "response.cancelled", "response.failed"}
)
