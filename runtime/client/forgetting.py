"""Forgetting a whole thread: ask, verify the receipt of it, and forget here too."""

from __future__ import annotations

import base64
import hmac
import os
import time
from typing import Any

from memory.keys import ThreadKeys
from proofs.erasure import Erasure, decode_erasure, thread_commitment
from proofs.errors import ProofError
from runtime.client.carrier import StreamLostError
from runtime.client.epochs import EpochBook
from runtime.client.exchange import JSON_HEADERS, Secrets
from runtime.client.home import DeviceHome
from runtime.client.retrying import Retrying
from runtime.client.rows import ErasureRow
from runtime.client.sealed import Call, LiveEnclave, SealedHttp, choose
from runtime.enclave.api import FORGET_PATH, ForgetRequest
from runtime.errors import SottoError
from runtime.sealing import open_receipt


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
        row = self._home.begin_erasure(persona, os.urandom(16).hex(), int(time.time()))
        keys = self._home.thread_keys(persona, row.thread)
        thread_key = self._home.thread_key(persona, row.thread)
        request = ForgetRequest(thread_key=thread_key, turn_id=row.request_id)
        call = Call(b"POST", FORGET_PATH, JSON_HEADERS, request.model_dump_json().encode())
        sealed_to: set[str] = set()

        def on_seal(enclave: LiveEnclave, _: Secrets) -> None:
            enclave_id = enclave.attested.enclave_id
            self._home.keep_enclave(enclave_id, enclave.bundle, enclave.inclusion)
            sealed_to.add(enclave_id)

        retrying = Retrying()
        while True:
            try:
                response = await self._http.request(
                    call, lambda enclaves: choose(enclaves, keys.thread_id), on_seal
                )
                signed = _opened(keys, row, await response.read_json())
                erasure = await self._verified(signed, keys, row, sealed_to)
            except (StreamLostError, SottoError) as error:
                await retrying.after(error)
            else:
                return self._home.finish_erasure(row, erasure.enclave.hex(), signed, erasure.time)
            self._http.forget()

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
        asked = erasure.erasure_id.hex() == row.receipt_id
        if not asked or not hmac.compare_digest(erasure.thread, thread):
            raise SottoError(
                "the erasure receipt is not of what was asked to be forgotten; do not rely on "
                "this enclave",
                code="receipt_mismatch",
            )
        return erasure


def _opened(keys: ThreadKeys, row: ErasureRow, answer: dict[str, Any]) -> bytes:
    """The receipt in an enclave's answer."""
    sealed = answer.get("sealed")
    try:
        data = base64.b64decode(sealed, validate=True) if isinstance(sealed, str) else b""
    except ValueError:
        data = b""
    return open_receipt(keys, bytes.fromhex(row.receipt_id), data)
