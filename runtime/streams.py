"""Names of the Redis keys that roles share. Memory's own keys live in `memory.store`."""

from __future__ import annotations

LEAVES_STREAM = "sotto:leaves"
SETTLED_STREAM = "sotto:settled"
ENCLAVES_SET = "sotto:enclaves"


def receipt_key(receipt_id: str) -> str:
    """Hash with `sealed` (by the enclave) and `proof` (by the log)."""
    return f"sotto:receipt:{receipt_id}"


def enclave_key(gateway: str) -> str:
    """Hash with a live enclave's `bundle` and `proof`; expires when the enclave stops."""
    return f"sotto:enclave:{gateway}"
