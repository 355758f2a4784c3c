"""Certificate revocation lists (RFC 5280 section 5) of the CPU vendors, at a time given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proofs.errors import UnreadableError
from proofs.evidence.base import Problem
from proofs.evidence.certificates import UNREADABLE

MAX_CRL = 64 * 1024
"""Bytes of one CRL in DER; those of Intel and AMD have less than 10 kB."""


def load_crl(data: bytes, what: str) -> x509.CertificateRevocationList:
    """Read one CRL that is exactly `data`.

    Args:
        data: DER.
        what: The thing's name, for the error.

    Raises:
        UnreadableError: Too long, no CRL, or not its own encoding.
    """
    if len(data) > MAX_CRL:
        raise UnreadableError(f"{what} has {len(data)} bytes, more than the {MAX_CRL} of a CRL.")
    try:
        crl = x509.load_der_x509_crl(data)
        # The library reads these late; whatever it raises, it raises here.
        _ = crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.signature_hash_algorithm
        _ = [extension.critical for extension in crl.extensions]
        _ = [revoked.serial_number for revoked in crl]
        # The signature, a bit string of whole bytes, ends it: nothing else is the same list.
        if crl.public_bytes(Encoding.DER) == data and data.endswith(b"\x00" + crl.signature):
            return crl
    except UNREADABLE as error:
        raise UnreadableError(f"{what} is no CRL in DER. Get it again.") from error
    raise UnreadableError(f"{what} is not in canonical DER. It was changed: get it again.")


def crl_problems(
    crl: x509.CertificateRevocationList,
    issuer: x509.Certificate,
    certificates: Iterable[x509.Certificate],
    at: int,
    what: str,
) -> Iterator[Problem]:
    """Judge a whole CRL, and what it says of certificates by the same issuer.

    Args:
        crl: The list; must be neither partial nor indirect.
        issuer: Who must have signed it, and all of `certificates`.
        certificates: None of these may be on it.
        at: Unix seconds at which it must be in force.
        what: Its name, for the problems.

    Yields:
        Problems with code `collateral` (not the issuer's), `not_yet_valid`, `expired`, `revoked`.
    """
    try:
        signed = crl.issuer == issuer.subject and crl.is_signature_valid(
            issuer.public_key()  # type: ignore[arg-type] # raises TypeError where it cannot be
        )
    except UNREADABLE:
        signed = False
    # A critical extension makes the list partial or indirect (RFC 5280 section 5.2).
    if not signed or any(extension.critical for extension in crl.extensions):
        yield Problem("collateral", f"{what} is not a whole CRL signed by its issuer")
        return
    if at < crl.last_update_utc.timestamp():
        yield Problem("not_yet_valid", f"{what} was made after the time judged")
    if crl.next_update_utc is None or at > crl.next_update_utc.timestamp():
        yield Problem("expired", f"{what} was out of date at the time judged: get a newer one")
    listed = {revoked.serial_number for revoked in crl}
    for certificate in certificates:
        if certificate.serial_number in listed:
            name = certificate.subject.rfc4514_string().partition(",")[0]
            yield Problem("revoked", f"{what} names {name}: its issuer has revoked it")
