"""Search as people and programs meet it: in the enclave, on the command line, by the proxy."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from personas.library import load_library
from personas.search import SearchQuery
from runtime.cli import main
from runtime.client.search import encode_query, parse_result
from runtime.enclave.api import ApiError
from runtime.enclave.embedding.base import Vectors
from runtime.enclave.embedding.static import StaticEmbedder
from runtime.enclave.engines.base import EngineError
from runtime.enclave.persona_source import PersonaSource
from runtime.enclave.search_routes import PersonaSearch, parse_query
from runtime.errors import SottoError
from tests.e2e.system import ROOT, System, sotto

_LIBRARY = ROOT / "personas" / "library"


def test_a_query_reads_as_it_was_written() -> None:
    """What the device encodes is what the enclave searches for."""
    query = SearchQuery(
        "käse & brot?",
        tags=("a b", "c&d"),
        any_tags=("e",),
        language="en",
        rating="teen",
        licence="CC0-1.0",
        author="Ünal",
        similar="wren",
        limit=5,
        offset=7,
    )
    assert parse_query(encode_query(query).encode()) == query
    assert parse_query(b"") == SearchQuery()
    assert parse_query(b"q=") == SearchQuery()


@pytest.mark.parametrize(
    "query",
    [
        b"q",
        b"=x",
        b"q=a&q=b",
        b"unknown=1",
        b"text=a",
        b"limit=0",
        b"limit=51",
        b"limit=-1",
        b"limit=+1",
        b"limit=\xd9\xa1",
        b"limit=1e1",
        b"offset=99999999",
        b"rating=all",
        b"q=%ff",
        b"q=%zz",
        b"q=%4",
        b"q=\xff",
        b"offset=1&offset=2",
        b"q=a&&limit=1",
        b"q=" + b"x" * 513,
        b"q=" + b"x" * 9_000,
        b"&".join([b"tag=a"] * 33),
        b"&".join([b"tag=a"] * 17),
    ],
)
def test_a_malformed_query_is_refused(query: bytes) -> None:
    """With 400, and without an echo of what was asked."""
    with pytest.raises(ApiError) as refused:
        parse_query(query)
    assert refused.value.status == 400
    assert "xxx" not in str(refused.value)
    assert "unknown" not in str(refused.value)


@pytest.mark.parametrize("embedder", [StaticEmbedder(), None])
async def test_the_enclave_finds_while_others_search(embedder: StaticEmbedder | None) -> None:
    """Many at once are answered, each its own; beyond that some are told to come again."""
    if embedder is not None:
        await embedder.start()
    finder = PersonaSearch(PersonaSource(load_library()), embedder)
    asked = [("radio", "tunde"), ("bakery", "ines"), ("circus", "wren"), ("ferry", "marit")] * 5
    found = await asyncio.gather(*(finder.search(SearchQuery(text)) for text, _ in asked))
    for (_, expected), result in zip(asked, found, strict=True):
        assert result.hits[0].listing.handle == expected
    flood = [finder.search(SearchQuery("circus")) for _ in range(60)]
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, ApiError)]
    assert {one.code for one in refused} == {"search_busy"}
    assert len(refused) < len(outcomes)


class _Halting(StaticEmbedder):
    """Waits until it may go on, counts who has come, and is broken so many times at first."""

    def __init__(self, broken: int = 0) -> None:
        super().__init__()
        self.load()
        self.broken = broken
        self.came = 0
        self.begun, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.came += 1
        self.begun.set()
        await self.may_go_on.wait()
        if self.broken:
            self.broken -= 1
            raise EngineError("out of order", code="embedder_failed")
        return await super().embed(texts)


async def test_a_search_that_is_cancelled_leaves_the_index_to_the_next_whole() -> None:
    """Its thread has ended before the next one begins."""
    embedder = _Halting()
    finder = PersonaSearch(PersonaSource(load_library()), embedder)
    leaving = asyncio.create_task(finder.search(SearchQuery("circus")))
    await embedder.begun.wait()
    leaving.cancel()
    next_one = asyncio.create_task(finder.search(SearchQuery("circus")))
    await asyncio.sleep(0.3)  # in which it would begin
    assert embedder.came == 1
    embedder.may_go_on.set()
    assert (await next_one).hits[0].listing.handle == "wren"
    assert leaving.cancelled()


async def test_a_broken_embedder_is_told_and_the_next_search_begins_anew() -> None:
    """With 503, and nothing half indexed stays."""
    embedder = _Halting(broken=1)
    embedder.may_go_on.set()
    finder = PersonaSearch(PersonaSource(load_library()), embedder)
    with pytest.raises(ApiError) as refused:
        await finder.search(SearchQuery("circus"))
    assert (refused.value.status, refused.value.code) == (503, "search_unavailable")
    assert (await finder.search(SearchQuery("circus"))).hits[0].listing.handle == "wren"


async def test_an_answer_survives_its_way_and_a_false_one_is_refused() -> None:
    """As JSON and back it is the same; a listing with controls or without members is none."""
    finder = PersonaSearch(PersonaSource(load_library()), None)
    found = await finder.search(SearchQuery("circus ropes"))
    assert parse_result(json.loads(json.dumps(found.public()))) == found
    for member, value in (("name", "\x1b[2J"), ("digest", "zz"), ("tags", "a"), ("score", None)):
        told = json.loads(json.dumps(found.public()))
        told["hits"][0][member] = value
        with pytest.raises(SottoError, match="not one that this version knows"):
            parse_result(told)
    with pytest.raises(SottoError):
        parse_result({"hits": []})


@pytest.fixture
def offline(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command with --offline; what it prints."""

    def run(*words: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["personas", "search", "--offline", *map(str, words)])
        assert left.value.code == code
        return "".join(capsys.readouterr())

    return run


