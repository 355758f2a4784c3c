"""A machine with GPUs that attest like NVIDIA's, under roots of its own.

Everything is signed for real: chains, reports, RIMs and OCSP responses. Only the roots are not
NVIDIA's, so a policy must pin `root` and `rim_root`.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from lxml import etree
from signxml.algorithms import CanonicalizationMethod
from signxml.signer import XMLSigner

from proofs.evidence.certificates import fingerprint
from proofs.evidence.nvidia import Device, encode_evidence

ALWAYS = (datetime(2020, 10, 17, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
DRIVER, VBIOS = "580.159.03", "96.00.74.00.20"
DRIVER_INDICES = (7, *range(21, 41))
VBIOS_INDICES = tuple(index for index in range(13) if index != 7)
MODES = {"mpt": 0, "spt": 1, "ppcie": 2, "off": 255}
_FWID_HEAD = bytes.fromhex("303d0609608648016503040202" + "0430")
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"


@dataclass(frozen=True)
class Authority:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.DER)


def certify(
    name: str,
    issuer: Authority | None,
    *,
    ca: bool = True,
    valid: tuple[datetime, datetime] = ALWAYS,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    path_length: int | None = None,
) -> Authority:
    """A certificate on a new P-384 key, issued by `issuer` or by itself."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = {
        "digital_signature": not ca,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": ca,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Authority(builder.sign(issuer.key if issuer else key, SHA384()), key)


def answer(
    subject: Authority,
    issuer: Authority,
    at: int,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    responder: Authority | None = None,
    age_s: int = 3600,
    valid_s: int | None = 86400,
) -> bytes:
    """An OCSP response on `subject`, as of `age_s` before `at`, signed by issuer or responder."""
    since = datetime.fromtimestamp(at, UTC) - timedelta(seconds=age_s)
    signer = responder or issuer
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=subject.certificate,
        issuer=issuer.certificate,
        algorithm=SHA1(),  # noqa: S303 - names the issuer, as responders do
        cert_status=status,
        this_update=since,
        next_update=None if valid_s is None else since + timedelta(seconds=valid_s),
        revocation_time=since if status is ocsp.OCSPCertStatus.REVOKED else None,
        revocation_reason=reason,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    if responder is not None:
        builder = builder.certificates([responder.certificate])
    return builder.sign(signer.key, SHA384()).public_bytes(Encoding.DER)


