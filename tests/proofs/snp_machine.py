"""Machines with AMD SEV-SNP that do not exist: they sign like AMD's, under roots of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cpu_certificates import Authority, der, der_uint, issue, revoke
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from proofs.claims import Measurements
from proofs.evidence.certificates import fingerprint
from proofs.evidence.snp import KIND, encode_evidence
from proofs.evidence.snp_report import SIGNED_SIZE, tcb_order

TCB = {"bootloader": 4, "tee": 1, "snp": 23, "microcode": 213}
POLICY = 1 << 17 | 1 << 16
MIGRATE_MA, DEBUG = 1 << 18, 1 << 19
_AMD = "1.3.6.1.4.1.3704.1"
_CPUID = {"Milan": (0x19, 0x01), "Genoa": (0x19, 0x11), "Turin": (0x1A, 0x02)}
_SPL = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}


@lru_cache
def _ark(product: str) -> Authority:
    """AMD's keys have 4096 bits; 2048 are enough for tests, and made ten times faster."""
    return issue(f"ARK-{product} of tests", rsa.generate_private_key(65537, 2048), None, ca=True)


@lru_cache
def _ask(product: str, key: str) -> Authority:
    line = "VLEK-" if key == "vlek" else ""
    name = f"SEV-{line}{product} of tests"
    return issue(name, rsa.generate_private_key(65537, 2048), _ark(product), ca=True)


@dataclass(frozen=True, slots=True)
class SnpMachine:
    """A machine under a root that all machines of its product share. Make one with `create`.

    Attributes:
        product: `Milan`, `Genoa` or `Turin`.
        key: What signs its reports, `vcek` or `vlek`.
        chip_id: 64 bytes.
        ark: The root.
        issuer: ASK or ASVK.
        measurement: Of the guest's initial memory, 48 bytes.
    """

    product: str
    key: str
    chip_id: bytes
    ark: Authority
    issuer: Authority
    measurement: bytes
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(
        cls,
        product: str = "Genoa",
        key: str = "vcek",
        *,
        chip: int = 1,
        measurement: bytes = b"\x0d" * 48,
    ) -> SnpMachine:
        """A machine; `chip` numbers the machines of a product."""
        seed = hashlib.sha512(f"{product} {key} {chip}".encode()).digest()
        return cls(
            product,
            key,
            seed[: 8 if product == "Turin" else 64].ljust(64, b"\x00"),
            _ark(product),
            _ask(product, key),
            measurement,
            ec.derive_private_key(int.from_bytes(seed[:40], "big"), ec.SECP384R1()),
        )

    @property
    def kind(self) -> str:
        return KIND

    @property
    def root(self) -> bytes:
        """SHA-256 of the root's certificate, as a policy pins it."""
        return fingerprint(self.ark.certificate)

    @property
    def measurements(self) -> Measurements:
        """What its evidence says it measured."""
        return (
            ("author_key_digest", bytes(48)),
            ("host_data", bytes(32)),
            ("id_key_digest", bytes(48)),
            ("measurement", self.measurement),
        )

    @property
    def tcb(self) -> dict[str, int]:
        """The TCB that it reports where nobody wants another."""
        return TCB | ({"fmc": 1} if self.product == "Turin" else {})

    def certificate(self, tcb: Mapping[str, int] | None = None, **changes: object) -> bytes:
        """The VCEK or VLEK for a TCB, DER; `changes` are more extensions by the OID's end."""
        hwid = self.chip_id[:8] if self.product == "Turin" else self.chip_id
        values: dict[str, bytes] = {
            "1": der_uint(1),
            "2": der(0x16, self.product.encode() + (b"-B0" if self.key == "vcek" else b"")),
            **{f"3.{_SPL[name]}": der_uint(n) for name, n in {**self.tcb, **(tcb or {})}.items()},
        }
        # KDS writes the chip's id without the OCTET STRING around it that DER wants.
        values |= {"4": hwid} if self.key == "vcek" else {"5": der(0x16, b"a cloud")}
        values |= {name.replace("_", "."): value for name, value in changes.items()}  # type: ignore[misc]
        extensions = [(f"{_AMD}.{oid}", value) for oid, value in values.items() if value]
        name = f"SEV-{self.key.upper()}"
        return issue(name, self._key, self.issuer, ca=False, extensions=extensions).der

    def crl(self, at: int, revoked: Iterable[x509.Certificate] = (), *, days: int = 30) -> bytes:
        """The ARK's CRL in DER."""
        return revoke(self.ark, revoked, at, days=days)

    def _tcb(self, tcb: Mapping[str, int]) -> bytes:
        return bytes(tcb.get(name, 0) for name in tcb_order(_CPUID[self.product][0]))

    def report(
        self,
        report_data: bytes,
        *,
        version: int | None = None,
        tcb: Mapping[str, int] | None = None,
        current: Mapping[str, int] | None = None,
        policy: int = POLICY,
        debug: bool = False,
        vmpl: int = 0,
        chip_id: bytes | None = None,
        cpuid: tuple[int, int] | None = None,
        signing_key: int | None = None,
        patches: Mapping[int, bytes] | None = None,
    ) -> bytes:
        """A signed report of 1184 bytes, with `patches` by offset put in before signing."""
        version = version or (2 if self.product == "Milan" else 3)
        reported = {**self.tcb, **(tcb or {})}
        key = signing_key if signing_key is not None else int(self.key == "vlek")
        fields = {
            0x00: version.to_bytes(4, "little"),
            0x08: (policy | (DEBUG if debug else 0)).to_bytes(8, "little"),
            0x30: vmpl.to_bytes(4, "little") + b"\x01\x00\x00\x00",
            0x38: self._tcb({**reported, **(current or {})}),
            0x40: b"\x25",
            0x48: (key << 2).to_bytes(4, "little"),
            0x50: report_data,
            0x90: self.measurement,
            0x180: self._tcb(reported),
            0x188: bytes(cpuid or _CPUID[self.product]) if version >= 3 else b"",
            0x1A0: self.chip_id if chip_id is None else chip_id,
            0x1E0: self._tcb(reported) + b"\x1d\x37\x01",
            0x1EC: b"\x1d\x37\x01",
            0x1F0: self._tcb(reported),
            **(patches or {}),
        }
        signed = bytearray(SIGNED_SIZE)
        for offset, value in fields.items():
            signed[offset : offset + len(value)] = value
        signature = self._key.sign(bytes(signed), ec.ECDSA(hashes.SHA384()))
        halves = (n.to_bytes(72, "little") for n in decode_dss_signature(signature))
        return (bytes(signed) + b"".join(halves)).ljust(1184, b"\x00")

    def evidence(
        self,
        report_data: bytes,
        at: int,
        *,
        tcb: Mapping[str, int] | None = None,
        revoked: bool = False,
        crl: bool = True,
        **knobs: object,
    ) -> bytes:
        """Encoded evidence collected at `at` (unix seconds).

        Args:
            report_data: 64 bytes to sign.
            at: Unix seconds; the CRL is in force from a day before for 30 days.
            tcb: Numbers that differ from `TCB`, in report and certificate.
            revoked: Whether the CRL names the ASK or ASVK.
            crl: Whether a CRL comes along.
            knobs: Of `report`: `debug`, `policy`, `vmpl`, `chip_id`, `version`, ...
        """
        crls = [self.crl(at, [self.issuer.certificate] if revoked else [])] if crl else []
        chain = [self.certificate(tcb), self.issuer.der, self.ark.der]
        return encode_evidence(self.report(report_data, tcb=tcb, **knobs), chain, crls)  # type: ignore[arg-type]
