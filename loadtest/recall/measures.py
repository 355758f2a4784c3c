"""What counts as remembered: one definition for every system, over the lines that it shows.

All measures lie between 0 and 1, but for tokens. Their intervals are bootstrapped over histories:
questions of one history share its filler and are no independent samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.recall.histories import Kind, Question, Statement

RANKS = (1, 5, 10)
Values = list[list[float]]
"""Of each history, the values of its questions."""
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a prompt: its text as the model reads it, and which turns said it.

    `recalled`: it stands among what was recalled, and not in the conversation itself. `dated`: it
    says its day. `outdated`: it says of itself that it held until some day.
    """

    text: str
    turns: frozenset[int]
    recalled: bool = False
    dated: bool = False
    outdated: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """What a system has for one question.

    Attributes:
        ranked: Best first, whatever the budget.
        prompt: In the order in which the prompt has them, within the budget.
        recalled: How many lines of the prompt were recalled for the question.
        tokens: What those take.
    """

    ranked: tuple[Line, ...]
    prompt: tuple[Line, ...]
    recalled: int
    tokens: int


def score(question: Question, shown: Shown) -> dict[str, float]:
    """Every measure that the question's kind has.

    - `recall@k`: share of the wanted statements among the first k lines of the ranking.
    - `in prompt`: every wanted statement stands in the prompt, with the words that answer.
    - `wrong`: what held before stands in the prompt as if it still did: some line of it neither
      says that it is outdated, nor is followed by a line of the newer value. Of what was recalled
      and the conversation itself the prompt's order says nothing; there the older line must say
      its day.
    - `right`: in the prompt and not wrong.
    - `in vain`, `tokens in vain`: for what was never said, whether anything was recalled, and
      what it takes.
    """
    if question.kind is Kind.NEVER:
        return {"in vain": float(shown.recalled > 0), "tokens in vain": float(shown.tokens)}
    found = {
        f"recall@{k}": sum(_any(one, shown.ranked[:k]) for one in question.wanted)
        / len(question.wanted)
        for k in RANKS
    }
    there = all(_any(one, shown.prompt) for one in question.wanted)
    found["in prompt"] = float(there)
    if question.kind is Kind.UPDATED:
        wrong = _wrong(question, shown.prompt)
        found |= {"wrong": float(wrong), "right": float(there and not wrong)}
    return found


def _any(statement: Statement, lines: Iterable[Line]) -> bool:
    return any(_says(line, statement) for line in lines)


def _says(line: Line, statement: Statement) -> bool:
    """Whether the line comes from the turn that said it and has its words whole."""
    if statement.turn not in line.turns:
        return False
    words = rf"(?<!\w){re.escape(statement.value)}(?!\w)"
    return bool(re.search(words, line.text, re.IGNORECASE))


def _wrong(question: Question, prompt: Sequence[Line]) -> bool:
    def lines(statements: Sequence[Statement]) -> list[tuple[int, Line]]:
        return [
            (at, line)
            for at, line in enumerate(prompt)
            if any(_says(line, one) for one in statements)
        ]

    def overtaken(at: int, old: Line) -> bool:
        return any(
            at < later if old.recalled == new.recalled else old.recalled and old.dated
            for later, new in lines(question.wanted)
        )

    return any(not old.outdated and not overtaken(at, old) for at, old in lines(question.stale))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions, with its 95 % interval over histories, and how many questions."""

    value: float
    low: float
    high: float
    questions: int


def estimate(histories: Values) -> Estimate:
    """Of the values of each history's questions; at least one history has one."""
    sums = np.array([sum(one) for one in histories])
    counts = np.array([len(one) for one in histories])
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[chosen].sum(axis=1) / np.maximum(counts[chosen].sum(axis=1), 1)
    low, high = np.percentile(means, (2.5, 97.5))
    questions = int(counts.sum())
    return Estimate(float(sums.sum() / questions), float(low), float(high), questions)


def difference(ours: Values, other: Values) -> Estimate:
    """Ours less the other's, question by question: both were asked the same."""
    return estimate(
        [
            [a - b for a, b in zip(mine, theirs, strict=True)]
            for mine, theirs in zip(ours, other, strict=True)
        ]
    )
