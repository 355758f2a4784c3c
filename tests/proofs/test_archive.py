"""Archives: what holds, what does not, and what is missing."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from proofs import archive, cbor
from proofs.archive import (
    ArchiveReader,
    BundleRecord,
    EntryRecord,
    ErasureRecord,
    Header,
    Kind,
    LogRecord,
    ReceiptRecord,
    Record,
)
from proofs.archive_report import MAX_FINDINGS, ArchiveReport
from proofs.bundle import bundle_entry, make_bundle
from proofs.erasure import Scope, decode_erasure, erasure_entry, sign_erasure
from proofs.errors import UnreadableError
from proofs.policy import Policy
from proofs.receipt import Outcome, decode_receipt, receipt_entry, sign_receipt
from proofs.verdict import Status
from tests.proofs.archive_support import (
    LATER,
    Conversation,
    Log,
    changed,
    judge,
    source,
    write,
)
from tests.proofs.proofs_support import (
    NOW,
    RECEIPT_KEY,
    claims,
    platform,
    policy,
    private_key,
)

HEADER = Header(Kind.CONVERSATION, LATER, 0, LATER)
AUDIT = Header(Kind.AUDIT, LATER, NOW - 60, LATER)


@pytest.fixture(scope="module")
def story() -> Conversation:
    """Eight turns, then forgotten."""
    return Conversation.of(8, forgotten=True)


def failed(report: ArchiveReport) -> set[int]:
    """Numbers of the steps that fail."""
    found = {step.number for step in report.steps if step.status is Status.FAILS}
    assert report.holds == (not found) == (not report.findings_total)
    return found


def test_a_whole_conversation_holds(story: Conversation) -> None:
    """Every receipt, the chain, and the erasure; each step and each verdict is counted."""
    report = judge(story.archive(with_text=True), keep_said=True)
    assert failed(report) == set()
    assert report.complete
    assert report.simulated
    assert report.counts["holding"] == report.counts["receipts"] == report.counts["said"] == 8
    assert report.counts["erasures_holding"] == 1
    (thread,) = report.threads
    assert (thread.receipts, thread.gaps, thread.contradictions) == (8, (), ())
    by_name = {tally.title: tally for tally in report.verdicts}
    assert by_name["integrity"].holds == by_name["inclusion"].holds == 8
    assert by_name["custody"].not_checked == 8
    assert [turn.response for turn in report.said] == [one.response for one in story.said]


def test_words_stay_out_of_a_report_unless_asked_for(story: Conversation) -> None:
    """And out of its JSON and its representation always."""
    data = story.archive(with_text=True)
    assert judge(data).said == ()
    report = judge(data, keep_said=True)
    assert "question" not in repr(report) + str(report.to_json())


def test_it_holds_nothing_for_a_stranger_who_trusts_nobody(story: Conversation) -> None:
    """The default policy refuses simulated evidence and believes no log."""
    report = judge(story.archive(), Policy.strict())
    assert failed(report) == {2, 3}
    assert report.counts.get("holding", 0) == 0


def test_a_missing_turn_is_a_gap(story: Conversation) -> None:
    """Nothing is contradicted, and still it is not the whole conversation."""
    records = story.records()
    del records[4]
    report = judge(write(HEADER, records))
    assert failed(report) == {5}
    assert not report.complete
    assert report.only_gaps
    assert report.counts["holding"] == 7


def test_a_beginning_before_the_range_is_no_gap(story: Conversation) -> None:
    """What lies before `since` may be missing; what lies in between may not."""
    header = Header(Kind.CONVERSATION, LATER, NOW, LATER)
    records = story.records()
    del records[1:3]
    report = judge(write(header, records))
    assert failed(report) == set()
    assert report.threads[0].notes
    assert failed(judge(write(replace(header, since=0), records))) == {5}


def test_turns_between_the_last_one_and_the_erasure_are_a_gap(story: Conversation) -> None:
    """The erasure names the receipt of the thread's last turn."""
    records = story.records()
    del records[7:9]
    report = judge(write(HEADER, records))
    assert failed(report) == {5}
    assert report.only_gaps


