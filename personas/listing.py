"""What everybody may read of a persona, of a private one too."""

import hmac
import re
from dataclasses import dataclass
from typing import Any, Final

from personas.digest import from_canonical, persona_digest
from personas.errors import AuthorshipError, PersonaError
from personas.model import Persona

MAX_DESCRIPTION: Final = 2_000
"""Characters of a description that stand in its listing."""

_PATTERNS: Final = {
    "handle": re.compile(r"[a-z][a-z0-9-]{1,31}"),
    "version": re.compile(r"(?:(?:0|[1-9][0-9]{0,5})\.){2}(?:0|[1-9][0-9]{0,5})"),
    "language": re.compile(r"[A-Za-z0-9-]{2,35}"),
    "rating": re.compile(r"[a-z]{1,16}"),
}
_MOST: Final = {
    "name": 256,
    "tagline": 512,
    "description": MAX_DESCRIPTION,
    "licence": 256,
    "author": 256,
}
_MOST_TAGS: Final = 64
_TAG_CHARACTERS: Final = 64
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True, slots=True)
class Listing:
    """The public part of one version of a persona.

    Attributes:
        handle: Under which it is published.
        digest: Of its definition, 32 bytes (`personas.digest`).
        version: Of its definition.
        name, tagline, language, rating, licence, author: As its definition says.
        description: Its first `MAX_DESCRIPTION` characters; of a private persona nothing.
        tags: As its definition says.
        key: The Ed25519 public key that published it, 32 bytes; empty for a bundled persona.
        private: Whether its definition is sealed.
        created: Unix seconds at which this version was published; 0 for a bundled persona.
    """

    handle: str
    digest: bytes
    version: str
    name: str
    tagline: str
    description: str
    tags: tuple[str, ...]
    language: str
    rating: str
    licence: str
    author: str
    key: bytes = b""
    private: bool = False
    created: int = 0

    @classmethod
    def of(
        cls, persona: Persona, *, key: bytes = b"", private: bool = False, created: int = 0
    ) -> "Listing":
        """The listing of a definition. Raises PersonaError as `persona_digest`."""
        return cls(
            handle=persona.handle,
            digest=persona_digest(persona),
            version=persona.version,
            name=persona.name,
            tagline=persona.tagline,
            description="" if private else persona.description[:MAX_DESCRIPTION],
            tags=persona.tags,
            language=persona.language,
            rating=persona.rating,
            licence=persona.licence,
            author=persona.author,
            key=key,
            private=private,
            created=created,
        )

    def public(self) -> dict[str, Any]:
        """What a published step says of the definition, besides what the step says itself."""
        told = {name: getattr(self, name) for name in (*_MOST, "language", "rating")}
        return {**told, "tags": list(self.tags)}

    @classmethod
    def from_public(
        cls,
        told: object,
        *,
        handle: str,
        digest: bytes,
        version: str,
        key: bytes,
        private: bool,
        created: int,
    ) -> "Listing":
        """Read `public()` again, strictly.

        Raises:
            PersonaError: A member is missing, unknown, too long or of another kind.
        """
        if not isinstance(told, dict) or told.keys() != {*_MOST, "language", "rating", "tags"}:
            raise PersonaError("a listing has other members than this format; publish it again")
        checked: dict[str, Any] = {"handle": handle, "version": version, **told}
        for name, pattern in _PATTERNS.items():
            if not isinstance(checked[name], str) or not pattern.fullmatch(checked[name]):
                raise PersonaError(f"`{name}` of a listing is not in the form that it must have")
        for name, most in _MOST.items():
            _check_text(checked[name], name, most)
        tags = checked.pop("tags")
        if not isinstance(tags, list) or len(tags) > _MOST_TAGS:
            raise PersonaError(f"`tags` of a listing are an array of at most {_MOST_TAGS}")
        for tag in tags:
            _check_text(tag, "tags", _TAG_CHARACTERS)
        if private and checked["description"]:
            raise PersonaError("the listing of a private persona tells its description; omit it")
        return cls(
            **checked, tags=tuple(tags), digest=digest, key=key, private=private, created=created
        )


def check_definition(definition: bytes, listing: Listing) -> Persona:
    """Read a definition (canonical JSON) where it is the one that a listing tells of.

    Raises:
        PersonaError: It is no definition.
        AuthorshipError: It is another, or its listing says something else than it.
    """
    persona = from_canonical(definition)
    told = Listing.of(persona, key=listing.key, private=listing.private, created=listing.created)
    if not hmac.compare_digest(told.digest, listing.digest):
        raise AuthorshipError(
            f"the definition of `{listing.handle}` does not have the digest that its creator "
            "signed: it was exchanged; do not use it"
        )
    if told != listing:
        raise AuthorshipError(
            f"the listing of `{listing.handle}` does not say what its definition says; its creator "
            "must publish it anew"
        )
    return persona


def _check_text(text: object, name: str, most: int) -> None:
    if not isinstance(text, str) or len(text) > most or _CONTROLS.search(text):
        raise PersonaError(
            f"`{name}` of a listing is not a text of at most {most} characters without controls"
        )
