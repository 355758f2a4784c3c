"""Build the prompt: stable prefix first, so that the engine's prefix cache holds.

Order: who the persona is, the summary, the turns that are remembered; then, with the new message,
what is volatile: entries of the lorebook, documents, recalled memories. The turns begin at a
multiple of eight, so that most prompts of a thread begin with all of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from memory.recall import Recalled, recall_share, recent_within
from memory.records import Summary, Turn
from personas.lorebook import Matched
from personas.model import Persona
from runtime.enclave.engines.base import Engine, Message
from runtime.enclave.lore import (
    NO_LORE,
    Heard,
    Lore,
    insert_at_depth,
    match_lore,
    match_lore_aside,
    wake_lore,
)
from runtime.enclave.persona_text import (
    Parts,
    Speak,
    compact_parts,
    greeting_of,
    names_of,
    speaker,
    stable_parts,
)

# A window this small holds a persona's facts but not its prose beside a conversation.
COMPACT_BELOW_TOKENS = 2048
# Room kept free for the reply, as a share of the window, before memory gets the rest.
_REPLY_SHARE = 4
# Of what persona and message leave, as shares: what wakes, what is looked up.
_LORE_SHARE = 4
_KNOWLEDGE_SHARE = 6
# No prose has so few tokens.
_CHARACTERS_PER_TOKEN = 16
_SEED = b"sottovoce"
# Turns by which the window jumps when it is full.
WINDOW_STEP = 8

Cost = Callable[[str], int]
Recall = Callable[[int, Cost, int], Sequence[Recalled]]
"""Memories worth so many tokens, by a cost, without the turns from an index on."""
LookUp = Callable[[int, Cost], Sequence[str]]
"""Passages of the persona's documents worth so many tokens, by a cost."""


class PromptTooLongError(Exception):
    """Persona and message alone exceed the window."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a prompt, for people.

    Attributes:
        name: ``system``, ``persona``, ``scenario``, ``examples``, ``lore``, ``greeting``,
            ``summary``, ``turns``, ``knowledge``, ``recalled``, ``message`` or ``post_history``.
        text: As the model reads it.
        tokens: Its length by itself; a template adds a few for each message.
    """

    name: str
    text: str = field(repr=False)
    tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine reads.

    Attributes:
        messages: System text, remembered turns oldest first, the new message.
        tokens: Length under the engine's own template.
        remembered: How many earlier turns are in it.
        max_reply_tokens: What is left of the window, at most what the persona asks for.
        recalled: Memories in it besides those turns.
        window: Index of the first record whose turn is in it; that of the next record for none.
        summary: Index of the summary in it, None without one.
        lore: Ids of the lorebook's entries that it woke.
        parts: What it is made of, where that was asked for.
    """

    messages: tuple[Message, ...] = field(repr=False)
    tokens: int
    remembered: int
    max_reply_tokens: int
    recalled: tuple[Recalled, ...] = ()
    window: int = 0
    summary: int | None = None
    lore: tuple[bytes, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Scene:
    """All that one prompt is made of.

    Attributes:
        persona: Who answers.
        message: What was said.
        turns: The newest turns of the thread with their indexes, oldest first.
        count: How many turns the thread has; None for no more than `turns`.
        length: Records of the thread.
        summary: What was before them, and its index.
        said: Exchanges after the turns that no memory holds.
        user: What the persona calls the person.
        greeting: Which greeting began the conversation; None for none.
        woken: Entries of the lorebook that were woken before, and by which turn.
        matched: What matches in the lorebook; None: it is looked for when the prompt is made.
        recall, look_up: See there; None for nothing.
        seed: Decides chance in macros: one per thread.
        costs: Tokens of turns by index, as far as they are known; is added to.
    """

    persona: Persona
    message: str
    turns: Sequence[tuple[int, Turn]] = ()
    count: int | None = None
    length: int = 0
    summary: tuple[int, Summary] | None = None
    said: Sequence[tuple[str, str]] = ()
    user: str = ""
    greeting: int | None = None
    woken: Mapping[bytes, int] = field(default_factory=dict)
    matched: Matched | None = None
    recall: Recall | None = None
    look_up: LookUp | None = None
    seed: bytes = _SEED
    costs: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Past:
    """One exchange that may stand in the prompt; `index` is None where no memory holds it."""

    index: int | None
    ordinal: int
    messages: tuple[Message, Message]


def build_prompt(scene: Scene, engine: Engine, *, detail: bool = False) -> Prompt:
    """Fit persona, message, what belongs to them, and as many of the newest turns as there is room
    for.

    Args:
        scene: What to make it of.
        engine: Whose template and window count.
        detail: Say what it is made of, which costs a little time.

    Raises:
        PromptTooLongError: There is no room even without any turn.
        EngineError: The model knows no such conversation.
    """
    return _Builder(scene, engine, _limit(scene.persona, engine)).build(detail=detail)


async def match_scene(scene: Scene) -> Scene:
    """The scene with what matches in the lorebook: a heavy one holds up nobody else."""
    if scene.persona.lorebook is None:
        return scene
    return replace(scene, matched=await match_lore_aside(scene.persona, _heard(scene)))


async def match_chat(persona: Persona, said: Sequence[Message]) -> Matched | None:
    """The same for a program's own messages."""
    return await match_lore_aside(persona, _heard_chat(persona, said))


