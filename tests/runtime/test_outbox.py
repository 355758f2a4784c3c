"""Receipts on their way to the log: in order, sealed, none lost, whatever happens to Redis."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis

from memory.keys import ThreadKeys
from proofs.receipt import Outcome, Receipt, decode_receipt, receipt_entry
from runtime.enclave.outbox import CAPACITY, UNSETTLED_TTL_S, HandedOver, Outbox, ReceiptJob
from runtime.errors import SottoError
from runtime.sealing import open_receipt
from runtime.streams import LEAVES_STREAM, receipt_key

if TYPE_CHECKING:
    from tests.conftest import ValkeyProcess

pytestmark = pytest.mark.integration
MINE, THEIRS = ThreadKeys(b"m" * 32), ThreadKeys(b"t" * 32)
SIGNER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


def a_job(
    number: int, keys: ThreadKeys = MINE, *, again: bool = False, salt: int = 0
) -> ReceiptJob:
    """The receipt of a turn; `salt` stands for the exchange that it commits to."""
    digests = {
        name: bytes([at + 1]) * 32
        for at, name in enumerate(("enclave", "persona", "model_manifest", "release", "sampling"))
    }
    receipt = Receipt(
        receipt_id=number.to_bytes(16, "big"),
        key_config_id=0,
        request=bytes([salt]) * 32,
        response=bytes([salt]) * 32,
        head_before=None,
        head_after=b"h" * 32,
        turn_index=number,
        previous=None,
        outcome=Outcome.COMPLETED,
        time=1_700_000_000 + number,
        epoch=0,
        **digests,
    )
    return ReceiptJob(receipt, SIGNER, keys, again)


@contextlib.asynccontextmanager
async def working(outbox: Outbox) -> AsyncIterator[asyncio.Task[None]]:
    """The outbox at work while the block runs."""
    task = asyncio.create_task(outbox.run())
    try:
        yield task
        assert not task.done(), "nothing that Redis does ends the outbox"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def handed_over(client: Redis) -> list[tuple[str, bytes]]:
    """What the log will read: id and entry, in order."""
    return [
        (fields[b"id"].decode(), fields[b"entry"])
        for _, fields in await client.xrange(LEAVES_STREAM)
    ]


async def sealed(client: Redis, job: ReceiptJob) -> bytes:
    """What stands in Redis for a receipt."""
    found = await client.hget(receipt_key(job.receipt.receipt_id.hex()), "sealed")
    assert isinstance(found, bytes)
    return found


async def opened(client: Redis, job: ReceiptJob) -> bytes:
    """The signed receipt, as its owner's device opens it."""
    return open_receipt(job.keys, job.receipt.receipt_id, await sealed(client, job))


async def test_receipts_are_handed_over_in_order(redis_client: Redis) -> None:
    """Signed by the turn's key, each beside the digest that the log takes for it."""
    outbox = Outbox(redis_client)
    issued: list[int] = []
    outbox.on_issued = lambda: issued.append(outbox.pending())
    jobs = [a_job(number, MINE if number % 2 else THEIRS) for number in range(20)]
    for job in jobs:
        outbox.put(job)
    assert outbox.pending() == 20
    async with working(outbox):
        assert await outbox.drain(60) == 0
    assert len(issued) == 20
    entries = await handed_over(redis_client)
    assert [name for name, _ in entries] == [job.receipt.receipt_id.hex() for job in jobs]
    for job, (name, entry) in zip(jobs, entries, strict=True):
        cose = await opened(redis_client, job)
        assert receipt_entry(cose) == entry
        public = SIGNER.public_key().public_bytes_raw()
        assert decode_receipt(cose).verify(public) == job.receipt
        assert 0 < await redis_client.ttl(receipt_key(name)) <= UNSETTLED_TTL_S


