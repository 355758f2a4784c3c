"""Archives made of what a device keeps, and of what an operator's log and Redis keep."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import redis.asyncio
import redis.exceptions

from proofs.archive import (
    MAX_SEALED,
    ArchiveWriter,
    BundleRecord,
    EntryRecord,
    ErasureRecord,
    Header,
    Kind,
    LogRecord,
    ReceiptRecord,
)
from proofs.bundle import bundle_entry
from proofs.erasure import decode_erasure
from proofs.errors import LogError
from proofs.log.reader import LogReader
from proofs.receipt import Receipt, decode_receipt
from proofs.tlogproof import TlogProof
from runtime.client.home import DeviceHome
from runtime.client.rows import ErasureRow, ReceiptRow
from runtime.errors import Exit, SottoError
from runtime.redis_client import connect_redis
from runtime.streams import bundle_key, receipt_key

_BATCH = 256
_BUNDLE_ID = 64  # characters: a bundle is logged under its digest in hex, a receipt under its id
Write = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a device's receipts goes into an archive.

    Attributes:
        kind: What the archive is about.
        now: When it is written, unix seconds.
        since, until: By the receipts' own time, unix seconds, `until` excluded; None for all.
        persona: Receipts with this one alone.
        with_text: Whether what was said is disclosed.
    """

    kind: Kind
    now: int
    since: int = 0
    until: int | None = None
    persona: str | None = None
    with_text: bool = False


@dataclass(slots=True)
class Exported:
    """What went into an archive, and what did not.

    Attributes:
        counts: Records by name.
        unsettled: Receipts of the range that are not settled, and were left out.
        textless: Receipts whose text is not kept here, where text was asked for.
    """

    counts: Counter[str] = field(default_factory=Counter)
    unsettled: int = 0
    textless: int = 0


def export_home(home: DeviceHome, wanted: Wanted, write: Write) -> Exported:
    """Write an archive of a device's settled receipts.

    Raises:
        SottoError: The device's database cannot be used.
        proofs.errors.UnreadableError: More than an archive may hold.
    """
    exported = Exported()
    receipts = _chosen_receipts(home, wanted, exported)
    erasures = _chosen_erasures(home, wanted, exported)
    times = [one.time for _, one in receipts] + [time for _, time in erasures]
    # What an enclave's clock says may lie a moment ahead of ours.
    until = max([wanted.now, *times]) + 1 if wanted.until is None else wanted.until
    writer = ArchiveWriter(write, Header(wanted.kind, wanted.now, wanted.since, until))
    bundles = _Bundles(home, writer, exported)
    threads: dict[tuple[str, int], int] = {}
    for row, stated in sorted(receipts, key=lambda pair: _place(pair[0])):
        thread = None
        if row.turn_id:
            thread = threads.setdefault((row.persona, row.thread), len(threads))
        bundles.add(stated.enclave)
        said = home.transcripts.said(row.receipt_id) if wanted.with_text else None
        exported.textless += wanted.with_text and said is None
        exported.counts["said"] += said is not None
        exported.counts["receipts"] += 1
        proof, cose = row.proof or "", row.cose or b""
        writer.add(ReceiptRecord(thread, row.receipt or b"", proof, cose, said))
    for erasure, _ in erasures:
        signed = erasure.receipt or b""
        thread = threads.setdefault((erasure.persona, erasure.thread), len(threads))
        bundles.add(decode_erasure(signed).unverified.enclave)
        writer.add(ErasureRecord(thread, signed, erasure.proof or "", erasure.cose or b""))
        exported.counts["erasures"] += 1
    writer.close()
    return exported


def _place(row: ReceiptRow) -> tuple[bool, str, int]:
    """Thread by thread, completions last; within a thread as the device has them, oldest first."""
    return not row.turn_id, row.persona, row.thread


