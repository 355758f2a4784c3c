"""Evidence of hardware: read or refused, and changed in any place it proves nothing else."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fuzz_support import Target, change_one, changes, mutate, sample, stories, strict

from proofs import cbor
from proofs.bundle import decode_bundle
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence import CPU_APPRAISERS, GPU_APPRAISERS, gpu_appraiser, nvidia, ocsp, snp
from proofs.evidence.base import NO_COLLATERAL, Collateral, CpuAppraisal, GpuAppraisal
from proofs.evidence.certificates import chain_problems, load_der, load_pem_chain
from proofs.evidence.nvidia_rim import Rim, read_rim, signed_content
from proofs.evidence.nvidia_spdm import parse_report
from proofs.evidence.revocation import crl_problems, load_crl

NOW = 1_800_000_000
NONCE, DATA = b"n" * 32, b"d" * 64
_ODD_JSON = b'[{"arch":1,"certificate":1,"evidence":1,"nonce":1}]'
TIMES = (NOW, 0, -1, 2**40 + 1, 2**63 - 1)


@dataclass(frozen=True)
class _Gpu:
    """The sample of NVIDIA's evidence in its parts."""

    chain: bytes
    report: bytes
    rims: list[bytes]
    responses: list[bytes]

    def parts(self) -> list[bytes]:
        """Report, three certificates, two RIMs, two OCSP responses."""
        chain = load_pem_chain(self.chain, "it", 3)
        certificates = (one.public_bytes(Encoding.DER) for one in chain)
        return [self.report, *certificates, *self.rims, *self.responses]


@cache
def _gpu() -> _Gpu:
    _, _, ((_, chain, report),), rims, responses = cbor.decode(  # type: ignore[misc]
        sample("nvidia"), what="the sample", limit=2**16
    )
    return _Gpu(chain, report, rims, responses)


@cache
def _gpu_found() -> GpuAppraisal:
    found = nvidia.appraise_gpu(sample("nvidia"), NOW, NO_COLLATERAL)
    assert not found.problems
    assert found.revocation_checked
    assert found.devices[0].measured
    return found


def _check_gpu(evidence: bytes) -> None:
    """What has no problem says what the sample says, or less: no RIMs, no answers on revocation."""
    try:
        found = nvidia.appraise_gpu(evidence, NOW, NO_COLLATERAL)
    except UnreadableError:
        return
    if found.problems:
        return
    true = _gpu_found()
    assert (found.root, found.nonce) == (true.root, true.nonce)
    assert set(found.rim_roots) <= set(true.rim_roots)
    (device,), (first,) = found.devices, true.devices
    assert device.measured or device.unmeasured
    same = replace(device, measured=first.measured, unmeasured=(), debug=first.debug)
    assert same == first


def _gpu_evidence(script: bytes) -> None:
    evidence = sample("nvidia")
    if script[:1] == b"\xff":
        _check_gpu(mutate(evidence, script[1:]))
        return
    report, *files = change_one(_gpu().parts(), script)
    chain = "".join(map(ssl.DER_cert_to_PEM_cert, files[:3])).encode()
    items = ["HOPPER", chain, report]
    _check_gpu(cbor.encode([nvidia.GPU_LABEL, NOW, [items], files[3:5], files[5:]]))


def _spdm(data: bytes) -> None:
    try:
        report = parse_report(data, "it")
    except UnreadableError:
        return
    assert report.signed + report.signature == data
    assert report.nonce == data[4:36]


@cache
def _nvidia_json() -> bytes:
    gpu = _gpu()
    entry = {
        "arch": "HOPPER",
        "certificate": base64.b64encode(gpu.chain).decode(),
        "evidence": base64.b64encode(gpu.report).decode(),
        "nonce": NONCE.hex(),
    }
    return json.dumps([entry]).encode()


def _json(data: bytes) -> None:
    """Raw, or after a zero the sample's with bytes changed."""
    text = mutate(_nvidia_json(), data[1:]) if data[:1] == b"\x00" else data
    try:
        evidence = nvidia.parse_nvidia_json(text)
    except (UnreadableError, RefusedError):
        assert text != _nvidia_json()
        return
    _check_gpu(evidence)


