"""Character files of Eliza (JSON). What they say of clients, models and settings stays out:
settings can hold secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from personas.cards.cleaning import Reader
from personas.model import (
    Knowledge,
    Lorebook,
    LorebookEntry,
    Persona,
)

_MARKS: Final = frozenset({"bio", "messageExamples", "postExamples", "adjectives", "lore"})
_READ: Final = frozenset(
    {"name", "bio", "lore", "messageExamples", "adjectives", "topics", "knowledge", "style",
     "system", "username"}
)  # fmt: skip
_LORE: Final = "lore"
_PLACEHOLDER: Final = re.compile(r"\{\{user\d*\}\}", re.IGNORECASE)


def is_character(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object looks like an Eliza character."""
    return "name" in document and bool(_MARKS & document.keys()) and "first_mes" not in document


def read_character(reader: Reader, document: Mapping[str, Any]) -> dict[str, Any]:
    """Our keys of a character. Raises CardError."""
    for key in document.keys() - _READ:
        reader.note("lost", key[:64], "has no place in a persona")
    style = document.get("style")
    style = style if isinstance(style, Mapping) else {}
    if style.get("post"):
        reader.note("lost", "style.post", "is for posts, which personas do not write")
    voice = [
        *_lines(reader, "style.all", style.get("all")),
        *_lines(reader, "style.chat", style.get("chat")),
    ]
    if adjectives := _lines(reader, "adjectives", document.get("adjectives")):
        voice.append(f"Adjectives: {', '.join(adjectives)}.")
    lore = _lines(reader, "lore", document.get("lore"))
    return {
        "description": reader.text("bio", "\n".join(_lines(reader, "bio", document.get("bio")))),
        "system_prompt": reader.text("system", document.get("system")),
        "style": reader.text("style", "\n".join(voice)),
        "tags": tuple(reader.tags("topics", _lines(reader, "topics", document.get("topics")))),
        "example_text": reader.text("messageExamples", _examples(reader, document)),
        "lorebook": Lorebook(
            entries=tuple(
                LorebookEntry(content=line, constant=True, name=_LORE, insertion_order=at)
                for at, line in enumerate(lore)
            )
        )
        if lore
        else None,
        "knowledge": tuple(_knowledge(reader, document.get("knowledge"))),
    }


def _lines(reader: Reader, place: str, value: Any) -> list[str]:
    lines = [value] if isinstance(value, str) else value
    return reader.lines(place, lines, strip=True, most=32_768)


def _examples(reader: Reader, document: Mapping[str, Any]) -> str:
    blocks = []
    name = document.get("name")
    conversations = document.get("messageExamples")
    for at, conversation in enumerate(conversations if isinstance(conversations, list) else []):
        lines = ["<START>"]
        for message in conversation if isinstance(conversation, list) else []:
            content = message.get("content") if isinstance(message, Mapping) else None
            if not isinstance(content, Mapping) or not isinstance(content.get("text"), str):
                reader.note("lost", f"messageExamples[{at}]", "holds what is no message")
                continue
            if len(content) > 1:
                reader.note(
                    "lost", f"messageExamples[{at}]", "actions and attachments are left out"
                )
            who = message.get("user", message.get("name"))
            speaker = "{{char}}" if who == name else "{{user}}"
            lines.append(f"{speaker}: {_PLACEHOLDER.sub('{{user}}', content['text'])}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _knowledge(reader: Reader, value: Any) -> list[Knowledge]:
    made = []
    for at, one in enumerate(value if isinstance(value, list) else []):
        place = f"knowledge[{at}]"
        told = one.get("content") if isinstance(one, Mapping) else one
        text = reader.text(place, told, most=262_144)
        if not text:
            reader.note("lost", place, "has no text; add the file it names yourself")
            continue
        name = one.get("path") if isinstance(one, Mapping) else None
        made.append(
            Knowledge(name=reader.line(place, name, 64) or f"knowledge {at + 1}", text=text)
        )
    return made[:64]


def write_character(persona: Persona) -> dict[str, Any]:
    """A persona as a character; `cards.export` says what it does not hold."""
    entries = persona.lorebook.entries if persona.lorebook is not None else ()
    return {
        "name": persona.name,
        **({"system": persona.system_prompt} if persona.system_prompt else {}),
        "bio": persona.description.split("\n") if persona.description else [],
        "lore": [entry.content for entry in entries if entry.constant and not entry.keys],
        "messageExamples": [
            [_message(persona, *line) for line in dialogue] for dialogue in dialogues_of(persona)
        ],
        "postExamples": [],
        "adjectives": [],
        "topics": list(persona.tags),
        "knowledge": [{"path": one.name, "content": one.text} for one in persona.knowledge],
        "style": {
            "all": persona.style.split("\n") if persona.style else [],
            "chat": [],
            "post": [],
        },
    }


def _message(persona: Persona, speaker: str, text: str) -> dict[str, Any]:
    user = persona.name if speaker == "char" else "{{user1}}"
    return {"user": user, "content": {"text": text.replace("{{user}}", "{{user1}}")}}


_LINE: Final = re.compile(r"^\{\{(char|user)\}\}:[ \t]*", re.MULTILINE | re.IGNORECASE)
_START: Final = re.compile(r"^[ \t]*<START>[ \t]*$", re.MULTILINE | re.IGNORECASE)


def dialogues_of(persona: Persona) -> list[list[tuple[str, str]]]:
    """All example dialogues as (char or user, text), whichever way the persona writes them."""
    found = [
        [line for one in dialogue.turns for line in (("user", one.user), ("char", one.persona))]
        for dialogue in persona.example_dialogues
    ]
    for block in _START.split(persona.example_text):
        parts = _LINE.split(block)
        lines = [
            (speaker.lower(), text.strip())
            for speaker, text in zip(parts[1::2], parts[2::2], strict=True)
        ]
        if lines:
            found.append(lines)
    return found
