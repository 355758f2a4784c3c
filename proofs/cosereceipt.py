"""COSE Receipts (RFC 9942) of inclusion in our logs, in the single form that they sign.

A COSE_Sign1, tag 18, over the Merkle root, which is detached (RFC 9942 section 5.2.1): a
verifier computes it from the entry and the path. So one signature serves all entries of one
tree head, and only the path differs.

The protected header: `{1: -8 (EdDSA), 4: kid, 15: {1: origin, 2: "tree/<size>"}, 395: 1}`. CWT
claims `iss` and `sub` and a `kid` are what RFC 9943 wants of a receipt that carries no
certificate. The `kid` is the key id of c2sp.org/signed-note, as in a checkpoint. The root alone
would leave the tree's size unsigned, so `sub` names the tree by it. The unprotected header:
`{396: {-1: [<<[size, index, [path...]]>>]}}`, one proof.

A log signs its checkpoints with the same key. No bytes are both: a checkpoint is UTF-8, and what
is signed here begins with 0x84, with which no UTF-8 begins.

The path of the only entry of a tree is empty, which the algorithm of RFC 9162 covers and the
CDDL of RFC 9942, wanting one hash or more, does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cbor2

from proofs import b64, cbor, merkle
from proofs.checkpoint import Checkpoint
from proofs.cose import EDDSA, SIGN1_TAG, to_be_signed
from proofs.ed25519 import verifies
from proofs.errors import RefusedError, UnreadableError
from proofs.note import KeyType, Signer, VerifierKey

MAX_COSE_RECEIPT = 8 * 1024
_ALG, _KID, _CWT_CLAIMS, _VDS, _VDP = 1, 4, 15, 395, 396
_ISS, _SUB = 1, 2
_RFC9162_SHA256 = 1
_INCLUSION = -1
_TREE = "tree/"
_MAX_ORIGIN = 1024
_WHAT = "the COSE receipt"


@dataclass(frozen=True, slots=True)
class SignedRoot:
    """A tree head signed for COSE receipts.

    Attributes:
        protected: The encoded protected header.
        signature: 64 bytes, over the detached root.
        size: Entries of the tree.
    """

    protected: bytes
    signature: bytes
    size: int

    def receipt(self, index: int, path: Sequence[bytes]) -> bytes:
        """The receipt of the entry at `index`, whose inclusion path leads to the root."""
        proof = cbor.encode([self.size, index, list(path)])
        unprotected = {_VDP: {_INCLUSION: [proof]}}
        message = [self.protected, unprotected, None, self.signature]
        return cbor.encode(cbor2.CBORTag(SIGN1_TAG, message))


@dataclass(frozen=True, slots=True)
class CoseReceipt:
    """A decoded receipt. It says nothing until `verify` returned.

    Attributes:
        origin: The log's name.
        key_id: Which of its keys signed, 4 bytes.
        size: Entries of the tree.
        index: The entry's index, from 0.
        path: The inclusion proof, from the leaf's sibling upwards.
        signature: 64 bytes.
    """

    origin: str
    key_id: bytes
    size: int
    index: int
    path: tuple[bytes, ...]
    signature: bytes

    def verify(self, entry: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
        """The tree head that a log of `keys` signed, if its tree holds `entry` at the index.

        Raises:
            RefusedError: No key, or the path and the signature do not hold together.
        """
        root = merkle.inclusion_root(self.index, self.size, merkle.leaf_hash(entry), self.path)
        if root is None:
            raise RefusedError("The COSE receipt's path has not the shape of its tree. Refuse it.")
        message = to_be_signed(_protected(self.origin, self.key_id, self.size), root)
        of_origin = [key for key in keys if (key.name, key.key_id) == (self.origin, self.key_id)]
        if not of_origin:
            raise RefusedError(
                "The COSE receipt is of a log whose key is not pinned. Pin it, or refuse."
            )
        if not any(
            key.key_type is KeyType.ED25519 and verifies(key.public_key, self.signature, message)
            for key in of_origin
        ):
            raise RefusedError(
                "The COSE receipt does not hold: it is of another entry, or its path or its "
                "signature is false. Refuse it."
            )
        return Checkpoint(self.origin, self.size, root)


def sign_root(checkpoint: Checkpoint, signer: Signer) -> SignedRoot:
    """Sign a tree head for the receipts of all its entries."""
    protected = _protected(signer.name, signer.verifier.key_id, checkpoint.size)
    signature = signer.key.sign(to_be_signed(protected, checkpoint.root))
    return SignedRoot(protected, signature, checkpoint.size)


def decode_cose_receipt(data: bytes) -> CoseReceipt:
    """Decode a receipt in exactly the form that `SignedRoot.receipt` makes.

    Raises:
        UnreadableError: Anything else.
    """
    message = cbor.decode(data, what=_WHAT, limit=MAX_COSE_RECEIPT)
    if type(message) is not cbor2.CBORTag or message.tag != SIGN1_TAG:
        raise UnreadableError(f"{_WHAT} does not carry tag 18. It is something else.")
    protected, unprotected, payload, signature = cbor.as_array(message.value, _WHAT, 4)
    origin, key_id, signed_size = _read_protected(cbor.as_bytes(protected, _WHAT, most=4096))
    if payload is not None:
        raise UnreadableError(f"{_WHAT} should have no payload of its own. Get it again.")
    size, index, path = _read_proof(unprotected)
    if size != signed_size:
        raise UnreadableError(f"{_WHAT} names trees of two sizes. Get it again.")
    signature = cbor.as_bytes(signature, f"{_WHAT}'s signature", size=64)
    return CoseReceipt(origin, key_id, size, index, path, signature)


def verify_cose_receipt(data: bytes, entry: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
    """Decode and verify; raises as `decode_cose_receipt` and `CoseReceipt.verify`."""
    return decode_cose_receipt(data).verify(entry, keys)


def _protected(origin: str, key_id: bytes, size: int) -> bytes:
    claims = {_ISS: origin, _SUB: f"{_TREE}{size}"}
    return cbor.encode({_ALG: EDDSA, _KID: key_id, _CWT_CLAIMS: claims, _VDS: _RFC9162_SHA256})


def _read_protected(data: bytes) -> tuple[str, bytes, int]:
    """Origin, key id and size of a protected header in the one form there is."""
    what = f"{_WHAT}'s protected header"
    header = _as_map(cbor.decode(data, what=what, limit=4096), what)
    claims = _as_map(header.get(_CWT_CLAIMS), f"{what}'s CWT claims")
    origin = cbor.as_text(claims.get(_ISS), f"{what}'s issuer", _MAX_ORIGIN)
    subject = cbor.as_text(claims.get(_SUB), f"{what}'s subject", 32)
    key_id = cbor.as_bytes(header.get(_KID), f"{what}'s key id", size=4)
    size = b64.decimal(subject.removeprefix(_TREE), f"{what}'s tree size")
    if data != _protected(origin, key_id, size):
        raise UnreadableError(f"{what} is not that of a log of this kind. It is something else.")
    return origin, key_id, size


def _read_proof(unprotected: object) -> tuple[int, int, tuple[bytes, ...]]:
    """Size, index and path out of the unprotected header."""
    what = f"{_WHAT}'s inclusion proof"
    header = _as_map(unprotected, what)
    proofs = _as_map(header.get(_VDP), what)
    if len(header) != 1 or len(proofs) != 1:
        raise UnreadableError(f"{_WHAT} has other headers than one inclusion proof. Refuse it.")
    (proof,) = cbor.as_array(proofs.get(_INCLUSION), what, 1)
    value = cbor.decode(cbor.as_bytes(proof, what), what=what, limit=MAX_COSE_RECEIPT)
    size, index, path = cbor.as_array(value, what, 3)
    hashes = cbor.as_list(path, f"{what}'s path", merkle.MAX_PATH)
    return (
        cbor.as_uint(size, f"{what}'s tree size"),
        cbor.as_uint(index, f"{what}'s index"),
        tuple(cbor.as_bytes(one, f"a hash of {what}", size=merkle.HASH_SIZE) for one in hashes),
    )


def _as_map(value: object, what: str) -> Mapping[object, object]:
    # cbor2 6 reads maps inside tags as frozendicts, which are no dicts.
    if not isinstance(value, Mapping):
        raise UnreadableError(f"{what} is missing or no map. It is something else.")
    return value
