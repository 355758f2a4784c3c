"""What `ThreadStore.open` makes of what Redis answers: no I/O, so that each step can be tested.

The steps, in the order in which they are taken:

1. A note of an erasure that was made with the thread's key ends it.
2. The store holds as many records as the device has seen, and as the view that it starts from.
3. The records lead to where that view stands; on the way they pass through `expected`.
4. Those after it follow each other, open, and are folded into the view.
5. The head that the store keeps beside the records is the one after the last of them.
6. What stands at the index of an erased record is its stub, and a stub stands nowhere else.
"""

import hmac
from typing import Any, Final

from memory.errors import (
    CorruptError,
    ForgottenError,
    RollbackError,
    RotatedError,
    TurnForgottenError,
)
from memory.keys import TURN_ID_BYTES, ThreadKeys
from memory.records import UNOPENED, Gap, Record, Turn, is_stub, open_record, previous_head
from memory.redis_io import index_of
from memory.state import covered, open_state
from memory.thread import Answered, Position, judge
from memory.view import View

PAGE: Final = 128  # records per read
_SOUGHT: Final = 512  # places to either side at which a misplaced record is looked for


class Opening:
    """One opening of a thread: `question` and `take` in turns, until `take` says that it ended.

    When it has ended: `view` is the thread's view, `begun` where the first record that was read
    stands, `covered` how many records the stored state covers, `answered` the turn that was asked
    for.
    """

    def __init__(
        self,
        keys: ThreadKeys,
        expected: Position | None,
        turn_id: bytes | None,
        cached: View | None,
    ) -> None:
        self._keys = keys
        self._expected = expected
        self._turn_id = turn_id
        self._cached = cached
        self._first = True
        self._stubs: set[int] = set()
        self._kept: set[int] = set()
        self._passed: dict[int, bytes] = {}  # followed, not opened
        self.covered = 0
        self.view = cached or View.empty(keys)
        self.begun = Position.genesis(keys)
        self.answered: Answered | None = None

    @property
    def needs_state(self) -> bool:
        """Whether the next question is to be asked together with the stored state."""
        return self._first and self._cached is None

    def question(self) -> tuple[Any, ...]:
        """Return the arguments for open.lua."""
        known = b"" if self.needs_state else self.view.position.length
        seen = b"" if self._expected is None or not self._first else self._expected.length
        tag = b"" if self._turn_id is None else self._keys.turn_tag(self._turn_id)
        return known, seen, PAGE, tag

    def take(self, reply: list[Any]) -> bool:
        """Take an answer of open.lua; return whether the thread's end was reached.

        The first, where there is no cached view, has the whole state in place of its digits.
        """
        length, head, tag, request, state, start, records, number, sealed = reply
        if tag:
            check_note(self._keys, tag, request)  # (1)
        if self._expected is not None and self._expected.length > length:
            raise RollbackError(self._expected.length, length)  # (2)
        if self._first:
            self._begin(state)
        if self.view.position.length > length:
            raise self._shorter(length)
        self._follow(start, records, length)
        if self.view.position.length < length:
            return False
        after = self.view.position.head if length else b""
        if not hmac.compare_digest(head, after):  # (5)
            raise CorruptError(
                max(0, length - 1),
                "the head that is kept beside the records is not the one after it: records were "
                "cut off or added, or the head was changed",
            )
        self._check_stubs()
        if self._turn_id is not None:
            self.answered = self._answer(self._turn_id, number, sealed)
        return True

    def put_back(self) -> list[int]:
        """Return erased indexes where a record was read: put back, or erased since it was read."""
        erased = self.view.erased
        for index, sealed in self._passed.items():
            if index in erased and not isinstance(open_record(self._keys, index, sealed), Gap):
                self._kept.add(index)
        return sorted(index for index in self._kept if index in erased)

    def _begin(self, state: bytes) -> None:
        self.covered = covered(state) or 0
        if self._cached is None and state:
            self.view = open_state(self._keys, state)
        if self._expected is not None and self._expected.length == 0:
            judge(Position.genesis(self._keys), self._expected)

    def _shorter(self, length: int) -> Exception:
        if self._cached is not None:
            return RollbackError(self.view.position.length, length, "this enclave")
        return CorruptError(
            length,
            f"it is missing: the sealed state covers {self.view.position.length} records and the "
            f"store holds {length}",
        )

    def _follow(self, start: int, records: list[bytes], length: int) -> None:
        """Follow a page; where that fails, say first which record is not genuine."""
        if not records and length:
            raise CorruptError(self.view.position.length, "it is missing")
        try:
            self._walk(start, records)
        except (CorruptError, RollbackError):
            check_genuine(self._keys, start, records, length)
            raise

    def _walk(self, start: int, records: list[bytes]) -> None:
        """(3) and (4): from a place before the view's end, through it, to the last record."""
        place = Position.genesis(self._keys)
        if start:
            place = Position(start, previous_head(records[0], start))
        begin = self.view.position
        if start > begin.length:
            raise CorruptError(begin.length, "it is missing")
        if self._first:
            self.begun, self._first = place, False
        news: list[tuple[int, Record | None]] = []
        self._check(place, begin)
        for index, sealed in enumerate(records, start):
            place = place.follow(sealed)
            self._check(place, begin)
            record = None
            if is_stub(sealed):
                self._stubs.add(index)
            elif index < begin.length:
                self._passed[index] = sealed
            else:
                record = open_record(self._keys, index, sealed)
                if not isinstance(record, Gap):
                    self._kept.add(index)
            if index >= begin.length:
                news.append((index, record))
        if place.length < begin.length:
            raise CorruptError(place.length, "it is missing")
        if news:
            self.view = self.view.fold(news, place)

    def _check(self, place: Position, begin: Position) -> None:
        judge(place, self._expected)
        if place.length != begin.length or place.same(begin):
            return
        if self._cached is not None:
            raise RollbackError(begin.length, place.length, "this enclave")
        raise CorruptError(
            begin.length,
            "the sealed state does not lead there: it and the records are of two histories",
        )

    def _check_stubs(self) -> None:
        """(6), as far as it can be told here; `put_back` says what is left to look at."""
        for index in sorted(self._stubs):
            if index not in self.view.erased:
                raise no_tombstone(index)

    def _answer(self, turn_id: bytes, number: bytes, sealed: bytes) -> Answered | None:
        if not number:
            listed = next((at for at, one in self.view.turns if one.turn_id == turn_id), None)
            if listed is not None:
                raise CorruptError(listed, "it is not in the list of answered turns any more")
            return None
        index = index_of(number)
        if not sealed:
            raise CorruptError(index, "it is missing, or is not the turn that it is listed as")
        if is_stub(sealed):
            raise TurnForgottenError if index in self.view.erased else no_tombstone(index)
        if index in self.view.erased:
            raise put_back(index)
        return answered_by(self._keys, turn_id, index, sealed)


