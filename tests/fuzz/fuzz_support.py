"""What the fuzz targets share: cuts, mutations, samples, and how much an object holds."""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import proofs
from proofs.errors import UnreadableError

# The stories and machines of the other tests, wherever this folder was copied to.
_REPOSITORY = Path(proofs.__file__).parents[1]
sys.path[1:1] = [str(_REPOSITORY), str(_REPOSITORY / "tests" / "proofs")]

SAMPLES = Path(__file__).parent / "samples"
_OUR_PACKAGES = ("transport", "proofs", "memory", "runtime", "personas")


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder under test.

    Attributes:
        run: Takes any bytes; raises where a property of the decoder does not hold.
        seeds: Makes inputs by our own encoders, the same at every call.
        max_length: Bytes of the longest input to try.
        runs: Inputs to try in the test suite.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    max_length: int = 1024
    runs: int = 10_000


def pieces(data: bytes) -> list[bytes]:
    """`data` cut at random places, the same at every call; short data also into single bytes."""
    source = random.Random(zlib.crc32(data))
    if len(data) <= 64 and source.randrange(2):
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(source.randrange(len(data) + 1) for _ in range(source.randrange(1, 8)))
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]


def mutate(valid: bytes, script: bytes) -> bytes:
    """Change `valid` as `script` says: each four bytes are an operation, a place and a value."""
    data = bytearray(valid)
    for at in range(0, len(script) - 3, 4):
        operation, high, low, value = script[at : at + 4]
        place = (high << 8 | low) % (len(data) + 1)
        match operation % 5:
            case 0:
                data[place : place + 1] = bytes(byte ^ value for byte in data[place : place + 1])
            case 1:
                del data[place : place + value]
            case 2:
                data[place:place] = bytes((value,))
            case 3:
                del data[place:]
            case 4:
                data[place:place] = data[place : place + value]
    return bytes(data)


def change_one(parts: Sequence[bytes], script: bytes) -> list[bytes]:
    """`parts` with one of them changed: the script's first byte says which, the rest how."""
    changed = list(parts)
    which = (script[0] if script else 0) % len(changed)
    changed[which] = mutate(changed[which], script[1:])
    return changed


def changes(parts: Sequence[bytes]) -> list[bytes]:
    """Scripts for `change_one`: in each part a byte in front, the last one, and one more."""
    scripts = []
    for which, part in enumerate(parts):
        last, end = (place.to_bytes(2) for place in (max(len(part) - 1, 0), len(part)))
        scripts += [
            bytes((which,)) + script
            for script in (b"\x00\x00\x20\x01", b"\x00" + last + b"\x01", b"\x02" + end + b"\x00")
        ]
    return scripts


def strict(decode_and_encode: Callable[[bytes], bytes]) -> Callable[[bytes], None]:
    """A target: what is read re-encodes to the same bytes, what is not is unreadable."""

    def run(data: bytes) -> None:
        try:
            again = decode_and_encode(data)
        except UnreadableError:
            return
        assert again == data

    return run


def strict_text(parse_and_format: Callable[[str], str]) -> Callable[[bytes], None]:
    """The same for text."""
    # Any code point may stand in a text that a caller hands over, halves of pairs too.
    return strict(
        lambda data: parse_and_format(data.decode("utf-8", "surrogateescape")).encode(
            "utf-8", "surrogateescape"
        )
    )


def stories() -> Any:
    """`tests.proofs.proofs_support`, for seeds and what a target compares with.

    Imported when called: it brings all of `proofs` along, and a process that fuzzes a decoder
    starts in half the time where the rest is not instrumented.
    """
    return importlib.import_module("tests.proofs.proofs_support")


def archives() -> Any:
    """`tests.proofs.archive_support`, likewise."""
    return importlib.import_module("tests.proofs.archive_support")


def sample(name: str) -> bytes:
    """A kept sample: what can be signed anew, but not with the same bytes."""
    return (SAMPLES / name).read_bytes()


@contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    """A file that holds `data`, for what reads files alone; in memory, where syncing is free."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def held(root: object) -> int:
    """Bytes of byte strings that an object of ours holds, through its members."""
    total = 0
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, bytes | bytearray):
            total += len(one)
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set):
            waiting += one
        elif type(one).__module__.partition(".")[0] in _OUR_PACKAGES:
            names = {name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())}
            waiting += [getattr(one, name) for name in names if hasattr(one, name)]
            waiting += vars(one).values() if hasattr(one, "__dict__") else ()
    return total
