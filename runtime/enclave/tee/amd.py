"""AMD's certificates: from the host's table, from a folder, and where AMD publishes them.

Sources: SEV-ES Guest-Hypervisor Communication Block Standardization (AMD 56421), MSG_REPORT_REQ
(the table), and VCEK Certificate and KDS Interface Specification (AMD 57230).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from proofs.errors import UnreadableError
from proofs.evidence.certificates import issued, load_der
from proofs.evidence.snp_report import VLEK, Report
from runtime.enclave.tee.errors import TeeError

KDS_URL = "https://kdsintf.amd.com"

_ENTRY = struct.Struct("<16sII")
_MAX_ENTRIES = 32
_CRL = uuid.UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")
_CERTIFICATES = frozenset(
    map(
        uuid.UUID,
        (
            "63da758d-e664-4564-adc5-f4b93be8accd",  # VCEK
            "a8074bc2-a25a-483e-aae6-39c045a0b8a1",  # VLEK
            "4ab7b379-bbac-4fe4-a02f-05aef327c782",  # ASK or ASVK
            "c0b406a4-a803-4952-9743-3fb6014cd0ae",  # ARK
        ),
    )
)
_LEAVES = ("SEV-VCEK", "SEV-VLEK")
_CHAIN = 3
_TURIN = 0x1A
# Model numbers of family 19h from which on a processor is of Genoa's line.
_GENOA = 0x10
# Names of the security versions in AMD's addresses.
_SPL = (
    ("fmc", "fmcSPL"),
    ("bootloader", "blSPL"),
    ("tee", "teeSPL"),
    ("snp", "snpSPL"),
    ("microcode", "ucodeSPL"),
)


def certificate_table(data: bytes) -> tuple[list[bytes], list[bytes]]:
    """Certificates and CRLs of the table that a host hands to its guest; empty where it has none.

    Raises:
        TeeError: `collateral`: the table leads outside of itself.
    """
    certificates: list[bytes] = []
    crls: list[bytes] = []
    for number in range(_MAX_ENTRIES):
        entry = data[number * _ENTRY.size :][: _ENTRY.size]
        if len(entry) < _ENTRY.size or not any(entry):
            return certificates, crls
        raw, offset, size = _ENTRY.unpack(entry)
        found = data[offset : offset + size]
        if len(found) != size or not size:
            break
        # Hosts write the name in either byte order.
        names = {uuid.UUID(bytes=raw), uuid.UUID(bytes_le=raw)}
        if names & _CERTIFICATES:
            certificates.append(found)
        elif _CRL in names:
            crls.append(found)
    raise TeeError(
        "the host's table of AMD certificates is damaged; tell the provider, or put the "
        "certificates into the folder of collateral (sotto attest collateral FOLDER)",
        code="collateral",
    )


def chains(certificates: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Every chain of VCEK or VLEK, ASK or ASVK, and ARK that the certificates have, in DER.

    Raises:
        TeeError: `collateral`: one of them is none.
    """
    try:
        pool = [load_der(der, "one of AMD's certificates") for der in dict.fromkeys(certificates)]
    except UnreadableError as error:
        raise TeeError(
            f"{error} Remove it from the folder of collateral.", code="collateral"
        ) from None
    for leaf in pool:
        if _common_name(leaf) not in _LEAVES:
            continue
        chain = [leaf]
        while len(chain) < _CHAIN:
            issuers = [one for one in pool if one not in chain and issued(chain[-1], one)]
            if not issuers:
                break
            chain.append(issuers[0])
        else:
            yield [one.public_bytes(Encoding.DER) for one in chain]


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def lines(report: Report) -> tuple[str, ...]:
    """AMD's names of the processor's line, in the order in which to try them."""
    if report.cpuid is None:  # before version 3 a report does not say
        return ("Milan", "Genoa")
    family, model = report.cpuid
    if family >= _TURIN:
        return ("Turin",)
    return ("Genoa",) if model >= _GENOA else ("Milan",)


def kds_paths(report: Report, line: str) -> dict[str, str]:
    """Where AMD publishes what verifies `report`: names of files, and paths below `KDS_URL`.

    Raises:
        TeeError: `collateral`: the host hides the chip, so nobody can ask for its certificate.
    """
    kind = "vlek" if report.signing_key == VLEK else "vcek"
    paths = {
        f"{line}-{kind}-chain.pem": f"/{kind}/v1/{line}/cert_chain",
        f"{line}-{kind}.crl": f"/{kind}/v1/{line}/crl",
    }
    if report.signing_key == VLEK:
        return paths  # the provider alone has the VLEK, and hands it to its guests
    if not any(report.chip_id):
        raise TeeError(
            "the host hides which chip this is, so its VCEK cannot be asked for; the provider must "
            "hand it to the guest, or use a VLEK",
            code="collateral",
        )
    chip = report.chip_id[:8] if line == "Turin" else report.chip_id
    versions = "&".join(
        f"{name}={report.reported[part]:02}" for part, name in _SPL if part in report.reported
    )
    paths[f"{line}-vcek.der"] = f"/vcek/v1/{line}/{chip.hex()}?{versions}"
    return paths