def build_chat_prompt(
    persona: Persona,
    said: Sequence[Message],
    max_tokens: int,
    engine: Engine,
    matched: Matched | None = None,
) -> Prompt:
    """Persona first, then a program's own messages as they are: nothing is left out to fit.

    Its system messages follow the persona in the one system text that models are trained on,
    wherever they stood: the persona stays the prefix that the cache holds. What the messages wake
    in the lorebook stands where it belongs, as far as there is room.

    Raises:
        PromptTooLongError: There is no room for a reply of one token.
    """
    small = _is_small(engine)
    speak = speaker(persona, "", _SEED)
    own = [message.content for message in said if message.role == "system"]
    rest = [message for message in said if message.role != "system"]
    room = (engine.context_tokens - engine.count_tokens(rest)) // _LORE_SHARE
    matched = matched or match_lore(persona, _heard_chat(persona, said))
    lore = wake_lore(persona, matched, speak, cost=cost_of, room=room)

    def laid_out(lore: Lore) -> tuple[Message, ...]:
        parts = (
            compact_parts(persona, speak)
            if small
            else stable_parts(persona, speak, before=lore.before, after=lore.after)
        )
        system = Message("system", "\n\n".join([*(text for _, text in parts), *own]))
        chat = rest
        if rest and rest[-1].role == "user":
            notes = _notes(persona, speak, lore=lore.volatile)
            last = _joined(notes, rest[-1].content, _post_history(persona, speak, small))
            chat = insert_at_depth([*rest[:-1], Message("user", last)], lore.at_depth)
        return (system, *chat)

    messages = laid_out(lore)
    tokens = engine.count_tokens(messages)
    if lore is not NO_LORE and tokens + 1 > engine.context_tokens:
        messages = laid_out(NO_LORE)
        tokens = engine.count_tokens(messages)
    left = engine.context_tokens - tokens
    if left < 1:
        raise PromptTooLongError
    return Prompt(messages, tokens, 0, min(max_tokens, left))


def cost_of(text: str) -> int:
    """About how many tokens a text takes, more often too many than too few: no tokenizer is asked
    for what may not be taken. UTF-8 has near 4 bytes per token of English, 3 of a Han character."""
    return 2 + len(text.encode("utf-8", "replace")) // 3


