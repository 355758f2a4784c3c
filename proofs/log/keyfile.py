"""The log's signing key on disk."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proofs.errors import LogError, UnreadableError
from proofs.log.files import sync_directories, write_whole
from proofs.note import Signer


def load_or_create_signer(path: Path, origin: str) -> Signer:
    """The signer of a log, its key made on first use (PEM, PKCS #8, mode 0600).

    Raises:
        LogError: The file is unreadable, no Ed25519 key, or open to others, or the origin can
            be no key's name.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pem = Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
            write_whole(path, pem, 0o600)
            sync_directories([path], path.parent)
        if path.stat().st_mode & 0o077:
            raise LogError(f"Others may read the log's key {path}. Run: chmod 600 {path}")
        key = load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError  # noqa: TRY301 - one remedy for every key that is not ours
        signer = Signer(origin, key)
        signer.verifier.format()
    except OSError as error:
        raise LogError(
            f"The log's key {path} cannot be used ({error.strerror}). Check its permissions."
        ) from error
    except (ValueError, TypeError) as error:
        raise LogError(
            f"{path} holds no Ed25519 key in PEM. Restore it: a new key is a new log."
        ) from error
    except UnreadableError as error:
        raise LogError(f"The log's origin '{origin}' cannot name a key. {error}") from error
    return signer
