"""The attacker: what he is given, that he learns from it, and that he cannot look it up."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.attack import (
    WATCHES,
    Cost,
    Finding,
    Told,
    as_json,
    as_table,
    classify,
    cost,
    main,
    watch_all,
)
from loadtest.attack_replies import PacedModel, Reply, load_replies
from loadtest.attack_traces import Trace, record
from loadtest.scenarios import COLUMN
from runtime.enclave.shaped import FRAME_PERIOD_S
from runtime.errors import SetupError, SottoError
from transport.shaping import BUCKETS, CHUNK_OVERHEAD, MIN_FRAMES, UNIT, Shaping, rung

WORK, BOOKS = "What do you do for a living?", "Do you like to read?"
CONVERSATIONS = (
    f"User 1: Hi!\nUser 2: {WORK}\nUser 1: I'm a nurse.\nUser 2: {BOOKS}\nUser 1: Yes – novels.",
    f"* User 1: {WORK}\n* User 2: I mend old clocks, mostly.\n* User 1: What about books, then?",
    "User 1: I read about your job.\nUser 2: No question was asked.\nUser 1: Right?",
    f"User 1: What do you read for work?\nUser 2: Both topics.\nUser 1: {BOOKS}\nUser 2: 😀 "
    + "x" * 9,
)
REPLIES = {(0, "I'm a nurse."), (0, "I mend old clocks, mostly."), (1, "Yes – novels.")}


def write(path: Path) -> Path:
    """A CSV as the data set has it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([COLUMN])
        rows.writerows([conversation] for conversation in CONVERSATIONS)
    return path


def a_trace(topic: int, dialogue: int, sizes: list[int]) -> Trace:
    """A reply whose chunks have these sizes."""
    chunks = tuple((0.1 * n, size) for n, size in enumerate(sizes))
    reply = Reply(topic, dialogue, WORK, "text")
    return Trace(reply, Shaping.OFF, 500, chunks, 0.1, 0.2, 0.3, 0.4)


def test_replies_follow_a_question_on_one_topic(tmp_path: Path) -> None:
    """Neither statements, nor questions on both topics, nor a side's own next line."""
    found = load_replies(write(tmp_path / "data.csv"), 2)
    assert {(one.topic, one.text) for one in found} > REPLIES
    assert sorted(one.topic for one in found) == [0, 0, 1, 1]
    assert {one.dialogue for one in found} == {0, 1, 3}
    with pytest.raises(SetupError, match="fewer than the 3"):
        load_replies(tmp_path / "data.csv", 3)


def test_tokens_are_the_text(tmp_path: Path) -> None:
    """Whole characters, in the embedded model's tokens, and nothing is lost."""
    replies = load_replies(write(tmp_path / "data.csv"), 2)
    model = PacedModel(replies)
    for one in (*replies, replace(replies[0], text="😀 naïve – 日本")):
        tokens = model.tokens(one.text)
        assert "".join(tokens) == one.text
        assert len(tokens) > 1
        assert all(tokens)


def test_what_differs_is_told() -> None:
    """One topic's replies have larger chunks: right about all, from one reply and from five."""
    traces = [
        a_trace(topic, dialogue, [70 + 20 * topic] * (5 + dialogue % 7))
        for topic in (0, 1)
        for dialogue in range(50 * topic, 50 * topic + 50)
    ]
    one, session = classify(traces, watch_all)
    assert one.accuracy == session.accuracy == 1.0
    assert sum(one.asked) == 100
    assert sum(session.asked) >= 10
    assert one.interval[0] > 0.9


def test_what_is_the_same_is_not_told() -> None:
    """Equal traces: no better than chance."""
    traces = [a_trace(topic, dialogue, [1024] * 64) for topic in (0, 1) for dialogue in range(50)]
    one, _ = classify(traces, watch_all)
    assert one.accuracy <= 0.5
    assert one.interval[0] < 0.5


