"""Published personas from a creator's device to a reader's, and an operator who meddles."""

from __future__ import annotations

import asyncio
import hashlib
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from personas.authorship import (
    PIECE_BYTES,
    StepKind,
    claim_entry,
    fingerprint,
    next_step,
    public_key,
    sign_step,
    verify_chain,
)
from personas.digest import canonical, persona_digest
from personas.library import load_library
from personas.listing import Listing
from personas.model import File, Knowledge
from personas.registry import Registry
from personas.sealing import PART_BYTES, file_address, seal_definition, seal_file
from proofs.log.reader import LogReader, open_source
from runtime.client.completions import Completions
from runtime.client.publishing import grant, publish
from runtime.client.registry import fetch_file, read_chain, resolve, stored_steps
from runtime.client.rows import HandlePin
from runtime.client.sealed import Call
from runtime.client.submission import Submission
from runtime.commands.personas_audit import find_problems
from runtime.enclave.api import PersonaReference
from runtime.enclave.persona_reading import PAGE_STEPS
from runtime.errors import SottoError
from tests.conftest import ValkeyProcess
from tests.personas.chains import Author, key_of, persona_of
from tests.runtime.enclave_world import WREN, World
from tests.runtime.persona_world import CREATOR, SEAL_KEY, Stage, stage

pytestmark = pytest.mark.integration

HANDLE = "night-owl"
FIRST, SECOND = persona_of(version="1.0.0"), persona_of(version="1.1.0", greeting="Still up?")
OTHER = key_of(2)
STEPS = f"sotto:persona:{{{HANDLE}}}:steps"
PROOFS = f"sotto:persona:{{{HANDLE}}}:proofs"
BLOBS = f"sotto:persona:{{{HANDLE}}}:blobs"


@pytest.fixture
async def one(world: World) -> AsyncIterator[Stage]:
    """One enclave."""
    async with stage(world) as running:
        yield running


def _refused(code: str) -> pytest.RaisesExc[SottoError]:
    """An error with this machine word."""
    return pytest.raises(SottoError, check=lambda error: error.code == code)


async def test_what_one_device_publishes_another_resolves_and_talks_to(one: Stage) -> None:
    """The reader has the definition, knows whose it is, and their receipt names its digest."""
    creator, reader = await one.person(), await one.person()
    done = await creator.publish(FIRST)
    assert (done.number, done.proven) == (0, True)
    found = await resolve(reader.device, reader.home, HANDLE)
    assert found.persona == FIRST
    assert found.listing.key == public_key(CREATOR)
    row = await reader.talk(found.reference)
    assert (row.status, row.persona_digest) == ("settled", persona_digest(FIRST))
    mark = fingerprint(public_key(CREATOR))
    assert (await resolve(reader.device, reader.home, f"{HANDLE}@{mark}")).persona == FIRST
    with _refused("persona_key"):
        await resolve(reader.device, reader.home, f"{HANDLE}@{fingerprint(public_key(OTHER))}")


async def test_a_published_persona_is_a_model(one: Stage) -> None:
    """A program's list of models has its handle behind the bundled ones, with its digest; and it
    can be asked for in pages."""
    creator, reader = await one.person(), await one.person()
    await creator.publish(FIRST)
    completions = Completions(reader.device)

    async def ask(path: str, query: str = "") -> Any:
        answer = await completions.handle("GET", path, b"", query)
        assert not isinstance(answer.content, bytes)
        return orjson.loads(b"".join([piece async for piece in answer.content]))

    async def models(query: str = "") -> Any:
        return await ask("/v1/models", query)

    bundled = list(load_library().handles)
    listed = await models()
    assert [model["id"] for model in listed["data"]] == [*bundled, HANDLE]
    model = listed["data"][-1]
    assert model["persona_digest"] == persona_digest(FIRST).hex()
    assert model["created"] > listed["data"][0]["created"] - 86_400
    assert await ask(f"/v1/models/{HANDLE}") == model
    page = await models(f"limit=1&after={bundled[-1]}")
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([HANDLE], False)
    assert (await models("limit=1"))["has_more"]
    assert (await models("what=1"))["error"]["code"] == "invalid_request"


async def test_bundled_personas_are_found_first(one: Stage) -> None:
    """A bundled persona needs no registry, and has no creator's key to check."""
    reader = await one.person()
    found = await resolve(reader.device, reader.home, "wren")
    assert (found.persona, found.listing.key) == (WREN, b"")
    with _refused("persona_key"):
        await resolve(reader.device, reader.home, "wren@00")
    for nobody in ("nobody-at-all", "No/Handle", ""):
        with _refused("persona_unknown"):
            await resolve(reader.device, reader.home, nobody)


