"""Chat completions inside the encapsulation, with the real `openai` package and without it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import random
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import openai
import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from prometheus_client import generate_latest
from redis.asyncio import Redis

from memory.keys import ThreadKeys
from personas.digest import persona_digest
from personas.library import load_library
from personas.model import Lorebook
from proofs.receipt import Outcome, Receipt, commitment, decode_receipt
from runtime.enclave.api import (
    COMPLETION_RECEIPT_LABEL,
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    ApiError,
)
from runtime.enclave.binding import Binding
from runtime.enclave.completions import CompletionCall
from runtime.enclave.engines.base import Delta, EngineError, FinishReason, Message, Sampling
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.openai_api import parse_chat_request
from runtime.enclave.prompt import Scene, build_prompt
from runtime.sealing import open_receipt
from tests.runtime.enclave_world import (
    WREN,
    WREN_DIGEST,
    Enclave,
    World,
    a_turn,
    completion,
    error_of,
    inner,
    newest,
    running_enclave,
)
from transport import media
from transport.bhttp import (
    Content,
    Request,
    Response,
    ResponseDecoder,
    ResponseHead,
    decode_request,
    encode_request,
)
from transport.errors import StreamResetError
from transport.keyconfig import KeyConfig
from transport.ohttp import ChunkedRequestSealer
from transport.relay.link import Link
from transport.sse import EventDecoder

if TYPE_CHECKING:
    from tests.conftest import ValkeyProcess

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
PATH = b"/v1/chat/completions"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
SCRIPT = (
    "this is a paced script and not a model it only keeps time so that a load test measures "
    "everything around one "
)
WHOLE = "".join(f"{word} " for word in (SCRIPT * 4).split()[:64])


class EchoEngine(ScriptedEngine):
    """Keeps what it was asked, and says the last message back, a word at a time.

    After `fails_after` words it breaks, with an error of its own or with one nobody expected.
    """

    def __init__(
        self, *, fails_after: int | None = None, error: Exception | None = None, pause: float = 0
    ) -> None:
        super().__init__()
        self.asked: list[tuple[tuple[Message, ...], Sampling, str]] = []
        self.closed: list[str] = []
        self._fails_after = fails_after
        self._error = error or EngineError("the model broke; try again")
        self._pause = pause

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.stream`."""
        self.asked.append((tuple(messages), sampling, cache_salt))
        try:
            for number, word in enumerate(messages[-1].content.split()):
                if number == self._fails_after:
                    raise self._error
                await asyncio.sleep(self._pause)
                yield Delta(f"{word} ", 1)
            yield Delta("", 0, FinishReason.STOP)
        finally:
            self.closed.append(request_id)


