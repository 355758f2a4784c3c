"""The index finds by words and by meaning, filters, counts, and follows what changes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from personas.errors import PersonaError
from personas.listing import Listing
from personas.search import MAX_LIMIT, Index, SearchQuery, SearchResult
from personas.search.query import MAX_TEXT
from runtime.enclave.embedding.static import StaticEmbedder

EMBED = StaticEmbedder().load().encode


def listing(handle: str, tagline: str, description: str = "", **more: object) -> Listing:
    """A listing with what the test does not care about filled in."""
    told = {
        "handle": handle,
        "digest": bytes(32),
        "version": "1.0.0",
        "name": handle.title(),
        "tagline": tagline,
        "description": description,
        "tags": (),
        "language": "en",
        "rating": "everyone",
        "licence": "CC0-1.0",
        "author": "Juniper",
    }
    return Listing(**{**told, **more})  # type: ignore[arg-type]


PEOPLE = (
    listing(
        "ines",
        "A baker in the hills.",
        "She bakes bread at night. She listens well.",
        tags=("warm", "food"),
        created=5,
    ),
    listing(
        "otto",
        "Repairs old clocks.",
        "His guitar stands in the corner. He plays it on Sundays.",
        tags=("calm", "music"),
        language="en-GB",
        rating="teen",
        author="Kestrel",
        created=7,
    ),
    listing(
        "lena",
        "Eine Gärtnerin aus Bremen.",
        "Sie pflanzt Rosen. Ihre Katzen schlafen in der Sonne.",
        tags=("calm",),
        language="de",
        licence="CC-BY-4.0",
    ),
    listing(
        "rex",
        "Wrestler and vegetarian.",
        "Trains every day. Fond of dogs.",
        tags=("loud", "food"),
        rating="mature",
    ),
    listing("mona", "A doctor in a small town.", "Walks by the sea.", rating="unrated"),
)


@pytest.fixture(scope="module")
def index() -> Index:
    """The five people, with meaning."""
    return Index.build(PEOPLE, embed=EMBED)


def handles(found: SearchResult) -> list[str]:
    """Whom it found, in order."""
    return [hit.listing.handle for hit in found.hits]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("guitar", "otto"),
        ("Ines", "ines"),
        ("baking", "ines"),
        ("Rose", "lena"),
        ("gärtnerin", "lena"),
        ("GARTNERIN", "lena"),
        ("physician", "mona"),
        ("pet", "rex"),
        ("who can repair a clock?", "otto"),
    ],
)
def test_the_one_who_was_meant_is_first(index: Index, text: str, expected: str) -> None:
    """Names, stems of two languages, accents left out, other words and questions are found."""
    assert handles(index.search(SearchQuery(text)))[0] == expected


@pytest.mark.parametrize("embed", [EMBED, None])
@pytest.mark.parametrize(
    ("text", "meant", "expected"),
    [
        ("vegatarian", "vegetarian", "rex"),
        ("wresler", "wrestler", "rex"),
        ("old guittar", "old guitar", "otto"),
    ],
)
def test_a_misspelt_word_is_found_and_put_right(
    embed: object, text: str, meant: str, expected: str
) -> None:
    """A typing error finds what was meant, with vectors and without, and is told."""
    found = Index.build(PEOPLE, embed=embed).search(SearchQuery(text))  # type: ignore[arg-type]
    assert handles(found)[0] == expected
    assert found.suggestions == (meant,)


def test_a_word_that_is_merely_not_here_is_not_taken_for_its_neighbour() -> None:
    """`horse` does not become `house`: their letters are near, their meanings are not."""
    one = listing("hugo", "Builds a house.")
    found = Index.build([one], embed=EMBED).search(SearchQuery("horse"))
    assert found.suggestions == ()
    assert not [hit for hit in found.hits if hit.words]


def test_a_word_is_found_while_it_is_typed(index: Index) -> None:
    """The beginning of the last word is enough."""
    found = index.search(SearchQuery("old clo"))
    assert handles(found)[0] == "otto"
    assert "clocks" in found.hits[0].words
    assert found.suggestions == (), "it is not misspelt"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (SearchQuery(tags=("calm",)), {"otto", "lena"}),
        (SearchQuery(tags=("Calm", "music")), {"otto"}),
        (SearchQuery(any_tags=("warm", "loud")), {"ines", "rex"}),
        (SearchQuery(tags=("food",), any_tags=("warm", "calm")), {"ines"}),
        (SearchQuery(language="en"), {"ines", "otto", "rex", "mona"}),
        (SearchQuery(language="EN-gb"), {"otto"}),
        (SearchQuery(language="e"), set()),
        (SearchQuery(language="*"), {"ines", "otto", "lena", "rex", "mona"}),
        (SearchQuery(rating="everyone"), {"ines", "lena"}),
        (SearchQuery(rating="teen"), {"ines", "lena", "otto"}),
        (SearchQuery(rating="mature"), {"ines", "lena", "otto", "rex"}),
        (SearchQuery(licence="cc-by-4.0"), {"lena"}),
        (SearchQuery(author="kestrel"), {"otto"}),
        (SearchQuery(tags=("nobody-has-it",)), set()),
    ],
)
def test_a_filter_leaves_out_all_others(
    index: Index, query: SearchQuery, expected: set[str]
) -> None:
    """By itself and beside words, a filter holds; an unrated persona is in no rating."""
    assert set(handles(index.search(query))) == expected
    for text in ("guitar bread dogs", "a person"):
        found = index.search(dataclasses.replace(query, text=text))
        assert set(handles(found)) <= expected


def test_facets_count_what_was_found(index: Index) -> None:
    """Of all that match, on this page or not; most first, then by name."""
    facets = index.search(SearchQuery(limit=1)).facets
    assert facets["tag"] == (("calm", 2), ("food", 2), ("loud", 1), ("music", 1), ("warm", 1))
    assert facets["language"] == (("en", 3), ("de", 1), ("en-GB", 1))
    assert dict(facets["rating"]) == {"everyone": 2, "teen": 1, "mature": 1, "unrated": 1}
    calm = index.search(SearchQuery(tags=("calm",), limit=1))
    assert calm.total == 2
    assert dict(calm.facets["author"]) == {"Juniper": 1, "Kestrel": 1}


def test_without_a_query_the_newest_come_first(index: Index) -> None:
    """Somebody who only looks sees what is new."""
    assert handles(index.search(SearchQuery()))[:2] == ["otto", "ines"]


@pytest.mark.parametrize("embed", [EMBED, None])
def test_similar_leaves_out_the_one_it_is_about(embed: object) -> None:
    """Those that say the like or share tags, and filters hold."""
    twin = listing("nils", "Mends old watches.", "He plays the violin.", tags=("calm", "music"))
    index = Index.build([*PEOPLE, twin], embed=embed)  # type: ignore[arg-type]
    found = handles(index.search(SearchQuery(similar="otto")))
    assert found[0] == "nils"
    assert "otto" not in found
    assert handles(index.search(SearchQuery(similar="otto", language="de"))) == ["lena"]


def test_similar_to_nobody_is_refused(index: Index) -> None:
    """The message says what to do."""
    with pytest.raises(PersonaError, match=r"no persona 'nemo'.*[Ss]earch"):
        index.search(SearchQuery(similar="nemo"))


def test_pages_are_one_order() -> None:
    """Pages of one size or another join to the same list, without gap or repetition."""
    people = [listing(f"p{n}", "Plays the guitar.", created=n % 3) for n in range(90)]
    index = Index.build(people, embed=EMBED)
    for text in ("guitar", ""):
        whole = [
            handles(index.search(SearchQuery(text, limit=30, offset=at))) for at in (0, 30, 60)
        ]
        small = [
            handles(index.search(SearchQuery(text, limit=7, offset=at))) for at in range(0, 90, 7)
        ]
        joined = list(itertools.chain(*whole))
        assert joined == list(itertools.chain(*small))
        assert len(set(joined)) == 90
        assert index.search(SearchQuery(text, offset=90)).hits == ()


def test_the_order_does_not_depend_on_who_came_first() -> None:
    """Enclaves that took up the same listings in another order answer alike."""
    people = [listing(f"p{n}", "Plays the guitar.") for n in range(20)]
    first, second = Index.build(people, embed=EMBED), Index.build(people[::-1], embed=EMBED)
    query = SearchQuery("guitar", limit=20)
    assert handles(first.search(query)) == handles(second.search(query))


HOSTILE = [
    "*", "?", "!!!", "~", "AND", "OR NOT", "name:ines", "tags:[a TO z]", "/.*/", "(((", '"', "\\",
    "+ines -otto", "ines^1e99", "a~9", "\x00\x01\x1b[2J", "\ud800", "\u202e", "🍞", "面包",
    "' OR 1=1", "<b>ines</b>", "a " * 250, "x" * MAX_TEXT, "é" * 200, "\n\t",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(index: Index, text: str) -> None:
    """Operators, controls and floods neither break the index nor widen a filter."""
    for query in (SearchQuery(text), SearchQuery(text, tags=("loud",))):
        found = index.search(query)
        assert found.total >= len(found.hits)
        if query.tags:
            assert set(handles(found)) <= {"rex"}


def test_an_operator_is_punctuation(index: Index) -> None:
    """A minus does not exclude, and a field's name selects no field."""
    assert "otto" in handles(index.search(SearchQuery("-guitar")))
    assert handles(index.search(SearchQuery("description:bread")))[0] == "ines"


