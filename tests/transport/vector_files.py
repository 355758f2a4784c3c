"""Where the test vectors are; tests that need one which is absent skip and name it."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

_REPOSITORY = Path(__file__).parents[2]


def load(name: str) -> Any:
    """Read a JSON vector file, compressed or not."""
    folder = Path(os.environ.get("SOTTO_VECTORS", _REPOSITORY.parent / "shared" / "vectors"))
    path = folder / name
    if not path.is_file():
        pytest.skip(f"vector file {name} is absent")
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