async def test_an_older_version_is_answered_as_long_as_it_stands_in_the_chain(one: Stage) -> None:
    """Who began a chat with the first version goes on with it; who begins now has the second;
    a digest that was never published is told as such."""
    creator, reader = await one.person(), await one.person()
    await creator.publish(FIRST)
    await creator.publish(SECOND)
    assert (await resolve(reader.device, reader.home, HANDLE)).persona == SECOND
    assert (await reader.talk(FIRST)).persona_digest == persona_digest(FIRST)
    with _refused("persona_mismatch"):
        await reader.talk(PersonaReference(handle=HANDLE, digest="00" * 32))


async def test_a_hand_over(one: Stage) -> None:
    """After it the new key alone takes steps, and a device that knew the old key follows."""
    old, new, reader = await one.person(), await one.person(OTHER), await one.person()
    await old.publish(FIRST)
    await resolve(reader.device, reader.home, HANDLE)
    await old.hand_over(HANDLE, OTHER)
    with _refused("step_refused"):
        await old.publish(SECOND)
    await new.publish(SECOND)
    found = await resolve(reader.device, reader.home, HANDLE)
    assert (found.persona, found.listing.key) == (SECOND, public_key(OTHER))
    pin = reader.home.pins.of(HANDLE)
    assert pin is not None
    assert (pin.number, pin.key) == (2, public_key(OTHER))


async def test_a_withdrawal_and_a_return(one: Stage) -> None:
    """A withdrawn persona answers nobody, whatever version they name; its owner can come back."""
    creator, reader = await one.person(), await one.person()
    await creator.publish(FIRST)
    await reader.talk((await resolve(reader.device, reader.home, HANDLE)).reference)
    await creator.withdraw(HANDLE)
    with _refused("persona_withdrawn"):
        await resolve(reader.device, reader.home, HANDLE)
    with _refused("persona_withdrawn"):
        await reader.talk(FIRST)
    stranger = await one.person(OTHER)
    with _refused("step_refused"):
        await stranger.publish(SECOND)
    await creator.publish(SECOND)
    assert (await resolve(reader.device, reader.home, HANDLE)).persona == SECOND


async def test_a_definition_of_many_pieces_and_its_files(one: Stage) -> None:
    """A large persona travels in pieces; a file that it names can be fetched, another not."""
    avatar = bytes(range(256)) * 400
    digest = hashlib.sha256(avatar).digest()
    knowledge = tuple(
        Knowledge(name=f"Part {number}", text=f"{number} " * 60_000) for number in range(3)
    )
    large = persona_of(
        knowledge=[one.model_dump() for one in knowledge],
        avatar=File(path="owl.png", sha256=digest.hex(), size=len(avatar)).model_dump(),
    )
    assert len(canonical(large)) > 5 * PIECE_BYTES
    creator, reader = await one.person(), await one.person()
    await creator.publish(large, files={digest: avatar})
    found = await resolve(reader.device, reader.home, HANDLE)
    assert found.persona == large
    assert await fetch_file(reader.device, HANDLE, digest, len(avatar)) == avatar
    with _refused("file_unknown"):
        await fetch_file(reader.device, HANDLE, bytes(32), 10)
    with _refused("step_refused"):
        await creator.publish(SECOND, files={digest: avatar})


async def _own_version(stage: Stage) -> None:
    person = await stage.person(OTHER)
    signed = await person.signed(StepKind.PUBLISH, HANDLE, SECOND)
    await person.send(signed, canonical(SECOND))


async def _not_grown(stage: Stage) -> None:
    await (await stage.person()).publish(persona_of(version="0.9.0"))


async def _other_definition(stage: Stage) -> None:
    person = await stage.person()
    signed = await person.signed(StepKind.PUBLISH, HANDLE, SECOND)
    await person.send(signed, canonical(persona_of(version="1.1.0", style="Loud.")))


async def _other_listing(stage: Stage) -> None:
    person = await stage.person()
    step = (await person.signed(StepKind.PUBLISH, HANDLE, SECOND)).step
    assert step.listing is not None
    step = replace(step, listing=replace(step.listing, rating="mature"))
    await person.send(sign_step(step, CREATOR), canonical(SECOND))


async def _heavy_lorebook(stage: Stage) -> None:
    keys = ["/" + "x" * 2_000 + "/"]
    entries = [{"keys": keys, "use_regex": True, "content": "x"}] * 10
    await (await stage.person()).publish(persona_of(version="1.1.0", lorebook={"entries": entries}))


