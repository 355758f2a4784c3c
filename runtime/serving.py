"""Bind, serve and stop HTTP applications, with one clear line where a port is taken."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator

from aiohttp import web

from runtime.errors import SetupError

# Streams get their own grace from their owners; what is left after it is cut.
_SHUTDOWN_S = 0.5
_CANCEL_S = 0.3


@contextlib.asynccontextmanager
async def bound_site(app: web.Application | web.Server, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app` while the block runs; access is not logged, since it would hold addresses.

    Yields:
        The port: `port`, or where that is 0, the one that the system chose.
    """
    runner: web.BaseRunner
    if isinstance(app, web.Server):
        runner = web.ServerRunner(app, shutdown_timeout=_SHUTDOWN_S)
    else:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise port_error(host, port, error) from None
        bound: int = runner.addresses[0][1]
        yield bound
    finally:
        await runner.cleanup()


def port_error(host: str, port: int, error: OSError) -> SetupError:
    """Why an address could not be bound, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return SetupError(
            f"port {port} on {host} is taken by another program; stop it or choose another port",
            code="port_taken",
        )
    return SetupError(f"cannot listen on {host} port {port}: {error.strerror}", code="port")


async def until_stopped(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the stop; a background task that ends before it is a defect worth dying of."""
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for task in done - {waiting}:
        task.result()


async def cancelled(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel background tasks and wait for their end, but not for long.

    redis-py now and then swallows a cancellation that meets it in a read; the process is ending,
    and what such a task would still do must not hold that up.
    """
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=_CANCEL_S)
