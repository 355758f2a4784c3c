"""The device's folder: its secret, where each thread stands, its receipts."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.client.home import DeviceHome
from runtime.client.rows import ReceiptRow, Sealing, Told
from runtime.errors import Exit, SetupError, SottoError
from tests.e2e.system import ROOT
from tests.proofs.archive_support import Conversation

HEADS = ["aa" * 32, "bb" * 32]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


def a_row(number: int = 0, **changes: object) -> ReceiptRow:
    """A turn whose receipt is on its way."""
    values: dict[str, object] = {
        "receipt_id": f"{number:032x}",
        "turn_id": f"{number + 1000:032x}",
        "persona": "wren",
        "enclave_id": "ee" * 32,
        "time": 1_700_000_000 + number,
        "outcome": "completed",
        "commitments": bytes(64),
    }
    return ReceiptRow(**{**values, **changes})  # type: ignore[arg-type]


def mode(path: Path) -> int:
    """A file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_may_look(tmp_path: Path) -> None:
    """Folder 0700 and every file in it 0600, whatever the umask, while it is in use."""
    before = os.umask(0)
    try:
        home = DeviceHome(tmp_path / "home")
        home.set_position("wren", f"1.{HEADS[0]}")
        home.expect_receipt(a_row())
        files = list(home.path.iterdir())
        assert {"master.key", "device.db", "device.db-wal"} <= {file.name for file in files}
        assert {mode(file) for file in files} == {0o600}
        assert mode(home.path) == 0o700
        home.close()
    finally:
        os.umask(before)


def test_the_secret_outlives_the_device(tmp_path: Path) -> None:
    """A device that is opened again opens the same threads; another device opens others."""
    folders = [tmp_path / "one", tmp_path / "one", tmp_path / "other"]
    keys = []
    for folder in folders:
        home = DeviceHome(folder)
        keys.append((home.thread_key("wren"), home.thread_key("atlas")))
        home.close()
    assert keys[0] == keys[1]
    assert len({key for pair in keys for key in pair}) == 4
    assert all(len(key) == 32 for pair in keys for key in pair)


