"""X.509 chains: real ones hold, and each way to be wrong has its own code."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from attestation_files import attestation
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from gpu_machine import Authority, certify
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.errors import UnreadableError
from proofs.evidence.certificates import (
    MAX_CERTIFICATE,
    chain_problems,
    fingerprint,
    issued,
    load_der,
    load_pem_chain,
)

AT = 1753000000
NOW = datetime.fromtimestamp(AT, UTC)
REAL = (
    "nvidia/hopperCertChain.txt",
    "snp/ask_ark_milan.pem",
    "snp/ask_ark_genoa.pem",
    "snp/ask_ark_turin_vcek.pem",
)


def pem(*chain: Authority) -> bytes:
    """A chain as a file."""
    return b"".join(one.certificate.public_bytes(Encoding.PEM) for one in chain)


def codes(*chain: Authority, at: int = AT) -> list[str]:
    """The codes of a chain's problems."""
    return [one.code for one in chain_problems([a.certificate for a in chain], at, "the chain")]


@pytest.mark.parametrize("name", REAL)
def test_real_chains_hold(name: str) -> None:
    """Chains of NVIDIA (ECDSA) and AMD (RSA-PSS) hold from leaf to root."""
    chain = load_pem_chain(attestation(name), "the chain", 8)
    assert chain_problems(chain, AT, "the chain") == []
    assert issued(chain[-1], chain[-1])


def test_every_byte_of_a_real_chain_counts() -> None:
    """A chain with one byte of any certificate changed is unreadable or does not hold."""
    ders = [
        one.public_bytes(Encoding.DER)
        for one in load_pem_chain(attestation("nvidia/hopperCertChain.txt"), "the chain", 8)
    ]
    for number, der in enumerate(ders):
        for place in range(len(der)):
            changed = bytearray(der)
            changed[place] ^= 1
            parts = [*ders[:number], bytes(changed), *ders[number + 1 :]]
            try:
                chain = [load_der(part, "a certificate") for part in parts[max(number - 1, 0) :]]
            except UnreadableError:
                continue
            assert chain_problems(chain, AT, "the chain"), (number, place)


def test_validity_counts_both_ends() -> None:
    """A certificate is valid from its first second to its last, and not one second more."""
    root = certify("root", None)
    leaf = certify("leaf", root, ca=False, valid=(NOW, NOW + timedelta(seconds=9)))
    assert codes(leaf, root, at=AT) == codes(leaf, root, at=AT + 9) == []
    assert codes(leaf, root, at=AT - 1) == ["not_yet_valid"]
    assert codes(leaf, root, at=AT + 10) == ["expired"]
    assert codes(leaf, root, at=2**63 - 1) == ["expired", "expired"]


def test_issuers_must_be_allowed_to_issue() -> None:
    """No CA, too long a path, out of order, cut at the end: each is a problem of the chain."""
    root = certify("root", None)
    middle = certify("middle", root)
    assert codes(certify("leaf", middle, ca=False), middle, root) == []
    no_ca = certify("no CA", root, ca=False)
    assert codes(certify("leaf", no_ca, ca=False), no_ca, root) == ["chain"]
    short = certify("short", None, path_length=0)
    below = certify("below", short)
    assert codes(certify("leaf", short, ca=False), short) == []
    assert codes(certify("leaf", below, ca=False), below, short) == ["chain"]
    leaf = certify("leaf", middle, ca=False)
    assert "chain" in codes(leaf, root, middle)
    assert codes(leaf, middle) == ["chain"]
    impostor = certify("middle", certify("root", None))
    assert "chain" in codes(leaf, impostor, root)


def test_unknown_critical_extension_is_refused() -> None:
    """What a certificate marks as critical must be understood (RFC 5280 section 4.2)."""
    root = certify("root", None)
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
    extension = x509.UnrecognizedExtension(oid, b"\x05\x00")
    assert codes(certify("leaf", root, ca=False, extensions=[(extension, False)]), root) == []
    assert codes(certify("leaf", root, ca=False, extensions=[(extension, True)]), root) == ["chain"]


def test_pem_holds_certificates_and_nothing_else() -> None:
    """Line ends of both kinds are taken; anything between, too many or none is not."""
    root = certify("root", None)
    good = pem(certify("leaf", root, ca=False), root)
    assert load_pem_chain(good, "it", 2) == load_pem_chain(good.replace(b"\n", b"\r\n"), "it", 2)
    padded = load_pem_chain(b"\n" + good + b"\n", "it", 2)
    assert fingerprint(padded[1]) == hashlib.sha256(root.der).digest()
    comment = good.replace(b"-----END CERTIFICATE-----\n-", b"-----END CERTIFICATE-----\nhi\n-")
    key = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    for bad in (b"", b"hello", comment, good + key, good[:-40], good.replace(b"MII", b"MIJ", 1)):
        with pytest.raises(UnreadableError):
            load_pem_chain(bad, "it", 2)
    with pytest.raises(UnreadableError, match="more than 1"):
        load_pem_chain(good, "it", 1)
    with pytest.raises(UnreadableError, match="too many"):
        load_pem_chain(b"\n" * 9000 + good, "it", 1)


def test_der_is_one_certificate_and_nothing_else() -> None:
    """Trailing bytes, cut bytes, base64 or too many bytes are no certificate."""
    good = certify("root", None).der
    assert load_der(good, "it").public_bytes(Encoding.DER) == good
    for cut in range(len(good)):
        with pytest.raises(UnreadableError):
            load_der(good[:cut], "it")
    for bad in (good + b"\x00", base64.b64encode(good), bytes(MAX_CERTIFICATE + 1)):
        with pytest.raises(UnreadableError):
            load_der(bad, "it")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_arbitrary_bytes_raise_one_error(data: st.DataObject) -> None:
    """Whatever the bytes, the readers return or raise `UnreadableError`."""
    good = GOOD[1]
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    changed = good[:start] + data.draw(st.binary(max_size=40)) + good[end:]
    try:
        certificate = load_der(changed, "it")
        chain_problems([certificate, GOOD[0].certificate], AT, "it")
        load_pem_chain(changed, "it", 3)
    except UnreadableError:
        pass


def _good() -> tuple[Authority, bytes]:
    root = certify("root", None)
    return root, certify("leaf", root, ca=False).der


GOOD = _good()
