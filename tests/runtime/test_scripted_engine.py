"""The paced script that stands in for a model in load tests."""

import asyncio

import pytest

from runtime.enclave.engines.base import Engine, FinishReason, Message, Sampling
from runtime.enclave.engines.scripted import ScriptedEngine

MESSAGES = [Message("user", "hello there")]


async def test_a_script_has_the_length_it_was_told() -> None:
    """A load test knows how many tokens each reply has."""
    engine: Engine = ScriptedEngine(first_token_s=0, token_s=0, tokens=30)
    deltas = [d async for d in engine.stream("a", MESSAGES, Sampling(), cache_salt="s")]
    assert sum(d.tokens for d in deltas) == 30
    assert deltas[-1].finish is FinishReason.STOP
    assert all(d.finish is None for d in deltas[:-1])


async def test_a_script_says_that_it_is_no_model() -> None:
    """Nobody can take its words for a model's."""
    assert "not a model" in (ScriptedEngine().notice or "")


async def test_a_limit_on_tokens_ends_a_script_as_it_ends_a_model() -> None:
    """max_tokens below the script's length finishes with `length`."""
    engine = ScriptedEngine(first_token_s=0, token_s=0, tokens=30)
    stream = engine.stream("a", MESSAGES, Sampling(max_tokens=4), cache_salt="s")
    deltas = [d async for d in stream]
    assert len(deltas) == 4
    assert deltas[-1].finish is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (("model",), "this is a paced script and not a "),
        (("and not", "paced"), "this is a "),
        (("a pa", "no such"), "this is "),
        (("this",), ""),
    ],
)
async def test_a_stop_text_ends_a_script_as_it_ends_a_model(
    stop: tuple[str, ...], said: str
) -> None:
    """The earliest one does, across words too, and is no part of the reply."""
    engine = ScriptedEngine(first_token_s=0, token_s=0, tokens=30)
    stream = engine.stream("a", MESSAGES, Sampling(stop=stop), cache_salt="s")
    deltas = [d async for d in stream]
    assert "".join(d.text for d in deltas) == said
    assert [d.finish for d in deltas if d.finish] == [FinishReason.STOP]


async def test_an_aborted_script_ends_as_cancelled() -> None:
    """An abort ends the stream within a tick, long before the script's end."""
    engine = ScriptedEngine(first_token_s=0, token_s=0.001, tokens=100_000)
    deltas = []
    async for delta in engine.stream("a", MESSAGES, Sampling(max_tokens=10**6), cache_salt="s"):
        deltas.append(delta)
        if len(deltas) == 3:
            await engine.abort("a")
    assert deltas[-1].finish is FinishReason.CANCELLED
    assert len(deltas) < 10


async def test_scripts_run_side_by_side() -> None:
    """Twenty paced replies take the time of one, not of twenty."""
    engine = ScriptedEngine(first_token_s=0, token_s=0.005, tokens=20)

    async def one(name: str) -> list[float]:
        loop = asyncio.get_running_loop()
        return [
            loop.time() async for _ in engine.stream(name, MESSAGES, Sampling(), cache_salt="s")
        ]

    times = await asyncio.gather(*(one(str(i)) for i in range(20)))
    # Every script had begun before any had ended: order of events, not a duration.
    assert max(t[0] for t in times) < min(t[-1] for t in times)


def test_a_script_counts_words_and_messages() -> None:
    """One token for each, so that a load test's prompts have a length; silence has no word."""
    engine = ScriptedEngine()
    said = ["hello there", "", "a", "no  line\nbreaks"]
    assert [engine.count_tokens([Message("user", text)]) for text in said] == [3, 1, 2, 4]
    assert engine.count_tokens([Message("user", text) for text in said]) == 10
    assert engine.count_tokens([]) == 0
