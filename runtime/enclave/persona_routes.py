"""Resources of published personas inside the encapsulation (docs/publishing.md).

Everything is checked here again: signatures, the chain, the digest of the definition, and that
the listing says what the definition says. What a creator sends comes in pieces of at most 64 KiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qs

import orjson
import redis.exceptions
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from personas.authorship import (
    MAX_FILES,
    MAX_PIECES,
    MAX_STEP_BYTES,
    MAX_STEPS,
    HandleState,
    SignedStep,
    extend_chain,
    parse_signed,
)
from personas.digest import MAX_DEFINITION_BYTES
from personas.errors import AuthorshipError, RegistryError
from personas.package import named
from personas.registry import Registry, is_reserved
from runtime.enclave.api import ApiError, Bytes32, Hex32
from runtime.enclave.persona_log import StepLog
from runtime.enclave.persona_source import MAX_SEALED_BYTES, PersonaSource, checked, unavailable
from runtime.enclave.routes import Call, Reply, Table, json_reply

PERSONAS_PATH = b"/v1/personas"
STEPS_PATH = b"/v1/personas/steps"
PIECES_PATH = b"/v1/personas/pieces"
FILES_PATH = b"/v1/personas/files"
GRANTS_PATH = b"/v1/personas/grants"
PAGE_STEPS = 16
"""Steps in one answer about a handle."""

# Of one enclave. What no step needs ends after an hour, so this bounds it in Redis.
BYTES_PER_HOUR = 128 * 1024 * 1024
STEPS_PER_HOUR = 1_200

_ID = b"/{id}"
_OCTETS = ((b"content-type", b"application/octet-stream"),)
_NAMED = re.compile(r"([a-z][a-z0-9-]{1,31})\.([0-9a-f]{64})")
_HANDLE = re.compile(r"[a-z][a-z0-9-]{1,31}")
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
        files: Pieces of files that the definition names, by SHA-256.
    """

    signed: dict[str, Any]
    pieces: _Pieces = ()
    files: Annotated[dict[Hex32, _Pieces], Field(max_length=MAX_FILES)] = {}


class GrantRequest(_Strict):
    """``POST /v1/personas/grants``: open a private persona's definition with this key."""

    handle: Annotated[str, Field(max_length=32)]
    digest: Hex32
    key: Bytes32 = Field(repr=False)


