"""Persona files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fuzz_support import Target

import personas.library
from personas.errors import PersonaError
from personas.files import parse_persona


def _persona(data: bytes) -> None:
    try:
        parse_persona(data.decode("utf-8", "replace"), source="fuzz")
    except PersonaError:
        return


def _seeds() -> Iterable[bytes]:
    for path in sorted(Path(personas.library.__file__).parent.glob("*.toml"))[:1]:
        yield path.read_bytes()
    yield b'a = [[[["x"]]]]\n[b.c]\nd = 1979-05-27T07:32:00Z\n'


TARGETS = {"persona": Target(_persona, _seeds, 4096, 2000)}
