"""Embedders: the static one that ships, vLLM's with a small random model, and the choice."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import wordllama
from aiohttp import web

from runtime.config import EmbeddingConfig
from runtime.enclave.embedding.base import MAX_CHARACTERS, embedder_id
from runtime.enclave.embedding.choose import make_embedder
from runtime.enclave.embedding.static import StaticEmbedder
from runtime.enclave.embedding.vllm import VllmEmbedder
from runtime.enclave.engines.base import EngineError, Message, Sampling
from runtime.enclave.engines.embedded import EmbeddedEngine
from runtime.enclave.engines.openai import OpenAiEngine
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.engines.vllm import VllmEngine
from runtime.enclave.identity import manifest_digest
from runtime.errors import SetupError
from tests.runtime.enclave_world import World, newest


@pytest.fixture(scope="module")
def static() -> StaticEmbedder:
    """The table, loaded once."""
    return StaticEmbedder().load()


async def test_what_means_the_same_lies_near(static: StaticEmbedder) -> None:
    """A question finds the statement that answers it, whatever else was said."""
    said = ["My dog is called Rex", "I work at a bakery in Lyon", "It rained all of Tuesday"]
    asked = ["what is the name of my dog?", "where do I bake bread?", "how was the weather?"]
    scores = await static.embed(asked) @ (await static.embed(said)).T
    assert list(scores.argmax(axis=1)) == [0, 1, 2]


async def test_vectors_have_the_promised_shape_and_length(static: StaticEmbedder) -> None:
    """float32, one row per text, of length 1; nothing said has a vector of nothing."""
    texts = ["hello", "", "half \ud83d of a pair", "日本語", "\x00", "a" * 100_000]
    vectors = await static.embed(texts)
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(texts), static.dim))
    lengths = np.linalg.norm(vectors, axis=1)
    assert all(abs(length - 1) < 1e-5 or length == 0 for length in lengths)
    assert lengths[0] > 0.99
    assert lengths[1] == 0
    assert (await static.embed([])).shape == (0, static.dim)


async def test_a_text_has_one_vector_alone_or_in_a_batch(static: StaticEmbedder) -> None:
    """What else is embedded beside it, and on which thread, does not matter."""
    texts = [f"sentence number {number} of the day " * (number + 1) for number in range(60)]
    together = await static.embed(texts)
    alone = np.concatenate([await static.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


async def test_its_vectors_are_the_librarys_own(static: StaticEmbedder) -> None:
    """One text at a time is faster than the library's batches, and no other embedding."""
    texts = ["hello", "My dog is called Rex", "日本語 caf\xe9 \U0001f600", "word " * 300, "\x00"]
    library = wordllama.WordLlama.load(
        cache_dir=Path(str(wordllama.__file__)).parent, dim=static.dim, disable_download=True
    )
    np.testing.assert_allclose(
        await static.embed(texts), library.embed(texts, norm=True), atol=1e-6
    )


