"""Release manifests and signed models: what verifies is what was signed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fuzz_log import LOG
from fuzz_support import Target, change_one, changes, strict_text

from proofs.errors import ProofError, UnreadableError
from proofs.modelsig import load_signing_key, parse_signature, sign_manifest
from proofs.release import MeasurementSet, Release, open_release, parse_release, sign_release

MODEL_KEY = ec.derive_private_key(7, ec.SECP256R1())
FILES = {"config.json": "0" * 64, "weights/model.safetensors": "1" * 64}
_PAYLOAD_TYPE = b"application/vnd.in-toto+json"


@cache
def _release() -> Release:
    sets = (
        MeasurementSet("snp", (("measurement", b"m" * 48),)),
        MeasurementSet("tdx", (("mrtd", b"t" * 48), ("rtmr0", b"r" * 48))),
    )
    return Release(b"r" * 32, "1.2.0+b3", sets)


def _read_release(text: str) -> str:
    release = parse_release(text)
    for one in release.sets:
        names = [name for name, _ in one.measurements]
        assert names == sorted(set(names))
    return release.format()


def _release_seeds() -> Iterable[bytes]:
    text = _release().format()
    yield text.encode()
    yield text.replace("rtmr0", "m").encode()


def _manifest(data: bytes) -> None:
    """Nobody else's manifest opens."""
    try:
        opened = open_release(data, [LOG.verifier])
    except ProofError:
        assert data != _manifest_seeds()[0]
        return
    assert opened == _release()


def _manifest_seeds() -> list[bytes]:
    return [sign_release(_release(), LOG).encode()]


@cache
def _model() -> bytes:
    return sign_manifest(FILES, MODEL_KEY, name="a model", ignored=["model.sig"])


@cache
def _public_pem() -> bytes:
    return MODEL_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@cache
def _model_parts() -> list[bytes]:
    """Payload and signature."""
    envelope = json.loads(_model())["dsseEnvelope"]
    texts = (envelope["payload"], envelope["signatures"][0]["sig"])
    return [base64.b64decode(text) for text in texts]


def _bundle(payload: bytes, signature: bytes) -> bytes:
    bundle = json.loads(_model())
    bundle["dsseEnvelope"] |= {
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def _model_signature(data: bytes) -> None:
    """Raw, or after a zero the signed one with bytes changed: what verifies is what was signed."""
    changed = _bundle(*change_one(_model_parts(), data[1:])) if data[:1] == b"\x00" else data
    try:
        files = parse_signature(changed).verify(_public_pem())
    except ProofError:
        assert changed != _model()
        return
    assert files == FILES


def _model_statement(data: bytes) -> None:
    """Any statement under a true signature: a manifest, or unreadable."""
    message = b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE, len(data), data)
    signature = MODEL_KEY.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    try:
        files = parse_signature(_bundle(data, signature)).verify(_public_pem())
    except UnreadableError:
        return
    assert files
    # What was read can be signed again.
    sign_manifest(files, MODEL_KEY, name="it")


def _model_key(data: bytes) -> None:
    with suppress(UnreadableError):
        load_signing_key(data)
    try:
        parse_signature(_model()).verify(data)
    except ProofError:
        return
    assert b"PUBLIC KEY" in data


def _model_signatures() -> Iterable[bytes]:
    yield _model()
    yield from (b"\x00" + script for script in (b"", *changes(_model_parts())))


def _model_keys() -> Iterable[bytes]:
    yield _public_pem()
    formats = (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    yield from (MODEL_KEY.private_bytes(Encoding.PEM, one, NoEncryption()) for one in formats)
    # Under a password, as OpenSSL wrote it of old.
    header = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC," + "0" * 32
    body = base64.b64encode(bytes(64)).decode()
    name = "EC PRIVATE KEY"
    yield f"-----BEGIN {name}-----\n{header}\n\n{body}\n-----END {name}-----\n".encode()


TARGETS = {
    "release": Target(strict_text(_read_release), _release_seeds, 1024, 5000),
    "release-manifest": Target(_manifest, _manifest_seeds, 1024, 1000),
    "model-signature": Target(_model_signature, _model_signatures, 2048, 3000),
    "model-statement": Target(
        _model_statement,
        lambda: _model_parts()[:1],
        1024,
        1000,
    ),
    "model-key": Target(_model_key, _model_keys, 512, 2000),
}
