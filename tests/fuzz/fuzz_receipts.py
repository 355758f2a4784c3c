"""What an enclave signs and what its owner gives away: one encoding, and no other that holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache

import cbor2
from fuzz_support import Target, change_one, changes, mutate, strict

from proofs import cbor
from proofs.archive import (
    ArchiveReader,
    ArchiveWriter,
    BundleRecord,
    EntryRecord,
    ErasureRecord,
    Header,
    Kind,
    LogRecord,
    ReceiptRecord,
    Record,
)
from proofs.bundle import decode_bundle
from proofs.claims import decode_claims
from proofs.cose import decode_sign1
from proofs.disclosure import (
    LABEL_V1,
    Disclosure,
    Later,
    Said,
    decode_disclosure,
    encode_disclosure,
)
from proofs.ed25519 import raw_public
from proofs.erasure import decode_erasure
from proofs.errors import ProofError, RefusedError, UnreadableError
from proofs.receipt import TYPE, decode_receipt
from proofs.verify import EvidenceCache, Report, verify_disclosure
from proofs.verify_archive import verify_archive
from tests.proofs.archive_support import LATER, Conversation, source
from tests.proofs.proofs_support import RECEIPT_KEY, Story, claims, full_story, policy, story


@cache
def _story() -> Story:
    return story()


@cache
def _full() -> Story:
    return full_story()


@cache
def _disclosure() -> bytes:
    return _full().disclosure()


@cache
def _disclosure_v1() -> bytes:
    told = _story()
    proofs = told.receipt_proof, told.bundle_proof
    items = [LABEL_V1, told.receipt, proofs[0], told.bundle, proofs[1], bytes(32)]
    body = cbor.encode(items)[:-32]
    return body + hashlib.sha256(body).digest()


@cache
def _conversation() -> Conversation:
    return Conversation.of(2, forgotten=True)


def _sign1(data: bytes) -> bytes:
    one = decode_sign1(data, TYPE)
    one.verifies(raw_public(RECEIPT_KEY))
    return cbor.encode(cbor2.CBORTag(18, [one.protected, {}, one.payload, one.signature]))


def _read_receipt(data: bytes) -> bytes:
    signed = decode_receipt(data)
    message = decode_sign1(data, TYPE)
    assert signed.unverified.encode() == message.payload
    return signed.encoded


def _erasure() -> bytes:
    assert _conversation().erasure is not None
    return _conversation().erasure or b""


def _read_erasure(data: bytes) -> bytes:
    signed = decode_erasure(data)
    stated = signed.unverified
    try:
        assert signed.verify(stated.enclave, claims()) == stated
    except RefusedError:
        assert data != _erasure()
    else:
        assert data == _erasure()
    assert stated.encode() in data
    return signed.encoded


def _read_disclosure(data: bytes) -> None:
    try:
        disclosure = decode_disclosure(data)
    except UnreadableError:
        return
    again = encode_disclosure(disclosure)
    assert decode_disclosure(again) == disclosure
    assert again == data or LABEL_V1.encode() in data[:32]


@cache
def _appraisals() -> EvidenceCache:
    return EvidenceCache()


def _holds(disclosure: bytes) -> bool:
    """Whether it holds: with and without what is remembered of others, the same comes out."""
    reports: list[Report | None] = []
    for remembered in (None, _appraisals()):
        try:
            use = _full().policy
            reports.append(verify_disclosure(disclosure, use, LATER, cache=remembered))
        except ProofError:
            reports.append(None)
    first, again = reports
    assert first == again
    return first is not None and first.holds


def _verify(script: bytes) -> None:
    """A disclosure with bytes changed does not hold."""
    changed = mutate(_disclosure(), script)
    assert _holds(changed) == (changed == _disclosure())


def _parts(disclosure: Disclosure) -> list[bytes]:
    """What is signed or committed to, then the proofs, which have lines that nobody signs."""
    later, said = disclosure.later, disclosure.said
    assert later is not None
    assert said is not None
    return [
        disclosure.receipt,
        disclosure.bundle,
        disclosure.cose_receipt,
        later.bundle,
        said.request,
        said.request_salt,
        said.response.encode(),
        said.response_salt,
        disclosure.receipt_proof.encode(),
        disclosure.bundle_proof.encode(),
        later.proof.encode(),
    ]


_SIGNED_PARTS = 8


def _of_parts(parts: Sequence[bytes]) -> Disclosure:
    receipt, bundle, cose, later, request, salt, response, other_salt, *proofs = parts
    text = [proof.decode("utf-8", "replace") for proof in proofs]
    said = Said(request, salt, response.decode("utf-8", "surrogateescape"), other_salt)
    return Disclosure(receipt, text[0], cose, bundle, text[1], Later(later, text[2]), said)


def _verify_parts(script: bytes) -> None:
    """The same for each part by itself, where no checksum stands before the verifier."""
    first = _parts(decode_disclosure(_disclosure()))
    parts = change_one(first, script)
    try:
        changed = encode_disclosure(_of_parts(parts))
    except UnreadableError:
        return
    if _holds(changed):
        assert parts[:_SIGNED_PARTS] == first[:_SIGNED_PARTS]
    else:
        assert parts != first


def _header() -> Header:
    return Header(Kind.AUDIT, LATER, 0, LATER)


@cache
def _records() -> list[Record]:
    told = _conversation()
    return [*told.records(with_text=True), *told.log().records(1, 3)]


@cache
def _archive() -> bytes:
    parts: list[bytes] = []
    writer = ArchiveWriter(parts.append, _header())
    for record in _records():
        writer.add(record)
    writer.close()
    return b"".join(parts)


def _read(data: bytes) -> tuple[Header, list[Record]]:
    reader = ArchiveReader(source(data), len(data))
    records = []
    for offset, record in reader.records():
        assert reader.record_at(offset) == record
        records.append(record)
    return reader.header, records


def _read_archive(data: bytes) -> bytes:
    header, records = _read(data)
    parts: list[bytes] = []
    writer = ArchiveWriter(parts.append, header)
    for record in records:
        writer.add(record)
    writer.close()
    return b"".join(parts)


def _raw_archive(records: Sequence[bytes]) -> bytes:
    """An archive of records that may be odd, whose end fits."""
    body = b"".join(cbor.encode(record) for record in records)
    end = ["end", len(records), hashlib.sha256(body).digest()]
    return body + cbor.encode(cbor.encode(end))


def _signed_items(records: Iterable[Record]) -> list[object]:
    """What is signed, committed to or under the log's root, in order."""
    found: list[object] = []
    for record in records:
        match record:
            case BundleRecord():
                found.append(record.bundle)
            case ReceiptRecord():
                found += [record.receipt, record.said]
            case ErasureRecord():
                found.append(record.receipt)
            case EntryRecord():
                found += [record.index, record.entry]
            case LogRecord():
                found += [record.first, record.end]
    return found


