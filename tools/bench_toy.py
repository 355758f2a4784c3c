"""How fast the embedded engine is on this machine.

    python tools/bench_toy.py [--streams 1 8]

Prints how long the engine's start takes, the import of its library included. Then, for each
number of streams: the tokens per second of replies of a fixed length (128 tokens after a
prompt of 100), and of real conversations through the engine, with the time to the first
token. Each figure is the best of three, so that other work on the machine disturbs it least.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from runtime.enclave.engines.base import Message, Sampling
from runtime.enclave.engines.embedded import TOY_FOLDER, EmbeddedEngine
from runtime.enclave.engines.toy.network import ToyMeta, ToyNetwork, ToyState
from runtime.enclave.engines.toy.sample import draw

NEW_TOKENS = 128
CHAT = [
    Message("system", "I love to bake cookies. I have two dogs. I live by the sea. I paint."),
    Message("user", "Hi! How are you today?"),
    Message("assistant", "I'm good, thanks! I just came back from a walk by the sea. And you?"),
    Message("user", "I had a long day at work, but it was fine. What do you do for fun?"),
]


def fixed_length(network: ToyNetwork) -> None:
    """One reply of NEW_TOKENS tokens that nothing ends early."""
    rng = np.random.default_rng(1)
    state = ToyState(network, 100 + NEW_TOKENS)
    logits = state.extend(list(range(300, 400)))[0]
    for _ in range(NEW_TOKENS - 1):
        logits = state.extend([draw(logits, 0.8, 0.95, rng)])[0]
    draw(logits, 0.8, 0.95, rng)


def fixed_rate(network: ToyNetwork, streams: int) -> float:
    """Tokens per second of all streams together, in the engine's number of threads."""
    with ThreadPoolExecutor(min(streams, os.cpu_count() or 1)) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: fixed_length(network), range(streams)))
        return streams * NEW_TOKENS / (time.perf_counter() - began)


async def reply(engine: EmbeddedEngine, name: str, seed: int) -> tuple[int, float]:
    """Tokens of one reply, and seconds to its first."""
    began, first, tokens = time.perf_counter(), 0.0, 0
    sampling = Sampling(seed=seed)
    async for delta in engine.stream(name, CHAT, sampling, cache_salt=""):
        first = first or time.perf_counter() - began
        tokens += delta.tokens
    return tokens, first


async def replies(engine: EmbeddedEngine, streams: int) -> tuple[float, float]:
    """Tokens per second over ten rounds of replies, and the median time to first token."""

    async def one(stream: int) -> list[tuple[int, float]]:
        return [await reply(engine, f"{stream}", 10 * stream + i) for i in range(10)]

    began = time.perf_counter()
    done = [r for rs in await asyncio.gather(*map(one, range(streams))) for r in rs]
    spent = time.perf_counter() - began
    return sum(r[0] for r in done) / spent, statistics.median(r[1] for r in done)


async def measure(streams: list[int]) -> None:
    """Prints all figures."""
    engine = EmbeddedEngine()
    began = time.perf_counter()
    await engine.start()
    print(f"start {time.perf_counter() - began:.2f} s, {os.cpu_count()} processors")
    network = ToyNetwork(TOY_FOLDER, ToyMeta.read(TOY_FOLDER))
    for count in streams:
        fixed = max(fixed_rate(network, count) for _ in range(3))
        runs = [await replies(engine, count) for _ in range(3)]
        print(
            f"{count} streams: {fixed:.0f} tokens/s at a fixed length; in conversation "
            f"{max(r[0] for r in runs):.0f} tokens/s, first token after "
            f"{1000 * min(r[1] for r in runs):.0f} ms (median)"
        )
    await engine.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    asyncio.run(measure(parser.parse_args().streams))


if __name__ == "__main__":
    main()
