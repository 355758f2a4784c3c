"""Whatever file somebody hands over: tell by its content what it is, and verify it as that."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import orjson

from proofs import archive, b64, disclosure
from proofs.archive_report import ArchiveReport
from proofs.bundle import MAX_BUNDLE
from proofs.disclosure import MAX_DISCLOSURE, Said, decode_disclosure
from proofs.errors import UnreadableError
from proofs.evidence import nvidia, simulated, snp, tdx
from proofs.evidence.base import NO_COLLATERAL
from proofs.evidence.snp_report import REPORT_SIZE
from proofs.evidenceonly import verify_evidence
from proofs.note import MAX_NOTE
from proofs.policy import Policy
from proofs.report import BundleReport, CheckpointReport, EvidenceReport, Report
from proofs.steps import Step
from proofs.verify import judge_bundle, verify_disclosed, verify_published
from proofs.verify_archive import verify_archive
from runtime.collateral import StoredCollateral

AnyReport = Report | BundleReport | CheckpointReport | EvidenceReport | ArchiveReport
_START = 64
_LONGEST_HEADS = 8  # before a label: of a record, an array and the label itself
_MAX_JSON = 2 * MAX_BUNDLE
_TDX_HEADER = struct.Struct("<HHI")
_TDX_VERSIONS, _TDX_TEE = (4, 5), 0x81
_SNP_VERSIONS = range(2, 6)
_TAG_SIGN1 = b"\xd2\x84"  # COSE_Sign1: tag 18, an array of four
_WHAT_THERE_IS = (
    "It is none of: disclosed receipt, archive, attestation bundle, checkpoint, TDX quote, "
    "SEV-SNP report, NVIDIA evidence. It is damaged, or something else"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """How to judge.

    Attributes:
        policy: What is acceptable.
        at: As of when, unix seconds.
        collateral: What the verifier brings along.
        nonce: What GPUs should have signed, 32 bytes.
        report_data: What a CPU should have signed, 64 bytes.
        keep_said: Whether an archive's report carries what was said.
    """

    policy: Policy
    at: int
    collateral: StoredCollateral = field(default_factory=lambda: StoredCollateral(NO_COLLATERAL))
    nonce: bytes | None = None
    report_data: bytes | None = None
    keep_said: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """What a file is, and what came out.

    Attributes:
        kind: `receipt`, `archive`, `bundle`, `checkpoint` or `evidence`.
        report: What was found.
        said: Of a receipt that holds, what was said, where it is disclosed.
    """

    kind: str
    report: AnyReport
    said: Said | None = field(default=None, repr=False)


def verify_file(path: Path, terms: Terms) -> Verified:
    """Verify a file as what it is.

    Raises:
        UnreadableError: It is nothing that is known here, or damaged.
        RefusedError: NVIDIA's evidence that contradicts itself.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_START)
        if _is_labelled(start, archive.LABEL):
            return _archive(file.fileno(), terms)
        data = start + file.read(MAX_DISCLOSURE + 1 - len(start))
    return verify_data(data, terms)


def verify_data(data: bytes, terms: Terms) -> Verified:
    """The same for bytes; archives alone need a file.

    Raises:
        UnreadableError, RefusedError: As above.
    """
    if len(data) > MAX_DISCLOSURE:
        raise UnreadableError(f"It has more than {MAX_DISCLOSURE} bytes. {_WHAT_THERE_IS}.")
    for label, verify in _LABELS.items():
        if _is_labelled(data, label):
            return verify(data, terms)
    if data.lstrip()[:1] in (b"{", b"["):
        return _json(data, terms)
    if _is_tdx_quote(data):
        return _evidence(tdx.KIND, tdx.encode_evidence(data, None), terms)
    if len(data) == REPORT_SIZE and int.from_bytes(data[:4], "little") in _SNP_VERSIONS:
        return _snp_report(data, terms)
    if data.startswith(_TAG_SIGN1):
        raise UnreadableError(
            "It is a signed receipt alone. Nothing in it says whose key signed it: ask its owner "
            "for a disclosure, `sotto receipts --save`."
        )
    return _text(data, terms)


def _is_labelled(data: bytes, label: str) -> bool:
    return label.encode() in data[: _LONGEST_HEADS + len(label)]


def _archive(descriptor: int, terms: Terms) -> Verified:
    # Read by place, so that a file of any length needs no more memory than one thread of it.
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("An archive is read by place, and a pipe has none. Save it first.")
    report = verify_archive(
        lambda at, length: os.pread(descriptor, length, at),
        status.st_size,
        terms.policy,
        terms.at,
        collateral=terms.collateral.collateral,
        keep_said=terms.keep_said,
    )
    return Verified("archive", report)


