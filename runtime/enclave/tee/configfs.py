"""The CPU's quote or report, through the kernel's configfs-tsm.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report (since 6.7). A directory that is made
below the root is a request: its attribute `inblob` takes 64 bytes, reading `outblob` has the
platform sign them, `auxblob` holds certificates where the host has put them. `generation` counts
the writes, so that a second writer is noticed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.enclave.tee.errors import TeeError

log = logging.getLogger(__name__)

TSM_ROOT = Path("/sys/kernel/config/tsm/report")
TIMEOUT_S = 60.0
"""How long a busy platform is asked again; the kernel itself waits up to 30 s for one answer."""

_MAX_BLOB = 64 * 1024
_PAUSE_S = 0.1
_BUSY = frozenset({errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT})
_RACES = 3


@dataclass(frozen=True, slots=True)
class TsmReport:
    """What the platform signed.

    Attributes:
        provider: The kernel's name of the format: `tdx_guest` or `sev_guest`.
        report: Intel's quote or AMD's report.
        auxiliary: For `sev_guest` the certificate table of the host (GHCB specification,
            MSG_REPORT_REQ); often empty.
    """

    provider: str
    report: bytes
    auxiliary: bytes


def read_report(
    report_data: bytes, *, root: Path = TSM_ROOT, timeout_s: float = TIMEOUT_S
) -> TsmReport:
    """Have the platform sign 64 bytes. Takes tens of milliseconds, on TDX up to seconds.

    Args:
        report_data: 64 bytes.
        root: The kernel's folder of report requests.
        timeout_s: Seconds to go on asking where the platform is busy.

    Raises:
        TeeError: There is no such platform, or it did not answer; with the remedy.
    """
    deadline = time.monotonic() + timeout_s
    races = 0
    while True:
        try:
            with _request(root) as request:
                report = _answer(request, report_data)
            if report is not None:
                return report
            races += 1
            if races == _RACES:
                raise TeeError(
                    f"another program writes into our requests below {root}, so no answer is "
                    "surely ours; find it and stop it",
                    code="tee_failed",
                )
        except OSError as error:
            if error.errno not in _BUSY or time.monotonic() + _PAUSE_S > deadline:
                raise _refused(error, root) from None
            time.sleep(_PAUSE_S)


@contextlib.contextmanager
def _request(root: Path) -> Iterator[Path]:
    # One of its own for each report, as the kernel's documentation advises against races.
    request = root / f"sotto-{os.getpid()}-{secrets.token_hex(4)}"
    request.mkdir()
    try:
        yield request
    finally:
        try:
            request.rmdir()
        except OSError as error:
            log.warning("a report request stays in the kernel: errno %s", error.errno)


def _answer(request: Path, report_data: bytes) -> TsmReport | None:
    """The platform's answer; None where somebody else wrote into the request meanwhile."""
    level = _number(_optional(request / "privlevel_floor") or b"0")
    if level:
        raise TeeError(
            f"this VM runs at privilege level {level} below a paravisor that could read it and "
            "that nobody attests here; use a VM without one",
            code="tee_failed",
        )
    before = _number(_blob(request / "generation"))
    (request / "inblob").write_bytes(report_data)
    # The kernel takes the bytes when the file is closed, where a refusal of it is lost.
    if _number(_blob(request / "generation")) == before:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(request / "inblob"))
    report = TsmReport(
        provider=_blob(request / "provider").decode("ascii", "replace").strip(),
        report=_blob(request / "outblob"),
        auxiliary=_optional(request / "auxblob"),
    )
    return report if _number(_blob(request / "generation")) == before + 1 else None


def _blob(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_BLOB + 1)
    if len(data) > _MAX_BLOB:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def _optional(path: Path) -> bytes:
    # Which attributes there are depends on the provider and on the kernel.
    try:
        return _blob(path)
    except FileNotFoundError:
        return b""


def _number(text: bytes) -> int:
    text = text.strip()
    if not text.isdigit() or len(text) > 20:
        raise OSError(errno.EIO, "a number was expected from the kernel")
    return int(text)


def _refused(error: OSError, root: Path) -> TeeError:
    """What the operating system's refusal means for an operator."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR if not root.is_dir():
            return _missing(root)
        case errno.ENXIO:
            return TeeError(
                "the kernel can ask for reports but nothing here makes them: this is no TDX or "
                "SEV-SNP guest, or its module is not loaded (modprobe tdx_guest; modprobe "
                "sev-guest)",
                code="no_tee",
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return TeeError(
                f"the kernel lets this user make no report request below {root} "
                f"({error.strerror}); run as root, and in a container mount that folder writable",
                code="tee_permission",
            )
        case errno.EBUSY | errno.EAGAIN | errno.ETIMEDOUT:
            return TeeError(
                f"the platform did not sign in time ({error.strerror}); on TDX the host's quote "
                "generation service (qgsd) makes quotes: see whether it runs and can be reached",
                code="tee_busy",
            )
        case errno.EFBIG:
            return TeeError(
                "the platform's report is larger than any that is known; the kernel and the "
                "host's attestation software do not fit together: update both",
                code="tee_failed",
            )
        case _:
            name = Path(str(error.filename or root)).name
            return TeeError(
                f"the platform refused to sign ({name}: {error.strerror}); the kernel's log "
                "(dmesg) may say why, on TDX also the host's quote generation service (qgsd)",
                code="tee_failed",
            )


def _missing(root: Path) -> TeeError:
    config = root.parent.parent
    if not config.is_dir() or not any(config.iterdir()):
        return TeeError(
            f"{config} is not mounted, through which the kernel of a TDX or SEV-SNP guest gives "
            "reports: mount -t configfs none /sys/kernel/config (in a container: mount the VM's)",
            code="no_tee",
        )
    return TeeError(
        f"the kernel has no {root}: it is older than 6.7, its module tsm is not loaded (modprobe "
        "tdx_guest; modprobe sev-guest), or this is no TDX or SEV-SNP guest",
        code="no_tee",
    )
