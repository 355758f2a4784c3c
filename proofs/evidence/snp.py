"""Evidence of AMD SEV-SNP: the processor's signed report, its chain to AMD's root, and CRLs.

`["sottovoce-snp-v1", report, [VCEK or VLEK, ASK or ASVK, ARK], [CRL...]]`: the report has 1184
bytes, certificates and CRLs are DER. Sources: SEV-SNP Firmware ABI (AMD 56860), VCEK Certificate
and KDS Interface (AMD 57230).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proofs import cbor
from proofs.evidence.base import MAX_EVIDENCE, Collateral, CpuAppraisal, Problem, Tcb
from proofs.evidence.certificates import chain_problems, fingerprint, load_der
from proofs.evidence.revocation import MAX_CRL, crl_problems, load_crl
from proofs.evidence.snp_report import (
    REPORT_SIZE,
    SIGNED_SIZE,
    VCEK,
    VLEK,
    Report,
    read_report,
)

KIND = "snp"
ROOTS = frozenset(
    {
        # AMD Root Key certificates ARK-Milan, ARK-Genoa and ARK-Turin.
        bytes.fromhex("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
        bytes.fromhex("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
        bytes.fromhex("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
    }
)
"""SHA-256 of AMD's root certificates in DER."""

_LABEL = "sottovoce-snp-v1"
_CHAIN = ("the VCEK or VLEK", "the ASK or ASVK", "the ARK")
_MAX_CRLS = 8
_SMT, _MIGRATE_MA, _DEBUG, _SINGLE_SOCKET = 1 << 16, 1 << 18, 1 << 19, 1 << 20
_AMD = "1.3.6.1.4.1.3704.1"
_PRODUCT_NAME, _HWID, _CSP_ID = f"{_AMD}.2", f"{_AMD}.4", f"{_AMD}.5"
_SPL = MappingProxyType(
    {
        "bootloader": f"{_AMD}.3.1",
        "tee": f"{_AMD}.3.2",
        "snp": f"{_AMD}.3.3",
        "microcode": f"{_AMD}.3.8",
        "fmc": f"{_AMD}.3.9",
    }
)
_HWID_SIZES = (8, 64)
_CHIP_ID = 64
_PRODUCTS = MappingProxyType(
    {
        "Milan": (0x19, range(0x10)),
        "Genoa": (0x19, (*range(0x10, 0x20), *range(0xA0, 0xB0))),
        "Turin": (0x1A, range(0x20)),
    }
)
"""CPUID family and models; Genoa's line has Bergamo and Siena in it."""


def encode_evidence(report: bytes, certificates: Iterable[bytes], crls: Iterable[bytes]) -> bytes:
    """Evidence from what the kernel and AMD's Key Distribution Service give.

    Args:
        report: The attestation report, 1184 bytes.
        certificates: DER of VCEK or VLEK, ASK or ASVK, and ARK, in this order.
        crls: DER of CRLs signed by that ARK; may be empty, then revocation is not looked up.
    """
    return cbor.encode([_LABEL, report, list(certificates), list(crls)])


def _crl(value: object) -> x509.CertificateRevocationList:
    return load_crl(cbor.as_bytes(value, "an AMD CRL", most=MAX_CRL), "an AMD CRL")


def _extension(certificate: x509.Certificate, oid: str) -> bytes | None:
    """The DER inside an extension of AMD's, None without it."""
    try:
        extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        return None
    return extension.value if isinstance(extension, x509.UnrecognizedExtension) else None


def _small(value: bytes | None) -> int | None:
    """A DER INTEGER from 0 to 255, None where `value` is none."""
    number = int.from_bytes(value[2:], "big") if value else 256
    if number > 255:
        return None
    size = 1 + (number > 127)
    return number if value == bytes([2, size]) + number.to_bytes(size, "big") else None


def _text(value: bytes | None) -> str:
    """A short DER IA5String, empty where `value` is none."""
    if not value or value[0] != 0x16 or len(value) < 2 or value[1] != len(value) - 2:
        return ""
    text = value[2:].decode("ascii", "replace")
    return text if re.fullmatch(r"[ -~]{1,64}", text) else ""


def _hwid(value: bytes | None) -> bytes | None:
    """The chip's id, 64 bytes: KDS writes it bare where DER wants an OCTET STRING around it."""
    if value and value[:2] in {bytes([4, size]) for size in _HWID_SIZES}:
        value = value[2:] if len(value) - 2 == value[1] else value
    return value.ljust(_CHIP_ID, b"\x00") if value and len(value) in _HWID_SIZES else None


