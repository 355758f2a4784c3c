"""Straight to relays by plain HTTP: no edge, and with two relays none that sees every exchange."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import aiohttp
import orjson
import yarl

from runtime.client.carrier import (
    MAX_ENCLAVES,
    SILENCE_S,
    UNKNOWN_KEY,
    StreamLostError,
    refused_key,
    shown,
)
from runtime.errors import Exit, SottoError
from transport import media
from transport.relay.name import GATEWAY_NAME

_CONNECT_S: Final = 10.0
# A relay that was away is left out for this long, unless all are.
_SKIP_S: Final = 10.0
_ASK_S: Final = 10.0
# A gateway that a relay cannot reach is passed over; so is a relay where another has answered.
_ATTESTATION_S: Final = 5.0
_OTHERS_S: Final = 2.0
# Problem details come with their status or are not worth waiting for.
_PROBLEM_S: Final = 2.0
_MAX_PROBLEM_BYTES: Final = 4096
_MAX_LIST_BYTES: Final = 64 * 1024
# Of all that one relay says. A bundle carries a quote and its collateral; the edge's list of them
# has the same bound.
_MAX_ATTESTATION_BYTES: Final = 4 * 1024 * 1024
_MAX_GATEWAYS: Final = 64
_GATEWAY: Final = re.compile(GATEWAY_NAME)
# Nothing says which program this is, and nothing is asked of the answer.
_AUTO_HEADERS: Final = ("User-Agent", "Accept", "Accept-Encoding")
# 404: it led to that gateway when it was asked. Another relay may still.
_AWAY_STATUS: Final = frozenset({404, 429, 500, 502, 503, 504})
# It did not open, or did not come whole: another sealing may.
_AGAIN_STATUS: Final = frozenset({400, 408})

_Announced = tuple[str, str, str]
"""Gateway's name, bundle (base64), proof."""
_Errors = (aiohttp.ClientError, OSError, TimeoutError)


class _AwayError(Exception):
    """A relay does not answer as a relay does."""


class _Relay:
    """One relay, and until when it is left out."""

    def __init__(self, url: yarl.URL) -> None:
        self.url = url
        self.away_until = 0.0

    def there(self) -> bool:
        """Whether it is not left out now."""
        return self.away_until <= time.monotonic()

    def skip(self) -> None:
        """Leave it out for a while."""
        self.away_until = time.monotonic() + _SKIP_S

    def __str__(self) -> str:
        return shown(str(self.url))


class RelayStream:
    """One exchange through one relay. It satisfies `runtime.client.carrier.Stream`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        relay: _Relay,
        gateway: str,
        *,
        others: Sequence[_Relay] = (),
    ) -> None:
        self._session = session
        self._relay = relay
        self._gateway = gateway
        self._others = others
        self._post: asyncio.Task[aiohttp.ClientResponse] | None = None

    async def send(self, data: bytes) -> None:
        """Begin the exchange; what comes of it is found by reading."""
        headers = {"Content-Type": media.OHTTP_CHUNKED_REQUEST, "Incremental": "?1"}
        request = self._session.post(
            self._relay.url / "gateway" / self._gateway,
            data=data,
            headers=headers,
            allow_redirects=False,
        )
        self._post = asyncio.ensure_future(request)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Sealed bytes of the response as they come; ends where the response ends.

        Raises:
            StreamLostError: The relay is away, its answer was cut, or another try may succeed.
            SottoError: The relay or the gateway refused what it would refuse again.
        """
        if self._post is None:
            raise RuntimeError("a request is sent before its answer is read")
        try:
            async with asyncio.timeout(SILENCE_S):
                # Shielded: whoever stops reading ends the exchange by closing it.
                response = await asyncio.shield(self._post)
        except _Errors as error:
            self._relay.skip()
            raise StreamLostError(
                "relay_away", f"the relay {self._relay} is away ({type(error).__name__})"
            ) from error
        if response.status != 200 or response.content_type != media.OHTTP_CHUNKED_RESPONSE:
            raise await self._refusal(response)
        try:
            while data := await self._receive(response):
                yield data
        except _Errors as error:
            raise StreamLostError(
                "stream_lost", f"the answer was cut ({type(error).__name__}); send it again"
            ) from error

    async def _receive(self, response: aiohttp.ClientResponse) -> bytes:
        async with asyncio.timeout(SILENCE_S):
            return await response.content.readany()

    async def _refusal(self, response: aiohttp.ClientResponse) -> Exception:
        """What a relay's or a gateway's problem details mean here."""
        try:
            async with asyncio.timeout(_PROBLEM_S):
                body = await _read(response, _MAX_PROBLEM_BYTES)
        except (*_Errors, _AwayError):
            body = b""
        status = response.status
        if status == 400 and refused_key(body):
            self._relay.skip()
            return StreamLostError(UNKNOWN_KEY, "the gateway has new keys; they are fetched")
        said = f"{status} {_title(body)}".strip()
        if status in _AGAIN_STATUS:
            return StreamLostError("gateway_refused", f"the sealed request was refused: {said}")
        if status != 413:
            # A relay that refuses what others take is as good as away.
            self._relay.skip()
        if status in _AWAY_STATUS or (status != 413 and any(map(_Relay.there, self._others))):
            return StreamLostError("relay_away", f"the relay {self._relay} cannot now: {said}")
        what = {
            413: "it takes no message of this size; send a shorter one",
            200: "it is no OHTTP relay; check the address",
        }.get(status, "check the relay's address, or use another relay")
        return SottoError(
            f"the relay {self._relay} refused the sealed request ({said}): {what}",
            code="relay_refused",
        )

    async def aclose(self) -> None:
        """Give the exchange up, where it has not ended: its connection is dropped."""
        if self._post is None:
            return
        if not self._post.done():
            self._post.cancel()
        (answer,) = await asyncio.gather(self._post, return_exceptions=True)
        if isinstance(answer, aiohttp.ClientResponse):
            # No more than a release where the answer was read to its end.
            answer.close()


