"""When and for how long a device tries again what failed on its way."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from runtime.client.carrier import StreamLostError
from runtime.errors import SottoError

T = TypeVar("T")

log = logging.getLogger(__name__)

# A request is sent again, under the same id, for this long while parts of the system restart.
_RETRY_FOR_S = 60.0
_RETRY_PAUSE_S = 0.3
# Nobody should wait for longer without a word.
_TELL_AFTER_S = 3.0
# Codes after which another try can succeed.
RETRYABLE = frozenset(
    {
        "answered_elsewhere",
        "edge_away",
        "enclave_away",
        "key_expired",
        "memory_unavailable",
        "overloaded",
        "relay_away",
        "stopping",
        "too_many_turns",
    }
)


class Retrying:
    """The tries of one request."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + _RETRY_FOR_S

    async def after(self, error: StreamLostError | SottoError) -> None:
        """Wait before the next try.

        Raises:
            SottoError: There should be none: it would fail again, or the time is up.
        """
        if isinstance(error, StreamLostError):
            error = SottoError(str(error), code=error.code)
        elif error.code not in RETRYABLE:
            raise error
        if time.monotonic() > self._deadline:
            raise error
        await asyncio.sleep(_RETRY_PAUSE_S)


async def retried(ask: Callable[[], Awaitable[T]], forget_enclaves: Callable[[], None]) -> T:
    """What comes of a request, sent until it does; after a while it is told why that takes long.

    Args:
        ask: One try.
        forget_enclaves: Between two: a restarted enclave has new keys.

    Raises:
        SottoError: As `Retrying.after`.
    """
    retrying = Retrying()
    tell_at = time.monotonic() + _TELL_AFTER_S
    while True:
        try:
            return await ask()
        except (StreamLostError, SottoError) as error:
            await retrying.after(error)
            if time.monotonic() > tell_at:
                tell_at = math.inf
                log.warning("Trying again, for %.0f s in all: %s", _RETRY_FOR_S, error)
        forget_enclaves()
