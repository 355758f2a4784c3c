"""What a hostile edge can try against a device, and what it gets for it: nothing.

The edge here is a real websocket server in front of the real edge of a running system. It passes
everything on, changes what the test says, and keeps every sealed byte that the device gave it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from personas.library import load_library
from proofs.bundle import decode_bundle, make_bundle
from proofs.claims import decode_claims
from proofs.evidence.simulated import SimulatedPlatform
from proofs.policy import Policy
from proofs.receipt import decode_receipt
from runtime.client.carrier import StreamLostError
from runtime.client.connection import Connection
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.errors import SottoError
from runtime.sealing import open_receipt, seal_receipt
from runtime.wire import SUBPROTOCOL, Frame, decode_frame
from tests.e2e.system import System
from tests.runtime.home_support import turns_remembered
from transport.keyconfig import GatewayKey
from transport.shaping import Shaping

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
WREN, ATLAS = load_library().get("wren"), next(p for p in load_library() if p.handle != "wren")
WORDS = 64
# A sealed word of the script; the head of an answer and its first event have three times as much.
PIECE = 128
Event = dict[str, Any]
Send = Callable[[str | bytes], Awaitable[None]]


def pieces(frame: Frame) -> Iterator[Frame]:
    """A frame as if each word had come by itself, however many a busy machine has put together."""
    size = len(frame.data)
    for start in range(0, max(size, 1), PIECE):
        data = frame.data[start : start + PIECE]
        yield Frame(frame.stream, frame.offset + start, data, frame.end and start + PIECE >= size)


class HostileEdge:
    """Stands between a device and the real edge.

    Attributes:
        on_event: Given each event for the device; what it returns goes there instead.
        on_frame: The same for each sealed frame, of `PIECE` bytes at most.
        greet: Sent after `session.created` of each socket.
        frames: Every binary frame from the device.
        asked: Gateways to which the device opened a stream.
        heard: Every event from the device.
        fields: Names of the header fields that it sent.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.on_event: Callable[[Event], list[Event]] = lambda event: [event]
        self.on_frame: Callable[[Frame], Sequence[Frame | Event]] = lambda frame: [frame]
        self.greet: list[str | bytes] = []
        self.frames: list[Frame] = []
        self.asked: list[str] = []
        self.heard: list[Event] = []
        self.sockets = 0
        self.fields: set[str] = set()
        self.url = ""
        self._device: ServerConnection | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[HostileEdge]:
        """Serve while the block runs."""
        async with serve(
            self._handle, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"ws://127.0.0.1:{port}/v1/realtime"
            yield self

    async def send(self, data: str | bytes | Event) -> None:
        """Something of its own, to the device's newest socket."""
        assert self._device is not None
        await self._device.send(orjson.dumps(data).decode() if isinstance(data, dict) else data)

    async def wait_for_another_socket(self, before: int = 1) -> None:
        """The device has left the one that it had and come back."""
        async with asyncio.timeout(60):
            while self.sockets <= before:  # noqa: ASYNC110 - the device has no event for it
                await asyncio.sleep(0.02)

    async def restart(self) -> None:
        """Drop the device's socket; it may come back."""
        assert self._device is not None
        await self._device.close(4000, "restart")

    async def close_for_good(self) -> None:
        """Tell the device not to come back, in words that a terminal would obey."""
        assert self._device is not None
        await self._device.close(4500, "\x1b[2Jgo away")

    async def _handle(self, device: ServerConnection) -> None:
        self.sockets += 1
        self._device = device
        assert device.request is not None
        self.fields |= {name.lower() for name in device.request.headers}
        async with connect(
            self._target,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            proxy=None,
        ) as edge:
            with contextlib.suppress(ConnectionClosed, ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._upwards(device, edge.send))
                    group.create_task(self._downwards(edge, device.send))

    async def _upwards(self, device: ServerConnection, send: Send) -> None:
        async for data in device:
            if isinstance(data, bytes):
                self.frames.append(decode_frame(data))
            else:
                event = orjson.loads(data)
                self.heard.append(event)
                if event["type"] == "response.create":
                    self.asked.append(event["gateway"])
            await send(data)
        raise ConnectionClosed(None, None)

    async def _downwards(self, edge: Any, send: Send) -> None:
        async for data in edge:
            if isinstance(data, bytes):
                for piece in pieces(decode_frame(data)):
                    for one in self.on_frame(piece):
                        event = not isinstance(one, Frame)
                        await send(orjson.dumps(one).decode() if event else one.encode())
                continue
            event = orjson.loads(data)
            for changed in self.on_event(event):
                await send(orjson.dumps(changed).decode())
            if event["type"] == "session.created":
                for one in self.greet:
                    await send(one)
        raise ConnectionClosed(None, None)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("hostile") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


@pytest.fixture
async def edge(system: System) -> AsyncIterator[HostileEdge]:
    """A hostile edge that does not do anything yet."""
    async with HostileEdge(system.edge).running() as edge:
        yield edge


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


@pytest.fixture
def policy(system: System) -> Policy:
    """What this system's own devices demand: its root, release and log."""
    return Policy.load(system.home / "policy.toml")


async def talk(device: Device, events: list[Event] | None = None) -> tuple[str, Event]:
    """One turn as a person reads it: the text that was shown in the end, and the last event."""
    text, event = "", {}
    async for event in device.turn(WREN, "hello"):
        if events is not None:
            events.append(event)
        if event["type"] == "response.output_text.delta":
            text += event["delta"]
        elif event["type"] == "response.restarted":
            text = ""
    return text, event


def the_script(text: str) -> bool:
    """Whether this is the engine's whole reply."""
    words = text.split()
    return len(words) == WORDS and words[:5] == ["this", "is", "a", "paced", "script"]


def once(change: Callable[[Frame], list[Frame]]) -> Callable[[Frame], list[Frame]]:
    """Attack the first stream alone, so that the test sees the device recover."""
    victims: set[int] = set()

    def attack(frame: Frame) -> list[Frame]:
        victims.add(frame.stream)
        return change(frame) if frame.stream == min(victims) else [frame]

    return attack


# Enclaves that are not to be trusted.


def a_bundle(entry: Event, root: Ed25519PrivateKey, age: int = 0, **options: Any) -> Event:
    """An announcement with the edge's own keys, attested under a root as it would be by it."""
    claims = decode_claims(decode_bundle(base64.b64decode(entry["bundle"])).claims)
    now = int(time.time()) - age
    changed = type(claims)(
        **{
            **{name: getattr(claims, name) for name in type(claims).__slots__},
            "key_configs": (GatewayKey.generate(0, os.urandom(32)).config.encode(),),
            "not_before": now,
            "not_after": now + 3600,
        }
    )
    platform = SimulatedPlatform.create(
        root, os.urandom(32), measurements=claims.measurements, **options
    )
    bundle = make_bundle(changed, platform, now).encode()
    return {**entry, "bundle": base64.b64encode(bundle).decode()}


def stolen_root(system: System) -> Ed25519PrivateKey:
    """The system's own root: even who has it must still show a log's proof."""
    key = load_pem_private_key((system.data / "tee" / "root.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def flip(text: str, at: int) -> str:
    """Base64 text of the same bytes with one bit changed."""
    data = bytearray(base64.b64decode(text))
    data[at] ^= 1
    return base64.b64encode(data).decode()


ENCLAVES: dict[str, Callable[[System, Event], Event]] = {
    "of another root": lambda _, entry: a_bundle(entry, Ed25519PrivateKey.generate()),
    "not in the log": lambda system, entry: a_bundle(entry, stolen_root(system)),
    "in debug mode": lambda system, entry: a_bundle(entry, stolen_root(system), debug=True),
    "expired": lambda system, entry: a_bundle(entry, stolen_root(system), age=2 * 86400),
    "with one bit of its keys flipped": lambda _, entry: {
        **entry,
        "bundle": flip(entry["bundle"], 60),
    },
    "with one bit of its evidence flipped": lambda _, entry: {
        **entry,
        "bundle": flip(entry["bundle"], -9),
    },
    "without a proof": lambda _, entry: {**entry, "proof": ""},
    "with the proof of another entry": lambda _, entry: {
        **entry,
        "proof": entry["proof"].replace("index 0", "index 1"),
    },
    "with a proof by another log": lambda _, entry: {
        **entry,
        "proof": entry["proof"].replace("localhost/sottovoce-log", "localhost/another-log"),
    },
    "that is not base64": lambda _, entry: {**entry, "bundle": "ä" * 99},
    "that is no bundle": lambda _, entry: {**entry, "bundle": base64.b64encode(b"x").decode()},
}


@pytest.mark.parametrize("what", ENCLAVES)
async def test_nothing_is_sealed_to_an_enclave_that_does_not_hold(
    what: str, system: System, edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """One clear error, and not one sealed byte has left the device."""
    edge.on_event = lambda event: [
        {**event, "enclaves": [ENCLAVES[what](system, one) for one in event["enclaves"]]}
        if event["type"] == "enclaves"
        else event
    ]
    async with Device(home, policy, Connection(edge.url)) as device:
        with pytest.raises(SottoError) as caught:
            await talk(device)
    assert caught.value.code == "enclave_refused"
    assert edge.frames == []
    assert edge.asked == []
    assert list(home.receipts()) == []
    assert home.position("wren") is None


async def test_the_honest_enclave_is_found_among_false_ones(
    system: System, edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Whatever names the false ones bear, the turn goes to the one that holds."""

    def crowd(event: Event) -> list[Event]:
        if event["type"] != "enclaves":
            return [event]
        honest = event["enclaves"]
        false = [
            {**make(system, one), "gateway": f"enclave-{at}"}
            for at, make in enumerate(ENCLAVES.values())
            for one in honest
        ]
        return [{**event, "enclaves": [*false, *honest, *false]}]

    edge.on_event = crowd
    async with Device(home, policy, Connection(edge.url)) as device:
        text, final = await talk(device)
    assert the_script(text)
    assert final["type"] == "response.completed"
    assert edge.asked == ["enclave-0"]


async def test_a_flood_of_enclaves_is_cut(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """To verify one takes most of a millisecond, and nothing else moves meanwhile."""
    edge.on_event = lambda event: [
        {**event, "enclaves": event["enclaves"] * 400} if event["type"] == "enclaves" else event
    ]
    async with Device(home, policy, Connection(edge.url)) as device:
        assert len(await device.enclaves()) == 256
        text, _ = await talk(device)
    assert the_script(text)


@pytest.mark.parametrize(
    "enclaves",
    [
        None,
        "enclave-0",
        ["enclave-0"],
        [{}],
        [{"gateway": "enclave-0", "bundle": 1, "proof": None}],
        [{"gateway": "../../etc", "bundle": "", "proof": ""}],
        [{"gateway": ["enclave-0"], "bundle": {}, "proof": []}],
    ],
)
async def test_a_list_of_enclaves_that_is_none_is_refused(
    enclaves: object, edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Not a crash, not a device that waits for ever: an error that can be shown."""
    edge.on_event = lambda event: [
        {**event, "enclaves": enclaves} if event["type"] == "enclaves" else event
    ]
    async with Device(home, policy, Connection(edge.url)) as device:
        with pytest.raises(SottoError) as caught:
            await device.enclaves()
    assert caught.value.code in ("enclave_away", "enclave_refused")
    assert edge.frames == []


# Answers that were tampered with.


def shuffled() -> Callable[[Frame], list[Frame]]:
    """Each second frame before the first, with offsets that fit again."""
    held: list[Frame] = []

    def attack(frame: Frame) -> list[Frame]:
        held.append(frame)
        # The end is let through: a device waits long for the rest of a chunk that a shuffled
        # length announces, and an edge that withholds is another story.
        if len(held) < 4 and not frame.end:
            return []
        first, *rest = held
        held.clear()
        swapped, offset = [], first.offset
        for one in (*reversed(rest), first):
            swapped.append(Frame(one.stream, offset, one.data, frame.end and one is first))
            offset += len(one.data)
        return swapped

    return attack


def dropped() -> Callable[[Frame], list[Frame]]:
    """The fifth frame is missing, and the offsets of the rest hide it."""
    gone: list[int] = []
    count = iter(range(10**9))

    def attack(frame: Frame) -> list[Frame]:
        if next(count) == 4:
            gone.append(len(frame.data))
            return []
        return [Frame(frame.stream, frame.offset - sum(gone), frame.data, frame.end)]

    return attack


def doubled() -> Callable[[Frame], list[Frame]]:
    """The fifth frame comes twice, and the offsets of the rest hide it."""
    extra: list[int] = []
    count = iter(range(10**9))

    def attack(frame: Frame) -> list[Frame]:
        moved = Frame(frame.stream, frame.offset + sum(extra), frame.data, frame.end)
        if next(count) != 4:
            return [moved]
        extra.append(len(frame.data))
        return [moved, Frame(frame.stream, moved.offset + len(frame.data), frame.data)]

    return attack


def flipped() -> Callable[[Frame], list[Frame]]:
    """One bit of the seventh frame."""
    count = iter(range(10**9))

    def attack(frame: Frame) -> list[Frame]:
        data = bytearray(frame.data)
        if data and next(count) == 6:
            data[len(data) // 2] ^= 1
        return [Frame(frame.stream, frame.offset, bytes(data), frame.end)]

    return attack


def truncated() -> Callable[[Frame], list[Frame]]:
    """The reply ends after a few words, as if that were all."""
    count = iter(range(10**9))

    def attack(frame: Frame) -> list[Frame]:
        number = next(count)
        if number > 8:
            return []
        return [Frame(frame.stream, frame.offset, frame.data, number == 8)]

    return attack


def misplaced() -> Callable[[Frame], list[Frame]]:
    """A gap that is not even hidden."""
    return lambda frame: [Frame(frame.stream, frame.offset + 7, frame.data, frame.end)]


def emptied() -> Callable[[Frame], list[Frame]]:
    """No answer at all, and its end."""
    return lambda frame: [Frame(frame.stream, 0, b"", True)] if frame.offset == 0 else []


ANSWERS = {
    attack.__name__: attack
    for attack in (shuffled, dropped, doubled, flipped, truncated, misplaced, emptied)
}


async def test_no_wrong_word_is_shown_of_an_answer_that_was_changed(
    system: System, tmp_path: Path, policy: Policy
) -> None:
    """The device sends the same turn again and reads the one true answer, each word once."""

    async def recovers(what: str) -> None:
        home = DeviceHome(tmp_path / what)
        events: list[Event] = []
        async with HostileEdge(system.edge).running() as edge:
            edge.on_frame = once(ANSWERS[what]())
            async with Device(home, policy, Connection(edge.url)) as device:
                text, final = await talk(device, events)
                row = await device.wait_settled(final["receipt_id"], 60)
        kinds = [event["type"] for event in events]
        assert the_script(text), what
        assert kinds.count("response.completed") == 1, what
        assert kinds[-1] == "response.completed", what
        assert "response.restarted" not in kinds, f"{what}: nothing shown had to be taken back"
        assert (home.position("wren") or "").startswith("1."), f"{what}: it is one turn"
        assert row is not None
        assert (row.status, row.problem) == ("settled", None), what
        assert len({frame.stream for frame in edge.frames}) > 1, f"{what}: the attack was seen"
        home.close()

    await asyncio.gather(*(recovers(what) for what in ANSWERS))


def forever_flipped(frame: Frame) -> list[Frame]:
    """One bit near the beginning of every frame."""
    data = bytearray(frame.data)
    if data:
        data[min(40, len(data) - 1)] ^= 1
    return [Frame(frame.stream, frame.offset, bytes(data), frame.end)]


def forever_truncated(frame: Frame) -> list[Frame]:
    """Half of the first frame, and no more."""
    if frame.offset:
        return []
    return [Frame(frame.stream, 0, frame.data[: len(frame.data) // 2], True)]


@pytest.mark.parametrize("attack", [forever_flipped, forever_truncated])
async def test_an_answer_that_is_always_changed_is_never_complete(
    attack: Callable[[Frame], list[Frame]], edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """However long the edge goes on: no word that is not true, and no end."""
    edge.on_frame = attack
    events: list[Event] = []
    async with Device(home, policy, Connection(edge.url)) as device:
        talking = asyncio.create_task(talk(device, events))
        async with asyncio.timeout(60):
            while len({frame.stream for frame in edge.frames}) < 5:
                assert not talking.done()
                await asyncio.sleep(0.02)
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    text = "".join(event.get("delta", "") for event in events)
    assert "this is a paced script".startswith(text[:22])
    assert not {event["type"] for event in events} & {"response.completed", "response.failed"}
    assert home.position("wren") is None
    assert list(home.receipts()) == []


async def test_an_answer_that_lacks_only_its_seal_is_complete_once(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Cut after the enclave's last word, the turn is neither repeated nor reported twice."""
    held = b""

    def cut(frame: Frame) -> list[Frame]:
        """All but the very last byte."""
        nonlocal held
        data, offset = held + frame.data, frame.offset - len(held)
        held = data[-1:]
        if data[:-1] or frame.end:
            return [Frame(frame.stream, offset, data[:-1], frame.end)]
        return []

    edge.on_frame = cut
    events: list[Event] = []
    async with Device(home, policy, Connection(edge.url)) as device:
        text, final = await talk(device, events)
        row = await device.wait_settled(final["receipt_id"], 60)
    assert the_script(text)
    assert [event["type"] for event in events].count("response.completed") == 1
    assert len({frame.stream for frame in edge.frames}) == 1
    assert row is not None
    assert row.status == "settled"


async def test_streams_cannot_be_exchanged(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """The answer to one turn, sent as the answer to another, does not open."""
    kept: list[Frame] = []

    def replay(frame: Frame) -> list[Frame]:
        if frame.stream == 1:
            kept.append(frame)
            return [frame]
        if frame.stream == 2:
            if frame.offset:
                return []
            return [Frame(2, one.offset, one.data, one.end) for one in kept]
        return [frame]

    edge.on_frame = replay
    async with Device(home, policy, Connection(edge.url)) as device:
        first, _ = await talk(device)
        second, _ = await talk(device)
        streams = len({frame.stream for frame in edge.frames})
        assert await turns_remembered(device) == 2
    assert the_script(first)
    assert the_script(second)
    assert streams == 3


# Sessions.


async def test_not_resumable_means_the_same_turn_again(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """An edge that forgets at will costs time: no word is lost, none is said twice."""
    claim = {"type": "error", "error": {"code": "not_resumable", "message": "gone \x1b[2J"}}
    passed = {1: 0, 2: 0, 3: 0}

    def forget(frame: Frame) -> list[Frame | Event]:
        """In the midst of the first answer and of the second, at whatever pace they come."""
        passed[frame.stream] += 1
        now = (frame.stream, passed[frame.stream]) in ((1, 7), (2, 14))
        return [claim, frame] if now else [frame]

    edge.on_frame = forget
    events: list[Event] = []
    async with Device(home, policy, Connection(edge.url)) as device:
        text, _ = await talk(device, events)
    assert "response.restarted" not in {event["type"] for event in events}
    assert the_script(text)
    assert (home.position("wren") or "").startswith("1.")
    assert len({frame.stream for frame in edge.frames}) == 3


JUNK: tuple[str | bytes, ...] = (
    '{"type": "session.created"}',
    '{"type": "session.created", "session": {"token": 5}}',
    '{"type": "session.resumed", "token": "aaaaaaaaaaaaaaaaaaaa", "lost": []}',
    '{"type": "session.resumed", "lost": "all"}',
    '{"type": "stream.failed", "stream": "1"}',
    '{"type": "stream.failed", "stream": 1, "error": "no"}',
    '{"type": "error", "error": null}',
    '{"type": "response.receipt", "receipt_id": ["a"], "sealed": 1}',
    '{"type": "response.settled"}',
    '{"type": 7}',
    "[]",
    "{",
    "null",
    b"",
    b"\x00",
    b"\x00\x00\x00\x01\xff" + bytes(8) + b"x",
)


async def test_events_that_break_the_protocol_do_not_stop_the_device(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """After each it leaves that socket, comes back on another, and is a device that works."""
    async with Device(home, policy, Connection(edge.url)) as device:
        for junk in JUNK:
            assert await device.cancel(WREN, "0" * 32) is False, "a sealed exchange works"
            sockets = edge.sockets
            await edge.send(junk)
            await edge.wait_for_another_socket(sockets)
        text, _ = await talk(device)
    assert the_script(text)


async def test_a_session_that_begins_twice_is_refused(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Else each beginning would make the device ask again for all that it waits for."""
    hello = {"type": "session.created", "session": {"token": "a" * 32}}
    async with Device(home, policy, Connection(edge.url)) as device:
        await device.enclaves()
        await edge.send(hello)
        await edge.wait_for_another_socket()


async def test_a_flood_of_events_does_not_hinder_a_turn(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Events that nobody asked for are read and forgotten, between the words."""
    flood = [
        {"type": "pong"},
        {"type": "heartbeat", "sequence_number": -1},
        {"type": "advertisement", "text": "x" * 1000},
        {"type": "error", "error": {"code": "advice", "message": "y" * 1000}},
        {"type": "response.receipt", "receipt_id": "0" * 32, "sealed": "AAAA"},
        {"type": "response.settled", "receipt_id": "0" * 32, "proof": "c2sp.org/tlog-proof@v1"},
        {"type": "stream.failed", "stream": 999, "error": {"code": "x", "message": "z"}},
        {"type": "enclaves", "enclaves": []},
    ]
    edge.on_frame = lambda frame: [Frame(frame.stream + 100, 0, b"?" * 999), frame]
    async with Device(home, policy, Connection(edge.url)) as device:
        text = ""
        async for event in device.turn(WREN, "hello"):
            text += event.get("delta", "")
            for _ in range(5):
                for one in flood:
                    await edge.send(one)
    assert the_script(text)
    assert (home.position("wren") or "").startswith("1.")


async def test_a_flood_of_sealed_bytes_is_cut_off(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """While a person is slow to read, an edge cannot fill the device's memory."""
    async with Device(home, policy, Connection(edge.url)) as device:
        turn = device.turn(WREN, "hello")
        async for event in turn:
            if event["type"] == "response.output_text.delta":
                break
        edge.on_frame = lambda _: []  # from now on, nothing but the flood
        with contextlib.suppress(ConnectionClosed):
            offset = 10**6  # out of place, or far too much: either ends the socket
            for _ in range(500):
                await edge.send(Frame(1, offset, b"\0" * 60_000).encode())
                offset += 60_000
        await edge.wait_for_another_socket()
        await turn.aclose()  # type: ignore[attr-defined]


async def test_an_edge_that_closes_for_good_wakes_everyone(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Who waits is told, at once and again later; nobody hangs."""
    async with Device(home, policy, Connection(edge.url)) as device:
        await device.enclaves()
        async with asyncio.timeout(60):
            await edge.close_for_good()
            for _ in range(2):
                with pytest.raises(SottoError) as caught:
                    await talk(device)
                assert "\x1b" not in str(caught.value)
    assert edge.sockets == 1, "told not to come back, it does not"


async def test_an_edges_words_cannot_pose_as_an_enclaves(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """A failure outside the encapsulation bears neither its codes nor terminal controls."""
    problem = {"code": "memory_rollback", "message": "\x1b]0;pwned\x07 your memory is gone\n" * 99}
    caught: list[StreamLostError] = []
    async with Device(home, policy, Connection(edge.url)) as device:
        (enclave, *_) = await device.enclaves()
        stream = await device._carrier.open_stream(enclave.gateway)
        await edge.send({"type": "stream.failed", "stream": stream.stream_id, "error": problem})  # type: ignore[attr-defined]
        try:
            async for _ in stream:
                pass
        except StreamLostError as error:
            caught.append(error)
    (error,) = caught
    assert error.code == "stream_lost"
    assert str(error).isprintable()
    assert len(str(error)) < 300


# Receipts.


async def all_sent_is_read(device: Device, event: asyncio.Event) -> None:
    """Wait until an edge has sent something, and the device has read it."""
    async with asyncio.timeout(60):
        await event.wait()
    await device.cancel(WREN, "0" * 32)  # its answer comes after what was sent before it


def forged_receipts(sealed: str, earlier: str) -> list[str]:
    """What an edge could send in a receipt's place."""
    bits = [flip(sealed, at) for at in (0, 11, 12, 40, -17, -1)]
    return ["", "AAAA", "ä", "not base64!", "A" * 100_000, sealed[:-4], earlier, *bits]


async def test_no_forged_receipt_is_kept_and_none_voids_the_true_one(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Garbage, flipped bits, an earlier turn's receipt: ignored, until the true one comes."""
    sent: list[str] = []

    def forge(event: Event) -> list[Event]:
        if event["type"] != "response.receipt":
            return [event]
        sent.append(event["sealed"])
        forged = forged_receipts(event["sealed"], sent[0]) if len(sent) > 1 else []
        return [*({**event, "sealed": one} for one in forged), event]

    edge.on_event = forge
    async with Device(home, policy, Connection(edge.url)) as device:
        for _ in range(2):
            _, final = await talk(device)
            row = await device.wait_settled(final["receipt_id"], 60)
            assert row is not None
            assert (row.status, row.problem) == ("settled", None)
    assert len(sent) == 2


async def test_a_forged_receipt_alone_leaves_the_turn_without_one(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """It is never shown as received, far less as settled, whatever proof comes with it."""
    settled = asyncio.Event()

    def forge(event: Event) -> list[Event]:
        if event["type"] == "response.receipt":
            forged = forged_receipts(event["sealed"], "AAAA")
            return [{**event, "sealed": one} for one in forged]
        if event["type"] == "response.settled":
            settled.set()
        return [event]

    edge.on_event = forge
    async with Device(home, policy, Connection(edge.url)) as device:
        text, final = await talk(device)
        await all_sent_is_read(device, settled)
        row = home.receipt(final["receipt_id"])
    assert the_script(text), "what was answered stands, whatever becomes of its receipt"
    assert row is not None
    assert (row.status, row.receipt, row.proof) == ("waiting", None, None)


async def test_a_genuine_receipt_that_commits_to_other_words_is_refused(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Even who had the thread's key could not pass another turn's receipt off as this one's."""
    keys = home.thread_keys("wren")
    genuine: list[bytes] = []

    def swap(event: Event) -> list[Event]:
        if event["type"] != "response.receipt":
            return [event]
        receipt_id = bytes.fromhex(event["receipt_id"])
        genuine.append(open_receipt(keys, receipt_id, base64.b64decode(event["sealed"])))
        resealed = seal_receipt(keys, receipt_id, genuine[0], os.urandom(12))
        return [{**event, "sealed": base64.b64encode(resealed).decode()}]

    edge.on_event = swap
    rows = []
    async with Device(home, policy, Connection(edge.url)) as device:
        for _ in range(2):
            _, final = await talk(device)
            rows.append(await device.wait_settled(final["receipt_id"], 60))
    assert [row.status for row in rows if row is not None] == ["settled", "refused"]
    assert decode_receipt(genuine[0]).unverified.receipt_id.hex() == rows[0].receipt_id  # type: ignore[union-attr]
    assert "does not commit" in (rows[1].problem or "")  # type: ignore[union-attr]


SETTLEMENTS: dict[str, Callable[[str], str]] = {
    "nothing": lambda _: "",
    "of another entry": lambda proof: proof.replace("\nindex ", "\nindex 1", 1),
    "by another log": lambda proof: proof.replace("localhost/sottovoce-log", "localhost/mine"),
    "with another root": lambda proof: "\n".join(
        [*proof.split("\n")[:-4], base64.b64encode(bytes(32)).decode(), *proof.split("\n")[-3:]]
    ),
    "cut": lambda proof: proof[:-20],
    "with more behind it": lambda proof: proof + "more\n",
}


@pytest.mark.parametrize("honest", [False, True])
async def test_a_forged_settlement_settles_nothing(
    honest: bool, edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """Neither is it kept, nor does it keep the true one from being taken."""
    proofs: list[str] = []
    tried = asyncio.Event()

    def forge(event: Event) -> list[Event]:
        if event["type"] != "response.settled":
            return [event]
        proofs.append(event["proof"])
        forged = [change(event["proof"]) for change in SETTLEMENTS.values()]
        assert event["proof"] not in forged
        tried.set()
        return [*({**event, "proof": one} for one in forged), *([event] if honest else [])]

    edge.on_event = forge
    async with Device(home, policy, Connection(edge.url)) as device:
        _, final = await talk(device)
        if honest:
            await device.wait_settled(final["receipt_id"], 60)
        await all_sent_is_read(device, tried)
        row = home.receipt(final["receipt_id"])
    assert row is not None
    assert len(proofs) == 1
    expected = ("settled", proofs[0]) if honest else ("received", None)
    assert (row.status, row.proof) == expected


async def test_what_was_settled_stays_settled(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """An edge that turns hostile later cannot take back what was verified."""
    async with Device(home, policy, Connection(edge.url)) as device:
        _, final = await talk(device)
        row = await device.wait_settled(final["receipt_id"], 60)
        assert row is not None
        assert row.status == "settled"
        for late in (
            {"type": "response.receipt", "receipt_id": row.receipt_id, "sealed": "AAAA"},
            {"type": "response.settled", "receipt_id": row.receipt_id, "proof": "forged"},
        ):
            await edge.send(late)
        await device.cancel(WREN, "0" * 32)  # as above
    assert home.receipt(row.receipt_id) == row


async def test_a_settlement_without_a_receipt_settles_nothing(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """A proof of something that the device never saw is no news."""
    settled = asyncio.Event()

    def withhold(event: Event) -> list[Event]:
        if event["type"] == "response.settled":
            settled.set()
        return [] if event["type"] == "response.receipt" else [event]

    edge.on_event = withhold
    async with Device(home, policy, Connection(edge.url)) as device:
        _, final = await talk(device)
        await all_sent_is_read(device, settled)
        row = home.receipt(final["receipt_id"])
    assert row is not None
    assert (row.status, row.proof) == ("waiting", None)


async def test_a_receipt_is_asked_for_when_the_padding_has_come(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """An edge that reads the question before a cadence ends would know where the words ended."""
    early: list[Event] = []

    def look(frame: Frame) -> list[Frame]:
        early.extend(one for one in edge.heard if one["type"] == "receipt.subscribe")
        return [frame]

    edge.on_frame = look
    carrier = Connection(edge.url)
    async with Device(home, policy, carrier, shaping=Shaping.CADENCE) as device:
        _, final = await talk(device)
        row = await device.wait_settled(final["receipt_id"], 60)
    assert row is not None
    assert row.status == "settled"
    assert early == []
    # Nor does it tell when a reply that has ended was read.
    assert not any(one["type"] == "stream.reset" for one in edge.heard)


async def test_a_device_with_many_streams_comes_back(
    edge: HostileEdge, home: DeviceHome, policy: Policy
) -> None:
    """A resume names sixteen; who wants more waits for a place, and nobody for ever."""
    carrier = Connection(edge.url)
    async with Device(home, policy, carrier) as device:
        (enclave,) = await device.enclaves()
        edge.on_event = lambda event: [] if event["type"] == "stream.failed" else [event]
        opening = [asyncio.create_task(carrier.open_stream(enclave.gateway)) for _ in range(20)]
        async with asyncio.timeout(60):
            while len(edge.asked) < 16:  # noqa: ASYNC110 - the rest waits for a place
                await asyncio.sleep(0.02)
        edge.on_event = lambda event: [event]
        await edge.restart()
        await edge.wait_for_another_socket()
        async with asyncio.timeout(60):
            for stream in await asyncio.gather(*opening):
                await stream.aclose()
            text, _ = await talk(device)
    assert the_script(text)
    assert len(edge.asked) > 20


async def test_an_edge_learns_no_program_and_sends_a_device_nowhere(
    edge: HostileEdge, home: DeviceHome, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No field names what runs on the device; no redirect is followed, no proxy taken."""
    knocked: list[bytes] = []

    async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocked.append(await reader.readline())
        writer.close()

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: " + edge.url.encode() + b"\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(door, "127.0.0.1", 0) as proxy,
        await asyncio.start_server(redirect, "127.0.0.1", 0) as other,
    ):
        for name in ("http_proxy", "https_proxy", "ws_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        async with Device(home, policy, Connection(edge.url)) as device:
            await device.enclaves()
        url = f"ws://127.0.0.1:{other.sockets[0].getsockname()[1]}/v1/realtime"
        with pytest.raises(SottoError) as caught:
            async with Device(home, policy, Connection(url)):
                pass
    assert caught.value.code == "edge_away"
    assert knocked == []
    assert edge.sockets == 1
    assert edge.fields.isdisjoint({"user-agent", "cookie", "origin", "authorization"})
