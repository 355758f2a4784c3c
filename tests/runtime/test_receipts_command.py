"""`sotto receipts`: save, export, check again, history, out of a device's folder."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proofs.archive import Kind
from proofs.archive_report import ArchiveReport
from proofs.bundle import bundle_entry, make_bundle
from proofs.disclosure import decode_disclosure
from proofs.evidence.simulated import SimulatedPlatform
from proofs.policy import Policy
from proofs.receipt import decode_receipt
from runtime.cli import main
from runtime.client.home import DeviceHome
from runtime.commands.receipts import policy_digest
from runtime.exporting import Wanted, export_home
from tests.proofs.archive_support import LATER, Conversation, Log, judge
from tests.proofs.proofs_support import claims, platform
from tests.runtime.home_support import fill_home, write_policy

# What is judged as of today must not be of the future.
START = int(time.time()) - 7200
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A device's folder: a conversation that was forgotten, and one with another persona."""
    home = DeviceHome(tmp_path / "home")
    fill_home(home, Conversation.of(4, forgotten=True, start=START), "wren")
    fill_home(home, Conversation.of(3, number=1, start=START), "tunde", unsettled=1)
    yield home
    home.close()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """`sotto` in this process, with that folder and nobody to ask."""

    def run(*arguments: object) -> tuple[int, str, str]:
        options = ["--home", str(tmp_path / "home")]
        if arguments[0] == "receipts":
            options.append("--offline")
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), *options])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "defect" not in out + err
        return int(ended.value.code or 0), out, err

    return run


def identifiers(home: DeviceHome, persona: str) -> list[str]:
    """Ids of the receipts with a persona, oldest first."""
    return [row.receipt_id for row in home.receipts() if row.persona == persona]


def exported(home: DeviceHome, **wanted: object) -> ArchiveReport:
    """The report on what is exported, in memory."""
    parts: list[bytes] = []
    export_home(home, Wanted(Kind.CONVERSATION, LATER, **wanted), parts.append)  # type: ignore[arg-type]
    return judge(b"".join(parts))


def test_a_saved_receipt_has_no_words_unless_asked_for(
    home: DeviceHome, command: Command, tmp_path: Path
) -> None:
    """With --with-text it has, the output says so, and the file is for its owner alone."""
    name = identifiers(home, "tunde")[0]
    file = tmp_path / "one"
    code, out, _ = command("receipts", "--save", name[:31] + name[31], file)
    assert code == 0
    told = decode_disclosure(file.read_bytes())
    assert told.said is None
    assert told.cose_receipt
    assert "word for word" not in out
    code, out, _ = command("receipts", "--save", name, file, "--with-text")
    assert "word for word" in out
    told = decode_disclosure(file.read_bytes())
    assert told.said is not None
    assert told.said.response == "answer 0"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert told.said.is_response_of(decode_receipt(told.receipt).unverified)


def test_the_next_epoch_is_saved_with_it(
    home: DeviceHome, command: Command, tmp_path: Path
) -> None:
    """Where it is there."""
    after = make_bundle(
        claims(not_before=START + 600, not_after=START + 4200, epoch=5), platform(), START + 600
    )
    log = Log([bundle_entry(after.encode())])
    row = next(home.receipts())
    home.bundles.keep(after.digest.hex(), after.encode(), log.proof(bundle_entry(after.encode())))
    home.bundles.follow(row.enclave_id, after.digest.hex())
    command("receipts", "--save", row.receipt_id, tmp_path / "one")
    later = decode_disclosure((tmp_path / "one").read_bytes()).later
    assert later is not None
    assert later.bundle == after.encode()


def test_forgotten_words_cannot_be_saved(
    home: DeviceHome, command: Command, tmp_path: Path
) -> None:
    """Nor is a file written that seems to have them."""
    name = identifiers(home, "wren")[0]
    code, _, err = command("receipts", "--save", name, tmp_path / "one", "--with-text")
    assert code == 1
    assert "not kept" in err
    assert list(tmp_path.glob("*one*")) == []


