"""Three lines in a Python program: the real `openai` package over the sealed transport."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from personas.library import load_library
from runtime.client.home import DeviceHome
from runtime.client.httpx_transport import (
    AsyncSealedClient,
    SealedClient,
    SealedTransport,
    Settings,
)
from runtime.errors import SottoError
from tests.e2e.system import System
from tests.runtime.middle import Middle

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
API_KEY = "sk-canary-0123456789"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("httpx") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


@pytest.fixture
def settings(system: System, tmp_path: Path) -> Settings:
    """A device of its own, by the edge."""
    return Settings(edge=system.edge, home=tmp_path / "home", policy=system.home / "policy.toml")


@pytest.fixture
def client(settings: Settings) -> Iterator[openai.OpenAI]:
    """What a program makes."""
    with an_openai(SealedClient(**settings)) as client:
        yield client


def an_openai(http_client: httpx.Client) -> openai.OpenAI:
    """The package's client. It takes httpx clients, and is typed for its own fork of httpx."""
    return openai.OpenAI(http_client=http_client, api_key=API_KEY, max_retries=0)  # type: ignore[arg-type]


def an_async_openai(http_client: httpx.AsyncClient) -> openai.AsyncOpenAI:
    """The same for asyncio."""
    return openai.AsyncOpenAI(http_client=http_client, api_key=API_KEY, max_retries=0)  # type: ignore[arg-type]


def the_script(text: str | None) -> bool:
    """Whether this is the engine's whole reply."""
    words = (text or "").split()
    return len(words) == 64 and words[:5] == ["this", "is", "a", "paced", "script"]


def streamed(client: openai.OpenAI) -> str:
    """A reply as it comes."""
    stream = client.chat.completions.create(model="wren", messages=HELLO, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def counted(system: System, name: str) -> float:
    """A metric of the enclave, summed over what its name begins with."""
    with urllib.request.urlopen(f"http://127.0.0.1:{system.port + 1002}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_three_lines(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Home, policy and edge are found where the commands find them."""
    policy = system.home / "policy.toml"
    DeviceHome(tmp_path / "home").close()
    (tmp_path / "home" / "policy.toml").write_bytes(policy.read_bytes())
    monkeypatch.setenv("SOTTO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SOTTO_EDGE", system.edge)
    client = openai.OpenAI(http_client=SealedClient(), api_key="-")  # type: ignore[arg-type]
    completion = client.chat.completions.create(model="wren", messages=HELLO)
    assert the_script(completion.choices[0].message.content)
    client.close()


def test_whole_streamed_and_listed(client: openai.OpenAI) -> None:
    """What a program does with a model server."""
    assert {one.id for one in client.models.list()} == {one.handle for one in load_library()}
    completion = client.chat.completions.create(model="wren", messages=HELLO)
    assert the_script(completion.choices[0].message.content)
    assert the_script(streamed(client))


@pytest.mark.parametrize("way", ["edge", "relay"])
def test_receipts_are_kept_and_verified(way: str, system: System, tmp_path: Path) -> None:
    """Each reply's, whole or streamed: opened with its exchange's key, which is then forgotten."""
    settings = Settings(home=tmp_path / "home", policy=system.home / "policy.toml")
    if way == "edge":
        settings["edge"] = system.edge
    else:
        settings["relays"] = [f"http://127.0.0.1:{system.port + 1}"]
    home = DeviceHome(tmp_path / "home")
    with an_openai(SealedClient(**settings)) as client:
        client.chat.completions.create(model="wren", messages=HELLO)
        streamed(client)
        deadline = time.monotonic() + 60
        while [row.status for row in home.receipts()] != ["settled"] * 2:
            assert time.monotonic() < deadline, [row.status for row in home.receipts()]
            time.sleep(0.1)
    rows = list(home.receipts())
    home.close()
    assert [(row.outcome, row.persona, row.turn_id) for row in rows] == [
        ("completed", "wren", "")
    ] * 2
    assert [row.seal_key for row in rows] == [None, None]


async def test_the_same_on_asyncio(settings: Settings) -> None:
    """Six streams at once over one device."""

    async def one(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model="wren", messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async with an_async_openai(AsyncSealedClient(**settings)) as client:
        replies = await asyncio.gather(*(one(client) for _ in range(6)))
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert all(map(the_script, replies))


def test_many_threads_share_a_client(client: openai.OpenAI) -> None:
    """Each gets its own reply."""
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: streamed(client), range(6)))
    assert all(map(the_script, replies))


def test_errors_are_those_that_programs_know(client: openai.OpenAI) -> None:
    """Each as the package's own class."""
    with pytest.raises(openai.NotFoundError, match="There is no persona"):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="wren", messages=HELLO, n=2)
    with pytest.raises(openai.NotFoundError, match="nothing was sent anywhere"):
        client.embeddings.create(model="wren", input="hello")


