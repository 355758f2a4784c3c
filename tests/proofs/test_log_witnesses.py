"""The log's client to its witnesses: real witnesses, ones that are away, and ones that lie."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from proofs_support import LOG, NOW, private_key
from witness_support import COSIGNERS, KEYS, Running, Tree, running

from proofs.checkpoint import Checkpoint
from proofs.cosignature import Cosigner, verify_cosignatures
from proofs.errors import LogError, UnreadableError
from proofs.log.witnesses import WitnessAddress, Witnesses
from proofs.note import Note, Signer, VerifierKey, parse_note
from proofs.witness.protocol import AddCheckpoint, checkpoint_path, parse_add_checkpoint
from tests.e2e.system import free_port

pytestmark = pytest.mark.integration

TREE = Tree()
Handler = Callable[[AddCheckpoint], web.Response]


@asynccontextmanager
async def client(
    addresses: Sequence[WitnessAddress],
    quorum: int,
    registry: CollectorRegistry | None = None,
    timeout_s: float = 1.0,
    request_timeout_s: float = 30.0,
) -> AsyncIterator[Witnesses]:
    subject = Witnesses(
        addresses,
        quorum,
        log=LOG.verifier,
        registry=registry,
        timeout_s=timeout_s,
        request_timeout_s=request_timeout_s,
    )
    try:
        yield subject
    finally:
        await subject.close()


async def cosign(subject: Witnesses, size: int, tree: Tree = TREE) -> Note:
    """Have the head of `size` cosigned, as a log with this tree does."""
    text = await subject.cosign(tree.head(size).format(), size, lambda old: tree.proof(old, size))
    return parse_note(text)


def signers(note: Note, keys: Sequence[VerifierKey]) -> list[VerifierKey]:
    return [found.key for found in verify_cosignatures(note, keys)]


@asynccontextmanager
async def three(folder: Path) -> AsyncIterator[list[Running]]:
    """Three witnesses of different people."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running(folder / f"w{n}", f"witness.example/w{n}"))
            for n in range(3)
        ]


def first_keys(witnesses: Sequence[Running]) -> list[WitnessAddress]:
    return [WitnessAddress(one.keys[0], one.url) for one in witnesses]


@dataclass
class Fake:
    """A witness with a true key that answers what a test wants it to."""

    url: str = ""
    asked: list[AddCheckpoint] = field(default_factory=list)

    @property
    def address(self) -> WitnessAddress:
        return WitnessAddress(KEYS[0], self.url)


@asynccontextmanager
async def fake(post: Handler, shown: str | None = None) -> AsyncIterator[Fake]:
    subject = Fake()

    async def add(request: web.Request) -> web.StreamResponse:
        subject.asked.append(parse_add_checkpoint(await request.read()))
        return post(subject.asked[-1])

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        return web.Response(text=truth(parse_add_checkpoint(await request.read())))

    async def show(request: web.Request) -> web.StreamResponse:
        assert request.path == checkpoint_path(LOG.name)
        if shown is None:
            raise web.HTTPNotFound
        return web.Response(text=shown)

    application = web.Application()
    application.router.add_post("/add-checkpoint", add)
    application.router.add_post("/elsewhere", elsewhere)
    application.router.add_get("/{hash}/checkpoint", show)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    subject.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield subject
    finally:
        await runner.cleanup()


def truth(request: AddCheckpoint, cosigner: Cosigner = COSIGNERS[0]) -> str:
    return cosigner.cosign(request.note, NOW).format()


async def test_all_who_are_well_are_in_the_note_in_their_order(tmp_path: Path) -> None:
    """The log's signature first, then each listed key, whoever answers first."""
    async with three(tmp_path) as witnesses:
        addresses = [WitnessAddress(key, one.url) for one in witnesses[::-1] for key in one.keys]
        keys = [address.key for address in addresses]
        async with client(addresses, 2, timeout_s=60) as subject:
            for size in (0, 1, 5, 6, 300):
                note = await cosign(subject, size)
                assert signers(note, keys) == keys
                assert [s.key_id for s in note.signatures] == [
                    LOG.verifier.key_id,
                    *(key.key_id for key in keys),
                ]
                assert note.text == TREE.head(size).text


