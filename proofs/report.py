"""What comes out of a verification: steps, verdicts, and what they are about."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from proofs.checkpoint import Checkpoint
from proofs.claims import Claims
from proofs.evidence.base import CpuAppraisal, GpuAppraisal
from proofs.findings import Findings, objections
from proofs.policy import Policy
from proofs.receipt import Receipt
from proofs.steps import Step
from proofs.verdict import Status, Subject, Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """Steps and verdicts, whatever they are about.

    Attributes:
        steps: Every step that was come to, by number.
        verdicts: All seven, in fixed order.
        simulated: Whether no hardware stands behind it; say so wherever it is shown.
        evaluated_at: Unix seconds, as given.
        holds: Whether no verdict fails and everything that the policy requires was checked.
    """

    steps: tuple[Step, ...]
    verdicts: tuple[Verdict, ...]
    simulated: bool
    evaluated_at: int
    holds: bool

    def to_json(self) -> dict[str, object]:
        """The judgement as a JSON object."""
        return {
            "holds": self.holds,
            "simulated": self.simulated,
            "evaluated_at": self.evaluated_at,
            "steps": [step.to_json() for step in self.steps],
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }


@dataclass(frozen=True, slots=True)
class Report(Judgement):
    """What came out of a disclosure.

    Attributes:
        receipt: The receipt; believe it only where `holds`.
        claims: The claims of the enclave that it names.
        enclave_id: Hex of the bundle's digest.
    """

    receipt: Receipt
    claims: Claims
    enclave_id: str

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object; digests in hex."""
        shown = {
            name: value.hex() if isinstance(value, bytes) else value
            for name in Receipt.__slots__
            for value in [getattr(self.receipt, name)]
        }
        return {
            **Judgement.to_json(self),
            **_claims_json(self.claims, self.enclave_id),
            "receipt": {**shown, "outcome": str(self.receipt.outcome)},
        }


@dataclass(frozen=True, slots=True)
class BundleReport(Judgement):
    """What came out of a bundle.

    Attributes:
        claims: Its claims; believe them only where `holds`.
        enclave_id: Hex of the bundle's digest.
    """

    claims: Claims
    enclave_id: str

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object; digests in hex."""
        return {**Judgement.to_json(self), **_claims_json(self.claims, self.enclave_id)}


@dataclass(frozen=True, slots=True)
class EvidenceReport(Judgement):
    """What came out of evidence alone, without claims.

    Attributes:
        kind: The kind of CPU evidence, or the label of GPU evidence.
        appraisal: What the evidence says; believe it only where `holds`.
    """

    kind: str
    appraisal: CpuAppraisal | GpuAppraisal

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object; digests in hex."""
        facts = _plain(asdict(self.appraisal))
        return {**Judgement.to_json(self), "kind": self.kind, "evidence": facts}


@dataclass(frozen=True, slots=True)
class CheckpointReport(Judgement):
    """What came out of a log's published checkpoint.

    Attributes:
        checkpoint: As it stands there; believe it only where `holds`.
    """

    checkpoint: Checkpoint

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object; the root in hex."""
        return {**Judgement.to_json(self), "checkpoint": _plain(asdict(self.checkpoint))}


def _claims_json(claims: Claims, enclave_id: str) -> dict[str, object]:
    return {
        "enclave_id": enclave_id,
        "engine": claims.engine,
        "model": claims.model,
        "model_manifest": claims.model_manifest.hex(),
        "release": claims.release.hex(),
        "epoch": claims.epoch,
        "not_before": claims.not_before,
        "not_after": claims.not_after,
    }


def _plain(value: object) -> object:
    """`value` with byte strings in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


Judged = tuple[tuple[Step, ...], tuple[Verdict, ...], bool, int, bool]


def judge(
    findings: Findings, policy: Policy, at: int, need: frozenset[Subject] | None = None
) -> Judged:
    """The fields of a `Judgement`, from what was found.

    Args:
        findings: What was found.
        policy: Says what may go unchecked.
        at: Unix seconds, as given.
        need: The subjects that must hold, of a part that alone cannot have all; nothing else of
            it may fail.
    """
    verdicts = findings.verdicts()
    if need is None:
        holds = not objections(verdicts, policy)
    else:
        holds = all(
            v.status is Status.HOLDS or (v.status is Status.NOT_CHECKED and v.name not in need)
            for v in verdicts
        )
    return findings.steps(), verdicts, findings.simulated, at, holds