def answered_by(keys: ThreadKeys, turn_id: bytes | None, index: int, sealed: bytes) -> Answered:
    """Return the turn in a sealed record, and where it stands; any turn where `turn_id` is None.

    Raises CorruptError where there is another or none.
    """
    turn = open_record(keys, index, sealed)
    if not isinstance(turn, Turn) or (
        turn_id is not None and not hmac.compare_digest(turn.turn_id, turn_id)
    ):
        raise CorruptError(index, "it is not the turn that it is listed as")
    before = Position(index, previous_head(sealed, index))
    return Answered(turn, before, before.follow(sealed))


def check_genuine(keys: ThreadKeys, start: int, records: list[bytes], length: int) -> None:
    """Raise CorruptError for the first record, from index `start`, that does not open there.

    The reason says whether it was altered, or which record of the thread it is instead.
    """
    for index, sealed in enumerate(records, start):
        if is_stub(sealed):
            continue
        try:
            open_record(keys, index, sealed)
        except CorruptError as error:
            if error.reason != UNOPENED:
                raise
            raise _what_it_is(keys, index, sealed, length) from None


def _what_it_is(keys: ThreadKeys, index: int, sealed: bytes, length: int) -> CorruptError:
    """Look for the place at which a record opens, nearest first."""
    near = range(max(0, index - _SOUGHT), min(length + 1, index + _SOUGHT))
    for place in sorted(near, key=lambda one: abs(one - index)):
        try:
            open_record(keys, place, sealed)
        except CorruptError:
            continue
        return CorruptError(
            index, f"record {place} stands there: records were moved, repeated or taken out"
        )
    return CorruptError(index, "it was altered, or is a record of another thread")


def check_note(keys: ThreadKeys, tag: bytes, request_id: bytes) -> None:
    """Raise what the note of an erasure says: ForgottenError or RotatedError.

    Raises CorruptError where it was not made with the thread's key.
    """
    if len(request_id) == TURN_ID_BYTES:
        if hmac.compare_digest(tag, keys.erasure_tag(request_id)):
            raise ForgottenError
        if hmac.compare_digest(tag, keys.erasure_tag(request_id, rotation=True)):
            raise RotatedError
    raise CorruptError(0, "there is a note that it was erased, which was not made with its key")


def no_tombstone(index: int) -> CorruptError:
    """Say that a stub stands where nothing was erased."""
    return CorruptError(index, "it was taken out, and no request of its owner erased it")


def put_back(index: int) -> CorruptError:
    """Say that a record stands where its owner had one erased."""
    return CorruptError(index, "it was erased at its owner's request and has been put back")
