"""One pool of Redis connections: what becomes of a call whose task is stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

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


async def test_a_cancellation_that_a_failing_call_has_lost_is_not_lost() -> None:
    """The call fails as the server is away, and the task ends all the same."""

    class Away(redis.asyncio.Connection):
        async def connect_check_health(self, *args: Any, **options: Any) -> None:
            # What `asyncio.wait_for` does before Python 3.12.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            raise RedisConnectionError

    client = Client(connection_pool=redis.asyncio.ConnectionPool(connection_class=Away))

    async def patient() -> None:
        while True:
            with contextlib.suppress(RedisError):
                await client.get("a")

    task = asyncio.create_task(patient())
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=60)
    assert done
    assert task.cancelled()


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


@contextlib.asynccontextmanager
async def _over_tcp(valkey: str) -> AsyncIterator[str]:
    """The server's URL on a loopback port."""
    waiting: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(valkey.removeprefix("unix://"))
        waiting.add(asyncio.create_task(pump(reader, back)))
        waiting.add(asyncio.create_task(pump(there, writer)))

    async with await asyncio.start_server(join, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"redis://{host}:{port}"
    await asyncio.gather(*waiting)


@pytest.mark.integration
@pytest.mark.parametrize("tcp", [False, True])
async def test_no_call_gets_the_reply_to_another(valkey: str, tcp: bool) -> None:
    """Whatever became of the calls before: a connection with an unread reply is not used again."""
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(_over_tcp(valkey)) if tcp else valkey
        client = await stack.enter_async_context(connect_redis(url))
        numbers = iter(range(1_000_000))

        async def ask() -> None:
            mine = [b"%d" % next(numbers) for _ in range(3)]
            assert await client.echo(mine[0]) == mine[0]
            async with client.pipeline(transaction=False) as batch:
                for one in mine:
                    batch.echo(one)
                assert await batch.execute() == mine

        for steps in range(30):
            tasks = [asyncio.create_task(ask()) for _ in range(3)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                assert task.cancelled() or task.exception() is None
            await asyncio.gather(ask(), ask(), ask())

        lent = await client.connection_pool.get_connection()
        await lent.send_command("ECHO", "of another")
        while not await lent.can_read():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        await client.connection_pool.release(lent)
        await ask()
