"""The registry on a real Valkey server."""

from __future__ import annotations

import hashlib

import pytest
from redis.asyncio import Redis

from personas.authorship import PIECE_BYTES
from personas.errors import RegistryError
from personas.registry import Proofs, Registry, is_reserved
from tests.personas.chains import Author, key_of, persona_of

HANDLE = "night-owl"


@pytest.fixture
def registry(redis_client: Redis) -> Registry:
    """An empty one."""
    return Registry(redis_client)


async def _blob(registry: Registry, address: bytes, *parts: bytes) -> dict[bytes, list[bytes]]:
    return {address: [await registry.put_piece(HANDLE, part) for part in parts]}


async def test_steps_come_back_in_order(registry: Registry) -> None:
    """What is appended is read again, whole and in part, with the log's proofs."""
    author = Author()
    first = author.publish(persona_of())
    second = author.withdraw()
    blobs = await _blob(registry, b"a" * 32, b"one", b"two")
    assert await registry.append(first, blobs)
    assert await registry.append(second, {})
    assert await registry.length(HANDLE) == 2
    assert await registry.steps(HANDLE) == (first, second)
    assert await registry.steps(HANDLE, 1, 5) == (second,)
    await registry.keep_proofs(HANDLE, 1, Proofs("claim", "step"))
    stored = await registry.stored(HANDLE, 0, 16)
    assert [one.proofs for one in stored] == [None, Proofs("claim", "step")]
    pieces = await registry.pieces(HANDLE, b"a" * 32)
    assert await registry.blob(HANDLE, pieces, PIECE_BYTES) == b"onetwo"
    assert await registry.pieces(HANDLE, b"b" * 32) == ()
    assert await registry.stored("nobody", 0, 16) == ()


async def test_the_same_step_again_changes_nothing(registry: Registry) -> None:
    """A step that was sent twice stands there once; pieces that came with the second are not
    taken for the first's."""
    step = Author().publish(persona_of())
    assert await registry.append(step, await _blob(registry, b"a" * 32, b"one"))
    assert not await registry.append(step, await _blob(registry, b"a" * 32, b"two"))
    assert await registry.steps(HANDLE) == (step,)
    pieces = await registry.pieces(HANDLE, b"a" * 32)
    assert await registry.blob(HANDLE, pieces, 9) == b"one"


async def test_a_place_is_given_once(registry: Registry) -> None:
    """The first key keeps the handle; a step that skips one waits for it."""
    mine, theirs = Author(), Author(key=key_of(2))
    first, other = mine.publish(persona_of()), theirs.publish(persona_of())
    mine.withdraw()
    assert await registry.append(first, {})
    with pytest.raises(RegistryError, match="1 are there") as caught:
        await registry.append(other, {})
    assert caught.value.code == "taken"
    mine.publish(persona_of(version="1.1.0"))
    with pytest.raises(RegistryError) as caught:
        await registry.append(mine.steps[2], {})
    assert caught.value.code == "behind"
    assert await registry.steps(HANDLE) == (first,)


async def test_pieces_end_unless_a_step_needs_them(registry: Registry, redis_client: Redis) -> None:
    """What nobody publishes is gone after an hour; what is published stays."""
    step = Author().publish(persona_of())
    blobs = await _blob(registry, b"a" * 32, b"kept")
    loose = await registry.put_piece(HANDLE, b"loose")
    kept = blobs[b"a" * 32][0]
    await registry.append(step, blobs)
    names = [f"sotto:persona:{{{HANDLE}}}:piece:{one.hex()}" for one in (kept, loose)]
    assert await redis_client.ttl(names[0]) == -1
    assert 0 < await redis_client.ttl(names[1]) <= 3600
    # Sent once more, a piece that is needed does not get an end.
    await registry.put_piece(HANDLE, b"kept")
    assert await redis_client.ttl(names[0]) == -1


async def test_a_step_whose_pieces_are_missing_is_not_taken(registry: Registry) -> None:
    """Nothing is published that nobody could read, and no other piece stays for it."""
    step = Author().publish(persona_of())
    with pytest.raises(RegistryError) as caught:
        await registry.append(step, {b"a" * 32: [hashlib.sha256(b"absent").digest()]})
    assert caught.value.code == "pieces_missing"
    assert await registry.length(HANDLE) == 0


async def test_limits(registry: Registry) -> None:
    """A piece and a whole have limits, which are checked before anything is read."""
    for data in (b"", b"x" * (PIECE_BYTES + 1)):
        with pytest.raises(RegistryError):
            await registry.put_piece(HANDLE, data)
    digest = await registry.put_piece(HANDLE, b"x" * 10)
    with pytest.raises(RegistryError) as caught:
        await registry.blob(HANDLE, [digest], 9)
    assert caught.value.code == "too_large"
    with pytest.raises(RegistryError) as caught:
        await registry.blob(HANDLE, [bytes(32)] * 3, PIECE_BYTES)
    assert caught.value.code == "too_large"


async def test_a_piece_that_was_exchanged_is_noticed(
    registry: Registry, redis_client: Redis
) -> None:
    """A piece is what its name says, or damaged."""
    digest = await registry.put_piece(HANDLE, b"true")
    await redis_client.set(f"sotto:persona:{{{HANDLE}}}:piece:{digest.hex()}", b"false")
    with pytest.raises(RegistryError, match="damaged"):
        await registry.piece(HANDLE, digest)


async def test_changes_are_told_from_a_place_on(registry: Registry) -> None:
    """Whoever follows the stream learns of each handle that gained a step, once a round."""
    place, handles = await registry.changes("0-0")
    assert (place, handles) == ("0-0", ())
    author = Author()
    for number in range(2):
        await registry.append(author.publish(persona_of(version=f"1.{number}.0")), {})
    place, handles = await registry.changes(place)
    assert handles == (HANDLE,)
    assert await registry.changes(place) == (place, ())


async def test_a_store_that_is_away_is_told(tmp_path: object) -> None:
    """No foreign error leaves the registry."""
    away = Registry(Redis.from_url(f"unix://{tmp_path}/nobody.sock"))
    for call in (
        away.length(HANDLE),
        away.put_piece(HANDLE, b"x"),
        away.append(Author().publish(persona_of()), {}),
        away.changes("0-0"),
    ):
        with pytest.raises(RegistryError) as caught:
            await call
        assert caught.value.code == "away"


@pytest.mark.parametrize("handle", ["sotto", "sottovoce-team", "admin1", "search", "steps"])
def test_reserved_handles(handle: str) -> None:
    """Nobody may pass for the system, nor take the name of a resource."""
    assert is_reserved(handle)
    assert not is_reserved("night-owl")
