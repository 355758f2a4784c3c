"""Signed manifests of models: OpenSSF Model Signing v1.0, signed with an elliptic curve key.

The file is a Sigstore bundle v0.3 around a DSSE envelope (secure-systems-lab/dsse, protocol 1.0)
around an in-toto statement v1 whose predicate lists every file with its SHA-256. The package
`model-signing` writes and reads the same files; it brings network clients along that have no
place in an enclave, so the documented format is read here with `cryptography` alone.

What is refused, and does not have to be: signatures by certificate or identity, hashes other than
SHA-256, shards in place of files, unknown fields anywhere but in the predicate, where the format
says that verifiers ignore them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from proofs import b64
from proofs.errors import RefusedError, UnreadableError

MAX_SIGNATURE = 8 * 1024 * 1024
MAX_FILES = 20_000
MAX_KEY = 16 * 1024
GIT_NAMES = frozenset({".git", ".gitattributes", ".github", ".gitignore"})
"""Names at the top of a model's folder that the format leaves out."""

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_PREDICATE_BEFORE_1 = "https://model_signing/Digests/v0.1"
_MAX_NAME = 1024
# The hash that belongs to each curve, as Sigstore's key details pair them.
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_MAX_ECDSA = 139  # two integers of 66 bytes in DER

SigningKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class SignedModel:
    """A signature file, read and not believed: only `verify` gives out what it says."""

    _payload: bytes = field(repr=False)
    _signature: bytes = field(repr=False)
    _hint: str

    def verify(self, public_key_pem: bytes) -> Mapping[str, str]:
        """The signed manifest: SHA-256 (hex) of each file, by its path below the model's folder.

        Args:
            public_key_pem: The signer's key: P-256, P-384 or P-521, in PEM.

        Raises:
            RefusedError: Another key's signature, or none over these bytes.
            UnreadableError: Not such a key; or signed, but no manifest that is understood here.
        """
        key = _public_key(public_key_pem)
        if self._hint and self._hint != _key_hint(key):
            raise RefusedError(
                "The signature names another key than the one given. Use the key of whoever "
                "signed this model."
            )
        try:
            key.verify(self._signature, _pae(self._payload), ec.ECDSA(_HASHES[key.curve.name]))
        except InvalidSignature:
            raise RefusedError(
                "The signature is not of this key over this manifest. One of the two was changed "
                "or belongs to another model: get both again from whoever signed it."
            ) from None
        return _read_statement(self._payload)


@dataclass(frozen=True, slots=True)
class Difference:
    """One file that is not as the manifest says.

    Attributes:
        code: `missing`, `changed` or `unsigned`.
        name: Its path below the model's folder.
    """

    code: str
    name: str

    def __str__(self) -> str:
        return f"{_DIFFERENCES[self.code]}: {self.name}"


_DIFFERENCES = {
    "missing": "signed, but not there",
    "changed": "not what was signed",
    "unsigned": "there, but not signed",
}


def differences(signed: Mapping[str, str], found: Mapping[str, str]) -> tuple[Difference, ...]:
    """How `found` differs from the manifest, sorted by name; empty where it does not."""
    return tuple(
        Difference(
            "missing" if name not in found else "unsigned" if name not in signed else "changed",
            name,
        )
        for name in sorted(signed.keys() | found.keys())
        if signed.get(name) != found.get(name)
    )


def parse_signature(data: bytes) -> SignedModel:
    """Take a signature file apart; nothing is verified yet.

    Raises:
        UnreadableError: Not a Sigstore bundle v0.3 with a DSSE envelope signed by one key.
    """
    bundle = _fields(
        _json(data, "the model signature", MAX_SIGNATURE),
        "the model signature",
        {"mediaType", "verificationMaterial", "dsseEnvelope"},
    )
    _expect(bundle["mediaType"], _BUNDLE, "the model signature's media type")
    envelope = _fields(
        bundle["dsseEnvelope"], "the envelope", {"payload", "payloadType", "signatures"}
    )
    _expect(envelope["payloadType"], _PAYLOAD, "the payload's type")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise UnreadableError(
            "The envelope should have exactly one signature. Sign the model anew."
        )
    signature = _fields(signatures[0], "the envelope's signature", {"sig"}, {"keyid"})
    if signature.get("keyid", ""):
        raise UnreadableError(
            "The envelope's signature has a key id, which this format leaves out."
        )
    return SignedModel(
        b64.decode(_text(envelope["payload"], "the payload"), "the payload"),
        _base64(signature["sig"], "the signature", most=_MAX_ECDSA),
        _read_material(bundle["verificationMaterial"]),
    )


