"""Files that are whole or not there, whatever moment the machine stops at."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write aside, sync, rename over `path`. The name is durable after `sync_directories`."""
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def sync_directories(paths: Iterable[Path], top: Path) -> None:
    """Make the names of `paths`, and of their folders up to `top`, durable."""
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(top)}
    for folder in folders:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
