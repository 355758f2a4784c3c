"""Key configurations: how a gateway tells clients its public key (RFC 9458 section 3).

Key Config { key id (8), KEM id (16), public key (8 * Npk),
             suites length (16), suites { KDF id (16), AEAD id (16) } ... }
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from transport import hpke
from transport.errors import MessageError, TruncatedError, UnknownKeyError, UsageError
from transport.hpke import KEM_X25519_HKDF_SHA256, SUITES, PrivateKey, SuiteId

_PREFIX = struct.Struct("!BH")
_LENGTH = struct.Struct("!H")
_SUITE = struct.Struct("!HH")
MAX_LIST_LENGTH = 1 << 16


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A gateway's public key and the symmetric suites that it accepts with it.

    Attributes:
        key_id: 0 to 255; how a request names this key.
        kem_id: HPKE registry number of the KEM.
        public_key: Serialized as the KEM says.
        suites: At least one, in the gateway's order of preference.
    """

    key_id: int
    kem_id: int
    public_key: bytes
    suites: tuple[SuiteId, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be encoded."""
        if not 0 <= self.key_id <= 0xFF:
            raise UsageError(f"key identifier {self.key_id} does not fit one byte")
        if len(self.public_key) != hpke.kem(self.kem_id).public_key_length:
            raise UsageError(
                f"a public key of KEM {self.kem_id:#06x} has "
                f"{hpke.kem(self.kem_id).public_key_length} bytes, not {len(self.public_key)}"
            )
        if not self.suites or self.encoded_length > 0xFFFF:
            raise UsageError(
                f"a key configuration of {len(self.suites)} suites cannot be listed; name one or "
                "more, in 65535 bytes with the public key"
            )
        if any(not 0 <= number <= 0xFFFF for suite in self.suites for number in suite):
            raise UsageError("a KDF or AEAD identifier does not fit two bytes")

    @property
    def encoded_length(self) -> int:
        """Bytes of `encode`."""
        return _PREFIX.size + len(self.public_key) + _LENGTH.size + _SUITE.size * len(self.suites)

    def encode(self) -> bytes:
        """The bytes of RFC 9458 section 3.1."""
        suites = b"".join(_SUITE.pack(*suite) for suite in self.suites)
        return b"".join(
            (
                _PREFIX.pack(self.key_id, self.kem_id),
                self.public_key,
                _LENGTH.pack(len(suites)),
                suites,
            )
        )

    def choose_suite(self) -> SuiteId:
        """The first suite that this end supports too; `UnknownKeyError` if there is none."""
        for suite in self.suites:
            if suite in SUITES:
                return suite
        raise UnknownKeyError(
            f"key configuration {self.key_id} names no suite that this client supports; the "
            "gateway must offer HKDF with AES-GCM or ChaCha20-Poly1305"
        )


def decode_key_config(data: bytes) -> KeyConfig:
    """Read exactly one key configuration.

    Raises:
        TruncatedError: The bytes end early.
        MessageError: Bytes are left over, or there is no suite.
        UnknownKeyError: The KEM is unknown, so that the rest cannot be read.
    """
    if len(data) < _PREFIX.size:
        raise TruncatedError("a key configuration ends inside its key and KEM identifiers")
    key_id, kem_id = _PREFIX.unpack_from(data)
    key_end = _PREFIX.size + hpke.kem(kem_id).public_key_length
    suites_start = key_end + _LENGTH.size
    if len(data) < suites_start:
        raise TruncatedError("a key configuration ends inside its public key or suites length")
    (suites_length,) = _LENGTH.unpack_from(data, key_end)
    if suites_length == 0 or suites_length % _SUITE.size:
        raise MessageError(
            f"a key configuration's suites take 4, 8, 12 ... bytes, not {suites_length}"
        )
    if len(data) < suites_start + suites_length:
        raise TruncatedError("a key configuration ends inside its suites")
    if len(data) > suites_start + suites_length:
        raise MessageError("bytes follow the key configuration; it must stand alone")
    suites = tuple(SuiteId(*pair) for pair in _SUITE.iter_unpack(data[suites_start:]))
    return KeyConfig(key_id, kem_id, bytes(data[_PREFIX.size : key_end]), suites)


def encode_key_config_list(configs: tuple[KeyConfig, ...]) -> bytes:
    """The application/ohttp-keys form: each configuration after its length (RFC 9458 3.2)."""
    encoded = [config.encode() for config in configs]
    return b"".join(_LENGTH.pack(len(one)) + one for one in encoded)


def decode_key_config_list(data: bytes) -> tuple[KeyConfig, ...]:
    """Read application/ohttp-keys. Configurations with a KEM unknown here are left out.

    The length before each exists so that a client can pass over what it does not know
    (RFC 9458 section 3.2); the answer may therefore be empty.

    Raises:
        MessageError, TruncatedError: The list or one of its configurations is malformed.
    """
    if len(data) > MAX_LIST_LENGTH:
        raise MessageError(f"a key configuration list of {len(data)} bytes is not plausible")
    configs = []
    offset = 0
    while offset < len(data):
        if len(data) < offset + _LENGTH.size:
            raise TruncatedError("the key configuration list ends inside a length")
        (length,) = _LENGTH.unpack_from(data, offset)
        start = offset + _LENGTH.size
        offset = start + length
        if len(data) < offset:
            raise TruncatedError("the key configuration list ends inside a configuration")
        try:
            configs.append(decode_key_config(data[start:offset]))
        except UnknownKeyError:
            continue
    return tuple(configs)


def choose_config(configs: Sequence[KeyConfig]) -> KeyConfig:
    """The configuration with the strongest KEM: X-Wing, ML-KEM-768, X25519, then P-256.

    One whose suites are all unknown here does not count; of two alike, the first is taken.

    Raises:
        UnknownKeyError: There is none that this end can seal to.
    """
    for kem_id in hpke.KEMS:
        for config in configs:
            if config.kem_id == kem_id and not set(SUITES).isdisjoint(config.suites):
                return config
    raise UnknownKeyError(
        f"none of {len(configs)} key configurations has a KEM and suite that this end supports; "
        "choose another gateway"
    )


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A key configuration with its private key, which no representation shows."""

    config: KeyConfig
    private_key: PrivateKey = field(repr=False)

    @classmethod
    def generate(
        cls, key_id: int, seed: bytes, *, kem_id: int = KEM_X25519_HKDF_SHA256
    ) -> GatewayKey:
        """Make a key from 32 or more secret random bytes.

        Raises:
            UnknownKeyError: The KEM is not supported.
            UsageError: The seed is too short or the identifier does not fit one byte.
        """
        return cls.from_private_key(key_id, PrivateKey.derive(kem_id, seed))

    @classmethod
    def from_private_key(
        cls, key_id: int, private_key: PrivateKey, *, suites: tuple[SuiteId, ...] | None = None
    ) -> GatewayKey:
        """Offer an existing private key, with the suites that suit its KEM or with those given."""
        if suites is None:
            suites = hpke.kem(private_key.kem_id).offered
        config = KeyConfig(key_id, private_key.kem_id, private_key.public_bytes, suites)
        return cls(config, private_key)