def _read_material(value: object) -> str:
    """The hint at the key; refuses what names a signer in any other way."""
    other = {"certificate", "x509CertificateChain", "timestampVerificationData"}
    material = _fields(
        value, "the verification material", set(), {"publicKey", "tlogEntries"} | other
    )
    if any(material.get(name) for name in other) or "publicKey" not in material:
        raise UnreadableError(
            "The model is signed by a certificate or an identity, not by a key. Only keys are "
            "verified here: sign it with one, too (`sotto model sign`)."
        )
    if material.get("tlogEntries"):
        raise UnreadableError("The model signature has log entries, which a key's never has.")
    public_key = _fields(material["publicKey"], "the key's hint", set(), {"hint"})
    hint = public_key.get("hint")
    return "" if hint is None else _text(hint, "the key's hint", 128)


def _read_statement(payload: bytes) -> Mapping[str, str]:
    what = "the signed statement"
    statement = _fields(
        _json(payload, what, MAX_SIGNATURE),
        what,
        {"_type", "subject", "predicateType", "predicate"},
    )
    _expect(statement["_type"], _STATEMENT, f"{what}'s type")
    if statement["predicateType"] == _PREDICATE_BEFORE_1:
        raise UnreadableError(
            "The model was signed before version 1.0 of the format. Sign it again."
        )
    _expect(statement["predicateType"], _PREDICATE, f"{what}'s predicate")
    predicate = statement["predicate"]
    if not isinstance(predicate, dict) or not {"serialization", "resources"} <= predicate.keys():
        raise UnreadableError(f"{what.capitalize()} has no list of files. Sign the model again.")
    _check_serialization(predicate["serialization"])
    files = _read_resources(predicate["resources"])
    subjects = statement["subject"]
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise UnreadableError(f"{what.capitalize()} should be about exactly one model.")
    subject = _fields(subjects[0], "the statement's subject", {"name", "digest"})
    _text(subject["name"], "the model's name")
    digest = _fields(subject["digest"], "the model's digest", {"sha256"})["sha256"]
    if digest != _root_digest(files.values()):
        raise UnreadableError("The manifest's files do not add up to the digest that it states.")
    return files


def _check_serialization(value: object) -> None:
    """Refuse what would give other digests than those of whole files."""
    if isinstance(value, dict) and value.get("method") == "shards":
        raise UnreadableError(
            "The model is signed in shards. Sign it again by whole files, which is the default of "
            "`model_signing sign` and all that `sotto model sign` does."
        )
    serialization = _fields(
        value, "the serialization", {"method", "hash_type"}, {"allow_symlinks", "ignore_paths"}
    )
    _expect(serialization["method"], "files", "the serialization's method")
    if serialization["hash_type"] != "sha256":
        raise UnreadableError("The model is not hashed with SHA-256. Sign it again with sha256.")


def _read_resources(value: object) -> dict[str, str]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_FILES:
        raise UnreadableError(f"A signed manifest should list 1 to {MAX_FILES} files.")
    files: dict[str, str] = {}
    for item in value:
        resource = _fields(item, "a file of the manifest", {"name", "algorithm", "digest"})
        name = check_name(resource["name"])
        _expect(resource["algorithm"], "sha256", "the algorithm of a file")
        digest = _text(resource["digest"], "the digest of a file", 64)
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise UnreadableError("The digest of a file should have 64 lower-case hex digits.")
        if name in files:
            raise UnreadableError("The manifest lists a file twice. Sign the model again.")
        files[name] = digest
    return files


def check_name(value: object) -> str:
    """`value` as a file's path below the model's folder, in its one spelling.

    Raises:
        UnreadableError: Absolute, leading out of the folder, or with a control character, which
            a list with one file a line could not hold.
    """
    name = _text(value, "a file's name", _MAX_NAME)
    parts = name.split("/")
    if not name.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise UnreadableError(
            "A file's name in the manifest is no plain path below the model's folder. "
            "Rename the file and sign the model again."
        )
    return name


