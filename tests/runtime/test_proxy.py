"""`sotto proxy` as programs meet it: the real `openai` package, a real system, processes apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from personas.library import load_library
from tests.e2e.system import ROOT, System, sotto
from tests.runtime.middle import Middle

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
API_KEY = "sk-canary-0123456789"


@dataclass
class Proxy:
    """A proxy's process."""

    process: subprocess.Popen[str]
    base_url: str
    simulated: bool

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it; exit code and what it said on standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors


@contextlib.contextmanager
def a_proxy(system: System, *options: str, home: Path | None = None) -> Iterator[Proxy]:
    """A proxy while the block runs, on any free port."""
    policy = str(system.home / "policy.toml")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "runtime", "proxy", "--json", "--port", "0"),
            *("--home", str(home or system.home), "--policy", policy, *options),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield Proxy(process, ready["address"], ready["simulated"])
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=120)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("proxy") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


@pytest.fixture(scope="module")
def proxy(system: System) -> Iterator[Proxy]:
    """A proxy over the edge."""
    with a_proxy(system, "--edge", system.edge) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[openai.AsyncOpenAI]:
    """What a program has: the real package and the address."""
    async with openai.AsyncOpenAI(
        base_url=proxy.base_url, api_key=API_KEY, max_retries=0
    ) as client:
        yield client


async def raw(
    proxy: Proxy,
    path: str,
    body: bytes | None = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """A request without any package's help."""
    url = proxy.base_url.removesuffix("/v1") + path
    method = method or ("GET" if body is None else "POST")
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=body, headers=headers) as answer,
    ):
        found = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, found, await answer.read()


def the_script(text: str | None) -> bool:
    """Whether this is the engine's whole reply."""
    words = (text or "").split()
    return len(words) == 64 and words[:5] == ["this", "is", "a", "paced", "script"]


def counted(system: System, name: str) -> float:
    """A metric of the enclave, summed over what its name begins with."""
    with urllib.request.urlopen(f"http://127.0.0.1:{system.port + 1002}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def grown(system: System, name: str, before: float, limit_s: float) -> bool:
    """Whether a metric grows within so many seconds."""
    deadline = time.monotonic() + limit_s
    while (found := counted(system, name)) == before and time.monotonic() < deadline:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.1)
    return found > before


async def settled(system: System, receipt_id: str, home: Path | None = None) -> dict[str, Any]:
    """The receipt when it has settled, as `sotto receipts` lists it."""
    deadline = time.monotonic() + 60
    while True:
        done = await asyncio.to_thread(
            sotto, "receipts", "--json", "--offline", "--home", str(home or system.home)
        )
        rows = {row["receipt_id"]: row for row in json.loads(done.stdout)["receipts"]}
        row: dict[str, Any] = rows.get(receipt_id, {"status": "absent"})
        if row["status"] in ("settled", "refused") or time.monotonic() > deadline:
            return row
        await asyncio.sleep(0.2)


async def test_a_completion_whole_and_its_receipt_verifies(
    system: System, client: openai.AsyncOpenAI, tmp_path: Path
) -> None:
    """The reply, and a receipt that a stranger can check with a policy and nothing else."""
    completion = await client.chat.completions.create(model="wren", messages=HELLO)
    assert the_script(completion.choices[0].message.content)
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 64
    receipt_id = completion.id.removeprefix("chatcmpl-")
    row = await settled(system, receipt_id)
    assert (row["status"], row["outcome"], row["persona"]) == ("settled", "completed", "wren")
    file = str(tmp_path / "one.sotto-receipt")
    home, policy = str(system.home), str(system.home / "policy.toml")
    saved = sotto("receipts", "--offline", "--save", receipt_id, file, "--home", home)
    assert saved.returncode == 0, saved.stderr
    verified = sotto("verify", file, "--policy", policy, "--json", "--home", "/nonexistent")
    report = json.loads(verified.stdout)
    assert (verified.returncode, report["holds"]) == (0, True)
    assert report["receipt"]["receipt_id"] == receipt_id


