"""A persona together with the files that it names: avatar, assets, knowledge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from personas.errors import PersonaError
from personas.model import File, Persona

MAX_FILES_BYTES: Final = 64 * 1024 * 1024
"""Of all files of one persona together."""


@dataclass(frozen=True, slots=True)
class Package:
    """A persona and the bytes of its files.

    Attributes:
        persona: What the digest is of; it names each file by SHA-256.
        files: By SHA-256, 64 hexadecimal digits. One that is missing can be had elsewhere; one
            that is here has been checked.
    """

    persona: Persona
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises PersonaError where a file is not what its digest says."""
        for digest, data in self.files.items():
            if sha256(data) != digest:
                raise PersonaError(
                    f"A file of the persona `{self.persona.handle}` has another content than its "
                    f"SHA-256 {digest[:16]} says. Take the file from where the persona came from."
                )

    def read(self, file: File) -> bytes | None:
        """The bytes of a file; None where they are not here."""
        return self.files.get(file.sha256)

    def missing(self) -> tuple[str, ...]:
        """Paths, or digests where there is no path, of files that are named and not here."""
        return tuple(place for place, digest in named(self.persona) if digest not in self.files)


def named(persona: Persona) -> Iterator[tuple[str, str]]:
    """Every file that a persona names: where it stands, and its SHA-256."""
    if persona.avatar is not None:
        yield persona.avatar.path, persona.avatar.sha256
    for file in persona.files:
        yield file.path, file.sha256
    for asset in persona.assets:
        if asset.sha256 is not None:
            yield f"{asset.type}/{asset.name}", asset.sha256


def sha256(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def describe(path: str, data: bytes) -> File:
    """The entry that names a file."""
    return File(path=path, sha256=sha256(data), size=len(data))
