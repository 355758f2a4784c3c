"""Signed models: `sotto model`, and engines that load nothing but what was signed."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from proofs.modelsig import load_signing_key, sign_manifest
from runtime.cli import main
from runtime.config import EngineConfig
from runtime.enclave.embedding.static import static_manifest
from runtime.enclave.engines.base import EngineError
from runtime.enclave.engines.embedded import LOADED_FILES, TOY_FOLDER, EmbeddedEngine
from runtime.enclave.engines.vllm import VllmEngine
from runtime.enclave.identity import manifest_digest, whole_manifest
from runtime.enclave.server import make_engine
from runtime.enclave.weights import SignedBy, check_manifest, digest_files, find_files, signed_by
from runtime.errors import SetupError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["model", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder."""
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 500_000)
    (folder / "tokenizer/merges.txt").write_text("a b")
    (folder / ".git").mkdir()
    (folder / ".git/HEAD").write_text("ref")
    return folder


def make_pair(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """Files of a private and a public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    spki = PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, spki))
    return private, public


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """One pair of keys."""
    return make_pair(tmp_path)


@pytest.fixture
def signed(model: Path, pair: tuple[Path, Path], command: Command) -> Path:
    """The folder, signed."""
    assert command("sign", model, "--key", pair[0])[0] == 0
    return model


def test_a_signed_model_holds_and_its_digest_can_be_pinned(
    model: Path, pair: tuple[Path, Path], command: Command
) -> None:
    """Signing and verifying print the digest that claims and receipts carry."""
    code, out, _ = command("sign", model, "--key", pair[0], "--json")
    assert code == 0
    said = json.loads(out)
    manifest = digest_files(model, find_files(model))
    assert set(manifest) == {"model.safetensors", "tokenizer/merges.txt"}
    assert said["digest"] == manifest_digest(whole_manifest(manifest, static_manifest())).hex()
    code, out, _ = command("verify", model, "--key", pair[1], "--json")
    assert code == 0
    assert json.loads(out) == {**said, "holds": True, "differences": []}
    code, out, _ = command("verify", model, "--key", pair[1])
    assert (code, f'models = ["{said["digest"]}"]' in out) == (0, True)


def test_the_digest_covers_what_embeds(
    signed: Path, pair: tuple[Path, Path], command: Command, tmp_path: Path
) -> None:
    """Another embedder is another digest; with none it is that of the model's files alone."""
    other = tmp_path / "embedder"
    other.mkdir()
    (other / "weights").write_bytes(b"1")
    digests = {}
    for which in ("static", "none", other):
        asked = ("verify", signed, "--key", pair[1], "--embedding", which, "--json")
        code, out, _ = command(*asked)
        assert code == 0
        digests[which] = json.loads(out)["digest"]
    assert len(set(digests.values())) == 3
    manifest = digest_files(signed, find_files(signed))
    assert digests["none"] == manifest_digest(manifest).hex()
    embedding = digest_files(other, ["weights"])
    assert digests[other] == manifest_digest(whole_manifest(manifest, embedding)).hex()
    assert len(whole_manifest({"weights": "1"}, {"weights": "2"})) == 2
    code, _, err = command("verify", signed, "--key", pair[1], "--embedding", tmp_path / "no")
    assert (code, "--embedding" in err) == (2, True)


def test_the_digest_is_that_of_the_engines(signed: Path, pair: tuple[Path, Path]) -> None:
    """The signature is no part of the model, whether one is asked for or not."""
    names = find_files(signed, signed / "model.sig")
    assert names == find_files(signed)
    assert "model.sig" not in names


@pytest.mark.parametrize("where", ["beside", "below"])
def test_a_signature_may_lie_elsewhere(
    model: Path, pair: tuple[Path, Path], command: Command, tmp_path: Path, where: str
) -> None:
    """Beside the folder, or below it under another name."""
    file = tmp_path / "one.sig" if where == "beside" else model / "tokenizer/one.sig"
    assert command("sign", model, "--key", pair[0], "--out", file)[0] == 0
    assert command("verify", model, "--key", pair[1], "--signature", file)[0] == 0
    assert command("verify", model, "--key", pair[1])[0] == 2


def test_each_way_to_differ_is_said(
    signed: Path, pair: tuple[Path, Path], command: Command
) -> None:
    """Missing, changed and added files, each with its name; exit 1."""
    (signed / "tokenizer/merges.txt").unlink()
    (signed / "model.safetensors").write_bytes(b"other weights")
    (signed / "adapter.safetensors").write_bytes(b"more weights")
    code, out, _ = command("verify", signed, "--key", pair[1], "--json")
    assert code == 1
    assert json.loads(out)["differences"] == [
        {"code": "unsigned", "name": "adapter.safetensors"},
        {"code": "changed", "name": "model.safetensors"},
        {"code": "missing", "name": "tokenizer/merges.txt"},
    ]
    code, out, _ = command("verify", signed, "--key", pair[1])
    assert code == 1
    assert "models =" not in out, "nobody should pin what was not signed"


def test_a_signature_of_somebody_else_does_not_hold(
    signed: Path, command: Command, tmp_path: Path
) -> None:
    """Exit 1, not 2: it can be read."""
    _, other = make_pair(tmp_path, "other")
    code, _, err = command("verify", signed, "--key", other)
    assert (code, "another key" in err) == (1, True)


def test_what_is_missing_is_one_line_with_what_to_do(
    signed: Path, pair: tuple[Path, Path], command: Command, tmp_path: Path
) -> None:
    """No key: how to make one. No signature, no folder, no place to write: exit 2."""
    private, public = pair
    absent = tmp_path / "absent"
    for arguments, says in (
        (("sign", signed), "openssl ecparam"),
        (("verify", signed), "openssl ecparam"),
        (("sign", signed, "--key", absent), "openssl ecparam"),
        (("sign", signed, "--key", public), "PEM"),
        (("verify", signed, "--key", absent), "cannot be read"),
        (("verify", signed, "--key", private), "public key"),
        (("verify", signed, "--key", public, "--signature", absent), "cannot be read"),
        (("verify", signed, "--key", public, "--signature", private), "JSON"),
        (("sign", absent, "--key", private), "cannot be read"),
        (("sign", signed, "--key", private, "--out", absent / "x"), "another place"),
    ):
        code, out, err = command(*arguments)
        assert code == 2, (arguments, out, err)
        assert says in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["file link", "folder link", "pipe", "name"])
