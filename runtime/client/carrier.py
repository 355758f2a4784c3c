"""What carries sealed bytes from a device to a gateway: an edge's websocket, or relays directly.

Everything above a carrier is the same over each: what it says of enclaves is verified and not
believed, and what it brings back opens with an exchange's own keys or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

import orjson

from transport import media

SILENCE_S: Final = 150.0
"""Longer than an enclave's queue takes; a carrier that brings nothing for so long is given up."""
MAX_ENCLAVES: Final = 256
"""That an edge or a relay may announce: to verify one takes most of a millisecond."""
_MAX_SHOWN: Final = 200


class StreamLostError(Exception):
    """A stream broke and cannot be resumed; the same request may be sealed and sent again.

    Attributes:
        code: Machine word. `UNKNOWN_KEY` where the gateway does not hold the key it was sealed to.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


UNKNOWN_KEY: Final = "unknown_key"


class Stream(Protocol):
    """One sealed exchange on its way."""

    async def send(self, data: bytes) -> None:
        """Send the whole sealed request; once."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Sealed bytes of the response as they come; ends where the response ends.

        Raises:
            StreamLostError: It broke, or was refused on the way.
            SottoError: It was refused, and would be again.
        """
        ...

    async def aclose(self) -> None:
        """Give the exchange up, where it has not ended; may be called at any time."""
        ...


class Carrier(Protocol):
    """A way to gateways. A device starts it and closes it."""

    async def start(
        self, on_event: Callable[[dict[str, Any]], None], on_reconnect: Callable[[], None]
    ) -> None:
        """Connect, where there is something to connect to.

        Args:
            on_event: Called with each event that is not about a stream (receipts, for instance).
            on_reconnect: Called where what was awaited must be asked for again.

        Raises:
            SottoError: Nobody answers.
        """
        ...

    async def close(self) -> None:
        """Leave."""
        ...

    async def open_stream(self, gateway: str) -> Stream:
        """Begin an exchange with a gateway by name.

        Raises:
            SottoError: There is no way to it.
        """
        ...

    async def enclaves(self) -> list[dict[str, str]]:
        """What is said of live enclaves: `gateway`, `bundle` (base64) and `proof` of each.

        Raises:
            SottoError: Nobody says.
        """
        ...

    async def subscribe(self, receipt_ids: list[str]) -> bool:
        """Ask for receipts to be pushed as events; False where this carrier pushes nothing."""
        ...


def shown(text: str) -> str:
    """A stranger's words, fit for a terminal: no control characters, no flood."""
    return "".join(c if c.isprintable() else " " for c in text[:_MAX_SHOWN])


def problem_type(body: str | bytes) -> str:
    """The type of problem details (RFC 9457); ``about:blank`` where there are none."""
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "about:blank"
    kind = problem.get("type") if isinstance(problem, dict) else None
    return kind if isinstance(kind, str) else "about:blank"


def refused_key(body: str | bytes) -> bool:
    """Whether a refusal says that the gateway does not hold the key (RFC 9458 section 5.3)."""
    return problem_type(body) == media.PROBLEM_OHTTP_KEY
