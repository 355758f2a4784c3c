"""The log on disk: appended, redelivered, killed, damaged and contended."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from proofs_support import LOG, private_key, repository

from proofs import merkle
from proofs.checkpoint import Checkpoint, open_checkpoint
from proofs.errors import LogError, UnreadableError
from proofs.log.keyfile import load_or_create_signer
from proofs.log.sequencer import Sequencer
from proofs.log.store import LogStore
from proofs.note import Signer
from proofs.tiles import (
    Tile,
    decode_entries,
    encode_entries,
    new_entry_bundles,
    new_tiles,
    parse_tile,
    tiles_of,
)
from proofs.tlogproof import parse_tlog_proof


def entry(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def batch(*numbers: int) -> list[tuple[str, bytes]]:
    return [(str(n), entry(n)) for n in numbers]


def audit(folder: Path) -> tuple[Checkpoint, list[bytes]]:
    """Read a log as a stranger does: checkpoint, tiles and entries from the files alone."""
    head = open_checkpoint((folder / "checkpoint").read_text(), [LOG.verifier])
    entries = []
    for tile in new_entry_bundles(0, head.size):
        entries += decode_entries((folder / tile.path).read_bytes(), tile.width)
    leaves = [merkle.leaf_hash(e) for e in entries]
    assert len(entries) == head.size
    assert merkle.root(leaves) == head.root
    for tile in tiles_of(head.size):
        span = 256**tile.level
        first = tile.index * 256
        expected = b"".join(
            merkle.root(leaves[i * span : (i + 1) * span]) for i in range(first, first + tile.width)
        )
        assert (folder / tile.path).read_bytes() == expected
    return head, entries


def test_tiles_of_the_specifications_example() -> None:
    """A tree of 70,000 has the tiles that c2sp.org/tlog-tiles counts."""
    tiles = list(tiles_of(70_000))
    full = [t for t in tiles if t.width == 256]
    assert sum(t.level == 0 for t in full) == 273
    assert sum(t.level == 1 for t in full) == 1
    assert [(t.level, t.width) for t in tiles if t.width < 256] == [(0, 112), (1, 17), (2, 1)]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []
    assert list(new_tiles(255, 256)) == [Tile(0, 0), Tile(1, 0, 1)]


def test_tile_paths() -> None:
    """Paths are those of the specification, and each tile has one."""
    assert Tile(3, 1234067).path == "tile/3/x001/x234/067"
    assert Tile(None, 5, 7).path == "tile/entries/005.p/7"
    for tile in (Tile(0, 0), Tile(7, 999), Tile(1, 1000, 255), Tile(None, 10**9, 1)):
        assert parse_tile(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/1",
        "tile/00/001",
        "tile/8/001",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/0001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/0/001.p/999",
        "tile/0/../checkpoint",
        "tile/entries/../../key",
        "tile/0/001/",
        "tile/0/001\n",
        "tile/0/\u0661\u0661\u0661",
        "tile/entry/001",
    ],
)
def test_other_paths_name_no_tile(path: str) -> None:
    """No second spelling, no way out of the folder."""
    with pytest.raises(UnreadableError):
        parse_tile(path)


def test_entry_bundles_are_read_exactly() -> None:
    """A bundle that is cut or longer than its width is noticed."""
    entries = [b"", b"a", b"bc" * 300]
    data = encode_entries(entries)
    assert decode_entries(data, 3) == entries
    for end in range(len(data)):
        with pytest.raises(UnreadableError):
            decode_entries(data[:end], 3)
    for tail in (b"\x00", b"\x00\x00"):
        with pytest.raises(UnreadableError):
            decode_entries(data + tail, 3)


def test_every_entry_gets_a_proof(tmp_path: Path) -> None:
    """Over the seams of tiles, each result proves its entry and files prove the tree."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    at = 0
    for width in (1, 1, 253, 1, 1, 255, 300, 700):
        results = sequencer.append(batch(*range(at, at + width)))
        assert [r.index for r in results] == list(range(at, at + width))
        for result in results[:: max(1, width // 10)]:
            head = parse_tlog_proof(result.proof).verify(entry(int(result.id)), [LOG.verifier])
            assert head.size == at + width
        at += width
    sequencer.close()
    _, entries = audit(tmp_path)
    assert entries == [entry(n) for n in range(at)]
    # Where the full tile is there, its partial ones are gone.
    assert not (tmp_path / "tile/0/000.p").exists()


def test_an_entry_delivered_again_keeps_its_place(tmp_path: Path) -> None:
    """In one batch, in a later one, and after a restart: one leaf, and a fresh proof of it."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    assert [r.index for r in sequencer.append([*batch(1, 2), ("again", entry(1))])] == [0, 1, 0]
    assert [r.index for r in sequencer.append(batch(2, 3))] == [1, 2]
    sequencer.close()
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    (result,) = sequencer.append(batch(1))
    assert result.index == 0
    assert parse_tlog_proof(result.proof).verify(entry(1), [LOG.verifier]).size == 3
    assert sequencer.append([]) == []
    assert sequencer.size == 3
    sequencer.close()


def test_a_lost_or_broken_index_is_rebuilt(tmp_path: Path) -> None:
    """The tiles have all that the index had."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    sequencer.append(batch(*range(300)))
    sequencer.close()
    index = tmp_path / "index.sqlite"
    for damage in (index.unlink, lambda: index.write_bytes(b"not a database" * 100)):
        damage()
        sequencer = Sequencer(LogStore(tmp_path, LOG))
        assert [r.index for r in sequencer.append(batch(299, 7))] == [299, 7]
        sequencer.close()
    assert audit(tmp_path)[0].size == 300


def test_an_index_ahead_of_the_checkpoint_is_cut_back(tmp_path: Path) -> None:
    """Entries that were never committed are not taken for logged."""
    sequencer = Sequencer(LogStore(tmp_path / "ahead", LOG))
    sequencer.append(batch(*range(10)))
    sequencer.close()
    sequencer = Sequencer(LogStore(tmp_path / "log", LOG))
    sequencer.append(batch(*range(5)))
    sequencer.close()
    shutil.copy(tmp_path / "ahead" / "index.sqlite", tmp_path / "log" / "index.sqlite")
    sequencer = Sequencer(LogStore(tmp_path / "log", LOG))
    assert [r.index for r in sequencer.append(batch(9, 4))] == [5, 4]
    sequencer.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """Two writers would fork the log, so the second one never starts."""
    with LogStore(tmp_path, LOG), pytest.raises(LogError, match="Another process"):
        LogStore(tmp_path, LOG)
    with LogStore(tmp_path, LOG) as store:
        assert store.head.size == 0


def test_a_writer_that_goes_around_the_lock_is_noticed(tmp_path: Path) -> None:
    """A checkpoint that changed under the store is not overwritten, and the store stops."""
    (tmp_path / "copy").mkdir()
    with LogStore(tmp_path / "copy", LOG) as other:
        other.append([b"theirs"])
    store = LogStore(tmp_path / "log", LOG)
    theirs = (tmp_path / "copy" / "checkpoint").read_text()
    (tmp_path / "log" / "checkpoint").write_text(theirs)
    with pytest.raises(LogError, match="Somebody else"):
        store.append([b"ours"])
    assert (tmp_path / "log" / "checkpoint").read_text() == theirs
    assert store.published != theirs


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "checkpoint").unlink(),
        lambda folder: (folder / "checkpoint").write_text("cut\n"),
        lambda folder: (folder / "checkpoint").write_bytes(b"\xff"),
        lambda folder: (folder / "tile/0/000.p/5").write_bytes(bytes(160)),
        lambda folder: (folder / "tile/0/000.p/5").write_bytes(b"short"),
        lambda folder: (folder / "tile/0/000.p/5").unlink(),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: object) -> None:
    """A writer that does not find its log whole does not go on from a guess."""
    with LogStore(tmp_path, LOG) as store:
        store.append([entry(n) for n in range(5)])
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(LogError):
        LogStore(tmp_path, LOG)