async def test_redis_may_die_and_nothing_is_lost(
    valkey_process: ValkeyProcess, own_redis_client: Redis
) -> None:
    """What was handed over stays, what was not waits, and is handed over after the restart."""
    outbox = Outbox(own_redis_client)
    async with working(outbox) as task:
        outbox.put(a_job(0))
        assert await outbox.drain(60) == 0
        valkey_process.kill()
        for number in (1, 2, 3):
            outbox.put(a_job(number))
        assert await outbox.drain(0.5) == 3
        assert not task.done()
        valkey_process.start()
        assert await outbox.drain(60) == 0
    entries = await handed_over(own_redis_client)
    assert [name for name, _ in entries] == [
        a_job(number).receipt.receipt_id.hex() for number in range(4)
    ]
    for number, (_, entry) in enumerate(entries):
        assert receipt_entry(await opened(own_redis_client, a_job(number))) == entry


async def test_an_outbox_without_room_says_so(redis_client: Redis) -> None:
    """The enclave refuses turns then: a turn without a receipt would be worse.

    With so much left to do it still stops at once when it is told to.
    """
    outbox = Outbox(redis_client)
    job = a_job(0)
    assert outbox.has_room(CAPACITY)
    for _ in range(CAPACITY - 2):
        outbox.put(job)
    assert outbox.has_room(2)
    assert not outbox.has_room(3), "turns that run will bring theirs"
    outbox.put(job)
    outbox.put(job)
    assert not outbox.has_room(1)
    assert outbox.pending() == CAPACITY
    async with working(outbox):
        while not outbox.has_room(1):  # noqa: ASYNC110 - the outbox has no event for it
            await asyncio.sleep(0.01)


async def test_what_stands_in_redis_opens_with_the_threads_key_alone(redis_client: Redis) -> None:
    """Not with another thread's, not under another id, not altered, not cut."""
    job = a_job(7)
    outbox = Outbox(redis_client)
    outbox.put(job)
    async with working(outbox):
        await outbox.drain(60)
    found = await sealed(redis_client, job)
    cose = open_receipt(MINE, job.receipt.receipt_id, found)
    other = a_job(8).receipt.receipt_id
    for keys, receipt_id in ((THEIRS, job.receipt.receipt_id), (MINE, other)):
        with pytest.raises(SottoError):
            open_receipt(keys, receipt_id, found)
    for at in range(0, len(found), 7):
        flipped = bytearray(found)
        flipped[at] ^= 1
        with pytest.raises(SottoError):
            open_receipt(MINE, job.receipt.receipt_id, bytes(flipped))
    for length in (*range(40), len(found) - 1):
        with pytest.raises(SottoError):
            open_receipt(MINE, job.receipt.receipt_id, found[:length])
    with pytest.raises(SottoError):
        open_receipt(MINE, job.receipt.receipt_id, found + b"\0")
    assert cose not in found
    for digest in (job.receipt.enclave, job.receipt.persona, job.receipt.request):
        assert digest not in found


async def test_two_sealings_of_one_receipt_look_nothing_alike(redis_client: Redis) -> None:
    """A nonce is never used twice, even where a lost receipt is issued again."""
    job = a_job(1)
    seen = set()
    for _ in range(3):
        outbox = Outbox(redis_client)
        outbox.put(job)
        async with working(outbox):
            await outbox.drain(60)
        seen.add((await sealed(redis_client, job))[:12])
    assert len(seen) == 3


async def test_again_changes_nothing_where_the_receipt_is_there(redis_client: Redis) -> None:
    """A turn sent twice has one receipt: the first, which may be in the log already."""
    first = Outbox(redis_client)
    first.put(a_job(1, salt=1))
    async with working(first):
        await first.drain(60)
    before = await sealed(redis_client, a_job(1)), await handed_over(redis_client)
    for outbox in (first, Outbox(redis_client)):  # the same enclave, and one that is new
        outbox.put(a_job(1, again=True, salt=2))
        async with working(outbox):
            assert await outbox.drain(60) == 0
        assert (await sealed(redis_client, a_job(1)), await handed_over(redis_client)) == before


async def test_again_makes_good_for_a_lost_receipt(redis_client: Redis) -> None:
    """An enclave that died between answer and receipt left none: the next one issues it."""
    outbox = Outbox(redis_client)
    outbox.put(a_job(1, again=True, salt=2))
    async with working(outbox):
        assert await outbox.drain(60) == 0
    cose = await opened(redis_client, a_job(1))
    assert decode_receipt(cose).unverified == a_job(1, salt=2).receipt
    assert await handed_over(redis_client) == [
        (a_job(1).receipt.receipt_id.hex(), receipt_entry(cose))
    ]


