"""What an enclave can speak as: published personas in a real Valkey, verified before use."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from personas.authorship import PIECE_BYTES
from personas.digest import canonical, persona_digest
from personas.library import load_library
from personas.model import Persona
from personas.registry import Registry
from personas.sealing import seal_definition
from runtime.enclave.api import ApiError
from runtime.enclave.persona_log import StepLog
from runtime.enclave.persona_routes import PIECES_PATH, STEPS_PATH, PersonaRoutes
from runtime.enclave.persona_source import PersonaSource
from runtime.enclave.routes import Call
from tests.personas.chains import Author, persona_of
from transport.bhttp import Request

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


def _call(content: bytes = b"") -> Call:
    request = Request(b"POST", b"https", b"enclave", b"/", (), content)
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
        source, registry, StepLog(redis_client, registry), bytes_per_hour=100
    ).table()
    put = table[PIECES_PATH + b"/{id}"][b"POST"]
    await put(_call(b"x" * 90), HANDLE)
    with _refused("too_much_published"):
        await put(_call(b"y" * 90), HANDLE)
    assert len(await redis_client.keys("*")) == 1


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
