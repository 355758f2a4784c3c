"""What simulated people say: the user's lines of real dialogues.

The data set is Synthetic-Persona-Chat (Jandaghi et al., arXiv 2312.10007), a CSV whose column
"Best Generated Conversation" holds one dialogue of lines "User 1: …" and "User 2: …".
"""

from __future__ import annotations

import csv
import itertools
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loadtest.lines import DIALOGUES
from runtime.enclave.api import MAX_MESSAGE_CHARACTERS
from runtime.errors import SetupError

COLUMN = "Best Generated Conversation"
_MAX_FILE_BYTES = 256 * 1024 * 1024
_DATA_FILE = Path("synthetic-persona-chat") / "valid.csv"
# Some dialogues of the data set are bulleted: "* User 1: Hi".
_SAID = re.compile(r"^[ \t]*\*?[ \t]*User 1:[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Dialogues to choose from.

    Attributes:
        source: Where they come from, as the report says it.
        dialogues: The user's lines of each, in order; none is empty.
    """

    source: str
    dialogues: tuple[tuple[str, ...], ...]

    def lines(self, client: int, seed: int) -> Iterator[str]:
        """What one client says, without end: a dialogue to its end, then another."""
        rng = random.Random(f"dialogues {seed} {client}")
        return itertools.chain.from_iterable(
            rng.choice(self.dialogues) for _ in itertools.repeat(None)
        )


BUILT_IN = Dialogues(f"built in ({len(DIALOGUES)} dialogues)", DIALOGUES)


def user_lines(conversation: str) -> tuple[str, ...]:
    """The lines of "User 1" in one conversation; lines that nobody says are left out."""
    return tuple(_SAID.findall(conversation))


def load_dialogues(path: Path) -> Dialogues:
    """Read a CSV of the data set.

    Raises:
        SetupError: It cannot be read, has no such column, a message is too long for a turn, or
            nobody says anything in it.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise SetupError(
                f"the dialogues {path} have more than {_MAX_FILE_BYTES // 2**20} MiB; take a part",
                code="dialogues",
            )
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if COLUMN not in (rows.fieldnames or ()):
                raise SetupError(
                    f"the dialogues {path} have no column {COLUMN!r}; pass a CSV file of "
                    "Synthetic-Persona-Chat with --dialogues",
                    code="dialogues",
                )
            found = tuple(lines for row in rows if (lines := user_lines(row[COLUMN] or "")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(
            f"the dialogues {path} cannot be read ({error}); pass a CSV file of "
            "Synthetic-Persona-Chat with --dialogues, or none for the built-in lines",
            code="dialogues",
        ) from error
    if not found:
        raise SetupError(
            f'nobody says anything in {path}: no line begins with "User 1:"', code="dialogues"
        )
    if max(len(line) for lines in found for line in lines) > MAX_MESSAGE_CHARACTERS:
        raise SetupError(
            f"a message in {path} has more than {MAX_MESSAGE_CHARACTERS} characters, which is "
            "more than a turn takes; shorten it",
            code="dialogues",
        )
    return Dialogues(f"{path.name} ({len(found)} dialogues)", found)


def find_dialogues(chosen: Path | None) -> Dialogues:
    """The chosen file, else the one in the folder SOTTO_DATA, else the built-in lines.

    Raises:
        SetupError: The chosen file is not as it must be.
    """
    if chosen is not None:
        return load_dialogues(chosen)
    path = data_file()
    return load_dialogues(path) if path is not None else BUILT_IN


def data_file() -> Path | None:
    """The data set's file in the folder SOTTO_DATA, if it is there."""
    folder = os.environ.get("SOTTO_DATA")
    path = Path(folder) / _DATA_FILE if folder else None
    return path if path is not None and path.is_file() else None
