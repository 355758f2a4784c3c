"""Signed manifests of models: our own, those of the package `model-signing`, and bad ones."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from proofs.errors import ProofError, RefusedError, UnreadableError
from proofs.modelsig import (
    MAX_FILES,
    MAX_KEY,
    MAX_SIGNATURE,
    check_name,
    differences,
    load_signing_key,
    parse_signature,
    sign_manifest,
)

KEY = ec.derive_private_key(7, ec.SECP256R1())
FILES = {
    name: hashlib.sha256(name.encode()).hexdigest()
    for name in ("model.safetensors", "sub/x.json", "sub-y", "größe.txt", ".hidden")
}
CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]


def private_pem(key: Any) -> bytes:
    """A private key as its file holds it."""
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_pem(key: Any) -> bytes:
    """A public key as its file holds it."""
    spki = PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(Encoding.PEM, spki))


PUBLIC = public_pem(KEY)


def signed(files: dict[str, str] = FILES) -> bytes:
    """A signature file of ours."""
    return sign_manifest(files, KEY, name="a model", ignored=["model.sig"])


def resigned(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A signature file whose statement was changed before its signer signed it."""
    bundle = json.loads(signed())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    return sealed(payload)


def sealed(payload: bytes) -> bytes:
    """A signature file over any bytes."""
    bundle = json.loads(signed())
    kind = b"application/vnd.in-toto+json"
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signature = KEY.sign(encoded, ec.ECDSA(hashes.SHA256()))
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return json.dumps(bundle).encode()


def root_of(statement: dict[str, Any]) -> None:
    """Make the statement's digest that of its files."""
    digests = b"".join(bytes.fromhex(one["digest"]) for one in statement["predicate"]["resources"])
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(digests).hexdigest()


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_what_is_signed_comes_back(curve: ec.EllipticCurve) -> None:
    """Every file with its digest, for the three curves of the format; nothing random in it."""
    key = ec.generate_private_key(curve)
    data = sign_manifest(FILES, load_signing_key(private_pem(key)), name="a model")
    assert parse_signature(data).verify(public_pem(key)) == FILES
    assert sign_manifest(FILES, key, name="a model") == data


def test_another_key_is_named_as_the_reason() -> None:
    """By the hint, and where there is none by the signature itself."""
    other = public_pem(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(RefusedError, match="another key"):
        parse_signature(signed()).verify(other)
    bundle = json.loads(signed())
    bundle["verificationMaterial"]["publicKey"] = {}
    assert parse_signature(json.dumps(bundle).encode()).verify(PUBLIC) == FILES
    with pytest.raises(RefusedError, match="not of this key"):
        parse_signature(json.dumps(bundle).encode()).verify(other)


@pytest.mark.parametrize("part", ["payload", "sig"])
def test_every_bit_of_payload_and_signature_counts(part: str) -> None:
    """Flipped one by one, each is a refusal of ours and never a pass."""
    bundle = json.loads(signed({"a": "0" * 64}))
    envelope = bundle["dsseEnvelope"]
    holder = envelope if part == "payload" else envelope["signatures"][0]
    data = base64.b64decode(holder[part])
    for place in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        holder[part] = base64.b64encode(flipped).decode()
        with pytest.raises(RefusedError):
            parse_signature(json.dumps(bundle).encode()).verify(PUBLIC)


def test_every_byte_of_the_file_flipped_or_cut_says_the_same_or_is_refused() -> None:
    """What is not signed is format, and its every spelling but one is refused."""
    data = signed()
    for place in range(len(data)):
        for changed in (data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], data[:place]):
            with pytest.raises(ProofError):
                parse_signature(changed).verify(PUBLIC)


@given(st.binary(max_size=200))
def test_noise_is_unreadable(data: bytes) -> None:
    """Nothing but our own error leaves."""
    with pytest.raises(UnreadableError):
        parse_signature(data)
    with pytest.raises(UnreadableError):
        parse_signature(sealed(data)).verify(PUBLIC)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.update(mediaType="application/json"), "media type"),
        (lambda b: b.update(extra=1), "object of"),
        (lambda b: b.pop("dsseEnvelope"), "object of"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "payload's type"),
        (lambda b: b["dsseEnvelope"].update(signatures=[]), "exactly one"),
        (
            lambda b: b["dsseEnvelope"].update(signatures=2 * b["dsseEnvelope"]["signatures"]),
            "exactly one",
        ),
        (lambda b: b["dsseEnvelope"].update(payload="AB=="), "canonical"),
        (lambda b: b["dsseEnvelope"].update(payload="A\u00e4=="), "base64"),
        (lambda b: b["dsseEnvelope"].update(payload=7), "text"),
        (lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="x"), "key id"),
        (lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="A" * 400), "at most"),
        (
            lambda b: b.update(verificationMaterial={"certificate": {"rawBytes": "AA=="}}),
            "a certificate or an identity",
        ),
        (lambda b: b["verificationMaterial"].update(tlogEntries=[{}]), "log entries"),
        (lambda b: b["verificationMaterial"]["publicKey"].update(hint="\ud800"), "surrogate"),
    ],
)
def test_another_envelope_is_unreadable(change: Callable[[Any], object], says: str) -> None:
    """Each with its own reason."""
    bundle = json.loads(signed())
    change(bundle)
    with pytest.raises(UnreadableError, match=says):
        parse_signature(json.dumps(bundle).encode())


