"""What tests of witnesses share: trees that one log signs, requests, and witnesses that run."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from prometheus_client import CollectorRegistry
from proofs_support import LOG, NOW, private_key

from proofs import merkle
from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.cosignature import Cosigner
from proofs.note import COSIGNER_KEYS, Note, Signer, VerifierKey, parse_note, parse_vkey
from proofs.witness.protocol import AddCheckpoint
from proofs.witness.service import WitnessConfig, serve
from proofs.witness.witness import Metrics, Witness

NAME = "witness.example/w1"
COSIGNERS = (
    Cosigner(NAME, private_key(11)),
    Cosigner(NAME, MLDSA44PrivateKey.from_seed_bytes(bytes([12]) * 32)),
)
KEYS = tuple(one.verifier for one in COSIGNERS)


@dataclass(frozen=True)
class Tree:
    """A tree that a log may show: `shared` entries that every tree has, then its own."""

    own: str = "a"
    shared: int = 0
    signer: Signer = LOG

    def leaves(self, size: int) -> list[bytes]:
        names = (f"all {n}" if n < self.shared else f"{self.own} {n}" for n in range(size))
        return [merkle.leaf_hash(hashlib.sha256(name.encode()).digest()) for name in names]

    def head(self, size: int) -> Note:
        """The signed head of that many entries."""
        checkpoint = Checkpoint(self.signer.name, size, merkle.root(self.leaves(size)))
        return self.signer.sign(checkpoint.format())

    def proof(self, old: int, size: int) -> list[bytes]:
        if old in (0, size):
            return []
        return merkle.consistency_proof(old, size, merkle.subtree_of(self.leaves(size)))

    def request(self, old: int, size: int, note: Note | None = None) -> bytes:
        """The body that asks for a cosignature of `size`."""
        head = note or self.head(size)
        proof = tuple(self.proof(old, size)) if old <= size else ()
        return AddCheckpoint(old, proof, head, parse_checkpoint(head.text)).format().encode()


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


def witness(
    folder: Path,
    clock: Clock | None = None,
    logs: Sequence[VerifierKey] = (LOG.verifier,),
    registry: CollectorRegistry | None = None,
    cosigners: Sequence[Cosigner] = COSIGNERS,
) -> Witness:
    """The rules alone, without HTTP."""
    metrics = Metrics.register(registry or CollectorRegistry())
    return Witness(folder, cosigners, logs, clock or Clock(), metrics)


def merged(note: Note, lines: str) -> Note:
    """A checkpoint with the lines that a witness answered."""
    return parse_note(note.format() + lines)


@dataclass(frozen=True)
class Running:
    """A witness that listens."""

    url: str
    keys: tuple[VerifierKey, ...]
    registry: CollectorRegistry


@asynccontextmanager
async def running(
    folder: Path,
    name: str = NAME,
    logs: tuple[VerifierKey, ...] = (LOG.verifier,),
    port: int = 0,
) -> AsyncIterator[Running]:
    """The service as a task, with keys of its own."""
    stop = asyncio.Event()
    listening: asyncio.Future[tuple[int, tuple[str, ...]]] = asyncio.Future()
    registry = CollectorRegistry()
    config = WitnessConfig("127.0.0.1", port, folder, logs, name, registry)
    task = asyncio.create_task(
        serve(config, stop, started=lambda *told: listening.set_result(told))
    )
    await asyncio.wait([task, listening], return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            await task
        at, vkeys = listening.result()
        keys = tuple(parse_vkey(vkey, COSIGNER_KEYS) for vkey in vkeys)
        yield Running(f"http://127.0.0.1:{at}", keys, registry)
    finally:
        stop.set()
        await task
