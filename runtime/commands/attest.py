"""`sotto attest`: what this machine can prove about itself, and what is missing for it."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs.bundle import make_bundle
from proofs.claims import Claims
from proofs.errors import ProofError, UnreadableError
from proofs.evidence import CPU_APPRAISERS, gpu_appraiser, nvidia, snp, tdx
from proofs.evidence.base import (
    NO_COLLATERAL,
    CpuAppraisal,
    GpuAppraisal,
    Problem,
    gpu_nonce,
    report_data,
)
from proofs.log.files import write_whole
from runtime.commands.common import print_json, say
from runtime.enclave.identity import release_digest
from runtime.enclave.tee.amd import KDS_URL
from runtime.enclave.tee.configfs import TSM_ROOT, read_report
from runtime.enclave.tee.fetch import PCS_URL, fetch_collateral
from runtime.enclave.tee.nvml import Gpus, GpuState
from runtime.enclave.tee.platform import HardwarePlatform
from runtime.errors import Exit, SetupError, SottoError
from transport.hpke import KEM_X25519_HKDF_SHA256
from transport.keyconfig import GatewayKey

_VENDORS = {tdx.KIND: ("Intel", tdx.ROOTS), snp.KIND: ("AMD", snp.ROOTS)}
_MAX_REPORT = 64 * 1024
_VALID_S = 3600  # long enough to look at the bundle with `sotto verify`


@dataclass(slots=True)
class _Found:
    """What there is, as far as it was found.

    Attributes:
        missing: Code and sentence, with the remedy, of each thing that keeps evidence from being
            complete.
        problems: What the evidence's own check says, where it could be collected.
    """

    kind: str = ""
    cpu: CpuAppraisal | None = None
    driver: GpuState | None = None
    gpu: GpuAppraisal | None = None
    bundle: bytes = b""
    missing: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.cpu is not None and not self.missing and not self.problems


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "attest",
        help="say what this machine can prove about itself, and what is missing for it",
        description="Exit codes: 0 full evidence was collected and checks out, 1 something is "
        "missing, 2 usage or unreadable files.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--out", type=Path, help="write the evidence there, as a bundle for `sotto verify`"
    )
    parser.add_argument("--collateral", type=Path, help="the operator's folder of collateral")
    parser.add_argument("--cpu-only", action="store_true", help="do not miss a GPU")
    _add_tsm(parser)
    parser.set_defaults(run=run)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    fetch = verbs.add_parser(
        "collateral", help="fetch what Intel or AMD publish about this machine; needs the network"
    )
    fetch.add_argument("folder", type=Path, metavar="FOLDER", help="where to keep it")
    fetch.add_argument(
        "--report", type=Path, help="a quote or report of another machine, to fetch for that one"
    )
    fetch.add_argument("--pcs", default=PCS_URL, metavar="URL", help=f"default: {PCS_URL}")
    fetch.add_argument("--kds", default=KDS_URL, metavar="URL", help=f"default: {KDS_URL}")
    fetch.add_argument("--json", action="store_true", help="print JSON")
    _add_tsm(fetch)
    fetch.set_defaults(run=_collateral)


def _add_tsm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tsm",
        type=Path,
        default=TSM_ROOT,
        metavar="FOLDER",
        help=f"the kernel's folder of report requests (default: {TSM_ROOT})",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    found = _look(args)
    if args.out is not None and found.bundle:
        try:
            write_whole(args.out, found.bundle)
        except OSError as error:
            raise SottoError(
                f"{args.out} cannot be written ({error.strerror}); choose another place",
                exit_code=Exit.USAGE,
            ) from None
    if args.json:
        written = str(args.out) if args.out is not None and found.bundle else None
        print_json({**_to_json(found), "file": written})
    else:
        _print(found, args.out)
    return Exit.OK if found.complete else Exit.FAILED


def _look(args: argparse.Namespace) -> _Found:
    found = _Found()
    gpus = Gpus()
    try:
        found.driver = gpus.state()
    except SetupError as error:
        if not (args.cpu_only and error.code == "no_gpu"):
            found.missing.append((error.code, str(error)))
    else:
        found.missing.extend(_gpu_modes(found.driver))
    try:
        platform = HardwarePlatform.boot(args.collateral, root=args.tsm, gpus=gpus)
        found.kind = platform.kind
        _check(found, platform)
    except SetupError as error:
        # A GPU that cannot attest was already said.
        if error.code not in [code for code, _ in found.missing]:
            found.missing.append((error.code, str(error)))
    except UnreadableError as error:
        found.missing.append(("unreadable", f"the evidence or its collateral: {error}"))
    return found


def _gpu_modes(state: GpuState) -> list[tuple[str, str]]:
    found = []
    if not state.confidential:
        found.append(
            (
                "gpu_not_confidential",
                "confidential computing of the GPU is off; turn it on from the host "
                "(nvidia_gpu_tools.py --set-cc-mode=on)",
            )
        )
    if state.devtools:
        found.append(
            (
                "gpu_devtools",
                "the GPU is in the mode for developers, which protects nothing; set it to on "
                "(nvidia_gpu_tools.py --set-cc-mode=on, on the host)",
            )
        )
    if not state.ready:
        found.append(
            (
                "gpu_not_ready",
                "the GPU takes no work yet; once you have verified it: nvidia-smi conf-compute "
                "-srs 1",
            )
        )
    return found


def _check(found: _Found, platform: HardwarePlatform) -> None:
    """Collect for keys that are thrown away, and judge what came out as a verifier would."""
    now = int(time.time())
    key = GatewayKey.generate(0, os.urandom(32), kem_id=KEM_X25519_HKDF_SHA256)
    claims = Claims(
        key_configs=(key.config.encode(),),
        receipt_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw(),
        measurements=platform.measurements,
        release=release_digest(),
        model_manifest=bytes(32),
        engine="none",
        model="none, this is a test",
        not_before=now,
        not_after=now + _VALID_S,
        epoch=0,
    )
    bundle = make_bundle(claims, platform, now)
    found.bundle = bundle.encode()
    found.cpu = CPU_APPRAISERS[bundle.kind](bundle.cpu, now, NO_COLLATERAL)
    found.problems.extend(found.cpu.problems)
    if found.cpu.report_data != report_data(claims, bundle.gpu):
        found.problems.append(Problem("binding", "the CPU's evidence is not bound to the keys"))
    if bundle.gpu:
        found.gpu = gpu_appraiser(bundle.gpu)(bundle.gpu, now, NO_COLLATERAL)
        found.problems.extend(found.gpu.problems)
        if found.gpu.nonce != gpu_nonce(claims):
            found.problems.append(Problem("binding", "the GPU's evidence is not bound to the keys"))


def _root(root: bytes, vendor: str, pinned: frozenset[bytes]) -> str:
    return f"{vendor}'s root" if root in pinned else f"an unknown root, {root.hex()[:16]}"


def _print(found: _Found, out: Path | None) -> None:
    if (cpu := found.cpu) is not None:
        vendor, pinned = _VENDORS[found.kind]
        name = f"{found.kind} {cpu.product}".strip()
        say(f"CPU  {name}, {_root(cpu.root, vendor, pinned)}")
        numbers = " ".join(f"{name}={value}" for name, value in cpu.tcb.numbers)
        say(f"     TCB {cpu.tcb.status or 'without a word of the vendor'}: {numbers}")
        for name, value in cpu.measurements:
            say(f"     {name} = {value.hex()}")
        if cpu.debug:
            say("     DEBUG: its host can look into it")
    if (state := found.driver) is not None:
        mode = "on" if state.confidential else "OFF"
        say(f"GPU  driver {state.driver}, confidential computing {mode}")
        for name, architecture, vbios in state.devices:
            say(f"     {name} ({architecture}), VBIOS {vbios}")
    if (gpu := found.gpu) is not None:
        say(f"     {len(gpu.devices)} attested, {_root(gpu.root, 'NVIDIA', nvidia.ROOTS)}")
    for _, text in found.missing:
        say(f"missing: {text}")
    for problem in found.problems:
        say(f"problem ({problem.code}): {problem.text}")
    if out is not None:
        say(f"Written to {out}." if found.bundle else "Nothing was written: there is no evidence.")
    say("Full evidence." if found.complete else "No full evidence.")


def _to_json(found: _Found) -> dict[str, object]:
    cpu, gpu, state = found.cpu, found.gpu, found.driver
    return {
        "complete": found.complete,
        "cpu": cpu
        and {
            "kind": found.kind,
            "product": cpu.product,
            "root": cpu.root.hex(),
            "vendor_root": cpu.root in _VENDORS[found.kind][1],
            "measurements": {name: value.hex() for name, value in cpu.measurements},
            "tcb": dict(cpu.tcb.numbers),
            "tcb_status": cpu.tcb.status,
            "advisories": list(cpu.tcb.advisories),
            "debug": cpu.debug,
        },
        "gpu": state
        and {
            "driver": state.driver,
            "confidential": state.confidential,
            "devtools": state.devtools,
            "ready": state.ready,
            "devices": [
                {"name": name, "architecture": architecture, "vbios": vbios}
                for name, architecture, vbios in state.devices
            ],
            "attested": len(gpu.devices) if gpu is not None else 0,
            "root": gpu.root.hex() if gpu is not None else None,
            "vendor_root": gpu is not None and gpu.root in nvidia.ROOTS,
        },
        "missing": [{"code": code, "message": text} for code, text in found.missing],
        "problems": [{"code": one.code, "message": one.text} for one in found.problems],
    }


def _collateral(args: argparse.Namespace) -> int:
    try:
        if args.report is None:
            report = read_report(os.urandom(64), root=args.tsm).report
        else:
            with args.report.open("rb") as file:
                report = file.read(_MAX_REPORT + 1)
        written = asyncio.run(
            fetch_collateral(report, args.folder, pcs_url=args.pcs, kds_url=args.kds)
        )
    except OSError as error:
        raise SottoError(
            f"{error.filename}: {error.strerror}", code="unreadable", exit_code=Exit.USAGE
        ) from None
    except ProofError as error:
        raise SottoError(
            f"neither a TDX quote nor a SEV-SNP report: {error}",
            code="unreadable",
            exit_code=Exit.USAGE,
        ) from None
    if args.json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            say(f"Wrote {path}")
    return Exit.OK