class RelayCarrier:
    """One or more relays. It satisfies `runtime.client.carrier.Carrier`.

    Each exchange goes through a relay drawn by chance, so that of two relays neither sees every
    exchange. One that is away is left out for a while.

    Args:
        relay_urls: Base addresses, ``http://`` or ``https://``.

    Raises:
        SottoError: No address, or one that is none.
    """

    def __init__(self, relay_urls: Sequence[str]) -> None:
        self._relays = [_Relay(_parse(url)) for url in dict.fromkeys(relay_urls)]
        if not self._relays:
            raise SottoError("say which relays: --relay URL", exit_code=Exit.USAGE)
        self._session: aiohttp.ClientSession | None = None
        # For each bundle that was announced: by which relays, and what each calls its gateway.
        self._ways: dict[str, dict[_Relay, str]] = {}

    async def start(
        self, on_event: Callable[[dict[str, Any]], None], on_reconnect: Callable[[], None]
    ) -> None:
        """Nothing is connected before there is something to say, and nothing is pushed."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTO_HEADERS,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        )

    async def close(self) -> None:
        """Drop every connection."""
        if self._session is not None:
            await self._session.close()

    async def open_stream(self, gateway: str) -> RelayStream:
        """An exchange through one of the relays that lead to this enclave, drawn by chance."""
        ways = self._ways.get(gateway)
        if not ways:
            raise SottoError(
                "no relay leads to this enclave any more; try again in a moment", code="relay_away"
            )
        relay = _choose(ways)
        others = [other for other in ways if other is not relay]
        return RelayStream(self._http(), relay, ways[relay], others=others)

    async def enclaves(self) -> list[dict[str, str]]:
        """What all relays say of live enclaves: to be verified, not believed.

        Relays may call one enclave by different names, and different enclaves by one. So
        `gateway` is here a digest of the bundle: it stands for all ways to that enclave.
        """
        answers = await self._ask_all()
        if all(said is None for said in answers):
            names = ", ".join(map(str, self._relays))
            raise SottoError(
                f"no relay answers at {names}; check the addresses given with --relay and your "
                "network, or try again in a moment",
                code="relay_away",
            )
        ways: dict[str, dict[_Relay, str]] = {}
        found = {}
        for relay, said in zip(self._relays, answers, strict=True):
            for name, bundle, proof in said or ():
                key = hashlib.sha256(bundle.encode()).hexdigest()
                ways.setdefault(key, {})[relay] = name
                found[key, proof] = {"gateway": key, "bundle": bundle, "proof": proof}
        self._ways = ways
        return list(found.values())

    async def subscribe(self, receipt_ids: list[str]) -> bool:
        """A relay pushes nothing: receipts are asked for, sealed."""
        return False

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("a carrier is started before it is used")
        if self._session.closed:
            raise SottoError("this device has left its relays", code="closed")
        return self._session

    async def _ask_all(self) -> list[list[_Announced] | None]:
        """What each relay announces; one that is silent does not hold up what another says."""
        self._http()
        asking = [asyncio.create_task(self._ask(relay)) for relay in self._relays]
        try:
            waiting: set[asyncio.Task[list[_Announced] | None]] = set(asking)
            while waiting and not any(task.done() and task.result() for task in asking):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                await asyncio.wait(waiting, timeout=_OTHERS_S)
            for relay, task in zip(self._relays, asking, strict=True):
                if not task.done():
                    relay.skip()
            return [task.result() if task.done() else None for task in asking]
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, relay: _Relay) -> list[_Announced] | None:
        """What one relay announces; None where it is away."""
        try:
            async with asyncio.timeout(_ASK_S):
                names = _names(await self._get(relay, "gateways", _MAX_LIST_BYTES))
                limit = _MAX_ATTESTATION_BYTES // max(1, len(names))
                asked = (self._attestation(relay, name, limit) for name in names)
                said = await asyncio.gather(*asked)
        except (*_Errors, _AwayError):
            relay.skip()
            return None
        return [one for entries in said for one in entries][:MAX_ENCLAVES]

    async def _attestation(self, relay: _Relay, name: str, limit: int) -> list[_Announced]:
        """One gateway's bundles; none where the gateway is away."""
        path = f"gateway/{name}/attestation"
        try:
            async with asyncio.timeout(_ATTESTATION_S):
                return _entries(await self._get(relay, path, limit), name)
        except (TimeoutError, _AwayError):
            return []

    async def _get(self, relay: _Relay, path: str, limit: int) -> object:
        async with self._http().get(relay.url / path, allow_redirects=False) as response:
            if response.status != 200:
                raise _AwayError
            try:
                return orjson.loads(await _read(response, limit))
            except orjson.JSONDecodeError:
                raise _AwayError from None


