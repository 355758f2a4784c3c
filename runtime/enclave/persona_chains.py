"""What the chains of published handles prove, and what this enclave saw of them before.

Redis belongs to the operator: each step is verified once, and a chain that was seen does not go
back behind what was seen.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from personas.authorship import MAX_STEPS, HandleState, extend_chain
from personas.errors import AuthorshipError, RegistryError
from personas.model import HANDLE_PATTERN
from personas.registry import Registry
from runtime.enclave.api import ApiError

HANDLE = re.compile(HANDLE_PATTERN)
_MAX_STATES = 4_096
_PAGE_STEPS = 16


class PersonaChains:
    """Verified chains, the least used of them forgotten.

    Args:
        registry: Keeps the chains; None: there are none.
    """

    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry
        self._states: OrderedDict[str, HandleState] = OrderedDict()

    async def state(self, handle: str) -> HandleState | None:
        """What the chain of a published handle proves now; None where there is none.

        Raises:
            ApiError: The store is away, or what it has does not hold.
        """
        if self._registry is None or not HANDLE.fullmatch(handle):
            return None
        state = await self._read(self._registry, handle, self._states.get(handle))
        if state is not None:
            seen = self._states.get(handle)
            if seen is not None and seen.number > state.number:
                state = seen  # somebody who asked meanwhile was shown more
            self._states[handle] = state
            self._states.move_to_end(handle)
            if len(self._states) > _MAX_STATES:
                self._states.popitem(last=False)
        return state

    async def owner(self, handle: str) -> bytes | None:
        """The public key that owns a handle, as far as this enclave knows; None for nobody's.

        Raises:
            ApiError: As `state`, for a handle that was not asked for before.
        """
        known = self._states.get(handle) or await self.state(handle)
        return None if known is None else known.key

    async def stored(self, handle: str) -> HandleState | None:
        """What the chain in the store proves by itself, whatever this enclave saw before.

        Raises:
            ApiError: As `state`.
        """
        if self._registry is None or not HANDLE.fullmatch(handle):
            return None
        return await self._read(self._registry, handle, None)

    def agrees(self, state: HandleState) -> bool:
        """Whether a chain has the steps that this enclave saw in the same places."""
        known = self._states.get(state.handle)
        both = () if known is None else zip(known.digests, state.digests, strict=False)
        return all(one == other for one, other in both)

    @staticmethod
    async def _read(
        registry: Registry, handle: str, known: HandleState | None
    ) -> HandleState | None:
        first = 0 if known is None else known.number + 1
        try:
            length = await registry.length(handle)
            if length < first:
                raise damaged(f"the chain of `{handle}` had {first} steps and has {length} now")
            state = known
            # A page at a time: a long chain is no work to do at once on the event loop.
            for start in range(first, min(length, MAX_STEPS), _PAGE_STEPS):
                for signed in await registry.steps(handle, start, _PAGE_STEPS):
                    if signed.step.handle != handle:
                        raise damaged(f"a step of another handle stands in that of `{handle}`")
                    state = extend_chain(state, signed)
        except RegistryError as error:
            raise unavailable(error) from None
        except AuthorshipError as error:
            raise damaged(str(error)) from None
        return state


def unavailable(error: RegistryError) -> ApiError:
    """What a device is told of the registry's trouble."""
    if error.code == "damaged":
        return damaged(str(error))
    if error.code == "away":
        return ApiError(503, "personas_unavailable", str(error))
    return ApiError(409, error.code, str(error))


def damaged(what: str) -> ApiError:
    """What a device is told of a store that does not hold."""
    return ApiError(
        503,
        "personas_damaged",
        f"{what}; the store was changed behind the enclave: tell its operator",
    )
