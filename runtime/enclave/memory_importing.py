"""Imports: a batch of records that a thread takes over, each at its place."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Final

import cbor2

from memory.errors import AnsweredError, InvalidInputError
from memory.keys import ThreadKeys
from memory.kinds import Notes, Record, Tombstone, from_fields
from memory.references import named
from memory.store import MAX_BATCH as MAX_APPENDED
from memory.thread import Position
from runtime.enclave.api import ApiError
from runtime.enclave.embedding.base import Embedder
from runtime.enclave.memory_api import ImportRequest
from runtime.enclave.memory_json import Json
from runtime.enclave.memory_threads import Threads
from runtime.enclave.memory_vectors import embedded

_NO_RECORD: Final = (
    cbor2.CBORDecodeError,
    InvalidInputError,
    TypeError,
    ValueError,
    KeyError,
    RecursionError,
)


class Importer:
    """Writes imported records. Errors are those of `Threads`.

    Args:
        threads: The way to them.
        embedder: Makes vectors; None where recall is by words alone.
    """

    def __init__(self, threads: Threads, embedder: Embedder | None) -> None:
        self._threads = threads
        self._embedder = embedder

    async def import_batch(self, asked: ImportRequest) -> Json:
        """Write records at their place into a thread, those that are not there yet."""
        keys = ThreadKeys(asked.thread_key)
        records = [
            await embedded(self._embedder, one) if isinstance(one, Notes) else one
            for one in _batch(asked)
        ]
        async with self._threads.alone(keys):
            position = (await self._threads.store.open(keys, expected=None)).view.position
            if position.length < asked.at:
                raise ApiError(
                    409,
                    "memory_conflict",
                    f"the thread has {position.length} records, and this batch begins at "
                    f"{asked.at}; send the batches in their order",
                )
            if position.length > asked.at:
                there = await self._there(keys, position, asked.at, records)
                records = records[there:]
            for start in range(0, len(records), MAX_APPENDED):
                position = await self._append_imported(
                    keys, position, records[start : start + MAX_APPENDED]
                )
        return {"position": str(position)}

    async def _append_imported(
        self, keys: ThreadKeys, position: Position, records: Sequence[Record]
    ) -> Position:
        with contextlib.suppress(AnsweredError):
            after = await self._threads.store.append(keys, position, records)
            if after.length == position.length + len(records):
                return after
        raise ApiError(
            409,
            "memory_present",
            "a turn of the import is in this conversation already, and would stand there twice; "
            "nothing was changed. Forget the conversation first, or import its facts alone, from "
            "Markdown",
        )

    async def _there(
        self, keys: ThreadKeys, position: Position, at: int, records: Sequence[Record]
    ) -> int:
        """How many of these records stand at their places already."""
        count = min(position.length - at, len(records))
        async for index, record in self._threads.store.scan(keys, position=position):
            if at <= index < at + count and record != records[index - at]:
                raise ApiError(
                    409,
                    "memory_conflict",
                    f"record {index} of the thread is another than the one to be written there; "
                    "begin the import again",
                )
        return count


def _batch(asked: ImportRequest) -> list[Record]:
    """The records of a batch, each strictly what it should be, and pointing backwards only."""
    source = io.BytesIO(asked.records)
    records: list[Record] = []
    while source.tell() < len(asked.records):
        index = asked.at + len(records)
        record: Record | None = None
        with contextlib.suppress(*_NO_RECORD):
            number, fields = cbor2.load(source)
            record = from_fields(number, fields)
        if record is None or isinstance(record, Tombstone) or max(named(record), default=0) > index:
            raise ApiError(
                400,
                "memory_invalid",
                f"record {index - asked.at} of the batch is none that can be imported; export "
                "the memory again",
            )
        records.append(record)
    return records
