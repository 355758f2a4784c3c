"""Real evidence from the folder of test vectors; a test that needs one absent skips by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_VECTORS = Path(
    os.environ.get("SOTTO_VECTORS", Path(__file__).parents[2].parent / "shared" / "vectors")
)


def attestation(name: str) -> bytes:
    """The file `attestation/<name>`, such as `tdx/tdx_quote`."""
    path = _VECTORS / "attestation" / name
    if not path.exists():
        pytest.skip(f"{path.name} is not there: set SOTTO_VECTORS to the folder of test vectors")
    return path.read_bytes()
