"""What was found in a bundle, remembered: many receipts name the same one.

What is remembered is what some bytes are, never a verdict: how a bundle reads, what evidence says
at a time, whether a proof leads to a checkpoint of these keys. Policy, claims and receipt are
judged each time.

An appraisal depends on the bytes, the time and the collateral alone, and on the time only by
periods of validity that begin and end once (of certificates, revocation lists, collateral). So
evidence without a problem at two times has none between them, and one found to say the same at
both says it in between. GPU evidence with two answers to one question is the exception: it is
remembered for single times.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from proofs.evidence.base import Collateral, CpuAppraisal, GpuAppraisal

Found = TypeVar("Found", CpuAppraisal, GpuAppraisal)
Made = TypeVar("Made")
_CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class _Span(Generic[Found]):
    """An appraisal and the times, both included, for which it is known to be right."""

    first: int
    last: int
    found: Found


class EvidenceCache:
    """Facts about the bundles met last; not for use by several threads at once."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Any] = OrderedDict()

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returned before for `key`, which names all that it depends on."""
        if key not in self._known:
            self._keep(key, make())
        self._known.move_to_end(key)
        made: Made = self._known[key]
        return made

    def appraisal(
        self,
        appraise: Callable[[bytes, int, Collateral], Found],
        data: bytes,
        at: int,
        until: int,
        new: Collateral,
    ) -> Found:
        """What `appraise` finds in evidence at a time.

        Args:
            appraise: The appraiser of its kind.
            data: The evidence.
            at: Unix seconds at which to judge.
            until: A later time up to which others may ask; one more appraisal answers them.
            new: Newer collateral.

        Raises:
            UnreadableError: As the appraiser.
        """
        # Who asks for one moment alone leaves the span of those who ask for many.
        key = appraise, hashlib.sha256(data).digest(), new, at if at == until else None
        known: _Span[Found] | None = self._known.get(key)
        if known is not None and known.first <= at <= known.last:
            self._known.move_to_end(key)
            return known.found
        found = appraise(data, at, new)
        first = last = at
        if not (found.problems or (isinstance(found, GpuAppraisal) and found.alternatives)):
            if known is not None and known.found == found:
                first, last = min(first, known.first), max(last, known.last)
            if last < until and appraise(data, until, new) == found:
                last = until
        self._keep(key, _Span(first, last, found))
        return found

    def _keep(self, key: Hashable, value: object) -> None:
        self._known[key] = value
        if len(self._known) > _CAPACITY:
            self._known.popitem(last=False)
