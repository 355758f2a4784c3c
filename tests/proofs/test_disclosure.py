"""The file of one receipt: its encoding, its limits, the earlier version."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from proofs import cbor, disclosure
from proofs.disclosure import Disclosure, Later, Said, decode_disclosure, encode_disclosure
from proofs.errors import UnreadableError
from proofs.receipt import Receipt, commitment
from tests.proofs.proofs_support import receipt, story

SAID = Said(b"what?", b"q" * 32, "that", b"a" * 32)
SMALL = Disclosure(b"receipt", "proof", b"cose", b"bundle", "bundle's proof")


def _file(*items: object) -> bytes:
    """A file with a checksum that fits, whatever is in it."""
    body = cbor.encode([*items, bytes(32)])[:-32]
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cose_receipt": b""},
        {"receipt_proof": "", "bundle_proof": ""},
        {"later": Later(b"next bundle", "its proof")},
        {"said": SAID},
        {"said": Said(b"", b"q" * 32, "", b"a" * 32), "later": Later(b"b", "")},
    ],
)
def test_what_is_encoded_is_read(changes: dict[str, object]) -> None:
    """Every part comes back, and the bytes are the only ones for it."""
    told = replace(SMALL, **changes)  # type: ignore[arg-type]
    data = encode_disclosure(told)
    assert decode_disclosure(data) == told
    assert encode_disclosure(decode_disclosure(data)) == data


def test_files_of_the_first_version_are_still_read() -> None:
    """They lack what came later, and nothing else."""
    data = _file("sottovoce-disclosure-v1", b"receipt", "proof", b"bundle", "bundle's proof")
    told = decode_disclosure(data)
    assert told == replace(SMALL, cose_receipt=b"")
    assert told.later is told.said is None


@pytest.mark.parametrize(
    "items",
    [
        # Of one version, with the parts of another.
        ("sottovoce-disclosure-v2", b"receipt", "proof", b"bundle", "bundle's proof"),
        ("sottovoce-disclosure-v1", b"r", "p", b"", b"b", "bp", None, None),
        ("sottovoce-disclosure-v3", b"r", "p", b"", b"b", "bp", None, None),
        # A part of another type, empty, or with parts of its own too many.
        ("sottovoce-disclosure-v2", "r", "p", b"", b"b", "bp", None, None),
        ("sottovoce-disclosure-v2", b"", "p", b"", b"b", "bp", None, None),
        ("sottovoce-disclosure-v2", b"r", b"p", b"", b"b", "bp", None, None),
        ("sottovoce-disclosure-v2", b"r", "p", None, b"b", "bp", None, None),
        ("sottovoce-disclosure-v2", b"r", "p", b"", b"b", None, None, None),
        ("sottovoce-disclosure-v2", b"r", "p", b"", b"b", "bp", [b"b"], None),
        ("sottovoce-disclosure-v2", b"r", "p", b"", b"b", "bp", [b"", "p"], None),
        ("sottovoce-disclosure-v2", b"r", "p", b"", b"b", "bp", False, None),
        ("sottovoce-disclosure-v2", b"r", "p", b"", b"b", "bp", None, []),
        (
            "sottovoce-disclosure-v2",
            b"r",
            "p",
            b"",
            b"b",
            "bp",
            None,
            [b"q", b"s" * 32, b"", b"s" * 32],
        ),
        # Salts of another length, of which HMAC takes several for the same.
        (
            "sottovoce-disclosure-v2",
            *(b"r", "p", b"", b"b", "bp", None),
            [b"q", b"s" * 31, "a", b"s" * 32],
        ),
        (
            "sottovoce-disclosure-v2",
            *(b"r", "p", b"", b"b", "bp", None),
            [b"q", b"s" * 32, "a", b"s" * 33],
        ),
    ],
)
def test_another_shape_is_unreadable(items: tuple[object, ...]) -> None:
    """Whatever its checksum says."""
    with pytest.raises(UnreadableError):
        decode_disclosure(_file(*items))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("receipt", bytes(disclosure.MAX_RECEIPT + 1)),
        ("receipt_proof", "x" * (disclosure.MAX_PROOF + 1)),
        ("cose_receipt", bytes(disclosure.MAX_COSE_RECEIPT + 1)),
        ("bundle", bytes(disclosure.MAX_BUNDLE + 1)),
        ("bundle_proof", "x" * (disclosure.MAX_PROOF + 1)),
    ],
)
def test_parts_have_limits(part: str, value: object) -> None:
    """What could not be read back cannot be made."""
    with pytest.raises(UnreadableError):
        replace(SMALL, **{part: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"request": bytes(disclosure.MAX_REQUEST + 1)},
        {"response": "x" * (disclosure.MAX_RESPONSE + 1)},
        # Three bytes each: the limit is of what is encoded.
        {"response": "\u20ac" * (disclosure.MAX_RESPONSE // 3 + 1)},
        {"response": "\ud800"},
    ],
)
def test_words_have_limits(changes: dict[str, object]) -> None:
    """Request and response, in bytes."""
    with pytest.raises(UnreadableError):
        replace(SAID, **changes)  # type: ignore[arg-type]


def test_too_long_a_file_is_refused_before_it_is_parsed() -> None:
    """One byte more than the largest parts together can have."""
    with pytest.raises(UnreadableError, match=str(disclosure.MAX_DISCLOSURE)):
        decode_disclosure(bytes(disclosure.MAX_DISCLOSURE + 1))


def test_the_largest_parts_fit() -> None:
    """The limit of the whole lets every part be as long as it may be."""
    largest = Disclosure(
        bytes(disclosure.MAX_RECEIPT),
        "x" * disclosure.MAX_PROOF,
        bytes(disclosure.MAX_COSE_RECEIPT),
        bytes(disclosure.MAX_BUNDLE),
        "x" * disclosure.MAX_PROOF,
        Later(bytes(disclosure.MAX_BUNDLE), "x" * disclosure.MAX_PROOF),
        Said(bytes(disclosure.MAX_REQUEST), bytes(32), "x" * disclosure.MAX_RESPONSE, bytes(32)),
    )
    assert decode_disclosure(encode_disclosure(largest)) == largest


def test_every_flipped_bit_and_every_cut_is_unreadable() -> None:
    """The checksum sees damage in every part, those too that nobody signs."""
    data = bytearray(encode_disclosure(replace(SMALL, said=SAID, later=Later(b"next", "proof"))))
    for place in range(len(data)):
        with pytest.raises(UnreadableError):
            decode_disclosure(bytes(data[:place]))
        for bit in range(8):
            data[place] ^= 1 << bit
            with pytest.raises(UnreadableError):
                decode_disclosure(bytes(data))
            data[place] ^= 1 << bit
    with pytest.raises(UnreadableError):
        decode_disclosure(bytes(data) + b"\x00")


def test_words_are_held_against_the_commitments() -> None:
    """Request and response each by itself, and not the one for the other."""
    stated: Receipt = receipt(
        b"e" * 32,
        request=commitment(SAID.request_salt, "request", SAID.request),
        response=commitment(SAID.response_salt, "response", SAID.response.encode()),
    )
    assert SAID.is_request_of(stated)
    assert SAID.is_response_of(stated)
    assert not replace(SAID, request=b"what!").is_request_of(stated)
    assert not replace(SAID, response="this").is_response_of(stated)
    assert not replace(SAID, request_salt=b"x" * 32).is_request_of(stated)
    assert not replace(SAID, response_salt=b"q" * 32).is_response_of(stated)


def test_words_are_not_shown_by_accident() -> None:
    """What prints a disclosure for a log prints no word and no salt of it."""
    told = repr(replace(SMALL, said=Said(b"secret", b"salt" * 8, "answer", b"salt" * 8)))
    assert not any(word in told for word in ("secret", "salt", "answer"))


def test_a_story_survives_its_file() -> None:
    """The tests' own disclosure is one, and its receipt comes back to the byte."""
    told = story()
    assert decode_disclosure(told.disclosure()).receipt == told.receipt
