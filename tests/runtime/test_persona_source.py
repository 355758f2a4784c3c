"""What an enclave can speak as: published personas in a real Valkey, verified before use."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis

from personas.authorship import PIECE_BYTES, SignedStep, sign_piece
from personas.digest import canonical, persona_digest
from personas.library import load_library
from personas.model import Persona
from personas.registry import Registry
from personas.sealing import seal_definition
from runtime.enclave.api import CREATOR_HEADER, ApiError
from runtime.enclave.persona_log import StepLog
from runtime.enclave.persona_routes import PIECES_PATH, STEPS_PATH, PersonaRoutes
from runtime.enclave.persona_source import PersonaSource
from runtime.enclave.publishing_limits import MAX_KEYS, Allowances, Hourly
from runtime.enclave.routes import Call
from tests.personas.chains import Author, key_of, persona_of
from transport.bhttp import Fields, Request

HANDLE = "night-owl"
KEY = bytes(32)
FIRST, SECOND = persona_of(), persona_of(version="1.1.0")


@pytest.fixture
def registry(redis_client: Redis) -> Registry:
    """An empty one."""
    return Registry(redis_client)


@pytest.fixture
def source(registry: Registry) -> PersonaSource:
    """An enclave's that has just started."""
    return PersonaSource(load_library(), registry)


async def _put(
    registry: Registry, author: Author, persona: Persona, *, private: bool = False
) -> None:
    signed = author.publish(persona, private=private)
    data, digest = canonical(persona), persona_digest(persona)
    if private:
        data = seal_definition(KEY, persona.handle, digest, data, nonce=bytes(12))
    parts = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    pieces = [await registry.put_piece(persona.handle, part) for part in parts]
    await registry.append(signed, {digest: pieces})


def _refused(code: str) -> pytest.RaisesExc[ApiError]:
    return pytest.raises(ApiError, check=lambda error: error.code == code)


async def test_the_newest_version_unless_another_is_named(
    registry: Registry, source: PersonaSource
) -> None:
    """Without a digest the newest version is found, with one that very version."""
    author = Author()
    await _put(registry, author, FIRST)
    assert (await source.find(HANDLE)).persona == FIRST
    await _put(registry, author, SECOND)
    assert (await source.find(HANDLE)).persona == SECOND
    old = await source.find(HANDLE, persona_digest(FIRST).hex())
    assert (old.persona, old.digest) == (FIRST, persona_digest(FIRST))


async def test_listings_follow_what_is_published(registry: Registry, source: PersonaSource) -> None:
    """Bundled ones are always there; a withdrawn one is not, and comes back with a new version."""
    bundled = [one.handle for one in load_library()]
    assert [one.handle for one in source.listings()] == bundled
    author = Author()
    await _put(registry, author, FIRST)
    while await source.refresh():
        pass
    assert source.listings()[-1].digest == persona_digest(FIRST)
    before = source.changed
    await registry.append(author.withdraw(), {})
    await source.refresh()
    assert [one.handle for one in source.listings()] == bundled
    assert source.changed > before
    await _put(registry, author, SECOND)
    await source.refresh()
    assert source.listings()[-1].version == "1.1.0"


async def test_usable_personas_come_in_pages(registry: Registry, source: PersonaSource) -> None:
    """Bundled ones, then the newest; private ones while they are granted, withdrawn ones never."""
    bundled = list(load_library().handles)
    authors = {
        handle: Author(now=at)
        for handle, at in (("old", 1), ("secret", 3), ("gone", 5), ("new", 4), ("mid", 2))
    }
    for handle, author in authors.items():
        persona = persona_of(handle=handle)
        await _put(registry, author, persona, private=handle == "secret")
    await registry.append(authors["gone"].withdraw(), {})
    await source.refresh()

    def pages(limit: int) -> list[str]:
        handles: list[str] = []
        while True:
            page, more = source.usable(handles[-1] if handles else None, limit)
            handles += [one.handle for one in page]
            if not more:
                return handles
            assert len(page) == limit

    for limit in (1, 3, len(bundled), 100):
        assert pages(limit) == [*bundled, "new", "mid", "old"]
    secret = persona_digest(persona_of(handle="secret"))
    await source.grant("secret", secret, KEY, time.time() + 60)
    assert pages(2) == [*bundled, "new", "secret", "mid", "old"]
    await source.grant("secret", secret, KEY, time.time() - 1)
    assert pages(2) == [*bundled, "new", "mid", "old"]
    authors["old"].now = 9
    await _put(registry, authors["old"], persona_of(handle="old", version="2.0.0"))
    await source.refresh()
    assert pages(100) == [*bundled, "old", "new", "mid"]
    for handle in ("gone", "nobody"):
        with _refused("invalid_request"):
            source.usable(handle, 10)


