"""What can be remembered: one frozen class for each kind of record, checked where it is made.

A record's fields are exactly what is sealed, in this order. `to_fields` and `from_fields` turn a
record into plain values for the codec and back. Nothing here shows what was said by repr.
"""

import functools
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from memory.errors import InvalidInputError
from memory.keys import MAX_INDEX, RECEIPT_ID_BYTES, TURN_ID_BYTES

DIGEST_BYTES: Final = 32
MODEL_ID_BYTES: Final = 8
LORE_ID_BYTES: Final = 8
OUTCOMES: Final = frozenset({"completed", "cancelled", "failed"})

MAX_TIME: Final = 2**53 - 1  # what JSON carries exactly
MAX_FACT_CHARS: Final = 500
MAX_ABOUT_CHARS: Final = 80
MAX_IMPORTANCE: Final = 100
MAX_SUMMARY_CHARS: Final = 4000
MAX_VECTOR_BYTES: Final = 4096
MAX_FACTS: Final = 64  # of one record
MAX_LINKS: Final = 1024  # references, sources or lore in one field
MAX_ERASED: Final = 16_384  # by one tombstone

_REF: Final = re.compile(r"m(0|[1-9][0-9]{0,9})(?:\.(0|[1-9][0-9]?))?", re.ASCII)


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class Ref:
    """The name of a memory: a record (`m12`), or the fact at a place in its notes (`m13.0`).

    Raises InvalidInputError where a number is out of range.
    """

    index: int
    at: int | None = None

    def __post_init__(self) -> None:
        # Not through `_check`: a turn has many of them.
        if _whole(self.index, "", MAX_INDEX) or (
            self.at is not None and _whole(self.at, "", MAX_FACTS - 1)
        ):
            raise InvalidInputError(
                f"A reference's record must lie between 0 and {MAX_INDEX}, and its fact between 0 "
                f"and {MAX_FACTS - 1}."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; InvalidInputError for anything that `str` would not write."""
        if match := _REF.fullmatch(text):
            index, at = int(match[1]), None if match[2] is None else int(match[2])
            if index <= MAX_INDEX and (at is None or at < MAX_FACTS):
                return cls(index, at)
        raise InvalidInputError(
            "A memory's reference reads m<record> or m<record>.<fact>, as in m12 or m13.0; "
            "list the memories to see theirs."
        )

    def __str__(self) -> str:
        return f"m{self.index}" if self.at is None else f"m{self.index}.{self.at}"

    def __lt__(self, other: "Ref") -> bool:
        # The record itself stands before the facts in it.
        mine, theirs = (-1 if one.at is None else one.at for one in (self, other))
        return (self.index, mine) < (other.index, theirs)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message and its reply, and what stood in its prompt.

    `time` is in Unix seconds. `receipt_digest` is the digest of the receipt before this turn's,
    where it was known: a turn's own receipt names the head after this record, so its digest
    cannot stand inside. `recalled` names the memories in its prompt, `window` the first record
    whose turn stood there, `summary` the record of the summary there, `lore` the entries of the
    lorebook that it woke.

    Raises InvalidInputError where a field has another type or size than it says.
    """

    turn_id: bytes  # 16 bytes
    time: int
    message: str = field(repr=False)
    reply: str = field(repr=False)
    outcome: str  # one of OUTCOMES
    receipt_id: bytes  # 16 bytes
    receipt_digest: bytes | None = None  # 32 bytes
    recalled: tuple[Ref, ...] = ()
    window: int = 0
    summary: int | None = None
    lore: tuple[bytes, ...] = ()  # 8 bytes each

    def __post_init__(self) -> None:
        known = type(self.outcome) is str and self.outcome in OUTCOMES
        _check(
            "A turn",
            _bytes(self.turn_id, "turn_id", TURN_ID_BYTES),
            _whole(self.time, "time", MAX_TIME),
            _text(self.message, "message"),
            _text(self.reply, "reply"),
            "" if known else f"outcome must be one of {', '.join(sorted(OUTCOMES))}",
            _bytes(self.receipt_id, "receipt_id", RECEIPT_ID_BYTES),
            _optional(self.receipt_digest, lambda one: _bytes(one, "receipt_digest", DIGEST_BYTES)),
            _several(self.recalled, "recalled", _ref),
            _whole(self.window, "window", MAX_INDEX),
            _optional(self.summary, lambda one: _whole(one, "summary", MAX_INDEX)),
            _several(self.lore, "lore", lambda one: _bytes(one, "lore", LORE_ID_BYTES)),
        )


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is known of a person.

    `about` is the canonical key of its subject ("user.dog.name"), empty where there is none;
    `importance` lies between 0 and 100; `since` is when it began to hold, in Unix seconds;
    `sources` are indexes of the turns that said it, none where its owner wrote it; `vector` is its
    embedding in int8, empty without one.

    Raises InvalidInputError where a field has another type or size than it says.
    """

    text: str = field(repr=False)  # 1 to 500 characters
    about: str = field(default="", repr=False)
    importance: int = 0
    since: int = 0
    sources: tuple[int, ...] = ()
    supersedes: tuple[Ref, ...] = ()
    vector: bytes = field(default=b"", repr=False)
    pinned: bool = False

    def __post_init__(self) -> None:
        _check(
            "A fact",
            _text(self.text, "text", MAX_FACT_CHARS) or ("" if self.text else "text is empty"),
            _text(self.about, "about", MAX_ABOUT_CHARS),
            _whole(self.importance, "importance", MAX_IMPORTANCE),
            _whole(self.since, "since", MAX_TIME),
            _several(self.sources, "sources", lambda one: _whole(one, "a source", MAX_INDEX)),
            _several(self.supersedes, "supersedes", _ref),
            _up_to(self.vector, "vector", MAX_VECTOR_BYTES),
            _truth(self.pinned, "pinned"),
        )


@dataclass(frozen=True, slots=True)
class Notes:
    """What was learned from one turn, or written by its owner where `turn` is None.

    `vector` is the turn's embedding in int8, made by the model with the 8-byte id `model` as those
    of its facts; both empty without one. `sources` are known facts that this turn said again, each
    with the turn's index.

    Raises InvalidInputError where a field has another type or size than it says.
    """

    turn: int | None
    model: bytes = b""
    vector: bytes = field(default=b"", repr=False)
    facts: tuple[Fact, ...] = ()
    sources: tuple[tuple[Ref, int], ...] = ()

    def __post_init__(self) -> None:
        _check(
            "Notes",
            _optional(self.turn, lambda one: _whole(one, "turn", MAX_INDEX)),
            _bytes(self.model, "model", 0) and _bytes(self.model, "model", MODEL_ID_BYTES),
            _up_to(self.vector, "vector", MAX_VECTOR_BYTES),
            _several(
                self.facts,
                "facts",
                lambda one: "" if type(one) is Fact else "facts must be facts",
                MAX_FACTS,
            ),
            _several(self.sources, "sources", _source),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What the turns with an index below `before` were about; `time` in Unix seconds.

    Raises InvalidInputError where a field has another type or size than it says.
    """

    text: str = field(repr=False)  # at most 4000 characters
    before: int
    time: int

    def __post_init__(self) -> None:
        _check(
            "A summary",
            _text(self.text, "text", MAX_SUMMARY_CHARS),
            _whole(self.before, "before", MAX_INDEX + 1),
            _whole(self.time, "time", MAX_TIME),
        )


@dataclass(frozen=True, slots=True)
class Pin:
    """That a memory is kept in every prompt from here on, or no longer.

    Raises InvalidInputError where a field has another type than it says.
    """

    ref: Ref
    pinned: bool

    def __post_init__(self) -> None:
        _check("A pin", _ref(self.ref), _truth(self.pinned, "pinned"))


@dataclass(frozen=True, slots=True)
class Tombstone:
    """That records were erased: what was asked for, and the indexes of all that went with it.

    `erased` is in ascending order. A stub is believed only where one of these names its index.

    Raises InvalidInputError where a field has another type or size than it says.
    """

    request_id: bytes  # 16 bytes
    time: int
    refs: tuple[Ref, ...]
    erased: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(
            "A tombstone",
            _bytes(self.request_id, "request_id", TURN_ID_BYTES),
            _whole(self.time, "time", MAX_TIME),
            _several(self.refs, "refs", _ref),
            _several(
                self.erased, "erased", lambda one: _whole(one, "erased", MAX_INDEX), MAX_ERASED
            )
            or ("" if _ascending(self.erased) else "erased must be in ascending order"),
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Where a record was erased before the thread's key was rotated."""


Record = Turn | Notes | Summary | Pin | Tombstone | Gap


def to_fields(record: Record) -> list[Any]:
    """Return a record's fields in order: plain values, tuples as lists."""
    return _KINDS[type(record)].fields(record)


def from_fields(number: int, values: Any) -> Record:
    """Make the record of the kind with this number from what `to_fields` returned.

    Raises InvalidInputError, TypeError, ValueError or KeyError for anything else.
    """
    kind = KINDS[number]
    if type(values) is not list:
        raise InvalidInputError("A record must have the fields of its kind.")
    record: Record = _KINDS[kind].build(*values)
    return record


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of record is written and read; its number is the plaintext's first byte."""

    number: int
    fields: Callable[[Any], list[Any]]
    build: Callable[..., Any]


def _turn_fields(turn: Turn) -> list[Any]:
    return [
        turn.turn_id,
        turn.time,
        turn.message,
        turn.reply,
        turn.outcome,
        turn.receipt_id,
        turn.receipt_digest,
        _plain(turn.recalled),
        turn.window,
        turn.summary,
        list(turn.lore),
    ]


def _turn(*values: Any) -> Turn:
    *said, recalled, window, summary, lore = values
    return Turn(*[*said, _refs(recalled), window, summary, tuple(lore)])


def _fact_fields(fact: Fact) -> list[Any]:
    return [
        fact.text,
        fact.about,
        fact.importance,
        fact.since,
        list(fact.sources),
        _plain(fact.supersedes),
        fact.vector,
        fact.pinned,
    ]


def _fact(values: list[Any]) -> Fact:
    *said, sources, supersedes, vector, pinned = values
    return Fact(*[*said, tuple(sources), _refs(supersedes), vector, pinned])


def _notes_fields(notes: Notes) -> list[Any]:
    again = [[[ref.index, ref.at], turn] for ref, turn in notes.sources]
    facts = [_fact_fields(fact) for fact in notes.facts]
    return [notes.turn, notes.model, notes.vector, facts, again]


def _notes(turn: Any, model: Any, vector: Any, facts: Any, again: Any) -> Notes:
    sources = tuple((Ref(*ref), said) for ref, said in again)
    return Notes(turn, model, vector, tuple(_fact(one) for one in facts), sources)


def _tombstone(request_id: Any, time: Any, refs: Any, erased: Any) -> Tombstone:
    return Tombstone(request_id, time, _refs(refs), tuple(erased))


def _plain(refs: tuple[Ref, ...]) -> list[list[int | None]]:
    return [[ref.index, ref.at] for ref in refs]


def _refs(values: list[Any]) -> tuple[Ref, ...]:
    return tuple(Ref(*one) for one in values)


# A further kind is a further line here.
_KINDS: Final[dict[type[Record], _Kind]] = {
    Turn: _Kind(1, _turn_fields, _turn),
    Notes: _Kind(2, _notes_fields, _notes),
    Summary: _Kind(3, lambda one: [one.text, one.before, one.time], Summary),
    Pin: _Kind(
        4,
        lambda one: [[one.ref.index, one.ref.at], one.pinned],
        lambda ref, pinned: Pin(Ref(*ref), pinned),
    ),
    Tombstone: _Kind(
        5,
        lambda one: [one.request_id, one.time, _plain(one.refs), list(one.erased)],
        _tombstone,
    ),
    Gap: _Kind(6, lambda _: [], Gap),
}
KINDS: Final = {kind.number: made for made, kind in _KINDS.items()}
NUMBERS: Final = {made: kind.number for made, kind in _KINDS.items()}


# Each of these says what is wrong with a value, or nothing. Exact types: a codec would give back a
# bool for an int, or a str for a subclass of it.


def _check(what: str, *problems: str) -> None:
    for problem in problems:
        if problem:
            raise InvalidInputError(f"{what} cannot be remembered: {problem}.")


def _whole(value: object, name: str, most: int) -> str:
    if type(value) is int and 0 <= value <= most:
        return ""
    return f"{name} must be a whole number from 0 to {most}"


def _truth(value: object, name: str) -> str:
    return "" if type(value) is bool else f"{name} must be true or false"


def _text(value: object, name: str, most: int | None = None) -> str:
    if type(value) is not str:
        return f"{name} must be text"
    if most is not None and len(value) > most:
        return f"{name} has {len(value)} characters, and at most {most} are kept; shorten it"
    return ""


def _bytes(value: object, name: str, size: int) -> str:
    if type(value) is bytes and len(value) == size:
        return ""
    return f"{name} must be {size} bytes"


def _up_to(value: object, name: str, most: int) -> str:
    if type(value) is bytes and len(value) <= most:
        return ""
    return f"{name} must be at most {most} bytes"


def _optional(value: Any, check: Callable[[Any], str]) -> str:
    return "" if value is None else check(value)


def _several(values: object, name: str, check: Callable[[Any], str], most: int = MAX_LINKS) -> str:
    if type(values) is not tuple:
        return f"{name} must be a tuple"
    if len(values) > most:
        return f"{name} has {len(values)} entries, and at most {most} are kept"
    return next(filter(None, map(check, values)), "") if values else ""


def _ref(value: object) -> str:
    return "" if type(value) is Ref else "a memory is named by its reference"


def _source(value: object) -> str:
    if type(value) is tuple and len(value) == 2:
        return _ref(value[0]) or _whole(value[1], "a source", MAX_INDEX)
    return "sources must be pairs of a reference and a turn"


def _ascending(values: tuple[int, ...]) -> bool:
    return all(one < other for one, other in itertools.pairwise(values))