def delegate(issuer: Authority, **options: Any) -> Authority:
    """A responder that `issuer` delegated its answers to."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    return certify("Responder", issuer, ca=False, extensions=[(usage, False)], **options)


def fwid_extension(architecture: str, device: Authority, fwid: bytes) -> x509.ExtensionType:
    """The leaf's extension with the firmware's digest, as either generation wraps it."""

    def tagged(tag: int, value: bytes) -> bytes:
        size = len(value)
        return bytes([tag, *([size] if size < 128 else [0x81, size])]) + value

    if architecture == "HOPPER":
        key = device.key.public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        oid, value = "2.23.133.5.4.1", tagged(0x30, b"\x02\x01\x01" + spki + _FWID_HEAD + fwid)
    else:
        fwids = tagged(0xA6, _FWID_HEAD + fwid + _FWID_HEAD + bytes(48))
        oid, value = "2.23.133.5.4.1.1", tagged(0x30, tagged(0x80, b"NVIDIA") + fwids)
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def measurement(index: int, version: str) -> bytes:
    """What software of `version` measures at `index` of a RIM."""
    return hashlib.sha384(f"{version} {index}".encode()).digest()


def exchange(
    nonce: bytes, measurements: Mapping[int, bytes], fields: Sequence[tuple[int, bytes]]
) -> bytes:
    """An SPDM request and response but for the signature; measurements by index from 1."""
    record = b"".join(
        struct.pack("<BBHBH", index, 1, len(value) + 3, 1, len(value)) + value
        for index, value in measurements.items()
    )
    opaque = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in fields)
    return b"".join(
        (
            b"\x11\xe0\x01\xff" + nonce + b"\x00",
            struct.pack("<BBBBB", 0x11, 0x60, 0, 0, len(measurements)),
            len(record).to_bytes(3, "little") + record + os.urandom(32),
            struct.pack("<H", len(opaque)) + opaque,
        )
    )


def sign(message: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """`message` with its signature, r and s of 48 bytes, behind it."""
    numbers = decode_dss_signature(key.sign(message, ec.ECDSA(SHA384())))
    return message + b"".join(number.to_bytes(48) for number in numbers)


def sign_rim(
    version: str,
    values: Mapping[int, Sequence[bytes]],
    chain: Sequence[Authority],
    *,
    product: str = "GH100",
    inactive: Sequence[int] = (),
) -> bytes:
    """A SWID tag with an enveloped signature by the first of `chain`."""
    root = etree.Element(f"{{{_SWID}}}SoftwareIdentity", nsmap={None: _SWID, "ns2": _SHA384})
    etree.SubElement(
        root, f"{{{_SWID}}}Meta", colloquialVersion=version, product=product, edition="GPU"
    )
    payload = etree.SubElement(root, f"{{{_SWID}}}Payload")
    for index, alternatives in values.items():
        attributes = {
            f"{{{_SHA384}}}Hash{turn}": value.hex() for turn, value in enumerate(alternatives)
        }
        etree.SubElement(
            payload,
            f"{{{_SWID}}}Resource",
            {
                "type": "Measurement",
                "index": str(index),
                "active": str(index not in inactive),
                "alternatives": str(len(alternatives)),
                "size": "48",
                **attributes,
            },
        )
    signer = XMLSigner(
        signature_algorithm="ecdsa-sha384",
        digest_algorithm="sha384",
        c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
    )
    certificates = [one.certificate for one in chain]
    return etree.tostring(signer.sign(root, key=chain[0].key, cert=certificates))


def _rim(version: str, indices: Sequence[int], chain: Sequence[Authority], product: str) -> bytes:
    values = {index: (bytes(48), measurement(index, version)) for index in indices}
    return sign_rim(version, {**values, 60: [bytes(48)]}, chain, product=product, inactive=[60])


@dataclass(frozen=True)
class GpuMachine:
    """GPUs of one machine. Make one with `create`.

    Attributes:
        authorities: From the devices' root down to the issuer of the devices.
        devices: Device certificate and leaf of each GPU.
        rim_chain: Signer of RIMs first, root last.
        fwid: Digest of the firmware that the leaves were issued to.
    """

    architecture: str
    authorities: tuple[Authority, ...]
    devices: tuple[tuple[Authority, Authority], ...]
    rim_chain: tuple[Authority, ...]
    fwid: bytes = field(repr=False)

    @classmethod
    def create(
        cls,
        devices: int = 1,
        *,
        architecture: str = "HOPPER",
        valid: tuple[datetime, datetime] = ALWAYS,
        rim_valid: tuple[datetime, datetime] = ALWAYS,
    ) -> GpuMachine:
        """Make a machine.

        Args:
            devices: How many GPUs it has.
            architecture: `HOPPER` or `BLACKWELL`.
            valid: Since when and until when the device certificates are.
            rim_valid: The same of the certificate that signs RIMs.
        """
        chip = {"HOPPER": "GH100", "BLACKWELL": "GB100"}[architecture]
        root = certify("Test Device Identity CA", None)
        identity = certify(f"Test {chip} Identity", root)
        provisioner = certify(f"Test {chip} Provisioner", identity)
        fwid = os.urandom(48)
        made = []
        for _ in range(devices):
            device = certify(f"{chip} A01 GSP BROM", provisioner, valid=valid)
            extension = fwid_extension(architecture, device, fwid)
            leaf = certify(
                f"{chip} A01 GSP FMC LF", device, ca=False, extensions=[(extension, False)]
            )
            made.append((device, leaf))
        rim_root = certify("Test RIM Root", None)
        signer = certify("Test RIM Signer", rim_root, ca=False, valid=rim_valid)
        authorities = (root, identity, provisioner)
        return cls(architecture, authorities, tuple(made), (signer, rim_root), fwid)

    @property
    def root(self) -> bytes:
        """Fingerprint of the devices' root."""
        return fingerprint(self.authorities[0].certificate)

    @property
    def rim_root(self) -> bytes:
        """Fingerprint of the root of RIMs."""
        return fingerprint(self.rim_chain[-1].certificate)

    def chain(self, number: int) -> tuple[Authority, ...]:
        """The chain of one device, leaf first."""
        device, leaf = self.devices[number]
        return (leaf, device, *reversed(self.authorities))

    def rims(self, driver: str = DRIVER, vbios: str = VBIOS) -> tuple[bytes, bytes]:
        """Signed reference values of a driver and of a VBIOS."""
        product = {"HOPPER": "GH100", "BLACKWELL": "GB100"}[self.architecture]
        return (
            _rim(driver, DRIVER_INDICES, self.rim_chain, product),
            _rim(vbios, VBIOS_INDICES, self.rim_chain, product),
        )

    def responses(
        self,
        at: int,
        *,
        revoked: int | None = None,
        held: int | None = None,
    ) -> list[bytes]:
        """OCSP responses on every chain; the device certificates at those places are bad."""
        bad: dict[int, x509.ReasonFlags] = {}
        if revoked is not None:
            bad[revoked] = x509.ReasonFlags.key_compromise
        if held is not None:
            bad[held] = x509.ReasonFlags.certificate_hold
        made = []
        for number, (device, _) in enumerate(self.devices):
            reason = bad.get(number)
            status = ocsp.OCSPCertStatus.REVOKED if reason else ocsp.OCSPCertStatus.GOOD
            issuer = self.authorities[-1]
            made.append(answer(device, issuer, at, status=status, reason=reason))
        pairs = [*zip(self.authorities[1:], self.authorities, strict=False)]
        pairs.append((self.rim_chain[0], self.rim_chain[1]))
        return made + [answer(subject, issuer, at) for subject, issuer in pairs]

    def evidence(
        self,
        nonce: bytes,
        at: int,
        *,
        mode: str = "spt",
        driver: str = DRIVER,
        vbios: str = VBIOS,
        rims: Sequence[bytes] | None = None,
        responses: Sequence[bytes] | None = None,
        bad_signature: bool = False,
        other_nonce: bool = False,
        other_firmware: bool = False,
        changed: Sequence[int] = (),
        nvdec0: bytes = b"\xaa",
    ) -> bytes:
        """Have every GPU sign `nonce`, and encode it with RIMs and OCSP responses.

        Args:
            nonce: 32 bytes.
            at: Unix seconds, the time of the collection.
            mode: `spt`, `mpt`, `ppcie`, `off`, or empty for a report that says nothing.
            driver: The version that runs.
            vbios: As written, five bytes in hex with dots.
            rims: Instead of those for what runs.
            responses: Instead of good ones on all chains.
            bad_signature: The last GPU's signature is broken.
            other_nonce: The last GPU signs another nonce.
            other_firmware: The last GPU's report is of firmware that its leaf was not issued to.
            changed: Indices, as in RIMs, at which the last GPU measured something else.
            nvdec0: The report's word on the video decoder: `aa` on, `55` off.
        """
        made = []
        for number in range(len(self.devices)):
            last = number == len(self.devices) - 1
            chain = self.chain(number)
            report = self.report(
                bytes(32) if last and other_nonce else nonce,
                chain[0].key,
                mode=mode,
                driver=driver,
                vbios=vbios,
                fwid=bytes(48) if last and other_firmware else self.fwid,
                changed=changed if last else (),
                nvdec0=nvdec0,
            )
            if last and bad_signature:
                report = report[:-1] + bytes([report[-1] ^ 1])
            pem = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in chain)
            made.append(Device(self.architecture, pem, report))
        rims = self.rims(driver, vbios) if rims is None else rims
        responses = self.responses(at) if responses is None else responses
        return encode_evidence(at, made, rims, responses)

    def report(
        self,
        nonce: bytes,
        key: ec.EllipticCurvePrivateKey,
        *,
        mode: str = "spt",
        driver: str = DRIVER,
        vbios: str = VBIOS,
        fwid: bytes | None = None,
        changed: Sequence[int] = (),
        nvdec0: bytes = b"\xaa",
    ) -> bytes:
        """One GPU's signed report; `nvdec0` says whether its video decoder is on."""
        measured = dict.fromkeys(range(64), bytes(48))
        for indices, version in ((DRIVER_INDICES, driver), (VBIOS_INDICES, vbios)):
            measured.update({index: measurement(index, version) for index in indices})
        measured.update({index: hashlib.sha384(b"changed").digest() for index in changed})
        numbers = bytes.fromhex(vbios.replace(".", ""))
        fields = [
            (6, numbers[3::-1] + numbers[4:] + bytes(3)),
            (3, driver.encode() + b"\x00"),
            (11, nvdec0),
            (20, self.fwid if fwid is None else fwid),
        ]
        if mode:
            fields += [(34, b"\x01\x00"), (36, bytes([MODES[mode], 0]))]
        blocks = {index + 1: value for index, value in measured.items()}
        return sign(exchange(nonce, blocks, fields), key)
