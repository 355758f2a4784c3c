"""What a log and one witness say to each other (c2sp.org/tlog-witness), over HTTP.

Nothing that a witness answers is believed before it is verified: sizes are only where the next
proof starts, cosignatures must be by a pinned key over the very checkpoint, and that this log
forked is proven by this log's own signature or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from proofs import b64, merkle
from proofs.checkpoint import Checkpoint, open_checkpoint
from proofs.cosignature import verify_cosignatures
from proofs.errors import LogError, ProofError, RefusedError, UnreadableError
from proofs.note import Note, Signature, VerifierKey, parse_signature
from proofs.witness.protocol import SIZE_TYPE, AddCheckpoint, checkpoint_path

# 16 signatures, each of at most 5 kB (c2sp.org/signed-note) in base64.
_MAX_ANSWER = 128 * 1024

Prove = Callable[[int], Sequence[bytes]]


class FailedError(Exception):
    """No cosignature came. Stays inside `proofs.log`.

    Attributes:
        reason: A label for the metric.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True)
class Peer:
    """A witness as it is spoken to.

    Attributes:
        url: Its submission prefix.
        keys: The keys that are pinned for it.
        size: The tree that it cosigned last, as far as we know; 0 where nothing is known.
    """

    url: str
    keys: tuple[VerifierKey, ...]
    size: int = 0

    @property
    def name(self) -> str:
        """The name of its first key."""
        return self.keys[0].name


@dataclass(frozen=True, slots=True)
class Head:
    """A head that is to be cosigned.

    Attributes:
        note: Signed by the log.
        checkpoint: What stands in it.
        prove: The consistency proof from a smaller tree; blocking.
    """

    note: Note
    checkpoint: Checkpoint
    prove: Prove


class Submitter:
    """Speaks to witnesses for one log, over connections that are kept.

    Args:
        log: The log's own key.
        timeout_s: How long one answer may take.
    """

    def __init__(self, log: VerifierKey, timeout_s: float) -> None:
        self._key = log
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def submit(self, peer: Peer, head: Head) -> list[Signature]:
        """The verified cosignatures of `head` by the keys of `peer`.

        One add-checkpoint call, and a second where the first told where the proof has to start.

        Raises:
            FailedError: It did not cosign: `away`, `status`, `answer` (one that cannot be used),
                `ahead` (it knows a larger tree) or `inconsistent` (it says that ours forked).
            LogError: The proof could not be made.
        """
        # What is larger than ours cannot be proven to have grown: ask what it has now.
        old = peer.size if peer.size <= head.checkpoint.size else 0
        for _ in range(2):
            status, kind, body = await self._add_checkpoint(peer, old, head)
            if status != 409:
                break
            old = peer.size = _told_size(kind, body)
            if old > head.checkpoint.size:
                raise FailedError(
                    "ahead",
                    f"it says to have cosigned a tree of {old}, and ours has "
                    f"{head.checkpoint.size}, but does not show it. If this log's folder was "
                    "restored from a backup, stop the log now",
                )
        if status == 422:
            raise FailedError("inconsistent", "it says that our tree does not follow from its own")
        if status != 200:
            raise FailedError("status", f"it answered with status {status}")
        lines = _cosignatures(peer, head, body)
        peer.size = head.checkpoint.size
        return lines

    async def compare(self, peer: Peer, head: Head) -> None:
        """Hold what the witness shows of this log against our tree, if it shows anything.

        Raises:
            LogError: It is signed by our key and not of our tree: the log has forked.
        """
        ours = head.checkpoint
        try:
            url = peer.url + checkpoint_path(ours.origin)
            status, _, body = await self._request("GET", url)
            if status != 200:
                return
            seen = open_checkpoint(body.decode(), [self._key])
        except (FailedError, ProofError, UnicodeDecodeError):
            # It shows nothing that we signed.
            return
        if seen.size > ours.size:
            raise LogError(
                f"The witness {peer.name} shows a tree of {seen.size} that this log signed, and "
                f"here are {ours.size}. The folder was restored from an old backup, or another "
                "process signs with this key. Going on would fork the log: bring the newer "
                "folder back, or start a new log with a new key and origin."
            )
        if seen.size == 0:
            return
        proof = await _prove(head, seen.size) if seen.size < ours.size else ()
        if not merkle.verify_consistency(seen.size, ours.size, seen.root, ours.root, proof):
            raise LogError(
                f"The witness {peer.name} shows another tree of {seen.size} that this log "
                "signed. The log has forked: stop it, keep its folder, and start a new log with "
                "a new key and origin."
            )

    async def _add_checkpoint(self, peer: Peer, old: int, head: Head) -> tuple[int, str, bytes]:
        proof = await _prove(head, old) if 0 < old < head.checkpoint.size else ()
        request = AddCheckpoint(old, tuple(proof), head.note, head.checkpoint)
        return await self._request("POST", f"{peer.url}/add-checkpoint", request.format())

    async def _request(
        self, method: str, url: str, body: str | None = None
    ) -> tuple[int, str, bytes]:
        """Status, media type and body."""
        if self._session is None:
            # A compressed answer could grow beyond any limit, so none is unpacked.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            )
        data = bytearray()
        try:
            async with self._session.request(
                method, url, data=None if body is None else body.encode(), allow_redirects=False
            ) as answer:
                async for chunk in answer.content.iter_chunked(8192):
                    data += chunk
                    if len(data) > _MAX_ANSWER:
                        answer.close()
                        raise FailedError("answer", f"it answered more than {_MAX_ANSWER} bytes")
                return answer.status, answer.content_type, bytes(data)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Not the error's text: it holds addresses.
            raise FailedError("away", f"it is away ({type(error).__name__})") from error


async def _prove(head: Head, old: int) -> Sequence[bytes]:
    """The consistency proof; whoever cancels this waits, so that no thread outlives its head."""
    thread = asyncio.create_task(asyncio.to_thread(head.prove, old))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


def _told_size(kind: str, body: bytes) -> int:
    """The size in a 409's body."""
    try:
        line, newline, rest = body.decode("ascii").partition("\n")
        if kind == SIZE_TYPE and newline and not rest:
            return b64.decimal(line, "the witness's size")
    except (UnreadableError, UnicodeDecodeError):
        pass
    raise FailedError("answer", "it says that it has another size, but not which")


def _cosignatures(peer: Peer, head: Head, body: bytes) -> list[Signature]:
    """The lines by the witness's own keys, verified, one a key, in the order of its keys."""
    found: list[Signature] = []
    try:
        *lines, last = body.decode().split("\n")
        if last:
            raise UnreadableError("It does not end in a newline.")
        signatures = [parse_signature(line) for line in lines]
        for key in peer.keys:
            own = [s for s in signatures if (s.name, s.key_id) == (key.name, key.key_id)][:1]
            # One line at a time, so that each merged line is one that was verified.
            for cosignature in verify_cosignatures(Note(head.note.text, tuple(own)), [key]):
                if not cosignature.time:
                    raise RefusedError("It has no time.")
                found += own
    except (ProofError, UnicodeDecodeError) as error:
        raise FailedError("answer", f"its cosignature cannot be used. {error}") from error
    if not found:
        raise FailedError("answer", "it did not cosign by a key that is listed for it")
    return found
