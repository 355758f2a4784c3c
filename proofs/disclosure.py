"""The file that a receipt's owner gives away: enough to verify the receipt alone, offline.

Encoding: a CBOR array `["sottovoce-disclosure-v2", receipt, receipt's log proof, COSE Receipt,
attestation bundle, bundle's log proof, later, said, checksum]`. Proofs and COSE Receipt are empty
where there is none; `later` is null or `[bundle, log proof]` of the next evidence epoch; `said` is
null or `[request, salt, response, salt]`, which its owner alone can give away.

Version 1 lacks the COSE Receipt, `later` and `said`, and is still read.

The checksum is SHA-256 over all bytes before it. It guards against damage, not forgery: notes may
carry lines that nobody here can verify, and a bit flipped in one of those should make the file
unreadable rather than go unseen.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from proofs import cbor
from proofs.bundle import MAX_BUNDLE
from proofs.errors import UnreadableError
from proofs.receipt import MAX_RECEIPT, Receipt, commitment
from proofs.tlogproof import MAX_PROOF

MAX_COSE_RECEIPT = 16 * 1024
MAX_REQUEST = 256 * 1024
MAX_RESPONSE = 4 * 1024 * 1024
SALT_SIZE = 32
MAX_SAID = MAX_REQUEST + MAX_RESPONSE + 2 * SALT_SIZE
MAX_DISCLOSURE = MAX_RECEIPT + MAX_COSE_RECEIPT + 2 * MAX_BUNDLE + 3 * MAX_PROOF + MAX_SAID + 256
LABEL_V1 = "sottovoce-disclosure-v1"
LABEL = "sottovoce-disclosure-v2"
CHECKSUM_SIZE = 32


@dataclass(frozen=True, slots=True)
class Later:
    """The first bundle over the same keys after the receipt's own.

    Attributes:
        bundle: The attestation bundle.
        proof: Text of its log proof, empty where there is none.
    """

    bundle: bytes
    proof: str

    def __post_init__(self) -> None:
        cbor.as_bytes(self.bundle, "the later bundle", most=MAX_BUNDLE)
        read_proof(self.proof)

    def items(self) -> list[object]:
        """As an array of the encoding."""
        return [self.bundle, self.proof]


@dataclass(frozen=True, slots=True)
class Said:
    """What was said in one turn, with the salts of its commitments; content, never to be logged.

    Attributes:
        request: UTF-8 text of the message of a turn, or the exact body of a completion's request;
            at most `MAX_REQUEST` bytes.
        request_salt: 32 bytes.
        response: The reply's text as far as it went, at most `MAX_RESPONSE` bytes in UTF-8.
        response_salt: 32 bytes.
    """

    request: bytes = field(repr=False)
    request_salt: bytes = field(repr=False)
    response: str = field(repr=False)
    response_salt: bytes = field(repr=False)

    def __post_init__(self) -> None:
        cbor.as_bytes(self.request, "the disclosed request", least=0, most=MAX_REQUEST)
        # HMAC (RFC 2104) pads its key with zeros: of other lengths, several would be the same.
        cbor.as_bytes(self.request_salt, "the request's salt", size=SALT_SIZE)
        cbor.as_bytes(self.response_salt, "the response's salt", size=SALT_SIZE)
        if self.response:
            cbor.as_text(self.response, "the disclosed response", MAX_RESPONSE)
        elif type(self.response) is not str:
            raise UnreadableError("the disclosed response should be text. Get it again.")
        if len(self.response.encode()) > MAX_RESPONSE:
            raise UnreadableError(f"the disclosed response is longer than {MAX_RESPONSE} bytes.")

    def items(self) -> list[object]:
        """As an array of the encoding."""
        return [self.request, self.request_salt, self.response, self.response_salt]

    def is_request_of(self, receipt: Receipt) -> bool:
        """Whether the receipt commits to this request under this salt."""
        made = commitment(self.request_salt, "request", self.request)
        return hmac.compare_digest(made, receipt.request)

    def is_response_of(self, receipt: Receipt) -> bool:
        """Whether the receipt commits to this response under this salt."""
        made = commitment(self.response_salt, "response", self.response.encode())
        return hmac.compare_digest(made, receipt.response)


@dataclass(frozen=True, slots=True)
class Disclosure:
    """The parts of a disclosure, each still to be decoded and verified.

    Attributes:
        receipt: The signed receipt.
        receipt_proof: Text of its log proof, empty where there is none.
        cose_receipt: Its COSE Receipt (RFC 9942), empty where there is none.
        bundle: The attestation bundle that the receipt names.
        bundle_proof: Text of its log proof, empty where there is none.
        later: The bundle of the next evidence epoch, where there is one yet.
        said: What was said, where the owner discloses it.

    Raises:
        UnreadableError: A part that is longer than a part may be.
    """

    receipt: bytes
    receipt_proof: str
    cose_receipt: bytes
    bundle: bytes
    bundle_proof: str
    later: Later | None = None
    said: Said | None = None

    def __post_init__(self) -> None:
        cbor.as_bytes(self.receipt, "the receipt", most=MAX_RECEIPT)
        read_proof(self.receipt_proof)
        cbor.as_bytes(self.cose_receipt, "the COSE Receipt", least=0, most=MAX_COSE_RECEIPT)
        cbor.as_bytes(self.bundle, "the attestation bundle", most=MAX_BUNDLE)
        read_proof(self.bundle_proof)


def encode_disclosure(disclosure: Disclosure) -> bytes:
    """The disclosure's one encoding; its file name ends in `.sotto-receipt`."""
    items = [
        LABEL,
        disclosure.receipt,
        disclosure.receipt_proof,
        disclosure.cose_receipt,
        disclosure.bundle,
        disclosure.bundle_proof,
        None if disclosure.later is None else disclosure.later.items(),
        None if disclosure.said is None else disclosure.said.items(),
    ]
    body = cbor.encode([*items, bytes(CHECKSUM_SIZE)])[:-CHECKSUM_SIZE]
    return body + hashlib.sha256(body).digest()