async def _no_pieces(stage: Stage) -> None:
    person = await stage.person()
    await person.send(await person.signed(StepKind.PUBLISH, HANDLE, SECOND))


async def _reserved(stage: Stage) -> None:
    await (await stage.person()).publish(persona_of(handle="sotto-team"))


async def _look_alike(stage: Stage) -> None:
    await (await stage.person()).publish(persona_of(handle="vvren"))


async def _bundled(stage: Stage) -> None:
    await (await stage.person()).publish(persona_of(handle="wren", version="9.0.0"))


async def _taken(stage: Stage) -> None:
    author = Author(key=OTHER)
    signed = author.publish(SECOND)
    step = replace(signed.step, time=signed.step.time)
    person = await stage.person(OTHER)
    await person.send(sign_step(step, OTHER), canonical(SECOND))


async def _yesterday(stage: Stage) -> None:
    author = Author(now=1_000_000_000)
    signed = author.publish(persona_of(handle="early-bird"))
    person = await stage.person()
    await person.send(signed, canonical(persona_of(handle="early-bird")))


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        (_own_version, "step_refused"),
        (_not_grown, "step_refused"),
        (_other_definition, "definition_refused"),
        (_other_listing, "definition_refused"),
        (_heavy_lorebook, "definition_refused"),
        (_no_pieces, "pieces_missing"),
        (_reserved, "handle_reserved"),
        (_bundled, "handle_reserved"),
        (_look_alike, "handle_reserved"),
        (_taken, "step_taken"),
        (_yesterday, "step_refused"),
    ],
)
async def test_what_the_enclave_refuses(
    attempt: Callable[[Stage], Awaitable[None]], code: str, one: Stage
) -> None:
    """Every rule is checked again by the enclave, and the chain stays as it was."""
    await (await one.person()).publish(FIRST)
    with _refused(code):
        await attempt(one)
    assert await Registry(one.world.client).length(HANDLE) == 1


async def test_the_same_step_sent_again_is_the_same_step(one: Stage) -> None:
    """A creator whose answer was lost sends the step again, and nothing changes."""
    creator = await one.person()
    signed = await creator.signed(StepKind.PUBLISH, HANDLE, FIRST)
    first = await creator.send(signed, canonical(FIRST))
    assert await creator.send(signed, canonical(FIRST)) == first
    assert await Registry(one.world.client).length(HANDLE) == 1


async def test_a_long_chain_is_read_in_pages(one: Stage) -> None:
    """More steps than one answer holds are read and proven to the last."""
    creator, reader = await one.person(), await one.person()
    for number in range(PAGE_STEPS + 2):
        await creator.publish(persona_of(version=f"1.{number}.0"))
    chain = await read_chain(reader.device, reader.home, HANDLE)
    assert chain.state.newest.version == f"1.{PAGE_STEPS + 1}.0"
    assert sorted(chain.places) == list(range(PAGE_STEPS + 2))


Redo = Callable[[Redis], Awaitable[None]]


async def _swap_piece(redis: Redis) -> None:
    (name,) = [key async for key in redis.scan_iter(f"sotto:persona:{{{HANDLE}}}:piece:*")][:1]
    await redis.set(name, b"{}")


async def _swap_definition(redis: Redis) -> None:
    registry = Registry(redis)
    piece = await registry.put_piece(HANDLE, canonical(persona_of(version="1.1.0", style="Loud.")))
    await redis.hset(BLOBS, persona_digest(SECOND), piece)  # type: ignore[arg-type]


async def _swap_step(redis: Redis) -> None:
    step = (await Registry(redis).steps(HANDLE))[2]
    assert step.step.kind is StepKind.WITHDRAW
    changed = replace(step, step=replace(step.step, time=step.step.time + 1))
    await redis.lset(STEPS, 2, changed.encode())  # type: ignore[misc]


async def _swap_old_step(redis: Redis) -> None:
    step = (await Registry(redis).steps(HANDLE))[0]
    assert step.step.listing is not None
    listing = replace(step.step.listing, tagline="Somebody else.")
    changed = replace(step, step=replace(step.step, listing=listing))
    await redis.lset(STEPS, 0, changed.encode())  # type: ignore[misc]


async def _roll_back(redis: Redis) -> None:
    await redis.rpop(STEPS)


async def _remove(redis: Redis) -> None:
    await redis.delete(STEPS)


