"""X.509 chains of vendors' hardware (RFC 5280), judged at a time that is an argument.

A chain comes whole, leaf first and its root last. Nothing is searched for, nothing is fetched and
nothing trusts the machine's own store: whether the root is the right one, the policy says.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from proofs.errors import UnreadableError
from proofs.evidence.base import Problem

# cryptography warns of names and serial numbers that RFC 5280 forbids and vendors use. Who reads a
# verdict can do nothing about them; they are judged by their signature like all else.
warnings.filterwarnings("ignore", module=r"proofs\.evidence\.")

MAX_CERTIFICATE = 4096
"""Bytes of one certificate in DER; the largest of any vendor here has 1.7 kB."""

_MAX_PEM = MAX_CERTIFICATE * 3 // 2
STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# A critical extension that nobody here processes must refuse the chain (RFC 5280 section 4.2).
_PROCESSED = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
# What cryptography raises while it reads a certificate's parts, which it does late.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def _touched(certificate: x509.Certificate) -> x509.Certificate:
    """`certificate`, after each part that is read later was read once and may have raised."""
    certificate.public_key()
    _ = certificate.subject, certificate.issuer, certificate.extensions
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    _ = certificate.signature_algorithm_parameters
    # A certificate ends with its signature, a bit string. One that does not count whole bytes
    # would be another encoding of the same certificate.
    if not certificate.public_bytes(Encoding.DER).endswith(b"\x00" + certificate.signature):
        raise ValueError
    return certificate


def load_der(data: bytes, what: str) -> x509.Certificate:
    """Read one certificate that is exactly `data`.

    Args:
        data: DER.
        what: The thing's name, for the error.

    Raises:
        UnreadableError: Too long, no certificate, or not its own encoding.
    """
    if len(data) > MAX_CERTIFICATE:
        raise UnreadableError(
            f"{what} has {len(data)} bytes, more than the {MAX_CERTIFICATE} of a certificate."
        )
    try:
        certificate = _touched(x509.load_der_x509_certificate(data))
        if certificate.public_bytes(Encoding.DER) == data:
            return certificate
    except UNREADABLE as error:
        raise UnreadableError(f"{what} is no certificate in DER. Get it again.") from error
    raise UnreadableError(f"{what} is not in canonical DER. It was changed: get it again.")


def load_pem_chain(data: bytes, what: str, most: int) -> tuple[x509.Certificate, ...]:
    """Read a chain of 1 to `most` certificates, in the order of the file.

    The file must be what RFC 7468 section 2 generates (lines of 64, nothing between), apart from
    its line ends and blanks around it.

    Args:
        data: PEM.
        what: The thing's name, for the error.
        most: More certificates than this are refused.

    Raises:
        UnreadableError: Too long, no certificates, too many, or anything beside them.
    """
    if len(data) > most * _MAX_PEM:
        raise UnreadableError(f"{what} has {len(data)} bytes, too many for {most} certificates.")
    try:
        chain = tuple(map(_touched, x509.load_pem_x509_certificates(data)))
        written = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
    except UNREADABLE as error:
        raise UnreadableError(f"{what} holds no certificates in PEM. Get it again.") from error
    if len(chain) > most:
        raise UnreadableError(f"{what} has {len(chain)} certificates, more than {most}.")
    if written.strip() != data.replace(b"\r\n", b"\n").strip():
        raise UnreadableError(f"{what} holds more than certificates in PEM, or was changed.")
    return chain


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's DER, 32 bytes: how a policy pins a root."""
    return certificate.fingerprint(hashes.SHA256())


# Machines of one vendor share most of their chains. What was signed once stays signed: no time is
# judged here.
@lru_cache(maxsize=512)
def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` is named in `certificate` and signed it, not with a broken digest."""
    try:
        if not isinstance(certificate.signature_hash_algorithm, STRONG):
            return False
        certificate.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def _authority(certificate: x509.Certificate, below: int, what: str) -> Iterator[Problem]:
    """Problems of a certificate as an issuer, `below` others of which stand over the leaf."""
    name = f"{what}: certificate {below + 2}"
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        yield Problem("chain", f"{name} does not say that it may issue certificates")
        return
    if not (constraints.ca and usage.key_cert_sign):
        yield Problem("chain", f"{name} may not issue certificates, yet it did")
    elif constraints.path_length is not None and constraints.path_length < below:
        yield Problem("chain", f"{name} allows fewer certificates below it than there are")


def validity_problems(certificate: x509.Certificate, at: int, name: str) -> Iterator[Problem]:
    """Problems of the validity period, both ends of it included (RFC 5280 section 4.1.2.5)."""
    if at < certificate.not_valid_before_utc.timestamp():
        start = certificate.not_valid_before_utc.date()
        yield Problem("not_yet_valid", f"{name} is valid from {start} only, after the time judged")
    elif at > certificate.not_valid_after_utc.timestamp():
        end = certificate.not_valid_after_utc.date()
        yield Problem("expired", f"{name} expired on {end}, before the time judged")


def chain_problems(chain: Sequence[x509.Certificate], at: int, what: str) -> list[Problem]:
    """Judge a whole chain (RFC 5280 section 6.1, without policies and names).

    Each certificate is issued directly by the next with SHA-256 or longer, the last by itself.
    All but the first may issue certificates, so deep, and are marked critical for nothing that is
    not judged here.

    Args:
        chain: Leaf first, root last; at least one.
        at: Unix seconds at which every certificate must be valid.
        what: The chain's name, for the problems.

    Returns:
        Problems with code `chain`, `not_yet_valid` or `expired`; empty where all holds.
    """
    problems: list[Problem] = []
    for number, certificate in enumerate(chain, 1):
        name = f"{what}: certificate {number}"
        problems.extend(validity_problems(certificate, at, name))
        for extension in certificate.extensions:
            if extension.critical and not isinstance(extension.value, _PROCESSED):
                text = f"{name} has a critical extension that this version does not know"
                problems.append(Problem("chain", text))
    for below, certificate in enumerate(chain[1:]):
        problems.extend(_authority(certificate, below, what))
    for number, (certificate, issuer) in enumerate(pairwise(chain), 1):
        if not issued(certificate, issuer):
            text = f"{what}: certificate {number} is not issued by the one after it"
            problems.append(Problem("chain", text))
    if not issued(chain[-1], chain[-1]):
        problems.append(Problem("chain", f"{what}: the last certificate is no root"))
    return problems
