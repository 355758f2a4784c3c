"""Receiving requests over real sockets: whole, in time, within bounds, once; or told why not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from runtime.enclave.api import MAX_REQUEST_BYTES
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.receiving import MAX_ENCAPSULATED_BYTES
from tests.runtime.enclave_world import (
    Enclave,
    World,
    a_turn,
    completion,
    error_of,
    inner,
    running_enclave,
)
from transport import media
from transport.bhttp import Request, decode_response, encode_request
from transport.hpke import SuiteId
from transport.keyconfig import KeyConfig
from transport.ohttp import ChunkedRequestSealer, encapsulate
from transport.relay.link import Link

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
Answer = tuple[int, str, bytes]
WAYS = pytest.mark.parametrize("way", ["http", "mux"])
FORMS = pytest.mark.parametrize("form", [media.OHTTP_REQUEST, media.OHTTP_CHUNKED_REQUEST])


@pytest.fixture
async def enclave(world: World) -> AsyncIterator[Enclave]:
    """A running enclave."""
    async with running_enclave(world) as enclave:
        yield enclave


async def ask(enclave: Enclave, way: str, body: bytes, media_type: str) -> Answer:
    """A whole request, over HTTP or the multiplexed link."""
    if way == "http":
        return await enclave.post(body, media_type)
    async with a_stream(enclave, media_type) as stream:
        await stream.send(body, end=True)
        return await read(stream)


@contextlib.asynccontextmanager
async def a_stream(enclave: Enclave, media_type: str) -> AsyncIterator[object]:
    """A stream of the multiplexed link."""
    link = await Link.connect(enclave.http, f"{enclave.url}/mux")
    try:
        yield link.open("ohttp", media_type)
    finally:
        await link.close()


async def read(stream: object) -> Answer:
    """The whole answer on a stream."""
    status, kind = await stream.head()  # type: ignore[attr-defined]
    parts = []
    while (data := await stream.receive()) is not None:  # type: ignore[attr-defined]
        parts.append(data)
    return status, kind, b"".join(parts)


def sealed(config: KeyConfig, request: bytes, form: str) -> bytes:
    """An encapsulated request whose answer nobody wants to read."""
    if form == media.OHTTP_REQUEST:
        return encapsulate(config, request)[0]
    sealer = ChunkedRequestSealer(config)
    return sealer.seal(request[:50]) + sealer.seal(request[50:], final=True)


def problem(answer: Answer) -> tuple[int, str]:
    """Status and type of problem details outside the encapsulation."""
    status, kind, body = answer
    assert kind == media.PROBLEM_JSON
    details = json.loads(body)
    assert details["status"] == status
    return status, details["type"]


def nothing_began(enclave: Enclave) -> None:
    """No turn ran, no completion, and no receipt was issued."""
    assert enclave.count("sotto_turns_total") == 0
    assert enclave.count("sotto_completions_total") == 0
    assert enclave.count("sotto_receipts_issued_total") == 0
    assert enclave.places.taken == 0


@WAYS
@FORMS
async def test_both_keys_open_requests_in_both_forms(enclave: Enclave, way: str, form: str) -> None:
    """X-Wing first, then X25519, as the list names them; the receipt names the one that was."""
    configs = await enclave.configs()
    assert [config.kem_id for config in configs] == [0x647A, 0x0020]
    for number, config in enumerate(configs):
        body = sealed(config, inner(a_turn(number)), form)
        status, kind, _ = await ask(enclave, way, body, form)
        assert (status, kind) == (200, form.replace("-req", "-res"))


@WAYS
@FORMS
@pytest.mark.parametrize(
    "change",
    [
        lambda config: dataclasses.replace(config, key_id=77),
        lambda config: dataclasses.replace(config, kem_id=0x0010, public_key=bytes(65)),
        lambda config: dataclasses.replace(config, suites=(SuiteId(1, 0xFFFF),)),
        lambda config: dataclasses.replace(config, suites=(SuiteId(9, 1),)),
    ],
    ids=["key id", "kem", "aead", "kdf"],
)
async def test_an_unknown_key_kem_or_suite_is_told_outside(
    enclave: Enclave, way: str, form: str, change: Callable[[KeyConfig], KeyConfig]
) -> None:
    """RFC 9458 section 5.3: the client must fetch the key configuration anew."""
    (_, honest) = await enclave.configs()
    # Nobody can seal to what nobody supports, so the header is rewritten.
    changed = change(honest)
    header = changed.key_id.to_bytes(1, "big") + b"".join(
        number.to_bytes(2, "big") for number in (changed.kem_id, *changed.suites[0])
    )
    body = header + sealed(honest, inner(a_turn(1)), form)[7:]
    assert problem(await ask(enclave, way, body, form)) == (400, media.PROBLEM_OHTTP_KEY)
    nothing_began(enclave)


@FORMS
async def test_an_expired_key_is_told_outside(
    world: World, form: str, let_pass: Callable[[float], None]
) -> None:
    """As one that never was; and it is not listed any more."""
    async with running_enclave(world, lifetime_s=60) as enclave:
        configs = await enclave.configs()
        assert len(configs) == 2
        let_pass(61)
        assert await enclave.configs() == ()
        for config in configs:
            body = sealed(config, inner(a_turn(1)), form)
            assert problem(await enclave.post(body, form)) == (400, media.PROBLEM_OHTTP_KEY)
        nothing_began(enclave)


@FORMS
async def test_a_key_may_expire_while_its_request_is_received(
    world: World, form: str, let_pass: Callable[[float], None]
) -> None:
    """Chunked, the header was here in time; whole, the key is asked for at the end."""
    async with running_enclave(world, lifetime_s=60) as enclave:
        (config, _) = await enclave.configs()
        async with a_stream(enclave, form) as stream:
            body = sealed(config, inner(a_turn(1)), form)
            await stream.send(body[:1200])  # type: ignore[attr-defined]
            for _ in range(20):  # meanwhile it reads what was sent before
                assert await enclave.configs()
            let_pass(61)
            assert await enclave.configs() == ()
            await stream.send(body[1200:], end=True)  # type: ignore[attr-defined]
            status, _, _ = await read(stream)
        assert status == (200 if form == media.OHTTP_CHUNKED_REQUEST else 400)


@WAYS
@pytest.mark.parametrize("media_type", ["application/json", media.OHTTP_RESPONSE, "text/plain"])
async def test_another_media_type_is_refused(enclave: Enclave, way: str, media_type: str) -> None:
    """415, before anything of the body is read."""
    assert problem(await ask(enclave, way, b"{}", media_type)) == (415, "about:blank")


@FORMS
async def test_a_content_coding_is_refused_and_not_undone(enclave: Enclave, form: str) -> None:
    """A few bytes on the wire would cost the enclave the work of millions."""
    (config, _) = await enclave.configs()
    body = gzip.compress(sealed(config, inner(a_turn(1)), form))
    headers = {"Content-Type": form, "Content-Encoding": "gzip"}
    async with enclave.http.post(f"{enclave.url}/ohttp", data=body, headers=headers) as answer:
        told = answer.status, answer.content_type, await answer.read()
    assert problem(told) == (415, "about:blank")
    nothing_began(enclave)


@WAYS
@FORMS
async def test_every_broken_request_gets_one_answer(enclave: Enclave, way: str, form: str) -> None:
    """Altered anywhere, cut anywhere, invented, empty: the same 400, and nothing began.

    The answer does not tell which chunk of a request had opened.
    """
    (config, _) = await enclave.configs()
    body = sealed(config, inner(a_turn(1)), form)
    answers = set()
    for at in (8, 900, 1200, len(body) - 1):
        broken = bytearray(body)
        broken[at] ^= 1
        answers.add(await ask(enclave, way, bytes(broken), form))
    for length in (0, 3, 7, 8, 1100, 1127, 1150, 1200, len(body) - 16, len(body) - 1):
        answers.add(await ask(enclave, way, body[:length], form))
    answers.add(await ask(enclave, way, body + b"\0", form))
    assert {problem(answer) for answer in answers} == {(400, "about:blank")}
    assert len(answers) == 1
    nothing_began(enclave)
    status, _, _ = await ask(enclave, way, body, form)
    assert status == 200, "what was cut on its way was not used up"


@WAYS
@pytest.mark.parametrize("path", [b"/v1/turns", b"/v1/chat/completions"])
async def test_a_request_without_its_final_chunk_starts_nothing(
    enclave: Enclave, way: str, path: bytes
) -> None:
    """All of its content came and opened; only its end did not."""
    (config, _) = await enclave.configs()
    content = a_turn(1) if path == b"/v1/turns" else completion()
    sealer = ChunkedRequestSealer(config)
    whole = sealer.seal(inner(content, path=path))
    answer = await ask(enclave, way, whole, media.OHTTP_CHUNKED_REQUEST)
    assert problem(answer) == (400, "about:blank")
    nothing_began(enclave)


@WAYS
@FORMS
async def test_an_oversized_request_is_refused(enclave: Enclave, way: str, form: str) -> None:
    """413 outside, as soon as it is over."""
    (config, _) = await enclave.configs()
    body = sealed(config, inner(a_turn(1, message="x" * 200_000)), form)
    assert len(body) > MAX_ENCAPSULATED_BYTES
    assert problem(await ask(enclave, way, body, form)) == (413, "about:blank")
    nothing_began(enclave)


@WAYS
async def test_a_request_of_the_largest_size_is_taken(enclave: Enclave, way: str) -> None:
    """Exactly so many bytes, padding included; one more is refused inside or outside."""
    (config, _) = await enclave.configs()
    request = inner(a_turn(1))
    for size, chunked, whole in ((MAX_REQUEST_BYTES, 200, 200), (MAX_REQUEST_BYTES + 1, 413, 413)):
        padded = request + bytes(size - len(request))
        sealer = ChunkedRequestSealer(config)
        body = sealer.seal(padded, final=True)
        status, kind, answer = await ask(enclave, way, body, media.OHTTP_CHUNKED_REQUEST)
        assert status == chunked
        body, opener = encapsulate(config, padded)
        status, kind, answer = await ask(enclave, way, body, media.OHTTP_REQUEST)
        assert (status, kind) == (200, media.OHTTP_RESPONSE), "it opened"
        # The turn was answered above, and a replay of a turn is no error.
        assert decode_response(opener.open(answer)).status == whole


async def test_an_announced_size_is_refused_before_a_byte_is_read(enclave: Enclave) -> None:
    """By Content-Length, before the body is sent: the client waits for 100 (Continue)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
    writer.write(http_head(media.OHTTP_REQUEST, length=10**9, expect=True))
    assert b" 413 " in await reader.readline()
    writer.close()
    (config, _) = await enclave.configs()
    body = sealed(config, inner(a_turn(1)), media.OHTTP_REQUEST)
    reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
    writer.write(http_head(media.OHTTP_REQUEST, length=len(body), expect=True))
    assert b" 100 " in await reader.readline()
    assert await reader.readline() == b"\r\n"
    writer.write(body)
    assert b" 200 " in await reader.readline()
    writer.close()


