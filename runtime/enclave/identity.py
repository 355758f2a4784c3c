"""Who this enclave is: keys made at boot, the evidence that binds them, their place in the log.

Keys never leave the process. New ones come at half of their lifetime; the old ones keep opening
requests until they expire, so that no turn fails over a rotation. There are two gateway keys at a
time: X-Wing, which a recording of today's traffic will outlast, and X25519 for every standard
client. Evidence over the same keys is collected anew on a clock, each time with claims, a bundle
and a log entry of its own: an epoch. An identity is keys in one epoch.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import redis.asyncio
import redis.exceptions
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proofs.bundle import bundle_entry
from proofs.claims import Claims
from proofs.errors import ProofError
from proofs.evidence.base import Platform
from proofs.evidence.simulated import SimulatedPlatform
from runtime.enclave.collecting import Collector
from runtime.enclave.engines.base import Engine
from runtime.enclave.epochs import EpochStore
from runtime.enclave.outbox import append_leaf
from runtime.errors import SetupError, SottoError
from runtime.redis_client import hash_fields
from runtime.streams import ENCLAVES_SET, enclave_key, receipt_key
from transport.hpke import KEM_X25519_HKDF_SHA256, KEM_X_WING
from transport.keyconfig import GatewayKey, KeyConfig
from transport.replay import ReplayCache

if TYPE_CHECKING:  # numpy stands behind it, and commands that need no vectors import this module
    from runtime.enclave.embedding.base import Embedder

log = logging.getLogger(__name__)

RELEASE_PACKAGES = ("runtime", "transport", "proofs", "memory", "personas")
# A client refuses a key configuration that is not in the log, so the enclave waits for it.
_INCLUSION_POLL_S = 0.05
_ASK_AGAIN_S = 30.0
ANNOUNCE_EVERY_S = 5.0
ANNOUNCE_TTL_S = 20
EVIDENCE_INTERVAL_S = 3600
# How often it is looked whether keys or evidence are due, and how soon after a failure again.
_LOOK_EVERY_S = 1.0
_TRY_AGAIN_S = 30.0
# In the order in which a client should prefer them (RFC 9458 section 3.2).
GATEWAY_KEMS = (KEM_X_WING, KEM_X25519_HKDF_SHA256)

DATE_WINDOW_S = 300
REPLAY_CAPACITY = 1 << 18
"""Requests that one key remembers: 870 a second for the whole window. At some 210 bytes each a
full cache takes 55 MB; at most three identities are valid at once, so at most 330 MB in all."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One set of keys in one epoch, and what the world may know of it.

    Attributes:
        claims: What the evidence binds.
        bundle: Encoded attestation bundle.
        inclusion: The bundle's tlog-proof.
        made_at: Unix seconds at which the keys were made, in the first of their epochs.
        gateway_keys: Open requests; in the order of the claims' key configurations.
        receipt_key: Signs receipts.
        bundle_digest: SHA-256 of the bundle: the enclave's identity in receipts.
    """

    claims: Claims
    bundle: bytes
    inclusion: str
    made_at: int
    gateway_keys: tuple[GatewayKey, ...] = field(repr=False)
    receipt_key: Ed25519PrivateKey = field(repr=False)
    bundle_digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        # Once: with the evidence of hardware a bundle has hundreds of kilobytes, and every receipt
        # names it.
        object.__setattr__(self, "bundle_digest", hashlib.sha256(self.bundle).digest())


@dataclass(frozen=True, slots=True, repr=False)
class HeldKey:
    """A gateway key as long as it is held, and all that goes when it goes.

    Attributes:
        key: Opens requests.
        identity: Whose key it is, in its newest epoch.
        replays: Requests that were sealed to it; no other key can open them.
    """

    key: GatewayKey
    identity: Identity
    replays: ReplayCache


class IdentityKeeper(Mapping[int, GatewayKey]):
    """Current and still valid earlier identities, by OHTTP key id.

    As a mapping it is the key ring that opens requests; expired keys are not in it.

    Args:
        client: Redis, to log bundles and to announce this enclave.
        gateway: This replica's name.
        engine: Started engine; its manifest is part of the claims.
        platform: What attests.
        lifetime_s: How long keys are valid.
        evidence_interval_s: After how long evidence over the same keys is collected anew.
        embedder: Started; its files are the model's as well. None: there is none.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        gateway: str,
        engine: Engine,
        platform: Platform,
        *,
        lifetime_s: int,
        evidence_interval_s: int = EVIDENCE_INTERVAL_S,
        embedder: Embedder | None = None,
    ) -> None:
        self._redis = client
        self._epochs = EpochStore(client)
        self._gateway = gateway
        self._engine = engine
        self._embedder = embedder
        self._platform = platform
        self._collector = Collector(platform)
        self._lifetime_s = lifetime_s
        self._evidence_interval_s = evidence_interval_s
        self._held: dict[int, HeldKey] = {}
        self._current: Identity | None = None
        self._sets = 0
        # Measured once, as hardware does at boot: what is on the disk later is not what runs.
        self._release = dict(platform.measurements).get("release") or release_digest()

    def __getitem__(self, key_id: int) -> GatewayKey:
        held = self._held[key_id]
        identity = held.identity
        if not identity.made_at - DATE_WINDOW_S <= time.time() < identity.claims.not_after:
            raise KeyError(key_id)
        return held.key

    def __iter__(self) -> Iterator[int]:
        return iter([key_id for key_id in self._held if key_id in self])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def current(self) -> Identity | None:
        """The newest identity, None before the first is in the log."""
        return self._current

    def held(self, key_id: int) -> HeldKey:
        """The key that has just opened a request, were it to expire in this very moment.

        Raises:
            KeyError: No such key is held.
        """
        return self._held[key_id]

    def key_configs(self) -> tuple[KeyConfig, ...]:
        """Every configuration that is valid, in the order in which a client should prefer them."""
        identities = {id(held.identity): held.identity for held in self._held.values()}
        return tuple(
            key.config
            for identity in reversed(identities.values())
            for key in identity.gateway_keys
            if key.config.key_id in self
        )

    def attestation(self) -> bytes:
        """What an edge would hand on of this enclave, as JSON: to be verified, not believed."""
        enclaves = []
        if (current := self._current) is not None:
            bundle = base64.b64encode(current.bundle).decode()
            enclaves.append(
                {"gateway": self._gateway, "bundle": bundle, "proof": current.inclusion}
            )
        return orjson.dumps({"enclaves": enclaves})

    def forget_expired(self) -> None:
        """What is forgotten cannot be taken: an expired key would open recorded requests."""
        self._held = {key_id: self._held[key_id] for key_id in self}

    async def rotate(self) -> None:
        """Make keys, have them attested, wait until the log includes them, then use them.

        Raises:
            Exception: Whatever keeps the platform from attesting.
        """
        now = int(time.time())
        first = len(GATEWAY_KEMS) * self._sets
        gateway_keys = tuple(
            GatewayKey.generate((first + number) % 256, os.urandom(32), kem_id=kem_id)
            for number, kem_id in enumerate(GATEWAY_KEMS)
        )
        signer = Ed25519PrivateKey.generate()
        claims = Claims(
            key_configs=tuple(key.config.encode() for key in gateway_keys),
            receipt_key=signer.public_key().public_bytes_raw(),
            measurements=self._platform.measurements,
            release=self._release,
            model_manifest=manifest_digest(
                whole_manifest(
                    self._engine.manifest(),
                    {} if self._embedder is None else self._embedder.manifest(),
                )
            ),
            engine=self._engine.name,
            model=self._engine.model[:200],
            not_before=now,
            not_after=now + self._lifetime_s,
            epoch=0 if self._current is None else self._current.claims.epoch + 1,
        )
        bundle, inclusion = await self._attest(claims, now)
        identity = Identity(claims, bundle, inclusion, now, gateway_keys, signer)
        self._sets += 1
        self._current = identity
        self.forget_expired()
        for key in gateway_keys:
            replays = ReplayCache(DATE_WINDOW_S, REPLAY_CAPACITY)
            self._held[key.config.key_id] = HeldKey(key, identity, replays)

    async def refresh(self, identity: Identity) -> None:
        """Begin an epoch: have the same keys attested anew, and go on under the new bundle.

        Turns that have begun keep the epoch that they began in.

        Raises:
            Exception: Whatever keeps the platform from attesting; the epoch before stays.
        """
        now = int(time.time())
        claims = replace(identity.claims, not_before=now, epoch=identity.claims.epoch + 1)
        bundle, inclusion = await self._attest(claims, now)
        fresh = replace(identity, claims=claims, bundle=bundle, inclusion=inclusion)
        await self._epochs.follow(identity.bundle_digest, fresh.bundle_digest)
        for key_id, held in self._held.items():
            if held.identity is identity:
                self._held[key_id] = replace(held, identity=fresh)
        if self._current is identity:
            self._current = fresh

    async def _attest(self, claims: Claims, now: int) -> tuple[bytes, str]:
        """A bundle of `claims`, in the log and in Redis, and its tlog-proof."""
        made = await self._collector.bundle(claims, now)
        bundle = made.encode()
        inclusion = await self._log(bundle)
        # Before a receipt can name it.
        await self._epochs.keep(bundle, inclusion)
        log.info("epoch %d: enclave %s", claims.epoch, made.digest.hex()[:16])
        return bundle, inclusion

    async def _log(self, bundle: bytes) -> str:
        identifier = hashlib.sha256(bundle).hexdigest()
        asked_at = -math.inf
        while True:
            # Again after a while: a Redis that failed over may have lost the entry, and the log
            # takes each entry once.
            if time.monotonic() - asked_at > _ASK_AGAIN_S:
                await append_leaf(self._redis, identifier, bundle_entry(bundle), None)
                asked_at = time.monotonic()
            try:
                (proof,) = await hash_fields(self._redis, receipt_key(identifier), "proof")
            except (redis.exceptions.RedisError, OSError):
                proof = None
            if proof is not None:
                return proof.decode()
            await asyncio.sleep(_INCLUSION_POLL_S)

    async def run(self) -> None:
        """Announce this enclave while it lives, and keep keys and evidence young.

        Side by side: a log that is away holds new keys up, and the old ones are still good.

        Raises:
            SottoError: The platform does not attest, and never did.
        """
        if self._current is None:
            try:
                await self.rotate()
            except (ProofError, OSError) as error:
                raise SetupError(f"no evidence could be collected: {error}") from error
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_in_time())
            group.create_task(self._announce_often())

    async def _renew_in_time(self) -> None:
        while True:
            pause = _LOOK_EVERY_S
            try:
                await self._renew()
            # Whatever ails a platform: it must not end a chat.
            except Exception as error:
                said = str(error) if isinstance(error, ProofError | SottoError) else ""
                log.warning(
                    "no new evidence (%s %s); the last stays in force", type(error).__name__, said
                )
                pause = min(_TRY_AGAIN_S, self._evidence_interval_s)
            await asyncio.sleep(pause)

    async def _renew(self) -> None:
        """Make keys where they are due, and collect evidence for those whose evidence is."""
        before = self._current
        if self._keys_are_due():
            await self.rotate()
        self.forget_expired()
        held = {id(one.identity): one.identity for one in self._held.values()}
        for identity in held.values():
            if self._evidence_is_due(identity):
                await self.refresh(identity)
        if self._current is not before:
            await self.announce()

    def _keys_are_due(self) -> bool:
        if self._current is None:
            return True
        age = time.time() - self._current.made_at
        # Negative where the clock was set back: until it had caught up, no client would take it.
        return not -DATE_WINDOW_S <= age <= self._lifetime_s / 2

    def _evidence_is_due(self, identity: Identity) -> bool:
        age = time.time() - identity.claims.not_before
        # As above; and what has expired in this very moment needs none.
        young = -DATE_WINDOW_S <= age < self._evidence_interval_s
        return not young and time.time() < identity.claims.not_after

    async def _announce_often(self) -> None:
        while True:
            self.forget_expired()
            await self.announce()
            await asyncio.sleep(ANNOUNCE_EVERY_S)

    async def announce(self) -> None:
        """Tell the edges where this enclave's bundle is; what they hand on is verified anyway."""
        if (current := self._current) is None:
            return
        key = enclave_key(self._gateway)
        try:
            await self._redis.hset(
                key, mapping={"bundle": current.bundle, "proof": current.inclusion}
            )
            await self._redis.expire(key, ANNOUNCE_TTL_S)
            await self._redis.sadd(ENCLAVES_SET, self._gateway)
        except (redis.exceptions.RedisError, OSError) as error:
            log.warning("not announced: %s", type(error).__name__)

    async def withdraw(self) -> None:
        """Stop being announced; running turns are not touched."""
        try:
            await self._redis.srem(ENCLAVES_SET, self._gateway)
            await self._redis.delete(enclave_key(self._gateway))
        except (redis.exceptions.RedisError, OSError) as error:
            log.warning("not withdrawn: %s", type(error).__name__)


