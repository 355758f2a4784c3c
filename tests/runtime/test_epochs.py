"""Evidence epochs: the same keys attested again and again, seen by enclave, device and thief."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from memory.keys import ThreadKeys
from proofs.bundle import decode_bundle
from proofs.claims import Claims, Measurements, decode_claims
from proofs.disclosure import decode_disclosure, encode_disclosure
from proofs.errors import RefusedError
from proofs.evidence.base import Evidence, Platform
from proofs.receipt import Outcome, commitment, receipt_entry, sign_receipt
from proofs.verify import verify_bundle
from runtime.client.device import Device
from runtime.client.epochs import EpochBook
from runtime.client.home import DeviceHome
from runtime.client.receipts import ReceiptBook
from runtime.client.relays import RelayCarrier
from runtime.client.rows import ReceiptRow, Sealing, Told
from runtime.client.sealed import LiveEnclave, choose
from runtime.enclave.binding import Binding
from runtime.enclave.epochs import EpochStore
from runtime.enclave.identity import Identity, IdentityKeeper
from runtime.enclave.outbox import append_leaf
from runtime.errors import SottoError
from runtime.redis_client import hash_fields
from runtime.sealing import seal_receipt
from runtime.streams import bundle_key, receipt_key
from tests.runtime.enclave_world import (
    WREN,
    WREN_DIGEST,
    Enclave,
    World,
    error_of,
    inner,
    newest,
    relay,
    running_enclave,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@dataclass
class Moody:
    """A machine that attests when it is let to; satisfies `Platform`."""

    real: Platform
    fails: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)

    @property
    def kind(self) -> str:
        return self.real.kind

    @property
    def measurements(self) -> Measurements:
        return self.real.measurements

    @property
    def debug(self) -> bool:
        return self.real.debug

    def collect(self, claims: Claims, now: int) -> Evidence:
        """Wait at the gate, then fail or attest."""
        self.busy.set()
        assert self.gate.wait(60)
        if self.fails:
            raise OSError("the firmware is busy")
        return self.real.collect(claims, now)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


@pytest.fixture
async def enclave(world: World) -> AsyncIterator[Enclave]:
    """Log and enclave."""
    async with running_enclave(world) as enclave:
        yield enclave


async def after_second(identity: Identity) -> None:
    """Until an epoch after this one begins at another second."""
    while time.time() < identity.claims.not_before + 1:  # noqa: ASYNC110 - a clock has no event
        await asyncio.sleep(0.02)


async def refreshed(keeper: IdentityKeeper) -> Identity:
    """The next epoch of the current keys."""
    await after_second(newest(keeper))
    await keeper.refresh(newest(keeper))
    return newest(keeper)


async def evidence(enclave: Enclave, digest: str) -> dict[str, Any]:
    """What the sealed route says, to a plain OHTTP client."""
    path = b"/v1/evidence/" + digest.encode()
    response = await enclave.one_shot(inner(method=b"GET", path=path))
    assert response.status == 200, response.content
    answer: dict[str, Any] = json.loads(response.content)
    return answer


async def said(device: Device) -> ReceiptRow:
    """One turn, and its receipt when it is settled."""
    async for event in device.turn(WREN, "hello"):
        last = event
    row = await device.wait_settled(last["receipt_id"], 60)
    assert row is not None
    return row


# The enclave.


async def test_an_epoch_has_the_same_keys_and_evidence_of_its_own(world: World) -> None:
    """Same keys and end, another beginning and number; both bundles hold and stand in the log."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
        first = newest(keeper)
        second = await refreshed(keeper)
    assert second.gateway_keys == first.gateway_keys
    assert second.receipt_key is first.receipt_key
    assert second.bundle != first.bundle
    before, after = first.claims, second.claims
    assert after.epoch == before.epoch + 1
    assert after.not_before > before.not_before
    assert replace(after, epoch=before.epoch, not_before=before.not_before) == before
    assert after.keys_digest() == before.keys_digest()
    for one in (first, second):
        verify_bundle(one.bundle, one.inclusion, world.policy(), int(time.time()))
    assert {keeper.held(key_id).identity for key_id in keeper} == {second}