def http_head(media_type: str, *, length: int | None = None, expect: bool = False) -> bytes:
    """The head of a POST, with a length or with chunks (RFC 9112)."""
    lines = ["POST /ohttp HTTP/1.1", "Host: enclave", f"Content-Type: {media_type}"]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    if expect:
        lines.append("Expect: 100-continue")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@WAYS
@FORMS
async def test_a_slow_request_is_refused(world: World, way: str, form: str) -> None:
    """One byte now and then keeps no request alive: the limit is on the whole of it."""
    async with running_enclave(world, receive_s=0.4) as enclave:
        (config, _) = await enclave.configs()
        body = sealed(config, inner(a_turn(1)), form)
        if way == "mux":
            async with a_stream(enclave, form) as stream:
                trickle = asyncio.create_task(drip(stream.send, body))  # type: ignore[attr-defined]
                assert problem(await read(stream)) == (408, "about:blank")
                trickle.cancel()
                await asyncio.gather(trickle, return_exceptions=True)
        else:

            async def slowly() -> AsyncIterator[bytes]:
                for at in range(len(body)):
                    yield body[at : at + 1]
                    await asyncio.sleep(0.02)

            assert problem(await enclave.post(slowly(), form)) == (408, "about:blank")
        nothing_began(enclave)
        # A machine may stand still for so long while the same request comes at once.
        async with asyncio.timeout(60):
            while (status := (await ask(enclave, way, body, form))[0]) == 408:
                pass
        assert status == 200


