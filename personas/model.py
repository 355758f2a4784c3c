"""What a persona is: a character that an engine plays, described strictly.

The model stands at the border to files that people write, so it refuses what it does not know
instead of guessing. Lengths are in characters; spaces around a text are dropped. Every key is
explained in `docs/personas.md`. It holds everything of Character Card V3; what a card says and
this model has no words for stays in `extensions` and `extra` as JSON text.

Optional keys came after version 1.0.0 of the first personas. One that has its default value is
left out of the canonical form, so that a persona without it keeps its digest; a default is
therefore part of the format and never changes.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from personas.jsontext import object_text

FORMAT: Final = 1
MAX_TEXT: Final = 32_768
MAX_ENTRIES: Final = 4_096
MAX_KNOWLEDGE_TEXT: Final = 262_144

# Controls have no place in prose; the direction overrides could make a name or a licence read
# as something other than it is (Unicode Technical Report 36, section 2.5).
CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
BREAKS: Final = re.compile("[\t\n\u2028\u2029]")
# Letters and symbols that show nothing.
_BLANKS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")

HANDLE_PATTERN: Final = r"^[a-z][a-z0-9-]{1,31}$"
VERSION_PATTERN: Final = r"^(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$"
# BCP 47 (RFC 5646): language, then script and region where they matter, in canonical case.
LANGUAGE_PATTERN: Final = r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$"
# Small letters of any script, digits and hyphens: a tag is found however it was typed.
TAG_PATTERN: Final = r"^[\p{Ll}\p{Lo}\p{Lm}\p{N}][\p{Ll}\p{Lo}\p{Lm}\p{M}\p{N}-]{0,31}$"


def _plain(text: str) -> str:
    if CONTROLS.search(text):
        raise ValueError("must hold no control or direction-override character")
    return text


def _one_line(text: str) -> str:
    if BREAKS.search(text):
        raise ValueError("must be one line")
    return _plain(text)


def _visible(text: str) -> str:
    if all(unicodedata.category(one)[0] in "CMZ" or one in _BLANKS for one in text):
        raise ValueError("must hold something that can be seen")
    return text


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not hold the same entry twice")
    return values


def _supported(number: int) -> int:
    if number != FORMAT:
        raise ValueError(f"must be {FORMAT}, the only format that this program reads")
    return number


def _relative(path: str) -> str:
    """A path inside the persona's own folder, whatever system reads it."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or ":" in parts[0]:
        raise ValueError("must be a path inside the persona's folder, with `/` and without `..`")
    return _one_line(path)


def _text(most: int, least: int = 1) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=least, max_length=most)


Name = Annotated[str, _text(64), AfterValidator(_one_line), AfterValidator(_visible)]
Sentence = Annotated[str, _text(160), AfterValidator(_one_line)]
Speech = Annotated[str, _text(1_000), AfterValidator(_plain)]
Line = Annotated[str, _text(1_024, 0), AfterValidator(_one_line)]
Text = Annotated[str, _text(MAX_TEXT, 0), AfterValidator(_plain)]
Passage = Annotated[str, _text(MAX_TEXT), AfterValidator(_plain)]
Handle = Annotated[str, Field(pattern=HANDLE_PATTERN)]
Tag = Annotated[str, Field(pattern=TAG_PATTERN)]
Path = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_relative)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A JSON object as text (`personas.jsontext`), "" for none. TOML may give a table instead.
JsonObject = Annotated[str, BeforeValidator(object_text)]
Number = Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)] | float
# Unix seconds; a card's date may be fractional or 0 for unknown.
Time = Annotated[int, Field(ge=0, le=2**53 - 1)]
# A card's texts are kept as they are: their spaces can matter to whoever wrote them.
Raw = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_plain)]
RawLine = Annotated[str, StringConstraints(max_length=8_192), AfterValidator(_plain)]

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


class MemoryPolicy(_Strict):
    """What a conversation with this persona leaves in memory, and how much of it comes back.

    Attributes:
        facts: Facts about the user are extracted after a turn.
        summary: Turns that leave the window are summed up.
        recall: Memories of earlier turns may stand in the prompt.
        recall_tokens: The most tokens they may take, of what the window has left.
    """

    facts: bool = True
    summary: bool = True
    recall: bool = True
    recall_tokens: int = Field(default=1_024, ge=0, le=8_192)


class LorebookEntry(_Strict):
    """One entry of a lorebook (Character Card V3, "entries Fields"); None is "not given".

    `extensions` and `extra` are JSON objects as text: the first is the card's own, the second
    what differs between the card's entry and what these fields would be written as.
    """

    keys: Annotated[tuple[RawLine, ...], _Array, Field(max_length=256)] = ()
    # Decorators stand in its first lines; `personas.lorebook` reads them.
    content: Raw
    enabled: bool = True
    insertion_order: Number = 100
    use_regex: bool = False
    case_sensitive: bool | None = None
    constant: bool | None = None
    selective: bool | None = None
    secondary_keys: Annotated[tuple[RawLine, ...], _Array, Field(max_length=256)] = ()
    position: Literal["before_char", "after_char"] | None = None
    priority: Number | None = None
    id: Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)] | RawLine | None = None
    name: RawLine = ""
    comment: Raw = ""
    extensions: JsonObject = ""
    extra: JsonObject = ""