class Exchange:
    """One sealed completion in chunks, read as it comes; knows what only the two ends know."""

    def __init__(self, config: KeyConfig, request: bytes, body: bytes) -> None:
        self._sealer = ChunkedRequestSealer(config)
        self.body = body
        self.keys = ThreadKeys(self._sealer.export(COMPLETION_RECEIPT_LABEL, 32))
        self.request_salt = self._sealer.export(REQUEST_SALT_LABEL, 32)
        self.response_salt = self._sealer.export(RESPONSE_SALT_LABEL, 32)
        self.sealed = self._sealer.seal(request, final=True)
        self.head: ResponseHead | None = None

    async def content(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The inner response's content; its head is there before the first of it."""
        opener, decoder = self._sealer.response_opener(), ResponseDecoder()
        async for data in answer.content.iter_any():
            for plaintext in opener.feed(data):
                for part in self._parts(decoder.feed(plaintext)):
                    yield part
        for part in self._parts([*decoder.feed(opener.finish()), *decoder.finish()]):
            yield part

    def _parts(self, events: Sequence[object]) -> list[bytes]:
        found = []
        for event in events:
            if isinstance(event, ResponseHead):
                self.head = event
            elif isinstance(event, Content):
                found.append(event.data)
        return found

    def field(self, name: bytes) -> bytes:
        """A field of the inner response."""
        assert self.head is not None
        return dict(self.head.headers)[name]


async def ask(
    enclave: Enclave, body: dict[str, Any], *headers: tuple[bytes, bytes], kem: int = 0
) -> tuple[Exchange, Response]:
    """One completion, read to its end."""
    configs = await enclave.configs()
    request = inner(body, path=PATH, headers=headers)
    exchange = Exchange(configs[kem], request, json.dumps(body).encode())
    async with enclave.http.post(
        f"{enclave.url}/ohttp",
        data=exchange.sealed,
        headers={"Content-Type": media.OHTTP_CHUNKED_REQUEST},
    ) as answer:
        assert answer.status == 200
        content = b"".join([part async for part in exchange.content(answer)])
    assert exchange.head is not None
    return exchange, Response(exchange.head.status, exchange.head.headers, content)


def events_of(response: Response) -> list[Any]:
    """The events of a stream; `[DONE]` as text, all else as JSON."""
    decoder = EventDecoder()
    events = decoder.feed(response.content)
    decoder.finish()
    return ["[DONE]" if event == b"[DONE]" else orjson.loads(event) for event in events]


class SealingTransport(httpx.AsyncBaseTransport):
    """The least that a program needs to speak to an enclave; it verifies nothing."""

    def __init__(self, enclave: Enclave, *headers: tuple[bytes, bytes]) -> None:
        self._enclave = enclave
        self._headers = headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        fields = decode_request(inner(headers=self._headers)).headers
        sealed = Exchange(
            (await self._enclave.configs())[0],
            encode_request(
                Request(
                    *(request.method.encode(), b"https", b"enclave", request.url.raw_path),
                    fields,
                    body,
                )
            ),
            body,
        )
        answer = await self._enclave.http.post(
            f"{self._enclave.url}/ohttp",
            data=sealed.sealed,
            headers={"Content-Type": media.OHTTP_CHUNKED_REQUEST},
        )
        parts = sealed.content(answer)
        first = await anext(parts)
        assert sealed.head is not None
        return httpx.Response(
            sealed.head.status, headers=list(sealed.head.headers), stream=_Body(first, parts)
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._first, self._rest = first, rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        async for part in self._rest:
            yield part


@contextlib.asynccontextmanager
async def program(
    enclave: Enclave, *headers: tuple[bytes, bytes]
) -> AsyncIterator[openai.AsyncOpenAI]:
    """A program that uses the real package, in nothing but the address of its client changed."""
    async with httpx.AsyncClient(transport=SealingTransport(enclave, *headers)) as http:
        yield openai.AsyncOpenAI(
            api_key="-", base_url="http://enclave/v1", http_client=http, max_retries=0
        )


async def receipt_of(enclave: Enclave, exchange: Exchange, outcome: Outcome) -> Receipt:
    """The receipt, opened with what only the two ends know, when its proof is there."""
    receipt_id = exchange.field(b"sotto-receipt-id").decode()
    async with asyncio.timeout(60):
        while True:
            path = f"/v1/receipts/{receipt_id}".encode()
            response = await enclave.one_shot(inner(method=b"GET", path=path))
            found = json.loads(response.content)
            if response.status == 200 and found["proof"] and found["sealed"]:
                break
            await asyncio.sleep(0.05)
    assert found["proof"].startswith("c2sp.org/tlog-proof@v1\n")
    sealed = base64.b64decode(found["sealed"], validate=True)
    cose = open_receipt(exchange.keys, bytes.fromhex(receipt_id), sealed)
    current = enclave.keeper.current
    assert current is not None
    receipt = decode_receipt(cose).verify(current.receipt_key.public_key().public_bytes_raw())
    assert receipt.outcome is outcome
    assert receipt.enclave == current.bundle_digest
    return receipt


def commits(receipt: Receipt, exchange: Exchange, reply: str) -> None:
    """The receipt commits to the request's exact bytes and to the reply's text."""
    assert receipt.request == commitment(exchange.request_salt, "request", exchange.body)
    assert receipt.response == commitment(exchange.response_salt, "response", reply.encode())


async def test_a_program_gets_a_completion(world: World) -> None:
    """The real package, with nothing but `model` and `messages`."""
    async with running_enclave(world) as enclave, program(enclave) as client:
        found = await client.chat.completions.create(
            model="wren", messages=[{"role": "user", "content": "hello there"}]
        )
        assert isinstance(found, ChatCompletion)
        (choice,) = found.choices
        assert (choice.message.role, choice.message.content) == ("assistant", WHOLE)
        assert (choice.finish_reason, found.model) == ("stop", "wren")
        assert found.id.startswith("chatcmpl-")
        assert found.usage is not None
        assert found.usage.completion_tokens == 64
        assert found.usage.total_tokens == found.usage.prompt_tokens + 64
        # What came back can be sent again, as programs do.
        again = await client.chat.completions.create(
            model="wren",
            messages=[
                {"role": "user", "content": "hello there"},
                choice.message,
                {"role": "user", "content": [{"type": "text", "text": "go on"}]},
            ],
            max_completion_tokens=3,
        )
        assert again.choices[0].message.content == "this is a "
        assert again.choices[0].finish_reason == "length"


@pytest.mark.parametrize("shaping", [b"off", b"bucket", b"cadence"])
async def test_a_program_streams_a_completion(world: World, shaping: bytes) -> None:
    """Role first, text as it comes, why it ended, and usage where it was asked for."""
    async with (
        running_enclave(world, ScriptedEngine(first_token_s=0.05, token_s=0.005)) as enclave,
        program(enclave, (b"sotto-shaping", shaping)) as client,
    ):
        chunks: list[ChatCompletionChunk] = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="wren",
                messages=[{"role": "user", "content": "hello"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        first, *middle, end, usage = chunks
        assert first.choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in (first, *middle))
        assert text == WHOLE
        assert len(middle) > 5, "as it came"
        assert {chunk.choices[0].finish_reason for chunk in (first, *middle)} == {None}
        assert end.choices[0].finish_reason == "stop"
        assert (usage.choices, usage.usage and usage.usage.completion_tokens) == ([], 64)
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
        plain = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="wren", messages=[{"role": "user", "content": "hello"}], stream=True
            )
        ]
        assert all(chunk.usage is None and chunk.choices for chunk in plain)
        assert plain[0].id != first.id


@pytest.mark.parametrize("form", ["one-shot", "chunked"])
async def test_a_stream_ends_with_done(world: World, form: str) -> None:
    """The exact shape that OpenAI's own servers give, also for clients without chunks."""
    async with running_enclave(world) as enclave:
        request = inner(completion(stream=True), path=PATH)
        if form == "one-shot":
            response = await enclave.one_shot(request)
        else:
            response, chunks = await enclave.chunked(request)
            assert len(chunks) > 1
        assert dict(response.headers)[b"content-type"] == b"text/event-stream"
        *events, done = events_of(response)
        assert done == "[DONE]"
        assert [event["object"] for event in events] == ["chat.completion.chunk"] * len(events)
        receipt_id = dict(response.headers)[b"sotto-receipt-id"].decode()
        assert {event["id"] for event in events} == {f"chatcmpl-{receipt_id}"}


async def test_the_persona_comes_first_and_the_programs_own_words_after(world: World) -> None:
    """The persona's system text is the prefix of every prompt; the program's is appended."""
    engine = EchoEngine()
    said = [
        {"role": "system", "content": "Speak of ships."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": " brief."}],
        },
        {"role": "user", "content": "three"},
    ]
    async with running_enclave(world, engine) as enclave:
        await ask(enclave, completion(messages=said))
        await ask(enclave, completion())
    (messages, sampling, first_salt), (plain, _, second_salt) = engine.asked
    persona = build_prompt(Scene(WREN, "hello"), engine).messages[0].content
    assert messages == (
        Message("system", f"{persona}\n\nSpeak of ships.\n\nBe brief."),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
    )
    assert plain == (Message("system", persona), Message("user", "hello"))
    assert sampling.temperature == WREN.sampling.temperature
    assert sampling.top_p == WREN.sampling.top_p
    assert sampling.max_tokens == WREN.sampling.max_tokens
    assert (sampling.seed, sampling.stop) == (None, ())
    assert first_salt != second_salt, "no state is shared between exchanges"


async def test_what_a_program_asks_for_reaches_the_engine(world: World) -> None:
    """Instead of the persona's own."""
    engine = EchoEngine()
    async with running_enclave(world, engine) as enclave:
        await ask(
            enclave,
            completion(temperature=0, top_p=0.5, max_tokens=7, stop=["a", "b"], seed=2**62),
        )
        await ask(enclave, completion(max_completion_tokens=1 << 20, stop="ship", temperature=1.5))
    (_, first, _), (messages, second, _) = engine.asked
    assert first == Sampling(temperature=0, top_p=0.5, max_tokens=7, seed=2**62, stop=("a", "b"))
    room = engine.context_tokens - engine.count_tokens(messages)
    assert second == Sampling(
        temperature=1.5, top_p=WREN.sampling.top_p, max_tokens=room, stop=("ship",)
    )


async def test_a_stop_text_ends_a_completion(world: World) -> None:
    """And is no part of it."""
    async with running_enclave(world) as enclave:
        _, response = await ask(enclave, completion(stop=["model"]))
        (choice,) = json.loads(response.content)["choices"]
        assert choice["message"]["content"] == "this is a paced script and not a "
        assert choice["finish_reason"] == "stop"


async def test_a_completion_leaves_a_receipt(world: World) -> None:
    """Sealed for this exchange, bound to exactly what was sent and said, and in the log."""
    async with running_enclave(world) as enclave:
        for kem in (0, 1):
            exchange, response = await ask(enclave, completion(user="someone"), kem=kem)
            identifier = json.loads(response.content)["id"]
            assert identifier == "chatcmpl-" + exchange.field(b"sotto-receipt-id").decode()
            receipt = await receipt_of(enclave, exchange, Outcome.COMPLETED)
            commits(receipt, exchange, WHOLE)
            assert (receipt.persona, receipt.key_config_id) == (WREN_DIGEST, kem)
            assert (receipt.head_before, receipt.head_after, receipt.previous) == (None,) * 3
            assert receipt.turn_index == 0
        streamed, response = await ask(enclave, completion(stream=True))
        commits(await receipt_of(enclave, streamed, Outcome.COMPLETED), streamed, WHOLE)
        assert await world.client.keys("{t:*") == [], "nothing is remembered"


async def test_a_receipt_that_is_not_there_is_not_found(
    valkey_process: ValkeyProcess, own_redis_client: Redis, world: World
) -> None:
    """404 for unknown ids of any form, 503 while the store is away; both inside."""
    world.client, world.url = own_redis_client, valkey_process.url
    async with running_enclave(world) as enclave:
        for unknown in (b"0" * 32, b"x", b"..", b"%2e", b"0" * 5000):
            response = await enclave.one_shot(inner(method=b"GET", path=b"/v1/receipts/" + unknown))
            assert (response.status, error_of(response)["code"]) == (404, "receipt_unknown")
        valkey_process.kill()
        response = await enclave.one_shot(inner(method=b"GET", path=b"/v1/receipts/" + b"0" * 32))
        assert (response.status, error_of(response)["code"]) == (503, "receipts_unavailable")
        valkey_process.start()


async def test_personas_are_models(world: World) -> None:
    """Each with the digest by which a device knows its version."""
    async with running_enclave(world) as enclave, program(enclave) as client:
        found = [model async for model in client.models.list()]
        library = load_library()
        assert [model.id for model in found] == list(library.handles)
        for model in found:
            extra = model.model_extra or {}
            assert extra["persona_digest"] == persona_digest(library.get(model.id)).hex()
            assert "SCRIPTED" in extra["notice"]
            assert model.owned_by == library.get(model.id).author
        assert (await client.models.retrieve("wren")) == next(m for m in found if m.id == "wren")
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.models.retrieve("nobody")
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError) as refused:
            await client.chat.completions.create(
                model="gpt-9", messages=[{"role": "user", "content": "x"}]
            )
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