def _chosen_receipts(
    home: DeviceHome, wanted: Wanted, exported: Exported
) -> list[tuple[ReceiptRow, Receipt]]:
    found = []
    for row in home.receipts():
        if wanted.persona not in (None, row.persona):
            continue
        stated = None if row.receipt is None else decode_receipt(row.receipt).unverified
        if not _within(wanted, row.time if stated is None else stated.time):
            continue
        if stated is None or row.proof is None:
            exported.unsettled += 1
        else:
            found.append((row, stated))
    return found


def _chosen_erasures(
    home: DeviceHome, wanted: Wanted, exported: Exported
) -> list[tuple[ErasureRow, int]]:
    found = []
    for row in home.erasures():
        time = row.time if row.receipt is None else decode_erasure(row.receipt).unverified.time
        if wanted.persona not in (None, row.persona) or not _within(wanted, time):
            continue
        if row.receipt is None or row.proof is None:
            exported.unsettled += 1
        else:
            found.append((row, time))
    return found


def _within(wanted: Wanted, time: int) -> bool:
    return wanted.since <= time and (wanted.until is None or time < wanted.until)


@dataclass(slots=True)
class _Bundles:
    """Writes each bundle once, with the one of the next epoch where there is one."""

    home: DeviceHome
    writer: ArchiveWriter
    exported: Exported
    written: set[bytes] = field(default_factory=set)

    def add(self, digest: bytes) -> None:
        """The bundle of a receipt."""
        try:
            bundle, proof = self.home.bundles.get(digest.hex())
        except KeyError:
            return  # the archive says of its receipts that it is not there
        self._write(digest, bundle, proof)
        if (later := self.home.bundles.later(digest.hex())) is not None:
            self._write(hashlib.sha256(later[0]).digest(), *later)

    def _write(self, digest: bytes, bundle: bytes, proof: str) -> None:
        if digest in self.written:
            return
        self.written.add(digest)
        later = self.home.bundles.later(digest.hex())
        following = None if later is None else hashlib.sha256(later[0]).digest()
        self.writer.add(BundleRecord(bundle, proof, following))
        self.exported.counts["bundles"] += 1


@dataclass(frozen=True, slots=True)
class LogRange:
    """What of a log goes into an archive.

    Attributes:
        now: When it is written, unix seconds.
        since, until: Unix seconds, `until` excluded.
        entries: The entries; None for those that the log's own history has for that time.
    """

    now: int
    since: int
    until: int
    entries: range | None = None


def export_log(
    reader: LogReader, wanted: LogRange, write: Write, redis_url: str | None = None
) -> Exported:
    """Write an archive of a range of a log's entries.

    Args:
        reader: The log, as of one checkpoint.
        wanted: Which range.
        write: Takes the archive's bytes.
        redis_url: Where sealed receipts and bundles are, as long as they are kept.

    Raises:
        SottoError: Redis does not answer.
        proofs.errors.ProofError: The log cannot be read, its files contradict its checkpoint, or
            the range is larger than an archive may be.
    """
    return asyncio.run(_export_log(reader, wanted, write, redis_url))


async def _export_log(
    reader: LogReader, wanted: LogRange, write: Write, redis_url: str | None
) -> Exported:
    entries = wanted.entries
    if entries is None:
        entries = reader.entries_between(wanted.since, wanted.until)
    if entries.stop > (size := reader.checkpoint.size):
        raise LogError(f"Entries up to {entries.stop} were asked for, and the log has {size}.")
    exported = Exported()
    writer = ArchiveWriter(write, Header(Kind.AUDIT, wanted.now, wanted.since, wanted.until))
    writer.add(LogRecord(reader.note.format(), entries.start, entries.stop))
    async with contextlib.AsyncExitStack() as stack:
        client = None
        if redis_url is not None:
            client = await stack.enter_async_context(connect_redis(redis_url))
        for start in range(entries.start, entries.stop, _BATCH):
            stop = min(start + _BATCH, entries.stop)
            ids = _ids(reader, start, stop)
            stored = await _stored(client, list(ids.values()))
            for entry, proof in reader.proofs(start, stop):
                name = ids.get(proof.index)
                sealed = stored.sealed.get(name or "")
                writer.add(EntryRecord(proof.index, entry, proof.path, name, sealed))
                exported.counts["entries"] += 1
                exported.counts["sealed"] += sealed is not None
                if bundle := stored.bundle(name or "", entry, proof):
                    writer.add(bundle)
                    exported.counts["bundles"] += 1
    writer.close()
    return exported