def decode_disclosure(data: bytes) -> Disclosure:
    """Take a disclosure apart.

    Raises:
        UnreadableError: Not a disclosure, or damaged.
    """
    value = cbor.decode(data, what="the disclosure", limit=MAX_DISCLOSURE)
    length = 6 if isinstance(value, list) and value and value[0] == LABEL_V1 else 9
    label, receipt, proof, *rest, checksum = cbor.as_array(value, "the disclosure", length)
    cbor.check_label(label, LABEL_V1 if length == 6 else LABEL, "the disclosure")
    found = cbor.as_bytes(checksum, "the disclosure's checksum", size=CHECKSUM_SIZE)
    if not hmac.compare_digest(found, hashlib.sha256(data[:-CHECKSUM_SIZE]).digest()):
        raise UnreadableError("The disclosure is damaged: its checksum differs. Get it again.")
    cose, bundle, bundle_proof, later, said = rest if length == 9 else (b"", *rest, None, None)
    return Disclosure(
        cbor.as_bytes(receipt, "the receipt", most=MAX_RECEIPT),
        read_proof(proof),
        cbor.as_bytes(cose, "the COSE Receipt", least=0, most=MAX_COSE_RECEIPT),
        cbor.as_bytes(bundle, "the attestation bundle", most=MAX_BUNDLE),
        read_proof(bundle_proof),
        None if later is None else _later(later),
        None if said is None else read_said(said),
    )


def _later(value: object) -> Later:
    bundle, proof = cbor.as_array(value, "the later bundle", 2)
    return Later(
        cbor.as_bytes(bundle, "the later bundle", most=MAX_BUNDLE),
        read_proof(proof),
    )


def read_proof(value: object) -> str:
    """Text of a log proof, empty where there is none; still to be parsed.

    Raises:
        UnreadableError: Something else.
    """
    return "" if value == "" else cbor.as_text(value, "a log proof", MAX_PROOF)


def read_said(value: object) -> Said:
    """What was said, from its decoded array.

    Raises:
        UnreadableError: Something else.
    """
    request, request_salt, response, response_salt = cbor.as_array(value, "what was said", 4)
    return Said(
        cbor.as_bytes(request, "the disclosed request", least=0, most=MAX_REQUEST),
        cbor.as_bytes(request_salt, "the request's salt", size=SALT_SIZE),
        response if type(response) is str else cbor.as_text(response, "the disclosed response", 1),
        cbor.as_bytes(response_salt, "the response's salt", size=SALT_SIZE),
    )