async def test_a_completion_streams_and_its_receipt_settles(
    system: System, client: openai.AsyncOpenAI
) -> None:
    """Word by word, with usage where it was asked for, and never a comment of padding."""
    text, usage, receipt_id, chunks = "", None, "", 0
    stream = await client.chat.completions.create(
        model="wren", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        chunks += 1
        receipt_id = chunk.id.removeprefix("chatcmpl-")
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert the_script(text)
    assert chunks > 8
    assert usage is not None
    assert (await settled(system, receipt_id))["status"] == "settled"


async def test_bodies_pass_byte_for_byte(system: System, proxy: Proxy) -> None:
    """The receipt commits to the very bytes that the program sent, however it wrote its JSON."""
    body = (
        b'{ "messages" :[{"content":"caf\\u00e9  \xc3\xa9","role": "user"}],\n "model":"wren" }  '
    )
    status, headers, content = await raw(proxy, "/v1/chat/completions", body)
    assert status == 200, content
    assert headers["content-type"].startswith("application/json")
    assert (await settled(system, headers["sotto-receipt-id"]))["status"] == "settled"


async def test_events_are_plain_data_lines(proxy: Proxy) -> None:
    """Padding is the wire's business: a program that knows only `data:` lines can read this."""
    body = json.dumps({"model": "wren", "messages": HELLO, "stream": True}).encode()
    _, headers, content = await raw(proxy, "/v1/chat/completions", body)
    assert headers["content-type"].startswith("text/event-stream")
    lines = [line for line in content.decode().split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        json.loads(line.removeprefix("data: "))


async def test_it_says_simulated(proxy: Proxy) -> None:
    """In each answer, and in the line that says ready."""
    assert proxy.simulated is True
    _, headers, _ = await raw(proxy, "/v1/models")
    assert headers["sotto-attestation"] == "SIMULATED"


async def test_personas_are_models(client: openai.AsyncOpenAI) -> None:
    """All of them, each with its digest, and one by its name."""
    models = [model async for model in client.models.list()]
    assert {model.id for model in models} == {persona.handle for persona in load_library()}
    one = await client.models.retrieve("wren")
    assert one.id == "wren"
    assert len(one.model_dump()["persona_digest"]) == 64


async def test_errors_are_those_that_programs_know(client: openai.AsyncOpenAI) -> None:
    """Each as the package's own class, with a message that says what to do."""
    with pytest.raises(openai.NotFoundError, match="There is no persona"):
        await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="wren", messages=HELLO, n=2)
    assert bad.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")
    with pytest.raises(openai.NotFoundError, match="nothing was sent anywhere"):
        await client.embeddings.create(model="wren", input="hello")
    with pytest.raises(openai.APIStatusError) as large:
        await client.chat.completions.create(
            model="wren", messages=[{"role": "user", "content": "x" * 200_000}]
        )
    assert large.value.status_code == 413


async def test_streams_run_side_by_side(client: openai.AsyncOpenAI) -> None:
    """Eight at once, each whole."""

    async def one() -> str:
        stream = await client.chat.completions.create(model="wren", messages=HELLO, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    replies = await asyncio.gather(*(one() for _ in range(8)))
    assert all(map(the_script, replies))


async def test_a_program_that_leaves_ends_its_completion(
    system: System, client: openai.AsyncOpenAI
) -> None:
    """The enclave stops working for nobody, whether or not a word had come."""
    name = 'sotto_completions_total{engine="scripted",outcome="cancelled"}'

    async def in_a_stream(number: int) -> None:
        stream = await client.chat.completions.create(model="wren", messages=HELLO, stream=True)
        async for _ in stream:
            break
        await stream.close()

    async def before_a_word(number: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.4 + 0.1 * number):
                await client.chat.completions.create(model="wren", messages=HELLO)

    for leave in (in_a_stream, before_a_word):
        before = counted(system, name)
        # On a busy machine a reply of 1.3 s may not have begun by then, or be whole.
        for number in range(8):
            await leave(number)
            if await grown(system, name, before, 10):
                break
        else:
            pytest.fail("it runs on")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8480", "localhost.evil.example", "127.0.0.1.evil.example",
     "192.168.1.1", "me@127.0.0.1", ""],
)  # fmt: skip
async def test_a_name_that_is_not_this_machine_is_refused(host: str, proxy: Proxy) -> None:
    """DNS rebinding: a page's own name that was made to mean 127.0.0.1."""
    status, _, content = await raw(proxy, "/v1/models", headers={"Host": host})
    assert status == 403
    assert json.loads(content)["error"]["code"] == "host_refused"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8480", "[::1]:8480"])
async def test_names_of_this_machine_are_served(host: str, proxy: Proxy) -> None:
    """Whatever the port says: programs behind a forwarded port are on this machine, too."""
    status, _, _ = await raw(proxy, "/v1/models", headers={"Host": host})
    assert status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000"])
