"""A receipt held against the claims of its enclave: steps (16) and (17) of `proofs.verify`."""

from __future__ import annotations

import hmac

from proofs.claims import Claims
from proofs.disclosure import Said
from proofs.findings import Findings
from proofs.receipt import Receipt, SignedReceipt
from proofs.steps import Check


def check_receipt(
    findings: Findings, receipt: SignedReceipt, enclave: bytes, claims: Claims
) -> None:
    """Step (16)."""
    stated = receipt.unverified
    findings.attempt(
        Check.RECEIPT_SIGNED, "receipt_signature", lambda: _signed(receipt, claims.receipt_key)
    )
    findings.check(
        Check.RECEIPT_SIGNED,
        hmac.compare_digest(stated.enclave, enclave),
        "the receipt names this bundle",
        "receipt_other_bundle",
        "the receipt names another bundle",
    )
    findings.check(
        Check.RECEIPT_SIGNED,
        (stated.release, stated.model_manifest) == (claims.release, claims.model_manifest),
        "release and model are those of the claims",
        "receipt_other_release",
        "the receipt names another release or model than the claims",
    )
    findings.check(
        Check.RECEIPT_SIGNED,
        stated.epoch == claims.epoch,
        f"epoch {claims.epoch}",
        "receipt_other_epoch",
        f"the receipt names epoch {stated.epoch}, and the claims are of epoch {claims.epoch}",
    )
    # RFC 9458 section 3.1: a key configuration starts with its identifier.
    findings.check(
        Check.RECEIPT_SIGNED,
        stated.key_config_id in {config[0] for config in claims.key_configs},
        f"sealed to key configuration {stated.key_config_id}",
        "receipt_other_key",
        f"the claims have no key configuration {stated.key_config_id}, which the receipt names",
    )


def _signed(receipt: SignedReceipt, key: bytes) -> str:
    receipt.verify(key)
    return "the attested key signed the receipt"


def check_said(findings: Findings, stated: Receipt, said: Said | None) -> None:
    """Step (17)."""
    if said is None:
        findings.skip(Check.SAID, "what was said is not disclosed")
        return
    for name, committed in (
        ("request", said.is_request_of(stated)),
        ("response", said.is_response_of(stated)),
    ):
        findings.check(
            Check.SAID,
            committed,
            f"the {name} is what was committed to",
            f"said_{name}",
            f"the {name} in the file is not what the receipt commits to, or the salt is another",
        )
