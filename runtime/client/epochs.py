"""Attestation bundles of other epochs than the one that was verified before a turn was sealed.

A receipt may name a bundle that came while its turn ran, and is completed by the first bundle of
the same keys after it. Any enclave hands them on, sealed; none is believed before it holds under
the policy and attests keys that this device sealed to.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from proofs.bundle import decode_bundle
from proofs.claims import Claims, decode_claims
from proofs.errors import ProofError
from proofs.policy import Policy
from proofs.verify import AttestedEnclave, verify_bundle
from runtime.client.home import DeviceHome
from runtime.enclave.api import EVIDENCE_PATH
from runtime.errors import SottoError

# A later epoch is asked for no more often than this.
_ASK_AGAIN_S = 60.0

Ask = Callable[[bytes], Awaitable[dict[str, Any]]]
"""Asks an enclave for the JSON at a path; raises SottoError or StreamLostError."""


@dataclass(frozen=True, slots=True)
class _Evidence:
    """A bundle as an enclave hands it on; only its digest has been checked."""

    bundle: bytes
    proof: str
    next: str | None


class EpochBook:
    """Bundles that receipts name.

    Args:
        home: Where verified ones are kept.
        policy: What an enclave must prove.
        ask: How enclaves are asked.
    """

    def __init__(self, home: DeviceHome, policy: Policy, ask: Ask) -> None:
        self._home = home
        self._policy = policy
        self._ask = ask
        # Verified once each: an epoch lives an hour, a device meets a few.
        self._attested: dict[str, AttestedEnclave] = {}
        self._asked: dict[str, float] = {}

    def known(self, enclave_id: str, at: int) -> AttestedEnclave | None:
        """An enclave by a bundle that is kept here, verified as of `at`; None where it is not.

        Raises:
            ProofError: It does not hold under the policy.
        """
        if (attested := self._attested.get(enclave_id)) is None:
            try:
                bundle, proof = self._home.bundles.get(enclave_id)
            except KeyError:
                return None
            attested = verify_bundle(bundle, proof, self._policy, at)
            self._attested[enclave_id] = attested
        return attested

    async def learn(self, enclave_id: str, sealed_to: Collection[str], at: int) -> AttestedEnclave:
        """Fetch a bundle of another epoch, and keep it where it holds.

        Args:
            enclave_id: Hex digest of the bundle.
            sealed_to: Enclaves, by id, to whose keys this device sealed: it must attest the same
                keys as one of them.
            at: Unix seconds of the turn, as of which it must hold.

        Raises:
            ProofError: It does not hold under the policy.
            SottoError: It attests other keys or nobody has it (code `receipt_mismatch`), or
                nobody could be asked.
            StreamLostError: The way broke.
        """
        try:
            found = await self._fetch(enclave_id)
        except SottoError as error:
            # An enclave of an earlier version has no such resource (`not_found`): another may.
            if error.code != "evidence_unknown":
                raise
            raise _mismatch("names an attestation bundle that nobody has") from None
        attested = verify_bundle(found.bundle, found.proof, self._policy, at)
        keys = {self._claims(one).keys_digest() for one in sealed_to}
        if attested.claims.keys_digest() not in keys:
            raise _mismatch("is of an enclave to whose keys this device sealed nothing")
        self._home.bundles.keep(enclave_id, found.bundle, found.proof)
        self._attested[enclave_id] = attested
        return attested

    async def complete(self, enclave_id: str) -> bool:
        """Fetch the first bundle of the same keys after this one, which is kept here.

        Returns:
            Whether it is here now; False too where it was asked for a moment ago.

        Raises:
            SottoError: What was handed on does not hold (code `evidence_refused`), or nobody
                could be asked.
            StreamLostError: The way broke.
        """
        if self._home.bundles.later(enclave_id) is not None:
            return True
        now = time.monotonic()
        if now - self._asked.get(enclave_id, -_ASK_AGAIN_S) < _ASK_AGAIN_S:
            return False
        self._asked[enclave_id] = now
        later = (await self._fetch(enclave_id)).next
        if later is None:
            return False
        found = await self._fetch(later)
        before, after = self._claims(enclave_id), _claims(found.bundle)
        if after.keys_digest() != before.keys_digest() or after.epoch <= before.epoch:
            raise SottoError(
                "what is said to be the next evidence of an enclave is not about the same keys, "
                "or not later; keep it as evidence and do not rely on this enclave",
                code="evidence_refused",
            )
        try:
            # As of when it was collected: the keys may have expired since.
            verify_bundle(found.bundle, found.proof, self._policy, after.not_before)
        except ProofError as error:
            raise SottoError(
                f"the next evidence of an enclave does not hold: {error}", code="evidence_refused"
            ) from error
        self._home.bundles.keep(later, found.bundle, found.proof)
        self._home.bundles.follow(enclave_id, later)
        return True

    async def _fetch(self, enclave_id: str) -> _Evidence:
        answer = await self._ask(EVIDENCE_PATH + b"/" + enclave_id.encode())
        match answer:
            case {"bundle": str(text), "proof": str(proof), "next": (str() | None) as later}:
                bundle = _decode(text)
                if hashlib.sha256(bundle).hexdigest() == enclave_id and _is_digest(later):
                    return _Evidence(bundle, proof, later)
        raise SottoError(
            "an enclave handed on another attestation bundle than it was asked for; ask again",
            code="evidence_malformed",
        )

    def _claims(self, enclave_id: str) -> Claims:
        """Claims of a bundle that was verified before it was kept."""
        bundle, _ = self._home.bundles.get(enclave_id)
        return _claims(bundle)


def _claims(bundle: bytes) -> Claims:
    try:
        return decode_claims(decode_bundle(bundle).claims)
    except ProofError as error:
        raise SottoError(str(error), code="evidence_malformed") from error


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _is_digest(text: str | None) -> bool:
    return text is None or (len(text) == 64 and set(text) <= set("0123456789abcdef"))


def _mismatch(what: str) -> SottoError:
    return SottoError(
        f"the receipt {what}; keep it as evidence and do not rely on this enclave",
        code="receipt_mismatch",
    )