async def test_again_does_not_guess_while_redis_is_away(
    valkey_process: ValkeyProcess, own_redis_client: Redis
) -> None:
    """A second receipt beside the first one's proof would look forged to its owner."""
    first = Outbox(own_redis_client)
    first.put(a_job(1, salt=1))
    async with working(first):
        await first.drain(60)
    before = await sealed(own_redis_client, a_job(1))
    valkey_process.kill()
    outbox = Outbox(own_redis_client)
    outbox.put(a_job(1, again=True, salt=2))
    async with working(outbox):
        assert await outbox.drain(0.3) == 1
        valkey_process.start()
        assert await outbox.drain(60) == 0
    assert await sealed(own_redis_client, a_job(1)) == before
    assert len(await handed_over(own_redis_client)) == 1


async def test_a_receipt_can_name_the_one_before_it(redis_client: Redis) -> None:
    """By the digest of the signed receipt, also from an enclave that never saw it."""
    outbox = Outbox(redis_client)
    receipt_id = a_job(1).receipt.receipt_id
    outbox.put(a_job(1))
    async with working(outbox):
        await outbox.drain(60)
    expected = decode_receipt(await opened(redis_client, a_job(1))).digest
    assert await outbox.digest(MINE, receipt_id) == expected
    assert await Outbox(redis_client).digest(MINE, receipt_id) == expected


async def test_only_the_owner_can_have_a_receipt_named(
    valkey_process: ValkeyProcess, own_redis_client: Redis
) -> None:
    """Unknown, another thread's, damaged, or Redis away: no digest, and no error."""
    outbox = Outbox(own_redis_client)
    receipt_id = a_job(1).receipt.receipt_id
    outbox.put(a_job(1))
    async with working(outbox):
        await outbox.drain(60)
    fresh = Outbox(own_redis_client)
    assert await fresh.digest(MINE, a_job(2).receipt.receipt_id) is None
    assert await fresh.digest(THEIRS, receipt_id) is None
    assert await outbox.digest(THEIRS, receipt_id) is None
    await own_redis_client.hset(receipt_key(receipt_id.hex()), "sealed", b"damaged")
    assert await fresh.digest(MINE, receipt_id) is None
    valkey_process.kill()
    assert await fresh.digest(MINE, receipt_id) is None
    assert await outbox.digest(MINE, receipt_id) is not None, "it need not ask"


async def test_a_receipt_that_none_will_name_takes_no_room(redis_client: Redis) -> None:
    """A completion's keys are its own: it must not push out what a thread's next turn names."""
    outbox = Outbox(redis_client)
    outbox.put(dataclasses.replace(a_job(1), chained=False))
    async with working(outbox):
        await outbox.drain(60)
    await redis_client.delete(receipt_key(a_job(1).receipt.receipt_id.hex()))
    assert await outbox.digest(MINE, a_job(1).receipt.receipt_id) is None


async def test_what_was_handed_over_can_be_read_again(redis_client: Redis) -> None:
    """The sealed receipt as it was put there, the log's proof when it is there."""
    outbox = Outbox(redis_client)
    name = a_job(1).receipt.receipt_id.hex()
    assert await outbox.handed_over(name) == HandedOver(None, None, None)
    outbox.put(a_job(1))
    async with working(outbox):
        await outbox.drain(60)
    stored = await sealed(redis_client, a_job(1))
    assert await outbox.handed_over(name) == HandedOver(stored, None, None)
    await redis_client.hset(receipt_key(name), "proof", b"proof")
    assert await outbox.handed_over(name) == HandedOver(stored, b"proof", None)
    await redis_client.hset(receipt_key(name), "cose", b"\xd2")
    assert await outbox.handed_over(name) == HandedOver(stored, b"proof", b"\xd2")


def test_a_waiting_receipt_shows_no_key() -> None:
    """Neither in a log nor in a traceback."""
    shown = repr(a_job(1))
    assert "m" * 32 not in shown
    assert SIGNER.private_bytes_raw().hex() not in shown
    assert a_job(1).receipt.enclave.hex() not in shown