async def test_what_follows_the_limit_is_not_read(static: StaticEmbedder) -> None:
    """A very long message costs no more than a long one."""
    start = "word " * (MAX_CHARACTERS // 5 + 1)
    one, two = await static.embed([start[:MAX_CHARACTERS], start + "and then the cello"])
    np.testing.assert_allclose(one, two, atol=1e-6)


async def test_its_identity_is_its_files(static: StaticEmbedder) -> None:
    """Anyone with the package computes the same manifest and the same id."""
    folder = Path(str(wordllama.__file__)).parent
    assert len(static.manifest()) == 2
    for name, digest in static.manifest().items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert static.id == embedder_id("static", static.manifest())
    assert len(static.id) == 8
    other = dict.fromkeys(static.manifest(), "00" * 32)
    assert static.id not in (embedder_id("static", other), embedder_id("x", static.manifest()))


async def test_one_that_is_not_started_says_so() -> None:
    """And again after it was closed."""
    embedder = StaticEmbedder()
    with pytest.raises(EngineError, match="not started"):
        await embedder.embed(["x"])
    await embedder.start()
    await embedder.close()
    await embedder.close()
    with pytest.raises(EngineError, match="not started"):
        await embedder.embed(["x"])


def test_the_configuration_chooses() -> None:
    """The one that ships by default; none where it is not wanted."""
    assert isinstance(make_embedder(EmbeddingConfig()), StaticEmbedder)
    assert make_embedder(EmbeddingConfig(kind="none")) is None
    assert isinstance(make_embedder(EmbeddingConfig(kind="vllm", model="m")), VllmEmbedder)
    with pytest.raises(SetupError, match="model"):
        make_embedder(EmbeddingConfig(kind="vllm"))
    with pytest.raises(SetupError, match="no weights"):
        make_embedder(EmbeddingConfig(model_key=Path("key.pub")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pooling(tiny_model: Path) -> AsyncIterator[tuple[VllmEmbedder, VllmEngine]]:
    """An embedder and an engine in one process, as an enclave has them."""
    engine, embedder = VllmEngine(str(tiny_model)), VllmEmbedder(str(tiny_model))
    await engine.start()
    await embedder.start()
    yield embedder, engine
    await embedder.close()
    await engine.close()


@pytest.mark.vllm
@pytest.mark.timeout(400)
@pytest.mark.asyncio(loop_scope="module")
async def test_vllm_embeds_beside_the_engine(pooling: tuple[VllmEmbedder, VllmEngine]) -> None:
    """Both work at the same time, and a text has one vector."""
    embedder, engine = pooling
    texts = ["hello there", "i bake bread", "", "walk the dog " * 5_000]

    async def reply() -> int:
        messages = [Message("user", "hello")]
        stream = engine.stream("r", messages, Sampling(max_tokens=16, seed=1), cache_salt="s")
        return sum([delta.tokens async for delta in stream])

    vectors, tokens = await asyncio.gather(embedder.embed(texts), reply())
    assert tokens >= 1
    assert vectors.shape == (4, embedder.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[[0, 1, 3]], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((await embedder.embed(texts[:1]))[0], vectors[0], atol=1e-2)
    assert "model.safetensors" in embedder.manifest()
    assert embedder.id == embedder_id("vllm", embedder.manifest())


@pytest.mark.vllm
@pytest.mark.timeout(400)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_schema_binds_even_a_random_model(
    pooling: tuple[VllmEmbedder, VllmEngine],
) -> None:
    """Noise that must be JSON of this shape begins as such, or ends as such."""
    _, engine = pooling
    schema = '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"],'
    schema += ' "additionalProperties": false}'
    sampling = Sampling(max_tokens=64, seed=3, json_schema=schema)
    messages = [Message("user", "hello")]
    text = "".join([d.text async for d in engine.stream("j", messages, sampling, cache_salt="s")])
    assert "".join(text.split()) in ('{"a":"x"}', '{"a":"y"}')


@pytest.mark.integration
async def test_claims_state_the_embedders_files(world: World, static: StaticEmbedder) -> None:
    """What recalls memory is part of the model that is attested; without it all is as before."""
    engine = ScriptedEngine()
    async with world.log():
        for embedder, files in ((None, {}), (static, static.manifest())):
            keeper = world.keeper(engine=engine, embedder=embedder)
            await keeper.rotate()
            stated = newest(keeper).claims.model_manifest
            whole = {f"embedding//{name}": digest for name, digest in files.items()}
            assert stated == manifest_digest({**engine.manifest(), **whole})


def test_engines_say_whether_they_follow_instructions() -> None:
    """Toys and scripts are not asked for facts."""
    assert not EmbeddedEngine.instructable
    assert not ScriptedEngine.instructable
    assert VllmEngine.instructable
    assert OpenAiEngine.instructable


@pytest.mark.integration
async def test_an_openai_server_is_told_the_schema() -> None:
    """As `response_format`, and not at all where there is none."""
    asked: list[dict[str, Any]] = []

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def complete(request: web.Request) -> web.Response:
        asked.append(await request.json())
        chunk = {"choices": [{"delta": {"content": "{}"}, "finish_reason": "stop"}]}
        return web.Response(
            body=f"data: {json.dumps(chunk)}\n\n".encode(), content_type="text/event-stream"
        )

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    engine = OpenAiEngine(f"http://127.0.0.1:{port}/v1", "m")
    await engine.start()
    messages = [Message("user", "hello")]
    for schema in ('{"type": "object"}', None):
        sampling = Sampling(json_schema=schema)
        assert [d.text async for d in engine.stream("r", messages, sampling, cache_salt="s")]
    await engine.close()
    await runner.cleanup()
    assert asked[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert asked[0]["response_format"]["type"] == "json_schema"
    assert "response_format" not in asked[1]
