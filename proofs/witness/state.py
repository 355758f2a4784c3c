"""What a witness must not forget: for each log, the checkpoint that it cosigned last.

One file a log, `logs/<SHA-256 of the origin>/checkpoint`: a signed note with the log's signature
and the witness's own. It is replaced in one rename, synced, before anyone is told; so a witness
that is killed anywhere knows at least what it has said. A record that an old backup brings back
lets a log fork unseen, which no program can notice: never restore one.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from threading import Lock

from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.cosignature import Cosigner, verify_cosignatures
from proofs.errors import LogError, ProofError
from proofs.log.files import sync_directories, write_whole
from proofs.note import Note, VerifierKey, parse_note
from proofs.witness.protocol import AddCheckpoint

_log = logging.getLogger(__name__)

# Of each kind, for each log; the first ones say most.
_MAX_EVIDENCE = 16


class LogRecord:
    """One log as its witness knows it.

    Whoever reads `note` and replaces it holds `lock` from the one to the other.

    Attributes:
        origin: The log's name.
        keys: Keys that sign its checkpoints.
        lock: One request at a time.
        note: The checkpoint that was cosigned last, None before the first.
        head: What stands in it.
        time: Of the cosignatures, in unix seconds.
    """

    def __init__(
        self, top: Path, origin: str, keys: tuple[VerifierKey, ...], cosigners: Iterable[Cosigner]
    ) -> None:
        self.origin = origin
        self.keys = keys
        self.lock = Lock()
        self.note: Note | None = None
        self.head: Checkpoint | None = None
        self.time = 0
        self._top = top
        digest = sha256(origin.encode()).hexdigest()
        self._path = top / "logs" / digest / "checkpoint"
        self._evidence = top / "evidence" / digest
        self._load(cosigners)

    def _load(self, cosigners: Iterable[Cosigner]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._evidence.mkdir(parents=True, exist_ok=True)
            sync_directories([self._path, self._evidence / "x"], self._top)
            if not self._path.exists():
                return
            note = parse_note(self._path.read_bytes().decode())
            head = parse_checkpoint(note.text)
            cosigned = verify_cosignatures(note, [c.verifier for c in cosigners])
        except OSError as error:
            raise LogError(
                f"The witness's folder {self._top} cannot be used ({error.strerror}). Check its "
                "disk and its permissions."
            ) from error
        except (ProofError, UnicodeDecodeError) as error:
            raise LogError(f"{self._damaged()} {error}") from error
        if head.origin != self.origin or not cosigned:
            raise LogError(f"{self._damaged()} It is not one that this witness cosigned.")
        self.note, self.head = note, head
        self.time = max(one.time for one in cosigned)

    def _damaged(self) -> str:
        return (
            f"The record {self._path} of the log {self.origin} is damaged or of another key. Do "
            "not restore an old one, which would let the log fork: bring back the key, or start a "
            "new witness with new keys in an empty folder."
        )

    def replace(self, note: Note, time: int) -> None:
        """Record what was just cosigned; durable on return.

        Raises:
            OSError: It is not durable. Nobody may be told.
        """
        write_whole(self._path, note.format().encode())
        sync_directories([self._path], self._path.parent)
        self.note, self.head, self.time = note, parse_checkpoint(note.text), time

    def keep_evidence(self, kind: str, request: AddCheckpoint, signed: Note, time: int) -> bool:
        """Keep a checkpoint of the log that does not follow from the recorded one.

        Args:
            kind: `fork`, which the log's two signatures prove, or `inconsistent`, which may be
                somebody's false proof to a true checkpoint.
            request: The request.
            signed: Its checkpoint, with the log's signatures alone.
            time: Now.

        Returns:
            Whether it was kept now; not if it was before, or if there is enough.
        """
        name = f"{kind}-{sha256(signed.text.encode()).hexdigest()[:16]}.json"
        try:
            kept = {path.name for path in self._evidence.glob(f"{kind}-*.json")}
            if name in kept or len(kept) >= _MAX_EVIDENCE:
                return False
            refused = AddCheckpoint(request.old, request.proof, signed, request.checkpoint)
            told = {
                "kind": kind,
                "time": time,
                "cosigned": self.note.format() if self.note is not None else None,
                "refused": refused.format(),
            }
            write_whole(self._evidence / name, json.dumps(told, indent=1).encode())
            sync_directories([self._evidence / name], self._evidence)
        except OSError as error:
            _log.warning("evidence could not be kept (%s)", error.strerror)
            return False
        return True


class WitnessFolder:
    """A witness's folder, held open by one process.

    Args:
        directory: The folder; made where absent.

    Raises:
        LogError: Another process holds it, or it cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("ab")
        except OSError as error:
            raise LogError(
                f"The witness's folder {directory} cannot be written ({error.strerror}). Check "
                "its disk and its permissions."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise LogError(
                f"Another process is the witness in {directory}. Two of them could cosign a "
                "fork: stop the other one first."
            ) from error

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()
