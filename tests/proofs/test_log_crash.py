"""The log's writer, killed or failed by the disk at every single step, and started again.

At each call to the file system or to SQLite that a run makes, a process of its own dies by
SIGKILL (or gets an error); what a stranger then finds in the folder is audited, another process
starts on it, and is given the leaves again, in another order and among others. Had anything that
was shown been lost, the tree would now be another one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from log_support import LOG, audit_folder, batch, entry, settle

from proofs import merkle
from proofs.checkpoint import Checkpoint, open_checkpoint
from proofs.cosereceipt import verify_cose_receipt
from proofs.log.sequencer import Sequencer
from proofs.log.store import LogStore
from proofs.tlogproof import parse_tlog_proof

HERE = Path(__file__).parent
REFUSED = 3
NEVER = 10**9


class Writer:
    """A process that forks writers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "log_writer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "PATH": ""},
        )

    def run(
        self, folder: Path, batches: list[list[int]], at: int = 0, fault: str = "kill"
    ) -> dict[str, Any]:
        """One run of a log, which a fault strikes at call `at`; 0: none does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"folder": str(folder), "batches": batches, "at": at, "fault": fault}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def writers() -> Iterator[list[Writer]]:
    """Two for all tests, so that the code is loaded once, and two cores have work."""
    made = [Writer(), Writer()]
    yield made
    for one in made:
        one.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, where the machine has such a folder: the disk's own waiting proves nothing."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


@dataclass
class Seen:
    """What anyone was shown of a log, by its files, to witnesses or in answers."""

    heads: list[Checkpoint] = field(default_factory=list)
    settled: list[tuple[int, int]] = field(default_factory=list)

    def files(self, folder: Path) -> None:
        """As a stranger finds them, at this moment: whole, or not there yet."""
        if (folder / "checkpoint").exists():
            self.heads.append(audit_folder(folder)[0])

    def told(self, said: list[tuple[str, Any]]) -> None:
        """What a run told: heads to witnesses, proofs to whoever handed leaves in."""
        for kind, what in said:
            if kind in ("cosigning", "published"):
                self.heads.append(open_checkpoint(what, [LOG.verifier]))
            elif kind == "settled":
                places, proven = what
                self.settled += [(int(number), index) for number, index in places]
                for (number, index), (text, cose) in zip(places[::64], proven, strict=True):
                    of, proof = entry(int(number)), parse_tlog_proof(text)
                    head = proof.verify(of, [LOG.verifier])
                    assert proof.index == index
                    assert verify_cose_receipt(bytes.fromhex(cose), of, [LOG.verifier]) == head
                    self.heads.append(head)

    def hold_in(self, folder: Path, numbers: set[int]) -> None:
        """Against the log as it is at last: every leaf once, and all that was shown is of it."""
        last, entries = audit_folder(folder)
        assert sorted(entries) == sorted(entry(n) for n in numbers)
        for number, index in self.settled:
            assert entries[index] == entry(number)
        leaves = [merkle.leaf_hash(e) for e in entries]
        for head in set(self.heads):
            assert head.root == merkle.root(leaves[: head.size])
        assert last.size == len(entries)


def log_of(folder: Path, size: int) -> None:
    """A log of `size` entries, published."""
    sequencer = Sequencer(LogStore(folder, LOG))
    settle(sequencer, batch(*range(size)))
    sequencer.close()


def earlier_form(folder: Path) -> None:
    """As versions left it that had no head of its own."""
    (folder / "head").unlink()
    (folder / "history").unlink()


def unpublished(folder: Path, size: int) -> None:
    """Committed, and not published."""
    sequencer = Sequencer(LogStore(folder, LOG))
    sequencer.commit(batch(*range(sequencer.size, size)))
    sequencer.close()


SHAPES: dict[str, tuple[int, list[list[int]]]] = {
    "a new log": (-1, [[0]]),
    "inside one tile": (200, [list(range(200, 230))]),
    "one more fills a tile": (255, [[255], [256]]),
    "over a tile's end": (250, [[3, *range(250, 263), 262]]),
    "over two tiles' ends": (250, [list(range(250, 515))]),
    "nothing new": (20, [[3, 4, 3]]),
}


def prepared(folder: Path, size: int) -> Path:
    if size >= 0:
        log_of(folder, size)
    return folder


def strike(writers: list[Writer], base: Path, batches: list[list[int]], fault: str) -> int:
    """Strike every call of a run over `base`, each in a copy of it; how many there were."""
    size = 0
    if (base / "head").exists():
        size = open_checkpoint((base / "head").read_text(), [LOG.verifier]).size
    elif (base / "checkpoint").exists():
        size = audit_folder(base)[0].size
    before = Seen()
    before.files(base)
    given = {number for numbers in batches for number in numbers}

    def struck(writer: Writer, at: int) -> int:
        """Strike one call, and go on; how many calls were made, where the run got to its end."""
        with copy_of(base) as work:
            seen = Seen([*before.heads])
            run = writer.run(work, batches, at, fault)
            seen.told(run["said"])
            seen.files(work)
            calls = dict(run["said"]).get("calls", 0)
            if calls < at and run["code"] == 0:
                return int(calls)
            # What the disk refuses is said; but what is only tidied up may fail in silence.
            assert run["code"] in ({-signal.SIGKILL} if fault == "kill" else {REFUSED, 0}), run
            again = writer.run(work, [[9000, *sorted(given, reverse=True), 9001], [9002]])
            assert again["code"] == 0, again
            seen.told(again["said"])
            seen.hold_in(work, {*range(size), *given, 9000, 9001, 9002})
            return 0

    calls = struck(writers[0], NEVER)
    shares = [range(first, calls + 1, len(writers)) for first in range(1, len(writers) + 1)]
    with ThreadPoolExecutor(len(writers)) as pool:
        ends = pool.map(lambda w, share: [struck(w, at) for at in share], writers, shares)
        assert not any(map(any, ends)), "a call was not struck"
    return calls


@contextmanager
def copy_of(base: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=base.parent) as made:
        work = Path(made) / "log"
        if base.exists():
            shutil.copytree(base, work)
        yield work


@pytest.mark.parametrize("shape", SHAPES)
def test_killed_at_any_step(folder: Path, writers: list[Writer], shape: str) -> None:
    """Whenever it is killed: no fork, no leaf lost that was settled, none twice."""
    size, batches = SHAPES[shape]
    calls = strike(writers, prepared(folder / "log", size), batches, "kill")
    assert calls > 15


def test_killed_while_it_takes_up_what_was_left(folder: Path, writers: list[Writer]) -> None:
    """A head that was committed and not published survives any number of crashes."""
    base = prepared(folder / "log", 250)
    unpublished(base, 262)
    assert audit_folder(base)[0].size == 250
    assert strike(writers, base, [[262]], "kill") > 20


def test_killed_while_a_folder_of_the_earlier_form_is_taken_over(
    folder: Path, writers: list[Writer]
) -> None:
    """The step to a head of its own is one rename, too."""
    base = prepared(folder / "log", 250)
    earlier_form(base)
    assert strike(writers, base, [[250]], "kill") > 20


def test_failed_by_the_disk_at_any_step(folder: Path, writers: list[Writer]) -> None:
    """A full or broken disk stops the log, and a start goes on from what is there."""
    size, batches = SHAPES["over a tile's end"]
    assert strike(writers, prepared(folder / "log", size), batches, "EIO") > 20
