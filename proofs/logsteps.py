"""Inclusion: steps (15), (18), (19), (22) and (23) of `proofs.verify`."""

from __future__ import annotations

from functools import partial

from proofs.checkpoint import Checkpoint, verify_checkpoint
from proofs.cosereceipt import decode_cose_receipt
from proofs.cosignature import verify_cosignatures
from proofs.errors import RefusedError
from proofs.evidencecache import EvidenceCache
from proofs.findings import Findings
from proofs.note import Note
from proofs.policy import Policy
from proofs.steps import Check
from proofs.tlogproof import parse_tlog_proof

_WHAT = {
    Check.BUNDLE_LOGGED: ("the bundle", "bundle"),
    Check.RECEIPT_LOGGED: ("the receipt", "receipt"),
}


def check_logged(
    findings: Findings,
    check: Check,
    entry: bytes,
    proof: str | None,
    policy: Policy,
    *,
    cache: EvidenceCache | None = None,
) -> Checkpoint | None:
    """Steps (15) and (18): an entry stands in a pinned log, seen by witnesses.

    Args:
        findings: What is added to.
        check: Which of the two.
        entry: The 32-byte log entry.
        proof: Text of its log proof, where there is one.
        policy: What is acceptable.
        cache: Where proofs of bundles are remembered.

    Returns:
        The checkpoint where it holds.

    Raises:
        UnreadableError: Not a log proof.
    """
    what, code = _WHAT[check]
    if not policy.require_inclusion and (not proof or not policy.log_keys):
        findings.skip(check, "the policy does not require it")
        return None
    if not proof:
        findings.fail(check, f"{code}_not_logged", f"{what} comes without a log proof")
        return None
    if cache is None:
        found = _prove(entry, proof, policy)
    else:
        key = entry, proof, policy.log_keys, policy.witnesses
        found = cache.once(key, partial(_prove, entry, proof, policy))
    if isinstance(found, RefusedError):
        findings.fail(check, f"{code}_not_logged", f"{what}: {str(found).rstrip('.')}")
        return None
    checkpoint, witnesses = found
    told = f"{what} stands in the log {checkpoint.origin} of size {checkpoint.size}"
    if len(witnesses) < policy.min_witnesses:
        findings.fail(
            check,
            "too_few_witnesses",
            f"{told}, cosigned by {_names(witnesses)}, and the policy wants "
            f"{policy.min_witnesses}: the log may show others another tree",
        )
        return None
    findings.see(check, f"{told}, cosigned by {_names(witnesses)}" if witnesses else told)
    return checkpoint


def _prove(
    entry: bytes, text: str, policy: Policy
) -> tuple[Checkpoint, tuple[str, ...]] | RefusedError:
    """The checkpoint that a proof leads to and its witnesses, or why it does not hold."""
    proof = parse_tlog_proof(text)
    try:
        return proof.verify(entry, policy.log_keys), witnessed(proof.checkpoint, policy)
    except RefusedError as error:
        return error


def witnessed(note: Note, policy: Policy) -> tuple[str, ...]:
    """Names of the pinned witnesses that cosigned the checkpoint in `note`, sorted.

    A witness with keys of both types, or with an old one and a new one, counts once.

    Raises:
        UnreadableError: The note's text is no checkpoint.
        RefusedError: A cosignature of a pinned witness is false.
    """
    if not policy.witnesses:
        return ()
    return tuple(sorted({one.key.name for one in verify_cosignatures(note, policy.witnesses)}))


def _names(witnesses: tuple[str, ...]) -> str:
    return ", ".join(witnesses) or "no witness"


def require_witnesses(note: Note, policy: Policy) -> None:
    """Raises `RefusedError` where fewer witnesses cosigned than the policy wants."""
    witnesses = witnessed(note, policy)
    if len(witnesses) < policy.min_witnesses:
        raise RefusedError(
            f"The checkpoint is cosigned by {_names(witnesses)}, and the policy wants "
            f"{policy.min_witnesses}: the log may show others another tree. Wait, or refuse it."
        )


def check_cose(
    findings: Findings, data: bytes, entry: bytes, checkpoint: Checkpoint | None, policy: Policy
) -> None:
    """Step (19): the same entry in the same log, as RFC 9942 has it.

    Raises:
        UnreadableError: Not a COSE Receipt.
    """
    if not data:
        if policy.require_cose:
            text = "the receipt comes without a COSE Receipt, and the policy requires one"
            findings.fail(Check.COSE_RECEIPT, "cose_missing", text)
        else:
            findings.skip(Check.COSE_RECEIPT, "there is none, and none is required")
        return
    receipt = decode_cose_receipt(data)
    if not policy.require_inclusion and not policy.log_keys:
        findings.skip(Check.COSE_RECEIPT, "the policy names no log")
        return
    try:
        tree = receipt.verify(entry, policy.log_keys)
    except RefusedError as error:
        findings.fail(Check.COSE_RECEIPT, "cose_refused", str(error).rstrip("."))
        return
    # The same size with another root is a fork, shown by the log's own two signatures.
    if checkpoint is not None and checkpoint.origin != tree.origin:
        text = f"the COSE Receipt is of the log {tree.origin}, the proof of {checkpoint.origin}"
        findings.fail(Check.COSE_RECEIPT, "cose_other_log", text)
    elif checkpoint is not None and checkpoint.size == tree.size and checkpoint.root != tree.root:
        text = f"the log {tree.origin} signed two trees of size {tree.size}: it forked"
        findings.fail(Check.COSE_RECEIPT, "log_forked", text)
    else:
        findings.see(Check.COSE_RECEIPT, f"the log {tree.origin} of size {tree.size} says the same")


def check_head(findings: Findings, note: Note, policy: Policy) -> Checkpoint | None:
    """Steps (22) and (23) for a published checkpoint alone; the checkpoint where it is believed.

    Raises:
        UnreadableError: The note's text is no checkpoint.
    """
    try:
        checkpoint = verify_checkpoint(note, policy.log_keys)
    except RefusedError as error:
        findings.fail(Check.CHECKPOINT, "checkpoint_refused", str(error).rstrip("."))
        return None
    told = f"the log {checkpoint.origin} signed a tree of {checkpoint.size} entries"
    findings.see(Check.CHECKPOINT, told)
    try:
        witnesses = witnessed(note, policy)
    except RefusedError as error:
        findings.fail(Check.WITNESSES, "witness_refused", str(error).rstrip("."))
        return checkpoint
    if not policy.min_witnesses and not witnesses:
        findings.skip(Check.WITNESSES, "the policy asks for no witness")
    else:
        findings.check(
            Check.WITNESSES,
            len(witnesses) >= policy.min_witnesses,
            f"cosigned by {_names(witnesses)}",
            "too_few_witnesses",
            f"cosigned by {_names(witnesses)}, and the policy wants {policy.min_witnesses}",
        )
    return checkpoint