async def test_epochs_are_found_by_their_digest_and_linked(world: World) -> None:
    """The first bundle after one completes it; the newest has none after it; all of them expire."""
    keeper, store = world.keeper(), EpochStore(world.client)
    async with world.log():
        await keeper.rotate()
        identities = [newest(keeper), await refreshed(keeper), await refreshed(keeper)]
    digests = [one.bundle_digest.hex() for one in identities]
    for one, digest, after in zip(identities, digests, [*digests[1:], None], strict=True):
        found = await store.find(digest)
        assert found is not None
        assert (found.bundle, found.proof, found.next) == (one.bundle, one.inclusion, after)
        assert await world.client.ttl(bundle_key(digest)) > 30 * 86400
    assert await store.find("0" * 64) is None


async def test_new_keys_begin_their_own_epochs(world: World) -> None:
    """Keys that follow are not attested by what attests the ones before."""
    keeper, store = world.keeper(), EpochStore(world.client)
    async with world.log():
        await keeper.rotate()
        first = newest(keeper)
        await keeper.rotate()
        second = newest(keeper)
    assert second.claims.epoch == first.claims.epoch + 1
    found = await store.find(first.bundle_digest.hex())
    assert found is not None
    assert found.next is None


async def test_evidence_of_all_valid_keys_is_renewed_on_the_clock(world: World) -> None:
    """Also of those that came before: turns may still be sealed to them."""
    keeper = world.keeper(evidence_interval_s=1)
    async with world.log():
        await keeper.rotate()
        await keeper.rotate()
        running = asyncio.create_task(keeper.run())
        try:
            async with asyncio.timeout(60):
                while min(keeper.held(one).identity.claims.epoch for one in range(4)) < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                announced = await world.announced()
            held = [keeper.held(key_id).identity for key_id in range(4)]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert held[0] is held[1]
    assert held[2] is held[3]
    assert held[0].claims.keys_digest() != held[2].claims.keys_digest()
    assert decode_claims(decode_bundle(announced[b"bundle"]).claims).epoch > 1