def test_first_starts_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    """However many programs start on a new device, none of them loses its memory."""
    code = (
        "import sys; from pathlib import Path; from runtime.client.home import DeviceHome\n"
        "print(flush=True); sys.stdin.readline()\n"
        "home = DeviceHome(Path(sys.argv[1])); print(home.thread_key('wren').hex()); home.close()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "home")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:  # all have loaded and wait for the line
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    keys = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(set(keys)) == 1
    assert len(keys[0]) == 64
    assert {file.name for file in (tmp_path / "home").iterdir()} <= {
        *("master.key", "device.db", "device.db-wal", "device.db-shm"),
    }, "no draft of a secret is left"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_damaged_secret_is_one_clear_error(length: int, tmp_path: Path) -> None:
    """It is not replaced by a new one: that would be a new person with an empty memory."""
    DeviceHome(tmp_path / "home").close()
    file = tmp_path / "home" / "master.key"
    file.write_bytes(b"s" * length)
    with pytest.raises(SetupError) as caught:
        DeviceHome(tmp_path / "home")
    assert caught.value.exit_code == Exit.USAGE
    assert str(file) in str(caught.value)
    assert "backup" in str(caught.value)
    assert "sss" not in str(caught.value)
    assert file.read_bytes() == b"s" * length


@pytest.mark.parametrize("name", ["home", "home/device.db", "home/master.key"])
def test_a_folder_that_cannot_be_used_is_one_clear_error(name: str, tmp_path: Path) -> None:
    """A file where a folder should be, a folder where a file should be: say so, and what to do."""
    place = tmp_path / name
    if name == "home":
        place.write_text("not a folder")
    else:
        place.mkdir(parents=True)
    with pytest.raises(SetupError) as caught:
        DeviceHome(tmp_path / "home")
    assert "--home" in str(caught.value)


def test_a_damaged_database_is_one_clear_error(tmp_path: Path) -> None:
    """What is not a database is not overwritten."""
    DeviceHome(tmp_path / "home").close()
    (tmp_path / "home" / "device.db").write_bytes(b"not a database, but long enough" * 999)
    with pytest.raises(SetupError):
        DeviceHome(tmp_path / "home")


def test_positions_stand_side_by_side_and_survive(home: DeviceHome) -> None:
    """Each persona's thread has its own, and a new program on the device knows them all."""
    assert home.position("wren") is None
    home.set_position("wren", f"1.{HEADS[0]}")
    home.set_position("atlas", f"7.{HEADS[1]}")
    again = DeviceHome(home.path)
    assert again.position("wren") == f"1.{HEADS[0]}"
    assert again.position("atlas") == f"7.{HEADS[1]}"
    again.close()


def test_a_position_only_goes_forward(home: DeviceHome) -> None:
    """An answer that comes late does not undo what the device knows of a newer one.

    Else an edge could hold an old answer back, and the store forget every turn since.
    """
    home.set_position("wren", f"9.{HEADS[0]}")
    home.set_position("wren", f"10.{HEADS[0]}")
    for late in (f"9.{HEADS[0]}", f"2.{HEADS[1]}", f"10.{HEADS[1]}"):
        home.set_position("wren", late)
        assert home.position("wren") == f"10.{HEADS[0]}"


def test_the_place_of_an_empty_thread_is_not_kept(home: DeviceHome) -> None:
    """Whoever looked at a conversation that is none has none with that persona."""
    home.set_position("wrem", f"0.{HEADS[0]}")
    assert home.position("wrem") is None
    assert not home.knows("wrem")


def test_a_receipt_goes_from_waiting_to_settled(home: DeviceHome) -> None:
    """Each step is seen, and stays."""
    row = a_row()
    assert home.receipt(row.receipt_id) is None
    home.expect_receipt(row)
    assert home.receipt(row.receipt_id) == row
    assert row.status == "waiting"
    home.keep_receipt(row.receipt_id, "dd" * 32, b"cose")
    received = home.receipt(row.receipt_id)
    assert received is not None
    assert (received.status, received.enclave_id, received.receipt) == (
        *("received", "dd" * 32, b"cose"),
    )
    home.keep_proof(row.receipt_id, "proof")
    settled = home.receipt(row.receipt_id)
    assert settled is not None
    assert (settled.status, settled.proof, settled.problem) == ("settled", "proof", None)


@pytest.mark.parametrize("have", [(None, None), (b"cose", None), (b"cose", "proof")])
def test_a_refused_receipt_is_refused_whatever_else_came(
    home: DeviceHome, have: tuple[bytes | None, str | None]
) -> None:
    """No later part of it hides the problem."""
    row = a_row(receipt=have[0], proof=have[1])
    home.expect_receipt(row)
    home.refuse_receipt(row.receipt_id, "its signature is not the enclave's")
    found = home.receipt(row.receipt_id)
    assert found is not None
    assert found.status == "refused"
    assert found.problem == "its signature is not the enclave's"


def test_a_turn_sealed_twice_accepts_the_receipt_of_either_try(home: DeviceHome) -> None:
    """The enclave commits to the exchange that it answered, and the device cannot know which."""
    home.expect_receipt(a_row(commitments=b"1" * 64))
    home.expect_receipt(a_row(commitments=b"1" * 64 + b"2" * 64))
    found = home.receipt(a_row().receipt_id)
    assert found is not None
    assert found.commitments == b"1" * 64 + b"2" * 64
    assert len(list(home.receipts())) == 1
    home.keep_receipt(found.receipt_id, found.enclave_id, b"cose")
    home.expect_receipt(a_row(commitments=b"3" * 64))
    again = home.receipt(found.receipt_id)
    assert again is not None
    assert (again.commitments, again.receipt) == (found.commitments, b"cose")


def test_receipts_are_listed_in_the_order_of_their_turns(home: DeviceHome) -> None:
    """Oldest first, also where two ended in one second."""
    rows = [a_row(3), a_row(1), a_row(2), a_row(4, time=a_row(2).time)]
    for row in rows:
        home.expect_receipt(row)
    assert [row.receipt_id for row in home.receipts()] == [
        a_row(number).receipt_id for number in (1, 2, 4, 3)
    ]


def test_a_verified_bundle_is_kept_as_it_was_first_seen(home: DeviceHome) -> None:
    """A later one of the same name does not replace what receipts are judged by."""
    home.bundles.keep("ee" * 32, b"bundle", "proof")
    home.bundles.keep("ee" * 32, b"other", "other")
    assert home.bundles.get("ee" * 32) == (b"bundle", "proof")
    with pytest.raises(KeyError):
        home.bundles.get("dd" * 32)


def test_the_secret_stands_in_no_database(home: DeviceHome) -> None:
    """What lists receipts for others to see cannot give the memory away."""
    home.set_position("wren", f"1.{HEADS[0]}")
    home.expect_receipt(a_row())
    stored = b"".join(file.read_bytes() for file in home.path.glob("device.db*"))
    assert b"wren" in stored
    for secret in ((home.path / "master.key").read_bytes(), home.thread_key("wren")):
        assert secret not in stored
        assert secret.hex().encode() not in stored.lower()


def test_a_completions_key_is_forgotten_when_its_receipt_is_here(home: DeviceHome) -> None:
    """It opens one receipt, once; afterwards nothing on this disk opens what Redis still holds."""
    kept, refused = a_row(0, seal_key=b"k" * 32), a_row(1, seal_key=b"K" * 32)
    for row in (kept, refused):
        home.expect_receipt(row)
        assert home.receipt(row.receipt_id) == row
        assert "kkkk" not in repr(row).lower()
    home.keep_receipt(kept.receipt_id, "dd" * 32, b"cose")
    home.refuse_receipt(refused.receipt_id, "it commits to other words")
    assert [row.seal_key for row in home.receipts()] == [None, None]


# The database as it was before completions had receipts.
_FIRST_FORM = """
CREATE TABLE threads (persona TEXT PRIMARY KEY, position TEXT NOT NULL) STRICT;
CREATE TABLE enclaves (
    enclave_id TEXT PRIMARY KEY, bundle BLOB NOT NULL, proof TEXT NOT NULL
) STRICT;
CREATE TABLE receipts (
    receipt_id TEXT PRIMARY KEY, turn_id TEXT NOT NULL, persona TEXT NOT NULL,
    enclave_id TEXT NOT NULL, time INTEGER NOT NULL, outcome TEXT NOT NULL,
    commitments BLOB NOT NULL, receipt BLOB, proof TEXT, problem TEXT
) STRICT;
"""


def test_a_database_of_the_first_form_is_brought_up_to_date(tmp_path: Path) -> None:
    """Positions and receipts stay, once and for all, and completions can be kept beside them."""
    (tmp_path / "home").mkdir(mode=0o700)
    old = sqlite3.connect(tmp_path / "home" / "device.db")
    old.executescript(_FIRST_FORM)
    old.execute("INSERT INTO threads VALUES ('wren', ?)", (f"3.{HEADS[0]}",))
    old.execute(
        "INSERT INTO receipts VALUES (?, ?, 'wren', ?, 7, 'completed', ?, ?, 'proof', NULL)",
        ("0" * 32, "1" * 32, "ee" * 32, bytes(64), b"cose"),
    )
    old.commit()
    old.close()
    for _ in range(2):
        home = DeviceHome(tmp_path / "home")
        assert home.position("wren") == f"3.{HEADS[0]}"
        (row, *_) = home.receipts()
        assert (row.status, row.receipt, row.seal_key) == ("settled", b"cose", None)
        home.expect_receipt(a_row(5, turn_id="", seal_key=b"k" * 32))
        found = home.receipt(a_row(5).receipt_id)
        assert found is not None
        assert found.seal_key == b"k" * 32
        home.close()


def test_a_database_of_a_newer_sottovoce_is_left_alone(tmp_path: Path) -> None:
    """What this version does not understand it does not write into."""
    DeviceHome(tmp_path / "home").close()
    newer = sqlite3.connect(tmp_path / "home" / "device.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(SetupError, match="newer"):
        DeviceHome(tmp_path / "home")


def test_a_database_that_fails_later_is_one_clear_error(home: DeviceHome) -> None:
    """A disk that fills up or a file that is damaged meanwhile is no defect of the program."""
    other = sqlite3.connect(home.path / "device.db")
    other.execute("DROP TABLE receipts")
    other.execute("DROP TABLE threads")
    other.close()
    for use in (
        lambda: home.expect_receipt(a_row()),
        lambda: list(home.receipts()),
        lambda: home.position("wren"),
    ):
        with pytest.raises(SottoError) as caught:
            use()
        assert caught.value.code == "home"
        assert str(home.path) in str(caught.value)


def test_a_late_answer_about_an_earlier_thread_takes_no_words_of_this_one(
    home: DeviceHome,
) -> None:
    """Places that were erased there are other turns' here, and receipts of those are to come."""
    assert home.move_on("wren", 0)
    home.note_erased("wren", 0, [0, 1])
    assert home.transcripts.erased("wren") == set()
    home.note_erased("wren", 1, [2])
    assert home.transcripts.erased("wren") == {2}


def test_words_whose_receipt_was_refused_do_not_stay(home: DeviceHome) -> None:
    """Nobody could be shown them, and nobody could say which turn they were, to forget it."""
    sealing = Sealing("ee" * 32, bytes(32), bytes(32))
    home.expect_receipt(a_row(), Told(b"My dog is called Juno.", "I see.", (sealing,)))
    home.refuse_receipt(a_row().receipt_id, "its signature is not the enclave's")
    assert b"Juno" not in b"".join(one.read_bytes() for one in home.path.glob("device.db*"))


def test_words_of_a_turn_that_was_erased_before_its_receipt_came_do_not_stay(
    home: DeviceHome,
) -> None:
    """The receipt says which turn they were; neither the database nor its journal keeps them."""
    (receipt,) = Conversation.of(1).receipts
    home.note_erased("wren", 0, [0])
    sealing = Sealing("ee" * 32, bytes(32), bytes(32))
    home.expect_receipt(a_row(), Told(b"My dog is called Juno.", "I see.", (sealing,)))
    home.keep_receipt(a_row().receipt_id, "ee" * 32, receipt)
    assert home.receipt(a_row().receipt_id).receipt == receipt  # type: ignore[union-attr]
    assert b"Juno" not in b"".join(one.read_bytes() for one in home.path.glob("device.db*"))
