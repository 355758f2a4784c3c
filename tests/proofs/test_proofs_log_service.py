"""The log service against a real Valkey: proofs come back, nothing is lost, nothing twice."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from log_support import LOG
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from witness_support import running as witness

from proofs.checkpoint import open_checkpoint
from proofs.cosereceipt import verify_cose_receipt
from proofs.cosignature import Cosigner, verify_cosignatures
from proofs.errors import LogError
from proofs.log.keyfile import load_or_create_signer
from proofs.log.service import LogConfig, serve
from proofs.log.witnesses import WitnessAddress
from proofs.merkle import leaf_hash
from proofs.note import parse_note, parse_vkey
from proofs.tiles import decode_entries
from proofs.tlogproof import parse_tlog_proof
from tests.e2e.system import free_port

pytestmark = pytest.mark.integration
LEAVES, SETTLED = "sotto:leaves", "sotto:settled"


def config(folder: Path, url: str) -> LogConfig:
    return LogConfig(
        host="127.0.0.1",
        port=0,
        directory=folder / "log",
        redis_url=url,
        origin=LOG.name,
        key_file=folder / "key.pem",
        batch_interval_s=0.02,
        registry=CollectorRegistry(),
    )


@asynccontextmanager
async def running(settings: LogConfig) -> AsyncIterator[str]:
    """The service as a task; yields the prefix of its files."""
    stop = asyncio.Event()
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(settings, stop, started=lambda port, _: listening.set_result(port))
    )
    await asyncio.wait([task, listening], return_when=asyncio.FIRST_COMPLETED)
    try:
        assert not task.done(), task.exception()
        url = f"http://127.0.0.1:{listening.result()}"
        assert (await fetch(f"{url}/healthz"))[0] == 200
        yield url
    finally:
        stop.set()
        await task


async def proof_of(client: Redis, name: str) -> str:
    """Wait for a receipt's proof, as an enclave or an edge does."""
    async with asyncio.timeout(60):
        while True:
            try:
                proof = await client.hget(f"sotto:receipt:{name}", "proof")
            except RedisConnectionError:
                proof = None
            if proof is not None:
                return bytes(proof).decode()
            await asyncio.sleep(0.02)


async def add(client: Redis, number: int) -> bytes:
    entry = number.to_bytes(32, "big")
    await client.xadd(LEAVES, {"id": f"id-{number}", "entry": entry})
    return entry