def _first(records: list[Record]) -> ReceiptRecord:
    return next(one for one in records if isinstance(one, ReceiptRecord))


@pytest.mark.parametrize(
    ("of", "changes", "steps"),
    [
        # Each is signed again by the attested key: only the chain and the log can tell.
        (3, {"previous": b"x" * 32}, {2, 4}),
        (3, {"turn_index": 5}, {2, 4}),
        (3, {"head_before": b"x" * 32}, {2, 4}),
        (3, {"outcome": Outcome.FAILED}, {2, 4}),
        (3, {"receipt_id": bytes(16)}, {2, 4}),
        (3, {"time": LATER + 1}, {2, 6}),
        (3, {"epoch": 5}, {2, 4}),
        (3, {"release": b"x" * 32}, {2, 4}),
    ],
)
def test_a_turn_that_was_stated_anew_does_not_fit(
    story: Conversation, of: int, changes: dict[str, object], steps: set[int]
) -> None:
    """The log has another receipt, and the next one names another."""
    records = story.records()
    record = records[of]
    assert isinstance(record, ReceiptRecord)
    records[of] = changed(record, **changes)
    report = judge(write(HEADER, records))
    assert failed(report) >= steps


def test_threads_do_not_hide_a_second_answer(story: Conversation) -> None:
    """The same turn answered twice is seen, in whichever thread somebody writes it down."""
    records = story.records()
    record = records[3]
    assert isinstance(record, ReceiptRecord)
    again = changed(record, receipt_id=b"another" + bytes(9), response=b"other" + bytes(27))
    at = len(records) - 1
    records.insert(at, replace(again, thread=1))
    report = judge(write(replace(HEADER, since=NOW), records))
    assert 4 in failed(report)
    assert any("names the same receipt" in one.detail for one in report.findings)


def test_a_receipt_stands_in_an_archive_once(story: Conversation) -> None:
    """Neither in its thread again nor as a completion beside it."""
    records = story.records()
    record = _first(records)
    assert isinstance(record, ReceiptRecord)
    lone = [*records[:-1], replace(record, thread=None), records[-1]]
    for twice in ([*records[:2], *records[1:]], lone):
        report = judge(write(HEADER, twice))
        assert failed(report) == {4}


def test_turns_of_a_thread_cannot_stand_outside_of_it(story: Conversation) -> None:
    """Else one of them could be left out unseen: what is of no thread has no order."""
    records = [
        replace(one, thread=None) if isinstance(one, ReceiptRecord) else one
        for one in story.records()
    ]
    del records[4]
    assert failed(judge(write(HEADER, records[:-1]))) == {4}


def test_erasures_come_last(story: Conversation) -> None:
    """Before its thread, an erasure could not be held against the thread's last turn."""
    records = story.records()
    data = write(HEADER, [records[0], records[-1], *records[1:7]])
    with pytest.raises(UnreadableError, match="after erasures"):
        judge(data)


def _erased(story: Conversation, **changes: object) -> list[Record]:
    """Its records with an erasure that states something else, signed and logged."""
    records = story.records()
    last = records[-1]
    assert isinstance(last, ErasureRecord)
    stated = replace(decode_erasure(last.receipt).unverified, **changes)  # type: ignore[arg-type]
    other = sign_erasure(stated, RECEIPT_KEY)
    entry = erasure_entry(other)
    log = Log([*story.entries, entry])
    records[-1] = replace(last, receipt=other, proof=log.proof(entry), cose_receipt=log.cose(entry))
    return records


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"head": b"x" * 32}, {4}),
        ({"head": b"x" * 32, "previous": None}, {5}),
        ({"head": None, "length": 0, "previous": None}, set()),
        ({"previous": None}, set()),
        # Notes behind the last turn went as well.
        ({"head": b"x" * 32, "length": 99}, set()),
        # The thread went on behind an erasure of some records.
        ({"head": b"x" * 32, "scope": Scope.RECORDS, "after": b"y" * 32}, set()),
        ({"head": b"x" * 32, "scope": Scope.ROTATION, "after": b"y" * 32}, {4}),
    ],
)
def test_an_erasure_is_of_the_thread_beside_which_it_stands(
    story: Conversation, changes: dict[str, object], steps: set[int]
) -> None:
    """By receipt or memory head, where the enclave that signed it had them."""
    assert failed(judge(write(HEADER, _erased(story, **changes)))) == steps