async def test_a_program_can_insist_on_a_version(world: World) -> None:
    """The persona as the device knows it, or none."""
    async with running_enclave(world) as enclave:
        name = b"sotto-persona-digest"
        _, response = await ask(enclave, completion(), (name, WREN_DIGEST.hex().encode()))
        assert response.status == 200
        for other in (b"0" * 64, b"", b"\xff"):
            _, response = await ask(enclave, completion(), (name, other))
            assert (response.status, error_of(response)["code"]) == (409, "persona_mismatch")
        assert enclave.count("sotto_completions_total") == 1


async def test_messages_that_do_not_fit_are_refused_by_status(world: World) -> None:
    """Nothing is left out to make them fit."""
    async with running_enclave(world) as enclave, program(enclave) as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(
                    model="wren",
                    messages=[{"role": "user", "content": "word " * 8192}],
                    stream=stream,
                )
            assert refused.value.code == "context_length_exceeded"
            assert refused.value.param == "messages"
        assert enclave.places.taken == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [0, 2])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("the model broke", code="engine_failed"), "engine_failed"),
        (ValueError("zeppelin"), "internal"),
    ],
)
async def test_an_engine_that_breaks_is_told(  # noqa: PLR0917 - each is a parameter of the case
    world: World,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
    words: int,
    error: Exception,
    code: str,
) -> None:
    """By a status before the first byte, by an event after it; with a receipt either way."""
    engine = EchoEngine(fails_after=words, error=error)
    said = [{"role": "user", "content": "one two three"}]
    with caplog.at_level(logging.DEBUG):
        async with running_enclave(world, engine) as enclave:
            exchange, response = await ask(
                enclave, completion(messages=said, stream=stream), (b"sotto-shaping", b"off")
            )
            if stream and words:
                assert response.status == 200
                *chunks, last = events_of(response)
                text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
                assert text == "one two "
                assert last["error"]["code"] == code
                assert set(last["error"]) == {"message", "type", "param", "code"}
            else:
                assert (response.status, error_of(response)["code"]) == (500, code)
            receipt = await receipt_of(enclave, exchange, Outcome.FAILED)
            commits(receipt, exchange, "one two " if words else "")
    assert b"zeppelin" not in response.content
    assert "zeppelin" not in caplog.text


