"""Full text: BM25 over stems, misspelt words, and words that are still being typed."""

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import tantivy

from personas.listing import Listing

_HEAP: Final = 32_000_000
_MOST_TERMS: Final = 24
_MOST_LANGUAGES: Final = 6
_MOST_COMPLETIONS: Final = 5
_LONGEST_WORD: Final = 40
_MOST_NEAR: Final = 2
_ALIKE: Final = 0.16
_TYPED: Final = 3  # letters, from which on a word's beginning says something
# Of a word this long one letter may be wrong, of a longer one two.
_ONE_WRONG: Final = 4
_TWO_WRONG: Final = 7

_STEMMERS: Final = {
    "ar": "arabic", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "fi": "finnish", "fr": "french", "hu": "hungarian", "it": "italian",
    "nl": "dutch", "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian",
    "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
# What a question is made of besides what it asks for.
_ASKING: Final = frozenset(
    re.findall(
        r"\w+",
        """
        a about after all also always am an and any anybody anyone are as at be because been
        before being but by can could did do does down during each either else ever every few
        find for from get gets getting give go goes going got had has have having he her here
        hers him his how i if in into is it its just know let like likes look looking love loves
        many may me might mine more most much must my no nor not of off often on one only or
        other our out over own owns persona personas quite rather really shall she should show
        since so some somebody someone such talk tell than that the their them then there these
        they this those through to too under until up upon us very want wants was we were what
        when where which while who whom whose why will with within without would you your
        """,
    )
)
_PLAIN: Final = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    .filter(tantivy.Filter.remove_long(_LONGEST_WORD))
    .filter(tantivy.Filter.lowercase())
    .build()
)
_FOLD: Final = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
    .filter(tantivy.Filter.ascii_fold())
    .build()
)

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

Alike = Callable[[str, Sequence[str]], Floats]


@dataclass(frozen=True, slots=True)
class FieldWeights:
    """How much a word counts where it stands."""

    name: float = 3.0
    tags: float = 2.0
    tagline: float = 1.0
    description: float = 1.0
    words: float = 1.0
    corrected: float = 0.7
    completed: float = 0.5


@dataclass(frozen=True, slots=True)
class Term:
    """One word of a query: what is looked for in its place, and how much each counts."""

    asked: str
    found: tuple[tuple[str, float], ...]
    corrected: bool = False


@dataclass(frozen=True, slots=True)
class Understood:
    """A query's text.

    Attributes:
        terms: What is looked for.
        text: The text, with words that there are in place of those that there are not.
        corrected: Whether a word was misspelt.
    """

    terms: tuple[Term, ...]
    text: str
    corrected: bool


def fold(text: str) -> list[str]:
    """The words of a text, in lower case and without accents."""
    return _FOLD.analyze(" ".join(plain(text)))


def plain(text: str) -> list[str]:
    """The words of a text, in lower case; half of a surrogate pair belongs to none."""
    return _PLAIN.analyze(text.encode("utf-8", "replace").decode())


class Stems:
    """Stems by language; a language without a stemmer keeps its words."""

    def __init__(self) -> None:
        self._analyzers: dict[str, tantivy.TextAnalyzer] = {}

    def of(self, words: Sequence[str], language: str) -> list[str]:
        """The folded stem of each lower-case word."""
        name = _STEMMERS.get(language.partition("-")[0].lower())
        if name is None or not words:
            return _FOLD.analyze(" ".join(words))
        if name not in self._analyzers:
            builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
            stemmed = builder.filter(tantivy.Filter.stemmer(name))
            self._analyzers[name] = stemmed.filter(tantivy.Filter.ascii_fold()).build()
        return self._analyzers[name].analyze(" ".join(words))


