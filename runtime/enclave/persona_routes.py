"""What creators send into the encapsulation (docs/publishing.md), and all of its resources.

Everything is checked here again: signatures, the chain, the digest of the definition, and that
the listing says what the definition says. What a creator sends comes in pieces of at most 64 KiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from personas.authorship import (
    MAX_FILES,
    MAX_PIECES,
    MAX_STEP_BYTES,
    MAX_STEPS,
    SignedStep,
    extend_chain,
    parse_signed,
    piece_signer,
)
from personas.digest import MAX_DEFINITION_BYTES
from personas.errors import AuthorshipError, PersonaError, RegistryError
from personas.listing import Listing
from personas.lorebook import refuse_heavy
from personas.model import Persona
from personas.package import named
from personas.registry import Registry, is_reserved
from runtime.enclave.api import CREATOR_HEADER, ApiError, Bytes32, Hex32
from runtime.enclave.persona_chains import HANDLE, unavailable
from runtime.enclave.persona_log import StepLog
from runtime.enclave.persona_reading import PersonaReading
from runtime.enclave.persona_source import MAX_SEALED_BYTES, PersonaSource, checked
from runtime.enclave.publishing_limits import Allowances, Hourly
from runtime.enclave.routes import Call, Reply, Table, header, json_reply
from transport.bhttp import Request

PERSONAS_PATH = b"/v1/personas"
STEPS_PATH = b"/v1/personas/steps"
PIECES_PATH = b"/v1/personas/pieces"
FILES_PATH = b"/v1/personas/files"
GRANTS_PATH = b"/v1/personas/grants"

_MIB = 1024 * 1024
# What no step needs ends after an hour, so this bounds it in Redis. A key's share is enough for
# the largest persona with its files.
BYTES_PER_HOUR = Hourly(total=256 * _MIB, newcomers=128 * _MIB, key=68 * _MIB)
STEPS_PER_HOUR = Hourly(total=1_200, newcomers=600, key=120)
"""Grants that open something count as steps of the handle's owner."""

_ID = b"/{id}"
_CLOCK_S = 86_400
_PROOF_WAIT_S = 10.0
_AT_ONCE = 4


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


_Pieces = Annotated[tuple[Hex32, ...], Field(max_length=MAX_PIECES, strict=False)]


class StepRequest(_Strict):
    """``POST /v1/personas/steps``.

    Attributes:
        signed: The signed step, as JSON.
        pieces: Of the definition that it publishes, or of the sealed one; none in other steps.
        files: Pieces of files that the definition names, by SHA-256; of sealed ones by address.
        again: It was published before, and the store lost it: so it may be of any day, and only who
            signed it sends it.
    """

    signed: dict[str, Any]
    pieces: _Pieces = ()
    files: Annotated[dict[Hex32, _Pieces], Field(max_length=MAX_FILES)] = {}
    again: bool = False


class GrantRequest(_Strict):
    """``POST /v1/personas/grants``: open a private persona's definition with this key."""

    handle: Annotated[str, Field(max_length=32)]
    digest: Hex32
    key: Bytes32 = Field(repr=False)


