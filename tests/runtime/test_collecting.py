"""Evidence from a machine that hangs: neither a stop nor the next try waits for it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs.claims import Claims, Measurements
from proofs.evidence.base import Evidence
from proofs.evidence.simulated import SimulatedPlatform
from runtime.enclave.collecting import Collector
from runtime.errors import SetupError

pytestmark = pytest.mark.timeout(600)

CLAIMS = Claims(
    key_configs=(b"k" * 41,),
    receipt_key=b"r" * 32,
    measurements=(("release", b"e" * 32),),
    release=b"e" * 32,
    model_manifest=b"m" * 32,
    engine="scripted",
    model="none",
    not_before=1000,
    not_after=2000,
    epoch=0,
)


@dataclass
class Hanging:
    """A machine that does not answer before it may."""

    machine: SimulatedPlatform
    asked: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def kind(self) -> str:
        return self.machine.kind

    @property
    def measurements(self) -> Measurements:
        return self.machine.measurements

    @property
    def debug(self) -> bool:
        return self.machine.debug

    def collect(self, claims: Claims, now: int) -> Evidence:
        """At last."""
        self.asked.set()
        self.gate.wait()
        return self.machine.collect(claims, now)


@pytest.fixture
def hanging() -> Hanging:
    """One that hangs."""
    root = Ed25519PrivateKey.generate()
    return Hanging(SimulatedPlatform.create(root, bytes(32), measurements=CLAIMS.measurements))


def test_a_process_ends_while_a_machine_hangs(hanging: Hanging) -> None:
    """The loop's own threads are waited for at the end, and one of them would hold up a stop."""
    ended = threading.Event()

    async def asks() -> None:
        asking = asyncio.create_task(Collector(hanging).bundle(CLAIMS, 1000))
        assert await asyncio.to_thread(hanging.asked.wait, 60)
        asking.cancel()

    def process() -> None:
        asyncio.run(asks())
        ended.set()

    threading.Thread(target=process, daemon=True).start()
    try:
        assert ended.wait(60)
    finally:
        hanging.gate.set()


async def test_a_machine_that_hangs_is_given_up_and_not_asked_beside_it(hanging: Hanging) -> None:
    """One collection at a time; the next one comes through when the machine has answered."""
    collector = Collector(hanging, patience_s=0.05)
    with pytest.raises(SetupError, match=r"0\.05 s"):
        await collector.bundle(CLAIMS, 1000)
    with pytest.raises(SetupError, match="still owes"):
        await collector.bundle(CLAIMS, 1000)
    hanging.gate.set()
    async with asyncio.timeout(60):
        while True:
            try:
                bundle = await collector.bundle(CLAIMS, 1001)
            except SetupError:
                await asyncio.sleep(0.01)
            else:
                break
    assert bundle.claims == CLAIMS.encode()
