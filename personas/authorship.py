"""Signed steps of a handle: publish, hand over, withdraw; and what a chain of them proves.

A step is canonical JSON (RFC 8785), signed with Ed25519 over a label and these bytes. Each names
the digest of the one before, so that a chain has one history. The key of step 0 owns the handle
until a step that the old key and the new one sign hands it over.

A step's digest is an entry of the transparency log, and directly before it stands its *claim*: an
entry made of handle and number alone. Whoever puts two different steps into one place leaves the
same claim in the log twice, where anybody finds it.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from personas.errors import AuthorshipError, PersonaError
from personas.listing import Listing

FORMAT: Final = 1
MAX_STEPS: Final = 512
"""Of one chain; a handle that has as many takes no further step."""
MAX_STEP_BYTES: Final = 32_768
PIECE_BYTES: Final = 65_536
"""Of one piece of a definition or file, as they travel and are kept."""
MAX_PIECES: Final = 128
"""Of one definition or file: 8 MiB."""
MAX_FILES: Final = 32
"""Files that one step publishes."""
DIGEST_BYTES: Final = 32

_SIGNED: Final = b"sottovoce persona step v1\x00"
_STEP_ENTRY: Final = b"sottovoce log entry: persona step v1\x00"
_CLAIM_ENTRY: Final = b"sottovoce log entry: persona claim v1\x00"
_PIECE: Final = b"sottovoce persona piece v1\x00"
_FINGERPRINT: Final = b"sottovoce creator key v1\x00"
_FINGERPRINT_DIGITS: Final = 32
_MAX_TIME: Final = 2**53 - 1
_HANDLE: Final = re.compile(r"[a-z][a-z0-9-]{1,31}")
_VERSION: Final = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")
_HEX32: Final = re.compile(r"[0-9a-f]{64}")
_HEX64: Final = re.compile(r"[0-9a-f]{128}")
_HEX96: Final = re.compile(r"[0-9a-f]{192}")
_MEMBERS: Final = {"format", "handle", "number", "previous", "kind", "key", "time"}


class StepKind(StrEnum):
    """What a step does."""

    PUBLISH = "publish"
    HAND_OVER = "hand-over"
    WITHDRAW = "withdraw"


_OWN_MEMBERS: Final = {
    StepKind.PUBLISH: {"persona", "version", "visibility", "listing"},
    StepKind.HAND_OVER: {"new_key"},
    StepKind.WITHDRAW: set[str](),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a handle, as it is signed.

    Attributes:
        handle: Whose step.
        number: From 0, without a gap.
        previous: Digest of the step before, 32 bytes; zeros at step 0.
        kind: What it does.
        key: Ed25519 public key of the owner who takes it, 32 bytes.
        time: Unix seconds, by the owner's clock.
        listing: Of the version that a publishing step publishes; None in others.
        new_key: To whom a hand-over hands over, 32 bytes; empty in others.
    """

    handle: str
    number: int
    previous: bytes
    kind: StepKind
    key: bytes
    time: int
    listing: Listing | None = None
    new_key: bytes = b""

    def told(self) -> dict[str, Any]:
        """Its members, as they stand in JSON."""
        told: dict[str, Any] = {
            "format": FORMAT,
            "handle": self.handle,
            "number": self.number,
            "previous": self.previous.hex(),
            "kind": self.kind.value,
            "key": self.key.hex(),
            "time": self.time,
        }
        if self.listing is not None:
            told |= {
                "persona": self.listing.digest.hex(),
                "version": self.listing.version,
                "visibility": "private" if self.listing.private else "public",
                "listing": self.listing.public(),
            }
        if self.kind is StepKind.HAND_OVER:
            told["new_key"] = self.new_key.hex()
        return told

    def encode(self) -> bytes:
        """Its one encoding. Raises AuthorshipError where a text is not valid Unicode."""
        return _canonical(self.told())

    @property
    def digest(self) -> bytes:
        """What the next step names, 32 bytes."""
        return hashlib.sha256(_SIGNED + self.encode()).digest()

    @property
    def log_entry(self) -> bytes:
        """The 32-byte log entry of this step."""
        return hashlib.sha256(_STEP_ENTRY + self.digest).digest()


