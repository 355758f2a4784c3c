"""What can be asked of the index, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from personas.errors import PersonaError
from personas.listing import Listing

MAX_TEXT: Final = 512
"""Characters of a query's text."""
MAX_LIMIT: Final = 50
"""Hits of one answer."""
MAX_OFFSET: Final = 10_000
MAX_TAGS: Final = 16
MAX_VALUE: Final = 256
"""Characters of a filter's value."""
RATINGS: Final = ("everyone", "teen", "mature", "unrated")
"""From what anybody may read to what nobody vouches for."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """One question to the index; what is empty asks for nothing.

    Attributes:
        text: Words, a question, or the beginning of a word.
        tags: A persona has all of them.
        any_tags: A persona has one of them or more.
        language: A basic language range (RFC 4647, section 3.3.1): `en` finds `en-GB` too.
        rating: At most; one of `RATINGS`.
        licence, author: Exactly, in any case of letters.
        similar: A handle: personas like this one, without it.
        limit, offset: Which part of the order is wanted.

    Raises:
        PersonaError: A value is too long, too large, or not one that there is.
    """

    text: str = ""
    tags: tuple[str, ...] = ()
    any_tags: tuple[str, ...] = ()
    language: str = ""
    rating: str = ""
    licence: str = ""
    author: str = ""
    similar: str = ""
    limit: int = 10
    offset: int = 0

    def __post_init__(self) -> None:
        _at_most("q", len(self.text), MAX_TEXT, "characters")
        _at_most("tag", len(self.tags) + len(self.any_tags), MAX_TAGS, "tags")
        for name in ("language", "licence", "author", "similar"):
            _at_most(name, len(getattr(self, name)), MAX_VALUE, "characters")
        for tag in (*self.tags, *self.any_tags):
            _at_most("tag", len(tag), MAX_VALUE, "characters")
        if self.rating and self.rating not in RATINGS:
            raise PersonaError(f"`rating` is one of {', '.join(RATINGS)}: choose one of these")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise PersonaError(f"`limit` is from 1 to {MAX_LIMIT}: ask for the rest with `offset`")
        if not 0 <= self.offset <= MAX_OFFSET:
            raise PersonaError(f"`offset` is from 0 to {MAX_OFFSET}: narrow the search instead")


def _at_most(name: str, size: int, most: int, unit: str) -> None:
    if size > most:
        raise PersonaError(f"`{name}` has {size} {unit} and may have {most}: shorten it")


@dataclass(frozen=True, slots=True)
class Hit:
    """One persona that was found.

    Attributes:
        listing: What everybody may read of it.
        score: Higher is nearer; comparable within one answer only.
        words: Words of the listing that were asked for, as they stand there.
        passage: The part of the listing whose meaning is nearest; empty where words alone count.
    """

    listing: Listing
    score: float
    words: tuple[str, ...] = ()
    passage: str = ""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """An answer.

    Attributes:
        hits: Nearest first; one order for all offsets, as long as the index stays as it is.
        total: Personas that match, on this page or not.
        facets: Of all that match: by `tag`, `language`, `rating`, `licence` and `author`, each
            value and how many have it, most first.
        suggestions: The text with words that there are in place of those that there are not.
    """

    hits: tuple[Hit, ...]
    total: int
    facets: Mapping[str, tuple[tuple[str, int], ...]]
    suggestions: tuple[str, ...]

    def public(self) -> dict[str, Any]:
        """The answer, as programs read it (docs/discovery.md)."""
        return {
            "hits": [
                {
                    "handle": hit.listing.handle,
                    "digest": hit.listing.digest.hex(),
                    "version": hit.listing.version,
                    **hit.listing.public(),
                    "key": hit.listing.key.hex(),
                    "private": hit.listing.private,
                    "created": hit.listing.created,
                    "score": hit.score,
                    "words": list(hit.words),
                    "passage": hit.passage,
                }
                for hit in self.hits
            ],
            "total": self.total,
            "facets": {
                name: [{"value": value, "count": count} for value, count in values]
                for name, values in self.facets.items()
            },
            "suggestions": list(self.suggestions),
        }