def test_what_could_change_unseen_is_refused(
    signed: Path, pair: tuple[Path, Path], command: Command, kind: str
) -> None:
    """A link leads to what is not in the folder; a name with a line break leads to nothing good."""
    odd = signed / ("odd\nname" if kind == "name" else "odd")
    match kind:
        case "file link":
            odd.symlink_to(signed / "model.safetensors")
        case "folder link":
            odd.symlink_to(signed / "tokenizer")
        case "pipe":
            os.mkfifo(odd)
        case "name":
            odd.write_text("x")
    code, _, err = command("verify", signed, "--key", pair[1])
    assert code == 2
    assert ("plain path" if kind == "name" else "is a link or no file") in err
    assert err.count("\n") == 1


def test_a_link_that_was_put_in_place_meanwhile_is_not_followed(model: Path) -> None:
    """Looked through first, read later: in between a file can become a link, or a pipe."""
    names = find_files(model)
    (model / "tokenizer/merges.txt").unlink()
    (model / "tokenizer/merges.txt").symlink_to(model / "model.safetensors")
    with pytest.raises(EngineError) as caught:
        digest_files(model, names)
    (model / "tokenizer/merges.txt").unlink()
    os.mkfifo(model / "tokenizer/merges.txt")
    with pytest.raises(EngineError, match="no file"):
        digest_files(model, names)
    assert caught.value.code == "model_unreadable"


