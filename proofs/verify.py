"""Offline verification of attestation bundles, receipts, disclosures and their parts.

No network, no clock: the evaluation time is an argument. The steps, as numbered in every report:

 (1) Integrity: bundle and claims are read; what does not re-encode to itself is unreadable.
 (2) Origin: the policy accepts the kind of evidence.
 (3) Origin: the CPU's signatures and chain hold.
 (4) Origin: the chain ends at a pinned root.
 (5) Origin: the platform measured what the claims say; the policy, or a signed release that the
     claims name, allows it; the model is one that the policy names.
 (6) Origin: debug is off.
 (7) Integrity: the CPU signed exactly these claims and this GPU evidence.
 (8) Freshness: the claims are valid.
 (9) Freshness: the evidence is young enough and not from the future.
(10) TCB: at or above the floors, of a status that passes, under no refused advisory, of no revoked
     release; judged again where newer collateral is given.
(11) Custody: somebody whom the policy names vouches for the platform.
(12) GPU: its signatures and chain hold and end at a pinned root, and it is as real as the CPU.
(13) GPU: its nonce derives from exactly these claims.
(14) GPU: number, mode, driver, firmware and measurements are as the policy wants.
(15) Inclusion: the bundle's entry stands in the tree of a checkpoint that a pinned log signed and
     as many pinned witnesses cosigned as the policy wants.

A disclosure adds, with everything but the TCB judged at the receipt's time:

(16) Integrity: the claims' receipt key signed the receipt, and the receipt names this bundle, its
     epoch, release and model manifest, and one of its key configurations.
(17) Integrity: what was said, where it is disclosed, is what the receipt commits to.
(18) Inclusion: the receipt's entry stands in a pinned log, as (15).
(19) Inclusion: a COSE Receipt of the same log says the same.
(20) Freshness: the receipt is not from the future.
(21) Freshness: a later epoch's evidence over the same keys, of the same machine, holds by steps
     (2) to (15), GPU included, and was collected after the turn, where the policy requires that;
     its TCB counts for (10).

A checkpoint alone:

(22) Inclusion: a pinned log signed it.
(23) Inclusion: as many pinned witnesses cosigned it as the policy wants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import final

from proofs import times
from proofs.bundle import Bundle, bundle_entry, decode_bundle
from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.claims import Claims, decode_claims
from proofs.disclosure import Disclosure, Later, decode_disclosure
from proofs.enclavesteps import CLOCK_SKEW_S, Moment, check_enclave
from proofs.errors import RefusedError
from proofs.evidence.base import NO_COLLATERAL, Collateral, CpuAppraisal
from proofs.evidence.simulated import KIND as SIMULATED
from proofs.evidencecache import EvidenceCache
from proofs.evidenceonly import verify_evidence
from proofs.findings import Findings, objections
from proofs.logsteps import check_cose, check_head, check_logged, require_witnesses
from proofs.note import parse_note
from proofs.policy import Policy
from proofs.receipt import Receipt, decode_receipt, receipt_entry
from proofs.receiptsteps import check_receipt, check_said
from proofs.report import BundleReport, CheckpointReport, EvidenceReport, Judgement, Report, judge
from proofs.steps import Check, Step
from proofs.tlogproof import parse_tlog_proof
from proofs.verdict import Subject, Verdict

__all__ = [
    "CLOCK_SKEW_S",
    "AttestedEnclave",
    "BundleReport",
    "CheckpointReport",
    "EvidenceCache",
    "EvidenceReport",
    "Judgement",
    "Report",
    "Step",
    "judge_bundle",
    "verify_bundle",
    "verify_disclosed",
    "verify_disclosure",
    "verify_evidence",
    "verify_published",
    "verify_receipt",
    "verify_settled",
]


@final
@dataclass(frozen=True, slots=True, init=False)
class AttestedEnclave:
    """An enclave whose bundle held under a policy. Only `verify_bundle` makes one.

    Attributes:
        enclave_id: Hex of the bundle's digest.
        claims: Its claims.
        verdicts: What was checked, in fixed order.
        simulated: Whether no hardware stands behind it; say so wherever it is shown.
    """

    enclave_id: str
    claims: Claims
    verdicts: tuple[Verdict, ...]
    simulated: bool

    def __init__(self) -> None:
        raise TypeError("An AttestedEnclave comes out of verify_bundle and nowhere else.")

    @property
    def receipt_key(self) -> bytes:
        """The Ed25519 public key that signs its receipts, 32 bytes."""
        return self.claims.receipt_key

    @property
    def key_configs(self) -> tuple[bytes, ...]:
        """Its OHTTP key configurations."""
        return self.claims.key_configs


def _attested(report: BundleReport) -> AttestedEnclave:
    enclave = object.__new__(AttestedEnclave)
    object.__setattr__(enclave, "enclave_id", report.enclave_id)
    object.__setattr__(enclave, "claims", report.claims)
    object.__setattr__(enclave, "verdicts", report.verdicts)
    object.__setattr__(enclave, "simulated", report.simulated)
    return enclave


def verify_bundle(
    bundle: bytes,
    inclusion: str | None,
    policy: Policy,
    at: int,
    *,
    collateral: Collateral = NO_COLLATERAL,
) -> AttestedEnclave:
    """Verify an attestation bundle before sealing anything to its keys.

    Args:
        bundle: The encoded bundle.
        inclusion: Text of its log proof, where there is one.
        policy: What is acceptable.
        at: Unix seconds, now.
        collateral: What vendors have published since the evidence was collected.

    Raises:
        UnreadableError: Not a bundle, or not a log proof.
        RefusedError: It does not hold; carries the verdicts.
    """
    report = judge_bundle(bundle, inclusion, policy, at, collateral=collateral)
    if not report.holds:
        told = "; ".join(f"{v.name}: {v.detail}" for v in objections(report.verdicts, policy))
        raise RefusedError(
            f"The enclave is not to be trusted. Send it nothing. {told}.", report.verdicts
        )
    return _attested(report)


def judge_bundle(
    bundle: bytes,
    inclusion: str | None,
    policy: Policy,
    at: int,
    *,
    collateral: Collateral = NO_COLLATERAL,
) -> BundleReport:
    """The same as a report, for who wants to look at a bundle and not to use it.

    Raises:
        UnreadableError: Not a bundle, or not a log proof.
    """
    read = _read(bundle)
    findings = _findings(read, policy)
    check_enclave(findings, read.bundle, read.claims, policy, Moment(at, at, collateral))
    check_logged(findings, Check.BUNDLE_LOGGED, read.entry, inclusion, policy)
    return BundleReport(*judge(findings, policy, at), read.claims, read.digest.hex())


@dataclass(frozen=True, slots=True)
class _Read:
    """A bundle that was read, with its digest and its log entry."""

    bundle: Bundle
    claims: Claims
    digest: bytes
    entry: bytes


def _read(data: bytes) -> _Read:
    """Step (1)."""
    bundle = decode_bundle(data)
    return _Read(bundle, decode_claims(bundle.claims), bundle.digest, bundle_entry(data))


def _read_once(data: bytes, cache: EvidenceCache | None) -> _Read:
    return _read(data) if cache is None else cache.once(data, partial(_read, data))


def _findings(read: _Read, policy: Policy) -> Findings:
    simulated = read.bundle.kind == SIMULATED
    findings = Findings(simulated=simulated, witnesses=policy.min_witnesses)
    findings.see(Check.READ, "every part is in its one encoding")
    return findings


def verify_receipt(receipt: bytes, enclave: AttestedEnclave) -> Receipt:
    """Verify a receipt as it arrives, against the enclave that the turn was sealed to.

    Raises:
        UnreadableError: Not a receipt.
        RefusedError: Signed by another key, or about another enclave.
    """
    decoded = decode_receipt(receipt)
    findings = Findings(simulated=enclave.simulated)
    check_receipt(findings, decoded, bytes.fromhex(enclave.enclave_id), enclave.claims)
    if findings.failures():
        failed = tuple(v for v in findings.verdicts() if v.name is Subject.INTEGRITY)
        raise RefusedError(f"The receipt is not to be relied on. {failed[0].detail}.", failed)
    return decoded.unverified


def verify_settled(receipt: bytes, proof: str, policy: Policy) -> Checkpoint:
    """Verify that a signed receipt stands in a log that `policy` believes.

    Raises:
        UnreadableError: Not a log proof.
        RefusedError: The proof does not hold for this receipt and these logs, or too few of the
            pinned witnesses cosigned.
    """
    parsed = parse_tlog_proof(proof)
    checkpoint = parsed.verify(receipt_entry(receipt), policy.log_keys)
    require_witnesses(parsed.checkpoint, policy)
    return checkpoint


def verify_published(note: str, policy: Policy, at: int) -> CheckpointReport:
    """Verify a checkpoint as a log publishes it.

    Args:
        note: The signed note.
        policy: Pins logs and witnesses.
        at: Unix seconds, for the report alone.

    Raises:
        UnreadableError: Not a checkpoint.
    """
    parsed = parse_note(note)
    checkpoint = parse_checkpoint(parsed.text)
    findings = Findings(witnesses=policy.min_witnesses)
    check_head(findings, parsed, policy)
    need = frozenset({Subject.INCLUSION})
    return CheckpointReport(*judge(findings, policy, at, need), checkpoint)


def verify_disclosure(
    data: bytes,
    policy: Policy,
    at: int,
    *,
    collateral: Collateral = NO_COLLATERAL,
    cache: EvidenceCache | None = None,
) -> Report:
    """Verify a disclosed receipt, alone and offline.

    Args:
        data: The whole file.
        policy: What is acceptable.
        at: Unix seconds at which to judge; verdicts depend on nothing else.
        collateral: What vendors have published since; judges the TCB, and whatever the evidence
            brought no collateral of its own for.
        cache: Where appraisals of the same evidence are remembered between calls.

    Returns:
        The report; ask its `holds`. A receipt that does not hold raises nothing here.

    Raises:
        UnreadableError: Not a disclosure, or damaged.
    """
    disclosed = decode_disclosure(data)
    return verify_disclosed(disclosed, policy, at, collateral=collateral, cache=cache)


def verify_disclosed(
    disclosed: Disclosure,
    policy: Policy,
    at: int,
    *,
    collateral: Collateral = NO_COLLATERAL,
    cache: EvidenceCache | None = None,
) -> Report:
    """The same of a disclosure taken apart, such as one of an archive; raises the same."""
    receipt = decode_receipt(disclosed.receipt)
    read = _read_once(disclosed.bundle, cache)
    findings = _findings(read, policy)
    stated, claims = receipt.unverified, read.claims
    moment = Moment(stated.time, at, collateral, cache)
    cpu = check_enclave(findings, read.bundle, claims, policy, moment)
    proof = disclosed.bundle_proof
    check_logged(findings, Check.BUNDLE_LOGGED, read.entry, proof, policy, cache=cache)
    check_receipt(findings, receipt, read.digest, claims)
    check_said(findings, stated, disclosed.said)
    entry = receipt_entry(disclosed.receipt)
    tree = check_logged(findings, Check.RECEIPT_LOGGED, entry, disclosed.receipt_proof, policy)
    check_cose(findings, disclosed.cose_receipt, entry, tree, policy)
    findings.check(  # (20)
        Check.RECEIPT_TIME,
        stated.time <= at,
        f"the turn ended {at - stated.time} s before the time of this verdict",
        "receipt_from_future",
        f"the receipt is of {times.moment(stated.time)}, after the time of this verdict",
    )
    if disclosed.later is None:
        _check_no_later(findings, policy)
    else:
        first = _Epoch(claims, cpu, bool(read.bundle.gpu), stated.time)
        _check_later(findings, disclosed.later, first, policy, moment)
    return Report(*judge(findings, policy, at), stated, claims, read.digest.hex())


def _check_no_later(findings: Findings, policy: Policy) -> None:
    """Step (21) where no later epoch is disclosed."""
    if policy.require_later_epoch:
        text = "no later evidence over the same keys comes along, and the policy requires it"
        findings.fail(Check.LATER, "later_missing", text)
    else:
        findings.skip(Check.LATER, "the keys were attested before the turn alone")


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What a later epoch must continue: the claims, their evidence of the CPU, whether there was
    any of GPUs, and when the turn ended."""

    claims: Claims
    cpu: CpuAppraisal | None
    with_gpu: bool
    ended: int