def claim_entry(handle: str, number: int) -> bytes:
    """The 32-byte log entry of a step's place, whatever step stands there."""
    return hashlib.sha256(_CLAIM_ENTRY + f"{handle} {number}".encode()).digest()


@dataclass(frozen=True, slots=True)
class SignedStep:
    """A step and who signed it; nothing of it is believed before `verify_chain`.

    Attributes:
        step: The step.
        signature: By its key, 64 bytes.
        new_signature: By the new key of a hand-over, 64 bytes; empty in others, and in an offer
            that is not accepted yet.
    """

    step: Step
    signature: bytes
    new_signature: bytes = b""

    def told(self) -> dict[str, Any]:
        """As JSON."""
        told = {"step": self.step.told(), "signature": self.signature.hex()}
        return told | ({"new_signature": self.new_signature.hex()} if self.new_signature else {})

    def encode(self) -> bytes:
        """Its one encoding."""
        return _canonical(self.told())

    def accepted(self, key: Ed25519PrivateKey) -> "SignedStep":
        """A hand-over's offer with the new owner's signature.

        Raises:
            AuthorshipError: It offers the handle to another key.
        """
        if self.step.kind is not StepKind.HAND_OVER or self.step.new_key != public_key(key):
            raise AuthorshipError(
                "this offer hands the handle over to another key than the one on this device; ask "
                "for one that names the key that `sotto personas keys` shows here"
            )
        return SignedStep(self.step, self.signature, key.sign(_SIGNED + self.step.encode()))


@dataclass(frozen=True, slots=True)
class HandleState:
    """What a chain proves.

    Attributes:
        handle: Whose.
        key: Who owns it now, 32 bytes.
        number: Of the newest step.
        digests: Of every step, 32 bytes each.
        time: Of the newest step, unix seconds.
        withdrawn: Whether nothing is answered under it until its owner publishes again.
        published: Every version, oldest first.
    """

    handle: str
    key: bytes
    number: int
    digests: tuple[bytes, ...] = field(repr=False)
    time: int
    withdrawn: bool
    published: tuple[Listing, ...] = field(repr=False)

    @property
    def digest(self) -> bytes:
        """Of the newest step, 32 bytes."""
        return self.digests[-1]

    @property
    def newest(self) -> Listing:
        """The newest version; there is one, since step 0 publishes."""
        return self.published[-1]

    def find(self, digest: bytes) -> Listing | None:
        """The version with this digest."""
        return next((one for one in self.published if one.digest == digest), None)


