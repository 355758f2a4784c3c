"""The engine for OpenAI-compatible servers, against vLLM's own server as a process."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from runtime.enclave.engines.base import EngineError, FinishReason, Message, Sampling
from runtime.enclave.engines.openai import OpenAiEngine

MESSAGES = [Message("user", "hello there")]


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``vllm.entrypoints.openai.api_server`` with the small model, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(tiny_model), "--served-model-name", "tiny"),
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager"),
        *("--distributed-executor-backend", "uni"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest_asyncio.fixture
async def engine(server: str) -> AsyncIterator[OpenAiEngine]:
    """A started engine."""
    engine = OpenAiEngine(server, "tiny")
    await engine.start()
    yield engine
    await engine.close()


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_a_reply_streams_from_the_server(engine: OpenAiEngine) -> None:
    """Deltas come one after the other, and the last says why it ended."""
    sampling = Sampling(max_tokens=24, seed=3)
    deltas = [d async for d in engine.stream("a", MESSAGES, sampling, cache_salt="s")]
    assert "".join(d.text for d in deltas)
    assert deltas[-1].finish in (FinishReason.LENGTH, FinishReason.STOP)
    assert all(d.finish is None for d in deltas[:-1])


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_an_abort_ends_the_stream_as_cancelled(engine: OpenAiEngine) -> None:
    """The connection is closed, which the server takes as a cancel."""
    deltas = []
    async for delta in engine.stream("a", MESSAGES, Sampling(max_tokens=3000), cache_salt="s"):
        deltas.append(delta)
        if len(deltas) == 3:
            await engine.abort("a")
    assert deltas[-1].finish is FinishReason.CANCELLED
    assert engine.queued() == 0


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_a_model_that_is_not_served_is_named_beside_those_that_are(server: str) -> None:
    """The person who mistyped a model reads which there are."""
    with pytest.raises(EngineError, match="it serves tiny"):
        await OpenAiEngine(server, "tinny").start()


async def test_a_server_outside_the_enclave_is_refused() -> None:
    """Plaintext goes to loopback or nowhere."""
    for url in ("http://example.com/v1", "http://10.0.0.1/v1", "http://127.0.0.1.example.com/v1"):
        with pytest.raises(EngineError, match="outside this enclave"):
            OpenAiEngine(url, "m")


@pytest.mark.integration
async def test_no_server_is_one_clear_error() -> None:
    """Nothing listens: the error says where and what to do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(EngineError, match="start it first"):
        await OpenAiEngine(f"http://127.0.0.1:{port}/v1", "m").start()
