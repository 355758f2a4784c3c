"""Who an enclave is: keys, evidence and their place in a real log, over a real Valkey."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from redis.asyncio import Redis

from proofs.errors import RefusedError
from proofs.policy import Policy
from proofs.verify import AttestedEnclave, verify_bundle
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.identity import (
    ANNOUNCE_TTL_S,
    Identity,
    load_platform,
    manifest_digest,
)
from runtime.errors import SetupError
from runtime.streams import ENCLAVES_SET, LEAVES_STREAM, enclave_key
from tests.runtime.enclave_world import GATEWAY, World, newest
from transport.errors import UnknownKeyError
from transport.gateway import decapsulate
from transport.hpke import KEM_X25519_HKDF_SHA256, KEM_X_WING
from transport.keyconfig import decode_key_config
from transport.ohttp import encapsulate

if TYPE_CHECKING:
    from tests.conftest import ValkeyProcess

pytestmark = pytest.mark.integration


def verified(one: Identity, policy: Policy) -> AttestedEnclave:
    """What a device makes of an identity now."""
    return verify_bundle(one.bundle, one.inclusion, policy, int(time.time()))


async def test_a_new_identity_holds_under_a_policy_that_pins_everything(world: World) -> None:
    """Root, log and release are pinned, and the bundle in the log passes; others do not."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
    one = newest(keeper)
    policy = world.policy()
    attested = verified(one, policy)
    assert attested.simulated
    assert attested.enclave_id == hashlib.sha256(one.bundle).hexdigest() == one.bundle_digest.hex()
    assert attested.receipt_key == one.receipt_key.public_key().public_bytes_raw()
    claimed = [decode_key_config(config) for config in attested.key_configs]
    assert claimed == [key.config for key in one.gateway_keys]
    assert [config.kem_id for config in claimed] == [KEM_X_WING, KEM_X25519_HKDF_SHA256]
    assert attested.claims.engine == "scripted"
    assert attested.claims.model_manifest == manifest_digest(ScriptedEngine().manifest())
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    for changed in (
        {"simulated_roots": (other,)},
        {"measurements": ({"release": bytes(32)},)},
        {"log_keys": ()},
        {"allow_simulated": False},
    ):
        with pytest.raises(RefusedError):
            verified(one, policy.model_copy(update=changed))


async def test_a_debug_enclave_says_so_in_its_evidence(world: World) -> None:
    """A device that does not allow debug refuses it; one that does, accepts it."""
    keeper = world.keeper(debug=True)
    async with world.log():
        await keeper.rotate()
    with pytest.raises(RefusedError, match="debug"):
        verified(newest(keeper), world.policy())
    verified(newest(keeper), world.policy().model_copy(update={"allow_debug": True}))


async def test_keys_are_not_used_before_the_log_has_them(world: World) -> None:
    """No log, no identity; when the log comes, the same wait ends with one that holds."""
    keeper = world.keeper()
    rotation = asyncio.create_task(keeper.rotate())
    async with asyncio.timeout(60):
        while not await world.client.xlen(LEAVES_STREAM):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert not rotation.done()
    assert keeper.current is None
    assert len(keeper) == 0
    await keeper.announce()
    assert await world.announced() == {}
    async with world.log():
        async with asyncio.timeout(60):
            await rotation
    verified(newest(keeper), world.policy())


async def test_redis_may_die_while_keys_wait_for_the_log(
    tmp_path: Path, valkey_process: ValkeyProcess, own_redis_client: Redis
) -> None:
    """Redis gone, then back, then the log: the enclave is late and well."""
    world = World(tmp_path, own_redis_client, valkey_process.url, Ed25519PrivateKey.generate())
    keeper = world.keeper()
    valkey_process.kill()
    rotation = asyncio.create_task(keeper.rotate())
    await asyncio.sleep(0.3)
    assert not rotation.done()
    await keeper.announce()  # neither raises while Redis is away
    await keeper.withdraw()
    valkey_process.start()
    async with world.log():
        async with asyncio.timeout(60):
            await rotation
    verified(newest(keeper), world.policy())


