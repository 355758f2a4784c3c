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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

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
from personas.digest import MAX_DEFINITION_BYTES, persona_digest
from personas.errors import PersonaError
from personas.library import load_library
from personas.listing import Listing, check_definition
from personas.model import Persona
from proofs.errors import ProofError
from proofs.logsteps import require_witnesses
from proofs.policy import Policy
from proofs.tlogproof import parse_tlog_proof
from runtime.client.carrier import StreamLostError
from runtime.client.device import Device
from runtime.client.exchange import JSON_HEADERS
from runtime.client.home import DeviceHome
from runtime.client.rows import HandlePin
from runtime.client.sealed import Call, LiveEnclave
from runtime.enclave.api import PersonaReference, to_base64url
from runtime.errors import Exit, SottoError

_PATH = b"/v1/personas"
_HANDLE = re.compile(r"[a-z][a-z0-9-]{1,31}")
_OCTETS = ((b"content-type", b"application/octet-stream"),)
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


@dataclass(frozen=True, slots=True)
class Published:
    """What came of a step.

    Attributes:
        number: Of the step.
        step: Its digest, 32 bytes.
        proven: Whether the log has it already.
    """

    number: int
    step: bytes
    proven: bool


@dataclass(frozen=True, slots=True)
class Granted:
    """What one enclave said to a grant.

    Attributes:
        enclave_id, gateway: Which.
        keys: Digest of its keys, 32 bytes.
        until: Unix seconds until which it keeps the definition; None where it refused.
        problem: Why it refused.
        simulated: Whether no hardware stands behind it.
    """

    enclave_id: str
    gateway: str
    keys: bytes
    until: int | None
    problem: str | None
    simulated: bool


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
        return Resolved(_reference(persona), Listing.of(persona), persona)
    try:
        await device.enclaves()
    except SottoError as error:
        raise SottoError(
            f"{_not_bundled(name)} Whether somebody published it cannot be asked now: {error}",
            code=error.code,
            exit_code=Exit.USAGE,
        ) from None
    try:
        chain = await read_chain(device, home, name)
    except SottoError as error:
        if error.code != "persona_unknown":
            raise
        raise SottoError(
            f"{_not_bundled(name)} And nobody has published it here.",
            code=error.code,
            exit_code=Exit.USAGE,
        ) from None
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
    pin = home.pin(handle)
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
            home.keep_pin(HandlePin(handle, state.key, state.number, state.digest))
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


async def _ask_chain(device: Device, handle: str) -> tuple[_Told, ...]:
    told: list[_Told] = []
    while True:
        path = f"{_PATH.decode()}/{handle}?from={len(told)}".encode()
        answer = await _json(device, Call(b"GET", path))
        page, length = _read_page(answer, handle, len(told))
        told += page
        if len(told) >= length or not page:
            return tuple(told)


def _read_page(answer: Mapping[str, Any], handle: str, start: int) -> tuple[list[_Told], int]:
    try:
        if answer["handle"] != handle or answer["start"] != start:
            raise _not_understood()
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
        raise _not_understood() from None
    return page, length


