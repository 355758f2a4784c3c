"""Key configurations: the RFC's example, lists, cuts, and private keys that stay private."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import hpke
from transport.errors import (
    MessageError,
    TransportError,
    TruncatedError,
    UnknownKeyError,
    UsageError,
)
from transport.hpke import (
    KEM_ML_KEM_768,
    KEM_P256_HKDF_SHA256,
    KEM_X25519_HKDF_SHA256,
    KEM_X_WING,
    PrivateKey,
    SuiteId,
)
from transport.keyconfig import (
    GatewayKey,
    KeyConfig,
    choose_config,
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
    key = GatewayKey.from_private_key(1, PrivateKey(0x20, PRIVATE), suites=config.suites)
    assert key.config == config


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
    public = decode_key_config(CONFIG).public_key
    some = KeyConfig(1, 0x20, public, (SuiteId(0x11, 3), SuiteId(1, 3), SuiteId(1, 1)))
    assert some.choose_suite() == SuiteId(1, 3)
    with pytest.raises(UnknownKeyError):
        KeyConfig(1, 0x20, public, (SuiteId(0x11, 3), SuiteId(1, 0xFFFF))).choose_suite()


@pytest.mark.parametrize("kem_id", hpke.KEMS)
def test_every_kem_has_its_configuration(kem_id: int) -> None:
    """A key of each KEM is made, listed and read again, its suites ordered by its strength."""
    key = GatewayKey.generate(7, bytes(range(32)), kem_id=kem_id)
    encoded = key.config.encode()
    assert decode_key_config(encoded) == key.config
    assert len(encoded) == key.config.encoded_length
    assert decode_key_config_list(encode_key_config_list((key.config,))) == (key.config,)
    for cut in range(len(encoded)):
        with pytest.raises(TruncatedError):
            decode_key_config(encoded[:cut])
    assert set(key.config.suites) == {SuiteId(1, 1), SuiteId(1, 2), SuiteId(1, 3)}
    strong = kem_id in (KEM_X_WING, KEM_ML_KEM_768)
    assert key.config.choose_suite() == (SuiteId(1, 2) if strong else SuiteId(1, 1))


def test_the_strongest_kem_is_chosen() -> None:
    """X-Wing before ML-KEM-768 before X25519 before P-256, wherever they stand in the list."""
    order = [KEM_X_WING, KEM_ML_KEM_768, KEM_X25519_HKDF_SHA256, KEM_P256_HKDF_SHA256]
    configs = [
        GatewayKey.generate(number, bytes(32), kem_id=kem_id).config
        for number, kem_id in enumerate(order)
    ]
    for listed in itertools.permutations(configs):
        assert choose_config(listed) == configs[0]
    for weakest in range(4):
        assert choose_config(configs[weakest:][::-1]) == configs[weakest]
    twin = dataclasses.replace(configs[0], key_id=9)
    assert choose_config([twin, *configs]) == twin
    foreign = dataclasses.replace(configs[0], suites=(SuiteId(0x11, 3),))
    assert choose_config([foreign, *configs[1:]]) == configs[1]
    for none in ([], [foreign]):
        with pytest.raises(UnknownKeyError):
            choose_config(none)


def test_generated_keys_depend_on_the_seed_alone() -> None:
    """One seed gives one key; a short seed gives none."""
    seed = bytes(range(32))
    for kem_id in hpke.KEMS:
        one = GatewayKey.generate(1, seed, kem_id=kem_id).config
        assert GatewayKey.generate(1, seed, kem_id=kem_id).config == one
        assert GatewayKey.generate(1, seed[::-1], kem_id=kem_id).config != one
        with pytest.raises(UsageError):
            GatewayKey.generate(1, seed[:31], kem_id=kem_id)
    assert GatewayKey.generate(1, seed).config.kem_id == KEM_X25519_HKDF_SHA256
    with pytest.raises(UsageError):
        GatewayKey.generate(256, seed)
    with pytest.raises(UnknownKeyError):
        GatewayKey.generate(1, seed, kem_id=0x50)


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
        (0x20, 32, (SuiteId(1, 1),) * 16_384),
        (0x20, 32, (SuiteId(1, 0x1_0000),)),
        (0x20, 32, (SuiteId(-1, 1),)),
        (0x20, 65, (SuiteId(1, 1),)),
        (0x647A, 1184, (SuiteId(1, 1),)),
    ):
        with pytest.raises(TransportError):
            KeyConfig(1, kem_id, bytes(size), suites)
    with pytest.raises(UsageError):
        PrivateKey(0x20, bytes(31))


@given(st.binary(max_size=60), st.integers(0, 80), st.integers(0, 20))
def test_what_decodes_encodes_to_the_same(noise: bytes, place: int, drop: int) -> None:
    """Random and mutated bytes give a configuration that encodes to them, or our errors."""
    encoded_list = encode_key_config_list((decode_key_config(CONFIG),) * 2)
    for whole in (CONFIG, encoded_list, b""):
        data = whole[:place] + noise + whole[place + drop :]
        with contextlib.suppress(TransportError):
            assert decode_key_config(data).encode() == data
        with contextlib.suppress(TransportError):
            found = decode_key_config_list(data)
            # Configurations with an unknown KEM are left out, so the answer may be shorter.
            assert encode_key_config_list(found) == data or len(
                encode_key_config_list(found)
            ) < len(data)
            with contextlib.suppress(TransportError):
                choose_config(found)