async def _fork(redis: Redis) -> None:
    """The owner's own second history, which the operator shows to some."""
    author = Author(steps=(await Registry(redis).steps(HANDLE))[:2])
    author.now = author.steps[-1].step.time
    author.publish(persona_of(version="6.6.6"))
    await redis.lset(STEPS, 2, author.steps[2].encode())  # type: ignore[misc]


async def _another_handles_step(redis: Redis) -> None:
    author = Author()
    author.publish(persona_of(handle="day-owl"))
    await redis.rpush(STEPS, author.steps[0].encode())  # type: ignore[misc]


async def _another_key(redis: Redis) -> None:
    author = Author(key=OTHER)
    author.publish(persona_of(version="6.6.6"))
    author.publish(persona_of(version="6.6.7"))
    author.withdraw()
    await redis.delete(STEPS, PROOFS)
    await redis.rpush(STEPS, *(one.encode() for one in author.steps))  # type: ignore[misc]


async def _stranger_appends(redis: Redis) -> None:
    steps = await Registry(redis).steps(HANDLE)
    state = verify_chain(steps)
    listing = Listing.of(persona_of(version="6.6.6"), key=public_key(OTHER), created=state.time)
    step = next_step(
        state,
        StepKind.PUBLISH,
        handle=HANDLE,
        key=public_key(OTHER),
        time=state.time,
        listing=listing,
    )
    await redis.rpush(STEPS, sign_step(step, OTHER).encode())  # type: ignore[misc]


@pytest.mark.parametrize(
    ("meddle", "code"),
    [
        (_swap_step, "persona_forked"),
        (_swap_old_step, "persona_chain"),
        (_roll_back, "persona_rollback"),
        (_remove, "persona_rollback"),
        (_fork, "persona_forked"),
        (_another_handles_step, "persona_chain"),
        (_another_key, "persona_forked"),
        (_stranger_appends, "persona_chain"),
    ],
)
async def test_an_operator_who_meddles_with_the_chain_is_caught(
    meddle: Redo, code: str, one: Stage
) -> None:
    """A device that saw the withdrawal is told what was done, and an enclave that saw it answers
    nobody under the handle."""
    creator, reader = await one.person(), await one.person()
    await creator.publish(FIRST)
    await creator.publish(SECOND)
    await creator.withdraw(HANDLE)
    with _refused("persona_withdrawn"):
        await resolve(reader.device, reader.home, HANDLE)
    await meddle(one.world.client)
    with _refused(code):
        await resolve(reader.device, reader.home, HANDLE)
    with pytest.raises(
        SottoError, check=lambda e: e.code in ("persona_withdrawn", "personas_damaged")
    ):
        await reader.talk(SECOND)


@pytest.mark.parametrize(
    ("meddle", "code"),
    [(_swap_piece, "personas_damaged"), (_swap_definition, "persona_exchanged")],
)
async def test_an_operator_who_swaps_a_definition_is_caught(
    meddle: Redo, code: str, world: World
) -> None:
    """Neither a device nor an enclave that has not seen it yet takes another definition."""
    async with stage(world, ("enclave-0", "enclave-1")) as two:
        creator, reader = await two.person(), await two.person()
        await creator.publish(FIRST)
        await creator.publish(SECOND)
        await meddle(two.world.client)
        if meddle is _swap_piece:  # one of the two definitions has it
            with _refused(code):
                for persona in (FIRST, SECOND):
                    await reader.talk(persona)
        else:
            with _refused(code):
                await resolve(reader.device, reader.home, HANDLE)
            with _refused("definition_refused"):
                await reader.talk(SECOND)


async def test_a_handle_that_is_given_to_another_key_is_refused_by_a_new_device_too(
    one: Stage,
) -> None:
    """The log has one claim of each place, and the other key's step does not stand behind it."""
    creator = await one.person()
    await creator.publish(FIRST)
    await _another_key(one.world.client)
    newcomer = await one.person()
    with _refused("persona_claimed"):
        await resolve(newcomer.device, newcomer.home, HANDLE)


async def test_a_step_that_is_in_no_log_is_not_believed(world: World) -> None:
    """A chain that was never logged is refused, and so is another log's proof."""
    async with stage(world) as one:
        creator, newcomer = await one.person(), await one.person()
        await creator.publish(FIRST)
        await creator.publish(SECOND)
        proofs = await world.client.hgetall(PROOFS)
        await world.client.hset(PROOFS, "1", proofs[b"0"])
        with _refused("persona_log"):
            await resolve(newcomer.device, newcomer.home, HANDLE)
        # As it was, it is believed.
        await world.client.hset(PROOFS, "1", proofs[b"1"])
        assert (await resolve(newcomer.device, newcomer.home, HANDLE)).persona == SECOND


