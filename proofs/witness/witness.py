"""The rules of a witness: which checkpoints it cosigns, and what it answers to the others.

Blocking: it waits for the disk. Requests for one log run one after the other, those for different
logs beside each other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from proofs import merkle
from proofs.cosignature import Cosigner
from proofs.errors import LogError, RefusedError, UnreadableError
from proofs.note import COSIGNER_KEYS, NOTE_KEYS, Note, VerifierKey, keys_by_name
from proofs.witness.protocol import SIZE_TYPE, AddCheckpoint, checkpoint_path, parse_add_checkpoint
from proofs.witness.state import LogRecord

_log = logging.getLogger(__name__)
_TEXT = "text/plain"
# What fits into an ML-DSA-44 cosignature (c2sp.org/tlog-cosignature).
_MAX_ORIGIN = 255


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer.

    Attributes:
        status: As the specification assigns them.
        body: Its text.
        reason: A label for the metric, empty where the checkpoint was cosigned.
        kind: The media type.
    """

    status: int
    body: str
    reason: str = ""
    kind: str = _TEXT


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a witness counts; `log` is a configured log's origin."""

    cosigned: Counter
    refused: Counter
    forks: Counter
    size: Gauge
    time: Gauge

    @classmethod
    def register(cls, registry: CollectorRegistry) -> Metrics:
        """Register all of them."""
        log = ["log"]
        return cls(
            Counter("sotto_witness_cosigned", "Checkpoints cosigned.", log, registry=registry),
            Counter("sotto_witness_refused", "Requests refused.", ["reason"], registry=registry),
            Counter(
                "sotto_witness_forks",
                "Requests in which a log signed two trees of one size.",
                log,
                registry=registry,
            ),
            Gauge("sotto_witness_size", "Size of the last cosigned tree.", log, registry=registry),
            Gauge(
                "sotto_witness_time_seconds",
                "Unix time of the last cosignature.",
                log,
                registry=registry,
            ),
        )


