"""A private persona's definition, sealed: the operator stores it and cannot read it.

ChaCha20-Poly1305 (RFC 8439) under a random key that its creator's device keeps and gives to
verified enclaves alone. Handle and digest are bound as associated data, so a sealed definition
cannot stand for another persona's. It is padded, so that its length tells its size in steps of
4 KiB only.
"""

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from personas.errors import SealedError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
OVERHEAD: Final = NONCE_BYTES + 16
STEP_BYTES: Final = 4_096
_LABEL: Final = b"sottovoce sealed persona v1\x00"
_LENGTH: Final = struct.Struct(">I")


def seal_definition(
    key: bytes, handle: str, digest: bytes, definition: bytes, *, nonce: bytes
) -> bytes:
    """Seal a definition.

    Args:
        key: 32 random bytes, of this version alone.
        handle, digest: Whose definition it is.
        definition: Canonical JSON.
        nonce: 12 random bytes, never used before with this key.
    """
    plain = _LENGTH.pack(len(definition)) + definition
    plain += bytes(-len(plain) % STEP_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plain, _associated(handle, digest))


def open_definition(key: bytes, handle: str, digest: bytes, sealed: bytes) -> bytes:
    """Open a sealed definition; whether it has the digest is for the caller to check.

    Raises:
        SealedError: Another key, handle or digest, or it was changed.
    """
    nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        plain = ChaCha20Poly1305(key).decrypt(nonce, rest, _associated(handle, digest))
        (length,) = _LENGTH.unpack_from(plain)
    except (InvalidTag, ValueError, struct.error):
        raise SealedError(
            f"the sealed definition of `{handle}` does not open with this key: it was sealed with "
            "another one, or changed; its creator can publish a new version"
        ) from None
    definition, padding = plain[4 : 4 + length], plain[4 + length :]
    if len(definition) != length or len(padding) >= STEP_BYTES or any(padding):
        raise SealedError(f"the sealed definition of `{handle}` is not in the form that it must be")
    return definition


def _associated(handle: str, digest: bytes) -> bytes:
    return _LABEL + handle.encode() + b"\x00" + digest
