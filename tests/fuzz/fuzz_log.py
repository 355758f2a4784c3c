"""Notes, keys, proofs and files of the log: what is read re-encodes to itself, or is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from fuzz_support import Target, change_one, changes, file_of, sample, stories, strict, strict_text

from proofs import merkle
from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.cosereceipt import SignedRoot, decode_cose_receipt
from proofs.cosignature import Cosignature, Cosigner, verify_cosignatures
from proofs.errors import LogError, ProofError, RefusedError, UnreadableError
from proofs.log.history import History, entries_between
from proofs.log.reader import LogReader
from proofs.note import KeyType, Note, Signer, parse_note, parse_vkey
from proofs.tiles import Tile, decode_entries, encode_entries, parse_tile
from proofs.tlogproof import parse_tlog_proof
from proofs.witness.protocol import AddCheckpoint, parse_add_checkpoint

LOG = Signer("log.example/fuzz", Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32))
COSIGNERS = (
    Cosigner("witness.example/one", Ed25519PrivateKey.from_private_bytes(bytes([21]) * 32)),
    Cosigner("witness.example/two", MLDSA44PrivateKey.from_seed_bytes(b"w" * 32)),
)
ENTRIES = [b"another", b"entry", b"last"]
_HISTORY_START = 1_000


def _read_entries(data: bytes) -> bytes:
    width = data[0] + 1 if data else 1
    entries = decode_entries(data[1:], width)
    assert len(entries) == width
    return data[:1] + encode_entries(entries)


@cache
def _cosigned() -> tuple[Note, dict[str, Cosignature]]:
    note = parse_note(sample("cosigned").decode())
    found = verify_cosignatures(note, [one.verifier for one in COSIGNERS])
    assert len(found) == len(COSIGNERS)
    return note, {one.key.name: one for one in found}


def _cosigned_parts() -> list[bytes]:
    note, _ = _cosigned()
    return [note.text.encode(), *(one.signature for one in note.signatures)]


def _cosignatures(script: bytes) -> None:
    """Nobody is found to have cosigned another tree, or at another time."""
    first, times = _cosigned()
    text, *signatures = change_one(_cosigned_parts(), script)
    lines = (
        replace(line, signature=signature)
        for line, signature in zip(first.signatures, signatures, strict=True)
    )
    changed = Note(text.decode("utf-8", "surrogateescape"), tuple(lines))
    try:
        note = parse_note(changed.format())
        found = verify_cosignatures(note, [one.verifier for one in COSIGNERS])
    except ProofError:
        assert changed != first
        return
    made = {line.name: line for line in first.signatures}
    tree, seen = parse_checkpoint(first.text), parse_checkpoint(note.text)
    for line in note.signatures:
        if line.name in times:
            assert line == made[line.name]
    for one in found:
        assert one == times[one.key.name]
        assert (seen.origin, seen.size, seen.root) == (tree.origin, tree.size, tree.root)
        assert seen == tree or one.key.key_type is KeyType.ML_DSA_44_COSIGNATURE


@cache
def _cose_receipt() -> bytes:
    made: bytes = stories().prove_cose(ENTRIES[1], ENTRIES, LOG)
    return made


def _read_cose_receipt(data: bytes) -> bytes:
    receipt = decode_cose_receipt(data)
    try:
        receipt.verify(ENTRIES[1], [LOG.verifier])
    except RefusedError:
        assert data != _cose_receipt()
    else:
        assert data == _cose_receipt()
    protected = cbor2.loads(data).value[0]
    signed = SignedRoot(protected, receipt.signature, receipt.size)
    return signed.receipt(receipt.index, receipt.path)


def _add_checkpoint() -> Iterable[bytes]:
    note = LOG.sign(Checkpoint(LOG.name, 3, b"r" * 32).format())
    for old, proof in ((0, ()), (2, (b"h" * 32, b"i" * 32))):
        yield AddCheckpoint(old, proof, note, parse_checkpoint(note.text)).format().encode()


def _history(data: bytes) -> None:
    """Whatever a crash left behind: what is appended is there, and opening again changes nothing.

    The first two bytes are the size that is published.
    """
    published = int.from_bytes(data[:2])
    with file_of(data[2:]) as path:
        history = History(path, published)
        history.append(_HISTORY_START, published)
        history.close()
        once = path.read_bytes()
        if published:
            assert int.from_bytes(once[-8:]) == published
        history = History(path, published)
        assert path.read_bytes() == once
        history.append(_HISTORY_START, published + 1)
        history.close()
        assert int.from_bytes(path.read_bytes()[-8:]) == published + 1
        for since, until in ((0, 2**62), (_HISTORY_START, _HISTORY_START + 1), (5, 2)):
            found = entries_between(path, since, until)
            assert 0 <= found.start <= found.stop


def _history_seeds() -> Iterable[bytes]:
    def records(*items: tuple[int, int]) -> bytes:
        return b"".join(at.to_bytes(8) + size.to_bytes(8) for at, size in items)

    yield b"\x00\x05" + records((900, 2), (950, 5))
    yield b"\x00\x05" + records((900, 2), (950, 5), (999, 9))[:-3]


class _Files:
    """A log's files as somebody serves them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def fetch(self, path: str, limit: int) -> bytes | None:
        found = self._files.get(path)
        return None if found is None else found[: limit + 1]

    def close(self) -> None:
        pass