def _encoded_records() -> list[bytes]:
    return [cbor.encode(one.items()) for one in (_header(), *_records())]


def _verify_archive(script: bytes) -> None:
    """An archive with a record changed does not hold, but for what nobody signs in it."""
    records = _encoded_records()
    changed = change_one(records, script)
    data = _raw_archive(changed)
    try:
        report = verify_archive(source(data), len(data), policy(), LATER, keep_said=True)
        held = _signed_items(_read(data)[1])
    except UnreadableError:
        assert changed != records
        return
    if report.holds:
        first = _signed_items(_records())
        pairs = zip(held, first, strict=True)
        assert all(one == other or one is None for one, other in pairs)
    else:
        assert changed != records


def _cbor_seeds() -> Iterable[bytes]:
    yield from (claims().encode(), cbor.encode([1, -1, b"a", "a", None, True, {1: 2, -70000: 3}]))
    yield cbor2.dumps([1.5, cbor2.CBORTag(18, [b""]), 2**70])
    # Tags that CBOR libraries turn into dates, fractions, patterns, shared values and addresses.
    for tag, value in ((0, "x"), (1, 2**60), (4, [9, 9]), (5, [99, 3]), (30, [1, 0]), (35, "(")):
        yield cbor2.dumps(cbor2.CBORTag(tag, value))
    yield bytes.fromhex("d81c81d81d00")
    yield b"\x81" * 100


def _archive_seeds() -> Iterable[bytes]:
    yield _archive()
    # The head of the second record written longer than it need be; no checksum sees it.
    items = [cbor.encode(_header().items()), cbor.encode(ErasureRecord(0, b"e", "", b"").items())]
    head = bytes((0x40 + len(items[1]),))
    yield _raw_archive(items).replace(head + items[1], b"\x58" + bytes((len(items[1]),)) + items[1])


TARGETS = {
    "cbor": Target(
        strict(lambda data: cbor.encode(cbor.decode(data, what="it", limit=4096))), _cbor_seeds
    ),
    "cose": Target(strict(_sign1), lambda: [_story().receipt]),
    "receipt": Target(strict(_read_receipt), lambda: [_story().receipt]),
    "erasure": Target(strict(_read_erasure), lambda: [_erasure()], 1024, 5000),
    "claims": Target(
        strict(lambda data: decode_claims(data).encode()), lambda: [claims().encode()]
    ),
    "bundle": Target(
        strict(lambda data: decode_bundle(data).encode()), lambda: [_story().bundle], 2048
    ),
    "disclosure": Target(_read_disclosure, lambda: [_disclosure(), _disclosure_v1()], 6144, 5000),
    "archive": Target(strict(_read_archive), _archive_seeds, 8192, 5000),
    "verify": Target(_verify, lambda: [b"", b"\x00\x00\x40\x01"], 64, 300),
    "verify-parts": Target(
        _verify_parts, lambda: changes(_parts(decode_disclosure(_disclosure()))), 64, 300
    ),
    "verify-archive": Target(_verify_archive, lambda: changes(_encoded_records()), 64, 100),
}
