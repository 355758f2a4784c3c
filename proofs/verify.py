"""Offline verification of attestation bundles, receipts and disclosures.

No network, no clock: the evaluation time is an argument. The steps, as numbered in the code:

 (1) Decode the bundle and its claims; whatever does not re-encode to itself is unreadable.
 (2) Origin: the policy accepts the kind of evidence.
 (3) Origin: signatures and chains hold and end at a pinned root.
 (4) Origin: the platform measured what the claims say, the policy allows it, debug is off.
 (5) Integrity: the CPU signed exactly these claims and this GPU evidence.
 (6) Inclusion: the bundle's entry stands in the tree of a checkpoint that a pinned log signed.
 (7) Freshness: the claims are valid, the evidence is young enough and not from the future.
 (8) TCB: at or above the floor, under no refused advisory.
 (9) Custody: somebody whom the policy names vouches for the platform.
(10) GPU: its signature and chain hold and its nonce derives from these keys.

A disclosure adds, with freshness judged at the receipt's time:

(11) Decode the disclosure and the receipt.
(12) Integrity: the claims' receipt key signed the receipt, and the receipt names this bundle,
     release and model manifest.
(13) Inclusion: the receipt's entry stands in a pinned log, too.
(14) Freshness: the receipt is not from the future.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Never, final

from proofs.bundle import Bundle, bundle_entry, decode_bundle
from proofs.checkpoint import Checkpoint
from proofs.claims import Claims, decode_claims
from proofs.disclosure import decode_disclosure
from proofs.errors import RefusedError
from proofs.evidence import APPRAISERS
from proofs.evidence.base import Appraisal, Evidence
from proofs.evidence.simulated import KIND as SIMULATED
from proofs.findings import Findings, holding
from proofs.policy import Policy
from proofs.receipt import Receipt, SignedReceipt, decode_receipt, receipt_entry
from proofs.tlogproof import parse_tlog_proof
from proofs.verdict import Status, Subject, Verdict

# Clocks of honest machines differ; a device that is two minutes slow still connects.
CLOCK_SKEW_S = 120


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


def _attested(
    bundle: Bundle, claims: Claims, verdicts: tuple[Verdict, ...], simulated: bool
) -> AttestedEnclave:
    enclave = object.__new__(AttestedEnclave)
    object.__setattr__(enclave, "enclave_id", bundle.digest.hex())
    object.__setattr__(enclave, "claims", claims)
    object.__setattr__(enclave, "verdicts", verdicts)
    object.__setattr__(enclave, "simulated", simulated)
    return enclave


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of a disclosure.

    Attributes:
        verdicts: All seven, in fixed order.
        receipt: The receipt; believe it only where `holds`.
        claims: The claims of the enclave that it names.
        enclave_id: Hex of the bundle's digest.
        simulated: Whether no hardware stands behind it.
        evaluated_at: Unix seconds, as given.
        holds: Whether no verdict fails and everything that the policy requires was checked.
    """

    verdicts: tuple[Verdict, ...]
    receipt: Receipt
    claims: Claims
    enclave_id: str
    simulated: bool
    evaluated_at: int
    holds: bool

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object; digests in hex."""
        shown = {
            name: value.hex() if isinstance(value, bytes) else value
            for name in Receipt.__slots__
            for value in [getattr(self.receipt, name)]
        }
        return {
            "holds": self.holds,
            "simulated": self.simulated,
            "evaluated_at": self.evaluated_at,
            "enclave_id": self.enclave_id,
            "engine": self.claims.engine,
            "model": self.claims.model,
            "receipt": {**shown, "outcome": str(self.receipt.outcome)},
            "verdicts": [v.to_json() for v in self.verdicts],
        }


def verify_bundle(bundle: bytes, inclusion: str | None, policy: Policy, at: int) -> AttestedEnclave:
    """Verify an attestation bundle before sealing anything to its keys.

    Args:
        bundle: The encoded bundle.
        inclusion: Text of its log proof, where there is one.
        policy: What is acceptable.
        at: Unix seconds, now.

    Raises:
        UnreadableError: Not a bundle, or not a log proof.
        RefusedError: It does not hold; carries the verdicts.
    """
    # (1)
    decoded = decode_bundle(bundle)
    claims = decode_claims(decoded.claims)
    findings = Findings(simulated=decoded.kind == SIMULATED)
    _check_evidence(findings, decoded, claims, policy, at)
    _check_inclusion(findings, "the bundle", bundle_entry(bundle), inclusion, policy)  # (6)
    verdicts = findings.verdicts()
    if not holding(verdicts, policy):
        _refuse("The enclave is not to be trusted", verdicts)
    return _attested(decoded, claims, verdicts, findings.simulated)


def _refuse(message: str, verdicts: tuple[Verdict, ...]) -> Never:
    failed = "; ".join(f"{v.name}: {v.detail}" for v in verdicts if v.status is not Status.HOLDS)
    raise RefusedError(f"{message}. Send it nothing. {failed}.", verdicts)


def _check_evidence(
    findings: Findings, bundle: Bundle, claims: Claims, policy: Policy, at: int
) -> None:
    """Steps (2) to (5) and (7) to (10)."""
    # (2)
    findings.check(
        Subject.ORIGIN,
        policy.accepts_kind(bundle.kind),
        f"{bundle.kind} evidence, which the policy accepts",
        f"the policy does not accept {bundle.kind} evidence",
    )
    appraise = APPRAISERS.get(bundle.kind)
    if appraise is None:
        return
    appraisal = appraise(Evidence(bundle.cpu, bundle.gpu), claims)
    _check_signatures(findings, bundle.kind, appraisal, policy)
    _check_software(findings, bundle.kind, claims, appraisal, policy)
    _check_freshness(findings, claims, appraisal, policy, at)
    _check_platform(findings, appraisal, policy)


def _check_signatures(findings: Findings, kind: str, appraisal: Appraisal, policy: Policy) -> None:
    """Steps (3), (5) and (10)."""
    holding = {
        Subject.ORIGIN: "signatures and chain hold",
        Subject.INTEGRITY: "the CPU signed exactly these claims and this GPU evidence",
        Subject.GPU: "the GPU's signature and chain hold, its nonce derives from these keys",
    }
    for subject, seen in holding.items():
        texts = [p.text for p in appraisal.problems if p.subject is subject]
        findings.check(subject, not texts, seen, "; ".join(texts))
    findings.check(
        Subject.ORIGIN,
        policy.accepts_root(kind, appraisal.root),
        f"the chain ends at root {appraisal.root.hex()[:16]}",
        "the chain ends at a root that the policy does not pin",
    )


def _check_software(
    findings: Findings, kind: str, claims: Claims, appraisal: Appraisal, policy: Policy
) -> None:
    """Step (4)."""
    findings.check(
        Subject.ORIGIN,
        appraisal.measurements == claims.measurements,
        "the platform measured what the claims say",
        "the platform measured other software than the claims say",
    )
    findings.check(
        Subject.ORIGIN,
        policy.accepts_measurements(kind, appraisal.measurements),
        "the policy allows this software",
        "the policy allows no software with these measurements",
    )
    findings.check(
        Subject.ORIGIN,
        policy.allow_debug or not appraisal.debug,
        "in debug mode, which the policy allows" if appraisal.debug else "debug is off",
        "the platform is in debug mode: its operator can read everything",
    )


def _check_freshness(
    findings: Findings, claims: Claims, appraisal: Appraisal, policy: Policy, at: int
) -> None:
    """Step (7)."""
    findings.check(
        Subject.FRESHNESS,
        claims.not_before - CLOCK_SKEW_S <= at <= claims.not_after,
        f"the keys are valid from {claims.not_before} to {claims.not_after}",
        f"the keys are valid from {claims.not_before} to {claims.not_after}, not at {at}",
    )
    age = at - appraisal.collected_at
    findings.check(
        Subject.FRESHNESS,
        -CLOCK_SKEW_S <= age <= policy.max_age_s,
        f"the evidence was {max(age, 0)} s old",
        f"the evidence was {age} s old, and the policy accepts 0 to {policy.max_age_s} s",
    )


def _check_platform(findings: Findings, appraisal: Appraisal, policy: Policy) -> None:
    """Steps (8) and (9)."""
    # (8)
    findings.check(
        Subject.TCB,
        appraisal.tcb >= policy.min_tcb,
        f"TCB number {appraisal.tcb}, the floor is {policy.min_tcb}",
        f"TCB number {appraisal.tcb} is below the floor of {policy.min_tcb}",
    )
    refused = sorted(set(appraisal.advisories) & set(policy.refused_advisories))
    findings.check(
        Subject.TCB,
        not refused,
        f"advisories: {', '.join(appraisal.advisories) or 'none'}",
        f"under refused advisories: {', '.join(refused)}",
    )
    # (9)
    if policy.custody.kind == "none":
        findings.skip(Subject.CUSTODY, "the policy names nobody who vouches for the machine")
    else:
        findings.check(
            Subject.CUSTODY,
            appraisal.platform_id in policy.custody.platforms,
            f"platform {appraisal.platform_id.hex()[:16]}, {policy.custody.kind}",
            f"platform {appraisal.platform_id.hex()} is not on the {policy.custody.kind} list",
        )


def _check_inclusion(
    findings: Findings, what: str, entry: bytes, proof: str | None, policy: Policy
) -> None:
    """Step (6), and (13) with a receipt's entry."""
    if not policy.require_inclusion and (proof is None or not policy.log_keys):
        findings.skip(Subject.INCLUSION, "the policy does not require it")
        return
    if proof is None:
        findings.check(Subject.INCLUSION, False, "", f"{what} comes without a log proof")
        return
    findings.attempt(
        Subject.INCLUSION,
        lambda: _included(what, entry, proof, policy),
    )


