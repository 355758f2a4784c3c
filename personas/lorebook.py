"""Which lorebook entries a conversation wakes (Character Card V3, "Lorebook Fields").

Where the specification leaves a choice, this is ours:

- A plain key matches anywhere in the text, inside words too; an entry of SillyTavern that asks
  for whole words gets them. Case matters only where `case_sensitive` is true. Both sides are in
  Unicode's normal form C.
- A regular expression is read by RE2, in time linear in the text. It knows neither lookaround nor
  references back: such a pattern is invalid, and an entry with an invalid pattern never matches.
- Without `recursive_scanning`, entries do not wake each other. With it, at most MAX_PASSES times.
- "Before more than once" of the two `..._after_match` decorators means: at least once before.
- Entries that SillyTavern wrote are read as it reads them: it says `use_regex` of all of them and
  means keys between slashes.

A call does a bounded amount of work (personas/lore_scan.py): what is left over does not match.
Nothing here draws chance or knows a clock; a probability is decided by the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from personas.errors import PersonaError
from personas.lore_entries import Entry, Flaw, Prepared, entry_id, prepare, whole_number
from personas.lore_scan import MAX_SCANNED, MAX_WORK, Said, Scan
from personas.model import Lorebook

__all__ = [
    "MAX_PASSES",
    "MAX_SCANNED",
    "MAX_WORK",
    "Flaw",
    "Matched",
    "Position",
    "Prepared",
    "Role",
    "Said",
    "Woken",
    "WokenEntry",
    "entry_id",
    "fit",
    "match",
    "prepare",
    "refuse_heavy",
    "wake",
]

MAX_PASSES: Final = 16

Role = Literal["system", "user", "assistant"]
Position = Literal[
    "before_char", "after_char", "before_desc", "after_desc", "personality", "scenario", "depth"
]


@dataclass(frozen=True, slots=True)
class WokenEntry:
    """An entry for the prompt.

    Attributes:
        id: 8 bytes by which a conversation remembers that it woke.
        name: For people: its name or comment.
        position: Where it goes; "depth" is among the messages.
        depth: For position "depth": how many messages stand after it, 0 or more.
        role: Who seems to say it, for position "depth".
        content: Without decorators; macros still in it.
        tokens: As `count_tokens` counted the content.
    """

    id: bytes
    name: str
    position: Position
    depth: int
    role: Role
    content: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Woken:
    """What a conversation wakes.

    Attributes:
        entries: In the order in which they stand in the prompt.
        ids: Of every entry that counts as matched, also of those without room: what the thread
            remembers.
        disabled: Parts of the prompt that entries ask to leave out: `system_prompt` and
            `post_history_instructions`.
        left_out: How many matched and had no room in a budget.
    """

    entries: tuple[WokenEntry, ...]
    ids: tuple[bytes, ...]
    disabled: frozenset[str]
    left_out: int


@dataclass(frozen=True, slots=True)
class Matched:
    """What matches, before any entry gives way for want of room.

    Attributes:
        book: In which.
        entries: In the order in which they stand in the prompt.
        complete: Whether all was looked for; False where the work that was allowed ended before.
    """

    book: Lorebook
    entries: tuple[Entry, ...] = field(repr=False)
    complete: bool


def refuse_heavy(book: Lorebook | None) -> None:
    """Raise PersonaError where a pattern exceeds a limit: it would be published and never match."""
    for flaw in prepare(book).flaws if book is not None else ():
        if flaw.limit:
            raise PersonaError(f"{flaw.place}: {flaw.problem}")


def wake(
    book: Lorebook | Prepared,
    said: Sequence[Said],
    *,
    count_tokens: Callable[[str], int],
    room: int,
    sections: Collection[str] = ("personality", "scenario"),
    **more: Any,
) -> Woken:
    """`match`, which takes what is not named here, then `fit`."""
    found = match(book, said, **more)
    return fit(found, count_tokens=count_tokens, room=room, sections=sections)


def match(
    book: Lorebook | Prepared,
    said: Sequence[Said],
    *,
    greeting: int = 0,
    assistant_count: int | None = None,
    woken: Collection[bytes] | Mapping[bytes, int] = (),
    seed: bytes = b"",
    names: tuple[str, str] = ("", ""),
    work: int = MAX_WORK,
) -> Matched:
    """Find the entries that match.

    Args:
        book: Prepared, where it is asked more than once.
        said: The conversation, oldest first, the new message last.
        greeting: Index of the greeting the conversation began with: 0 the first, then alternates.
        assistant_count: Messages of the persona so far; counted in `said` where not given.
        woken: Ids of entries that matched earlier in this conversation.
        seed: Decides probabilities; a turn's id serves.
        names: The persona's and the user's, for `{{char}}` and `{{user}}` in keys.
        work: What it may cost, in units of about 1 ns.
    """
    ready = book if isinstance(book, Prepared) else prepare(book)
    if assistant_count is None:
        assistant_count = sum(message.role == "assistant" for message in said)
    scan = Scan(ready.book, said, names, seed, work)
    chosen: dict[int, Entry] = {}
    waiting: list[tuple[int, Entry]] = []
    for at, entry in enumerate(ready.entries):
        if not entry.entry.enabled or not entry.text.strip():
            continue
        verdict = _verdict(entry, greeting, assistant_count, woken, len(said))
        if verdict:
            chosen[at] = entry
        elif verdict is None and not entry.broken:
            waiting.append((at, entry))
    for recursion in range(MAX_PASSES if ready.book.recursive_scanning else 1):
        found = {
            at: entry
            for at, entry in waiting
            if not (recursion and entry.tavern.get("exclude_recursion") is True)
            and scan.matches(entry)
        }
        fresh = [*chosen.values(), *found.values()] if recursion == 0 else [*found.values()]
        chosen |= found
        waiting = [(at, entry) for at, entry in waiting if at not in found]
        if not fresh or not scan.add(fresh):
            break
    # The order of insertion, and of the book where that is the same.
    order = sorted(chosen, key=lambda at: (chosen[at].entry.insertion_order, at))
    return Matched(ready.book, tuple(chosen[at] for at in order), not scan.spent)


def _verdict(
    entry: Entry, greeting: int, count: int, woken: Collection[bytes], messages: int
) -> bool | None:
    """True in any case, False in no case, None where the keys decide."""
    values = entry.decorators
    if "activate" in values:
        return True
    if "dont_activate" in values:
        return False
    if entry.id in woken:
        if "dont_activate_after_match" in values:
            return False
        if "keep_activate_after_match" in values:
            return True
    if "is_greeting" in values and values["is_greeting"] != greeting:
        return False
    if count < values.get("activate_only_after", 0):
        return False
    if "activate_only_every" in values and count % values["activate_only_every"]:
        return False
    if messages < (whole_number(entry.tavern.get("delay")) or 0):
        return False
    return None


def fit(
    matched: Matched,
    *,
    count_tokens: Callable[[str], int],
    room: int,
    sections: Collection[str] = ("personality", "scenario"),
) -> Woken:
    """Leave out the lowest until the rest fits: first within the book's budget, then the room.

    Args:
        matched: What matches.
        count_tokens: The length of a content in the prompt.
        room: Tokens that entries may take together.
        sections: Of `personality` and `scenario`, those that the prompt has.
    """
    chosen, book = matched.entries, matched.book
    tokens = {at: count_tokens(entry.text) for at, entry in enumerate(chosen)}
    total = sum(tokens.values())
    kept = set(tokens)
    # Of equal rank, what stands later goes first.
    lowest = sorted(kept, key=lambda at: (chosen[at].rank, -at))
    if book.token_budget is not None:
        for at in lowest:
            if total <= book.token_budget:
                break
            kept.discard(at)
            total -= tokens[at]
    lowest.sort(key=lambda at: "ignore_on_max_context" not in chosen[at].decorators)
    for at in lowest:
        if total <= room:
            break
        if at in kept:
            kept.discard(at)
            total -= tokens[at]
    entries = tuple(_placed(chosen[at], tokens[at], sections) for at in sorted(kept))
    disabled = (chosen[at].decorators.get("disable_ui_prompt") for at in kept)
    return Woken(
        entries,
        tuple(dict.fromkeys(entry.id for entry in chosen)),
        frozenset(name for name in disabled if name),
        len(chosen) - len(kept),
    )


# SillyTavern's `position` and `role`.
_TAVERN_POSITIONS: Final[dict[int, Position]] = {0: "before_char", 1: "after_char", 4: "depth"}
_TAVERN_ROLES: Final[dict[int, Role]] = {0: "system", 1: "user", 2: "assistant"}


def _placed(ready: Entry, tokens: int, sections: Collection[str]) -> WokenEntry:
    values, tavern, entry = ready.decorators, ready.tavern, ready.entry
    role: Role = values.get("role") or _TAVERN_ROLES.get(
        whole_number(tavern.get("role")) or 0, "system"
    )
    position: Position = entry.position or "after_char"
    depth = 0
    wanted = values.get("position")
    if wanted is not None and (wanted.endswith("_desc") or wanted in sections):
        position = wanted
    elif "depth" in values:
        position, depth = "depth", max(0, values["depth"])
    elif tavern:
        # Its authors' notes and example messages have no place here; the end of the persona has.
        number = whole_number(tavern.get("position"))
        if number is not None:
            position = _TAVERN_POSITIONS.get(number, position)
        if position == "depth":
            depth = whole_number(tavern.get("depth")) or 0
    return WokenEntry(
        ready.id, entry.name or entry.comment, position, depth, role, ready.text, tokens
    )
