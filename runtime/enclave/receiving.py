"""Receiving an encapsulated request whole: in bounded time, in bounded memory, authentic to its
end. Nothing is done about a request before that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from runtime.enclave.api import MAX_REQUEST_BYTES
from runtime.enclave.identity import HeldKey, IdentityKeeper
from transport import media
from transport.errors import LimitError, TransportError
from transport.gateway import ChunkedRequestOpener, ResponseSealer, decapsulate

MAX_ENCAPSULATED_BYTES = MAX_REQUEST_BYTES + 16 * 1024
"""A request as it travels: with header, encapsulated key, and framing and tags of its chunks."""
RECEIVE_S = 15.0
"""Longest time from a request's first byte to its last."""
RECEIVE_BUDGET_BYTES = 32 * 1024 * 1024
"""For all requests that are being received: 32 MiB is 227 of the largest, or 2048 of 1 byte."""
# What an exchange costs before its first byte: its task, its buffers, its HPKE context.
_EXCHANGE_BYTES = 16 * 1024


class SlowRequestError(TransportError):
    """The request did not come whole in time: send it again, faster."""


class BusyError(TransportError):
    """Too many requests are being received: send it again in a moment."""


class UnsupportedMediaTypeError(TransportError):
    """The request is not encapsulated: speak Oblivious HTTP to this resource."""


class Exchange(Protocol):
    """One request and its response, whatever carries them."""

    @property
    def content_type(self) -> str:
        """Media type of the request."""
        ...

    async def receive(self) -> bytes | None:
        """The next bytes of the request; None at its clean end."""
        ...

    async def send_head(self, status: int, content_type: str) -> None:
        """Begin the response."""
        ...

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes of the response at once."""
        ...

    async def wait_reset(self) -> None:
        """Wait until the reader of the response has left, and raise why."""
        ...

    def reset(self) -> None:
        """Break the exchange off at once, whatever still waits to be sent."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Received:
    """A request that came whole and opened to its end.

    Attributes:
        plaintext: The Binary HTTP request.
        opener: What opened it, and seals its answer.
        held: The key that it was sealed to.
    """

    plaintext: bytes
    opener: ChunkedRequestOpener | ResponseSealer
    held: HeldKey


@dataclass(slots=True)
class _Budget:
    """Bytes that requests in the receiving may still take."""

    left: int


class _Account:
    """What one request has taken of the budget."""

    __slots__ = ("_budget", "_received", "_taken")

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._taken = 0
        self._received = 0

    def take(self, size: int) -> None:
        if size > self._budget.left:
            raise BusyError("too many requests are being received; send it again in a moment")
        self._budget.left -= size
        self._taken += size

    def received(self, size: int) -> None:
        self._received += size
        check_size(self._received)
        self.take(size)

    def close(self) -> None:
        self._budget.left += self._taken


def check_size(size: int) -> None:
    """Refuse an encapsulated request of this many bytes; `LimitError`."""
    if size > MAX_ENCAPSULATED_BYTES:
        raise LimitError(f"a request has at most {MAX_ENCAPSULATED_BYTES} bytes; send less")


class Receiver:
    """Receives requests.

    Args:
        identities: The keys that open them.
        receive_s: See `RECEIVE_S`.
        budget_bytes: See `RECEIVE_BUDGET_BYTES`.
    """

    def __init__(
        self,
        identities: IdentityKeeper,
        *,
        receive_s: float = RECEIVE_S,
        budget_bytes: int = RECEIVE_BUDGET_BYTES,
    ) -> None:
        self._identities = identities
        self._receive_s = receive_s
        self._budget = _Budget(budget_bytes)

    async def receive(self, exchange: Exchange) -> Received:
        """Receive one request.

        Raises:
            UnsupportedMediaTypeError, UnknownKeyError, LimitError, SlowRequestError, BusyError:
                See there.
            TransportError: It is malformed, cut, or does not open.
        """
        ways = {
            media.OHTTP_CHUNKED_REQUEST: self._chunked,
            media.OHTTP_REQUEST: self._one_shot,
        }
        way = ways.get(exchange.content_type)
        if way is None:
            raise UnsupportedMediaTypeError("the request's media type is not one of OHTTP's")
        account = _Account(self._budget)
        try:
            account.take(_EXCHANGE_BYTES)
            async with asyncio.timeout(self._receive_s):
                return await way(exchange, account)
        except TimeoutError:
            raise SlowRequestError(
                f"the request did not come whole within {self._receive_s:g} s; send it again"
            ) from None
        finally:
            account.close()

    async def _chunked(self, exchange: Exchange, account: _Account) -> Received:
        opener = ChunkedRequestOpener(self._identities, limit=MAX_REQUEST_BYTES)
        plaintext = bytearray()
        held: HeldKey | None = None
        while (data := await exchange.receive()) is not None:
            account.received(len(data))
            for chunk in opener.feed(data):
                plaintext += chunk
            if held is None and opener.header_open:
                # Now, since the key may be gone before the request is whole.
                held = self._identities.held(opener.key_id)
        plaintext += opener.finish()
        if held is None:
            raise RuntimeError("a request that opened has a header")
        return Received(bytes(plaintext), opener, held)

    async def _one_shot(self, exchange: Exchange, account: _Account) -> Received:
        body = bytearray()
        while (data := await exchange.receive()) is not None:
            account.received(len(data))
            body += data
        plaintext, sealer = decapsulate(self._identities, bytes(body))
        return Received(plaintext, sealer, self._identities.held(sealer.key_id))
