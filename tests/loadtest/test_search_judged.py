"""The judged set is sound, and by it the index is better than each of its parts alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from loadtest.bench_search import BASELINES, Bench
from loadtest.judged import (
    HELD_OUT,
    TUNING,
    compose,
    data_file,
    line_digest,
    load_queries,
    ndcg,
    read_profiles,
)
from personas.search import WEIGHTS
from runtime.enclave.embedding.static import StaticEmbedder


@pytest.fixture(scope="module")
def bench() -> Bench:
    """All profiles of the data, or none of these tests."""
    if not data_file().is_file():
        pytest.skip("the data file synthetic-persona-chat/valid.csv is absent")
    return Bench(read_profiles(data_file()), StaticEmbedder().load().encode)


@pytest.fixture(scope="module")
def measured(bench: Bench) -> dict[str, list[float]]:
    """nDCG@10 of every query: by the index as it is, and by each baseline."""
    return {name: bench.ndcg(one) for name, one in {"index": WEIGHTS, **BASELINES}.items()}


def test_there_are_queries_of_many_kinds_in_two_halves() -> None:
    """At least sixty, no wish in both halves, and each half with some of every kind."""
    queries = load_queries()
    assert len(queries) >= 60
    kinds = {one.kind for one in queries}
    for half in (TUNING, HELD_OUT):
        assert {one.kind for one in queries if one.half == half} == kinds
    wishes = {
        half: {w for q in queries if q.half == half for w in q.wishes}
        for half in (TUNING, HELD_OUT)
    }
    assert not wishes[TUNING] & wishes[HELD_OUT]
    assert not [wish for q in queries for wish in q.wishes if wish.asked & wish.related]


def test_every_judgement_is_of_a_line_of_the_data(bench: Bench) -> None:
    """And every query can be answered well by some persona."""
    lines = {line_digest(one) for profile in read_profiles(data_file()) for one in profile}
    judged = {one for query in load_queries() for w in query.wishes for one in w.asked | w.related}
    assert judged <= lines
    assert len(bench.judges.listings) >= 1_000
    for query in bench.queries:
        assert np.count_nonzero(bench.judges.gains(query)) >= 3, query.query.text


def test_ndcg_is_one_for_the_best_order_and_less_for_others() -> None:
    """By hand: 3 at place two of an ideal 3 and 1."""
    gains = np.array([0.0, 1.0, 3.0])
    assert ndcg([2, 1, 0], gains) == pytest.approx(1.0)
    assert ndcg([], gains) == 0
    ideal = 3 + 1 / np.log2(3)
    assert ndcg([0, 2], gains) == pytest.approx((3 / np.log2(3)) / ideal)


def test_composed_profiles_are_the_same_every_time(bench: Bench) -> None:
    """Those of the data first, then new ones of its lines."""
    profiles = read_profiles(data_file())
    more = compose(profiles, len(profiles) + 50)
    assert more == compose(profiles, len(profiles) + 50)
    assert more[: len(profiles)] == profiles
    assert Counter(map(len, more[len(profiles) :])).keys() <= {4, 5}


@pytest.mark.parametrize(
    ("baseline", "half", "margin"),
    [
        ("BM25 alone", TUNING, 0.08),
        ("BM25 alone", HELD_OUT, 0.08),
        ("one vector each", TUNING, 0.03),
        ("one vector each", HELD_OUT, 0.03),
        ("all vectors", TUNING, 0.0),
        ("all vectors", HELD_OUT, -0.02),
    ],
)
def test_the_index_is_better_than_its_parts(
    bench: Bench, measured: dict[str, list[float]], baseline: str, half: str, margin: float
) -> None:
    """By nDCG@10; on the half that was not tuned on, words add nothing to all vectors' mean."""
    ours, theirs = measured["index"], measured[baseline]
    chosen = [number for number, one in enumerate(bench.queries) if one.half == half]
    better = np.mean([ours[n] for n in chosen]) - np.mean([theirs[n] for n in chosen])
    assert better > margin
    assert np.mean([ours[n] for n in chosen]) > 0.7


def test_misspelt_words_are_understood(bench: Bench, measured: dict[str, list[float]]) -> None:
    """Nearly as well as the right ones would be."""
    ours = measured["index"]
    misspelt = [ours[n] for n, one in enumerate(bench.queries) if one.kind == "misspelt"]
    assert len(misspelt) >= 10
    assert np.mean(misspelt) > 0.9
