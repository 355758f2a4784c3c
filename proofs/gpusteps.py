"""GPU evidence held against claims, CPU and policy: steps (12) to (14) of `proofs.verify`."""

from __future__ import annotations

import hmac

from proofs.claims import Claims
from proofs.evidence import GPU_APPRAISERS, gpu_appraiser
from proofs.evidence.base import CpuAppraisal, GpuAppraisal, gpu_nonce
from proofs.evidence.simulated import GPU_LABEL as SIMULATED_GPU
from proofs.evidence.simulated import KIND as SIMULATED
from proofs.findings import Findings
from proofs.policy import Policy
from proofs.steps import Check

# Problems of GPU evidence that are none of its signatures and chain.
_CHECKS = {"measurement": Check.GPU_STATE, "nonce": Check.GPU_BOUND}
# How the codes of what OCSP responses tell end, on chains of GPUs and of reference values alike.
_REVOKED = ("revoked", "held")


def check_no_gpu(findings: Findings, policy: Policy) -> None:
    """Step (12) where there is no GPU evidence."""
    if policy.gpu.required:
        findings.fail(
            Check.GPU_SIGNATURES,
            "gpu_missing",
            "the enclave has no GPU evidence, and the policy requires a GPU",
        )
    else:
        findings.skip(Check.GPU_SIGNATURES, "no GPU evidence, and the policy requires none")


def check_gpu(
    findings: Findings,
    gpu: GpuAppraisal,
    newer: GpuAppraisal | None,
    policy: Policy,
    *,
    simulated: bool,
) -> None:
    """Steps (12) and (14).

    Args:
        findings: What is added to.
        gpu: As of the turn.
        newer: With newer collateral; answers only what the evidence's own leaves open.
        policy: What is acceptable.
        simulated: Whether a development root stands behind the evidence.
    """
    for problem in gpu.problems:
        check = _CHECKS.get(problem.code, Check.GPU_SIGNATURES)
        findings.fail(check, f"gpu_{problem.code}", problem.text)
    if not gpu.problems:
        findings.see(Check.GPU_SIGNATURES, "the GPU's signature and chain hold")
    pinned = policy.accepts_root(SIMULATED, gpu.root) if simulated else gpu.root in policy.gpu.roots
    findings.check(
        Check.GPU_SIGNATURES,
        pinned,
        f"its chain ends at root {gpu.root.hex()[:16]}",
        "gpu_root",
        f"its chain ends at root {gpu.root.hex()[:16]}, which the policy does not pin",
    )
    _check_revocation(findings, gpu, newer, policy)
    _check_devices(findings, gpu, policy)
    if policy.gpu.rims and not simulated:
        _check_rims(findings, gpu, newer, policy)


def _check_revocation(
    findings: Findings, gpu: GpuAppraisal, newer: GpuAppraisal | None, policy: Policy
) -> None:
    # News of a revocation cannot say that there was none at the turn.
    known = gpu.revocation_checked or (
        newer is not None
        and newer.revocation_checked
        and not any(one.code.endswith(_REVOKED) for one in newer.problems)
    )
    if policy.gpu.revocation:
        findings.check(
            Check.GPU_SIGNATURES,
            known,
            "no certificate of it was revoked",
            "gpu_revocation_unknown",
            "whether its certificates were revoked is not known: the evidence brings no OCSP "
            "responses of that time on all of them",
        )
    elif not known:
        findings.see(Check.GPU_SIGNATURES, "revocation unknown, which the policy lets pass")


