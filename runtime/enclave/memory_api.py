"""What a device may ask of its memory (docs/protocol.md, "Memory"): request bodies and limits.

Every resource is ``POST /v1/memory/<name>``. A thread is named by its key and by nothing else.
"""

from __future__ import annotations

import base64
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from memory.errors import InvalidInputError
from memory.records import Ref
from runtime.enclave.api import Bytes32, Hex16

MEMORY_PATH = b"/v1/memory/"

MAX_LISTED = 200
"""Memories in one page of a list, or hits of one search."""
MAX_REFS = 500
"""References in one request."""
MAX_QUERY_CHARACTERS = 1000
MAX_PLACES = 16_384
"""Erased records that an answer names: the newest."""
MAX_BATCH = 200
"""Records in one batch of an import."""
MAX_BATCH_BYTES = 88 * 1024
"""Of a batch, encoded: with Base64 and all else, it fits a request."""


def _ref(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return Ref.parse(value)
    except InvalidInputError as error:
        raise ValueError(str(error)) from None


MemoryRef = Annotated[Ref, BeforeValidator(_ref), PlainSerializer(str, return_type=str)]
"""``m12`` or ``m13.0``, as a list shows it."""
FactText = Annotated[str, Field(min_length=1, max_length=500)]
Subject = Annotated[str, Field(max_length=80, pattern=r"^[a-z0-9_]*(\.[a-z0-9_]+)*$")]
Importance = Annotated[int, Field(ge=0, le=100)]
Kind = Literal["fact", "summary", "turn"]


def _base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("not Base64") from None


BatchBytes = Annotated[
    bytes,
    Field(min_length=1, max_length=MAX_BATCH_BYTES),
    BeforeValidator(_base64),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str),
]


class MemoryRequest(BaseModel):
    """What every request about a thread has.

    Attributes:
        path: Of the resource that takes it.
        thread_key: Opens the thread.
        position: The last place in the chain that this device saw, or None for none.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    path: ClassVar[bytes]
    thread_key: Bytes32 = Field(repr=False)
    position: Annotated[str, Field(max_length=96)] | None = None


class ListRequest(MemoryRequest):
    """``list``: memories in the order of the thread.

    Attributes:
        kinds: Which; all where it is empty.
        superseded: Also facts that a newer one took the place of.
        pinned: Only what is pinned.
        refs: Only these; 404 `memory_unknown` or 410 `memory_forgotten` for the first that is not
            there.
        after: Behind this one: the page after it.
        limit: Most of them.
    """

    path = MEMORY_PATH + b"list"
    kinds: Annotated[list[Kind], Field(max_length=3)] = []
    superseded: bool = False
    pinned: bool = False
    refs: Annotated[list[MemoryRef], Field(max_length=MAX_REFS)] = []
    after: MemoryRef | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 50


class SearchRequest(MemoryRequest):
    """``search``: by words and by meaning, over the whole thread."""

    path = MEMORY_PATH + b"search"
    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, repr=False)]
    kinds: Annotated[list[Kind], Field(max_length=3)] = []
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 20


class WhyRequest(MemoryRequest):
    """``why``: what stood in a turn's prompt. One of the three names it; none is the last turn."""

    path = MEMORY_PATH + b"why"
    turn: MemoryRef | None = None
    turn_id: Hex16 | None = None
    receipt_id: Hex16 | None = None


class PinRequest(MemoryRequest):
    """``pin``: keep a memory in every prompt, or no longer."""

    path = MEMORY_PATH + b"pin"
    ref: MemoryRef
    pinned: bool


class WriteRequest(MemoryRequest):
    """``write``: a fact of its owner's own words. The same words twice are one fact."""

    path = MEMORY_PATH + b"write"
    text: FactText = Field(repr=False)
    about: Subject = Field(default="", repr=False)
    importance: Importance = 80
    pinned: bool = False


class EditRequest(MemoryRequest):
    """``edit``: a fact in its owner's words takes the place of another, which stays as what held
    until now. What is None stays as it was.
    """

    path = MEMORY_PATH + b"edit"
    ref: MemoryRef
    text: FactText = Field(repr=False)
    about: Subject | None = Field(default=None, repr=False)
    importance: Importance | None = None


class ForgetRecordsRequest(MemoryRequest):
    """``forget``: erase memories, what they were learned from and what was made of them.

    Attributes:
        request_id: Of this erasure, random: the same one again is told the same again.
        refs: What to forget.
        keep_turns: Of a fact: leave the turns that it was learned from.
        dry_run: Only say what would go.
    """

    path = MEMORY_PATH + b"forget"
    request_id: Hex16
    refs: Annotated[list[MemoryRef], Field(min_length=1, max_length=MAX_REFS)]
    keep_turns: bool = False
    dry_run: bool = False


class ExportRequest(MemoryRequest):
    """``export``: all that is remembered, as a stream of text."""

    path = MEMORY_PATH + b"export"
    format: Literal["json", "markdown"] = "json"


class ImportRequest(MemoryRequest):
    """``import``: a batch of records into a thread that nobody uses yet.

    Attributes:
        at: Index that the first of them gets. A record that is there already is not written again;
            another one in its place is 409 `memory_conflict`.
        records: A CBOR sequence (RFC 8742) of arrays, each the number of the record's kind and its
            fields (`memory.kinds.to_fields`).
    """

    path = MEMORY_PATH + b"import"
    at: Annotated[int, Field(ge=0, lt=2**32)]
    records: BatchBytes = Field(repr=False)


class RotateRequest(MemoryRequest):
    """``rotate``: carry a thread over to another key.

    Attributes:
        new_thread_key: Of a thread that nobody uses yet.
        request_id: Of this rotation, random.
        step: ``copy`` seals every kept record anew, and can be asked for again; ``finish`` copies
            the rest, erases the old thread, and signs that.
        copied: With ``finish``, where something was imported behind the copy: the length of the
            old thread, as ``copy`` told it. 409 `memory_conflict` where it has grown since.
    """

    path = MEMORY_PATH + b"rotate"
    new_thread_key: Bytes32 = Field(repr=False)
    request_id: Hex16
    step: Literal["copy", "finish"]
    copied: Annotated[int, Field(ge=0, le=2**32)] | None = None
