"""The embedded engine with the bundled model: the real thing, as a first run meets it."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from runtime.enclave.engines.base import Delta, EngineError, FinishReason, Message, Sampling
from runtime.enclave.engines.embedded import TOY_FOLDER, EmbeddedEngine
from runtime.enclave.engines.toy.network import ToyMeta, ToyNetwork, ToyState
from runtime.enclave.engines.toy.sample import draw
from runtime.enclave.engines.toy.text import ReplyDecoder, ToyText

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SOTTO_DATA", ROOT / ".." / "shared" / "data"))
CSV = DATA / "synthetic-persona-chat" / "valid.csv"

FACTS = Message("system", "I love to bake cookies.\nI have two dogs.\nI live by the sea.")
CHAT = [FACTS, Message("user", "Hi! What do you do for fun?")]


@pytest.fixture
async def engine() -> AsyncIterator[EmbeddedEngine]:
    """The bundled model, two replies at a time."""
    engine = EmbeddedEngine(parallel=2)
    await engine.start()
    yield engine
    await engine.close()


async def collect(
    engine: EmbeddedEngine, request_id: str, messages: list[Message], sampling: Sampling
) -> list[Delta]:
    return [d async for d in engine.stream(request_id, messages, sampling, cache_salt="salt")]


async def reply(
    engine: EmbeddedEngine, messages: list[Message], sampling: Sampling, request_id: str = "r"
) -> str:
    return "".join(d.text for d in await collect(engine, request_id, messages, sampling))


async def test_streams_a_reply(engine: EmbeddedEngine) -> None:
    """Text comes in pieces, only the last of which says how the reply ended."""
    deltas = await collect(engine, "r", CHAT, Sampling(seed=1))
    assert [d.finish for d in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish is FinishReason.STOP
    assert len(deltas) > 2
    text = "".join(d.text for d in deltas)
    assert text == text.strip()
    assert " " in text
    assert "<|" not in text


async def test_text_is_that_of_its_tokens(engine: EmbeddedEngine) -> None:
    """No character or space is lost on the way: the pieces spell what the network chose."""
    meta = ToyMeta.read(TOY_FOLDER)
    text, network = ToyText(TOY_FOLDER, meta.role_tokens), ToyNetwork(TOY_FOLDER, meta)
    ids = text.prompt(CHAT)
    state, expected = ToyState(network, meta.context_tokens), b""
    logits = state.extend(ids)[0]
    while (token := draw(logits, 0, 1, np.random.default_rng())) < text.role_start:
        expected += text.bytes_of(token)
        logits = state.extend([token])[0]
    deltas = await collect(engine, "r", CHAT, Sampling(temperature=0))
    assert "".join(d.text for d in deltas) == expected.decode().removeprefix(" ")


async def test_counts_tokens_of_prompt_and_reply(engine: EmbeddedEngine) -> None:
    """A prompt grows by its messages; a reply says how many tokens its text stands for."""
    assert engine.count_tokens(CHAT) > engine.count_tokens(CHAT[:1]) > engine.count_tokens([])
    deltas = await collect(engine, "r", CHAT, Sampling(seed=3, max_tokens=5))
    assert sum(d.tokens for d in deltas) == 5
    assert deltas[-1].finish is FinishReason.LENGTH


async def test_same_seed_same_reply(engine: EmbeddedEngine) -> None:
    """A seed repeats a reply; other seeds make others."""
    seeds = range(6)
    first = [await reply(engine, CHAT, Sampling(seed=seed)) for seed in seeds]
    again = [await reply(engine, CHAT, Sampling(seed=seed)) for seed in seeds]
    assert first == again
    assert len(set(first)) > 1


async def test_parallel_replies_do_not_mix(engine: EmbeddedEngine) -> None:
    """More replies than workers: all of them end, each as it would have been alone."""
    prompts = [[FACTS, Message("user", f"I am {age} years old. And you?")] for age in range(20, 44)]
    alone = [await reply(engine, p, Sampling(seed=i)) for i, p in enumerate(prompts)]
    together = await asyncio.gather(
        *(reply(engine, p, Sampling(seed=i), f"r{i}") for i, p in enumerate(prompts))
    )
    assert together == alone
    assert engine.queued() == 0


async def test_abort_ends_a_running_reply(engine: EmbeddedEngine) -> None:
    """After an abort the very next thing read is the end, and the engine goes on serving."""
    stream = engine.stream("r", CHAT, Sampling(seed=1), cache_salt="salt")
    await anext(stream)
    await engine.abort("r")
    await engine.abort("r")
    assert [d async for d in stream] == [Delta("", 0, FinishReason.CANCELLED)]
    await engine.abort("never seen")
    assert await reply(engine, CHAT, Sampling(seed=1))


async def test_abort_ends_a_waiting_reply() -> None:
    """A reply that waits for a worker can be given up; those around it are untouched."""
    engine = EmbeddedEngine(parallel=1)
    await engine.start()
    assert engine._loaded is not None
    gate = threading.Event()
    engine._loaded.pool.submit(gate.wait)  # its worker is busy until all of them wait
    tasks = [
        asyncio.create_task(collect(engine, f"r{i}", CHAT, Sampling(seed=i))) for i in range(3)
    ]
    await asyncio.sleep(0)
    assert engine.queued() == 3
    await engine.abort("r2")
    gate.set()
    first, second, third = await asyncio.gather(*tasks)
    assert third == [Delta("", 0, FinishReason.CANCELLED)]
    assert first[-1].finish is second[-1].finish is FinishReason.STOP
    await engine.close()


async def test_closing_the_stream_frees_its_place() -> None:
    """A reader that goes away leaves its worker and its request id to the next."""
    engine = EmbeddedEngine(parallel=1)
    await engine.start()
    for _ in range(20):
        stream = engine.stream("r", CHAT, Sampling(seed=1), cache_salt="salt")
        await anext(stream)
        await stream.aclose()
    assert engine.queued() == 0
    assert await reply(engine, CHAT, Sampling(seed=1))
    await engine.close()


async def test_close_ends_streams_and_start_serves_again(engine: EmbeddedEngine) -> None:
    """Closing cancels what runs; the engine can be started again."""
    stream = engine.stream("r", CHAT, Sampling(seed=1), cache_salt="salt")
    await anext(stream)
    await engine.close()
    await engine.close()
    assert [d.finish async for d in stream] == [FinishReason.CANCELLED]
    with pytest.raises(EngineError, match="start") as refused:
        engine.count_tokens(CHAT)
    assert refused.value.code == "not_started"
    await engine.start()
    assert await reply(engine, CHAT, Sampling(seed=1))


def prompt_of(engine: EmbeddedEngine, tokens: int) -> list[Message]:
    """A prompt of exactly so many tokens."""
    words = ["a"] * (tokens - engine.count_tokens([Message("user", "a")]) + 1)
    messages = [Message("user", " ".join(words))]
    assert engine.count_tokens(messages) == tokens
    return messages


async def test_a_prompt_may_fill_the_window_but_for_one_token(engine: EmbeddedEngine) -> None:
    """At the edge one token of reply is made, and said to be cut."""
    messages = prompt_of(engine, engine.context_tokens - 1)
    deltas = await collect(engine, "r", messages, Sampling(seed=1))
    assert sum(d.tokens for d in deltas) == 1
    assert deltas[-1].finish is FinishReason.LENGTH


@pytest.mark.parametrize("extra", [0, 1, 100_000])
async def test_a_longer_prompt_is_refused(engine: EmbeddedEngine, extra: int) -> None:
    """Nothing is cut away in silence: the caller learns the limit and what to do."""
    messages = [Message("user", " ".join(["a"] * (engine.context_tokens + extra)))]
    with pytest.raises(EngineError, match="Send fewer or shorter messages") as refused:
        await collect(engine, "r", messages, Sampling())
    assert refused.value.code == "prompt_too_long"
    assert str(engine.context_tokens) in str(refused.value)


async def test_stop_text_ends_the_reply(engine: EmbeddedEngine) -> None:
    """The reply ends before a stop text, though it may span several tokens."""
    whole = await reply(engine, CHAT, Sampling(temperature=0))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 6]
    deltas = await collect(engine, "r", CHAT, Sampling(temperature=0, stop=("@@", stop)))
    assert "".join(d.text for d in deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish is FinishReason.STOP


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=0),
        Sampling(top_p=0),
        Sampling(top_p=1.1),
        Sampling(temperature=-1),
        Sampling(temperature=float("nan")),
        Sampling(seed=-1),
    ],
)
async def test_senseless_sampling_is_refused(engine: EmbeddedEngine, sampling: Sampling) -> None:
    """Parameters out of range are an error, not a strange reply."""
    with pytest.raises(EngineError) as refused:
        await collect(engine, "r", CHAT, sampling)
    assert refused.value.code == "invalid_sampling"


async def test_a_request_id_is_used_once_at_a_time(engine: EmbeddedEngine) -> None:
    """Two replies under one id could not be told apart, so the second is refused."""
    stream = engine.stream("r", CHAT, Sampling(seed=1), cache_salt="salt")
    await anext(stream)
    with pytest.raises(EngineError) as refused:
        await collect(engine, "r", CHAT, Sampling())
    assert refused.value.code == "duplicate_request"
    assert [d async for d in stream][-1].finish is FinishReason.STOP


async def test_opens_a_conversation_and_reads_any_text(engine: EmbeddedEngine) -> None:
    """No message at all, no facts, two messages in a row, another script: each gets a reply."""
    for messages in (
        [FACTS],
        [],
        [Message("user", "")],
        [Message("user", "Привет! 👋🏽 你好 \x00 \ufffd")],
        [FACTS, Message("user", "Hi!"), Message("user", "Anyone there?")],
        [FACTS, Message("user", "Hi!"), Message("assistant", "Hi."), Message("system", "I sing.")],
    ):
        assert await reply(engine, messages, Sampling(seed=1))


async def test_says_that_it_is_a_toy(engine: EmbeddedEngine) -> None:
    """Every user can see what answers, and the line that runs a real model."""
    assert engine.notice is not None
    assert "toy" in engine.notice
    assert "make run ENGINE=vllm MODEL=" in engine.notice


async def test_manifest_names_the_files_on_disk(engine: EmbeddedEngine) -> None:
    """Whoever has the folder can recompute the model's identity."""
    manifest = engine.manifest()
    assert {"model.onnx", "tokenizer.json"} <= manifest.keys()
    for name, digest in manifest.items():
        assert digest == hashlib.sha256((TOY_FOLDER / name).read_bytes()).hexdigest()
    assert sum(file.stat().st_size for file in TOY_FOLDER.glob("*.*")) <= 32_000_000


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
async def test_a_damaged_model_is_named(tmp_path: Path, name: str, damage: str) -> None:
    """A model that cannot be read fails at the start, with a remedy."""
    folder = tmp_path / "toy"
    shutil.copytree(TOY_FOLDER, folder)
    file = folder / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(EngineError, match="Restore the") as refused:
        await EmbeddedEngine(folder).start()
    assert refused.value.code == "model_unreadable"