async def test_a_machine_that_does_not_attest_ends_no_chat(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The epoch before stays in force, it is said once per try, and the next try may succeed."""
    moody = Moody(world.platform())
    moody.gate.set()
    keeper = world.keeper(evidence_interval_s=1, platform=moody)
    async with world.log():
        await keeper.rotate()
        first = newest(keeper)
        moody.fails = True
        with caplog.at_level(logging.WARNING):
            running = asyncio.create_task(keeper.run())
            try:
                async with asyncio.timeout(60):
                    while "no new evidence" not in caplog.text:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                assert newest(keeper) is first
                assert list(keeper) == [0, 1]
                assert (await world.wait_announced())[b"bundle"] == first.bundle
                moody.fails = False
                async with asyncio.timeout(60):
                    while newest(keeper) is first:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
    assert "OSError" in caplog.text


async def test_a_machine_that_never_attests_stops_the_enclave_with_one_line(world: World) -> None:
    """There is nothing that a chat could be sealed to."""
    moody = Moody(world.platform(), fails=True)
    moody.gate.set()
    with pytest.raises(SottoError, match="no evidence"):
        await world.keeper(platform=moody).run()


async def test_requests_are_answered_while_evidence_is_collected(world: World) -> None:
    """Hardware takes seconds; nobody who talks waits for it."""
    moody = Moody(world.platform())
    moody.gate.set()
    async with running_enclave(world, platform=moody) as enclave:
        first = newest(enclave.keeper)
        moody.busy.clear()
        moody.gate.clear()
        collecting = asyncio.create_task(refreshed(enclave.keeper))
        try:
            assert await asyncio.to_thread(moody.busy.wait, 60)
            response = await enclave.one_shot(inner(method=b"GET", path=b"/v1/models"))
            assert response.status == 200
            assert newest(enclave.keeper) is first
        finally:
            moody.gate.set()
        assert await collecting is not first


async def test_any_client_can_ask_for_evidence_sealed(enclave: Enclave) -> None:
    """What it gets is what the log has; whatever is no digest of a bundle here gets 404."""
    first = newest(enclave.keeper)
    digest = first.bundle_digest.hex()
    bundle = base64.b64encode(first.bundle).decode()
    assert await evidence(enclave, digest) == {
        "bundle": bundle,
        "proof": first.inclusion,
        "next": None,
    }
    second = await refreshed(enclave.keeper)
    assert (await evidence(enclave, digest))["next"] == second.bundle_digest.hex()
    for unknown in ("0" * 64, digest[:-1], digest.upper(), "../" + digest, "*"):
        path = b"/v1/evidence/" + unknown.encode()
        response = await enclave.one_shot(inner(method=b"GET", path=path))
        assert (response.status, error_of(response)["code"][-7:]) in {
            (404, "unknown"),
            (404, "t_found"),
        }


async def test_a_thief_of_redis_has_no_key_of_any_epoch(world: World) -> None:
    """Bundles are public; private halves stay in the process."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
        await refreshed(keeper)
    private = newest(keeper).receipt_key.private_bytes_raw()
    stored = b"".join([await world.client.dump(key) for key in await world.client.keys("*")])
    assert private not in stored
    assert private.hex().encode() not in stored


# The device.


async def test_a_turn_of_an_epoch_that_the_device_has_not_seen_settles(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """It verified one epoch, the turn ran in the next, and the receipt names that one."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        first = newest(enclave.keeper)
        await device.enclaves()
        second = await refreshed(enclave.keeper)
        row = await said(device)
    assert (row.status, row.problem) == ("settled", None)
    assert row.enclave_id == second.bundle_digest.hex() != first.bundle_digest.hex()
    assert home.bundles.get(row.enclave_id) == (second.bundle, second.inclusion)


async def test_the_epoch_after_a_receipt_completes_it(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """It is fetched when somebody asks, verified, kept, and disclosed with the receipt."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        row = await said(device)
        assert home.disclosable(row.receipt_id).later is None
        assert await device.complete(row.receipt_id) is False
        second = await refreshed(enclave.keeper)
        third = await refreshed(enclave.keeper)
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        assert await device.complete(row.receipt_id) is True
        assert await device.complete(row.receipt_id) is True
    disclosure = decode_disclosure(encode_disclosure(home.disclosable(row.receipt_id)))
    assert disclosure.later is not None
    assert disclosure.later.bundle == second.bundle != third.bundle
    assert disclosure.later.proof == second.inclusion
    assert disclosure.said is None, "only where its owner says so"
    told = home.disclosable(row.receipt_id, with_text=True).said
    assert told is not None
    assert told.request == b"hello"
    assert told.response.startswith("this is a paced script")


async def test_the_logs_cose_receipt_comes_with_the_proof(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """From the same hash, verified, and kept; whatever else comes under that name is not."""
    async with relay(enclave) as url, Device(home, world.policy(), RelayCarrier([url])) as device:
        row = await said(device)
        await device.complete(row.receipt_id)
    (stored,) = await hash_fields(world.client, receipt_key(row.receipt_id), "cose")
    found = home.receipt(row.receipt_id)
    assert found is not None
    assert found.cose == stored
    assert stored is not None, "this log makes one"
    assert home.disclosable(row.receipt_id).cose_receipt == stored


# An enclave's words, or an edge's, that are not to be believed.


def answers(**told: Any) -> Any:
    """An enclave that says this, whatever it is asked."""

    async def ask(path: bytes) -> dict[str, Any]:
        return told

    return ask


def as_told(one: Identity, **changes: Any) -> dict[str, Any]:
    """What the sealed route says of an identity."""
    bundle = base64.b64encode(one.bundle).decode()
    return {"bundle": bundle, "proof": one.inclusion, "next": None, **changes}


def a_receipt(one: Identity, **changes: Any) -> bytes:
    """A receipt by an identity, of a turn that was sealed with `SEALING`."""
    receipt = Binding(one, 0, b"q" * 32, b"a" * 32).receipt(
        b"i" * 16,
        persona=WREN_DIGEST,
        request=b"hello",
        response="well",
        sampling=None,
        outcome=Outcome.COMPLETED,
    )
    return sign_receipt(replace(receipt, **changes), one.receipt_key)


def expected(home: DeviceHome, sealed_to: Identity) -> tuple[ReceiptRow, ThreadKeys]:
    """A turn that was sealed to an identity, and waits for its receipt."""
    enclave_id = sealed_to.bundle_digest.hex()
    home.bundles.keep(enclave_id, sealed_to.bundle, sealed_to.inclusion)
    request, response = (
        commitment(b"q" * 32, "request", b"hello"),
        commitment(b"a" * 32, "response", b"well"),
    )
    row = ReceiptRow(
        receipt_id=(b"i" * 16).hex(),
        turn_id="0" * 32,
        persona="wren",
        enclave_id=enclave_id,
        time=int(time.time()),
        outcome="completed",
        commitments=request + response,
        persona_digest=WREN_DIGEST,
    )
    told = Told(b"hello", "well", (Sealing(enclave_id, b"q" * 32, b"a" * 32),))
    home.expect_receipt(row, told)
    return row, home.thread_keys("wren")


def receipt_event(row: ReceiptRow, keys: ThreadKeys, signed: bytes) -> dict[str, Any]:
    """As an edge pushes it."""
    sealed = seal_receipt(keys, bytes.fromhex(row.receipt_id), signed, bytes(12))
    text = base64.b64encode(sealed).decode()
    return {"type": "response.receipt", "receipt_id": row.receipt_id, "sealed": text}


async def nobody(receipt_ids: list[str]) -> None:
    """Asks for no receipt."""


async def two_enclaves(world: World) -> tuple[IdentityKeeper, Identity, Identity]:
    """One that was sealed to, in two epochs, and another that holds as well."""
    keeper, other = world.keeper(), world.keeper()
    async with world.log():
        await keeper.rotate()
        await other.rotate()
        await refreshed(keeper)
    return keeper, newest(keeper), newest(other)


async def test_only_evidence_about_the_keys_that_were_sealed_to_is_taken(
    world: World, home: DeviceHome
) -> None:
    """Another enclave's bundle holds under the policy, and still says nothing of this turn."""
    _, mine, theirs = await two_enclaves(world)
    home.bundles.keep(mine.bundle_digest.hex(), mine.bundle, mine.inclusion)
    policy, at = world.policy(), int(time.time())
    digest = theirs.bundle_digest.hex()
    book = EpochBook(home, policy, answers(**as_told(theirs)))
    with pytest.raises(SottoError) as caught:
        await book.learn(digest, [mine.bundle_digest.hex()], at)
    assert caught.value.code == "receipt_mismatch"
    with pytest.raises(KeyError):
        home.bundles.get(digest)
    # Under the digest of one that is asked for, nothing else passes.
    for told in (
        as_told(theirs),
        as_told(mine, bundle="ä"),
        as_told(mine, bundle=""),
        as_told(mine, next="x" * 64),
        {"bundle": 7},
        {},
    ):
        with pytest.raises(SottoError) as caught:
            await EpochBook(home, policy, answers(**told)).learn("f" * 64, [digest], at)
        assert caught.value.code == "evidence_malformed"
    stranger = replace(mine, inclusion=theirs.inclusion)
    with pytest.raises(RefusedError):
        await EpochBook(home, policy, answers(**as_told(stranger))).learn(
            mine.bundle_digest.hex(), [mine.bundle_digest.hex()], at
        )


async def test_what_is_said_to_be_later_must_be_about_the_same_keys_and_later(
    world: World, home: DeviceHome
) -> None:
    """Neither another's evidence nor the same or an earlier epoch completes anything."""
    _, mine, theirs = await two_enclaves(world)
    first = await EpochStore(world.client).find(mine.bundle_digest.hex())
    assert first is not None
    home.bundles.keep(mine.bundle_digest.hex(), mine.bundle, mine.inclusion)
    for wrong in (theirs, mine):
        told = {
            mine.bundle_digest.hex(): as_told(mine, next=wrong.bundle_digest.hex()),
            wrong.bundle_digest.hex(): as_told(wrong, next=wrong.bundle_digest.hex()),
        }

        async def ask(path: bytes, told: dict[str, Any] = told) -> dict[str, Any]:
            return dict(told[path.decode().rpartition("/")[2]])

        with pytest.raises(SottoError) as caught:
            await EpochBook(home, world.policy(), ask).complete(mine.bundle_digest.hex())
        assert caught.value.code == "evidence_refused"
    assert home.bundles.later(mine.bundle_digest.hex()) is None


async def test_a_receipt_by_keys_that_nothing_was_sealed_to_is_refused(
    world: World, home: DeviceHome
) -> None:
    """It opens and commits to the words, as of an enclave that was told them by another."""
    _, mine, theirs = await two_enclaves(world)
    row, keys = expected(home, mine)
    epochs = EpochBook(home, world.policy(), answers(**as_told(theirs)))
    book = ReceiptBook(home, world.policy(), epochs, nobody)
    book.take(receipt_event(row, keys, a_receipt(theirs)))
    await book.wait(row.receipt_id, 60)
    found = home.receipt(row.receipt_id)
    assert found is not None
    assert found.problem is not None
    assert "sealed nothing" in found.problem
    await book.close()


@pytest.mark.parametrize(
    ("code", "raised"), [("evidence_unknown", "receipt_mismatch"), ("not_found", "not_found")]
)
async def test_an_enclave_that_cannot_answer_condemns_no_receipt(
    code: str, raised: str, world: World, home: DeviceHome
) -> None:
    """One of an earlier version has no such resource; one that has it knows every bundle."""

    async def ask(path: bytes) -> dict[str, Any]:
        raise SottoError("nothing here", code=code)

    async with world.log():
        policy = world.policy()
    with pytest.raises(SottoError) as caught:
        await EpochBook(home, policy, ask).learn("f" * 64, [], int(time.time()))
    assert caught.value.code == raised


async def test_what_comes_while_evidence_is_fetched_is_not_lost(
    world: World, home: DeviceHome
) -> None:
    """An edge pushes receipt and settlement once; the second may not overtake the first."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
        first, second = newest(keeper), await refreshed(keeper)
        row, keys = expected(home, first)
        signed = a_receipt(second)
        await append_leaf(world.client, row.receipt_id, receipt_entry(signed), None)
        proof, cose = None, None
        async with asyncio.timeout(60):
            while proof is None or cose is None:
                name = receipt_key(row.receipt_id)
                proof, cose = await hash_fields(world.client, name, "proof", "cose")
                await asyncio.sleep(0.02)
    asked = asyncio.Event()

    async def slowly(path: bytes) -> dict[str, Any]:
        asked.set()
        await asyncio.sleep(0.1)
        return as_told(second)

    book = ReceiptBook(home, world.policy(), EpochBook(home, world.policy(), slowly), nobody)
    book.take(receipt_event(row, keys, signed))
    await asked.wait()
    settled = {"type": "response.settled", "receipt_id": row.receipt_id, "proof": proof.decode()}
    for _ in range(100):
        book.take(settled)
    await book.wait(row.receipt_id, 60)
    found = home.receipt(row.receipt_id)
    assert found is not None
    assert (found.status, found.problem) == ("settled", None)
    assert found.enclave_id == second.bundle_digest.hex()
    # A COSE receipt that is none voids nothing, and the true one is taken after it.
    for text in ("ä", "", base64.b64encode(bytes(99)).decode()):
        book.take({**settled, "cose": text})
    found = home.receipt(row.receipt_id)
    assert found is not None
    assert (found.status, found.cose) == ("settled", None)
    book.take({**settled, "cose": base64.b64encode(cose).decode()})
    found = home.receipt(row.receipt_id)
    assert found is not None
    assert found.cose == cose
    await book.close()


async def test_a_receipt_of_another_persona_is_refused(world: World, home: DeviceHome) -> None:
    """The device pinned a version; an enclave that spoke as another says so in its receipt."""
    keeper = world.keeper()
    async with world.log():
        await keeper.rotate()
    row, keys = expected(home, newest(keeper))
    epochs = EpochBook(home, world.policy(), answers())
    book = ReceiptBook(home, world.policy(), epochs, nobody)
    book.take(receipt_event(row, keys, a_receipt(newest(keeper), persona=bytes(32))))
    found = home.receipt(row.receipt_id)
    assert found is not None
    assert found.problem is not None
    assert "persona" in found.problem
    await book.close()


async def test_a_thread_stays_with_its_enclave_over_epochs(world: World) -> None:
    """By its keys: else each epoch would lose the prefix cache, and an edge could know threads
    again by which of an enclave's epochs they pick."""
    keeper, other = world.keeper(), world.keeper()
    async with world.log():
        await keeper.rotate()
        await other.rotate()
        identities = [newest(keeper), await refreshed(keeper), newest(other)]
    first, second, theirs = (
        LiveEnclave(
            f"enclave-{number}",
            verify_bundle(one.bundle, one.inclusion, world.policy(), int(time.time())),
            one.gateway_keys[0].config,
            one.bundle,
            one.inclusion,
        )
        for number, one in enumerate(identities)
    )
    tokens = [str(number) for number in range(64)]
    before = [choose([first, theirs], token) is theirs for token in tokens]
    assert {True, False} == set(before)
    assert before == [choose([second, theirs], token) is theirs for token in tokens]
    assert before == [choose([second, first, theirs], token) is theirs for token in tokens]
