"""Records on their way into a thread: encoded, and in batches that a request carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cbor2

from memory.kinds import NUMBERS, Record, to_fields
from memory.references import shifted
from runtime.enclave.memory_api import MAX_BATCH, MAX_BATCH_BYTES
from runtime.errors import Exit, SottoError


def encode(records: Sequence[Record], base: int = 0) -> list[bytes]:
    """Records as an import carries them; their references count from `base`.

    Raises:
        SottoError: One is larger than a request.
    """
    encoded: list[bytes] = []
    for index, record in enumerate(records):
        fields = [NUMBERS[type(record)], to_fields(shifted(record, base))]
        one: bytes = cbor2.dumps(fields, canonical=True)
        if len(one) > MAX_BATCH_BYTES:
            raise SottoError(
                f"record {index} of the import takes {len(one)} bytes, and a request carries "
                f"{MAX_BATCH_BYTES}; take it out of the file",
                code="import_too_large",
                exit_code=Exit.USAGE,
            )
        encoded.append(one)
    return encoded


def batches(records: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Batches of encoded records, each with the index of its first."""
    first, batch = 0, bytearray()
    for index, one in enumerate(records):
        if index - first == MAX_BATCH or len(batch) + len(one) > MAX_BATCH_BYTES:
            yield first, bytes(batch)
            first, batch = index, bytearray()
        batch += one
    if batch:
        yield first, bytes(batch)