async def test_a_chain_that_became_shorter_is_not_believed(
    registry: Registry, source: PersonaSource, redis_client: Redis
) -> None:
    """An enclave that saw a withdrawal does not let a store take it back."""
    author = Author()
    await _put(registry, author, FIRST)
    await registry.append(author.withdraw(), {})
    with _refused("persona_withdrawn"):
        await source.find(HANDLE)
    await redis_client.rpop(f"sotto:persona:{{{HANDLE}}}:steps")
    with _refused("personas_damaged"):
        await source.find(HANDLE)


async def test_a_grant_ends_with_the_keys(registry: Registry, source: PersonaSource) -> None:
    """A private definition is there as long as it was granted for."""
    await _put(registry, Author(), FIRST, private=True)
    digest = persona_digest(FIRST)
    with _refused("persona_not_granted"):
        await source.find(HANDLE)
    await source.grant(HANDLE, digest, KEY, time.time() + 60)
    assert (await source.find(HANDLE)).persona == FIRST
    await source.grant(HANDLE, digest, KEY, time.time() - 1)
    with _refused("persona_not_granted"):
        await source.find(HANDLE)
    with _refused("persona_sealed"):
        await source.grant(HANDLE, digest, b"\x01" * 32, time.time() + 60)


async def test_another_enclave_has_no_grant(registry: Registry, source: PersonaSource) -> None:
    """A grant is of one process: nothing of it is in the store."""
    await _put(registry, Author(), FIRST, private=True)
    await source.grant(HANDLE, persona_digest(FIRST), KEY, time.time() + 60)
    with _refused("persona_not_granted"):
        await PersonaSource(load_library(), registry).find(HANDLE)


async def test_a_store_that_is_away_is_told(tmp_path: object) -> None:
    """The bundled library answers all the same."""
    away = Registry(Redis.from_url(f"unix://{tmp_path}/nobody.sock"))
    source = PersonaSource(load_library(), away)
    assert (await source.find("wren")).persona.handle == "wren"
    with _refused("personas_unavailable"):
        await source.find(HANDLE)
    with _refused("persona_unknown"):
        await PersonaSource(load_library()).find(HANDLE)


def _call(content: bytes = b"", headers: Fields = ()) -> Call:
    request = Request(b"POST", b"https", b"enclave", b"/", headers, content)
    return Call(request, cast("Any", None), cast("Any", None), lambda label, length: b"")


async def test_an_operator_can_close_the_door(source: PersonaSource, redis_client: Redis) -> None:
    """Where publishing is closed nothing is taken."""
    registry = Registry(redis_client)
    table = PersonaRoutes(source, registry, StepLog(redis_client, registry), publish=False).table()
    for path in (STEPS_PATH, PIECES_PATH + b"/{id}"):
        with _refused("publishing_closed"):
            await table[path][b"POST"](_call(b"{}"), HANDLE)
    assert await redis_client.keys("*") == []


async def test_what_is_taken_in_an_hour_is_bounded(
    source: PersonaSource, redis_client: Redis
) -> None:
    """Whoever sends more is told to come later, and nothing more is kept."""
    registry = Registry(redis_client)
    table = PersonaRoutes(
        source,
        registry,
        StepLog(redis_client, registry),
        bytes_per_hour=Hourly(total=100, newcomers=100, key=100),
    ).table()
    put = table[PIECES_PATH + b"/{id}"][b"POST"]
    await put(_call(b"x" * 90), HANDLE)
    with _refused("too_much_published"):
        await put(_call(b"y" * 90), HANDLE)
    assert len(await redis_client.keys("*")) == 1


