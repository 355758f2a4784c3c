"""What the fuzz targets share: cuts, mutations, and how much an object holds."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

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
    runs: int = 20_000


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
