"""A real device, enclave and log: what they leave behind is exported and verifies alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proofs.archive import Kind
from proofs.archive_report import ArchiveReport
from proofs.disclosure import encode_disclosure
from proofs.log.reader import Folder, LogReader
from proofs.policy import Policy
from proofs.verify_archive import verify_archive
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.relays import RelayCarrier
from runtime.exporting import LogRange, Wanted, export_home, export_log
from runtime.recognise import Terms, verify_data
from tests.runtime.enclave_world import WREN, Enclave, World, relay, running_enclave

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture
async def enclave(world: World) -> AsyncIterator[Enclave]:
    """Log and enclave."""
    async with running_enclave(world) as enclave:
        yield enclave


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


async def _talk(device: Device, *messages: str) -> None:
    for message in messages:
        async for event in device.turn(WREN, message):
            last = event
        row = await device.wait_settled(last["receipt_id"], 60)
        assert row is not None
        assert row.status == "settled"


def _judge(data: bytes, policy: Policy) -> ArchiveReport:
    return verify_archive(
        lambda at, length: data[at : at + length],
        len(data),
        policy,
        int(time.time()) + 1,
        keep_said=True,
    )


async def test_a_thread_is_followed_over_erasures_and_rotations(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """Some records forgotten, the key rotated, more turns: whole, and not without the rotation."""
    policy = world.policy()
    async with relay(enclave) as url, Device(home, policy, RelayCarrier([url])) as device:
        await _talk(device, "one", "two")
        await enclave.remembering.settled()
        rows = [
            await device.memories.forget("wren", ["m0"]),
            await device.memories.rotate("wren"),
        ]
        await _talk(device, "three", "four")
        for row in rows:
            await device.wait_erased(row.receipt_id, 60)
    parts: list[bytes] = []
    wanted = Wanted(Kind.CONVERSATION, int(time.time()), with_text=True)
    assert export_home(home, wanted, parts.append).textless == 1
    report = _judge(b"".join(parts), policy)
    assert report.holds, report.findings
    assert report.complete
    assert (report.counts["threads"], report.counts["erasures_holding"]) == (2, 2)

    home.database.execute("DELETE FROM erasures WHERE scope = 'rotation'")
    parts.clear()
    export_home(home, wanted, parts.append)
    report = _judge(b"".join(parts), policy)
    assert (report.holds, report.complete, report.only_gaps) == (False, False, True)


async def test_a_life_of_a_device_is_accounted_for(
    world: World, enclave: Enclave, home: DeviceHome
) -> None:
    """Turns, an erasure, more turns: for the user with words, for the operator without."""
    began = int(time.time()) - 60  # the enclave's bundle was logged before this
    policy = world.policy()
    async with relay(enclave) as url, Device(home, policy, RelayCarrier([url])) as device:
        await _talk(device, "one", "two", "three")
        erased = await device.forget("wren")
        await device.wait_erased(erased.receipt_id, 60)
        await _talk(device, "four", "five")

    for row in home.receipts():
        data = encode_disclosure(home.disclosable(row.receipt_id))
        assert verify_data(data, Terms(policy, int(time.time()) + 1)).report.holds

    parts: list[bytes] = []
    wanted = Wanted(Kind.CONVERSATION, int(time.time()), with_text=True)
    exported = export_home(home, wanted, parts.append)
    assert (exported.unsettled, exported.textless) == (0, 3)
    report = _judge(b"".join(parts), policy)
    assert report.holds, report.findings
    assert (report.counts["receipts"], report.counts["threads"]) == (5, 2)
    assert report.counts["erasures_holding"] == 1
    assert [turn.request for turn in report.said] == [b"four", b"five"]

    parts.clear()
    ended = int(time.time()) + 1
    with LogReader(Folder(world.folder / "log")) as reader:
        exported = await asyncio.to_thread(
            export_log, reader, LogRange(ended, began, ended), parts.append, world.url
        )
    # The bundle, five turns, one erasure.
    assert exported.counts["entries"] == 7
    assert exported.counts["sealed"] == 6
    assert exported.counts["bundles"] == 1
    report = _judge(b"".join(parts), policy)
    assert report.holds, report.findings
    assert report.said == ()