def test_one_erasure_is_not_shown_as_two(story: Conversation) -> None:
    """Neither for the same thread nor for another."""
    records = story.records()
    last = records[-1]
    assert isinstance(last, ErasureRecord)
    assert failed(judge(write(HEADER, [*records, replace(last, thread=1)]))) == {4}


def test_an_erasures_cose_receipt_is_looked_at(story: Conversation) -> None:
    """It has to be there where the policy wants it, and to be of this entry."""
    records = story.records()
    last, turn = records[-1], records[1]
    assert isinstance(last, ErasureRecord)
    assert isinstance(turn, ReceiptRecord)
    strict = policy(require_cose=True)
    assert failed(judge(write(HEADER, records), strict)) == set()
    none = [*records[:-1], replace(last, cose_receipt=b"")]
    assert failed(judge(write(HEADER, none))) == set()
    assert failed(judge(write(HEADER, none), strict)) == {3}
    other = [*records[:-1], replace(last, cose_receipt=turn.cose_receipt)]
    assert failed(judge(write(HEADER, other))) == {3}


def test_a_failed_turn_at_the_beginning_of_a_range_makes_no_gap(story: Conversation) -> None:
    """It has no place in the thread, and what lies before the range may be missing."""
    records = story.records()
    third = records[3]
    assert isinstance(third, ReceiptRecord)
    head = decode_receipt(third.receipt).unverified.head_before
    stated = {"receipt_id": b"failed" + bytes(10), "head_after": head, "outcome": Outcome.FAILED}
    broken = changed(third, **stated)
    entry = receipt_entry(broken.receipt)
    log = Log([*story.entries, entry])
    broken = replace(broken, proof=log.proof(entry), cose_receipt=log.cose(entry))
    report = judge(write(replace(HEADER, since=NOW), [records[0], broken, *records[3:]]))
    assert failed(report) == set()
    assert report.threads[0].notes


def test_two_conversations_and_a_completion(story: Conversation) -> None:
    """Each thread has its own chain; a completion has none."""
    other = Conversation.of(3, number=1)
    lone = Conversation.of(1, number=2)
    asked = replace(
        decode_receipt(lone.receipts[0]).unverified,
        head_before=None,
        head_after=None,
        previous=None,
    )
    lone.receipts[0] = sign_receipt(asked, RECEIPT_KEY)
    lone.entries[2] = receipt_entry(lone.receipts[0])
    log = Log([*story.entries, *other.entries[2:], *lone.entries[2:]])
    records: list[Record] = [BundleRecord(story.bundle, log.proof(bundle_entry(story.bundle)))]
    for thread, one in ((0, story), (1, other), (None, lone)):
        for receipt in one.receipts:
            entry = receipt_entry(receipt)
            records.append(ReceiptRecord(thread, receipt, log.proof(entry), log.cose(entry)))
    report = judge(write(HEADER, records))
    assert failed(report) == set()
    assert [thread.receipts for thread in report.threads] == [8, 3]
    assert report.counts["holding"] == 12


def test_proofs_that_are_not_there_are_not_taken_for_proofs(story: Conversation) -> None:
    """An archive of unsettled receipts reads, and does not hold."""
    records = [
        replace(one, proof="", cose_receipt=b"") if isinstance(one, ReceiptRecord) else one
        for one in story.records()
    ]
    report = judge(write(HEADER, records))
    assert failed(report) == {2}
    assert all(one.subject == "inclusion" for one in report.findings)


def test_receipts_without_their_bundle_do_not_hold(story: Conversation) -> None:
    """Nothing says whose key signed them."""
    report = judge(write(HEADER, story.records()[1:]))
    assert failed(report) == {2, 3}


def test_changed_words_do_not_pass(story: Conversation) -> None:
    """Nor are they shown."""
    records = story.records(with_text=True)
    record = _first(records)
    assert record.said is not None
    records[1] = replace(record, said=replace(record.said, response="answer X"))
    report = judge(write(HEADER, records), keep_said=True)
    assert failed(report) == {2}
    assert "answer X" not in [turn.response for turn in report.said]
    assert len(report.said) == 7


