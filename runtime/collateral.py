"""A folder of what vendors publish about their hardware, as an operator or a verifier keeps it.

    tdx.json      Intel's quote collateral (TCB info, QE identity, CRLs), by dcap-qvl
    snp/*.der     AMD's certificates: VCEK, ASK, ARK; also *.pem with one or more of them
    snp/*.crl     AMD's revocation lists, DER
    rims/*        NVIDIA's signed reference measurements: *.swidtag or *.xml
    ocsp/*.der    OCSP responses on GPUs' certificates

Every part may be absent. `sotto attest collateral FOLDER` fetches Intel's and AMD's.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proofs.evidence.base import Collateral
from proofs.evidence.certificates import UNREADABLE
from runtime.errors import SetupError

# AMD gives every VCEK the serial number 0, of which the library warns on standard error.
warnings.filterwarnings("ignore", module=r"runtime\.collateral")

MAX_FILE = 512 * 1024
_MAX_FILES = 64


@dataclass(frozen=True, slots=True)
class StoredCollateral:
    """What a folder holds.

    Attributes:
        collateral: What a verifier can bring along, too.
        snp_certificates: AMD's certificates, DER, in no order; for whoever collects.
    """

    collateral: Collateral
    snp_certificates: tuple[bytes, ...] = ()


def load_collateral(folder: Path | None) -> StoredCollateral:
    """Read a folder; None is an empty one.

    Raises:
        SetupError: `collateral`: the folder is missing, a file is too large, cannot be read, or
            is no certificate.
    """
    if folder is None:
        return StoredCollateral(Collateral())
    if not folder.is_dir():
        raise _refused(f"the folder of collateral {folder} is not there", "make it, or correct it")
    tdx = _files(folder, "tdx.json")
    try:
        text = tdx[0].decode() if tdx else ""
    except UnicodeDecodeError:
        raise _refused(f"{folder}/tdx.json is no text", "fetch it again") from None
    return StoredCollateral(
        Collateral(
            tdx=text,
            snp_crls=_files(folder, "snp/*.crl"),
            rims=_files(folder, "rims/*.swidtag", "rims/*.xml"),
            ocsp=_files(folder, "ocsp/*.der"),
        ),
        tuple(
            der
            for data in _files(folder, "snp/*.der", "snp/*.pem")
            for der in read_certificates(data, str(folder / "snp"))
        ),
    )


def read_certificates(data: bytes, source: str) -> list[bytes]:
    """Certificates in PEM, or one in DER, as DER.

    Raises:
        SetupError: `collateral`: neither.
    """
    try:
        if b"-----BEGIN" in data:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
        return [certificate.public_bytes(Encoding.DER) for certificate in found]
    except UNREADABLE:
        raise _refused(f"a file in {source} is no certificate", "fetch it again") from None


def _files(folder: Path, *patterns: str) -> tuple[bytes, ...]:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if len(paths) > _MAX_FILES:
        raise _refused(
            f"{folder} has {len(paths)} files of one kind", "remove those of other machines"
        )
    return tuple(map(_read, paths))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _refused(f"{path} cannot be read ({error.strerror})", "correct its rights") from None
    if len(data) > MAX_FILE:
        raise _refused(f"{path} has more than {MAX_FILE} bytes", "it is no collateral: remove it")
    return data


def _refused(what: str, remedy: str) -> SetupError:
    return SetupError(f"{what}; {remedy} (docs/collection.md)", code="collateral")
