"""The bench of the relay: what it adds to a chunk, and what a chunk and a stream cost it.

A relay and a gateway run as processes of their own; this one plays the clients. The gateway answers
each chunk with a chunk that says when it was sent, by the clock that all processes of a machine
share. "Direct" is the same client at the same gateway with nothing in between, by turns with the
relay.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import aiohttp
import tomli_w
import uvloop
from aiohttp import web

from loadtest.reports import nearest_rank
from loadtest.rounds import Comparison, Effort, progress
from runtime.errors import SottoError
from transport import media
from transport.errors import StreamResetError
from transport.relay.link import Link, Stream, server_websocket

_HOST: Final = "127.0.0.1"
_GATEWAY: Final = "echo"
_CHUNK_BYTES: Final = 400
_STAMP: Final = struct.Struct("!d")
# 50 chunks/s to each reader, as an engine answers.
_PACE_S: Final = 0.02
_LINK_STREAMS: Final = 1000
_TARGET_CPU_MS: Final = 2.0
_TARGET_STREAM_KIB: Final = 64.0
_START_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement.

    Attributes:
        waits: Of each chunk of a response, from its sending to its arrival, seconds.
        cpu_s: The relay's CPU time meanwhile; 0 where it had no part.
    """

    waits: tuple[float, ...]
    cpu_s: float = 0.0

    def percentile_ms(self, percent: int) -> float:
        """Nearest rank, in milliseconds."""
        return nearest_rank(sorted(self.waits), percent) * 1e3

    @property
    def cpu_ms_per_1000(self) -> float:
        """The relay's CPU milliseconds per 1000 chunks; an echo passes it twice."""
        return self.cpu_s / (2 * len(self.waits)) * 1e6


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients do.

    Attributes:
        streams: Open at once.
        chunks: Of each stream.
        in_step: All streams send in the same moment, as an engine's step makes their tokens; else
            each at its own time.
        stalled: This many further streams send without end and read nothing.
        pace_s: Between two chunks of a stream.
    """

    streams: int
    chunks: int
    in_step: bool = True
    stalled: int = 0
    pace_s: float = _PACE_S


class _Echo(Protocol):
    """One stream to the echo, over a link or plain HTTP."""

    async def send(self, data: bytes, *, end: bool = False) -> None: ...

    async def receive(self) -> bytes | None: ...


Opener = Callable[[], Awaitable[_Echo]]


@dataclass(frozen=True, slots=True)
class Servers:
    """The relay and the gateway, as the clients know them."""

    relay: str
    relay_pid: int
    gateway: str


async def relay(effort: Effort) -> AsyncIterator[Comparison]:
    """Latency, CPU time, memory and isolation of the relay."""
    async with _servers() as servers, aiohttp.ClientSession() as http:
        load = Load(effort.streams[-1], chunks=2 * effort.tokens)
        at = f"at {load.streams}"
        async with _links(http, servers) as (through, direct):
            for way, one in (("in step", load), ("one by one", replace(load, in_step=False))):
                pairs = [
                    (await _measure(through, one, servers), await _measure(direct, one, None))
                    async for _ in _rounds(f"the relay: {load.streams} streams, {way}", effort)
                ][1:]
                for percent in (50, 99):
                    yield _latency(f"chunk p{percent}, {way}, {at}", "direct", pairs, percent)
                yield _cpu(f"CPU, {way}, {at}", [ours for ours, _ in pairs])
            full = replace(load, chunks=5 * load.chunks, pace_s=0.0)
            found = [
                await _measure(through, full, servers)
                async for _ in _rounds(f"the relay: {load.streams} streams, at full speed", effort)
            ][1:]
            yield _cpu(f"CPU, at full speed, {at}", found)
            # One stream more that nobody reads, and none.
            jammed = replace(load, streams=load.streams - 1, stalled=1)
            free = replace(jammed, stalled=0)
            pairs = [
                (await _measure(through, jammed, servers), await _measure(through, free, servers))
                async for _ in _rounds("the relay: one stream stalls", effort)
            ][1:]
            for percent in (50, 99):
                yield _latency(f"chunk p{percent}, one stalls, {at}", "none stalls", pairs, percent)
        pairs = [
            (
                await _measure(_plain(http, f"{servers.relay}/gateway/{_GATEWAY}"), load, servers),
                await _measure(_plain(http, f"{servers.gateway}/ohttp"), load, None),
            )
            async for _ in _rounds("the relay: plain HTTP", effort)
        ][1:]
        for percent in (50, 99):
            yield _latency(f"chunk p{percent}, plain HTTP, {at}", "direct", pairs, percent)
        yield _cpu(f"CPU, plain HTTP, {at}", [ours for ours, _ in pairs])
    if sys.platform == "linux":
        yield await _memory(effort)


def _latency(
    name: str, against: str, pairs: list[tuple[Measured, Measured]], percent: int
) -> Comparison:
    rounds = tuple((a.percentile_ms(percent), b.percentile_ms(percent)) for a, b in pairs)
    return Comparison(name, against, "ms", rounds)


def _cpu(name: str, measured: Iterable[Measured]) -> Comparison:
    rounds = tuple((one.cpu_ms_per_1000, _TARGET_CPU_MS) for one in measured)
    return Comparison(name, "target", "ms/1000 chunks", rounds)


async def _rounds(name: str, effort: Effort) -> AsyncIterator[int]:
    for number in range(effort.rounds + 1):  # round 0 warms up
        progress(f"{name}, round {number}")
        yield number


async def _measure(opener: Opener, load: Load, servers: Servers | None) -> Measured:
    """Open the streams, let each send and hear its chunks, and end them."""
    echoes = [await opener() for _ in range(load.streams)]
    stalled = [asyncio.create_task(_send_without_end(await opener())) for _ in range(load.stalled)]
    if stalled:
        await asyncio.sleep(0.5)  # until its windows are full
    waits: list[float] = []
    before = _cpu_seconds(servers)
    hearing = [asyncio.create_task(_hear(echo, load.chunks, waits)) for echo in echoes]
    await (_send_in_step(echoes, load) if load.in_step else _send_one_by_one(echoes, load))
    await asyncio.gather(*hearing)
    cpu_s = _cpu_seconds(servers) - before
    for task in stalled:
        task.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)
    for echo in echoes:
        await echo.send(b"", end=True)
        while await echo.receive() is not None:
            pass
    return Measured(tuple(waits), cpu_s)


def _chunk() -> bytes:
    return _STAMP.pack(time.perf_counter()).ljust(_CHUNK_BYTES, b"\0")


async def _send_in_step(echoes: list[_Echo], load: Load) -> None:
    began = time.perf_counter()
    for number in range(load.chunks):
        await asyncio.sleep(began + number * load.pace_s - time.perf_counter())
        for echo in echoes:
            await echo.send(_chunk())


async def _send_one_by_one(echoes: list[_Echo], load: Load) -> None:
    async def send(echo: _Echo, offset_s: float) -> None:
        began = time.perf_counter() + offset_s
        for number in range(load.chunks):
            await asyncio.sleep(began + number * load.pace_s - time.perf_counter())
            await echo.send(_chunk())

    phases = random.Random(0)
    await asyncio.gather(*(send(echo, phases.random() * load.pace_s) for echo in echoes))


async def _hear(echo: _Echo, chunks: int, waits: list[float]) -> None:
    buffer = bytearray()
    for _ in range(chunks):
        while len(buffer) < _CHUNK_BYTES:
            data = await echo.receive()
            if data is None:
                raise SottoError("a stream ended early; nothing compares")
            buffer += data
        waits.append(time.perf_counter() - _STAMP.unpack_from(buffer)[0])
        del buffer[:_CHUNK_BYTES]


async def _send_without_end(echo: _Echo) -> None:
    try:
        while True:
            await echo.send(bytes(_CHUNK_BYTES))
    finally:
        if isinstance(echo, Stream):
            echo.reset()


# Memory


async def _memory(effort: Effort) -> Comparison:
    """Resident KiB for each stream that is open and idle: from many streams less few."""
    many = 4 * _LINK_STREAMS if effort.streams[-1] >= 64 else _LINK_STREAMS // 5
    few = many // 4
    rounds = []
    for number in range(3 if effort.streams[-1] >= 64 else 1):
        progress(f"the relay: memory of {many} open streams, round {number}")
        # A relay of its own each time: memory that was given back once is not taken anew.
        async with (
            _servers() as servers,
            aiohttp.ClientSession() as http,
            AsyncExitStack() as stack,
        ):
            resident = []
            opened: list[_Echo] = []
            for count in (few, many):
                link = await stack.enter_async_context(_link(http, servers.relay))
                for _ in range(count - len(opened)):
                    if len(opened) % _LINK_STREAMS == _LINK_STREAMS - 1:
                        link = await stack.enter_async_context(_link(http, servers.relay))
                    echo = await _over(link, _GATEWAY)()
                    await echo.send(_chunk())
                    await echo.receive()
                    opened.append(echo)
                resident.append(_resident_kib(servers.relay_pid))
            rounds.append(((resident[1] - resident[0]) / (many - few), _TARGET_STREAM_KIB))
    return Comparison(f"memory of a stream, {few} – {many}", "target", "KiB", tuple(rounds))


def _resident_kib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(float(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS:"))


def _cpu_seconds(servers: Servers | None) -> float:
    """CPU time of the relay so far; on Linux alone, as in `loadtest.bench_path`."""
    if servers is None or sys.platform != "linux":
        return 0.0
    return time.clock_gettime(~servers.relay_pid << 3 | 2)


# Clients


@asynccontextmanager
async def _link(http: aiohttp.ClientSession, base_url: str) -> AsyncIterator[Link]:
    link = await Link.connect(http, f"{base_url}/mux")
    try:
        yield link
    finally:
        await link.close()


@asynccontextmanager
async def _links(
    http: aiohttp.ClientSession, servers: Servers
) -> AsyncIterator[tuple[Opener, Opener]]:
    """Openers through the relay and of the gateway itself, each over one link."""
    async with _link(http, servers.relay) as through, _link(http, servers.gateway) as direct:
        yield _over(through, _GATEWAY), _over(direct, "ohttp")


def _over(link: Link, target: str) -> Opener:
    async def open_stream() -> _Echo:
        stream = link.open(target, media.OHTTP_CHUNKED_REQUEST)
        status, _ = await stream.head()
        if status != 200:
            raise SottoError(f"a stream was refused with {status}; nothing compares")
        return stream

    return open_stream


class _HttpEcho:
    """A streaming POST."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._posting = asyncio.create_task(self._post(http, url))

    async def _post(self, http: aiohttp.ClientSession, url: str) -> aiohttp.ClientResponse:
        headers = {"Content-Type": media.OHTTP_CHUNKED_REQUEST}
        return await http.post(url, data=self._body(), headers=headers)

    async def _body(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            yield part

    async def send(self, data: bytes, *, end: bool = False) -> None:
        if data:
            self._parts.put_nowait(data)
        if end:
            self._parts.put_nowait(None)

    async def receive(self) -> bytes | None:
        response = await asyncio.shield(self._posting)
        if response.status != 200:
            raise SottoError(f"a stream was refused with {response.status}; nothing compares")
        return await response.content.readany() or None


def _plain(http: aiohttp.ClientSession, url: str) -> Opener:
    async def open_stream() -> _Echo:
        return _HttpEcho(http, url)

    return open_stream


# Processes


@asynccontextmanager
async def _servers() -> AsyncIterator[Servers]:
    """An echo gateway and a relay before it, as the command runs it."""
    with tempfile.TemporaryDirectory(prefix="sotto-bench-") as folder:
        async with child("-m", "loadtest.bench_relay") as (_, echo):
            gateway = f"http://{_HOST}:{echo['port']}"
            config = Path(folder, "relay.toml")
            settings = {
                "port": 0,
                "metrics_port": 0,
                "max_streams": 8192,
                "max_client_streams": 8192,
                "gateways": {_GATEWAY: gateway},
            }
            config.write_text(tomli_w.dumps(settings), encoding="utf-8")
            command = ("-m", "runtime", "relay", "--config", str(config), "--lifeline", "--json")
            async with child(*command) as (pid, told):
                yield Servers(str(told["relay"]), pid, gateway)


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[tuple[int, dict[str, object]]]:
    """A Python process that prints one line of JSON once it listens; stops with its input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None:
        raise AssertionError("pipes were asked for")
    try:
        async with asyncio.timeout(_START_S):
            line = await process.stdout.readline()
        if not line:
            raise SottoError("a server of the bench did not start; what it said is above")
        yield process.pid, json.loads(line)
    finally:
        process.stdin.close()
        await process.wait()


class _Answers:
    """A chunk for each chunk that came."""

    def __init__(self) -> None:
        self._came = 0

    def to(self, data: bytes) -> bytes:
        self._came += len(data)
        chunks, self._came = divmod(self._came, _CHUNK_BYTES)
        return b"".join(_chunk() for _ in range(chunks))


async def _echo_stream(stream: Stream) -> None:
    await stream.send_head(200, media.OHTTP_CHUNKED_RESPONSE)
    answers = _Answers()
    try:
        while (data := await stream.receive()) is not None:
            await stream.send(answers.to(data))
        await stream.send(b"", end=True)
    except StreamResetError:
        pass


async def _echo_mux(request: web.Request) -> web.StreamResponse:
    ws = server_websocket()
    await ws.prepare(request)
    await Link.serve(ws, _echo_stream, max_streams=8192)
    return ws


async def _echo_http(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": media.OHTTP_CHUNKED_RESPONSE})
    await response.prepare(request)
    answers = _Answers()
    while data := await request.content.readany():
        if answer := answers.to(data):
            await response.write(answer)
    return response


async def _echo_gateway() -> None:
    app = web.Application()
    app.router.add_post("/ohttp", _echo_http)
    app.router.add_get("/mux", _echo_mux)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, _HOST, 0).start()
    sys.stdout.write(json.dumps({"port": runner.addresses[0][1]}) + "\n")
    sys.stdout.flush()
    # The bench closes this process's input when it ends, however it ends.
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(_echo_gateway())
