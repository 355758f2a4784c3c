"""New keys again and again under a steady stream of requests: none of them fails."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from runtime.enclave.engines.scripted import ScriptedEngine
from tests.runtime.enclave_world import (
    Enclave,
    World,
    a_turn,
    completion,
    inner,
    running_enclave,
)
from transport import media
from transport.bhttp import decode_response
from transport.keyconfig import KeyConfig
from transport.ohttp import ChunkedRequestSealer, encapsulate

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
LIFETIME_S = 900
ROTATIONS = 24
# From one to the next. They come as the clients get on, so a request lasts for two of them at most.
EVERY_S = 60
KEEPS_KEYS_S = 2 * EVERY_S


@dataclass
class Client:
    """Keeps what it fetched as long as it may, and asks without a pause."""

    enclave: Enclave
    numbers: itertools.count[int]
    chance: random.Random
    configs: tuple[KeyConfig, ...] = ()
    used: set[bytes] = field(default_factory=set)
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """Requests that have ended, well or not."""
        return self.answered + len(self.failures)

    async def live(self, stop: asyncio.Event) -> None:
        """Ask until told to stop."""
        fetched = float("-inf")
        while not stop.is_set():
            if time.time() - fetched > KEEPS_KEYS_S:
                self.configs, fetched = await self._fetch(), time.time()
            number = next(self.numbers)
            config = self.chance.choice(self.configs)
            self.used.add(config.public_key)
            try:
                await self._ask(number, config)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.answered += 1

    async def _fetch(self) -> tuple[KeyConfig, ...]:
        """Keys with half of their life before them, as their claims say: none is used longer."""
        held, now = self.enclave.keeper.held, time.time()
        return tuple(
            config
            for config in await self.enclave.configs()
            if held(config.key_id).identity.claims.not_after - now > LIFETIME_S / 2
        )

    async def _ask(self, number: int, config: KeyConfig) -> None:
        match number % 3:
            case 0:
                response, _ = await self.enclave.chunked(inner(a_turn(number)), config)
                ending = b"response.completed"
            case 1:
                response = await self.enclave.one_shot(
                    inner(completion(max_tokens=4), path=b"/v1/chat/completions"), config
                )
                ending = b"chat.completion"
            case _:
                response, ending = await self._in_pieces(number, config)
        assert response.status == 200, response.content[:200]
        assert ending in response.content

    async def _in_pieces(self, number: int, config: KeyConfig) -> tuple[object, bytes]:
        """A request that takes its time, so that rotations fall into it."""
        sealer = ChunkedRequestSealer(config)
        request = inner(a_turn(number))

        async def body():  # type: ignore[no-untyped-def]
            yield sealer.seal(request[:50])
            await asyncio.sleep(self.chance.random() / 10)
            yield sealer.seal(request[50:], final=True)

        status, _, answer = await self.enclave.post(body(), media.OHTTP_CHUNKED_REQUEST)
        assert status == 200, answer
        opener = sealer.response_opener()
        return decode_response(b"".join([*opener.feed(answer), opener.finish()])), b"completed"


async def each_has_asked_again(clients: list[Client]) -> None:
    """Wait for the slowest."""
    before = [client.asked for client in clients]
    async with asyncio.timeout(60):
        while any(  # noqa: ASYNC110 - a count has no event
            client.asked == asked for client, asked in zip(clients, before, strict=True)
        ):
            await asyncio.sleep(0.01)


async def test_no_request_fails_over_a_rotation(
    world: World, let_pass: Callable[[float], None]
) -> None:
    """Turns, completions, whole or in pieces, sealed to any key that was listed in time."""
    engine = ScriptedEngine(first_token_s=0.02, token_s=0.002, tokens=16)
    async with running_enclave(world, engine, lifetime_s=LIFETIME_S) as enclave:
        numbers = itertools.count(1)
        clients = [Client(enclave, numbers, random.Random(seed)) for seed in range(4)]
        stop = asyncio.Event()
        asking = [asyncio.create_task(client.live(stop)) for client in clients]
        seen: set[bytes] = set()
        most = 0
        for _ in range(ROTATIONS):
            await enclave.keeper.rotate()
            listed = enclave.keeper.key_configs()
            most = max(most, len(listed))
            seen |= {config.public_key for config in listed}
            await each_has_asked_again(clients)
            let_pass(EVERY_S)
        stop.set()
        await asyncio.gather(*asking)
        failures = [failure for client in clients for failure in client.failures]
        answered = sum(client.answered for client in clients)
        used = set().union(*(client.used for client in clients))
        assert failures == []
        assert answered >= len(clients) * ROTATIONS
        assert len(seen) == 2 * (ROTATIONS + 1)
        assert len(used) > ROTATIONS / 2, "clients moved on to the new keys"
        assert most < len(seen), "old keys were dropped meanwhile"
        assert enclave.count("sotto_gateway_refused_total") == 0
        print(f"{answered} requests, {ROTATIONS} rotations, {len(used)} keys, no failure")  # noqa: T201


async def test_a_request_to_a_key_kept_too_long_fails_and_says_so(
    world: World, let_pass: Callable[[float], None]
) -> None:
    """The count above can tell: the same client with a key that has expired is refused."""
    async with running_enclave(world, lifetime_s=60) as enclave:
        client = Client(enclave, itertools.count(1), random.Random(0))
        client.configs = await enclave.configs()
        let_pass(61)
        assert await enclave.configs() == ()
        sealed, _ = encapsulate(client.configs[0], inner(a_turn(1)))
        status, _, _ = await enclave.post(sealed, media.OHTTP_REQUEST)
        assert status == 400
        assert enclave.count("sotto_gateway_refused_total", reason="unknown_key") == 1
