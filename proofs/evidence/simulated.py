"""A simulated platform: the complete flow of attestation on machines without a TEE.

It proves nothing about hardware, and every verdict on it says so. Its root is a development
key; under it stand one certificate for the CPU and one for the GPU, each signing its report:

- certificate: `["sottovoce-simulated-certificate-v1", role, public key, root key, signature]`
- CPU report: `["sottovoce-simulated-cpu-v1", certificate, report data, TCB, debug, time,
  [[name, measurement]...], [advisory...], signature]`
- GPU report: `["sottovoce-simulated-gpu-v1", certificate, nonce, TCB, debug, time, signature]`

All are CBOR arrays whose last item signs the encoding of the items before it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import cbor
from proofs.claims import Claims, Measurements, check_measurements
from proofs.ed25519 import raw_public, verifies
from proofs.evidence.base import (
    MAX_EVIDENCE,
    Collateral,
    CpuAppraisal,
    Evidence,
    GpuAppraisal,
    GpuDevice,
    Problem,
    Tcb,
    gpu_nonce,
    report_data,
)

KIND = "simulated"
GPU_LABEL = "sottovoce-simulated-gpu-v1"
_CERTIFICATE = "sottovoce-simulated-certificate-v1"
_CPU = "sottovoce-simulated-cpu-v1"
_GPU = GPU_LABEL
_MAX_ADVISORIES = 64


def _signed(items: list[object], key: Ed25519PrivateKey) -> bytes:
    return cbor.encode([*items, key.sign(cbor.encode(items))])


@dataclass(frozen=True, slots=True)
class SimulatedPlatform:
    """A machine that does not exist. Make one with `create`.

    Attributes:
        measurements: What it says it measured; claims must carry the same.
        tcb: Its security version number.
        debug: Whether it says that it can be looked into.
        advisories: Ids of the advisories that it says it is under.
    """

    measurements: Measurements
    tcb: int
    debug: bool
    advisories: tuple[str, ...]
    _cpu_key: Ed25519PrivateKey = field(repr=False)
    _gpu_key: Ed25519PrivateKey = field(repr=False)
    _cpu_certificate: bytes = field(repr=False)
    _gpu_certificate: bytes = field(repr=False)

    @classmethod
    def create(
        cls,
        root_private_key: Ed25519PrivateKey,
        seed: bytes,
        *,
        measurements: Measurements,
        tcb: int = 1,
        debug: bool = False,
        advisories: tuple[str, ...] = (),
    ) -> SimulatedPlatform:
        """Certify a new machine under a development root.

        Args:
            root_private_key: The development root.
            seed: 32 random bytes from which the machine's two keys come.
            measurements: Pairs of name and digest, sorted by name.
            tcb: Security version number of both halves.
            debug: Whether both halves are in debug mode.
            advisories: Ids of advisories, such as `INTEL-SA-00837`.
        """
        cbor.as_bytes(seed, "the platform's seed", size=32)
        cpu_key, gpu_key = (
            Ed25519PrivateKey.from_private_bytes(
                hmac.digest(seed, b"sottovoce simulated " + role, "sha256")
            )
            for role in (b"cpu", b"gpu")
        )
        cpu_certificate, gpu_certificate = (
            _signed(
                [_CERTIFICATE, role, raw_public(key), raw_public(root_private_key)],
                root_private_key,
            )
            for role, key in (("cpu", cpu_key), ("gpu", gpu_key))
        )
        return cls(
            measurements,
            tcb,
            debug,
            advisories,
            cpu_key,
            gpu_key,
            cpu_certificate,
            gpu_certificate,
        )

    @property
    def kind(self) -> str:
        """`simulated`."""
        return KIND

    def collect(self, claims: Claims, now: int) -> Evidence:
        """Sign for `claims` at `now` (unix seconds), as a machine would."""
        gpu = _signed(
            [_GPU, self._gpu_certificate, gpu_nonce(claims), self.tcb, self.debug, now],
            self._gpu_key,
        )
        cpu = _signed(
            [
                _CPU,
                self._cpu_certificate,
                report_data(claims, gpu),
                self.tcb,
                self.debug,
                now,
                [list(pair) for pair in self.measurements],
                list(self.advisories),
            ],
            self._cpu_key,
        )
        return Evidence(cpu, gpu)


@dataclass(frozen=True, slots=True)
class _Report:
    """Either half, taken apart and with its signatures judged."""

    root: bytes
    public_key: bytes
    bound: bytes
    tcb: int
    debug: bool
    time: int
    rest: list[object]
    problems: tuple[Problem, ...]


def _read(data: bytes, label: str, role: str, length: int, bound_size: int) -> _Report:
    """Take a report apart and judge its chain; raises `UnreadableError` where it is none."""
    what = f"the simulated {role.upper()} report"
    items = cbor.as_array(cbor.decode(data, what=what, limit=MAX_EVIDENCE), what, length)
    cbor.check_label(items[0], label, what)
    certificate = cbor.as_bytes(items[1], f"{what}'s certificate", most=512)
    named, public_key, root, certified = _read_certificate(certificate, what)
    signature = cbor.as_bytes(items[-1], f"{what}'s signature", size=64)
    problems = []
    if not certified:
        text = f"{what}'s certificate is not signed by the root that it names"
        problems.append(Problem("chain", text))
    if named != role:
        problems.append(Problem("chain", f"{what} comes with a certificate for another role"))
    if not verifies(public_key, signature, cbor.encode(items[:-1])):
        problems.append(Problem("signature", f"{what} is not signed by its certificate's key"))
    return _Report(
        root=root,
        public_key=public_key,
        bound=cbor.as_bytes(items[2], f"{what}'s bound data", size=bound_size),
        tcb=cbor.as_uint(items[3], f"{what}'s TCB number"),
        debug=cbor.as_bool(items[4], f"{what}'s debug flag"),
        time=cbor.as_uint(items[5], f"{what}'s time"),
        rest=items[6:-1],
        problems=tuple(problems),
    )


def _read_certificate(data: bytes, what: str) -> tuple[str, bytes, bytes, bool]:
    """Role, public key, root key, and whether the root signed them."""
    what = f"{what}'s certificate"
    items = cbor.as_array(cbor.decode(data, what=what, limit=512), what, 5)
    cbor.check_label(items[0], _CERTIFICATE, what)
    role = cbor.as_text(items[1], f"{what}'s role", 8)
    public_key = cbor.as_bytes(items[2], f"{what}'s key", size=32)
    root = cbor.as_bytes(items[3], f"{what}'s root", size=32)
    signature = cbor.as_bytes(items[4], f"{what}'s signature", size=64)
    return role, public_key, root, verifies(root, signature, cbor.encode(items[:-1]))


def appraise_cpu(cpu: bytes, at: int, collateral: Collateral) -> CpuAppraisal:
    """Judge signatures and chain of a simulated VM's report, and read what it says.

    Raises:
        UnreadableError: Evidence of another format.
    """
    report = _read(cpu, _CPU, "cpu", 9, 64)
    listed = cbor.as_list(report.rest[1], "the CPU report's advisories", _MAX_ADVISORIES)
    return CpuAppraisal(
        root=report.root,
        platform_id=hashlib.sha256(report.public_key).digest(),
        measurements=check_measurements(report.rest[0], "the CPU report's measurements"),
        report_data=report.bound,
        tcb=Tcb(
            (("svn", report.tcb),),
            advisories=tuple(cbor.as_text(item, "an advisory's id", 64) for item in listed),
        ),
        debug=report.debug,
        collected_at=report.time,
        problems=report.problems,
    )


def appraise_gpu(gpu: bytes, at: int, collateral: Collateral) -> GpuAppraisal:
    """Judge signatures and chain of a simulated GPU's report, and read what it says.

    Raises:
        UnreadableError: Evidence of another format.
    """
    report = _read(gpu, _GPU, "gpu", 7, 32)
    device = GpuDevice(
        architecture="SIMULATED",
        device_id=hashlib.sha256(report.public_key).digest(),
        confidential=True,
        debug=report.debug,
    )
    return GpuAppraisal(
        root=report.root,
        nonce=report.bound,
        devices=(device,),
        tcb=Tcb((("svn", report.tcb),)),
        revocation_checked=True,
        collected_at=report.time,
        problems=report.problems,
    )
