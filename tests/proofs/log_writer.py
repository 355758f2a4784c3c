"""A log's writer that dies or fails at one chosen call to the disk. Run by a test.

For each line of JSON on standard input it forks a child that does the job, and answers with one
line: how the child ended, how many calls it made, and what it told before. A call is one that the
log's code makes itself to the file system or to SQLite; the interpreter counts them
(sys.setprofile), and nothing of the code is replaced. Look-ups in the index that follow each other
count once: they leave the disk as it was.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import signal
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from log_support import LOG, batch

from proofs.errors import LogError
from proofs.log.index import EntryIndex
from proofs.log.sequencer import Sequencer
from proofs.log.store import LogStore

_FILE_CALLS = frozenset(
    ("open", "write", "flush", "fsync", "fdatasync", "ftruncate", "pwrite")
) | frozenset(("replace", "unlink", "rmdir", "mkdir"))
_DATABASE_CALLS = frozenset(("connect", "execute", "executemany", "commit", "__exit__"))
REFUSED = 3


class Fault:
    """Strikes before the call of a number, counted from 1; never at 0."""

    def __init__(self, at: int, kind: str) -> None:
        self._at = at
        self._kind = kind
        self._is_look_up = False
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or not (of := _part(function)):
            return
        again = self._is_look_up
        self._is_look_up = frame.f_code is EntryIndex.find.__code__
        if again and self._is_look_up:
            return
        self.calls += 1
        if self.calls != self._at:
            return
        if self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if of == "database":
            raise sqlite3.OperationalError("database or disk is full")
        number = getattr(errno, self._kind)
        raise OSError(number, os.strerror(number))


def _part(function: Any) -> str:
    """Which part of the disk's interface a C function is of."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, sqlite3.Connection | sqlite3.Cursor):
        return "database" if function.__name__ in _DATABASE_CALLS else ""
    if isinstance(owner, io.BufferedWriter) or function.__module__ in ("posix", "io", "_io"):
        return "file" if function.__name__ in _FILE_CALLS else ""
    return ""


def _work(job: dict[str, Any], tell: Any) -> None:
    """A run of the log: publish what an earlier one left, then settle batches."""
    sequencer = Sequencer(LogStore(Path(job["folder"]), LOG))
    _publish(sequencer, tell)
    for numbers in job["batches"]:
        places = sequencer.commit(batch(*numbers))
        _publish(sequencer, tell)
        # Proofs of neighbours differ little; a few stand for all.
        proven = [[one.proof, one.cose.hex()] for one in sequencer.prove(places[::64])]
        tell("settled", [places, proven])
    sequencer.close()


def _publish(sequencer: Sequencer, tell: Any) -> None:
    if not sequencer.is_published:
        tell("cosigning", sequencer.signed_head)
        sequencer.publish(sequencer.signed_head)
    tell("published", sequencer.signed_head)


def _child(job: dict[str, Any], pipe: int) -> None:
    def tell(kind: str, what: object) -> None:
        # Not the file's own write, which counts as a call.
        os.writev(pipe, [json.dumps([kind, what]).encode() + b"\n"])

    fault = Fault(job["at"], job["fault"])
    code = 0
    if job["at"]:
        sys.setprofile(fault)
    try:
        _work(job, tell)
    except LogError as error:
        tell("refused", str(error))
        code = REFUSED
    finally:
        sys.setprofile(None)
    tell("calls", fault.calls)
    os._exit(code)


def main() -> None:
    # What is here already is not copied for each child.
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            with suppress(BaseException):
                _child(job, writing)
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as told:
            said = [json.loads(one) for one in told if one.endswith("\n")]
        _, status = os.waitpid(child, 0)
        answer = {"code": os.waitstatus_to_exitcode(status), "said": said}
        print(json.dumps(answer), flush=True)  # noqa: T201 - how the test follows it


main()
