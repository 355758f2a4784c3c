"""Evidence of NVIDIA GPUs (Hopper, Blackwell), verified without network.

`["sottovoce-nvidia-v1", time or null, [[architecture, chain, report]...], [RIM...], [OCSP...]]`:
the chain in PEM, leaf first and root last; the report as `proofs.evidence.nvidia_spdm` has it;
RIMs in XML; OCSP responses in DER. Every device:

 (1) its chain holds at the time judged, is of the architecture named, and ends at the same root
     as every other device's;
 (2) no certificate of the chain between leaf and root is revoked or on hold; the leaf is issued
     by the GPU itself, for whose answers nobody speaks;
 (3) the leaf's key signed the report, request included;
 (4) the nonce in it is the one that every other device signed;
 (5) the firmware in the report is the firmware that the leaf was issued to (FWID);
 (6) its measurements are those of signed reference values (RIMs) for exactly its driver and its
     VBIOS, whose chains hold like (1) and (2).

Device root and RIM roots are facts here. The policy pins them.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import orjson
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from proofs import cbor
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence import ocsp
from proofs.evidence.base import (
    MAX_EVIDENCE,
    Collateral,
    GpuAppraisal,
    GpuDevice,
    Problem,
    Tcb,
)
from proofs.evidence.certificates import chain_problems, fingerprint, load_pem_chain
from proofs.evidence.nvidia_references import References
from proofs.evidence.nvidia_rim import MAX_RIM, MAX_RIMS, RimFile, read_rim
from proofs.evidence.nvidia_spdm import MAX_REPORT, Report, parse_report
from proofs.evidence.ocsp import Lookup

GPU_LABEL = "sottovoce-nvidia-v1"

ROOTS = frozenset(
    {bytes.fromhex("102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48")}
)
"""SHA-256 of "NVIDIA Device Identity CA", the root of every GPU's chain."""

RIM_ROOTS = frozenset(
    {bytes.fromhex("12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1")}
)
"""SHA-256 of "NVIDIA CoRIM signing Root CA", the root of the chains of RIMs."""

MAX_DEVICES = 16
_MAX_CHAIN_BYTES = 16 * 1024
_MAX_CHAIN = 8
_MIN_CHAIN = 3
_MAX_JSON = 1024 * 1024


class _Architecture(NamedTuple):
    """How a generation differs: the name that its chips start with, and where its FWID is."""

    chip: str
    fwid: x509.ObjectIdentifier


_ARCHITECTURES: Mapping[str, _Architecture] = MappingProxyType(
    {
        "HOPPER": _Architecture("GH", x509.ObjectIdentifier("2.23.133.5.4.1")),
        "BLACKWELL": _Architecture("GB", x509.ObjectIdentifier("2.23.133.5.4.1.1")),
    }
)
# An FWID (TCG DICE Attestation Architecture 1.0 section 6.1.1) with SHA-384, up to its digest. The
# two extensions wrap it differently; in both, the first one is that of the firmware which reports.
_FWID_HEAD = bytes.fromhex("303d0609608648016503040202" + "0430")
_FWID_SIZE = 48
# The three modes that NVIDIA's verifiers know are all modes of confidential computing.
_CONFIDENTIAL: Mapping[str, bool | None] = MappingProxyType(
    {"": None, "spt": True, "mpt": True, "ppcie": True, "unknown": False}
)


class Device(NamedTuple):
    """One GPU's evidence, as it is collected.

    Attributes:
        architecture: `HOPPER` or `BLACKWELL`.
        chain: Certificates in PEM, leaf first, root last.
        report: Request and response of the measurement exchange.
    """

    architecture: str
    chain: bytes
    report: bytes


@dataclass(frozen=True, slots=True)
class _Gpu:
    """A device's evidence, taken apart."""

    name: str
    architecture: str
    chain: tuple[x509.Certificate, ...]
    report: Report

    @property
    def device_id(self) -> bytes:
        """SHA-256 of the device's own public key, which certifies the leaf's."""
        key = self.chain[1].public_key()
        encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(encoded).digest()


class _Evidence(NamedTuple):
    """Evidence, taken apart."""

    time: int | None
    gpus: list[_Gpu]
    rims: list[RimFile]
    responses: list[ocsp.Response]


def encode_evidence(
    time: int | None,
    devices: Sequence[Device],
    rims: Sequence[bytes] = (),
    responses: Sequence[bytes] = (),
) -> bytes:
    """Encode what was collected, after a look that all of it can be read.

    Args:
        time: Unix seconds of the collection; None where nobody knows.
        devices: 1 to 16, in a stable order.
        rims: RIMs for the driver and the VBIOS of the devices, XML.
        responses: OCSP responses on the chains of devices and RIMs, DER.

    Raises:
        UnreadableError: Too many, too long, or not the formats they should be.
    """
    items = [list(device) for device in devices]
    evidence = cbor.encode([GPU_LABEL, time, items, list(rims), list(responses)])
    _decode(evidence)
    return evidence


