"""The log's client to its witnesses (c2sp.org/tlog-witness): a head in, the cosigned head out.

Each witness is asked on its own, all at once. What it answers is verified before it is merged,
and what is not by a pinned key is dropped. Below the quorum they are asked again and again, with
growing pauses, so that leaves wait and nothing else does.

A witness that holds a tree head which does not belong to ours, signed by our own key, means that
the log forked: its folder was restored from an old backup, or somebody else signs with its key.
That is proven by our own signature, so it ends the log. A witness that only says so, and has
nothing to show, may be lying: it is named in the metrics, and the others decide.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from proofs.checkpoint import verify_checkpoint
from proofs.errors import LogError, UnreadableError
from proofs.log.submission import FailedError, Head, Peer, Prove, Submitter
from proofs.note import (
    COSIGNER_KEYS,
    MAX_SIGNATURES,
    Note,
    Signature,
    VerifierKey,
    parse_note,
)

_log = logging.getLogger(__name__)

_BACKOFF_MIN_S = 0.1
_BACKOFF_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class WitnessAddress:
    """Where a witness is, and a key of its own.

    A witness with two keys is listed twice under one URL: it is asked once, and counts once.

    Attributes:
        key: A key for cosignatures.
        url: Its submission prefix, `http(s)://…`.
    """

    key: VerifierKey
    url: str

    def __post_init__(self) -> None:
        if self.key.key_type not in COSIGNER_KEYS:
            raise UnreadableError(
                f"The key {self.key.name} is no witness's: those are of type 0x04 or 0x06."
            )
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username is not None
            or parts.query
            or parts.fragment
        ):
            raise UnreadableError(
                f"The URL of the witness {self.key.name} should have the form "
                "http(s)://host[:port][/path]."
            )


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the log says of its witnesses; `witness` is the name of a witness's first key."""

    up: Gauge
    ahead: Gauge
    failures: Counter
    below_quorum: Gauge
    seconds: Histogram

    @classmethod
    def register(cls, registry: CollectorRegistry) -> Metrics:
        """Register all of them."""
        label = ["witness"]
        return cls(
            Gauge(
                "sotto_log_witness_up",
                "1 if its last answer was a cosignature.",
                label,
                registry=registry,
            ),
            Gauge(
                "sotto_log_witness_ahead",
                "1 if it says to know a larger tree than ours: restored from a backup?",
                label,
                registry=registry,
            ),
            Counter(
                "sotto_log_witness_failures",
                "Answers that were no cosignature.",
                [*label, "reason"],
                registry=registry,
            ),
            Gauge(
                "sotto_log_below_quorum",
                "1 while leaves wait for witnesses.",
                registry=registry,
            ),
            Histogram("sotto_log_cosign_seconds", "From a head to its quorum.", registry=registry),
        )


@dataclass(slots=True)
class _Witness:
    """One witness, and how it has been of late.

    Attributes:
        well: Whether its last answer was a cosignature; at first it gets the benefit.
        retry_at: On the loop's clock; not asked before.
        slow_until: On the loop's clock; a quorum does not wait for it before.
        said: The failure that was logged last, so that it is logged once.
    """

    peer: Peer
    well: bool = True
    backoff_s: float = _BACKOFF_MIN_S
    retry_at: float = 0.0
    slow_s: float = 0.0
    slow_until: float = 0.0
    said: str = ""