def _check_devices(findings: Findings, gpu: GpuAppraisal, policy: Policy) -> None:
    wanted, count = policy.gpu, len(gpu.devices)
    findings.check(
        Check.GPU_STATE,
        count >= wanted.min_devices,
        f"GPUs: {count}, {', '.join(sorted({one.architecture for one in gpu.devices}))}",
        "gpu_devices",
        f"there are {count} GPUs, and the policy wants {wanted.min_devices}",
    )
    for number, one in enumerate(gpu.devices, 1):
        name = f"GPU {number}"
        if wanted.confidential and not one.confidential:
            mode = f"its report says {one.mode}" if one.mode else "its report does not say on"
            text = f"{name} is not known to run in confidential-compute mode: {mode}"
            findings.fail(Check.GPU_STATE, "gpu_confidential", text)
        if one.debug and not policy.allow_debug:
            findings.fail(Check.GPU_STATE, "gpu_debug", f"{name} is in debug mode")
        if not wanted.accepts_driver(one.driver):
            text = f"{name} has driver {one.driver or 'unknown'}, below {wanted.min_driver}"
            findings.fail(Check.GPU_STATE, "gpu_driver", text)
        if wanted.vbios and one.vbios not in wanted.vbios:
            text = f"{name} has firmware {one.vbios or 'unknown'}, none that the policy names"
            findings.fail(Check.GPU_STATE, "gpu_vbios", text)
        told = [f"driver {one.driver}"] * bool(one.driver)
        told += [f"firmware {one.vbios}"] * bool(one.vbios)
        told += ["confidential computing on"] * bool(one.confidential)
        findings.see(Check.GPU_STATE, f"{name}: {', '.join(told) or 'present'}")


def _check_rims(
    findings: Findings, gpu: GpuAppraisal, newer: GpuAppraisal | None, policy: Policy
) -> None:
    """Measurements against signed reference values: the evidence's own, else those given."""
    source = gpu
    if newer is not None and any(one.measured is None for one in gpu.devices):
        source = newer
    for number, one in enumerate(source.devices, 1):
        if one.measured is None:
            missing = f" for {' and '.join(one.unmeasured)}" if one.unmeasured else ""
            findings.fail(
                Check.GPU_STATE,
                "gpu_unmeasured",
                f"GPU {number}: no signed reference values{missing} are at hand, and the policy "
                "wants them",
            )
        elif one.measured:
            findings.see(Check.GPU_STATE, f"GPU {number} measures what NVIDIA signed")
        elif not any(problem.code == "measurement" for problem in gpu.problems):
            text = f"GPU {number} measures other things than NVIDIA signed"
            findings.fail(Check.GPU_STATE, "gpu_measurement", text)
    for root in source.rim_roots:
        findings.check(
            Check.GPU_STATE,
            root in policy.gpu.rim_roots,
            f"reference values under root {root.hex()[:16]}",
            "gpu_rim_root",
            f"reference values end at root {root.hex()[:16]}, which the policy does not pin",
        )


def is_simulated_gpu(gpu: bytes) -> bool:
    """Whether GPU evidence is of the simulated kind; raises as `gpu_appraiser`."""
    return gpu_appraiser(gpu) is GPU_APPRAISERS[SIMULATED_GPU]


def check_pair(
    findings: Findings,
    simulated_cpu: bool,
    simulated_gpu: bool,
    cpu: CpuAppraisal,
    gpu: GpuAppraisal,
) -> None:
    """The part of step (12) that wants both halves real, or both simulated by one root."""
    if simulated_gpu and not simulated_cpu:
        text = "the GPU is simulated beside a real CPU: nothing protects what it computes"
        findings.fail(Check.GPU_SIGNATURES, "gpu_simulated", text)
    elif simulated_cpu and not simulated_gpu:
        text = "the CPU is simulated beside a real GPU: nothing protects what it is sent"
        findings.fail(Check.GPU_SIGNATURES, "cpu_simulated", text)
    elif simulated_cpu and gpu.root != cpu.root:
        text = "the GPU's chain ends at another root than the CPU's"
        findings.fail(Check.GPU_SIGNATURES, "gpu_other_root", text)


def check_nonce(findings: Findings, gpu: GpuAppraisal, claims: Claims) -> None:
    """Step (13)."""
    findings.check(
        Check.GPU_BOUND,
        hmac.compare_digest(gpu.nonce, gpu_nonce(claims)),
        "its nonce derives from these claims",
        "gpu_nonce",
        "the GPU signed a nonce of other claims: of other keys, or of another epoch",
    )
