"""A creator's keys in the device's folder: the one that signs, and those of private personas.

```
creator.key                     PEM, Ed25519: whoever has it owns the handles that it claimed
personas/<handle>-<digest>.key  hex, 32 bytes: opens one version of a private persona
```

Nothing here is printed, and no key leaves the folder but into a file that its owner names, or
sealed to a verified enclave.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from personas.sealing import KEY_BYTES
from runtime.errors import SottoError
from runtime.exporting import new_file

_FILE = "creator.key"
_FOLDER = "personas"
_FORMAT = 1
_MAX_FILE = 1024 * 1024
_NAME = re.compile(r"[a-z][a-z0-9-]{1,31}-[0-9a-f]{64}")
_SEED = re.compile(r"[0-9a-f]{64}")


class CreatorKeys:
    """The keys in one device's folder.

    Args:
        folder: The device's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def signing(self, *, make: bool = False) -> Ed25519PrivateKey:
        """The key that signs; made where `make` says so and there is none.

        Raises:
            SottoError: There is none, or it cannot be used.
        """
        path = self._folder / _FILE
        if not path.exists():
            if not make:
                raise SottoError(
                    "this device has no creator's key: `sotto personas keys` makes one, or takes "
                    "yours with --import FILE",
                    code="no_key",
                )
            _keep(path, _pem(Ed25519PrivateKey.generate()))
        return _read_signing(path)

    def opening(self, handle: str, digest: bytes) -> bytes | None:
        """The key of one version of a private persona; None where it is not here."""
        try:
            text = self._opening(handle, digest).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(self._opening(handle, digest), error) from None
        if not _SEED.fullmatch(text):
            raise SottoError(
                f"{self._opening(handle, digest)} does not hold a key; restore it from a backup",
                code="key",
            )
        return bytes.fromhex(text)

    def make_opening(self, handle: str, digest: bytes) -> bytes:
        """The key of one version; made where there is none."""
        known = self.opening(handle, digest)
        if known is None:
            known = os.urandom(KEY_BYTES)
            _keep(self._opening(handle, digest), known.hex().encode())
        return known

    def export(self, path: Path, handle: str | None = None) -> int:
        """Write keys into a new file that only its owner can read; how many.

        Args:
            path: The file.
            handle: Of which private persona only its keys are written, for a new owner; None: all,
                the one that signs too.

        Raises:
            SottoError: There is nothing to write, or the file cannot be made.
        """
        openings = {}
        for file in sorted((self._folder / _FOLDER).glob("*.key")):
            name = file.stem
            if _NAME.fullmatch(name) and handle in (None, name[:-65]):
                digest = bytes.fromhex(name[-64:])
                openings[name] = (self.opening(name[:-65], digest) or b"").hex()
        told: dict[str, object] = {"format": _FORMAT, "personas": openings}
        if handle is None:
            told["creator"] = self.signing().private_bytes_raw().hex()
        if handle is not None and not openings:
            raise SottoError(
                f"there are no keys of `{handle}` here: it is not private, or not here"
            )
        with new_file(path, replace=False) as output:
            output.write(orjson.dumps(told, option=orjson.OPT_INDENT_2))
        return len(openings) + (handle is None)

    def take(self, path: Path) -> int:
        """Take keys from a file that `export` wrote; how many are new here.

        Raises:
            SottoError: It is no such file, or another key that signs is here; nothing is taken.
        """
        creator, openings = _read_export(path)
        here = self._folder / _FILE
        new = 0
        if creator is not None and here.exists():
            if _read_signing(here).private_bytes_raw() != creator:
                raise SottoError(
                    f"another creator's key is on this device; move {here} to a safe place first, "
                    "or choose another folder with --home",
                    code="key_exists",
                )
        elif creator is not None:
            _keep(here, _pem(Ed25519PrivateKey.from_private_bytes(creator)))
            new += 1
        for name, key in openings.items():
            handle, digest = name[:-65], bytes.fromhex(name[-64:])
            if self.opening(handle, digest) is None:
                _keep(self._opening(handle, digest), key.hex().encode())
                new += 1
        return new

    def _opening(self, handle: str, digest: bytes) -> Path:
        return self._folder / _FOLDER / f"{handle}-{digest.hex()}.key"


def _read_export(path: Path) -> tuple[bytes | None, dict[str, bytes]]:
    try:
        with path.open("rb") as file:
            value = orjson.loads(file.read(_MAX_FILE))
        match value:
            case {"format": 1, "personas": dict(openings)} if value.keys() <= {
                "format",
                "personas",
                "creator",
            }:
                keys = {name: _seed(text) for name, text in openings.items()}
                if all(map(_NAME.fullmatch, keys)):
                    creator = value.get("creator")
                    return (None if creator is None else _seed(creator)), keys
    except OSError as error:
        raise _unusable(path, error) from None
    except ValueError:
        pass
    raise SottoError(
        f"{path} is not a file of keys: `sotto personas keys --export FILE` writes one", code="key"
    )


def _seed(text: object) -> bytes:
    if not isinstance(text, str) or not _SEED.fullmatch(text):
        raise ValueError("not a key")
    return bytes.fromhex(text)


def _read_signing(path: Path) -> Ed25519PrivateKey:
    try:
        if path.stat().st_mode & 0o077:
            raise SottoError(
                f"others may read the creator's key {path}; run: chmod 600 {path}", code="key"
            )
        key: object = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise _unusable(path, error) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SottoError(
            f"{path} is not an Ed25519 key in PEM; restore it from a backup: a new key owns none "
            "of your handles",
            code="key",
        )
    return key


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _keep(path: Path, data: bytes) -> None:
    """Write a new file for its owner alone, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Not renamed: what is there was made by another start, and is the one that counts.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(path, error) from None
    finally:
        draft.unlink(missing_ok=True)


def _unusable(path: Path, error: Exception) -> SottoError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return SottoError(f"{path} cannot be used ({reason}); look at its permissions", code="key")
