"""Sealed HTTP: requests to verified enclaves, over whatever carries them.

Nothing is sealed to a key before `verify_bundle` has found the enclave that attests it to hold
under the user's policy. What an answer says is the enclave's word, for it opens with this
exchange's keys alone.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import hashlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proofs.errors import ProofError
from proofs.policy import Policy
from proofs.verify import AttestedEnclave, verify_bundle
from runtime.client.carrier import (
    UNKNOWN_KEY,
    Carrier,
    StreamLostError,
    problem_type,
    shown,
)
from runtime.client.exchange import Exchange, SealedResponse, Secrets
from runtime.errors import SottoError
from transport import media
from transport.bhttp import Fields
from transport.errors import TransportError, UnknownKeyError
from transport.keyconfig import KeyConfig, choose_config, decode_key_config
from transport.shaping import DEFAULT_SHAPING, Shaping

log = logging.getLogger(__name__)

# Bundles are verified once and used until they are this old; then the carrier is asked again.
_ENCLAVES_FRESH_S = 60.0
# A clock that is wrong by more than a day is not corrected: its owner should know.
_MOST_OFFSET_S = 86_400.0


@dataclass(frozen=True, slots=True)
class LiveEnclave:
    """A verified enclave, and what the carrier calls the way to it."""

    gateway: str
    attested: AttestedEnclave
    key_config: KeyConfig
    bundle: bytes
    inclusion: str


@dataclass(frozen=True, slots=True)
class Call:
    """An inner request.

    Attributes:
        headers: Besides those that every request has: `date` and the shaping.
    """

    method: bytes
    path: bytes
    headers: Fields = ()
    body: bytes = b""


def choose(enclaves: Sequence[LiveEnclave], token: str) -> LiveEnclave:
    """Rendezvous hashing: a thread stays with one enclave while it lives, so its cache holds.

    By the attested keys, not by the gateway's name or the bundle: an edge could list one enclave
    under a thousand names or epochs, and know threads again by the one that each of them picks.
    """
    by_keys = {one.attested.claims.keys_digest(): one for one in reversed(enclaves)}

    def weight(keys: bytes) -> bytes:
        return hashlib.sha256(f"{keys.hex()} {token}".encode()).digest()

    return by_keys[max(by_keys, key=weight)]


def choose_any(enclaves: Sequence[LiveEnclave]) -> LiveEnclave:
    """One of them, by chance."""
    return random.SystemRandom().choice(enclaves)


class SealedHttp:
    """Sealed requests.

    Args:
        carrier: What brings sealed bytes to gateways.
        policy: What an enclave must prove.
        shaping: How requests and answers are padded.
        clock: Unix seconds. The enclave corrects it where it is wrong.

    Attributes:
        simulated: Whether no hardware stands behind an enclave that was verified last.
    """

    def __init__(
        self,
        carrier: Carrier,
        policy: Policy,
        *,
        shaping: Shaping = DEFAULT_SHAPING,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._carrier = carrier
        self._policy = policy
        self._shaping = shaping
        self._clock = clock
        self._offset = 0.0
        self.simulated = False
        self._enclaves: list[LiveEnclave] = []
        self._verified_at = 0.0
        self._asking = asyncio.Lock()

    def forget(self) -> None:
        """Ask for enclaves anew before the next request: a restarted one has new keys."""
        self._enclaves = []

    async def enclaves(self) -> list[LiveEnclave]:
        """Live enclaves that hold under the policy.

        Raises:
            SottoError: There is none; says what was wrong with those that were refused.
        """
        async with self._asking:
            fresh = time.monotonic() - self._verified_at < _ENCLAVES_FRESH_S
            if not self._enclaves or not fresh:
                self._enclaves = self._verify(await self._carrier.enclaves())
                self._verified_at = time.monotonic()
                self.simulated = any(one.attested.simulated for one in self._enclaves)
            return self._enclaves

    async def request(
        self,
        call: Call,
        pick: Callable[[list[LiveEnclave]], LiveEnclave],
        on_seal: Callable[[LiveEnclave, Secrets], None] = lambda enclave, secrets: None,
    ) -> SealedResponse:
        """One exchange; sent once more, sealed anew, where the keys or the clock were not right.

        Args:
            call: What to ask.
            pick: Which of the live enclaves to ask.
            on_seal: Called before each sealing that the enclave may act on.

        Raises:
            StreamLostError: It broke on the way; the enclave may have acted on it.
            SottoError: There is no enclave or no way to one, or the request was refused outside.
        """
        try:
            return await self.send(pick(await self.enclaves()), call, on_seal)
        except StreamLostError as error:
            # RFC 9458 section 5.3: the gateway does not hold the key, so it saw no request.
            if error.code != UNKNOWN_KEY:
                raise
        self.forget()
        return await self.send(pick(await self.enclaves()), call, on_seal)

    async def send(
        self,
        enclave: LiveEnclave,
        call: Call,
        on_seal: Callable[[LiveEnclave, Secrets], None] = lambda enclave, secrets: None,
    ) -> SealedResponse:
        """One exchange with this enclave; see `request`."""
        response = await self._send(enclave, call, on_seal)
        if (date := await _refused_date(response)) is None:
            return response
        # RFC 9458 section 6.5.2: an enclave that refuses a date has not acted on the request.
        if self._correct(date):
            response = await self._send(enclave, call, on_seal)
            if await _refused_date(response) is None:
                return response
        raise SottoError(
            "the enclave refuses the date of this device's requests; set its clock", code="date"
        )

    async def _send(
        self,
        enclave: LiveEnclave,
        call: Call,
        on_seal: Callable[[LiveEnclave, Secrets], None],
    ) -> SealedResponse:
        exchange = Exchange(enclave.key_config, self._shaping)
        now = self._clock() + self._offset
        sealed = exchange.seal(call.method, call.path, call.headers, call.body, now)
        on_seal(enclave, exchange.secrets)
        stream = await self._carrier.open_stream(enclave.gateway)
        try:
            await stream.send(sealed)
            return await exchange.answer(stream)
        except BaseException:
            await stream.aclose()
            raise

    def _correct(self, date: str) -> bool:
        """Take the enclave's clock for the dates of requests; False where that would not help."""
        try:
            theirs = email.utils.parsedate_to_datetime(date).timestamp()
        except ValueError:
            return False
        offset = theirs - self._clock()
        if abs(offset) > _MOST_OFFSET_S:
            return False
        if not self._offset:
            log.warning(
                "this device's clock is %d seconds %s by the enclave's; requests are dated by the "
                "enclave's until the clock is set",
                abs(offset),
                "slow" if offset > 0 else "fast",
            )
        self._offset = offset
        return True

    def _verify(self, announced: list[dict[str, str]]) -> list[LiveEnclave]:
        refused: list[str] = []
        found = []
        for entry in announced:
            try:
                found.append(_verify_one(entry, self._policy))
            except (ProofError, TransportError, ValueError) as error:
                refused.append(str(error))
        if found:
            return found
        if refused:
            hint = ""
            if self._policy.require_inclusion and not self._policy.log_keys:
                hint = (
                    " This policy names no log, so nothing can hold under it, as with the built-in "
                    "one: give another with --policy, or with --home the device's folder that has "
                    "one; where `make run` runs, that is data/device"
                )
            raise SottoError(
                f"no enclave holds under the policy in force: {refused[0]}{hint}",
                code="enclave_refused",
            )
        raise SottoError(
            "no enclave is announced; it may be starting: try again in a moment",
            code="enclave_away",
        )


async def _refused_date(response: SealedResponse) -> str | None:
    """The enclave's own date, where it refuses the request's; None where it does not."""
    if response.status != 400 or response.header(b"content-type") != media.PROBLEM_JSON:
        return None
    kind = problem_type(await response.read())
    if kind != media.PROBLEM_DATE:
        raise SottoError(f"the enclave refused the request: {shown(kind)}", code="enclave_refusal")
    return response.header(b"date")


def _verify_one(entry: dict[str, str], policy: Policy) -> LiveEnclave:
    bundle = base64.b64decode(entry["bundle"], validate=True)
    attested = verify_bundle(bundle, entry["proof"], policy, int(time.time()))
    config = choose_config(_known_configs(attested.key_configs))
    return LiveEnclave(entry["gateway"], attested, config, bundle, entry["proof"])


def _known_configs(encoded: Sequence[bytes]) -> list[KeyConfig]:
    """The configurations that this version can read (RFC 9458 section 3.2)."""
    configs = []
    for one in encoded:
        try:
            configs.append(decode_key_config(one))
        except UnknownKeyError:
            continue
    return configs
