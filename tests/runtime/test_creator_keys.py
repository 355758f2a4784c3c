"""A creator's keys on the disk, in files that move them, and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from personas.authorship import fingerprint, public_key
from runtime.cli import main
from runtime.client.creator import CreatorKeys
from runtime.client.home import DeviceHome
from runtime.client.rows import HandlePin
from runtime.errors import SottoError

DIGEST = bytes(range(32))


@pytest.fixture
def keys(tmp_path: Path) -> CreatorKeys:
    """An empty folder's."""
    return CreatorKeys(tmp_path / "one")


def test_a_key_is_made_once_for_its_owner_alone(keys: CreatorKeys, tmp_path: Path) -> None:
    """The second call reads what the first wrote, and nobody else can."""
    with pytest.raises(SottoError, match="no creator's key"):
        keys.signing()
    made = public_key(keys.signing(make=True))
    assert public_key(keys.signing()) == made
    assert public_key(keys.signing(make=True)) == made
    file = tmp_path / "one" / "creator.key"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(SottoError, match="chmod 600"):
        keys.signing()


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_damaged_key_is_not_replaced(keys: CreatorKeys, tmp_path: Path, content: bytes) -> None:
    """A new key would own nothing; the old one must come back."""
    keys.signing(make=True)
    (tmp_path / "one" / "creator.key").write_bytes(content)
    with pytest.raises(SottoError, match="restore it"):
        keys.signing(make=True)


def test_opening_keys_are_of_one_version(keys: CreatorKeys, tmp_path: Path) -> None:
    """Each version has a key of its own, and a damaged one is told."""
    assert keys.opening("night-owl", DIGEST) is None
    key = keys.make_opening("night-owl", DIGEST)
    assert keys.make_opening("night-owl", DIGEST) == key != keys.make_opening("owl", DIGEST)
    (file,) = (tmp_path / "one" / "personas").glob("night-owl-*.key")
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("x")
    with pytest.raises(SottoError, match="does not hold a key"):
        keys.opening("night-owl", DIGEST)


def test_keys_move_in_a_file(keys: CreatorKeys, tmp_path: Path) -> None:
    """An export has everything, or what a new owner needs and no more; an import takes no key's
    place."""
    keys.signing(make=True)
    opening = keys.make_opening("night-owl", DIGEST)
    keys.make_opening("day-owl", DIGEST)
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    assert (keys.export(whole), keys.export(part, "night-owl")) == (3, 1)
    assert whole.stat().st_mode & 0o777 == 0o600
    assert "creator" not in json.loads(part.read_text())
    other = CreatorKeys(tmp_path / "two")
    assert other.take(part) == 1
    assert other.opening("night-owl", DIGEST) == opening
    assert other.opening("day-owl", DIGEST) is None
    assert (other.take(whole), other.take(whole)) == (2, 0)
    assert public_key(other.signing()) == public_key(keys.signing())
    third = CreatorKeys(tmp_path / "three")
    third.signing(make=True)
    with pytest.raises(SottoError, match="another creator's key"):
        third.take(whole)
    assert third.opening("day-owl", DIGEST) is None
    with pytest.raises(SottoError, match="no keys of"):
        keys.export(part, "nobody")


def test_an_export_takes_no_files_place(keys: CreatorKeys, tmp_path: Path) -> None:
    """It may be the only copy of another key; nothing is left beside it either."""
    keys.signing(make=True)
    other = tmp_path / "out" / "keys.json"
    other.parent.mkdir()
    other.write_text("another key")
    with pytest.raises(SottoError, match=r"cannot be written \(File exists\); choose another"):
        keys.export(other)
    assert other.read_text() == "another key"
    assert list(other.parent.iterdir()) == [other]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format":2,"personas":{}}',
        b'{"format":1,"personas":{"../x":"00"}}',
        b'{"format":1,"personas":{"owl-00":"%s"}}' % (b"0" * 64),
        b'{"format":1,"personas":{},"creator":"zz"}',
        b'{"format":1,"personas":{},"more":1}',
    ],
)
def test_a_file_of_something_else_is_refused(
    keys: CreatorKeys, tmp_path: Path, content: bytes
) -> None:
    """Nothing is taken from it, and no name in it becomes a path."""
    file = tmp_path / "keys.json"
    file.write_bytes(content)
    with pytest.raises(SottoError, match="not a file of keys"):
        keys.take(file)
    with pytest.raises(SottoError, match="cannot be used"):
        keys.take(tmp_path / "missing")


def test_the_command_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sotto personas keys` shows the public half and its fingerprint."""
    home, file = tmp_path / "home", tmp_path / "out.json"
    with pytest.raises(SystemExit):
        main(["personas", "keys", "--home", str(home), "--json"])
    shown = json.loads(capsys.readouterr().out)
    key = CreatorKeys(home).signing()
    assert shown == {
        "key": public_key(key).hex(),
        "fingerprint": fingerprint(public_key(key)),
    }
    with pytest.raises(SystemExit):
        main(["personas", "keys", "--home", str(home), "--export", str(file)])
    said = capsys.readouterr().out
    assert key.private_bytes_raw().hex() not in said
    assert f"Wrote 1 key into {file}." in said
    assert key.private_bytes_raw().hex() in file.read_text()
    with pytest.raises(SystemExit) as ended:
        main(["personas", "keys", "--home", str(home), "--handle", "x"])
    assert ended.value.code == 2


def test_a_pin_only_goes_forward(tmp_path: Path) -> None:
    """What a device saw of a handle is kept; an older step does not take its place."""
    home = DeviceHome(tmp_path)
    newer = HandlePin("night-owl", bytes(32), 3, b"3" * 32)
    home.pins.keep(newer)
    home.pins.keep(HandlePin("night-owl", b"k" * 32, 2, b"2" * 32))
    home.close()
    home = DeviceHome(tmp_path)
    assert home.pins.all() == [newer]
    assert home.pins.of("night-owl") == newer
    assert home.pins.of("day-owl") is None
    home.close()
