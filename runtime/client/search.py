"""Search on the device: a question, sealed for any enclave that holds."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from personas.errors import PersonaError
from personas.listing import Listing
from personas.search import Hit, SearchQuery, SearchResult
from runtime.client.device import Device
from runtime.client.sealed import Call
from runtime.errors import SottoError

PATH = "/v1/personas"


async def search(device: Device, query: SearchQuery) -> SearchResult:
    """Ask an enclave. What it answers is its word: `runtime.client.registry` proves a listing.

    Raises:
        SottoError: There is no enclave that holds, or it refuses, or does not speak as it should.
        StreamLostError: The way broke.
    """
    call = Call(b"GET", f"{PATH}?{encode_query(query)}".encode("ascii"))
    return parse_result(await (await device.request(call)).read_json())


def encode_query(query: SearchQuery) -> str:
    """The query of a URL."""
    pairs = [
        ("q", query.text),
        *(("tag", tag) for tag in query.tags),
        *(("any_tag", tag) for tag in query.any_tags),
        *((name, getattr(query, name)) for name in ("language", "rating", "licence", "author")),
        ("similar", query.similar),
        ("limit", str(query.limit)),
        ("offset", str(query.offset)),
    ]
    return urlencode([(name, value) for name, value in pairs if value], errors="replace")


def parse_result(told: dict[str, Any]) -> SearchResult:
    """Read an answer, strictly. Raises SottoError."""
    try:
        return SearchResult(
            hits=tuple(_hit(dict(hit)) for hit in told["hits"]),
            total=int(told["total"]),
            facets={
                str(name): tuple((str(one["value"]), int(one["count"])) for one in values)
                for name, values in told["facets"].items()
            },
            suggestions=tuple(str(text) for text in told["suggestions"]),
        )
    except (PersonaError, KeyError, TypeError, ValueError, AttributeError):
        raise SottoError(
            "the enclave's answer to a search is not one that this version knows; update "
            "Sottovoce on this device",
            code="search_malformed",
        ) from None


def _hit(told: dict[str, Any]) -> Hit:
    score, words, passage = told.pop("score"), told.pop("words"), told.pop("passage")
    listing = Listing.from_public(
        {
            name: value
            for name, value in told.items()
            if name not in ("handle", "digest", "version", "key", "private", "created")
        },
        handle=told["handle"],
        digest=bytes.fromhex(told["digest"]),
        version=told["version"],
        key=bytes.fromhex(told["key"]),
        private=bool(told["private"]),
        created=int(told["created"]),
    )
    return Hit(listing, float(score), tuple(map(str, words)), str(passage))