class _Builder:
    """One prompt in the making."""

    def __init__(self, scene: Scene, engine: Engine, most: int) -> None:
        self._scene = scene
        self._engine = engine
        self._most = most
        self._reserve = min(most, engine.context_tokens // _REPLY_SHARE)
        self._small = _is_small(engine)
        self._speak = speaker(scene.persona, scene.user, scene.seed)
        self._stable: Parts = []
        self._lore = NO_LORE
        self._knowledge: tuple[str, ...] = ()
        self._recalled: tuple[Recalled, ...] = ()
        self._chosen: list[_Past] = []
        self._greeted = False

    def build(self, *, detail: bool) -> Prompt:
        scene, engine = self._scene, self._engine
        self._stable = self._stable_parts()
        length = len(scene.message) + sum(len(text) for _, text in self._stable)
        if length > engine.context_tokens * _CHARACTERS_PER_TOKEN:
            raise PromptTooLongError  # macros can make much of little, and counting it takes long
        bare = self._fixed()
        left = engine.context_tokens - self._reserve - bare
        if left < 0:
            raise PromptTooLongError
        self._wake(left // _LORE_SHARE)
        if self._lore is not NO_LORE or scene.look_up is not None:
            if scene.look_up is not None:
                self._knowledge = tuple(scene.look_up(left // _KNOWLEDGE_SHARE, cost_of))
            left = engine.context_tokens - self._reserve - self._fixed()
        past = _past(scene)
        self._choose(past, left)
        self._recall(left)
        messages, tokens = self._fit()
        return Prompt(
            messages,
            tokens,
            sum(one.index is not None for one in self._chosen),
            min(self._most, engine.context_tokens - tokens),
            self._recalled,
            self._window(),
            scene.summary[0] if scene.summary is not None else None,
            self._lore.ids,
            self._parts() if detail else (),
        )

    def _stable_parts(self) -> Parts:
        persona, scene = self._scene.persona, self._scene
        if self._small:
            parts = compact_parts(persona, self._speak)
        else:
            parts = stable_parts(
                persona, self._speak, before=self._lore.before, after=self._lore.after
            )
        if scene.summary is not None and scene.summary[1].text:
            said = "What you and {{user}} talked about before:"
            parts.append(("summary", f"{self._speak(said)}\n{scene.summary[1].text}"))
        return parts

    def _wake(self, room: int) -> None:
        scene = self._scene
        if scene.persona.lorebook is None:
            return
        matched = scene.matched or match_lore(scene.persona, _heard(scene))
        self._lore = wake_lore(scene.persona, matched, self._speak, cost=cost_of, room=room)
        self._stable = self._stable_parts()

    def _choose(self, past: list[_Past], left: int) -> None:
        """The window: all that fits, beginning at a multiple of the step where not all does."""
        if self._small:
            self._chosen = list(recent_within(past, left, self._cost, step=1))
            return
        first = past[0].ordinal if past else 0
        everything = sum(map(self._cost, past))
        whole = first == 0 and everything <= left
        # Before the window is full nothing is recalled that does not stand in it; after that, what
        # is volatile keeps its share, so that the window does not move with each message.
        budget = left if whole else left - self._recall_room(left)
        self._chosen = list(recent_within(past, budget, self._cost, first=first, step=WINDOW_STEP))
        self._greeted = whole

    def _cost(self, one: _Past) -> int:
        if one.index is None:
            return self._engine.count_tokens(one.messages)
        known = self._scene.costs.get(one.index)
        if known is None:
            known = self._scene.costs[one.index] = self._engine.count_tokens(one.messages)
        return known

    def _window(self) -> int:
        held = [one.index for one in self._chosen if one.index is not None]
        return held[0] if held else self._scene.length

    def _recall(self, left: int) -> None:
        unused = left - sum(map(self._cost, self._chosen))
        budget = min(unused, self._recall_room(left))
        if budget > 0 and self._scene.recall is not None:
            self._recalled = tuple(self._scene.recall(budget, cost_of, self._window()))

    def _recall_room(self, left: int) -> int:
        policy = self._scene.persona.memory
        wanted = policy.recall and self._scene.recall is not None
        return recall_share(left, policy.recall_tokens) if wanted else 0

    def _fit(self) -> tuple[tuple[Message, ...], int]:
        """Let go of what does not fit by the exact count; the messages that are left, and that.

        Templates differ in what they add per message, and costs of texts are estimates.
        """
        most = self._engine.context_tokens - self._reserve
        while True:
            messages = self._messages()
            tokens = self._engine.count_tokens(messages)
            if tokens <= most:
                return messages, tokens
            if self._chosen:
                self._chosen.pop(0)
                self._greeted = False
            elif self._recalled:
                weakest = min(self._recalled, key=lambda one: (one.kind == "pin", one.score))
                self._recalled = tuple(one for one in self._recalled if one is not weakest)
            elif self._knowledge:
                self._knowledge = self._knowledge[:-1]
            elif self._lore is not NO_LORE:
                self._lore = NO_LORE
                self._stable = self._stable_parts()
            else:
                return messages, tokens

    def _fixed(self) -> int:
        """Tokens of what stands in every prompt, and of what was woken and looked up."""
        return self._engine.count_tokens(self._messages())

    def _messages(self) -> tuple[Message, ...]:
        system = Message("system", self._system())
        past = [message for one in self._chosen for message in one.messages]
        new = Message("user", self._last())
        return (system, *insert_at_depth([*past, new], self._lore.at_depth))

    def _system(self) -> str:
        texts = [text for _, text in self._stable]
        if greeting := self._greeting():
            texts.append(greeting)
        if self._small:
            texts += [*self._lore.volatile, *(one.text for one in self._recalled)]
            return " ".join(texts)
        return "\n\n".join(texts)

    def _greeting(self) -> str:
        # While the beginning is in the window: it moves when the window does, and not otherwise.
        if self._small or not self._greeted:
            return ""
        text = greeting_of(self._scene.persona, self._scene.greeting, self._speak)
        return f"You began this conversation with the words:\n{text}" if text else ""

    def _last(self) -> str:
        if self._small:
            return self._scene.message
        persona = self._scene.persona
        notes = _notes(
            persona,
            self._speak,
            lore=self._lore.volatile,
            knowledge=self._knowledge,
            recalled=[one.text for one in self._recalled],
        )
        return _joined(notes, self._scene.message, _post_history(persona, self._speak, False))

    def _parts(self) -> tuple[Part, ...]:
        found: Parts = list(self._stable)
        if greeting := self._greeting():
            found.append(("greeting", greeting))
        for one in self._chosen:
            found.append(("turns", "\n".join(f"{m.role}: {m.content}" for m in one.messages)))
        found += [("lore", text) for text in self._lore.volatile]
        found += [("lore", entry.content) for entry in self._lore.at_depth]
        found += [("knowledge", text) for text in self._knowledge]
        found += [("recalled", one.text) for one in self._recalled]
        found.append(("message", self._scene.message))
        if after := _post_history(self._scene.persona, self._speak, self._small):
            found.append(("post_history", after))
        count = self._engine.count_tokens
        frame = count([Message("user", "")])
        return tuple(
            Part(name, text, max(0, count([Message("user", text)]) - frame)) for name, text in found
        )


def _past(scene: Scene) -> list[_Past]:
    # A reply that failed or was stopped before its first word teaches the model silence.
    first = 0 if scene.count is None else scene.count - len(scene.turns)
    turns = [
        _Past(index, first + at, _as_messages(turn.message, turn.reply))
        for at, (index, turn) in enumerate(scene.turns)
        if turn.reply
    ]
    after = first + len(scene.turns)
    said = [
        _Past(None, after + at, _as_messages(*one)) for at, one in enumerate(scene.said) if one[1]
    ]
    return turns + said


def _heard(scene: Scene) -> Heard:
    past = [message for one in _past(scene) for message in one.messages]
    count = len(scene.turns) if scene.count is None else scene.count
    return Heard(
        [*past, Message("user", scene.message)],
        names_of(scene.persona, scene.user),
        greeting=scene.greeting,
        assistant_count=count + len(scene.said) + (scene.greeting is not None),
        woken=scene.woken,
        seed=scene.seed,
    )


def _heard_chat(persona: Persona, said: Sequence[Message]) -> Heard:
    heard = [message for message in said if message.role != "system"]
    return Heard(heard, names_of(persona, ""), seed=_SEED)


def _notes(
    persona: Persona,
    speak: Speak,
    *,
    lore: Sequence[str] = (),
    knowledge: Sequence[str] = (),
    recalled: Sequence[str] = (),
) -> str:
    """What is volatile, as a note before the message; empty where there is nothing."""
    sections = []
    if lore:
        sections.append("\n".join(lore))
    if knowledge:
        sections.append("From what you have read:\n" + "\n---\n".join(knowledge))
    if recalled:
        known = "\n".join(f"- {text}" for text in recalled)
        sections.append(speak("What you remember of {{user}}:") + "\n" + known)
    if not sections:
        return ""
    name = persona.nickname or persona.name
    return f"[Notes for {name} alone]\n" + "\n\n".join(sections) + "\n[End of the notes]"


def _post_history(persona: Persona, speak: Speak, small: bool) -> str:
    text = persona.post_history.replace("{{original}}", "")
    return f"[{speak(text)}]" if text.strip() and not small else ""


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def _limit(persona: Persona, engine: Engine) -> int:
    return min(persona.sampling.max_tokens, engine.context_tokens)


def _is_small(engine: Engine) -> bool:
    return engine.context_tokens < COMPACT_BELOW_TOKENS


def _as_messages(message: str, reply: str) -> tuple[Message, Message]:
    return Message("user", message), Message("assistant", reply)
