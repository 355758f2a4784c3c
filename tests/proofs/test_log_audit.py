"""A log read and audited by others: what is whole holds, and whatever is changed is found."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_support import LOG, batch, entry, settle

from proofs import merkle
from proofs.checkpoint import Checkpoint
from proofs.cosignature import Cosigner
from proofs.errors import LogError, RefusedError, UnreadableError
from proofs.log.audit import Audit, audit_log
from proofs.log.reader import Folder, LogReader, Server, open_source
from proofs.log.sequencer import Sequencer
from proofs.log.store import LogStore
from proofs.note import Note, Signer, VerifierKey, parse_note
from proofs.tiles import Tile, encode_entries, new_entry_bundles, tiles_of

SIZE = 256 * 2 + 44
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several tiles, grown in steps, with the checkpoints of each step."""
    folder = tmp_path_factory.mktemp("logs") / "whole"
    sequencer = Sequencer(LogStore(folder, LOG))
    at = 0
    for number, step in enumerate((1, 9, 246, 4, SIZE - 260)):
        places = sequencer.commit(batch(*range(at, at + step)))
        sequencer.publish(sequencer.signed_head, lambda moment=number: 1000 + moment)
        sequencer.prove(places)
        at += step
        (folder.with_name(f"checkpoint-{at}")).write_text(sequencer.signed_head)
    sequencer.close()
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "log"))


def audit(folder: Path, *keys: VerifierKey, since: Path | None = None) -> Audit:
    note = parse_note(since.read_text()) if since is not None else None
    with LogReader(Folder(folder)) as reader:
        return audit_log(reader, keys, since=note)


def codes(found: Audit) -> set[str]:
    assert not found.holds
    return {problem.code for problem in found.problems}


def rewrite(folder: Path, tile: Tile, change: Callable[[bytes], bytes]) -> None:
    path = folder / tile.path
    path.write_bytes(change(path.read_bytes()))


def test_a_whole_log_holds(whole: Path) -> None:
    """Every tile and bundle is read, and every earlier checkpoint is of its growth."""
    files = len(list(tiles_of(SIZE))) + len(list(new_entry_bundles(0, SIZE)))
    for size in (1, 10, 256, 260, SIZE):
        found = audit(whole, LOG.verifier, since=whole.with_name(f"checkpoint-{size}"))
        assert (found.holds, found.signed, found.since) == (True, True, size), found.problems
        assert (found.files, found.checkpoint.size) == (files, SIZE)
    assert audit(whole).signed is None


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 512, 513])
def test_logs_of_every_shape_hold(tmp_path: Path, size: int) -> None:
    """Empty, partial, exactly full, and one more."""
    sequencer = Sequencer(LogStore(tmp_path, LOG))
    settle(sequencer, batch(*range(size)))
    sequencer.close()
    assert audit(tmp_path, LOG.verifier).holds


