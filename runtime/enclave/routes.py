"""What the enclave answers inside the encapsulation: a table of resources (docs/protocol.md)."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import redis.exceptions

from memory.keys import KEY_BYTES, ThreadKeys
from personas.listing import Listing
from runtime.enclave.agent import Agent
from runtime.enclave.api import (
    CANCEL_PATH,
    COMPLETION_RECEIPT_LABEL,
    COMPLETIONS_PATH,
    EVIDENCE_PATH,
    FORGET_PATH,
    INCOGNITO_RECEIPT_LABEL,
    MODELS_PATH,
    PERSONA_DIGEST_HEADER,
    RECEIPT_ID_HEADER,
    RECEIPTS_PATH,
    TURNS_PATH,
    ApiError,
    CancelRequest,
    ForgetRequest,
    TurnRequest,
    parse_body,
)
from runtime.enclave.binding import Binding
from runtime.enclave.completions import CompletionCall, Completions
from runtime.enclave.epochs import EpochStore
from runtime.enclave.openai_api import (
    model_list,
    model_object,
    parse_chat_request,
    parse_models_query,
)
from runtime.enclave.outbox import Outbox
from runtime.enclave.persona_source import Found, PersonaSource
from runtime.enclave.query import query_of
from runtime.enclave.turns import RunningTurn, TurnCall
from transport.bhttp import Fields, Request
from transport.shaping import Shaping
from transport.sse import encode_event

_JSON: Fields = ((b"content-type", b"application/json"),)
_EVENTS: Fields = ((b"content-type", b"text/event-stream"),)
_ID = b"/{id}"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, repr=False)
class Call:
    """An opened request and the secrets of its exchange.

    Attributes:
        request: The Binary HTTP request.
        binding: What a receipt is bound to.
        shaping: What the device chose.
        export: The HPKE exporter: label and length in bytes.
    """

    request: Request
    binding: Binding
    shaping: Shaping
    export: Callable[[bytes, int], bytes]


def header(request: Request, name: bytes) -> bytes | None:
    """The value of a field that may stand in a request once.

    Raises:
        ApiError: It stands there more often.
    """
    values = [value for field, value in request.headers if field == name]
    if len(values) > 1:
        raise ApiError(400, "invalid_request", f"send one {name.decode()} field, not more")
    return values[0] if values else None


@dataclass(frozen=True, slots=True, repr=False)
class Reply:
    """What a resource answers: a body, or the content of an event stream as it comes.

    Attributes:
        status, headers: Of the inner response.
        body: The content, where there are no events.
        events: Pieces of whole events.
        close: Call when nobody reads on, and after the end.
    """

    status: int
    headers: Fields
    body: bytes = b""
    events: AsyncIterator[bytes] | None = None
    close: Callable[[], None] = lambda: None


def json_reply(value: Any) -> Reply:
    """A resource's JSON."""
    return Reply(200, _JSON, orjson.dumps(value))


def refusal(error: ApiError, headers: Fields = ()) -> Reply:
    """What a refused request gets."""
    return Reply(error.status, (*_JSON, *headers), error.body())


Handler = Callable[[Call, str], Awaitable[Reply]]
Table = Mapping[bytes, Mapping[bytes, Handler]]
"""Handlers by path and method; a path ends in `/{id}` where its last segment is a name."""


