"""What a persona says of itself, as the model reads it: the stable beginning of every prompt.

Nothing here depends on the conversation, so that the engine's prefix cache holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from personas.macros import expand
from personas.model import Persona

DEFAULT_USER = "User"
"""Who speaks to a persona that has not been told a name."""

_DEFAULT_SYSTEM = (
    "You are {{char}}, in a conversation with {{user}}. Stay in character, and answer as {{char}} "
    "would, in your own words."
)
# Of a description without facts, where the window is too small for prose.
_COMPACT_CHARACTERS = 400

Speak = Callable[[str], str]
Parts = list[tuple[str, str]]


def names_of(persona: Persona, user: str) -> tuple[str, str]:
    """What stands for ``{{char}}`` and ``{{user}}``."""
    return persona.nickname or persona.name, user or DEFAULT_USER


def speaker(persona: Persona, user: str, seed: bytes) -> Speak:
    """What fills in the macros of a persona's texts.

    Chance is drawn from `seed` alone, so that a text is the same in every prompt of a thread.
    """
    char, who = names_of(persona, user)

    def speak(text: str) -> str:
        return expand(text, char=char, user=who, seed=seed).strip()

    return speak


def stable_parts(
    persona: Persona, speak: Speak, *, before: Iterable[str] = (), after: Iterable[str] = ()
) -> Parts:
    """Name and text of each part, in the order of the prompt.

    Args:
        persona: Who speaks.
        speak: See `speaker`.
        before, after: Entries of the lorebook that stand around the description in every prompt.
    """
    own = persona.system_prompt.replace("{{original}}", _DEFAULT_SYSTEM) or _DEFAULT_SYSTEM
    parts: Parts = [("system", speak(own))]
    parts += [("lore", text) for text in before]
    parts.append(("persona", speak(f"You are {persona.name}. {persona.description}")))
    if persona.facts:
        parts.append(("persona", speak("About you:\n" + "\n".join(persona.facts))))
    if persona.style:
        parts.append(("persona", speak(f"How you speak: {persona.style}")))
    parts += [("lore", text) for text in after]
    if persona.scenario:
        parts.append(("scenario", speak(f"Where you are: {persona.scenario}")))
    parts += [("examples", text) for text in _examples(persona, speak)]
    return parts


def _examples(persona: Persona, speak: Speak) -> list[str]:
    texts = [
        "\n".join(f"Them: {one.user}\nYou: {one.persona}" for one in dialogue.turns)
        for dialogue in persona.example_dialogues
    ]
    texts += [
        text.strip()
        for text in persona.example_text.replace("<start>", "<START>").split("<START>")
        if text.strip()
    ]
    return ["Examples of how you talk:", *map(speak, texts)] if texts else []


def compact_parts(persona: Persona, speak: Speak) -> Parts:
    """The same for a window that holds facts but no prose."""
    about = persona.facts or ((persona.description[:_COMPACT_CHARACTERS],))
    return [
        ("persona", " ".join(filter(None, (f"My name is {persona.name}.", *map(speak, about)))))
    ]


def greeting_of(persona: Persona, number: int | None, speak: Speak) -> str:
    """The greeting that began a conversation; empty where there was none, or is none any more."""
    greetings = (persona.greeting, *persona.alternate_greetings)
    return "" if number is None or number >= len(greetings) else speak(greetings[number])