def _choose(relays: Iterable[_Relay]) -> _Relay:
    if there := [relay for relay in relays if relay.there()]:
        return random.SystemRandom().choice(there)
    return min(relays, key=lambda relay: relay.away_until)


def _parse(text: str) -> yarl.URL:
    try:
        url = yarl.URL(text)
        host = url.host
    except ValueError:
        url, host = yarl.URL(), None
    beside = url.raw_user or url.raw_password or url.raw_query_string or url.raw_fragment
    if url.scheme not in ("http", "https") or not host or beside:
        raise SottoError(
            f"{shown(text)!r} is not the address of a relay, such as https://relay.example",
            exit_code=Exit.USAGE,
        )
    return url


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """A whole body; refused before more than the limit is held."""
    if (response.content_length or 0) > limit:
        raise _AwayError
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > limit:
            raise _AwayError
    return bytes(body)


def _names(answer: object) -> list[str]:
    names = answer.get("gateways") if isinstance(answer, dict) else None
    if not isinstance(names, list) or len(names) > _MAX_GATEWAYS:
        raise _AwayError
    if not all(isinstance(name, str) and _GATEWAY.fullmatch(name) for name in names):
        raise _AwayError
    return names


def _entries(answer: object, name: str) -> list[_Announced]:
    """The bundles announced for a gateway, under the relay's own name for it."""
    entries = answer.get("enclaves") if isinstance(answer, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_GATEWAYS:
        raise _AwayError
    found = []
    for entry in entries:
        told = entry if isinstance(entry, dict) else {}
        bundle, proof = told.get("bundle"), told.get("proof")
        if not isinstance(bundle, str) or not isinstance(proof, str):
            raise _AwayError
        found.append((name, _canonical(bundle), proof))
    return found


def _canonical(text: str) -> str:
    """The one base64 text of these bytes: a relay that wrote them otherwise would have an enclave
    to itself, and see each exchange with it."""
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode()
    except ValueError:
        raise _AwayError from None


def _title(body: bytes) -> str:
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    title = problem.get("title") if isinstance(problem, dict) else None
    return shown(title) if isinstance(title, str) else ""