async def test_web_pages_are_refused(origin: str, proxy: Proxy, system: System) -> None:
    """No page may talk in the user's name, and none can read the refusal; nothing is sent."""
    before = counted(system, "sotto_completions_total")
    body = json.dumps({"model": "wren", "messages": HELLO}).encode()
    for method in ("POST", "OPTIONS"):
        status, headers, content = await raw(
            proxy, "/v1/chat/completions", body, method=method, headers={"Origin": origin}
        )
        assert status == 403
        assert json.loads(content)["error"]["code"] == "origin_refused"
        assert "access-control-allow-origin" not in headers
    assert counted(system, "sotto_completions_total") == before


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin"])
async def test_what_a_page_links_to_is_refused(site: str, proxy: Proxy) -> None:
    """A picture or a link has no Origin; the browser says that a page asks."""
    status, _, content = await raw(proxy, "/v1/models", headers={"Sec-Fetch-Site": site})
    assert status == 403
    assert json.loads(content)["error"]["code"] == "origin_refused"
    # Typed into the address bar by the person himself.
    status, _, _ = await raw(proxy, "/v1/models", headers={"Sec-Fetch-Site": "none"})
    assert status == 200


@pytest.mark.parametrize(
    "origin", ["null", "*", "https://", "app.example", "https://app.example/", "https://*.example"]
)
def test_what_is_no_origin_is_not_let_in(origin: str, tmp_path: Path) -> None:
    """`null` would let in every page in a sandbox; a path would never match."""
    done = sotto("proxy", "--allow-origin", origin, "--home", str(tmp_path / "home"))
    assert done.returncode == 2
    assert "origin" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "home").exists()


async def test_a_page_that_was_let_in_is_served(system: System) -> None:
    """Its preflight is answered, its own origin may read, and no other."""
    page = "http://localhost:3000"
    with a_proxy(system, "--edge", system.edge, "--allow-origin", page) as proxy:
        asked = {"Origin": page, "Access-Control-Request-Headers": "authorization,content-type"}
        status, headers, _ = await raw(
            proxy, "/v1/chat/completions", method="OPTIONS", headers=asked
        )
        assert status == 204
        assert headers["access-control-allow-headers"] == "authorization,content-type"
        fields = {"Origin": page, "Sec-Fetch-Site": "same-site"}
        status, headers, _ = await raw(proxy, "/v1/models", headers=fields)
        assert status == 200
        assert headers["access-control-allow-origin"] == page
        status, _, _ = await raw(proxy, "/v1/models", headers={"Origin": page + "0"})
        assert status == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "::", "example.org"])  # noqa: S104 - refused
def test_it_listens_on_loopback_and_nowhere_else(host: str, tmp_path: Path) -> None:
    """A usage error, before anything is made or opened."""
    done = sotto("proxy", "--host", host, "--home", str(tmp_path / "home"))
    assert done.returncode == 2
    assert "loopback" in done.stderr
    assert not (tmp_path / "home").exists()


