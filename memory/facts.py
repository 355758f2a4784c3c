"""What is learned of a person becomes facts: told twice it is one, and a new value takes over.

A fact's `about` is its key: ``user.home``, ``user.sister.name``, ``user.favourite.drink`` hold one
value each; ``user.likes.coffee`` or ``user.dog.rex`` have the value inside, so that several stand
beside each other. A newer fact with the same key supersedes the older one, which stays, with the
time until which it held.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from memory.items import FACT, SUPERSEDED
from memory.kinds import (
    MAX_ABOUT_CHARS,
    MAX_FACT_CHARS,
    MAX_FACTS,
    MAX_IMPORTANCE,
    Fact,
    Notes,
    Ref,
)
from memory.vectors import dequantise
from memory.view import View
from memory.words import fact_terms, key_term, meaning, words

SAME_COSINE: Final = 0.9

# Keys whose last part is one of these hold one value.
_SINGLE: Final = frozenset(
    {
        *("name", "age", "birthday", "birthplace", "birthyear", "home", "hometown", "dwelling"),
        *("job", "employer", "studies", "school", "relationship", "household", "diet", "car"),
        *("origin", "nationality", "religion", "height", "gender", "pronouns", "language", "sport"),
        *(
            "children",
            "siblings",
            "health",
            "mood",
            "phone",
            "commute",
            "city",
            "country",
            "workplace",
        ),
    }
)
# Keys with one of these in the middle end in their value: what is liked, or whose name it is.
_WITH_VALUE: Final = frozenset(
    {
        *("likes", "has", "plays", "speaks", "allergic", "is", "does", "visited", "wants", "owns"),
        *("dog", "cat", "pet", "bird", "horse", "rabbit", "fish", "hamster", "parrot", "puppy"),
        *("kitten", "son", "daughter", "brother", "sister", "sibling", "friend", "cousin"),
        *("aunt", "uncle", "nephew", "niece", "colleague", "neighbour", "teacher", "grandchild"),
    }
)
_SAME_WORD: Final = {
    "favorite": "favourite",
    "mum": "mother",
    "mom": "mother",
    "dad": "father",
    "neighbor": "neighbour",
    "occupation": "job",
    "profession": "job",
    "work": "job",
    "residence": "home",
    "location": "home",
    "lives": "home",
    "like": "likes",
    "loves": "likes",
    "enjoys": "likes",
    "dislikes": "likes",
    "hates": "likes",
    "hobby": "likes",
    "hobbies": "likes",
    "allergy": "allergic",
    "favourites": "favourite",
    "kids": "children",
    "kid": "children",
    "child": "children",
    "colour": "color",
    "films": "film",
    "movie": "film",
}
_PARTS: Final = re.compile(r"[\w-]+(?:\.[\w-]+){0,3}")
# What turns a statement round, so that it is not the same one said again.
_OPPOSITE: Final = frozenset(
    {
        *("not", "no", "never", "hates", "hate", "dislikes", "stopped", "quit", "longer", "used"),
        *("died", "dead", "lost", "sold", "former", "ex", "stands"),
    }
)
_NAME: Final = re.compile(r"\b(?:[A-Z]\w*|\d+)")


@dataclass(frozen=True, slots=True)
class Learned:
    """What an extractor found in a message.

    `about` as in `Fact`, in any spelling that `canonical` reads; `replaces` names a known fact that
    it contradicts, where the extractor knows.
    """

    text: str = field(repr=False)
    about: str = field(default="", repr=False)
    importance: int = 50
    replaces: Ref | None = None


def canonical(about: str) -> str:
    """Return a key in its one spelling; "" for what cannot be a key."""
    folded = re.sub(r"[\s_]+", "-", about.strip().casefold()).replace("'s", "")
    if len(folded) > MAX_ABOUT_CHARS or not _PARTS.fullmatch(folded):
        return ""
    parts = [_SAME_WORD.get(part, part) for part in folded.split(".")]
    return ".".join(parts if parts[0] == "user" else ["user", *parts])[:MAX_ABOUT_CHARS]


def single_valued(about: str) -> bool:
    """Say whether a newer fact with this key takes the place of an older one."""
    parts = about.split(".")
    if len(parts) < 2 or parts[0] != "user":
        return False
    if parts[1] in _WITH_VALUE:
        # "user.likes" alone says of nothing what it is.
        return len(parts) > 2
    return parts[-1] in _SINGLE or (parts[1] in {"favourite", "number-of"} and len(parts) > 2)


def merge(
    view: View,
    turn: int | None,
    learned: Sequence[Learned],
    *,
    time: int,
    model: bytes = b"",
    vector: bytes = b"",
    vectors: Sequence[bytes] = (),
) -> Notes:
    """Return the notes of a turn: what of `learned` is new, and what was said again.

    `turn` is the index of the turn's record, None for what its owner writes. `time` is from when
    the facts hold. `vector` is the turn's embedding and `vectors` those of the facts, in their
    order, as `quantise` makes them with the model `model`.

    A fact that says what a known one says, in other words or fewer, gives that one a source. One
    that says something else under a key of one value, or that names what it replaces, supersedes.
    """
    facts: list[Fact] = []
    again: dict[Ref, None] = {}
    gone: set[Ref] = set()
    for place, one in enumerate(learned):
        text, about = " ".join(one.text.split()), canonical(one.about)
        if not text or len(text) > MAX_FACT_CHARS or len(facts) == MAX_FACTS:
            continue
        if not meaning(text):
            continue  # a sign without words, by which nothing can be found or compared
        mine = _Said(text, about, vectors[place] if place < len(vectors) else b"")
        near = [item for item in _near(view, mine, one.replaces, model) if item.ref not in gone]
        same = [item.ref for item in near if one.replaces is None and mine.repeats(item.said)]
        if same or any(mine.repeats(_Said(fact.text, fact.about, fact.vector)) for fact in facts):
            again.update(dict.fromkeys(same[:1]))
            continue
        old = [item for item in near if item.ref == one.replaces or mine.replaces(item.said)]
        gone.update(item.ref for item in old)
        facts.append(
            Fact(
                text,
                about,
                min(max(one.importance, 0), MAX_IMPORTANCE),
                time,
                () if turn is None else (turn,),
                tuple(sorted(item.ref for item in old)),
                mine.vector,
                # Its owner wants the subject in every prompt, not the value that is outdated.
                any(item.pinned for item in old),
            )
        )
    sources = () if turn is None else tuple((ref, turn) for ref in again)
    return Notes(turn, model, vector, tuple(facts), sources)


@dataclass(frozen=True, slots=True)
class _Said:
    """A fact's words, to be held against another's."""

    text: str
    about: str
    vector: bytes

    def repeats(self, known: "_Said") -> bool:
        """Say whether this adds nothing to what is known."""
        mine, theirs = meaning(self.text), meaning(known.text)
        if mine == theirs:
            return True
        if self.about != known.about or self._denies() != known._denies():
            return False
        if self.about and mine <= theirs:
            return True
        # The value is in the key: "likes coffee" and "loves coffee" are one thing.
        if self._valued() and self._valued() <= mine & theirs and len(mine - theirs) <= 1:
            return True
        if self._names() != known._names() or not self.vector:
            return False
        if len(self.vector) != len(known.vector):
            return False
        cosine = float(dequantise(self.vector) @ dequantise(known.vector))
        return cosine >= SAME_COSINE

    def replaces(self, known: "_Said") -> bool:
        """Say whether a fact that does not repeat a known one takes its place."""
        return self.about == known.about and single_valued(self.about)

    def _denies(self) -> bool:
        return not _OPPOSITE.isdisjoint(words(self.text))

    def _valued(self) -> frozenset[str]:
        parts = self.about.split(".")
        return meaning(parts[-1]) if parts[1:2] and parts[1] in _WITH_VALUE else frozenset()

    def _names(self) -> frozenset[str]:
        # What a mean of word vectors hardly tells apart: names, days and numbers.
        return frozenset(_NAME.findall(self.text))


@dataclass(frozen=True, slots=True)
class _Known:
    ref: Ref
    said: _Said
    pinned: bool


def _near(view: View, said: _Said, replaces: Ref | None, model: bytes) -> list[_Known]:
    """Return the facts that hold and share most of the words, or the key."""
    items = view.items
    mine = fact_terms(said.text, said.about)
    shared = items.shared(mine)
    few = np.minimum(items.rows["terms"], len(mine)) // 2
    key = items.shared(key_term(said.about)) > 0 if said.about else np.zeros(len(items), bool)
    near = items.flagged(FACT | SUPERSEDED, FACT) & ((shared > few) | key)
    if replaces is not None and (row := items.row(replaces)) is not None:
        near[row] = bool(items.flagged(FACT | SUPERSEDED, FACT)[row])
    found = []
    for row in np.flatnonzero(near):
        item = items.item(int(row))
        same_model = view.model == model and items.rows["norm"][row] > 0
        vector = items.vectors[row].tobytes() if same_model else b""
        found.append(_Known(item.ref, _Said(item.text, item.extra, vector), item.pinned))
    return found
