"""The relay between real sockets: who learns what, what waits for what, and what failures do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
from relay_roles import (
    Exchange,
    Gateway,
    Reply,
    edge_link,
    eventually,
    running_gateway,
    running_relay,
)

from transport import media
from transport.bhttp import Request, encode_request
from transport.errors import StreamResetError, UsageError
from transport.mux_frames import ResetCode
from transport.ohttp import encapsulate
from transport.relay.config import RelayConfig

pytestmark = pytest.mark.integration

CHUNKED = {"Content-Type": media.OHTTP_CHUNKED_REQUEST}


def request_bytes(path: bytes = b"/turn") -> bytes:
    return encode_request(Request(b"POST", b"https", b"persona.example", path, content=b"hello"))


async def echo_path(path: bytes, reply: Reply) -> None:
    await reply(path)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


async def post(session: aiohttp.ClientSession, relay_url: str, gateway: Gateway) -> bytes:
    exchange = Exchange(gateway, request_bytes())
    async with session.post(
        f"{relay_url}/gateway/g", data=exchange.body, headers=CHUNKED
    ) as response:
        assert response.status == 200
        assert response.content_type == media.OHTTP_CHUNKED_RESPONSE
        assert response.headers["Incremental"] == "?1"
        content = b""
        async for data in response.content.iter_any():
            content += exchange.feed(data)
        exchange.finish()
    return content


@pytest.mark.parametrize("offers_mux", [True, False])
async def test_client_gets_each_chunk_before_the_next_is_made(
    session: aiohttp.ClientSession, offers_mux: bool
) -> None:
    """A chunk reaches an HTTP client while the gateway still waits to make the next one."""
    seen = [asyncio.Event() for _ in range(4)]

    async def target(path: bytes, reply: Reply) -> None:
        for number, event in enumerate(seen):
            await reply(b"%d" % number)
            await event.wait()

    async with (
        running_gateway(target, offers_mux=offers_mux) as gateway,
        running_relay({"g": gateway.url}) as relay,
    ):
        exchange = Exchange(gateway, request_bytes())
        got = b""
        async with session.post(
            f"{relay.url}/gateway/g", data=exchange.body, headers=CHUNKED
        ) as response:
            async for data in response.content.iter_any():
                for digit in exchange.feed(data):
                    got += bytes([digit])
                    seen[int(chr(digit))].set()
        exchange.finish()
        assert got == b"0123"


async def test_edge_gets_each_chunk_over_its_link(session: aiohttp.ClientSession) -> None:
    """The same holds for a stream on an edge's link, which carries both hops multiplexed."""
    seen = [asyncio.Event() for _ in range(3)]

    async def target(path: bytes, reply: Reply) -> None:
        for number, event in enumerate(seen):
            await reply(b"%d" % number)
            await event.wait()

    async with (
        running_gateway(target) as gateway,
        running_relay({"g": gateway.url}) as relay,
        edge_link(session, relay) as link,
    ):
        exchange = Exchange(gateway, request_bytes())
        stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        await stream.send(exchange.body, end=True)
        assert await stream.head() == (200, media.OHTTP_CHUNKED_RESPONSE)
        got = b""
        while (data := await stream.receive()) is not None:
            for digit in exchange.feed(data):
                got += bytes([digit])
                seen[int(chr(digit))].set()
        exchange.finish()
        assert got == b"012"


@pytest.mark.parametrize("offers_mux", [True, False])
async def test_gateway_sees_nothing_of_the_client(
    session: aiohttp.ClientSession, offers_mux: bool
) -> None:
    """No header that a client sends, nor one that proxies add, reaches the gateway."""
    async with (
        running_gateway(echo_path, offers_mux=offers_mux) as gateway,
        running_relay({"g": gateway.url}) as relay,
    ):
        exchange = Exchange(gateway, request_bytes())
        telltale = {
            "User-Agent": "telltale/1",
            "Cookie": "telltale=1",
            "Accept-Language": "telltale",
            "Authorization": "Bearer telltale",
            "X-Forwarded-For": "telltale",
        }
        async with session.post(
            f"{relay.url}/gateway/g", data=exchange.body, headers=CHUNKED | telltale
        ) as response:
            assert response.status == 200
            await response.read()
        assert gateway.seen_headers
        for headers in gateway.seen_headers:
            assert "telltale" not in str(headers)
            assert not {"X-Forwarded-For", "Forwarded", "Via", "Cookie"} & set(headers)
        if not offers_mux:
            names = set(gateway.seen_headers[0])
            assert names == {"Host", "Content-Type", "Incremental", "Transfer-Encoding"}


