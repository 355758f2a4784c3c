"""`sotto personas new|check|show|import|export`, as somebody types them."""

from __future__ import annotations

import argparse
import base64
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from personas.files import load_package, load_persona
from runtime.cli import build_parser, main
from runtime.commands.common import counted

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command in an empty folder; gives its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["personas", *arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


def _card(**more: Any) -> bytes:
    data = {"name": "Zoë", "description": "A diver.", "first_mes": "Hi.", "tags": ["Sea"]} | more
    return json.dumps({"spec": "chara_card_v2", "spec_version": "2.0", "data": data}).encode()


def _png(card: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
            chunk(b"tEXt", b"chara\x00" + base64.b64encode(card)),
            chunk(b"IDAT", zlib.compress(b"\x00\x80")),
            chunk(b"IEND", b""),
        )
    )


def _tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_json_is_asked_for_before_the_command_or_behind_it(run: Command) -> None:
    """Both places mean the same."""
    assert run("new", "ruth")[0] == 0
    before, behind = run("--json", "check", "ruth.toml"), run("check", "ruth.toml", "--json")
    assert before == behind
    assert json.loads(before[1])["files"][0]["file"] == "ruth.toml"


def test_a_new_persona_loads_at_once(run: Command, tmp_path: Path) -> None:
    """The file that a creator begins with is a persona, and says what it still lacks."""
    code, out, _ = run("new", "old-ruth")
    assert code == 0
    assert "old-ruth.toml" in out
    persona = load_persona(tmp_path / "old-ruth.toml")
    assert (persona.handle, persona.name) == ("old-ruth", "Old Ruth")
    code, out, _ = run("check", "old-ruth.toml")
    assert code == 0
    for key in ("language", "rating", "licence", "author", "greeting", "system_prompt"):
        assert f"warning  {key}: " in out
    code, _, err = run("new", "old-ruth")
    assert code == 1
    assert "is there already" in err
    code, _, err = run("new", "Old Ruth!")
    assert code == 2
    assert "Try `old-ruth`" in err


def test_every_problem_of_a_file_is_said(run: Command, tmp_path: Path) -> None:
    """Not the first five: whoever checks wants to be done with it."""
    (tmp_path / "x.toml").write_text("".join(f"key{at} = 1\n" for at in range(20)))
    code, out, _ = run("check", "x.toml", "none.toml")
    assert code == 2
    assert all(f"`key{at}` is not a key" in out for at in range(20))
    assert "none.toml: cannot be read" in out
    code, out, _ = run("check", "x.toml", "--json")
    assert code == 2
    assert "`handle` is missing" in json.loads(out)["files"][0]["problem"]


def test_a_folder_of_cards_is_imported(run: Command, tmp_path: Path) -> None:
    """Each that can be read is; one that cannot is said, and leaves nothing."""
    cards = tmp_path / "characters"
    cards.mkdir()
    (cards / "zoe.png").write_bytes(_png(_card()))
    (cards / "zoe2.json").write_bytes(_card(description="Another."))
    (cards / "broken.png").write_bytes(_png(_card())[:60])
    (cards / "notes.txt").write_text("no card")
    code, out, _ = run("import", "characters", "--out", "made")
    assert code == 2
    assert "2 of 3 were imported." in out
    assert "broken.png: the chunk at byte " in out
    assert sorted(_tree(tmp_path / "made")) == [
        "zoe-2/zoe-2.toml",
        "zoe/avatar.png",
        "zoe/zoe.toml",
    ]
    package = load_package(tmp_path / "made" / "zoe" / "zoe.toml")
    assert package.persona.avatar is not None
    assert package.missing() == ()
    before = _tree(tmp_path / "made")
    code, out, _ = run("import", "characters", "--out", "made", "--json")
    assert code == 2
    told = json.loads(out)["files"]
    assert [bool(one["problem"]) for one in told] == [True, False, False]
    assert [one["unchanged"] for one in told] == [False, True, True]
    assert _tree(tmp_path / "made") == before


