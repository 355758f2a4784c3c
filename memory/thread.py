"""The chain as a reader holds it: where it stands, and what follows from where.

Knowing the thread key proves who wrote a record; the chain proves what came before it. Neither
proves that nothing came after: only the position that a device keeps does.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from memory.errors import CorruptError, InvalidInputError, RollbackError
from memory.keys import MAX_INDEX, ThreadKeys
from memory.records import HEAD_BYTES, Turn, genesis_head, head_after, previous_head


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a chain: how many records, and the 32-byte head after the last of them.

    Its text form, which a device keeps and sends, is `<length>.<64 hexadecimal characters>`.
    """

    length: int
    head: bytes

    def __post_init__(self) -> None:
        # One more than the last index: a full thread's length.
        if type(self.length) is not int or not 0 <= self.length <= MAX_INDEX + 1:
            raise InvalidInputError("A position's length must lie between 0 and 2^32.")
        if type(self.head) is not bytes or len(self.head) != HEAD_BYTES:
            raise InvalidInputError(f"A position's head must be {HEAD_BYTES} bytes.")

    @classmethod
    def genesis(cls, keys: ThreadKeys) -> Self:
        """Return the position of a thread that holds nothing yet."""
        return cls(0, genesis_head(keys.thread_id))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; InvalidInputError for anything that `str` would not write."""
        length, _, head = text.partition(".")
        # Limits first: int() of a long text is slow.
        if len(length) <= 10 and length.isascii() and length.isdigit() and len(head) == 64:
            try:
                position = cls(int(length), bytes.fromhex(head))
            except ValueError:
                pass
            else:
                if str(position) == text:
                    return position
        raise InvalidInputError(
            "A memory position reads `<length>.<64 hexadecimal characters>`; "
            "send the one that the last turn returned, unchanged, or none."
        )

    def __str__(self) -> str:
        return f"{self.length}.{self.head.hex()}"

    def same(self, other: "Position") -> bool:
        """Compare without telling by timing where the heads part."""
        return self.length == other.length and hmac.compare_digest(self.head, other.head)

    def follow(self, sealed: bytes) -> "Position":
        """Return the position after `sealed`, which may be a stub.

        Raises CorruptError where the record does not name this head as the one before it.
        """
        if not hmac.compare_digest(previous_head(sealed, self.length), self.head):
            raise CorruptError(
                self.length, "it does not follow the record before it, as if of two histories"
            )
        return Position(self.length + 1, head_after(self.head, sealed))


@dataclass(frozen=True, slots=True)
class Answered:
    """A turn that is in memory, and the positions before and after it."""

    turn: Turn
    before: Position
    after: Position


@dataclass(frozen=True, slots=True)
class Erased:
    """What the store held of a thread when it was erased, as it stood there: nothing was opened.

    `length` is the number of records; `head` the 32 bytes of the newest, None without one.
    """

    length: int
    head: bytes | None


@dataclass(frozen=True, slots=True)
class Rotated:
    """What was erased under the old key, and where the same memory ends under the new one."""

    erased: Erased
    position: Position


def walk(start: Position, records: Iterable[bytes], expected: Position | None) -> Position:
    """Follow sealed records and stubs from `start`; return where they end.

    Raises CorruptError where the chain is broken, RollbackError where it passes the length of
    `expected` with another head. An `expected` outside the walk is not judged here.
    """
    position = start
    judge(position, expected)
    for sealed in records:
        position = position.follow(sealed)
        judge(position, expected)
    return position


def judge(position: Position, expected: Position | None, by: str = "the device") -> None:
    """Raise RollbackError where `position` is as long as `expected` and has another head."""
    if expected is not None and expected.length == position.length and not expected.same(position):
        raise RollbackError(expected.length, position.length, by)