async def test_one_shot_messages_pass(session: aiohttp.ClientSession) -> None:
    """An ordinary RFC 9458 request is relayed and answered too."""
    async with (
        running_gateway(echo_path, offers_mux=False) as gateway,
        running_relay({"g": gateway.url}) as relay,
    ):
        body, opener = encapsulate(gateway.key.config, request_bytes())
        async with session.post(
            f"{relay.url}/gateway/g", data=body, headers={"Content-Type": media.OHTTP_REQUEST}
        ) as response:
            assert response.content_type == media.OHTTP_RESPONSE
            assert opener.open(await response.read()) == request_bytes()


async def test_stalled_client_stalls_no_other(session: aiohttp.ClientSession) -> None:
    """A client that reads nothing of a long reply leaves others on the same links at full speed."""

    async def target(path: bytes, reply: Reply) -> None:
        if path == b"/long":
            for _ in range(200):
                await reply(bytes(16000))
        else:
            await reply(b"quick")

    async with (
        running_gateway(target) as gateway,
        running_relay({"g": gateway.url}) as relay,
        edge_link(session, relay) as link,
    ):
        stalled = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        await stalled.send(Exchange(gateway, request_bytes(b"/long")).body, end=True)
        await stalled.head()
        for _ in range(3):
            exchange = Exchange(gateway, request_bytes(b"/quick"))
            stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
            await stream.send(exchange.body, end=True)
            await stream.head()
            content = b""
            while (data := await stream.receive()) is not None:
                content += exchange.feed(data)
            exchange.finish()
            assert content == b"quick"
        await eventually(lambda: relay.metric("sotto_relay_streams_open") == 1)


async def test_a_vanished_client_frees_the_gateway(session: aiohttp.ClientSession) -> None:
    """When a client goes away in the middle of a reply, the gateway's stream is reset."""

    async def target(path: bytes, reply: Reply) -> None:
        await reply(b"first")
        await asyncio.Event().wait()

    async with (
        running_gateway(target) as gateway,
        running_relay({"g": gateway.url}) as relay,
    ):
        exchange = Exchange(gateway, request_bytes())
        response = await session.post(f"{relay.url}/gateway/g", data=exchange.body, headers=CHUNKED)
        await response.content.readany()
        response.close()
        async with asyncio.timeout(60):
            await gateway.aborted.wait()
        await eventually(lambda: relay.metric("sotto_relay_streams_open") == 0)
        gone = {"gateway": "g", "outcome": "client_gone"}
        assert relay.metric("sotto_relay_streams_total", **gone) == 1


@pytest.mark.parametrize(
    ("ending", "idle_s", "outcome"),
    [(b"", 120, "client_gone"), (b"not a chunk size\r\n", 1, "timeout")],
)
async def test_a_broken_upload_frees_the_gateway(ending: bytes, idle_s: int, outcome: str) -> None:
    """A client that leaves in mid-upload frees the gateway at once, one that garbles it in time."""
    async with (
        running_gateway(echo_path) as gateway,
        running_relay({"g": gateway.url}, idle_timeout_s=idle_s) as relay,
    ):
        host, port = relay.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        part = Exchange(gateway, request_bytes()).body[:50]
        writer.write(
            b"POST /gateway/g HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: message/ohttp-chunked-req\r\n\r\n32\r\n" + part + b"\r\n"
        )
        await eventually(lambda: relay.metric("sotto_relay_bytes_total", direction="request") == 50)
        writer.write(ending)
        if not ending:
            writer.close()
        async with asyncio.timeout(60):
            await gateway.aborted.wait()
        ended = {"gateway": "g", "outcome": outcome}
        await eventually(lambda: relay.metric("sotto_relay_streams_total", **ended) == 1)
        writer.close()


async def test_an_edges_reset_reaches_the_gateway(session: aiohttp.ClientSession) -> None:
    """A reset on an edge's stream propagates over both hops."""

    async def target(path: bytes, reply: Reply) -> None:
        await reply(b"first")
        await asyncio.Event().wait()

    async with (
        running_gateway(target) as gateway,
        running_relay({"g": gateway.url}) as relay,
        edge_link(session, relay) as link,
    ):
        stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        await stream.send(Exchange(gateway, request_bytes()).body, end=True)
        await stream.head()
        stream.reset(ResetCode.CANCELLED)
        async with asyncio.timeout(60):
            await gateway.aborted.wait()


