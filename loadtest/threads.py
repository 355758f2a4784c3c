"""Threads of memory made from a seed, as the enclave would have written them; not what it is."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.lines import DIALOGUES
from memory.keys import RECEIPT_ID_BYTES, TURN_ID_BYTES, ThreadKeys
from memory.records import NONCE_BYTES, Fact, Notes, Record, Turn
from memory.store import MAX_BATCH, STATE_EVERY, ThreadStore
from memory.thread import Position
from memory.vectors import quantise
from memory.view import View
from runtime.enclave.embedding.static import StaticEmbedder

START = 1_704_099_600  # 1 January 2024
_LINES = tuple(line for dialogue in DIALOGUES for line in dialogue)
_MESSAGES = 2048  # different ones: few people say the same twice
_FACTS_EVERY = 2  # turns: from each second one a fact is learned
_REPLY_LINES = (3, 8)
_BEHIND = STATE_EVERY // 2
"""Records that a stored state is behind on average."""


@dataclass(frozen=True, slots=True)
class Written:
    """A thread in the store, as a device and a warm enclave know it."""

    keys: ThreadKeys
    view: View

    @property
    def position(self) -> Position:
        """What the device keeps."""
        return self.view.position


def _messages() -> list[str]:
    """The first half of one line, and the second of another."""
    rng = random.Random("messages")
    halves = [line.split() for line in _LINES]

    def one() -> str:
        begin, end = rng.choice(halves), rng.choice(halves)
        return " ".join(begin[: len(begin) // 2] + end[len(end) // 2 :])

    return [one() for _ in range(_MESSAGES)]


class Maker:
    """Makes records out of small talk, with real embeddings.

    A record is what the enclave makes it: a turn of some 50 and 270 characters and its notes, with
    the embedding of what was said and, every second turn, a fact with its own.
    """

    def __init__(self) -> None:
        embedder = StaticEmbedder().load()
        self._model = embedder.id
        self._messages = _messages()
        self._vectors = [quantise(one) for one in embedder.encode(self._messages)]

    def records(self, name: str, first: int, turns: int) -> list[Record]:
        """Turns from the `first` on, each with its notes; the same for the same arguments."""
        rng = random.Random(f"thread {name} {first}")
        made: list[Record] = []
        for number in range(first, first + turns):
            said = rng.randrange(_MESSAGES)
            told = rng.randrange(_MESSAGES)
            index = 2 * number
            time = START + 3600 * number
            made += [
                Turn(
                    turn_id=rng.randbytes(TURN_ID_BYTES),
                    time=time,
                    message=self._messages[said],
                    reply=" ".join(rng.choices(_LINES, k=rng.randint(*_REPLY_LINES))),
                    outcome="completed",
                    receipt_id=rng.randbytes(RECEIPT_ID_BYTES),
                    receipt_digest=rng.randbytes(32),
                    window=max(0, index - 32),
                ),
                Notes(
                    turn=index,
                    model=self._model,
                    vector=self._vectors[said],
                    facts=(
                        Fact(
                            f"{self._messages[told][:60]} ({number})",
                            importance=50,
                            since=time,
                            sources=(index,),
                            vector=self._vectors[told],
                        ),
                    )
                    if number % _FACTS_EVERY
                    else (),
                ),
            ]
        return made


class Writer:
    """Writes threads of such records in bulk."""

    def __init__(self, store: ThreadStore) -> None:
        self._store = store
        self._maker = Maker()

    async def write(self, name: str, turns: int) -> Written:
        """A thread of so many turns; its state is as far behind as it is on average.

        It is written every `STATE_EVERY` records, so a short thread's covers the first of them.
        """
        keys = ThreadKeys(random.Random(f"key {name}").randbytes(32))
        view = View.empty(keys)
        covered = max(2 * turns - _BEHIND, min(2 * turns, STATE_EVERY)) // 2
        first = 0
        for end in (covered, turns):
            while first < end:
                count = min(MAX_BATCH // 2, end - first)
                view = await self._append(keys, view, self._maker.records(name, first, count))
                first += count
            if end < turns and view.position.length >= STATE_EVERY:
                await self._store.save_state(keys, view, nonce=os.urandom(NONCE_BYTES))
        return Written(keys, view)

    async def _append(self, keys: ThreadKeys, view: View, records: Sequence[Record]) -> View:
        begin = view.position.length
        after = await self._store.append(keys, view.position, records)
        return view.fold(enumerate(records, begin), after)