def test_no_text_can_spell_a_role() -> None:
    """A message that quotes the model's own markers stays a message."""
    meta = ToyMeta.read(TOY_FOLDER)
    text = ToyText(TOY_FOLDER, meta.role_tokens)
    said = "".join(meta.role_tokens)
    ids = text.prompt([Message("system", said), Message("user", said), Message("assistant", said)])
    assert sum(token >= text.role_start for token in ids) == 4


def test_steps_agree_with_one_pass() -> None:
    """Token by token, the cache gives what reading the whole text at once gives."""
    meta = ToyMeta.read(TOY_FOLDER)
    network = ToyNetwork(TOY_FOLDER, meta)
    ids = ToyText(TOY_FOLDER, meta.role_tokens).prompt(CHAT)
    whole = ToyState(network, len(ids)).extend(ids, every=True)
    state = ToyState(network, meta.context_tokens)
    steps = np.concatenate([state.extend([token]) for token in ids])
    # Activations are rounded to int8 on the way, and one row rounds unlike many.
    np.testing.assert_allclose(steps, whole, atol=0.3)
    assert (steps.argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.9
    state = ToyState(network, len(ids))
    halves = [state.extend(ids[:10], every=True), state.extend(ids[10:], every=True)]
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=0.3)
    with pytest.raises(ValueError, match="room"):
        ToyState(network, len(ids) - 1).extend(ids)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_decoder_gives_whole_characters(size: int) -> None:
    """However the bytes are cut, no character is shown in half, and none is lost."""
    text = "Grüße 👋🏽, café – 你好"
    data = (" " + text).encode()
    decoder = ReplyDecoder(())
    pieces = [decoder.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_decoder_takes_stop_texts_out(size: int) -> None:
    """A stop text is never shown, not even its beginning; a false start is shown in the end."""
    data = b" so it is, STO, and STOP here"
    decoder = ReplyDecoder(("STOP", "NEVER"))
    shown = ""
    for at in range(0, len(data), size):
        shown += decoder.feed(data[at : at + size])
        assert "so it is, STO, and ".startswith(shown)
        if decoder.stopped:
            break
    assert shown == "so it is, STO, and "
    unfinished = ReplyDecoder(("STOP",))
    assert unfinished.feed(b" the ST") == "the "
    assert unfinished.flush() == "ST"


def test_nucleus_keeps_the_likeliest() -> None:
    """top_p leaves out the tail; temperature 0 takes the top; mass decides the rest."""
    logits = np.log(np.array([0.05, 0.6, 0.05, 0.3], dtype=np.float32))
    rng = np.random.default_rng(1)
    assert draw(logits, 0, 1, rng) == 1
    assert {draw(logits, 1, 0.5, rng) for _ in range(200)} == {1}
    assert {draw(logits, 1, 0.8, rng) for _ in range(200)} == {1, 3}
    counts = np.bincount([draw(logits, 1, 1, rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.05, 0.6, 0.05, 0.3], atol=0.04)


@pytest.mark.timeout(600)
@pytest.mark.skipif(not CSV.is_file(), reason=f"data set {CSV.name} is not here (SOTTO_DATA)")
def test_held_out_bits_per_byte() -> None:
    """The weights that ship predict unseen conversations at 1.5 bits per byte or better."""
    script = [sys.executable, str(ROOT / "tools" / "eval_toy.py"), "--data", str(CSV)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(script, capture_output=True, check=True, cwd=ROOT, env=environment)
    report = json.loads(run.stdout)
    assert report["conversations"] >= 50
    assert report["bits_per_byte"] <= 1.5


async def test_what_is_far_over_the_window_is_not_tokenized(engine: EmbeddedEngine) -> None:
    """The event loop counts before it refuses, and tokens of 128 KiB take it a tenth of a second.

    One token has several characters at most, so a bound is enough.
    """
    text = ToyText(TOY_FOLDER, ToyMeta.read(TOY_FOLDER).role_tokens)
    huge = [Message("user", "z" * 128 * 1024)]
    assert engine.context_tokens < engine.count_tokens(huge) < len(text.prompt(huge))
