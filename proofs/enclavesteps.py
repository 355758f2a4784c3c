"""Evidence held against claims and policy: steps (2) to (11) of `proofs.verify`.

Appraisers say what evidence says; here it is bound to the claims, and the policy asked. Every
reason to refuse has a code of its own. Problems that an appraiser found keep its code, after
`cpu_` or `gpu_`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from proofs.bundle import Bundle
from proofs.claims import Claims, Measurements
from proofs.evidence import CPU_APPRAISERS, gpu_appraiser
from proofs.evidence.base import (
    NO_COLLATERAL,
    Collateral,
    CpuAppraisal,
    GpuAppraisal,
    Problem,
    Tcb,
    report_data,
)
from proofs.evidence.simulated import KIND as SIMULATED
from proofs.evidencecache import EvidenceCache
from proofs.findings import Findings
from proofs.gpusteps import (
    check_gpu,
    check_no_gpu,
    check_nonce,
    check_pair,
    is_simulated_gpu,
)
from proofs.policy import Policy
from proofs.steps import Check
from proofs.times import moment

# Clocks of honest machines differ; a device that is two minutes slow still connects.
CLOCK_SKEW_S = 120
# What Intel called a level before a TCB recovery made it one of these. The policy's grace takes
# a machine back to there: how it is configured stays to be judged.
_BEFORE_RECOVERY = {
    "OutOfDate": "UpToDate",
    "OutOfDateConfigurationNeeded": "ConfigurationNeeded",
}
_OF_EVIDENCE = [
    check for check in Check if Check.KIND.number < check.number <= Check.GPU_STATE.number
]

Found = TypeVar("Found", CpuAppraisal, GpuAppraisal)


@dataclass(frozen=True, slots=True)
class Moment:
    """When evidence is judged, with what, and what is remembered of it.

    Attributes:
        turn: Unix seconds at which everything but the TCB is judged.
        now: Unix seconds at which the TCB is judged, if `collateral` says something new.
        collateral: What the verifier knows besides what the evidence brings along.
        cache: Appraisals made before.
    """

    turn: int
    now: int
    collateral: Collateral = NO_COLLATERAL
    cache: EvidenceCache | None = None


@dataclass(frozen=True, slots=True)
class Appraised:
    """A bundle's evidence as it was at the turn, and with what became known later.

    `newer_cpu` and `newer_gpu` are None where nothing new was brought.
    """

    cpu: CpuAppraisal
    newer_cpu: CpuAppraisal | None
    gpu: GpuAppraisal | None = None
    newer_gpu: GpuAppraisal | None = None


def check_kind(findings: Findings, kind: str, policy: Policy) -> bool:
    """Step (2); whether this version can go on."""
    known = kind in CPU_APPRAISERS
    findings.check(
        Check.KIND,
        known and policy.accepts_kind(kind),
        f"{kind} evidence, which the policy accepts",
        "kind_refused" if known else "kind_unknown",
        f"the policy does not accept {kind} evidence",
    )
    return known


def check_enclave(
    findings: Findings, bundle: Bundle, claims: Claims, policy: Policy, moment: Moment
) -> CpuAppraisal | None:
    """Steps (2) to (14); the CPU's appraisal, None where its kind is unknown.

    Raises:
        UnreadableError: The evidence is not of the format that it says.
    """
    if not check_kind(findings, bundle.kind, policy):
        for check in _OF_EVIDENCE:
            findings.block(check, f"this version cannot judge {bundle.kind} evidence")
        return None
    found = _appraise(bundle, claims, moment)
    check_cpu(findings, bundle.kind, found.cpu, policy)
    _check_software(findings, bundle.kind, claims, found.cpu, policy)
    _check_bound(findings, bundle, claims, found.cpu)
    _check_freshness(findings, claims, found, policy, moment.turn)
    check_tcb(findings, bundle.kind, found, policy, moment.now)
    check_release(findings, bundle.kind, found.cpu.measurements, policy, claims.release)
    check_custody(findings, found.cpu, policy)
    if found.gpu is None:
        check_no_gpu(findings, policy)
    else:
        simulated = is_simulated_gpu(bundle.gpu)
        check_pair(findings, bundle.kind == SIMULATED, simulated, found.cpu, found.gpu)
        check_gpu(findings, found.gpu, found.newer_gpu, policy, simulated=simulated)
        check_nonce(findings, found.gpu, claims)
    return found.cpu


def _appraise(bundle: Bundle, claims: Claims, moment: Moment) -> Appraised:
    cpu, newer_cpu = _twice(CPU_APPRAISERS[bundle.kind], bundle.cpu, claims, moment)
    if not bundle.gpu:
        return Appraised(cpu, newer_cpu)
    gpu, newer_gpu = _twice(gpu_appraiser(bundle.gpu), bundle.gpu, claims, moment)
    return Appraised(cpu, newer_cpu, gpu, newer_gpu)


def _twice(
    appraiser: Callable[[bytes, int, Collateral], Found],
    data: bytes,
    claims: Claims,
    moment: Moment,
) -> tuple[Found, Found | None]:
    """An appraisal as of the turn, and one with what became known since, if that says more.

    Where the evidence's only fault is its own collateral, the one given stands in for it.
    """
    cache = moment.cache or EvidenceCache()

    def appraise(at: int, until: int, collateral: Collateral) -> Found:
        return cache.appraisal(appraiser, data, at, until, collateral)

    turn, now, new = moment.turn, moment.now, moment.collateral
    if turn == now:
        return appraise(now, now, new), None
    # One more appraisal, for the receipts to come, pays only where somebody remembers it.
    until = turn if moment.cache is None else max(turn, claims.not_after)
    found = appraise(turn, until, NO_COLLATERAL)
    if new == NO_COLLATERAL:
        return found, None
    newer = appraise(now, now, new)
    if newer == appraise(now, now, NO_COLLATERAL):
        return found, None
    if found.problems and all(problem.code == "collateral" for problem in found.problems):
        return newer, None
    return found, newer


def check_cpu(findings: Findings, kind: str, cpu: CpuAppraisal, policy: Policy) -> None:
    """Steps (3), (4) and (6)."""
    # (3)
    for problem in cpu.problems:
        check = Check.DEBUG if problem.code == "debug" else Check.SIGNATURES
        findings.fail(check, f"cpu_{problem.code}", problem.text)
    if not cpu.problems:
        findings.see(Check.SIGNATURES, "signatures and chain hold")
    # (4)
    findings.check(
        Check.ROOT,
        policy.accepts_root(kind, cpu.root),
        f"the chain ends at root {cpu.root.hex()[:16]}",
        "cpu_root",
        f"the chain ends at root {cpu.root.hex()[:16]}, which the policy does not pin",
    )
    if cpu.product:
        findings.check(
            Check.ROOT,
            policy.accepts_product(kind, cpu.product),
            f"a processor of the line {cpu.product}",
            "cpu_product",
            f"the policy does not accept processors of the line {cpu.product}",
        )
    # (6)
    findings.check(
        Check.DEBUG,
        policy.allow_debug or not cpu.debug,
        "in debug mode, which the policy allows" if cpu.debug else "debug is off",
        "cpu_debug",
        "the platform is in debug mode: its operator can read everything",
    )


def _check_software(
    findings: Findings, kind: str, claims: Claims, cpu: CpuAppraisal, policy: Policy
) -> None:
    """Step (5)."""
    findings.check(
        Check.SOFTWARE,
        cpu.measurements == claims.measurements,
        "the platform measured what the claims say",
        "measurements_differ",
        "the platform measured other software than the claims say",
    )
    check_measurements(findings, kind, cpu.measurements, policy, claims.release)
    if policy.models:
        findings.check(
            Check.SOFTWARE,
            claims.model_manifest in policy.models,
            f"model manifest {claims.model_manifest.hex()[:16]}, which the policy names",
            "model_refused",
            f"model manifest {claims.model_manifest.hex()} is none that the policy names",
        )


def check_measurements(
    findings: Findings,
    kind: str,
    measurements: Measurements,
    policy: Policy,
    release: bytes | None,
) -> None:
    """The part of step (5) that asks the policy; without a release, that of any may run."""
    known = policy.releases_with(kind, measurements)
    fitting = [one for one in known if release in (None, one.digest)]
    if policy.accepts_measurements(kind, measurements):
        findings.see(Check.SOFTWARE, "the policy allows this software")
    elif fitting:
        findings.see(Check.SOFTWARE, f"this is release {fitting[0].version}, signed by its maker")
    elif known and release is not None:
        findings.fail(
            Check.SOFTWARE,
            "release_mixed",
            f"the platform measured release {known[0].version}, and the claims name release "
            f"{release.hex()[:16]}, which is another",
        )
    else:
        findings.fail(
            Check.SOFTWARE,
            "measurements_refused",
            "the policy allows no software with these measurements",
        )


def _check_bound(findings: Findings, bundle: Bundle, claims: Claims, cpu: CpuAppraisal) -> None:
    """Step (7)."""
    findings.check(
        Check.CLAIMS_BOUND,
        hmac.compare_digest(cpu.report_data, report_data(claims, bundle.gpu)),
        "the CPU signed exactly these claims and "
        + ("this GPU evidence" if bundle.gpu else "that there is no GPU evidence"),
        "report_data",
        "the CPU signed other claims or other GPU evidence",
    )


def _check_freshness(
    findings: Findings, claims: Claims, found: Appraised, policy: Policy, at: int
) -> None:
    """Steps (8) and (9)."""
    # (8)
    span = f"the keys are valid from {moment(claims.not_before)} to {moment(claims.not_after)}"
    if at < claims.not_before - CLOCK_SKEW_S:
        findings.fail(Check.VALIDITY, "claims_not_yet_valid", f"{span}, not yet at {moment(at)}")
    elif at > claims.not_after:
        findings.fail(Check.VALIDITY, "claims_expired", f"{span}, no more at {moment(at)}")
    else:
        findings.see(Check.VALIDITY, span)
    # (9)
    collected = found.cpu.collected_at
    if collected is None:
        # Reports of TDX and SNP have no clock. The claims are signed by the CPU with the rest,
        # so this is the word of the software that was measured.
        whose = " by the enclave's own clock: the hardware's report has none"
        _check_age(findings, claims.not_before, policy, at, code="evidence", whose=whose)
    else:
        _check_age(findings, collected, policy, at, code="evidence")
    if found.gpu is not None and found.gpu.collected_at is not None:
        _check_age(findings, found.gpu.collected_at, policy, at, code="gpu_evidence")


def _check_age(
    findings: Findings, collected: int, policy: Policy, at: int, *, code: str, whose: str = ""
) -> None:
    """Step (9) for one half."""
    what = "the GPU's evidence" if code.startswith("gpu") else "the evidence"
    age = at - collected
    told = f"{what} was {age} s old{whose}, and the policy accepts 0 to {policy.max_age_s} s"
    if age < -CLOCK_SKEW_S:
        findings.fail(Check.AGE, f"{code}_from_future", told)
    elif age > policy.max_age_s:
        findings.fail(Check.AGE, f"{code}_too_old", told)
    else:
        findings.see(Check.AGE, f"{what} was {max(age, 0)} s old{whose}")


def check_tcb(
    findings: Findings,
    kind: str,
    found: Appraised,
    policy: Policy,
    now: int,
) -> None:
    """Step (10): with the newest that is known, while the other steps stand as of the turn."""
    current = found.newer_cpu or found.cpu
    if found.newer_cpu is not None:
        findings.see(Check.TCB, f"judged again at {moment(now)} with the collateral given")
        _add_news(findings, "cpu", found.cpu.problems, found.newer_cpu.problems)
    _check_numbers(findings, current.tcb, policy.floors(kind))
    _check_status(findings, kind, current.tcb, policy, now)
    advisories = list(current.tcb.advisories)
    gpu = found.newer_gpu or found.gpu
    if found.gpu is not None and found.newer_gpu is not None:
        # That reference values are no longer signed for says nothing of the turn.
        news = [one for one in found.newer_gpu.problems if not one.code.endswith("expired")]
        _add_news(findings, "gpu", found.gpu.problems, news)
    if gpu is not None:
        advisories += gpu.tcb.advisories
        if gpu.tcb.numbers:
            _check_numbers(findings, gpu.tcb, policy.floors(SIMULATED), "the GPU's ")
    advisories = sorted(set(advisories))
    refused = [one for one in advisories if one in policy.refused_advisories]
    for one in refused:
        findings.fail(Check.TCB, "tcb_advisory", f"under {one}, which the policy refuses")
    if not refused:
        findings.see(Check.TCB, f"advisories: {', '.join(advisories) or 'none'}")


def check_release(
    findings: Findings,
    kind: str,
    measurements: Measurements,
    policy: Policy,
    release: bytes | None,
) -> None:
    """The part of step (10) that is about our own software: the release that claims name, where
    there are claims, and those that were measured, which cannot call themselves another."""
    found = {one.digest for one in policy.releases_with(kind, measurements)}
    if release is not None:
        found.add(release)
    for one in sorted(found.intersection(policy.revoked_releases)):
        findings.fail(Check.TCB, "release_revoked", f"release {one.hex()} has been revoked")


def _add_news(
    findings: Findings, half: str, before: Iterable[Problem], after: Iterable[Problem]
) -> None:
    known = {problem.code for problem in before}
    for problem in after:
        if problem.code not in known:
            findings.fail(Check.TCB, f"tcb_{half}_{problem.code}", problem.text)


def _check_numbers(
    findings: Findings, tcb: Tcb, floors: Mapping[str, int], whose: str = ""
) -> None:
    numbers = dict(tcb.numbers)
    for name, floor in sorted(floors.items()):
        number = numbers.get(name)
        if number is None:
            text = f"{whose}TCB number {name} is not in the evidence, the floor is {floor}"
            findings.fail(Check.TCB, "tcb_floor", text)
        else:
            findings.check(
                Check.TCB,
                number >= floor,
                f"{whose}TCB number {name} is {number}, the floor is {floor}",
                "tcb_floor",
                f"{whose}TCB number {name} is {number}, below the floor of {floor}",
            )
    if numbers and not floors:
        told = ", ".join(f"{name} {number}" for name, number in tcb.numbers)
        findings.see(Check.TCB, f"{whose}TCB numbers {told}, without a floor")


def _check_status(findings: Findings, kind: str, tcb: Tcb, policy: Policy, now: int) -> None:
    statuses = policy.statuses(kind)
    if statuses is None:
        return
    told = f"the vendor calls this TCB level {tcb.status or 'nothing: there is no collateral'}"
    if tcb.status in statuses:
        findings.see(Check.TCB, told)
    elif tcb.current_until is not None and _BEFORE_RECOVERY.get(tcb.status) in statuses:
        since = f"{told} since the recovery of {tcb.current_until}"
        findings.check(
            Check.TCB,
            now <= tcb.current_until + policy.grace_s,
            f"{since}, within the grace of {policy.grace_s} s",
            "tcb_status",
            f"{since}, and the policy's grace is {policy.grace_s} s",
        )
    else:
        accepted = ", ".join(statuses)
        findings.fail(Check.TCB, "tcb_status", f"{told}, and the policy accepts {accepted}")


def check_custody(findings: Findings, cpu: CpuAppraisal, policy: Policy) -> None:
    """Step (11)."""
    if policy.custody.kind == "none":
        findings.skip(Check.CUSTODY, "the policy names nobody who vouches for the machine")
        return
    findings.check(
        Check.CUSTODY,
        cpu.platform_id in policy.custody.platforms,
        f"platform {cpu.platform_id.hex()[:16]}, {policy.custody.kind}",
        "custody_unlisted",
        f"platform {cpu.platform_id.hex()} is not on the {policy.custody.kind} list",
    )