@cache
def _files() -> dict[str, bytes]:
    leaves = [merkle.leaf_hash(one) for one in ENTRIES]
    head = Checkpoint(LOG.name, len(leaves), merkle.root(leaves))
    return {
        "checkpoint": LOG.sign(head.format()).format().encode(),
        Tile(0, 0, len(leaves)).path: b"".join(leaves),
        Tile(None, 0, len(leaves)).path: encode_entries(ENTRIES),
    }


def _file_parts() -> list[bytes]:
    return list(_files().values())


def _reader(script: bytes) -> None:
    """A log with a file changed gives the entries that the checkpoint covers, or none."""
    changed = dict(zip(_files(), change_one(_file_parts(), script), strict=True))
    try:
        reader = LogReader(_Files(changed))
        entries = list(reader.entries(0, min(reader.checkpoint.size, 1024)))
        reader.note.verify([LOG.verifier])
    except (LogError, RefusedError, UnreadableError):
        assert changed != _files()
    else:
        assert entries == ENTRIES


TARGETS = {
    "note": Target(
        strict_text(lambda text: parse_note(text).format()),
        lambda: [LOG.sign("log.example/fuzz\n3\n" + "A" * 43 + "=\n").format().encode()],
    ),
    "vkey": Target(
        strict_text(lambda text: parse_vkey(text, frozenset(KeyType)).format()),
        lambda: [one.verifier.format().encode() for one in (LOG, *COSIGNERS)],
        2048,
    ),
    "checkpoint": Target(
        strict_text(lambda text: parse_checkpoint(text).format()),
        lambda: [Checkpoint(LOG.name, 3, b"r" * 32, ("extension",)).format().encode()],
    ),
    "cosignature": Target(_cosignatures, lambda: changes(_cosigned_parts()), 64, 200),
    "tlog-proof": Target(
        strict_text(lambda text: parse_tlog_proof(text).format()),
        lambda: [stories().prove(ENTRIES[1], ENTRIES, LOG).encode()],
    ),
    "cose-receipt": Target(strict(_read_cose_receipt), lambda: [_cose_receipt()], 512, 5000),
    "add-checkpoint": Target(
        strict(lambda data: parse_add_checkpoint(data).format().encode()), _add_checkpoint
    ),
    "tile-path": Target(
        strict_text(lambda text: parse_tile(text).path),
        lambda: [b"tile/0/000", b"tile/entries/x001/x234/067.p/9", b"tile/3/x001/000.p/255"],
        64,
    ),
    "tile-entries": Target(
        strict(_read_entries), lambda: [b"\x01\x00\x01a\x00\x02bc", b"\x00\x00\x00"]
    ),
    "log-reader": Target(_reader, lambda: changes(_file_parts()), 64, 2000),
    "log-history": Target(_history, _history_seeds, 128, 2000),
}
