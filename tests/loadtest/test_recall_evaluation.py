"""The evaluation of recall: the product is ahead of both others, and what breaks it is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from loadtest.recall.__main__ import main
from loadtest.recall.evaluation import (
    ALL,
    BUDGETS,
    SYSTEMS,
    Findings,
    as_json,
    as_table,
    evaluate,
)
from loadtest.recall.histories import Half, Kind, load
from loadtest.recall.measures import Shown
from loadtest.recall.systems import EXTRACTORS, System, Vectors, token_cost
from runtime.enclave.embedding.static import StaticEmbedder
from tests.loadtest.recall_data import CSV, needs_data

pytestmark = needs_data
HISTORIES = 16
FEW = 4
MARGIN = 0.03


def measured(
    histories: int,
    half: Half = Half.HELD_OUT,
    *,
    extractor: str = "rules",
    rewire: Callable[[System], System] = lambda system: system,
) -> Findings:
    """A small evaluation."""
    return evaluate(
        load(CSV),
        half,
        histories=histories,
        turns=520,
        embedder=StaticEmbedder().load(),
        cost=token_cost(),
        extract=EXTRACTORS[extractor],
        rewire=rewire,
    )


@pytest.fixture(scope="module")
def found() -> Findings:
    """Of everything as it is."""
    return measured(HISTORIES)


@pytest.fixture(scope="module")
def facts() -> dict[str, Findings]:
    """Of the half for tuning, whose wordings have facts that rules find."""
    return {name: measured(FEW, Half.TUNING, extractor=name) for name in ("none", "rules")}


class Deaf:
    """A system that is asked something else than the question."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.name = system.name

    def show(self, question: str, vector: Vectors, budget: int) -> Shown:
        """As if the question had been about the weather, and its embedding turned round."""
        return self._system.show("What will the weather be?", -vector, budget)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("other", ["embeddings", "last turns"])
def test_more_answers_stand_in_the_prompt(found: Findings, budget: int, other: str) -> None:
    """Under the same budget of tokens, by a margin."""
    ahead = found.ahead(other, budget, ALL, "in prompt")
    assert ahead.value > MARGIN
    assert ahead.questions > 100


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("other", ["embeddings", "last turns"])
def test_more_is_right_after_an_update(found: Findings, budget: int, other: str) -> None:
    """The newer value is there, and the older one does not pass for current."""
    assert found.ahead(other, budget, Kind.UPDATED, "right").value > MARGIN


@pytest.mark.parametrize("budget", BUDGETS)
def test_less_of_what_is_told_after_an_update_is_wrong(found: Findings, budget: int) -> None:
    """Of the prompts that hold a value of the subject; the newest turns hold hardly any."""
    assert found.ahead("embeddings", budget, Kind.UPDATED, "wrong of told").value < -MARGIN
    of = (found.of(name, budget, Kind.UPDATED, "wrong of told") for name in SYSTEMS)
    ours, embeddings, last = (one.questions for one in of)
    assert ours > embeddings > last


@pytest.mark.parametrize("budget", BUDGETS)
def test_what_was_never_said_costs_less(found: Findings, budget: int) -> None:
    """Less than embeddings alone, which always fill the budget."""
    assert found.ahead("embeddings", budget, Kind.NEVER, "tokens in vain").value < 0


def test_a_deaf_system_scores_low(found: Findings) -> None:
    """Every measure of what is recalled falls where another question is answered."""
    deaf = measured(FEW, rewire=Deaf)
    for kind, measure in (
        *((ALL, one) for one in ("recall@1", "recall@5", "recall@10", "in prompt")),
        (Kind.UPDATED.value, "right"),
    ):
        for name in ("memory", "embeddings"):
            heard = found.of(name, BUDGETS[0], kind, measure)
            assert deaf.of(name, BUDGETS[0], kind, measure).value < heard.value / 3


@pytest.mark.parametrize("measure", ["recall@1", "recall@5"])
def test_without_facts_updates_suffer(facts: dict[str, Findings], measure: str) -> None:
    """What the extractor finds puts the newest value first."""
    without, with_facts = (
        facts[name].of("memory", BUDGETS[0], Kind.UPDATED, measure) for name in ("none", "rules")
    )
    assert without.value < with_facts.value - MARGIN


def test_the_report_has_every_kind_and_measure(found: Findings) -> None:
    """JSON with intervals and leads; a table with a line for each."""
    document = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert document["histories"] == HISTORIES
    for budget in BUDGETS:
        rows = document["budgets"][str(budget)]
        assert {row["kind"] for row in rows} == {ALL, *map(str, Kind)}
        for row in rows:
            assert row["memory"]["low"] <= row["memory"]["value"] <= row["memory"]["high"]
            lead = row["memory"]["value"] - row["embeddings"]["value"]
            assert row["ahead"]["embeddings"]["value"] == pytest.approx(lead)
    assert len(as_table(found).splitlines()) == 1 + sum(
        2 + len(rows) for rows in document["budgets"].values()
    )


def test_it_runs_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m loadtest.recall --histories 1 --json`: one document, progress apart."""
    arguments = ["--histories", "1", "--dialogues", str(CSV), "--json"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["half"] == "held-out"
    assert "history 1 of 1" in printed.err


def test_without_the_data_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line and an exit code."""
    monkeypatch.delenv("SOTTO_DATA", raising=False)
    assert main(["--histories", "1"]) != 0
    assert "SOTTO_DATA" in capsys.readouterr().err
