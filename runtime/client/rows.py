"""What a device's database gives back: receipts, erasures, verdicts, and what was said."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """The receipt of one turn, or of one completion, as far as it is here.

    Attributes:
        turn_id: Empty for a completion, which belongs to no thread.
        commitments: 64 bytes (request, response) for each time that the turn was sealed: the
            receipt must carry one of these pairs.
        receipt: COSE_Sign1, verified when it came; None before.
        proof: tlog-proof, verified when it came; None before.
        problem: Why the receipt was refused, None where it was not.
        seal_key: Of a completion: opens this receipt and nothing else. Forgotten when the receipt
            is here. None where the persona's thread key opens it.
        thread: Number of the thread with the persona; 0 for a completion.
        persona_digest: Of the persona that was asked for; None where any version would do.
        cose: The log's COSE receipt (RFC 9942), verified when it came; None before.
    """

    receipt_id: str
    turn_id: str
    persona: str
    enclave_id: str
    time: int
    outcome: str
    commitments: bytes
    receipt: bytes | None = None
    proof: str | None = None
    problem: str | None = None
    seal_key: bytes | None = field(default=None, repr=False)
    thread: int = 0
    persona_digest: bytes | None = None
    cose: bytes | None = None

    @property
    def status(self) -> str:
        """``refused``, ``settled``, ``received`` or ``waiting``."""
        return "refused" if self.problem is not None else _status(self.receipt, self.proof)


def _status(receipt: bytes | None, proof: str | None) -> str:
    if proof is not None:
        return "settled"
    return "waiting" if receipt is None else "received"


@dataclass(frozen=True, slots=True)
class Sealing:
    """One sealing of a turn: to which enclave, and the salts of its commitments.

    Attributes:
        enclave_id: Whose keys it was sealed to.
        request_salt, response_salt: From the HPKE exporter, 32 bytes each.
    """

    enclave_id: str
    request_salt: bytes = field(repr=False)
    response_salt: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Told:
    """What was said, for its owner to disclose or not; it never leaves the device by itself.

    Attributes:
        request: The message of a turn, or the body of a completion's request.
        response: The reply, as far as it went.
        sealings: In the order of the row's commitments.
    """

    request: bytes = field(repr=False)
    response: str = field(repr=False)
    sealings: tuple[Sealing, ...]


@dataclass(frozen=True, slots=True)
class ErasureRow:
    """The receipt of an erasure, as far as it is here.

    Attributes:
        receipt_id: The erasure's id.
        request_id: Under which it was asked for; the same request again is the same erasure.
        persona, thread: What was forgotten: the thread of this number with the persona.
        time: Unix seconds.
        enclave_id: Who signed; None before.
        receipt: COSE_Sign1, verified when it came; None before.
        proof, cose: As in `ReceiptRow`.
        scope: See `proofs.erasure.Scope`.
        asked: Of records: what was asked, as JSON. Of a rotation: digest of the file that is
            imported with it, in hex, empty without one.
        target: Of a rotation: number of the thread that goes on; else None.
    """

    receipt_id: str
    request_id: str
    persona: str
    thread: int
    time: int
    enclave_id: str | None = None
    receipt: bytes | None = None
    proof: str | None = None
    cose: bytes | None = None
    scope: str = "thread"
    asked: str = ""
    target: int | None = None

    @property
    def status(self) -> str:
        """``settled``, ``received`` or ``waiting``."""
        return _status(self.receipt, self.proof)

    @property
    def following(self) -> int:
        """Number of the thread that goes on after a rotation."""
        return self.thread + 1 if self.target is None else self.target


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """What was found when a receipt was judged.

    Attributes:
        receipt_id: The receipt.
        evaluated_at: Unix seconds, as of which it was judged.
        policy: Hex digest of the policy.
        holds: Whether it held.
        verdicts: JSON, an array of `proofs.verdict.Verdict.to_json`.
    """

    receipt_id: str
    evaluated_at: int
    policy: str
    holds: bool
    verdicts: str

    @property
    def outcome(self) -> tuple[object, ...]:
        """What two findings must share to be one: sentences may tell of times."""
        told = orjson.loads(self.verdicts)
        kept = tuple((one["name"], one["status"], tuple(one["codes"])) for one in told)
        return self.policy, self.holds, kept


@dataclass(frozen=True, slots=True)
class HandlePin:
    """What a device remembers of a published handle.

    Attributes:
        handle: Whose.
        key: The Ed25519 public key that owned it then, 32 bytes.
        number: Of the newest step that was seen.
        step: Digest of that step, 32 bytes.
    """

    handle: str
    key: bytes
    number: int
    step: bytes
