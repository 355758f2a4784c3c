"""OCSP responses that came along as files (RFC 6960), judged at a time that is an argument.

Nothing is asked of anyone, so no response carries a nonce of ours: what limits its age is its own
`nextUpdate`. A response that is too old, or not old enough, or about other certificates, or that
does not know the certificate, is as good as none; a revocation stays one however old it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from proofs.errors import UnreadableError
from proofs.evidence.base import Problem
from proofs.evidence.certificates import (
    STRONG,
    UNREADABLE,
    fingerprint,
    issued,
    load_der,
    validity_problems,
)

MAX_RESPONSE = 16 * 1024
MAX_RESPONSES = 128
_MAX_SINGLES = 16
# Without `nextUpdate` a responder always has newer (RFC 6960 section 4.2.2.1), so that a stored
# answer has no age of its own. NVIDIA's tools keep one for an hour.
_UNTIMED_S = 3600
# CertIDs name an issuer by a digest, by default of SHA-1 (RFC 5019 section 2.1.1). It finds the
# certificate and proves nothing: the signature does.
_CERT_ID_HASHES = frozenset({"sha1", "sha256", "sha384", "sha512"})


@dataclass(frozen=True, slots=True)
class Response:
    """One OCSP response, read but not yet judged."""

    basic: ocsp.OCSPResponse
    singles: tuple[ocsp.OCSPSingleResponse, ...]
    certificates: tuple[x509.Certificate, ...]


def read_response(data: bytes, what: str) -> Response:
    """Read one response that is exactly `data`.

    Args:
        data: DER.
        what: The thing's name, for the error.

    Raises:
        UnreadableError: Too long, another format, or an error that a responder sent instead.
    """
    if len(data) > MAX_RESPONSE:
        raise UnreadableError(f"{what} has {len(data)} bytes, more than {MAX_RESPONSE}.")
    try:
        basic = ocsp.load_der_ocsp_response(data)
        if basic.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise UnreadableError(f"{what} is an error of the responder, not an answer.")
        singles = tuple(basic.responses)
        certificates = tuple(
            load_der(certificate.public_bytes(Encoding.DER), f"{what}'s certificate")
            for certificate in basic.certificates
        )
        _ = basic.extensions, basic.signature_hash_algorithm, basic.tbs_response_bytes
        for single in singles:
            _ = single.revocation_reason, single.next_update_utc, single.hash_algorithm
            _ = single.revocation_time_utc, single.this_update_utc, single.certificate_status
        # Bit strings count whole bytes, as in certificates.
        whole = b"\x00" + basic.signature in data and basic.public_bytes(Encoding.DER) == data
    except UNREADABLE as error:
        raise UnreadableError(f"{what} is no OCSP response in DER. Get it again.") from error
    if not whole or len(singles) > _MAX_SINGLES or len(certificates) > _MAX_SINGLES:
        raise UnreadableError(f"{what} is not canonical DER, or answers for too many.")
    return Response(basic, singles, certificates)


def _names(single: ocsp.OCSPSingleResponse, issuer: x509.Certificate) -> bool:
    """Whether the CertID (RFC 6960 section 4.1.1) names a certificate of `issuer`."""
    name = single.hash_algorithm.name
    key = issuer.public_key()
    if name not in _CERT_ID_HASHES:
        return False
    if isinstance(key, ec.EllipticCurvePublicKey):
        bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    elif isinstance(key, rsa.RSAPublicKey):
        bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        return False
    subject = issuer.subject.public_bytes()
    return (
        single.issuer_name_hash == hashlib.new(name, subject, usedforsecurity=False).digest()
        and single.issuer_key_hash == hashlib.new(name, bits, usedforsecurity=False).digest()
    )


def _may_sign(certificate: x509.Certificate, issuer: x509.Certificate, at: int) -> bool:
    """Whether `issuer` delegated its answers to `certificate` (RFC 6960 section 4.2.2.2)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return (
        ExtendedKeyUsageOID.OCSP_SIGNING in usage
        and not any(validity_problems(certificate, at, ""))
        and issued(certificate, issuer)
    )