def _check_later(
    findings: Findings, later: Later, first: _Epoch, policy: Policy, moment: Moment
) -> None:
    """Step (21): whatever fails in the later bundle fails here, its code after `later_`.

    Only its TCB counts for the verdict on that, so that news about a machine turns no other.
    """
    read, cache = _read_once(later.bundle, moment.cache), moment.cache
    inner, claims = _findings(read, policy), read.claims
    collected = claims.not_before
    cpu = check_enclave(inner, read.bundle, claims, policy, replace(moment, turn=collected))
    check_logged(inner, Check.BUNDLE_LOGGED, read.entry, later.proof, policy, cache=cache)
    for one in inner.failures({Subject.TCB}):
        findings.fail(Check.TCB, f"later_{one.code}", f"later evidence: {one.text}")
    faults = [
        (f"later_{one.code}", f"later evidence: {one.text}")
        for one in inner.failures(set(Subject) - {Subject.TCB})
    ]
    for holds, code, text in (
        (
            (claims.receipt_key, claims.key_configs)
            == (first.claims.receipt_key, first.claims.key_configs),
            "later_other_keys",
            "the later claims are of other keys",
        ),
        (
            claims.epoch > first.claims.epoch,
            "later_other_epoch",
            f"the later claims are of epoch {claims.epoch}, the receipt's of {first.claims.epoch}",
        ),
        (
            collected >= first.ended or not policy.require_later_epoch,
            "later_too_early",
            f"the later evidence is of {collected}, {first.ended - collected} s before the turn "
            "ended, and the policy requires it of after",
        ),
        (
            collected <= moment.now + CLOCK_SKEW_S,
            "later_from_future",
            f"the later evidence is of {collected}, after the time of this verdict",
        ),
        (
            first.cpu is None or cpu is None or cpu.platform_id == first.cpu.platform_id,
            "later_other_platform",
            "the later evidence is of another machine: the keys left the one they were made on",
        ),
        (
            bool(read.bundle.gpu) or not first.with_gpu,
            "later_gpu_missing",
            "the later evidence has none of the GPU, which there was before",
        ),
    ):
        if not holds:
            faults.append((code, text))
    for code, text in faults:
        findings.fail(Check.LATER, code, text)
    if faults:
        return
    told = f"epoch {claims.epoch} attests the same keys"
    if collected >= first.ended:
        findings.again = True
        told = f"attested before and after: {told}, {collected - first.ended} s after the turn"
    else:  # it began while the turn ran, which keeps the epoch that it began in
        told = f"{told}, {first.ended - collected} s before the turn ended"
    findings.see(Check.LATER, told)
