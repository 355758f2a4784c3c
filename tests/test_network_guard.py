"""The guard itself: what it keeps tests from."""

import asyncio
import socket

import pytest


def test_a_unit_test_reaches_no_network() -> None:
    """Not even loopback: protocol code has no business there."""
    for host in ("127.0.0.1", "192.0.2.1"):
        with pytest.raises(PermissionError):
            socket.create_connection((host, 9), timeout=1)


@pytest.mark.integration
async def test_an_integration_test_reaches_loopback_and_no_further() -> None:
    """Servers that a test started, and nobody else's, whichever library connects."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    server.close()
    with pytest.raises(PermissionError):
        await asyncio.open_connection("192.0.2.1", 9)
