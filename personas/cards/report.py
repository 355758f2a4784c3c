"""What an import or export says: refusals, and notes about what was set, changed or lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from personas.errors import PersonaError

Kind = Literal["default", "changed", "ignored", "lost", "warning"]


class CardError(PersonaError):
    """A file is refused.

    Attributes:
        file: Its name, as the caller gave it.
        place: Where in it.
        rule: What does not hold there.
        remedy: What to do.
    """

    def __init__(self, file: str, place: str, rule: str, remedy: str) -> None:
        super().__init__(f"{file}: {place} {rule}. {remedy}")
        self.file = file
        self.place = place
        self.rule = rule
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a report.

    Attributes:
        kind: "default": the source says nothing, so a value was set. "changed": the persona says
            it otherwise than the source, which an export restores. "ignored": kept, without
            effect here. "lost": the other format has no place for it. "warning": anything else
            that wants a look.
        place: Key of the persona or of the source.
        text: What, as a clause.
    """

    kind: Kind
    place: str
    text: str
