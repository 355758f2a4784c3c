"""The witness: every answer of c2sp.org/tlog-witness, forks, races, restarts and kills."""

import asyncio
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from proofs_support import LOG, NOW, private_key
from witness_support import COSIGNERS, KEYS, NAME, Clock, Tree, merged, running, witness

from proofs.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from proofs.cosignature import Cosigner, verify_cosignatures
from proofs.errors import LogError, UnreadableError
from proofs.note import Note, Signature, Signer, parse_note
from proofs.witness.protocol import (
    MAX_REQUEST,
    AddCheckpoint,
    checkpoint_path,
    parse_add_checkpoint,
)
from proofs.witness.service import load_cosigners
from proofs.witness.state import WitnessFolder

TREE = Tree()
PATH = checkpoint_path(LOG.name)


def published(folder: Path) -> tuple[Checkpoint, Note]:
    """What the record on the disk says, read as a stranger would."""
    text = (folder / "logs" / PATH[1:]).read_text()
    return parse_checkpoint(parse_note(text).text), parse_note(text)


def test_a_log_that_grows_is_cosigned(tmp_path: Path) -> None:
    """Each step is cosigned by both keys, recorded before it is told, and shown to everyone."""
    clock = Clock()
    subject = witness(tmp_path, clock)
    assert subject.published(PATH) is None
    old = 0
    for size in (0, 1, 1, 2, 7, 8, 300):
        clock.now += 1
        answer = subject.add_checkpoint(TREE.request(old, size))
        assert (answer.status, answer.kind) == (200, "text/plain")
        note = merged(TREE.head(size), answer.body)
        found = verify_cosignatures(note, KEYS)
        assert {c.key for c in found} == set(KEYS)
        assert {c.time for c in found} == {int(clock.now)}
        head, recorded = published(tmp_path)
        assert head.size == size
        assert recorded == note
        assert subject.published(PATH) == note.format()
        old = size


def test_the_specifications_example_is_read() -> None:
    """The body that c2sp.org/tlog-witness prints has the parts that it is said to have."""
    body = (
        "old 20852014\n"
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
        "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n"
        "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n"
        "\n"
        "example.com/behind-the-sofa\n"
        "20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        "\n"
        "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URY"
        "N7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "\u2014 example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum"
        "2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n"
    )
    request = parse_add_checkpoint(body.encode())
    assert (request.old, request.checkpoint.size, len(request.proof)) == (20852014, 20852163, 4)
    assert request.checkpoint.origin == "example.com/behind-the-sofa"
    assert len(request.note.signatures) == 2
    assert request.format() == body


BODY = TREE.request(3, 7).decode()
HASH = BODY.split("\n")[1]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "\n\n",
        "old 3",
        BODY.removeprefix("old "),
        BODY.replace("old 3", "new 3"),
        BODY.replace("old 3", "old  3"),
        BODY.replace("old 3", "old 03"),
        BODY.replace("old 3", "old -3"),
        BODY.replace("old 3", "old +3"),
        BODY.replace("old 3", f"old {2**63}"),
        BODY.replace("old 3", f"old {'9' * 5000}"),
        BODY.replace("old 3", "old 3\r"),
        BODY.replace("old 3\n", "old 3\n\n"),
        BODY.replace(HASH, HASH[:-4]),
        BODY.replace(HASH, HASH + "AAAA"),
        BODY.replace(HASH, " " + HASH),
        BODY.replace(HASH, f"{HASH}\n" * 63 + HASH),
        BODY.replace(LOG.name + "\n7", LOG.name + "\n07"),
        BODY.replace("\n\n" + LOG.name, "\n" + LOG.name),
        BODY + "\n",
        BODY + "x",
        BODY[:-1],
        BODY.replace("\u2014", "-"),
        TREE.request(8, 7).decode(),
    ],
)
def test_malformed_requests_are_400(tmp_path: Path, body: str) -> None:
    """Anything but the one spelling of a request is answered so, and changes nothing."""
    subject = witness(tmp_path)
    assert subject.add_checkpoint(TREE.request(0, 3)).status == 200
    answer = subject.add_checkpoint(body.encode())
    assert (answer.status, answer.reason) == (400, "malformed")
    assert published(tmp_path)[0].size == 3
    assert subject.add_checkpoint(BODY.encode()).status == 200