async def test_proofs_that_were_lost_come_again(one: Stage) -> None:
    """The log's own copy ends after a while; the registry's is made again from the log."""
    creator, newcomer = await one.person(), await one.person()
    await creator.publish(FIRST)
    await one.world.client.delete(PROOFS)
    async for key in one.world.client.scan_iter("sotto:receipt:*"):
        if len(key) > len("sotto:receipt:") + 32:
            await one.world.client.delete(key)
    assert (await resolve(newcomer.device, newcomer.home, HANDLE)).persona == FIRST


TELLTALE = "The lamp behind the third shelf is the sign."


async def test_a_private_persona_answers_only_where_it_was_granted(
    world: World, valkey_process: ValkeyProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Before its grant nobody is answered; after it both enclaves answer, and the digest stands in
    the receipt. Neither definition nor key is anywhere in Redis, in its files or in the logs."""
    persona = persona_of(description=TELLTALE * 20, system_prompt=TELLTALE)
    digest = persona_digest(persona)
    reference = PersonaReference(handle=HANDLE, digest=digest.hex())
    client = Redis.from_url(valkey_process.url, protocol=3)
    own = World(world.folder, client, valkey_process.url, world.root)
    async with stage(own, ("enclave-0", "enclave-1")) as two:
        creator, reader = await two.person(), await two.person()
        await creator.publish(persona, private=True)
        found = await resolve(reader.device, reader.home, HANDLE)
        assert (found.persona, found.listing.description) == (None, "")
        assert found.listing.name == persona.name
        with _refused("persona_not_granted"):
            await reader.talk(found.reference)
        wrong = await grant(creator.device, reference, bytes(32))
        assert all(one.until is None and "does not open" in (one.problem or "") for one in wrong)
        granted = await grant(creator.device, reference, SEAL_KEY)
        assert len(granted) == 2
        assert all(one.until for one in granted)
        for _ in range(4):  # either enclave: a thread of another device each
            person = await two.person()
            row = await person.talk(found.reference)
            assert row.persona_digest == digest
        assert await grant(creator.device, reference, SEAL_KEY, {o.keys for o in granted}) == []
        await _nowhere(client, valkey_process.folder)
    assert TELLTALE not in caplog.text
    await client.aclose()


async def _nowhere(client: Redis, folder: Path) -> None:
    """Nothing of the definition or its key is in any value, nor in any file of the server."""
    told = (TELLTALE.encode(), TELLTALE[:24].encode(), SEAL_KEY, SEAL_KEY.hex().encode())
    # What an enclave announces may have ended since it was listed.
    values = [await client.dump(key) or b"" async for key in client.scan_iter("*")]
    files = [one.read_bytes() for one in folder.rglob("*") if one.is_file()]
    assert any(HANDLE.encode() in one for one in files)
    for data in (*values, *files):
        assert not any(one in data for one in told)


async def test_a_private_persona_carries_its_files_sealed(one: Stage) -> None:
    """Where it was granted its files are opened for who asks, whole; before that nobody gets them,
    and neither their bytes nor their digests are in the store."""
    avatar = b"\x89PNG " + TELLTALE.encode() * 3_000
    sound = b"OggS" + TELLTALE.encode()
    files = {hashlib.sha256(data).digest(): data for data in (avatar, sound)}
    picture, noise = files
    persona = persona_of(
        avatar=File(path="owl.png", sha256=picture.hex(), size=len(avatar)).model_dump(),
        files=[File(path="owl.ogg", sha256=noise.hex(), size=len(sound)).model_dump()],
    )
    creator, reader = await one.person(), await one.person()
    await creator.publish(persona, private=True, files=files)
    for asked in (picture, None):
        with _refused("persona_not_granted"):
            await fetch_file(reader.device, HANDLE, asked, 1 << 20)
    reference = PersonaReference(handle=HANDLE, digest=persona_digest(persona).hex())
    (granted,) = await grant(creator.device, reference, SEAL_KEY)
    assert granted.until
    assert len(avatar) > 2 * PART_BYTES
    for digest, data in files.items():
        assert await fetch_file(reader.device, HANDLE, digest, len(data)) == data
    assert await fetch_file(reader.device, HANDLE, None, len(avatar)) == avatar
    with _refused("file_unknown"):
        await fetch_file(reader.device, HANDLE, bytes(32), 10)
    with _refused("persona_file"):
        await fetch_file(reader.device, HANDLE, picture, 1_000)
    client = one.world.client
    kept = b"".join([await client.dump(key) async for key in client.scan_iter("*persona:*")])
    for secret in (TELLTALE[:24].encode(), picture, picture.hex().encode(), noise):
        assert secret not in kept

    # Who sends the signed step again cannot put other files beside it.
    before = await client.hgetall(BLOBS)
    address = file_address(SEAL_KEY, HANDLE, bytes(32))
    (signed,) = (await read_chain(reader.device, reader.home, HANDLE)).steps
    sealed = seal_definition(SEAL_KEY, HANDLE, persona_digest(persona), b"{}", nonce=bytes(12))
    await reader.send(signed, sealed, {address: [b"junk"]})
    assert await client.hgetall(BLOBS) == before

    (first, *_) = await Registry(client).pieces(HANDLE, file_address(SEAL_KEY, HANDLE, picture))
    second = seal_file(SEAL_KEY, HANDLE, picture, avatar)[1]
    await client.set(f"sotto:persona:{{{HANDLE}}}:piece:{first.hex()}", second)
    with _refused("personas_damaged"):
        await fetch_file(reader.device, HANDLE, picture, len(avatar))


async def test_a_grant_is_held_against_what_was_published(one: Stage) -> None:
    """A public persona, an unknown one, and a withdrawn one take no grant."""
    creator = await one.person()
    await creator.publish(FIRST)
    reference = PersonaReference(handle=HANDLE, digest=persona_digest(FIRST).hex())
    (public,) = await grant(creator.device, reference, SEAL_KEY)
    assert public.problem is not None
    assert "is public" in public.problem
    nobody = PersonaReference(handle="nobody-at-all", digest="00" * 32)
    (unknown,) = await grant(creator.device, nobody, SEAL_KEY)
    assert "nobody has published" in (unknown.problem or "")
    await creator.publish(SECOND, private=True)
    await creator.withdraw(HANDLE)
    second = PersonaReference(handle=HANDLE, digest=persona_digest(SECOND).hex())
    (gone,) = await grant(creator.device, second, SEAL_KEY)
    assert "withdrawn" in (gone.problem or "")


async def test_a_listing_that_does_not_match_is_found_at_the_grant(one: Stage) -> None:
    """What a private persona is listed as is held against its definition when that is opened."""
    creator = await one.person()
    step = (await creator.signed(StepKind.PUBLISH, HANDLE, FIRST, private=True)).step
    assert step.listing is not None
    step = replace(step, listing=replace(step.listing, rating="mature"))
    digest = persona_digest(FIRST)
    sealed = seal_definition(SEAL_KEY, HANDLE, digest, canonical(FIRST), nonce=bytes(12))
    await creator.send(sign_step(step, CREATOR), sealed)
    reference = PersonaReference(handle=HANDLE, digest=digest.hex())
    (told,) = await grant(creator.device, reference, SEAL_KEY)
    assert "does not say what" in (told.problem or "")


async def test_a_debug_enclave_takes_no_private_definition(world: World) -> None:
    """It would show it to whoever talks to it."""
    async with stage(world, debug=True) as shown:
        creator = await shown.person()
        await creator.publish(FIRST, private=True)
        reference = PersonaReference(handle=HANDLE, digest=persona_digest(FIRST).hex())
        (told,) = await grant(creator.device, reference, SEAL_KEY)
        assert "shows its prompts" in (told.problem or "")


async def _lose(stage: Stage, steps: int) -> None:
    """Go back to a backup that is older by so many steps, pieces and proofs included."""
    client = stage.world.client
    kept = [await client.lpop(STEPS) for _ in range(await client.llen(STEPS) - steps)]
    async for key in client.scan_iter(f"sotto:persona:{{{HANDLE}}}:*"):
        await client.delete(key)
    if kept:
        await client.rpush(STEPS, *kept)


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_what_a_store_lost_is_sent_again(one: Stage, lost: int) -> None:
    """The creators' devices have each step that they sent with what it published; after that
    devices and the very enclave that saw it go on, with nothing forked in the log."""
    creator, owner, reader = await one.person(), await one.person(OTHER), await one.person()
    await creator.publish(FIRST)
    offer = await creator.signed(StepKind.HAND_OVER, HANDLE, new_key=public_key(OTHER))
    await owner.send(offer.accepted(OTHER))
    await owner.publish(SECOND)
    before = await read_chain(reader.device, reader.home, HANDLE)
    await _lose(one, lost)
    with _refused("persona_rollback"):
        await read_chain(reader.device, reader.home, HANDLE)
    if lost == 3:
        with _refused("nothing_to_restore"):
            await owner.restore(HANDLE)
        assert (await creator.restore(HANDLE)).length == 1
    done = await owner.restore(HANDLE)
    assert [one.number for one in done.steps] == ([2] if lost == 1 else [1, 2])
    assert (done.length, done.missing) == (3, 0)
    after = await read_chain(reader.device, reader.home, HANDLE)
    assert after.steps == before.steps
    found = await resolve(reader.device, reader.home, HANDLE)
    assert found.persona == SECOND
    await reader.talk(found.reference)
    again = await owner.restore(HANDLE)
    assert (again.steps, again.length) == ((), 3)


async def test_an_old_step_is_restored_and_not_published(one: Stage) -> None:
    """A step of another day is taken where it was published before, and by its owner's word
    alone."""
    creator, stranger = await one.person(), await one.person(OTHER)
    author = Author(now=1_000_000_000)
    submission = Submission.of(author.publish(FIRST), canonical(FIRST))
    with _refused("step_refused"):
        await publish(creator.device, submission, CREATOR)
    with _refused("not_owner"):
        await publish(stranger.device, submission, OTHER, again=True)
    creator.sent.keep(replace(submission, taken=True))
    assert [one.number for one in (await creator.restore(HANDLE)).steps] == [0]
    early = Author(now=4_000_000_000)
    tomorrow = Submission.of(early.publish(persona_of(handle="early-bird")))
    with _refused("step_refused"):
        await publish(creator.device, tomorrow, CREATOR, again=True)


async def test_a_former_owner_takes_no_handle_back(one: Stage) -> None:
    """Where a store lost the step that handed it over and more, an enclave that saw them takes no
    other step in their places."""
    creator, owner = await one.person(), await one.person(OTHER)
    await creator.publish(FIRST)
    rival = await creator.signed(StepKind.WITHDRAW, HANDLE)
    await creator.hand_over(HANDLE, OTHER)
    await owner.publish(SECOND)
    await _lose(one, 2)
    with _refused("step_refused"):
        await publish(creator.device, Submission.of(rival), CREATOR, again=True)
    assert await Registry(one.world.client).length(HANDLE) == 1


async def test_what_does_not_fit_is_not_restored(one: Stage) -> None:
    """Another step in the place, a gap, nothing here: said, and nothing is sent."""
    creator, other = await one.person(), await one.person()
    with _refused("persona_unknown"):
        await creator.restore(HANDLE)
    await creator.publish(FIRST)
    await creator.publish(SECOND)
    await read_chain(other.device, other.home, HANDLE)
    await _lose(one, 1)
    with _refused("nothing_to_restore"):
        await other.restore(HANDLE)

    # Another step stands where the lost one was: signed by the same key, on another device.
    newcomer = await one.person()
    rival = newcomer.sent
    author = Author(steps=(await stored_steps(newcomer.device, HANDLE)), now=int(time.time()))
    rival.keep(replace(Submission.of(author.withdraw()), taken=True))
    # The enclave saw the lost step, so it does not take another one in its place.
    with _refused("step_refused"):
        await newcomer.restore(HANDLE)
    await Registry(one.world.client).append(author.steps[-1], {})
    # Who sent the lost step knows that, and who only saw it.
    for person in (creator, other):
        with _refused("persona_forked"):
            await person.restore(HANDLE)
    assert await Registry(one.world.client).length(HANDLE) == 2


async def test_a_step_that_was_never_taken_is_not_restored(one: Stage) -> None:
    """A withdrawal that failed is not made by a restore later; another step in its place is no
    fork. One whose answer was lost, and that the device saw, is sent again."""
    creator, other = await one.person(), await one.person()
    await creator.publish(FIRST)
    await read_chain(creator.device, creator.home, HANDLE)
    creator.sent.keep(Submission.of(await creator.signed(StepKind.WITHDRAW, HANDLE)))
    await _lose(one, 1)
    done = await creator.restore(HANDLE)
    assert ([step.number for step in done.steps], done.length) == ([0], 1)
    await other.publish(SECOND)
    assert (await creator.restore(HANDLE)).length == 2

    signed = await other.signed(StepKind.WITHDRAW, HANDLE)
    other.sent.keep(Submission.of(signed))
    await publish(other.device, Submission.of(signed), CREATOR)
    await read_chain(other.device, other.home, HANDLE)
    client = one.world.client
    await client.rpop(STEPS)
    assert [step.number for step in (await other.restore(HANDLE)).steps] == [2]


async def test_copies_that_were_changed_are_not_sent(one: Stage) -> None:
    """A step or a piece that is not what was sent is named, and nothing is sent."""
    creator = await one.person()
    await creator.publish(FIRST)
    await _lose(one, 1)
    folder = one.folder / "person-1" / "published"
    assert (folder.stat().st_mode & 0o777, (folder / HANDLE / "0.json").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )
    piece = next((folder / "pieces").iterdir())
    whole = piece.read_bytes()
    piece.write_bytes(whole[:-1] + b"?")
    with _refused("published_copy"):
        await creator.restore(HANDLE)
    piece.write_bytes(whole)
    record = folder / HANDLE / "0.json"
    text = record.read_bytes()
    for damaged in (b"", b"[]", text[:-1], text.replace(b'"pieces"', b'"peaces"')):
        record.write_bytes(damaged)
        with _refused("published_copy"):
            await creator.restore(HANDLE)
    record.write_bytes(text.replace(b'"version":"1.0.0"', b'"version":"9.0.0"'))
    with _refused("persona_chain"):
        await creator.restore(HANDLE)
    record.write_bytes(text)
    assert (await creator.restore(HANDLE)).length == 1


async def test_a_private_persona_is_restored_with_its_files(one: Stage) -> None:
    """Sealed as it was, it opens with the same key."""
    picture = b"\x89PNG" * 30_000
    digest = hashlib.sha256(picture).digest()
    avatar = File(path="owl.png", sha256=digest.hex(), size=len(picture)).model_dump()
    persona = persona_of(avatar=avatar)
    creator, reader = await one.person(), await one.person()
    await creator.publish(persona, private=True, files={digest: picture})
    await _lose(one, 1)
    await creator.restore(HANDLE)
    reference = PersonaReference(handle=HANDLE, digest=persona_digest(persona).hex())
    (granted,) = await grant(creator.device, reference, SEAL_KEY)
    assert granted.until
    assert await fetch_file(reader.device, HANDLE, None, len(picture)) == picture


class _TellsOfParts:
    """Stands for a device whose enclave says that a file has so many parts."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.asked: list[bytes] = []

    async def request(self, call: Call) -> Any:
        """Answer whatever is asked."""
        self.asked.append(call.path)
        return self

    async def read_json(self) -> dict[str, Any]:
        """The file's manifest."""
        return {"sha256": "00" * 32, "parts": self.parts}


@pytest.mark.parametrize("parts", [-1, 3, 2_000_000])
async def test_parts_of_a_file_are_counted_before_they_are_asked_for(parts: int) -> None:
    """However many an enclave tells of: no more than the limit has room for."""
    device: Any = _TellsOfParts(parts)
    tracemalloc.start()
    with _refused("persona_file"):
        await fetch_file(device, HANDLE, bytes(32), PART_BYTES)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(device.asked) == 1
    assert most < 1_000_000


async def test_an_audit_finds_a_place_that_was_given_twice(one: Stage) -> None:
    """In a log's entries a second claim, a missing one, and a step that was not shown are told."""
    creator = await one.person()
    await creator.publish(FIRST)
    await creator.publish(SECOND)
    chain = await read_chain(creator.device, creator.home, HANDLE)
    assert set(chain.places) == {1}
    with LogReader(open_source(str(one.world.folder / "log"))) as reader:
        entries = list(reader.entries(0, reader.checkpoint.size))
    pins = creator.home.pins.all()
    assert find_problems(entries, pins) == []
    claim = claim_entry(HANDLE, 1)
    assert entries.index(chain.steps[1].step.log_entry) == entries.index(claim) + 1
    twice = find_problems([*entries, claim], pins)
    assert [found.code for found in twice] == ["claimed_twice"]
    missing = find_problems([entry for entry in entries if entry != claim], pins)
    assert [found.code for found in missing] == ["claim_missing"]
    old = [HandlePin(HANDLE, pins[0].key, 0, chain.steps[0].step.digest)]
    assert [found.code for found in find_problems(entries, old)] == ["newer_step"]
    assert [found.code for found in find_problems([*entries, entries[0]], [])] == ["entry_twice"]


async def test_two_creators_at_once(one: Stage) -> None:
    """Of two who claim a handle in the same moment one has it, and the other is told."""
    mine, theirs = await one.person(), await one.person(OTHER)
    done = await asyncio.gather(mine.publish(FIRST), theirs.publish(FIRST), return_exceptions=True)
    refused = [one for one in done if isinstance(one, SottoError)]
    assert len(refused) == 1
    assert refused[0].code in ("step_taken", "taken", "step_refused")
