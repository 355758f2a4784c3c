"""How many replies are in the making at once: turns and completions share one limit."""

from __future__ import annotations

from runtime.enclave.api import ApiError
from runtime.enclave.outbox import Outbox


class Places:
    """So many replies and no more, each with a place for its receipt.

    Args:
        most: Replies in the making at once; more are refused as `overloaded`.
        outbox: Where their receipts go.
    """

    def __init__(self, most: int, outbox: Outbox) -> None:
        self._most = most
        self._outbox = outbox
        self._taken = 0
        self._closed = False

    @property
    def taken(self) -> int:
        """Replies in the making."""
        return self._taken

    def enter(self) -> None:
        """Take a place.

        Raises:
            ApiError: There is none, no room for receipts, or the enclave is stopping.
        """
        if self._closed:
            raise ApiError(503, "stopping", "this enclave is stopping; send the turn to another")
        # Every running reply may still leave a receipt, so their places are kept.
        if self._taken >= self._most or not self._outbox.has_room(self._taken + 1):
            raise ApiError(503, "overloaded", "this enclave is full; try again in a moment")
        self._taken += 1

    def leave(self) -> None:
        """Give a place back."""
        self._taken -= 1

    def close(self) -> None:
        """Refuse every reply that has not begun."""
        self._closed = True