def _included(what: str, entry: bytes, proof: str, policy: Policy) -> str:
    checkpoint = parse_tlog_proof(proof).verify(entry, policy.log_keys)
    return f"{what} stands in the log {checkpoint.origin} of size {checkpoint.size}"


def verify_receipt(receipt: bytes, enclave: AttestedEnclave) -> Receipt:
    """Verify a receipt as it arrives, against the enclave that the turn was sealed to.

    Raises:
        UnreadableError: Not a receipt.
        RefusedError: Signed by another key, or about another enclave.
    """
    decoded = decode_receipt(receipt)
    findings = Findings(simulated=enclave.simulated)
    _check_receipt(findings, decoded, enclave.enclave_id, enclave.claims)
    if Subject.INTEGRITY in findings.failed:
        failed = tuple(v for v in findings.verdicts() if v.name is Subject.INTEGRITY)
        raise RefusedError(f"The receipt is not to be relied on. {failed[0].detail}.", failed)
    return decoded.unverified


def verify_settled(receipt: bytes, proof: str, policy: Policy) -> Checkpoint:
    """Verify that a signed receipt stands in a log that `policy` believes.

    Raises:
        UnreadableError: Not a log proof.
        RefusedError: The proof does not hold for this receipt and these logs.
    """
    return parse_tlog_proof(proof).verify(receipt_entry(receipt), policy.log_keys)


