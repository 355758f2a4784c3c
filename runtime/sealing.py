"""Receipts are sealed for the holder of the thread key, so that Redis and the edge carry
bytes that say nothing. Both ends of it are here."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from memory.keys import ThreadKeys
from runtime.errors import SottoError

_NONCE = 12


def seal_receipt(keys: ThreadKeys, receipt_id: bytes, receipt: bytes, nonce: bytes) -> bytes:
    """Nonce (12 bytes) and ChaCha20-Poly1305 ciphertext; the receipt id is authenticated.

    The key belongs to one receipt id; the nonce is random because a lost receipt may be issued
    again under the same id.
    """
    cipher = ChaCha20Poly1305(keys.receipt_key(receipt_id))
    return nonce + cipher.encrypt(nonce, receipt, receipt_id)


def open_receipt(keys: ThreadKeys, receipt_id: bytes, sealed: bytes) -> bytes:
    """Inverse of `seal_receipt`.

    Raises:
        SottoError: The bytes were not sealed for this thread and receipt id.
    """
    try:
        cipher = ChaCha20Poly1305(keys.receipt_key(receipt_id))
        return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], receipt_id)
    except (InvalidTag, ValueError):
        raise SottoError(
            f"the receipt {receipt_id.hex()} does not open with this thread's key: it was altered "
            "on its way or belongs to someone else; ask for it again",
            code="receipt_unreadable",
        ) from None