def _resource(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda s: (s["predicate"]["resources"][0].update(changes), root_of(s))


def _repeat(items: list[object]) -> None:
    items.append(items[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "type"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "predicate"),
        (
            lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"),
            "before version 1.0",
        ),
        (lambda s: s.update(subject=[]), "exactly one model"),
        (lambda s: s["subject"][0].update(digest={"sha512": "00"}), "sha256"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "add up"),
        (lambda s: s["predicate"].pop("resources"), "no list of files"),
        (lambda s: s["predicate"].update(resources=[]), "1 to"),
        (lambda s: s["predicate"].update(resources={}), "1 to"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "in shards"),
        (lambda s: s["predicate"]["serialization"].update(method="tensors"), "method"),
        (lambda s: s["predicate"]["serialization"].update(hash_type="blake3"), "SHA-256"),
        (lambda s: s["predicate"]["serialization"].update(salt="x"), "object of"),
        (_resource(algorithm="blake2"), "algorithm"),
        (_resource(digest="AB" * 32), "lower-case"),
        (_resource(digest="ab" * 31), "64"),
        (_resource(name="../weights"), "plain path"),
        (_resource(name="/weights"), "plain path"),
        (_resource(name="a//b"), "plain path"),
        (_resource(name="./a"), "plain path"),
        (_resource(name="."), "plain path"),
        (_resource(name=""), "plain path"),
        (_resource(name="a\nb"), "plain path"),
        (_resource(name="a\x00b"), "plain path"),
        (_resource(name="\udc80"), "surrogate"),
        (_resource(name=7), "text"),
        (_resource(size=3), "object of"),
        (lambda s: (_repeat(s["predicate"]["resources"]), root_of(s)), "twice"),
    ],
)
def test_a_signed_statement_of_another_kind_is_unreadable(
    change: Callable[[dict[str, Any]], object], says: str
) -> None:
    """A signature makes nothing readable that is not understood."""
    data = resigned(change)
    with pytest.raises(UnreadableError, match=says):
        parse_signature(data).verify(PUBLIC)


def test_later_fields_of_the_predicate_are_ignored() -> None:
    """So says the format of verifiers of version 1.0."""
    data = resigned(lambda s: s["predicate"].update(model_card={"license": "MIT"}))
    assert parse_signature(data).verify(PUBLIC) == FILES


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"\xef\xbb\xbf{}",
        b"\xff",
        b"{} {}",
    ],
)
def test_json_that_programs_read_differently_is_unreadable(payload: bytes) -> None:
    """Two keys of one name, depth without end, numbers that are none."""
    with pytest.raises(UnreadableError):
        parse_signature(payload)
    with pytest.raises(UnreadableError):
        parse_signature(sealed(payload)).verify(PUBLIC)


def test_a_key_that_stands_twice_is_refused_in_a_manifest_that_holds_otherwise() -> None:
    """The last one counts here, the first elsewhere: nobody may choose."""
    envelope = json.loads(signed())["dsseEnvelope"]
    statement = base64.b64decode(envelope["payload"])
    assert parse_signature(sealed(statement)).verify(PUBLIC) == FILES
    twice = b'{"_type":"something else",' + statement[1:]
    with pytest.raises(UnreadableError, match="each key once"):
        parse_signature(sealed(twice)).verify(PUBLIC)


def test_sizes_are_checked_first() -> None:
    """A file that is too large is not parsed, a manifest that is too long not signed."""
    with pytest.raises(UnreadableError, match="more than"):
        parse_signature(b" " * (MAX_SIGNATURE + 1))
    with pytest.raises(UnreadableError, match="1 to"):
        sign_manifest({f"{n}": "0" * 64 for n in range(MAX_FILES + 1)}, KEY, name="m")
    with pytest.raises(UnreadableError, match="1 to"):
        sign_manifest({}, KEY, name="m")
    most = {f"folder-of-some-length/{n:06}.safetensors": "0" * 64 for n in range(MAX_FILES)}
    assert parse_signature(sign_manifest(most, KEY, name="m")).verify(PUBLIC) == most
    with pytest.raises(UnreadableError, match="Shorten"):
        sign_manifest({f"{n:0900}": "0" * 64 for n in range(MAX_FILES)}, KEY, name="m")