def test_offline_on_the_command_line(offline: Callable[..., str], tmp_path: Path) -> None:
    """A table that says why; what there is to choose by; advice where nobody was found."""
    assert offline("baekr", "bread").splitlines()[1].startswith("ines")
    browse = offline()
    assert "--tag" in browse
    assert "everyone (6)" in browse
    nobody = offline("--tag", "no-such-tag", "bread")
    assert "Nobody was found." in nobody
    assert "--tag" in nobody
    assert "wren" not in offline("--similar", "wren").split("\n\n")[0]
    assert "`limit`" in offline("--limit", "0", code=2)
    assert "no persona 'nemo'" in offline("--similar", "nemo", code=2)
    text = (_LIBRARY / "wren.toml").read_text().replace('"wren"', '"my-own"')
    (tmp_path / "my-own.toml").write_text(text)
    found = json.loads(offline("--folder", tmp_path, "--json", "circus"))
    assert {"wren", "my-own"} <= {hit["handle"] for hit in found["hits"]}
    with pytest.raises(SystemExit) as left:
        main(["personas", "search", "--folder", str(tmp_path), "x"])
    assert left.value.code == 2


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests below."""
    system = System(tmp_path_factory.mktemp("search") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


def _run(system: System, home: Path, *words: object) -> Any:
    done = sotto(
        *("personas", *map(str, words), "--json", "--home", str(home), "--edge", system.edge),
        *("--policy", str(system.home / "policy.toml")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def _until(system: System, home: Path, handle: str, *, there: bool) -> dict[str, Any]:
    """Search until somebody is there, or gone: listings are followed every few seconds."""
    deadline = time.monotonic() + 60
    while True:
        found = _run(system, home, "search", "submarine", "cook")
        hit = next((one for one in found["hits"] if one["handle"] == handle), None)
        if (hit is not None) is there:
            return hit or {}
        assert time.monotonic() < deadline, found


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_what_is_published_is_found_and_what_is_withdrawn_is_not(
    system: System, tmp_path: Path
) -> None:
    """By another device, the listing of a private persona too, without its description."""
    creator, reader = tmp_path / "creator", tmp_path / "reader"
    text = (_LIBRARY / "wren.toml").read_text()
    for handle, options in (("sub-cook", ()), ("sub-secret", ("--private",))):
        file = tmp_path / f"{handle}.toml"
        changed = text.replace('handle = "wren"', f'handle = "{handle}"')
        line = next(one for one in changed.splitlines() if one.startswith("tagline"))
        file.write_text(changed.replace(line, 'tagline = "Cooks aboard a submarine."'))
        done = _run(system, creator, "publish", file, *options)
        hit = _until(system, reader, handle, there=True)
        assert hit["digest"] == done["digest"]
        assert hit["private"] is bool(options)
        assert bool(hit["description"]) is not bool(options)
        assert "submarine" in hit["words"]
    _run(system, creator, "withdraw", "sub-cook", "--yes")
    _until(system, reader, "sub-cook", there=False)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_programs_search_through_the_proxy(system: System, tmp_path: Path) -> None:
    """Query and refusals pass through sealed; other methods get 405."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "runtime", "proxy", "--json", "--port", "0"),
            *("--home", str(system.home), "--edge", system.edge),
            *("--policy", str(system.home / "policy.toml")),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]
        with urllib.request.urlopen(f"{address}/personas?q=brot%20baekr%20bread&limit=1") as answer:
            (hit,) = json.load(answer)["hits"]
        assert hit["handle"] == "ines"
        for query, method, status in (
            ("?rating=all", "GET", 400),
            ("?similar=nemo", "GET", 404),
            ("", "POST", 405),
        ):
            request = urllib.request.Request(f"{address}/personas{query}", method=method)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code == status
            assert json.load(refused.value)["error"]["message"]
    finally:
        process.terminate()
        process.wait(30)