def parse_nvidia_json(data: bytes) -> bytes:
    """Turn the evidence file of NVIDIA's own tools into this package's encoding.

    Args:
        data: A JSON array of objects with `arch`, `certificate` (PEM in base64), `evidence`
            (report in base64) and `nonce` (hex); other members are passed over.

    Returns:
        Evidence without a time, RIMs and OCSP responses.

    Raises:
        UnreadableError: Another format.
        RefusedError: The file names a nonce that a device did not sign.
    """
    what = "NVIDIA's evidence file"
    if len(data) > _MAX_JSON:
        raise UnreadableError(f"{what} has {len(data)} bytes, more than {_MAX_JSON}.")
    try:
        entries = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UnreadableError(f"{what} is not JSON. Get it again.") from error
    devices: list[Device] = []
    for entry in cbor.as_list(entries, what, MAX_DEVICES):
        if not isinstance(entry, dict):
            raise UnreadableError(f"{what} has an entry that is no object. Get it again.")
        try:
            report = binascii.a2b_base64(entry["evidence"], strict_mode=True)
            chain = binascii.a2b_base64(entry["certificate"], strict_mode=True)
            nonce = bytes.fromhex(entry["nonce"])
            architecture = str(entry["arch"]).upper()
            cbor.as_bytes(nonce, f"{what}'s nonce", size=32)
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableError(
                f"{what} has an entry without readable arch, certificate, evidence and nonce."
            ) from error
        if not hmac.compare_digest(parse_report(report, f"{what}'s report").nonce, nonce):
            raise RefusedError(
                f"{what} names a nonce that GPU {len(devices) + 1} did not sign. "
                "The file was put together from parts: do not trust it."
            )
        devices.append(Device(architecture, chain, report))
    return encode_evidence(None, devices)


def _decode(evidence: bytes) -> _Evidence:
    """Take evidence apart; limits before anything of it is parsed."""
    what = "the NVIDIA evidence"
    items = cbor.as_array(cbor.decode(evidence, what=what, limit=MAX_EVIDENCE), what, 5)
    cbor.check_label(items[0], GPU_LABEL, what)
    time = None if items[1] is None else cbor.as_uint(items[1], f"{what}'s time")
    listed = cbor.as_list(items[2], f"{what}'s devices", MAX_DEVICES)
    rims, responses = (
        [
            cbor.as_bytes(item, f"{what}'s {name}", most=limit)
            for item in cbor.as_list(value, f"{what}'s {name}s", most)
        ]
        for value, name, limit, most in (
            (items[3], "RIM", MAX_RIM, MAX_RIMS),
            (items[4], "OCSP response", ocsp.MAX_RESPONSE, ocsp.MAX_RESPONSES),
        )
    )
    if not listed:
        raise UnreadableError(f"{what} names no device. Collect it again.")
    gpus = [_gpu(item, number) for number, item in enumerate(listed, 1)]
    return _Evidence(time, gpus, _read_rims(rims), _read_responses(responses))


def _read_rims(rims: Sequence[bytes]) -> list[RimFile]:
    return [read_rim(data, f"RIM {number}") for number, data in enumerate(rims, 1)]


def _read_responses(responses: Sequence[bytes]) -> list[ocsp.Response]:
    return [
        ocsp.read_response(data, f"OCSP response {number}")
        for number, data in enumerate(responses, 1)
    ]


def _gpu(item: object, number: int) -> _Gpu:
    name = f"GPU {number}"
    parts = cbor.as_array(item, name, 3)
    architecture = cbor.as_text(parts[0], f"{name}'s architecture", 32)
    if architecture not in _ARCHITECTURES:
        raise UnreadableError(
            f"{name} is of an architecture that this version does not know. "
            f"It knows {' and '.join(_ARCHITECTURES)}."
        )
    pem = cbor.as_bytes(parts[1], f"{name}'s chain", most=_MAX_CHAIN_BYTES)
    report = cbor.as_bytes(parts[2], f"{name}'s report", most=MAX_REPORT)
    chain = load_pem_chain(pem, f"{name}'s chain", _MAX_CHAIN)
    if len(chain) < _MIN_CHAIN:
        raise UnreadableError(f"{name}'s chain is cut: it has {len(chain)} certificates.")
    return _Gpu(name, architecture, chain, parse_report(report, f"{name}'s report"))


