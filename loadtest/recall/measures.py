"""What counts as remembered: one definition for every system, over the lines that it shows.

All measures lie between 0 and 1, but for tokens. Their intervals are bootstrapped over histories:
questions of one history share its filler and are no independent samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.recall.histories import Kind, Question, Statement

RANKS = (1, 5, 10)
Values = list[list[float]]
"""Of each history, the values of its questions."""
Floats = npt.NDArray[np.float64]
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
    - `wrong of told`: `wrong`, of what is either wrong or right. Who shows neither value is never
      wrong; here that counts for nothing.
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
        if wrong or there:
            found["wrong of told"] = float(wrong)
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
    """Of the values of each history's questions; of no question at all, 0 with all that may be."""
    questions = sum(map(len, histories))
    if not questions:
        return Estimate(0, 0, 1, 0)
    mean, resampled = _means(histories)
    return Estimate(mean, *_interval(resampled), questions)


def difference(ours: Values, other: Values) -> Estimate:
    """Ours less the other's: both were asked the same, and the same histories are drawn for both.

    Where both have a value for each question, that is the mean of the differences. Of no question
    at all on either side there is no difference, with all that may be.
    """
    questions = min(sum(map(len, one)) for one in (ours, other))
    if not questions:
        return Estimate(estimate(ours).value - estimate(other).value, -1, 1, 0)
    (mine, my_resampled), (theirs, their_resampled) = _means(ours), _means(other)
    return Estimate(mine - theirs, *_interval(my_resampled - their_resampled), questions)


def _means(histories: Values) -> tuple[float, Floats]:
    """The mean over all questions, and those of resampled histories; NaN without a question."""
    sums = np.array([sum(one) for one in histories])
    counts = np.array([len(one) for one in histories])
    chosen = np.random.default_rng(0).integers(0, len(sums), (_RESAMPLES, len(sums)))
    drawn = counts[chosen].sum(axis=1)
    means = np.divide(sums[chosen].sum(axis=1), drawn, np.full(_RESAMPLES, np.nan), where=drawn > 0)
    return float(sums.sum() / counts.sum()), means


def _interval(resampled: Floats) -> tuple[float, float]:
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)
