"""What a card says that our own keys would write otherwise: kept, and put back on the way out.

After an object of a card was read into our keys, these are written again, and what comes out is
held against the source. Each key that differs is remembered as a list: a mark of what we would
write ("" for nothing), and what the source has (left out for nothing). On export an entry counts
only while its mark still fits: what an author has edited since is not undone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from personas.jsontext import write_json

_ABSENT: Final = object()


def remainder(source: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return by key what `written` must be changed by to become `source`."""
    changes: dict[str, Any] = {}
    for key in {**source, **written}:
        ours, theirs = written.get(key, _ABSENT), source.get(key, _ABSENT)
        if theirs is _ABSENT:
            changes[key] = [_mark(ours)]
        elif ours is _ABSENT or write_json(ours) != write_json(theirs):
            changes[key] = [_mark(ours), theirs]
    return changes


def restore(written: Mapping[str, Any], changes: Any, *, remove: bool = True) -> dict[str, Any]:
    """Return `written` with the changes that still fit; without `remove`, no key goes.

    A key that the source lacked stays in where another format requires it.
    """
    result = dict(written)
    if not isinstance(changes, Mapping):
        return result
    for key, change in changes.items():
        match change:
            case [str() as mark, *now] if len(now) <= 1 and mark == _mark(result.get(key, _ABSENT)):
                if now:
                    result[key] = now[0]
                elif remove:
                    result.pop(key, None)
    return result


def _mark(value: Any) -> str:
    if value is _ABSENT:
        return ""
    return hashlib.sha256(write_json(value).encode()).hexdigest()[:16]