def test_an_erasures_receipt_is_saved_as_a_file_of_its_own(
    home: DeviceHome, command: Command, tmp_path: Path
) -> None:
    """Which verifies alone; the list says under which id."""
    (row,) = home.erasures()
    assert f"{row.receipt_id}  " in command("receipts")[1]
    (told,) = json.loads(command("receipts", "--json")[1])["erasures"]
    assert (told["receipt_id"], told["persona"]) == (row.receipt_id, "wren")
    file = tmp_path / "erased"
    assert command("receipts", "--save", row.receipt_id, file)[0] == 0
    report = judge(file.read_bytes())
    assert report.holds
    assert report.counts["erasures_holding"] == 1
    assert command("receipts", "--save", row.receipt_id, file, "--with-text")[0] == 2


def test_an_export_holds_and_says_what_it_left_out(
    home: DeviceHome, command: Command, tmp_path: Path
) -> None:
    """Two threads, an erasure, one receipt that is not settled; words only where kept."""
    file = tmp_path / "all"
    code, out, _ = command("receipts", "--export", file, "--with-text")
    assert code == 0
    assert "Left out: 1 receipts" in out
    assert "Without text: 4 receipts" in out
    report = judge(file.read_bytes(), keep_said=True)
    assert report.holds
    assert (report.counts["receipts"], report.counts["threads"]) == (6, 2)
    assert [turn.response for turn in report.said] == ["answer 0", "answer 1"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = json.loads(command("receipts", "--export", file, "--json")[1])
    assert (told["unsettled"], told["textless"], told["with_text"]) == (1, 0, False)
    assert not judge(file.read_bytes(), keep_said=True).said


def test_an_export_of_one_persona_or_of_a_time(home: DeviceHome) -> None:
    """Nothing of the others; a beginning before the range is no gap, a missing middle is one."""
    one = exported(home, persona="tunde")
    assert one.holds
    assert (one.counts["receipts"], one.counts.get("erasures", 0)) == (2, 0)
    nothing = exported(home, since=START + 5000, until=START + 6000)
    assert nothing.holds
    assert nothing.counts == {}
    erased = exported(home, since=START + 2000)
    assert erased.holds
    assert (erased.counts.get("receipts", 0), erased.counts["erasures"]) == (0, 1)


def test_an_export_with_a_receipt_missing_is_not_complete(tmp_path: Path) -> None:
    """The device lost one, or its owner would rather not show it: the archive tells."""
    home = DeviceHome(tmp_path / "other")
    story = Conversation.of(5)
    fill_home(home, story)
    log = story.log()
    hidden = decode_receipt(story.receipts[2]).unverified.receipt_id.hex()
    home.database.execute("DELETE FROM receipts WHERE receipt_id = ?", (hidden,))
    assert log
    report = exported(home)
    home.close()
    assert report.only_gaps


def test_checking_again_appends_and_never_rewrites(
    home: DeviceHome, command: Command, tmp_path: Path
) -> None:
    """The first judgement is new, the same again is none, and another policy's is told."""
    assert home
    rules = write_policy(tmp_path)
    code, out, _ = command("receipts", "--check", "--policy", rules)
    assert code == 0
    first = out.splitlines()
    assert sum("judged for the first time" in line for line in first) == 6
    assert command("receipts", "--check", "--policy", rules)[1].count("\n") == 1
    name = identifiers(home, "wren")[0]
    (before,) = home.verdicts.of(name)

    write_policy(tmp_path, "min_tcb = 9")
    code, out, _ = command("receipts", "--check", "--policy", rules)
    assert code == 1
    assert "tcb: holds -> FAILS" in out
    assert home.verdicts.of(name)[0] == before
    assert len(home.verdicts.of(name)) == 2
    told = json.loads(command("receipts", "--history", name, "--json")[1])
    assert [one["holds"] for one in told["history"]][-1] is False
    code, out, _ = command("receipts", "--history", name)
    assert code == 0
    assert out.count("  policy ") == 2


def test_any_policy_has_a_name_in_a_history(home: DeviceHome, command: Command) -> None:
    """Also one with a release, whose digests are no text; the same settings have one name."""
    strict = Path(__file__).parents[2] / "docs/policies/strict.toml"
    code, out, err = command("receipts", "--check", "--policy", strict)
    assert (code, err) == (1, "")
    assert "6 do not" in out
    assert policy_digest(Policy.load(strict)) == policy_digest(Policy.load(strict))
    assert policy_digest(Policy.load(strict)) != policy_digest(Policy.strict())


def test_options_without_the_action_that_they_are_for_are_usage(
    home: DeviceHome, command: Command, tmp_path: Path
) -> None:
    """Nobody should take a list for one of a time range, or a file for one with text."""
    for arguments in (
        ("--since", "2026-01-01"),
        ("--until", "2026-01-01"),
        ("--persona", "wren"),
        ("--with-text",),
        ("--check", "--with-text"),
        ("--save", "00", tmp_path / "x", "--since", "2026-01-01"),
    ):
        code, _, err = command("receipts", *arguments)
        assert code == 2, arguments
        assert "goes with" in err
        assert len(err.splitlines()) == 1


def test_a_check_tells_programs_what_changed(
    home: DeviceHome, command: Command, tmp_path: Path
) -> None:
    """Before and after, with verdicts."""
    assert home
    rules = write_policy(tmp_path)
    told = json.loads(command("receipts", "--check", "--json", "--policy", rules)[1])
    assert told["holds"] + told["fails"] == 6
    assert len(told["changes"]) == 6
    assert all(one["before"] is None for one in told["changes"])
    write_policy(tmp_path, 'refused_advisories = ["NONE"]\nmin_tcb = 3')
    told = json.loads(command("receipts", "--check", "--json", "--policy", rules)[1])
    change = told["changes"][0]
    status = {one["name"]: one["status"] for one in change["after"]["verdicts"]}
    assert status["tcb"] == "fails"
    assert status["integrity"] == status["inclusion"] == "holds"
    assert change["before"]["verdicts"] != change["after"]["verdicts"]


def test_an_advisory_turns_tcb_alone(tmp_path: Path, command: Command) -> None:
    """A policy that refuses an advisory of today judges old receipts anew; the rest stands."""
    home = DeviceHome(tmp_path / "home")
    machine: SimulatedPlatform = platform(advisories=("INTEL-SA-00837",))
    story = Conversation.of(1, machine=machine, start=START)
    fill_home(home, story)
    home.close()
    rules = write_policy(tmp_path)
    command("receipts", "--check", "--policy", rules)
    write_policy(tmp_path, 'refused_advisories = ["INTEL-SA-00837"]')
    code, out, _ = command("receipts", "--check", "--policy", rules)
    assert code == 1
    changed = [line.strip().split(":")[0] for line in out.splitlines() if " -> " in line]
    assert changed == ["tcb"]
    assert "INTEL-SA-00837" in out


def test_ids_that_are_not_one_are_usage(home: DeviceHome, command: Command, tmp_path: Path) -> None:
    """None, several, or empty; a file where none can be."""
    assert home
    for prefix in ("ffff", "0", ""):
        assert command("receipts", "--save", prefix, tmp_path / "x")[0] == 2
        assert command("receipts", "--history", prefix)[0] == 2
    name = identifiers(home, "tunde")[0]
    assert command("receipts", "--save", name, tmp_path / "no" / "file")[0] == 2
    late = identifiers(home, "tunde")[-1]
    assert command("receipts", "--save", late, tmp_path / "x")[0] == 1


def test_a_receipt_that_is_not_judged_has_no_history(home: DeviceHome, command: Command) -> None:
    """And is told how to be."""
    code, out, _ = command("receipts", "--history", identifiers(home, "wren")[0])
    assert code == 0
    assert "--check" in out