def sign_manifest(
    files: Mapping[str, str], key: SigningKey, *, name: str, ignored: Iterable[str] = ()
) -> bytes:
    """Sign a manifest: the bytes of a signature file.

    Args:
        files: SHA-256 (hex) by path below the model's folder; one or more.
        key: P-256, P-384 or P-521; see `load_signing_key`. The signature is deterministic
            (RFC 6979), so nothing random is needed.
        name: The model's name, for people.
        ignored: Paths below the folder that are not part of the model, such as the signature.

    Raises:
        UnreadableError: A name or digest that could not be verified again.
    """
    # In the order of the format: by the parts of the path, not by its text.
    ordered = sorted(files.items(), key=lambda item: PurePosixPath(item[0]))
    resources = [
        {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in ordered
    ]
    statement = {
        "_type": _STATEMENT,
        "subject": [
            {
                "name": _text(name, "the model's name"),
                "digest": {"sha256": _root_digest(_read_resources(resources).values())},
            }
        ],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted({*GIT_NAMES, *map(check_name, ignored)}),
            },
            "resources": resources,
        },
    }
    payload = _dump(statement)
    algorithm = ec.ECDSA(_HASHES[key.curve.name], deterministic_signing=True)
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {
            "publicKey": {"hint": _key_hint(key.public_key())},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": b64.encode(payload),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": b64.encode(key.sign(_pae(payload), algorithm)), "keyid": ""}],
        },
    }
    data = _dump(bundle)
    if len(data) > MAX_SIGNATURE:
        raise UnreadableError(
            f"The signature would have {len(data)} bytes, more than the {MAX_SIGNATURE} that are "
            "read. Shorten the names of the model's files."
        )
    return data


def load_signing_key(pem: bytes) -> SigningKey:
    """A private key for `sign_manifest` from PEM.

    Raises:
        UnreadableError: Not a P-256, P-384 or P-521 key, or one under a password.
    """
    _check_key_size(pem)
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise UnreadableError(
            "The private key is under a password. Decrypt it first: openssl ec -in KEY -out PLAIN"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnreadableError(
            "The private key cannot be read. It should be a key in PEM."
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise UnreadableError("The private key should be of P-256, P-384 or P-521.")
    return key


def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    _check_key_size(pem)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UnreadableError(
            "The public key cannot be read. It should be a public key in PEM: "
            "openssl ec -in KEY -pubout -out PUBLIC"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise UnreadableError("The public key should be of P-256, P-384 or P-521.")
    return key


def _check_key_size(pem: bytes) -> None:
    if len(pem) > MAX_KEY:
        raise UnreadableError(f"The key has {len(pem)} bytes, more than {MAX_KEY}. It is no key.")


def _key_hint(key: ec.EllipticCurvePublicKey) -> str:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (protocol 1.0, "Signature Definition")."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _root_digest(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _json(data: bytes, what: str, limit: int) -> object:
    if len(data) > limit:
        raise UnreadableError(f"{what.capitalize()} has {len(data)} bytes, more than {limit}.")
    try:
        value: object = json.loads(
            data.decode(), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        raise UnreadableError(
            f"{what.capitalize()} is not JSON with each key once. Get it again, or sign the model "
            "again."
        ) from None
    return value


def _fields(
    value: object, what: str, needed: AbstractSet[str], allowed: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """`value` as an object with the needed keys and no others than the allowed ones."""
    if not isinstance(value, dict) or not needed <= value.keys() <= needed | allowed:
        names = ", ".join(sorted(needed | allowed))
        raise UnreadableError(f"{what.capitalize()} should be an object of: {names}.")
    return value


def _text(value: object, what: str, most: int = MAX_SIGNATURE * 2) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise UnreadableError(f"{what.capitalize()} should be text of at most {most} characters.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnreadableError(f"{what.capitalize()} holds a lone surrogate.") from None
    return value


def _base64(value: object, what: str, *, most: int) -> bytes:
    data = b64.decode(_text(value, what, 2 * most), what.capitalize())
    if len(data) > most:
        raise UnreadableError(f"{what.capitalize()} has {len(data)} bytes, more than {most}.")
    return data


def _expect(value: object, expected: str, what: str) -> None:
    if value != expected:
        raise UnreadableError(
            f"{what.capitalize()} should be {expected}. It is of another format or version."
        )