async def test_an_earlier_key_still_opens_and_the_newest_is_announced(world: World) -> None:
    """No turn fails over a rotation, and no new one is sealed to the old key."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
        first = newest(keeper)
        await keeper.announce()
        assert (await world.announced())[b"bundle"] == first.bundle
        before = [encapsulate(key.config, b"before")[0] for key in first.gateway_keys]
        await keeper.rotate()
        second = newest(keeper)
        await keeper.announce()
    assert list(keeper) == [0, 1, 2, 3]
    for key_id, sealed in enumerate(before):
        plaintext, opener = decapsulate(keeper, sealed)
        assert (plaintext, opener.key_id) == (b"before", key_id)
        assert keeper.held(key_id).identity is first
    for key in second.gateway_keys:
        sealed, _ = encapsulate(key.config, b"after")
        assert decapsulate(keeper, sealed)[0] == b"after"
        assert keeper.held(key.config.key_id).identity is second
    assert keeper.key_configs() == tuple(
        key.config for one in (second, first) for key in one.gateway_keys
    ), "what a client should prefer comes first"
    found = await world.announced()
    assert found == {b"bundle": second.bundle, b"proof": second.inclusion.encode()}
    verify_bundle(found[b"bundle"], found[b"proof"].decode(), world.policy(), int(time.time()))
    assert len({config.public_key for config in keeper.key_configs()}) == 4
    assert first.claims.receipt_key != second.claims.receipt_key


async def test_epochs_count_up(world: World) -> None:
    """A receipt's epoch says which of an enclave's identities was in force."""
    keeper = world.keeper()
    epochs = []
    async with world.log():
        for _ in range(3):
            await keeper.rotate()
            one = newest(keeper)
            epochs.append((one.claims.epoch, [key.config.key_id for key in one.gateway_keys]))
    assert epochs == [(0, [0, 1]), (1, [2, 3]), (2, [4, 5])]


async def test_an_expired_key_opens_nothing(world: World) -> None:
    """It is not in the ring, not listed, and a request sealed to it is of an unknown key.

    Only a request that had just been opened still finds whose key it was, until the key is
    forgotten.
    """
    keeper = world.keeper(lifetime_s=1)
    async with world.log():
        await keeper.rotate()
    one = newest(keeper)
    late = [encapsulate(key.config, b"late")[0] for key in one.gateway_keys]
    while time.time() < one.claims.not_after:  # noqa: ASYNC110 - a clock has no event
        await asyncio.sleep(0.05)
    assert list(keeper) == []
    assert len(keeper) == 0
    assert keeper.key_configs() == ()
    for key_id, sealed in enumerate(late):
        with pytest.raises(KeyError):
            keeper[key_id]
        with pytest.raises(UnknownKeyError):
            decapsulate(keeper, sealed)
        assert keeper.held(key_id).identity is one
    keeper.forget_expired()
    for key_id in range(2):
        with pytest.raises(KeyError):
            keeper.held(key_id)


async def test_an_enclave_stays_announced_while_the_log_is_away(world: World) -> None:
    """Its keys are still good, so a log that is late with the next ones ends no chat."""
    keeper = world.keeper(lifetime_s=4)
    async with world.log():
        await keeper.rotate()
    one = newest(keeper)
    while time.time() <= one.claims.not_before + 2:  # noqa: ASYNC110 - a clock has no event
        await asyncio.sleep(0.05)
    running = asyncio.create_task(keeper.run())
    try:
        assert (await world.wait_announced())[b"bundle"] == one.bundle
        async with asyncio.timeout(60):  # until the next keys wait for the log
            while await world.client.xlen(LEAVES_STREAM) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert newest(keeper) is one
        async with world.log(), asyncio.timeout(60):
            while newest(keeper) is one:  # noqa: ASYNC110 - the keeper has no event for it
                await asyncio.sleep(0.02)
        async with asyncio.timeout(60):
            while (await world.announced())[b"bundle"] == one.bundle:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_clock_that_was_set_back_makes_new_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No client takes keys from the future, which would else be kept until it had come."""
    keeper, right = world.keeper(), time.time
    async with world.log():
        with monkeypatch.context() as wrong:
            wrong.setattr(time, "time", lambda: right() + 86400)
            await keeper.rotate()
            assert list(keeper) == [0, 1]
        assert list(keeper) == []
        running = asyncio.create_task(keeper.run())
        try:
            await world.wait_announced()
            async with asyncio.timeout(60):
                while list(keeper) != [2, 3]:  # noqa: ASYNC110 - the keeper has no event for it
                    await asyncio.sleep(0.02)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    verified(newest(keeper), world.policy())


async def test_an_announcement_ends_with_its_enclave(world: World) -> None:
    """It expires by itself where the enclave died, and at once where it stopped."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
    await keeper.announce()
    assert await world.client.smembers(ENCLAVES_SET) == {GATEWAY.encode()}
    assert 0 < await world.client.ttl(enclave_key(GATEWAY)) <= ANNOUNCE_TTL_S
    await keeper.withdraw()
    assert await world.announced() == {}
    assert list(keeper) == [0, 1], "turns that were sealed before are still opened"


async def test_no_representation_shows_a_key(world: World) -> None:
    """Neither in a log nor in a traceback."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
    one = newest(keeper)
    # Whoever has the public key may see it; the private half is what a repr must not show.
    private = one.receipt_key.private_bytes_raw()
    shown = f"{keeper!r} {keeper} {one!r} {one} {one.gateway_keys!r} {dict(keeper)!r}"
    shown += repr(keeper.held(0))
    for form in (private.hex(), repr(private)[2:-1], "PrivateKey"):
        assert form not in shown


async def test_redis_holds_no_private_key(world: World) -> None:
    """Bundle, proof, digest: nothing that opens a request or signs a receipt."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
    await keeper.announce()
    private = newest(keeper).receipt_key.private_bytes_raw()
    for key in await world.client.keys("*"):
        assert private not in await world.client.dump(key)


def test_a_root_that_is_missing_or_of_another_kind_is_one_clear_error(tmp_path: Path) -> None:
    """Which file, and what makes one."""
    file = tmp_path / "root.pem"
    with pytest.raises(SetupError, match="sotto up"):
        load_platform(file, debug=False)
    for content in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        file.write_bytes(content)
        with pytest.raises(SetupError, match=str(file)):
            load_platform(file, debug=False)
    other = generate_private_key(SECP256R1())
    file.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SetupError, match="Ed25519"):
        load_platform(file, debug=False)


def test_a_manifest_is_what_sha256sum_prints() -> None:
    """Whoever has the files can compute the digest with a tool of their own."""
    a, b = (hashlib.sha256(content).hexdigest() for content in (b"one", b"two"))
    printed = f"{a}  a.bin\n{b}  b.bin\n"
    assert manifest_digest({"b.bin": b, "a.bin": a}) == hashlib.sha256(printed.encode()).digest()
    assert manifest_digest({"a.bin": b, "b.bin": a}) != manifest_digest({"a.bin": a, "b.bin": b})