def manifest_digest(manifest: Mapping[str, str]) -> bytes:
    """SHA-256 over the model's files: sorted lines of hex digest, two spaces, name."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(manifest.items()))
    return hashlib.sha256(lines.encode()).digest()


def whole_manifest(engine: Mapping[str, str], embedder: Mapping[str, str]) -> dict[str, str]:
    """All files that an enclave's models are made of: the embedder's below ``embedding//``.

    Without an embedder it is the engine's alone. No file of an engine is named so:
    `proofs.modelsig.check_name` refuses a path with an empty part.
    """
    return {**engine, **{f"embedding//{name}": digest for name, digest in embedder.items()}}


def release_digest() -> bytes:
    """SHA-256 over the source files of the release, in the same form as `manifest_digest`."""
    manifest = {}
    for package in RELEASE_PACKAGES:
        root = Path(str(resources.files(package)))
        for file in root.rglob("*.py"):
            name = f"{package}/{file.relative_to(root).as_posix()}"
            manifest[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return manifest_digest(manifest)


def load_root(path: Path) -> Ed25519PrivateKey:
    """The development root from its PEM file.

    Raises:
        SetupError: The file is missing or holds no Ed25519 key.
    """
    try:
        root = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SetupError(
            f"the development root {path} cannot be read ({type(error).__name__}); remove it, and "
            "`sotto up` makes another: receipts of the old one then need the old policy"
        ) from None
    if not isinstance(root, Ed25519PrivateKey):
        raise SetupError(f"the development root {path} is not an Ed25519 key; remove it")
    return root


def load_platform(root_file: Path, *, debug: bool) -> SimulatedPlatform:
    """A simulated machine under the development root in a PEM file; SetupError as `load_root`."""
    # Measured once, as hardware does at boot: what is on the disk later is not what runs.
    measurements = (("release", release_digest()),)
    return SimulatedPlatform.create(
        load_root(root_file), os.urandom(32), measurements=measurements, debug=debug
    )
