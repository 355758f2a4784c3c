"""What one device of a person hands to another, and how a fresh one makes it its own."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from runtime.client import master
from runtime.client.database import open_database
from runtime.enclave.mailbox_api import MAX_BYTES
from runtime.errors import SottoError

_MAX_INTEGER: Final = 2**53
# Of the message that it travels in; the rest is for confirmation and tag.
_MAX_HANDED: Final = MAX_BYTES["a1"] - 1024


class Strict(BaseModel):
    """What comes from another device: what is not expected is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


_Handle = Annotated[str, Field(min_length=1, max_length=64)]
_Integer = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Position = Annotated[str, Field(pattern=r"^([0-9]{1,10}\.[0-9a-f]{64})?$")]
_Thread = Annotated[tuple[_Handle, _Position, _Integer, _Integer], Field(strict=False)]
_Pin = Annotated[tuple[_Handle, _Digest, _Integer, _Digest], Field(strict=False)]


class Handed(Strict):
    """What one device hands to another.

    Attributes:
        master: The master secret, 64 hex digits.
        threads: Persona, position, number, and the smallest number that a next one may have.
        pins: Of published handles: handle, key, number and digest of the newest step.
    """

    master: _Digest = Field(repr=False)
    threads: Annotated[tuple[_Thread, ...], Field(strict=False)]
    pins: Annotated[tuple[_Pin, ...], Field(strict=False)]

    @classmethod
    def of(cls, folder: Path) -> Handed:
        """What a device's folder has to hand over.

        Raises:
            SottoError: The folder cannot be read, or it is more than one message holds.
        """
        with _database(folder) as database:
            threads = database.execute("SELECT persona, position, thread, next FROM threads")
            pins = database.execute("SELECT handle, hex(key), number, hex(step) FROM handles")
            found = cls(
                master=(folder / master.FILE).read_bytes().hex(),
                threads=tuple(threads.fetchall()),
                pins=tuple((one, key.lower(), n, step.lower()) for one, key, n, step in pins),
            )
        if (size := len(found.encode())) > _MAX_HANDED:
            raise SottoError(
                f"this device has {len(found.threads)} conversations, more than a pairing carries "
                f"({size} of {_MAX_HANDED} bytes); copy its folder {folder} to the new device",
                code="pairing_too_large",
            )
        return found

    def encode(self) -> bytes:
        """As it is sealed."""
        return orjson.dumps(self.model_dump())


@contextlib.contextmanager
def _database(folder: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(open_database(folder)) as database:
            yield database
    except (OSError, sqlite3.Error) as error:
        raise SottoError(
            f"the device folder {folder} cannot be used ({error}); look at the disk, and try again",
            code="home",
        ) from error


def check_fresh(folder: Path) -> None:
    """See that a device's folder may take another's keys: `DeviceHome` made it, and it is unused.

    Raises:
        SottoError: There are conversations or receipts in it, which another master secret could
            not open.
    """
    with _database(folder) as database:
        _check_fresh(database, folder)


def _check_fresh(database: sqlite3.Connection, folder: Path) -> None:
    for table in ("threads", "receipts", "erasures"):
        if database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608 - constants
            raise SottoError(
                f"there are conversations in {folder} already, and another device's keys would "
                "lock them; choose a folder that is new with --home, or move this one away",
                code="pairing_not_fresh",
            )


def adopt(folder: Path, handed: Handed) -> None:
    """Make a fresh device's folder one of the same person: all of it, or nothing changes.

    Raises:
        SottoError: It is not fresh, or cannot be written.
    """
    key = folder / master.FILE
    draft, old = (folder / f".{master.FILE}.{secrets.token_hex(8)}" for _ in range(2))
    try:
        with _database(folder) as database:
            database.execute("BEGIN IMMEDIATE")
            _check_fresh(database, folder)
            database.executemany(
                "INSERT INTO threads (persona, position, thread, next) VALUES (?, ?, ?, ?)",
                handed.threads,
            )
            database.executemany(
                "INSERT OR REPLACE INTO handles (handle, key, number, step) VALUES (?, ?, ?, ?)",
                [
                    (one, bytes.fromhex(k), n, bytes.fromhex(step))
                    for one, k, n, step in handed.pins
                ],
            )
            master.write(draft, bytes.fromhex(handed.master))
            old.hardlink_to(key)
            draft.replace(key)
            try:
                database.execute("COMMIT")
            except BaseException:
                old.replace(key)
                raise
    finally:
        for left in (draft, old):
            left.unlink(missing_ok=True)
