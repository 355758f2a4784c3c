"""The report of an NVIDIA GPU: an SPDM 1.1 measurement exchange, taken apart strictly.

A report is the whole `GET_MEASUREMENTS` request (DMTF DSP0274 1.1 section 10.11.1, 37 bytes)
followed by the whole `MEASUREMENTS` response (section 10.11.2), whose last 96 bytes sign all bytes
before them, those of the request included. The response's opaque data is a list of fields of
NVIDIA's own: type (2 bytes), size (2 bytes), value; every integer is little-endian.

Nothing is judged here but the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from proofs.errors import UnreadableError

REQUEST_SIZE = 37
SIGNATURE_SIZE = 96
MAX_REPORT = 16 * 1024
_MAX_OPAQUE_VERSION = 1

_VERSION = 0x11
_GET_MEASUREMENTS = 0xE0
_WITH_SIGNATURE = 0x01
_ALL_MEASUREMENTS = 0xFF
_MEASUREMENTS = 0x60
_DMTF = 0x01

# Types of opaque fields, named as NVIDIA's verifiers name them.
DRIVER_VERSION = 3
VBIOS_VERSION = 6
NVDEC0_STATUS = 11
FWID = 20
PROTECTED_PCIE_STATUS = 21
OPAQUE_DATA_VERSION = 34
CHIP_INFO = 35
FEATURE_FLAG = 36

_ON, _OFF = b"\xaa", b"\x55"
_MODES = MappingProxyType({0: "mpt", 1: "spt", 2: "ppcie"})
_TEXT = re.compile(r"[0-9A-Za-z._-]{1,32}")
_VBIOS_SIZE = 8


@dataclass(frozen=True, slots=True)
class Report:
    """What a GPU says of itself.

    Attributes:
        nonce: 32 bytes of the request, chosen by whoever asked.
        measurements: By SPDM index, from 1; an index of a RIM is one less.
        driver: Version of the driver such as `580.159.03`; empty where it is not there.
        vbios: Version of the firmware such as `96.00.5E.00.01`; empty where it is not there.
        fwid: Digest of the firmware that the attestation key belongs to; empty where not there.
        chip: Such as `GB100`; empty where it is not there.
        mode: Mode of confidential computing: `spt` (one GPU passed through), `mpt` (several),
            `ppcie` (several, with protected PCIe), `unknown` for a value that has no name here,
            empty where the report says nothing.
        nvdec0_off: Whether the report says that its first video decoder is off.
        signed: All bytes that the signature covers.
        signature: r and s, 48 bytes each.
    """

    nonce: bytes
    measurements: Mapping[int, bytes] = field(repr=False)
    driver: str
    vbios: str
    fwid: bytes
    chip: str
    mode: str
    nvdec0_off: bool
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


class _Reader:
    """Reads from the front; raises `UnreadableError` past the end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._at, self._what = data, 0, what

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise UnreadableError(f"{self._what} is cut at byte {len(self._data)}. Get it again.")
        taken, self._at = self._data[self._at : end], end
        return taken

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def more(self) -> bool:
        return self._at < len(self._data)


def _measurements(record: bytes, count: int, what: str) -> dict[int, bytes]:
    """The blocks of a measurement record (DSP0274 1.1 table 42), by index."""
    reader = _Reader(record, f"{what}'s measurement record")
    blocks: dict[int, bytes] = {}
    for _ in range(count):
        index, specification, size = reader.uint(1), reader.uint(1), reader.uint(2)
        block = _Reader(reader.take(size), f"{what}'s measurement {index}")
        block.take(1)  # what kind of measurement, DSP0274 1.1 table 43
        value = block.take(block.uint(2))
        if index == 0 or index in blocks or specification != _DMTF or block.more():
            raise UnreadableError(f"{what} has a measurement {index} that is none. Get it again.")
        blocks[index] = value
    if reader.more():
        raise UnreadableError(f"{what} has more measurements than it announces. Get it again.")
    return blocks


