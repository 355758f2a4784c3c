"""The resources under ``/v1/memory``: see `runtime.enclave.memory_api` and docs/protocol.md."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import redis.exceptions

from memory.errors import MemoryStoreError
from runtime.enclave.api import ApiError, parse_body
from runtime.enclave.binding import Binding
from runtime.enclave.engines.base import EngineError
from runtime.enclave.memories import Memories, refusal_of
from runtime.enclave.memory_api import (
    MEMORY_PATH,
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
from runtime.enclave.routes import Call, Handler, Reply, Table, json_reply
from transport.bhttp import Fields
from transport.sse import encode_event

RequestT = TypeVar("RequestT", bound=MemoryRequest)
_EVENTS: Fields = ((b"content-type", b"text/event-stream"),)


def memory_routes(memories: Memories) -> Table:
    """Handlers by path and method, for `Routes`."""

    def erases(
        name: bytes,
        kind: type[RequestT],
        answer: Callable[[RequestT, Binding], Awaitable[dict[str, Any]]],
    ) -> tuple[bytes, dict[bytes, Handler]]:
        async def handle(call: Call, _: str) -> Reply:
            asked = parse_body(kind, call.request.content)
            with memories.asking(asked.thread_key):
                return json_reply(await _told(answer(asked, call.binding)))

        return MEMORY_PATH + name, {b"POST": handle}

    def answers(
        name: bytes, kind: type[RequestT], answer: Callable[[RequestT], Awaitable[dict[str, Any]]]
    ) -> tuple[bytes, dict[bytes, Handler]]:
        # Without a receipt there is nothing to bind.
        return erases(name, kind, lambda asked, _: answer(asked))

    async def export(call: Call, _: str) -> Reply:
        asked = parse_body(ExportRequest, call.request.content)
        with memories.asking(asked.thread_key):
            return Reply(200, _EVENTS, events=_encoded(await _told(memories.export(asked))))

    return dict(
        (
            answers(b"list", ListRequest, memories.page),
            answers(b"search", SearchRequest, memories.search),
            answers(b"why", WhyRequest, memories.why),
            answers(b"pin", PinRequest, memories.pin),
            answers(b"write", WriteRequest, memories.write),
            answers(b"edit", EditRequest, memories.edit),
            answers(b"import", ImportRequest, memories.import_batch),
            erases(b"forget", ForgetRecordsRequest, memories.forget),
            erases(b"rotate", RotateRequest, memories.rotate),
            (MEMORY_PATH + b"export", {b"POST": export}),
        )
    )


AnswerT = TypeVar("AnswerT")


async def _told(answer: Awaitable[AnswerT]) -> AnswerT:
    """An answer; what memory or an engine refuses becomes an answer of the API's."""
    try:
        return await answer
    except MemoryStoreError as error:
        raise refusal_of(error) from None
    except EngineError as error:
        raise ApiError(503, error.code, str(error)) from None
    except (redis.exceptions.RedisError, OSError):
        raise ApiError(
            503, "memory_unavailable", "the store is away; ask again in a moment"
        ) from None


async def _encoded(events: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield encode_event(event)
