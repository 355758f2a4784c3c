"""Running systems for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.system import System


@pytest.fixture
def system_folder(tmp_path: Path) -> Path:
    """Where a system of this test keeps its data."""
    return tmp_path / "data"


@pytest.fixture
def scripted(system_folder: Path) -> Iterator[System]:
    """A running system with the paced script for an engine."""
    system = System(system_folder, ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()