class Lorebook(_Strict):
    """Entries that a conversation wakes (Character Card V3, "Lorebook Fields")."""

    name: RawLine = ""
    description: Raw = ""
    # In messages; None looks at all that is given.
    scan_depth: Annotated[int, Field(ge=0, le=100_000)] | None = None
    token_budget: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    recursive_scanning: bool | None = None
    entries: Annotated[tuple[LorebookEntry, ...], _Array, Field(max_length=MAX_ENTRIES)] = ()
    extensions: JsonObject = ""
    extra: JsonObject = ""


class File(_Strict):
    """A file that belongs to a persona: where it stands beside it, and what is in it."""

    path: Path
    sha256: Sha256
    size: int = Field(ge=0, le=64 * 1024 * 1024)


class Knowledge(_Strict):
    """A document that the persona knows: its text is part of the persona.

    `path` and `sha256` name the file that the text came from, where there was one.
    """

    name: Name
    media_type: Annotated[str, Field(pattern=r"^[a-z0-9.+-]{1,64}/[a-z0-9.+-]{1,64}$")] = (
        "text/plain"
    )
    text: Annotated[str, _text(MAX_KNOWLEDGE_TEXT), AfterValidator(_plain)]
    path: Path | None = None
    sha256: Sha256 | None = None


class Asset(_Strict):
    """An asset as a card names it (Character Card V3, `assets`).

    `uri` is the card's: `embeded://...` and `__asset:...` name a path in `files`. A data URL
    keeps its head alone, up to the comma, and its content is the file with this `sha256`.
    """

    type: RawLine
    uri: Annotated[str, StringConstraints(max_length=8_192), AfterValidator(_plain)]
    name: RawLine
    ext: RawLine
    sha256: Sha256 | None = None


class Translation(_Strict):
    """Creator's notes in one language, an ISO 639-1 code."""

    language: RawLine
    text: Raw


class Trial(_Strict):
    """One thing to say to the persona, and what must hold of the reply.

    Attributes:
        name: For the table of results; the message itself where empty.
        said: What was said before.
        say: The message.
        expect: Each must appear in the reply, in any case of letters.
        expect_any: At least one must.
        avoid: None may.
        refuse: The reply must decline.
    """

    name: Annotated[str, _text(160, 0), AfterValidator(_one_line)] = ""
    said: Annotated[tuple[Exchange, ...], _Array, Field(max_length=12)] = ()
    say: Speech
    expect: Annotated[tuple[Sentence, ...], _Array, Field(max_length=16)] = ()
    expect_any: Annotated[tuple[Sentence, ...], _Array, Field(max_length=16)] = ()
    avoid: Annotated[tuple[Sentence, ...], _Array, Field(max_length=16)] = ()
    refuse: bool = False


class Persona(_Strict):
    """One version of one persona. Equal personas have equal digests, see `personas.digest`."""

    # Not Literal[1], which would take `true` for it.
    format: Annotated[int, AfterValidator(_supported)]
    handle: Handle
    name: Name
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    language: Annotated[str, Field(pattern=LANGUAGE_PATTERN)]
    rating: Literal["everyone", "teen", "mature", "unrated"]
    author: Name
    licence: Name
    sampling: Sampling

    # Who they are. All may be empty: many cards leave most of them so.
    tags: Annotated[tuple[Tag, ...], _Array, Field(max_length=64), AfterValidator(_distinct)] = ()
    tagline: Annotated[str, _text(160, 0), AfterValidator(_one_line)] = ""
    description: Text = ""
    facts: Annotated[
        tuple[Sentence, ...], _Array, Field(max_length=64), AfterValidator(_distinct)
    ] = ()
    style: Text = ""
    system_prompt: Text = ""
    greeting: Text = ""
    example_dialogues: Annotated[tuple[Dialogue, ...], _Array, Field(max_length=16)] = ()

    # What a card has besides.
    nickname: Annotated[str, _text(64, 0), AfterValidator(_one_line)] = ""
    scenario: Text = ""
    post_history: Text = ""
    alternate_greetings: Annotated[tuple[Text, ...], _Array, Field(max_length=128)] = ()
    group_greetings: Annotated[tuple[Text, ...], _Array, Field(max_length=128)] = ()
    # A card's `mes_example` as it stands; beside it, `example_dialogues` may be empty.
    example_text: Text = ""
    lorebook: Lorebook | None = None
    creator_notes: Text = ""
    creator_notes_translated: Annotated[tuple[Translation, ...], _Array, Field(max_length=200)] = ()
    source: Annotated[tuple[RawLine, ...], _Array, Field(max_length=256)] = ()
    created: Time | None = None
    modified: Time | None = None

    # Files, and what a runtime needs besides.
    avatar: File | None = None
    knowledge: Annotated[tuple[Knowledge, ...], _Array, Field(max_length=64)] = ()
    assets: Annotated[tuple[Asset, ...], _Array, Field(max_length=1_024)] = ()
    files: Annotated[tuple[File, ...], _Array, Field(max_length=1_024)] = ()
    memory: MemoryPolicy = MemoryPolicy()
    tests: Annotated[tuple[Trial, ...], _Array, Field(max_length=64)] = ()

    # JSON objects as text: the card's own, and what differs between the card and what the keys
    # above would be written as (`personas.cards.remainder`).
    extensions: JsonObject = ""
    extra: JsonObject = ""
