"""Machines with Intel TDX that do not exist: quotes and collateral as Intel's, under another root.

Everything that dcap-qvl looks at is there: root, PCK CA, PCK certificate with Intel's extension,
TCB signing certificate, both CRLs, TCB info, QE identity, the quoting enclave's report, the
attestation key and the quote.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

import dcap_qvl  # type: ignore[import-untyped]
from cpu_certificates import DAY, Authority, der, der_oid, der_uint, issue, moment, revoke
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from proofs.claims import Measurements
from proofs.evidence.certificates import fingerprint
from proofs.evidence.tdx import KIND, encode_evidence

SGX = "1.2.840.113741.1.13.1"
FMSPC = bytes.fromhex("90c06f000000")
INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER = b"\x5e" * 32
SEPT_VE_DISABLE, MIGRATABLE, DEBUG = 1 << 28, 1 << 29, 1
TEE_TCB_SVN = bytes([6, 1, 3]).ljust(16, b"\x00")  # module 1.06, microcode 3
CPU_SVN = bytes([3] * 8).ljust(16, b"\x00")
PCE_SVN, QE_SVN, EVALUATION = 11, 4, 18
RECOVERED, BEFORE = "2026-03-11T00:00:00Z", "2025-08-13T00:00:00Z"
"""TCB dates of the newest level and of the one before it."""
_BODY_TYPES = {584: 2, 648: 3}


def _p256(seed: str) -> ec.EllipticCurvePrivateKey:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:31], "big")
    return ec.derive_private_key(number, ec.SECP256R1())


@lru_cache
def _authorities() -> tuple[Authority, Authority, Authority]:
    """Root, PCK CA and TCB signing certificate."""
    root = issue("Intel SGX Root CA of tests", _p256("root"), None, ca=True)
    ca = issue("Intel SGX PCK Platform CA of tests", _p256("ca"), root, ca=True)
    return root, ca, issue("Intel SGX TCB Signing of tests", _p256("tcb"), root, ca=False)


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """r and s, 32 bytes each, as Intel writes signatures."""
    halves = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return b"".join(half.to_bytes(32, "big") for half in halves)


def _raw(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _date(seconds: int) -> str:
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def _pair(number: str, value: bytes) -> bytes:
    return der(0x30, der_oid(f"{SGX}.{number}"), value)


def _sgx_extension(ppid: bytes) -> bytes:
    """Intel's extension of a PCK certificate (Intel SGX PCK Certificate and CRL Profile 1.5)."""
    tcb = [_pair(f"2.{n}", der_uint(svn)) for n, svn in enumerate(CPU_SVN, 1)]
    tcb += [_pair("2.17", der_uint(PCE_SVN)), _pair("2.18", der(0x04, CPU_SVN))]
    yes = der(0x01, b"\xff")
    configuration = [_pair(f"7.{n}", yes) for n in (1, 2, 3)]
    return der(
        0x30,
        _pair("1", der(0x04, ppid)),
        _pair("2", der(0x30, *tcb)),
        _pair("3", der(0x04, bytes(2))),
        _pair("4", der(0x04, FMSPC)),
        _pair("5", der(0x0A, b"\x01")),
        _pair("6", der(0x04, hashlib.sha256(ppid).digest()[:16])),
        _pair("7", der(0x30, *configuration)),
    )


def _levels(status: str, advisories: Sequence[str], level: object, newer: object) -> list[object]:
    """TCB levels: where `status` says that something newer is wanted, that stands first."""
    own = {"tcb": level, "tcbDate": RECOVERED, "tcbStatus": status}
    if advisories:
        own["advisoryIDs"] = list(advisories)
    if status in {"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded"}:
        return [own]
    own["tcbDate"] = BEFORE
    return [{"tcb": newer, "tcbDate": RECOVERED, "tcbStatus": "UpToDate"}, own]


