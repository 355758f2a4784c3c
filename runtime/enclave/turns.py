"""Turns that are running or just ran, and everyone who listens to them.

A turn belongs to its thread and id, not to the connection that asked for it: a dropped
connection leaves it running, and the same request sent again listens to the same turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from memory.keys import ThreadKeys
from personas.model import Persona
from runtime.enclave.api import FINAL_EVENTS, TurnRequest
from runtime.enclave.binding import Binding
from runtime.enclave.feed import Feed
from runtime.enclave.generation import Generation

# A finished turn stays replayable from here this long, and at most so many; after that sealed
# memory answers, and nothing of it is left in the clear.
KEEP_FINISHED_S = 120.0
KEEP_FINISHED = 1024


@dataclass(frozen=True, slots=True, repr=False)
class TurnCall:
    """One opened and validated request for a turn.

    Attributes:
        request: What the device asked.
        keys: The thread's keys.
        persona: The persona whose digest the device named.
        binding: What its receipt is bound to.
        exchange: Keys of this exchange alone, for a turn that is to leave no trace: they seal its
            receipt and salt the engine's cache.
    """

    request: TurnRequest
    keys: ThreadKeys
    persona: Persona
    binding: Binding
    exchange: ThreadKeys | None = None

    @property
    def turn_id(self) -> bytes:
        """16 bytes."""
        return bytes.fromhex(self.request.turn_id)

    @property
    def incognito(self) -> bool:
        """It leaves no trace."""
        return self.request.incognito is not None

    @property
    def own_keys(self) -> ThreadKeys:
        """What seals its receipt and salts the cache: the thread's, or this exchange's."""
        return self.keys if self.exchange is None else self.exchange


@dataclass(slots=True, eq=False)
class RunningTurn:
    """Events of one turn as they come, for any number of listeners.

    Attributes:
        call: What was asked.
        generation: The reply in the making.
        task: What runs it.
    """

    call: TurnCall
    generation: Generation
    task: asyncio.Task[None] | None = None
    _events: Feed[dict[str, Any]] = field(default_factory=Feed, repr=False)

    @property
    def finished(self) -> bool:
        """The last event is a final one."""
        return self._events.ended

    @property
    def outcome(self) -> str | None:
        """Type of the final event, None before it."""
        last = self._events.last
        return last["type"] if last is not None and self.finished else None

    def emit(self, event: dict[str, Any]) -> None:
        """Add an event and wake every listener."""
        self._events.put(event)
        if event["type"] in FINAL_EVENTS:
            self._events.end()

    def follow(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """All events from the first, in batches of whatever is ready; ends after the final one."""
        return self._events.follow()


class TurnTable:
    """Running turns, and the most recently finished ones, by thread and turn id."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, bytes], RunningTurn] = {}
        self._finished: dict[tuple[str, bytes], RunningTurn] = {}

    def get(self, keys: ThreadKeys, turn_id: bytes) -> RunningTurn | None:
        """The turn, if it is here."""
        key = (keys.thread_id, turn_id)
        return self._running.get(key) or self._finished.get(key)

    def add(self, turn: RunningTurn) -> None:
        """Enter a new turn."""
        self._running[_key(turn)] = turn

    def running(self) -> list[RunningTurn]:
        """Turns that have not ended."""
        return list(self._running.values())

    def of_thread(self, keys: ThreadKeys) -> list[RunningTurn]:
        """Turns of one thread that have not ended."""
        return [turn for turn in self._running.values() if turn.call.keys == keys]

    def count(self, keys: ThreadKeys) -> int:
        """How many turns of one thread run."""
        return sum(thread_id == keys.thread_id for thread_id, _ in self._running)

    def forget(self, keys: ThreadKeys) -> None:
        """Drop the finished turns of one thread: they hold text."""
        for key in [key for key in self._finished if key[0] == keys.thread_id]:
            del self._finished[key]

    def finish(self, turn: RunningTurn, *, keep: bool) -> None:
        """Keep a finished turn replayable for a while, or drop it so that it may be retried."""
        key = _key(turn)
        self._running.pop(key, None)
        if not keep:
            return
        self._finished[key] = turn
        asyncio.get_running_loop().call_later(KEEP_FINISHED_S, self._finished.pop, key, None)
        if len(self._finished) > KEEP_FINISHED:
            self._finished.pop(next(iter(self._finished)))


def _key(turn: RunningTurn) -> tuple[str, bytes]:
    return turn.call.keys.thread_id, turn.call.turn_id