def test_bytes_that_are_no_text_and_too_many_are_400(tmp_path: Path) -> None:
    """The limit comes before the decoder."""
    subject = witness(tmp_path)
    assert subject.add_checkpoint(b"old 0\n\n\xff\n").status == 400
    with pytest.raises(UnreadableError, match=str(MAX_REQUEST)):
        parse_add_checkpoint(b"\xff" * (MAX_REQUEST + 1))


def test_a_request_cut_anywhere_is_400(tmp_path: Path) -> None:
    """There is no shorter request in a request."""
    subject = witness(tmp_path)
    assert subject.add_checkpoint(TREE.request(0, 3)).status == 200
    body = TREE.request(3, 7)
    for end in range(len(body)):
        assert subject.add_checkpoint(body[:end]).status == 400, end
    assert published(tmp_path)[0].size == 3


def test_a_request_changed_anywhere_is_never_cosigned(tmp_path: Path) -> None:
    """Whichever byte is another, the answer is a refusal of the specification's."""
    subject = witness(tmp_path)
    assert subject.add_checkpoint(TREE.request(0, 3)).status == 200
    body = TREE.request(3, 7)
    chance = random.Random(4)
    seen = set()
    for index in range(len(body)):
        for byte in {body[index] ^ 1, chance.randrange(256)} - {body[index]}:
            changed = body[:index] + bytes([byte]) + body[index + 1 :]
            status = subject.add_checkpoint(changed).status
            assert status in {400, 403, 404, 409, 422}, index
            seen.add(status)
    assert seen == {400, 403, 404, 409, 422}
    assert published(tmp_path)[0].size == 3


def test_an_unknown_log_is_404(tmp_path: Path) -> None:
    """A checkpoint of any other origin is not looked at further, whoever signed it."""
    other = Tree(signer=Signer("log.example/two", private_key(3)))
    answer = witness(tmp_path).add_checkpoint(other.request(0, 1))
    assert (answer.status, answer.reason) == (404, "unknown_log")


def test_without_a_true_signature_of_the_log_it_is_403(tmp_path: Path) -> None:
    """Not signed by a key that is known, or a false signature under a known key's name."""
    subject = witness(tmp_path)
    head = TREE.head(1)
    stranger = Signer(LOG.name, private_key(9)).sign(head.text)
    (true,) = head.signatures
    false = Signature(true.name, true.key_id, true.signature[:-1] + bytes([true.signature[-1] ^ 1]))
    for note in (
        stranger,
        Note(head.text, (false,)),
        Note(head.text, (true, false)),
        Note(head.text, (COSIGNERS[0].cosign(head, NOW),)),
    ):
        answer = subject.add_checkpoint(TREE.request(0, 1, note))
        assert (answer.status, answer.reason) == (403, "signature")
    # Strangers beside the true signature are ignored, and not passed on.
    note = Note(head.text, (*stranger.signatures, true))
    assert subject.add_checkpoint(TREE.request(0, 1, note)).status == 200
    assert stranger.signatures[0] not in published(tmp_path)[1].signatures


def test_a_log_may_have_several_keys(tmp_path: Path) -> None:
    """While a log's key changes, either counts, and what is shown has the one that signed."""
    other = Tree(signer=Signer(LOG.name, private_key(9)))
    subject = witness(tmp_path, logs=[LOG.verifier, other.signer.verifier])
    assert subject.add_checkpoint(TREE.request(0, 1)).status == 200
    assert subject.add_checkpoint(other.request(1, 2)).status == 200
    note = published(tmp_path)[1]
    assert note.verify([other.signer.verifier])
    assert LOG.verifier.key_id not in {s.key_id for s in note.signatures}


