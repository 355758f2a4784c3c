"""Shaping measured as an attacker would: which of two topics is it, from sealed frames alone?

Real replies on two topics go through the real roles under each setting of shaping; of each reply
the attacker has the times and lengths of its sealed chunks. A classifier learns from some
dialogues and is asked about others. docs/shaping.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from loadtest.attack_replies import TOKEN_S, TOPICS, load_replies
from loadtest.attack_traces import Trace, record
from loadtest.rounds import Comparison, Effort, progress
from loadtest.scenarios import data_file
from runtime.commands.common import print_json, say
from runtime.errors import Exit, SetupError, SottoError
from transport.shaping import Shaping

FOLDS = 5
SESSION = 5
"""Replies on one topic that the attacker takes together, where a person stays with it."""
REPLIES = 250
STREAMS = 24
_TREES = 200
_FIRST, _LAST = 32, 4  # chunks whose size and time are features of their own
_BINS = np.concatenate([np.arange(32, 256, 8), 2.0 ** np.arange(8, 15)])

Features = NDArray[np.float64]
Watch = Callable[[Trace], Features]


def watch_all(trace: Trace) -> Features:
    """All that is on the wire: sizes, times, their order and their number."""
    times = np.array([time for time, _ in trace.chunks])
    gaps = np.diff(times, prepend=0.0)
    return np.concatenate(
        [watch_sizes(trace), _ordered(gaps), _summary(gaps), _summary(times), [trace.closed]]
    )


def watch_sizes(trace: Trace) -> Features:
    """Sizes of chunks in their order, and their number; no time."""
    sizes = np.array([size for _, size in trace.chunks], dtype=float)
    counts, _ = np.histogram(sizes, _BINS)
    return np.concatenate([_ordered(sizes), counts, _summary(sizes), watch_total(trace)])


def watch_total(trace: Trace) -> Features:
    """What a meter shows: bytes of the whole reply."""
    return np.array([float(trace.total)])


def watch_request(trace: Trace) -> Features:
    """Bytes of the question."""
    return np.array([float(trace.request)])


WATCHES: dict[str, Watch] = {
    "all": watch_all,
    "sizes": watch_sizes,
    "total": watch_total,
    "request": watch_request,
}


def _ordered(values: NDArray[np.float64]) -> Features:
    first, last = np.full(_FIRST, -1.0), np.full(_LAST, -1.0)
    first[: len(values)] = values[:_FIRST]
    last[: len(values)] = values[::-1][:_LAST]
    return np.concatenate([first, last])


def _summary(values: NDArray[np.float64]) -> Features:
    middle = np.percentile(values, (10, 25, 50, 75, 90))
    return np.array([len(values), values.sum(), values.mean(), values.std(), values.max(), *middle])


@dataclass(frozen=True, slots=True)
class Told:
    """How often the attacker was right about things that it had not learned from.

    Attributes:
        right: In each fold.
        asked: In each fold; both topics as often, so that chance is one half.
    """

    right: tuple[int, ...]
    asked: tuple[int, ...]

    @classmethod
    def of(cls, folds: Sequence[tuple[int, int]]) -> Told:
        """Of `right` and `asked` of each fold."""
        return cls(*zip(*folds, strict=True))

    @property
    def accuracy(self) -> float:
        """Over all folds."""
        return sum(self.right) / sum(self.asked)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Wilson's score interval)."""
        n, p, z = sum(self.asked), self.accuracy, 1.96
        middle = p + z * z / (2 * n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def classify(traces: Sequence[Trace], watch: Watch) -> tuple[Told, Told]:
    """Tell topics apart from single replies, and from `SESSION` replies on one topic.

    A random forest, trained in each fold on the other folds' dialogues. Of several replies it
    takes the product of its probabilities.

    Raises:
        SetupError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise SetupError(
            "the attacker needs scikit-learn, which is not installed; run it with `make bench`",
            code="sklearn",
        ) from None
    samples = np.stack([watch(trace) for trace in traces])
    topics = np.array([trace.reply.topic for trace in traces])
    groups = [trace.reply.dialogue for trace in traces]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    ones, sessions = [], []
    for train, test in folds.split(samples, topics, groups):
        forest = RandomForestClassifier(_TREES, min_samples_leaf=2, random_state=0)
        forest.fit(samples[train], topics[train])
        # No reply is certain, so that one of several cannot outweigh all others.
        chance = np.clip(forest.predict_proba(samples[test])[:, 1], 0.01, 0.99)
        odds = np.log(chance / (1 - chance))
        ones.append(_told(odds, topics[test]))
        sessions.append(_told(*_in_sessions(odds, topics[test])))
    return Told.of(ones), Told.of(sessions)


def _told(odds: Features, topics: NDArray[np.int_]) -> tuple[int, int]:
    # Where it cannot tell at all it says the first topic, which is right half of the time.
    return int(np.sum((odds > 0) == (topics == 1))), len(topics)


def _in_sessions(odds: Features, topics: NDArray[np.int_]) -> tuple[Features, NDArray[np.int_]]:
    """Replies on one topic by fives, in their order; what is left over is left out."""
    sums: list[float] = []
    said: list[int] = []
    for topic in range(len(TOPICS)):
        of_topic = odds[topics == topic]
        whole = len(of_topic) // SESSION * SESSION
        found = of_topic[:whole].reshape(-1, SESSION).sum(axis=1)
        sums += found.tolist()
        said += [topic] * len(found)
    return np.array(sums), np.array(said)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a setting costs beside `off`, for the same replies at the same pace: medians.

    Attributes:
        bytes_ratio: Sealed bytes of the reply.
        request_ratio: Sealed bytes of the request.
        first_word_s, last_word_s: Seconds later.
        closed_s: From the final event to the end of the stream, in seconds; not beside `off`.
    """

    bytes_ratio: float
    request_ratio: float
    first_word_s: float
    last_word_s: float
    closed_s: float


def cost(traces: Sequence[Trace], off: Sequence[Trace]) -> Cost:
    """Of one setting; the two are in one order."""
    pairs = list(zip(traces, off, strict=True))
    return Cost(
        bytes_ratio=statistics.median(a.total / b.total for a, b in pairs),
        request_ratio=statistics.median(a.request / b.request for a, b in pairs),
        first_word_s=statistics.median(a.first_word - b.first_word for a, b in pairs),
        last_word_s=statistics.median(a.last_word - b.last_word for a, b in pairs),
        closed_s=statistics.median(a.closed - a.completed for a in traces),
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """One setting under attack.

    Attributes:
        one: What was told from one reply, by what was watched.
        session: The same from several replies on one topic.
        cost: Beside `off`.
    """

    one: dict[str, Told]
    session: dict[str, Told]
    cost: Cost


def findings(traces: Sequence[Trace]) -> dict[Shaping, Finding]:
    """Of each setting."""
    by_setting = {
        shaping: sorted(
            (trace for trace in traces if trace.shaping is shaping),
            key=lambda trace: (trace.reply.topic, trace.reply.dialogue, trace.reply.question),
        )
        for shaping in Shaping
    }
    found = {}
    for shaping, these in by_setting.items():
        told = {name: classify(these, watch) for name, watch in WATCHES.items()}
        found[shaping] = Finding(
            one={name: one for name, (one, _) in told.items()},
            session={name: session for name, (_, session) in told.items()},
            cost=cost(these, by_setting[Shaping.OFF]),
        )
    return found


async def attack(effort: Effort) -> AsyncIterator[Comparison]:
    """The attack as a bench: four replies of each topic for each stream of the widest path."""
    path = find_data(None)
    if path is None:
        progress("the attacker: left out, since SOTTO_DATA names no folder with the data set")
        return
    widest = max(effort.streams)
    replies = load_replies(path, 4 * widest)
    traces = await record(replies, streams=min(STREAMS, widest), progress=progress)
    for name, finding in findings(traces).items():
        for text, told in (
            ("one reply", finding.one["all"]),
            (f"{SESSION} replies", finding.session["all"]),
        ):
            rounds = tuple(
                (right / asked, 0.5) for right, asked in zip(told.right, told.asked, strict=True)
            )
            yield Comparison(f"topic told from {text}, {name}", "chance", "of 1", rounds)
    by_reply = {(trace.shaping, trace.reply): trace for trace in traces}
    for name in (Shaping.BUCKET, Shaping.CADENCE):
        pairs = [(by_reply[name, one], by_reply[Shaping.OFF, one]) for one in replies]
        for text, unit, value in _COSTS:
            rounds = tuple((value(a), value(b)) for a, b in pairs)
            yield Comparison(f"{text}, {name}", "off", unit, rounds)


_COSTS: tuple[tuple[str, str, Callable[[Trace], float]], ...] = (
    ("bytes of a reply", "bytes", lambda trace: trace.total),
    ("first word", "ms", lambda trace: trace.first_word * 1e3),
    ("last word", "ms", lambda trace: trace.last_word * 1e3),
    ("end of the stream", "ms", lambda trace: trace.closed * 1e3),
)


def find_data(chosen: Path | None) -> Path | None:
    """The chosen file, else the one in the folder SOTTO_DATA, if it is there."""
    if chosen is None:
        return data_file()
    return chosen if chosen.is_file() else None


def as_json(found: dict[Shaping, Finding], replies: int) -> dict[str, Any]:
    """Everything."""

    def told(one: Told) -> dict[str, Any]:
        return {**asdict(one), "accuracy": one.accuracy, "interval": one.interval}

    return {
        "topics": list(TOPICS),
        "replies_of_each_topic": replies,
        "settings": {
            shaping.value: {
                "one_reply": {name: told(one) for name, one in finding.one.items()},
                "session": {name: told(one) for name, one in finding.session.items()},
                "cost": asdict(finding.cost),
            }
            for shaping, finding in found.items()
        },
    }


def as_table(found: dict[Shaping, Finding], replies: int) -> str:
    """Accuracies with their intervals, and costs."""
    lines = [
        f"{' or '.join(TOPICS)}? {replies} replies of each; chance is 50 %; "
        f"95 % intervals; {FOLDS} folds by dialogue",
        _line("watched", *Shaping),
    ]
    for kind, text in (("one", "one reply"), ("session", f"{SESSION} replies")):
        for name in WATCHES:
            cells = (_percent(getattr(found[shaping], kind)[name]) for shaping in Shaping)
            lines.append(_line(f"{text}: {name}", *cells))
    costs = [found[shaping].cost for shaping in Shaping]
    lines += [
        _line("cost: bytes of a reply", *(f"x {one.bytes_ratio:.2f}" for one in costs)),
        _line("cost: bytes of a request", *(f"x {one.request_ratio:.2f}" for one in costs)),
        _line("cost: first word later", *(f"{one.first_word_s * 1e3:.0f} ms" for one in costs)),
        _line("cost: last word later", *(f"{one.last_word_s * 1e3:.0f} ms" for one in costs)),
        _line("padding after the final event", *(f"{one.closed_s:.2f} s" for one in costs)),
    ]
    return "\n".join(lines)


def _percent(told: Told) -> str:
    low, high = told.interval
    return f"{told.accuracy:.0%} ({low:.0%} – {high:.0%})"


def _line(*cells: str) -> str:
    return " ".join(
        f"{cell:{width}}" for cell, width in zip(cells, ("<32", *[">20"] * 3), strict=True)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Attack every setting; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.attack", description=__doc__)
    parser.add_argument("--replies", type=int, default=REPLIES, help="of each topic (%(default)s)")
    parser.add_argument("--streams", type=int, default=STREAMS, help="at once (%(default)s)")
    parser.add_argument(
        "--token-s", type=float, default=TOKEN_S, help="pause between tokens, seconds (%(default)s)"
    )
    parser.add_argument(
        "--dialogues",
        type=Path,
        metavar="FILE",
        help="CSV of Synthetic-Persona-Chat (in SOTTO_DATA)",
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    args = parser.parse_args(argv)
    try:
        path = find_data(args.dialogues)
        if path is None:
            raise SetupError(
                "the attacker needs replies; name a CSV of Synthetic-Persona-Chat with "
                "--dialogues, or its folder in SOTTO_DATA",
                code="dialogues",
            )
        replies = load_replies(path, args.replies)
        traces = uvloop.run(
            record(replies, streams=args.streams, progress=progress, token_s=args.token_s)
        )
        found = findings(traces)
    except SottoError as error:
        progress(f"attack: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    if args.json:
        print_json(as_json(found, args.replies))
    else:
        say(as_table(found, args.replies))
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
