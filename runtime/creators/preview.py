"""The prompt of a conversation, part by part, as the enclave builds it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import orjson

from memory.records import Turn
from memory.view import WINDOW
from personas.lorebook import Said, entry_id, wake
from personas.model import LorebookEntry, Persona
from runtime.enclave.embedding.static import StaticEmbedder
from runtime.enclave.engines.base import Engine
from runtime.enclave.knowledge import Library
from runtime.enclave.persona_text import names_of, speaker
from runtime.enclave.prompt import COMPACT_BELOW_TOKENS, LookUp, Prompt, Scene, build_prompt
from runtime.errors import Exit, SottoError

MAX_CONVERSATION_BYTES: Final = 1024 * 1024
_MAX_EXCHANGES: Final = 10_000
_SPEAKER: Final = re.compile(r"(Them|You):\s?(.*)", re.IGNORECASE)
# Of the conversation that is shown; any other decides macros of chance otherwise.
_SEED: Final = b"sottovoce"
_COMPACT_LEAVES: Final = (
    "system_prompt", "style", "scenario", "example_dialogues", "example_text", "post_history",
    "knowledge",
)  # fmt: skip

Exchanged = tuple[str, str]
"""What the user said, and what the persona answered."""


@dataclass(frozen=True, slots=True)
class Awake:
    """An entry of the lorebook that the conversation woke.

    Attributes:
        name: Its name or comment, else its keys.
        keys: Keys that match by themselves; empty where it is constant, or another entry woke it.
        constant: It is always there.
        placed: It stands in the prompt; else there was no room.
    """

    name: str
    keys: tuple[str, ...]
    constant: bool
    placed: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """A prompt and what became of what could stand in it.

    Attributes:
        prompt: With its parts.
        window: Tokens of the engine's whole window.
        reserved: Of them, kept free for the reply.
        lore: Entries that woke.
        asleep: How many entries did not.
        left_out: What the conversation or the persona has and the prompt has not, with the reason.
    """

    prompt: Prompt
    window: int
    reserved: int
    lore: tuple[Awake, ...]
    asleep: int
    left_out: tuple[str, ...]

    @property
    def overhead(self) -> int:
        """Tokens of the prompt that belong to no part: the template, headings, notes' frames.

        Parts are counted each by itself, so a small prompt can have fewer than their sum.
        """
        return self.prompt.tokens - sum(part.tokens for part in self.prompt.parts)


def read_conversation(data: bytes, name: str) -> tuple[list[Exchanged], str]:
    """Exchanges of a file, and the message that it ends with, empty for none.

    Args:
        data: A JSON list of ``{"user": ..., "persona": ...}``, or lines ``Them: ...`` and
            ``You: ...`` (the persona), in turn; a line without a name goes on with the one before.
        name: The file's, for messages.

    Raises:
        SottoError: It is neither, with the place.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _refused(name, "is not UTF-8", "save it as UTF-8") from None
    lines = _from_json(text, name) if text.lstrip().startswith("[") else _from_lines(text, name)
    if len(lines) > 2 * _MAX_EXCHANGES:
        raise _refused(name, f"has over {_MAX_EXCHANGES} exchanges", "shorten it")
    message = lines.pop() if len(lines) % 2 else ""
    return list(zip(lines[::2], lines[1::2], strict=True)), message


def _from_json(text: str, name: str) -> list[str]:
    try:
        found: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _refused(name, f"{place}: {error.msg}", "write a JSON list") from None
    lines: list[str] = []
    for at, one in enumerate(found):
        last = at == len(found) - 1
        keys = set(one) if isinstance(one, dict) else set()
        whole = keys == {"user", "persona"} or (last and keys == {"user"})
        if not whole or not all(isinstance(value, str) for value in one.values()):
            raise _refused(
                name,
                f"entry {at} is not an object of the texts `user` and `persona`",
                "only the last one may lack `persona`",
            )
        lines += [one[key] for key in ("user", "persona") if key in one]
    return lines


def _from_lines(text: str, name: str) -> list[str]:
    lines: list[str] = []
    for at, line in enumerate(text.splitlines(), start=1):
        found = _SPEAKER.match(line)
        if found is None:
            if line.strip() and not lines:
                raise _refused(
                    name, f"line {at} has no speaker", "begin it with `Them:` (who talks to the "
                    "persona) or `You:` (the persona)",
                )  # fmt: skip
            if lines:
                lines[-1] += f"\n{line}"
            continue
        expected = "You" if len(lines) % 2 else "Them"
        if found[1].title() != expected:
            raise _refused(name, f"line {at}: it is {expected}'s turn", "let the two take turns")
        lines.append(found[2])
    return [line.strip() for line in lines]


