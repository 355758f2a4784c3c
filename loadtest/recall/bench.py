"""The evaluation as a part of `make bench`: what is missing, against the other two systems."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from loadtest.attack import find_data
from loadtest.recall.evaluation import ALL, BUDGETS, SYSTEMS, Findings, evaluate
from loadtest.recall.histories import Half, Kind, load
from loadtest.recall.systems import EXTRACTORS, Extractor, token_cost
from loadtest.rounds import Comparison, Effort, progress
from runtime.enclave.embedding.static import StaticEmbedder

HISTORIES = 24
TURNS = 520
_FOLDS = 4
_MOST_MS = 5.0  # what memory may add to a turn, all in all


def recall(effort: Effort) -> Iterator[Comparison]:
    """Shares of questions whose answer does not stand in the prompt, and how long a recall takes.

    A round is a quarter of the histories. Less than one is better than the other system.
    """
    path = find_data(None)
    if path is None:
        progress("recall: left out, since SOTTO_DATA names no folder with the data set")
        return
    histories = HISTORIES if effort.streams[-1] >= 64 else HISTORIES // 3
    found = measure(path, Half.HELD_OUT, histories=histories)
    for kind, of, name in (
        (ALL, "in prompt", "answers missing"),
        (Kind.UPDATED.value, "right", "wrong or missing after an update"),
    ):
        for budget, other in itertools.product(BUDGETS, SYSTEMS[1:]):
            ours, theirs = (
                _missing(found, system, budget, kind, of) for system in (SYSTEMS[0], other)
            )
            rounds = tuple(zip(ours, theirs, strict=True))
            yield Comparison(f"{name}, {budget} tokens", other, "of 1", rounds)
    for percent, seconds in ((50, found.p50_s), (99, found.p99_s)):
        rounds = ((seconds * 1e3, _MOST_MS),)
        yield Comparison(f"one recall, p{percent}", f"at most {_MOST_MS:g} ms", "ms", rounds)


def measure(
    path: Path,
    half: Half,
    *,
    histories: int = HISTORIES,
    turns: int = TURNS,
    extract: Extractor | None = None,
) -> Findings:
    """Load what it needs, and evaluate.

    Raises:
        SetupError: The file is no data set, or too small.
        EngineError: There is no embedder.
    """
    return evaluate(
        load(path),
        half,
        histories=histories,
        turns=turns,
        embedder=StaticEmbedder().load(),
        cost=token_cost(),
        extract=extract or EXTRACTORS["rules"],
        progress=progress,
    )


def _missing(found: Findings, system: str, budget: int, kind: str, measure: str) -> list[float]:
    values = found.values[system, budget, kind, measure]
    folds = [[one for part in values[fold::_FOLDS] for one in part] for fold in range(_FOLDS)]
    return [1 - sum(fold) / len(fold) for fold in folds if fold]
