"""Pairing two devices, and what they have of one conversation: real enclave, Valkey, relay."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import re
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from memory.store import ThreadStore
from memory.thread import Position
from runtime.client.device import Device
from runtime.client.exchange import SealedResponse
from runtime.client.handing import Handed, adopt
from runtime.client.home import DeviceHome
from runtime.client.pairing import Code, hand_over, take
from runtime.client.relays import RelayCarrier
from runtime.client.rows import HandlePin
from runtime.client.sealed import Call, SealedHttp
from runtime.enclave.mailboxes import MAILBOX_S, Mailboxes, mailbox_key
from runtime.errors import SottoError
from tests.e2e.system import System
from tests.runtime.enclave_world import (
    WREN,
    Enclave,
    World,
    error_of,
    inner,
    relay,
    running_enclave,
)

pytestmark = pytest.mark.timeout(600)
POSITION = "7." + "ab" * 32
PIN = HandlePin("mira", b"k" * 32, 3, b"s" * 32)


def fresh(path: Path) -> Path:
    """A new device's folder."""
    DeviceHome(path).close()
    return path


def used(path: Path) -> Path:
    """The folder of a device with conversations."""
    home = DeviceHome(path)
    home.set_position("wren", POSITION)
    home.set_position("sol", "2." + "cd" * 32)
    home.pins.keep(PIN)
    home.close()
    return path


def contents(folder: Path) -> tuple[bytes, list[Any], list[Any]]:
    """Master secret, threads and pins."""
    with contextlib.closing(sqlite3.connect(folder / "device.db")) as database:
        threads = database.execute("SELECT * FROM threads ORDER BY 1").fetchall()
        pins = database.execute("SELECT * FROM handles ORDER BY 1").fetchall()
    return (folder / "master.key").read_bytes(), threads, pins


# Codes and folders.


def test_a_code_is_read_as_people_type_it_and_a_wrong_digit_shows() -> None:
    """Spaces and dashes do not count; each digit changed alone is refused before any try."""
    for _ in range(20):
        code = Code.new()
        shown = str(code)
        assert Code.parse(f" {shown.replace('-', ' ')}\n") == code
        assert code.secret not in repr(code)
        for at, digit in enumerate(shown):
            for other in set("0123456789") - {digit} if digit != "-" else ():
                with pytest.raises(SottoError, match="mistyped"):
                    Code.parse(shown[:at] + other + shown[at + 1 :])
    for wrong in ("", "1234", str(Code.new()) + "1", "１" * 12, "abcd-efgh-ijkl"):
        with pytest.raises(SottoError, match="12 digits"):
            Code.parse(wrong)


def test_a_fresh_folder_becomes_one_of_the_same_person(tmp_path: Path) -> None:
    """Secret, threads and pins are there, the key for its owner alone, and no other file."""
    old, new = used(tmp_path / "old"), fresh(tmp_path / "new")
    files = {file.name for file in new.iterdir()}
    adopt(new, Handed.of(old))
    assert contents(new) == contents(old)
    assert stat.S_IMODE((new / "master.key").stat().st_mode) == 0o600
    assert {file.name for file in new.iterdir()} == files


def test_a_folder_with_conversations_is_not_changed(tmp_path: Path) -> None:
    """Another master secret would lock them: it is refused with what to do."""
    old, new = used(tmp_path / "old"), used(tmp_path / "new")
    before = contents(new)
    with pytest.raises(SottoError, match="--home") as caught:
        adopt(new, Handed.of(old))
    assert caught.value.code == "pairing_not_fresh"
    assert contents(new) == before


