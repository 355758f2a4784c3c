"""One pool of Redis connections: what becomes of a call whose task is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from runtime.redis_client import Client, connect_redis


async def _alone(client: Client) -> None:
    await client.get("a")


async def _together(client: Client) -> None:
    async with client.pipeline(transaction=False) as batch:
        batch.get("a")
        batch.get("b")
        await batch.execute()


@pytest.mark.parametrize("call", [_alone, _together])
@pytest.mark.parametrize("connected", [False, True])
async def test_a_task_that_is_cancelled_in_a_call_ends(
    valkey: str, call: Callable[[Client], Awaitable[None]], connected: bool
) -> None:
    """At whichever step of sending and reading; the client is of use afterwards."""
    async with connect_redis(valkey) as client:
        assert isinstance(client, Client)

        async def work() -> None:
            for _ in range(3):
                await call(client)
            await asyncio.Event().wait()

        for steps in range(40):
            if not connected:
                await client.connection_pool.disconnect()
            task = asyncio.create_task(work())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=60)
            assert done, f"cancelled after {steps} steps, and it goes on"
            assert task.cancelled()
        assert await client.ping()


async def test_a_call_in_the_end_of_a_cancelled_task_is_made(valkey: str) -> None:
    """Whoever tidies up after a cancellation is not cancelled by it again."""
    async with connect_redis(valkey) as client:
        await client.delete("tidied")

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await client.set("tidied", "yes")
                await client.append("tidied", "!")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await client.get("tidied") == b"yes!"
