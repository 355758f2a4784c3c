"""Values that personas share (tags, languages, ...), as numbers in arrays: filters and facets."""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from personas.search.query import RATINGS, SearchQuery

_NONE: Final = -1
_MOST_SHOWN: Final = 20

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


class Column:
    """The values of one kind, for every row of the index."""

    def __init__(self) -> None:
        self._values: list[str] = []  # as first written
        self._codes: dict[str, int] = {}
        self._rows = np.full((0, 1), _NONE, np.int32)

    def put(self, row: int, values: Iterable[str]) -> None:
        """Give a row its values in place of those that it had."""
        codes = sorted({self._code(value) for value in values})
        rows, width = self._rows.shape
        if row >= rows or len(codes) > width:
            shape = (max(rows, 2 * row, 64), max(width, len(codes)))
            grown = np.full(shape, _NONE, np.int32)
            grown[:rows, :width] = self._rows
            self._rows = grown
        self._rows[row] = _NONE
        self._rows[row, : len(codes)] = codes

    def _code(self, value: str) -> int:
        key = value.casefold()
        if key not in self._codes:
            self._codes[key] = len(self._values)
            self._values.append(value)
        return self._codes[key]

    def having(self, accept: Callable[[str], bool], rows: int) -> Mask:
        """Which of the first `rows` rows have a value that is accepted; values are casefolded."""
        accepted = np.zeros(len(self._values) + 1, bool)  # the last is that of _NONE
        for value, code in self._codes.items():
            accepted[code] = accept(value)
        return np.asarray(accepted[self._rows[:rows]].any(axis=1), bool)

    def shared(self, values: set[str], rows: int) -> npt.NDArray[np.float64]:
        """Of each row, the size of the intersection over that of the union."""
        wanted = np.zeros(len(self._values) + 1, bool)
        wanted[[self._codes[value] for value in values if value in self._codes]] = True
        common = wanted[self._rows[:rows]].sum(axis=1)
        union = len(values) + (self._rows[:rows] != _NONE).sum(axis=1) - common
        return np.asarray(common / np.maximum(union, 1), np.float64)

    def counts(self, rows: Rows) -> tuple[tuple[str, int], ...]:
        """How many of these rows have each value; the commonest, ties by value."""
        counted = np.bincount(self._rows[rows].ravel() + 1, minlength=len(self._values) + 1)[1:]
        common = [(self._values[code], int(counted[code])) for code in np.flatnonzero(counted)]
        return tuple(sorted(common, key=lambda one: (-one[1], one[0]))[:_MOST_SHOWN])


class Columns:
    """All of them."""

    def __init__(self) -> None:
        self._by_name = {
            name: Column() for name in ("tag", "language", "rating", "licence", "author")
        }

    def put(self, row: int, **values: Iterable[str]) -> None:
        """Give a row its values, by name."""
        for name, column in self._by_name.items():
            column.put(row, values[name])

    def passing(self, query: SearchQuery, alive: Mask) -> Mask:
        """Which rows are alive and pass all filters of a query."""
        mask, rows = alive.copy(), len(alive)
        tests: list[tuple[str, Callable[[str], bool]]] = [
            ("tag", tag.casefold().__eq__) for tag in query.tags
        ]
        if query.any_tags:
            wanted = {tag.casefold() for tag in query.any_tags}
            tests.append(("tag", wanted.__contains__))
        if query.language not in ("", "*"):
            tests.append(("language", _within(query.language.casefold())))
        if query.rating:
            allowed = RATINGS[: RATINGS.index(query.rating) + 1]
            tests.append(("rating", allowed.__contains__))
        if query.licence:
            tests.append(("licence", query.licence.casefold().__eq__))
        if query.author:
            tests.append(("author", query.author.casefold().__eq__))
        for name, accept in tests:
            mask &= self._by_name[name].having(accept, rows)
        return mask

    def shared(self, tags: frozenset[str], rows: int) -> npt.NDArray[np.float64]:
        """Of each row, the part of its tags and these that are common to both (Jaccard)."""
        return self._by_name["tag"].shared({tag.casefold() for tag in tags}, rows)

    def facets(self, rows: Rows) -> dict[str, tuple[tuple[str, int], ...]]:
        """Counts among these rows, by name."""
        return {name: column.counts(rows) for name, column in self._by_name.items()}


def _within(language_range: str) -> Callable[[str], bool]:
    """Basic filtering (RFC 4647, section 3.3.1)."""
    return lambda tag: tag == language_range or tag.startswith(language_range + "-")
