"""A directory that behaves like the kernel's configfs-tsm, for code in this process.

The files are real and are read and written through the operating system. What no file does by
itself happens in an audit hook, which Python calls before it opens, makes or removes one: making
a directory makes its attributes, closing `inblob` counts a generation (and loses refusals, as
configfs does), opening `outblob` has a machine sign, removing the directory removes the attributes.
Rules: Linux, Documentation/ABI/testing/configfs-tsm-report and drivers/virt/coco/guest/report.c.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Signer = Callable[[bytes], tuple[bytes, bytes]]
"""64 bytes to what `outblob` and `auxblob` then give."""

GUIDS = {
    "vcek": "63da758d-e664-4564-adc5-f4b93be8accd",
    "vlek": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ask": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "ark": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    "crl": "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
}
_MAX_INBLOB = 64


def certificate_table(entries: Mapping[str, bytes], *, little_endian: bool = False) -> bytes:
    """The host's table of certificates (GHCB specification, MSG_REPORT_REQ)."""
    offset = 24 * (len(entries) + 1)
    head, body = b"", b""
    for name, data in entries.items():
        guid = uuid.UUID(GUIDS[name])
        head += guid.bytes_le if little_endian else guid.bytes
        head += struct.pack("<II", offset + len(body), len(data))
        body += data
    return head + bytes(24) + body


@dataclass
class _Request:
    generation: int = 0
    signed_at: int = -1
    inblob: bytes = b""
    blobs: tuple[bytes, bytes] = (b"", b"")
    writing: bool = False


@dataclass
class Kernel:
    """The kernel's side of one directory.

    Attributes:
        root: Where requests are made.
        provider: `tdx_guest` or `sev_guest`; empty: no driver has registered.
        sign: The platform.
        refuses: Error numbers, by attribute (`mkdir` for making a request), to fail with, one
            for each time; where `inblob` is named, what is written there is lost.
        intruders: How many requests somebody else writes into after they were answered.
        floor: The lowest privilege level that may ask; None: an older kernel that does not say.
        signed: What was asked to be signed, in order.
        made: Names of all requests.
    """

    root: Path
    provider: str
    sign: Signer
    refuses: dict[str, list[int]] = field(default_factory=dict)
    intruders: int = 0
    floor: int | None = None
    signed: list[bytes] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    _requests: dict[str, _Request] = field(default_factory=dict)
    _busy: threading.local = field(default_factory=threading.local)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called before each event of the process."""
        if event not in ("open", "os.mkdir", "os.rmdir") or getattr(self._busy, "inside", False):
            return
        if not isinstance(arguments[0], str | os.PathLike):
            return
        path = Path(os.fspath(arguments[0]))
        self._busy.inside = True
        try:
            if event == "os.mkdir" and path.parent == self.root:
                self._make(path.name)
            elif event == "os.rmdir" and path.parent == self.root:
                self._remove(path)
            elif event == "open" and path.parent.parent == self.root and path.parent.is_dir():
                self._open(path, arguments[2])
        finally:
            self._busy.inside = False

    def _refuse(self, what: str) -> None:
        if numbers := self.refuses.get(what):
            number = numbers.pop(0)
            raise OSError(number, os.strerror(number), str(self.root / what))

    def _make(self, name: str) -> None:
        self._refuse("mkdir")
        if not self.provider:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), str(self.root / name))
        self._requests[name] = _Request()
        self.made.append(name)

    def _remove(self, path: Path) -> None:
        for attribute in path.iterdir():
            attribute.unlink()
        del self._requests[path.name]

    def _open(self, path: Path, flags: int) -> None:
        request = self._requests[path.parent.name]
        self._show(path.parent)
        self._commit(request, path.parent)
        if flags & (os.O_WRONLY | os.O_RDWR):
            if path.name != "inblob":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            request.writing = True
            return
        self._refuse(path.name)
        if path.name in ("outblob", "auxblob") and path.exists():
            path.write_bytes(self._blob(request, path))
        elif path.name == "generation":
            path.write_text(f"{request.generation}\n")

    def _show(self, folder: Path) -> None:
        """The attributes that the kernel made with the directory."""
        names = {"inblob": "", "outblob": "", "generation": "", "provider": f"{self.provider}\n"}
        if self.provider == "sev_guest":
            names["auxblob"] = ""
        if self.floor is not None:
            names["privlevel_floor"] = f"{self.floor}\n"
        for name, text in names.items():
            if not (folder / name).exists():
                (folder / name).write_text(text)

    def _commit(self, request: _Request, folder: Path) -> None:
        """A file that was written was closed by now: take it, or lose that it was refused."""
        if not request.writing:
            return
        request.writing = False
        data = (folder / "inblob").read_bytes()
        if 0 < len(data) <= _MAX_INBLOB and "inblob" not in self.refuses:
            request.inblob = data
            request.generation += 1

    def _blob(self, request: _Request, path: Path) -> bytes:
        if not request.inblob:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        if request.signed_at != request.generation:
            self.signed.append(request.inblob)
            request.blobs = self.sign(request.inblob)
            request.signed_at = request.generation
        answer = request.blobs[path.name == "auxblob"]
        if self.intruders and path.name == "outblob":
            self.intruders -= 1
            request.generation += 1
        return answer


_KERNELS: list[Kernel] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    for kernel in _KERNELS:
        kernel.audit(event, arguments)


_installed = False


@contextmanager
def running(kernel: Kernel) -> Iterator[Kernel]:
    """Let `kernel` answer for its directory."""
    global _installed  # noqa: PLW0603 - a hook stays for good, so there must be one only
    if not _installed:
        sys.addaudithook(_audit)
        _installed = True
    kernel.root.mkdir(parents=True, exist_ok=True)
    _KERNELS.append(kernel)
    try:
        yield kernel
    finally:
        _KERNELS.remove(kernel)