def test_a_forged_erasure_does_not_hold(story: Conversation) -> None:
    """One that another key signed, one without proof, and one of the future."""
    records = story.records()
    last = records[-1]
    assert isinstance(last, ErasureRecord)
    flipped = bytearray(last.receipt)
    flipped[-1] ^= 1
    for one in (replace(last, receipt=bytes(flipped)), replace(last, proof="")):
        assert failed(judge(write(HEADER, [*records[:-1], one]))) == {3}
    assert 3 in failed(judge(write(HEADER, records), at=NOW + 2999))
    other = sign_erasure(decode_erasure(last.receipt).unverified, private_key(9))
    log = Log([*story.entries, erasure_entry(other)])
    logged = replace(last, receipt=other, proof=log.proof(erasure_entry(other)))
    assert failed(judge(write(HEADER, [*records[:-1], logged]))) == {3}


def test_later_epochs_are_judged(story: Conversation) -> None:
    """With the next bundle beside it, a policy that wants it is content."""
    after = make_bundle(
        claims(not_before=NOW + 600, not_after=NOW + 4200, epoch=5), platform(), NOW + 600
    )
    log = Log([*story.entries, bundle_entry(after.encode())])
    first = BundleRecord(story.bundle, log.proof(bundle_entry(story.bundle)), after.digest)
    second = BundleRecord(after.encode(), log.proof(bundle_entry(after.encode())))
    receipts = [
        replace(one, proof=log.proof(receipt_entry(one.receipt)), cose_receipt=b"")
        for one in story.records()
        if isinstance(one, ReceiptRecord)
    ]
    strict = policy(require_later_epoch=True)
    assert failed(judge(write(HEADER, [first, second, *receipts]), strict)) == set()
    alone = write(HEADER, [first, *receipts])
    assert failed(judge(alone, strict)) == {2}
    assert failed(judge(alone)) == set()


def test_an_operators_range_holds(story: Conversation) -> None:
    """Number, place and time of the entries, without a word of what they are about."""
    log = story.log()
    bundle = BundleRecord(story.bundle, log.proof(bundle_entry(story.bundle)))
    report = judge(write(AUDIT, [bundle, *log.records(1, 9)]))
    assert failed(report) == set()
    assert {step.number for step in report.steps} == {1, 7, 8, 9, 10}
    assert report.counts["entries"] == 8


def test_times_that_no_bundle_shows_are_not_checked(story: Conversation) -> None:
    """An operator who leaves bundles out has shown nothing of the range's time."""
    report = judge(write(AUDIT, story.log().records(1, 9)))
    assert failed(report) == set()
    (times,) = [step for step in report.steps if step.number == 9]
    assert times.status is Status.NOT_CHECKED


def _without(records: list[Record]) -> list[Record]:
    return [*records[:3], *records[4:]]


def _cut(records: list[Record]) -> list[Record]:
    return records[:-1]


def _moved(records: list[Record]) -> list[Record]:
    first, second = records[2], records[3]
    assert isinstance(first, EntryRecord)
    assert isinstance(second, EntryRecord)
    swapped = [replace(first, entry=second.entry), replace(second, entry=first.entry)]
    return [*records[:2], *swapped, *records[4:]]


def _path(records: list[Record]) -> list[Record]:
    one = records[2]
    assert isinstance(one, EntryRecord)
    return [*records[:2], replace(one, path=one.path[1:]), *records[3:]]


@pytest.mark.parametrize("change", [_without, _cut, _moved, _path])
def test_a_range_with_an_entry_changed_does_not_hold(
    story: Conversation, change: Callable[[list[Record]], list[Record]]
) -> None:
    """Left out, moved, or with a path of its own."""
    assert failed(judge(write(AUDIT, change(story.log().records(1, 9))))) == {8}


def test_a_range_of_another_log_does_not_hold(story: Conversation) -> None:
    """Nor of one that too few witnesses saw."""
    data = write(AUDIT, story.log().records(0, 5))
    assert failed(judge(data, policy(log_keys=()))) == {7}
    assert failed(judge(data, policy())) == set()


