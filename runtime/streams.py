"""Names of the Redis keys that roles share. Memory's own keys live in `memory.store`."""

from __future__ import annotations

LEAVES_STREAM = "sotto:leaves"
SETTLED_STREAM = "sotto:settled"
ENCLAVES_SET = "sotto:enclaves"


def receipt_key(receipt_id: str) -> str:
    """Hash with `sealed` (by the enclave), `proof` and `cose` (by the log)."""
    return f"sotto:receipt:{receipt_id}"


def bundle_key(digest: str) -> str:
    """Hash with an attestation bundle and its `proof`, and in `next` the digest (hex) of the first
    bundle of the same keys after it."""
    return f"sotto:bundle:{digest}"


def enclave_key(gateway: str) -> str:
    """Hash with a live enclave's `bundle` and `proof`; expires when the enclave stops."""
    return f"sotto:enclave:{gateway}"