async def test_a_dying_gateway_breaks_replies_and_comes_back(
    session: aiohttp.ClientSession,
) -> None:
    """A cut reply is cut visibly, a gateway that is away is 502, and one that is back serves."""
    begun = asyncio.Event()

    async def hang(path: bytes, reply: Reply) -> None:
        await reply(b"first")
        begun.set()
        await asyncio.Event().wait()

    async with (
        running_gateway(hang) as gateway,
        running_relay({"g": gateway.url}, reconnect_min_s=0.01) as relay,
        edge_link(session, relay) as link,
    ):
        exchange = Exchange(gateway, request_bytes())
        stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        await stream.send(exchange.body, end=True)
        assert (await stream.head())[0] == 200
        response = await session.post(
            f"{relay.url}/gateway/g", data=Exchange(gateway, request_bytes()).body, headers=CHUNKED
        )
        await begun.wait()
        await gateway.stop()
        with pytest.raises(StreamResetError):
            while await stream.receive() is not None:
                pass
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()

        async with session.post(
            f"{relay.url}/gateway/g", data=exchange.body, headers=CHUNKED
        ) as away:
            assert away.status == 502
            assert away.content_type == media.PROBLEM_JSON
        gateway.target = echo_path
        await gateway.start()

        async def back() -> bool:
            async with session.post(
                f"{relay.url}/gateway/g",
                data=Exchange(gateway, request_bytes()).body,
                headers=CHUNKED,
            ) as answer:
                return answer.status == 200

        await eventually(back)
        assert await post(session, relay.url, gateway) == b"/turn"


async def test_plain_gateway_that_is_away_is_502(session: aiohttp.ClientSession) -> None:
    """A gateway known by plain HTTP that goes away gives 502 problem details as well."""
    async with (
        running_gateway(echo_path, offers_mux=False) as gateway,
        running_relay({"g": gateway.url}) as relay,
    ):
        assert await post(session, relay.url, gateway) == b"/turn"
        await gateway.stop()
        async with session.post(
            f"{relay.url}/gateway/g", data=Exchange(gateway, b"x" * 20).body, headers=CHUNKED
        ) as response:
            assert response.status == 502


@pytest.mark.parametrize(
    ("name", "content_type", "size", "status"),
    [
        ("other", media.OHTTP_CHUNKED_REQUEST, 10, 404),
        ("g", "application/json", 10, 415),
        ("g", media.OHTTP_CHUNKED_RESPONSE, 10, 415),
        ("g", media.OHTTP_CHUNKED_REQUEST, 5000, 413),
    ],
)
async def test_refusals(
    session: aiohttp.ClientSession,
    name: str,
    content_type: str,
    size: int,
    status: int,
) -> None:
    """Unknown gateways, other media types and oversize requests get problem details."""

    async def body() -> AsyncIterator[bytes]:
        yield bytes(size)

    async with (
        running_gateway(echo_path) as gateway,
        running_relay({"g": gateway.url}, max_request_bytes=4096) as relay,
    ):
        for data in (body(), bytes(size)):  # without and with a Content-Length
            async with session.post(
                f"{relay.url}/gateway/{name}", data=data, headers={"Content-Type": content_type}
            ) as response:
                assert response.status == status
                assert response.content_type == media.PROBLEM_JSON
                assert (await response.json(content_type=None))["status"] == status


async def test_an_edge_is_refused_in_the_same_words(session: aiohttp.ClientSession) -> None:
    """A stream to an unknown gateway gets 404 problem details, and its link lives on."""
    async with (
        running_gateway(echo_path) as gateway,
        running_relay({"g": gateway.url}) as relay,
        edge_link(session, relay) as link,
    ):
        stream = link.open("other", media.OHTTP_CHUNKED_REQUEST)
        await stream.send(b"", end=True)
        assert await stream.head() == (404, media.PROBLEM_JSON)
        assert not link.closed


