"""Signed notes and verifier keys, c2sp.org/signed-note.

Notes are signed and verified here with Ed25519 (type 0x01). Keys of the two cosignature types are
named, written and read here; what they sign is in `proofs.cosignature`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs import b64
from proofs.ed25519 import raw_public, verifies
from proofs.errors import RefusedError, UnreadableError

MAX_NOTE = 256 * 1024
MAX_SIGNATURES = 64
# The longest cosigner name (255 bytes), id and ML-DSA-44 key in base64 take about 2 KiB.
MAX_VKEY = 4096
_DASH = "\u2014 "


class KeyType(IntEnum):
    """Signature types of c2sp.org/signed-note, as far as they are used here."""

    ED25519 = 0x01
    ED25519_COSIGNATURE = 0x04
    ML_DSA_44_COSIGNATURE = 0x06


# What a key may be for. A log signs notes, a witness makes cosignatures, and neither may stand
# for the other: a witness's key must not publish a tree, nor a log's key vouch for its own.
NOTE_KEYS = frozenset({KeyType.ED25519})
COSIGNER_KEYS = frozenset({KeyType.ED25519_COSIGNATURE, KeyType.ML_DSA_44_COSIGNATURE})
_KEY_SIZES = {
    KeyType.ED25519: 32,
    KeyType.ED25519_COSIGNATURE: 32,
    KeyType.ML_DSA_44_COSIGNATURE: 1312,
}


def _check_name(name: str) -> None:
    if not name or "+" in name or any(c.isspace() or c < " " or _is_half(c) for c in name):
        raise UnreadableError(
            "A key name must not be empty nor hold spaces or '+', and must be valid Unicode. "
            "Choose another."
        )


def _is_half(character: str) -> bool:
    """Whether it is half of a surrogate pair, which UTF-8 cannot carry."""
    return "\ud800" <= character <= "\udfff"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A key that may sign under a name.

    Attributes:
        name: The key's name; for a log, its origin.
        public_key: 32 bytes, or 1312 of an ML-DSA-44 key.
        key_type: What it signs, and how.
    """

    name: str
    public_key: bytes
    key_type: KeyType = KeyType.ED25519

    def __post_init__(self) -> None:
        _check_name(self.name)
        size = _KEY_SIZES[self.key_type]
        if len(self.public_key) != size:
            raise UnreadableError(f"A verifier key should have {size} bytes. Copy it again.")

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that signatures by this key start with."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._material).digest()[:4]

    @property
    def _material(self) -> bytes:
        return bytes([self.key_type]) + self.public_key

    def format(self) -> str:
        """The vkey: `<name>+<key id in hex>+<base64 of type and key>`."""
        return f"{self.name}+{self.key_id.hex()}+{b64.encode(self._material)}"


def parse_vkey(text: str, types: frozenset[KeyType] = NOTE_KEYS) -> VerifierKey:
    """Parse a vkey of one of `types`: those of a log, if nothing else is said.

    Raises:
        UnreadableError: Not a vkey, of another type, or with a key id that is not its own.
    """
    if len(text) > MAX_VKEY:
        raise UnreadableError(f"A verifier key has at most {MAX_VKEY} characters. Copy it again.")
    # Base64 may hold '+' and names may not, so only the first two separate.
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise UnreadableError("A verifier key has the form name+id+key. Copy it again.")
    material = b64.decode(parts[2], "the verifier key")
    if not material or material[0] not in types:
        wanted = " or ".join(f"0x{number:02x}" for number in sorted(types))
        raise UnreadableError(
            f"The verifier key is not of type {wanted}, the one for this use: 0x01 is a log's or "
            "a signer's key, 0x04 and 0x06 are a witness's."
        )
    key = VerifierKey(parts[0], material[1:], KeyType(material[0]))
    if key.format() != text:
        raise UnreadableError("The verifier key's id does not belong to its key. Copy it again.")
    return key


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature line: who says to have signed, and what follows the 4 bytes of key id."""

    name: str
    key_id: bytes
    signature: bytes

    def format(self) -> str:
        """The line, with its newline."""
        return f"{_DASH}{self.name} {b64.encode(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures. The text means nothing until `verify` returned.

    Attributes:
        text: The signed text, with its final newline.
        signatures: At least one, at most `MAX_SIGNATURES`.
    """

    text: str
    signatures: tuple[Signature, ...]

    def format(self) -> str:
        """The note as it is published."""
        return self.text + "\n" + "".join(s.format() for s in self.signatures)

    def verify(self, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
        """Those of `keys` that signed the note; signatures of others are ignored.

        Raises:
            RefusedError: None did, a signature that names one of them is not by it, or one of
                them is a key for cosignatures.
        """
        known = keys_by_name(keys, NOTE_KEYS)
        signed = []
        for s in self.signatures:
            key = known.get((s.name, s.key_id))
            if key is None:
                continue
            if not verifies(key.public_key, s.signature, self.text.encode()):
                raise RefusedError(f"The signature of {s.name} on the note is false. Refuse it.")
            signed.append(key)
        if not signed:
            raise RefusedError("No pinned key signed the note. Pin the key of the log you trust.")
        return tuple(signed)


def parse_note(data: str) -> Note:
    """Parse a signed note.

    Raises:
        UnreadableError: Not a signed note, or larger than the limits here.
    """
    if len(data) > MAX_NOTE:
        raise UnreadableError(
            f"The note has more than {MAX_NOTE} characters. It is not one of ours."
        )
    if any(c < " " and c != "\n" for c in data) or any(map(_is_half, data)):
        raise UnreadableError("The note holds control characters or no UTF-8. Get it again.")
    text, blank, tail = data.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise UnreadableError("The note has no signature lines after an empty line. Get it again.")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise UnreadableError(f"The note has more than {MAX_SIGNATURES} signatures. Refuse it.")
    note = Note(text + "\n", tuple(parse_signature(line) for line in lines))
    if note.format() != data:
        raise UnreadableError("The note does not re-encode to itself. Get it again.")
    return note


def keys_by_name(
    keys: Iterable[VerifierKey], types: frozenset[KeyType]
) -> dict[tuple[str, bytes], VerifierKey]:
    """`keys` by the name and id that stand in signature lines.

    Raises:
        RefusedError: One is not of `types`.
    """
    known = {(key.name, key.key_id): key for key in keys}
    for key in known.values():
        if key.key_type not in types:
            raise RefusedError(
                f"The key {key.name} is pinned for what its type 0x{key.key_type:02x} cannot "
                "sign: logs have keys of type 0x01, witnesses of 0x04 or 0x06. Pin the right one."
            )
    return known


def parse_signature(line: str) -> Signature:
    """Parse a signature line, without its newline.

    Raises:
        UnreadableError: No such line, or one that does not re-encode to itself.
    """
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise UnreadableError("A signature line of the note is malformed. Get the note again.")
    _check_name(name)
    data = b64.decode(encoded, "a signature of the note")
    if len(data) < 5:
        raise UnreadableError("A signature of the note is too short. Get the note again.")
    return Signature(name, data[:4], data[4:])


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs notes under a name."""

    name: str
    key: Ed25519PrivateKey = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        """The key that verifies what this one signs."""
        return VerifierKey(self.name, raw_public(self.key))

    def sign(self, text: str) -> Note:
        """Sign `text`, which ends in a newline.

        Raises:
            UnreadableError: A text that no note can carry.
        """
        signature = Signature(self.name, self.verifier.key_id, self.key.sign(text.encode()))
        # What could not be read back must not be published.
        return parse_note(Note(text, (signature,)).format())
