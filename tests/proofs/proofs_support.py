"""What the tests of proofs share: an enclave, its platform, a log and the files they make."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import merkle
from proofs.bundle import bundle_entry, make_bundle
from proofs.checkpoint import Checkpoint
from proofs.claims import Claims
from proofs.disclosure import encode_disclosure
from proofs.ed25519 import raw_public
from proofs.evidence.simulated import SimulatedPlatform
from proofs.note import Signer
from proofs.policy import Policy
from proofs.receipt import Outcome, Receipt, receipt_entry, sign_receipt
from proofs.tlogproof import TlogProof

NOW = 1_800_000_000
MEASUREMENTS = (("vm.firmware", b"\x01" * 48), ("vm.image", b"\x02" * 48))


def private_key(number: int) -> Ed25519PrivateKey:
    """A key that every run has again."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


ROOT, RECEIPT_KEY, LOG_KEY = private_key(1), private_key(2), private_key(3)
LOG = Signer("log.example/one", LOG_KEY)


def platform(**changes: object) -> SimulatedPlatform:
    """A simulated platform under the test's root."""
    options = {"measurements": MEASUREMENTS, **changes}
    return SimulatedPlatform.create(ROOT, b"s" * 32, **options)  # type: ignore[arg-type]


def claims(**changes: object) -> Claims:
    """An enclave's claims."""
    base = Claims(
        key_configs=(b"\x07config-one", b"\x08config-two"),
        receipt_key=raw_public(RECEIPT_KEY),
        measurements=MEASUREMENTS,
        release=b"r" * 32,
        model_manifest=b"m" * 32,
        engine="scripted",
        model="a model",
        not_before=NOW,
        not_after=NOW + 3600,
        epoch=4,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def receipt(enclave: bytes, **changes: object) -> Receipt:
    """A receipt of the enclave with that bundle digest."""
    base = Receipt(
        receipt_id=b"i" * 16,
        enclave=enclave,
        key_config_id=7,
        persona=b"p" * 32,
        model_manifest=b"m" * 32,
        release=b"r" * 32,
        request=b"q" * 32,
        response=b"a" * 32,
        head_before=None,
        head_after=b"h" * 32,
        turn_index=0,
        previous=None,
        sampling=b"s" * 32,
        outcome=Outcome.COMPLETED,
        time=NOW + 60,
        epoch=4,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def prove(entry: bytes, entries: list[bytes], signer: Signer = LOG) -> str:
    """The text of a log proof for `entry` among `entries`."""
    leaves = [merkle.leaf_hash(one) for one in entries]
    index = entries.index(entry)
    path = merkle.inclusion_proof(index, len(leaves), merkle.subtree_of(leaves))
    head = Checkpoint(signer.name, len(leaves), merkle.root(leaves))
    return TlogProof(index, tuple(path), signer.sign(head.format())).format()


@dataclass
class Story:
    """A bundle, a receipt by it, both in a log, and a policy that accepts them."""

    bundle: bytes
    receipt: bytes
    policy: Policy
    entries: list[bytes] = field(default_factory=list)

    @property
    def bundle_proof(self) -> str:
        return prove(bundle_entry(self.bundle), self.entries)

    @property
    def receipt_proof(self) -> str:
        return prove(receipt_entry(self.receipt), self.entries)

    def disclosure(self) -> bytes:
        return encode_disclosure(self.receipt, self.receipt_proof, self.bundle, self.bundle_proof)


def policy(**changes: object) -> Policy:
    """A policy that pins the test's root, software and log."""
    options: dict[str, object] = {
        "allow_simulated": True,
        "simulated_roots": (raw_public(ROOT),),
        "measurements": (dict(MEASUREMENTS),),
        "log_keys": (LOG.verifier,),
        **changes,
    }
    return Policy.model_validate(options)


def story(
    the_claims: Claims | None = None,
    the_platform: SimulatedPlatform | None = None,
    key: Ed25519PrivateKey = RECEIPT_KEY,
    **of_receipt: object,
) -> Story:
    """A whole story; arguments say what is odd about it."""
    bundle = make_bundle(the_claims or claims(), the_platform or platform(), NOW)
    signed = sign_receipt(receipt(bundle.digest, **of_receipt), key)
    encoded = bundle.encode()
    entries = [b"another", bundle_entry(encoded), b"more", receipt_entry(signed), b"last"]
    return Story(encoded, signed, policy(), entries)


def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[2]
