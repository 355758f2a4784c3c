"""Certificates and CRLs in the ways of Intel and AMD, under roots of the tests' own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

DAY = 24 * 3600
FROM = int(datetime(2021, 1, 1, tzinfo=UTC).timestamp())
UNTIL = int(datetime(2044, 1, 1, tzinfo=UTC).timestamp())

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def moment(seconds: int) -> datetime:
    """Unix seconds as x509 builders want them."""
    return datetime.fromtimestamp(seconds, UTC)


def _usage(*, signs: bool, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True)
class Authority:
    """A key that issues certificates, and its own certificate."""

    key: PrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()


def _padding(issuer_key: PrivateKey) -> padding.PSS | None:
    if isinstance(issuer_key, rsa.RSAPrivateKey):
        return padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384.digest_size)
    return None


def _digest(issuer_key: PrivateKey) -> hashes.HashAlgorithm:
    return hashes.SHA384() if isinstance(issuer_key, rsa.RSAPrivateKey) else hashes.SHA256()


def issue(
    name: str,
    key: PrivateKey,
    issuer: Authority | None,
    *,
    ca: bool,
    extensions: Iterable[tuple[str, bytes]] = (),
    valid: tuple[int, int] = (FROM, UNTIL),
) -> Authority:
    """Certify `key` as `name`; without an issuer it is a root.

    Args:
        name: The common name.
        key: The subject's key.
        issuer: Who signs.
        ca: Whether it may issue certificates.
        extensions: Pairs of object identifier and DER, not critical.
        valid: Unix seconds from and until which it is valid.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(valid[0]))
        .not_valid_after(moment(valid[1]))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(_usage(signs=not ca, issues=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for oid, value in extensions:
        unrecognized = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(unrecognized, critical=False)
    return Authority(key, builder.sign(signer, _digest(signer), rsa_padding=_padding(signer)))


def revoke(
    issuer: Authority, revoked: Iterable[x509.Certificate], at: int, *, days: int = 30
) -> bytes:
    """A CRL in DER, made a day before `at` (unix seconds) and good for `days` from then on."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(moment(at - DAY))
        .next_update(moment(at - DAY + days * DAY))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    for certificate in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(moment(at - 2 * DAY))
            .build()
        )
    crl = builder.sign(issuer.key, _digest(issuer.key), rsa_padding=_padding(issuer.key))
    return crl.public_bytes(Encoding.DER)


def der(tag: int, *contents: bytes) -> bytes:
    """One DER value of up to 65535 bytes."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def der_uint(value: int) -> bytes:
    """A DER INTEGER that is not negative."""
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def der_oid(dotted: str) -> bytes:
    """A DER OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for number in (40 * first + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(number & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return der(0x06, bytes(content))
