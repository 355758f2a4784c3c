"""Where the data set is; tests that need it skip and name it where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DATA = Path(os.environ.get("SOTTO_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
CSV = _DATA / "synthetic-persona-chat" / "valid.csv"

needs_data = pytest.mark.skipif(
    not CSV.is_file(), reason=f"data set {CSV.parent.name} is not here (SOTTO_DATA)"
)
