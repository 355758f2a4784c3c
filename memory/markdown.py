"""All that is remembered, as Markdown to read: a fact is one line, so that it can be read back."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from memory.errors import InvalidInputError
from memory.exports import MAX_RECORDS, decoded
from memory.kinds import MAX_FACTS, Fact, Notes, Record

if TYPE_CHECKING:
    # A device reads Markdown, and need not load what searches memories.
    from memory.ledger import Memory

_LAST_TIME: Final = 253_402_300_799  # the end of the year 9999, after which dates have no form
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


def to_markdown(memories: Sequence["Memory"]) -> str:
    """Return what is remembered for reading: facts, summary, turns, with references and dates."""
    facts = [one for one in memories if one.kind == "fact"]
    lines = [_TITLE, "", _FACTS, ""]
    for fact in facts:
        # What is nothing but spaces makes no line.
        if fact.superseded is None and fact.text.strip():
            about = f", about {fact.about}" if _KEY.fullmatch(fact.about) else ""
            how = f"since {_stamp(fact.time)}, importance {fact.importance}{about}{_pinned(fact)}"
            lines.append(f"- [{fact.ref}] {how}: {_marked(fact.text)}")
    lines += ["", "## No longer so", ""]
    for fact in facts:
        if fact.until is not None:
            lines.append(f"- [{fact.ref}] until {_stamp(fact.until)}: {_marked(fact.text)}")
    if summaries := [one for one in memories if one.kind == "summary"]:
        newest = summaries[-1]
        lines += ["", "## Summary", "", f"[{newest.ref}] {_stamp(newest.time)}", ""]
        lines += _quoted(newest.text)
    lines += ["", "## Turns", ""]
    for one in memories:
        if one.turn is not None:
            lines += [f"### {one.ref}, {_stamp(one.time)}{_pinned(one)}", "", "You:", ""]
            lines += [*_quoted(one.text), "", f"Reply ({one.turn.outcome}):", ""]
            lines += [*_quoted(one.reply), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _pinned(memory: "Memory") -> str:
    return ", pinned" if memory.pinned else ""


def from_markdown(data: bytes) -> list[Record]:
    """Read the facts that hold from what `to_markdown` wrote, as notes of their owner's own.

    Raises InvalidInputError with the line and the rule for a line among the facts that is another.
    """
    lines = decoded(data).replace("\r\n", "\n").split("\n")
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