def test_a_bundle_of_another_time_does_not_fit_the_range(story: Conversation) -> None:
    """The hardware signed when it was attested; a range cannot be said to be of another day."""
    log = story.log()
    bundle = BundleRecord(story.bundle, log.proof(bundle_entry(story.bundle)))
    for since, until in ((NOW + 2 * 86400, NOW + 3 * 86400), (NOW - 9 * 86400, NOW - 86400)):
        header = Header(Kind.AUDIT, LATER, since, until)
        assert failed(judge(write(header, [bundle, *log.records(1, 9)]))) == {9}


def test_an_untrusted_bundle_of_a_range_is_named(story: Conversation) -> None:
    """Software that the policy does not allow ran there."""
    log = story.log()
    bundle = BundleRecord(story.bundle, log.proof(bundle_entry(story.bundle)))
    data = write(AUDIT, [bundle, *log.records(1, 9)])
    assert failed(judge(data, policy(measurements=()))) <= {10}
    assert failed(judge(data, policy(measurements=[{"vm.image": b"x" * 48}]))) == {10}


def test_findings_are_counted_and_the_worst_kept() -> None:
    """However many there are, a report stays small, and a contradiction comes first."""
    story = Conversation.of(MAX_FINDINGS * 3)
    records = story.records()
    records[-1] = changed(records[-1], previous=b"x" * 32)  # type: ignore[arg-type]
    report = judge(write(HEADER, records), Policy.strict())
    assert report.findings_total > len(report.findings) == MAX_FINDINGS
    assert report.findings[0].subject == "chain"


def _sequence(*records: list[object]) -> bytes:
    """A file whose checksum and count fit, whatever its records are."""
    items = [cbor.encode(cbor.encode(one)) for one in records]
    end = ["end", len(records), hashlib.sha256(b"".join(items)).digest()]
    return b"".join(items) + cbor.encode(cbor.encode(end))


HEAD: list[object] = ["sottovoce-archive-v1", "audit", 3, 1, 2]


@pytest.mark.parametrize(
    "records",
    [
        [["sottovoce-archive-v2", "audit", 3, 1, 2]],
        [["sottovoce-archive-v1", "diary", 3, 1, 2]],
        [["sottovoce-archive-v1", "audit", 3, 2, 1]],
        [["sottovoce-archive-v1", "audit", 3, 1, -2]],
        [["sottovoce-archive-v1", "audit", 3, 1]],
        [HEAD, ["poem", b"x"]],
        [HEAD, [b"bundle", b"x", "", None]],
        [HEAD, ["bundle", b"x", ""]],
        [HEAD, ["bundle", b"x", "", b"short"]],
        [HEAD, ["bundle", b"x", "", None], ["bundle", b"x", "", None]],
        [HEAD, ["receipt", 1, b"x", "", b"", None]],
        [HEAD, ["receipt", -1, b"x", "", b"", None]],
        [HEAD, ["receipt", None, b"x", "", b"", None], ["receipt", 0, b"x", "", b"", None]],
        [HEAD, ["receipt", 0, b"x", "", b"", None]],
        [HEAD, ["erasure", 0, b"x", "", b""]],
        [HEAD, ["erasure", None, b"x", "", b""]],
        [HEAD, ["entry", 0, b"x", [], None, None]],
        [HEAD, ["log", "no note", 0, 0]],
        [HEAD, ["log", "", 0, 0]],
        [HEAD, []],
        [HEAD, HEAD],
    ],
)
def test_another_shape_is_unreadable(records: list[list[object]]) -> None:
    """Whatever its checksum says."""
    with pytest.raises(UnreadableError):
        judge(_sequence(*records))


def test_an_empty_archive_is_readable() -> None:
    """It says of nothing that it holds, and contradicts nothing."""
    report = judge(_sequence(HEAD))
    assert report.holds
    assert report.counts == {}


def test_a_range_beyond_its_checkpoint_is_unreadable(story: Conversation) -> None:
    """No path could lead there."""
    record = story.log().records(0, 0)[0]
    assert isinstance(record, LogRecord)
    with pytest.raises(UnreadableError, match="beyond"):
        judge(write(AUDIT, [replace(record, end=len(story.entries) + 1)]))


