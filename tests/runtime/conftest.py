"""A world for an enclave, for every file here that runs one."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis

from tests.runtime.enclave_world import World


@pytest.fixture
def world(tmp_path: Path, valkey: str, redis_client: Redis) -> World:
    """A world on the shared server, emptied."""
    return World(tmp_path, redis_client, valkey, Ed25519PrivateKey.generate())
