"""What dcap-qvl says when a quote does not hold, in the words of this project.

The library has one exception and many texts. A text that it changes falls to the code `evidence`,
which refuses all the same.
"""

from __future__ import annotations

from proofs.evidence.base import Problem

REVOKED_TCB = Problem("revoked", "Intel has revoked the TCB level of this platform")
_REFUSALS = (
    ("TCBInfo expired", "expired", "Intel's TCB info was out of date at the time judged"),
    ("QE Identity expired", "expired", "Intel's QE identity was out of date at the time judged"),
    ("Expired", "expired", "a certificate or CRL was out of date at the time judged"),
    ("in the future", "not_yet_valid", "Intel's collateral was issued after the time judged"),
    ("CertNotValidYet", "not_yet_valid", "a certificate was not valid yet at the time judged"),
    ("TCB status is invalid", REVOKED_TCB.code, REVOKED_TCB.text),
    ("CertRevoked", "revoked", "Intel has revoked a certificate that this quote needs"),
    ("for tcb_info", "collateral", "the TCB info is not signed by Intel's TCB signing key"),
    ("for qe_identity", "collateral", "the QE identity is not signed by Intel's TCB signing key"),
    ("ISV enclave report", "signature", "the quote is not signed by its attestation key"),
    ("for qe_report", "signature", "the quoting enclave's report is not signed by the PCK"),
    ("key type", "signature", "the attestation key is not of ECDSA with P-256"),
    ("hash mismatch", "signature", "the attestation key is not the quoting enclave's"),
    ("Debug mode", "debug", "the TD is in debug mode: its host can read and write its memory"),
    ("profiling", "profiling", "the TD lets its host profile it, which tells what it does"),
    ("migration", "migration", "the TD can be migrated by a service TD that nobody attests"),
    ("SERVTD", "service_td", "service TDs can be bound to this TD while it runs, unattested"),
    ("service TD", "service_td", "a service TD is bound to this TD, and nobody attests it"),
    ("SEPT_VE_DISABLE", "attributes", "the TD can be made to take its host's pages unawares"),
    ("TD attributes", "attributes", "the TD's attributes set bits that are reserved"),
    ("Fmspc", "collateral", "the collateral is for another processor line"),
    ("non-TDX", "collateral", "the TCB info in the collateral is not for TDX"),
    ("No matching TCB level", "tcb", "the platform is below every level that Intel's TCB info has"),
    ("below minimum", "tcb", "the quoting enclave is below every level that Intel's identity has"),
    ("TDX module", "module", "the TDX module is none that Intel's TCB info knows"),
    ("QE Identity", "collateral", "the QE identity in the collateral cannot be used"),
    ("TCB Info", "collateral", "the TCB info in the collateral cannot be used"),
    ("QeIdentity", "collateral", "the QE identity in the collateral cannot be used"),
    ("TcbInfo", "collateral", "the TCB info in the collateral cannot be used"),
    ("count mismatch", "collateral", "the TCB info in the collateral cannot be used"),
    ("tcbDate", "collateral", "the TCB info in the collateral cannot be used"),
    ("FMSPC", "collateral", "the TCB info in the collateral cannot be used"),
    ("CRL", "collateral", "a CRL in the collateral cannot be used"),
    ("QE ", "quoting_enclave", "the quoting enclave is not Intel's"),
    ("certificate chain", "chain", "a certificate chain does not hold"),
    ("certificate", "chain", "a certificate cannot be used"),
    ("Issuer", "chain", "a certificate chain does not hold"),
)
"""Words in dcap-qvl's refusals, first match first, with our code and text."""


def refusal(error: Exception) -> Problem:
    """The problem that dcap-qvl's exception tells of."""
    said = str(error)
    for words, code, text in _REFUSALS:
        if words in said:
            return Problem(code, text)
    return Problem("evidence", "Intel's rules for quotes do not hold, for a reason unknown here")
