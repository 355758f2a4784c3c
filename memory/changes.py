"""Which messages tell that something has changed: by the words that English has for any change.

Nothing here says what changed, or from what to what: that is for recall, which holds such a turn
against what is asked and what was said before. Other languages are read as if nothing changed.
"""

import re
from typing import Final

from memory.words import stem, words

_CHANGE_TEXT: Final = (
    # When it holds, or no longer does.
    "now nowadays today yesterday lately recently finally anymore longer since instead over "
    # What came, and what it came after.
    "new newest latest next former successor replacement "
    # Beginning and end.
    "begin began begun start stop quit end finish become became "
    # One thing for another.
    "turn switch change swap replace exchange trade move leave left drop join "
    # What one has come by, or has no more.
    "lost sold bought gave given took taken"
)
_CHANGE: Final = frozenset(map(stem, _CHANGE_TEXT.split()))
_PAST_TEXT: Final = (
    "did was were had used when since until till ago last first before earlier previously formerly "
    "former previous ex"
)
_PAST: Final = frozenset(_PAST_TEXT.split())
_QUESTION: Final = re.compile(r"[^.!?]*\?")


def tells_of_change(message: str) -> bool:
    """Say whether somebody tells of a change; what they ask says nothing of it."""
    told = _QUESTION.sub(" ", message)
    return not _CHANGE.isdisjoint(map(stem, words(told)))


def asks_what_was(message: str) -> bool:
    """Say whether a question is about what was, and not about what holds."""
    return not _PAST.isdisjoint(words(message))
