"""A world for an enclave, for every file here that runs one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis

from tests.runtime.enclave_world import World


@pytest.fixture
def world(tmp_path: Path, valkey: str, redis_client: Redis) -> World:
    """A world on the shared server, emptied."""
    return World(tmp_path, redis_client, valkey, Ed25519PrivateKey.generate())


@pytest.fixture
def let_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass at once, for whoever asks for the time of day."""
    right, ahead = time.time, 0.0

    def let_pass(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(time, "time", lambda: right() + ahead)
    return let_pass