@pytest.mark.parametrize(
    "bad",
    [
        {"text": "x" * (MAX_TEXT + 1)},
        {"text": "x" * 10_000},
        {"tags": ("a",) * 17},
        {"tags": ("a" * 257,)},
        {"language": "e" * 257},
        {"rating": "any"},
        {"limit": 0},
        {"limit": MAX_LIMIT + 1},
        {"offset": -1},
        {"offset": 10_001},
    ],
)
def test_a_query_beyond_its_limits_is_refused(bad: dict[str, object]) -> None:
    """The limits are checked before anything is looked for; the message quotes nothing."""
    with pytest.raises(PersonaError) as refused:
        SearchQuery(**bad)  # type: ignore[arg-type]
    assert "xxx" not in str(refused.value)


def test_what_changes_is_found_and_what_is_withdrawn_is_gone() -> None:
    """A new version takes the place of the old one; a withdrawn one leaves no trace."""
    index = Index.build(PEOPLE, embed=EMBED)
    index.update([listing("ines", "Sails a lighthouse tender.", tags=("sea",))])
    assert handles(index.search(SearchQuery("lighthouse")))[0] == "ines"
    assert not [hit for hit in index.search(SearchQuery("baker")).hits if hit.words]
    assert ("warm", 1) not in index.search(SearchQuery()).facets["tag"]
    assert len(index) == 5

    index.update(withdrawn=["ines", "nobody"])
    assert len(index) == 4
    assert "ines" not in handles(index.search(SearchQuery("lighthouse")))
    assert index.search(SearchQuery("lighthuose")).suggestions == (), "its words are gone too"
    assert "ines" not in handles(index.search(SearchQuery()))
    with pytest.raises(PersonaError):
        index.search(SearchQuery(similar="ines"))

    assert index.search(SearchQuery("wresler")).suggestions == ("wrestler",)
    index.update(withdrawn=["rex"])
    assert index.search(SearchQuery("wresler")).suggestions == (), "those of older ones, too"

    index.update([listing("vera", "Flies a balloon.")])
    assert handles(index.search(SearchQuery("balloon")))[0] == "vera"
    assert handles(index.search(SearchQuery("guitar")))[0] == "otto", "the others stand as before"


def test_an_update_embeds_only_what_changed() -> None:
    """The cost of a change does not grow with the index."""
    seen: list[int] = []

    def embed(texts: object) -> object:
        seen.append(len(texts))  # type: ignore[arg-type]
        return EMBED(texts)  # type: ignore[arg-type]

    index = Index.build(PEOPLE, embed=embed)  # type: ignore[arg-type]
    seen.clear()
    index.update([*PEOPLE, listing("vera", "Flies a balloon.")])
    assert seen == [1]


def test_a_hit_says_why(index: Index) -> None:
    """The words as they stand in the listing, and the passage that is nearest."""
    hit = index.search(SearchQuery("guitars on a Sunday")).hits[0]
    assert hit.listing.handle == "otto"
    assert {"guitar", "Sundays"} <= set(hit.words)
    assert hit.passage in ("His guitar stands in the corner.", "He plays it on Sundays.")


def test_an_empty_index_answers() -> None:
    """Nobody there is no error."""
    found = Index.build([], embed=EMBED).search(SearchQuery("anybody"))
    assert (found.hits, found.total) == ((), 0)