def test_another_old_size_is_409_with_the_right_one(tmp_path: Path) -> None:
    """The answer has the type and the one line that logs wait for."""
    subject = witness(tmp_path)
    first = subject.add_checkpoint(TREE.request(3, 7))
    assert (first.status, first.body, first.kind) == (409, "0\n", "text/x.tlog.size")
    assert subject.add_checkpoint(TREE.request(0, 5)).status == 200
    for old, size in ((0, 7), (4, 7), (6, 7), (0, 5), (0, 3), (3, 3)):
        answer = subject.add_checkpoint(TREE.request(old, size))
        assert (answer.status, answer.body, answer.kind) == (409, "5\n", "text/x.tlog.size")
    assert published(tmp_path)[0].size == 5


def test_proofs_that_do_not_hold_are_422(tmp_path: Path) -> None:
    """Missing, too much, of another tree, or where there is nothing to prove."""
    subject = witness(tmp_path)

    def ask(old: int, size: int, proof: list[bytes], note: Note | None = None) -> int:
        head = note or TREE.head(size)
        checkpoint = open_checkpoint(head.format(), [LOG.verifier])
        body = AddCheckpoint(old, tuple(proof), head, checkpoint).format().encode()
        return subject.add_checkpoint(body).status

    empty = LOG.sign(Checkpoint(LOG.name, 0, bytes(32)).format())
    assert ask(0, 0, [], empty) == 422
    assert ask(0, 5, [bytes(32)]) == 422
    assert subject.published(PATH) is None
    assert ask(0, 5, []) == 200
    good = TREE.proof(5, 9)
    for proof in ([], good[:-1], good[1:], [*good, bytes(32)], good[::-1], TREE.proof(4, 9)):
        assert ask(5, 9, proof) == 422
    assert ask(5, 5, [bytes(32)]) == 422
    assert ask(5, 9, Tree("b").proof(5, 9), Tree("b").head(9)) == 422
    assert published(tmp_path)[0].size == 5
    assert ask(5, 9, good) == 200


def evidence(folder: Path) -> list[dict[str, str]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("evidence/*/*.json"))]


def test_a_fork_is_refused_kept_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two trees of one size with the log's own signatures: anyone can verify that from the file."""
    registry = CollectorRegistry()
    subject = witness(tmp_path, registry=registry)
    fork = Tree("b", shared=0)
    assert subject.add_checkpoint(TREE.request(0, 5)).status == 200
    stranger = Signature("stranger", b"1234", b"what somebody else wrote")
    head = fork.head(5)
    answer = subject.add_checkpoint(
        fork.request(5, 5, Note(head.text, (*head.signatures, stranger)))
    )
    assert answer.status == 422
    # As proven where the old size does not fit; and once is enough to keep.
    assert subject.add_checkpoint(fork.request(3, 5)).status == 409
    count = registry.get_sample_value("sotto_witness_forks_total", {"log": LOG.name})
    assert count == 2
    assert "FORKED" in caplog.text
    (kept,) = evidence(tmp_path)
    ours = open_checkpoint(kept["cosigned"], [LOG.verifier])
    theirs = parse_add_checkpoint(kept["refused"].encode())
    theirs.note.verify([LOG.verifier])
    assert ours.size == theirs.checkpoint.size == 5
    assert ours.root != theirs.checkpoint.root
    assert stranger not in theirs.note.signatures
    for text in (subject.published(PATH) or "", caplog.text):
        assert theirs.note.text not in text


def test_a_tree_that_does_not_follow_is_kept_apart(tmp_path: Path) -> None:
    """It may be a stranger's false proof to a true checkpoint, so it takes no place of a fork's."""
    registry = CollectorRegistry()
    subject = witness(tmp_path, registry=registry)
    fork = Tree("b", shared=3)
    assert subject.add_checkpoint(TREE.request(0, 5)).status == 200
    for size in range(6, 40):
        assert subject.add_checkpoint(fork.request(5, size)).status == 422
    assert len(evidence(tmp_path)) == 16
    assert registry.get_sample_value("sotto_witness_forks_total", {"log": LOG.name}) == 0
    for own in "bcdefghijklmnopqrstuvwxyz":
        assert subject.add_checkpoint(Tree(own).request(5, 5)).status == 422
    kinds = [one["kind"] for one in evidence(tmp_path)]
    assert (kinds.count("fork"), kinds.count("inconsistent")) == (16, 16)
    refused = registry.get_sample_value("sotto_witness_refused_total", {"reason": "inconsistent"})
    assert refused == 34 + 25


