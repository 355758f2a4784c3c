"""Where a lorebook's woken entries stand in a prompt (Character Card V3, "Lorebook Fields").

An entry that is always there stands around the description, where its card puts it. One that only
some messages wake would change the beginning of the prompt each time, and the engine would read all
of it anew: it stands in the notes before the new message. Entries with a depth stand among the
messages.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from personas.lorebook import (
    MAX_WORK,
    Matched,
    Prepared,
    Said,
    WokenEntry,
    entry_id,
    fit,
    match,
    prepare,
)
from personas.model import Lorebook, Persona
from runtime.enclave.engines.base import Message

# A book with as many patterns as there may be takes up to 32 MiB.
_PREPARED = 32
# What is looked for at once, on the event loop; a book that takes more is looked through off it.
_LIGHT_WORK = 4_000_000
# One thread: heavy books wait for each other, and take one core at most.
_ASIDE = ThreadPoolExecutor(1, thread_name_prefix="lore")
_BEFORE = frozenset({"before_char", "before_desc"})


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry among the messages: how many stand after it, who seems to say it, and what."""

    depth: int
    role: str
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lore:
    """What a conversation woke.

    Attributes:
        before, after: Around the persona's description, in every prompt.
        volatile: In the notes before the message.
        at_depth: Among the messages.
        ids: Of all that matched, for the turn's record.
    """

    before: tuple[str, ...] = field(default=(), repr=False)
    after: tuple[str, ...] = field(default=(), repr=False)
    volatile: tuple[str, ...] = field(default=(), repr=False)
    at_depth: tuple[Placed, ...] = ()
    ids: tuple[bytes, ...] = ()


NO_LORE = Lore()


class _Books:
    """Lorebooks made ready, the newest ones: their patterns are compiled once."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[Lorebook, Prepared, frozenset[bytes]]] = OrderedDict()

    def __contains__(self, book: Lorebook) -> bool:
        return id(book) in self._known

    def get(self, book: Lorebook) -> tuple[Prepared, frozenset[bytes]]:
        """The book, and the ids of its entries that are always there."""
        known = self._known.get(id(book))
        if known is None:
            constant = frozenset(entry_id(one) for one in book.entries if one.constant)
            # The book is held too, so that no other gets its address.
            known = self._known[id(book)] = (book, prepare(book), constant)
            while len(self._known) > _PREPARED:
                self._known.popitem(last=False)
        return known[1], known[2]


_BOOKS = _Books()


async def ready_lore(persona: Persona) -> None:
    """Make a persona's lorebook ready off the event loop: a large one takes a while."""
    if persona.lorebook is not None and persona.lorebook not in _BOOKS:
        await asyncio.to_thread(_BOOKS.get, persona.lorebook)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a lorebook's keys are looked for in.

    Attributes:
        said: The conversation, oldest first, the new message last.
        names: The persona's and the user's.
        greeting: Which greeting began it; None for none.
        assistant_count: Replies so far; None to count them in `said`.
        woken: Entries that were woken before.
        seed: Decides probabilities, together with how far the conversation is.
    """

    said: Sequence[Message] = field(repr=False)
    names: tuple[str, str] = field(repr=False)
    greeting: int | None = None
    assistant_count: int | None = None
    woken: Mapping[bytes, int] = field(default_factory=dict, repr=False)
    seed: bytes = field(default=b"", repr=False)


def match_lore(persona: Persona, heard: Heard, work: int = MAX_WORK) -> Matched | None:
    """Which entries of a persona's lorebook match; None where it has none."""
    if persona.lorebook is None:
        return None
    book, _ = _BOOKS.get(persona.lorebook)
    told = f"{heard.assistant_count} {len(heard.said)}".encode()
    return match(
        book,
        [Said(one.role, one.content) for one in heard.said],
        greeting=-1 if heard.greeting is None else heard.greeting,
        assistant_count=heard.assistant_count,
        woken=heard.woken,
        seed=hashlib.sha256(heard.seed + b"\x00" + told).digest(),
        names=heard.names,
        work=work,
    )


async def match_lore_aside(persona: Persona, heard: Heard) -> Matched | None:
    """The same; off the event loop where it takes long, so that nobody else's turn waits."""
    found = match_lore(persona, heard, _LIGHT_WORK)
    if found is None or found.complete:
        return found
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_ASIDE, match_lore, persona, heard)


def wake_lore(
    persona: Persona,
    matched: Matched | None,
    speak: Callable[[str], str],
    *,
    cost: Callable[[str], int],
    room: int,
) -> Lore:
    """What of a persona's lorebook stands in the prompt, within `room` tokens.

    Args:
        persona: Whose lorebook.
        matched: What the conversation wakes of it.
        speak: Fills in macros.
        cost: Counts the tokens of a content.
        room: Tokens that entries may take together.
    """
    if persona.lorebook is None or matched is None:
        return NO_LORE
    _, constant = _BOOKS.get(persona.lorebook)
    found = fit(
        matched,
        count_tokens=cost,
        room=max(0, room),
        sections=[name for name in ("scenario",) if persona.scenario],
    )
    if not found.ids:
        return NO_LORE

    def texts(choose: Callable[[WokenEntry], bool]) -> tuple[str, ...]:
        return tuple(speak(one.content) for one in found.entries if choose(one))

    stable = {id(one) for one in found.entries if one.id in constant and one.position != "depth"}
    return Lore(
        before=texts(lambda one: id(one) in stable and one.position in _BEFORE),
        after=texts(lambda one: id(one) in stable and one.position not in _BEFORE),
        volatile=texts(lambda one: id(one) not in stable and one.position != "depth"),
        at_depth=tuple(
            Placed(one.depth, one.role, speak(one.content))
            for one in found.entries
            if one.position == "depth"
        ),
        ids=found.ids,
    )


def insert_at_depth(messages: Sequence[Message], entries: Sequence[Placed]) -> list[Message]:
    """Messages with entries among them, each at its depth from the end.

    Many templates know one system message and want user and assistant to take turns. So an entry
    becomes part of the message beside it that has its role, and an instruction a bracketed note in
    the user's.
    """
    found = list(messages)
    for entry in entries:
        after = max(0, len(messages) - entry.depth)
        role = "assistant" if entry.role == "assistant" else "user"
        text = entry.content if entry.role == "user" else f"[{entry.content}]"
        # An instruction reads as said before the message that follows it.
        for wanted, at in ((role, after), (role, after - 1), ("user", after), ("user", after - 1)):
            if 0 <= at < len(found) and found[at].role == wanted:
                own = entry.content if wanted == "assistant" else text
                parts = (own, found[at].content) if at == after else (found[at].content, own)
                found[at] = Message(found[at].role, "\n\n".join(parts))
                break
    return found