def _opaque(data: bytes, what: str) -> dict[int, bytes]:
    """The opaque data's fields by type; types that nobody knows here are kept."""
    reader = _Reader(data, f"{what}'s opaque data")
    fields: dict[int, bytes] = {}
    while reader.more():
        kind, size = reader.uint(2), reader.uint(2)
        if kind in fields:
            raise UnreadableError(f"{what} has opaque field {kind} twice. Get it again.")
        fields[kind] = reader.take(size)
    version = int.from_bytes(fields.get(OPAQUE_DATA_VERSION, b""), "little")
    if version > _MAX_OPAQUE_VERSION:
        raise UnreadableError(
            f"{what} has opaque data of version {version}, made by firmware newer than this "
            "program. Use a newer version of this program."
        )
    return fields


def _text(fields: Mapping[int, bytes], kind: int, what: str) -> str:
    """A field as text without the NULs at its end; empty where there is no such field."""
    text = fields.get(kind, b"").rstrip(b"\x00").decode("latin-1")
    if text and not _TEXT.fullmatch(text):
        raise UnreadableError(f"{what} has no plain text in opaque field {kind}. Get it again.")
    return text


def _vbios(fields: Mapping[int, bytes], what: str) -> str:
    """The VBIOS version as it is written: the low half from its top byte, then one byte more."""
    data = fields.get(VBIOS_VERSION)
    if data is None:
        return ""
    if len(data) != _VBIOS_SIZE:
        raise UnreadableError(f"{what} has a VBIOS version of {len(data)} bytes. Get it again.")
    return bytes([*data[3::-1], data[4]]).hex(".").upper()


def _mode(fields: Mapping[int, bytes]) -> str:
    """The mode: by the feature flag where there is one, else by the older field for PPCIE."""
    flag = fields.get(FEATURE_FLAG)
    if flag is not None and any(fields.get(OPAQUE_DATA_VERSION, b"")):
        return _MODES.get(int.from_bytes(flag, "little"), "unknown")
    return "ppcie" if fields.get(PROTECTED_PCIE_STATUS) == _ON else ""


def parse_report(data: bytes, what: str) -> Report:
    """Take a report apart.

    Args:
        data: Request and response, at most `MAX_REPORT` bytes.
        what: The thing's name, for the error.

    Raises:
        UnreadableError: Another format, cut, trailing bytes, or opaque data newer than known.
    """
    if len(data) > MAX_REPORT:
        raise UnreadableError(f"{what} has {len(data)} bytes, more than a GPU's report can have.")
    reader = _Reader(data, what)
    request = reader.take(4)
    if request != bytes([_VERSION, _GET_MEASUREMENTS, _WITH_SIGNATURE, _ALL_MEASUREMENTS]):
        raise UnreadableError(
            f"{what} does not start with an SPDM 1.1 request for all measurements, signed. "
            "It is something else: get it again."
        )
    nonce = reader.take(32)
    reader.take(1)  # slot of the certificate chain
    if reader.take(2) != bytes([_VERSION, _MEASUREMENTS]):
        raise UnreadableError(f"{what} holds no SPDM 1.1 response of measurements. Get it again.")
    reader.take(2)  # number of indices, where asked for; slot of the certificate chain
    count = reader.uint(1)
    measurements = _measurements(reader.take(reader.uint(3)), count, what)
    reader.take(32)  # the GPU's own nonce
    fields = _opaque(reader.take(reader.uint(2)), what)
    signature = reader.take(SIGNATURE_SIZE)
    if reader.more():
        raise UnreadableError(f"{what} goes on after its signature. Get it again.")
    return Report(
        nonce=nonce,
        measurements=MappingProxyType(measurements),
        driver=_text(fields, DRIVER_VERSION, what),
        vbios=_vbios(fields, what),
        fwid=fields.get(FWID, b""),
        chip=_text(fields, CHIP_INFO, what),
        mode=_mode(fields),
        nvdec0_off=fields.get(NVDEC0_STATUS) == _OFF,
        signed=data[:-SIGNATURE_SIZE],
        signature=signature,
    )