def _disclosure(data: bytes, terms: Terms) -> Verified:
    disclosed = decode_disclosure(data)
    report = verify_disclosed(
        disclosed, terms.policy, terms.at, collateral=terms.collateral.collateral
    )
    return Verified("receipt", report, disclosed.said if report.holds else None)


def _bundle(data: bytes, terms: Terms, proof: str | None = None) -> Verified:
    report = judge_bundle(
        data, proof, terms.policy, terms.at, collateral=terms.collateral.collateral
    )
    return Verified("bundle", report)


def _evidence(kind: str, data: bytes, terms: Terms) -> Verified:
    report = verify_evidence(
        kind,
        data,
        terms.policy,
        terms.at,
        nonce=terms.nonce,
        report_data=terms.report_data,
        collateral=terms.collateral.collateral,
    )
    return Verified("evidence", report)


def _encoded(kind: str) -> Callable[[bytes, Terms], Verified]:
    return partial(_evidence, kind)


def _is_tdx_quote(data: bytes) -> bool:
    if len(data) < _TDX_HEADER.size:
        return False
    version, _, tee = _TDX_HEADER.unpack_from(data)
    return version in _TDX_VERSIONS and tee == _TDX_TEE


def _snp_report(data: bytes, terms: Terms) -> Verified:
    from runtime.enclave.tee.amd import chains

    stored = terms.collateral
    candidates = [
        snp.encode_evidence(data, chain, stored.collateral.snp_crls)
        for chain in chains(stored.snp_certificates)
    ]
    if not candidates:
        raise UnreadableError(
            "A SEV-SNP report comes without certificates. Put the chip's VCEK or VLEK, the ASK "
            "or ASVK, and the ARK into FOLDER/snp as *.der or *.pem, and give --collateral FOLDER."
        )
    # The folder may hold those of other chips, too: the chain that this report fits.
    return min(
        (_evidence(snp.KIND, one, terms) for one in candidates),
        key=lambda found: sum(len(step.codes) for step in _steps(found.report)),
    )


def _steps(report: AnyReport) -> tuple[Step, ...]:
    return report.steps if isinstance(report, EvidenceReport) else ()


def _json(data: bytes, terms: Terms) -> Verified:
    """NVIDIA's evidence is an array; bundles come in an object, as an enclave publishes them."""
    if len(data) > _MAX_JSON:
        raise UnreadableError(f"JSON of more than {_MAX_JSON} bytes. {_WHAT_THERE_IS}.")
    if data.lstrip().startswith(b"["):
        return _evidence(nvidia.GPU_LABEL, nvidia.parse_nvidia_json(data), terms)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UnreadableError(f"It is no JSON. {_WHAT_THERE_IS}.") from error
    listed = value.get("enclaves", [value])
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
        raise UnreadableError(
            "The JSON should hold one enclave with `bundle` and `proof`, as GET /attestation "
            "answers. Give them one at a time."
        )
    bundle, proof = listed[0].get("bundle"), listed[0].get("proof")
    if not isinstance(bundle, str) or not isinstance(proof, str | None):
        raise UnreadableError("The JSON has no `bundle` in base64 with its `proof`. Get it again.")
    return _bundle(b64.decode(bundle, "the bundle in the JSON"), terms, proof or None)


def _text(data: bytes, terms: Terms) -> Verified:
    """A checkpoint, as a log serves it."""
    try:
        text = data.decode("utf-8") if 0 < len(data) <= MAX_NOTE else ""
    except UnicodeDecodeError:
        text = ""
    if text.startswith("c2sp.org/tlog-proof@"):
        raise UnreadableError(
            "It is a log proof alone, and does not say of what. Give the file that it belongs to."
        )
    if "\n\n\u2014 " not in text:
        raise UnreadableError(f"{_WHAT_THERE_IS}.")
    return Verified("checkpoint", verify_published(text, terms.policy, terms.at))


_LABELS: dict[str, Callable[[bytes, Terms], Verified]] = {
    disclosure.LABEL: _disclosure,
    disclosure.LABEL_V1: _disclosure,
    "sottovoce-bundle-v1": _bundle,
    "sottovoce-tdx-v1": _encoded(tdx.KIND),
    "sottovoce-snp-v1": _encoded(snp.KIND),
    "sottovoce-simulated-cpu-v1": _encoded(simulated.KIND),
    simulated.GPU_LABEL: _encoded(simulated.GPU_LABEL),
    nvidia.GPU_LABEL: _encoded(nvidia.GPU_LABEL),
}
"""By the label that the file starts with, as all formats of this project do."""
