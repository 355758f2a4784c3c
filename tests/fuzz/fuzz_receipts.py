"""What an enclave signs and what its owner gives away: one encoding, and no other that holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import cbor2
from fuzz_support import Target, archives, stories, strict

from proofs import cbor
from proofs.archive import (
    ArchiveReader,
    ArchiveWriter,
    ErasureRecord,
    Header,
    Kind,
    Record,
)
from proofs.bundle import decode_bundle
from proofs.claims import decode_claims
from proofs.cose import decode_sign1
from proofs.disclosure import LABEL_V1, decode_disclosure, encode_disclosure
from proofs.erasure import decode_erasure
from proofs.errors import RefusedError, UnreadableError
from proofs.receipt import TYPE, decode_receipt


@cache
def disclosure_v2() -> bytes:
    """All that a disclosure can hold."""
    made: bytes = stories().full_story().disclosure()
    return made


@cache
def _disclosure_v1() -> bytes:
    told = stories().story()
    proofs = told.receipt_proof, told.bundle_proof
    items = [LABEL_V1, told.receipt, proofs[0], told.bundle, proofs[1], bytes(32)]
    body = cbor.encode(items)[:-32]
    return body + hashlib.sha256(body).digest()


@cache
def _conversation() -> Any:
    return archives().Conversation.of(2, forgotten=True)


@cache
def _claims() -> Any:
    return stories().claims()


def _sign1(data: bytes) -> bytes:
    one = decode_sign1(data, TYPE)
    one.verifies(bytes(32))
    return cbor.encode(cbor2.CBORTag(18, [one.protected, {}, one.payload, one.signature]))


def _read_receipt(data: bytes) -> bytes:
    signed = decode_receipt(data)
    message = decode_sign1(data, TYPE)
    assert signed.unverified.encode() == message.payload
    return signed.encoded


def _erasure() -> bytes:
    made: bytes = _conversation().erasure
    return made


def _read_erasure(data: bytes) -> bytes:
    signed = decode_erasure(data)
    stated = signed.unverified
    try:
        assert signed.verify(stated.enclave, _claims()) == stated
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


def archive_header() -> Header:
    """The header of `archive`."""
    return Header(Kind.AUDIT, archives().LATER, 0, archives().LATER)


@cache
def archive_records() -> list[Record]:
    """One of each kind."""
    told = _conversation()
    return [*told.records(with_text=True), *told.log().records(1, 3)]


@cache
def _archive() -> bytes:
    parts: list[bytes] = []
    writer = ArchiveWriter(parts.append, archive_header())
    for record in archive_records():
        writer.add(record)
    writer.close()
    return b"".join(parts)


def read_archive(data: bytes) -> tuple[Header, list[Record]]:
    """All of an archive; raises `UnreadableError`."""
    reader = ArchiveReader(lambda at, length: data[at : at + length], len(data))
    records = []
    for offset, record in reader.records():
        assert reader.record_at(offset) == record
        records.append(record)
    return reader.header, records


def _read_archive(data: bytes) -> bytes:
    header, records = read_archive(data)
    parts: list[bytes] = []
    writer = ArchiveWriter(parts.append, header)
    for record in records:
        writer.add(record)
    writer.close()
    return b"".join(parts)


def raw_archive(records: Sequence[bytes]) -> bytes:
    """An archive of records that may be odd, whose end fits."""
    body = b"".join(cbor.encode(record) for record in records)
    end = ["end", len(records), hashlib.sha256(body).digest()]
    return body + cbor.encode(cbor.encode(end))


def _cbor_seeds() -> Iterable[bytes]:
    yield from (_claims().encode(), cbor.encode([1, -1, b"a", "a", None, True, {1: 2, -70000: 3}]))
    yield cbor2.dumps([1.5, cbor2.CBORTag(18, [b""]), 2**70])
    # Tags that CBOR libraries turn into dates, fractions, patterns, shared values and addresses.
    for tag, value in ((0, "x"), (1, 2**60), (4, [9, 9]), (5, [99, 3]), (30, [1, 0]), (35, "(")):
        yield cbor2.dumps(cbor2.CBORTag(tag, value))
    yield bytes.fromhex("d81c81d81d00")
    yield b"\x81" * 100


def _archive_seeds() -> Iterable[bytes]:
    yield _archive()
    # The head of the second record written longer than it need be; no checksum sees it.
    items = [
        cbor.encode(archive_header().items()),
        cbor.encode(ErasureRecord(0, b"e", "", b"").items()),
    ]
    head = bytes((0x40 + len(items[1]),))
    yield raw_archive(items).replace(head + items[1], b"\x58" + bytes((len(items[1]),)) + items[1])


TARGETS = {
    "cbor": Target(
        strict(lambda data: cbor.encode(cbor.decode(data, what="it", limit=4096))), _cbor_seeds
    ),
    "cose": Target(strict(_sign1), lambda: [stories().story().receipt]),
    "receipt": Target(strict(_read_receipt), lambda: [stories().story().receipt]),
    "erasure": Target(strict(_read_erasure), lambda: [_erasure()], 1024, 2000),
    "claims": Target(
        strict(lambda data: decode_claims(data).encode()), lambda: [_claims().encode()]
    ),
    "bundle": Target(
        strict(lambda data: decode_bundle(data).encode()), lambda: [stories().story().bundle], 2048
    ),
    "disclosure": Target(_read_disclosure, lambda: [disclosure_v2(), _disclosure_v1()], 6144, 5000),
    "archive": Target(strict(_read_archive), _archive_seeds, 8192, 5000),
}
