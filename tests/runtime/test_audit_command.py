"""`sotto audit export`: a user's range out of a device, an operator's out of a log."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from memory.keys import ThreadKeys
from proofs.archive import ArchiveReader, EntryRecord
from proofs.bundle import bundle_entry
from proofs.log.sequencer import Sequencer
from proofs.log.store import LogStore
from proofs.receipt import decode_receipt, receipt_entry
from runtime.cli import main
from runtime.client.home import DeviceHome
from runtime.sealing import open_receipt, seal_receipt
from runtime.streams import bundle_key, receipt_key
from tests.proofs.archive_support import LATER, Conversation, judge, source
from tests.proofs.proofs_support import LOG, NOW
from tests.runtime.home_support import fill_home, write_policy

Command = Callable[..., tuple[int, str, str]]
KEYS = ThreadKeys(b"k" * 32)
# Batches, when they were published, and how many entries the log had then.
BATCHES = ((NOW + 60, 3), (NOW + 120, 5), (NOW + 180, 7))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """`sotto` in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "defect" not in out + err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def story() -> Conversation:
    """Five turns."""
    return Conversation.of(5)


@pytest.fixture
def folder(tmp_path: Path, story: Conversation) -> Path:
    """A log's folder with the bundle and the receipts in three batches, at known times."""
    names = [hashlib.sha256(story.bundle).hexdigest()]
    names += [decode_receipt(one).unverified.receipt_id.hex() for one in story.receipts]
    entries = [bundle_entry(story.bundle), *map(receipt_entry, story.receipts)]
    leaves = [("first", b"e" * 32), *zip(names, entries, strict=True)]
    sequencer = Sequencer(LogStore(tmp_path / "log", LOG))
    done = 0
    for time, size in BATCHES:
        sequencer.commit(leaves[done:size])
        sequencer.publish(sequencer.signed_head, lambda at=time: at)  # type: ignore[misc]
        done = size
    sequencer.close()
    return tmp_path / "log"


@pytest.fixture
def url(tmp_path: Path, valkey: str) -> Path:
    """A file with the address of Redis."""
    file = tmp_path / "url"
    file.write_text(valkey + "\n")
    return file


def _export(command: Command, file: Path, since: int, until: int, *more: object) -> str:
    code, out, err = command("audit", "export", file, "--since", since, "--until", until, *more)
    assert (code, err) == (0, ""), err
    return out


def test_a_users_range_is_exported_and_verifies(
    command: Command, story: Conversation, tmp_path: Path
) -> None:
    """Over all personas, by the receipts' own time, with words where they are asked for."""
    home = DeviceHome(tmp_path / "home")
    fill_home(home, story, "wren")
    fill_home(home, Conversation.of(2, number=1), "tunde")
    home.close()
    file = tmp_path / "range"
    _export(command, file, NOW, NOW + 3600, "--home", tmp_path / "home", "--with-text")
    rules = write_policy(tmp_path)
    code, out, _ = command("verify", file, "--policy", rules, "--at", LATER, "--json")
    told = json.loads(out)
    assert (code, told["archive"], told["since"], told["until"]) == (0, "audit", NOW, NOW + 3600)
    assert (told["counts"]["receipts"], told["counts"]["threads"]) == (7, 2)
    assert "answer 4" in command("verify", file, "--policy", rules, "--at", LATER)[1]


