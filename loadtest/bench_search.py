"""The bench of search: how good its order is by the judged set, what it costs, how that grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from loadtest.judged import (
    HELD_OUT,
    TUNING,
    JudgedQuery,
    Judges,
    compose,
    data_file,
    load_queries,
    ndcg,
    read_profiles,
)
from loadtest.rounds import Comparison, Effort, progress
from personas.search import WEIGHTS, Embed, Index, Weights
from runtime.enclave.embedding.static import StaticEmbedder

_MANY, _FEWER = 100_000, 10_000
_FULL_ROUNDS = 7  # with less effort, fewer personas

# What the order of the index is measured against, in the same run.
BASELINES: dict[str, Weights] = {
    "BM25 alone": replace(WEIGHTS, passage=0, whole=0, enough=float("inf")),
    "one vector each": replace(WEIGHTS, words=0, passage=0),
    "all vectors": replace(WEIGHTS, words=0),
}


class Bench:
    """An index of so many personas, and what they are worth to each judged query.

    Attributes:
        build_s: Wall time of building the index.
        rss_bytes: By how much the process grew with it; 0 where the system does not tell.
    """

    def __init__(self, profiles: Sequence[tuple[str, ...]], embed: Embed) -> None:
        self.judges = Judges(profiles)
        self.queries = load_queries()
        self._gains = [self.judges.gains(one) for one in self.queries]
        held, began = _rss_bytes(), time.perf_counter()
        self.index = Index.build(self.judges.listings, embed=embed)
        self.build_s = time.perf_counter() - began
        self.rss_bytes = _rss_bytes() - held

    def ndcg(self, weights: Weights) -> list[float]:
        """Of each query, in their order."""
        self.index.weights = weights
        try:
            found = [self.index.search(one.query).hits for one in self.queries]
        finally:
            self.index.weights = WEIGHTS
        return [
            ndcg([int(hit.listing.handle[1:]) for hit in hits], gains)
            for hits, gains in zip(found, self._gains, strict=True)
        ]

    def latencies(self) -> list[float]:
        """Wall milliseconds of each query, asked once."""
        taken = []
        for one in self.queries:
            began = time.perf_counter()
            self.index.search(one.query)
            taken.append((time.perf_counter() - began) * 1e3)
        return taken


def search(effort: Effort) -> Iterator[Comparison]:
    """nDCG@10 against each part of the index alone; latency, memory and time to build."""
    path = data_file()
    if not path.is_file():
        progress("search: left out, since SOTTO_DATA names no folder with persona-chat data")
        return
    profiles = read_profiles(path)
    many = _MANY if effort.rounds >= _FULL_ROUNDS else _FEWER
    embed = StaticEmbedder().load().encode
    benches = []
    for count in (len(profiles), many):
        progress(f"search among {count:,} personas")
        bench = Bench(compose(profiles, count), embed)
        benches.append(bench)
        yield from _quality(bench, f"{count:,}")
    few, large = benches
    yield from _cost(few, large, (f"{len(profiles):,}", f"{many:,}"), effort)


def _quality(bench: Bench, count: str) -> Iterator[Comparison]:
    ours = bench.ndcg(WEIGHTS)
    theirs = {name: bench.ndcg(weights) for name, weights in BASELINES.items()}
    parts: dict[str, Callable[[JudgedQuery], bool]] = {
        "tuning half": lambda one: one.half == TUNING,
        "held-out half": lambda one: one.half == HELD_OUT,
        "misspelt": lambda one: one.kind == "misspelt",
        "paraphrased": lambda one: one.kind == "paraphrase",
    }
    for part, belongs in parts.items():
        chosen = [number for number, one in enumerate(bench.queries) if belongs(one)]
        for name, values in theirs.items():
            pair = (_mean(ours, chosen), _mean(values, chosen))
            yield Comparison(f"{part}, {count}", name, "nDCG@10", (pair,))


def _mean(values: list[float], chosen: list[int]) -> float:
    return float(np.mean([values[number] for number in chosen]))


def _cost(
    few: Bench, large: Bench, counts: tuple[str, str], effort: Effort
) -> Iterator[Comparison]:
    progress("search: latency")
    few.latencies(), large.latencies()
    rounds = [(large.latencies(), few.latencies()) for _ in range(effort.rounds)]
    less, more = counts
    for percent in (50, 99):
        pairs = tuple(
            (float(np.percentile(ours, percent)), float(np.percentile(other, percent)))
            for ours, other in rounds
        )
        yield Comparison(f"p{percent} of a search, {more}", less, "ms", pairs)
    yield Comparison(f"building, {more}", less, "s", ((large.build_s, few.build_s),))
    vectors = (large.index.vector_bytes / 1e6, few.index.vector_bytes / 1e6)
    yield Comparison(f"vectors, {more}", less, "MB", (vectors,))
    if large.rss_bytes > 0 < few.rss_bytes:
        grown = (large.rss_bytes / 1e6, few.rss_bytes / 1e6)
        yield Comparison(f"all of it in memory, {more}", less, "MB", (grown,))


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * 4096