def test_a_folder_that_is_imported_again_says_what_is_new(run: Command, tmp_path: Path) -> None:
    """One line for each persona that is there already, a report for the new one alone."""
    (tmp_path / "in").mkdir()
    for name in ("Ada", "Zoe"):
        (tmp_path / "in" / f"{name}.json").write_bytes(_card(name=name))
    run("import", "in", "--out", "made")
    (tmp_path / "in" / "Max.json").write_bytes(_card(name="Max"))
    code, out, _ = run("import", "in", "--out", "made")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "in/Ada.json: is there already, unchanged, in made/ada/ada.toml"
    assert lines[1] == "in/Max.json (json-v2) -> made/max/max.toml"
    assert lines[2].startswith("  default ")
    assert lines[-2] == "in/Zoe.json: is there already, unchanged, in made/zoe/zoe.toml"
    assert lines[-1] == "1 of 3 was imported; 2 were there already."


def test_a_card_that_was_cut_is_said_and_leaves_nothing(run: Command, tmp_path: Path) -> None:
    """The whole card that comes later gets the folder and has its whole picture."""
    (tmp_path / "zoe.png").write_bytes(_png(_card())[:-12])
    code, out, _ = run("import", "zoe.png", "--out", "made")
    assert code == 2
    assert out.startswith("zoe.png: byte ")
    assert out.endswith("was cut short. Download the card again.\n")
    assert not (tmp_path / "made").exists()
    (tmp_path / "zoe.png").write_bytes(_png(_card()))
    assert run("import", "zoe.png", "--out", "made")[0] == 0
    assert (tmp_path / "made" / "zoe" / "avatar.png").read_bytes().endswith(b"IEND\xaeB`\x82")


def test_a_failed_import_changes_nothing(run: Command, tmp_path: Path) -> None:
    """Neither a damaged card nor a name that the folder needs leaves half a persona."""
    with zipfile.ZipFile(tmp_path / "clash.charx", "w") as archive:
        archive.writestr("card.json", _card())
        archive.writestr("zoe.toml", "format = 1")
    (tmp_path / "cut.json").write_bytes(_card()[:-9])
    code, out, _ = run("import", "clash.charx", "cut.json", "--out", "made")
    assert code == 2
    assert "two files at `zoe.toml`" in out
    assert "cut.json: the file is not JSON" in out
    assert _tree(tmp_path / "made") == {}
    assert list((tmp_path / "made").iterdir()) == []
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "zoe.json").write_bytes(_card())
    code, out, _ = run("import", "zoe.json", "--out", "file")
    assert code == 2
    assert "cannot be written" in out
    code, _, err = run("import", "made", "--out", "made")
    assert code == 2
    assert "no file to read" in err


def test_a_world_is_added_to_a_persona(run: Command, tmp_path: Path) -> None:
    """Entries join those that are there, once; a file that is no lorebook changes nothing."""
    run("new", "ruth")
    world = {"entries": {"0": {"uid": 0, "key": ["pier"], "content": "Built in 1911."}}}
    (tmp_path / "world.json").write_text(json.dumps(world))
    (tmp_path / "card.json").write_bytes(_card())
    assert run("import", "world.json", "--into", "ruth.toml")[0] == 0
    with (tmp_path / "ruth.toml").open("a") as file:
        file.write("# mine\n")
    code, out, _ = run("import", "world.json", "--into", "ruth.toml")
    assert code == 0
    assert out == "world.json: is there already, unchanged, in ruth.toml\n"
    assert (tmp_path / "ruth.toml").read_text().endswith("# mine\n")
    lorebook = load_persona(tmp_path / "ruth.toml").lorebook
    assert lorebook is not None
    assert [entry.content for entry in lorebook.entries] == ["Built in 1911."]
    before = _tree(tmp_path)
    code, out, _ = run("import", "card.json", "--into", "ruth.toml")
    assert code == 2
    assert "holds no lorebook" in out
    assert _tree(tmp_path) == before


