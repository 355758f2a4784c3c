"""The websocket protocol `sotto.v1` between device and edge (docs/protocol.md).

Text frames carry JSON events; binary frames carry sealed bytes of one stream each. The edge
can read every event here, so none of them names a person, a persona, a thread or a word.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from transport.relay.name import GATEWAY_NAME

SUBPROTOCOL = "sotto.v1"
MAX_TEXT_BYTES = 64 * 1024
MAX_BINARY_BYTES = 64 * 1024
HEARTBEAT_S = 25.0
MAX_STREAMS = 16
MAX_RECEIPTS_PER_EVENT = 256

# 4000-4499: reconnect and go on; 4500-4999: do not come back with the same request.
CLOSE_RESTART = 4000
CLOSE_SLOW = 4002
CLOSE_PROTOCOL = 4500
CLOSE_TOO_MUCH = 4501

_HEADER = struct.Struct(">IBQ")
_END = 0x01


class WireError(Exception):
    """The peer sent something that `sotto.v1` does not allow.

    Attributes:
        code: Machine word for the ``error`` event.
    """

    def __init__(self, message: str, *, code: str = "invalid_event") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Frame:
    """One binary frame: a piece of a stream in one direction.

    Attributes:
        stream: Stream id, chosen by the device, unique in its session, 1 to 2**32-1.
        offset: Bytes of the stream, in this direction, before `data`.
        data: Sealed bytes; may be empty only where `end` is set.
        end: The stream ends here in this direction.
    """

    stream: int
    offset: int
    data: bytes
    end: bool = False

    def encode(self) -> bytes:
        """13-byte header (stream u32, flags u8, offset u64; big endian), then the bytes."""
        return _HEADER.pack(self.stream, _END if self.end else 0, self.offset) + self.data


def decode_frame(data: bytes) -> Frame:
    """Read one binary frame; raises WireError."""
    if len(data) < _HEADER.size or len(data) > MAX_BINARY_BYTES:
        raise WireError(f"a binary frame has {_HEADER.size} to {MAX_BINARY_BYTES} bytes")
    stream, flags, offset = _HEADER.unpack_from(data)
    if stream == 0 or flags & ~_END:
        raise WireError("a binary frame needs a stream id and knows only the end flag")
    frame = Frame(stream, offset, data[_HEADER.size :], bool(flags & _END))
    if not frame.data and not frame.end:
        raise WireError("an empty binary frame must end its stream")
    return frame


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    event_id: Annotated[str, Field(max_length=64)] | None = None


StreamId = Annotated[int, Field(ge=1, le=2**32 - 1)]
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
ReceiptId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
GatewayName = Annotated[str, Field(pattern=f"^{GATEWAY_NAME}$")]


class ResponseCreate(_Event):
    """Open a stream to one gateway; the sealed request follows in binary frames."""

    type: Literal["response.create"] = "response.create"
    stream: StreamId
    gateway: GatewayName


class StreamReset(_Event):
    """Give a stream up. The turn behind it goes on; only a sealed cancel ends a turn."""

    type: Literal["stream.reset"] = "stream.reset"
    stream: StreamId


class SessionResume(_Event):
    """Continue the streams of an earlier socket from what was received."""

    type: Literal["session.resume"] = "session.resume"
    token: Token
    received: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$")],
            Annotated[int, Field(ge=0, le=2**63 - 1)],
        ],
        Field(max_length=MAX_STREAMS),
    ]


class ReceiptSubscribe(_Event):
    """Ask for receipts by id, now or days later."""

    type: Literal["receipt.subscribe"] = "receipt.subscribe"
    receipt_ids: Annotated[list[ReceiptId], Field(min_length=1, max_length=MAX_RECEIPTS_PER_EVENT)]


class EnclavesList(_Event):
    """Ask for the live enclaves' attestation bundles."""

    type: Literal["enclaves.list"] = "enclaves.list"


class Ping(_Event):
    """Application heartbeat; answered with ``pong``."""

    type: Literal["ping"] = "ping"


ClientEvent = Annotated[
    ResponseCreate | StreamReset | SessionResume | ReceiptSubscribe | EnclavesList | Ping,
    Field(discriminator="type"),
]
_CLIENT_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(ClientEvent)
_MEMBERS = frozenset(
    name
    for model in (ResponseCreate, StreamReset, SessionResume, ReceiptSubscribe)
    for name in model.model_fields
)


def decode_client_event(text: str | bytes) -> ClientEvent:
    """Parse one text frame from a device; raises WireError, which never quotes the input."""
    if len(text) > MAX_TEXT_BYTES:
        raise WireError(f"an event has at most {MAX_TEXT_BYTES} bytes", code="event_too_large")
    try:
        return _CLIENT_EVENT.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
            raise WireError(
                "the event's type is not one that this server knows; see docs/protocol.md",
                code="unknown_event",
            ) from None
        # A place may hold members that the device made up, which are input too.
        place = ".".join(str(part) for part in first["loc"] if part in _MEMBERS) or "event"
        raise WireError(f"{place}: {first['msg']}") from None


def encode_event(event: BaseModel | dict[str, Any]) -> str:
    """One event as the text of one frame."""
    if isinstance(event, BaseModel):
        event = event.model_dump(exclude_none=True)
    return orjson.dumps(event).decode()


class _ServerEvent(BaseModel):
    # Members that a later edge adds are no offence.
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Session(_ServerEvent):
    token: Token


class _SessionCreated(_ServerEvent):
    session: _Session


class _SessionResumed(_ServerEvent):
    token: Token
    lost: list[StreamId]


class _Announced(_ServerEvent):
    gateway: GatewayName
    bundle: str
    proof: str


class _Enclaves(_ServerEvent):
    enclaves: list[_Announced]


class _Problem(_ServerEvent):
    code: Annotated[str, Field(max_length=64)]
    message: str


class _StreamFailed(_ServerEvent):
    stream: StreamId
    error: _Problem


class _ResponseReceipt(_ServerEvent):
    receipt_id: ReceiptId
    sealed: str


class _ResponseSettled(_ServerEvent):
    receipt_id: ReceiptId
    proof: str
    cose: str | None = None


class _Error(_ServerEvent):
    error: _Problem


_SERVER_EVENTS: dict[str, type[_ServerEvent]] = {
    "session.created": _SessionCreated,
    "session.resumed": _SessionResumed,
    "enclaves": _Enclaves,
    "stream.failed": _StreamFailed,
    "response.receipt": _ResponseReceipt,
    "response.settled": _ResponseSettled,
    "error": _Error,
}


def decode_server_event(text: str | bytes) -> dict[str, Any]:
    """Parse one text frame from an edge. Devices ignore types that they do not know.

    Events of known types have the members that docs/protocol.md lists, with their types.

    Raises:
        WireError: Not an event, or a known one that is malformed; never quotes the input.
    """
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise WireError("the server sent text that is not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise WireError("the server sent an event without a type")
    if (model := _SERVER_EVENTS.get(event["type"])) is not None:
        try:
            model.model_validate(event)
        except ValidationError:
            raise WireError("the server sent an event without what its type needs") from None
    return event