def test_repeating_a_checkpoint_costs_nothing_within_a_second(tmp_path: Path) -> None:
    """Anyone can send what is public again; until the clock moves he gets what was said before."""
    clock = Clock()
    subject = witness(tmp_path, clock)
    first = subject.add_checkpoint(TREE.request(0, 5))
    # ML-DSA-44 is signed with fresh randomness: only what was kept can be the same.
    assert subject.add_checkpoint(TREE.request(5, 5)) == first
    clock.now += 1
    later = subject.add_checkpoint(TREE.request(5, 5))
    assert later.status == 200
    found = verify_cosignatures(merged(TREE.head(5), later.body), KEYS)
    assert {c.time for c in found} == {NOW + 1}
    assert published(tmp_path)[1] == merged(TREE.head(5), later.body)


def test_what_cannot_be_recorded_is_not_cosigned(tmp_path: Path) -> None:
    """A record that does not reach the disk is answered by no cosignature, and nothing is lost."""
    subject = witness(tmp_path)
    assert subject.add_checkpoint(TREE.request(0, 3)).status == 200
    # Where the new record would be written first, nothing can be.
    obstacle = tmp_path / "logs" / (PATH[1:] + ".new")
    obstacle.mkdir()
    answer = subject.add_checkpoint(TREE.request(3, 7))
    assert (answer.status, answer.reason) == (500, "storage")
    assert "\u2014" not in answer.body
    assert subject.published(PATH) == published(tmp_path)[1].format()
    assert published(tmp_path)[0].size == 3
    obstacle.rmdir()
    assert subject.add_checkpoint(TREE.request(3, 7)).status == 200


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    """The next process goes on from the record and refuses what the last one would have."""
    assert witness(tmp_path).add_checkpoint(TREE.request(0, 5)).status == 200
    subject = witness(tmp_path)
    assert subject.published(PATH) == published(tmp_path)[1].format()
    assert subject.add_checkpoint(TREE.request(0, 7)).body == "5\n"
    assert subject.add_checkpoint(Tree("b", shared=3).request(5, 7)).status == 422
    assert subject.add_checkpoint(TREE.request(5, 7)).status == 200


