"""What a role's log says of HTTP: where a handler failed, and nothing of who asked for what."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

# A process of its own, since a role's logging is the process's.
PROGRAM = """
import asyncio
from aiohttp import web
from runtime.serving import bound_site
from runtime.telemetry import setup_logging

async def fail(request):
    raise ValueError("zeppelin")

async def main():
    app = web.Application()
    app.router.add_get("/", fail)
    async with bound_site(app, "127.0.0.1", 0) as port:
        for head in (b"zeppelin\\0: x", b"Host: x"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\\r\\n" + head + b"\\r\\nConnection: close\\r\\n\\r\\n")
            print((await reader.readline()).decode().split()[1])
            writer.close()

setup_logging("edge")
asyncio.run(main())
"""


def test_a_broken_request_and_a_defect_tell_nothing_of_the_client() -> None:
    """aiohttp itself would log the address, the broken line, and the defect's own words."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["400", "500"]
    assert done.stderr.count("edge ERROR") == 1, "whoever sends nonsense fills no log"
    assert "ValueError" in done.stderr
    assert "in fail" in done.stderr, "the place is there"
    assert "127.0.0.1" not in done.stderr
    assert "zeppelin" not in done.stderr
