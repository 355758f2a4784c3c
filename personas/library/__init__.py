"""The personas that come with Sottovoce, and the collection that holds personas."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from personas.digest import persona_digest
from personas.errors import PersonaError
from personas.files import load_persona
from personas.model import Persona

_BUNDLED: Final = Path(__file__).parent


class Library:
    """Personas by handle and by digest, iterated in the order of their handles."""

    def __init__(self, personas: Iterable[Persona]) -> None:
        """Raises PersonaError where two personas share a handle."""
        self._by_handle: dict[str, Persona] = {}
        for persona in sorted(personas, key=lambda one: one.handle):
            if persona.handle in self._by_handle:
                raise PersonaError(
                    f"Two personas have the handle `{persona.handle}`. Rename or remove one."
                )
            self._by_handle[persona.handle] = persona
        self._by_digest = {persona_digest(persona): persona for persona in self}

    def get(self, handle: str) -> Persona:
        """Return the persona with this handle; PersonaError names the nearest one there is."""
        persona = self._by_handle.get(handle)
        if persona is None:
            near = difflib.get_close_matches(handle, self._by_handle, n=1)
            known = ", ".join(self.handles)
            hint = f"Did you mean `{near[0]}`?" if near else f"There are: {known}."
            raise PersonaError(f"There is no persona {handle[:64]!r}. {hint}")
        return persona

    def by_digest(self, digest: bytes) -> Persona:
        """Return the persona with this 32-byte digest; PersonaError where there is none."""
        persona = self._by_digest.get(digest)
        if persona is None:
            raise PersonaError(
                f"No persona here has the digest {digest[:32].hex()}. It may be another version: "
                "choose a persona by its handle."
            )
        return persona

    @property
    def handles(self) -> tuple[str, ...]:
        """All handles, in order."""
        return tuple(self._by_handle)

    def __iter__(self) -> Iterator[Persona]:
        return iter(self._by_handle.values())

    def __len__(self) -> int:
        return len(self._by_handle)


def load_library(folder: Path = _BUNDLED) -> Library:
    """Read every `HANDLE.toml` of a folder; without one, the personas that are bundled.

    Raises PersonaError for a file that is not a persona or is not named after its handle, and for
    a folder without any.
    """
    personas = []
    for path in sorted(folder.glob("*.toml")):
        persona = load_persona(path)
        if path.stem != persona.handle:
            raise PersonaError(
                f"{path}: holds the persona `{persona.handle}`. "
                f"Rename the file to {persona.handle}.toml."
            )
        personas.append(persona)
    if not personas:
        raise PersonaError(f"{folder}: holds no persona. Put at least one HANDLE.toml there.")
    return Library(personas)