async def fetch(url: str) -> tuple[int, str, str, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        headers = answer.headers
        return (
            answer.status,
            headers.get("Content-Type", ""),
            headers.get("Cache-Control", ""),
            await answer.read(),
        )


async def test_whoever_sees_the_proof_sees_the_cose_receipt(
    tmp_path: Path, valkey: str, redis_client: Redis
) -> None:
    """An edge that reads in between hands on what is there, and is not asked again."""
    async with redis_client.monitor() as monitor:
        await add(redis_client, 1)
        written = []
        async with running(config(tmp_path, valkey)), asyncio.timeout(60):
            while len(written) < 2:
                words = (await monitor.next_command())["command"].split()
                if words[0].upper() == "HSETNX":
                    written.append(words[2])
    assert written == ["cose", "proof"]


async def test_leaves_become_proofs(tmp_path: Path, valkey: str, redis_client: Redis) -> None:
    """A leaf in the stream is answered by a proof that the served log bears out."""
    settings = config(tmp_path, valkey)
    entries = [await add(redis_client, n) for n in range(40)]
    async with running(settings) as url:
        key = parse_vkey((settings.directory / "vkey").read_text().strip())
        for number, entry in enumerate(entries):
            proof = parse_tlog_proof(await proof_of(redis_client, f"id-{number}"))
            head = proof.verify(entry, [key])
            assert head.origin == LOG.name
            cose = await redis_client.hget(f"sotto:receipt:id-{number}", "cose")
            assert cose is not None
            assert verify_cose_receipt(bytes(cose), entry, [key]) == head
        status, kind, caching, body = await fetch(f"{url}/checkpoint")
        assert (status, kind, caching) == (
            200,
            "text/plain; charset=utf-8",
            "public, max-age=1",
        )
        assert open_checkpoint(body.decode(), [key]).size == 40
        status, kind, caching, body = await fetch(f"{url}/tile/0/000.p/40")
        assert (status, kind) == (200, "application/octet-stream")
        assert "immutable" in caching
        assert body == b"".join(leaf_hash(e) for e in entries)
        _, _, _, body = await fetch(f"{url}/tile/entries/000.p/40")
        assert decode_entries(body, 40) == entries
        assert 0 < await redis_client.ttl("sotto:receipt:id-0") <= 30 * 86400
    settled = [fields[b"id"] for _, fields in _pairs(await redis_client.xrange(SETTLED))]
    assert settled == [f"id-{n}".encode() for n in range(40)]
    assert await redis_client.xlen(LEAVES) == 0
    assert settings.registry.get_sample_value("sotto_log_entries_total") == 40
    assert settings.registry.get_sample_value("sotto_log_size") == 40
    assert settings.registry.get_sample_value("sotto_log_pending") == 0


def _pairs(answer: object) -> list[tuple[bytes, dict[bytes, bytes]]]:
    assert isinstance(answer, list)
    return [(name, fields) for name, fields in answer]


@pytest.mark.parametrize(
    "path",
    [
        "/tile/0/000.p/4",
        "/tile/0/000",
        "/tile/1/000.p/1",
        "/tile/0/0%300.p/3",
        "/tile/0/../../../key.pem",
        "/tile/%2e%2e/%2e%2e/key.pem",
        "/vkey/../lock",
        "/index.sqlite",
    ],
)
async def test_only_tiles_of_the_tree_are_served(
    tmp_path: Path, valkey: str, redis_client: Redis, path: str
) -> None:
    """What the checkpoint does not cover, and whatever else lies in the folder, is not there."""
    for number in range(3):
        await add(redis_client, number)
    async with running(config(tmp_path, valkey)) as url:
        await proof_of(redis_client, "id-2")
        assert (await fetch(f"{url}/tile/0/000.p/3"))[0] == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        # Raw, because clients tidy paths up before they send them.
        writer.write(f"GET {path} HTTP/1.1\r\nHost: log\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 404")


async def test_malformed_leaves_are_skipped(
    tmp_path: Path, valkey: str, redis_client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever else is in the stream is counted, named by its place only, and forgotten."""
    for fields in (
        {"id": "short", "entry": b"secret"},
        {"entry": bytes(32)},
        {"id": "none"},
        {"id": "x" * 129, "entry": bytes(32)},
        {"id": b"\xff", "entry": bytes(32)},
        {"other": "secret"},
    ):
        await redis_client.xadd(LEAVES, fields)
    await add(redis_client, 1)
    settings = config(tmp_path, valkey)
    async with running(settings):
        await proof_of(redis_client, "id-1")
    assert settings.registry.get_sample_value("sotto_log_malformed_total") == 6
    assert settings.registry.get_sample_value("sotto_log_size") == 1
    assert await redis_client.xlen(LEAVES) == 0
    assert "secret" not in caplog.text


async def test_a_proof_that_has_no_place_holds_up_nobody(
    tmp_path: Path, valkey: str, redis_client: Redis
) -> None:
    """Where something else lies under a receipt's name, the others get their proofs."""
    await redis_client.sadd("sotto:receipt:id-0", "in the way")
    await add(redis_client, 0)
    await add(redis_client, 1)
    settings = config(tmp_path, valkey)
    async with running(settings):
        assert parse_tlog_proof(await proof_of(redis_client, "id-1")).index == 1
        await add(redis_client, 2)
        assert parse_tlog_proof(await proof_of(redis_client, "id-2")).index == 2
    assert await redis_client.xlen(LEAVES) == 0
    assert await redis_client.smembers("sotto:receipt:id-0") == {b"in the way"}


async def test_what_another_run_left_pending_is_finished(
    tmp_path: Path, valkey: str, redis_client: Redis
) -> None:
    """Leaves that were taken and not acknowledged get their proof after a restart, once."""
    settings = config(tmp_path, valkey)
    async with running(settings):
        await add(redis_client, 0)
        first = await proof_of(redis_client, "id-0")
    # Taken by a run that died: one leaf that it had logged, one that it had not.
    await add(redis_client, 0)
    await add(redis_client, 1)
    await redis_client.xreadgroup("log", "an older run", {LEAVES: ">"})
    async with running(config(tmp_path, valkey)):
        proof = parse_tlog_proof(await proof_of(redis_client, "id-1"))
        assert proof.index == 1
    again = parse_tlog_proof(await proof_of(redis_client, "id-0"))
    assert again.index == parse_tlog_proof(first).index == 0
    assert await redis_client.xlen(LEAVES) == 0
    assert (await redis_client.xpending(LEAVES, "log"))["pending"] == 0


async def test_redis_may_go_away(
    tmp_path: Path, valkey_process: object, own_redis_client: Redis
) -> None:
    """A server that dies and comes back finds the log waiting, its files served meanwhile."""
    settings = config(tmp_path, valkey_process.url)  # type: ignore[attr-defined]
    async with running(settings) as url:
        await add(own_redis_client, 0)
        await proof_of(own_redis_client, "id-0")
        await asyncio.to_thread(valkey_process.kill)  # type: ignore[attr-defined]
        assert (await fetch(f"{url}/checkpoint"))[0] == 200
        await asyncio.to_thread(valkey_process.start)  # type: ignore[attr-defined]
        await add(own_redis_client, 1)
        assert parse_tlog_proof(await proof_of(own_redis_client, "id-1")).index == 1


async def test_leaves_wait_for_the_quorum(tmp_path: Path, valkey: str, redis_client: Redis) -> None:
    """Nothing is served or proven below it; with the quorum back, a start goes on from there."""
    settings = config(tmp_path, valkey)
    key = load_or_create_signer(settings.key_file, settings.origin).verifier
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            witness(tmp_path / "w1", "witness.example/1", (key,))
        )
        second = await stack.enter_async_context(
            witness(tmp_path / "w2", "witness.example/2", (key,), free_port())
        )
        keys = (first.keys[0], second.keys[0])
        asked = tuple(WitnessAddress(k, w.url) for k, w in zip(keys, (first, second), strict=True))
        settings = replace(settings, witnesses=asked, quorum=2)
        async with running(settings) as url:
            entry = await add(redis_client, 0)
            proof = parse_tlog_proof(await proof_of(redis_client, "id-0"))
            assert proof.verify(entry, [key]).size == 1
            assert {one.key for one in verify_cosignatures(proof.checkpoint, keys)} == set(keys)
            served = (await fetch(f"{url}/checkpoint"))[3].decode()
            assert parse_note(served) == proof.checkpoint
    # The second one is away from here on.
    async with (
        witness(tmp_path / "w1", "witness.example/1", (key,)) as first,
        running(
            replace(
                settings,
                registry=CollectorRegistry(),
                witnesses=(WitnessAddress(keys[0], first.url), asked[1]),
            )
        ) as url,
    ):
        await add(redis_client, 1)
        async with asyncio.timeout(60):
            head = settings.directory / "head"
            while not head.read_text().startswith(f"{LOG.name}\n2\n"):  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        assert await redis_client.hget("sotto:receipt:id-1", "proof") is None
        assert (await fetch(f"{url}/checkpoint"))[3].decode() == served
        assert (await fetch(f"{url}/tile/0/000.p/1"))[0] == 200
        assert (await fetch(f"{url}/tile/0/000.p/2"))[0] == 404
    async with (
        witness(tmp_path / "w1", "witness.example/1", (key,)) as first,
        witness(tmp_path / "w2", "witness.example/2", (key,)) as second,
        running(
            replace(
                settings,
                registry=CollectorRegistry(),
                witnesses=tuple(
                    WitnessAddress(k, w.url) for k, w in zip(keys, (first, second), strict=True)
                ),
            )
        ),
    ):
        proof = parse_tlog_proof(await proof_of(redis_client, "id-1"))
        assert {one.key for one in verify_cosignatures(proof.checkpoint, keys)} == set(keys)
    assert await redis_client.xlen(LEAVES) == 0


async def test_a_quorum_that_cannot_be_is_explained(tmp_path: Path, valkey: str) -> None:
    """More cosignatures than witnesses would be waited for without end."""
    cosigner = Cosigner("witness.example/1", LOG.key).verifier
    asked = (WitnessAddress(cosigner, "http://127.0.0.1:1"),)
    with pytest.raises(LogError, match="quorum"):
        await serve(replace(config(tmp_path, valkey), witnesses=asked, quorum=2), asyncio.Event())


async def test_small_batches_take_turns(tmp_path: Path, valkey: str, redis_client: Redis) -> None:
    """More leaves than a batch takes are settled batch by batch, in their order."""
    settings = replace(config(tmp_path, valkey), batch_size=7)
    for number in range(40):
        await add(redis_client, number)
    async with running(settings):
        await proof_of(redis_client, "id-39")
        places = [
            parse_tlog_proof(await proof_of(redis_client, f"id-{n}")).index for n in range(40)
        ]
    assert places == list(range(40))
    history = (settings.directory / "history").read_bytes()
    sizes = [int.from_bytes(history[at + 8 : at + 16], "big") for at in range(0, len(history), 16)]
    assert sizes == [7, 14, 21, 28, 35, 40]


async def test_a_taken_port_is_explained(tmp_path: Path, valkey: str) -> None:
    """An operator reads which address, and the address of Redis is nowhere shown."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = replace(config(tmp_path, valkey), port=taken.getsockname()[1])
        assert valkey not in repr(settings)
        with pytest.raises(LogError, match=str(settings.port)):
            await serve(settings, asyncio.Event())
