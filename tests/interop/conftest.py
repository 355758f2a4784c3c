"""A system that clients of other makes speak to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.system import System


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system with the paced script for an engine."""
    system = System(tmp_path_factory.mktemp("interop") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


@pytest.fixture(scope="module")
def relay(system: System) -> str:
    """URL of the relay resource."""
    return f"http://127.0.0.1:{system.port + 1}/gateway/enclave-0"