class PickyEngine(ScriptedEngine):
    """Its chat template knows user and assistant in turns, and nothing else."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """See `Engine.count_tokens`."""
        roles = [message.role for message in messages[1:]]
        if roles[::2] != ["user"] * len(roles[::2]) or "user" in roles[1::2]:
            raise EngineError("the template refuses this", code="invalid_messages")
        return super().count_tokens(messages)


async def test_a_conversation_that_the_model_cannot_read_is_the_programs_mistake(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Told by a status that no program repeats; it is no defect, and has no place in the log."""
    said = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    async with running_enclave(world, PickyEngine()) as enclave:
        _, response = await ask(enclave, completion(messages=said))
        assert (response.status, error_of(response)["code"]) == (400, "invalid_messages")
        _, response = await ask(enclave, completion())
        assert response.status == 200
    assert "failed" not in caplog.text


async def test_a_cadence_begins_before_the_first_word(world: World) -> None:
    """How long the first word takes is told to nobody, so a failure comes as an event."""
    async with running_enclave(world, EchoEngine(fails_after=0)) as enclave:
        _, response = await ask(enclave, completion(stream=True), (b"sotto-shaping", b"cadence"))
        assert response.status == 200
        *_, last = events_of(response)
        assert last["error"]["code"] == "engine_failed"