def _ids(reader: LogReader, start: int, stop: int) -> dict[int, str]:
    try:
        return reader.ids(start, stop)
    except LogError:
        return {}  # a mirror has none


@dataclass(frozen=True, slots=True)
class _Stored:
    """What Redis still has of some entries, by their ids.

    Attributes:
        sealed: Sealed receipts.
        bundles: Bundles, each with the digest in hex of the next one.
    """

    sealed: dict[str, bytes] = field(default_factory=dict)
    bundles: dict[str, tuple[bytes, bytes | None]] = field(default_factory=dict)

    def bundle(self, name: str, entry: bytes, proof: TlogProof) -> BundleRecord | None:
        """The bundle under a name, if it is the one of this entry: Redis is not believed."""
        data, following = self.bundles.get(name, (b"", None))
        if not data or bundle_entry(data) != entry:
            return None
        return BundleRecord(data, proof.format(), _digest(following))


async def _stored(client: redis.asyncio.Redis | None, ids: list[str]) -> _Stored:
    if client is None:
        return _Stored()
    bundles = [one for one in ids if len(one) == _BUNDLE_ID]
    try:
        async with client.pipeline(transaction=False) as batch:
            for one in ids:
                batch.hmget(receipt_key(one), "sealed")
            for one in bundles:
                batch.hmget(bundle_key(one), "bundle", "next")
            answers = await batch.execute()
    except (redis.exceptions.RedisError, OSError) as error:
        # Not the error's text: it may hold the server's address or password.
        raise SottoError(
            f"Redis does not answer ({type(error).__name__}); start it, correct the URL in the "
            "file, or export without it",
            code="redis_away",
        ) from None
    sealed = zip(ids, answers, strict=False)
    kept = zip(bundles, answers[len(ids) :], strict=True)
    return _Stored(
        {name: data for name, (data,) in sealed if data and len(data) <= MAX_SEALED},
        {name: (data, following) for name, (data, following) in kept if data},
    )


def _digest(text: bytes | None) -> bytes | None:
    try:
        digest = bytes.fromhex((text or b"").decode("ascii"))
    except ValueError:
        return None
    return digest if len(digest) == hashlib.sha256().digest_size else None


def export_erasure(home: DeviceHome, row: ErasureRow, now: int, write: Write) -> None:
    """Write an archive of one settled erasure receipt alone; raises as `export_home`."""
    signed = row.receipt or b""
    stated = decode_erasure(signed).unverified
    writer = ArchiveWriter(write, Header(Kind.CONVERSATION, now, stated.time, stated.time + 1))
    _Bundles(home, writer, Exported()).add(stated.enclave)
    writer.add(ErasureRecord(0, signed, row.proof or "", row.cose or b""))
    writer.close()


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file for its owner alone, which appears under its name only when it is whole.

    Args:
        path: The name.
        replace: Whether a file that is there gives way.

    Raises:
        SottoError: It cannot be written there.
    """
    draft = None
    try:
        if path.exists() and not path.is_file():  # such as /dev/stdout
            with path.open("wb") as file:
                yield file
            return
        # In a folder of many, such as /tmp, nobody can have made it before us.
        handle, name = tempfile.mkstemp(suffix=".part", prefix=".sotto-", dir=path.parent)
        draft = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
        if not replace:
            path.touch(0o600, exist_ok=False)  # not linked: a stick has no links
        draft.replace(path)
    except OSError as error:
        raise SottoError(
            f"{path} cannot be written ({error.strerror}); choose another place",
            exit_code=Exit.USAGE,
        ) from None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