async def drip(send: Callable[..., object], body: bytes) -> None:
    """A byte now and then."""
    for at in range(len(body)):
        await send(body[at : at + 1])  # type: ignore[misc]
        await asyncio.sleep(0.02)


@WAYS
async def test_many_slow_senders_take_no_more_than_the_budget(world: World, way: str) -> None:
    """Past it they are told to come again; when they are gone, all is as before."""
    budget = 10 * 17_000
    async with running_enclave(world, budget_bytes=budget, receive_s=300) as enclave:
        (config, _) = await enclave.configs()
        body = sealed(config, inner(a_turn(1)), media.OHTTP_CHUNKED_REQUEST)
        async with contextlib.AsyncExitStack() as stack:
            if way == "mux":
                link = await Link.connect(enclave.http, f"{enclave.url}/mux")
                stack.push_async_callback(link.close)
                for _ in range(10):
                    await link.open("ohttp", media.OHTTP_CHUNKED_REQUEST).send(body[:100])
            else:
                slow = [await asyncio.open_connection("127.0.0.1", enclave.port) for _ in range(10)]
                for _, writer in slow:
                    writer.write(http_head(media.OHTTP_CHUNKED_REQUEST, length=len(body)))
                    writer.write(body[:100])
                    stack.callback(writer.transport.abort)
            async with asyncio.timeout(60):
                while (answer := await ask(enclave, way, b"", media.OHTTP_REQUEST))[0] != 503:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert problem(answer) == (503, "about:blank")
        async with asyncio.timeout(60):
            form = media.OHTTP_CHUNKED_REQUEST
            while (answer := await ask(enclave, way, body, form))[0] == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert answer[0] == 200


