"""Digest a model's files before they are loaded, and hold them against a signed manifest.

What counts is every file below the model's folder but git's own and the signature: a file that is
not signed could be loaded as well as one that is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from proofs.errors import RefusedError, UnreadableError
from proofs.modelsig import (
    GIT_NAMES,
    MAX_FILES,
    MAX_KEY,
    MAX_SIGNATURE,
    check_name,
    differences,
    parse_signature,
)
from runtime.config import EmbeddingConfig, EngineConfig
from runtime.enclave.engines.base import EngineError
from runtime.errors import SetupError

log = logging.getLogger(__name__)

SIGNATURE_NAME = "model.sig"
"""Where a model's signature lies unless something else is said; never a part of the model."""

Show = Callable[[int, int], None]
"""Told bytes done and bytes in all at each tenth of the work; from any thread, one at a time."""

_CHUNK = 1 << 20
_SHOWN_FROM = 1 << 30
_NAMED = 3


@dataclass(frozen=True, slots=True)
class SignedBy:
    """Whose signature a model must have.

    Attributes:
        key: File of the signer's public key, PEM.
        signature: The signature's file; None: `model.sig` in the model's folder.
    """

    key: Path
    signature: Path | None = None

    def file(self, folder: Path) -> Path:
        """The signature of the model in `folder`."""
        return self.signature or folder / SIGNATURE_NAME


def signed_by(config: EngineConfig) -> SignedBy | None:
    """Whose signature the configuration asks for; None where it asks for none.

    Raises:
        SetupError: It asks for one that could not be checked.
    """
    return _signed_by(config, ("vllm", "embedded"), "engine")


def embedding_signed_by(config: EmbeddingConfig) -> SignedBy | None:
    """The same of an embedding model; the static one is part of the release."""
    return _signed_by(config, ("vllm",), "embedder")


def _signed_by(
    config: EngineConfig | EmbeddingConfig, kinds: tuple[str, ...], what: str
) -> SignedBy | None:
    if config.model_key is None:
        if config.model_signature is not None:
            raise SetupError(
                "model_signature without model_key: a signature says nothing without the signer's "
                "public key; name it, or remove both",
                code="model_signature",
            )
        return None
    if config.kind not in kinds:
        raise SetupError(
            f"model_key: the {config.kind} {what} loads no weights that could be checked; use "
            f"{' or '.join(kinds)}, or remove model_key",
            code="model_signature",
        )
    return SignedBy(config.model_key, config.model_signature)


def find_files(folder: Path, signature: Path | None = None) -> list[str]:
    """Paths below `folder` of all files of the model in it, sorted.

    Args:
        folder: The model.
        signature: Its signature, which is not one of its files.

    Raises:
        EngineError: `model_unreadable`: a link or a special file, a name that cannot be signed,
            too many files, or what the operating system refuses.
    """
    own = {SIGNATURE_NAME, *below(folder, signature)}
    found: list[str] = []
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    name = Path(entry.path).relative_to(folder).as_posix()
                    if name in GIT_NAMES or name in own:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        found.append(check_name(name))
                    else:
                        raise _unreadable(
                            f"{entry.path!r} is a link or no file, so what it holds can change "
                            "without it; put a copy in its place (cp -rL FOLDER COPY)"
                        )
        except OSError as error:
            raise _refused(folder, error) from None
        except UnreadableError as error:
            raise _unreadable(f"the folder {str(folder)!r}: {error}") from None
        if len(found) > MAX_FILES:
            raise _unreadable(f"the folder {str(folder)!r} has more than {MAX_FILES} files")
    return sorted(found)


def below(folder: Path, file: Path | None) -> list[str]:
    """The path of `file` below `folder`; none where it lies elsewhere."""
    if file is None or not file.resolve().is_relative_to(folder.resolve()):
        return []
    return [file.resolve().relative_to(folder.resolve()).as_posix()]


def digest_files(folder: Path, names: Iterable[str], show: Show | None = None) -> dict[str, str]:
    """SHA-256 (hex) of files below `folder`, by name; several are read at a time.

    Raises:
        EngineError: `model_unreadable`: one is missing, is a link or cannot be read.
    """
    paths = {name: folder / name for name in names}
    try:
        total = sum(path.stat().st_size for path in paths.values())
        meter = _Meter(total, show or _log_progress)
        with ThreadPoolExecutor(thread_name_prefix="digest") as pool:
            digests = pool.map(lambda path: _digest(path, meter), paths.values())
            return dict(zip(paths, digests, strict=True))
    except OSError as error:
        raise _refused(folder, error) from None


def signed_manifest(signed: SignedBy, folder: Path) -> Mapping[str, str]:
    """The manifest that was signed for the model in `folder`.

    Raises:
        EngineError: `model_signature`: no signature, no key, or unreadable ones;
            `model_mismatch`: not of this key.
    """
    file = signed.file(folder)
    try:
        key = _read(signed.key, MAX_KEY)
        return parse_signature(_read(file, MAX_SIGNATURE)).verify(key)
    except OSError as error:
        raise EngineError(
            f"{error.filename} cannot be read ({error.strerror}); a signed model needs its "
            "signature and the signer's public key: docs/models.md says how to make both",
            code="model_signature",
        ) from None
    except UnreadableError as error:
        raise EngineError(
            f"the model's signature {file} or key {signed.key}: {error}", code="model_signature"
        ) from None
    except RefusedError as error:
        raise EngineError(f"{file}: {error}", code="model_mismatch") from None


def check_manifest(found: Mapping[str, str], signed: SignedBy | None, folder: Path) -> None:
    """Refuse files that are not those that were signed; nothing is asked of an unsigned model.

    Raises:
        EngineError: `model_mismatch`, or as `signed_manifest`.
    """
    if signed is None:
        return
    wrong = differences(signed_manifest(signed, folder), found)
    if wrong:
        named = "; ".join(map(str, wrong[:_NAMED]))
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise EngineError(
            f"the model in {folder} is not the one that was signed: {named}{more}. "
            "Nothing was loaded: get the model again, or have it signed again",
            code="model_mismatch",
        )


def _digest(path: Path, meter: _Meter) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    # Not followed even now: the folder was looked through a while ago. Nor does a pipe block here.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no file", str(path))
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
            meter.add(size)
    return digest.hexdigest()


class _Meter:
    """Counts bytes of all threads and says so at each tenth."""

    def __init__(self, total: int, show: Show) -> None:
        self._total = total
        self._show = show
        self._done = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            before, self._done = self._done, self._done + size
            # A file may have grown since it was measured.
            if self._total and 10 * self._done // self._total > 10 * before // self._total:
                self._show(self._done, self._total)


def _log_progress(done: int, total: int) -> None:
    if total >= _SHOWN_FROM:
        log.info("digested %.1f of %.1f GB of the model", done / 1e9, total / 1e9)


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit + 1)


def _unreadable(message: str) -> EngineError:
    return EngineError(message, code="model_unreadable")


def _refused(folder: Path, error: OSError) -> EngineError:
    return _unreadable(
        f"the model in {folder} cannot be read: {error.filename}: {error.strerror}; "
        "check the folder's name and rights"
    )
