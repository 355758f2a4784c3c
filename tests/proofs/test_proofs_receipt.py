"""Receipts, claims and the CBOR beneath: one encoding each, and nothing else is read."""

import tracemalloc

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proofs_support import NOW, RECEIPT_KEY, claims, platform, private_key, receipt

from proofs import cbor, cose
from proofs.bundle import decode_bundle, make_bundle
from proofs.claims import MAX_LIFETIME_S, decode_claims
from proofs.ed25519 import raw_public
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence import CPU_APPRAISERS, gpu_appraiser
from proofs.evidence.base import NO_COLLATERAL
from proofs.receipt import (
    TYPE,
    Outcome,
    commitment,
    decode_receipt,
    sign_receipt,
)

ENCLAVE = b"e" * 32
SIGNED = sign_receipt(receipt(ENCLAVE), RECEIPT_KEY)


def test_receipt_round_trip() -> None:
    """What an enclave signs is what its reader gets, with either kind of head."""
    for outcome in Outcome:
        for head in (None, b"h" * 32):
            one = receipt(
                ENCLAVE, outcome=outcome, head_before=head, head_after=head, previous=head
            )
            signed = decode_receipt(sign_receipt(one, RECEIPT_KEY))
            assert signed.verify(raw_public(RECEIPT_KEY)) == one
            assert len(signed.digest) == 32


def test_receipt_is_standard_cose_and_cwt() -> None:
    """A reader with nothing but RFC 9052 and RFC 8392 finds iat, cti and the EdDSA signature."""
    message = cbor2.loads(SIGNED)
    protected, unprotected, payload, signature = message.value
    assert message.tag == 18
    assert cbor2.loads(protected) == {1: -8, 16: TYPE}
    assert unprotected == {}
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    RECEIPT_KEY.public_key().verify(signature, signed)
    found = cbor2.loads(payload)
    assert (found[6], found[7]) == (NOW + 60, b"i" * 16)
    assert all(key < -65536 for key in found if key not in (6, 7))


def test_receipt_of_another_key_is_refused() -> None:
    """A signature by any other key is no receipt of this enclave."""
    with pytest.raises(RefusedError) as refused:
        decode_receipt(SIGNED).verify(raw_public(private_key(9)))
    assert refused.value.verdicts[0].name == "integrity"


def test_receipt_cut_anywhere_or_with_a_tail_is_unreadable() -> None:
    """No prefix of a receipt, and nothing longer, reads as a receipt."""
    for end in range(len(SIGNED)):
        with pytest.raises(UnreadableError):
            decode_receipt(SIGNED[:end])
    for tail in (b"\x00", b"\xf6", SIGNED):
        with pytest.raises(UnreadableError):
            decode_receipt(SIGNED + tail)


@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 7))
def test_receipt_with_a_flipped_bit_never_verifies(place: int, bit: int) -> None:
    """Every bit of a receipt is either structure or signed."""
    data = bytearray(SIGNED)
    data[place] ^= 1 << bit
    with pytest.raises((UnreadableError, RefusedError)):
        decode_receipt(bytes(data)).verify(raw_public(RECEIPT_KEY))


def forged(change: dict[int, object], drop: tuple[int, ...] = ()) -> bytes:
    """A receipt with other claims, well signed by the right key."""
    payload = cbor2.loads(receipt(ENCLAVE).encode())
    payload = {k: v for k, v in {**payload, **change}.items() if k not in drop}
    return cose.sign1(cbor.encode(payload), RECEIPT_KEY, TYPE)


@pytest.mark.parametrize(
    "data",
    [
        forged({8: b"extra"}),
        forged({-65551: 1}),
        forged({}, drop=(6,)),
        forged({}, drop=(-65550,)),
        forged({6: -1}),
        forged({6: True}),
        forged({6: 1.5}),
        forged({6: 2**63}),
        forged({6: 2**70}),
        forged({7: b"i" * 15}),
        forged({7: "i" * 16}),
        forged({-65537: b"e" * 31}),
        forged({-65537: None}),
        forged({-65538: 256}),
        forged({-65544: b""}),
        forged({-65546: None}),
        forged({-65549: "finished"}),
        forged({-65549: 1}),
        forged({-65549: ["completed"]}),
        forged({6: cbor2.CBORTag(1, NOW)}),
    ],
)
def test_receipts_with_other_claims_are_unreadable(data: bytes) -> None:
    """Types, lengths and the set of claims are fixed; even the right key cannot widen them."""
    with pytest.raises(UnreadableError):
        decode_receipt(data)


def cose_of(protected: object, unprotected: object, tag: int = 18) -> bytes:
    payload = receipt(ENCLAVE).encode()
    header = cbor.encode(protected)
    signature = RECEIPT_KEY.sign(cbor.encode(["Signature1", header, b"", payload]))
    return cbor.encode(cbor2.CBORTag(tag, [header, unprotected, payload, signature]))


@pytest.mark.parametrize(
    "data",
    [
        cose_of({1: -8, 16: "application/other+cwt"}, {}),
        cose_of({1: -8}, {}),
        cose_of({1: -7, 16: TYPE}, {}),
        cose_of({1: -8, 2: [1], 16: TYPE}, {}),
        cose_of({1: -8, 16: TYPE}, {4: b"kid"}),
        cose_of({16: TYPE}, {1: -8}),
        cose_of({1: -8, 16: TYPE}, {}, tag=98),
        cbor.encode(cbor2.loads(SIGNED).value),
        cbor.encode(cbor2.CBORTag(61, cbor2.loads(SIGNED))),
    ],
)
def test_other_cose_messages_are_unreadable(data: bytes) -> None:
    """One tag, one algorithm, one type: no other signed thing passes as a receipt."""
    with pytest.raises(UnreadableError):
        decode_receipt(data)