@pytest.mark.parametrize("before", [True, False], ids=["before the first word", "after it"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", ["http", "mux"])
async def test_a_completion_ends_with_its_reader(
    world: World, way: str, stream: bool, before: bool
) -> None:
    """Nobody could ask for it again, so it costs nothing more; its receipt says `cancelled`."""
    engine = EchoEngine(pause=0.3 if before else 0.005)
    said = [{"role": "user", "content": "word " * 2000}]
    body = completion(messages=said, stream=stream)
    async with running_enclave(world, engine) as enclave:
        config = (await enclave.configs())[0]
        exchange = Exchange(config, inner(body, path=PATH), json.dumps(body).encode())
        if way == "mux":
            link = await Link.connect(enclave.http, f"{enclave.url}/mux")
            opened = link.open("ohttp", media.OHTTP_CHUNKED_REQUEST)
            await opened.send(exchange.sealed, end=True)
            await until(lambda: bool(engine.asked))
            if not before and stream:
                await opened.receive()
            opened.reset()
        else:
            _, writer = gone = await asyncio.open_connection("127.0.0.1", enclave.port)
            writer.write(
                b"POST /ohttp HTTP/1.1\r\nHost: x\r\nContent-Type: message/ohttp-chunked-req\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(exchange.sealed), exchange.sealed)
            )
            await until(lambda: bool(engine.asked))
            if not before and stream:
                await gone[0].readline()
            if not stream:
                # Until something is written, a closed connection may be a client that still reads.
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()
        await until(lambda: bool(engine.closed))
        assert len(engine.asked) == 1
        await until(lambda: enclave.count("sotto_completions_total", outcome="cancelled") == 1)
        assert enclave.places.taken == 0
        assert await enclave.outbox.drain(60) == 0
        assert enclave.count("sotto_receipts_issued_total") == 1
        if way == "mux":
            await link.close()


class GatedEngine(ScriptedEngine):
    """Says nothing before it may."""

    def __init__(self) -> None:
        super().__init__(first_token_s=0, token_s=0)
        self.gate = asyncio.Event()

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.stream`."""
        await self.gate.wait()
        async for delta in super().stream(request_id, messages, sampling, cache_salt=cache_salt):
            yield delta


class LongEngine(ScriptedEngine):
    """Says more than any socket's buffers hold."""

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.stream`."""
        for _ in range(256):
            await asyncio.sleep(0)
            yield Delta("x" * 65536, 1)
        yield Delta("", 0, FinishReason.STOP)


@pytest.mark.parametrize("way", ["http", "mux"])
async def test_a_reader_that_stands_still_is_left(world: World, way: str) -> None:
    """It would hold its whole reply, and the conversation before it, for as long as it likes."""
    body = completion(stream=True)
    async with running_enclave(world, LongEngine(), stalled_s=0.5) as enclave:
        sealed = [await a_stream_of_chunks(enclave, body) for _ in range(3)]
        if way == "mux":
            link = await Link.connect(enclave.http, f"{enclave.url}/mux")
            streams = [link.open("ohttp", media.OHTTP_CHUNKED_REQUEST) for _ in sealed]
            for stream, one in zip(streams, sealed, strict=True):
                await stream.send(one, end=True)
            for stream in streams:
                with pytest.raises(StreamResetError):
                    await stream.wait_reset()
            await link.close()
            return
        before = len(asyncio.all_tasks())
        readers = [await small_connection(enclave.port) for _ in sealed]
        for connection, one in zip(readers, sealed, strict=True):
            head = b"POST /ohttp HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\n" % (
                media.OHTTP_CHUNKED_REQUEST.encode()
            )
            await asyncio.get_running_loop().sock_sendall(
                connection, head + b"Content-Length: %d\r\n\r\n%b" % (len(one), one)
            )
        await until(lambda: enclave.count("sotto_completions_total") == len(sealed))
        await until(lambda: len(asyncio.all_tasks()) <= before)
        for connection in readers:
            connection.close()


async def a_stream_of_chunks(enclave: Enclave, body: dict[str, Any]) -> bytes:
    """A sealed request for a streamed completion without any shaping."""
    request = inner(body, path=PATH, headers=((b"sotto-shaping", b"off"),))
    return Exchange((await enclave.configs())[0], request, b"").sealed


async def small_connection(port: int) -> socket.socket:
    """One that takes next to nothing before it is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


async def until(holds: Any) -> None:
    """Wait for something that has no event."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - that is what it says
            await asyncio.sleep(0.01)


async def test_turns_and_completions_share_their_places(world: World) -> None:
    """The limit is on replies in the making, whatever asked for them."""
    engine = GatedEngine()
    async with running_enclave(world, engine, max_turns=2) as enclave:
        running = [
            asyncio.create_task(ask(enclave, completion(max_tokens=1))),
            asyncio.create_task(enclave.one_shot(inner(a_turn(1)))),
        ]
        await until(lambda: enclave.places.taken == 2)
        _, refused = await ask(enclave, completion())
        assert (refused.status, error_of(refused)["code"]) == (503, "overloaded")
        refused = await enclave.one_shot(inner(a_turn(2)))
        assert (refused.status, error_of(refused)["code"]) == (503, "overloaded")
        engine.gate.set()
        (_, done), turn = await asyncio.gather(*running)
        assert (done.status, turn.status) == (200, 200)
        _, done = await ask(enclave, completion(max_tokens=1))
        assert done.status == 200


def heavy_call(enclave: Enclave) -> CompletionCall:
    """A completion whose lorebook is searched for a while, beside the event loop."""
    keys = [{"keys": [f"[ab ]*a[ab ]{{10}}x{at}"], "use_regex": True} for at in range(40)]
    entries = [{**key, "content": "found"} for key in keys]
    said = "".join(random.Random(1).choices("ab ", k=9_000))
    body = orjson.dumps(completion(messages=[{"role": "user", "content": said}], max_tokens=1))
    return CompletionCall(
        request=parse_chat_request(body),
        body=body,
        persona=WREN.model_copy(update={"lorebook": Lorebook.model_validate({"entries": entries})}),
        digest=bytes(32),
        keys=ThreadKeys(bytes(32)),
        binding=Binding(newest(enclave.keeper), 0, bytes(32), bytes(32)),
    )


async def test_a_completion_has_its_place_before_its_prompt_is_made(world: World) -> None:
    """So heavy ones cannot queue up uncounted; and none begins once the enclave stops."""
    async with running_enclave(world, ScriptedEngine(), max_turns=1) as enclave:
        made = asyncio.create_task(enclave.completions.create(heavy_call(enclave)))
        await asyncio.sleep(0)
        assert (enclave.places.taken, made.done()) == (1, False)
        _, refused = await ask(enclave, completion(max_tokens=1))
        assert (refused.status, error_of(refused)["code"]) == (503, "overloaded")
        await (await made).whole()
        await until(lambda: enclave.places.taken == 0)
        made = asyncio.create_task(enclave.completions.create(heavy_call(enclave)))
        await asyncio.sleep(0)
        await enclave.completions.close(0)
        with pytest.raises(ApiError) as stopping:
            await made
        assert (stopping.value.code, enclave.places.taken) == ("stopping", 0)


async def test_an_enclave_that_stops_tells_its_completions(world: World) -> None:
    """Those that run are ended, those that come are refused; each has its receipt."""
    engine = ScriptedEngine(first_token_s=0, token_s=0.05, tokens=4000)
    long = completion(max_tokens=4000)
    async with running_enclave(world, engine) as enclave:
        streaming = asyncio.create_task(
            ask(enclave, {**long, "stream": True}, (b"sotto-shaping", b"off"))
        )
        waiting = asyncio.create_task(ask(enclave, long))
        # Both have begun.
        await until(lambda: enclave.count("sotto_time_to_first_token_seconds_count") == 2)
        enclave.places.close()
        await enclave.completions.close(0.1)
        exchange, response = await streaming
        *_, last = events_of(response)
        assert last["error"]["code"] == "stopping"
        await receipt_of(enclave, exchange, Outcome.CANCELLED)
        _, response = await waiting
        assert (response.status, error_of(response)["code"]) == (503, "stopping")
        _, response = await ask(enclave, completion())
        assert (response.status, error_of(response)["code"]) == (503, "stopping")


async def test_nothing_of_a_completion_is_told_to_anyone_else(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in Redis, not in logs or metrics: whole, failed, refused or broken off."""
    canaries = ("zeppelin", "marzipan", "quagmire", "albatross", "heliotrope")
    said = [
        {"role": "system", "content": "marzipan"},
        {"role": "user", "content": "zeppelin quagmire"},
    ]
    words = completion(messages=said, stop=["albatross"], user="heliotrope")
    with caplog.at_level(logging.DEBUG):
        async with running_enclave(world, EchoEngine()) as enclave:
            for changes in (
                {},
                {"stream": True},
                {"heliotrope": "albatross"},
                {"model": "heliotrope"},
            ):
                exchange, _ = await ask(enclave, {**words, **changes})
            exchange, response = await ask(enclave, {**words, "stream": True})
            assert b"zeppelin" in response.content, "the program reads its answer"
            await receipt_of(enclave, exchange, Outcome.COMPLETED)
            metrics = generate_latest(enclave.registry).decode()
        async with running_enclave(
            world, EchoEngine(fails_after=1, error=KeyError("zeppelin"))
        ) as enclave:
            await ask(enclave, words)
            metrics += generate_latest(enclave.registry).decode()
    stored = b""
    for key in await world.client.keys("*"):
        stored += key + (await world.client.dump(key) or b"")
        if await world.client.type(key) == b"stream":
            stored += repr(await world.client.xrange(key)).encode()
    captured = capfd.readouterr()
    for canary in canaries:
        assert canary.encode() not in stored
        for text in (caplog.text, metrics, captured.out, captured.err):
            assert canary not in text
    assert "wren" not in metrics
    assert stored.count(b"sotto:receipt:") >= 4
