"""What a persona is: a character that an engine plays, described strictly.

The model stands at the border to files that people write, so it refuses what it does not know
instead of guessing. Lengths are in characters; spaces around a text are dropped. Every key is
explained in `docs/personas.md`.
"""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

FORMAT: Final = 1

# Controls have no place in prose; the direction overrides could make a name or a licence read
# as something other than it is (Unicode Technical Report 36, section 2.5).
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_BREAKS: Final = re.compile("[\t\n\u2028\u2029]")


def _plain(text: str) -> str:
    if _CONTROLS.search(text):
        raise ValueError("must hold no control or direction-override character")
    return text


def _one_line(text: str) -> str:
    if _BREAKS.search(text):
        raise ValueError("must be one line")
    return _plain(text)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not hold the same entry twice")
    return values


def _supported(number: int) -> int:
    if number != FORMAT:
        raise ValueError(f"must be {FORMAT}, the only format that this program reads")
    return number


def _text(most: int) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=most)


Name = Annotated[str, _text(64), AfterValidator(_one_line)]
Sentence = Annotated[str, _text(160), AfterValidator(_one_line)]
Speech = Annotated[str, _text(1_000), AfterValidator(_plain)]
Passage = Annotated[str, _text(2_000), AfterValidator(_plain)]
Instructions = Annotated[str, _text(8_000), AfterValidator(_plain)]
Handle = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,31}$")]

# TOML has arrays, not tuples; everything inside them stays strict.
_Array = Field(strict=False)


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # An error shows where and why; what was written may be long, or private.
        hide_input_in_errors=True,
    )


class Exchange(_Strict):
    """One thing a user says, and what the persona answers."""

    user: Speech
    persona: Speech


class Dialogue(_Strict):
    """A short conversation that shows the voice."""

    turns: Annotated[tuple[Exchange, ...], _Array, Field(min_length=1, max_length=12)]


class Sampling(_Strict):
    """How freely the engine chooses words, where a request says nothing else."""

    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(gt=0, le=1)
    max_tokens: int = Field(ge=1, le=4_096)


class Persona(_Strict):
    """One version of one persona. Equal personas have equal digests, see `personas.digest`."""

    # Not Literal[1], which would take `true` for it.
    format: Annotated[int, AfterValidator(_supported)]
    handle: Handle
    name: Name
    version: Annotated[
        str, Field(pattern=r"^(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$")
    ]
    # BCP 47 (RFC 5646): language, then script and region where they matter, in canonical case.
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$")]
    rating: Literal["everyone", "teen", "mature"]
    author: Name
    licence: Name
    tags: Annotated[
        tuple[Handle, ...], _Array, Field(min_length=1, max_length=12), AfterValidator(_distinct)
    ]
    tagline: Sentence
    description: Passage
    facts: Annotated[
        tuple[Sentence, ...], _Array, Field(min_length=3, max_length=16), AfterValidator(_distinct)
    ]
    style: Passage
    system_prompt: Instructions
    greeting: Speech
    example_dialogues: Annotated[tuple[Dialogue, ...], _Array, Field(min_length=1, max_length=8)]
    sampling: Sampling
