"""A private persona's definition, sealed: the operator stores it and cannot read it.

ChaCha20-Poly1305 (RFC 8439) under a random key that its creator's device keeps and gives to
verified enclaves alone. Handle and digest are bound as associated data, so a sealed definition
cannot stand for another persona's. It is padded, so that its length tells its size in steps of
4 KiB only.

Each file that the persona names is sealed in parts, under a key that is derived from the same one
and the file's SHA-256: so a nonce is used for one text alone, and nothing is drawn. Where it is
kept is derived too: the operator cannot look for a file that they know.
"""

import hashlib
import hmac
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from personas.errors import SealedError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
OVERHEAD: Final = NONCE_BYTES + 16
STEP_BYTES: Final = 4_096
PART_BYTES: Final = 15 * STEP_BYTES
"""Of a file, in one part; sealed it has `OVERHEAD` less the nonce more."""
MAX_FILE_BYTES: Final = 128 * PART_BYTES - 4
_LABEL: Final = b"sottovoce sealed persona v1\x00"
_FILE: Final = b"sottovoce sealed file v1\x00"
_FILE_ADDRESS: Final = b"sottovoce sealed file address v1\x00"
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
    sealed = ChaCha20Poly1305(key).encrypt(nonce, _padded(definition), _associated(handle, digest))
    return nonce + sealed


def open_definition(key: bytes, handle: str, digest: bytes, sealed: bytes) -> bytes:
    """Open a sealed definition; whether it has the digest is for the caller to check.

    Raises:
        SealedError: Another key, handle or digest, or it was changed.
    """
    nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        plain = ChaCha20Poly1305(key).decrypt(nonce, rest, _associated(handle, digest))
    except (InvalidTag, ValueError):
        raise SealedError(
            f"the sealed definition of `{handle}` does not open with this key: it was sealed with "
            "another one, or changed; its creator can publish a new version"
        ) from None
    return _unpadded(plain, f"the sealed definition of `{handle}`")


def file_address(key: bytes, handle: str, digest: bytes) -> bytes:
    """Where a private persona's file is kept, 32 bytes: nobody without the key can tell which."""
    return hmac.digest(key, _associated(handle, digest, _FILE_ADDRESS), hashlib.sha256)


def seal_file(key: bytes, handle: str, digest: bytes, data: bytes) -> list[bytes]:
    """Seal a file of a private persona in parts of 61,456 bytes, the last one shorter.

    Args:
        key: Of the version of the persona.
        handle: Whose file it is.
        digest: The file's SHA-256.
        data: At most MAX_FILE_BYTES.
    """
    plain = _padded(data)
    cipher = ChaCha20Poly1305(_file_key(key, handle, digest))
    parts = range(0, len(plain), PART_BYTES)
    return [
        cipher.encrypt(_part(at, len(parts)), plain[start : start + PART_BYTES], b"")
        for at, start in enumerate(parts)
    ]


def open_part(
    key: bytes, handle: str, digest: bytes, sealed: bytes, *, number: int, count: int
) -> bytes:
    """Open one of `count` parts of a file; `join_parts` makes the file of them.

    Raises:
        SealedError: Another key, handle, file or place, or it was changed.
    """
    try:
        return ChaCha20Poly1305(_file_key(key, handle, digest)).decrypt(
            _part(number, count), sealed, b""
        )
    except (InvalidTag, ValueError):
        raise SealedError(
            f"part {number} of a file of `{handle}` does not open: it was changed, or is another "
            "one's; its creator can publish a new version"
        ) from None


def join_parts(handle: str, parts: bytes) -> bytes:
    """The file of its opened parts, one behind the other. Raises SealedError."""
    return _unpadded(parts, f"a sealed file of `{handle}`")


def _file_key(key: bytes, handle: str, digest: bytes) -> bytes:
    return hmac.digest(key, _associated(handle, digest, _FILE), hashlib.sha256)


def _part(number: int, count: int) -> bytes:
    """The nonce of a part: its place, and how many there are."""
    return struct.pack(">IQ", count, number)


def _padded(data: bytes) -> bytes:
    plain = _LENGTH.pack(len(data)) + data
    return plain + bytes(-len(plain) % STEP_BYTES)


def _unpadded(plain: bytes, what: str) -> bytes:
    try:
        (length,) = _LENGTH.unpack_from(plain)
    except struct.error:
        length = -1
    data, padding = plain[4 : 4 + length], plain[4 + length :]
    if len(data) != length or len(padding) >= STEP_BYTES or any(padding):
        raise SealedError(f"{what} is not in the form that it must be")
    return data


def _associated(handle: str, digest: bytes, label: bytes = _LABEL) -> bytes:
    return label + handle.encode() + b"\x00" + digest