def test_every_changed_file_is_found(folder: Path) -> None:
    """One byte of any tile or bundle, one file less, one hash more."""
    for tile in (*tiles_of(SIZE), *new_entry_bundles(0, SIZE)):
        path = folder / tile.path
        data = path.read_bytes()
        for place in (0, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert codes(audit(folder)) & {"entry", "tile", "root"}, (tile, place)
        for other in (data + bytes(32), data[:-32], b""):
            path.write_bytes(other)
            assert codes(audit(folder)) & {"entry", "tile"}, tile
        path.unlink()
        assert "missing" in codes(audit(folder)), tile
        path.write_bytes(data)
    assert audit(folder).holds


def test_an_entry_of_another_length_is_found(tmp_path: Path) -> None:
    """Whatever else the tree says, this log has digests alone."""
    with LogStore(tmp_path, LOG) as store:
        store.commit([entry(0), b"a message, in the clear", entry(1)])
        store.publish(store.signed_head, 1)
    assert codes(audit(tmp_path, LOG.verifier)) == {"entry"}


def test_a_tree_that_was_made_anew_is_found(folder: Path) -> None:
    """Files that agree with each other and with their checkpoint, and not with what was seen."""
    shutil.rmtree(folder)
    sequencer = Sequencer(LogStore(folder, LOG))
    settle(sequencer, batch(*range(100), *range(1000, 1000 + SIZE)))
    sequencer.close()
    earlier = LOG.sign(_head(range(200)).format()).format()
    note = parse_note(earlier)
    with LogReader(Folder(folder)) as reader:
        assert codes(audit_log(reader, [LOG.verifier], since=note)) == {"consistency"}
        same = parse_note(LOG.sign(_head(range(100)).format()).format())
        assert audit_log(reader, [LOG.verifier], since=same).holds


def _head(numbers: range) -> Checkpoint:
    leaves = [merkle.leaf_hash(entry(n)) for n in numbers]
    return Checkpoint(LOG.name, len(leaves), merkle.root(leaves))


def test_a_checkpoint_of_another_tree_is_found(folder: Path) -> None:
    """Files that agree with each other, under a root that the log's own key signed for others."""
    forged = Checkpoint(LOG.name, SIZE, bytes(32))
    (folder / "checkpoint").write_text(LOG.sign(forged.format()).format())
    assert codes(audit(folder, LOG.verifier)) == {"root"}


def test_a_log_that_was_rolled_back_is_found(whole: Path, folder: Path) -> None:
    """It has less than it had; and a checkpoint of another log is none of its past."""
    shutil.rmtree(folder)
    sequencer = Sequencer(LogStore(folder, LOG))
    settle(sequencer, batch(*range(10)))
    sequencer.close()
    assert codes(audit(folder, since=whole.with_name(f"checkpoint-{SIZE}"))) == {"consistency"}
    other = Signer("log.example/two", LOG.key).sign(
        Checkpoint("log.example/two", 10, merkle.root([])).format()
    )
    with LogReader(Folder(folder)) as reader:
        assert codes(audit_log(reader, since=other)) == {"consistency"}


def test_an_earlier_tree_of_nothing_has_the_root_of_nothing(tmp_path: Path) -> None:
    """Of any log, the empty one too."""
    of_nothing = Checkpoint(LOG.name, 0, merkle.EMPTY_ROOT)
    for size in (0, 3):
        sequencer = Sequencer(LogStore(tmp_path / str(size), LOG))
        settle(sequencer, batch(*range(size)))
        sequencer.close()
        with LogReader(Folder(tmp_path / str(size))) as reader:
            assert audit_log(reader, since=LOG.sign(of_nothing.format())).holds
            false = LOG.sign(replace(of_nothing, root=bytes(32)).format())
            assert codes(audit_log(reader, since=false)) == {"consistency"}


def test_signatures_are_of_the_pinned_keys(folder: Path) -> None:
    """Another key of the log, a false signature, a witness that did not sign, and one that did."""
    other = Signer(LOG.name, Ed25519PrivateKey.generate())
    assert codes(audit(folder, other.verifier)) == {"signature"}
    witness = Cosigner("witness.example/w", Ed25519PrivateKey.generate())
    assert codes(audit(folder, LOG.verifier, witness.verifier)) == {"cosignature"}
    path = folder / "checkpoint"
    note = parse_note(path.read_text())
    line = witness.cosign(note, 1_800_000_000)
    path.write_text(Note(note.text, (*note.signatures, line)).format())
    found = audit(folder, LOG.verifier, witness.verifier)
    assert found.holds
    assert found.cosigned_by == (("witness.example/w", 1_800_000_000),)
    path.write_text(Note(note.text, (line,)).format())
    assert codes(audit(folder, LOG.verifier)) == {"signature"}


def test_problems_are_told_up_to_a_number(folder: Path) -> None:
    """A log that is all wrong is not told entry by entry."""
    rewrite(folder, Tile(0, 0), lambda data: bytes(len(data)))
    assert len(audit(folder).problems) == 20


def test_the_reader_proves_what_it_gives(folder: Path) -> None:
    """Entries come with the path to the root, and one that was changed does not come."""
    with LogReader(Folder(folder)) as reader:
        for number, (found, proof) in enumerate(reader.proofs(250, 261), 250):
            assert found == entry(number)
            assert proof.verify(found, [LOG.verifier]).size == SIZE
        assert list(reader.entries(0, SIZE)) == [entry(n) for n in range(SIZE)]
        first = _head(range(260))
        path = reader.consistency_proof(260)
        assert merkle.verify_consistency(260, SIZE, first.root, reader.checkpoint.root, path)
        for start, end in ((-1, 1), (0, SIZE + 1), (5, 4)):
            with pytest.raises(LogError):
                list(reader.entries(start, end))
    changed = [bytes(32), *(entry(n) for n in range(1, 256))]
    rewrite(folder, Tile(None, 0), lambda _: encode_entries(changed))
    with LogReader(Folder(folder)) as reader, pytest.raises(RefusedError):
        list(reader.entries(0, 1))


def test_times_and_ids_are_kept_for_the_operator(folder: Path) -> None:
    """A range of time is a range of entries, with the ids that they came under."""
    with LogReader(Folder(folder)) as reader:
        assert reader.entries_between(0, 1001) == range(1)
        assert reader.entries_between(1001, 1003) == range(1, 256)
        assert reader.entries_between(1004, 2000) == range(260, SIZE)
        assert reader.ids(254, 257) == {254: "254", 255: "255", 256: "256"}
    earlier = folder.joinpath("checkpoint").read_text()
    with LogReader(Folder(folder), earlier) as reader:
        (folder / "history").unlink()
        with pytest.raises(LogError, match="history"):
            reader.entries_between(0, 1)
        (folder / "index.sqlite").unlink()
        with pytest.raises(LogError, match="index"):
            reader.ids(0, 1)


def test_places_that_are_no_log(tmp_path: Path) -> None:
    """A folder without a log, a checkpoint that is none, a URL that is none."""
    with pytest.raises(LogError, match="no log"):
        LogReader(Folder(tmp_path))
    (tmp_path / "checkpoint").write_bytes(b"\xff")
    with pytest.raises(UnreadableError):
        LogReader(Folder(tmp_path))
    for url in ("http://", "http://user@host/", "http://host/?query", "http://[/", "https://h:x/"):
        with pytest.raises(UnreadableError):
            open_source(url)


class _Files(http.server.SimpleHTTPRequestHandler):
    """A plain file server that can compress, refuse, cut and redirect."""

    protocol_version = "HTTP/1.1"
    mode = ""

    def log_message(self, *_: Any) -> None:
        """Not on the screen."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if self.mode == "continue":
            with suppress(OSError):
                while True:
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.01)
        elif self.mode == "redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif not path.is_file():
            self.send_error(404)
        else:
            data = path.read_bytes()
            self.send_response(500 if self.mode == "broken" else 200)
            if self.mode in ("gzip", "bomb"):
                data = gzip.compress(data if self.mode == "gzip" else bytes(2**26))
                self.send_header("Content-Encoding", "gzip")
            if self.mode in ("long", "drip"):
                data = bytes(2**20)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.mode == "drip":
                with suppress(OSError):
                    while True:
                        self.wfile.write(b"Z")
                        time.sleep(0.01)
                return
            if self.mode == "cut":
                data = data[:-1]
                self.close_connection = True
            self.wfile.write(data)
            if self.mode == "closes":
                self.close_connection = True


@contextmanager
def serving(folder: Path, mode: str = "") -> Iterator[str]:
    handler = type("Files", (_Files,), {"mode": mode})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.integration
@pytest.mark.parametrize("mode", ["", "gzip", "closes"])
def test_a_log_is_audited_over_http(whole: Path, mode: str) -> None:
    """From any server of static files, one that compresses, and one that closes each time."""
    with serving(whole, mode) as url, LogReader(Server(url)) as reader:
        assert audit_log(reader, [LOG.verifier]).holds
        with pytest.raises(LogError, match="folder"):
            reader.ids(0, 1)


@pytest.mark.integration
@pytest.mark.parametrize("mode", ["bomb", "cut", "long", "broken", "redirect"])
def test_servers_that_answer_badly_are_refused(whole: Path, mode: str) -> None:
    """Answers without end, cut ones, errors, and another place: no log is read there."""
    with serving(whole, mode) as url, pytest.raises((LogError, UnreadableError)):
        LogReader(Server(url))


@pytest.mark.integration
@pytest.mark.parametrize("mode", ["drip", "continue"])
def test_an_answer_has_to_end(whole: Path, mode: str) -> None:
    """Byte by byte, or with ever another interim answer: no timeout of a single read ends that."""
    with serving(whole, mode) as url, pytest.raises(LogError, match="did not answer"):
        Server(url, answer_s=0.2).fetch("checkpoint", 2**20)


@pytest.mark.integration
def test_an_answer_that_is_cut_is_no_file(whole: Path) -> None:
    """What the network lost is not taken for what the log has."""
    with serving(whole, "cut") as url, pytest.raises(LogError, match="did not answer"):
        Server(url).fetch(Tile(0, 0).path, 8192)


@pytest.mark.integration
def test_a_partial_tile_may_have_become_full(folder: Path) -> None:
    """Whoever reads as of an earlier checkpoint finds its partial tiles in the full ones."""
    earlier = folder.joinpath("checkpoint").read_text()
    sequencer = Sequencer(LogStore(folder, LOG))
    settle(sequencer, batch(*range(SIZE, 800)))
    sequencer.close()
    assert not (folder / Tile(0, 2, 44).path).exists()
    with serving(folder) as url, LogReader(Server(url), earlier) as reader:
        assert audit_log(reader, [LOG.verifier]).holds


def command(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "runtime", "log", "audit", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_says_what_it_found(folder: Path, whole: Path) -> None:
    """Exit 0 where all holds, 1 where something does not, 2 where nothing can be read."""
    key = LOG.verifier.format()
    since = str(whole.with_name("checkpoint-260"))
    code, said, _ = command(str(folder), "--key", key, "--since-checkpoint", since)
    assert code == 0
    assert f"of {SIZE} entries: HOLDS" in said
    code, said, _ = command(str(folder), "--json", "--key", key)
    assert (code, json.loads(said)["holds"], json.loads(said)["signed"]) == (0, True, True)
    witness = Cosigner("witness.example/w", Ed25519PrivateKey.generate())
    note = parse_note((folder / "checkpoint").read_text())
    line = witness.cosign(note, 2**62)
    (folder / "checkpoint").write_text(Note(note.text, (*note.signatures, line)).format())
    code, said, _ = command(str(folder), "--key", witness.verifier.format())
    assert (code, f"by witness.example/w at {2**62} s" in said) == (0, True)
    rewrite(folder, Tile(0, 1), lambda data: data[:-1] + b"\x00")
    code, said, _ = command(str(folder))
    assert code == 1
    assert "DOES NOT HOLD" in said
    assert "not checked" in said
    assert "entry: Entry 511" in said
    code, said, _ = command(str(folder), "--json")
    assert (code, json.loads(said)["problems"][0]["code"]) == (1, "entry")
    for arguments in (
        [str(folder.parent)],
        [str(folder), "--key", "no key"],
        [str(folder), "--since-checkpoint", str(folder / "vkey")],
        ["http://"],
    ):
        code, said, errors = command(*arguments)
        assert (code, said, errors.count("\n")) == (2, "", 1), errors