async def test_a_full_relay_refuses(session: aiohttp.ClientSession) -> None:
    """Past its limit of exchanges at once the relay answers 503 and keeps those it has."""
    release = asyncio.Event()

    async def target(path: bytes, reply: Reply) -> None:
        await reply(b"first")
        await release.wait()

    async with (
        running_gateway(target) as gateway,
        running_relay({"g": gateway.url}, max_streams=1) as relay,
    ):
        first = asyncio.create_task(post(session, relay.url, gateway))
        await eventually(lambda: relay.metric("sotto_relay_streams_open") == 1)
        async with session.post(f"{relay.url}/gateway/g", data=b"x", headers=CHUNKED) as response:
            assert response.status == 503
        release.set()
        assert await first == b"first"


async def test_silence_ends_an_exchange(session: aiohttp.ClientSession) -> None:
    """A gateway that never answers is given up with 504, and its stream is reset."""

    async def target(path: bytes, reply: Reply) -> None:
        await asyncio.Event().wait()

    gateway = Gateway(target)
    await gateway.start()
    try:
        async with (
            running_relay({"g": gateway.url}, idle_timeout_s=0.2) as relay,
            edge_link(session, relay) as link,
        ):
            stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
            assert await stream.head() == (504, media.PROBLEM_JSON)
    finally:
        await gateway.stop()


async def test_stop_lets_replies_end(session: aiohttp.ClientSession) -> None:
    """A relay that is told to stop finishes the reply in progress and takes no further one."""
    release = asyncio.Event()
    begun = asyncio.Event()

    async def target(path: bytes, reply: Reply) -> None:
        await reply(b"first")
        begun.set()
        await release.wait()
        await reply(b" last")

    async with (
        running_gateway(target) as gateway,
        running_relay({"g": gateway.url}, drain_s=60) as relay,
        edge_link(session, relay) as link,
    ):
        reply = asyncio.create_task(post(session, relay.url, gateway))
        await begun.wait()
        # A link that carries nothing would be closed before it is refused anything.
        carried = link.open("g", media.OHTTP_CHUNKED_REQUEST)
        await carried.send(Exchange(gateway, request_bytes()).body, end=True)
        await carried.head()
        relay.stop.set()

        async def refused() -> bool:
            stream = link.open("g", media.OHTTP_CHUNKED_REQUEST)
            await stream.send(b"", end=True)
            return (await stream.head())[0] == 503

        await eventually(refused)
        release.set()
        assert await reply == b"first last"


async def test_health_and_bytes_are_reported(session: aiohttp.ClientSession) -> None:
    """Health is a plain 200; the metrics count sealed bytes and name no client."""
    async with (
        running_gateway(echo_path) as gateway,
        running_relay({"g": gateway.url}) as relay,
    ):
        async with session.get(f"{relay.url}/healthz") as response:
            assert response.status == 200
        await post(session, relay.url, gateway)
        completed = {"gateway": "g", "outcome": "completed"}
        await eventually(lambda: relay.metric("sotto_relay_streams_total", **completed) == 1)
        sent = len(Exchange(gateway, request_bytes()).body)
        assert relay.metric("sotto_relay_bytes_total", direction="request") == sent
        assert relay.metric("sotto_relay_bytes_total", direction="response") > 0


async def test_logs_name_no_client(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """Served, refused, garbled and abandoned requests leave no address in any log."""
    caplog.set_level(logging.DEBUG)
    async with (
        running_gateway(echo_path, offers_mux=False) as gateway,
        running_relay({"g": gateway.url}) as relay,
    ):
        await post(session, relay.url, gateway)
        async with session.post(f"{relay.url}/gateway/other", data=b"x") as response:
            assert response.status == 404
        host, port = relay.url.removeprefix("http://").split(":")
        for sent in (b"garbled\r\n\r\n", b"POST /gateway/g HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            assert b"400" in await reader.readline()
            writer.close()
        # The gateway of this test keeps an access log, of the relay's address.
        lines = [
            record.getMessage() for record in caplog.records if record.name != "aiohttp.access"
        ]
        assert not [line for line in lines if "127.0.0.1" in line]


@pytest.mark.parametrize(
    "gateways",
    [{"Upper": "http://a"}, {"a/b": "http://a"}, {"g": "ftp://a"}, {"g": "http://a/"}],
)
def test_configuration_refuses_what_cannot_work(gateways: dict[str, str]) -> None:
    """Gateway names that do not fit a path, and URLs that are no base, are refused at start."""
    with pytest.raises(UsageError):
        RelayConfig(gateways=gateways)
