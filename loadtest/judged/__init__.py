"""The judged set: personas of the persona-chat data, queries, and how well each answers each.

The judgements are of lines, by hand, and name a line by its digest; nothing of the data is here.
What a persona is worth to a query follows from its lines (docs/discovery.md).
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from personas.listing import Listing
from personas.search import SearchQuery

_HERE: Final = Path(__file__).parent
_DIGITS: Final = 16
_ASKED: Final = 2
_RELATED: Final = 1
NDCG_AT: Final = 10
TUNING, HELD_OUT = "tuning", "held-out"

# What the data does not tell of its people. Drawn by the handle alone, so it says nothing of them.
_NAMES: Final = ("Avery", "Blake", "Casey", "Devin", "Ellis", "Finley", "Harper", "Indigo")
_TAGS: Final = ("amber", "birch", "cobalt", "drift", "ember", "flint")
_LANGUAGES: Final = ("en", "en", "en-GB", "en-US")
_RATINGS: Final = ("everyone", "everyone", "teen", "mature")
_LICENCES: Final = ("CC0-1.0", "CC-BY-4.0", "CC-BY-4.0", "Apache-2.0")
_AUTHORS: Final = ("Juniper", "Kestrel", "Larkspur", "Magpie", "Nightjar")


@dataclass(frozen=True, slots=True)
class Wish:
    """What one part of a query asks for.

    Attributes:
        asked: Digests of the lines that say it.
        related: Of those that come near it.
    """

    asked: frozenset[str]
    related: frozenset[str]

    def grade(self, lines: Iterable[str]) -> int:
        """That of the best of a persona's lines."""
        digests = set(lines)
        return _ASKED if digests & self.asked else _RELATED if digests & self.related else 0


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query.

    Attributes:
        query: As the index takes it.
        kind: Such as `paraphrase`.
        half: `TUNING`, by which weights were chosen, or `HELD_OUT`. No wish is in both.
        wishes: What it asks for; a persona's grade is the sum.
    """

    query: SearchQuery
    kind: str
    half: str
    wishes: tuple[Wish, ...]


def load_queries() -> tuple[JudgedQuery, ...]:
    """All of them."""
    data = tomllib.loads((_HERE / "queries.toml").read_text("utf-8"))
    wishes = {
        name: Wish(frozenset(told["asked"]), frozenset(told["related"]))
        for name, told in data["wishes"].items()
    }
    return tuple(
        JudgedQuery(
            query=SearchQuery(told["text"], limit=NDCG_AT, **_filters(told.get("filters", {}))),
            kind=told["kind"],
            half=told["half"],
            wishes=tuple(wishes[name] for name in told["wishes"]),
        )
        for told in data["queries"]
    )


def _filters(told: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if name == "tags" else value for name, value in told.items()}


def line_digest(line: str) -> str:
    """By which judgements name a line."""
    return hashlib.sha256(" ".join(line.split()).casefold().encode()).hexdigest()[:_DIGITS]


def data_file() -> Path:
    """Where the data is, if it is: in the folder that SOTTO_DATA names, else in shared/data."""
    here = _HERE.parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("SOTTO_DATA", here))
    return folder / "synthetic-persona-chat" / "valid.csv"


def read_profiles(path: Path) -> tuple[tuple[str, ...], ...]:
    """Every distinct profile of the data, as its lines, in one order."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = (row[f"user {number} personas"] for row in rows for number in (1, 2))
    profiles = (tuple(line.strip() for line in text.splitlines() if line.strip()) for text in told)
    return tuple(sorted(set(profiles)))


def compose(profiles: Sequence[tuple[str, ...]], count: int) -> tuple[tuple[str, ...], ...]:
    """So many profiles: those of the data, then new ones of four or five of its lines each."""
    lines = sorted({line for profile in profiles for line in profile})
    drawn = random.Random(count)  # the same ones every time
    more = (tuple(drawn.sample(lines, drawn.choice((4, 5)))) for _ in range(count - len(profiles)))
    return (*profiles[:count], *more)


def listing_of(number: int, profile: Sequence[str]) -> Listing:
    """A profile as a persona's listing: its first line the tagline, the others the description."""
    digest = hashlib.sha256(number.to_bytes(8, "big")).digest()
    return Listing(
        handle=f"p{number}",
        digest=digest,
        version="1.0.0",
        name=_NAMES[digest[0] % len(_NAMES)],
        tagline=profile[0],
        description=" ".join(profile[1:]),
        tags=(_TAGS[digest[1] % len(_TAGS)],),
        language=_LANGUAGES[digest[2] % len(_LANGUAGES)],
        rating=_RATINGS[digest[3] % len(_RATINGS)],
        licence=_LICENCES[digest[4] % len(_LICENCES)],
        author=_AUTHORS[digest[5] % len(_AUTHORS)],
    )


class Judges:
    """What each persona is worth to each query.

    Args:
        profiles: Lines of each persona, which has the handle ``p`` and its place here.
    """

    def __init__(self, profiles: Sequence[tuple[str, ...]]) -> None:
        self._having: dict[str, list[int]] = {}
        for number, profile in enumerate(profiles):
            for line in profile:
                self._having.setdefault(line, []).append(number)
        self._having = {line_digest(line): at for line, at in self._having.items()}
        self.listings = tuple(listing_of(*one) for one in enumerate(profiles))

    def gains(self, judged: JudgedQuery) -> npt.NDArray[np.float64]:
        """2 to the power of each persona's grade, less 1; 0 for those that a filter leaves out."""
        grades = np.zeros(len(self.listings))
        for wish in judged.wishes:
            grade = np.zeros(len(self.listings))
            for lines, worth in ((wish.related, _RELATED), (wish.asked, _ASKED)):
                for line in lines:
                    grade[self._having.get(line, [])] = worth
            grades += grade
        passing = np.array([_passes(one, judged.query) for one in self.listings])
        return np.where(passing, 2.0**grades - 1, 0.0)


def _passes(listing: Listing, query: SearchQuery) -> bool:
    """The filters that judged queries have, told apart from how the index does it."""
    order = ("everyone", "teen", "mature")
    return (
        set(query.tags) <= set(listing.tags)
        and query.language in ("", listing.language, listing.language.split("-")[0])
        and (not query.rating or order.index(listing.rating) <= order.index(query.rating))
        and query.licence in ("", listing.licence)
        and query.author in ("", listing.author)
    )


def ndcg(found: Sequence[int], gains: npt.NDArray[np.float64]) -> float:
    """Normalised discounted cumulative gain of the first `NDCG_AT` (Järvelin, Kekäläinen 2002)."""
    discounts = 1 / np.log2(np.arange(2, NDCG_AT + 2))
    best = np.sort(gains)[::-1][:NDCG_AT]
    got = gains[list(found[:NDCG_AT])]
    return float((got * discounts[: len(got)]).sum() / (best * discounts[: len(best)]).sum())