def test_a_dialogue_that_was_learned_is_not_asked_about() -> None:
    """Each dialogue has a size of its own and a topic by chance: known again, it would be told."""
    rng = random.Random(3)
    traces = [
        a_trace(topic, dialogue, [40 + 6 * dialogue] * 5)
        for dialogue in range(60)
        for topic in (rng.randrange(2),)
        for _ in range(4)
    ]
    assert classify(traces, watch_all)[0].accuracy < 0.75


def test_the_interval_of_an_accuracy() -> None:
    """Wilson's, against the textbook: 8 of 10 is 0.49 to 0.94."""
    told = Told((5, 3), (5, 5))
    assert told.accuracy == 0.8
    assert told.interval == pytest.approx((0.490, 0.943), abs=1e-3)


@pytest.mark.integration
async def test_frames_as_the_attacker_sees_them(tmp_path: Path) -> None:
    """Through the real roles: sizes and totals of buckets; frames of one size, on the clock."""
    replies = load_replies(write(tmp_path / "data.csv"), 2)
    progress: list[str] = []
    traces = await record(replies, streams=12, progress=progress.append)
    assert len(traces) == 3 * len(replies)
    head = _head(traces)
    for trace in traces:
        (_, first), *others = trace.chunks
        sizes = [first - head, *(size for _, size in others)]
        match trace.shaping:
            case Shaping.OFF:
                assert len(sizes) >= 3
            case Shaping.BUCKET:
                assert set(sizes) <= {size + CHUNK_OVERHEAD for size in BUCKETS}
                assert sum(sizes) // UNIT == rung(sum(sizes) // UNIT)
            case Shaping.CADENCE:
                # More than the fewest where the machine stood still for seconds.
                assert sizes == [1024] * max(MIN_FRAMES, rung(len(sizes)))
                # None before its tick; how late it comes depends on the machine.
                assert all(
                    time >= number * FRAME_PERIOD_S for number, (time, _) in enumerate(trace.chunks)
                )
                assert trace.completed < trace.closed
    assert len({trace.request for trace in traces if trace.shaping is Shaping.OFF}) > 1
    assert len({trace.request for trace in traces if trace.shaping is not Shaping.OFF}) == 1
    off = [trace for trace in traces if trace.shaping is Shaping.OFF]
    assert cost(off, off).bytes_ratio == 1.0
    assert cost([t for t in traces if t.shaping is Shaping.CADENCE], off).bytes_ratio > 10


def _head(traces: list[Trace]) -> int:
    """Bytes of the response's head, which share the first chunk of every stream."""
    return next(t.chunks[0][1] for t in traces if t.shaping is Shaping.CADENCE) - 1024


def test_the_report_has_every_figure() -> None:
    """Three settings, what was watched, and costs; the same in JSON."""
    told = {name: Told((4, 3), (5, 5)) for name in WATCHES}
    finding = Finding(told, told, Cost(2.5, 2.0, 0.025, 0.026, 2.6))
    found = dict.fromkeys(Shaping, finding)
    head, settings, *lines = as_table(found, 25).splitlines()
    assert "work or books? 25 replies of each" in head
    assert settings.split() == ["watched", *Shaping]
    assert next(line for line in lines if line.startswith("5 replies: sizes")).count("70%") == 3
    assert next(line for line in lines if "first word later" in line).split()[-2:] == ["25", "ms"]
    document = json.loads(json.dumps(as_json(found, 25), allow_nan=False))
    assert set(document["settings"]) == set(Shaping)
    assert document["settings"]["off"]["one_reply"]["sizes"]["accuracy"] == 0.7


def test_without_data_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2, without a file and with one that has too little."""
    monkeypatch.delenv("SOTTO_DATA", raising=False)
    assert main([]) == 2
    assert "--dialogues" in capsys.readouterr().err
    assert main(["--dialogues", str(write(tmp_path / "data.csv"))]) == 2
    assert "--replies" in capsys.readouterr().err


@pytest.mark.integration
async def test_a_reply_that_fails_is_one_clear_error() -> None:
    """Nothing is measured from the rest, and what went wrong is said once."""
    replies = [Reply(0, n, "x" * 20_000, "never said") for n in range(4)]
    with pytest.raises(SottoError, match="status 400"):
        await record(replies, streams=4, progress=lambda _: None)