@pytest.mark.parametrize("table", ["threads", "handles"])
def test_a_failure_changes_nothing(tmp_path: Path, table: str) -> None:
    """A database that refuses a row leaves secret, threads and pins as they were."""
    old, new = used(tmp_path / "old"), fresh(tmp_path / "new")
    with contextlib.closing(sqlite3.connect(new / "device.db")) as database:
        database.execute(
            f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    before, files = contents(new), set(new.iterdir())
    with pytest.raises(SottoError) as caught:
        adopt(new, Handed.of(old))
    assert caught.value.code == "home"
    assert contents(new) == before
    assert set(new.iterdir()) == files


def test_a_commit_that_fails_brings_the_old_key_back(tmp_path: Path) -> None:
    """The disk is full when all rows are written: secret, threads and pins are as they were."""
    new = fresh(tmp_path / "new")
    threads = tuple((f"persona-{number}", POSITION, 0, 0) for number in range(300))
    before, files = contents(new), {file.name for file in new.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Another connection keeps the journal's files, or opening it would write as well.
    with contextlib.closing(sqlite3.connect(new / "device.db")) as reader:
        reader.execute("SELECT * FROM threads").fetchall()
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        try:
            with pytest.raises(SottoError) as caught:
                adopt(new, Handed(master="5c" * 32, threads=threads, pins=()))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.code == "home"
        assert contents(new) == before
    assert {file.name for file in new.iterdir()} == files


def test_more_than_a_message_holds_is_refused_before_a_code_is_shown(tmp_path: Path) -> None:
    """A thousand conversations are told to be copied by hand."""
    folder = fresh(tmp_path / "home")
    with contextlib.closing(sqlite3.connect(folder / "device.db")) as database:
        rows = [(f"persona-{number}", POSITION) for number in range(1000)]
        database.executemany("INSERT INTO threads (persona, position) VALUES (?, ?)", rows)
        database.commit()
    with pytest.raises(SottoError, match="1000 conversations") as caught:
        Handed.of(folder)
    assert caught.value.code == "pairing_too_large"


# Mailboxes.


async def test_no_more_mailboxes_are_made_than_a_minute_allows(redis_client: Redis) -> None:
    """Over the limit is refused, and after a minute there is room again."""
    now = 0.0
    mailboxes = Mailboxes(redis_client, clock=lambda: now, new_in_a_minute=3)
    for _ in range(3):
        mailboxes.count()
    with pytest.raises(Exception, match="try again in a minute"):
        mailboxes.count()
    now = 60.0
    mailboxes.count()


@pytest.fixture
async def enclave(world: World) -> AsyncIterator[Enclave]:
    """Log and enclave."""
    async with running_enclave(world) as enclave:
        yield enclave


@pytest.fixture
async def way(enclave: Enclave) -> AsyncIterator[str]:
    """A relay's address."""
    async with relay(enclave) as url:
        yield url


@pytest.fixture
async def connect(world: World, way: str) -> AsyncIterator[Connect]:
    """Makes ways for devices that have no more than a folder."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(kind: type[SealedHttp] = SealedHttp) -> SealedHttp:
            carrier = RelayCarrier([way])
            await carrier.start(lambda event: None, lambda: None)
            stack.push_async_callback(carrier.close)
            return kind(carrier, world.policy())

        yield connect


Connect = Callable[..., Awaitable[SealedHttp]]


def alone(word: str) -> re.Pattern[bytes]:
    """Finds a word that stands by itself: in hex, Base64 and times any few letters come up."""
    return re.compile(rb"(?<![\w.+/-])" + word.encode() + rb"(?![\w+/-])")


async def values(client: Redis) -> list[bytes]:
    """All that is in Redis, names and values, as it was put there."""
    found: list[bytes] = []

    def keep(value: Any) -> None:
        match value:
            case bytes():
                found.append(value)
            case dict():
                keep(list(value.items()))
            case list() | tuple() | set():
                for one in value:
                    keep(one)

    for key in await client.keys():
        match await client.type(key):
            case b"string":
                kept: Any = await client.get(key)
            case b"hash":
                kept = await client.hgetall(key)
            case b"list":
                kept = await client.lrange(key, 0, -1)
            case b"stream":
                kept = await client.xrange(key)
            case b"none":  # its time was over
                kept = None
            case other:
                raise AssertionError(f"look into a {other!r} as well")
        keep([key, kept])
    return found


class Pairing:
    """A device that waits with a code."""

    def __init__(self, http: SealedHttp, folder: Path, limit_s: float = 120) -> None:
        self.code: asyncio.Future[Code] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(
            hand_over(http, folder, self.code.set_result, limit_s=limit_s, wait_s=0.02)
        )
        self.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[tuple[str, int]]) -> None:
        """Whoever waits for the code is told why there is none."""
        if not self.code.done() and not task.cancelled() and (error := task.exception()):
            self.code.set_exception(error)

    async def failure(self) -> str:
        """The code of what it ends with."""
        with pytest.raises(SottoError) as caught:
            await self.task
        assert "\n" not in str(caught.value)
        return caught.value.code


joining = functools.partial(take, name="phone", wait_s=0.02, limit_s=120)


async def join_failure(http: SealedHttp, folder: Path, code: Code) -> str:
    """The code of what a new device ends with; nothing changed in its folder."""
    before = contents(folder)
    with pytest.raises(SottoError) as caught:
        await joining(http, folder, code)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before
    return caught.value.code


def wrong(code: Code) -> Code:
    """The same mailbox, another secret."""
    return Code(code.mailbox, f"{(int(code.secret) + 1) % 10**6:06}")


@pytest.mark.integration
async def test_the_enclave_refuses_what_no_pairing_sends(world: World, enclave: Enclave) -> None:
    """Names, messages, sizes and orders that there are not; nothing is kept of them."""

    async def ask(name: str, method: bytes = b"POST", query: str = "", **body: Any) -> str:
        path = f"/v1/mailboxes/{name}{query}".encode()
        answer = await enclave.one_shot(inner(body or None, method=method, path=path))
        return "" if answer.status == 200 else str(error_of(answer)["code"])

    a0 = {"message": "a0", "body": "AAAA"}
    for name in ("1234", "123456", "abcde", "1234*"):
        assert await ask(name, **a0) == "invalid_request"
    for body in (
        {**a0, "message": "a2"},
        {**a0, "body": "A"},
        {**a0, "body": ""},
        {**a0, "more": 1},
        {**a0, "body": base64.b64encode(bytes(1025)).decode()},
        {"message": "a1", "body": base64.b64encode(bytes(65 * 1024)).decode()},
    ):
        assert await ask("12345", **body) == "invalid_request"
    assert await ask("12345", message="b0", body="AAAA") == "mailbox_unknown"
    assert await ask("12345", b"GET", "?message=a0") == "mailbox_unknown"
    assert await ask("12345", b"DELETE") == "mailbox_unknown"
    assert await world.client.keys("sotto:mailbox:*") == []
    assert await ask("12345", **a0) == ""
    assert await ask("12345", **a0) == "", "the same again, because the answer was lost"
    assert await ask("12345", message="a0", body="BBBB") == "mailbox_used"
    assert await ask("12345", b"GET", "?message=closed") == "invalid_request"
    assert 0 < await world.client.ttl(mailbox_key("12345")) <= MAILBOX_S
    assert await ask("12345", b"DELETE") == ""
    assert await ask("12345", b"DELETE") == ""
    assert await ask("12345", b"GET", "?message=a0") == "mailbox_closed"
    assert await ask("12345", message="b0", body="AAAA") == "mailbox_closed"
    assert await ask("12345", **a0) == "mailbox_used"
    assert await world.client.hgetall(mailbox_key("12345")) == {b"closed": b"1"}
    assert 0 < await world.client.ttl(mailbox_key("12345")) <= MAILBOX_S


# Pairing.


@pytest.mark.integration
async def test_a_code_moves_the_keys_sealed(world: World, connect: Connect, tmp_path: Path) -> None:
    """The new device has all of it, the old one is told which it was, and what lay in Redis
    meanwhile holds neither secret nor code."""
    old, new = used(tmp_path / "old"), fresh(tmp_path / "new")
    seen: set[bytes] = set()
    pairing = Pairing(await connect(), old)
    code = await pairing.code
    key = mailbox_key(code.mailbox)

    async def look() -> None:
        while not pairing.task.done():
            seen.update((await world.client.hgetall(key)).values())  # type: ignore[misc]
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await joining(await connect(), new, code)
    assert await pairing.task == ("phone", 2)
    await looking
    assert contents(new) == contents(old)
    assert len(seen) >= 3, "the messages were seen"
    master = (old / "master.key").read_bytes()
    kept = b"\0".join([*seen, *await values(world.client)])
    assert key.encode() in kept
    whole = (str(code), code.mailbox + code.secret, master.hex(), POSITION)
    for secret in (master, *(one.encode() for one in whole)):
        assert secret not in kept
    for word in (code.secret, "wren"):
        assert not alone(word).search(kept)
    assert hashlib.sha256(code.secret.encode()).digest() not in kept
    assert await world.client.hgetall(key) == {b"closed": b"1"}  # type: ignore[misc]


@pytest.mark.integration
async def test_a_wrong_code_is_told_on_both_sides_and_burns_the_mailbox(
    connect: Connect, tmp_path: Path
) -> None:
    """The right code is of no more use then."""
    new = fresh(tmp_path / "new")
    pairing = Pairing(await connect(), used(tmp_path / "old"))
    code = await pairing.code
    http = await connect()
    assert await join_failure(http, new, wrong(code)) == "pairing_wrong_code"
    assert await pairing.failure() == "pairing_wrong_code"
    assert await join_failure(http, new, code) == "pairing_unknown"


class Held(SealedHttp):
    """A device's way to an enclave on which it sees nothing before it may."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.may = asyncio.Event()

    async def request(self, call: Call, *arguments: Any, **named: Any) -> SealedResponse:
        """Look when it may."""
        if call.method == b"GET":
            await self.may.wait()
        return await super().request(call, *arguments, **named)


@pytest.mark.integration
async def test_a_second_device_with_the_same_code_is_refused(
    world: World, connect: Connect, tmp_path: Path
) -> None:
    """While the first pairs and after; the first gets what it should."""
    old, new, other = used(tmp_path / "old"), fresh(tmp_path / "new"), fresh(tmp_path / "other")
    http = await connect(Held)
    assert isinstance(http, Held)
    pairing = Pairing(http, old)
    code = await pairing.code
    tries = [asyncio.create_task(joining(await connect(), one, code)) for one in (new, other)]
    await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
    http.may.set()
    found = await asyncio.gather(*tries, return_exceptions=True)
    (refused,) = [one for one in found if isinstance(one, SottoError)]
    assert refused.code == "pairing_used"
    assert await pairing.task == ("phone", 2)
    winner, loser = (new, other) if isinstance(found[1], SottoError) else (other, new)
    assert contents(winner) == contents(old)
    assert await join_failure(await connect(), loser, code) == "pairing_unknown"


@pytest.mark.integration
async def test_a_pairing_that_is_given_up_or_that_nobody_joins_ends(
    world: World, connect: Connect, tmp_path: Path
) -> None:
    """Ctrl-C closes the mailbox; so does the time limit; so does the new device's failure."""
    old, new = used(tmp_path / "old"), fresh(tmp_path / "new")
    http = await connect()
    late = Pairing(http, old, limit_s=0.3)
    assert await late.failure() == "pairing_timeout"
    assert await join_failure(http, new, late.code.result()) == "pairing_unknown"
    given_up = Pairing(http, old)
    code = await given_up.code
    given_up.task.cancel()
    await asyncio.gather(given_up.task, return_exceptions=True)
    assert await join_failure(http, new, code) == "pairing_unknown"
    # A new device that cannot keep what it gets says so.
    unkept = Pairing(http, old)
    with contextlib.closing(sqlite3.connect(new / "device.db")) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON threads BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    assert await join_failure(http, new, await unkept.code) == "home"
    assert await unkept.failure() == "pairing_unconfirmed"


Change = Callable[[bytes, dict[str, bytes]], bytes]


class Meddling(SealedHttp):
    """A device's way to an enclave that changes what is put into mailboxes.

    Attributes:
        seen: Messages as they were put.
        changes: By message: makes another of it and of all that were put so far.
    """

    seen: dict[str, bytes]
    changes: dict[str, Change]

    async def request(self, call: Call, *arguments: Any, **named: Any) -> SealedResponse:
        """Change the message on its way."""
        if call.method == b"POST":
            asked = json.loads(call.body)
            name = asked["message"]
            self.seen[name] = base64.b64decode(asked["body"])
            if name in self.changes:
                changed = self.changes[name](self.seen[name], self.seen)
                asked["body"] = base64.b64encode(changed).decode()
                call = replace(call, body=json.dumps(asked).encode())
        return await super().request(call, *arguments, **named)


# What the other of the two puts in the same step.
OPPOSITE = {"a0": "a0", "b0": "a0", "a1": "b0", "b1": "a1"}


def altered(message: str, earlier: dict[str, bytes]) -> dict[str, Change]:
    """Ways to change a message."""
    ways: dict[str, Change] = {
        "altered": lambda body, _: body[:-1] + bytes([body[-1] ^ 1]),
        "altered before": lambda body, _: body[:9] + bytes([body[9] ^ 1]) + body[10:],
        "cut": lambda body, _: body[:-7],
        "emptied": lambda body, _: body[:1],
        "lengthened": lambda body, _: body + b"\0",
        "swapped": lambda _, seen: seen[OPPOSITE[message]],
        "replayed": lambda *_: earlier[message],
    }
    if message.endswith("0"):
        ways["neutral"] = lambda body, _: body[:1] + b"\x01" + bytes(31) + body[33:]
        ways["of another side"] = lambda body, _: bytes([body[0] ^ 3]) + body[1:]
    if message == "a0":
        del ways["swapped"]
    if message == "b0":
        ways["reflected"] = lambda body, seen: b"B" + seen["a0"][1:] + body[33:]
    return ways


@pytest.mark.integration
@pytest.mark.parametrize("message", ["a0", "b0", "a1", "b1"])
async def test_a_changed_message_hands_nothing_over(
    world: World, way: str, tmp_path: Path, message: str
) -> None:
    """Altered, cut, reflected, or replayed from another pairing: the new device takes nothing, and
    the old one never says that it was paired. A changed last message undoes nothing."""
    old = used(tmp_path / "old")
    carrier = RelayCarrier([way])
    await carrier.start(lambda event: None, lambda: None)
    http = Meddling(carrier, world.policy())

    async def pair(new: Path, changes: dict[str, Change]) -> list[str]:
        http.seen, http.changes = {}, changes
        pairing = Pairing(http, old)
        ends = await asyncio.gather(
            pairing.task, joining(http, new, await pairing.code), return_exceptions=True
        )
        for one in ends:
            assert isinstance(one, (SottoError, tuple, Handed)), one
        return [one.code if isinstance(one, SottoError) else "" for one in ends]

    assert await pair(fresh(tmp_path / "first"), {}) == ["", ""]
    earlier = http.seen
    for what, change in altered(message, earlier).items():
        new = fresh(tmp_path / what)
        before = contents(new)
        ended = await pair(new, {message: change})
        assert ended[0], f"{what}: the old device noticed"
        if message == "b1":
            assert ended == ["pairing_damaged", ""]
            assert contents(new) == contents(old)
        else:
            assert ended[1], f"{what}: the new device noticed"
            assert contents(new) == before, what
    await carrier.close()


# One conversation on two devices.


@pytest.fixture
async def pair(
    world: World, way: str, connect: Connect, tmp_path: Path
) -> AsyncIterator[tuple[Device, Device, DeviceHome, DeviceHome]]:
    """Two paired devices with a conversation of one turn."""
    home = DeviceHome(tmp_path / "old")
    async with Device(home, world.policy(), RelayCarrier([way])) as first:
        await say(first, "the first")
        pairing = Pairing(await connect(), home.path)
        await joining(await connect(), fresh(tmp_path / "new"), await pairing.code)
        await pairing.task
        other = DeviceHome(tmp_path / "new")
        async with Device(other, world.policy(), RelayCarrier([way])) as second:
            yield first, second, home, other
        other.close()
    home.close()


async def say(device: Device, message: str) -> list[dict[str, Any]]:
    """One turn; its events."""
    events = [event async for event in device.turn(WREN, message)]
    assert events[-1]["type"] == "response.completed", events[-1]
    return events


async def said(device: Device) -> list[str]:
    """Messages of the conversation's turns, in order, as this device is told."""
    found = await device.memories.page("wren", kinds=["turn"])
    return [str(one["text"]) for one in found["memories"]]


async def on_chain(world: World, home: DeviceHome) -> int:
    """Where a device's position is on the chain that is stored; fails where it is not on it."""
    position = Position.parse(home.position("wren") or "")
    opened = await ThreadStore(world.client).open(home.thread_keys("wren"), expected=position)
    return opened.view.position.length - position.length


@pytest.mark.integration
async def test_two_devices_in_turn_have_one_conversation(
    world: World, enclave: Enclave, pair: tuple[Device, Device, DeviceHome, DeviceHome]
) -> None:
    """Each sees what the other said, in order, and their heads are the same when both looked."""
    first, second, home, other = pair
    assert home.position("wren") == other.position("wren")
    expected = ["the first"]
    for number in range(4):
        device = (second, first)[number % 2]
        events = await say(device, f"turn {number}")
        assert events[-1]["usage"]["remembered_turns"] == len(expected)
        expected.append(f"turn {number}")
    await enclave.remembering.settled()
    assert await said(first) == await said(second) == expected
    assert home.position("wren") == other.position("wren")
    assert await on_chain(world, home) == await on_chain(world, other) == 0


@pytest.mark.integration
async def test_turns_at_once_are_put_in_an_order_without_loss(
    world: World, enclave: Enclave, pair: tuple[Device, Device, DeviceHome, DeviceHome]
) -> None:
    """Ten turns of two devices at the same time: each is there once, and both see one order."""
    first, second, home, other = pair
    messages = [f"turn {number}" for number in range(10)]
    ended = await asyncio.gather(
        *(say((first, second)[number % 2], one) for number, one in enumerate(messages))
    )
    assert len({events[-1]["receipt_id"] for events in ended}) == len(messages)
    assert {
        len([one for one in events if one["type"] == "response.completed"]) for events in ended
    } == {1}
    # Before either looks again: what each knows is a place of the one chain.
    assert await on_chain(world, home) >= 0
    assert await on_chain(world, other) >= 0
    await enclave.remembering.settled()
    order = await said(first)
    assert order[0] == "the first"
    assert sorted(order[1:]) == messages
    assert await said(second) == order
    assert home.position("wren") == other.position("wren")
    assert await on_chain(world, home) == 0
    for device in (first, second):
        await device.wait_receipts(60)
    settled = [row for one in (home, other) for row in one.receipts() if row.status == "settled"]
    assert len(settled) == len(order), "each turn has one receipt, on the device that said it"


@pytest.mark.integration
@pytest.mark.parametrize("ended", ["forgotten", "rotated"])
async def test_a_paired_device_moves_on_by_itself(
    enclave: Enclave, pair: tuple[Device, Device, DeviceHome, DeviceHome], ended: str
) -> None:
    """After the other forgot or rotated the conversation, in either direction."""
    for number, (one, another) in enumerate((pair[:2], pair[1::-1])):
        if ended == "forgotten":
            await one.forget("wren")
        else:
            await one.memories.rotate("wren")
        events = await say(another, f"after {number}")
        assert [event["type"] for event in events].count("thread.moved") == 1
        await say(one, f"and {number}")
        # Both of this round; after a rotation also all before it.
        before = 0 if ended == "forgotten" else 1 + 2 * number
        await enclave.remembering.settled()
        assert len(await said(one)) == before + 2
        assert await said(one) == await said(another)
    assert pair[2].thread("wren") == pair[3].thread("wren") == 2
    assert pair[2].position("wren") == pair[3].position("wren")


# The command.


@pytest.mark.integration
def test_the_command_pairs_two_devices_and_tells_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a running system, whose roles have their own rights in Redis: the code is in no
    argument, neither code nor secret is in a log, and the new device remembers."""
    system = System(tmp_path / "data", ("--engine", "scripted"))
    system.start()
    try:
        system.chat("wren", "My dog is called Juno.")
        policy = ("--edge", system.edge, "--policy", str(system.home / "policy.toml"))
        old = subprocess.Popen(
            [sys.executable, "-m", "runtime", "pair", "--home", str(system.home), *policy],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert old.stdout is not None
        code = old.stdout.readline().removeprefix("Code: ").strip()
        assert Code.parse(code)
        joined = join(tmp_path / "new", policy, code)
        assert joined.returncode == 0, joined.stderr
        assert json.loads(joined.stdout)["joined"] == {"conversations": ["wren"]}
        told, problems = old.communicate(timeout=120)
        assert old.returncode == 0, problems
        assert "Paired with kitchen: it has 1 conversation now." in told
        new_key = tmp_path / "new" / "master.key"
        assert new_key.read_bytes() == (system.home / "master.key").read_bytes()
        again = join(tmp_path / "third", policy, code)
        assert json.loads(again.stdout)["error"]["code"] == "pairing_unknown"
        assert join(tmp_path / "new", policy, code).returncode == 1, "it has conversations now"
        listed = cli("memory", "list", "wren", "--json", "--home", str(tmp_path / "new"), *policy)
        assert "Juno" in listed.stdout
        system.stop()  # what it writes is whole then, and stays
        written = system.logs() + told + problems
        master = (system.home / "master.key").read_bytes().hex()
        assert master not in written
        assert code not in written
        assert code.replace("-", "") not in written
        stored = b"".join(
            file.read_bytes()
            for file in (tmp_path / "data").rglob("*")
            if file.is_file() and not file.is_relative_to(system.home)
        )
        assert b"sotto:mailbox:" in stored, "the store's own journal is among them"
        assert bytes.fromhex(master) not in stored
        assert not alone(Code.parse(code).secret).search(stored)
        assert code.replace("-", "")[:-1].encode() not in stored
    finally:
        system.stop()


def cli(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def join(home: Path, policy: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """`sotto pair --join` with the code on standard input."""
    where = ("--home", str(home), *policy)
    return cli("pair", "--join", "--name", "kitchen", "--json", *where, text=code + "\n")


def test_a_mistyped_code_asks_nobody(tmp_path: Path) -> None:
    """It is refused on the device, before any connection, and burns nothing."""
    code = str(Code.new())
    wrong_digit = code[:-1] + str((int(code[-1]) + 1) % 10)
    ended = join(tmp_path / "new", ("--edge", "ws://127.0.0.1:1/v1/realtime"), wrong_digit)
    assert ended.returncode == 2
    assert "mistyped" in json.loads(ended.stdout)["error"]["message"]
