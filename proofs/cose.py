"""COSE_Sign1 (RFC 9052 section 4.2) with Ed25519, in the single form that this project signs.

Why not the library `cwt`: its decoder takes any of the six COSE messages, in any encoding and
with the algorithm in either header, where one signed thing must have one sequence of bytes and
one digest here; and importing it loads every COSE algorithm. What remains is this page.

The form: tag 18, protected header `{1: -8 (EdDSA), 16: type}` (RFC 9596), an empty unprotected
header, the payload attached, no external data. The type keeps one kind of signed claims from
passing as another under the same key.
"""

from __future__ import annotations

from dataclasses import dataclass

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import cbor
from proofs.ed25519 import verifies
from proofs.errors import UnreadableError

MAX_SIGN1 = 16 * 1024
SIGN1_TAG = 18
EDDSA = -8
_ALG, _TYP = 1, 16


@dataclass(frozen=True, slots=True)
class Sign1:
    """A decoded COSE_Sign1 whose signature nobody has checked yet.

    Attributes:
        protected: The encoded protected header.
        payload: What is signed.
        signature: 64 bytes.
    """

    protected: bytes
    payload: bytes
    signature: bytes

    def verifies(self, public_key: bytes) -> bool:
        """Whether the signature is by `public_key` (32 bytes, Ed25519)."""
        return verifies(public_key, self.signature, to_be_signed(self.protected, self.payload))


def _protected(typ: str) -> bytes:
    return cbor.encode({_ALG: EDDSA, _TYP: typ})


def to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """What a COSE_Sign1 signs: its Sig_structure without external data (RFC 9052 section 4.4)."""
    return cbor.encode(["Signature1", protected, b"", payload])


def sign1(payload: bytes, key: Ed25519PrivateKey, typ: str) -> bytes:
    """Sign `payload` as a thing of type `typ`; the encoded COSE_Sign1."""
    protected = _protected(typ)
    signature = key.sign(to_be_signed(protected, payload))
    return cbor.encode(cbor2.CBORTag(SIGN1_TAG, [protected, {}, payload, signature]))


def decode_sign1(data: bytes, typ: str) -> Sign1:
    """Decode a COSE_Sign1 of type `typ`, in exactly the form that `sign1` makes.

    Raises:
        UnreadableError: Anything else.
    """
    what = f"the COSE_Sign1 of type {typ}"
    message = cbor.decode(data, what=what, limit=MAX_SIGN1)
    if type(message) is not cbor2.CBORTag or message.tag != SIGN1_TAG:
        raise UnreadableError(f"{what} does not carry tag 18. It is something else.")
    protected, unprotected, payload, signature = cbor.as_array(message.value, what, 4)
    if protected != _protected(typ) or unprotected != {}:
        raise UnreadableError(f"{what} has other headers than EdDSA and this type.")
    return Sign1(
        _protected(typ),
        cbor.as_bytes(payload, f"{what}'s payload"),
        cbor.as_bytes(signature, f"{what}'s signature", size=64),
    )
