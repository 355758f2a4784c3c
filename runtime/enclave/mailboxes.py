"""Mailboxes: where two devices of one person, who share a short code, leave messages while they
pair (docs/protocol.md). What they leave is sealed for one another; the enclave reads none of it.

Redis has them, so that any replica serves both devices. A mailbox takes four messages, each once,
and is gone after ten minutes.
"""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import redis.exceptions
from redis.asyncio import Redis

from runtime.enclave.api import ApiError, parse_body
from runtime.enclave.mailbox_api import (
    FIRST,
    MAILBOX_S,
    MAILBOXES_PATH,
    MAX_BYTES,
    NAME_DIGITS,
    MailboxPut,
)
from runtime.enclave.routes import Call, Handler, Reply, Table, json_reply
from runtime.redis_client import hash_fields

_NEW_IN_A_MINUTE: Final = 30
_CLOSED: Final = "closed"
# The time to live comes with the first field, or a mailbox could stay for ever.
_PUT: Final = """
local there = redis.call('HGET', KEYS[1], ARGV[1])
if there == ARGV[2] then return 'kept' end
if there then return 'used' end
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[3] == '' then return 'unknown' end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  return 'kept'
end
if ARGV[3] ~= '' then return 'used' end
if redis.call('HGET', KEYS[1], 'closed') then return 'closed' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 'kept'
"""
_CLOSE: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 'unknown' end
if redis.call('HGET', KEYS[1], 'closed') then return 'closed' end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'closed', '1')
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 'closed'
"""
_REFUSALS: Final = {
    "unknown": (404, "mailbox_unknown", "there is no such mailbox, or its time is over"),
    "used": (409, "mailbox_used", "there is such a message already"),
    "closed": (410, "mailbox_closed", "one of the two devices closed this mailbox"),
}


def mailbox_key(name: str) -> str:
    """Hash with the messages of a mailbox, or `closed`."""
    return f"sotto:mailbox:{name}"


class Mailboxes:
    """The mailboxes.

    Args:
        client: Redis, returning bytes.
        clock: Seconds, monotonic.
        new_in_a_minute: How many may be made here, so that nobody fills Redis.
    """

    def __init__(
        self,
        client: Redis,
        *,
        clock: Callable[[], float] = time.monotonic,
        new_in_a_minute: int = _NEW_IN_A_MINUTE,
    ) -> None:
        self._client = client
        self._clock = clock
        self._most = new_in_a_minute
        self._made: deque[float] = deque(maxlen=new_in_a_minute)

    def table(self) -> Table:
        """Handlers by path and method."""
        methods: dict[bytes, Handler] = {
            b"POST": self._put,
            b"GET": self._get,
            b"DELETE": self._close,
        }
        return {MAILBOXES_PATH + b"/{id}": methods}

    async def _put(self, call: Call, name: str) -> Reply:
        asked = parse_body(MailboxPut, call.request.content)
        if len(asked.body) > MAX_BYTES[asked.message]:
            raise ApiError(
                400,
                "invalid_request",
                f"this message has at most {MAX_BYTES[asked.message]} bytes",
                "body",
            )
        lifetime = ""
        if asked.message == FIRST:
            self.count()
            lifetime = str(MAILBOX_S)
        await self._run(_PUT, name, asked.message, asked.body, lifetime)
        return json_reply({"kept": True})

    async def _get(self, call: Call, name: str) -> Reply:
        message = call.request.path.partition(b"?message=")[2].decode("ascii", "replace")
        if message not in MAX_BYTES:
            raise ApiError(400, "invalid_request", f"ask for ?message={'|'.join(MAX_BYTES)}")
        try:
            body, closed, first = await hash_fields(
                self._client, _checked(name), message, _CLOSED, FIRST
            )
        except (redis.exceptions.RedisError, OSError):
            raise _away() from None
        if closed is not None or first is None:
            raise ApiError(*_REFUSALS["unknown" if closed is None else "closed"])
        return json_reply({"body": None if body is None else base64.b64encode(body).decode()})

    async def _close(self, call: Call, name: str) -> Reply:
        await self._run(_CLOSE, name, MAILBOX_S, passes=("closed",))
        return json_reply({"closed": True})

    async def _run(self, script: str, name: str, *arguments: Any, passes: Any = ("kept",)) -> None:
        try:
            told = await self._client.eval(script, 1, _checked(name), *arguments)
        except (redis.exceptions.RedisError, OSError):
            raise _away() from None
        if (outcome := bytes(told).decode()) not in passes:
            raise ApiError(*_REFUSALS[outcome])

    def count(self) -> None:
        """One more is made; raises ApiError where there are too many."""
        now = self._clock()
        if len(self._made) == self._most and now - self._made[0] < 60:
            raise ApiError(
                503, "mailboxes_busy", "too many devices are being paired; try again in a minute"
            )
        self._made.append(now)


def _checked(name: str) -> str:
    if len(name) != NAME_DIGITS or not name.isascii() or not name.isdigit():
        raise ApiError(400, "invalid_request", f"a mailbox is named by {NAME_DIGITS} digits")
    return mailbox_key(name)


def _away() -> ApiError:
    return ApiError(503, "memory_unavailable", "the store is away; ask again in a moment")
