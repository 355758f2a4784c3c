"""Evidence alone, without claims: what a quote or a GPU's report says about where it comes from."""

from __future__ import annotations

import hmac

from proofs.enclavesteps import (
    Appraised,
    check_cpu,
    check_custody,
    check_kind,
    check_measurements,
    check_release,
    check_tcb,
)
from proofs.errors import UnreadableError
from proofs.evidence import CPU_APPRAISERS, GPU_APPRAISERS, gpu_appraiser
from proofs.evidence.base import NO_COLLATERAL, Collateral
from proofs.evidence.simulated import KIND as SIMULATED
from proofs.findings import Findings
from proofs.gpusteps import check_gpu, is_simulated_gpu
from proofs.policy import Policy
from proofs.report import EvidenceReport, judge
from proofs.steps import Check
from proofs.verdict import Subject


def verify_evidence(
    kind: str,
    data: bytes,
    policy: Policy,
    at: int,
    *,
    nonce: bytes | None = None,
    report_data: bytes | None = None,
    collateral: Collateral = NO_COLLATERAL,
) -> EvidenceReport:
    """Verify evidence that comes without claims, by steps (2) to (6) and (10) to (14).

    Nothing ties such evidence to keys, a time or a turn, unless whoever verifies it had it made
    for a value of his own.

    Args:
        kind: A kind of CPU evidence or a label of GPU evidence.
        data: The evidence, encoded.
        policy: What is acceptable.
        at: Unix seconds at which to judge.
        nonce: The 32 bytes that the GPUs should have signed.
        report_data: The 64 bytes that the CPU should have signed.
        collateral: What vendors publish besides.

    Raises:
        UnreadableError: Not evidence of that kind, or of a kind unknown to this version.
    """
    if kind in GPU_APPRAISERS:
        return _verify_gpu(kind, data, policy, at, nonce=nonce, collateral=collateral)
    return _verify_cpu(kind, data, policy, at, report_data=report_data, collateral=collateral)


def _verify_cpu(
    kind: str,
    data: bytes,
    policy: Policy,
    at: int,
    *,
    report_data: bytes | None,
    collateral: Collateral,
) -> EvidenceReport:
    if kind not in CPU_APPRAISERS:
        raise UnreadableError(f"Evidence of kind '{kind}' is unknown to this version. Update it.")
    findings = Findings(simulated=kind == SIMULATED)
    check_kind(findings, kind, policy)
    cpu = CPU_APPRAISERS[kind](data, at, collateral)
    check_cpu(findings, kind, cpu, policy)
    check_measurements(findings, kind, cpu.measurements, policy, None)
    check_tcb(findings, kind, Appraised(cpu, None), policy, at)
    check_release(findings, kind, cpu.measurements, policy, None)
    check_custody(findings, cpu, policy)
    need = {Subject.ORIGIN, Subject.TCB}
    if policy.custody.kind != "none":
        need.add(Subject.CUSTODY)
    if report_data is not None:
        _check_answers(findings, Check.CLAIMS_BOUND, cpu.report_data, report_data, "report_data")
    return EvidenceReport(*judge(findings, policy, at, frozenset(need)), kind, cpu)


def _verify_gpu(
    label: str,
    data: bytes,
    policy: Policy,
    at: int,
    *,
    nonce: bytes | None,
    collateral: Collateral,
) -> EvidenceReport:
    appraise = gpu_appraiser(data)
    if appraise is not GPU_APPRAISERS[label]:
        raise UnreadableError(f"The GPU evidence is not of the kind '{label}'. Name the right one.")
    simulated = is_simulated_gpu(data)
    findings = Findings(simulated=simulated)
    if simulated:
        check_kind(findings, SIMULATED, policy)
    gpu = appraise(data, at, collateral)
    check_gpu(findings, gpu, None, policy, simulated=simulated)
    if nonce is not None:
        _check_answers(findings, Check.GPU_BOUND, gpu.nonce, nonce, "gpu_nonce")
    need = frozenset({Subject.GPU})
    return EvidenceReport(*judge(findings, policy, at, need), label, gpu)


def _check_answers(
    findings: Findings, check: Check, signed: bytes, given: bytes, code: str
) -> None:
    if hmac.compare_digest(signed, given):
        findings.see(check, "it signed the value that was given")
        findings.see(Check.AGE, "it answers the value that was given, so it was made after it")
    else:
        findings.fail(check, code, "it signed another value than the one given")
