"""Forgetting: ask an enclave to erase, verify the receipt of it, and forget here too."""

from __future__ import annotations

import base64
import hmac
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from memory.keys import ThreadKeys
from proofs.erasure import Erasure, Scope, decode_erasure, thread_commitment
from proofs.errors import ProofError
from runtime.client.epochs import EpochBook
from runtime.client.exchange import JSON_HEADERS, SealedResponse, Secrets
from runtime.client.home import DeviceHome
from runtime.client.retrying import retried
from runtime.client.rows import ErasureRow
from runtime.client.sealed import Call, LiveEnclave, SealedHttp, choose
from runtime.enclave.api import ForgetRequest
from runtime.enclave.memory_api import ListRequest, MemoryRequest
from runtime.errors import SottoError
from runtime.sealing import open_receipt

ThreadRequest = ForgetRequest | MemoryRequest

log = logging.getLogger(__name__)

MAX_STEPS = 64
"""Threads that another device may have forgotten or rotated since this one looked."""
THREAD_GONE = frozenset({"thread_forgotten", "thread_rotated"})


class Forgetting:
    """Erasures of one device.

    Args:
        home: Keys and receipts.
        http: The way to enclaves.
        epochs: Bundles that receipts name.
    """

    def __init__(self, home: DeviceHome, http: SealedHttp, epochs: EpochBook) -> None:
        self._home = home
        self._http = http
        self._epochs = epochs

    async def forget(self, persona: str) -> ErasureRow:
        """See `Device.forget`."""
        for _ in range(MAX_STEPS):
            for row in self._home.pending_erasures(persona, Scope.ROTATION):
                await self.abandon(row)
            await self._erase_copies(persona)
            row = self._home.begin_erasure(persona, os.urandom(16).hex(), int(time.time()))
            thread_key = self._home.thread_key(persona, row.thread)
            request = ForgetRequest(thread_key=thread_key, turn_id=row.request_id)
            try:
                erasure, signed, _ = await self.erase(row, request)
            except SottoError as error:
                # Under another key by now: it is that thread that is to be forgotten.
                if error.code != "thread_rotated":
                    raise
                self._home.abandon_erasure(row)
                self.moved_on(persona, row.thread, error)
                continue
            return self._home.finish_erasure(row, erasure.enclave.hex(), signed, erasure.time)
        raise too_far()

    async def _erase_copies(self, persona: str) -> None:
        """Erase what a rotation that another device never ended has left in the next threads.

        As long as the present thread is there, nobody talks in those after it.
        """
        thread = self._home.thread(persona)
        if await self._holds(persona, thread) is None:
            return
        for number in range(thread + 1, thread + MAX_STEPS):
            held = await self._holds(persona, number)
            if held:
                await self._erase_thread(persona, number)
            elif held is not None:
                return

    async def _holds(self, persona: str, thread: int) -> bool | None:
        """Whether a thread has records; None where it was erased."""
        request = ListRequest(thread_key=self._home.thread_key(persona, thread), limit=1)
        try:
            answer = await self.ask(persona, thread, request)
        except SottoError as error:
            if error.code in THREAD_GONE:
                return None
            if error.code not in {"memory_corrupt", "memory_rollback"}:
                raise
            return True  # something that cannot be read
        return not str(answer.get("position", "")).startswith("0.")

    async def _erase_thread(self, persona: str, thread: int) -> None:
        key = self._home.thread_key(persona, thread)
        request = ForgetRequest(thread_key=key, turn_id=os.urandom(16).hex())
        await self.ask(persona, thread, request)

    async def ask(self, persona: str, thread: int, request: ThreadRequest) -> dict[str, Any]:
        """The answer about a thread, asked for until it comes."""
        keys = self._home.thread_keys(persona, thread)

        async def once() -> dict[str, Any]:
            return await (await self.send(keys, request)).read_json()

        return await retried(once, self._http.forget)

    async def abandon(self, row: ErasureRow) -> None:
        """Give up a rotation: what was written under the new key is erased, and no receipt kept.

        Raises:
            SottoError: Nobody could be asked.
        """
        await self._erase_thread(row.persona, row.following)
        self._home.abandon_erasure(row)

    async def send(
        self,
        keys: ThreadKeys,
        request: ThreadRequest,
        on_seal: Callable[[LiveEnclave, Secrets], None] = lambda enclave, secrets: None,
    ) -> SealedResponse:
        """One exchange about a thread, with the enclave that is likely to have it in its cache."""
        body = request.model_dump_json(exclude_none=True).encode()
        call = Call(b"POST", request.path, JSON_HEADERS, body)
        return await self._http.request(
            call, lambda enclaves: choose(enclaves, keys.thread_id), on_seal
        )

    async def erase(
        self, row: ErasureRow, request: ThreadRequest
    ) -> tuple[Erasure, bytes, dict[str, Any]]:
        """Ask for an erasure until it is done.

        Returns:
            The erasure, verified; its receipt; and the whole answer.

        Raises:
            SottoError: Refused, the receipt does not hold, or the system stayed away for a minute.
        """
        keys = self._home.thread_keys(row.persona, row.thread)
        sealed_to: set[str] = set()

        def on_seal(enclave: LiveEnclave, _: Secrets) -> None:
            enclave_id = enclave.attested.enclave_id
            self._home.bundles.keep(enclave_id, enclave.bundle, enclave.inclusion)
            sealed_to.add(enclave_id)

        async def once() -> tuple[Erasure, bytes, dict[str, Any]]:
            answer = await (await self.send(keys, request, on_seal)).read_json()
            signed = _opened(keys, row, answer)
            return await self._verified(signed, keys, row, sealed_to), signed, answer

        return await retried(once, self._http.forget)

    def moved_on(self, persona: str, thread: int, error: SottoError) -> bool:
        """Whether an error says that the thread of this number is gone for good, as another device
        of this person wanted it; this device then goes on with the next one.

        Where it was forgotten, and not only rotated, this device forgets what was said as well.
        """
        if error.code not in THREAD_GONE or not self._home.move_on(persona, thread):
            return False
        if error.code == "thread_forgotten":
            self._home.forget_texts(persona, thread)
        log.warning("%s", moved_line(persona, error.code))
        return True

    async def _verified(
        self, signed: bytes, keys: ThreadKeys, row: ErasureRow, sealed_to: set[str]
    ) -> Erasure:
        try:
            decoded = decode_erasure(signed)
            stated = decoded.unverified
            enclave_id = stated.enclave.hex()
            attested = self._epochs.known(enclave_id, stated.time)
            if attested is None:
                attested = await self._epochs.learn(enclave_id, sealed_to, stated.time)
            erasure = decoded.verify(stated.enclave, attested.claims)
        except ProofError as error:
            raise SottoError(str(error), code="receipt_mismatch") from error
        salt = keys.erasure_salt(erasure.erasure_id)
        thread = thread_commitment(salt, bytes.fromhex(keys.thread_id))
        asked = (erasure.erasure_id.hex(), erasure.scope) == (row.receipt_id, row.scope)
        if not asked or not hmac.compare_digest(erasure.thread, thread):
            raise SottoError(
                "the erasure receipt is not of what was asked to be forgotten; do not rely on "
                "this enclave",
                code="receipt_mismatch",
            )
        return erasure


def too_far() -> SottoError:
    """What is said where thread after thread is gone."""
    return SottoError(
        f"{MAX_STEPS} conversations in a row were forgotten on another device; ask once more",
        code="thread_forgotten",
    )


def moved_line(persona: str, code: str) -> str:
    """What a person is told when this device goes on with the next thread."""
    what = "forgotten" if code == "thread_forgotten" else "moved to a new key"
    return f"the conversation with {persona} was {what} on another device; this one follows"


def _opened(keys: ThreadKeys, row: ErasureRow, answer: dict[str, Any]) -> bytes:
    """The receipt in an enclave's answer."""
    sealed = answer.get("sealed")
    try:
        data = base64.b64decode(sealed, validate=True) if isinstance(sealed, str) else b""
    except ValueError:
        data = b""
    return open_receipt(keys, bytes.fromhex(row.receipt_id), data)
