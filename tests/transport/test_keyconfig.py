"""Key configurations: the RFC's example, lists, cuts, and private keys that stay private."""

from __future__ import annotations

import pytest

from transport.errors import (
    MessageError,
    TransportError,
    TruncatedError,
    UnknownKeyError,
    UsageError,
)
from transport.hpke import PrivateKey, SuiteId
from transport.keyconfig import (
    GatewayKey,
    KeyConfig,
    decode_key_config,
    decode_key_config_list,
    encode_key_config_list,
)

# RFC 9458 appendix A.
CONFIG = bytes.fromhex(
    "01002031e1f05a740102115220e9af918f738674aec95f54db6e04eb705aae8e79815500080001000100010003"
)
PRIVATE = bytes.fromhex("3c168975674b2fa8e465970b79c8dcf09f1c741626480bd4c6162fc5b6a98e1a")


def test_rfc_9458_example() -> None:
    """The printed configuration decodes, encodes back, and belongs to the printed private key."""
    config = decode_key_config(CONFIG)
    assert (config.key_id, config.kem_id) == (1, 0x0020)
    assert config.suites == (SuiteId(1, 1), SuiteId(1, 3))
    assert config.encode() == CONFIG
    assert GatewayKey.from_private_key(1, PrivateKey(0x20, PRIVATE)).config == config


def test_every_cut_and_tail_is_refused() -> None:
    """A configuration stands whole and alone."""
    for cut in range(len(CONFIG)):
        with pytest.raises(TruncatedError):
            decode_key_config(CONFIG[:cut])
    with pytest.raises(MessageError):
        decode_key_config(CONFIG + b"\x00")


@pytest.mark.parametrize("suites", [b"\x00\x00", b"\x00\x02\x00\x01", b"\x00\x05" + bytes(5)])
def test_suites_must_be_whole(suites: bytes) -> None:
    """A configuration without suites, or with half a suite, is refused."""
    with pytest.raises(MessageError):
        decode_key_config(CONFIG[:35] + suites)


def test_list_passes_over_unknown_kems() -> None:
    """A client skips configurations with a KEM it does not know and keeps the others."""
    known = decode_key_config(CONFIG)
    encoded = encode_key_config_list((known, known))
    assert decode_key_config_list(encoded) == (known, known)
    unknown = b"\x00\x09\x05\xff\xff\x00\x01\x02\x03\x04\x05"
    assert decode_key_config_list(unknown + encoded) == (known, known)
    assert decode_key_config_list(b"") == ()


def test_list_is_refused_where_cut() -> None:
    """A list that ends inside a length or a configuration is refused."""
    encoded = encode_key_config_list((decode_key_config(CONFIG),))
    for cut in range(1, len(encoded)):
        with pytest.raises(TruncatedError):
            decode_key_config_list(encoded[:cut])
    with pytest.raises(MessageError):
        decode_key_config_list(bytes(1 << 17))


def test_client_needs_a_common_suite() -> None:
    """A client takes the gateway's first suite that it knows, and says so if there is none."""
    config = decode_key_config(CONFIG)
    both = KeyConfig(1, 0x20, config.public_key, (SuiteId(3, 2), SuiteId(1, 3), SuiteId(1, 1)))
    assert both.choose_suite() == SuiteId(1, 3)
    with pytest.raises(UnknownKeyError):
        KeyConfig(1, 0x20, config.public_key, (SuiteId(3, 2),)).choose_suite()


def test_generated_keys_depend_on_the_seed_alone() -> None:
    """One seed gives one key; a short seed gives none."""
    seed = bytes(range(32))
    assert GatewayKey.generate(1, seed).config == GatewayKey.generate(1, seed).config
    assert GatewayKey.generate(1, seed).config != GatewayKey.generate(1, seed[::-1]).config
    with pytest.raises(UsageError):
        GatewayKey.generate(1, seed[:31])
    with pytest.raises(UsageError):
        GatewayKey.generate(256, seed)


def test_private_keys_do_not_show() -> None:
    """Neither the key nor anything that holds it prints it."""
    key = GatewayKey.from_private_key(1, PrivateKey(0x20, PRIVATE))
    for text in (repr(key), str(key), repr(key.private_key), f"{key.private_key}"):
        assert PRIVATE.hex() not in text
        assert repr(PRIVATE)[2:-1] not in text


def test_impossible_configurations_cannot_be_made() -> None:
    """A public key of the wrong size, an unknown KEM or no suites are refused at once."""
    for kem_id, size, suites in (
        (0x20, 31, (SuiteId(1, 1),)),
        (0xFFFF, 32, (SuiteId(1, 1),)),
        (0x20, 32, ()),
    ):
        with pytest.raises(TransportError):
            KeyConfig(1, kem_id, bytes(size), suites)
    with pytest.raises(UsageError):
        PrivateKey(0x20, bytes(31))
