"""The query of a URL inside the encapsulation, a form (`x-www-form-urlencoded`), read strictly."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl

from runtime.enclave.api import ApiError
from transport.bhttp import Request

MAX_QUERY_BYTES: Final = 8_192
MAX_FIELDS: Final = 32

_FORM: Final = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})*", re.DOTALL)


def query_of(request: Request) -> bytes:
    """What follows the question mark of a request's path."""
    return request.path.partition(b"?")[2]


def read_query(
    query: bytes, single: Collection[str], repeated: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Values by name, in the order in which they stand; one for each name in `single`.

    Args:
        query: Without the question mark.
        single: Names that may be given once.
        repeated: Names that may be given more often.

    Raises:
        ApiError: It is too long, malformed, names what there is not, or a name twice.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise refused_query(f"the query has more than {MAX_QUERY_BYTES} bytes; shorten it")
    pairs: list[tuple[str, str]] | None
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        pairs = None
    if pairs is None or not _FORM.fullmatch(query):
        raise refused_query("the query is not NAME=VALUE&..., percent-encoded UTF-8")
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if name not in single and name not in repeated:
            known = ", ".join((*single, *repeated)) or "none"
            raise refused_query(f"the query asks for what there is not; there are {known}")
        if name in found and name in single:
            only = " and ".join(f"`{one}`" for one in repeated)
            rule = f"only {only} may be given twice" if only else "it may be given once"
            raise refused_query(rule, name)
        found[name] = (*found.get(name, ()), value)
    return found


def read_number(name: str, value: str, most: int = 999_999) -> int:
    """A whole number from 0 to `most`, in ASCII digits. Raises ApiError."""
    if not value.isascii() or not value.isdigit() or len(value) > 6 or int(value) > most:
        raise refused_query(f"must be a number from 0 to {most}", name)
    return int(value)


def refused_query(message: str, param: str | None = None) -> ApiError:
    """What somebody is told of a query that is not answered."""
    return ApiError(400, "invalid_request", message, param)