@pytest.mark.parametrize(
    "key",
    [
        private_pem(rsa.generate_private_key(65537, 2048)),
        private_pem(ed25519.Ed25519PrivateKey.generate()),
        private_pem(ec.generate_private_key(ec.SECP256K1())),
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
        PUBLIC,
        b"",
        b"-----BEGIN PRIVATE KEY-----\n",
        b"x" * (MAX_KEY + 1),
    ],
)
def test_other_keys_do_not_sign(key: bytes) -> None:
    """Of another kind, another curve, under a password, public, none."""
    with pytest.raises(UnreadableError):
        load_signing_key(key)


@pytest.mark.parametrize(
    "key",
    [
        public_pem(rsa.generate_private_key(65537, 2048)),
        public_pem(ec.generate_private_key(ec.SECP256K1())),
        private_pem(KEY),
        b"",
        b"x" * (MAX_KEY + 1),
    ],
)
def test_other_keys_do_not_verify(key: bytes) -> None:
    """As above."""
    with pytest.raises(UnreadableError):
        parse_signature(signed()).verify(key)


def test_each_difference_has_its_own_word() -> None:
    """Missing, changed and unsigned are three things."""
    found = {**FILES, "sub-y": "0" * 64, "extra": "1" * 64}
    del found[".hidden"]
    assert [(one.code, one.name) for one in differences(FILES, found)] == [
        ("missing", ".hidden"),
        ("unsigned", "extra"),
        ("changed", "sub-y"),
    ]
    assert differences(FILES, dict(FILES)) == ()


@pytest.mark.parametrize("name", ["model.safetensors", "a/b/c", "...", "a..b", "ä ö", ".x"])
def test_plain_names_are_taken(name: str) -> None:
    """Dots inside a name are not a way out of the folder."""
    assert check_name(name) == name


# The package `model-signing`, which defines the format.


@pytest.fixture(scope="session")
def package() -> Any:
    """`model_signing`, where it and all that it imports are installed."""
    pytest.importorskip("model_signing", exc_type=ImportError)
    from model_signing import hashing, signing, verifying

    class Package:
        pass

    found: Any = Package()
    found.hashing, found.signing, found.verifying = hashing, signing, verifying
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder with git's files in it."""
    folder = tmp_path / "model"
    for name, text in {
        "config.json": "{}",
        "sub/weights.safetensors": "weights",
        "sub-weights.safetensors": "more",
        ".git/HEAD": "ref",
        ".gitattributes": "*",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def manifest(folder: Path) -> dict[str, str]:
    """Digests of what is not git's nor the signature."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).as_posix().startswith((".git", "model."))
    }


@pytest.fixture(params=CURVES, ids=lambda curve: curve.name)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Files of a private and a public key."""
    key = ec.generate_private_key(request.param)
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    return tmp_path / "key.pem", tmp_path / "key.pub"


def test_what_we_sign_the_package_verifies(
    package: Any, model: Path, pair: tuple[Path, Path]
) -> None:
    """And it refuses what we would refuse."""
    private, public = pair
    key = load_signing_key(private.read_bytes())
    data = sign_manifest(manifest(model), key, name="model", ignored=["model.sig"])
    (model / "model.sig").write_bytes(data)
    verifier = package.verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifier.verify(model, model / "model.sig")
    (model / "config.json").write_text("{ }")
    with pytest.raises(ValueError, match="mismatch"):
        verifier.verify(model, model / "model.sig")


def test_what_the_package_signs_we_verify(
    package: Any, model: Path, pair: tuple[Path, Path]
) -> None:
    """Byte for byte the same manifest, in the same order."""
    private, public = pair
    paths = package.hashing.Config().set_ignored_paths(paths=["model.sig"])
    config = package.signing.Config().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(paths).sign(model, model / "model.sig")
    data = (model / "model.sig").read_bytes()
    files = parse_signature(data).verify(public.read_bytes())
    assert files == manifest(model)
    key = load_signing_key(private.read_bytes())
    ours = parse_signature(sign_manifest(files, key, name="model")).verify(public.read_bytes())
    assert list(ours) == list(files)


@pytest.mark.parametrize(
    ("hashing", "says"),
    [
        (lambda h: h.Config().use_shard_serialization(), "in shards"),
        (lambda h: h.Config().use_file_serialization(hashing_algorithm="blake3"), "SHA-256"),
        (lambda h: h.Config().use_file_serialization(hashing_algorithm="blake2"), "SHA-256"),
    ],
)
def test_what_else_the_package_can_do_is_refused_with_what_to_do(
    package: Any, model: Path, tmp_path: Path, hashing: Callable[[Any], Any], says: str
) -> None:
    """Shards and other hashes are read by nobody here."""
    (tmp_path / "key.pem").write_bytes(private_pem(KEY))
    config = package.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")
    config.set_hashing_config(hashing(package.hashing)).sign(model, tmp_path / "model.sig")
    with pytest.raises(UnreadableError, match=says):
        parse_signature((tmp_path / "model.sig").read_bytes()).verify(PUBLIC)
