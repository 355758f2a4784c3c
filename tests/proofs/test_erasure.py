"""The receipt of an erasure: one encoding, one signer, and nothing of the thread in it."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest

from proofs import cose
from proofs.bundle import bundle_entry
from proofs.claims import Claims
from proofs.erasure import (
    TYPE,
    Erasure,
    Scope,
    decode_erasure,
    erasure_entry,
    sign_erasure,
    thread_commitment,
)
from proofs.errors import ProofError, RefusedError, UnreadableError
from proofs.receipt import TYPE as RECEIPT_TYPE
from proofs.receipt import decode_receipt, receipt_entry, sign_receipt
from tests.proofs.proofs_support import NOW, RECEIPT_KEY, claims, private_key, receipt

ENCLAVE = b"e" * 32


def an_erasure(**changes: object) -> Erasure:
    """Of a thread with three records, by the enclave of `claims`."""
    base = Erasure(
        erasure_id=b"i" * 16,
        enclave=ENCLAVE,
        release=claims().release,
        time=NOW + 60,
        epoch=claims().epoch,
        scope=Scope.THREAD,
        thread=thread_commitment(b"s" * 32, b"t" * 32),
        head=b"h" * 32,
        length=3,
        previous=b"p" * 32,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_it_says_what_was_signed() -> None:
    """Whatever is optional is there or null."""
    for one in (
        an_erasure(),
        an_erasure(head=None, length=0, previous=None),
        an_erasure(scope=Scope.RECORDS, after=b"a" * 32),
        an_erasure(scope=Scope.ROTATION, after=b"a" * 32, previous=None),
    ):
        signed = sign_erasure(one, RECEIPT_KEY)
        decoded = decode_erasure(signed)
        assert decoded.encoded == signed
        assert decoded.verify(ENCLAVE, claims()) == one


def test_every_flipped_bit_is_refused() -> None:
    """Unreadable or not signed; never another erasure."""
    signed = sign_erasure(an_erasure(), RECEIPT_KEY)
    for place in range(len(signed) * 8):
        flipped = bytearray(signed)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ProofError):
            decode_erasure(bytes(flipped)).verify(ENCLAVE, claims())


def test_every_cut_and_every_tail_is_unreadable() -> None:
    """One encoding and no other."""
    signed = sign_erasure(an_erasure(), RECEIPT_KEY)
    for size in range(len(signed)):
        with pytest.raises(UnreadableError):
            decode_erasure(signed[:size])
    with pytest.raises(UnreadableError):
        decode_erasure(signed + b"\x00")


def test_claims_that_are_missing_or_more_are_unreadable() -> None:
    """The format is closed."""
    encoded = cbor2.loads(an_erasure().encode())
    for changed in (
        {key: value for key, value in encoded.items() if key != -65554},
        {**encoded, -65555: 1},
        {**encoded, -65551: "everything"},
        {**encoded, -65551: 7},
        {**encoded, -65554: -1},
        {**encoded, 7: b"short"},
        {**encoded, -65553: b"short"},
    ):
        data = cose.sign1(cbor2.dumps(changed, canonical=True), RECEIPT_KEY, TYPE)
        with pytest.raises(UnreadableError):
            decode_erasure(data)


def test_only_what_leaves_a_head_names_one() -> None:
    """A thread that is gone has none after it; records and rotations leave one, never null."""
    for changes in (
        {"scope": Scope.THREAD, "after": b"a" * 32},
        {"scope": Scope.RECORDS},
        {"scope": Scope.ROTATION, "after": None},
        {"scope": Scope.RECORDS, "after": b"short"},
    ):
        with pytest.raises(UnreadableError):
            an_erasure(**changes)
    thread = cbor2.loads(an_erasure().encode())
    records = cbor2.loads(an_erasure(scope=Scope.RECORDS, after=b"a" * 32).encode())
    for changed in (
        {**thread, -65555: None},
        {**records, -65555: None},
        {key: value for key, value in records.items() if key != -65555},
        {**records, -65551: "thread"},
    ):
        data = cose.sign1(cbor2.dumps(changed, canonical=True), RECEIPT_KEY, TYPE)
        with pytest.raises(UnreadableError):
            decode_erasure(data)


def test_a_receipt_cannot_pass_as_an_erasure_nor_the_other_way() -> None:
    """Both are signed by one key; their types and log entries differ."""
    with pytest.raises(UnreadableError):
        decode_erasure(sign_receipt(receipt(ENCLAVE), RECEIPT_KEY))
    with pytest.raises(UnreadableError):
        decode_erasure(cose.sign1(an_erasure().encode(), RECEIPT_KEY, RECEIPT_TYPE))
    signed = sign_erasure(an_erasure(), RECEIPT_KEY)
    with pytest.raises(UnreadableError):
        decode_receipt(signed)
    assert len({erasure_entry(signed), receipt_entry(signed), bundle_entry(signed)}) == 3


@pytest.mark.parametrize(
    ("what", "enclave", "of"),
    [
        ("not signed", ENCLAVE, claims(receipt_key=bytes(32))),
        ("another attestation bundle", bytes(32), claims()),
        ("release or epoch", ENCLAVE, claims(release=bytes(32))),
        ("release or epoch", ENCLAVE, claims(epoch=5)),
        ("keys were not valid", ENCLAVE, claims(not_before=NOW + 600)),
        ("keys were not valid", ENCLAVE, claims(not_after=NOW + 59)),
    ],
)
def test_only_the_enclave_that_it_names_can_have_made_it(
    what: str, enclave: bytes, of: Claims
) -> None:
    """By key, bundle, release, epoch and time."""
    signed = sign_erasure(an_erasure(), RECEIPT_KEY)
    with pytest.raises(RefusedError, match=what):
        decode_erasure(signed).verify(enclave, of)


def test_another_key_is_refused() -> None:
    """Whatever it says of itself."""
    with pytest.raises(RefusedError):
        decode_erasure(sign_erasure(an_erasure(), private_key(9))).verify(ENCLAVE, claims())


def test_the_thread_is_hidden_without_its_salt() -> None:
    """The same thread under two salts looks like two, and the id is not in the bytes."""
    thread_id = bytes(range(32))
    one, other = (thread_commitment(salt * 32, thread_id) for salt in (b"a", b"b"))
    assert one != other
    assert thread_id not in sign_erasure(an_erasure(thread=one), RECEIPT_KEY)