class PersonaRoutes:
    """The resources.

    Args:
        source: Finds personas.
        registry: Keeps what is published.
        steps: Brings steps into the log.
        publish: Whether anybody may publish.
        debug: Whether this enclave shows prompts: then it takes no private definition.
        bytes_per_hour, steps_per_hour: What it takes.
    """

    def __init__(
        self,
        source: PersonaSource,
        registry: Registry,
        steps: StepLog,
        *,
        publish: bool = True,
        debug: bool = False,
        bytes_per_hour: Hourly = BYTES_PER_HOUR,
        steps_per_hour: Hourly = STEPS_PER_HOUR,
    ) -> None:
        self._source = source
        self._registry = registry
        self._steps = steps
        self._reading = PersonaReading(source, registry, steps)
        self._publish = publish
        self._debug = debug
        self._bytes = Allowances(bytes_per_hour)
        self._count = Allowances(steps_per_hour)
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def table(self) -> Table:
        """Handlers by path and method."""
        return {
            STEPS_PATH: {b"POST": self._step},
            GRANTS_PATH: {b"POST": self._grant},
            PIECES_PATH + _ID: {b"POST": self._put_piece, b"GET": self._reading.piece},
            FILES_PATH + _ID: {b"GET": self._reading.file},
            PERSONAS_PATH + _ID: {b"GET": self._reading.chain},
        }

    async def _put_piece(self, call: Call, handle: str) -> Reply:
        self._check_open()
        self._check_claimable(handle)
        data = call.request.content
        key = _signer(call.request, handle)
        owner = None if key is None else await self._source.chains.owner(handle)
        self._bytes.take(len(data), key, owner=owner is not None and owner == key)
        try:
            digest = await self._registry.put_piece(handle, data)
        except RegistryError as error:
            raise unavailable(error) from None
        return json_reply({"sha256": digest.hex()})

    async def _step(self, call: Call, _: str) -> Reply:
        self._check_open()
        asked = _parse(StepRequest, call.request.content)
        try:
            signed = parse_signed(asked.signed)
            size = len(signed.encode())
        except AuthorshipError as error:
            raise ApiError(400, "step_refused", str(error)) from None
        if size > MAX_STEP_BYTES:
            raise ApiError(
                413, "step_refused", f"a step has at most {MAX_STEP_BYTES} bytes; shorten it"
            )
        self._check_claimable(signed.step.handle)
        if asked.again:
            sender = _signer(call.request, signed.step.handle)
            if sender is None or sender not in {signed.step.key, signed.step.new_key}:
                raise ApiError(
                    403, "not_owner", "a step is sent again by whoever signed it; use their key"
                )
        async with self._at_once:
            try:
                new = await self._check_follows(signed, again=asked.again)
                # Anybody can send again what stands there: that is nobody's share but the whole's.
                sender = signed.step.key if new else None
                self._count.take(1, sender, owner=new and signed.step.number > 0)
                blobs = await self._blobs(signed, asked, new=new)
                await self._registry.append(signed, blobs)
                await self._source.refresh()
            except RegistryError as error:
                raise unavailable(error) from None
        proven = await self._steps.prove(signed, _PROOF_WAIT_S)
        return json_reply(
            {
                "handle": signed.step.handle,
                "number": signed.step.number,
                "step": signed.step.digest.hex(),
                "proven": proven is not None,
            }
        )

    async def _check_follows(self, signed: SignedStep, *, again: bool) -> bool:
        """Whether the step follows; False where it stands there already. Raises ApiError."""
        step = signed.step
        read = self._source.chains.stored if again else self._source.chains.state
        state = await read(step.handle)
        if state is not None and step.number <= state.number:
            if await self._registry.steps(step.handle, step.number, 1) == (signed,):
                return False
            raise ApiError(
                409,
                "step_taken",
                f"`{step.handle}` has {state.number + 1} steps already, and this is to be step "
                f"{step.number}: "
                + (
                    "the handle belongs to somebody, choose another"
                    if step.number == 0
                    else "look at `sotto personas history`, and sign a new one"
                ),
            )
        late = time.time() - step.time
        if late < -_CLOCK_S or (late > _CLOCK_S and not again):
            raise ApiError(400, "step_refused", "the step's time is not today's; set your clock")
        if step.number >= MAX_STEPS:
            raise ApiError(409, "step_refused", f"a handle takes {MAX_STEPS} steps; choose another")
        try:
            extended = extend_chain(state, signed)
        except AuthorshipError as error:
            raise ApiError(409, "step_refused", str(error)) from None
        if not self._source.chains.agrees(extended):
            raise ApiError(
                409,
                "step_refused",
                f"this enclave saw another step {step.number} of `{step.handle}` before the store "
                "lost it; restore that one",
            )
        return True

    async def _blobs(
        self, signed: SignedStep, asked: StepRequest, *, new: bool
    ) -> Mapping[bytes, tuple[bytes, ...]]:
        """Pieces by address, where they are what the step publishes.

        Args:
            signed: The step.
            asked: What came with it.
            new: Whether it is not there yet: anybody can send a step that is, with other files.
        """
        listing, handle = signed.step.listing, signed.step.handle
        if listing is None:
            if asked.pieces or asked.files:
                raise ApiError(400, "step_refused", f"a step to {signed.step.kind} has no pieces")
            return {}
        pieces = tuple(map(bytes.fromhex, asked.pieces))
        limit = MAX_SEALED_BYTES if listing.private else MAX_DEFINITION_BYTES
        data = await self._registry.blob(handle, pieces, limit)
        if not data:
            raise ApiError(400, "pieces_missing", "a step that publishes names the pieces of it")
        blobs = {listing.digest: pieces}
        if listing.private:
            # Sealed: which files they are, the grant alone tells.
            files = asked.files if new else {}
            for name, parts in files.items():
                if not parts or name == listing.digest.hex():
                    raise ApiError(400, "pieces_missing", "a file that is sent has pieces")
                blobs[bytes.fromhex(name)] = tuple(map(bytes.fromhex, parts))
            return blobs
        persona = await asyncio.to_thread(_publishable, data, listing)
        theirs = {digest for _, digest in named(persona)}
        for name, parts in asked.files.items():
            if name not in theirs:
                raise ApiError(400, "step_refused", "a file is sent that the persona does not name")
            blobs[bytes.fromhex(name)] = await self._whole_file(handle, name, parts)
        return blobs

    async def _whole_file(
        self, handle: str, name: str, parts: tuple[str, ...]
    ) -> tuple[bytes, ...]:
        pieces, whole = tuple(map(bytes.fromhex, parts)), hashlib.sha256()
        for number, digest in enumerate(pieces):
            data = await self._registry.piece(handle, digest)
            if data is None:
                raise ApiError(409, "pieces_missing", f"piece {number} of a file is not here")
            whole.update(data)
        if whole.hexdigest() != name:
            raise ApiError(409, "definition_refused", "a file does not have the digest of its name")
        return pieces

    async def _grant(self, call: Call, _: str) -> Reply:
        if self._debug:
            raise ApiError(
                403,
                "debug_enclave",
                "this enclave shows its prompts: do not trust it with a private persona",
            )
        asked = _parse(GrantRequest, call.request.content)
        until = call.binding.identity.claims.not_after
        digest = bytes.fromhex(asked.digest)
        async with self._at_once:
            # A key that opens nothing is no more work than a piece that is asked for.
            opened = await self._source.open(asked.handle, digest, asked.key)
            self._count.take(1, opened.owner, owner=True)
            self._source.hold(digest, opened, until)
        return json_reply({"handle": asked.handle, "digest": asked.digest, "until": until})

    def _check_open(self) -> None:
        if not self._publish:
            raise ApiError(403, "publishing_closed", "this operator publishes no personas")

    def _check_claimable(self, handle: str) -> None:
        if not HANDLE.fullmatch(handle):
            raise ApiError(400, "handle_refused", "a handle is of the form [a-z][a-z0-9-]{1,31}")
        if is_reserved(handle, self._source.library.handles):
            raise ApiError(
                409, "handle_reserved", f"the handle `{handle}` is reserved; choose another"
            )


def _signer(request: Request, handle: str) -> bytes | None:
    """The key that signed a request's content, proven; None where none did. Raises ApiError."""
    text = header(request, CREATOR_HEADER)
    if text is None:
        return None
    digest = hashlib.sha256(request.content).digest()
    try:
        return piece_signer(text.decode("ascii", "replace"), handle, digest)
    except AuthorshipError as error:
        raise ApiError(400, "piece_refused", str(error)) from None


def _publishable(definition: bytes, listing: Listing) -> Persona:
    persona = checked(definition, listing)
    try:
        refuse_heavy(persona.lorebook)
    except PersonaError as error:
        raise ApiError(409, "definition_refused", str(error)) from None
    return persona


def _parse(kind: type[Any], body: bytes) -> Any:
    try:
        return kind.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError:
        raise ApiError(400, "invalid_request", "body: it is not JSON") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise ApiError(400, "invalid_request", f"{place}: {first['msg']}") from None