def test_ctrl_c_is_a_clean_end(system: System) -> None:
    """Exit code 0, no traceback, and SIMULATED was said."""
    with a_proxy(system, "--edge", system.edge) as proxy:
        code, errors = proxy.stop(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in errors
    assert "SIMULATED" in errors


def test_ctrl_c_ends_the_waiting_for_an_edge(tmp_path: Path) -> None:
    """One that accepts and says nothing: nobody is held for as long as it may take."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        edge = f"ws://127.0.0.1:{silent.getsockname()[1]}/v1/realtime"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "runtime", "proxy", "--port", "0"),
                *("--edge", edge, "--home", str(tmp_path / "home")),
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        accepted, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        accepted.close()
    assert (process.returncode, errors) == (130, "")


def test_without_an_enclave_that_holds_there_is_no_proxy(system: System, tmp_path: Path) -> None:
    """The built-in policy refuses simulated evidence: one line, in JSON where it was asked for."""
    done = sotto(
        *("proxy", "--json", "--port", "0", "--edge", system.edge),
        *("--home", str(tmp_path / "home")),
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "enclave_refused"


async def test_two_relays_one_of_which_dies(system: System, tmp_path: Path) -> None:
    """The exchange after it goes on through the other; with both away the program is told."""
    real = f"http://127.0.0.1:{system.port + 1}"
    async with Middle(real).running() as one, Middle(real).running() as other:
        options = ("--relay", one.url, "--relay", other.url)
        starting = contextlib.ExitStack()
        proxy = await asyncio.to_thread(
            starting.enter_context, a_proxy(system, *options, home=tmp_path / "home")
        )
        with starting:
            async with openai.AsyncOpenAI(
                base_url=proxy.base_url, api_key=API_KEY, max_retries=0
            ) as client:
                for _ in range(64):  # each goes through one of them, drawn by chance
                    await client.models.list()
                    if one.exchanges and other.exchanges:
                        break
                assert min(len(one.exchanges), len(other.exchanges)) > 0
                await one.stop()
                for _ in range(2):
                    completion = await client.chat.completions.create(model="wren", messages=HELLO)
                    assert the_script(completion.choices[0].message.content)
                receipt_id = completion.id.removeprefix("chatcmpl-")
                row = await settled(system, receipt_id, tmp_path / "home")
                assert row["status"] == "settled"
                await other.stop()
                with pytest.raises(openai.InternalServerError, match="relay") as away:
                    await client.chat.completions.create(model="wren", messages=HELLO)
                assert away.value.status_code == 503


async def test_a_reply_that_breaks_off_is_an_error_in_the_stream(
    system: System, tmp_path: Path
) -> None:
    """OpenAI's servers say it in the stream; a program never takes half a reply for a whole one."""
    async with Middle(f"http://127.0.0.1:{system.port + 1}").running() as relay:
        starting = contextlib.ExitStack()
        proxy = await asyncio.to_thread(
            starting.enter_context,
            a_proxy(system, "--relay", relay.url, home=tmp_path / "home"),
        )
        with starting:
            async with openai.AsyncOpenAI(
                base_url=proxy.base_url, api_key=API_KEY, max_retries=0
            ) as client:
                for _ in range(8):
                    text, broken = await cut_after_five_words(client, relay)
                    if broken is not None:
                        break
                    # On a busy machine all of it had come as far as the proxy.
                    assert the_script(text)
                assert "cut" in str(broken)
                assert 5 <= len(text.split()) < 64


async def cut_after_five_words(
    client: openai.AsyncOpenAI, relay: Middle
) -> tuple[str, openai.APIError | None]:
    """What a program hears of a reply that its relay drops, and the error that it gets."""
    text, cut = "", False
    stream = await client.chat.completions.create(model="wren", messages=HELLO, stream=True)
    try:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if len(text.split()) >= 5 and not cut:
                cut = True
                relay.cut()
    except openai.APIError as error:
        return text, error
    return text, None


async def test_no_canary_is_found_anywhere(system: System, tmp_path: Path) -> None:
    """Words of a completion and the program's key: not in a log, not in Redis, not on the way.

    The device's own database alone has the words, for their owner to disclose; the key nobody has.
    """
    words = ["Quillhampton", "zeppelin"]
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": f"I moved to {words[0]} and fly a {words[1]}"}
    ]
    async with Middle(f"http://127.0.0.1:{system.port + 1}").running() as relay:
        starting = contextlib.ExitStack()
        proxy = await asyncio.to_thread(
            starting.enter_context,
            a_proxy(system, "--relay", relay.url, home=tmp_path / "home"),
        )
        with starting:
            async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key=API_KEY) as client:
                completion = await client.chat.completions.create(model="wren", messages=messages)
                stream = await client.chat.completions.create(
                    model="wren", messages=messages, stream=True, user=words[0]
                )
                async for _ in stream:
                    pass
            await settled(system, completion.id.removeprefix("chatcmpl-"), tmp_path / "home")
            _, errors = await asyncio.to_thread(proxy.stop)
        crossed = b"".join(
            [repr(one).encode() + one.body for one in relay.seen] + [bytes(relay.answered)]
        )
    kept = [file.read_bytes() for file in (system.data / "valkey").rglob("*") if file.is_file()]
    logs = [file.read_bytes() for file in (system.data / "logs").rglob("*") if file.is_file()]
    haystack = b"\0".join([crossed, errors.encode(), *kept, *logs])
    assert len(haystack) > 20_000
    for word in (*words, API_KEY, "paced script", "OpenAI", "stainless"):
        assert word.encode() not in haystack, f"{word} can be read"
        assert word.lower().encode() not in haystack.lower(), f"{word} can be read"
    holding = set()
    for file in (tmp_path / "home").rglob("*"):
        content = file.read_bytes().lower()
        assert API_KEY.lower().encode() not in content
        holding |= {file.name for word in words if word.lower().encode() in content}
        assert file.stat().st_mode & 0o077 == 0
    assert {name.partition("-")[0] for name in holding} == {"device.db"}
