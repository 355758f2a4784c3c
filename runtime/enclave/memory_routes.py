"""The resources under ``/v1/memory``: see `runtime.enclave.memory_api` and docs/protocol.md."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import redis.exceptions

from memory.errors import InvalidInputError, MemoryStoreError, UnavailableError
from memory.store import ThreadStore
from runtime.enclave.agent import Agent
from runtime.enclave.api import ApiError, parse_body
from runtime.enclave.binding import Binding
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.engines.base import EngineError
from runtime.enclave.memory_api import (
    EditRequest,
    ExportRequest,
    ForgetRecordsRequest,
    ImportRequest,
    ListRequest,
    MemoryRequest,
    PinRequest,
    RotateRequest,
    SearchRequest,
    WhyRequest,
    WriteRequest,
)
from runtime.enclave.memory_editing import Editor
from runtime.enclave.memory_erasing import Eraser
from runtime.enclave.memory_importing import Importer
from runtime.enclave.memory_json import Json
from runtime.enclave.memory_reading import Reader
from runtime.enclave.memory_threads import Threads
from runtime.enclave.outbox import Outbox
from runtime.enclave.routes import Call, Handler, Reply, Table, json_reply
from transport.bhttp import Fields
from transport.sse import encode_event

RequestT = TypeVar("RequestT", bound=MemoryRequest)
_STATUS: Final[tuple[tuple[type[MemoryStoreError], int], ...]] = (
    (InvalidInputError, 400),
    (UnavailableError, 503),
    (MemoryStoreError, 409),
)
_EVENTS: Fields = ((b"content-type", b"text/event-stream"),)


def memory_routes(
    agent: Agent, store: ThreadStore, outbox: Outbox, embedder: Embedder | None
) -> Table:
    """Handlers by path and method, for `Routes`.

    Args:
        agent: Has the locks of threads and what is kept of them in the clear.
        store: Sealed memory.
        outbox: Where receipts of erasures go.
        embedder: Makes vectors; None where recall is by words alone.
    """
    threads = Threads(agent, store)
    reader, editor = Reader(threads, embedder), Editor(threads, embedder)
    importer, eraser = Importer(threads, embedder), Eraser(threads, outbox)

    def erases(
        kind: type[RequestT], answer: Callable[[RequestT, Binding], Awaitable[Json]]
    ) -> tuple[bytes, dict[bytes, Handler]]:
        async def handle(call: Call, _: str) -> Reply:
            asked = parse_body(kind, call.request.content)
            with threads.asking(asked.thread_key):
                return json_reply(await _told(answer(asked, call.binding)))

        return kind.path, {b"POST": handle}

    def answers(
        kind: type[RequestT], answer: Callable[[RequestT], Awaitable[Json]]
    ) -> tuple[bytes, dict[bytes, Handler]]:
        # Without a receipt there is nothing to bind.
        return erases(kind, lambda asked, _: answer(asked))

    async def export(call: Call, _: str) -> Reply:
        asked = parse_body(ExportRequest, call.request.content)
        with threads.asking(asked.thread_key):
            return Reply(200, _EVENTS, events=_encoded(await _told(reader.export(asked))))

    return dict(
        (
            answers(ListRequest, reader.page),
            answers(SearchRequest, reader.search),
            answers(WhyRequest, reader.why),
            answers(PinRequest, editor.pin),
            answers(WriteRequest, editor.write),
            answers(EditRequest, editor.edit),
            answers(ImportRequest, importer.import_batch),
            erases(ForgetRecordsRequest, eraser.forget),
            erases(RotateRequest, eraser.rotate),
            (ExportRequest.path, {b"POST": export}),
        )
    )


AnswerT = TypeVar("AnswerT")


async def _told(answer: Awaitable[AnswerT]) -> AnswerT:
    """An answer; what memory or an engine refuses becomes an answer of the API's."""
    try:
        return await answer
    except MemoryStoreError as error:
        status = next(number for kind, number in _STATUS if isinstance(error, kind))
        raise ApiError(status, error.code, str(error)) from None
    except EngineError as error:
        raise ApiError(503, error.code, str(error)) from None
    except (redis.exceptions.RedisError, OSError):
        raise ApiError(
            503, "memory_unavailable", "the store is away; ask again in a moment"
        ) from None


async def _encoded(events: AsyncIterator[Json]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield encode_event(event)
