"""The evaluation itself: every system, every question, and what the measures say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.recall.histories import Dialogue, Half, Kind, compose
from loadtest.recall.measures import RANKS, Estimate, Values, difference, estimate, score
from loadtest.recall.systems import (
    Cost,
    Embedder,
    Embeddings,
    Extractor,
    LastTurns,
    Memory,
    System,
    said,
)
from loadtest.reports import nearest_rank

BUDGETS = (512, 1024)
"""Tokens of a prompt for all that is remembered."""
SYSTEMS = (Memory.name, Embeddings.name, LastTurns.name)
ALL = "all"
"""Every kind of question that has an answer."""
_MEASURES = (*(f"recall@{k}" for k in RANKS), "in prompt")


@dataclass(frozen=True, slots=True)
class Findings:
    """What one run found.

    Attributes:
        half: Of the wordings and dialogues.
        histories, turns, questions: How many histories, turns of each, and questions in all.
        values: By system, budget, kind of question and measure: of each history, the values of
            its questions.
        recall_s: Of each recall of the product, in seconds, in ascending order.
    """

    half: Half
    histories: int
    turns: int
    questions: int
    values: dict[tuple[str, int, str, str], Values]
    recall_s: tuple[float, ...]

    def of(self, system: str, budget: int, kind: str, measure: str) -> Estimate:
        """One figure."""
        return estimate(self.values[system, budget, kind, measure])

    def ahead(self, other: str, budget: int, kind: str, measure: str) -> Estimate:
        """How far the product is above another system."""
        ours = self.values[Memory.name, budget, kind, measure]
        return difference(ours, self.values[other, budget, kind, measure])

    def measures(self) -> Iterator[tuple[str, str]]:
        """Every kind of question with every measure that it has."""
        system, budget = Memory.name, BUDGETS[0]
        order = [ALL, *(kind.value for kind in Kind)]
        found = [key[2:] for key in self.values if key[:2] == (system, budget)]
        return iter(sorted(found, key=lambda one: order.index(one[0])))

    @property
    def p50_s(self) -> float:
        """Of one recall."""
        return nearest_rank(self.recall_s, 50)

    @property
    def p99_s(self) -> float:
        """Of one recall."""
        return nearest_rank(self.recall_s, 99)


def evaluate(
    dialogues: Sequence[Dialogue],
    half: Half,
    *,
    histories: int,
    turns: int,
    embedder: Embedder,
    cost: Cost,
    extract: Extractor,
    rewire: Callable[[System], System] = lambda system: system,
    progress: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Ask every system every question of histories 0, 1, … of a half, under every budget.

    `rewire` may put something between a system and its questions: that is how a test breaks one.

    Raises:
        SetupError: The dialogues make no history so long.
    """
    values: dict[tuple[str, int, str, str], Values] = {}
    seconds: list[float] = []
    questions = 0
    for number in range(histories):
        progress(f"recall: history {number + 1} of {histories}")
        history = compose(dialogues, number, half, turns=turns)
        questions += len(history.questions)
        messages = embedder.encode([one.message for one in history.turns])
        both = embedder.encode([said(one) for one in history.turns])
        asked = embedder.encode([one.text for one in history.questions])
        memory = Memory(history, cost, embedder, messages, extract)
        systems: tuple[System, ...] = (
            memory,
            Embeddings(history, cost, both),
            LastTurns(history, cost),
        )
        for system in map(rewire, systems):
            for budget in BUDGETS:
                for question, vector in zip(history.questions, asked, strict=True):
                    found = score(question, system.show(question.text, vector, budget))
                    for measure, value in found.items():
                        kinds = (question.kind, ALL) if measure in _MEASURES else (question.kind,)
                        for kind in kinds:
                            of = values.setdefault((system.name, budget, str(kind), measure), [])
                            of += [[] for _ in range(number + 1 - len(of))]
                            of[number].append(value)
        seconds += memory.seconds
    for rest in dict.fromkeys(key[1:] for key in values):
        for name in SYSTEMS:  # not every question has every measure with every system
            of = values.setdefault((name, *rest), [])
            of += [[] for _ in range(histories - len(of))]
    return Findings(half, histories, turns, questions, values, tuple(sorted(seconds)))


def as_json(found: Findings) -> dict[str, Any]:
    """Everything that the table says, with every interval, and the product's lead."""
    return {
        "half": found.half.value,
        "histories": found.histories,
        "turns_of_each": found.turns,
        "questions": found.questions,
        "recall_ms": {"p50": found.p50_s * 1e3, "p99": found.p99_s * 1e3},
        "budgets": {
            str(budget): [
                {
                    "kind": kind,
                    "measure": measure,
                    **{
                        system: asdict(found.of(system, budget, kind, measure))
                        for system in SYSTEMS
                    },
                    "ahead": {
                        system: asdict(found.ahead(system, budget, kind, measure))
                        for system in SYSTEMS[1:]
                    },
                }
                for kind, measure in found.measures()
            ]
            for budget in BUDGETS
        },
    }


def as_table(found: Findings) -> str:
    """Means with their 95 % intervals over histories."""
    lines = [
        f"{found.questions} questions about {found.histories} histories of {found.turns} turns, "
        f"{found.half.value} wordings · 95 % intervals over histories · one recall: "
        f"p50 {found.p50_s * 1e3:.2g} ms, p99 {found.p99_s * 1e3:.2g} ms"
    ]
    for budget in BUDGETS:
        lines += ["", _line(f"{budget} tokens", "", *SYSTEMS)]
        for kind, measure in found.measures():
            cells = (_cell(found.of(system, budget, kind, measure)) for system in SYSTEMS)
            lines.append(_line(kind, measure, *cells))
    return "\n".join(lines)


def _cell(one: Estimate) -> str:
    if not one.questions:
        return "–"
    digits = 2 if one.high <= 1 else 0
    return f"{one.value:.{digits}f} ({one.low:.{digits}f} – {one.high:.{digits}f})"


def _line(*cells: str) -> str:
    widths = ("<16", "<14", ">20", ">20", ">20")
    return " ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