@pytest.mark.parametrize("length", [True, False], ids=["content-length", "chunked coding"])
@FORMS
async def test_a_client_may_close_its_side_after_a_complete_request(
    world: World, form: str, length: bool
) -> None:
    """And still gets its answer, however long that takes."""
    async with running_enclave(world, ScriptedEngine(first_token_s=0.5, token_s=0)) as enclave:
        (config, _) = await enclave.configs()
        body = sealed(config, inner(a_turn(1)), form)
        reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
        writer.write(http_head(form, length=len(body) if length else None))
        writer.write(body if length else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        writer.write_eof()
        answer = await reader.read()  # to the end: the server closes, too
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"0\r\n\r\n")
        assert enclave.count("sotto_turns_total", outcome="completed") == 1
        writer.close()


async def test_a_client_may_close_its_side_behind_several_requests(enclave: Enclave) -> None:
    """Each is answered, in its order; then the server closes, too."""
    (config, _) = await enclave.configs()
    form = media.OHTTP_CHUNKED_REQUEST
    bodies = [sealed(config, inner(a_turn(number)), form) for number in range(3)]
    reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
    for body in bodies:
        writer.write(http_head(form, length=len(body)) + body)
    writer.write_eof()
    assert (await reader.read()).count(b"HTTP/1.1 200 ") == 3
    assert enclave.count("sotto_turns_total", outcome="completed") == 3
    writer.close()


async def test_a_link_that_is_no_websocket_is_refused(
    enclave: Enclave, caplog: pytest.LogCaptureFixture
) -> None:
    """426, and the connection ends with its client's side; without the subprotocol it ends."""
    head = b"GET /mux HTTP/1.1\r\nHost: enclave\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
    writer.write(head + b"\r\n")
    writer.write_eof()
    async with asyncio.timeout(60):
        assert (await reader.read()).startswith(b"HTTP/1.1 426 ")
    writer.close()
    async with enclave.http.ws_connect(f"{enclave.url}/mux") as other:
        assert (await other.receive()).type is aiohttp.WSMsgType.CLOSE
    assert "failed" not in caplog.text