def test_a_record_that_is_not_its_own_stops_the_witness(tmp_path: Path) -> None:
    """Cut, changed or of other keys, a record is never taken for none."""
    assert witness(tmp_path).add_checkpoint(TREE.request(0, 5)).status == 200
    file = tmp_path / "logs" / PATH[1:]
    whole = file.read_bytes()
    for data in (b"", whole[:-1], whole[: len(whole) // 2], b"\xff" + whole, whole + b"x"):
        file.write_bytes(data)
        with pytest.raises(LogError, match="damaged"):
            witness(tmp_path)
    for note in (TREE.head(5), Tree(signer=Signer("other", private_key(3))).head(5)):
        file.write_text(note.format())
        with pytest.raises(LogError, match="damaged"):
            witness(tmp_path)
    file.write_bytes(whole)
    others = [Cosigner(NAME, private_key(20))]
    with pytest.raises(LogError, match="damaged"):
        witness(tmp_path, cosigners=others)
    assert witness(tmp_path).published(PATH) == whole.decode()


def test_logs_of_one_witness_know_nothing_of_each_other(tmp_path: Path) -> None:
    """Each origin has a record of its own."""
    other = Tree(signer=Signer("log.example/two", private_key(4)))
    subject = witness(tmp_path, logs=[LOG.verifier, other.signer.verifier])
    assert subject.add_checkpoint(TREE.request(0, 5)).status == 200
    assert subject.add_checkpoint(other.request(0, 2)).status == 200
    assert subject.add_checkpoint(other.request(5, 6)).body == "2\n"
    assert subject.published(checkpoint_path("log.example/two")) != subject.published(PATH)
    assert subject.published("/" + sha256(b"third").hexdigest() + "/checkpoint") is None


def test_of_two_trees_at_once_one_is_cosigned(tmp_path: Path) -> None:
    """Look and replacement are one step: of many forks that race from one size, one wins."""
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        subject = witness(folder)
        assert subject.add_checkpoint(Tree(shared=5).request(0, 5)).status == 200
        forks = [Tree(f"fork {n}", shared=5).request(5, 6 + n % 3) for n in range(8)]
        ready = threading.Barrier(len(forks))

        def ask(body: bytes, ready: threading.Barrier = ready, subject: object = subject) -> int:
            ready.wait()
            return subject.add_checkpoint(body).status  # type: ignore[attr-defined,no-any-return]

        with ThreadPoolExecutor(len(forks)) as pool:
            statuses = list(pool.map(ask, forks))
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 409, 422}


def test_a_record_never_goes_back_under_load(tmp_path: Path) -> None:
    """The race that the specification describes: growing heads from many threads at once."""
    subject = witness(tmp_path)
    known = [0]
    cosigned: list[int] = []

    def grow(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            old = max(known)
            size = old + chance.randrange(1, 4)
            if subject.add_checkpoint(TREE.request(old, size)).status == 200:
                cosigned.append(size)
                known.append(size)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(grow, range(6)))
    assert len(set(cosigned)) == len(cosigned)
    assert published(tmp_path)[0].size == max(cosigned)


def test_one_process_has_the_folder(tmp_path: Path) -> None:
    """A second witness over the same records could cosign a fork."""
    first = WitnessFolder(tmp_path)
    with pytest.raises(LogError, match="Another process"):
        WitnessFolder(tmp_path)
    first.close()
    WitnessFolder(tmp_path).close()


def test_a_closed_witness_cosigns_nothing(tmp_path: Path) -> None:
    """What is still on its way when the folder is given up comes too late."""
    subject = witness(tmp_path)
    subject.close()
    assert subject.add_checkpoint(TREE.request(0, 1)).status == 503
    assert not (tmp_path / "logs" / PATH[1:]).exists()


def test_keys_are_made_once_and_stay(tmp_path: Path) -> None:
    """PEM files for their owner alone; name and keys are those of the first start for ever."""
    first = load_cosigners(tmp_path, None)
    assert first[0].name.startswith("sottovoce-witness/")
    for file in ("ed25519.pem", "ml-dsa-44.pem"):
        assert (tmp_path / file).stat().st_mode & 0o777 == 0o600
    vkeys = [one.verifier.format() for one in first]
    assert (tmp_path / "vkey").read_text().splitlines() == vkeys
    assert [one.verifier for one in load_cosigners(tmp_path, None)] == [
        one.verifier for one in first
    ]
    with pytest.raises(LogError, match="for ever"):
        load_cosigners(tmp_path, "example.com/w1")
    (tmp_path / "ml-dsa-44.pem").unlink()
    with pytest.raises(LogError, match="for ever"):
        load_cosigners(tmp_path, None)
    (tmp_path / "ml-dsa-44.pem").write_bytes((tmp_path / "ed25519.pem").read_bytes())
    (tmp_path / "ml-dsa-44.pem").chmod(0o600)
    with pytest.raises(LogError, match="no ML-DSA-44 key"):
        load_cosigners(tmp_path, None)
    (tmp_path / "ed25519.pem").chmod(0o644)
    with pytest.raises(LogError, match="chmod 600"):
        load_cosigners(tmp_path, None)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "n" * 256])
def test_a_name_that_cannot_be_one_is_said(tmp_path: Path, name: str) -> None:
    """Before anything is cosigned under it."""
    with pytest.raises(LogError, match="name"):
        load_cosigners(tmp_path, name)


def test_a_witness_takes_no_witnesss_key_for_a_logs(tmp_path: Path) -> None:
    """Keys have roles, and origins a length."""
    with pytest.raises(LogError, match="Pin the right one"):
        witness(tmp_path, logs=[KEYS[0]])
    with pytest.raises(LogError, match="255"):
        witness(tmp_path, logs=[Signer("o" * 256, private_key(3)).verifier])


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> tuple[int, str, str]:
    async with session.post(f"{url}/add-checkpoint", data=body) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