async def test_a_creator_uses_up_their_own_share_alone(
    source: PersonaSource, registry: Registry, redis_client: Redis
) -> None:
    """One key takes what one key may; many new keys what newcomers may; and who owns the handle
    already publishes on. A signature by somebody else counts as nobody's."""
    author = Author()
    await _put(registry, author, FIRST)
    table = PersonaRoutes(
        source,
        registry,
        StepLog(redis_client, registry),
        bytes_per_hour=Hourly(total=1_000, newcomers=300, key=200),
    ).table()
    put = table[PIECES_PATH + b"/{id}"][b"POST"]

    async def send(key: Ed25519PrivateKey, size: int, handle: str = "day-owl") -> None:
        data = bytes(size)
        text = sign_piece(key, handle, hashlib.sha256(data).digest())
        await put(_call(data, ((CREATOR_HEADER, text.encode()),)), handle)

    greedy, other = key_of(7), key_of(8)
    await send(greedy, 150)
    with _refused("too_much_published"):
        await send(greedy, 100)
    await send(other, 140)
    with _refused("too_much_published"):
        await send(key_of(9), 20)
    with _refused("too_much_published"):
        await put(_call(bytes(20)), "day-owl")
    await send(author.key, 190, HANDLE)
    with _refused("too_much_published"):
        await send(author.key, 20, HANDLE)

    text = sign_piece(author.key, HANDLE, hashlib.sha256(b"x").digest())
    for forged in (text[:-2] + ("00" if text[-2:] != "00" else "11"), "", "zz", text + "00"):
        with _refused("piece_refused"):
            await put(_call(b"x", ((CREATOR_HEADER, forged.encode()),)), HANDLE)
    with _refused("piece_refused"):
        await put(_call(b"x", ((CREATOR_HEADER, text.encode()),)), "day-owl")


async def test_steps_count_for_whoever_signed_them(
    source: PersonaSource, registry: Registry, redis_client: Redis
) -> None:
    """Who sends another's step again, or a forged one, takes nothing of the owner's share."""
    table = PersonaRoutes(
        source,
        registry,
        StepLog(redis_client, registry),
        steps_per_hour=Hourly(total=10, newcomers=3, key=2),
    ).table()
    author = Author(now=int(time.time()))
    await _put(registry, author, FIRST)
    step = table[STEPS_PATH][b"POST"]

    def body(signed: SignedStep) -> bytes:
        return orjson.dumps({"signed": signed.told()})

    first = author.steps[0]
    for _ in range(3):
        with _refused("pieces_missing"):
            await step(_call(body(first)), "")
    with _refused("too_much_published"):
        await step(_call(body(first)), "")
    forged = body(replace(author.withdraw(), signature=bytes(64)))
    for _ in range(3):
        with _refused("step_refused"):
            await step(_call(forged), "")
    # Counted, and then refused for its pieces.
    with_pieces = orjson.dumps({"signed": author.steps[-1].told(), "pieces": ["00" * 32]})
    for _ in range(2):
        with _refused("step_refused"):
            await step(_call(with_pieces), "")
    with _refused("too_much_published"):
        await step(_call(with_pieces), "")


def test_keys_that_are_remembered_are_bounded() -> None:
    """Whoever makes keys makes the enclave forget the one that was longest silent."""
    allowances = Allowances(Hourly(total=1e9, newcomers=1e9, key=2))
    allowances.take(2, bytes(32), owner=False)
    for number in range(1, MAX_KEYS):
        allowances.take(1, number.to_bytes(32), owner=False)
    with _refused("too_much_published"):
        allowances.take(1, bytes(32), owner=False)
    for number in range(MAX_KEYS):
        allowances.take(1, (number + MAX_KEYS).to_bytes(32), owner=False)
    allowances.take(2, bytes(32), owner=False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_request"),
        (b"[]", "invalid_request"),
        (b'{"signed":{}}', "step_refused"),
        (b'{"signed":{},"more":1}', "invalid_request"),
        (b'{"signed":{},"pieces":["zz"]}', "invalid_request"),
        (
            b'{"signed":{},"pieces":[%s]}' % b",".join([b'"' + b"0" * 64 + b'"'] * 129),
            "invalid_request",
        ),
        (b"[" * 100_000, "invalid_request"),
    ],
)
async def test_a_step_that_cannot_be_read_is_refused(
    body: bytes, code: str, source: PersonaSource, redis_client: Redis
) -> None:
    """Strictly, and before anything is looked up."""
    registry = Registry(redis_client)
    table = PersonaRoutes(source, registry, StepLog(redis_client, registry)).table()
    with _refused(code):
        await table[STEPS_PATH][b"POST"](_call(body), "")