def _verifies(key: object, report: Report) -> bool:
    """ECDSA P-384 with SHA-384 over the exchange; r and s are integers of 48 bytes."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    half = len(report.signature) // 2
    r, s = (int.from_bytes(part) for part in (report.signature[:half], report.signature[half:]))
    try:
        key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _leaf_fwid(gpu: _Gpu) -> bytes:
    """The digest of the firmware that the leaf was issued to; empty where it names none."""
    oid = _ARCHITECTURES[gpu.architecture].fwid
    for extension in gpu.chain[0].extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value.partition(_FWID_HEAD)[2][:_FWID_SIZE]
    return b""


def _identity_problems(gpu: _Gpu, at: int) -> Iterator[Problem]:
    """(1), (3) and (5): the device is one of NVIDIA's, and made this report."""
    yield from chain_problems(gpu.chain, at, f"{gpu.name}'s chain")
    leaf, device = gpu.chain[:2]
    models = device.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    chip = _ARCHITECTURES[gpu.architecture].chip
    if not any(str(model.value).startswith(chip) for model in models):
        text = f"{gpu.name}'s certificates are not those of {gpu.architecture}, which it is said"
        yield Problem("chain", f"{text} to be")
    if not _verifies(leaf.public_key(), gpu.report):
        text = f"{gpu.name}'s report is not signed by its certificate's key: it was changed or"
        yield Problem("signature", f"{text} belongs to another GPU")
    if gpu.report.fwid and not hmac.compare_digest(gpu.report.fwid, _leaf_fwid(gpu)):
        text = f"{gpu.name} reports other firmware than its certificate was issued to"
        yield Problem("fwid", text)


def _shared_problems(gpus: Sequence[_Gpu]) -> Iterator[Problem]:
    """(1) and (4), as far as the devices are held against each other."""
    first, seen = gpus[0], set()
    for gpu in gpus:
        if not hmac.compare_digest(gpu.report.nonce, first.report.nonce):
            yield Problem("nonce", f"{gpu.name} signed another nonce than {first.name}")
        if fingerprint(gpu.chain[-1]) != fingerprint(first.chain[-1]):
            yield Problem("chain", f"{gpu.name}'s chain ends at another root than {first.name}'s")
        if gpu.device_id in seen:
            yield Problem("duplicate", f"{gpu.name} is a device that was already counted")
        seen.add(gpu.device_id)


def _revocation(gpus: Sequence[_Gpu], lookup: Lookup) -> tuple[bool, list[Problem]]:
    """(2): whether all of it could be looked up, and what is revoked or on hold."""
    complete = True
    problems: list[Problem] = []
    for gpu in gpus:
        found, raised = lookup.chain(gpu.chain, f"{gpu.name}'s chain", first=2)
        complete = complete and found
        problems.extend(raised)
    return complete, problems


def appraise_gpu(gpu: bytes, at: int, collateral: Collateral) -> GpuAppraisal:
    """Judge the evidence of every GPU, and read what it says.

    Args:
        gpu: Evidence as `encode_evidence` gives it.
        at: Unix seconds at which chains and OCSP responses are judged.
        collateral: Its RIMs and OCSP responses stand in for those of the evidence, each where it
            has any.

    Raises:
        UnreadableError: Evidence or collateral of another format.
    """
    time, gpus, rims, responses = _decode(gpu)
    lookup = Lookup(_read_responses(collateral.ocsp) or responses, at)
    references = References(_read_rims(collateral.rims) or rims, at, lookup)
    problems = [*_shared_problems(gpus)]
    devices = []
    for one in gpus:
        problems.extend(_identity_problems(one, at))
        measured = references.measure(one.report, _ARCHITECTURES[one.architecture].chip, one.name)
        problems.extend(measured.problems)
        devices.append(
            GpuDevice(
                architecture=one.architecture,
                device_id=one.device_id,
                driver=one.report.driver,
                vbios=one.report.vbios,
                confidential=_CONFIDENTIAL[one.report.mode],
                mode=one.report.mode,
                # Reference values exist for production firmware without debugging only.
                debug=False if measured.holds else None,
                measured=measured.holds,
                unmeasured=measured.missing,
            )
        )
    complete, raised = _revocation(gpus, lookup)
    return GpuAppraisal(
        root=fingerprint(gpus[0].chain[-1]),
        nonce=gpus[0].report.nonce,
        devices=tuple(devices),
        tcb=Tcb(()),
        revocation_checked=complete and references.looked_up,
        collected_at=time,
        # Devices that share a RIM or a certificate share its problems.
        problems=tuple(dict.fromkeys((*problems, *raised))),
        rim_roots=references.roots,
        alternatives=lookup.alternatives or references.alternatives,
    )
