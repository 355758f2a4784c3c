"""What the tests of proofs share: an enclave, its platform, a log and the files they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import merkle
from proofs.bundle import bundle_entry, make_bundle
from proofs.checkpoint import Checkpoint
from proofs.claims import Claims
from proofs.cosereceipt import sign_root
from proofs.cosignature import Cosigner
from proofs.disclosure import Disclosure, Later, Said, encode_disclosure
from proofs.ed25519 import raw_public
from proofs.evidence.base import Platform
from proofs.evidence.simulated import SimulatedPlatform
from proofs.note import Note, Signer
from proofs.policy import Policy
from proofs.receipt import Outcome, Receipt, commitment, receipt_entry, sign_receipt
from proofs.tlogproof import TlogProof

NOW = 1_800_000_000
MEASUREMENTS = (("vm.firmware", b"\x01" * 48), ("vm.image", b"\x02" * 48))


def private_key(number: int) -> Ed25519PrivateKey:
    """A key that every run has again."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


ROOT, RECEIPT_KEY, LOG_KEY = private_key(1), private_key(2), private_key(3)
LOG = Signer("log.example/one", LOG_KEY)
WITNESSES = tuple(Cosigner(f"witness.example/{n}", private_key(20 + n)) for n in (1, 2, 3))


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


def _tree(
    entry: bytes, entries: list[bytes], name: str
) -> tuple[int, tuple[bytes, ...], Checkpoint]:
    """Index and path of `entry` among `entries`, and the tree's head."""
    leaves = [merkle.leaf_hash(one) for one in entries]
    index = entries.index(entry)
    path = merkle.inclusion_proof(index, len(leaves), merkle.subtree_of(leaves))
    return index, tuple(path), Checkpoint(name, len(leaves), merkle.root(leaves))


def prove(
    entry: bytes,
    entries: list[bytes],
    signer: Signer = LOG,
    witnesses: Iterable[Cosigner] = (),
) -> str:
    """The text of a log proof for `entry` among `entries`."""
    index, path, head = _tree(entry, entries, signer.name)
    note = signer.sign(head.format())
    cosigned = tuple(one.cosign(note, NOW) for one in witnesses)
    return TlogProof(index, path, Note(note.text, note.signatures + cosigned)).format()


def prove_cose(entry: bytes, entries: list[bytes], signer: Signer = LOG) -> bytes:
    """The COSE Receipt of `entry` among `entries`."""
    index, path, head = _tree(entry, entries, signer.name)
    return sign_root(head, signer).receipt(index, path)


@dataclass
class Story:
    """A bundle, a receipt by it, both in a log, and a policy that accepts them."""

    bundle: bytes
    receipt: bytes
    policy: Policy
    entries: list[bytes] = field(default_factory=list)
    witnesses: tuple[Cosigner, ...] = ()
    with_cose: bool = False
    later: bytes | None = None
    said: Said | None = None

    @property
    def bundle_proof(self) -> str:
        return self.prove(bundle_entry(self.bundle))

    @property
    def receipt_proof(self) -> str:
        return self.prove(receipt_entry(self.receipt))

    def prove(self, entry: bytes) -> str:
        return prove(entry, self.entries, witnesses=self.witnesses)

    def parts(self) -> Disclosure:
        later = self.later
        return Disclosure(
            self.receipt,
            self.receipt_proof,
            prove_cose(receipt_entry(self.receipt), self.entries) if self.with_cose else b"",
            self.bundle,
            self.bundle_proof,
            None if later is None else Later(later, self.prove(bundle_entry(later))),
            self.said,
        )

    def disclosure(self) -> bytes:
        return encode_disclosure(self.parts())


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
    the_platform: Platform | None = None,
    key: Ed25519PrivateKey = RECEIPT_KEY,
    **of_receipt: object,
) -> Story:
    """A whole story; arguments say what is odd about it."""
    bundle = make_bundle(the_claims or claims(), the_platform or platform(), NOW)
    signed = sign_receipt(receipt(bundle.digest, **of_receipt), key)
    encoded = bundle.encode()
    entries = [b"another", bundle_entry(encoded), b"more", receipt_entry(signed), b"last"]
    return Story(encoded, signed, policy(), entries)


SAID = Said(b"a question", b"1" * 32, "an answer", b"2" * 32)
LATER_S = 600
"""After so many seconds the keys of a full story are attested again."""


def full_story(
    the_claims: Claims | None = None,
    the_platform: Platform | None = None,
    later_claims: Claims | None = None,
    later_platform: Platform | None = None,
    **of_policy: object,
) -> Story:
    """A story with all that a disclosure can hold: witnesses, COSE Receipt, later epoch, words."""
    first = the_claims or claims()
    where = the_platform or platform()
    told = story(
        first,
        where,
        request=commitment(SAID.request_salt, "request", SAID.request),
        response=commitment(SAID.response_salt, "response", SAID.response.encode()),
    )
    again = later_claims or replace(
        first, not_before=first.not_before + LATER_S, epoch=first.epoch + 1
    )
    told.later = make_bundle(again, later_platform or where, again.not_before).encode()
    told.entries.append(bundle_entry(told.later))
    told.witnesses = WITNESSES
    told.with_cose = True
    told.said = SAID
    told.policy = policy(
        **{
            "witnesses": tuple(one.verifier for one in WITNESSES),
            "min_witnesses": 2,
            "require_cose": True,
            "require_later_epoch": True,
            **of_policy,
        }
    )
    return told


def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[2]