class Witness:
    """Cosigns checkpoints of some logs.

    Args:
        directory: Where records lie; held by the caller (`WitnessFolder`).
        cosigners: Its keys; each cosigns every checkpoint.
        logs: Keys of logs. Several with one name are keys of one log.
        clock: Unix time.
        metrics: What is counted.

    Raises:
        LogError: A record cannot be read, or a key cannot be a log's.
    """

    def __init__(
        self,
        directory: Path,
        cosigners: Sequence[Cosigner],
        logs: Sequence[VerifierKey],
        clock: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        self._cosigners = tuple(cosigners)
        self._ids = {(c.name, c.verifier.key_id) for c in cosigners}
        self._clock = clock
        self._metrics = metrics or Metrics.register(CollectorRegistry())
        try:
            keys_by_name(logs, NOTE_KEYS)
            keys_by_name([c.verifier for c in cosigners], COSIGNER_KEYS)
        except RefusedError as error:
            raise LogError(str(error)) from error
        self._logs: dict[str, LogRecord] = {}
        self._closed = False
        for origin in {key.name: None for key in logs}:
            if len(origin.encode()) > _MAX_ORIGIN:
                raise LogError(
                    f"A log's origin may have {_MAX_ORIGIN} bytes, or no ML-DSA-44 cosignature "
                    "can name it. Leave that log out."
                )
            keys = tuple(key for key in logs if key.name == origin)
            self._logs[origin] = LogRecord(directory, origin, keys, self._cosigners)
            self._measure(self._logs[origin])
        self._served = {checkpoint_path(origin): log for origin, log in self._logs.items()}

    def close(self) -> None:
        """Wait for requests in progress, and let no other in."""
        for log in self._logs.values():
            with log.lock:
                self._closed = True

    def published(self, path: str) -> str | None:
        """The cosigned checkpoint that is served at `path`; None where there is none."""
        log = self._served.get(path)
        note = log.note if log is not None else None
        return note.format() if note is not None else None

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer an `add-checkpoint` request; a 200 only after the record is durable."""
        answer = self._add_checkpoint(body)
        if answer.reason:
            self._metrics.refused.labels(answer.reason).inc()
        return answer

    def _add_checkpoint(self, body: bytes) -> Answer:
        try:
            request = parse_add_checkpoint(body)
        except UnreadableError as error:
            return Answer(400, f"{error}\n", "malformed")
        log = self._logs.get(request.checkpoint.origin)
        if log is None:
            return Answer(404, "This witness does not know the log.\n", "unknown_log")
        try:
            signers = request.note.verify(log.keys)
        except RefusedError as error:
            return Answer(403, f"{error}\n", "signature")
        if request.old > request.checkpoint.size:
            return Answer(400, "The old size is larger than the checkpoint's.\n", "malformed")
        # Without what strangers put beside the log's signatures.
        own = {(key.name, key.key_id) for key in signers}
        lines = {(s.name, s.key_id): s for s in request.note.signatures}
        signed = Note(request.note.text, tuple(s for at, s in lines.items() if at in own))
        # From the look at the record to its replacement nobody comes between, or a smaller tree
        # could replace a larger one (the race that the specification describes).
        with log.lock:
            if self._closed:
                return Answer(503, "The witness is stopping.\n", "stopping")
            return self._decide(log, request, signed)

    def _decide(self, log: LogRecord, request: AddCheckpoint, signed: Note) -> Answer:
        new, last = request.checkpoint, log.head
        size = last.size if last is not None else 0
        now = int(self._clock())
        forked = last is not None and new.size == size and new.root != last.root
        if forked:
            self._metrics.forks.labels(log.origin).inc()
            # What was kept already is counted, not logged: anyone can send it again and again.
            if log.keep_evidence("fork", request, signed, now):
                _log.error("log %s FORKED: it signed two trees of size %d", log.origin, size)
        if request.old != size:
            return Answer(409, f"{size}\n", "old_size", SIZE_TYPE)
        if new.size == 0 and new.root != merkle.EMPTY_ROOT:
            return Answer(422, "The root is not that of the empty tree.\n", "inconsistent")
        if size == 0 or last is None:
            if request.proof:
                return Answer(422, "From an empty tree nothing is to be proven.\n", "inconsistent")
        elif not merkle.verify_consistency(size, new.size, last.root, new.root, request.proof):
            if not forked and log.keep_evidence("inconsistent", request, signed, now):
                _log.error(
                    "log %s: by the proof given, a tree of size %d does not follow from that of %d",
                    log.origin,
                    new.size,
                    size,
                )
            return Answer(422, "The new tree does not follow from the old one.\n", "inconsistent")
        return self._cosign(log, signed, now)

    def _cosign(self, log: LogRecord, signed: Note, now: int) -> Answer:
        note = log.note
        # Within one second it would say the same again: who repeats a checkpoint, which anyone
        # can who has seen it, costs neither a signature nor the disk a write.
        if note is None or note.text != signed.text or log.time != now:
            lines = [c.cosign(signed, now) for c in self._cosigners]
            note = Note(signed.text, (*signed.signatures, *lines))
            try:
                log.replace(note, now)
            except OSError as error:
                _log.error("log %s: the record cannot be written (%s)", log.origin, error.strerror)
                return Answer(500, "The witness cannot write its record.\n", "storage")
        self._metrics.cosigned.labels(log.origin).inc()
        self._measure(log)
        cosigned = [s for s in note.signatures if (s.name, s.key_id) in self._ids]
        return Answer(200, "".join(s.format() for s in cosigned))

    def _measure(self, log: LogRecord) -> None:
        self._metrics.forks.labels(log.origin)
        if log.head is not None:
            self._metrics.size.labels(log.origin).set(log.head.size)
            self._metrics.time.labels(log.origin).set(log.time)
