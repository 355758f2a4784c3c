"""The page for people who bring their own client keeps its word."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.system import System
from tests.interop.examples import page_example

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_the_python_example(system: System, relay: str) -> None:
    """The page's Python runs as written: personas, a reply, a stream, a receipt that holds."""
    done = subprocess.run(
        [sys.executable, "-c", page_example("python", relay)],
        cwd=system.data.parent,  # the example finds its policy under data/
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    personas, *replies, verdict = done.stdout.splitlines()
    assert "'wren'" in personas
    assert len(replies) == 2
    assert all(replies)
    assert verdict == "the receipt holds: completed"