async def test_only_listed_keys_are_merged(tmp_path: Path) -> None:
    """A witness answers with all its keys; what the log's operator did not list is left out."""
    async with running(tmp_path) as one, client(first_keys([one]), 1) as subject:
        note = await cosign(subject, 5)
        assert signers(note, one.keys) == [one.keys[0]]
        assert len(note.signatures) == 2


async def test_a_client_that_remembers_nothing_asks_for_the_size(tmp_path: Path) -> None:
    """After a restart of the log, the witness's 409 tells where to go on from."""
    async with running(tmp_path) as one:
        async with client(first_keys([one]), 1) as subject:
            await cosign(subject, 5)
        registry = CollectorRegistry()
        async with client(first_keys([one]), 1, registry) as subject:
            assert len((await cosign(subject, 9)).signatures) == 2
        # It was an answer, not a failure.
        assert not _failures(registry)


async def test_sizes_are_remembered(tmp_path: Path) -> None:
    """The next request starts from the last cosigned tree, without asking for it."""
    async with (
        fake(lambda r: web.Response(text=truth(r))) as honest,
        client([honest.address], 1) as subject,
    ):
        for size in (0, 3, 7, 7):
            await cosign(subject, size)
    assert [(request.old, request.checkpoint.size) for request in honest.asked] == [
        (0, 0),
        (0, 3),
        (3, 7),
        (7, 7),
    ]


async def test_no_proof_is_made_after_cosigning_ended(tmp_path: Path) -> None:
    """The log goes on to write its tiles then; whoever is cancelled waits for the thread first."""
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def prove(old: int) -> Sequence[bytes]:
        loop.call_soon_threadsafe(started.set)
        go_on.wait()
        return TREE.proof(old, 9)

    async with running(tmp_path) as one, client(first_keys([one]), 1) as subject:
        await cosign(subject, 5)
        waiting = asyncio.create_task(subject.cosign(TREE.head(9).format(), 9, prove))
        await started.wait()
        waiting.cancel()
        await asyncio.sleep(0.05)
        early = waiting.done()
        go_on.set()
        assert not early
        with pytest.raises(asyncio.CancelledError):
            await waiting


