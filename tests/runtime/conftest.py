"""A small random model on disk, for the tests that run vLLM."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "make_tiny_model.py"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 0.1 million random weights with a chat template; needs torch."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: `make vllm`")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    # In a process of its own: torch in this one would be forked into every child.
    subprocess.run(
        [sys.executable, str(TOOL), "--out", str(folder)], check=True, capture_output=True
    )
    return folder
