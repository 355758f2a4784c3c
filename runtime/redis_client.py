"""One pool of Redis connections per process, with bounded retries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from runtime.errors import SetupError

T = TypeVar("T")

_RETRIES = 4
_TIMEOUT_S = 5.0


class Client(redis.asyncio.Redis):
    """A client whose calls end with their task.

    redis-py sends under `asyncio.wait_for`, which before Python 3.12 loses a cancellation that
    comes as the sending ends: the task would go on as if nobody had stopped it.
    """

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See `redis.asyncio.Redis`."""
        call = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        return await _unless_cancelled(call)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """See `redis.asyncio.Redis`."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        return await _unless_cancelled(super().execute(raise_on_error))


async def _unless_cancelled(call: Awaitable[T]) -> T:
    """What a call gives; ends the task where it was cancelled meanwhile, and that was lost.

    Also where the call failed: whoever is patient with a server that is away would go on for ever.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        return await call
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


@contextlib.asynccontextmanager
async def connect_redis(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client for ``redis://``, ``rediss://`` and ``unix://`` URLs that returns bytes.

    A server that is away for a moment is waited for (some 2 s) before a call fails.

    Raises:
        SetupError: The URL cannot be read; it is not shown, since it may hold a password.
    """
    try:
        client = Client.from_url(
            url,
            protocol=3,
            decode_responses=False,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.1), _RETRIES),
            retry_on_error=[RedisConnectionError, RedisTimeoutError],
            # With them, redis-py lends a connection over TCP without looking whether a reply is
            # still unread there, which the next caller would take for its own.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError:
        raise SetupError(
            "redis_url is not a redis://, rediss:// or unix:// URL; correct the configuration"
        ) from None
    try:
        yield client
    finally:
        await client.aclose()


async def hash_fields(
    client: redis.asyncio.Redis, key: str, *names: str
) -> tuple[bytes | None, ...]:
    """Fields of a hash; the client's own types allow text, which `connect_redis` rules out."""
    values = await client.hmget(key, *names)
    return tuple(value.encode() if isinstance(value, str) else value for value in values)
