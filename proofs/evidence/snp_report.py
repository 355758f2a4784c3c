"""The attestation report of AMD SEV-SNP, byte for byte.

Source: SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), ATTESTATION_REPORT, its
versions 2 to 5. What the specification reserves must be zero: a bit that means nothing today may
mean something tomorrow, and a verifier that looks away would not see it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from proofs.errors import UnreadableError

REPORT_SIZE = 1184
SIGNED_SIZE = 0x2A0
VCEK, VLEK = 0, 1

_VERSIONS = range(2, 6)
_WITH_CPUID = 3
_WITH_MITIGATIONS = 5
_ECDSA_P384_SHA384 = 1
_HALF = 72  # of the signature: 48 bytes of a number, little-endian, then zeros
_NUMBER = 48
_POLICY_ONE = 1 << 17
_POLICY_KNOWN = (1 << 26) - 1
_PLATFORM_KNOWN = 0b1011_1111
_FLAGS_KNOWN = (1 << 5) - 1
_NEW_LAYOUT_FAMILY = 0x1A  # Turin put the FMC first in its TCB versions


@dataclass(frozen=True, slots=True)
class Report:
    """An attestation report, read but not verified.

    Attributes:
        version: Of the format, 2 to 5.
        guest_svn: Security version of the guest, as its owner gave it.
        policy: The guest's policy, a bit field.
        vmpl: The privilege level that asked, 0 (most) to 3.
        current: TCB that runs now, security versions by name.
        platform_info: State of the platform, a bit field.
        signing_key: `VCEK`, `VLEK`, or another number where the host withholds the signature.
        report_data: 64 bytes of the guest.
        measurement: SHA-384 of the guest's initial memory.
        host_data: 32 bytes that the host gave at launch.
        id_key_digest: SHA-384 of the key that signed the guest's identity; zeros without one.
        author_key_digest: SHA-384 of the key that signed that key; zeros without one.
        reported: TCB that the signing key was derived for.
        cpuid: Family and model of the processor (versions 3 and later), else None.
        chip_id: 64 bytes that name the chip; zeros where the host masks them.
        committed: TCB below which the host cannot go back any more.
        firmware: Major, minor and build of the firmware that runs.
        launch: TCB at the guest's launch.
        r: Of the signature.
        s: Of the signature.
    """

    version: int
    guest_svn: int
    policy: int
    vmpl: int
    current: dict[str, int]
    platform_info: int
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    reported: dict[str, int]
    cpuid: tuple[int, int] | None
    chip_id: bytes
    committed: dict[str, int]
    firmware: tuple[int, int, int]
    launch: dict[str, int]
    r: int
    s: int


def tcb_order(family: int | None) -> tuple[str, ...]:
    """Names of the eight bytes of a TCB version; empty ones are reserved.

    Args:
        family: The processor's CPUID family, None where the report has none.
    """
    if family is not None and family >= _NEW_LAYOUT_FAMILY:
        return ("fmc", "bootloader", "tee", "snp", "", "", "", "microcode")
    return ("bootloader", "tee", "", "", "", "", "snp", "microcode")


def _refuse(what: str) -> UnreadableError:
    return UnreadableError(
        f"The SEV-SNP report {what}, which its versions 2 to 5 do not know. "
        "It is damaged or newer than this verifier."
    )


def _zeros(data: bytes, start: int, end: int) -> None:
    if any(data[start:end]):
        raise _refuse(f"sets reserved bytes between {start:#x} and {end:#x}")


def _bits(value: int, known: int, what: str) -> int:
    if value & ~known:
        raise _refuse(f"sets reserved bits of its {what}")
    return value


def _tcb(data: bytes, offset: int, order: tuple[str, ...]) -> dict[str, int]:
    numbers = dict(zip(order, data[offset : offset + 8], strict=True))
    for at, name in enumerate(order, offset):
        if not name:
            _zeros(data, at, at + 1)
    numbers.pop("", None)
    return numbers


def _number(data: bytes, offset: int) -> int:
    _zeros(data, offset + _NUMBER, offset + _HALF)
    return int.from_bytes(data[offset : offset + _NUMBER], "little")


def read_report(data: bytes) -> Report:
    """Take a report apart; its signature is not judged.

    Args:
        data: 1184 bytes.

    Raises:
        UnreadableError: Another size, another version, or anything reserved that is not zero.
    """
    if len(data) != REPORT_SIZE:
        raise UnreadableError(
            f"A SEV-SNP report has {REPORT_SIZE} bytes, not {len(data)}. It was cut or is another."
        )
    version, guest_svn, policy = struct.unpack_from("<IIQ", data)
    vmpl, algorithm = struct.unpack_from("<II", data, 0x30)
    platform_info, flags = struct.unpack_from("<QI", data, 0x40)
    if version not in _VERSIONS:
        raise _refuse(f"has version {version}")
    if algorithm != _ECDSA_P384_SHA384:
        raise _refuse(f"names signature algorithm {algorithm}")
    if vmpl > 3:
        raise _refuse(f"names privilege level {vmpl}")
    if not policy & _POLICY_ONE:
        raise _refuse("clears bit 17 of its policy")
    with_cpuid = version >= _WITH_CPUID
    _zeros(data, 0x4C, 0x50)
    _zeros(data, 0x18B if with_cpuid else 0x188, 0x1A0)
    _zeros(data, 0x1EB, 0x1EC)
    _zeros(data, 0x1EF, 0x1F0)
    _zeros(data, 0x208 if version >= _WITH_MITIGATIONS else 0x1F8, SIGNED_SIZE)
    _zeros(data, SIGNED_SIZE + 2 * _HALF, REPORT_SIZE)
    _bits(flags, _FLAGS_KNOWN, "signer info")
    author_key_digest = data[0x110:0x140]
    if not flags & 1:
        _zeros(data, 0x110, 0x140)
    cpuid = (data[0x188], data[0x189]) if with_cpuid else None
    order = tcb_order(cpuid[0] if cpuid else None)
    return Report(
        version=version,
        guest_svn=guest_svn,
        policy=_bits(policy, _POLICY_KNOWN, "policy"),
        vmpl=vmpl,
        current=_tcb(data, 0x38, order),
        platform_info=_bits(platform_info, _PLATFORM_KNOWN, "platform info"),
        signing_key=flags >> 2,
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=author_key_digest,
        reported=_tcb(data, 0x180, order),
        cpuid=cpuid,
        chip_id=data[0x1A0:0x1E0],
        committed=_tcb(data, 0x1E0, order),
        firmware=(data[0x1EA], data[0x1E9], data[0x1E8]),
        launch=_tcb(data, 0x1F0, order),
        r=_number(data, SIGNED_SIZE),
        s=_number(data, SIGNED_SIZE + _HALF),
    )