class Routes:
    """The resources.

    Args:
        personas: Those that this enclave speaks as.
        agent: Runs turns.
        completions: Makes completions.
        outbox: Knows receipts.
        epochs: Knows attestation bundles.
        notice: The engine's, see `Engine`.
        extra: Resources of other modules.
    """

    def __init__(
        self,
        personas: PersonaSource,
        agent: Agent,
        completions: Completions,
        outbox: Outbox,
        epochs: EpochStore,
        *,
        notice: str | None,
        extra: Table | None = None,
    ) -> None:
        self._personas = personas
        self._agent = agent
        self._completions = completions
        self._outbox = outbox
        self._epochs = epochs
        self._notice = notice
        self._table: dict[bytes, Mapping[bytes, Handler]] = {
            TURNS_PATH: {b"POST": self._turn},
            CANCEL_PATH: {b"POST": self._cancel},
            FORGET_PATH: {b"POST": self._forget},
            COMPLETIONS_PATH: {b"POST": self._complete},
            MODELS_PATH: {b"GET": self._models},
            MODELS_PATH + _ID: {b"GET": self._model},
            RECEIPTS_PATH + _ID: {b"GET": self._receipt},
            EVIDENCE_PATH + _ID: {b"GET": self._evidence},
            **(extra or {}),
        }

    async def answer(self, call: Call) -> Reply:
        """Answer one request.

        Raises:
            ApiError: There is no such resource, or it refuses.
        """
        # What follows is the handler's to read.
        path, identifier = call.request.path.partition(b"?")[0], b""
        if path not in self._table:
            collection, _, identifier = path.rpartition(b"/")
            path = collection + _ID
        methods = self._table.get(path)
        if methods is None or (path.endswith(_ID) and not identifier):
            raise ApiError(404, "not_found", "no such resource; see docs/protocol.md")
        route = methods.get(call.request.method)
        if route is None:
            allowed = b", ".join(methods).decode()
            raise ApiError(405, "method_not_allowed", f"use {allowed}")
        return await route(call, identifier.decode("ascii", "replace"))

    async def _turn(self, call: Call, _: str) -> Reply:
        turn = parse_body(TurnRequest, call.request.content)
        found = await self._personas.find(turn.persona.handle, turn.persona.digest)
        keys = ThreadKeys(turn.thread_key)
        exchange = None
        if turn.incognito is not None:
            exchange = ThreadKeys(call.export(INCOGNITO_RECEIPT_LABEL, KEY_BYTES))
        running = self._agent.submit(TurnCall(turn, keys, found.persona, call.binding, exchange))
        return Reply(200, _EVENTS, events=_turn_events(running))

    async def _cancel(self, call: Call, _: str) -> Reply:
        cancel = parse_body(CancelRequest, call.request.content)
        keys = ThreadKeys(cancel.thread_key)
        stopped = await self._agent.cancel(keys, bytes.fromhex(cancel.turn_id))
        return json_reply({"cancelled": stopped})

    async def _forget(self, call: Call, _: str) -> Reply:
        asked = parse_body(ForgetRequest, call.request.content)
        keys = ThreadKeys(asked.thread_key)
        request_id = bytes.fromhex(asked.turn_id)
        sealed = await self._agent.forget(keys, request_id, call.binding)
        receipt_id = keys.erasure_id(request_id).hex()
        return json_reply({"receipt_id": receipt_id, "sealed": base64.b64encode(sealed).decode()})

    async def _complete(self, call: Call, _: str) -> Reply:
        request = parse_chat_request(call.request.content)
        asked = header(call.request, PERSONA_DIGEST_HEADER)
        digest = None if asked is None else asked.decode("ascii", "replace")
        found = await self._persona(request.model, digest)
        completion = await self._completions.create(
            CompletionCall(
                request=request,
                body=call.request.content,
                persona=found.persona,
                digest=found.digest,
                keys=ThreadKeys(call.export(COMPLETION_RECEIPT_LABEL, KEY_BYTES)),
                binding=call.binding,
            )
        )
        named: Fields = ((RECEIPT_ID_HEADER, completion.shape.receipt_id.hex().encode()),)
        try:
            if not request.stream:
                return Reply(200, (*_JSON, *named), await completion.whole())
            if call.shaping is not Shaping.CADENCE:
                # So that an engine that fails at once can still be told by a status. A cadence
                # begins at once, or it would tell how long the first word took.
                await completion.begun()
        except ApiError as error:
            return refusal(error, named)
        except BaseException:
            completion.abandon()
            raise
        return Reply(200, (*_EVENTS, *named), events=completion.events(), close=completion.abandon)

    async def _models(self, call: Call, _: str) -> Reply:
        page = parse_models_query(query_of(call.request))
        found, more = self._personas.usable(page.after, page.limit)
        models = [self._as_model(one, call) for one in found]
        return json_reply(model_list(models, more=more))

    async def _model(self, call: Call, handle: str) -> Reply:
        found = await self._persona(handle)
        return json_reply(self._as_model(found.listing, call))

    def _as_model(self, listing: Listing, call: Call) -> dict[str, Any]:
        # A bundled persona is as old as the enclave that brought it.
        created = listing.created or call.binding.identity.claims.not_before
        return model_object(listing, created, self._notice)

    async def _receipt(self, _: Call, receipt_id: str) -> Reply:
        try:
            found = await self._outbox.handed_over(receipt_id)
        except (redis.exceptions.RedisError, OSError):
            raise _away("receipts_unavailable") from None
        if found.sealed is None and found.proof is None:
            raise ApiError(404, "receipt_unknown", "no such receipt, or it is still on its way")
        return json_reply(
            {
                "sealed": _base64(found.sealed),
                "proof": found.proof.decode() if found.proof is not None else None,
                "cose": _base64(found.cose),
            }
        )

    async def _evidence(self, _: Call, digest: str) -> Reply:
        if _DIGEST.fullmatch(digest) is None:
            raise ApiError(404, "not_found", "a bundle is asked for by its digest, in hex")
        try:
            epoch = await self._epochs.find(digest)
        except (redis.exceptions.RedisError, OSError):
            raise _away("evidence_unavailable") from None
        if epoch is None:
            raise ApiError(404, "evidence_unknown", "no such bundle, or it is too old")
        return json_reply(
            {"bundle": _base64(epoch.bundle), "proof": epoch.proof, "next": epoch.next}
        )

    async def _persona(self, handle: str, digest: str | None = None) -> Found:
        try:
            return await self._personas.find(handle, digest)
        except ApiError as error:
            if error.code != "persona_unknown":
                raise
            raise ApiError(404, "model_not_found", str(error), "model") from None


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _away(code: str) -> ApiError:
    return ApiError(503, code, "the store is away; ask again in a moment")


async def _turn_events(turn: RunningTurn) -> AsyncGenerator[bytes, None]:
    async for batch in turn.follow():
        # What is ready together shares one piece; what comes first never waits.
        yield b"".join(map(encode_event, batch))
