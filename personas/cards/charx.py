"""CHARX files (Character Card V3, "CHARX"): a zip with `card.json`, unpacked within bounds."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Mapping
from typing import Final

from pydantic import TypeAdapter, ValidationError

from personas.cards.cleaning import Reader
from personas.model import Path
from personas.package import MAX_FILES_BYTES

SIGNATURE: Final = b"PK\x03\x04"
JPEG: Final = b"\xff\xd8\xff"
END: Final = b"PK\x05\x06"
END_BYTES: Final = 22 + 65_535
"""An archive's last record stands in so many bytes, with its comment."""
CARD: Final = "card.json"
MAX_ARCHIVE_BYTES: Final = 64 * 1024 * 1024
MAX_ENTRIES: Final = 1_024
# Deflate itself reaches 1,032; what people draw and write stays far below this.
_MAX_RATIO: Final = 200
_RATIO_FREE: Final = 1_048_576
_PATHS: Final = TypeAdapter(Path)
# A date for every entry, so that one persona gives one file.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def unpack(reader: Reader, data: bytes) -> dict[str, bytes]:
    """Return the files of an archive by path. Raises CardError.

    Number, names, sizes and kinds of all entries are checked before the first is unpacked, and
    none may unpack to more than it says. What stands before the archive, a picture that some
    programs put there, is not read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check(reader, entries, len(data))
            return {entry.filename: _read(reader, archive, entry) for entry in entries}
    except (
        zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError,
        zlib.error, OverflowError, IndexError,
    ):  # fmt: skip
        raise reader.refuse("the archive", "is damaged", "Export the card again.") from None


def _check(reader: Reader, entries: list[zipfile.ZipInfo], size: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise reader.refuse(
            "the archive",
            f"has {len(entries)} entries, more than the {MAX_ENTRIES} allowed",
            "Leave out assets that are not needed.",
        )
    seen: set[str] = set()
    total = packed = 0
    for at, entry in enumerate(entries):
        place = f"the archive's entry number {at}"
        _check_path(reader, place, entry)
        if entry.filename in seen:
            raise reader.refuse(place, "has the path of another", "Export the card again.")
        seen.add(entry.filename)
        if entry.flag_bits & 0x41:
            raise reader.refuse(place, "is encrypted", "Export the card without a password.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise reader.refuse(
                place, "is packed by a method that we do not unpack", "Pack it with deflate."
            )
        total += entry.file_size
        packed += entry.compress_size
        if total > MAX_FILES_BYTES:
            raise reader.refuse(
                place,
                f"brings the archive over the {MAX_FILES_BYTES} bytes it may unpack to",
                "Leave out assets, or make them smaller.",
            )
        if entry.file_size > max(_RATIO_FREE, entry.compress_size * _MAX_RATIO):
            raise reader.refuse(
                place,
                f"unpacks to more than {_MAX_RATIO} times its size",
                "Pack it again from real assets.",
            )
    # Entries that share bytes would be unpacked from each other's.
    if packed > size:
        raise reader.refuse("the archive", "has entries that overlap", "Export the card again.")


def _check_path(reader: Reader, place: str, entry: zipfile.ZipInfo) -> None:
    try:
        _PATHS.validate_python(entry.orig_filename)
        same = entry.orig_filename == entry.filename
    except ValidationError:
        same = False
    mode = entry.external_attr >> 16
    if not same:
        raise reader.refuse(
            place,
            "has a path that leaves the archive or that not every system can write",
            "Use short relative paths with `/` alone.",
        )
    if mode and not (stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0):
        raise reader.refuse(place, "is a link or a device", "Put the file itself there.")


def _read(reader: Reader, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        data = file.read(entry.file_size + 1)
    if len(data) != entry.file_size:
        raise reader.refuse("the archive", "is damaged", "Export the card again.")
    return data


def pack(card: bytes, files: Mapping[str, bytes]) -> bytes:
    """An archive with the card first; the same input gives the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in {CARD: card, **files}.items():
            entry = zipfile.ZipInfo(path, _DATE)
            # Images, sound and video are packed already.
            entry.compress_type = (
                zipfile.ZIP_DEFLATED if path.endswith(".json") else zipfile.ZIP_STORED
            )
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return out.getvalue()
