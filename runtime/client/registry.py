"""Published personas, as a device believes them.

A handle is what its chain of signed steps says, each step proven to stand in a log that the
policy pins, directly behind its claim, so that no other step can stand in its place unseen. The
key and the newest step are remembered: what was seen once cannot be taken back.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from personas.authorship import (
    MAX_STEPS,
    PIECE_BYTES,
    HandleState,
    SignedStep,
    claim_entry,
    fingerprint,
    has_fingerprint,
    parse_signed,
    verify_chain,
)
from personas.digest import MAX_DEFINITION_BYTES
from personas.errors import PersonaError
from personas.library import load_library
from personas.listing import Listing, check_definition
from personas.model import Persona
from personas.sealing import PART_BYTES, join_parts
from proofs.errors import ProofError
from proofs.logsteps import require_witnesses
from proofs.policy import Policy
from proofs.tlogproof import parse_tlog_proof
from runtime.client.carrier import StreamLostError
from runtime.client.device import Device, reference_of
from runtime.client.home import DeviceHome
from runtime.client.rows import HandlePin
from runtime.client.sealed import Call
from runtime.enclave.api import PersonaReference
from runtime.errors import Exit, SottoError

PATH = b"/v1/personas"
_HANDLE = re.compile(r"[a-z][a-z0-9-]{1,31}")
# A step that was just published may not be in the log yet.
_PROOF_TRIES = 5
_PROOF_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Resolved:
    """Whom a handle stands for.

    Attributes:
        reference: Handle and digest, for turns.
        listing: What everybody may read.
        persona: The definition; None of a private persona.
    """

    reference: PersonaReference
    listing: Listing
    persona: Persona | None


@dataclass(frozen=True, slots=True)
class Chain:
    """A handle's chain, verified.

    Attributes:
        state: What it proves.
        steps: All of it.
        logged: Whether every step was proven to stand in a log; False where the policy asks for
            no log.
        places: Index in the log of each step that was proven now, by number.
    """

    state: HandleState
    steps: tuple[SignedStep, ...] = field(repr=False)
    logged: bool
    places: Mapping[int, int]
    pieces: Mapping[bytes, tuple[bytes, ...]] = field(repr=False)


async def resolve(device: Device, home: DeviceHome, handle: str) -> Resolved:
    """Whom `HANDLE` or `HANDLE@FINGERPRINT` stands for: a bundled persona, else a published one.

    Raises:
        SottoError: Nobody, it is withdrawn, or something was exchanged, taken back or forked; the
            code says which (docs/publishing.md).
    """
    name, at, wanted = handle.partition("@")
    library = load_library()
    if name in library.handles:
        if at:
            raise SottoError(
                f"`{name}` comes with Sottovoce and has no creator's key; leave out @{wanted[:64]}",
                code="persona_key",
                exit_code=Exit.USAGE,
            )
        persona = library.get(name)
        return Resolved(reference_of(persona), Listing.of(persona), persona)
    chain = await _published(device, home, name)
    state = chain.state
    if at and not has_fingerprint(state.key, wanted):
        raise SottoError(
            f"`{name}` belongs to the key {fingerprint(state.key)}, not to the one that you asked "
            "for; ask whoever gave you the fingerprint",
            code="persona_key",
        )
    if state.withdrawn:
        raise SottoError(
            f"`{name}` was withdrawn by its creator; what you said to it stays in your memory: "
            "`sotto memory` shows it",
            code="persona_withdrawn",
        )
    listing = state.newest
    reference = PersonaReference(handle=name, digest=listing.digest.hex())
    if listing.private:
        return Resolved(reference, listing, None)
    definition = await _fetch(device, name, chain.pieces[listing.digest], MAX_DEFINITION_BYTES)
    try:
        return Resolved(reference, listing, check_definition(definition, listing))
    except PersonaError as error:
        raise SottoError(str(error), code="persona_exchanged") from None


async def _published(device: Device, home: DeviceHome, handle: str) -> Chain:
    """The chain of a handle that is not bundled; where there is none, what the name may mean."""

    def missing(told: str, error: SottoError) -> SottoError:
        text = f"{_not_bundled(handle)} {told}"
        return SottoError(text, code=error.code, exit_code=Exit.USAGE)

    try:
        await device.enclaves()
    except SottoError as error:
        told = f"Whether somebody published it cannot be asked now: {error}"
        raise missing(told, error) from None
    try:
        return await read_chain(device, home, handle)
    except SottoError as error:
        if error.code != "persona_unknown":
            raise
        raise missing("And nobody has published it here.", error) from None


async def read_chain(device: Device, home: DeviceHome, handle: str) -> Chain:
    """A handle's chain; every step verified, proven, and held against what this device saw before.

    Raises:
        SottoError: See `resolve`.
    """
    if not _HANDLE.fullmatch(handle):
        raise SottoError(
            f"{handle[:64]!r} is not a handle: small letters, digits and hyphens, at most 32",
            code="persona_unknown",
            exit_code=Exit.USAGE,
        )
    pin = home.pins.of(handle)
    for number in range(_PROOF_TRIES):
        try:
            told = await _ask_chain(device, handle)
        except SottoError as error:
            if error.code == "persona_unknown" and pin is not None:
                raise _rollback(handle, 0, pin) from None
            raise
        try:
            chain = _judge(told, handle, pin, device.policy)
        except SottoError as error:
            if error.code != "persona_unproven" or number == _PROOF_TRIES - 1:
                raise
            await asyncio.sleep(_PROOF_PAUSE_S)
        else:
            state = chain.state
            home.pins.keep(HandlePin(handle, state.key, state.number, state.digest))
            return chain
    raise RuntimeError("the last try returns or raises")


@dataclass(frozen=True, slots=True, repr=False)
class _Told:
    """One step as an enclave tells it."""

    signed: SignedStep
    claim_proof: str | None
    step_proof: str | None
    pieces: tuple[bytes, ...]


def _judge(told: Sequence[_Told], handle: str, pin: HandlePin | None, policy: Policy) -> Chain:
    if pin is not None and len(told) <= pin.number:
        raise _rollback(handle, len(told), pin)
    if pin is not None and told[pin.number].signed.step.digest != pin.step:
        raise SottoError(
            f"step {pin.number} of `{handle}` is another than the one that this device saw: its "
            "history was rewritten, or others are shown another one. Do not talk to it here, and "
            "tell its creator",
            code="persona_forked",
        )
    steps = tuple(one.signed for one in told)
    try:
        state = verify_chain(steps, handle=handle)
    except PersonaError as error:
        raise SottoError(
            f"{error}. Do not talk to it here, and tell its creator", code="persona_chain"
        ) from None
    places = {}
    # What stands before the remembered step was proven when that was.
    for one in told[0 if pin is None else pin.number + 1 :]:
        place = _prove(one, policy)
        if place is not None:
            places[one.signed.step.number] = place
    pieces = {
        one.signed.step.listing.digest: one.pieces
        for one in told
        if one.signed.step.listing is not None
    }
    return Chain(state, steps, policy.require_inclusion, places, pieces)


def _prove(told: _Told, policy: Policy) -> int | None:
    """Index of a step in the log, directly behind its claim; None where no log is asked for."""
    step = told.signed.step
    if told.claim_proof is None or told.step_proof is None:
        if not policy.require_inclusion:
            return None
        raise SottoError(
            f"step {step.number} of `{step.handle}` is not proven to stand in the log, perhaps not "
            "yet; try again in a moment",
            code="persona_unproven",
        )
    if not policy.require_inclusion and not policy.log_keys:
        return None
    try:
        indexes = []
        for entry, text in (
            (claim_entry(step.handle, step.number), told.claim_proof),
            (step.log_entry, told.step_proof),
        ):
            proof = parse_tlog_proof(text)
            origin = proof.verify(entry, policy.log_keys).origin
            require_witnesses(proof.checkpoint, policy)
            indexes.append((origin, proof.index))
    except ProofError as error:
        raise SottoError(
            f"step {step.number} of `{step.handle}` is not proven to stand in the log: {error}",
            code="persona_log",
        ) from None
    (claim_log, claim), (step_log, index) = indexes
    if claim_log != step_log or index != claim + 1:
        raise SottoError(
            f"step {step.number} of `{step.handle}` does not stand directly behind its claim in "
            "the log: another step was put into its place, and others may be shown that one. Do "
            "not talk to it here, and tell its creator",
            code="persona_claimed",
        )
    return index


async def stored_steps(device: Device, handle: str) -> tuple[SignedStep, ...]:
    """What the store has of a handle now, not verified; none where nobody has published.

    Raises:
        SottoError: There is no way to an enclave, or it cannot say.
    """
    try:
        return tuple(one.signed for one in await _ask_chain(device, handle))
    except SottoError as error:
        if error.code != "persona_unknown":
            raise
        return ()


async def _ask_chain(device: Device, handle: str) -> tuple[_Told, ...]:
    told: list[_Told] = []
    while True:
        path = f"{PATH.decode()}/{handle}?from={len(told)}".encode()
        answer = await ask(device, Call(b"GET", path))
        page, length = _read_page(answer, handle, len(told))
        told += page
        if len(told) >= length or not page:
            return tuple(told)


def _read_page(answer: Mapping[str, Any], handle: str, start: int) -> tuple[list[_Told], int]:
    try:
        if answer["handle"] != handle or answer["start"] != start:
            raise not_understood()
        length = min(int(answer["length"]), MAX_STEPS)
        page = [
            _Told(
                parse_signed(one["signed"]),
                _proof(one["claim_proof"]),
                _proof(one["step_proof"]),
                tuple(bytes.fromhex(digest) for digest in one["pieces"]),
            )
            for one in answer["steps"]
        ]
    except PersonaError as error:
        raise SottoError(str(error), code="persona_chain") from None
    except (KeyError, TypeError, ValueError):
        raise not_understood() from None
    return page, length


def _proof(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("a proof is text")
    return value


async def fetch_file(device: Device, handle: str, digest: bytes | None, limit: int) -> bytes:
    """A file that was published with a persona.

    Args:
        device: Asks; an enclave that was granted a private persona opens the file for it.
        handle: Whose.
        digest: Its SHA-256; None for the newest version's avatar.
        limit: The most bytes.

    Raises:
        SottoError: It was not published, is longer than `limit` bytes, or is another.
    """
    path = f"{PATH.decode()}/files/{handle}.{digest.hex() if digest else 'avatar'}".encode()
    answer = await ask(device, Call(b"GET", path))
    try:
        digest = digest or bytes.fromhex(answer["sha256"])
        pieces = tuple(bytes.fromhex(one) for one in answer.get("pieces", ()))
        parts = 0 if pieces else int(answer["parts"])
    except (KeyError, TypeError, ValueError):
        raise not_understood() from None
    if parts:
        data = await _fetch_parts(device, handle, path, parts, limit)
    else:
        data = await _fetch(device, handle, pieces, limit)
    if not hmac.compare_digest(hashlib.sha256(data).digest(), digest):
        raise SottoError("a file of the persona was exchanged; do not use it", code="persona_file")
    return data


async def _fetch(device: Device, handle: str, pieces: Sequence[bytes], limit: int) -> bytes:
    if len(pieces) > limit // PIECE_BYTES + 1:
        raise SottoError(f"what `{handle}` publishes is too long", code="persona_file")
    whole = b""
    for digest in pieces:
        path = f"{PATH.decode()}/pieces/{handle}.{digest.hex()}".encode()
        data = await _octets(device, path)
        if not hmac.compare_digest(hashlib.sha256(data).digest(), digest):
            raise SottoError("a piece of the persona was exchanged; try again", code="persona_file")
        whole += data
    return whole


async def _octets(device: Device, path: bytes) -> bytes:
    try:
        response = await device.request(Call(b"GET", path))
        if response.status != 200:
            await response.read_json()  # raises what the enclave says
        return await response.read()
    except StreamLostError as error:
        raise _way_broke(error) from error


async def _fetch_parts(device: Device, handle: str, path: bytes, parts: int, limit: int) -> bytes:
    if not 0 < parts <= limit // PART_BYTES + 1:
        raise SottoError(f"what `{handle}` publishes is too long", code="persona_file")
    whole = [await _octets(device, path + b"?part=%d" % number) for number in range(parts)]
    try:
        return join_parts(handle, b"".join(whole))
    except PersonaError as error:
        raise SottoError(str(error), code="persona_file") from None


async def ask(device: Device, call: Call) -> dict[str, Any]:
    """The JSON that an enclave answers; SottoError where it refuses, or the way broke."""
    try:
        return await (await device.request(call)).read_json()
    except StreamLostError as error:
        raise _way_broke(error) from error


def _way_broke(error: StreamLostError) -> SottoError:
    return SottoError(f"{error}; try again", code=error.code)


def _rollback(handle: str, length: int, pin: HandlePin) -> SottoError:
    return SottoError(
        f"`{handle}` has {length} steps here and had {pin.number + 1} when this device last "
        "looked: an older state is shown, perhaps one in which it was not withdrawn. Do not talk "
        "to it here; try another operator, or ask this one",
        code="persona_rollback",
    )


def _not_bundled(handle: str) -> str:
    try:
        load_library().get(handle)
    except PersonaError as error:
        return str(error)  # it names the nearest
    raise RuntimeError("a bundled persona is found before")


def not_understood() -> SottoError:
    """What is said of an answer that is no answer."""
    return SottoError(
        "the enclave answered in words that this version does not know; update Sottovoce on this "
        "device",
        code="enclave_unknown",
    )
