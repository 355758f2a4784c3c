"""What two devices that pair may ask of a mailbox (docs/protocol.md): path, bodies, limits."""

from __future__ import annotations

import base64
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

MAILBOXES_PATH = b"/v1/mailboxes"
MAILBOX_S = 600
"""How long a mailbox is there, seconds."""
NAME_DIGITS = 5

Message = Literal["a0", "b0", "a1", "b1"]
"""Side and number: `a` is the device that hands over, `b` the new one."""
FIRST: Final = "a0"
"""The message that makes a mailbox."""
MAX_BYTES: Final[dict[str, int]] = {"a0": 1024, "b0": 1024, "a1": 64 * 1024, "b1": 1024}


def _base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("not Base64") from None


class MailboxPut(BaseModel):
    """``POST /v1/mailboxes/{name}``.

    Attributes:
        message: Which it is; it can be put once.
        body: What the mailbox is to keep; `MAX_BYTES` says how much.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    message: Message
    body: Annotated[
        bytes,
        Field(min_length=1, max_length=max(MAX_BYTES.values())),
        BeforeValidator(_base64),
        PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str),
    ] = Field(repr=False)
