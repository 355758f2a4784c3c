"""Whom this enclave can speak as: the bundled library, and what creators published.

Redis belongs to the operator, so chain and digest are verified before a definition is believed.
A private persona is there only as long as its creator's grant, in this process's memory alone.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from personas.authorship import MAX_STEPS, HandleState, extend_chain
from personas.digest import MAX_DEFINITION_BYTES, persona_digest
from personas.errors import AuthorshipError, PersonaError, RegistryError
from personas.library import Library
from personas.listing import Listing, check_definition
from personas.model import HANDLE_PATTERN, Persona
from personas.registry import Registry
from personas.sealing import OVERHEAD, STEP_BYTES, open_definition
from runtime.enclave.api import ApiError
from runtime.enclave.lore import ready_lore
from runtime.redis_client import end_if_cancelled

log = logging.getLogger(__name__)

MAX_SEALED_BYTES = MAX_DEFINITION_BYTES + OVERHEAD + STEP_BYTES + 4
"""Of a sealed definition."""

_HANDLE = re.compile(HANDLE_PATTERN)
_MAX_STATES = 4_096
_MAX_CACHED = 512
_MAX_CACHED_BYTES = 32 * 1024 * 1024
_LOOK_EVERY_S = 2.0
_PAGE_STEPS = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A persona to answer as.

    Attributes:
        persona: The definition.
        digest: Its digest, 32 bytes.
    """

    persona: Persona
    digest: bytes


@dataclass(frozen=True, slots=True, repr=False)
class _Held:
    """A definition in memory, until a moment (unix seconds) where it was granted."""

    persona: Persona
    size: int
    until: float


