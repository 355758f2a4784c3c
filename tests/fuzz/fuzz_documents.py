"""Files that people hand around: policies, manifests, signed models, and any file whatever."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fuzz_support import Target, file_of, mutate, sample, strict_text

from proofs import cbor
from proofs.checkpoint import Checkpoint
from proofs.errors import PolicyError, ProofError, UnreadableError
from proofs.evidence.base import Collateral
from proofs.explain import explain
from proofs.modelsig import load_signing_key, parse_signature, sign_manifest
from proofs.note import Signer
from proofs.policy import Policy
from proofs.release import MeasurementSet, Release, open_release, parse_release, sign_release
from runtime.collateral import StoredCollateral
from runtime.commands.report import render
from runtime.commands.verify import make_page, to_json
from runtime.recognise import Terms, verify_file
from runtime.report_html import render_html
from tests.proofs.archive_support import LATER, Conversation
from tests.proofs.proofs_support import LOG, WITNESSES, full_story, private_key

MODEL_KEY = ec.derive_private_key(7, ec.SECP256R1())
FILES = {"config.json": "0" * 64, "weights/model.safetensors": "1" * 64}
_PAYLOAD_TYPE = "application/vnd.in-toto+json"


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


def _model_signature(data: bytes) -> None:
    """What verifies is the manifest that was signed."""
    try:
        files = parse_signature(data).verify(_public_pem())
    except ProofError:
        assert data != _model()
        return
    assert files == FILES


def _model_statement(data: bytes) -> None:
    """Any statement under a true signature: a manifest, or unreadable."""
    message = b"DSSEv1 %d %s %d %s" % (
        len(_PAYLOAD_TYPE),
        _PAYLOAD_TYPE.encode(),
        len(data),
        data,
    )
    signature = MODEL_KEY.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    bundle = json.loads(_model())
    bundle["dsseEnvelope"] |= {
        "payload": base64.b64encode(data).decode(),
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    try:
        files = parse_signature(json.dumps(bundle).encode()).verify(_public_pem())
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


def _model_keys() -> Iterable[bytes]:
    yield _public_pem()
    formats = (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    yield from (MODEL_KEY.private_bytes(Encoding.PEM, one, NoEncryption()) for one in formats)
    # Under a password, as OpenSSL wrote it of old.
    header = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC," + "0" * 32
    body = base64.b64encode(bytes(64)).decode()
    name = "EC PRIVATE KEY"
    yield f"-----BEGIN {name}-----\n{header}\n\n{body}\n-----END {name}-----\n".encode()


def _policy(data: bytes) -> None:
    with file_of(data) as path:
        try:
            policy = Policy.load(path)
        except PolicyError as error:
            assert str(path) in str(error)
            return
    orjson.dumps(explain(policy).to_json())


def _policy_seeds() -> Iterable[bytes]:
    witness = WITNESSES[0].verifier.format()
    yield f"""kinds = ["tdx", "snp"]
measurements = [{{ "mrtd" = "{"0" * 96}" }}]
release_keys = ["{LOG.verifier.format()}"]
releases = []
revoked_releases = ["{"1" * 64}"]
log_keys = ["{LOG.verifier.format()}"]
witnesses = ["{witness}"]
min_witnesses = 1
""".encode()
    yield b"""measurements = "any"
max_age_s = 86400
refused_advisories = ["INTEL-SA-00837"]
grace_s = 0x10
allow_simulated = true
min_tcb = 1
[tdx]
statuses = ["UpToDate"]
min_tcb = { module = 262 }
[snp]
products = ["Milan"]
[gpu]
min_driver = "580.159"
vbios = ["96.00.74.00.20"]
min_devices = 1
[custody]
kind = "third-party"
platforms = ["%s"]
""" % (b"2" * 64)


def _odd_log() -> str:
    """A checkpoint of a log whose name a terminal would obey."""
    signer = Signer("log.example/\u009b31m<b>", private_key(9))
    return signer.sign(Checkpoint(signer.name, 3, b"r" * 32).format()).format()


@cache
def _files() -> list[bytes]:
    """One of every kind of file there is."""
    told = full_story()
    _, quote, _ = cbor.decode(sample("tdx"), what="it", limit=2**16)  # type: ignore[misc]
    _, report, *_ = cbor.decode(sample("snp"), what="it", limit=2**16)  # type: ignore[misc]
    _, _, ((arch, chain, exchange),), *_ = cbor.decode(  # type: ignore[misc]
        sample("nvidia"), what="it", limit=2**16
    )
    entry = {
        "arch": arch,
        "certificate": base64.b64encode(chain).decode(),
        "evidence": base64.b64encode(exchange).decode(),
        "nonce": exchange[4:36].hex(),
    }
    bundle = {"bundle": base64.b64encode(told.bundle).decode(), "proof": told.bundle_proof}
    return [
        told.disclosure(),
        Conversation.of(2, forgotten=True).archive(with_text=True),
        told.bundle,
        json.dumps(bundle).encode(),
        json.dumps([entry]).encode(),
        _odd_log().encode(),
        quote,
        report,
        *(sample(name) for name in ("nvidia", "snp", "tdx")),
    ]


@cache
def _terms() -> Terms:
    _, _, certificates, crls = cbor.decode(  # type: ignore[misc]
        sample("snp"), what="it", limit=2**16
    )
    stored = StoredCollateral(Collateral(snp_crls=tuple(crls)), tuple(certificates))
    return Terms(full_story().policy, LATER, stored, keep_said=True)


def _recognise(data: bytes) -> None:
    """Any file, or by its first byte one of ours with bytes changed: a report that can be shown."""
    files = _files()
    chosen = data and data[0] < len(files)
    with file_of(mutate(files[data[0]], data[1:]) if chosen else data) as path:
        try:
            verified = verify_file(path, _terms())
        except ProofError:
            return
    orjson.dumps(to_json(verified, "a policy"))
    page = make_page(verified, "a policy")
    shown = "".join(render(page, 80))
    assert not any(unicodedata.category(character) == "Cc" for character in shown)
    markup = render_html(page)
    assert "<b>" not in markup
    assert "<script" not in markup


def _recognise_seeds() -> Iterable[bytes]:
    yield from (bytes((which,)) for which in range(len(_files())))
    yield from (
        b"{}",
        b"[]",
        b"c2sp.org/tlog-proof@v1\n",
        b"\xd2\x84",
        b"\x04\x00\x02\x00\x81\0\0\0",
    )


TARGETS = {
    "release": Target(
        strict_text(_read_release),
        _release_seeds,
        1024,
        5000,
    ),
    "release-manifest": Target(_manifest, _manifest_seeds, 1024, 5000),
    "model-signature": Target(_model_signature, lambda: [_model()], 2048, 3000),
    "model-statement": Target(
        _model_statement,
        lambda: [base64.b64decode(json.loads(_model())["dsseEnvelope"]["payload"])],
        1024,
        3000,
    ),
    "model-key": Target(_model_key, _model_keys, 512, 2000),
    "policy": Target(_policy, _policy_seeds, 1024, 1000),
    "recognise": Target(_recognise, _recognise_seeds, 64, 500),
}