def public_key(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes by which others know a key."""
    return key.public_key().public_bytes_raw()


def fingerprint(key: bytes) -> str:
    """128 bits of a public key's digest, in eight groups of four hex digits."""
    digits = hashlib.sha256(_FINGERPRINT + key).hexdigest()[:_FINGERPRINT_DIGITS]
    return "-".join(digits[at : at + 4] for at in range(0, _FINGERPRINT_DIGITS, 4))


def has_fingerprint(key: bytes, text: str) -> bool:
    """Whether `text` is a key's fingerprint, with or without its dashes, in either case."""
    asked = text.replace("-", "").lower()
    known = fingerprint(key).replace("-", "")
    return hmac.compare_digest(asked.encode("utf-8", "replace"), known.encode())


def sign_step(step: Step, key: Ed25519PrivateKey) -> SignedStep:
    """Sign a step as its owner. Raises AuthorshipError where it names another key."""
    if step.key != public_key(key):
        raise AuthorshipError(
            f"`{step.handle}` belongs to another key than the one on this device; import the key "
            "that owns it with `sotto personas keys --import FILE`"
        )
    return SignedStep(step, key.sign(_SIGNED + step.encode()))


def next_step(
    state: HandleState | None,
    kind: StepKind,
    *,
    handle: str,
    key: bytes,
    time: int,
    listing: Listing | None = None,
    new_key: bytes = b"",
) -> Step:
    """The step after a chain (None: the first), not yet signed."""
    number = 0 if state is None else state.number + 1
    previous = bytes(DIGEST_BYTES) if state is None else state.digest
    return Step(handle, number, previous, kind, key, time, listing, new_key)


def verify_chain(steps: Sequence[SignedStep], *, handle: str | None = None) -> HandleState:
    """What a whole chain proves, from step 0 on.

    Args:
        steps: All of them, in order.
        handle: Whose chain it must be.

    Raises:
        AuthorshipError: A rule is broken; says at which step and what was found.
    """
    if not steps:
        raise AuthorshipError("there is no step: nobody has published under this handle")
    if len(steps) > MAX_STEPS:
        raise AuthorshipError(f"a chain has at most {MAX_STEPS} steps; choose a new handle")
    wanted = steps[0].step.handle if handle is None else handle
    state: HandleState | None = None
    for signed in steps:
        if signed.step.handle != wanted:
            raise _broken(signed.step, f"it is a step of `{signed.step.handle}`, not of `{wanted}`")
        state = extend_chain(state, signed)
    assert state is not None  # noqa: S101 - there is a step
    return state


def extend_chain(state: HandleState | None, signed: SignedStep) -> HandleState:
    """What a chain (None: none) proves with one step more. Raises AuthorshipError."""
    step = signed.step
    number = 0 if state is None else state.number + 1
    if step.number != number:
        raise _broken(step, f"step {number} should stand here: one was left out or put in")
    if not hmac.compare_digest(
        step.previous, bytes(DIGEST_BYTES) if state is None else state.digest
    ):
        raise _broken(step, "it does not name the step before it: one of the two was exchanged")
    if state is None and step.kind is not StepKind.PUBLISH:
        raise _broken(step, "a handle is claimed by publishing under it, not by another step")
    if state is not None and step.handle != state.handle:
        raise _broken(step, f"it does not belong to `{state.handle}`")
    if state is not None and step.time < state.time:
        raise _broken(step, "it is dated before the step that it follows")
    if state is not None and step.key != state.key:
        raise _broken(
            step,
            f"it is of the key {fingerprint(step.key)}, and the handle belongs to "
            f"{fingerprint(state.key)}, which handed it over to nobody",
        )
    message = _SIGNED + step.encode()
    if not _verifies(step.key, signed.signature, message):
        raise _broken(step, "its signature is not by the key that owns the handle")
    _check_new_key(step, signed.new_signature, message)
    _check_kind(state, step)
    before = () if state is None else state.published
    return HandleState(
        handle=step.handle,
        key=step.new_key if step.kind is StepKind.HAND_OVER else step.key,
        number=step.number,
        digests=(*(() if state is None else state.digests), hashlib.sha256(message).digest()),
        time=step.time,
        withdrawn=step.kind is StepKind.WITHDRAW
        or (state is not None and state.withdrawn and step.kind is StepKind.HAND_OVER),
        published=before if step.listing is None else (*before, step.listing),
    )


def _check_new_key(step: Step, signature: bytes, message: bytes) -> None:
    if step.kind is not StepKind.HAND_OVER:
        if signature:
            raise _broken(step, "it has a second signature, which a hand-over alone has")
        return
    if step.new_key == step.key:
        raise _broken(step, "it hands the handle over to the key that has it")
    if not _verifies(step.new_key, signature, message):
        raise _broken(step, "the new key did not sign the hand-over: both must")


def _check_kind(state: HandleState | None, step: Step) -> None:
    if state is None:
        return
    if step.kind is StepKind.WITHDRAW and state.withdrawn:
        raise _broken(step, "the handle is withdrawn already")
    if step.listing is None:
        return
    newest = state.newest.version
    if version_of(step.listing.version) <= version_of(newest):
        raise _broken(
            step,
            f"version {step.listing.version} does not follow {newest}: raise `version` in the "
            "persona and publish it again",
        )


def version_of(text: str) -> tuple[int, ...]:
    """A version by which it is ordered."""
    return tuple(int(part) for part in text.split("."))


def decode_signed(data: bytes) -> SignedStep:
    """Read a signed step, refusing every encoding but the one that `SignedStep.encode` makes.

    Raises:
        AuthorshipError: Too long, not a step, or in another encoding.
    """
    if len(data) > MAX_STEP_BYTES:
        raise AuthorshipError(f"a signed step has at most {MAX_STEP_BYTES} bytes; shorten it")
    try:
        value = json.loads(data)
    # json.loads also lets through those of int() and of its recursion.
    except (ValueError, RecursionError):
        raise AuthorshipError("a signed step is canonical JSON, and this is not") from None
    signed = parse_signed(value)
    if signed.encode() != data:
        raise AuthorshipError("a signed step has one encoding, canonical JSON, and this is another")
    return signed


def parse_signed(value: object) -> SignedStep:
    """Read a signed step from JSON that was parsed, strictly. Raises AuthorshipError."""
    told = _members(value, "a signed step", {"step", "signature"}, {"new_signature"})
    signature = _hex(told["signature"], _HEX64, "signature")
    new_signature = b""
    if "new_signature" in told:
        new_signature = _hex(told["new_signature"], _HEX64, "new_signature")
    return SignedStep(_parse_step(told["step"]), signature, new_signature)


def _parse_step(value: object) -> Step:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise AuthorshipError("a step is an object with a `kind`")
    try:
        kind = StepKind(value["kind"])
    except ValueError:
        raise AuthorshipError(
            f"`kind` of a step is one of {', '.join(StepKind)}; a newer version of Sottovoce may "
            "know more: update this one"
        ) from None
    told = _members(value, "a step", _MEMBERS | _OWN_MEMBERS[kind], set())
    if told["format"] != FORMAT or isinstance(told["format"], bool):
        raise AuthorshipError(f"a step has the format {FORMAT}; update Sottovoce on this device")
    handle = _text(told["handle"], _HANDLE, "handle")
    key = _hex(told["key"], _HEX32, "key")
    time = _number(told["time"], "time", _MAX_TIME)
    return Step(
        handle=handle,
        number=_number(told["number"], "number", MAX_STEPS - 1),
        previous=_hex(told["previous"], _HEX32, "previous"),
        kind=kind,
        key=key,
        time=time,
        listing=_listing(told, handle, key, time) if kind is StepKind.PUBLISH else None,
        new_key=_hex(told["new_key"], _HEX32, "new_key") if kind is StepKind.HAND_OVER else b"",
    )


def _listing(told: dict[str, Any], handle: str, key: bytes, time: int) -> Listing:
    if told["visibility"] not in ("public", "private"):
        raise AuthorshipError("`visibility` of a step is public or private")
    try:
        return Listing.from_public(
            told["listing"],
            handle=handle,
            digest=_hex(told["persona"], _HEX32, "persona"),
            version=_text(told["version"], _VERSION, "version"),
            key=key,
            private=told["visibility"] == "private",
            created=time,
        )
    except AuthorshipError:
        raise
    except PersonaError as error:
        raise AuthorshipError(str(error)) from None


def _members(value: object, what: str, must: set[str], may: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or not must <= value.keys() <= must | may:
        raise AuthorshipError(f"{what} has the members {', '.join(sorted(must))}, and no others")
    return value


def _text(value: object, pattern: re.Pattern[str], name: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise AuthorshipError(f"`{name}` of a step is not in the form that it must have")
    return value


def _hex(value: object, pattern: re.Pattern[str], name: str) -> bytes:
    return bytes.fromhex(_text(value, pattern, name))


def _number(value: object, name: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise AuthorshipError(f"`{name}` of a step is a number from 0 to {most}")
    return value


def _canonical(value: dict[str, Any]) -> bytes:
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, ValueError):
        raise AuthorshipError("a text of the step holds half of a surrogate pair") from None


def _verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _broken(step: Step, what: str) -> AuthorshipError:
    return AuthorshipError(f"step {step.number} of `{step.handle}`: {what}")


def sign_piece(key: Ed25519PrivateKey, handle: str, digest: bytes) -> str:
    """Who sends a piece: the public key and its signature, 192 hexadecimal digits.

    Args:
        key: The creator's.
        handle: For which the piece is.
        digest: SHA-256 of the piece.
    """
    return (public_key(key) + key.sign(_piece(handle, digest))).hex()


def piece_signer(text: str, handle: str, digest: bytes) -> bytes:
    """The public key that signed a piece, 32 bytes. Raises AuthorshipError."""
    if not _HEX96.fullmatch(text):
        raise AuthorshipError("a piece's signature is a key and a signature in 192 hex digits")
    key, signature = bytes.fromhex(text[:64]), bytes.fromhex(text[64:])
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _piece(handle, digest))
    except (InvalidSignature, ValueError):
        raise AuthorshipError(
            "the signature of a piece is not by the key that it names: send the piece again"
        ) from None
    return key


def _piece(handle: str, digest: bytes) -> bytes:
    return _PIECE + handle.encode() + b"\x00" + digest
