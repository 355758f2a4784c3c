"""What a creator's device sends: signed steps of a handle, and keys of private personas."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from personas.authorship import sign_piece
from runtime.client.carrier import StreamLostError
from runtime.client.device import Device
from runtime.client.exchange import JSON_HEADERS
from runtime.client.registry import PATH, ask, not_understood
from runtime.client.sealed import Call, LiveEnclave
from runtime.client.submission import Submission, Submissions
from runtime.enclave.api import CREATOR_HEADER, PersonaReference, to_base64url
from runtime.errors import SottoError
from transport.bhttp import Fields

_OCTETS = ((b"content-type", b"application/octet-stream"),)


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


async def send(
    device: Device, sent: Submissions, submission: Submission, key: Ed25519PrivateKey
) -> Published:
    """As `publish`; a copy is kept before anything is sent, and whether the step was taken."""
    sent.keep(submission)
    done = await publish(device, submission, key)
    sent.keep(replace(submission, taken=True))
    return done


async def publish(
    device: Device,
    submission: Submission,
    key: Ed25519PrivateKey,
    *,
    again: bool = False,
) -> Published:
    """Send a signed step, and before it what it publishes, in pieces.

    Args:
        device: To whose enclaves.
        submission: What is sent.
        key: The creator's, which signs the pieces: so they count as theirs alone.
        again: Whether the step was published before and the store lost it.

    Raises:
        SottoError: Refused; says why. The same step can be sent again.
    """
    handle = submission.signed.step.handle
    for digest in submission.needed:
        path = f"{PATH.decode()}/pieces/{handle}".encode()
        signature = sign_piece(key, handle, bytes.fromhex(digest))
        headers: Fields = (*_OCTETS, (CREATOR_HEADER, signature.encode()))
        await ask(device, Call(b"POST", path, headers, submission.content[digest]))
    body = orjson.dumps(submission.told() | ({"again": True} if again else {}))
    headers = JSON_HEADERS
    if again:
        signature = sign_piece(key, handle, hashlib.sha256(body).digest())
        headers = (*headers, (CREATOR_HEADER, signature.encode()))
    answer = await ask(device, Call(b"POST", PATH + b"/steps", headers, body))
    try:
        return Published(
            int(answer["number"]), bytes.fromhex(answer["step"]), bool(answer["proven"])
        )
    except (KeyError, TypeError, ValueError):
        raise not_understood() from None


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
    call = Call(b"POST", PATH + b"/grants", JSON_HEADERS, body)
    until: int | None = None
    problem: str | None = None
    try:
        answer = await (await device.request(call, same)).read_json()
        until = int(answer["until"])
    except (KeyError, TypeError, ValueError):
        problem = str(not_understood())
    except (SottoError, StreamLostError) as error:
        problem = str(error)
    attested = enclave.attested
    return Granted(attested.enclave_id, enclave.gateway, keys, until, problem, attested.simulated)
