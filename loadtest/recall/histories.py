"""Long histories of one person and one persona, made from a seed, and questions about them.

The filler is Synthetic-Persona-Chat (Jandaghi et al., arXiv 2312.10007): messages of its first
speaker, replies of its second. Into it are woven statements of `loadtest.recall.topics` at known
turns. Filler that speaks of a topic of the history is left out, so that each question has one
right answer.
"""

from __future__ import annotations

import csv
import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loadtest.recall.topics import (
    CHANGING,
    EVENTS,
    FIXED,
    GROUPS,
    LEADS,
    NEVER,
    REPLIES,
    Group,
    Topic,
)
from loadtest.scenarios import COLUMN
from runtime.errors import SetupError

PERSONAS = "user 1 personas"
START = 1_704_099_600  # 1 January 2024, 9:00 UTC
_SAID = re.compile(r"^[ \t]*\*?[ \t]*User ([12]):[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE)
_WORD = re.compile(r"[a-z']{4,}")
_COMMON = frozenset(  # words of four letters and more that tell no message from another
    re.findall(
        r"\w+",
        "that this with have what your like really love very much about they them from when were "
        "would could their there been just some favorite enjoy also than people going",
    )
)
_SESSION = 14  # turns of one sitting; then a day or two pass


class Half(StrEnum):
    """Which dialogues and wordings a history is made of; the halves share none."""

    TUNING = "tuning"
    HELD_OUT = "held-out"


class Kind(StrEnum):
    """What a question wants."""

    SINGLE = "single fact"
    UPDATED = "updated fact"
    SEVERAL = "several facts"
    TIME = "time"
    PASSING = "said in passing"
    NEVER = "never said"


@dataclass(frozen=True, slots=True)
class Statement:
    """What was told: the turn's place in the history, and the words that must come back."""

    turn: int
    value: str


@dataclass(frozen=True, slots=True)
class Question:
    """Asked after the last turn.

    Attributes:
        wanted: All that a right answer needs; empty where it was never said.
        stale: What held of the same subject before, and no longer.
    """

    kind: Kind
    topic: str
    text: str
    wanted: tuple[Statement, ...] = ()
    stale: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """One turn; `time` in Unix seconds."""

    message: str
    reply: str
    time: int


@dataclass(frozen=True, slots=True)
class History:
    """All turns, oldest first, and what is asked after the last."""

    number: int
    turns: tuple[Said, ...]
    questions: tuple[Question, ...]

    @property
    def now(self) -> int:
        """When the questions are asked: three days after the last turn."""
        return self.turns[-1].time + 3 * 86_400


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Pairs of message and reply, and what the data set says of the first speaker."""

    turns: tuple[tuple[str, str], ...]
    persona: tuple[str, ...]


@dataclass(slots=True)
class _Told:
    """A statement before it has a turn: its place is a share of the history's length."""

    place: float
    text: str
    value: str
    turn: int = -1

    @property
    def statement(self) -> Statement:
        return Statement(self.turn, self.value)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question before its statements have turns; `later` is told too, and not asked for."""

    kind: Kind
    topic: str
    text: str
    wanted: tuple[_Told, ...] = ()
    stale: tuple[_Told, ...] = ()
    later: tuple[_Told, ...] = ()

    @property
    def told(self) -> tuple[_Told, ...]:
        return (*self.wanted, *self.stale, *self.later)

    def question(self) -> Question:
        return Question(
            self.kind,
            self.topic,
            self.text,
            tuple(one.statement for one in self.wanted),
            tuple(one.statement for one in self.stale),
        )


def load(path: Path) -> tuple[Dialogue, ...]:
    """Read the data set's CSV.

    Raises:
        SetupError: It cannot be read, or has no dialogues.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = tuple(_dialogue(row) for row in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"the dialogues {path} cannot be read ({error})", code="data") from error
    found = tuple(one for one in found if one.turns)
    if not found:
        raise SetupError(
            f"{path} holds no dialogue; pass valid.csv of Synthetic-Persona-Chat", code="data"
        )
    return found


def _dialogue(row: dict[str, str]) -> Dialogue:
    said = [(who, text) for who, text in _SAID.findall(row.get(COLUMN) or "")]
    turns = tuple(
        (message, reply)
        for (who, message), (other, reply) in itertools.pairwise(said)
        if (who, other) == ("1", "2")
    )
    persona = tuple(one.strip() for one in (row.get(PERSONAS) or "").splitlines() if one.strip())
    return Dialogue(turns, persona)


def compose(
    dialogues: Sequence[Dialogue], number: int, half: Half, *, turns: int = 520, each: int = 4
) -> History:
    """Make history `number` of a half: at least `turns` turns, `each` questions of each kind.

    Deterministic: the same arguments give the same history.

    Raises:
        SetupError: There are too few dialogues for so long a history.
    """
    rng = random.Random(f"recall {half} {number}")
    odd = half is Half.HELD_OUT
    asked, noise, clash = _script(rng, odd, each)
    told = [*noise, *(one for question in asked for one in question.told)]
    wanted = turns - len(told)
    filler, passing = _filler(rng, dialogues[odd::2], re.compile(clash, re.IGNORECASE), wanted)
    if len(filler) < wanted:
        raise SetupError(
            f"the dialogues make {len(filler)} turns of the {wanted} that a history needs; pass "
            "the whole data set",
            code="data",
        )
    said, places = _weave(rng, filler, told)
    rng.shuffle(passing)
    questions = [one.question() for one in asked] + [
        Question(
            Kind.PASSING,
            "data",
            f"Didn't I tell you once? {fact}",
            (Statement(places[at], ""),),
        )
        for fact, at in passing[:each]
    ]
    return History(number, said, tuple(questions))


def _script(rng: random.Random, odd: bool, each: int) -> tuple[list[_Asked], list[_Told], str]:
    """What is told and asked in one history, what is told of others, and what would clash."""
    changing = rng.sample(CHANGING, len(CHANGING))
    updated, before = changing[:each], changing[each : each + each // 2]
    fixed = rng.sample(FIXED, len(FIXED))
    single, absent = fixed[:each], fixed[each : each + each // 2]
    groups = rng.sample(GROUPS, min(each, len(GROUPS)))
    events = rng.sample(EVENTS, each - each // 2)
    asked = [
        *(_single(rng, odd, one, Kind.SINGLE) for one in single),
        *(_updated(rng, odd, one, before=False) for one in updated),
        *(_several(rng, odd, one) for one in groups),
        *(_updated(rng, odd, one, before=True) for one in before),
        *(_single(rng, odd, one, Kind.TIME) for one in events),
        *(
            _Asked(Kind.NEVER, one.name, _pick(rng, one.asks, odd))
            for one in absent  # of these, others are spoken of
        ),
        *(_Asked(Kind.NEVER, "", text) for text in rng.sample(NEVER[odd::2], each - each // 2)),
    ]
    topics = [*single, *updated, *before, *absent, *events]
    noise = [_Told(rng.random(), rng.choice(one.others), "") for one in topics if one.others]
    clash = "|".join([*(one.clash for one in topics), *(one.clash for one in groups)])
    return asked, noise, clash


def _single(rng: random.Random, odd: bool, topic: Topic, kind: Kind) -> _Asked:
    value = rng.choice(topic.values)
    told = _Told(rng.random(), _pick(rng, topic.says, odd).format(v=value), value)
    return _Asked(kind, topic.name, _pick(rng, topic.asks, odd), (told,))


def _updated(rng: random.Random, odd: bool, topic: Topic, *, before: bool) -> _Asked:
    """Told, and later told otherwise; sometimes twice."""
    changes = 1 if before else rng.choice((1, 1, 2))
    values = rng.sample(topic.values, changes + 1)
    places = sorted(rng.random() for _ in values)
    wordings = [_pick(rng, topic.says, odd)]
    wordings += rng.sample(topic.changes[odd::2], changes)
    told = [
        _Told(place, wording.format(v=value), value)
        for place, wording, value in zip(places, wordings, values, strict=True)
    ]
    if before:
        ask = _pick(rng, topic.before, odd)
        return _Asked(Kind.TIME, topic.name, ask, (told[0],), later=tuple(told[1:]))
    ask = _pick(rng, topic.asks, odd)
    return _Asked(Kind.UPDATED, topic.name, ask, (told[-1],), stale=tuple(told[:-1]))


def _several(rng: random.Random, odd: bool, group: Group) -> _Asked:
    told = []
    for values, says in group.parts:
        value = rng.choice(values)
        told.append(_Told(rng.random(), _pick(rng, says, odd).format(v=value), value))
    return _Asked(Kind.SEVERAL, group.name, _pick(rng, group.asks, odd), tuple(told))


def _pick(rng: random.Random, wordings: Sequence[str], odd: bool) -> str:
    return rng.choice(wordings[odd::2])


def _filler(
    rng: random.Random, dialogues: Sequence[Dialogue], clash: re.Pattern[str], wanted: int
) -> tuple[list[tuple[str, str]], list[tuple[str, int]]]:
    """Turns of dialogues in a random order, and what may be asked of them.

    Of the data's own facts those are asked for that one message alone says again: pairs of the
    persona's line and the message's place in the filler.
    """
    turns: list[tuple[str, str]] = []
    facts: list[str] = []
    for dialogue in rng.sample(dialogues, len(dialogues)):
        kept = [turn for turn in dialogue.turns if not clash.search(turn[0])]
        turns += kept[: wanted - len(turns)]
        facts += dialogue.persona
        if len(turns) == wanted:
            break
    said = [_content(message) for message, _ in turns]
    passing = []
    for fact in dict.fromkeys(facts):
        words = _content(fact)
        shared = [len(words & one) for one in said]
        best = max(shared, default=0)
        # Nobody but this message says two of its words: no doubt which turn is meant.
        if best >= 2 and shared.count(best) == 1 and sum(one >= best - 1 for one in shared) <= 3:
            passing.append((fact, shared.index(best)))
    return turns, passing


def _content(text: str) -> frozenset[str]:
    """Words that say something, without their plural."""
    return frozenset(one.rstrip("s") for one in _WORD.findall(text.lower())) - _COMMON


def _weave(
    rng: random.Random, filler: Sequence[tuple[str, str]], told: Sequence[_Told]
) -> tuple[tuple[Said, ...], list[int]]:
    """Put each statement into a turn of its own at its place; where the filler came to stand."""
    after: dict[int, list[_Told]] = {}
    for one in sorted(told, key=lambda one: one.place):
        after.setdefault(int(one.place * len(filler)), []).append(one)
    turns: list[tuple[str, str]] = []
    places: list[int] = []
    for at, turn in enumerate(filler):
        for one in after.get(at, ()):
            one.turn = len(turns)
            small_talk = rng.choice(filler)[0]
            message = rng.choice((*LEADS, "{s}", small_talk.replace("{", "") + " {s}"))
            reply = rng.choice(REPLIES).format(v=one.value or "Goodness")
            turns.append((message.format(s=one.text), reply))
        places.append(len(turns))
        turns.append(turn)
    clock, said = START, []
    for at, (message, reply) in enumerate(turns):
        clock += rng.randint(1, 2) * 86_400 if at and at % _SESSION == 0 else rng.randint(20, 180)
        said.append(Said(message, reply, clock))
    return tuple(said), places