def _signature_holds(report: Report, signed: bytes, leaf: x509.Certificate) -> bool:
    key = leaf.public_key()
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)):
        return False
    try:
        key.verify(encode_dss_signature(report.r, report.s), signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _key_problems(report: Report, leaf: x509.Certificate) -> Iterator[Problem]:
    """Whether the certificate is of the key that the report names, on its chip, at its TCB."""
    hwid, csp = _hwid(_extension(leaf, _HWID)), _extension(leaf, _CSP_ID)
    kinds = {VCEK: hwid is not None and csp is None, VLEK: hwid is None and bool(_text(csp))}
    if not kinds.get(report.signing_key, False):
        yield Problem("key", "the report names another kind of signing key than the certificate")
    masked = not any(report.chip_id)
    if report.signing_key == VCEK and not masked and hwid != report.chip_id:
        yield Problem("chip", "the report is of another chip than the certificate")
    for name, number in report.reported.items():
        certified = _small(_extension(leaf, _SPL[name]))
        if certified != number:
            text = f"the report says {number} for {name}, its certificate {certified}"
            yield Problem("tcb", f"{text}: it was not signed at the TCB that it reports")


def _product_problems(report: Report, product: str) -> Iterator[Problem]:
    family_and_models = _PRODUCTS.get(product)
    if family_and_models is None:
        yield Problem("product", "the certificate is for a processor unknown to this version")
    elif report.cpuid is None:
        if product == "Turin":
            yield Problem("product", "a report of version 2 cannot come from a Turin processor")
    elif report.cpuid[0] != family_and_models[0] or report.cpuid[1] not in family_and_models[1]:
        family, model = report.cpuid
        text = f"the report comes from family {family:#x} model {model:#x}"
        yield Problem("product", f"{text}, which is no {product}, as its certificate says")


def _guest_problems(report: Report) -> Iterator[Problem]:
    """What no confidential guest of ours may be, whatever the policy."""
    if report.policy & _MIGRATE_MA:
        yield Problem(
            "migration", "the guest's policy lets a migration agent move it, which nobody attests"
        )
    if report.vmpl:
        yield Problem(
            "vmpl", f"privilege level {report.vmpl} asked, above which other software can stand"
        )
    for name, numbers in (("reported", report.reported), ("committed", report.committed)):
        if any(number > report.current[part] for part, number in numbers.items()):
            yield Problem("tcb", f"the {name} TCB is above the one that runs, which cannot be")


def _facts(
    report: Report, leaf: x509.Certificate, *, revocation: bool
) -> tuple[tuple[str, str], ...]:
    """What else the report says, for people."""

    def said(condition: object) -> str:
        return "yes" if condition else "no"

    major, minor, build = report.firmware
    policy = report.policy
    return (
        ("chip masked", said(not any(report.chip_id))),
        ("cloud provider", _text(_extension(leaf, _CSP_ID)) or "not named"),
        ("firmware", f"{major}.{minor} build {build}"),
        ("firmware can be rolled back", said(report.committed != report.current)),
        ("guest security version", str(report.guest_svn)),
        ("policy allows SMT", said(policy & _SMT)),
        ("policy wants one socket", said(policy & _SINGLE_SOCKET)),
        ("policy wants firmware ABI", f"{policy >> 8 & 0xFF}.{policy & 0xFF}"),
        ("report version", str(report.version)),
        ("revocation looked up", said(revocation)),
        ("signed by", {VCEK: "VCEK", VLEK: "VLEK"}.get(report.signing_key, "none")),
    )


def appraise_cpu(cpu: bytes, at: int, collateral: Collateral) -> CpuAppraisal:
    """Verify a SEV-SNP report and its chain, and read what it says.

    (1) The chain leads from VCEK or VLEK to a root that signs itself, all valid at `at`.
    (2) The report is signed by the leaf's key (ECDSA P-384).
    (3) That key is of the kind, the chip and the TCB that the report names.
    (4) Processor line and report agree.
    (5) The guest may not be migrated, asked at VMPL 0, and its TCBs can be.
    (6) CRLs, where there are any, are the root's, in force, and name none of the issuers.

    `platform_id` is SHA-256 of the chip's id; where host and VLEK hide the chip, of the VLEK's
    public key, which many machines share.

    Args:
        cpu: Evidence, as `encode_evidence` makes it.
        at: Unix seconds at which to judge.
        collateral: Its CRLs that name this chain's root as issuer replace the evidence's own.

    Raises:
        UnreadableError: Evidence of another format.
    """
    items = cbor.as_array(
        cbor.decode(cpu, what="the SEV-SNP evidence", limit=MAX_EVIDENCE), "the SEV-SNP evidence", 4
    )
    cbor.check_label(items[0], _LABEL, "the SEV-SNP evidence")
    data = cbor.as_bytes(items[1], "the SEV-SNP report", size=REPORT_SIZE)
    certificates = cbor.as_array(items[2], "AMD's certificates", len(_CHAIN))
    chain = tuple(
        load_der(cbor.as_bytes(der, what), what)
        for der, what in zip(certificates, _CHAIN, strict=True)
    )
    leaf, root = chain[0], chain[-1]
    own = [_crl(item) for item in cbor.as_list(items[3], "AMD's CRLs", _MAX_CRLS)]
    newer = [crl for crl in map(_crl, collateral.snp_crls) if crl.issuer == root.subject]
    report = read_report(data)
    product = _text(_extension(leaf, _PRODUCT_NAME)).partition("-")[0]

    problems = chain_problems(chain, at, "AMD's chain")  # (1)
    if not _signature_holds(report, data[:SIGNED_SIZE], leaf):  # (2)
        problems.append(Problem("signature", "the report is not signed by its certificate's key"))
    problems.extend(_key_problems(report, leaf))  # (3)
    problems.extend(_product_problems(report, product))  # (4)
    problems.extend(_guest_problems(report))  # (5)
    for crl in newer or own:  # (6)
        # VCEKs and VLEKs have no serial numbers to be listed by: AMD revokes their issuer.
        problems.extend(crl_problems(crl, root, chain[1:], at, "the ARK's CRL"))

    named = _hwid(_extension(leaf, _HWID)) or report.chip_id
    if not any(named):
        named = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return CpuAppraisal(
        root=fingerprint(root),
        platform_id=hashlib.sha256(named).digest(),
        measurements=(
            ("author_key_digest", report.author_key_digest),
            ("host_data", report.host_data),
            ("id_key_digest", report.id_key_digest),
            ("measurement", report.measurement),
        ),
        report_data=report.report_data,
        tcb=Tcb(tuple(sorted(report.reported.items()))),
        debug=bool(report.policy & _DEBUG),
        collected_at=None,
        problems=tuple(problems),
        product=product,
        facts=_facts(report, leaf, revocation=bool(newer or own)),
    )
