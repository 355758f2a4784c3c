"""The receipts of one thread, held against each other."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from proofs.chain import ChainFault, check_chain
from proofs.receipt import Outcome, Receipt, sign_receipt
from tests.proofs.proofs_support import RECEIPT_KEY, receipt

Link = tuple[bytes, Receipt]


def head(number: int) -> bytes:
    """The memory head after so many turns."""
    return bytes([number]) * 32


def link(index: int, previous: bytes | None, **changes: object) -> Link:
    """A turn's receipt at its place."""
    one = receipt(
        b"e" * 32,
        **{
            "receipt_id": index.to_bytes(16, "big"),
            "turn_index": index,
            "head_before": head(index) if index else None,
            "head_after": head(index + 1),
            "previous": previous,
            **changes,
        },
    )
    return sign_receipt(one, RECEIPT_KEY), one


def failed(index: int, **changes: object) -> Link:
    """The receipt of a turn that failed when the thread had so many."""
    before = head(index) if index else None
    return link(
        index,
        None,
        **{
            "receipt_id": b"failed" + index.to_bytes(10, "big"),
            "outcome": Outcome.FAILED,
            "head_before": before,
            "head_after": before,
            **changes,
        },
    )


def chain(length: int) -> list[Link]:
    """A whole thread."""
    links: list[Link] = []
    for index in range(length):
        previous = hashlib.sha256(links[-1][0]).digest() if links else None
        links.append(link(index, previous))
    return links


def faults(links: list[Link]) -> list[tuple[ChainFault, bytes]]:
    """What is found, and at which receipt."""
    return [(problem.fault, problem.receipt_id) for problem in check_chain(links)]


def again(one: Link, **changes: object) -> Link:
    """The same receipt with other contents, signed anew."""
    changed = replace(one[1], **changes)  # type: ignore[arg-type]
    return sign_receipt(changed, RECEIPT_KEY), changed


def test_a_whole_thread_holds() -> None:
    """Completed and cancelled turns have places; failed ones stand between them and have none."""
    links = chain(3)
    links.insert(2, failed(2))
    links.insert(0, failed(0))
    # Memory could not be read: it says nothing of the thread.
    links.append(failed(0, receipt_id=b"x" * 16, turn_index=0))
    assert check_chain(links) == []
    assert check_chain([]) == []


def test_a_cancelled_turn_has_a_place_as_any_other() -> None:
    """What was said until then is remembered."""
    links = chain(1)
    previous = hashlib.sha256(links[0][0]).digest()
    links.append(link(1, previous, outcome=Outcome.CANCELLED))
    assert check_chain(links) == []


def test_what_is_missing_contradicts_nothing() -> None:
    """A second device's turns, an export from the middle, a link that was not to be had."""
    whole = chain(6)
    problems = check_chain([whole[2], whole[5]])
    assert [problem.fault for problem in problems] == [ChainFault.BEGINNING, ChainFault.MISSING]
    assert [problem.receipt_id for problem in problems] == [
        whole[2][1].receipt_id,
        whole[5][1].receipt_id,
    ]
    assert "not here" in problems[1].text
    problems += check_chain([whole[0], link(1, None)])
    assert problems[-1].fault is ChainFault.UNNAMED
    problems += check_chain([whole[0], link(4, None)])
    assert problems[-1].fault is ChainFault.MISSING
    assert not any(problem.contradicts for problem in problems)


def test_notes_between_two_turns_are_no_hole() -> None:
    """Records that are no turns leave no receipts: the names of receipts tell what follows what."""
    links: list[Link] = []
    for index in (0, 2, 3, 9):
        previous = hashlib.sha256(links[-1][0]).digest() if links else None
        links.append(link(index, previous))
    assert check_chain(links) == []
    skipped = again(links[3], previous=hashlib.sha256(links[1][0]).digest())
    (problem,) = check_chain([*links[:3], skipped])
    assert problem.fault is ChainFault.PREVIOUS
    assert problem.contradicts


@pytest.mark.parametrize(
    ("at", "changes", "fault"),
    [
        (1, {"previous": bytes(32)}, ChainFault.PREVIOUS),
        (0, {"previous": bytes(32)}, ChainFault.PREVIOUS),
        (2, {"head_before": bytes(32)}, ChainFault.HEAD),
        (0, {"head_before": bytes(32)}, ChainFault.HEAD),
        (2, {"head_before": None}, ChainFault.HEAD),
        (2, {"head_after": None}, ChainFault.HEAD),
        (2, {"outcome": Outcome.FAILED}, ChainFault.HEAD),
        (2, {"head_after": head(2)}, ChainFault.HEAD),
        (2, {"turn_index": 1}, ChainFault.PLACE),
    ],
)
def test_a_contradiction_is_found(at: int, changes: dict[str, object], fault: ChainFault) -> None:
    """Each changed by its signer, so that no signature tells."""
    links = chain(3)
    links[at] = again(links[at], **changes)
    found = check_chain(links)
    assert fault in {problem.fault for problem in found}
    assert all(problem.contradicts for problem in found if problem.fault is fault)


def test_a_turn_that_was_rewritten_is_found() -> None:
    """A second receipt for one place, and the one after it names the first."""
    links = chain(3)
    other = again(links[1], receipt_id=b"o" * 16, response=bytes(32))
    assert faults([*links[:2], other, links[2]]) == [
        (ChainFault.PLACE, b"o" * 16),
        (ChainFault.PREVIOUS, links[2][1].receipt_id),
    ]


def test_one_receipt_twice_and_out_of_order_are_found() -> None:
    """An archive holds each once, oldest first."""
    links = chain(3)
    assert faults([*links, links[1]]) == [(ChainFault.REPEATED, links[1][1].receipt_id)]
    assert faults([links[1], links[0], links[2]]) == [(ChainFault.ORDER, links[0][1].receipt_id)]


def test_a_failed_turn_that_saw_another_thread_is_found() -> None:
    """At a length that the thread had, with a head that it had not."""
    links = [*chain(3), failed(2, head_before=bytes(32), head_after=bytes(32))]
    assert [fault for fault, _ in faults(links)] == [ChainFault.HEAD]
    assert faults([*chain(3), failed(9)]) == [], "of a length that nobody here knows"
