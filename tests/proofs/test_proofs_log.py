"""The log on disk: appended, redelivered, killed, damaged and contended."""

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_support import LOG, audit_folder, batch, entry, settle

from proofs import merkle
from proofs.checkpoint import Checkpoint, open_checkpoint
from proofs.errors import LogError, UnreadableError
from proofs.log.history import History, entries_between
from proofs.log.index import ids_between
from proofs.log.keyfile import load_or_create_signer
from proofs.log.sequencer import Sequencer
from proofs.log.store import LogStore
from proofs.note import Note, Signer, parse_note
from proofs.tiles import (
    Tile,
    decode_entries,
    encode_entries,
    new_tiles,
    parse_tile,
    tiles_of,
)
from proofs.tlogproof import parse_tlog_proof


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
        results = settle(sequencer, batch(*range(at, at + width)))
        assert [r.index for r in results] == list(range(at, at + width))
        for result in results[:: max(1, width // 10)]:
            head = parse_tlog_proof(result.proof).verify(entry(int(result.id)), [LOG.verifier])
            assert head.size == at + width
        at += width
    sequencer.close()
    _, entries = audit_folder(tmp_path)
    assert entries == [entry(n) for n in range(at)]
    # Where the full tile is there, its partial ones are gone.
    assert not (tmp_path / "tile/0/000.p").exists()


def test_an_entry_delivered_again_keeps_its_place(tmp_path: Path) -> None:
    """In one batch, in a later one, and after a restart: one leaf, and a fresh proof of it."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    assert [r.index for r in settle(sequencer, [*batch(1, 2), ("again", entry(1))])] == [0, 1, 0]
    assert [r.index for r in settle(sequencer, batch(2, 3))] == [1, 2]
    sequencer.close()
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    (result,) = settle(sequencer, batch(1))
    assert result.index == 0
    assert parse_tlog_proof(result.proof).verify(entry(1), [LOG.verifier]).size == 3
    assert settle(sequencer, []) == []
    assert sequencer.size == 3
    sequencer.close()


def test_a_lost_or_broken_index_is_rebuilt(tmp_path: Path) -> None:
    """The tiles have all that the index had."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    settle(sequencer, batch(*range(300)))
    sequencer.close()
    index = tmp_path / "index.sqlite"
    for damage in (index.unlink, lambda: index.write_bytes(b"not a database" * 100)):
        damage()
        sequencer = Sequencer(LogStore(tmp_path, LOG))
        assert [r.index for r in settle(sequencer, batch(299, 7))] == [299, 7]
        sequencer.close()
    assert audit_folder(tmp_path)[0].size == 300


def test_an_index_ahead_of_the_checkpoint_is_cut_back(tmp_path: Path) -> None:
    """Entries that were never committed are not taken for logged."""
    sequencer = Sequencer(LogStore(tmp_path / "ahead", LOG))
    settle(sequencer, batch(*range(10)))
    sequencer.close()
    sequencer = Sequencer(LogStore(tmp_path / "log", LOG))
    settle(sequencer, batch(*range(5)))
    sequencer.close()
    shutil.copy(tmp_path / "ahead" / "index.sqlite", tmp_path / "log" / "index.sqlite")
    sequencer = Sequencer(LogStore(tmp_path / "log", LOG))
    assert [r.index for r in settle(sequencer, batch(9, 4))] == [5, 4]
    sequencer.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """Two writers would fork the log, so the second one never starts."""
    with LogStore(tmp_path, LOG), pytest.raises(LogError, match="Another process"):
        LogStore(tmp_path, LOG)
    with LogStore(tmp_path, LOG) as store:
        assert store.head.size == 0


@pytest.mark.parametrize("name", ["head", "checkpoint"])
def test_a_writer_that_goes_around_the_lock_is_noticed(tmp_path: Path, name: str) -> None:
    """A file that changed under the store is not overwritten, and the store stops."""
    with LogStore(tmp_path / "copy", LOG) as other:
        other.commit([b"theirs"])
        other.publish(other.signed_head, 1)
    store = LogStore(tmp_path / "log", LOG)
    store.publish(store.signed_head, 1)
    served = store.published
    theirs = (tmp_path / "copy" / name).read_text()
    (tmp_path / "log" / name).write_text(theirs)
    with pytest.raises(LogError, match="Somebody else"):
        store.commit([b"ours"])
        store.publish(store.signed_head, 2)
    assert (tmp_path / "log" / name).read_text() == theirs
    assert store.published == served
    with pytest.raises(LogError, match="closed"):
        store.commit([b"more"])


def test_only_the_committed_head_can_be_published(tmp_path: Path) -> None:
    """Another tree, an older one and a note that the log did not sign are not served."""
    with LogStore(tmp_path, LOG) as store:
        older = store.signed_head
        store.commit([b"one"])
        foreign = Signer(LOG.name, Ed25519PrivateKey.generate()).sign(store.head.format())
        for note in (older, foreign.format(), "no note", LOG.sign("no checkpoint\n").format()):
            with pytest.raises(LogError):
                store.publish(note, 1)
        assert store.published == ""
        store.publish(store.signed_head, 1)
        assert store.is_published


def test_cosignatures_are_published_with_the_head(tmp_path: Path) -> None:
    """What is served, and what is proven against, is the note that came back."""
    witness = Signer("witness.example/w", Ed25519PrivateKey.generate())
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    places = sequencer.commit(batch(1))
    assert not (tmp_path / "checkpoint").exists()
    own = parse_note(sequencer.signed_head)
    line = witness.sign(own.text).signatures[0]
    cosigned = Note(own.text, (*own.signatures, line)).format()
    sequencer.publish(cosigned)
    assert (tmp_path / "checkpoint").read_text() == cosigned
    (result,) = sequencer.prove(places)
    assert parse_tlog_proof(result.proof).checkpoint.format() == cosigned
    assert (tmp_path / "head").read_text() == sequencer.signed_head == own.format()
    sequencer.close()


def test_what_was_committed_is_published_by_the_next_start(tmp_path: Path) -> None:
    """Between commit and publication the old tree is served, whole; then the new one is."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    settle(sequencer, batch(*range(200)))
    sequencer.commit(batch(*range(200, 300)))
    sequencer.close()
    assert audit_folder(tmp_path)[0].size == 200
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    assert (sequencer.size, sequencer.is_published) == (300, False)
    assert audit_folder(tmp_path)[0].size == 200
    sequencer.publish(sequencer.signed_head)
    assert audit_folder(tmp_path)[0].size == 300
    assert not (tmp_path / "tile/0/000.p").exists()
    sequencer.close()


def test_consistency_proofs_are_of_the_committed_tree(tmp_path: Path) -> None:
    """Witnesses are shown that each head follows from any earlier one."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    heads = []
    for step in range(12):
        sequencer.commit(batch(*range(step * 50, step * 50 + step * 7)))
        heads.append(open_checkpoint(sequencer.signed_head, [LOG.verifier]))
    last = heads[-1]
    for head in heads[2:]:
        proof = sequencer.consistency(head.size)
        assert merkle.verify_consistency(head.size, last.size, head.root, last.root, proof)
    assert sequencer.consistency(0) == []
    with pytest.raises(LogError):
        sequencer.consistency(last.size + 1)
    sequencer.close()


def test_a_folder_of_the_earlier_form_goes_on(tmp_path: Path) -> None:
    """Where the checkpoint was the head, the head is made of it, and no index has ids."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    settle(sequencer, batch(*range(5)))
    sequencer.close()
    for name in ("head", "history", "index.sqlite"):
        (tmp_path / name).unlink()
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as old, old:
        old.execute(
            "CREATE TABLE entries (entry BLOB PRIMARY KEY, place INTEGER NOT NULL) WITHOUT ROWID"
        )
        old.execute("CREATE UNIQUE INDEX places ON entries (place)")
        old.executemany("INSERT INTO entries VALUES (?, ?)", [(entry(n), n) for n in range(5)])
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    assert (tmp_path / "head").read_text() == (tmp_path / "checkpoint").read_text()
    assert [r.index for r in settle(sequencer, batch(4, 5))] == [4, 5]
    sequencer.close()
    assert audit_folder(tmp_path)[0].size == 6
    assert list(ids_between(tmp_path, 0, 10)) == [(4, "4"), (5, "5")]
    assert (tmp_path / "index.sqlite").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "head").unlink(),
        lambda folder: (folder / "head").write_text("cut\n"),
        lambda folder: (folder / "head").write_bytes(b"\xff"),
        lambda folder: (folder / "checkpoint").write_text("cut\n"),
        lambda folder: (folder / "checkpoint").write_bytes(b"\xff"),
        lambda folder: (folder / "head").write_text(_head_of_nothing()),
        lambda folder: (folder / "tile/0/000.p/5").write_bytes(bytes(160)),
        lambda folder: (folder / "tile/0/000.p/5").write_bytes(b"short"),
        lambda folder: (folder / "tile/0/000.p/5").unlink(),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: object) -> None:
    """A writer that does not find its log whole does not go on from a guess."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    settle(sequencer, batch(*range(5)))
    sequencer.close()
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(LogError, match="damaged"):
        LogStore(tmp_path, LOG)


def _head_of_nothing() -> str:
    return LOG.sign(Checkpoint(LOG.name, 0, merkle.EMPTY_ROOT).format()).format()


def test_a_lost_checkpoint_is_published_again(tmp_path: Path) -> None:
    """The head has all that the checkpoint had, but for the cosignatures."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    settle(sequencer, batch(*range(5)))
    sequencer.close()
    history = (tmp_path / "history").read_bytes()
    (tmp_path / "checkpoint").unlink()
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    assert not sequencer.is_published
    sequencer.publish(sequencer.signed_head)
    sequencer.close()
    assert audit_folder(tmp_path)[0].size == 5
    assert (tmp_path / "history").read_bytes() == history


def test_every_new_name_is_synced_before_it_is_relied_upon(tmp_path: Path) -> None:
    """No folder or file that a head stands on is lost with the power while the key stays.

    What the system was asked to sync is written down by the interpreter (sys.setprofile).
    """
    synced: set[str] = set()

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function is os.fsync:
            for name in ("handle", "file"):
                held = frame.f_locals.get(name)
                if held is not None:
                    number = held if isinstance(held, int) else held.fileno()
                    synced.add(str(Path(f"/proc/self/fd/{number}").readlink()))

    folder = tmp_path / "new" / "log"
    sys.setprofile(note)
    try:
        store = LogStore(folder, LOG)
        store.commit([entry(n) for n in range(257)])
    finally:
        sys.setprofile(None)
    store.close()
    folders = {tmp_path, tmp_path / "new", folder, folder / "tile"}
    for level in ("0", "1", "entries"):
        folders |= {folder / "tile" / level}
    for partial in ("0/001.p", "1/000.p", "entries/001.p"):
        folders |= {folder / "tile" / partial}
    assert {str(one) for one in folders} <= synced
    assert {str(folder / "tile" / name) + ".new" for name in ("0/000", "entries/000")} <= synced
    assert str(folder / "head") + ".new" in synced


def test_another_key_or_origin_is_refused(tmp_path: Path) -> None:
    """A log goes on under its own name and key only."""
    LogStore(tmp_path, LOG).close()
    for signer in (
        Signer("log.example/two", LOG.key),
        Signer(LOG.name, Ed25519PrivateKey.generate()),
    ):
        with pytest.raises(LogError):
            LogStore(tmp_path, signer)


def test_what_a_crash_left_beyond_the_head_is_overwritten(tmp_path: Path) -> None:
    """Tiles of a batch whose head never came do not enter the tree."""
    with LogStore(tmp_path, LOG) as store:
        store.commit([entry(n) for n in range(200)])
        store.publish(store.signed_head, 1)
        before = (tmp_path / "head").read_bytes()
        store.commit([b"lost" + bytes([n]) for n in range(100)])
    # As if the machine had stopped before the last rename.
    (tmp_path / "head").write_bytes(before)
    with LogStore(tmp_path, LOG) as store:
        assert store.head.size == 200
        store.commit([b"kept" + bytes([n]) for n in range(100)])
        store.publish(store.signed_head, 2)
    _, entries = audit_folder(tmp_path)
    assert not any(e.startswith(b"lost") for e in entries)
    assert len(entries) == 300


def test_history_maps_times_to_entries(tmp_path: Path) -> None:
    """A range of time is what was published in it, whatever the clock did."""
    path = tmp_path / "history"
    history = History(path, 0)
    for at, size in ((1000, 3), (2000, 7), (2000, 8), (1500, 9), (4000, 9), (5000, 12)):
        history.append(at, size)
    history.close()
    for since, until, found in (
        (0, 1000, range(0)),
        (0, 1001, range(3)),
        (1000, 2000, range(3)),
        (1001, 2001, range(3, 9)),
        (2001, 5000, range(9, 9)),
        (0, 10**15, range(12)),
        (5001, 10**15, range(12, 12)),
        (4000, 1000, range(9, 9)),
    ):
        assert entries_between(path, since, until) == found, (since, until)


@pytest.mark.parametrize(
    "tail", [b"", b"\0" * 5, b"\0" * 48, (9000).to_bytes(8, "big") * 2, b"x" * 39]
)
@pytest.mark.parametrize("cut", [0, 1, 16, 31])
def test_a_torn_history_is_repaired(tmp_path: Path, tail: bytes, cut: int) -> None:
    """Half records, zeros and records of what was never published go; what is lost is made up."""
    path = tmp_path / "history"
    history = History(path, 0)
    history.append(1000, 3)
    history.append(2000, 7)
    history.close()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut] + tail)
    repaired = History(path, 7)
    repaired.append(2500, 7)
    repaired.append(3000, 8)
    repaired.close()
    assert entries_between(path, 0, 1001) == (range(3) if cut < 17 else range(0))
    assert entries_between(path, 0, 2501) == range(7)
    assert entries_between(path, 2501, 3001) == range(7, 8)
    assert path.stat().st_size % 16 == 0


def test_a_full_disk_publishes_nothing(tmp_path: Path) -> None:
    """A tile that cannot be written stops the store with its old head in place."""
    store = LogStore(tmp_path, LOG)
    store.commit([entry(0)])
    before = (tmp_path / "head").read_bytes()
    shutil.rmtree(tmp_path / "tile" / "0")
    (tmp_path / "tile" / "0").write_text("in the way")
    with pytest.raises(LogError):
        store.commit([entry(1)])
    assert (tmp_path / "head").read_bytes() == before


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
    for origin in ("not a name", "log.example/" + "x" * 244):
        with pytest.raises(LogError, match="origin"):
            load_or_create_signer(path, origin)
    path.write_text("")
    with pytest.raises(LogError, match="no Ed25519 key"):
        load_or_create_signer(path, "log.example/one")
