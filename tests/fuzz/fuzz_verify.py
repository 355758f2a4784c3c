"""What was verified and then changed does not hold; policies, which say what holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import orjson
from fuzz_receipts import (
    archive_header,
    archive_records,
    disclosure_v2,
    raw_archive,
    read_archive,
)
from fuzz_support import Target, change_one, changes, file_of, mutate

from proofs import cbor
from proofs.archive import (
    BundleRecord,
    EntryRecord,
    ErasureRecord,
    LogRecord,
    ReceiptRecord,
    Record,
)
from proofs.disclosure import Disclosure, Later, Said, decode_disclosure, encode_disclosure
from proofs.errors import PolicyError, ProofError, UnreadableError
from proofs.explain import explain
from proofs.policy import Policy
from proofs.verify import EvidenceCache, Report, verify_disclosure
from proofs.verify_archive import verify_archive
from tests.proofs.archive_support import LATER, source
from tests.proofs.proofs_support import LOG, WITNESSES, full_story, policy


@cache
def _strict_policy() -> Policy:
    return full_story().policy


@cache
def _appraisals() -> EvidenceCache:
    return EvidenceCache()


def _holds(disclosure: bytes) -> bool:
    """Whether it holds: with and without what is remembered of others, the same comes out."""
    reports: list[Report | None] = []
    for remembered in (None, _appraisals()):
        try:
            use = _strict_policy()
            reports.append(verify_disclosure(disclosure, use, LATER, cache=remembered))
        except ProofError:
            reports.append(None)
    first, again = reports
    assert first == again
    return first is not None and first.holds


def _verify(script: bytes) -> None:
    """A disclosure with bytes changed does not hold."""
    changed = mutate(disclosure_v2(), script)
    assert _holds(changed) == (changed == disclosure_v2())


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
    first = _parts(decode_disclosure(disclosure_v2()))
    parts = change_one(first, script)
    try:
        changed = encode_disclosure(_of_parts(parts))
    except UnreadableError:
        return
    if _holds(changed):
        assert parts[:_SIGNED_PARTS] == first[:_SIGNED_PARTS]
    else:
        assert parts != first


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
    return [cbor.encode(one.items()) for one in (archive_header(), *archive_records())]


def _verify_archive(script: bytes) -> None:
    """An archive with a record changed does not hold, but for what nobody signs in it."""
    records = _encoded_records()
    changed = change_one(records, script)
    data = raw_archive(changed)
    try:
        report = verify_archive(source(data), len(data), policy(), LATER, keep_said=True)
        held = _signed_items(read_archive(data)[1])
    except UnreadableError:
        assert changed != records
        return
    if report.holds:
        first = _signed_items(archive_records())
        pairs = zip(held, first, strict=True)
        assert all(one == other or one is None for one, other in pairs)
    else:
        assert changed != records


def _policy(data: bytes) -> None:
    with file_of(data) as path:
        try:
            policy = Policy.load(path)
        except PolicyError as error:
            assert str(path) in str(error)
            return
    orjson.dumps(explain(policy).to_json())


def _policy_seeds() -> Iterable[bytes]:
    witness = WITNESSES[0].verifier.format()
    yield f"""kinds = ["tdx", "snp"]
measurements = [{{ "mrtd" = "{"0" * 96}" }}]
release_keys = ["{LOG.verifier.format()}"]
releases = []
revoked_releases = ["{"1" * 64}"]
log_keys = ["{LOG.verifier.format()}"]
witnesses = ["{witness}"]
min_witnesses = 1
""".encode()
    yield b"""measurements = "any"
max_age_s = 86400
refused_advisories = ["INTEL-SA-00837"]
grace_s = 0x10
allow_simulated = true
min_tcb = 1
[tdx]
statuses = ["UpToDate"]
min_tcb = { module = 262 }
[snp]
products = ["Milan"]
[gpu]
min_driver = "580.159"
vbios = ["96.00.74.00.20"]
min_devices = 1
[custody]
kind = "third-party"
platforms = ["%s"]
""" % (b"2" * 64)


TARGETS = {
    "verify": Target(_verify, lambda: [b"", b"\x00\x00\x40\x01"], 64, 100),
    "verify-parts": Target(
        _verify_parts, lambda: changes(_parts(decode_disclosure(disclosure_v2()))), 64, 60
    ),
    "verify-archive": Target(_verify_archive, lambda: changes(_encoded_records()), 64, 50),
    "policy": Target(_policy, _policy_seeds, 1024, 500),
}
