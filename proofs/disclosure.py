"""The file that a receipt's owner gives away: enough to verify the receipt alone, offline.

Encoding: a CBOR array `["sottovoce-disclosure-v1", receipt, receipt's log proof, attestation
bundle, bundle's log proof, checksum]`. The checksum is SHA-256 over all bytes before it. It
guards against damage, not forgery: notes may carry lines that nobody here can verify, and a bit
flipped in one of those should make the file unreadable rather than go unseen.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from proofs import cbor
from proofs.bundle import MAX_BUNDLE
from proofs.errors import UnreadableError
from proofs.receipt import MAX_RECEIPT
from proofs.tlogproof import MAX_PROOF

MAX_DISCLOSURE = MAX_RECEIPT + MAX_BUNDLE + 2 * MAX_PROOF + 256
_LABEL = "sottovoce-disclosure-v1"
_CHECKSUM = 32


@dataclass(frozen=True, slots=True)
class Disclosure:
    """The parts of a disclosure, each still to be decoded and verified.

    Attributes:
        receipt: The signed receipt.
        receipt_proof: Text of its log proof.
        bundle: The attestation bundle.
        bundle_proof: Text of its log proof.
    """

    receipt: bytes
    receipt_proof: str
    bundle: bytes
    bundle_proof: str


def encode_disclosure(
    receipt: bytes, receipt_proof: str, bundle: bytes, bundle_proof: str
) -> bytes:
    """The disclosure's one encoding; its file name ends in `.sotto-receipt`."""
    items = [_LABEL, receipt, receipt_proof, bundle, bundle_proof]
    body = cbor.encode([*items, bytes(_CHECKSUM)])[:-_CHECKSUM]
    return body + hashlib.sha256(body).digest()


def decode_disclosure(data: bytes) -> Disclosure:
    """Take a disclosure apart.

    Raises:
        UnreadableError: Not a disclosure, or damaged.
    """
    value = cbor.decode(data, what="the disclosure", limit=MAX_DISCLOSURE)
    label, receipt, receipt_proof, bundle, bundle_proof, checksum = cbor.as_array(
        value, "the disclosure", 6
    )
    cbor.check_label(label, _LABEL, "the disclosure")
    found = cbor.as_bytes(checksum, "the disclosure's checksum", size=_CHECKSUM)
    if not hmac.compare_digest(found, hashlib.sha256(data[:-_CHECKSUM]).digest()):
        raise UnreadableError("The disclosure is damaged: its checksum differs. Get it again.")
    return Disclosure(
        cbor.as_bytes(receipt, "the receipt", most=MAX_RECEIPT),
        cbor.as_text(receipt_proof, "the receipt's log proof", MAX_PROOF),
        cbor.as_bytes(bundle, "the attestation bundle", most=MAX_BUNDLE),
        cbor.as_text(bundle_proof, "the bundle's log proof", MAX_PROOF),
    )
