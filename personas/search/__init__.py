"""Finding personas by words and by meaning, in process."""

from personas.search.index import WEIGHTS, Index, Weights
from personas.search.meaning import Embed
from personas.search.query import MAX_LIMIT, RATINGS, Hit, SearchQuery, SearchResult

__all__ = [
    "MAX_LIMIT",
    "RATINGS",
    "WEIGHTS",
    "Embed",
    "Hit",
    "Index",
    "SearchQuery",
    "SearchResult",
    "Weights",
]
