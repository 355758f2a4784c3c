"""COSE Receipts: made by a log, verified by it and by hand, and refused at every changed byte."""

from __future__ import annotations

import hashlib

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from log_support import LOG, entry

from proofs import merkle
from proofs.checkpoint import Checkpoint
from proofs.cosereceipt import SignedRoot, decode_cose_receipt, sign_root, verify_cose_receipt
from proofs.errors import ProofError, RefusedError, UnreadableError
from proofs.note import KeyType, Signer, VerifierKey

KEYS = [LOG.verifier]


def tree(size: int) -> tuple[Checkpoint, list[bytes]]:
    """A log's head, and its leaf hashes."""
    leaves = [merkle.leaf_hash(entry(n)) for n in range(size)]
    return Checkpoint(LOG.name, size, merkle.root(leaves)), leaves


def receipt(index: int, size: int, signer: Signer = LOG) -> bytes:
    """The receipt of an entry of a tree of that size."""
    head, leaves = tree(size)
    path = merkle.inclusion_proof(index, size, merkle.subtree_of(leaves))
    return sign_root(head, signer).receipt(index, path)


def altered(data: bytes, **changes: object) -> bytes:
    """A receipt taken apart as RFC 9942 has it, changed, and put together again."""
    protected, unprotected, payload, signature = cbor2.loads(data).value
    size, index, path = cbor2.loads(unprotected[396][-1][0])
    parts = {
        "tag": 18,
        "header": dict(cbor2.loads(protected)),
        "payload": payload,
        "signature": signature,
        "size": size,
        "index": index,
        "path": list(path),
        "more": {},
        "proofs": None,
        **changes,
    }
    proof = cbor2.dumps([parts["size"], parts["index"], parts["path"]], canonical=True)
    message = [
        cbor2.dumps(parts["header"], canonical=True),
        {396: parts["proofs"] or {-1: [proof]}, **parts["more"]},  # type: ignore[dict-item]
        parts["payload"],
        parts["signature"],
    ]
    return cbor2.dumps(cbor2.CBORTag(parts["tag"], message), canonical=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 300])