def _failures(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels["reason"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "sotto_log_witness_failures_total"
    }


async def test_one_of_three_may_be_away(tmp_path: Path) -> None:
    """Two of three are a quorum; the third is asked again, and is in the note when it is back."""
    registry = CollectorRegistry()
    port = free_port()
    async with AsyncExitStack() as stack:
        here = [
            await stack.enter_async_context(running(tmp_path / f"w{n}", f"w.example/{n}"))
            for n in range(2)
        ]
        async with running(tmp_path / "w2", "w.example/2", port=port) as gone:
            keys = [gone.keys[0]]
        addresses = [*first_keys(here), WitnessAddress(keys[0], f"http://127.0.0.1:{port}")]
        subject = await stack.enter_async_context(client(addresses, 2, registry))
        for size in (3, 4):
            note = await cosign(subject, size)
            assert signers(note, [a.key for a in addresses]) == [a.key for a in addresses[:2]]
        labels = {"witness": "w.example/2"}
        assert registry.get_sample_value("sotto_log_witness_up", labels) == 0
        assert set(_failures(registry)) == {"away"}
        async with running(tmp_path / "w2", "w.example/2", port=port):
            size = 5
            while keys[0] not in signers(await cosign(subject, size), keys):
                size += 1
                await asyncio.sleep(0.02)
        assert registry.get_sample_value("sotto_log_witness_up", labels) == 1


def lie_changed(request: AddCheckpoint) -> web.Response:
    line = COSIGNERS[0].cosign(request.note, NOW)
    return web.Response(text=replace(line, signature=line.signature[:-1] + b"x").format())


def lie_other_checkpoint(_: AddCheckpoint) -> web.Response:
    return web.Response(text=COSIGNERS[0].cosign(Tree("b").head(5), NOW).format())


def lie_other_key(request: AddCheckpoint) -> web.Response:
    return web.Response(text=truth(request, Cosigner("witness.example/w1", private_key(30))))


def lie_log_key(request: AddCheckpoint) -> web.Response:
    return web.Response(text=Signer(LOG.name, private_key(30)).sign(request.note.text).format())


LIES: dict[str, tuple[Handler, str]] = {
    "a false signature": (lie_changed, "answer"),
    "a cosignature of another checkpoint": (lie_other_checkpoint, "answer"),
    "a key that is not listed": (lie_other_key, "answer"),
    "an empty line first": (lambda r: web.Response(text="\n" + truth(r)), "answer"),
    "a note": (lie_log_key, "answer"),
    "nothing": (lambda _: web.Response(), "answer"),
    "no newline": (lambda r: web.Response(text=truth(r)[:-1]), "answer"),
    "a tail": (lambda r: web.Response(text=truth(r) + "x"), "answer"),
    "an empty line": (lambda r: web.Response(text=truth(r) + "\n"), "answer"),
    "a line of another kind": (lambda r: web.Response(text=truth(r) + "hello\n"), "answer"),
    "bytes": (lambda _: web.Response(body=b"\xff\n"), "answer"),
    "too much": (lambda r: web.Response(text=truth(r) * 2000), "answer"),
    "compressed": (
        lambda r: web.Response(
            body=gzip.compress(truth(r).encode()), headers={"Content-Encoding": "gzip"}
        ),
        "answer",
    ),
    "a redirect": (
        lambda _: web.Response(status=307, headers={"Location": "/elsewhere"}),
        "status",
    ),
    "an error": (lambda _: web.Response(status=500), "status"),
    "created": (lambda r: web.Response(status=201, text=truth(r)), "status"),
    "a size that is none": (
        lambda _: web.Response(status=409, body=b"x\n", content_type="text/x.tlog.size"),
        "answer",
    ),
    "a size of another type": (lambda _: web.Response(status=409, text="3\n"), "answer"),
    "a size without end": (
        lambda _: web.Response(status=409, body=b"9" * 9999, content_type="text/x.tlog.size"),
        "answer",
    ),
    "a size for ever": (
        lambda _: web.Response(status=409, body=b"3\n", content_type="text/x.tlog.size"),
        "status",
    ),
    "a size beyond ours": (
        lambda _: web.Response(status=409, body=b"9\n", content_type="text/x.tlog.size"),
        "ahead",
    ),
    "a conflict that it does not show": (lambda _: web.Response(status=422), "inconsistent"),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lying_witness_is_not_counted_nor_merged(tmp_path: Path, name: str) -> None:
    """M=3, N=2, one lies and one is away: leaves wait, and go on when the one that was is back."""
    lie, reason = LIES[name]
    registry = CollectorRegistry()
    port = free_port()
    async with AsyncExitStack() as stack:
        liar = await stack.enter_async_context(fake(lie))
        honest = await stack.enter_async_context(running(tmp_path / "w1", "w.example/1"))
        async with running(tmp_path / "w2", "w.example/2", port=port) as gone:
            away = WitnessAddress(gone.keys[0], gone.url)
        addresses = [liar.address, *first_keys([honest]), away]
        subject = await stack.enter_async_context(client(addresses, 2, registry))
        waiting = asyncio.create_task(cosign(subject, 5))
        while len(liar.asked) < 3 or _failures(registry).get("away", 0) < 2:
            assert not waiting.done()
            await asyncio.sleep(0.02)
        assert registry.get_sample_value("sotto_log_below_quorum") == 1
        async with running(tmp_path / "w2", "w.example/2", port=port):
            note = await waiting
        assert signers(note, [a.key for a in addresses]) == [a.key for a in addresses[1:]]
        assert len(note.signatures) == 3
        assert reason in _failures(registry)
        assert registry.get_sample_value("sotto_log_below_quorum") == 0
        ahead = registry.get_sample_value("sotto_log_witness_ahead", {"witness": KEYS[0].name})
        assert ahead == (1 if reason == "ahead" else None)


async def test_a_cosignature_without_a_time_is_not_taken() -> None:
    """ML-DSA-44 may leave the time out, and a witness may not."""

    def timeless(request: AddCheckpoint) -> web.Response:
        head = request.checkpoint
        message = b"".join(
            (
                b"subtree/v1\n\0",
                *(bytes([len(name)]) + name for name in [KEYS[1].name.encode()]),
                bytes(8),
                *(bytes([len(name)]) + name for name in [head.origin.encode()]),
                bytes(8),
                head.size.to_bytes(8, "big"),
                head.root,
            )
        )
        line = COSIGNERS[1].cosign(request.note, NOW)
        signature = bytes(8) + COSIGNERS[1].key.sign(message)
        timeless_line = replace(line, signature=signature)
        # It is a true cosignature, which only lacks a time.
        assert verify_cosignatures(Note(request.note.text, (timeless_line,)), [KEYS[1]])
        return web.Response(text=timeless_line.format())

    registry = CollectorRegistry()
    async with fake(timeless) as liar:
        addresses = [WitnessAddress(KEYS[1], liar.url)]
        async with client(addresses, 1, registry) as subject:
            waiting = asyncio.create_task(cosign(subject, 5))
            while len(liar.asked) < 3:
                assert not waiting.done()
                await asyncio.sleep(0.02)
            await _cancelled(waiting)
    assert set(_failures(registry)) == {"answer"}


async def test_whoever_stands_still_is_given_up(tmp_path: Path) -> None:
    """A witness that takes a request and never answers holds up neither quorum nor stop."""
    forever = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await forever.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    registry = CollectorRegistry()
    async with running(tmp_path) as one:
        addresses = [WitnessAddress(KEYS[0], url), *first_keys([one])]
        async with client(addresses, 1, request_timeout_s=0.3) as subject:
            assert len((await cosign(subject, 5)).signatures) == 2
        async with client(addresses, 2, registry, request_timeout_s=0.3) as subject:
            waiting = asyncio.create_task(cosign(subject, 6))
            while "away" not in _failures(registry):
                assert not waiting.done()
                await asyncio.sleep(0.02)
            await _cancelled(waiting)
    forever.set()
    server.close()


async def test_a_witness_that_is_slow_is_not_waited_for_each_time(tmp_path: Path) -> None:
    """One that never answers costs the others its time once, and is asked all the same."""
    forever = asyncio.Event()
    connections = 0

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await forever.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    registry = CollectorRegistry()
    async with running(tmp_path) as one:
        addresses = [WitnessAddress(KEYS[0], url), *first_keys([one])]
        async with client(addresses, 1, registry, request_timeout_s=60) as subject:
            for size in range(1, 21):
                assert len((await cosign(subject, size)).signatures) == 2
    assert _failures(registry) == {"slow": 1}
    assert connections > 10
    forever.set()
    server.close()


async def _cancelled(waiting: asyncio.Task[Note]) -> None:
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_log_restored_from_a_backup_is_stopped(tmp_path: Path) -> None:
    """A witness shows a larger tree with our own signature: to go on would be a fork."""
    registry = CollectorRegistry()
    async with running(tmp_path) as one:
        async with client(first_keys([one]), 1) as subject:
            await cosign(subject, 9)
        # The folder is the one of size 5 again; what comes now is not what came then.
        async with client(first_keys([one]), 1, registry) as subject:
            with pytest.raises(LogError, match="backup"):
                await cosign(subject, 6, Tree("b", shared=5))
    labels = {"witness": one.keys[0].name}
    assert registry.get_sample_value("sotto_log_witness_ahead", labels) == 1


async def test_a_log_that_grew_past_its_backup_is_stopped_too(tmp_path: Path) -> None:
    """Larger again, but not the same: the witness's refusal comes with the proof of it."""
    async with running(tmp_path) as one:
        async with client(first_keys([one]), 1) as subject:
            await cosign(subject, 9)
        for size in (9, 12):
            async with client(first_keys([one]), 1) as subject:
                with pytest.raises(LogError, match="forked"):
                    await cosign(subject, size, Tree("b", shared=5))


async def test_who_says_ahead_must_show_it(tmp_path: Path) -> None:
    """What is shown counts only with our signature, under our origin; else a lie would stop us."""
    ahead, _ = LIES["a size beyond ours"]
    stranger = Signer(LOG.name, private_key(30))
    head = Tree().head(9)
    for shown in (
        stranger.sign(head.text).format(),
        LOG.sign(Checkpoint("other.example", 9, bytes(32)).format()).format(),
        Note(head.text, (COSIGNERS[0].cosign(head, NOW),)).format(),
        TREE.head(4).format(),
        "nonsense",
    ):
        async with (
            running(tmp_path) as one,
            fake(ahead, shown) as liar,
            client([liar.address, *first_keys([one])], 1) as subject,
        ):
            note = await cosign(subject, 5)
            assert signers(note, [*KEYS, *one.keys]) == [one.keys[0]]
            assert liar.asked


async def test_a_proof_that_the_store_cannot_give_ends_it(tmp_path: Path) -> None:
    """An error of the log's own folder is not a witness's failure."""

    def broken(_: int) -> Sequence[bytes]:
        raise LogError("The folder is damaged.")

    async with running(tmp_path) as one, client(first_keys([one]), 1) as subject:
        await cosign(subject, 5)
        with pytest.raises(LogError, match="damaged"):
            await subject.cosign(TREE.head(9).format(), 9, broken)


async def test_cosigning_can_be_cancelled_and_taken_up(tmp_path: Path) -> None:
    """A log that stops below its quorum leaves nothing running; the next time is as the first."""
    port = free_port()
    async with running(tmp_path, port=port) as one:
        addresses = first_keys([one])
    async with client(addresses, 1) as subject:
        waiting = asyncio.create_task(cosign(subject, 5))
        await asyncio.sleep(0.05)
        await _cancelled(waiting)
        while asyncio.all_tasks() != {asyncio.current_task()}:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)
        async with running(tmp_path, port=port):
            assert len((await cosign(subject, 5)).signatures) == 2


async def test_a_witness_with_two_keys_counts_once(tmp_path: Path) -> None:
    """Both its cosignatures are merged, and a quorum of two wants somebody else."""
    async with running(tmp_path) as one:
        addresses = [WitnessAddress(key, one.url) for key in one.keys]
        with pytest.raises(LogError, match="quorum"):
            Witnesses(addresses, 2, log=LOG.verifier)
        async with client(addresses, 1) as subject:
            assert signers(await cosign(subject, 5), one.keys) == list(one.keys)


async def test_what_cannot_be_a_quorum_is_refused() -> None:
    """More than there are, fewer than none, a key twice, too many for a note."""
    one, two = (WitnessAddress(key, f"http://w{n}.example") for n, key in enumerate(KEYS))
    for addresses, quorum in (([one, two], 3), ([one], -1), ([one, one], 1)):
        with pytest.raises(LogError):
            Witnesses(addresses, quorum, log=LOG.verifier)
    renamed = replace(one, key=replace(one.key, name="w.example/other"), url="http://other.example")
    with pytest.raises(LogError, match="twice"):
        Witnesses([one, renamed], 1, log=LOG.verifier)
    many = [
        WitnessAddress(Cosigner("w", private_key(n)).verifier, f"http://w{n}.example")
        for n in range(64)
    ]
    with pytest.raises(LogError, match="63"):
        Witnesses(many, 1, log=LOG.verifier)


async def test_without_witnesses_a_head_is_published_as_it_is() -> None:
    """None listed, none asked."""
    async with client([], 0) as subject:
        assert await cosign(subject, 5) == TREE.head(5)
        with pytest.raises(UnreadableError, match="size"):
            await subject.cosign(TREE.head(5).format(), 6, lambda _: [])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "w.example",
        "ftp://w.example",
        "http://",
        "http://user:hunter2@w.example",
        "http://w.example/?q",
        "http://w.example/#f",
        "http://[",
        "http://w.example:x",
    ],
)
def test_an_address_is_a_url_without_secrets(url: str) -> None:
    """What cannot be asked, or would hide a password, is refused without being repeated."""
    with pytest.raises(UnreadableError) as caught:
        WitnessAddress(KEYS[0], url)
    assert "hunter2" not in str(caught.value)


def test_an_address_has_a_witnesss_key() -> None:
    """A log's key cannot be a witness's."""
    assert WitnessAddress(KEYS[1], "https://w.example:8/prefix").key == KEYS[1]
    with pytest.raises(UnreadableError, match="no witness's"):
        WitnessAddress(LOG.verifier, "http://w.example")
