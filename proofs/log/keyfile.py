"""Signing keys of logs and witnesses on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proofs.errors import LogError, UnreadableError
from proofs.log.files import sync_directories, write_whole
from proofs.note import Signer

KeyT = TypeVar("KeyT", Ed25519PrivateKey, MLDSA44PrivateKey)
_MAX_ORIGIN = 255  # what witnesses and COSE receipts carry
_ALGORITHMS = {Ed25519PrivateKey: "Ed25519", MLDSA44PrivateKey: "ML-DSA-44"}


# The kinds are abstract to mypy, hence what their callers ignore: only `generate` makes a key.
def load_or_create_key(path: Path, kind: type[KeyT], whose: str) -> KeyT:
    """The private key of `whose` (log, witness), made on first use (PEM, PKCS #8, mode 0600).

    Raises:
        LogError: The file is unreadable, no key of that kind, or open to others.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pem = kind.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_whole(path, pem, 0o600)
            sync_directories([path], path.parent)
        if path.stat().st_mode & 0o077:
            raise LogError(f"Others may read the {whose}'s key {path}. Run: chmod 600 {path}")
        key = load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, kind):
            raise TypeError  # noqa: TRY301 - one remedy for every key that is not ours
    except OSError as error:
        raise LogError(
            f"The {whose}'s key {path} cannot be used ({error.strerror}). Check its permissions."
        ) from error
    except UnsupportedAlgorithm as error:
        raise LogError(
            f"This machine's cryptography library has no {_ALGORITHMS[kind]}. Install the one "
            "that is locked in requirements/."
        ) from error
    except (ValueError, TypeError) as error:
        raise LogError(
            f"{path} holds no {_ALGORITHMS[kind]} key in PEM. Restore it: a new key is a new "
            f"{whose}."
        ) from error
    return key


def load_or_create_signer(path: Path, origin: str) -> Signer:
    """The signer of a log, its key made on first use.

    Raises:
        LogError: As of `load_or_create_key`, or the origin can be no key's name.
    """
    key = load_or_create_key(path, Ed25519PrivateKey, "log")  # type: ignore[type-abstract]
    signer = Signer(origin, key)
    if len(origin) > _MAX_ORIGIN:
        raise LogError(f"The log's origin has more than {_MAX_ORIGIN} characters. Choose another.")
    try:
        signer.verifier.format()
    except UnreadableError as error:
        raise LogError(f"The log's origin '{origin}' cannot name a key. {error}") from error
    return signer