class Witnesses:
    """Collects cosignatures for one log's heads.

    Args:
        witnesses: Whom to ask.
        quorum: From how many a head needs a cosignature.
        log: The log's own key.
        registry: Where metrics are registered.
        timeout_s: How long a quorum waits for the other witnesses that are well.
        request_timeout_s: How long an answer may take.

    Raises:
        LogError: A quorum that these witnesses cannot reach, or a key that is there twice.
    """

    def __init__(
        self,
        witnesses: Sequence[WitnessAddress],
        quorum: int,
        *,
        log: VerifierKey,
        registry: CollectorRegistry | None = None,
        timeout_s: float = 0.25,
        request_timeout_s: float = 5.0,
    ) -> None:
        by_url: dict[str, tuple[VerifierKey, ...]] = {}
        for one in witnesses:
            url = one.url.rstrip("/")
            by_url[url] = (*by_url.get(url, ()), one.key)
        if len({one.key.public_key for one in witnesses}) != len(witnesses):
            raise LogError("A witness's key is listed twice, but can count once. List it once.")
        if len(witnesses) >= MAX_SIGNATURES:
            raise LogError(
                f"A checkpoint has room for {MAX_SIGNATURES - 1} cosignatures. List fewer keys."
            )
        if not 0 <= quorum <= len(by_url):
            raise LogError(
                f"{len(by_url)} witnesses cannot be a quorum of {quorum}. List more, or ask for "
                "fewer."
            )
        self._witnesses = [_Witness(Peer(url, keys)) for url, keys in by_url.items()]
        self._quorum = quorum
        self._key = log
        self._metrics = Metrics.register(registry or CollectorRegistry())
        self._timeout_s = timeout_s
        self._submitter = Submitter(log, request_timeout_s)

    async def close(self) -> None:
        """Close connections."""
        await self._submitter.close()

    async def cosign(self, note: str, size: int, prove: Prove) -> str:
        """The signed head `note` with the cosignatures of at least the quorum.

        Waits as long as it takes. Cosignatures follow the log's own signatures, in the order in
        which witnesses and their keys are listed.

        Args:
            note: The log's own signed checkpoint.
            size: Its tree's size.
            prove: The consistency proof from a smaller, not empty tree to this one; called in
                a thread, and never after this returned.

        Raises:
            UnreadableError: `note` is no checkpoint, or not of `size`.
            RefusedError: It is not signed by the log's key.
            LogError: A witness proved that this log has forked, or `prove` failed.
        """
        parsed = parse_note(note)
        head = Head(parsed, verify_checkpoint(parsed, [self._key]), prove)
        if head.checkpoint.size != size:
            raise UnreadableError(
                f"The checkpoint is of size {head.checkpoint.size}, not of {size}."
            )
        tasks = {asyncio.create_task(self._ask(w, head)): w for w in self._witnesses}
        try:
            with self._metrics.seconds.time():
                lines = await self._gather(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        cosignatures = [line for w in self._witnesses for line in lines.get(w.peer.url, ())]
        return Note(parsed.text, (*parsed.signatures, *cosignatures)).format()

    async def _gather(
        self, tasks: dict[asyncio.Task[list[Signature]], _Witness]
    ) -> dict[str, list[Signature]]:
        """Signatures by witness, once there is a quorum and those that are well had their time."""
        loop = asyncio.get_running_loop()
        lines: dict[str, list[Signature]] = {}
        pending = set(tasks)
        end: float | None = None
        while pending:
            self._metrics.below_quorum.set(len(lines) < self._quorum)
            if len(lines) >= self._quorum:
                now = loop.time()
                end = now + self._timeout_s if end is None else end
                # Whoever was away or slow the last time is not waited for, only asked.
                waited = [w for t in pending if (w := tasks[t]).well and now >= w.slow_until]
                if now >= end:
                    self._excuse(waited)
                if now >= end or not waited:
                    break
            done, pending = await asyncio.wait(
                pending,
                timeout=None if end is None else max(0.0, end - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                lines[tasks[task].peer.url] = task.result()
        self._metrics.below_quorum.set(0)
        return lines

    def _excuse(self, slow: Sequence[_Witness]) -> None:
        """Not to wait for these for a while: at most a twentieth of the time goes into waiting."""
        for witness in slow:
            first, longest = 20 * self._timeout_s, 240 * self._timeout_s
            witness.slow_s = min(2 * witness.slow_s, longest) or first
            witness.slow_until = asyncio.get_running_loop().time() + witness.slow_s
            self._metrics.failures.labels(witness.peer.name, "slow").inc()

    async def _ask(self, witness: _Witness, head: Head) -> list[Signature]:
        """The witness's cosignatures of `head`, however often it takes to get them."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, witness.retry_at - loop.time()))
            try:
                lines = await self._submitter.submit(witness.peer, head)
            except FailedError as error:
                self._failed(witness, error)
                if error.reason in ("ahead", "inconsistent"):
                    await self._submitter.compare(witness.peer, head)
            else:
                self._succeeded(witness)
                return lines

    def _failed(self, witness: _Witness, error: FailedError) -> None:
        name = witness.peer.name
        witness.well = False
        witness.retry_at = asyncio.get_running_loop().time() + witness.backoff_s
        witness.backoff_s = min(2 * witness.backoff_s, _BACKOFF_MAX_S)
        self._metrics.up.labels(name).set(0)
        if error.reason == "ahead":
            self._metrics.ahead.labels(name).set(1)
        self._metrics.failures.labels(name, error.reason).inc()
        if witness.said != error.reason:
            witness.said = error.reason
            level = logging.ERROR if error.reason == "ahead" else logging.WARNING
            _log.log(level, "witness %s: %s; asking it again and again", name, error)

    def _succeeded(self, witness: _Witness) -> None:
        name = witness.peer.name
        if witness.said:
            _log.info("witness %s is back", name)
        witness.well, witness.said = True, ""
        witness.backoff_s, witness.retry_at = _BACKOFF_MIN_S, 0.0
        witness.slow_s, witness.slow_until = 0.0, 0.0
        self._metrics.up.labels(name).set(1)
        self._metrics.ahead.labels(name).set(0)
