"""The vLLM engine, with vLLM itself and a small random model."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from runtime.enclave.engines.base import EngineError, FinishReason, Message, Sampling
from runtime.enclave.engines.vllm import VllmEngine

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]
MESSAGES = [Message("system", "be kind"), Message("user", "hello there")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model: Path) -> AsyncIterator[VllmEngine]:
    """One engine for all tests of this file: it takes most of a minute to start."""
    engine = VllmEngine(str(tiny_model))
    await engine.start()
    yield engine
    await engine.close()


async def test_deltas_add_up_to_the_tokens_asked_for(engine: VllmEngine) -> None:
    """Each delta is new text, one of them the last, and the count is the model's."""
    sampling = Sampling(max_tokens=24, seed=1)
    deltas = [d async for d in engine.stream("a", MESSAGES, sampling, cache_salt="s")]
    assert [d.finish for d in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish in (FinishReason.LENGTH, FinishReason.STOP)
    assert 1 <= sum(d.tokens for d in deltas) <= 24
    assert "".join(d.text for d in deltas)


async def test_the_same_seed_gives_the_same_reply(engine: VllmEngine) -> None:
    """A reply can be reproduced."""

    async def reply(name: str, seed: int) -> str:
        sampling = Sampling(max_tokens=24, seed=seed)
        return "".join(
            [d.text async for d in engine.stream(name, MESSAGES, sampling, cache_salt="s")]
        )

    assert await reply("a", 5) == await reply("b", 5)
    assert await reply("c", 5) != await reply("d", 6)


async def test_the_models_own_chat_template_is_counted(engine: VllmEngine) -> None:
    """Another message costs its words and its frame."""
    one = engine.count_tokens(MESSAGES)
    two = engine.count_tokens([*MESSAGES, Message("assistant", "hello"), Message("user", "hi")])
    assert two > one > 0


async def test_what_was_counted_before_stands_for_nothing_else(engine: VllmEngine) -> None:
    """A prompt is the one that was given, whatever was counted last, and if it grew since."""

    async def reply(messages: list[Message]) -> str:
        stream = engine.stream("counted", messages, Sampling(max_tokens=2), cache_salt="s")
        return "".join([d.text async for d in stream])

    long = [Message("user", "word " * engine.context_tokens)]
    size = engine.count_tokens(long)
    assert await reply(MESSAGES)
    for _ in range(2):  # once encoded anew, once as it was counted
        with pytest.raises(EngineError, match=f"has {size} tokens"):
            await reply(long)
        engine.count_tokens(long)
    growing = [*MESSAGES]
    engine.count_tokens(growing)
    growing += [Message("assistant", "hello"), *long]
    with pytest.raises(EngineError, match="window"):
        await reply(growing)


async def test_an_abort_frees_the_sequence_in_the_engine(engine: VllmEngine) -> None:
    """A cancelled reply ends as cancelled and costs no more computing."""
    deltas = []
    async for delta in engine.stream("a", MESSAGES, Sampling(max_tokens=3000), cache_salt="s"):
        deltas.append(delta)
        if len(deltas) == 5:
            await engine.abort("a")
    assert deltas[-1].finish is FinishReason.CANCELLED
    assert sum(d.tokens for d in deltas) < 3000
    assert engine.queued() == 0


async def test_closing_a_stream_frees_the_sequence_too(engine: VllmEngine) -> None:
    """Nobody listening is as good as an abort."""
    stream = engine.stream("a", MESSAGES, Sampling(max_tokens=3000), cache_salt="s")
    async for _ in stream:
        break
    await stream.aclose()
    assert engine.queued() == 0


async def test_replies_are_batched(engine: VllmEngine) -> None:
    """Eight replies run inside the engine at once."""

    async def one(name: str) -> int:
        sampling = Sampling(max_tokens=16, seed=1)
        return sum([d.tokens async for d in engine.stream(name, MESSAGES, sampling, cache_salt="")])

    tasks = [asyncio.create_task(one(str(i))) for i in range(8)]
    await asyncio.sleep(0)
    assert engine.queued() == 8
    assert all(count >= 1 for count in await asyncio.gather(*tasks))


async def test_a_prompt_beyond_the_window_is_refused_with_its_size(engine: VllmEngine) -> None:
    """The engine never drops the beginning of a prompt silently."""
    long = [Message("user", "hello " * 20_000)]
    with pytest.raises(EngineError, match="window") as caught:
        async for _ in engine.stream("a", long, Sampling(), cache_salt="s"):
            pass
    assert caught.value.code == "prompt_too_long"


async def test_the_manifest_is_the_digest_of_the_files_loaded(
    engine: VllmEngine, tiny_model: Path
) -> None:
    """Anyone with the folder computes the same model identity."""
    weights = (tiny_model / "model.safetensors").read_bytes()
    assert engine.manifest()["model.safetensors"] == hashlib.sha256(weights).hexdigest()


async def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    """The person who mistyped a path reads what to check."""
    engine = VllmEngine(str(tmp_path))
    with pytest.raises(EngineError, match="check the folder or name"):
        await engine.start()
