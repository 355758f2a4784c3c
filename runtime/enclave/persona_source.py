"""Whom this enclave can speak as: the bundled library, and what creators published.

Redis belongs to the operator, so chain and digest are verified before a definition is believed.
A private persona is there only as long as its creator's grant, in this process's memory alone.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

from personas.authorship import HandleState
from personas.digest import MAX_DEFINITION_BYTES
from personas.errors import PersonaError, RegistryError
from personas.library import Library
from personas.listing import Listing, check_definition
from personas.model import Persona
from personas.package import named
from personas.registry import Registry
from personas.sealing import OVERHEAD, STEP_BYTES, open_definition
from runtime.enclave.api import ApiError
from runtime.enclave.lore import ready_lore
from runtime.enclave.persona_chains import PersonaChains, damaged, unavailable

log = logging.getLogger(__name__)

MAX_SEALED_BYTES = MAX_DEFINITION_BYTES + OVERHEAD + STEP_BYTES + 4
"""Of a sealed definition."""

_MAX_CACHED = 512
_MAX_CACHED_BYTES = 32 * 1024 * 1024
_LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """A persona to answer as.

    Attributes:
        persona: The definition.
        listing: Of this version.
    """

    persona: Persona
    listing: Listing

    @property
    def digest(self) -> bytes:
        """Of the definition, 32 bytes."""
        return self.listing.digest


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """A private persona's definition.

    Attributes:
        persona: What it says.
        size: Of its canonical JSON, in bytes.
        key: What opened it.
        owner: The public key that owns the handle now, 32 bytes.
    """

    persona: Persona
    size: int
    key: bytes
    owner: bytes


@dataclass(frozen=True, slots=True, repr=False)
class _Held:
    """A definition in memory, until a moment (unix seconds) where it was granted with a key."""

    persona: Persona
    size: int
    until: float
    key: bytes = b""


class _Shelf:
    """Definitions by digest, the least recently used of them dropped."""

    def __init__(self, count: int, size: int) -> None:
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._count = count
        self._room = size

    def __contains__(self, digest: bytes) -> bool:
        held = self._held.get(digest)
        return held is not None and held.until >= time.time()

    def get(self, digest: bytes) -> _Held | None:
        held = self._held.get(digest)
        if held is None:
            return None
        if held.until < time.time():
            self.drop(digest)
            return None
        self._held.move_to_end(digest)
        return held

    def put(self, digest: bytes, held: _Held) -> None:
        self.drop(digest)
        self._held[digest] = held
        self._room -= held.size
        while self._room < 0 or len(self._held) > self._count:
            self.drop(next(iter(self._held)))

    def drop(self, digest: bytes) -> None:
        held = self._held.pop(digest, None)
        if held is not None:
            self._room += held.size

    def drop_ended(self) -> None:
        now = time.time()
        for digest in [one for one, held in self._held.items() if held.until < now]:
            self.drop(digest)


class PersonaSource:
    """Finds personas.

    Args:
        library: The bundled ones; no published persona takes the handle of one.
        registry: The published ones; None: there are none.
    """

    def __init__(self, library: Library, registry: Registry | None = None) -> None:
        self.library = library
        self.registry = registry
        self.chains = PersonaChains(registry)
        self._bundled = {one.handle: Listing.of(one) for one in library}
        self._cached = _Shelf(_MAX_CACHED, _MAX_CACHED_BYTES)
        self._granted = _Shelf(_MAX_CACHED, _MAX_CACHED_BYTES)
        self._listings: dict[str, Listing] = {}
        self._newest: list[tuple[int, str]] = []  # of `_listings`: newest first
        self._seen = "0-0"
        self.changed = 0
        """Grows with every change of `listings`."""

    def is_bundled(self, handle: str) -> bool:
        """Whether the library has this handle."""
        return handle in self._bundled

    def listings(self) -> Sequence[Listing]:
        """Every persona that can be found, of each its newest version."""
        return (*self._bundled.values(), *self._listings.values())

    def usable(self, after: str | None, limit: int) -> tuple[list[Listing], bool]:
        """Personas that are answered here: bundled ones, then published ones, the newest first.

        A private one is there while it is granted.

        Args:
            after: Behind this handle; None: from the first.
            limit: At most so many.

        Returns:
            Them, and whether there are more.

        Raises:
            ApiError: There is no persona `after`.
        """
        bundled, start = list(self._bundled.values()), 0
        if after in self._bundled:
            bundled = bundled[list(self._bundled).index(after) + 1 :]
        elif after is not None:
            if (last := self._listings.get(after)) is None:
                raise ApiError(
                    400,
                    "invalid_request",
                    "no persona has this handle any more; read the list from its beginning",
                    "after",
                )
            bundled, start = [], bisect.bisect_right(self._newest, _place(last))
        published = (self._listings[handle] for _, handle in islice(self._newest, start, None))
        usable = (one for one in published if not one.private or one.digest in self._granted)
        found = list(islice(chain(bundled, usable), limit + 1))
        return found[:limit], len(found) > limit

    async def find(self, handle: str, digest: str | None = None) -> Found:
        """The persona of this handle and digest (hex); without one, the newest version.

        Raises:
            ApiError: There is none, it is withdrawn, another version is asked for than was ever
                published, it is private and was not granted, or the store is away or damaged.
        """
        bundled = self._bundled.get(handle)
        if bundled is not None:
            if digest is not None and digest != bundled.digest.hex():
                raise ApiError(
                    409,
                    "persona_mismatch",
                    f"this enclave's {handle} is not the version that you asked for; "
                    "update Sottovoce on this device, or choose another enclave",
                )
            return Found(self.library.get(handle), bundled)
        if (state := await self.chains.state(handle)) is not None:
            listing = _chosen(state, digest)
            persona = await self._definition(listing)
            await ready_lore(persona)
            return Found(persona, listing)
        raise ApiError(404, "persona_unknown", self._unknown(handle))

    def _unknown(self, handle: str) -> str:
        try:
            self.library.get(handle)
        except PersonaError as error:
            return str(error)  # it names the nearest
        raise RuntimeError("a bundled persona is found before")

    async def grant(self, handle: str, digest: bytes, key: bytes, until: float) -> None:
        """Open a private persona's definition and hold it until a moment (unix seconds).

        Raises:
            ApiError: As `open`.
        """
        self.hold(digest, await self.open(handle, digest, key), until)

    async def open(self, handle: str, digest: bytes, key: bytes) -> Opened:
        """Open a private persona's definition.

        Raises:
            ApiError: There is no such private persona, it is withdrawn, the key does not open it,
                or what it opens is not what was published.
        """
        state = await self.chains.state(handle)
        if state is None:
            raise ApiError(404, "persona_unknown", f"nobody has published `{handle}`")
        listing = _chosen(state, digest.hex())
        if not listing.private:
            raise ApiError(409, "persona_public", f"`{handle}` is public: it needs no grant")
        sealed = await self._blob(listing, MAX_SEALED_BYTES)
        try:
            definition = open_definition(key, handle, digest, sealed)
        except PersonaError as error:
            raise ApiError(409, "persona_sealed", str(error)) from None
        persona = await asyncio.to_thread(checked, definition, listing)
        return Opened(persona, len(definition), key, state.key)

    def hold(self, digest: bytes, opened: Opened, until: float) -> None:
        """Answer as an opened definition until a moment (unix seconds)."""
        self._granted.put(digest, _Held(opened.persona, opened.size, until, opened.key))

    async def file_key(self, handle: str, file: bytes) -> bytes | None:
        """What opens a file (its SHA-256) that a granted version names; None where none does.

        Raises:
            ApiError: No private version is granted, the handle is withdrawn, or as
                `PersonaChains.state`.
        """
        state = await self.chains.state(handle)
        private = [one for one in state.published if one.private] if state is not None else []
        if state is None or not private:
            return None
        _chosen(state, None)
        granted = [held for one in private if (held := self._granted.get(one.digest)) is not None]
        if not granted:
            raise _not_granted(handle)
        for held in granted:
            if any(digest == file.hex() for _, digest in named(held.persona)):
                return held.key
        return None

    async def run(self) -> None:
        """Follow what is published, until cancelled."""
        while True:
            try:
                more = await self.refresh()
            except ApiError as error:
                log.warning("the listings are not up to date: %s", error.code)
                more = False
            if not more:
                self._granted.drop_ended()
                await asyncio.sleep(_LOOK_EVERY_S)

    async def refresh(self) -> bool:
        """Take up changes since the last call; whether there may be more.

        Raises:
            ApiError: The store is away.
        """
        if self.registry is None:
            return False
        try:
            seen, handles = await self.registry.changes(self._seen)
        except RegistryError as error:
            raise unavailable(error) from None
        for handle in handles:
            try:
                state = await self.chains.state(handle)
            except ApiError as error:
                if error.code == "personas_unavailable":
                    raise
                # Of one handle only; that it is damaged is told to whoever asks for it.
                log.warning("a published handle is left out: %s", error.code)
                state = None
            self._list(handle, None if state is None or state.withdrawn else state.newest)
        self._seen = seen
        self.changed += bool(handles)
        return bool(handles)

    def _list(self, handle: str, listing: Listing | None) -> None:
        before = self._listings.pop(handle, None)
        if before is not None:
            del self._newest[bisect.bisect_left(self._newest, _place(before))]
        if listing is not None:
            self._listings[handle] = listing
            bisect.insort(self._newest, _place(listing))

    async def _definition(self, listing: Listing) -> Persona:
        if listing.private:
            granted = self._granted.get(listing.digest)
            if granted is None:
                raise _not_granted(listing.handle)
            return granted.persona
        cached = self._cached.get(listing.digest)
        if cached is None:
            data = await self._blob(listing, MAX_DEFINITION_BYTES)
            persona = await asyncio.to_thread(checked, data, listing)
            cached = _Held(persona, len(data), float("inf"))
            self._cached.put(listing.digest, cached)
        return cached.persona

    async def _blob(self, listing: Listing, limit: int) -> bytes:
        assert self.registry is not None  # noqa: S101 - or there was no listing
        try:
            pieces = await self.registry.pieces(listing.handle, listing.digest)
            if not pieces:
                raise damaged(f"the definition of `{listing.handle}` is not there")
            return await self.registry.blob(listing.handle, pieces, limit)
        except RegistryError as error:
            raise unavailable(error) from None


def _place(listing: Listing) -> tuple[int, str]:
    return -listing.created, listing.handle


def checked(definition: bytes, listing: Listing) -> Persona:
    """As `check_definition`; raises ApiError."""
    try:
        return check_definition(definition, listing)
    except PersonaError as error:
        raise ApiError(409, "definition_refused", str(error)) from None


def _chosen(state: HandleState, digest: str | None) -> Listing:
    if state.withdrawn:
        raise ApiError(
            410,
            "persona_withdrawn",
            f"`{state.handle}` was withdrawn by its creator; choose another",
        )
    if digest is None:
        return state.newest
    listing = next((one for one in state.published if one.digest.hex() == digest), None)
    if listing is None:
        raise ApiError(
            409,
            "persona_mismatch",
            f"`{state.handle}` has no version with that digest here; its newest is "
            f"{state.newest.version}: begin the chat again to take it up",
        )
    return listing


def _not_granted(handle: str) -> ApiError:
    return ApiError(
        503,
        "persona_not_granted",
        f"`{handle}` is private, and its creator has not opened it for this enclave: `sotto "
        "personas grant` on their device does; try again then",
    )
