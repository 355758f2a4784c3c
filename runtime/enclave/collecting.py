"""Evidence is collected beside everything else: a machine that hangs must hold nothing up."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from proofs.bundle import Bundle, make_bundle
from proofs.claims import Claims
from proofs.evidence.base import Platform
from runtime.errors import SetupError

# Hardware takes seconds; a busy platform is asked again for a minute (`tee.configfs.TIMEOUT_S`).
_PATIENCE_S = 180.0


class Collector:
    """Collects evidence, one at a time.

    Args:
        platform: What attests.
        patience_s: After how long one that does not answer is not waited for.
    """

    def __init__(self, platform: Platform, *, patience_s: float = _PATIENCE_S) -> None:
        self._platform = platform
        self._patience_s = patience_s
        self._busy = threading.Lock()

    async def bundle(self, claims: Claims, now: int) -> Bundle:
        """A bundle of `claims` and fresh evidence for them, as of `now` (unix seconds).

        Raises:
            SetupError: The platform does not answer.
            Exception: Whatever keeps it from attesting.
        """
        if not self._busy.acquire(blocking=False):
            raise SetupError("the platform still owes the evidence that was asked for before")
        made: Future[Bundle] = Future()
        made.set_running_or_notify_cancel()

        def collect() -> None:
            try:
                made.set_result(make_bundle(claims, self._platform, now))
            except BaseException as error:
                made.set_exception(error)
            finally:
                self._busy.release()

        # Not the loop's own threads: a process that ends waits for those, and for these not.
        threading.Thread(target=collect, name="evidence", daemon=True).start()
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.wrap_future(made)
        except TimeoutError:
            raise SetupError(
                f"the platform gave no evidence within {self._patience_s:g} s; look at its drivers"
            ) from None