class Words:
    """The full-text index, by row.

    Every word is looked for by itself, so a text holds no operators: what looks like one is
    punctuation.
    """

    def __init__(self) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_integer_field("row", indexed=True, fast=True)
        for name in ("name", "tags", "tagline", "description", "words"):
            builder.add_text_field(name, tokenizer_name="whitespace", index_option="freq")
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        self._writer = self._index.writer(_HEAP, 1)
        self._searcher = self._index.searcher()
        self._vocabulary = _Vocabulary()
        self._languages: dict[str, int] = {}
        self._stems = Stems()

    def put(self, row: int, listing: Listing) -> None:
        """Index a listing; `commit` makes it found."""
        language = listing.language.partition("-")[0].lower()
        self._languages[language] = self._languages.get(language, 0) + 1
        exact = {
            "name": fold(f"{listing.name} {listing.handle}"),
            "tags": fold(" ".join(listing.tags)),
        }
        prose = {"tagline": listing.tagline, "description": listing.description}
        told = {name: plain(text) for name, text in prose.items()}
        words = [*exact["name"], *exact["tags"]]
        words += _FOLD.analyze(" ".join(word for one in told.values() for word in one))
        stems = {name: self._stems.of(one, language) for name, one in told.items()}
        fields = {name: " ".join(one) for name, one in {**exact, **stems, "words": words}.items()}
        self._writer.add_document(tantivy.Document.from_dict({"row": row, **fields}, self._schema))
        self._vocabulary.add(words)

    def clear(self, row: int) -> None:
        """Forget what stood there, at the next `commit`."""
        self._writer.delete_documents_by_term("row", row)

    def commit(self) -> None:
        """Make all changes found."""
        self._writer.commit()
        self._index.reload()
        self._searcher = self._index.searcher()
        self._vocabulary.commit()

    def understand(
        self, text: str, language: str, weights: FieldWeights, alike: Alike | None = None
    ) -> Understood:
        """Find out what a text asks for.

        Args:
            text, language: Of a query.
            weights: Of what stands in place of a word that there is not.
            alike: Cosines of a word with others. A misspelt word means about what the right one
                does; a word that is merely not here does not mean what its neighbours do.
        """
        every = plain(text)[:_MOST_TERMS]
        asked = [word for word in every if word not in _ASKING] or every
        last = asked[-1] if asked and not text[-1:].isspace() and text[-1:].isalnum() else ""
        terms = [
            self._term(
                word, language, weights, alike, typing=number == len(asked) - 1 and word == last
            )
            for number, word in enumerate(asked)
        ]
        shown = text
        for term in terms:
            if term.found and term.found[0][0] != term.asked:
                there = re.compile(rf"(?<!\w){re.escape(term.asked)}(?!\w)", re.IGNORECASE)
                shown = there.sub(term.found[0][0], shown, count=1)
        return Understood(tuple(terms), shown, any(term.corrected for term in terms))

    def _term(
        self,
        word: str,
        language: str,
        weights: FieldWeights,
        alike: Alike | None,
        *,
        typing: bool,
    ) -> Term:
        folded = " ".join(_FOLD.analyze(word))
        known = self._known(word, folded, language)
        found = [(word, 1.0)] if known else []
        if typing and len(word) >= _TYPED:
            ends = self._searcher.terms_with_prefix("words", folded, limit=200)
            common = sorted(ends, key=lambda end: (-end[1], end[0]))[:_MOST_COMPLETIONS]
            found += [
                (end, weights.completed if known else 1.0) for end, _ in common if end != folded
            ]
        if found:
            return Term(word, tuple(found))
        near = [one for one in self._vocabulary.near(folded) if self._alive(one)][:_MOST_NEAR]
        if near and alike is not None:
            cosines = alike(word, near)
            near = [one for one, cosine in zip(near, cosines, strict=True) if cosine >= _ALIKE]
        return Term(word, tuple((one, weights.corrected) for one in near), corrected=bool(near))

    def _known(self, word: str, folded: str, language: str) -> bool:
        if self._alive(folded):
            return True
        return any(
            self._searcher.doc_freq(field, stem)
            for stem in self._stemmed(word, language)
            for field in ("tagline", "description")
        )

    def _alive(self, word: str) -> bool:
        """Whether a listing has the word: the counts of terms know of withdrawn ones too."""
        term = tantivy.Query.term_query(self._schema, "words", word)
        return bool(self._searcher.search(term, limit=1, count=False).hits)

    def _stemmed(self, word: str, language: str) -> set[str]:
        """The stems of a word in the languages that are asked for, or that there are."""
        common = sorted(self._languages, key=lambda one: (-self._languages[one], one))
        chosen = [language] if language not in ("", "*") else common[:_MOST_LANGUAGES]
        return {stem for one in chosen for stem in self._stems.of([word], one)}

    def search(
        self, understood: Understood, language: str, weights: FieldWeights
    ) -> tuple[Rows, Floats]:
        """All rows that have a word that is looked for, and their scores.

        A score of 1 is about what a listing has that says each word once in its description.
        """
        clauses, ideal = [], 0.0
        for term in understood.terms:
            best = 0.0
            for word, boost in term.found:
                clause, rarity = self._clause(word, language, weights)
                clauses.append((tantivy.Occur.Should, tantivy.Query.boost_query(clause, boost)))
                best = max(best, rarity)
            ideal += best or self._rarity(0)
        if not clauses:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        query = tantivy.Query.boolean_query(clauses)
        most = max(1, self._searcher.num_docs)
        hits = self._searcher.search(query, limit=most, count=False).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        scores = np.array([score for score, _ in hits], np.float32) / max(ideal, 1e-9)
        return np.array(rows, np.int64), scores

    def _clause(
        self, word: str, language: str, weights: FieldWeights
    ) -> tuple[tantivy.Query, float]:
        folded = " ".join(_FOLD.analyze(word))
        stems = self._stemmed(word, language)
        looked = [
            ("name", {folded}, weights.name),
            ("tags", {folded}, weights.tags),
            ("tagline", stems, weights.tagline),
            ("description", stems, weights.description),
            ("words", {folded}, weights.words),
        ]
        parts = [
            (
                tantivy.Occur.Should,
                tantivy.Query.boost_query(
                    tantivy.Query.term_query(self._schema, field, one, "freq"), weight
                ),
            )
            for field, wanted, weight in looked
            for one in sorted(wanted)
        ]
        counts = [self._searcher.doc_freq("description", stem) for stem in stems]
        return tantivy.Query.boolean_query(parts), self._rarity(max(counts, default=0))

    def _rarity(self, having: int) -> float:
        """BM25's inverse document frequency of a word that so many listings have."""
        every = self._searcher.num_docs
        return math.log(1 + (every - min(having, every) + 0.5) / (having + 0.5))

    def matched(self, listing: Listing, understood: Understood, language: str) -> tuple[str, ...]:
        """The words of a listing that a query asks for, as they stand there."""
        told = " ".join((listing.name, *listing.tags, listing.tagline, listing.description))
        wanted = [word for term in understood.terms for word, _ in term.found]
        folded = {one for word in wanted for one in _FOLD.analyze(word)}
        stems = {stem for word in wanted for stem in self._stemmed(word, language)}
        found: dict[str, str] = {}
        for word in re.findall(r"\w+", told):
            said = plain(word)
            if folded & set(_FOLD.analyze(" ".join(said))) or stems & set(
                self._stems.of(said, listing.language)
            ):
                found.setdefault(word.casefold(), word)
        return tuple(found.values())