def test_another_key_or_origin_is_refused(tmp_path: Path) -> None:
    """A log goes on under its own name and key only."""
    LogStore(tmp_path, LOG).close()
    for signer in (Signer("log.example/two", LOG.key), Signer(LOG.name, private_key(9))):
        with pytest.raises(LogError):
            LogStore(tmp_path, signer)


def test_what_a_crash_left_beyond_the_head_is_overwritten(tmp_path: Path) -> None:
    """Tiles of a batch whose checkpoint never came do not enter the tree."""
    with LogStore(tmp_path, LOG) as store:
        store.append([entry(n) for n in range(200)])
        before = (tmp_path / "checkpoint").read_bytes()
        store.append([b"lost" + bytes([n]) for n in range(100)])
    # As if the machine had stopped before the last rename.
    (tmp_path / "checkpoint").write_bytes(before)
    for name in ("tile/0/000.p", "tile/entries/000.p"):
        assert not (tmp_path / name).exists()
    _restore_partial(tmp_path, [entry(n) for n in range(200)])
    with LogStore(tmp_path, LOG) as store:
        assert store.head.size == 200
        store.append([b"kept" + bytes([n]) for n in range(100)])
    _, entries = audit(tmp_path)
    assert not any(e.startswith(b"lost") for e in entries)
    assert len(entries) == 300


