"""Search inside the encapsulation: what somebody looks for is as private as what they say.

The index stands in the enclave's memory. It follows the listings by itself, off the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from personas.errors import PersonaError
from personas.listing import Listing
from personas.search import Embed, Index, SearchQuery, SearchResult
from runtime.enclave.api import ApiError
from runtime.enclave.embedding.base import Embedder, Vectors
from runtime.enclave.engines.base import EngineError
from runtime.enclave.persona_routes import PERSONAS_PATH
from runtime.enclave.persona_source import PersonaSource
from runtime.enclave.query import query_of, read_number, read_query, refused_query
from runtime.enclave.routes import Call, Reply, Table, json_reply

log = logging.getLogger(__name__)

_MAX_WAITING = 32
_FOLLOW_S = 2.0
_MANY = {"tag": "tags", "any_tag": "any_tags"}
_ONE = {"q": "text", **{one: one for one in ("language", "rating", "licence", "author", "similar")}}
_NUMBERS = ("limit", "offset")

_Done = TypeVar("_Done")


class PersonaSearch:
    """Finds listings, those of private personas too: a listing is public.

    Args:
        source: Whose listings are found.
        embedder: Started; None: words alone.
    """

    def __init__(self, source: PersonaSource, embedder: Embedder | None) -> None:
        self._source = source
        self._embedder = embedder
        self._index: Index | None = None
        self._seen = -1
        # The index belongs to one thread at a time.
        self._lock = asyncio.Lock()
        self._waiting = 0

    def table(self) -> Table:
        """Handlers by path and method."""
        return {PERSONAS_PATH: {b"GET": self._answer}}

    async def run(self) -> None:
        """Follow the listings, until cancelled, so that a search need not wait for it."""
        while True:
            try:
                async with self._lock:
                    await self._follow()
            except ApiError as error:
                log.warning("the search index is not up to date: %s", error.code)
            await asyncio.sleep(_FOLLOW_S)

    async def search(self, query: SearchQuery) -> SearchResult:
        """Answer a query.

        Raises:
            PersonaError: It compares with a persona that is not there.
            ApiError: Too many wait already, or the embedder broke.
        """
        if self._waiting >= _MAX_WAITING:
            raise ApiError(503, "search_busy", "too many searches at once; try again in a moment")
        self._waiting += 1
        try:
            async with self._lock:
                index = await self._follow()
                return await self._in_thread(lambda: index.search(query))
        finally:
            self._waiting -= 1

    async def _follow(self) -> Index:
        """The index, with every change that there was; its owner holds the lock."""
        index, changed = self._index, self._source.changed
        if index is not None and changed == self._seen:
            return index
        self._index = None  # one that an error left half changed is made anew
        listings = tuple(self._source.listings())
        updated = await self._in_thread(lambda: _updated(index, listings, self._embed()))
        self._index, self._seen = updated, changed
        return updated

    async def _in_thread(self, work: Callable[[], _Done]) -> _Done:
        self._loop = asyncio.get_running_loop()
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # The thread goes on; nobody else may have the index until it has ended.
            await asyncio.wait([running])
            raise
        except EngineError as error:
            raise ApiError(503, "search_unavailable", str(error)) from None

    def _embed(self) -> Embed | None:
        embedder = self._embedder
        if embedder is None:
            return None

        def embed(texts: Sequence[str]) -> Vectors:
            return asyncio.run_coroutine_threadsafe(embedder.embed(texts), self._loop).result()

        return embed

    async def _answer(self, call: Call, _: str) -> Reply:
        query = parse_query(query_of(call.request))
        try:
            found = await self.search(query)
        except PersonaError as error:
            raise ApiError(404, "persona_unknown", str(error), "similar") from None
        return json_reply(found.public())


def _updated(index: Index | None, listings: Sequence[Listing], embed: Embed | None) -> Index:
    if index is None:
        return Index.build(listings, embed=embed)
    there = {one.handle for one in listings}
    index.update(listings, [one.handle for one in index.listings() if one.handle not in there])
    return index


def parse_query(query: bytes) -> SearchQuery:
    """Read the query of a URL (application/x-www-form-urlencoded), strictly.

    Raises:
        ApiError: It is too long, malformed, or asks in a way that there is not.
    """
    asked: dict[str, Any] = {}
    for name, values in read_query(query, (*_ONE, *_NUMBERS), tuple(_MANY)).items():
        if name in _MANY:
            asked[_MANY[name]] = values
        elif name in _NUMBERS:
            asked[name] = read_number(name, values[0])
        else:
            asked[_ONE[name]] = values[0]
    try:
        return SearchQuery(**asked)
    except PersonaError as error:
        raise refused_query(str(error)) from None