@cache
def _rim() -> Rim:
    rim = signed_content(read_rim(_gpu().rims[0], "it"), "it")
    assert rim is not None
    return rim


def _read_rim(data: bytes) -> None:
    """Raw, or after a zero the sample's with bytes changed: nobody else can have signed it."""
    text = mutate(_gpu().rims[0], data[1:]) if data[:1] == b"\x00" else data
    try:
        rim = signed_content(read_rim(text, "it"), "it")
    except UnreadableError:
        assert text != _gpu().rims[0]
        return
    assert rim in (None, _rim())


def _issued(number: int) -> tuple[x509.Certificate, x509.Certificate]:
    """The certificate that the sample's answer of that number is about, and its issuer."""
    if number:
        leaf, root = read_rim(_gpu().rims[0], "it").chain
        return leaf, root
    _, device, root = load_pem_chain(_gpu().chain, "it", 3)
    return device, root


def _ocsp(data: bytes) -> None:
    """Nothing stands as good that was not signed as such."""
    try:
        response = ocsp.read_response(data, "it")
    except UnreadableError:
        return
    assert response.basic.public_bytes(Encoding.DER) == data
    for number, true in enumerate(_gpu().responses):
        certificate, issuer = _issued(number)
        found, problems = ocsp.look_up(certificate, issuer, [response], NOW, "it")
        if found and not problems:
            first = ocsp.read_response(true, "it")
            assert response.basic.tbs_response_bytes == first.basic.tbs_response_bytes


def _certificate(data: bytes) -> bytes:
    certificate = load_der(data, "it")
    for at in TIMES:
        chain_problems([certificate], at, "it")
        chain_problems([certificate, certificate], at, "it")
    return certificate.public_bytes(Encoding.DER)


def _pem(data: bytes) -> None:
    try:
        chain = load_pem_chain(data, "it", 4)
    except UnreadableError:
        return
    written = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    assert data.replace(b"\r\n", b"\n").strip() == written.strip()
    chain_problems(chain, NOW, "it")


@dataclass(frozen=True)
class _Snp:
    """The sample of AMD's evidence in its parts."""

    report: bytes
    certificates: list[bytes]
    crls: list[bytes]

    def parts(self) -> list[bytes]:
        return [self.report, *self.certificates, *self.crls]


@cache
def _snp() -> _Snp:
    _, *parts = cbor.decode(sample("snp"), what="the sample", limit=2**16)  # type: ignore[misc]
    return _Snp(*parts)


def _crl(data: bytes) -> bytes:
    crl = load_crl(data, "it")
    ark = load_der(_snp().certificates[-1], "it")
    for at in TIMES:
        problems = list(crl_problems(crl, ark, [ark], at, "it"))
        assert problems or data == _snp().crls[0]
    return crl.public_bytes(Encoding.DER)


@cache
def _cpu_found(kind: str) -> CpuAppraisal:
    found = CPU_APPRAISERS[kind](sample(kind), NOW, NO_COLLATERAL)
    assert not found.problems
    assert found.report_data == DATA
    return found


def _check_cpu(kind: str, evidence: bytes) -> None:
    """What has no problem is the sample, or has less or other collateral in it."""
    try:
        found = CPU_APPRAISERS[kind](evidence, NOW, NO_COLLATERAL)
    except UnreadableError:
        assert evidence != sample(kind)
        return
    true = _cpu_found(kind)
    if found.problems:
        assert evidence != sample(kind)
    else:
        assert replace(found, facts=true.facts) == true
        assert _signed_items(evidence) == _signed_items(sample(kind))


def _signed_items(evidence: bytes) -> list[object]:
    """Quote, or report and certificates: of these there is one form that holds."""
    _, *items = cbor.decode(evidence, what="it", limit=2**16)  # type: ignore[misc]
    return items[:-1]


def _snp_report(data: bytes) -> None:
    if len(data) == len(_snp().report):
        _check_cpu("snp", snp.encode_evidence(data, _snp().certificates, _snp().crls))
    script = mutate(_snp().report, data)
    _check_cpu("snp", snp.encode_evidence(script, _snp().certificates, _snp().crls))


