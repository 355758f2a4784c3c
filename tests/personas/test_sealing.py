"""Files of a private persona, sealed in parts."""

import hashlib

import pytest

from personas.errors import SealedError
from personas.sealing import (
    MAX_FILE_BYTES,
    PART_BYTES,
    STEP_BYTES,
    file_address,
    join_parts,
    open_part,
    seal_file,
)

KEY = bytes(range(32))
HANDLE = "night-owl"


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _opened(parts: list[bytes], data: bytes, key: bytes = KEY, handle: str = HANDLE) -> bytes:
    opened = [
        open_part(key, handle, _sha(data), part, number=number, count=len(parts))
        for number, part in enumerate(parts)
    ]
    return join_parts(handle, b"".join(opened))


@pytest.mark.parametrize(
    "length", [0, 1, STEP_BYTES - 4, STEP_BYTES - 3, PART_BYTES - 4, PART_BYTES - 3, 200_000]
)
def test_a_file_opens_to_what_it_was(length: int) -> None:
    """Whatever its length; sealed it tells that in steps of 4 KiB, and the same file is sealed to
    the same bytes, so that a publication can be sent again."""
    data = bytes(at % 251 for at in range(length))
    parts = seal_file(KEY, HANDLE, _sha(data), data)
    assert _opened(parts, data) == data
    assert parts == seal_file(KEY, HANDLE, _sha(data), data)
    assert sum(len(part) - 16 for part in parts) % STEP_BYTES == 0
    assert max(map(len, parts)) <= 65_536
    assert len(parts) == -(-(length + 4) // PART_BYTES)
    assert MAX_FILE_BYTES + 4 == 128 * PART_BYTES


def test_a_part_opens_in_its_place_alone() -> None:
    """Another key, handle, file, place, number of parts, or any changed byte is refused."""
    data = bytes(range(256)) * 600
    parts = seal_file(KEY, HANDLE, _sha(data), data)
    first = parts[0]
    assert len(parts) == 3
    for wrong in (
        lambda: _opened(parts, data, key=bytes(32)),
        lambda: _opened(parts, data, handle="day-owl"),
        lambda: open_part(KEY, HANDLE, bytes(32), first, number=0, count=3),
        lambda: open_part(KEY, HANDLE, _sha(data), first, number=1, count=3),
        lambda: open_part(KEY, HANDLE, _sha(data), first, number=0, count=2),
        lambda: open_part(KEY, HANDLE, _sha(data), first[:-1], number=0, count=3),
        lambda: open_part(KEY, HANDLE, _sha(data), b"", number=0, count=3),
        lambda: open_part(
            KEY, HANDLE, _sha(data), bytes([first[0] ^ 1]) + first[1:], number=0, count=3
        ),
        lambda: join_parts(HANDLE, b"\x00\x00"),
        lambda: join_parts(HANDLE, b"\x00\x00\x00\x01ab"),
        lambda: join_parts(HANDLE, b"\x00\x00\x00\x03ab"),
    ):
        with pytest.raises(SealedError):
            wrong()


def test_where_a_file_is_kept_does_not_tell_which_it_is() -> None:
    """The address depends on the key, and on handle and file."""
    told = {
        file_address(key, handle, digest)
        for key in (KEY, bytes(32))
        for handle in (HANDLE, "day-owl")
        for digest in (_sha(b"a"), _sha(b"b"))
    }
    assert len(told) == 8
    assert _sha(b"a") not in told
