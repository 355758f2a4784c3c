"""The data side of the toy model: reading, splitting and laying out conversations.

Needs neither torch nor the inference library, so that training and evaluation share it.
The input is `valid.csv` of Synthetic-Persona-Chat (Jandaghi et al., CC BY 4.0), with one
conversation per row between "User 1" and "User 2" and a list of facts about each.
"""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["train", "dev", "heldout"]

# Some rows decorate the speaker: "*User 1:*", "**User 2**:".
_SPEAKER = re.compile(r"^[*\s]*User ([12])[*\s]*:[*\s]*")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One cleaned conversation.

    Attributes:
        facts: Facts of user 1 and of user 2, one sentence each.
        turns: (speaker, text) with speaker 0 for user 1; neighbours always differ.
        digest: SHA-256 (hex) of the raw conversation text; decides the split.
    """

    facts: tuple[tuple[str, ...], tuple[str, ...]]
    turns: tuple[tuple[int, str], ...]
    digest: str


def _facts(cell: str) -> tuple[str, ...]:
    return tuple(" ".join(line.split()) for line in cell.splitlines() if line.strip())


def _turns(cell: str) -> tuple[tuple[int, str], ...]:
    """Joins what one speaker says in a row; text before the first speaker is dropped."""
    turns: list[tuple[int, str]] = []
    for line in cell.splitlines():
        match = _SPEAKER.match(line)
        text = " ".join((line[match.end() :] if match else line).split())
        if not text.strip("* "):
            continue
        if match and not (turns and turns[-1][0] == int(match[1]) - 1):
            turns.append((int(match[1]) - 1, text))
        elif turns:
            turns[-1] = (turns[-1][0], f"{turns[-1][1]} {text}")
    return tuple(turns)


def read_conversations(path: Path) -> list[Conversation]:
    """Reads the CSV; rows with fewer than two turns are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    conversations = []
    for row in rows:
        raw = row["Best Generated Conversation"]
        turns = _turns(raw)
        if len(turns) >= 2:
            facts = (_facts(row["user 1 personas"]), _facts(row["user 2 personas"]))
            digest = hashlib.sha256(raw.encode()).hexdigest()
            conversations.append(Conversation(facts, turns, digest))
    return conversations


def part_of(conversation: Conversation) -> Part:
    """Six in a hundred are held out, four choose the checkpoint; content alone decides."""
    bucket = int(conversation.digest[:8], 16) % 100
    if bucket < 6:
        return "heldout"
    return "dev" if bucket < 10 else "train"


def split(conversations: list[Conversation]) -> dict[Part, list[Conversation]]:
    """Splits by content hash, and keeps profiles apart too.

    A profile (the facts of one user) can occur in several rows. Training rows that share one
    with a held-out or dev row are dropped, so that neither a held-out conversation nor its
    facts were ever seen.
    """
    parts: dict[Part, list[Conversation]] = {"train": [], "dev": [], "heldout": []}
    for conversation in conversations:
        parts[part_of(conversation)].append(conversation)
    kept_apart = {facts for part in ("dev", "heldout") for c in parts[part] for facts in c.facts}
    parts["train"] = [c for c in parts["train"] if not kept_apart.intersection(c.facts)]
    return parts


# Role tokens. They are no part of the tokenizer, so no text can spell one; their ids follow
# the tokenizer's in this order. The engine reads them from the model folder's meta.json.
PERSONA, USER, REPLY, END = "<|persona|>", "<|user|>", "<|reply|>", "<|end|>"
ROLE_TOKENS = (PERSONA, USER, REPLY, END)


@dataclass(frozen=True, slots=True)
class View:
    """A conversation as one side of it sees it.

    Attributes:
        segments: Pairs of role token and text: the persona's facts, then turn by turn.
        dialogue_bytes: UTF-8 bytes of all turns' text, labels excluded.
    """

    segments: tuple[tuple[str, str], ...]
    dialogue_bytes: int


def view(conversation: Conversation, persona: int) -> View:
    """Lays out a conversation with user `persona` (0 or 1) as the persona.

    Only the persona's own facts are shown: at run time nothing is known of the other side.
    """
    segments = [(PERSONA, " ".join(conversation.facts[persona]))]
    segments += [(REPLY if who == persona else USER, text) for who, text in conversation.turns]
    size = sum(len(text.encode()) for _, text in conversation.turns)
    return View(tuple(segments), size)