class _Allowance:
    """So much in an hour, given back as time passes."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._left = most
        self._at = time.monotonic()

    def take(self, amount: float) -> None:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._most / 3600)
        self._at = now
        if amount > self._left:
            raise ApiError(
                429,
                "too_much_published",
                "more is being published than this enclave takes in an hour; try again later, or "
                "at another enclave",
            )
        self._left -= amount


class PersonaRoutes:
    """The resources.

    Args:
        source: Finds personas.
        registry: Keeps what is published.
        steps: Brings steps into the log.
        publish: Whether anybody may publish.
        debug: Whether this enclave shows prompts: then it takes no private definition.
        bytes_per_hour, steps_per_hour: What it takes from all together; grants count as steps.
    """

    def __init__(
        self,
        source: PersonaSource,
        registry: Registry,
        steps: StepLog,
        *,
        publish: bool = True,
        debug: bool = False,
        bytes_per_hour: int = BYTES_PER_HOUR,
        steps_per_hour: int = STEPS_PER_HOUR,
    ) -> None:
        self._source = source
        self._registry = registry
        self._steps = steps
        self._publish = publish
        self._debug = debug
        self._bytes = _Allowance(bytes_per_hour)
        self._count = _Allowance(steps_per_hour)
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def table(self) -> Table:
        """Handlers by path and method."""
        return {
            STEPS_PATH: {b"POST": self._step},
            GRANTS_PATH: {b"POST": self._grant},
            PIECES_PATH + _ID: {b"POST": self._put_piece, b"GET": self._piece},
            FILES_PATH + _ID: {b"GET": self._file},
            PERSONAS_PATH + _ID: {b"GET": self._chain},
        }

    async def _put_piece(self, call: Call, handle: str) -> Reply:
        self._check_open()
        self._check_claimable(handle)
        data = call.request.content
        self._bytes.take(len(data))
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
        self._count.take(1)
        async with self._at_once:
            try:
                await self._check_follows(signed)
                blobs = await self._blobs(signed, asked)
                await self._registry.append(signed, blobs)
                await self._source.refresh()
            except RegistryError as error:
                raise unavailable(error) from None
        proven = await self._prove(signed, _PROOF_WAIT_S)
        return json_reply(
            {
                "handle": signed.step.handle,
                "number": signed.step.number,
                "step": signed.step.digest.hex(),
                "proven": proven is not None,
            }
        )

    async def _check_follows(self, signed: SignedStep) -> HandleState:
        """Raises ApiError where the step does not follow, unless it stands there already."""
        step = signed.step
        state = await self._source.state(step.handle)
        if state is not None and step.number <= state.number:
            if await self._registry.steps(step.handle, step.number, 1) == (signed,):
                return state
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
        if abs(step.time - time.time()) > _CLOCK_S:
            raise ApiError(400, "step_refused", "the step's time is not today's; set your clock")
        if step.number >= MAX_STEPS:
            raise ApiError(409, "step_refused", f"a handle takes {MAX_STEPS} steps; choose another")
        try:
            return extend_chain(state, signed)
        except AuthorshipError as error:
            raise ApiError(409, "step_refused", str(error)) from None

    async def _blobs(
        self, signed: SignedStep, asked: StepRequest
    ) -> Mapping[bytes, tuple[bytes, ...]]:
        """Pieces by address, where they are what the step publishes."""
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
            if asked.files:
                raise ApiError(400, "step_refused", "a private persona is published without files")
            return blobs
        persona = await asyncio.to_thread(checked, data, listing)
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
        self._count.take(1)
        until = call.binding.identity.claims.not_after
        async with self._at_once:
            await self._source.grant(asked.handle, bytes.fromhex(asked.digest), asked.key, until)
        return json_reply({"handle": asked.handle, "digest": asked.digest, "until": until})

    async def _chain(self, call: Call, identifier: str) -> Reply:
        handle = identifier.partition("?")[0]
        start = _start(call)
        if self._source.is_bundled(handle) or not _HANDLE.fullmatch(handle):
            raise _unknown(handle)
        try:
            length = await self._registry.length(handle)
            if not length:
                raise _unknown(handle)
            stored = await self._registry.stored(handle, start, PAGE_STEPS)
            told = []
            for one in stored:
                proofs = one.proofs or await self._prove(one.signed, 0)
                listing = one.signed.step.listing
                pieces: tuple[bytes, ...] = ()
                if listing is not None and not listing.private:
                    pieces = await self._registry.pieces(handle, listing.digest)
                told.append(
                    {
                        "signed": one.signed.told(),
                        "claim_proof": proofs.claim if proofs else None,
                        "step_proof": proofs.step if proofs else None,
                        "pieces": [digest.hex() for digest in pieces],
                    }
                )
        except RegistryError as error:
            raise unavailable(error) from None
        except AuthorshipError as error:
            raise ApiError(503, "personas_damaged", f"{error}; tell the operator") from None
        return json_reply({"handle": handle, "length": length, "start": start, "steps": told})

    async def _piece(self, _: Call, identifier: str) -> Reply:
        handle, digest = _named(identifier)
        try:
            data = await self._registry.piece(handle, digest)
        except RegistryError as error:
            raise unavailable(error) from None
        if data is None:
            raise ApiError(404, "piece_unknown", "there is no such piece; read the handle anew")
        return Reply(200, _OCTETS, data)

    async def _file(self, _: Call, identifier: str) -> Reply:
        handle, digest = _named(identifier)
        try:
            pieces = await self._registry.pieces(handle, digest)
        except RegistryError as error:
            raise unavailable(error) from None
        if not pieces:
            raise ApiError(404, "file_unknown", "this file was not published with the persona")
        return json_reply({"pieces": [one.hex() for one in pieces]})

    async def _prove(self, signed: SignedStep, wait_s: float) -> Any:
        try:
            return await self._steps.prove(signed, wait_s)
        except (redis.exceptions.RedisError, RegistryError, OSError):
            # It was taken; whoever reads the handle later asks for the proofs again.
            return None

    def _check_open(self) -> None:
        if not self._publish:
            raise ApiError(403, "publishing_closed", "this operator publishes no personas")

    def _check_claimable(self, handle: str) -> None:
        if not _HANDLE.fullmatch(handle):
            raise ApiError(400, "handle_refused", "a handle is of the form [a-z][a-z0-9-]{1,31}")
        if is_reserved(handle, self._source.library.handles):
            raise ApiError(
                409, "handle_reserved", f"the handle `{handle}` is reserved; choose another"
            )


def _start(call: Call) -> int:
    asked = parse_qs(call.request.path.partition(b"?")[2].decode("ascii", "replace"))
    text = asked.get("from", ["0"])[0]
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise ApiError(400, "invalid_request", "`from` is the number of a step")
    return int(text)


def _named(identifier: str) -> tuple[str, bytes]:
    found = _NAMED.fullmatch(identifier)
    if found is None:
        raise ApiError(404, "not_found", "ask for HANDLE.SHA256, in hex")
    return found[1], bytes.fromhex(found[2])


def _unknown(handle: str) -> ApiError:
    return ApiError(404, "persona_unknown", f"nobody has published {handle[:64]!r} here")


def _parse(kind: type[Any], body: bytes) -> Any:
    try:
        return kind.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError:
        raise ApiError(400, "invalid_request", "body: it is not JSON") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise ApiError(400, "invalid_request", f"{place}: {first['msg']}") from None