@pytest.mark.parametrize("head", [b"\x5f", b"\x58\x05", b"\x5b" + b"\xff" * 8, b"\x40", b"\x85"])
def test_heads_that_lie_are_unreadable(head: bytes) -> None:
    """Indefinite, longer than needed, longer than any record, empty, or no byte string."""
    with pytest.raises(UnreadableError):
        judge(head + bytes(64))
    whole = _sequence(HEAD)
    start = cbor.encode(cbor.encode(HEAD))
    with pytest.raises(UnreadableError):
        judge(start + head + whole[len(start) :])


def test_a_record_has_one_head() -> None:
    """A longer one than needed is refused, although the checksum is over the shortest."""
    whole = _sequence(HEAD, ["bundle", b"x", "", None])
    start = len(cbor.encode(cbor.encode(HEAD)))
    assert whole[start] < 0x58, "a record of fewer than 24 bytes"
    longer = whole[:start] + bytes([0x58, whole[start] & 0x1F]) + whole[start + 1 :]
    with pytest.raises(UnreadableError, match="length"):
        judge(longer)


def test_a_record_is_not_read_before_its_length_is_known() -> None:
    """A head that announces gigabytes reserves none."""
    asked: list[int] = []

    def read(_: int, length: int) -> bytes:
        asked.append(length)
        return (b"\x5a" + (archive.MAX_RECORD + 1).to_bytes(4, "big"))[:length]

    with pytest.raises(UnreadableError):
        ArchiveReader(read, 1 << 30)
    assert max(asked) < 64
    with pytest.raises(UnreadableError):
        ArchiveReader(read, archive.MAX_ARCHIVE + 1)


def test_a_range_has_a_limit(story: Conversation) -> None:
    """What no archive can hold is not begun."""
    note = story.log().note.format()
    assert LogRecord(note, 5, 5 + archive.MAX_RECORDS)
    with pytest.raises(UnreadableError):
        LogRecord(note, 5, 6 + archive.MAX_RECORDS)


def test_no_flipped_bit_and_no_cut_passes() -> None:
    """Over the whole of a small file, at every place."""
    story = Conversation.of(1, forgotten=True)
    data = bytearray(story.archive(with_text=True))
    assert judge(bytes(data)).holds
    rng = random.Random(7)
    for place in range(len(data)):
        bit = 1 << rng.randrange(8)
        data[place] ^= bit
        with pytest.raises(UnreadableError):
            judge(bytes(data))
        data[place] ^= bit
        with pytest.raises(UnreadableError):
            judge(bytes(data[:place]))
    with pytest.raises(UnreadableError):
        judge(bytes(data) + b"\x00")


def test_no_flipped_bit_passes_when_the_checksum_is_made_to_fit() -> None:
    """Signatures, digests and paths, not the checksum, are what would have to be forged.

    The header is nobody's statement but the writer's, and a COSE Receipt may be left out: neither
    is flipped here.
    """
    story = Conversation.of(1)
    records = [replace(one, cose_receipt=b"") if isinstance(one, ReceiptRecord) else one
               for one in story.records(with_text=True)]  # fmt: skip
    whole = write(HEADER, records)
    reader = ArchiveReader(source(whole), len(whole))
    starts = [offset for offset, _ in reader.records()]
    end = len(whole) - len(cbor.encode(cbor.encode(["end", 3, bytes(32)])))
    body = bytearray(whole[:end])
    for place in range(starts[0], end, 2):
        body[place] ^= 1 << place % 8
        forged = bytes(body) + cbor.encode(cbor.encode(["end", 3, hashlib.sha256(body).digest()]))
        with contextlib.suppress(UnreadableError):
            assert not judge(forged).holds, place
        body[place] ^= 1 << place % 8


def test_exchanged_records_are_noticed(story: Conversation) -> None:
    """Two receipts in the wrong order, with everything else in place."""
    records = story.records()
    records[2], records[3] = records[3], records[2]
    assert 4 in failed(judge(write(HEADER, records)))
