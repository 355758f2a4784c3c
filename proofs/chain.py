"""The receipts of one thread, held against each other.

A turn that memory holds has a place in its thread (`turn_index`, the index of its record) and names
the receipt of the turn before. Other records may lie between two turns, notes of what was said, so
that a turn begins at the head that the one before left only where nothing does. A turn that failed
changed nothing: both of its heads are the one that it found, or null where memory could not be
read, and no receipt names it.

What is missing is no contradiction. A device has the receipts of its own turns alone, an export may
begin in the middle, and an enclave that cannot have the receipt before says null.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from proofs.receipt import Outcome, Receipt


class ChainFault(StrEnum):
    """What can be wrong between the receipts of one thread."""

    REPEATED = "repeated"
    """The receipt's id stands here before."""
    PLACE = "place"
    """Another receipt is for the same place in the thread."""
    ORDER = "order"
    """It stands after a receipt of a later turn."""
    HEAD = "head"
    """Its memory heads do not fit its outcome, its place, or the receipts beside it."""
    PREVIOUS = "previous"
    """It names another receipt than the one of the turn before."""
    UNNAMED = "unnamed"
    """It names none, although the one of the turn before is here."""
    MISSING = "missing"
    """Receipts of turns between it and an earlier one are not here, or may not be."""
    BEGINNING = "beginning"
    """It is of the first turn here, and the thread began before."""


_INCOMPLETE = frozenset({ChainFault.UNNAMED, ChainFault.MISSING, ChainFault.BEGINNING})


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """One finding.

    Attributes:
        fault: What is wrong.
        receipt_id: Of the receipt at which it shows, 16 bytes.
        text: For people.
    """

    fault: ChainFault
    receipt_id: bytes
    text: str

    @property
    def contradicts(self) -> bool:
        """Whether signed statements contradict each other; else something is only not here."""
        return self.fault not in _INCOMPLETE


@dataclass(frozen=True, slots=True)
class _Link:
    """A receipt of a turn that memory holds, and its digest."""

    receipt: Receipt
    digest: bytes


def check_chain(receipts: Sequence[tuple[bytes, Receipt]]) -> list[ChainProblem]:
    """Check the receipts of one thread against each other; no signature is looked at.

    Args:
        receipts: The COSE_Sign1 and the receipt in it, of turns of one thread, oldest first.
            Receipts of completions belong to no thread and have no place here.

    Returns:
        What was found, in the order in which it was found; empty where all is well.
    """
    problems: list[ChainProblem] = []
    links = _links(receipts, problems)
    _check_order(links, problems)
    links.sort(key=lambda link: link.receipt.turn_index)
    _check_links(links, problems)
    _check_failed([one for _, one in receipts if not _is_stored(one)], links, problems)
    return problems


def _is_stored(receipt: Receipt) -> bool:
    """Whether memory holds the turn: only then it has a place in the thread."""
    return receipt.head_after != receipt.head_before


def _links(receipts: Sequence[tuple[bytes, Receipt]], problems: list[ChainProblem]) -> list[_Link]:
    seen: set[bytes] = set()
    links = []
    for encoded, receipt in receipts:
        index = receipt.turn_index
        if receipt.receipt_id in seen:
            _note(problems, ChainFault.REPEATED, receipt, "this receipt's id stands here twice")
            continue
        seen.add(receipt.receipt_id)
        if _is_stored(receipt) == (receipt.outcome is Outcome.FAILED):
            text = f"a turn that {receipt.outcome} with memory heads that say otherwise"
            _note(problems, ChainFault.HEAD, receipt, text)
        elif _is_stored(receipt):
            if receipt.head_after is None or (receipt.head_before is None) != (index == 0):
                text = f"turn {index} with memory heads of another place"
                _note(problems, ChainFault.HEAD, receipt, text)
            links.append(_Link(receipt, hashlib.sha256(encoded).digest()))
    return links


def _check_order(links: Sequence[_Link], problems: list[ChainProblem]) -> None:
    for before, after in itertools.pairwise(links):
        if after.receipt.turn_index < before.receipt.turn_index:
            text = f"turn {after.receipt.turn_index} after turn {before.receipt.turn_index}"
            _note(problems, ChainFault.ORDER, after.receipt, text)


def _check_links(links: Sequence[_Link], problems: list[ChainProblem]) -> None:
    """Hold each turn against the one before; `links` in the order of their places."""
    if links:
        first = links[0].receipt
        if first.turn_index > 0:
            text = f"the receipts begin at turn {first.turn_index}"
            _note(problems, ChainFault.BEGINNING, first, text)
        elif first.previous is not None:
            text = "the first turn of a thread names a receipt before it"
            _note(problems, ChainFault.PREVIOUS, first, text)
    digests = {link.digest for link in links}
    for before, link in itertools.pairwise(links):
        receipt, index = link.receipt, link.receipt.turn_index
        gap = index - before.receipt.turn_index - 1
        if gap < 0:
            text = f"two receipts are for turn {index} of the thread"
            _note(problems, ChainFault.PLACE, receipt, text)
            continue
        if receipt.previous is None:
            fault, text = ChainFault.UNNAMED, f"turn {index} does not name the receipt before it"
            if gap > 0:
                fault, text = ChainFault.MISSING, f"{text}; others may lie between"
            _note(problems, fault, receipt, text)
        elif receipt.previous != before.digest:
            named = receipt.previous in digests or gap == 0
            fault = ChainFault.PREVIOUS if named else ChainFault.MISSING
            text = (
                f"turn {index} names another receipt than that of turn {before.receipt.turn_index}"
            )
            if not named:
                text = f"the receipt that turn {index} names is not here"
            _note(problems, fault, receipt, text)
        if gap == 0 and receipt.head_before != before.receipt.head_after:
            text = f"turn {index} begins at another memory head than turn {index - 1} left"
            _note(problems, ChainFault.HEAD, receipt, text)


def _check_failed(
    failed: Sequence[Receipt], links: Sequence[_Link], problems: list[ChainProblem]
) -> None:
    """A failed turn must have found a head that the thread had at that length."""
    heads: dict[int, set[bytes | None]] = {}
    for link in links:
        receipt = link.receipt
        heads.setdefault(receipt.turn_index, set()).add(receipt.head_before)
        heads.setdefault(receipt.turn_index + 1, set()).add(receipt.head_after)
    for receipt in failed:
        # Null where memory could not be read: it says nothing of the thread.
        if receipt.outcome is not Outcome.FAILED or receipt.head_before is None:
            continue
        known = heads.get(receipt.turn_index)
        if known is not None and receipt.head_before not in known:
            text = f"a failed turn found another memory head at turn {receipt.turn_index}"
            _note(problems, ChainFault.HEAD, receipt, text)


def _note(problems: list[ChainProblem], fault: ChainFault, receipt: Receipt, text: str) -> None:
    problems.append(ChainProblem(fault, receipt.receipt_id, text))