def test_long_work_says_how_far_it_is(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At most ten times, in order, up to the whole; small models say nothing in the log."""
    shown: list[tuple[int, int]] = []
    caplog.set_level(logging.INFO)
    digest_files(model, find_files(model), lambda done, total: shown.append((done, total)))
    assert 1 <= len(shown) <= 10
    assert shown == sorted(shown)
    assert shown[-1] == (3_500_003, 3_500_003)
    digest_files(model, find_files(model))
    assert caplog.text == ""


# Engines.


async def test_the_bundled_model_starts_under_its_signature(
    pair: tuple[Path, Path], command: Command, tmp_path: Path
) -> None:
    """What `sotto model` prints for it is what the engine claims."""
    folder = tmp_path / "toy"
    shutil.copytree(TOY_FOLDER, folder)
    code, out, _ = command("sign", folder, "--engine", "embedded", "--key", pair[0], "--json")
    assert code == 0
    engine = EmbeddedEngine(folder, signed=SignedBy(pair[1]))
    await engine.start()
    manifest = engine.manifest()
    await engine.close()
    assert set(manifest) == set(LOADED_FILES)
    whole = whole_manifest(manifest, static_manifest())
    assert manifest_digest(whole).hex() == json.loads(out)["digest"]
    assert command("verify", folder, "--engine", "embedded", "--key", pair[1])[0] == 0


@pytest.mark.parametrize("name", LOADED_FILES)
async def test_the_bundled_model_changed_is_not_loaded(
    pair: tuple[Path, Path], command: Command, tmp_path: Path, name: str
) -> None:
    """One byte is enough, and what is wrong is a name, not a crash of the library."""
    folder = tmp_path / "toy"
    shutil.copytree(TOY_FOLDER, folder)
    command("sign", folder, "--engine", "embedded", "--key", pair[0])
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    engine = EmbeddedEngine(folder, signed=SignedBy(pair[1]))
    with pytest.raises(EngineError, match=f"not what was signed: {name}") as caught:
        await engine.start()
    assert caught.value.code == "model_mismatch"
    with pytest.raises(EngineError, match="not running"):
        engine.manifest()


@pytest.mark.parametrize("how", ["changed", "unsigned", "missing", "key", "signature"])
async def test_vllm_loads_nothing_that_was_not_signed(
    signed: Path, pair: tuple[Path, Path], tmp_path: Path, how: str
) -> None:
    """The refusal comes before any library is loaded, so it needs none here."""
    key = pair[1]
    match how:
        case "changed":
            (signed / "tokenizer/merges.txt").write_text("b a")
        case "unsigned":
            (signed / "tokenizer/extra.txt").write_text("x")
        case "missing":
            (signed / "model.safetensors").unlink()
        case "key":
            key = make_pair(tmp_path, "other")[1]
        case "signature":
            (signed / "model.sig").unlink()
    engine = VllmEngine(str(signed), signed=SignedBy(key))
    with pytest.raises(EngineError) as caught:
        await engine.start()
    expected = "model_signature" if how == "signature" else "model_mismatch"
    assert caught.value.code == expected
    assert "\n" not in str(caught.value)


async def test_a_hubs_name_cannot_be_signed(pair: tuple[Path, Path]) -> None:
    """A signature is over files; of a name nobody knows them."""
    engine = VllmEngine("someone/some-model", signed=SignedBy(pair[1]))
    with pytest.raises(EngineError, match="download the model first") as caught:
        await engine.start()
    assert caught.value.code == "model_signature"


def test_many_differences_are_counted(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """One line stays one line."""
    key = load_signing_key(pair[0].read_bytes())
    signed = {f"{number}": "0" * 64 for number in range(10)}
    (tmp_path / "model.sig").write_bytes(sign_manifest(signed, key, name="m"))
    with pytest.raises(EngineError, match="and 7 more"):
        check_manifest({}, SignedBy(pair[1]), tmp_path)
    check_manifest({}, None, tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_signature": Path("m.sig")}, "without model_key"),
        ({"kind": "scripted", "model_key": Path("k")}, "loads no weights"),
        (
            {
                "kind": "openai",
                "model_key": Path("k"),
                "model": "m",
                "base_url": "http://127.0.0.1:1/v1",
            },
            "loads no weights",
        ),
    ],
)
def test_a_signature_that_nobody_would_check_is_a_mistake(
    settings: dict[str, object], says: str
) -> None:
    """Said at the start, in one line."""
    config = EngineConfig.model_validate(settings)
    with pytest.raises(SetupError, match=says):
        make_engine(config)


def test_the_configuration_names_key_and_signature() -> None:
    """Both, or the key alone."""
    assert signed_by(EngineConfig()) is None
    config = EngineConfig(model_key=Path("k"), model_signature=Path("s"))
    assert signed_by(config) == SignedBy(Path("k"), Path("s"))
    assert SignedBy(Path("k")).file(Path("m")) == Path("m/model.sig")
