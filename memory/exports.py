"""All that is remembered, as a file for its owner: JSON that can be read back, Markdown to read.

The JSON has every record with its index, so that references stay what they are; what was erased,
and that it was, is left out, and becomes gaps. Reading is strict and bounded: every refusal says
where, which rule, and what to do.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from memory.errors import InvalidInputError
from memory.kinds import (
    MAX_FACTS,
    Fact,
    Gap,
    Notes,
    Pin,
    Record,
    Ref,
    Summary,
    Turn,
)

MAX_EXPORT_BYTES: Final = 256 * 2**20
MAX_RECORDS: Final = 1_000_000

_FORMAT: Final = "sottovoce memory"
_VERSION: Final = 1
_LAST_TIME: Final = 253_402_300_799  # the end of the year 9999, after which dates have no form
_AGAIN: Final = "Mend that place, or export the memory again."

Read = Callable[[Any], Any]


class _WrongError(ValueError):
    """Which rule a value broke, and below which place; never leaves this module."""

    def __init__(self, rule: str, place: str = "") -> None:
        super().__init__(rule)
        self.rule = rule
        self.place = place


@dataclass(frozen=True, slots=True)
class _Form:
    """How one field stands in JSON."""

    write: Callable[[Any], Any]
    read: Read


def _plain(kind: type, rule: str) -> _Form:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise _WrongError(f"must be {rule}")
        return value

    return _Form(lambda value: value, read)


def _bytes(write: Callable[[bytes], str], parse: Callable[[str], bytes], rule: str) -> _Form:
    def read(value: Any) -> bytes:
        try:
            data = parse(_TEXT.read(value))
        except (ValueError, binascii.Error):
            data = None
        if data is None or write(data) != value:
            raise _WrongError(f"must be {rule}")
        return data

    return _Form(write, read)


def _read_ref(value: Any) -> Ref:
    try:
        return Ref.parse(_TEXT.read(value))
    except InvalidInputError:
        raise _WrongError("must be a reference, as m12 or m13.0") from None


def _optional(form: _Form) -> _Form:
    return _Form(
        lambda value: None if value is None else form.write(value),
        lambda value: None if value is None else form.read(value),
    )


def _several(form: _Form) -> _Form:
    def read(values: Any) -> tuple[Any, ...]:
        if type(values) is not list:
            raise _WrongError("must be a list")
        return tuple(_at(f"[{number}]", form.read, one) for number, one in enumerate(values))

    return _Form(lambda values: [form.write(one) for one in values], read)


def _read_source(value: Any) -> tuple[Ref, int]:
    if type(value) is not list or len(value) != 2:
        raise _WrongError("must be a reference and a turn's index")
    return _read_ref(value[0]), _INT.read(value[1])


def _at(place: str, read: Read, value: Any) -> Any:
    """Read a value, and say below which place it is wrong."""
    try:
        return read(value)
    except _WrongError as error:
        inner = error.place
        joined = f"{place}.{inner}" if inner and not inner.startswith("[") else place + inner
        raise _WrongError(error.rule, joined) from None


def _members(kind: type, forms: dict[str, _Form]) -> _Form:
    needed = {one.name for one in fields(kind) if one.default is MISSING}

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _WrongError("must be an object")
        if unknown := value.keys() - forms.keys():
            raise _WrongError("is no field that this version knows", min(unknown))
        if missing := needed - value.keys():
            raise _WrongError("is missing", min(missing))
        parts = {name: _at(name, forms[name].read, one) for name, one in value.items()}
        try:
            return kind(**parts)
        except InvalidInputError as error:
            raise _WrongError(str(error).rstrip(".")) from None

    return _Form(
        lambda value: {name: form.write(getattr(value, name)) for name, form in forms.items()}, read
    )


def _read_text(value: Any) -> str:
    if type(value) is not str:
        raise _WrongError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _WrongError("holds half of a surrogate pair; write valid Unicode") from None
    return value


_TEXT: Final = _Form(lambda value: value, _read_text)
_INT: Final = _plain(int, "a whole number")
_BOOL: Final = _plain(bool, "true or false")
_HEX: Final = _bytes(bytes.hex, bytes.fromhex, "bytes in small hexadecimal digits")
_BASE64: Final = _bytes(
    lambda data: base64.b64encode(data).decode(),
    lambda text: base64.b64decode(text, validate=True),
    "bytes in base64",
)
_REF: Final = _Form(str, _read_ref)
_SOURCE: Final = _Form(lambda pair: [str(pair[0]), pair[1]], _read_source)

_FACT: Final = _members(
    Fact,
    {
        "text": _TEXT,
        "about": _TEXT,
        "importance": _INT,
        "since": _INT,
        "sources": _several(_INT),
        "supersedes": _several(_REF),
        "vector": _BASE64,
        "pinned": _BOOL,
    },
)
_KINDS: Final[dict[str, tuple[type, _Form]]] = {
    "turn": (
        Turn,
        _members(
            Turn,
            {
                "turn_id": _HEX,
                "time": _INT,
                "message": _TEXT,
                "reply": _TEXT,
                "outcome": _TEXT,
                "receipt_id": _HEX,
                "receipt_digest": _optional(_HEX),
                "recalled": _several(_REF),
                "window": _INT,
                "summary": _optional(_INT),
                "lore": _several(_HEX),
            },
        ),
    ),
    "notes": (
        Notes,
        _members(
            Notes,
            {
                "turn": _optional(_INT),
                "model": _HEX,
                "vector": _BASE64,
                "facts": _several(_FACT),
                "sources": _several(_SOURCE),
            },
        ),
    ),
    "summary": (Summary, _members(Summary, {"text": _TEXT, "before": _INT, "time": _INT})),
    "pin": (Pin, _members(Pin, {"ref": _REF, "pinned": _BOOL})),
}
_NAMES: Final = {kind: (name, form) for name, (kind, form) in _KINDS.items()}


def to_json(records: Iterable[tuple[int, Record | None]]) -> str:
    """Return all records of a thread as JSON, one record in a line.

    What was erased (None), gaps and tombstones are left out.
    """
    lines = []
    for index, record in records:
        if record is None or type(record) not in _NAMES:
            continue
        name, form = _NAMES[type(record)]
        members = {"index": index, "kind": name, **form.write(record)}
        lines.append(json.dumps(members, ensure_ascii=False, separators=(",", ":")))
    head = f'{{"format":"{_FORMAT}","version":{_VERSION},"records":[\n'
    return head + ",\n".join(lines) + "\n]}\n"


def from_json(data: bytes) -> list[Record]:
    """Read what `to_json` wrote: the records by index, with a gap where one was left out.

    Raises InvalidInputError with the place and the rule for anything else.
    """
    text = _decoded(data)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except _WrongError as error:
        raise InvalidInputError(f"{error.rule}. {_AGAIN}") from None
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"line {error.lineno}: {error.msg}. {_AGAIN}") from None
    except (ValueError, RecursionError):
        raise InvalidInputError(
            f"the JSON is nested too deep or has too long a number. {_AGAIN}"
        ) from None
    if type(value) is not dict or value.keys() != {"format", "version", "records"}:
        raise InvalidInputError(
            "an export has the fields format, version and records; this is another kind of file. "
            "Name one that `sotto memory export` wrote."
        )
    if value["format"] != _FORMAT or type(value["version"]) is not int:
        raise InvalidInputError(
            f'format must be "{_FORMAT}". Name a file that `sotto memory export` wrote.'
        )
    if value["version"] != _VERSION:
        raise InvalidInputError(
            f"version is {value['version']}, and this program reads {_VERSION}. "
            "Use the program that wrote it, or a newer one."
        )
    if type(value["records"]) is not list:
        raise InvalidInputError(f"records must be a list. {_AGAIN}")
    records: list[Record] = []
    for number, one in enumerate(value["records"]):
        try:
            index, record = _record(one, len(records))
        except _WrongError as error:
            place = f"records[{number}]" + (f".{error.place}" if error.place else "")
            raise InvalidInputError(f"{place}: {error.rule}. {_AGAIN}") from None
        records += [_GAP] * (index - len(records))
        records.append(record)
    return records


_GAP: Final = Gap()


def _record(value: Any, least: int) -> tuple[int, Record]:
    if type(value) is not dict:
        raise _WrongError("must be an object")
    index, kind = value.pop("index", None), value.pop("kind", None)
    if type(index) is not int or not least <= index < MAX_RECORDS:
        raise _WrongError(f"must be above the one before it and below {MAX_RECORDS}", "index")
    if type(kind) is not str or kind not in _KINDS:
        raise _WrongError(f"must be one of {', '.join(_KINDS)}", "kind")
    record: Record = _KINDS[kind][1].read(value)
    if max(_named(record), default=-1) > index:
        raise _WrongError("names a record that comes after it")
    return index, record


def _named(record: Record) -> list[int]:
    """Return the indexes that a record names."""
    match record:
        case Turn():
            summary = [] if record.summary is None else [record.summary]
            return [record.window, *summary, *(ref.index for ref in record.recalled)]
        case Notes():
            turn = [] if record.turn is None else [record.turn]
            old = [ref.index for fact in record.facts for ref in fact.supersedes]
            told = [source for fact in record.facts for source in fact.sources]
            return [
                *turn,
                *old,
                *told,
                *(one for ref, at in record.sources for one in (ref.index, at)),
            ]
        case Pin():
            return [record.ref.index]
        case Summary():
            return [record.before]
        case _:
            return []


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _WrongError("a field stands twice in one object")
    return members


def _no_constant(_: str) -> None:
    raise _WrongError("a number must be finite")


def _decoded(data: bytes) -> str:
    if len(data) > MAX_EXPORT_BYTES:
        raise InvalidInputError(
            f"it has more than {MAX_EXPORT_BYTES} bytes. Split it, or name another file."
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"byte {error.start} is no UTF-8. {_AGAIN}") from None


# Markdown. A fact is one line, so that it can be read back.

_TITLE: Final = "# What is remembered"
_FACTS: Final = "## Facts"
_MARK: Final = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
_UNMARK: Final = re.compile(r"\\([\\`*_{}\[\]<>#|~&!])")
_LINE: Final = re.compile(
    r"- \[m\d{1,10}\.\d{1,2}\] since (?P<since>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ), "
    r"importance (?P<importance>\d{1,3})(?:, about (?P<about>[\w.-]{1,80}))?"
    r"(?P<pinned>, pinned)?: (?P<text>.+)",
)
_KEY: Final = re.compile(r"[\w.-]{1,80}")
_SHAPE: Final = (
    "`- [m13.0] since 2026-05-03T10:22:31Z, importance 80, about user.home, pinned: The user lives "
    "in Leeds.`, where `about` and `pinned` may be left out"
)


def to_markdown(records: Iterable[tuple[int, Record | None]]) -> str:
    """Return what is remembered for reading: facts, summary, turns, with references and dates."""
    known, until, pins = _facts(records := list(records))
    turns = [(at, one) for at, one in records if isinstance(one, Turn)]
    summaries = [(at, one) for at, one in records if isinstance(one, Summary)]
    lines = [_TITLE, "", _FACTS, ""]
    for ref, fact in known.items():
        # What is nothing but spaces makes no line.
        if ref not in until and fact.text.strip():
            pinned = ", pinned" if pins.get(ref, fact.pinned) else ""
            about = f", about {fact.about}" if _KEY.fullmatch(fact.about) else ""
            how = f"since {_stamp(fact.since)}, importance {fact.importance}{about}{pinned}"
            lines.append(f"- [{ref}] {how}: {_marked(fact.text)}")
    lines += ["", "## No longer so", ""]
    for ref, time in until.items():
        lines.append(f"- [{ref}] until {_stamp(time)}: {_marked(known[ref].text)}")
    if summaries:
        index, summary = summaries[-1]
        lines += ["", "## Summary", "", f"[{Ref(index)}] {_stamp(summary.time)}", ""]
        lines += _quoted(summary.text)
    lines += ["", "## Turns", ""]
    for index, turn in turns:
        pinned = ", pinned" if pins.get(Ref(index)) else ""
        lines += [f"### {Ref(index)}, {_stamp(turn.time)}{pinned}", "", "You:", ""]
        lines += [*_quoted(turn.message), "", f"Reply ({turn.outcome}):", ""]
        lines += [*_quoted(turn.reply), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def from_markdown(data: bytes) -> list[Record]:
    """Read the facts that hold from what `to_markdown` wrote, as notes of their owner's own.

    Raises InvalidInputError with the line and the rule for a line among the facts that is another.
    """
    lines = _decoded(data).replace("\r\n", "\n").split("\n")
    if lines[0] != _TITLE or _FACTS not in lines:
        raise InvalidInputError(
            f"line 1: it must be `{_TITLE}`, and `{_FACTS}` a line below. "
            "Name a file that `sotto memory export` wrote."
        )
    facts: list[Fact] = []
    begin = lines.index(_FACTS) + 1
    for number, line in enumerate(lines[begin:], begin + 1):
        if line.startswith("## "):
            break
        if line.strip():
            facts.append(_fact_in(line, number))
    if len(facts) > MAX_RECORDS:
        raise InvalidInputError(f"it has more than {MAX_RECORDS} facts. Split it.")
    return [
        Notes(None, facts=tuple(facts[at : at + MAX_FACTS]))
        for at in range(0, len(facts), MAX_FACTS)
    ]


def _fact_in(line: str, number: int) -> Fact:
    match = _LINE.fullmatch(line)
    if match is None:
        raise InvalidInputError(
            f"line {number}: a fact is one line like {_SHAPE}. Mend that line, or take it out."
        )
    try:
        since = int(datetime.fromisoformat(match["since"]).timestamp())
        text = _UNMARK.sub(r"\1", match["text"])
        return Fact(
            text,
            match["about"] or "",
            int(match["importance"]),
            since,
            pinned=bool(match["pinned"]),
        )
    except InvalidInputError as error:
        rule = str(error).rstrip(".")
    except ValueError:
        rule = "there is no such date"
    raise InvalidInputError(f"line {number}: {rule}. Mend that line, or take it out.") from None


def _facts(
    records: Sequence[tuple[int, Record | None]],
) -> tuple[dict[Ref, Fact], dict[Ref, int], dict[Ref, bool]]:
    """Return all facts, until when those held that were superseded, and the last pins."""
    known: dict[Ref, Fact] = {}
    until: dict[Ref, int] = {}
    pins: dict[Ref, bool] = {}
    for index, record in records:
        if isinstance(record, Notes):
            known |= {Ref(index, at): fact for at, fact in enumerate(record.facts)}
            for fact in record.facts:
                until |= {old: fact.since for old in fact.supersedes if old in known}
        elif isinstance(record, Pin):
            pins[record.ref] = record.pinned
    return known, until, pins


def _stamp(time: int) -> str:
    moment = datetime.fromtimestamp(min(time, _LAST_TIME), UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _marked(text: str) -> str:
    """One line in which nothing is markup."""
    return _MARK.sub(r"\\\1", " ".join(text.split()))


def _quoted(text: str) -> list[str]:
    return [
        f"> {_MARK.sub(chr(92) * 2 + chr(92) + '1', line)}".rstrip() for line in text.split("\n")
    ]