@pytest.mark.parametrize(
    "way", [{"edge": "ws://127.0.0.1:9/v1/realtime"}, {"relays": ["http://127.0.0.1:9"]}]
)
def test_everything_away_is_a_connection_error(way: Settings, settings: Settings) -> None:
    """With our text behind it: what is away, and what to do."""
    merged = Settings(home=settings["home"], policy=settings["policy"], **way)
    with (
        an_openai(SealedClient(**merged)) as client,
        pytest.raises(openai.APIConnectionError) as caught,
    ):
        client.chat.completions.create(model="wren", messages=HELLO)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert "127.0.0.1:9" in str(caught.value.__cause__)


def test_an_enclave_that_does_not_hold_gets_nothing(system: System, tmp_path: Path) -> None:
    """The built-in policy refuses simulated evidence; the program is told, nothing is sealed."""
    before = counted(system, "sotto_completions_total")
    with (
        an_openai(SealedClient(edge=system.edge, home=tmp_path / "home")) as client,
        pytest.raises(openai.APIConnectionError) as caught,
    ):
        client.chat.completions.create(model="wren", messages=HELLO)
    assert "no enclave holds" in str(caught.value.__cause__)
    assert counted(system, "sotto_completions_total") == before


async def test_nothing_goes_by_another_way(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the environment's proxies, not to the URL's host, and without the program's fields."""
    async with (
        Middle(f"http://127.0.0.1:{system.port + 1}").running() as relay,
        Middle("http://127.0.0.1:9").running() as spy,
    ):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, spy.url)
        settings = Settings(
            relays=[relay.url], home=tmp_path / "home", policy=system.home / "policy.toml"
        )
        async with an_async_openai(AsyncSealedClient(**settings)) as client:
            completion = await client.chat.completions.create(
                model="wren",
                messages=[{"role": "user", "content": "Quillhampton"}],
                extra_headers={"X-Canary": "zeppelin", "Cookie": "a=zeppelin"},
                extra_query={"q": "zeppelin"},
            )
            with pytest.raises(openai.NotFoundError):
                await client.files.list()
        assert the_script(completion.choices[0].message.content)
        assert spy.seen == []
        crossed = b"".join([repr(one).encode() + one.body for one in relay.seen])
        crossed += bytes(relay.answered)
        # That enclave's own view is sealed; none of these is in it either, for none is passed.
        for word in ("Quillhampton", "zeppelin", API_KEY, "OpenAI", "stainless", "openai.com"):
            assert word.encode() not in crossed
        assert not any("files" in one.path for one in relay.seen)


async def test_padding_comes_to_its_end_behind_the_programs_back(
    system: System, tmp_path: Path
) -> None:
    """Programs stop at the last word; a watcher must not see that the device did."""
    async with Middle(f"http://127.0.0.1:{system.port + 1}").running() as relay:
        settings = Settings(
            relays=[relay.url],
            home=tmp_path / "home",
            policy=system.home / "policy.toml",
            shaping="cadence",
        )
        async with an_async_openai(AsyncSealedClient(**settings)) as client:
            stream = await client.chat.completions.create(
                model="wren", messages=HELLO, stream=True, max_tokens=2
            )
            async for _ in stream:
                pass
            await stream.close()
            read = relay.whole
            deadline = time.monotonic() + 60
            while len(relay.answered) < 16 * 1024:
                assert time.monotonic() < deadline, "it was cut"
                await asyncio.sleep(0.05)
            while relay.whole == read:
                assert time.monotonic() < deadline, "it was cut"
                await asyncio.sleep(0.05)


