"""Everything that this package raises. Messages carry indexes and sizes, never content or keys."""

from typing import ClassVar


class MemoryStoreError(Exception):
    """Root of the package's errors; `code` is the word that goes on the wire."""

    code: ClassVar[str] = "memory_error"


class InvalidInputError(MemoryStoreError):
    """A value handed in is outside the format's limits; nothing was stored."""

    code = "memory_invalid"


class RollbackError(MemoryStoreError):
    """The store does not hold the position that the device, or this enclave, has seen.

    `expected` and `found` are lengths of the chain, in records.
    """

    code = "memory_rollback"

    def __init__(self, expected: int, found: int, by: str = "the device") -> None:
        if found < expected:
            seen = f"the store holds {found} records where {by} has seen {expected}"
        elif expected == 0:
            seen = f"the position of {by} is of another thread"
        else:
            seen = f"the store's record {expected - 1} is not the one {by} has seen"
        super().__init__(
            f"Memory was rolled back or replaced: {seen}. Nothing was changed. "
            "Restore the store from its newest copy, or start a new thread."
        )
        self.expected = expected
        self.found = found


class ConflictError(MemoryStoreError):
    """Another writer appended first; nothing was stored."""

    code = "memory_conflict"

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"The thread's head moved while this turn was answered: it was at {expected} records "
            f"and is now at {found}. Nothing was stored. Load the thread again and retry."
        )
        self.expected = expected
        self.found = found


class ForgottenError(MemoryStoreError):
    """The thread was erased a while ago, and takes no more turns; nothing was stored."""

    code = "thread_forgotten"

    def __init__(self) -> None:
        super().__init__(
            "This conversation was forgotten. Nothing was stored. Say it again, in a new one."
        )


class RotatedError(ForgottenError):
    """The thread goes on under another key, which another device of its owner has."""

    code = "thread_rotated"

    def __init__(self) -> None:
        MemoryStoreError.__init__(
            self,
            "This conversation goes on under a new key, made on another of your devices. Nothing "
            "was stored. Bring the new key to this device.",
        )


class TurnForgottenError(MemoryStoreError):
    """The turn with this id was answered, and then erased at its owner's request."""

    code = "turn_forgotten"

    def __init__(self) -> None:
        super().__init__(
            "This turn was answered and then forgotten, so its answer is gone. Nothing was "
            "stored. Say it again as a new turn."
        )


class AnsweredError(MemoryStoreError):
    """This turn id already has another answer; nothing was stored."""

    code = "answered_elsewhere"

    def __init__(self) -> None:
        super().__init__(
            "This turn was answered by another enclave meanwhile. Nothing was stored. "
            "Send the same turn again to get that answer."
        )


class CorruptError(MemoryStoreError):
    """What is stored was not written with the thread's key, or not at this place.

    `index` counts from 0; `reason` says what was found.
    """

    code = "memory_corrupt"

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(
            f"The thread cannot be trusted at record {index}: {reason}. Somebody or something "
            "changed the store. Nothing was stored. Restore the store from its newest copy."
        )
        self.index = index
        self.reason = reason


class UnavailableError(MemoryStoreError):
    """Redis did not answer within the client's retries, or cannot take writes now.

    An append that failed so may have been stored: append the same turn again, it is idempotent.
    """

    code = "memory_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"Memory is out of reach ({reason}). Nothing that was acknowledged is lost. "
            "Check the Redis server and send the same turn again."
        )
