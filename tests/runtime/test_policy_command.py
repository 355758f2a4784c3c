"""`sotto policy` and `sotto release` as a person or a program meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proofs.note import parse_vkey
from proofs.policy import Policy
from proofs.release import open_release
from runtime.cli import main
from runtime.errors import Exit

EXAMPLES = Path(__file__).parents[2] / "docs" / "policies"
RELEASE = "ab" * 32
SET = f"snp host_data={'00' * 32} measurement={'0d' * 48}"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A release maker's key."""
    file = tmp_path / "release.pem"
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    file.touch(0o600)
    file.write_bytes(pem)
    return file


def test_policies_are_explained_to_people_and_programs(command: Command) -> None:
    """Sentences and warnings, with exit 0: a weak policy is still a policy."""
    code, out, err = command("policy", "explain", EXAMPLES / "development.toml")
    assert (code, err) == (Exit.OK, "")
    assert "! DEVELOPMENT" in out
    assert "a model can be wrong" in out
    code, out, _ = command("policy", "explain", EXAMPLES / "strict.toml", "--json")
    shown = json.loads(out)
    assert code == Exit.OK
    assert shown["warnings"] == []
    assert len(shown["sentences"]) > 10
    code, out, _ = command("policy", "explain", EXAMPLES / "strict.toml")
    assert "Mind:" not in out


@pytest.mark.parametrize("text", ["kinds = [1]", "= =", "surprise = true", None])
def test_files_that_are_no_policy(command: Command, tmp_path: Path, text: str | None) -> None:
    """One line that names the file, and exit 2; JSON where JSON was asked for."""
    file = tmp_path / "policy.toml"
    if text is not None:
        file.write_text(text)
    code, out, err = command("policy", "explain", file)
    assert (code, out) == (Exit.USAGE, "")
    assert err.startswith("sotto: the policy ")
    assert err.count("\n") == 1
    assert str(file) in err
    code, out, _ = command("policy", "explain", file, "--json")
    assert code == Exit.USAGE
    assert json.loads(out)["error"]["code"] == "policy"


def _sign(command: Command, key: Path, *more: object) -> tuple[int, str, str]:
    named = ("--name", "example.org/releases", "--release", RELEASE, "--version", "1.0")
    return command("release", "sign", "--key", key, *named, "--measurement", SET, *more)


def test_a_release_is_signed_shown_and_used(command: Command, key: Path, tmp_path: Path) -> None:
    """What is signed here passes under a policy made of what the command says."""
    out = tmp_path / "one.release"
    code, printed, _ = _sign(command, key, "--out", out, "--json")
    assert code == Exit.OK
    signed = json.loads(printed)
    vkey = signed["vkey"]
    assert open_release(out.read_bytes(), [parse_vkey(vkey)]).digest.hex() == RELEASE
    (tmp_path / "policy.toml").write_text(f'release_keys = ["{vkey}"]\nreleases = ["{out.name}"]\n')
    policy = Policy.load(tmp_path / "policy.toml")
    measured = (("host_data", bytes(32)), ("measurement", b"\x0d" * 48))
    assert [one.version for one in policy.releases_with("snp", measured)] == ["1.0"]

    code, printed, _ = command("release", "show", out, "--key", vkey, "--json")
    shown = json.loads(printed)
    assert code == Exit.OK
    assert shown["verified"]
    assert shown["entry"] == signed["entry"]
    code, printed, _ = command("release", "show", out)
    assert code == Exit.OK
    assert "NOT CHECKED" in printed
    code, printed, _ = command("release", "show", out, "--key", vkey)
    assert "NOT CHECKED" not in printed
    assert RELEASE in printed

    code, printed, err = _sign(command, key)
    assert code == Exit.OK
    assert printed == out.read_text()
    assert vkey in err
    code, printed, _ = _sign(command, key, "--out", out)
    assert vkey in printed


def test_a_release_that_does_not_hold(command: Command, key: Path, tmp_path: Path) -> None:
    """Another's signature is exit 1, what cannot be read exit 2, each in one line."""
    out = tmp_path / "one.release"
    code, printed, _ = _sign(command, key, "--out", out, "--json")
    vkey = json.loads(printed)["vkey"]
    out.write_text(out.read_text().replace("version 1.0", "version 1.1"))
    code, _, err = command("release", "show", out, "--key", vkey)
    assert code == Exit.FAILED
    assert err.count("\n") == 1
    out.write_bytes(out.read_bytes()[:40] + b"\xff")
    for file in (out, tmp_path / "absent", tmp_path):
        code, _, err = command("release", "show", file)
        assert code == Exit.USAGE
        assert err.count("\n") == 1
    assert command("release", "show", out, "--key", "nobody")[0] == Exit.USAGE


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("--release", "AB" * 32),
        ("--release", "ab" * 31),
        ("--release", "no digest"),
        ("--version", "two words"),
        ("--name", "two words"),
        ("--measurement", "snp"),
        ("--measurement", "snp b=00 a=00"),
        ("--key", "absent.pem"),
        ("--out", "absent/folder/one.release"),
    ],
)
def test_what_cannot_be_signed(
    command: Command, key: Path, tmp_path: Path, change: str, value: str
) -> None:
    """A value that no manifest carries is named in one line, and nothing is written."""
    options = {
        "--key": str(key),
        "--name": "example.org/releases",
        "--release": RELEASE,
        "--version": "1.0",
        "--measurement": SET,
        "--out": str(tmp_path / "one.release"),
        change: str(tmp_path / value) if change in {"--key", "--out"} else value,
    }
    code, out, err = command(
        "release", "sign", *(part for pair in options.items() for part in pair)
    )
    assert (code, out) == (Exit.USAGE, "")
    assert err.count("\n") == 1
    assert not (tmp_path / "one.release").exists()
    assert not (tmp_path / "absent.pem").exists()


def test_a_key_that_others_may_read_is_not_used(command: Command, key: Path) -> None:
    """A signing key must be its owner's alone."""
    key.chmod(0o644)
    code, _, err = _sign(command, key)
    assert code == Exit.USAGE
    assert "chmod 600" in err