def _check_receipt(
    findings: Findings, receipt: SignedReceipt, enclave_id: str, claims: Claims
) -> None:
    """Step (12)."""
    stated = receipt.unverified
    findings.attempt(Subject.INTEGRITY, lambda: _signed(receipt, claims))
    findings.check(
        Subject.INTEGRITY,
        hmac.compare_digest(stated.enclave, bytes.fromhex(enclave_id)),
        "the receipt names this bundle",
        "the receipt names another bundle",
    )
    findings.check(
        Subject.INTEGRITY,
        (stated.release, stated.model_manifest) == (claims.release, claims.model_manifest),
        "release and model are those of the claims",
        "the receipt names another release or model than the claims",
    )


def _signed(receipt: SignedReceipt, claims: Claims) -> str:
    receipt.verify(claims.receipt_key)
    return "the attested key signed the receipt"


def verify_disclosure(data: bytes, policy: Policy, at: int) -> Report:
    """Verify a disclosed receipt, alone and offline.

    Args:
        data: The whole file.
        policy: What is acceptable.
        at: Unix seconds at which to judge; verdicts depend on nothing else.

    Returns:
        The report; ask its `holds`. A receipt that does not hold raises nothing here.

    Raises:
        UnreadableError: Not a disclosure, or damaged.
    """
    # (11), (1)
    disclosure = decode_disclosure(data)
    receipt = decode_receipt(disclosure.receipt)
    bundle = decode_bundle(disclosure.bundle)
    claims = decode_claims(bundle.claims)
    findings = Findings(simulated=bundle.kind == SIMULATED)
    time = receipt.unverified.time
    _check_evidence(findings, bundle, claims, policy, time)
    enclave_id = bundle.digest.hex()
    _check_receipt(findings, receipt, enclave_id, claims)  # (12)
    for what, entry, proof in (  # (6), (13)
        ("the receipt", receipt_entry(disclosure.receipt), disclosure.receipt_proof),
        ("the bundle", bundle_entry(disclosure.bundle), disclosure.bundle_proof),
    ):
        _check_inclusion(findings, what, entry, proof, policy)
    findings.check(  # (14)
        Subject.FRESHNESS,
        time <= at,
        f"the turn ended {at - time} s before the time of this verdict",
        f"the receipt's time {time} lies after the time of this verdict, {at}",
    )
    verdicts = findings.verdicts()
    return Report(
        verdicts=verdicts,
        receipt=receipt.unverified,
        claims=claims,
        enclave_id=enclave_id,
        simulated=findings.simulated,
        evaluated_at=at,
        holds=holding(verdicts, policy),
    )
