"""Evidence that is odd and truly signed, as a machine under anybody's own root can make it.

What only checks of signatures keep from libraries reaches them here: before a policy looks at the
root, all of it was read. Nothing but an appraisal or our own errors may come of it.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import struct
from collections.abc import Iterable, Sequence
from functools import cache

from cpu_certificates import der
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import load_der_x509_crl
from fuzz_evidence import DATA, NOW, TIMES
from fuzz_support import Target, change_one, sample
from gpu_machine import Authority, certify
from lxml import etree
from signxml.algorithms import CanonicalizationMethod
from signxml.signer import XMLSigner
from tdx_machine import TdxMachine

from proofs import cbor
from proofs.errors import UnreadableError
from proofs.evidence.base import NO_COLLATERAL
from proofs.evidence.nvidia_rim import read_rim, signed_content
from proofs.evidence.tdx import appraise_cpu

_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_BODY_SIZES = {4: 632, 5: 702}
_QE_REPORT_SIZE = 384
_AUTHENTICATION = bytes(range(32))
_SIGNATURE = "{http://www.w3.org/2000/09/xmldsig#}Signature"


@cache
def _machine(version: int) -> TdxMachine:
    return TdxMachine.create(version)


@cache
def _collateral() -> dict[str, str]:
    members: dict[str, str] = json.loads(_machine(4).collateral(NOW))
    return members


@cache
def _parts(version: int) -> list[bytes]:
    """All that somebody signs: quote, two reports, two JSON texts, two CRLs, four certificates."""
    machine, collateral = _machine(version), _collateral()
    quote, size = machine.quote(DATA), _BODY_SIZES[version]
    crls = (
        load_der_x509_crl(bytes.fromhex(collateral[name])) for name in ("root_ca_crl", "pck_crl")
    )
    authorities = (machine.pck, machine.pck_ca, machine.tcb_signer, machine.root_ca)
    return [
        quote[:size],
        quote[size + 4 + 128 + 6 :][:_QE_REPORT_SIZE],
        _AUTHENTICATION,
        collateral["tcb_info"].encode(),
        collateral["qe_identity"].encode(),
        *(crl.tbs_certlist_bytes for crl in crls),
        *(one.certificate.tbs_certificate_bytes for one in authorities),
    ]


def _raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    halves = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return b"".join(half.to_bytes(32) for half in halves)


def _signed(tbs: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate or a CRL (RFC 5280 sections 4.1 and 5.1)."""
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return der(0x30, tbs, _ECDSA_SHA256, der(0x03, b"\x00", signature))


def _bound(machine: TdxMachine, authentication: bytes) -> bytes:
    numbers = machine._attestation_key.public_key().public_numbers()
    raw = numbers.x.to_bytes(32) + numbers.y.to_bytes(32)
    return raw + hashlib.sha256(raw + authentication).digest()


def _quote(machine: TdxMachine, parts: Sequence[bytes], chain: str) -> bytes:
    """As `TdxMachine.quote`, of parts that may be odd."""
    body, report, authentication = parts
    first, new = (_bound(machine, one) for one in (_AUTHENTICATION, authentication))
    report = report.replace(first[64:], new[64:])
    certification = b"".join(
        (
            report,
            _raw(machine.pck.key, report),  # type: ignore[arg-type]
            struct.pack("<H", len(authentication)) + authentication,
            struct.pack("<HI", 5, len(chain)) + chain.encode(),
        )
    )
    signature = _raw(machine._attestation_key, body) + new[:64]
    signature += struct.pack("<HI", 6, len(certification)) + certification
    return body + struct.pack("<I", len(signature)) + signature


def _evidence(version: int, parts: Sequence[bytes]) -> bytes:
    machine = _machine(version)
    issuers = (machine.pck_ca, machine.root_ca, machine.root_ca, machine.root_ca)
    pck, ca, signer, root = (
        ssl.DER_cert_to_PEM_cert(_signed(tbs, issuer.key))  # type: ignore[arg-type]
        for tbs, issuer in zip(parts[7:], issuers, strict=True)
    )
    tcb_info, qe_identity = (text.decode("utf-8", "replace") for text in parts[3:5])
    root_crl, pck_crl = (
        _signed(tbs, one.key).hex()  # type: ignore[arg-type]
        for tbs, one in zip(parts[5:7], (machine.root_ca, machine.pck_ca), strict=True)
    )
    collateral = _collateral() | {
        "pck_crl_issuer_chain": ca + root,
        "root_ca_crl": root_crl,
        "pck_crl": pck_crl,
        "tcb_info_issuer_chain": signer + root,
        "tcb_info": tcb_info,
        "tcb_info_signature": machine.sign_collateral(tcb_info).hex(),
        "qe_identity_issuer_chain": signer + root,
        "qe_identity": qe_identity,
        "qe_identity_signature": machine.sign_collateral(qe_identity).hex(),
    }
    quote = _quote(machine, parts[:3], pck + ca + root)
    return cbor.encode(["sottovoce-tdx-v1", quote, json.dumps(collateral)])


def _tdx(script: bytes) -> None:
    """The first byte says which version of quote, and when to judge."""
    choice = script[0] if script else 0
    version, at = 4 + choice % 2, TIMES[choice // 2 % len(TIMES)]
    parts = change_one(_parts(version), script[1:])
    try:
        found = appraise_cpu(_evidence(version, parts), at, NO_COLLATERAL)
    except UnreadableError:
        return
    if not found.problems:
        assert found.report_data in parts[0]
    elif parts == _parts(version):
        assert at != NOW


@cache
def _rim_signer() -> Authority:
    return certify("Anybody", None)


def _rim(data: bytes) -> None:
    """A tag of any content with a true signature: reference values, or unreadable."""
    signer = _rim_signer()
    try:
        root = etree.fromstring(data)
        method = CanonicalizationMethod.CANONICAL_XML_1_1
        xml = XMLSigner(
            signature_algorithm="ecdsa-sha384", digest_algorithm="sha384", c14n_algorithm=method
        )
        certificates = [signer.certificate] * 2
        signed = etree.tostring(xml.sign(root, key=signer.key, cert=certificates))
    except Exception:  # the signer's own, of which nobody here uses more
        return
    try:
        rim = signed_content(read_rim(signed, "it"), "it")
    except UnreadableError:
        return
    if rim is not None:
        values = [value for some in rim.measurements.values() for value in some]
        assert values
        assert {len(value) for value in values} == {48}


def _rim_seeds() -> Iterable[bytes]:
    _, _, _, rims, _ = cbor.decode(sample("nvidia"), what="it", limit=2**16)  # type: ignore[misc]
    for rim in rims[:1]:
        root = etree.fromstring(rim)
        root.remove(root.find(_SIGNATURE))
        yield etree.tostring(root)


def _tdx_seeds() -> Iterable[bytes]:
    yield b"\x00"
    yield b"\x01"
    yield from (bytes((which % 2, which, 0, 0, 0x40, 1)) for which in range(len(_parts(4))))


TARGETS = {
    "nvidia-rim-signed": Target(_rim, _rim_seeds, 1024, 500),
    "tdx-signed": Target(_tdx, _tdx_seeds, 64, 300),
}