@pytest.mark.parametrize("length", [True, False], ids=["content-length", "chunked coding"])
@FORMS
async def test_a_client_that_closes_its_side_too_early_is_told(
    enclave: Enclave, form: str, length: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection's end is no request's end."""
    (config, _) = await enclave.configs()
    body = sealed(config, inner(a_turn(1)), form)
    reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
    writer.write(http_head(form, length=len(body) if length else None))
    writer.write(body[:-1] if length else b"%x\r\n%b\r\n" % (len(body), body))
    writer.write_eof()
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"malformed" in answer
    nothing_began(enclave)
    writer.close()
    assert "Traceback" not in caplog.text


async def test_a_broken_chunked_coding_is_told(
    enclave: Enclave, caplog: pytest.LogCaptureFixture
) -> None:
    """A hop that garbles the outer message gets an answer, and no traceback for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
    writer.write(http_head(media.OHTTP_REQUEST))
    writer.write(b"4\r\nabcd\r\nzz\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    # The same behind a request that was refused before its body was read.
    reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
    writer.write(http_head("text/plain"))
    assert b" 415 " in await reader.readline()
    writer.write(b"4\r\nabcd\r\nzz\r\n")
    await reader.read()
    writer.close()
    assert "Traceback" not in caplog.text
    assert "127.0.0.1" not in caplog.text


@WAYS
async def test_a_turn_goes_on_when_its_reader_leaves(world: World, way: str) -> None:
    """It was asked for; whoever asks again gets it."""
    async with running_enclave(world, ScriptedEngine(first_token_s=0.1, token_s=0.01)) as enclave:
        (config, _) = await enclave.configs()
        sealer = ChunkedRequestSealer(config)
        body = sealer.seal(inner(a_turn(1)), final=True)
        if way == "mux":
            async with a_stream(enclave, media.OHTTP_CHUNKED_REQUEST) as stream:
                await stream.send(body, end=True)  # type: ignore[attr-defined]
                await stream.receive()  # type: ignore[attr-defined]
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", enclave.port)
            writer.write(http_head(media.OHTTP_CHUNKED_REQUEST, length=len(body)) + body)
            await reader.readline()
            writer.transport.abort()
        async with asyncio.timeout(60):
            while not enclave.count("sotto_turns_total", outcome="completed"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@WAYS
@FORMS
async def test_the_same_sealed_bytes_are_answered_once(
    enclave: Enclave, way: str, form: str
) -> None:
    """Whoever replays what he saw on the way starts nothing, and is told inside."""
    for number, config in enumerate(await enclave.configs()):
        if form == media.OHTTP_REQUEST:
            body, opener = encapsulate(config, inner(a_turn(number)))
            answers = [await ask(enclave, way, body, form) for _ in range(3)]
            first = decode_response(opener.open(answers[0][2]))
            assert first.status == 200
        else:
            body = sealed(config, inner(a_turn(number)), form)
            answers = [await ask(enclave, way, body, form) for _ in range(3)]
        assert [answer[0] for answer in answers] == [200] * 3
        assert len({len(answer[2]) for answer in answers[1:]}) == 1
        assert len(answers[1][2]) < len(answers[0][2])
    assert enclave.count("sotto_gateway_refused_total", reason="replayed") == 4
    assert enclave.count("sotto_turns_total") == 2


async def test_a_replay_is_a_conflict_inside(enclave: Enclave) -> None:
    """409 `replayed`, which the device can tell from every other refusal."""
    (config, _) = await enclave.configs()
    sealer = ChunkedRequestSealer(config)
    body = sealer.seal(inner(a_turn(1)), final=True)
    await enclave.post(body, media.OHTTP_CHUNKED_REQUEST)
    _, _, second = await enclave.post(body, media.OHTTP_CHUNKED_REQUEST)
    opener = sealer.response_opener()
    response = decode_response(b"".join([*opener.feed(second), opener.finish()]))
    assert (response.status, error_of(response)["code"]) == (409, "replayed")


async def test_each_key_remembers_its_own_requests_and_takes_them_with_it(
    world: World, let_pass: Callable[[float], None]
) -> None:
    """Memory for replays is a key's, and is freed with it."""
    async with running_enclave(world, lifetime_s=60) as enclave:
        for number, config in enumerate(await enclave.configs()):
            for one in range(number + 1):
                await enclave.one_shot(inner(a_turn(10 * number + one)), config)
        assert [len(enclave.keeper.held(key_id).replays) for key_id in (0, 1)] == [1, 2]
        let_pass(61)
        enclave.keeper.forget_expired()
        with pytest.raises(KeyError):
            enclave.keeper.held(0)


@pytest.mark.parametrize("form", ["one_shot", "chunked"])
@pytest.mark.parametrize("shift", [-3600.0, 3600.0, None])
async def test_a_wrong_or_missing_date_can_be_corrected(
    enclave: Enclave, form: str, shift: float | None
) -> None:
    """RFC 9458 section 6.5.2: problem details of that type inside, with the gateway's own date."""
    request = inner(a_turn(1), date=None if shift is None else time.time() + shift)
    if shift is None:
        request = encode_request(Request(b"POST", b"https", b"enclave", b"/v1/turns", (), b"{}"))
    if form == "one_shot":
        response = await enclave.one_shot(request)
    else:
        response, _ = await enclave.chunked(request)
    assert response.status == 400
    fields = dict(response.headers)
    assert fields[b"content-type"] == media.PROBLEM_JSON.encode()
    details = json.loads(response.content)
    assert (details["type"], details["status"]) == (media.PROBLEM_DATE, 400)
    nothing_began(enclave)
    corrected = encode_request(
        Request(
            *(b"POST", b"https", b"enclave", b"/v1/turns"),
            ((b"date", fields[b"date"]),),
            json.dumps(a_turn(1)).encode(),
        )
    )
    assert (await enclave.one_shot(corrected)).status == 200


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        "yesterday",
        "%s",
        "%a, %d %b %Y %H:%M:%S CET",
        "%a, %d %b %Y %H:%M:%S gmt",
        "%a,  %d %b %Y %H:%M:%S GMT",
        "Xyz, %d %b %Y %H:%M:%S GMT",
    ],
)
async def test_a_date_of_another_form_is_as_good_as_none(enclave: Enclave, spelling: str) -> None:
    """IMF-fixdate and nothing else (RFC 9110 section 5.6.7), though the time itself be right."""
    value = time.strftime(spelling, time.gmtime()).encode()
    request = Request(
        b"POST",
        b"https",
        b"enclave",
        b"/v1/turns",
        ((b"date", value),),
        json.dumps(a_turn(1)).encode(),
    )
    response = await enclave.one_shot(encode_request(request))
    assert json.loads(response.content)["type"] == media.PROBLEM_DATE


@pytest.mark.parametrize("form", ["one_shot", "chunked"])
async def test_once_the_encapsulation_is_removed_errors_travel_inside(
    enclave: Enclave, form: str
) -> None:
    """RFC 9458 section 5.2: whoever carries the request cannot tell these apart."""
    doubled = (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT")
    cases = [
        (b"not Binary HTTP", 400, "malformed"),
        (inner({}, path=b"/v1/nothing"), 404, "not_found"),
        (inner({}, path=b"/v1/models/"), 404, "not_found"),
        (inner(method=b"GET"), 405, "method_not_allowed"),
        (inner({"thread_key": "x"}), 400, "invalid_request"),
        (inner(a_turn(1), headers=((b"sotto-shaping", b"loud"),)), 400, "invalid_shaping"),
        (inner(a_turn(1), headers=(doubled,)), 400, "invalid_request"),
    ]
    for request, status, code in cases:
        if form == "one_shot":
            response = await enclave.one_shot(request)
        else:
            response, _ = await enclave.chunked(request)
        assert (response.status, error_of(response)["code"]) == (status, code)
    nothing_began(enclave)


async def test_json_answers_have_one_of_a_few_lengths(enclave: Enclave) -> None:
    """Padded unless the device chose not; so are refusals (RFC 9292 section 3.8)."""
    (config, _) = await enclave.configs()
    lengths: dict[str, set[int]] = {"off": set(), "bucket": set(), "": set()}
    for shaping, seen in lengths.items():
        headers = ((b"sotto-shaping", shaping.encode()),) if shaping else ()
        for path in (b"/v1/models/wren", b"/v1/models/ines", b"/v1/models/nobody"):
            body, _ = encapsulate(config, inner(method=b"GET", path=path, headers=headers))
            seen.add(len((await enclave.post(body, media.OHTTP_REQUEST))[2]))
    assert len(lengths["off"]) > 1
    assert len(lengths["bucket"]) == 1
    assert lengths["bucket"] == lengths[""]


async def test_the_attestation_is_there_for_any_client(world: World) -> None:
    """What an edge would push, for whoever has no edge; nothing before there is something."""
    async with running_enclave(world) as enclave:
        async with enclave.http.get(f"{enclave.url}/attestation") as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            (one,) = (await answer.json())["enclaves"]
        current = enclave.keeper.current
        assert current is not None
        assert set(one) == {"gateway", "bundle", "proof"}
        assert one["proof"] == current.inclusion
        for path, method, status in (("/nothing", "GET", 404), ("/ohttp", "GET", 405)):
            async with enclave.http.request(method, enclave.url + path) as answer:
                assert answer.status == status
    assert world.keeper().attestation() == b'{"enclaves":[]}'