class _Vocabulary:
    """Every word that was ever indexed: an index of its own, of words by their letters."""

    def __init__(self) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("word", stored=True, tokenizer_name="raw", index_option="basic")
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        self._writer = self._index.writer(15_000_000, 1)
        self._known: set[str] = set()

    def add(self, words: Sequence[str]) -> None:
        for word in sorted(set(words) - self._known):
            self._known.add(word)
            self._writer.add_document(tantivy.Document.from_dict({"word": word}, self._schema))

    def commit(self) -> None:
        self._writer.commit()
        self._index.reload()

    def near(self, word: str) -> list[str]:
        """Words that differ from this one by one letter, else by two; the most alike first."""
        allowed = (len(word) >= _ONE_WRONG) + (len(word) >= _TWO_WRONG)
        searcher = self._index.searcher()
        for distance in range(1, allowed + 1):
            query = tantivy.Query.fuzzy_term_query(self._schema, "word", word, distance)
            hits = searcher.search(query, limit=50, count=False).hits
            found = [str(searcher.doc(address)["word"][0]) for _, address in hits]
            if found:
                return sorted(found, key=lambda one: (_unlike(word, one), one))
        return []


def _unlike(word: str, other: str) -> tuple[bool, float]:
    """Few mistype the first letter."""
    alike = difflib.SequenceMatcher(None, word, other, autojunk=False).ratio()
    return other[:1] != word[:1], -alike
