"""The threads of an archive: steps (4) and (5) of `proofs.verify_archive`."""

from __future__ import annotations

import hashlib

from proofs.archive_report import MAX_FINDINGS, MAX_THREADS_LISTED, Collected, Thread
from proofs.chain import ChainFault, check_chain
from proofs.erasure import Erasure, Scope
from proofs.receipt import Receipt


class Threads:
    """Receipts held against each other; those of one thread at a time, and ids of all.

    Args:
        since: Where the archive's range begins.
        found: Where findings go.

    Attributes:
        listed: The first threads.
        gaps: How many places there are at which something is missing.
    """

    def __init__(self, since: int, found: Collected) -> None:
        self.listed: list[Thread] = []
        self.gaps = 0
        self._since = since
        self._found = found
        self._ids: set[bytes] = set()
        self._previous: set[bytes] = set()
        self._open: tuple[int, list[tuple[bytes, Receipt]]] | None = None
        self._last: dict[int, tuple[bytes, Receipt]] = {}
        # Threads that do not begin at their beginning, with the memory head at which they do; and
        # heads at which a thread went on under a new key.
        self._begun: list[tuple[bytes | None, str, str]] = []
        self._carried_over: set[bytes | None] = set()

    def check_unique(self, where: str, thread: int | None, stated: Receipt) -> None:
        """The part of (4) that sees over the borders of threads."""
        if stated.receipt_id in self._ids:
            text = "another receipt of the archive has this id"
            self._found.fail(4, where, "chain", text)
        self._ids.add(stated.receipt_id)
        # Else the turns around one that is left out could be shown as what has no order.
        if thread is None and not _is_of_no_thread(stated):
            text = "it is of a turn, and stands among those of no thread"
            self._found.fail(4, where, "chain", text)
        # A turn that failed changed nothing, and the next one names the same receipt before it.
        if stated.previous is not None and stated.head_after != stated.head_before:
            if stated.previous in self._previous:
                text = "another turn of the archive names the same receipt before it"
                self._found.fail(4, where, "chain", text)
            self._previous.add(stated.previous)

    def join(self, thread: int | None, encoded: bytes, stated: Receipt) -> None:
        """Take a receipt to those of its thread; another thread's are complete then."""
        if self._open is not None and self._open[0] != thread:
            self.close()
        if thread is not None:
            if self._open is None:
                self._open = (thread, [])
            self._open[1].append((encoded, stated))

    def close(self) -> None:
        """(4), (5) No more receipts of this thread come."""
        if self._open is None:
            return
        number, receipts = self._open
        self._open = None
        gaps, contradictions, notes = [], [], []
        for problem in check_chain(receipts):
            where, text = problem.receipt_id.hex(), f"thread {number}: {problem.text}"
            if problem.contradicts:
                contradictions.append(problem.text)
                self._found.fail(4, where, "chain", text)
            elif problem.fault is ChainFault.MISSING:
                gaps.append(problem.text)
                self._found.fail(5, where, "gap", text)
            else:
                notes.append(problem.text)
                if problem.fault is ChainFault.BEGINNING and not self._since:
                    first = next(one for _, one in receipts if one.receipt_id.hex() == where)
                    self._begun.append((first.head_before, where, text))
        self.gaps += len(gaps)
        # A turn that failed is not of the thread, and no receipt names it.
        stored = [one for one in receipts if one[1].head_after != one[1].head_before]
        if stored:
            encoded, stated = max(stored, key=lambda one: one[1].turn_index)
            self._last[number] = hashlib.sha256(encoded).digest(), stated
        if len(self.listed) < MAX_THREADS_LISTED:
            times = [one.time for _, one in receipts]
            texts = (tuple(some[:MAX_FINDINGS]) for some in (gaps, contradictions, notes))
            self.listed.append(Thread(number, len(receipts), min(times), max(times), *texts))

    def check_follows(self, where: str, thread: int, stated: Erasure) -> None:
        """(4), (5) Whether what was erased is what the thread's last receipt here left.

        Nulls say nothing: an enclave has not always the receipt before, nor a store the head.
        """
        # A thread that lost some records only has turns after its erasure, too.
        if thread not in self._last or not stated.scope.ends_thread:
            return
        digest, last = self._last[thread]
        other_head = stated.head not in (None, last.head_after)
        if stated.previous not in (None, digest) or (stated.previous is None and other_head):
            text = (
                f"thread {thread} went on after turn {last.turn_index}, the last one here, or the "
                "erasure is of another thread"
            )
            self.gaps += 1
            self._found.fail(5, where, "gap", text)
        # Notes may lie behind the last turn; where nothing does, its head is the one that went.
        elif other_head and stated.length <= last.turn_index + 1:
            text = f"it erased another memory head than turn {last.turn_index} left"
            self._found.fail(4, where, "chain", text)

    def carry_over(self, erased: Erasure) -> None:
        """An erasure holds; a rotation's is where another thread may begin."""
        if erased.scope is Scope.ROTATION:
            self._carried_over.add(erased.after)

    def end(self) -> None:
        """(5) A thread begins behind others only where a rotation, which stands last, led to it."""
        for head, where, text in self._begun:
            if head not in self._carried_over:
                self.gaps += 1
                self._found.fail(5, where, "gap", text)


def _is_of_no_thread(stated: Receipt) -> bool:
    """Whether it reads as a completion's does, and as those of turns whose memory was away do."""
    found = (stated.head_before, stated.head_after, stated.previous)
    return found == (None, None, None) and not stated.turn_index
