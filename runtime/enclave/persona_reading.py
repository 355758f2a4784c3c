"""What is read of published personas: chains with their proofs, pieces, files, avatars."""

from __future__ import annotations

import re

from personas.authorship import MAX_STEPS
from personas.errors import AuthorshipError, RegistryError, SealedError
from personas.registry import Registry
from personas.sealing import file_address, open_part
from runtime.enclave.api import ApiError
from runtime.enclave.persona_chains import HANDLE, unavailable
from runtime.enclave.persona_log import StepLog
from runtime.enclave.persona_source import PersonaSource
from runtime.enclave.query import query_of, read_number, read_query
from runtime.enclave.routes import Call, Reply, json_reply

PAGE_STEPS = 16
"""Steps in one answer about a handle."""

_OCTETS = ((b"content-type", b"application/octet-stream"),)
_NAMED = re.compile(r"([a-z][a-z0-9-]{1,31})\.([0-9a-f]{64})")


class PersonaReading:
    """The resources that change nothing.

    Args:
        source: Finds personas.
        registry: Keeps what is published.
        steps: Fetches the steps' proofs.
    """

    def __init__(self, source: PersonaSource, registry: Registry, steps: StepLog) -> None:
        self._source = source
        self._registry = registry
        self._steps = steps

    async def chain(self, call: Call, handle: str) -> Reply:
        """A page of a handle's steps, each with its proofs and the pieces of what it publishes."""
        (text,) = read_query(query_of(call.request), ("from",)).get("from", ("0",))
        start = read_number("from", text, MAX_STEPS)
        if self._source.is_bundled(handle) or not HANDLE.fullmatch(handle):
            raise _unknown(handle)
        try:
            length = await self._registry.length(handle)
            if not length:
                raise _unknown(handle)
            stored = await self._registry.stored(handle, start, PAGE_STEPS)
            told = []
            for one in stored:
                proofs = one.proofs or await self._steps.prove(one.signed, 0)
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

    async def piece(self, _: Call, identifier: str) -> Reply:
        """A piece, as it was sent."""
        handle, digest = _named(identifier)
        try:
            data = await self._registry.piece(handle, digest)
        except RegistryError as error:
            raise unavailable(error) from None
        if data is None:
            raise ApiError(404, "piece_unknown", "there is no such piece; read the handle anew")
        return Reply(200, _OCTETS, data)

    async def file(self, call: Call, identifier: str) -> Reply:
        """A file's pieces; of a private persona that is granted, its parts, opened."""
        part = read_query(query_of(call.request), ("part",)).get("part")
        handle, digest = await self._named_file(identifier)
        told = {"sha256": digest.hex()}
        try:
            pieces = await self._registry.pieces(handle, digest)
            if pieces and part is None:
                return json_reply({**told, "pieces": [one.hex() for one in pieces]})
            key = await self._source.file_key(handle, digest)
            if key is not None:
                pieces = await self._registry.pieces(handle, file_address(key, handle, digest))
            if key is None or not pieces:
                raise ApiError(404, "file_unknown", "this file was not published with the persona")
            if part is None:
                return json_reply({**told, "parts": len(pieces)})
            number = read_number("part", part[0], len(pieces) - 1)
            sealed = await self._registry.piece(handle, pieces[number])
            opened = open_part(key, handle, digest, sealed or b"", number=number, count=len(pieces))
        except RegistryError as error:
            raise unavailable(error) from None
        except SealedError as error:
            raise ApiError(503, "personas_damaged", str(error)) from None
        return Reply(200, _OCTETS, opened)

    async def _named_file(self, identifier: str) -> tuple[str, bytes]:
        """Whose file, and its SHA-256; `avatar` stands for that of the newest version."""
        handle, _, name = identifier.partition(".")
        if name != "avatar" or self._source.is_bundled(handle):
            return _named(identifier)
        avatar = (await self._source.find(handle)).persona.avatar
        if avatar is None:
            raise ApiError(404, "file_unknown", f"`{handle[:64]}` has no avatar")
        return handle, bytes.fromhex(avatar.sha256)


def _named(identifier: str) -> tuple[str, bytes]:
    found = _NAMED.fullmatch(identifier)
    if found is None:
        raise ApiError(404, "not_found", "ask for HANDLE.SHA256, in hex")
    return found[1], bytes.fromhex(found[2])


def _unknown(handle: str) -> ApiError:
    return ApiError(404, "persona_unknown", f"nobody has published {handle[:64]!r} here")