def test_every_entry_of_a_tree_has_a_receipt(size: int) -> None:
    """One signature, a path for each entry, and the head that was signed comes out."""
    head, leaves = tree(size)
    signed = sign_root(head, LOG)
    subtree = merkle.subtree_of(leaves)
    for index in range(0, size, max(1, size // 9)):
        data = signed.receipt(index, merkle.inclusion_proof(index, size, subtree))
        assert verify_cose_receipt(data, entry(index), KEYS) == head
        assert decode_cose_receipt(data).index == index
        with pytest.raises(RefusedError):
            verify_cose_receipt(data, entry(index + 1), KEYS)


def test_the_form_is_that_of_the_standards() -> None:
    """Taken apart and verified by hand, after RFC 9942, RFC 9052 and RFC 9162 alone."""
    message = cbor2.loads(receipt(2, 5))
    assert message.tag == 18
    protected, unprotected, payload, signature = message.value
    header = cbor2.loads(protected)
    assert payload is None
    assert dict(header) == {
        1: -8,
        4: LOG.verifier.key_id,
        15: {1: LOG.name, 2: "tree/5"},
        395: 1,
    }
    (proof,) = unprotected[396][-1]
    size, index, path = cbor2.loads(proof)
    assert (size, index, len(path)) == (5, 2, 3)
    leaf = hashlib.sha256(b"\x00" + entry(2)).digest()
    # Entry 2 of 5: its sibling is to the right, then a pair to the left, then the last one.
    pair = hashlib.sha256(b"\x01" + leaf + path[0]).digest()
    four = hashlib.sha256(b"\x01" + path[1] + pair).digest()
    root = hashlib.sha256(b"\x01" + four + path[2]).digest()
    signed = cbor2.dumps(["Signature1", protected, b"", root])
    Ed25519PublicKey.from_public_bytes(LOG.verifier.public_key).verify(signature, signed)


def test_cut_longer_and_changed_receipts_are_refused() -> None:
    """At every byte: never a pass, never another error than ours."""
    data = receipt(5, 20)
    for end in range(len(data)):
        with pytest.raises(UnreadableError):
            decode_cose_receipt(data[:end])
    with pytest.raises(UnreadableError):
        decode_cose_receipt(data + b"\x00")
    for place in range(len(data)):
        for bit in (0x01, 0x80):
            changed = bytearray(data)
            changed[place] ^= bit
            with pytest.raises(ProofError):
                verify_cose_receipt(bytes(changed), entry(5), KEYS)


def _header(**changes: object) -> dict[object, object]:
    claims = {1: LOG.name, 2: "tree/20"}
    header = {"alg": -8, "kid": LOG.verifier.key_id, "claims": claims, "vds": 1, **changes}
    labels = {"alg": 1, "kid": 4, "claims": 15, "vds": 395, "typ": 16}
    return {labels[name]: value for name, value in header.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": 98},
        {"payload": b"\x00" * 32},
        {"signature": b"\x00" * 63},
        {"header": _header(alg=-7)},
        {"header": _header(vds=2)},
        {"header": _header(typ="application/x")},
        {"header": _header(kid=b"\x00" * 5)},
        {"header": _header(claims={1: LOG.name})},
        {"header": _header(claims={1: LOG.name, 2: "20"})},
        {"header": _header(claims={1: LOG.name, 2: "tree/020"})},
        {"header": _header(claims={1: LOG.name, 2: "tree/20", 6: 1})},
        {"header": _header(claims="tree/20")},
        {"header": {1: -8}},
        {"size": 21},
        {"size": "20"},
        {"index": -1},
        {"path": [b"\x00" * 31]},
        {"path": [b"\x00" * 32] * 64},
        {"path": b"\x00" * 32},
        {"more": {1: -8}},
        {"proofs": {-1: []}},
        {"proofs": {-1: [b"\x80", b"\x80"]}},
        {"proofs": {-2: [b"\x80"]}},
        {"proofs": {-1: [b"\x80"]}},
        {"proofs": [b"\x80"]},
    ],
)
def test_other_forms_are_unreadable(changes: dict[str, object]) -> None:
    """What is well-formed CBOR and not the one form that logs here sign."""
    data = receipt(5, 20)
    assert altered(data) == data
    with pytest.raises(UnreadableError):
        decode_cose_receipt(altered(data, **changes))


def test_what_does_not_hold_is_refused() -> None:
    """Another place, another key, another origin, and a witness's key in the log's stead."""
    data = receipt(5, 20)
    other = Signer(LOG.name, Ed25519PrivateKey.generate())
    for changed in (altered(data, index=4), altered(data, index=20), altered(data, path=[])):
        with pytest.raises(RefusedError):
            verify_cose_receipt(changed, entry(5), KEYS)
    for keys in (
        [],
        [other.verifier],
        [VerifierKey("log.example/two", LOG.verifier.public_key)],
        [VerifierKey(LOG.name, LOG.verifier.public_key, KeyType.ED25519_COSIGNATURE)],
    ):
        with pytest.raises(RefusedError, match="not pinned"):
            verify_cose_receipt(data, entry(5), keys)
    # Signed by another key, under the id of the pinned one.
    head, leaves = tree(20)
    forged = SignedRoot(sign_root(head, LOG).protected, sign_root(head, other).signature, 20)
    path = merkle.inclusion_proof(5, 20, merkle.subtree_of(leaves))
    with pytest.raises(RefusedError, match="does not hold"):
        verify_cose_receipt(forged.receipt(5, path), entry(5), KEYS)
    assert verify_cose_receipt(data, entry(5), [other.verifier, *KEYS]).size == 20


def test_the_size_of_the_tree_is_signed() -> None:
    """A root alone fits paths of trees of other sizes; the signature names one size."""
    # Entry 0 has the same path in a tree of 3 and, were the size free, in one of 4.
    data = receipt(0, 3)
    claims = {1: LOG.name, 2: "tree/4"}
    header = {1: -8, 4: LOG.verifier.key_id, 15: claims, 395: 1}
    with pytest.raises(RefusedError, match="does not hold"):
        verify_cose_receipt(altered(data, size=4, header=header), entry(0), KEYS)
