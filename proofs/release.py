"""Release manifests: which measurements a release has, signed by whoever makes it.

A manifest is a signed note (c2sp.org/signed-note) with this text, in this order and spelling:

```
sottovoce release v1
release <64 hex: the digest that claims and receipts name>
version <letters, digits, '.', '_', '+', '-'>
measurement <kind> <name>=<hex> <name>=<hex>...
```

One or more measurement lines, sorted, each a complete set of what that kind of platform measures,
sorted by name. A policy that pins the signer's key then allows each set together with that release
digest and with no other. A manifest may be an entry of the log, so that no release is secret.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from proofs.claims import Measurements
from proofs.errors import UnreadableError
from proofs.note import Note, Signer, VerifierKey, parse_note

MAX_RELEASE = 256 * 1024
_HEADER = "sottovoce release v1"
_ENTRY = b"sottovoce log entry: release manifest v1\x00"
_MAX_SETS = 256
_MAX_NAMES = 32
_VERSION = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_KIND = re.compile(r"[a-z0-9-]{1,32}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,64}")


@dataclass(frozen=True, slots=True, order=True)
class MeasurementSet:
    """What one kind of platform measures of a release.

    Attributes:
        kind: The kind of evidence, such as `tdx`.
        measurements: Pairs of name and digest (1 to 64 bytes), sorted by name.
    """

    kind: str
    measurements: Measurements

    def format(self) -> str:
        """`<kind> <name>=<hex>...`."""
        pairs = (f"{name}={digest.hex()}" for name, digest in self.measurements)
        return " ".join((self.kind, *pairs))


def parse_set(text: str) -> MeasurementSet:
    """Parse `<kind> <name>=<hex>...`, as a measurement line has it.

    Raises:
        UnreadableError: Not that, or names unsorted or twice.
    """
    kind, *pairs = text.split(" ")
    found = [(name, digest) for name, _, digest in (pair.partition("=") for pair in pairs)]
    names = [name for name, _ in found]
    if (
        not _KIND.fullmatch(kind)
        or not 0 < len(found) <= _MAX_NAMES
        or names != sorted(set(names))
        or not all(_NAME.fullmatch(name) and _HEX.fullmatch(digest) for name, digest in found)
    ):
        raise UnreadableError(
            "A set of measurements has the form 'KIND NAME=HEX NAME=HEX...', with names sorted, "
            "each once, and digests of 1 to 64 bytes in lower-case hex. Correct it."
        )
    return MeasurementSet(kind, tuple((name, bytes.fromhex(digest)) for name, digest in found))


@dataclass(frozen=True, slots=True)
class Release:
    """A release and what platforms measure of it.

    Attributes:
        digest: The release digest that claims and receipts name, 32 bytes.
        version: Its name for people.
        sets: One or more, sorted, none twice.

    Raises:
        UnreadableError: A value that no manifest can carry.
    """

    digest: bytes
    version: str
    sets: tuple[MeasurementSet, ...]

    def __post_init__(self) -> None:
        if len(self.digest) != 32:
            raise UnreadableError(f"A release digest has 32 bytes, not {len(self.digest)}.")
        if not _VERSION.fullmatch(self.version):
            raise UnreadableError(
                "A release's version has 1 to 64 letters, digits, '.', '_', '+' or '-'. Rename it."
            )
        if not 0 < len(self.sets) <= _MAX_SETS or list(self.sets) != sorted(set(self.sets)):
            raise UnreadableError(
                f"A release has 1 to {_MAX_SETS} sets of measurements, sorted, none twice."
            )
        for one in self.sets:
            parse_set(one.format())

    def format(self) -> str:
        """The text that is signed."""
        lines = [_HEADER, f"release {self.digest.hex()}", f"version {self.version}"]
        lines += [f"measurement {one.format()}" for one in self.sets]
        return "\n".join(lines) + "\n"

    def has(self, kind: str, measurements: Measurements) -> bool:
        """Whether a platform of `kind` measures exactly this of the release."""
        return MeasurementSet(kind, measurements) in self.sets


def parse_release(text: str) -> Release:
    """Parse a manifest's text, without its signatures.

    Raises:
        UnreadableError: Not a release manifest, or not in its one spelling.
    """
    lines = text.split("\n")
    keys = ["release", "version", *["measurement"] * (len(lines) - 4)]
    if len(lines) < 5 or lines[0] != _HEADER or lines[-1]:
        raise UnreadableError(f"The release manifest does not start with '{_HEADER}'.")
    values = []
    for key, line in zip(keys, lines[1:-1], strict=True):
        found, space, value = line.partition(" ")
        if found != key or not space:
            raise UnreadableError(f"The release manifest lacks a line '{key}' where one should be.")
        values.append(value)
    digest, version, *sets = values
    if not _HEX.fullmatch(digest):
        raise UnreadableError("The release manifest's digest is not in lower-case hex.")
    if len(sets) > _MAX_SETS:
        raise UnreadableError(f"The release manifest has more than {_MAX_SETS} measurements.")
    return Release(bytes.fromhex(digest), version, tuple(parse_set(one) for one in sets))


def sign_release(release: Release, signer: Signer) -> str:
    """The manifest as it is published, signed."""
    return signer.sign(release.format()).format()


def read_note(data: bytes) -> Note:
    """The note that a manifest is, without a look at its signatures.

    Raises:
        UnreadableError: Not a note.
    """
    if len(data) > MAX_RELEASE:
        raise UnreadableError(f"The release manifest has more than {MAX_RELEASE} bytes. Refuse it.")
    try:
        return parse_note(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UnreadableError("The release manifest is no text. Get it again.") from error


def open_release(data: bytes, keys: Iterable[VerifierKey]) -> Release:
    """Read a manifest that one of `keys` signed.

    Raises:
        UnreadableError: Not a release manifest.
        RefusedError: None of `keys` signed it, or its signature is false.
    """
    note = read_note(data)
    release = parse_release(note.text)
    note.verify(keys)
    return release


def release_entry(data: bytes) -> bytes:
    """The 32-byte log entry of a manifest as published; nothing else can have the same one."""
    return hashlib.sha256(_ENTRY + data).digest()
