"""Creators and readers around real enclaves: publishing, resolving, and an operator who meddles."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from personas.authorship import SignedStep, StepKind, next_step, public_key, sign_step
from personas.digest import canonical, persona_digest
from personas.listing import Listing
from personas.model import Persona
from personas.sealing import file_address, seal_definition, seal_file
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.publishing import Published, send
from runtime.client.registry import read_chain
from runtime.client.relays import RelayCarrier
from runtime.client.restoring import Restored, restore
from runtime.client.submission import Submission, Submissions
from runtime.enclave.api import PersonaReference
from runtime.errors import SottoError
from tests.personas.chains import key_of
from tests.runtime.enclave_world import GATEWAY, Enclave, World, running_enclave
from transport.relay.config import RelayConfig
from transport.relay.server import serve as serve_relay

SEAL_KEY = bytes(range(32))
CREATOR = key_of(1)


@dataclass
class Person:
    """Somebody with a device of their own.

    Attributes:
        device: Theirs.
        home: Its folder.
        sent: Copies of what they published.
        key: With which they sign, if they are a creator.
    """

    device: Device
    home: DeviceHome
    sent: Submissions
    key: Ed25519PrivateKey = field(default_factory=lambda: key_of(1))

    async def send(
        self,
        signed: SignedStep,
        definition: bytes = b"",
        files: Mapping[bytes, bytes | Sequence[bytes]] | None = None,
    ) -> Published:
        """Send a signed step, as every command does that takes one."""
        submission = Submission.of(signed, definition, files)
        return await send(self.device, self.sent, submission, self.key)

    async def restore(self, handle: str) -> Restored:
        """As `sotto personas restore` does."""
        return await restore(self.device, self.home, self.sent, self.key, handle)

    async def publish(
        self, persona: Persona, *, private: bool = False, files: dict[bytes, bytes] | None = None
    ) -> Published:
        """Publish a version, as `sotto personas publish` does."""
        signed = await self.signed(StepKind.PUBLISH, persona.handle, persona, private=private)
        definition = canonical(persona)
        if private:
            definition = seal_definition(
                SEAL_KEY, persona.handle, persona_digest(persona), definition, nonce=bytes(12)
            )
        sent: dict[bytes, bytes | Sequence[bytes]] = {**(files or {})}
        if private:
            sent = {
                file_address(SEAL_KEY, persona.handle, digest): seal_file(
                    SEAL_KEY, persona.handle, digest, data
                )
                for digest, data in (files or {}).items()
            }
        return await self.send(signed, definition, sent)

    async def hand_over(self, handle: str, to: Ed25519PrivateKey) -> Published:
        """Hand over, signed by both."""
        offer = await self.signed(StepKind.HAND_OVER, handle, new_key=public_key(to))
        return await self.send(offer.accepted(to))

    async def withdraw(self, handle: str) -> Published:
        """Withdraw."""
        return await self.send(await self.signed(StepKind.WITHDRAW, handle))

    async def signed(
        self,
        kind: StepKind,
        handle: str,
        persona: Persona | None = None,
        *,
        private: bool = False,
        **more: Any,
    ) -> SignedStep:
        """The next step, signed by this person's key, whoever owns the handle."""
        key = public_key(self.key)
        state = None
        with contextlib.suppress(SottoError):
            state = (await read_chain(self.device, self.home, handle)).state
        now = int(time.time())
        if persona is not None:
            more["listing"] = Listing.of(persona, key=key, private=private, created=now)
        return sign_step(next_step(state, kind, handle=handle, key=key, time=now, **more), self.key)

    async def talk(self, persona: Persona | PersonaReference, message: str = "hello") -> Any:
        """One turn; its receipt's row, settled."""
        final: dict[str, Any] = {}
        async for event in self.device.turn(persona, message):
            final = event
        assert final["type"] == "response.completed", final
        return await self.device.wait_settled(final["receipt_id"], 60)


@dataclass
class Stage:
    """Enclaves behind a relay, and people around it."""

    world: World
    enclaves: list[Enclave]
    relay_url: str
    folder: Path
    stack: contextlib.AsyncExitStack
    people: int = 0

    async def person(self, key: Ed25519PrivateKey | None = None) -> Person:
        """Somebody new, with an empty folder."""
        self.people += 1
        folder = self.folder / f"person-{self.people}"
        home = DeviceHome(folder)
        self.stack.callback(home.close)
        device = Device(home, self.world.policy(), RelayCarrier([self.relay_url]))
        await self.stack.enter_async_context(device)
        return Person(device, home, Submissions(folder), key or CREATOR)


@contextlib.asynccontextmanager
async def stage(
    world: World, names: Sequence[str] = (GATEWAY,), **options: Any
) -> AsyncIterator[Stage]:
    """Enclaves of these names with one log, and a relay to them, while the block runs."""
    async with contextlib.AsyncExitStack() as stack:
        enclaves = [
            await stack.enter_async_context(
                running_enclave(world, gateway=name, own_log=number == 0, **options)
            )
            for number, name in enumerate(names)
        ]
        stop = asyncio.Event()
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        gateways = {name: one.url for name, one in zip(names, enclaves, strict=True)}
        config = RelayConfig(
            host="127.0.0.1", port=0, gateways=gateways, registry=CollectorRegistry()
        )
        task = asyncio.create_task(serve_relay(config, stop, started=listening.set_result))
        try:
            url = f"http://127.0.0.1:{await listening}"
            async with contextlib.AsyncExitStack() as people:
                yield Stage(world, enclaves, url, world.folder, people)
        finally:
            stop.set()
            await task