def _snp_evidence(script: bytes) -> None:
    if script[:1] == b"\xff":
        _check_cpu("snp", mutate(sample("snp"), script[1:]))
        return
    report, *files = change_one(_snp().parts(), script)
    _check_cpu("snp", snp.encode_evidence(report, files[:3], files[3:]))


@cache
def _tdx() -> tuple[bytes, str]:
    _, quote, collateral = cbor.decode(sample("tdx"), what="it", limit=2**16)  # type: ignore[misc]
    return quote, collateral


def _tdx_quote(data: bytes) -> None:
    """Raw, or after a zero the sample's with bytes changed."""
    quote, collateral = _tdx()
    changed = mutate(quote, data[1:]) if data[:1] == b"\x00" else data
    _check_cpu("tdx", cbor.encode(["sottovoce-tdx-v1", changed, collateral]))


def _tdx_collateral(data: bytes) -> None:
    """Raw, or after a zero the sample's with bytes changed: a member of it, or its text."""
    quote, text = _tdx()
    if data[:1] == b"\x00":
        members = json.loads(text)
        names = list(members)
        values = [str(members[name]).encode() for name in names]
        changed = [value.decode("latin-1") for value in change_one(values, data[1:])]
        text = json.dumps(members | dict(zip(names, changed, strict=True)))
    elif data[:1] == b"\x01":
        text = mutate(text.encode(), data[1:]).decode("utf-8", "replace")
    else:
        text = data.decode("utf-8", "replace")
    _check_cpu("tdx", cbor.encode(["sottovoce-tdx-v1", quote, text or None]))


def _any(data: bytes) -> None:
    """Any bytes to every appraiser: an appraisal, or unreadable."""
    appraisers: Sequence[Callable[[bytes, int, Collateral], object]] = (
        *CPU_APPRAISERS.values(),
        *GPU_APPRAISERS.values(),
    )
    for appraise in appraisers:
        for at in TIMES:
            try:
                appraise(data, at, NO_COLLATERAL)
            except UnreadableError:
                break
    try:
        gpu_appraiser(data)
    except UnreadableError:
        return


def _scripts(parts: Sequence[bytes]) -> Iterable[bytes]:
    """Scripts for each part, one for the whole, and the empty one, which changes nothing."""
    yield b"\x00"
    yield b"\xff\x00\x00\x40\x01"
    yield from changes(parts)


def _simulated() -> Iterable[bytes]:
    bundle = decode_bundle(stories().story().bundle)
    return [bundle.cpu, bundle.gpu]


TARGETS = {
    "evidence": Target(_any, _simulated, 1024, 3000),
    "nvidia-spdm": Target(_spdm, lambda: [_gpu().report], 1024),
    "nvidia-json": Target(
        _json,
        lambda: [b"[]", b'[{"arch":"HOPPER"}]', _ODD_JSON, b"\x00", b"\x00\x00\x00\x40\x01"],
        512,
        1000,
    ),
    "nvidia-rim": Target(
        _read_rim, lambda: [b"\x00", b"\x00\x00\x02\x00\x01", _gpu().rims[0][:200]], 512, 1000
    ),
    "nvidia-evidence": Target(_gpu_evidence, lambda: _scripts(_gpu().parts()), 64, 150),
    "ocsp": Target(_ocsp, lambda: _gpu().responses, 2048, 3000),
    "certificate": Target(strict(_certificate), lambda: [_snp().certificates[0]], 2048, 3000),
    "certificate-chain": Target(_pem, lambda: [_gpu().chain], 3072, 1000),
    "crl": Target(strict(_crl), lambda: _snp().crls, 1024, 3000),
    "snp-report": Target(_snp_report, lambda: [b"", b"\x00\x00\x40\x01"], 1200, 500),
    "snp-evidence": Target(_snp_evidence, lambda: _scripts(_snp().parts()), 64, 150),
    "tdx-quote": Target(_tdx_quote, lambda: [b"\x00", *changes([_tdx()[0]])], 64, 150),
    "tdx-collateral": Target(
        _tdx_collateral,
        lambda: [b"\x00", b"\x00\x00\x00\x00\x40\x01", b"\x01\x00\x02\x00\x01", b"{}"],
        64,
        300,
    ),
}