@dataclass(frozen=True, slots=True)
class TdxMachine:
    """A machine under a root that all of them share. Make one with `create`.

    Attributes:
        version: Of its quotes, 4 or 5; 5 comes with the TD report of TDX 1.5.
        ppid: The platform's id, 16 bytes.
        mrtd: Measurement of the TD's initial memory, 48 bytes.
        root_ca: The root.
        pck_ca: What certifies platforms.
        tcb_signer: What signs TCB info and QE identity.
        pck: The platform's certificate.
    """

    version: int
    ppid: bytes
    mrtd: bytes
    root_ca: Authority
    pck_ca: Authority
    tcb_signer: Authority
    pck: Authority
    _attestation_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(
        cls, version: int = 4, *, platform: int = 1, mrtd: bytes = b"\x0d" * 48
    ) -> TdxMachine:
        """A machine; `platform` numbers them."""
        root, ca, signer = _authorities()
        ppid = hashlib.sha256(f"ppid {platform}".encode()).digest()[:16]
        pck = issue(
            f"Intel SGX PCK Certificate {platform} of tests",
            _p256(f"pck {platform}"),
            ca,
            ca=False,
            extensions=[(SGX, _sgx_extension(ppid))],
        )
        return cls(version, ppid, mrtd, root, ca, signer, pck, _p256(f"attestation {platform}"))

    @property
    def kind(self) -> str:
        return KIND

    @property
    def root(self) -> bytes:
        """SHA-256 of the root's certificate, as a policy pins it."""
        return fingerprint(self.root_ca.certificate)

    @property
    def measurements(self) -> Measurements:
        """What its evidence says it measured."""
        names = ["mrconfigid", "mrowner", "mrownerconfig", "mrtd"]
        values = [*([bytes(48)] * 3), self.mrtd]
        rtmrs = [(f"rtmr{n}", self._rtmr(n)) for n in range(4)]
        return (*zip(names, values, strict=True), *rtmrs)

    def _rtmr(self, number: int) -> bytes:
        return bytes([0xA0 + number]) * 48

    def _body(
        self, report_data: bytes, attributes: int, service_td: bytes, seam_signer: bytes
    ) -> bytes:
        body = b"".join(
            [
                TEE_TCB_SVN,
                b"\x5e" * 48,  # MRSEAM
                seam_signer,
                bytes(8),
                attributes.to_bytes(8, "little"),
                bytes.fromhex("e702060000000000"),  # XFAM
                self.mrtd,
                bytes(3 * 48),
                *(self._rtmr(number) for number in range(4)),
                report_data,
            ]
        )
        return body + TEE_TCB_SVN + service_td if self.version == 5 else body

    def _qe_report(self, authentication: bytes, *, debug: bool) -> bytes:
        bound = hashlib.sha256(_raw(self._attestation_key) + authentication).digest()
        attributes = (0x11 | (2 if debug else 0)).to_bytes(8, "little") + bytes(8)
        return b"".join(
            [
                CPU_SVN,
                bytes(4 + 28),
                attributes,
                b"\x0e" * 32,  # MRENCLAVE
                bytes(32),
                QE_SIGNER,
                bytes(96),
                struct.pack("<HH", 2, QE_SVN),
                bytes(60),
                bound.ljust(64, b"\x00"),
            ]
        )

    def quote(
        self,
        report_data: bytes,
        *,
        debug: bool = False,
        attributes: int = SEPT_VE_DISABLE,
        service_td: bytes = bytes(48),
        seam_signer: bytes = bytes(48),
        qe_debug: bool = False,
    ) -> bytes:
        """A signed quote."""
        key, raw = self._attestation_key, _raw(self._attestation_key)
        body = self._body(report_data, attributes | int(debug), service_td, seam_signer)
        header = struct.pack("<HHIHH", self.version, 2, 0x81, 0, 0) + INTEL_QE + bytes(20)
        if self.version == 5:
            header += struct.pack("<HI", _BODY_TYPES[len(body)], len(body))
        authentication = bytes(range(32))
        qe_report = self._qe_report(authentication, debug=qe_debug)
        chain = (self.pck.pem + self.pck_ca.pem + self.root_ca.pem).encode() + b"\x00"
        certification = b"".join(
            [
                qe_report,
                _sign(self.pck.key, qe_report),  # type: ignore[arg-type]
                struct.pack("<H", len(authentication)) + authentication,
                struct.pack("<HI", 5, len(chain)) + chain,
            ]
        )
        signature = _sign(key, header + body) + raw
        signature += struct.pack("<HI", 6, len(certification)) + certification
        return header + body + struct.pack("<I", len(signature)) + signature

    def _tcb_info(
        self, dates: dict[str, str], status: str, module_status: str, advisories: Sequence[str]
    ) -> str:
        def level(more: int) -> dict[str, object]:
            return {
                "sgxtcbcomponents": [{"svn": svn} for svn in CPU_SVN],
                "pcesvn": PCE_SVN + more,
                "tdxtcbcomponents": [{"svn": n} for n in bytes([2, 0, 3]).ljust(16, b"\x00")],
            }

        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        return json.dumps(
            {
                "id": "TDX",
                "version": 3,
                **dates,
                "fmspc": FMSPC.hex().upper(),
                "pceId": "0000",
                "tcbType": 0,
                "tcbEvaluationDataNumber": EVALUATION,
                "tdxModule": module,
                "tdxModuleIdentities": [
                    {
                        "id": "TDX_01",
                        **module,
                        "tcbLevels": _levels(module_status, (), {"isvsvn": 6}, {"isvsvn": 7}),
                    }
                ],
                "tcbLevels": _levels(status, advisories, level(0), level(1)),
            },
            separators=(",", ":"),
        )

    def _qe_identity(self, dates: dict[str, str], status: str) -> str:
        return json.dumps(
            {
                "id": "TD_QE",
                "version": 2,
                **dates,
                "tcbEvaluationDataNumber": EVALUATION,
                "miscselect": "00" * 4,
                "miscselectMask": "FF" * 4,
                "attributes": "11" + "00" * 15,
                "attributesMask": "FB" + "FF" * 7 + "00" * 8,
                "mrsigner": QE_SIGNER.hex().upper(),
                "isvprodid": 2,
                "tcbLevels": _levels(status, (), {"isvsvn": QE_SVN}, {"isvsvn": QE_SVN + 1}),
            },
            separators=(",", ":"),
        )

    def collateral(
        self,
        at: int,
        *,
        status: str = "UpToDate",
        advisories: Sequence[str] = (),
        module_status: str = "UpToDate",
        qe_status: str = "UpToDate",
        revoked: Iterable[x509.Certificate] = (),
        days: int = 30,
    ) -> str:
        """Collateral in JSON, issued a day before `at` (unix seconds) and good for `days`.

        Args:
            at: Unix seconds.
            status: Intel's word for this platform; `OutOfDate` and `Revoked` come with a newer
                level of 2026-03-11 above it.
            advisories: Ids that go with the status.
            module_status: Likewise, for the TDX module.
            qe_status: Likewise, for the quoting enclave.
            revoked: Certificates on the CRLs of root and PCK CA.
            days: From the day of issue.
        """
        issued = {"issueDate": _date(at - DAY), "nextUpdate": _date(at - DAY + days * DAY)}
        tcb_info = self._tcb_info(issued, status, module_status, advisories)
        qe_identity = self._qe_identity(issued, qe_status)
        signers = self.tcb_signer.pem + self.root_ca.pem
        collateral = dcap_qvl.QuoteCollateralV3(
            self.pck_ca.pem + self.root_ca.pem,
            revoke(self.root_ca, revoked, at, days=days),
            revoke(self.pck_ca, revoked, at, days=days),
            signers,
            tcb_info,
            self.sign_collateral(tcb_info),
            signers,
            qe_identity,
            self.sign_collateral(qe_identity),
        )
        said: str = collateral.to_json()
        return said

    def sign_collateral(self, text: str) -> bytes:
        """The TCB signing key's signature over TCB info or QE identity, 64 bytes."""
        return _sign(self.tcb_signer.key, text.encode())  # type: ignore[arg-type]

    def evidence(
        self,
        report_data: bytes,
        at: int,
        *,
        collateral: str | None = "",
        status: str = "UpToDate",
        advisories: Sequence[str] = (),
        revoked: bool = False,
        **knobs: object,
    ) -> bytes:
        """Encoded evidence collected at `at` (unix seconds).

        Args:
            report_data: 64 bytes to sign.
            at: Unix seconds; collateral is in force from a day before for 30 days.
            collateral: JSON to bring along, None for none; empty: made for `at`.
            status: Of the platform's TCB.
            advisories: Ids that go with the status.
            revoked: Whether the PCK certificate is on its CA's CRL.
            knobs: Of `quote`: `debug`, `attributes`, `service_td`, ...
        """
        if collateral == "":
            listed = [self.pck.certificate] if revoked else []
            collateral = self.collateral(at, status=status, advisories=advisories, revoked=listed)
        return encode_evidence(self.quote(report_data, **knobs), collateral)  # type: ignore[arg-type]


def seconds(date: str) -> int:
    """Unix seconds of a date as TCB levels have it."""
    return int(datetime.fromisoformat(date).timestamp())
