"""OCSP responses from files: who may answer, for how long, and what the answer is worth."""

import contextlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.ocsp import OCSPCertStatus
from cryptography.x509.oid import ExtendedKeyUsageOID
from gpu_machine import Authority, answer, certify, delegate
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.errors import UnreadableError
from proofs.evidence.ocsp import MAX_RESPONSE, Lookup, look_up, read_response

AT = 1760000000
DAY = 86400
ROOT = certify("root", None)
SUBJECT = certify("subject", ROOT)
GOOD = answer(SUBJECT, ROOT, AT)
REVOKED, UNKNOWN = OCSPCertStatus.REVOKED, OCSPCertStatus.UNKNOWN
HOLD = x509.ReasonFlags.certificate_hold


def judge(*responses: bytes, at: int = AT, subject: Authority = SUBJECT) -> tuple[bool, list[str]]:
    """Whether the subject could be looked up, and the codes of its problems."""
    read = [read_response(one, "the response") for one in responses]
    found, problems = look_up(subject.certificate, ROOT.certificate, read, at, "the subject")
    return found, [problem.code for problem in problems]


def test_issuer_may_answer() -> None:
    """The issuer's own answer counts from its first second to its last."""
    good = answer(SUBJECT, ROOT, AT, age_s=0, valid_s=DAY)
    assert judge(good) == judge(good, at=AT + DAY) == (True, [])
    assert judge(good, at=AT - 1) == judge(good, at=AT + DAY + 1) == (False, [])
    assert judge() == (False, [])


def test_answer_without_an_end_counts_for_an_hour() -> None:
    """A responder that names no next update always has newer, so its answer soon grows old."""
    untimed = answer(SUBJECT, ROOT, AT, age_s=0, valid_s=None)
    assert judge(untimed) == judge(untimed, at=AT + 3600) == (True, [])
    assert judge(untimed, at=AT + 3601) == (False, [])


def test_delegated_responder_may_answer() -> None:
    """A responder certified for it by the issuer itself may answer."""
    assert judge(answer(SUBJECT, ROOT, AT, responder=delegate(ROOT))) == (True, [])


def test_nobody_else_may_answer() -> None:
    """Without the extended key usage, under another issuer, or out of time: not entitled."""
    past = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC))
    stranger = certify("root", None)
    middle = certify("middle", ROOT)
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    for responder in (
        certify("Responder", ROOT, ca=False),
        certify("Responder", ROOT, ca=False, extensions=[(server, False)]),
        delegate(stranger),
        delegate(middle),
        delegate(ROOT, valid=past),
        SUBJECT,
    ):
        forged = answer(SUBJECT, ROOT, AT, responder=responder)
        assert judge(forged) == (False, ["ocsp_signature"])
        good = answer(SUBJECT, ROOT, AT)
        assert judge(good, forged) == (False, ["ocsp_signature"])


def test_answer_is_about_one_certificate_of_one_issuer() -> None:
    """An answer about a sibling, or about the same number under another issuer, is no answer."""
    sibling = certify("sibling", ROOT)
    stranger = certify("stranger", None)
    assert judge(answer(sibling, ROOT, AT)) == (False, [])
    assert judge(answer(SUBJECT, stranger, AT)) == (False, [])
    assert judge(answer(sibling, ROOT, AT, status=REVOKED), answer(SUBJECT, ROOT, AT)) == (True, [])


def test_revoked_stays_revoked() -> None:
    """A revocation counts however old the answer is, and against a good answer beside it."""
    revoked = answer(SUBJECT, ROOT, AT, status=REVOKED, age_s=100)
    good = answer(SUBJECT, ROOT, AT, age_s=0)
    assert judge(revoked) == (True, ["revoked"])
    assert judge(revoked, at=AT + 10 * DAY) == (False, ["revoked"])
    assert judge(revoked, good) == judge(good, revoked) == (True, ["revoked"])
    assert judge(revoked, at=AT - 101) == (False, [])


def test_reason_is_told() -> None:
    """The problem says why, where the responder does."""
    reason = x509.ReasonFlags.key_compromise
    response = read_response(answer(SUBJECT, ROOT, AT, status=REVOKED, reason=reason), "it")
    _, (problem,) = look_up(SUBJECT.certificate, ROOT.certificate, [response], AT, "GPU 7")
    assert "GPU 7" in problem.text
    assert "keyCompromise" in problem.text


def test_hold_may_be_lifted() -> None:
    """A hold counts while its answer does, and a newer good answer lifts it."""
    held = answer(SUBJECT, ROOT, AT, status=REVOKED, reason=HOLD, age_s=100)
    newer = answer(SUBJECT, ROOT, AT, age_s=50)
    older = answer(SUBJECT, ROOT, AT, age_s=200)
    assert judge(held) == (True, ["held"])
    assert judge(held, at=AT + 10 * DAY) == (False, [])
    assert judge(held, newer) == judge(newer, held) == (True, [])
    same = answer(SUBJECT, ROOT, AT, age_s=100)
    for good in (older, same):
        assert judge(held, good) == judge(good, held) == (True, ["held"])


def test_unknown_is_as_good_as_nothing() -> None:
    """A responder that does not know the certificate did not look it up."""
    assert judge(answer(SUBJECT, ROOT, AT, status=UNKNOWN)) == (False, [])


def test_whole_chain_is_looked_up_but_its_root() -> None:
    """Each certificate below the root needs an answer, from where the caller starts."""
    leaf = certify("leaf", SUBJECT, ca=False)
    chain = [one.certificate for one in (leaf, SUBJECT, ROOT)]
    answers = [answer(leaf, SUBJECT, AT), answer(SUBJECT, ROOT, AT)]
    first, second = (read_response(one, "it") for one in answers)
    assert Lookup([first, second], AT).chain(chain, "it") == (True, [])
    assert Lookup([first], AT).chain(chain, "it") == (False, [])
    assert Lookup([second], AT).chain(chain, "it") == (False, [])
    assert Lookup([second], AT).chain(chain, "it", first=2) == (True, [])


def test_every_byte_of_a_response_counts() -> None:
    """A response with one byte changed is unreadable, no answer, or has a problem."""
    responder = delegate(ROOT)
    # Only a signature that ends in a zero bit leaves room for a bit string of one bit less.
    good = next(
        made
        for made in (answer(SUBJECT, ROOT, AT, responder=responder) for _ in range(64))
        if read_response(made, "it").basic.signature[-1] % 2 == 0
    )
    assert judge(good) == (True, [])
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        with contextlib.suppress(UnreadableError):
            assert judge(bytes(changed)) != (True, []), place


def test_other_shapes_are_unreadable() -> None:
    """Cut, trailing bytes, too long, and a responder's error instead of an answer."""
    good = answer(SUBJECT, ROOT, AT)
    error = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    for bad in (
        b"",
        good + b"\x00",
        bytes(MAX_RESPONSE + 1),
        error.public_bytes(Encoding.DER),
        *(good[:size] for size in range(0, len(good), 5)),
    ):
        with pytest.raises(UnreadableError):
            read_response(bad, "it")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_arbitrary_bytes_raise_one_error(data: st.DataObject) -> None:
    """Responses with any part replaced by any bytes are read or raise `UnreadableError`."""
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 32)))
    with contextlib.suppress(UnreadableError):
        judge(GOOD[:start] + data.draw(st.binary(max_size=32)) + GOOD[end:])