def test_what_is_imported_is_exported_as_it_was(run: Command, tmp_path: Path) -> None:
    """Through our folder and back: the same card in the same image."""
    (tmp_path / "zoe.png").write_bytes(_png(_card(x_unknown=[1, 2.50])))
    run("import", "zoe.png", "--out", "made")
    code, out, _ = run("export", "made/zoe/zoe.toml", "--out", "again.png", "--json")
    assert code == 0
    assert json.loads(out)["report"] == []
    card = base64.b64decode(
        (tmp_path / "again.png").read_bytes().split(b"chara\x00")[1].split(b"IEND")[0][:-8]
    )
    assert json.loads(card) == json.loads(_card(x_unknown=[1, 2.50]))
    code, _, err = run("export", "made/zoe/zoe.toml", "--out", "again.png")
    assert code == 1
    assert "is there already" in err
    code, out, _ = run("export", "ines", "--format", "json-v1")
    assert code == 0
    assert "lost     facts: " in out
    assert json.loads((tmp_path / "ines.json").read_text())["name"] == "Inês Carvalhal"
    code, _, _ = run("export", "made/zoe/zoe.toml", "--format", "toml", "--out", "copy/zoe.toml")
    assert code == 0
    assert load_package(tmp_path / "copy" / "zoe.toml") == load_package(
        tmp_path / "made" / "zoe" / "zoe.toml"
    )


def test_a_persona_is_shown(run: Command, tmp_path: Path) -> None:
    """By handle or by file, for people or programs; a card's own controls do not reach anybody."""
    code, out, _ = run("show", "marit")
    assert code == 0
    assert "Marit Storfoss" in out
    (tmp_path / "x.json").write_bytes(_card(name="Z\x1b[2Joë", tags=["\x07"]))
    code, out, _ = run("show", "x.json")
    assert code == 0
    assert "\x1b" not in out
    code, out, _ = run("show", "x.json", "--json")
    assert json.loads(out)["persona"]["handle"] == "z-2joe"
    run("new", "ruth")
    with (tmp_path / "ruth.toml").open("a") as file:
        turn = '{ user = "Cold?", persona = "It is the depth." }'
        file.write(f"[[example_dialogues]]\nturns = [{turn}]\n")
    lines = [line.split(maxsplit=1) for line in run("show", "ruth.toml")[1].splitlines()]
    shown = {line[0]: line[1] for line in lines}
    assert shown["examples"] == "1 dialogue, 21 characters"
    assert "facts" not in shown
    code, _, err = run("show", "marrit")
    assert code == 2
    assert "Did you mean `marit`" in err
    bad = tmp_path / "\x1b[2J.json"
    bad.write_bytes(b"{")
    code, _, err = run("show", bad.name)
    assert code == 2
    assert "\x1b" not in err


def test_what_is_counted_reads_as_people_say_it() -> None:
    """One of a thing, several, none; thousands with a comma."""
    told = [counted(number, "entry", "entries") for number in (0, 1, 2, 12_000)]
    assert told == ["no entries", "1 entry", "2 entries", "12,000 entries"]
    assert counted(2, "file") == "2 files"


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in dict.fromkeys(action.choices.values()):
                yield from _parsers(one)


def test_every_command_says_what_it_and_its_options_do() -> None:
    """Sentences for a command, a few words for each option and each thing to name."""
    parsers = [one for one in _parsers(build_parser(["personas"])) if "personas" in one.prog]
    assert len(parsers) > 15
    for parser in parsers:
        said = parser.description or ""
        assert said[:1].isupper(), parser.prog
        assert said.endswith("."), parser.prog
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, (parser.prog, action.dest)
                assert not action.help[0].isupper() and action.help[-1] != ".", action.help
