"""What was once found of a receipt is never rewritten: later findings stand after it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from proofs.verdict import Status, Subject, Verdict
from runtime.client.home import DeviceHome

ONE, OTHER = "1" * 32, "2" * 32
POLICY = b"p" * 32


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


def found(status: Status = Status.HOLDS, detail: str = "fine", *codes: str) -> list[Verdict]:
    """Two verdicts, of which the second varies."""
    return [
        Verdict(Subject.INTEGRITY, Status.HOLDS, "intact", "this", "not that"),
        Verdict(Subject.TCB, status, detail, "this", "not that", codes),
    ]


def statuses(home: DeviceHome, receipt_id: str = ONE) -> list[tuple[int, bool]]:
    """When each was found, and whether it held."""
    return [(row.evaluated_at, row.holds) for row in home.verdicts.of(receipt_id)]


def test_a_verdict_that_changes_is_a_new_one(home: DeviceHome) -> None:
    """Each is kept with its time; the same again adds nothing, and the first stays as it was."""
    assert home.verdicts.append(ONE, 100, POLICY, True, found())
    assert not home.verdicts.append(ONE, 200, POLICY, True, found())
    before = home.verdicts.of(ONE)
    refused = found(Status.FAILS, "under INTEL-SA-1", "advisory")
    assert home.verdicts.append(ONE, 300, POLICY, False, refused)
    assert not home.verdicts.append(ONE, 400, POLICY, False, refused)
    assert home.verdicts.append(ONE, 500, POLICY, True, found())
    assert statuses(home) == [(100, True), (300, False), (500, True)]
    assert home.verdicts.of(ONE)[:1] == before
    assert "INTEL-SA-1" in home.verdicts.of(ONE)[1].verdicts
    assert statuses(home, OTHER) == []


def test_what_makes_a_verdict_another(home: DeviceHome) -> None:
    """Policy, outcome, status or reason; not the sentence, which may tell how long ago."""
    assert home.verdicts.append(ONE, 1, POLICY, True, found(detail="7 s ago"))
    assert not home.verdicts.append(ONE, 2, POLICY, True, found(detail="8 s ago"))
    assert home.verdicts.append(ONE, 3, b"q" * 32, True, found())
    assert home.verdicts.append(ONE, 4, b"q" * 32, False, found(Status.FAILS, "x", "expired"))
    assert home.verdicts.append(ONE, 5, b"q" * 32, False, found(Status.FAILS, "x", "revoked"))
    assert home.verdicts.append(ONE, 6, b"q" * 32, False, found(Status.NOT_CHECKED))
    assert home.verdicts.append(OTHER, 6, b"q" * 32, False, found(Status.NOT_CHECKED))
    assert [row.policy[:2] for row in home.verdicts.of(ONE)] == ["70", "71", "71", "71", "71"]


@pytest.mark.parametrize(
    "attempt",
    [
        "UPDATE verdicts SET holds = 1",
        "UPDATE verdicts SET verdicts = '[]' WHERE holds = 0",
        "DELETE FROM verdicts",
        "DELETE FROM verdicts WHERE holds = 0",
        "UPDATE OR REPLACE verdicts SET evaluated_at = 0",
    ],
)
def test_the_database_itself_rewrites_none(home: DeviceHome, attempt: str) -> None:
    """Whatever program asks."""
    home.verdicts.append(ONE, 100, POLICY, True, found())
    home.verdicts.append(ONE, 200, POLICY, False, found(Status.FAILS))
    before = home.verdicts.of(ONE)
    other = sqlite3.connect(home.path / "device.db")
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        other.execute(attempt)
    other.close()
    assert home.verdicts.of(ONE) == before


def test_forgetting_a_thread_leaves_its_receipts_verdicts(home: DeviceHome) -> None:
    """They speak of digests and hold no word of what was said."""
    home.verdicts.append(ONE, 100, POLICY, True, found())
    row = home.begin_erasure("wren", "0" * 32, 50)
    home.finish_erasure(row, "e" * 64, b"signed", 60)
    assert statuses(home) == [(100, True)]


def test_two_programs_write_one_history(home: DeviceHome) -> None:
    """The second sees what the first has found, and adds nothing that is there."""
    other = DeviceHome(home.path)
    assert home.verdicts.append(ONE, 100, POLICY, True, found())
    assert not other.verdicts.append(ONE, 100, POLICY, True, found())
    assert other.verdicts.append(ONE, 200, POLICY, False, found(Status.FAILS))
    assert statuses(home) == statuses(other) == [(100, True), (200, False)]
    other.close()