def _refused(name: str, problem: str, remedy: str) -> SottoError:
    return SottoError(
        f"{name}: {problem}; {remedy}", code="conversation_refused", exit_code=Exit.USAGE
    )


async def preview(
    persona: Persona,
    message: str,
    engine: Engine,
    *,
    said: Sequence[Exchanged] = (),
    user: str = "",
    greeting: int | None = None,
) -> Preview:
    """The prompt for `message` after `said`, in a thread that has no notes yet.

    Raises:
        PromptTooLongError, EngineError: As `build_prompt` does.
    """
    turns = [
        (at, Turn(bytes(16), 0, asked, reply, "completed", bytes(16)))
        for at, (asked, reply) in enumerate(said)
    ]
    scene = Scene(
        persona,
        message,
        turns=turns[-WINDOW:],
        count=len(turns),
        length=len(turns),
        user=user,
        greeting=greeting,
        look_up=await _look_up(persona, message),
        seed=_SEED,
    )
    prompt = build_prompt(scene, engine, detail=True)
    reserved = min(persona.sampling.max_tokens, engine.context_tokens // 4)
    lore = _awake(scene, prompt)
    entries = persona.lorebook.entries if persona.lorebook else ()
    small = engine.context_tokens < COMPACT_BELOW_TOKENS
    return Preview(
        prompt,
        engine.context_tokens,
        reserved,
        lore,
        len(entries) - len(lore),
        tuple(_left_out(scene, prompt, lore, small)),
    )


@cache
def _embedder() -> StaticEmbedder:
    return StaticEmbedder().load()


async def _look_up(persona: Persona, message: str) -> LookUp | None:
    if not persona.knowledge:
        return None
    embedder = await asyncio.to_thread(_embedder)
    base = await Library(embedder).base(persona, patience_s=None)
    (vector,) = await embedder.embed([message])
    if base is None:
        return None
    return lambda budget, cost: base.look_up(message, np.asarray(vector), budget, cost)


def _awake(scene: Scene, prompt: Prompt) -> tuple[Awake, ...]:
    """Which entries woke, each asked again by itself and with one key at a time."""
    book = scene.persona.lorebook
    if book is None:
        return ()
    heard = [
        Said(role, text)
        for _, turn in scene.turns
        if turn.reply
        for role, text in (("user", turn.message), ("assistant", turn.reply))
    ]
    heard.append(Said("user", scene.message))
    names = names_of(scene.persona, scene.user)
    speak = speaker(scene.persona, scene.user, scene.seed)
    sent = [message.content for message in prompt.messages]

    def alone(entry: LorebookEntry) -> list[str]:
        found = wake(
            book.model_copy(update={"entries": (entry,), "token_budget": None}),
            heard,
            count_tokens=len,
            room=2**31,
            assistant_count=len(heard) // 2,
            names=names,
        )
        return [speak(one.content) for one in found.entries]

    rows = []
    for entry in book.entries:
        if entry_id(entry) not in prompt.lore:
            continue
        bare = {"constant": None, "selective": None, "secondary_keys": ()}
        keys = tuple(
            key for key in entry.keys if alone(entry.model_copy(update={**bare, "keys": (key,)}))
        )
        texts = alone(entry.model_copy(update={"constant": True}))
        rows.append(
            Awake(
                entry.name or entry.comment[:64] or ", ".join(entry.keys)[:64],
                () if entry.constant else keys,
                bool(entry.constant),
                any(text in content for text in texts for content in sent),
            )
        )
    return tuple(rows)


def _left_out(scene: Scene, prompt: Prompt, lore: Sequence[Awake], small: bool) -> list[str]:
    found = []
    persona = scene.persona
    if small:
        keys = [key for key in _COMPACT_LEAVES if getattr(persona, key)]
        if keys:
            found.append(
                f"{', '.join(keys)}: a window below {COMPACT_BELOW_TOKENS} tokens holds "
                + ("facts" if persona.facts else "the beginning of the description")
                + " and conversation alone"
            )
    unanswered = sum(not turn.reply for _, turn in scene.turns)
    count = scene.count or 0
    if unanswered:
        found.append(f"{unanswered} turns without a reply: they teach silence")
    if missing := count - unanswered - prompt.remembered:
        found.append(
            f"the oldest {missing} of {count} turns: no room; in a real thread their summary and "
            "what is recalled of them stand here"
        )
    if scene.greeting is not None and not any(part.name == "greeting" for part in prompt.parts):
        found.append("the greeting: there is none of that number, or no room for it")
    found += [
        f"lore {one.name!r}: " + ("no room" if not small else "a window this small has no place")
        for one in lore
        if not one.placed
    ]
    if persona.knowledge and not small and not any(p.name == "knowledge" for p in prompt.parts):
        found.append("knowledge: no passage is near enough to the message, or there is no room")
    return found
