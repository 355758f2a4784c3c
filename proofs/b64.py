"""Strict base64 (RFC 4648 section 4): one text for one sequence of bytes."""

from __future__ import annotations

import base64
import binascii

from proofs.errors import UnreadableError


def encode(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def decode(text: str, what: str) -> bytes:
    """Decode base64 that re-encodes to itself, so no stray bits hide in the last character.

    Raises:
        UnreadableError: Anything else.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableError(f"{what} is not base64. Get it again.") from error
    if encode(data) != text:
        raise UnreadableError(f"{what} is not canonical base64. Get it again.")
    return data


def decimal(text: str, what: str) -> int:
    """An ASCII decimal below 2^63 without leading zeroes.

    Raises:
        UnreadableError: Anything else.
    """
    # The length bounds the work before int() does any (2^63 has 19 digits).
    if not (0 < len(text) <= 19 and text.isascii() and text.isdigit()) or str(int(text)) != text:
        raise UnreadableError(f"{what} is not a decimal number without leading zeroes.")
    value = int(text)
    if value >= 2**63:
        raise UnreadableError(f"{what} is beyond 2^63.")
    return value
