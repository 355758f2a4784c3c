"""The address of a persona: a digest of everything it says."""

import hashlib
from typing import Final

import rfc8785

from personas.errors import PersonaError
from personas.model import Persona

_LABEL: Final = b"sottovoce persona v1\x00"


def persona_digest(persona: Persona) -> bytes:
    """Return SHA-256 (32 bytes) of a label and the persona's canonical JSON (RFC 8785).

    Two files that differ in layout, quoting or order of keys have one digest; a changed word has
    another. Raises PersonaError where a text is not valid Unicode.
    """
    try:
        canonical = rfc8785.dumps(persona.model_dump(mode="json"))
    except (rfc8785.CanonicalizationError, ValueError):
        # A ValueError is what half a surrogate pair becomes, in pydantic or in the encoder.
        raise PersonaError(
            "The persona cannot be written as canonical JSON: a text holds half of a surrogate "
            "pair, or a number is out of range. Read the persona from a file again."
        ) from None
    return hashlib.sha256(_LABEL + canonical).digest()