def _proof(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("a proof is text")
    return value


async def fetch_file(device: Device, handle: str, digest: bytes, limit: int) -> bytes:
    """A file that was published with a persona, by its SHA-256.

    Raises:
        SottoError: It was not published, is longer than `limit` bytes, or is another.
    """
    path = f"{_PATH.decode()}/files/{handle}.{digest.hex()}".encode()
    answer = await _json(device, Call(b"GET", path))
    try:
        pieces = tuple(bytes.fromhex(one) for one in answer["pieces"])
    except (KeyError, TypeError, ValueError):
        raise _not_understood() from None
    data = await _fetch(device, handle, pieces, limit)
    if not hmac.compare_digest(hashlib.sha256(data).digest(), digest):
        raise SottoError("a file of the persona was exchanged; do not use it", code="persona_file")
    return data


async def _fetch(device: Device, handle: str, pieces: Sequence[bytes], limit: int) -> bytes:
    if len(pieces) > limit // PIECE_BYTES + 1:
        raise SottoError(f"what `{handle}` publishes is too long", code="persona_file")
    whole = b""
    for digest in pieces:
        path = f"{_PATH.decode()}/pieces/{handle}.{digest.hex()}".encode()
        response = await device.request(Call(b"GET", path))
        if response.status != 200:
            await response.read_json()  # raises what the enclave says
        data = await response.read()
        if not hmac.compare_digest(hashlib.sha256(data).digest(), digest):
            raise SottoError("a piece of the persona was exchanged; try again", code="persona_file")
        whole += data
    return whole


async def publish(
    device: Device,
    signed: SignedStep,
    definition: bytes = b"",
    files: Mapping[bytes, bytes] | None = None,
) -> Published:
    """Send a signed step, and before it what it publishes, in pieces.

    Args:
        device: To whose enclaves.
        signed: The step.
        definition: Canonical JSON, or sealed; empty where the step publishes nothing.
        files: Content by SHA-256.

    Raises:
        SottoError: Refused; says why. The same step can be sent again.
    """
    handle = signed.step.handle
    pieces = await _send_pieces(device, handle, definition)
    parts = {
        digest.hex(): await _send_pieces(device, handle, data)
        for digest, data in (files or {}).items()
    }
    body = orjson.dumps({"signed": signed.told(), "pieces": pieces, "files": parts})
    answer = await _json(device, Call(b"POST", _PATH + b"/steps", JSON_HEADERS, body))
    try:
        return Published(
            int(answer["number"]), bytes.fromhex(answer["step"]), bool(answer["proven"])
        )
    except (KeyError, TypeError, ValueError):
        raise _not_understood() from None


async def _send_pieces(device: Device, handle: str, data: bytes) -> list[str]:
    sent = []
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        path = f"{_PATH.decode()}/pieces/{handle}".encode()
        await _json(device, Call(b"POST", path, _OCTETS, piece))
        sent.append(hashlib.sha256(piece).hexdigest())
    return sent


async def grant(
    device: Device, persona: PersonaReference, key: bytes, done: Collection[bytes] = ()
) -> list[Granted]:
    """Give a private persona's key to every live enclave that holds under the policy.

    To each in a request of its own, sealed to its attested keys alone.

    Args:
        device: Verifies enclaves.
        persona: Which version.
        key: Opens it, 32 bytes.
        done: Digests of enclaves' keys that have it already; they are left out.

    Raises:
        SottoError: There is no such enclave.
    """
    by_keys = {one.attested.claims.keys_digest(): one for one in await device.enclaves()}
    return [
        await _grant_one(device, one, persona, key)
        for keys, one in by_keys.items()
        if keys not in done
    ]


async def _grant_one(
    device: Device, enclave: LiveEnclave, persona: PersonaReference, key: bytes
) -> Granted:
    keys = enclave.attested.claims.keys_digest()

    def same(enclaves: Sequence[LiveEnclave]) -> LiveEnclave:
        for one in enclaves:
            if one.attested.claims.keys_digest() == keys:
                return one
        raise SottoError("the enclave has gone meanwhile; grant again", code="enclave_away")

    body = orjson.dumps({**persona.model_dump(), "key": to_base64url(key)})
    call = Call(b"POST", _PATH + b"/grants", JSON_HEADERS, body)
    until: int | None = None
    problem: str | None = None
    try:
        answer = await (await device.request(call, same)).read_json()
        until = int(answer["until"])
    except (KeyError, TypeError, ValueError):
        problem = str(_not_understood())
    except (SottoError, StreamLostError) as error:
        problem = str(error)
    attested = enclave.attested
    return Granted(attested.enclave_id, enclave.gateway, keys, until, problem, attested.simulated)


async def _json(device: Device, call: Call) -> dict[str, Any]:
    try:
        return await (await device.request(call)).read_json()
    except StreamLostError as error:
        raise SottoError(f"{error}; try again", code=error.code) from error


def _reference(persona: Persona) -> PersonaReference:
    return PersonaReference(handle=persona.handle, digest=persona_digest(persona).hex())


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


def _not_understood() -> SottoError:
    return SottoError(
        "the enclave answered in words that this version does not know; update Sottovoce on this "
        "device",
        code="enclave_unknown",
    )
