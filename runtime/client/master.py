"""The master secret of a person's devices: whoever has it has the memory."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from runtime.errors import SetupError

FILE = "master.key"
_BYTES = 32


def load_or_make(folder: Path) -> bytes:
    """The secret in a device's folder, 32 bytes; a new one where there is none.

    Raises:
        SetupError: It is damaged.
        OSError: It cannot be read or written.
    """
    path = folder / FILE
    # Two first starts at once must agree on one secret: only one of them can create the file,
    # and it appears under its name with all of its bytes.
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        write(draft, os.urandom(_BYTES))
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    master = path.read_bytes()
    if len(master) != _BYTES:
        raise SetupError(
            f"the master secret {path} is damaged ({len(master)} bytes instead of "
            f"{_BYTES}); restore it from a backup: without it no memory can be opened"
        )
    return master


def write(path: Path, master: bytes) -> None:
    """Write a secret to a new file, which is on the disk when this returns."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(master)
        file.flush()
        os.fsync(file.fileno())