def until_cancelled(system: System, leave: Callable[[], None]) -> None:
    """Leave a reply until the enclave has ended one for that.

    A reply takes little more than a second, and a busy machine may need as long to leave one.
    """
    deadline = time.monotonic() + 60
    all_of_them = "sotto_completions_total"
    cancelled = 'sotto_completions_total{engine="scripted",outcome="cancelled"}'
    ended_so = counted(system, cancelled)
    while counted(system, cancelled) == ended_so:
        assert time.monotonic() < deadline, "each runs on to its end"
        before = counted(system, all_of_them)
        leave()
        while counted(system, all_of_them) == before:
            assert time.monotonic() < deadline, "it does not end"
            time.sleep(0.1)


def test_a_stream_that_is_closed_ends_its_completion(system: System, client: openai.OpenAI) -> None:
    """The enclave stops working for nobody."""

    def leave() -> None:
        with client.chat.completions.create(model="wren", messages=HELLO, stream=True) as stream:
            next(iter(stream))

    until_cancelled(system, leave)


@pytest.mark.parametrize("way", ["edge", "relay"])
def test_a_stream_that_another_thread_closes_ends(way: str, system: System, tmp_path: Path) -> None:
    """A program's stop button: who reads is told, and the enclave stops working."""
    settings = Settings(home=tmp_path / "home", policy=system.home / "policy.toml")
    if way == "edge":
        settings["edge"] = system.edge
    else:
        settings["relays"] = [f"http://127.0.0.1:{system.port + 1}"]
    with an_openai(SealedClient(**settings)) as client:

        def leave() -> None:
            stream = client.chat.completions.create(model="wren", messages=HELLO, stream=True)
            stopping = threading.Timer(0.3, stream.close)
            stopping.start()
            text = ""
            try:
                for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
            except (openai.APIConnectionError, httpx.ReadError):
                assert len(text.split()) < 64
            else:
                assert the_script(text), "a part is not taken for the whole"
            stopping.join()

        until_cancelled(system, leave)


def test_a_client_that_is_closed_leaves_no_thread(settings: Settings) -> None:
    """Also where a request still runs: its caller is told, and nobody hangs."""
    before = set(threading.enumerate())
    transport = SealedTransport(**settings)
    http_client = httpx.Client(transport=transport, trust_env=False)
    client = an_openai(http_client)
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            while True:  # until it is closed, whenever that is
                client.chat.completions.create(model="wren", messages=HELLO)
        except openai.APIConnectionError as error:
            caught.append(error)

    asker = threading.Thread(target=ask, daemon=True)
    list(client.models.list())
    assert any(thread.name == "sottovoce" for thread in threading.enumerate())
    asker.start()
    with contextlib.suppress(httpx.ReadError):
        for _ in client.chat.completions.create(model="wren", messages=HELLO, stream=True):
            break
    transport.close()
    asker.join(60)
    assert not asker.is_alive()
    assert len(caught) == 1
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="closed"):
        transport.handle_request(httpx.Request("GET", "https://x/v1/models"))
    transport.close()


def test_a_timeout_of_the_program_is_kept(client: openai.OpenAI, system: System) -> None:
    """It gets its own exception, and the enclave stops."""
    list(client.models.list())
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="wren", messages=HELLO, timeout=0.3)


def test_an_edge_and_relays_are_not_given_together() -> None:
    """At once, not at the first request."""
    with pytest.raises(SottoError, match="not both"):
        SealedClient(edge="ws://127.0.0.1:1", relays=["http://127.0.0.1:2"])
