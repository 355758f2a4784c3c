"""Build the prompt: stable prefix first, so that the engine's prefix cache holds.

Order: who the persona is, then the turns that are remembered, then the new message. Nothing
volatile (no clock, no counter) stands before the turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.recall import recent_within
from memory.records import Turn
from personas.model import Persona
from runtime.enclave.engines.base import Engine, Message

# A window this small holds a persona's facts but not its prose beside a conversation.
COMPACT_BELOW_TOKENS = 2048
# Room kept free for the reply, as a share of the window, before memory gets the rest.
_REPLY_SHARE = 4


class PromptTooLongError(Exception):
    """Persona and message alone exceed the window."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine reads.

    Attributes:
        messages: System text, remembered turns oldest first, the new message.
        tokens: Length under the engine's own template.
        remembered: How many earlier turns are in it.
        max_reply_tokens: What is left of the window, at most what the persona asks for.
    """

    messages: tuple[Message, ...]
    tokens: int
    remembered: int
    max_reply_tokens: int


def build_prompt(persona: Persona, turns: Sequence[Turn], message: str, engine: Engine) -> Prompt:
    """Fit persona, as many of the newest turns as there is room for, and the message.

    Raises:
        PromptTooLongError: There is no room even without any turn.
    """
    system = Message("system", _system_text(persona, compact=_is_small(engine)))
    new = Message("user", message)
    reserve = min(persona.sampling.max_tokens, engine.context_tokens // _REPLY_SHARE)
    fixed = engine.count_tokens([system, new])
    budget = engine.context_tokens - reserve - fixed
    if budget < 0:
        raise PromptTooLongError
    # A reply that failed or was stopped before its first word teaches the model silence.
    turns = [turn for turn in turns if turn.reply]
    chosen = list(
        recent_within(turns, budget, lambda turn: engine.count_tokens(_as_messages(turn)))
    )
    # Templates differ in what they add per message; the exact count decides.
    while True:
        past = [part for turn in chosen for part in _as_messages(turn)]
        messages = (system, *past, new)
        tokens = engine.count_tokens(messages)
        if not chosen or tokens + reserve <= engine.context_tokens:
            break
        chosen.pop(0)
    room = engine.context_tokens - tokens
    return Prompt(messages, tokens, len(chosen), min(persona.sampling.max_tokens, room))


def build_chat_prompt(
    persona: Persona, said: Sequence[Message], max_tokens: int, engine: Engine
) -> Prompt:
    """Persona first, then a program's own messages as they are: nothing is left out to fit.

    Its system messages follow the persona in the one system text that models are trained on,
    wherever they stood: the persona stays the prefix that the cache holds.

    Raises:
        PromptTooLongError: There is no room for a reply of one token.
    """
    own = [message.content for message in said if message.role == "system"]
    system = "\n\n".join([_system_text(persona, compact=_is_small(engine)), *own])
    rest = (message for message in said if message.role != "system")
    messages = (Message("system", system), *rest)
    tokens = engine.count_tokens(messages)
    room = engine.context_tokens - tokens
    if room < 1:
        raise PromptTooLongError
    return Prompt(messages, tokens, 0, min(max_tokens, room))


def _is_small(engine: Engine) -> bool:
    return engine.context_tokens < COMPACT_BELOW_TOKENS


def _as_messages(turn: Turn) -> list[Message]:
    return [Message("user", turn.message), Message("assistant", turn.reply)]


def _system_text(persona: Persona, *, compact: bool) -> str:
    if compact:
        return " ".join((f"My name is {persona.name}.", *persona.facts))
    parts = [
        persona.system_prompt,
        f"You are {persona.name}. {persona.description}",
        "About you:\n" + "\n".join(persona.facts),
        f"How you speak: {persona.style}",
    ]
    parts.append("Examples of how you talk:")
    parts += [
        "\n".join(f"Them: {one.user}\nYou: {one.persona}" for one in dialogue.turns)
        for dialogue in persona.example_dialogues
    ]
    return "\n\n".join(parts)