@pytest.mark.integration
async def test_the_specification_over_http(tmp_path: Path) -> None:
    """Each status, with its media type and body, from a served witness."""
    plain = "text/plain; charset=utf-8"
    stranger = Tree(signer=Signer("log.example/two", private_key(4)))
    false = Signer(LOG.name, private_key(9)).sign(TREE.head(5).text)
    async with running(tmp_path) as one, aiohttp.ClientSession() as session:
        async with session.get(one.url + PATH) as answer:
            assert answer.status == 404
        assert (await post(session, one.url, b"old 0\n"))[:2] == (400, plain)
        assert (await post(session, one.url, stranger.request(0, 1)))[:2] == (404, plain)
        assert (await post(session, one.url, TREE.request(0, 5, false)))[:2] == (403, plain)
        status, kind, text = await post(session, one.url, TREE.request(0, 5))
        assert (status, kind) == (200, plain)
        note = merged(TREE.head(5), text)
        assert {c.key for c in verify_cosignatures(note, one.keys)} == set(one.keys)
        conflict = await post(session, one.url, TREE.request(0, 7))
        assert conflict == (409, "text/x.tlog.size", "5\n")
        assert (await post(session, one.url, Tree("b").request(5, 7)))[:2] == (422, plain)
        async with session.get(one.url + PATH) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, plain)
            assert await answer.text() == note.format()
        async with session.get(f"{one.url}/healthz") as answer:
            assert answer.status == 200
        async with session.get(f"{one.url}/add-checkpoint") as answer:
            assert answer.status == 405
        async with session.post(one.url + PATH) as answer:
            assert answer.status == 405
        for path in ("/", "/vkey", "/ed25519.pem", PATH.upper(), PATH + "/", "/sign-subtree"):
            async with session.get(one.url + path) as answer:
                assert answer.status == 404
    labels = {"log": LOG.name}
    assert one.registry.get_sample_value("sotto_witness_size", labels) == 5
    assert one.registry.get_sample_value("sotto_witness_cosigned_total", labels) == 1


@pytest.mark.integration
async def test_large_bodies_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """By their length where it is told, else as soon as they are too long."""

    async def chunks() -> object:
        for _ in range(64):
            yield b"x" * 8192

    async with running(tmp_path) as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.split(":")[-1]))
        writer.write(
            b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 99999999\r\n\r\nold 0"
        )
        # The answer comes though the body never does.
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.close()
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{one.url}/add-checkpoint", data=chunks()) as answer:
                assert answer.status == 413
            assert (await post(session, one.url, TREE.request(0, 1)))[0] == 200


@pytest.mark.integration
async def test_broken_requests_do_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Anyone can send half a body, or one that is not compressed as it says, all day long."""
    head = b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 9\r\n"
    async with running(tmp_path) as one:
        port = int(one.url.split(":")[-1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"Content-Encoding: gzip\r\n\r\nno gzip..")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"\r\nold")
        await asyncio.sleep(0.1)
        writer.transport.abort()
        async with aiohttp.ClientSession() as session:
            assert (await post(session, one.url, TREE.request(0, 1)))[0] == 200
    assert not [line for line in caplog.records if line.levelname == "ERROR"]


@pytest.mark.integration
async def test_connections_are_kept(tmp_path: Path) -> None:
    """One connection carries one request after the other, refused ones too."""
    async with running(tmp_path) as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.split(":")[-1]))
        for body, status in (
            (TREE.request(3, 7), b"409"),
            (b"nonsense", b"400"),
            (TREE.request(0, 7), b"200"),
        ):
            head = (
                f"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 " + status)
            (length,) = [
                int(line.split(b":")[1])
                for line in answer.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            ]
            await reader.readexactly(length)
        writer.close()


@pytest.mark.integration
async def test_concurrent_requests_over_http(tmp_path: Path) -> None:
    """Many forks at once over many connections: one is cosigned, and it is the one recorded."""
    async with running(tmp_path) as one, aiohttp.ClientSession() as session:
        assert (await post(session, one.url, Tree(shared=5).request(0, 5)))[0] == 200
        forks = [Tree(f"fork {n}", shared=5) for n in range(20)]
        answers = await asyncio.gather(*(post(session, one.url, f.request(5, 6)) for f in forks))
        assert [status for status, _, _ in answers].count(200) == 1
        winner = [status for status, _, _ in answers].index(200)
        assert published(tmp_path)[1].text == forks[winner].head(6).text