def _signs(signer: x509.Certificate, basic: ocsp.OCSPResponse) -> bool:
    """Whether the key of `signer` made the response's signature."""
    algorithm, key = basic.signature_hash_algorithm, signer.public_key()
    if not isinstance(algorithm, STRONG):
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(basic.signature, basic.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            scheme = padding.PKCS1v15()
            key.verify(basic.signature, basic.tbs_response_bytes, scheme, algorithm)
        else:
            return False
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def _is_signed(response: Response, issuer: x509.Certificate, at: int) -> bool:
    """Whether `issuer`, or who may answer for it at `at`, signed the response."""
    signers = [issuer, *(item for item in response.certificates if _may_sign(item, issuer, at))]
    return any(_signs(signer, response.basic) for signer in signers)


def _time(moment: datetime | None, otherwise: float) -> float:
    return otherwise if moment is None else moment.timestamp()


def _answers(
    certificate: x509.Certificate, issuer: x509.Certificate, responses: Iterable[Response]
) -> Iterator[tuple[Response, ocsp.OCSPSingleResponse]]:
    """What there is on `certificate`, of whoever and whenever."""
    for response in responses:
        for single in response.singles:
            if single.serial_number == certificate.serial_number and _names(single, issuer):
                yield response, single


def look_up(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    responses: Sequence[Response],
    at: int,
    name: str,
) -> tuple[bool, list[Problem]]:
    """Look one certificate up.

    Args:
        certificate: Whose revocation is in question.
        issuer: The certificate that it is issued by.
        responses: Everything at hand; what is about others is passed over.
        at: Unix seconds at which to judge.
        name: The certificate's name, for the problems.

    Returns:
        Whether a response that is valid at `at` says that it stands or does not, and problems
        with code `revoked`, `held` (a hold may be lifted again) or `ocsp_signature`.
    """
    newest: tuple[float, bool] | None = None
    problems: list[Problem] = []
    signed: dict[int, bool] = {}
    for response, single in _answers(certificate, issuer, responses):
        since = _time(single.this_update_utc, 0)
        until = _time(single.next_update_utc, since + _UNTIMED_S)
        status, reason = single.certificate_status, single.revocation_reason
        held = reason is x509.ReasonFlags.certificate_hold
        revoked = (
            status is ocsp.OCSPCertStatus.REVOKED
            and not held
            and _time(single.revocation_time_utc, 0) <= at
        )
        current = since <= at <= until and status is not ocsp.OCSPCertStatus.UNKNOWN
        if not (current or revoked):
            continue
        # Once for each response: one with many answers must not cost as many signatures.
        if id(response) not in signed:
            signed[id(response)] = _is_signed(response, issuer, at)
        if not signed[id(response)]:
            text = f"an OCSP response on {name} is signed by nobody who may answer for its issuer"
            return False, [Problem("ocsp_signature", text)]
        if revoked:
            word = "" if reason is None else f" ({reason.value})"
            problems.append(Problem("revoked", f"{name} is revoked{word}: it is not to be trusted"))
        said = since, held and status is ocsp.OCSPCertStatus.REVOKED
        # Of two from the same second, the one that holds the certificate counts.
        if current and (newest is None or said > newest):
            newest = said
    if newest is not None and newest[1]:
        problems.append(Problem("held", f"{name} is on hold: its issuer does not vouch for it now"))
    return newest is not None, problems[:1]


class Lookup:
    """Looks chains up in the same responses at the same time, each certificate once."""

    def __init__(self, responses: Sequence[Response], at: int) -> None:
        self._responses = responses
        self._at = at
        self._known: dict[tuple[bytes, bytes], tuple[bool, list[Problem]]] = {}
        self.alternatives = False
        """Whether there were two answers on one certificate that was looked up."""

    def chain(
        self, chain: Sequence[x509.Certificate], what: str, first: int = 1
    ) -> tuple[bool, list[Problem]]:
        """Look up every certificate of a chain but its root.

        Args:
            chain: Leaf first, root last.
            what: The chain's name, for the problems.
            first: Where to start, counted from the leaf, which is 1.

        Returns:
            Whether all of them could be looked up, and the problems of `look_up`.
        """
        complete = True
        problems: list[Problem] = []
        for number, (certificate, issuer) in enumerate(pairwise(chain[first - 1 :]), first):
            key = fingerprint(certificate), fingerprint(issuer)
            if key not in self._known:
                name = f"{what}: certificate {number}"
                answers = sum(1 for _ in _answers(certificate, issuer, self._responses))
                self.alternatives = self.alternatives or answers > 1
                self._known[key] = look_up(certificate, issuer, self._responses, self._at, name)
            found, raised = self._known[key]
            complete = complete and found
            problems.extend(problem for problem in raised if problem not in problems)
        return complete, problems
