"""The address of a persona: a digest of everything it says."""

from __future__ import annotations

import hashlib
from typing import Final

import rfc8785
from pydantic import ValidationError

from personas.errors import PersonaError
from personas.jsontext import JsonError, parse_json
from personas.model import Persona

# Room for the largest texts together; what a registry stores and a device asks for.
MAX_DEFINITION_BYTES: Final = 1_048_576

_LABEL: Final = b"sottovoce persona v1\x00"


def canonical(persona: Persona) -> bytes:
    """Return the persona as canonical JSON (RFC 8785), less keys that have their default value.

    Numbers of the persona's own keys are within what RFC 8785 can write. Those of a card's
    `extensions` stand in it as text (`personas.jsontext`), so none is ever rounded.

    Raises PersonaError where a text is not valid Unicode, or all is over MAX_DEFINITION_BYTES.
    """
    try:
        written = rfc8785.dumps(persona.model_dump(mode="json", exclude_defaults=True))
    except (rfc8785.CanonicalizationError, ValueError):
        # A ValueError is what half a surrogate pair becomes, in pydantic or in the encoder.
        raise PersonaError(
            "The persona cannot be written as canonical JSON: a text holds half of a surrogate "
            "pair, or a number is out of range. Read the persona from a file again."
        ) from None
    if len(written) > MAX_DEFINITION_BYTES:
        raise PersonaError(
            f"The persona has {len(written)} bytes as canonical JSON, more than the "
            f"{MAX_DEFINITION_BYTES} it may have. Shorten its texts, lorebook or knowledge."
        )
    return written


def from_canonical(data: bytes) -> Persona:
    """Read what `canonical` wrote, and nothing else: it must be written the same again.

    Raises PersonaError.
    """
    if len(data) > MAX_DEFINITION_BYTES:
        raise PersonaError(
            f"A definition of {len(data)} bytes is over the {MAX_DEFINITION_BYTES} that a persona "
            "may have. Ask its author for a shorter one."
        )
    try:
        # Depth and number of values, before anything is made of them.
        parse_json(data.decode())
        persona = Persona.model_validate_json(data)
        same = canonical(persona) == data
    except (JsonError, ValidationError, UnicodeDecodeError):
        same = False
    if not same:
        raise PersonaError(
            "The definition is not a persona in canonical form. Read it from a file with "
            "`sotto personas check`."
        )
    return persona


def persona_digest(persona: Persona) -> bytes:
    """Return SHA-256 (32 bytes) of a label and the persona's canonical JSON (RFC 8785).

    Two files that differ in layout, quoting or order of keys have one digest; a changed word has
    another, and so has a changed file beside it, whose SHA-256 is part of the persona. Raises
    PersonaError as `canonical` does.
    """
    return hashlib.sha256(_LABEL + canonical(persona)).digest()