def test_values_out_of_bounds_are_not_signed() -> None:
    """An enclave's own mistake is caught before it signs."""
    for change in (
        {"receipt_id": b""},
        {"persona": b"p" * 31},
        {"key_config_id": 256},
        {"turn_index": -1},
        {"time": True},
        {"outcome": "completed"},
        {"head_before": b"h"},
    ):
        with pytest.raises(UnreadableError):
            receipt(ENCLAVE, **change)


def test_commitments_hide_and_bind() -> None:
    """The same text under another salt or label is another commitment, and salts are real."""
    salt = b"s" * 32
    one = commitment(salt, "request", b"text")
    assert one == commitment(salt, "request", b"text")
    others = {
        commitment(b"t" * 32, "request", b"text"),
        commitment(salt, "response", b"text"),
        commitment(salt, "request", b"text "),
        commitment(salt, "reques", b"ttext"),
    }
    assert len(others | {one}) == 5
    for bad_salt, label in ((b"short", "request"), (salt, "re\x00quest")):
        with pytest.raises(UnreadableError):
            commitment(bad_salt, label, b"text")


def test_claims_round_trip_and_cuts() -> None:
    """Claims read back as written; cut or with a tail they are no claims."""
    data = claims().encode()
    assert decode_claims(data) == claims()
    for end in range(len(data)):
        with pytest.raises(UnreadableError):
            decode_claims(data[:end])
    with pytest.raises(UnreadableError):
        decode_claims(data + b"\x00")


@pytest.mark.parametrize(
    "change",
    [
        {"key_configs": ()},
        {"key_configs": (b"",)},
        {"key_configs": (b"k",) * 17},
        {"receipt_key": b"k" * 31},
        {"measurements": ()},
        {"measurements": (("b", b"1"), ("a", b"2"))},
        {"measurements": (("a", b"1"), ("a", b"2"))},
        {"measurements": (("a", b""),)},
        {"release": b""},
        {"engine": ""},
        {"model": "m" * 201},
        {"model": "\ud800"},
        {"not_after": NOW},
        {"not_after": NOW + MAX_LIFETIME_S + 1},
        {"epoch": -1},
    ],
)
def test_claims_out_of_bounds_are_refused(change: dict[str, object]) -> None:
    """Keys that live longer than a day, among others, cannot be claimed."""
    with pytest.raises(UnreadableError):
        claims(**change)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\x18\x01",  # 1 in two bytes
        b"\x9f\x01\xff",  # indefinite length
        b"\xa2\x01\x01\x01\x02",  # a key twice
        b"\xa2\x02\x01\x01\x02",  # keys out of order
        b"\x01\x01",  # a tail
        b"\xc2\x41\x01",  # a small number as a big one
        b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff",  # an array that would fill the memory
        b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\xbb\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\xc0\x61x",  # a date that is none
        b"\xd8\x23\x61(",  # a regular expression that is none
        b"\xd8\x1c\x81\xd8\x1d\x00",  # an array that holds itself
        b"\x62\xc3\x28",  # no UTF-8
        b"\x81" * 900 + b"\x00" * 2,
    ],
)
def test_other_cbor_is_unreadable(data: bytes) -> None:
    """Whatever cbor2 makes of it, only the deterministic encoding gets through, as one error."""
    with pytest.raises(UnreadableError):
        cbor.decode(data, what="the thing", limit=1000)


def test_long_input_is_refused_before_it_is_read() -> None:
    """A limit is a limit on bytes, whatever they are."""
    with pytest.raises(UnreadableError, match="more than"):
        cbor.decode(cbor.encode(bytes(1000)), what="the thing", limit=1000)


@given(st.binary(max_size=200))
def test_random_bytes_raise_one_error(data: bytes) -> None:
    """No foreign exception comes out of a decoder, whatever goes in."""
    for decode in (decode_receipt, decode_claims, decode_bundle):
        with pytest.raises(UnreadableError):
            decode(data)


def test_evidence_that_is_no_report_is_unreadable() -> None:
    """A bundle may carry any bytes; the appraisers name what they are not."""
    good = make_bundle(claims(), platform(), NOW)
    for cpu in (b"\x80", good.gpu):
        with pytest.raises(UnreadableError):
            CPU_APPRAISERS["simulated"](cpu, NOW, NO_COLLATERAL)
    for gpu in (b"\x80", good.cpu):
        with pytest.raises(UnreadableError):
            gpu_appraiser(gpu)


SHARED = b"\xd8\x1c\x82" + b"\xd8\x1d\x00" * 2  # tag 28: a value to be shared; tag 29: it again
BOMBS = {
    "a map as a key": b"\xa1\xa1\x00\x00\x00",
    "maps as keys of maps": b"\xa1" * 45 + b"\x00" * 46,
    "shared values": b"\x98\x40" + b"\xd8\x1c\x81\x00" + SHARED * 63,
    "a value that holds itself": b"\xd8\x1c\x81\xd8\x1d\x00",
    "deep arrays": b"\x81" * 5000 + b"\x00",
    "an endless array": b"\x9b" + b"\xff" * 8,
    "an endless string": b"\x5b" + b"\xff" * 8,
    "many keys": b"\xb8\x18" + b"".join(b"\x18%c\x00" % key for key in range(24, 48)),
    "a pattern": b"\xd8\x23\x61(",
    "a fraction": b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01",
    "a float": b"\xf9\x00\x00",
    "indefinite length": b"\x9f\xff",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_cbor_that_grows_is_refused_before_it_does(data: bytes) -> None:
    """A few bytes that a library would spend memory or hours on are refused by their heads."""
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError):
            cbor.decode(data, what="it", limit=1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 65536