class _Shelf:
    """Definitions by digest, the least recently used of them dropped."""

    def __init__(self, count: int, size: int) -> None:
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._count = count
        self._room = size

    def get(self, digest: bytes) -> Persona | None:
        held = self._held.get(digest)
        if held is None:
            return None
        if held.until < time.time():
            self.drop(digest)
            return None
        self._held.move_to_end(digest)
        return held.persona

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
        self._digests = {one.handle: persona_digest(one) for one in library}
        self._bundled = tuple(Listing.of(one) for one in library)
        self._states: OrderedDict[str, HandleState] = OrderedDict()
        self._cached = _Shelf(_MAX_CACHED, _MAX_CACHED_BYTES)
        self._granted = _Shelf(_MAX_CACHED, _MAX_CACHED_BYTES)
        self._listings: dict[str, Listing] = {}
        self._seen = "0-0"
        self.changed = 0
        """Grows with every change of `listings`."""

    def is_bundled(self, handle: str) -> bool:
        """Whether the library has this handle."""
        return handle in self._digests

    def listings(self) -> Sequence[Listing]:
        """Every persona that can be found, of each its newest version."""
        return (*self._bundled, *self._listings.values())

    async def find(self, handle: str, digest: str | None = None) -> Found:
        """The persona of this handle and digest (hex); without one, the newest version.

        Raises:
            ApiError: There is none, it is withdrawn, another version is asked for than was ever
                published, it is private and was not granted, or the store is away or damaged.
        """
        bundled = self._digests.get(handle)
        if bundled is not None:
            if digest is not None and digest != bundled.hex():
                raise ApiError(
                    409,
                    "persona_mismatch",
                    f"this enclave's {handle} is not the version that you asked for; "
                    "update Sottovoce on this device, or choose another enclave",
                )
            return Found(self.library.get(handle), bundled)
        if (state := await self.state(handle)) is not None:
            listing = _chosen(state, digest)
            persona = await self._definition(listing)
            await ready_lore(persona)
            return Found(persona, listing.digest)
        raise ApiError(404, "persona_unknown", self._unknown(handle))

    def _unknown(self, handle: str) -> str:
        try:
            self.library.get(handle)
        except PersonaError as error:
            return str(error)  # it names the nearest
        raise RuntimeError("a bundled persona is found before")

    async def state(self, handle: str) -> HandleState | None:
        """What the chain of a published handle proves now; None where there is none.

        Raises:
            ApiError: The store is away, or what it has does not hold.
        """
        if self.registry is None or not _HANDLE.fullmatch(handle):
            return None
        known = self._states.get(handle)
        first = 0 if known is None else known.number + 1
        try:
            length = await self.registry.length(handle)
            if length < first:
                raise _damaged(f"the chain of `{handle}` had {first} steps and has {length} now")
            state = known
            # A page at a time: a long chain is no work to do at once on the event loop.
            for start in range(first, min(length, MAX_STEPS), _PAGE_STEPS):
                for signed in await self.registry.steps(handle, start, _PAGE_STEPS):
                    if signed.step.handle != handle:
                        raise _damaged(f"a step of another handle stands in that of `{handle}`")
                    state = extend_chain(state, signed)
        except RegistryError as error:
            raise unavailable(error) from None
        except AuthorshipError as error:
            raise _damaged(str(error)) from None
        if state is not None:
            seen = self._states.get(handle)
            if seen is not None and seen.number > state.number:
                state = seen  # somebody who asked meanwhile was shown more
            self._states[handle] = state
            self._states.move_to_end(handle)
            if len(self._states) > _MAX_STATES:
                self._states.popitem(last=False)
        return state

    async def grant(self, handle: str, digest: bytes, key: bytes, until: float) -> None:
        """Open a private persona's definition and hold it until a moment (unix seconds).

        Raises:
            ApiError: There is no such private persona, it is withdrawn, the key does not open it,
                or what it opens is not what was published.
        """
        state = await self.state(handle)
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
        self._granted.put(digest, _Held(persona, len(definition), until))

    async def run(self) -> None:
        """Follow what is published, until cancelled."""
        while True:
            end_if_cancelled()
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
                state = await self.state(handle)
            except ApiError as error:
                if error.code == "personas_unavailable":
                    raise
                # Of one handle only; that it is damaged is told to whoever asks for it.
                log.warning("a published handle is left out: %s", error.code)
                state = None
            if state is None or state.withdrawn:
                self._listings.pop(handle, None)
            else:
                self._listings[handle] = state.newest
        self._seen = seen
        self.changed += bool(handles)
        return bool(handles)

    async def _definition(self, listing: Listing) -> Persona:
        if listing.private:
            persona = self._granted.get(listing.digest)
            if persona is None:
                raise ApiError(
                    503,
                    "persona_not_granted",
                    f"`{listing.handle}` is private, and its creator has not opened it for this "
                    "enclave: `sotto personas grant` on their device does; try again then",
                )
            return persona
        persona = self._cached.get(listing.digest)
        if persona is None:
            data = await self._blob(listing, MAX_DEFINITION_BYTES)
            persona = await asyncio.to_thread(checked, data, listing)
            self._cached.put(listing.digest, _Held(persona, len(data), float("inf")))
        return persona

    async def _blob(self, listing: Listing, limit: int) -> bytes:
        assert self.registry is not None  # noqa: S101 - or there was no listing
        try:
            pieces = await self.registry.pieces(listing.handle, listing.digest)
            if not pieces:
                raise _damaged(f"the definition of `{listing.handle}` is not there")
            return await self.registry.blob(listing.handle, pieces, limit)
        except RegistryError as error:
            raise unavailable(error) from None


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


def unavailable(error: RegistryError) -> ApiError:
    """What a device is told of the registry's trouble."""
    if error.code == "damaged":
        return _damaged(str(error))
    if error.code == "away":
        return ApiError(503, "personas_unavailable", str(error))
    return ApiError(409, error.code, str(error))


def _damaged(what: str) -> ApiError:
    return ApiError(
        503,
        "personas_damaged",
        f"{what}; the store was changed behind the enclave: tell its operator",
    )