def test_an_operators_range_is_what_the_log_published_in_it(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    """By its own history: a batch belongs to the time at which it could be seen."""
    file = tmp_path / "range"
    for since, until, first, end in (
        (NOW, NOW + 61, 0, 3),
        (NOW + 61, NOW + 121, 3, 5),
        (NOW, NOW + 500, 0, 7),
        (NOW + 61, NOW + 90, 3, 3),
        (NOW + 400, NOW + 500, 7, 7),
    ):
        out = _export(command, file, since, until, "--log", folder, "--json")
        assert json.loads(out)["counts"].get("entries", 0) == end - first
        report = judge(file.read_bytes())
        assert report.holds
        (shown,) = [step.detail for step in report.steps if step.number == 8]
        assert shown == f"entries: {end - first} from index {first} on, of 7"


def test_the_output_says_what_an_operator_can_prove_and_cannot(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    """Number, place and time; not what was said."""
    out = _export(command, tmp_path / "range", NOW, NOW + 500, "--log", folder)
    assert "What it proves" in out
    assert "What it does not prove: what was said" in out


async def _keep_in_redis(client: Redis, story: Conversation) -> None:
    for signed in story.receipts:
        name = decode_receipt(signed).unverified.receipt_id
        sealed = seal_receipt(KEYS, name, signed, bytes(12))
        await client.hset(receipt_key(name.hex()), mapping={"sealed": sealed})
    digest = hashlib.sha256(story.bundle).hexdigest()
    await client.hset(bundle_key(digest), mapping={"bundle": story.bundle, "proof": "x"})


async def test_sealed_receipts_and_bundles_come_from_redis(
    command: Command, folder: Path, story: Conversation, redis_client: Redis, url: Path
) -> None:
    """Only their owner can open them, and then each is the one of its entry."""
    await _keep_in_redis(redis_client, story)
    file = url.with_name("range")
    options = ("--log", folder, "--redis-url-file", url)
    await asyncio.to_thread(_export, command, file, NOW, NOW + 500, *options)
    data = file.read_bytes()
    report = judge(data)
    assert report.holds
    assert (report.counts["sealed"], report.counts["bundles"]) == (5, 1)
    assert {1, 7, 8, 9, 10} == {step.number for step in report.steps}
    opened = 0
    for _, record in ArchiveReader(source(data), len(data)).records():
        if isinstance(record, EntryRecord) and record.sealed is not None:
            name = bytes.fromhex(record.identifier or "")
            assert receipt_entry(open_receipt(KEYS, name, record.sealed)) == record.entry
            opened += 1
    assert opened == 5


async def test_a_bundle_that_redis_swapped_is_left_out(
    command: Command, folder: Path, story: Conversation, redis_client: Redis, url: Path
) -> None:
    """Whoever holds Redis cannot put another under the name."""
    digest = hashlib.sha256(story.bundle).hexdigest()
    await redis_client.hset(bundle_key(digest), mapping={"bundle": story.bundle + b"x"})
    file = url.with_name("range")
    options = ("--log", folder, "--redis-url-file", url)
    await asyncio.to_thread(_export, command, file, NOW, NOW + 500, *options)
    assert "bundles" not in judge(file.read_bytes()).counts


def test_no_secret_of_the_url_is_told(command: Command, folder: Path, tmp_path: Path) -> None:
    """A Redis that is away is one line without its address and password."""
    (tmp_path / "url").write_text("unix://:hunter2@/nonexistent/hunter2.sock")
    (tmp_path / "bad").write_text("hunter2")
    for name in ("url", "bad"):
        code, out, err = command(
            *("audit", "export", tmp_path / "range", "--since", NOW, "--until", NOW + 500),
            *("--log", folder, "--redis-url-file", tmp_path / name),
        )
        assert code in (1, 2)
        assert len(err.splitlines()) == 1
        assert "hunter2" not in out + err
    assert list(tmp_path.glob("*range*")) == []


def test_a_changed_log_is_not_exported(command: Command, folder: Path, tmp_path: Path) -> None:
    """An entry that is not that of the tree ends the export, and leaves no file."""
    (bundle,) = folder.glob("tile/entries/*.p/7")
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    bundle.write_bytes(data)
    code, _, err = command(
        *("audit", "export", tmp_path / "range", "--log", folder),
        *("--since", NOW, "--until", NOW + 500),
    )
    assert code == 1
    assert len(err.splitlines()) == 1
    assert list(tmp_path.glob("*range*")) == []


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--since", "9", "--until", "9"), "before"),
        (("--since", "1", "--until", "2", "--entries", "0:1"), "--log"),
        (("--since", "1", "--until", "2", "--entries", "2:1", "--log", "x"), "FIRST:END"),
        (("--since", "1", "--until", "2", "--with-text", "--log", "x"), "no text"),
        (("--since", "1", "--until", "2", "--log", "x", "--redis-url-file", "y"), "cannot be read"),
        (("--since", "soon", "--until", "2"), "ISO 8601"),
        (("--since", "1"), "--until"),
    ],
)
def test_usage_is_said_in_words(
    command: Command, tmp_path: Path, more: tuple[str, ...], word: str
) -> None:
    """Exit 2."""
    code, _, err = command("audit", "export", tmp_path / "range", *more, "--home", tmp_path / "h")
    assert code == 2
    assert word in err


def test_a_folder_that_is_no_log_is_said(command: Command, tmp_path: Path) -> None:
    """One line."""
    (tmp_path / "empty").mkdir()
    code, _, err = command(
        *("audit", "export", tmp_path / "range", "--log", tmp_path / "empty"),
        *("--since", NOW, "--until", NOW + 500),
    )
    assert code == 1
    assert len(err.splitlines()) == 1


def test_a_mirror_without_times_takes_a_range_of_entries(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    """As a URL has none; without --entries it says so."""
    (folder / "history").unlink()
    (folder / "index.sqlite").unlink()
    file = tmp_path / "range"
    options = ("--since", NOW, "--until", NOW + 500, "--log", folder)
    code, _, err = command("audit", "export", file, *options)
    assert code == 1
    assert "own folder" in err
    assert command("audit", "export", file, *options, "--entries", "2:6")[0] == 0
    report = judge(file.read_bytes())
    assert report.holds
    assert report.counts["entries"] == 4
    assert command("audit", "export", file, *options, "--entries", "2:60")[0] == 1