def _restore_partial(folder: Path, entries: list[bytes]) -> None:
    """The partial tiles are dropped only after the checkpoint: put them back."""
    for tile, data in (
        (Tile(0, 0, len(entries)), b"".join(merkle.leaf_hash(e) for e in entries)),
        (Tile(None, 0, len(entries)), encode_entries(entries)),
    ):
        (folder / tile.path).parent.mkdir()
        (folder / tile.path).write_bytes(data)


def test_a_full_disk_publishes_nothing(tmp_path: Path) -> None:
    """A tile that cannot be written stops the store with its old head in place."""
    store = LogStore(tmp_path, LOG)
    store.append([entry(0)])
    before = (tmp_path / "checkpoint").read_bytes()
    shutil.rmtree(tmp_path / "tile" / "0")
    (tmp_path / "tile" / "0").write_text("in the way")
    with pytest.raises(LogError):
        store.append([entry(1)])
    assert (tmp_path / "checkpoint").read_bytes() == before


def test_killed_writers_never_fork_the_log(tmp_path: Path) -> None:
    """Ended by SIGKILL anywhere in a batch and started again: one history, each leaf once."""
    choose = random.Random(7)
    writer = Path(__file__).with_name("log_writer.py")
    environment = {**os.environ, "PYTHONPATH": str(repository())}
    known: list[bytes] = []
    delivered = 0
    for _ in range(16):
        process = subprocess.Popen(
            [sys.executable, str(writer), str(tmp_path), str(max(0, delivered - 150))],
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert process.stdout is not None
        # The first line says that it works; then it dies at any moment of some later batch.
        lines = [process.stdout.readline()]
        timer = threading.Timer(choose.uniform(0.0, 0.25), process.send_signal, [signal.SIGKILL])
        timer.start()
        lines += process.stdout.readlines()
        timer.join()
        assert process.wait() == -signal.SIGKILL
        said = [line for line in lines if line.endswith(b"\n")]
        delivered, size = (int(word) for word in said[-1].split())
        head, entries = audit(tmp_path)
        assert head.size >= size
        assert entries[: len(known)] == known
        assert len(set(entries)) == len(entries)
        known = entries
    assert len(known) > 100
    assert known == [entry(n) for n in range(len(known))]


def test_the_key_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    """A log keeps its key over restarts, and refuses one that others may read."""
    path = tmp_path / "keys" / "log.pem"
    signer = load_or_create_signer(path, "log.example/one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_signer(path, "log.example/one").verifier == signer.verifier
    path.chmod(0o644)
    with pytest.raises(LogError, match="chmod 600"):
        load_or_create_signer(path, "log.example/one")
    path.chmod(0o600)
    with pytest.raises(LogError, match="origin"):
        load_or_create_signer(path, "not a name")
    path.write_text("")
    with pytest.raises(LogError, match="no Ed25519 key"):
        load_or_create_signer(path, "log.example/one")
