"""HPKE against the vectors of RFC 9180 and of the post-quantum draft, and against bad keys."""

from __future__ import annotations

from itertools import product
from typing import Any

import ml_kem_reference
import pyhpke
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from vector_files import load

from transport import hpke, kems
from transport.errors import (
    DecryptionError,
    LimitError,
    MessageError,
    TransportError,
    UnknownKeyError,
    UsageError,
)
from transport.hpke import (
    KEM_ML_KEM_768,
    KEM_P256_HKDF_SHA256,
    KEM_X25519_HKDF_SHA256,
    KEM_X_WING,
    SUITES,
    Exporter,
    Opener,
    PrivateKey,
    Sealer,
    SuiteId,
    setup_sender,
)

SUITE = SUITES[0]
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
KEYS = {kem_id: PrivateKey.derive(kem_id, bytes(range(32))) for kem_id in hpke.KEMS}

# Every encoding of a point whose order divides 8 (RFC 7748 sections 5 and 6.1).
P25519 = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
SMALL_ORDER = [
    (u | top).to_bytes(32, "little")
    for u in (0, 1, *ORDER_8, P25519 - 1, P25519, P25519 + 1)
    for top in (0, 1 << 255)
]


def vectors(name: str) -> list[dict[str, Any]]:
    """The base-mode vectors of a file whose three algorithms are all supported here."""
    return [
        vector
        for vector in load(name)
        if vector["mode"] == 0
        and vector["kem_id"] in hpke.KEMS
        and vector["kdf_id"] in hpke.KDFS
        and vector["aead_id"] in hpke.AEADS
    ]


def raw(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


def check_recipient(vector: dict[str, Any]) -> None:
    """Key derivation, every opening and every export of the recipient."""
    suite = SuiteId(vector["kdf_id"], vector["aead_id"])
    ikm, private_bytes, public_bytes, enc, info = raw(vector, "ikmR", "skRm", "pkRm", "enc", "info")
    assert PrivateKey.derive(vector["kem_id"], ikm).public_bytes == public_bytes
    private = PrivateKey(vector["kem_id"], private_bytes)
    assert private.public_bytes == public_bytes
    opener, exporter = private.recipient(suite, enc, info)
    for message in vector["encryptions"]:
        aad, plaintext, sealed = raw(message, "aad", "pt", "ct")
        assert opener.open(sealed, aad) == plaintext
    check_exports(vector, exporter)


def check_exports(vector: dict[str, Any], exporter: Exporter | pyhpke.ContextInterface) -> None:
    assert vector["exports"]
    for export in vector["exports"]:
        (context,) = raw(export, "exporter_context")
        assert exporter.export(context, export["L"]).hex() == export["exported_value"]


def test_rfc_9180_base_mode() -> None:
    """Both DHKEMs with every KDF and AEAD of the file: key derivation, enc, messages, exports."""
    found = vectors("hpke/rfc9180.json.gz")
    assert {vector["kem_id"] for vector in found} == {0x10, 0x20}
    assert len(found) == 2 * 2 * 3
    for vector in found:
        check_recipient(vector)
        suite = SuiteId(vector["kdf_id"], vector["aead_id"])
        public, info, ephemeral, expected_enc = raw(vector, "pkRm", "info", "skEm", "enc")
        enc, sealer, exporter = setup_sender(vector["kem_id"], public, suite, info, ephemeral)
        assert enc == expected_enc
        for message in vector["encryptions"]:
            aad, plaintext, sealed = raw(message, "aad", "pt", "ct")
            assert sealer.seal(plaintext, aad) == sealed
        check_exports(vector, exporter)


def test_post_quantum_base_mode() -> None:
    """ML-KEM-768 and X-Wing, with the vectors' randomness: key derivation, enc, secrets, messages.

    The sender is pyhpke's, given our KEM; messages and exports are opened by our recipient.
    """
    found = vectors("hpke/hpke-pq.json")
    assert [vector["kem_id"] for vector in found] == [KEM_ML_KEM_768, KEM_X_WING]
    for vector in found:
        check_recipient(vector)
        randomness, public, private_bytes, ikm, enc, info, secret = raw(
            vector, "ikmE", "pkRm", "skRm", "ikmR", "enc", "info", "shared_secret"
        )
        kem = derandomized(vector["kem_id"], randomness)
        assert kem.derive_key_pair(ikm).private_key.to_private_bytes() == private_bytes
        assert kem.derive_key_pair(ikm).public_key.to_public_bytes() == public
        recipient = kem.deserialize_public_key(public)
        assert kem.encap(recipient) == (secret, enc)
        assert kem.decap(enc, kem.deserialize_private_key(private_bytes)) == secret
        symmetric = pyhpke.CipherSuite.new(
            pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256,
            pyhpke.KDFId(vector["kdf_id"]),
            pyhpke.AEADId(vector["aead_id"]),
        )
        suite = pyhpke.CipherSuite(kem, symmetric.kdf, symmetric.aead)
        sent, context = suite.create_sender_context(recipient, info)
        assert sent == enc
        for message in vector["encryptions"]:
            aad, plaintext, sealed = raw(message, "aad", "pt", "ct")
            assert context.seal(plaintext, aad) == sealed
        check_exports(vector, context)


def derandomized(kem_id: int, randomness: bytes) -> pyhpke.KEMInterface:
    """The KEM that takes these bytes for its randomness: of ML-KEM first, then of X25519."""

    def encapsulate(public: MLKEM768PublicKey) -> tuple[bytes, bytes]:
        return ml_kem_reference.encapsulate(public.public_bytes_raw(), randomness[:32])

    if kem_id == KEM_ML_KEM_768:
        return kems.MlKem768(encapsulate)
    return kems.XWing(encapsulate, lambda: X25519PrivateKey.from_private_bytes(randomness[32:]))


def test_x_wing_draft() -> None:
    """The first test vector printed in draft-connolly-cfrg-xwing-kem."""
    seed = bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
    randomness = bytes.fromhex(
        "3cb1eea988004b93103cfb0aeefd2a686e01fa4a58e8a3639ca8a1e3f9ae57e2"
        "35b8cc873c23dc62b8d260169afa2f75ab916a58d974918835d25e6a435085b2"
    )
    secret = bytes.fromhex("d2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384")
    kem = derandomized(KEM_X_WING, randomness)
    private = kem.deserialize_private_key(seed)
    found, enc = kem.encap(kem.deserialize_public_key(private.to_public_bytes()))
    assert found == secret
    assert kem.decap(enc, private) == secret


@pytest.mark.parametrize(("kem_id", "suite"), list(product(hpke.KEMS, SUITES)))
def test_every_kem_with_every_suite(kem_id: int, suite: SuiteId) -> None:
    """Messages open in order and exports agree, up to 255 * Nh bytes."""
    private = KEYS[kem_id]
    enc, sealer, sent = setup_sender(kem_id, private.public_bytes, suite, b"info")
    assert len(enc) == hpke.KEMS[kem_id].enc_length
    opener, received = private.recipient(suite, enc, b"info")
    for number in range(3):
        message = bytes((number,)) * number
        assert opener.open(sealer.seal(message, b"aad"), b"aad") == message
    longest = 255 * {1: 32, 2: 48, 3: 64}[suite.kdf_id]
    for length in (1, longest):
        assert len(sent.export(b"label", length)) == length
        assert sent.export(b"label", length) == received.export(b"label", length)
    for length in (-1, 0, longest + 1):
        with pytest.raises(UsageError):
            sent.export(b"label", length)
    other, _ = private.recipient(suite, enc, b"other info")
    with pytest.raises(DecryptionError):
        other.open(
            setup_sender(kem_id, private.public_bytes, suite, b"info")[1].seal(b"", b""), b""
        )


@pytest.mark.parametrize("kem_id", hpke.KEMS)
def test_an_altered_encapsulated_key_opens_nothing(kem_id: int) -> None:
    """A changed enc is refused at once, or gives a secret under which nothing opens."""
    private = KEYS[kem_id]
    enc, sealer, _ = setup_sender(kem_id, private.public_bytes, SUITE, b"")
    sealed = sealer.seal(b"message", b"")
    for place in {*range(0, len(enc), 37), 1088 % len(enc), len(enc) - 1}:
        altered = bytearray(enc)
        altered[place] ^= 1
        with pytest.raises(DecryptionError):
            private.recipient(SUITE, bytes(altered), b"")[0].open(sealed, b"")
    for wrong in (enc[:-1], enc + b"\x00", b""):
        with pytest.raises(DecryptionError):
            private.recipient(SUITE, wrong, b"")


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_are_refused(point: bytes) -> None:
    """A public or encapsulated key that would give a known secret is refused at both ends."""
    ml_kem_public = KEYS[KEM_X_WING].public_bytes[:1184]
    ml_kem_enc = setup_sender(KEM_X_WING, KEYS[KEM_X_WING].public_bytes, SUITE, b"")[0][:1088]
    for kem_id, public, enc in (
        (KEM_X25519_HKDF_SHA256, point, point),
        (KEM_X_WING, ml_kem_public + point, ml_kem_enc + point),
    ):
        with pytest.raises(MessageError):
            setup_sender(kem_id, public, SUITE, b"")
        with pytest.raises(DecryptionError):
            KEYS[kem_id].recipient(SUITE, enc, b"")


@pytest.mark.parametrize("kem_id", [KEM_ML_KEM_768, KEM_X_WING])
@pytest.mark.parametrize("place", [0, 1, 767])
def test_ml_kem_coefficients_are_reduced(kem_id: int, place: int) -> None:
    """A public key with a coefficient of q or more is refused (FIPS 203 section 7.2)."""
    for value, fits in ((3328, True), (3329, False), (4095, False)):
        public = KEYS[kem_id].public_bytes
        packed = int.from_bytes(public[:1152], "little") & ~(0xFFF << 12 * place)
        forged = (packed | value << 12 * place).to_bytes(1152, "little") + public[1152:]
        if fits:
            setup_sender(kem_id, forged, SUITE, b"")
        else:
            with pytest.raises(MessageError):
                setup_sender(kem_id, forged, SUITE, b"")


def test_p256_points_are_uncompressed_and_on_the_curve() -> None:
    """Compressed, hybrid, infinite and foreign points are refused at both ends."""
    private = KEYS[KEM_P256_HKDF_SHA256]
    good = private.public_bytes
    assert len(good) == 65
    compressed = bytes((2 + good[64] % 2,)) + good[1:33]
    for bad in (
        compressed,
        compressed + bytes(32),
        bytes((6 + good[64] % 2,)) + good[1:],
        good[:64] + bytes((good[64] ^ 1,)),
        b"\x04" + b"\xff" * 64,
        b"\x04" + bytes(64),
        bytes(65),
        b"\x00",
    ):
        with pytest.raises(MessageError):
            setup_sender(KEM_P256_HKDF_SHA256, bad, SUITE, b"")
        with pytest.raises(DecryptionError):
            private.recipient(SUITE, bad, b"")


@pytest.mark.parametrize("kem_id", hpke.KEMS)
def test_private_keys_have_their_length(kem_id: int) -> None:
    """A private key or ephemeral seed of another length is refused, as is short key material."""
    length = hpke.KEMS[kem_id].private_key_length
    for wrong in (0, length - 1, length + 1):
        with pytest.raises(UsageError):
            PrivateKey(kem_id, bytes(wrong))
        with pytest.raises(UsageError):
            setup_sender(kem_id, KEYS[kem_id].public_bytes, SUITE, b"", bytes(wrong))
    with pytest.raises(UsageError):
        PrivateKey.derive(kem_id, bytes(31))


@pytest.mark.parametrize("number", [0, P256_ORDER, 2**256 - 1])
def test_p256_private_keys_are_in_range(number: int) -> None:
    """A number that is no private key is refused, by an error that does not carry it."""
    with pytest.raises(UsageError) as refused:
        PrivateKey(KEM_P256_HKDF_SHA256, number.to_bytes(32, "big"))
    assert refused.value.__suppress_context__
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("kem_id", [KEM_ML_KEM_768, KEM_X_WING])
def test_post_quantum_kems_take_no_ephemeral_key(kem_id: int) -> None:
    """Their randomness cannot be given, and they have no authenticated modes."""
    with pytest.raises(UsageError):
        setup_sender(
            kem_id,
            KEYS[kem_id].public_bytes,
            SUITE,
            b"",
            bytes(hpke.KEMS[kem_id].private_key_length),
        )
    kem = hpke.KEMS[kem_id].make()
    pair = kem.derive_key_pair(bytes(32))
    _, enc = kem.encap(pair.public_key)
    with pytest.raises(pyhpke.NotSupportedError):
        kem.encap(pair.public_key, sks=pair.private_key)
    with pytest.raises(pyhpke.NotSupportedError):
        kem.encap(pair.public_key, eks=pair)
    with pytest.raises(pyhpke.NotSupportedError):
        kem.decap(enc, pair.private_key, pks=pair.public_key)


def test_unknown_algorithms_are_refused() -> None:
    """What is not in the tables is not run: export-only, other KDFs, other KEMs."""
    public = KEYS[KEM_X25519_HKDF_SHA256].public_bytes
    for suite in (SuiteId(1, 0xFFFF), SuiteId(1, 0), SuiteId(4, 1), SuiteId(0x11, 3)):
        with pytest.raises(UnknownKeyError):
            setup_sender(KEM_X25519_HKDF_SHA256, public, suite, b"")
        with pytest.raises(UnknownKeyError):
            KEYS[KEM_X25519_HKDF_SHA256].recipient(suite, public, b"")
    for kem_id in (0, 0x11, 0x12, 0x21, 0x40, 0x42, 0x50, 0x51):
        with pytest.raises(UnknownKeyError):
            setup_sender(kem_id, public, SUITE, b"")
        with pytest.raises(UnknownKeyError):
            PrivateKey.derive(kem_id, bytes(32))


def test_the_count_of_messages_ends() -> None:
    """The last nonce is not reached: neither end goes round (RFC 9180 section 5.2)."""
    limit = 2**96 - 1
    sealer = Sealer(SUITE, bytes(16), bytes(range(12)), limit - 1)
    opener = Opener(SUITE, bytes(16), bytes(range(12)), limit - 1)
    sealed = sealer.seal(b"the last", b"")
    assert opener.open(sealed, b"") == b"the last"
    for _ in range(2):
        with pytest.raises(LimitError):
            sealer.seal(b"", b"")
        with pytest.raises(LimitError):
            opener.open(sealed, b"")


def test_what_does_not_open_is_not_counted() -> None:
    """After a forgery the genuine message still opens (RFC 9180 section 5.2)."""
    private = KEYS[KEM_X_WING]
    enc, sealer, _ = setup_sender(KEM_X_WING, private.public_bytes, SUITE, b"")
    opener, _ = private.recipient(SUITE, enc, b"")
    sealed = sealer.seal(b"message", b"aad")
    for forged, aad in (
        (sealed, b""),
        (sealed[:-1], b"aad"),
        (b"", b"aad"),
        (b"x" + sealed, b"aad"),
    ):
        with pytest.raises(DecryptionError):
            opener.open(forged, aad)
    assert opener.open(sealed, b"aad") == b"message"


kem_ids = st.sampled_from(sorted(hpke.KEMS)) | st.integers(0, 0xFFFF)
suites = st.sampled_from(SUITES) | st.builds(
    SuiteId, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)
)
lengths = st.sampled_from([0, 31, 32, 33, 64, 65, 1088, 1120, 1184, 1216])
keys = st.binary(max_size=80) | lengths.flatmap(
    lambda size: st.binary(min_size=size, max_size=size)
)


@given(kem_ids, suites, keys, st.binary(max_size=40))
def test_nothing_but_our_errors(kem_id: int, suite: SuiteId, key: bytes, data: bytes) -> None:
    """Whatever bytes come as keys, seeds or messages, only `TransportError` comes out."""

    def quietly(function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except TransportError:
            return None

    quietly(setup_sender, kem_id, key, suite, data)
    quietly(setup_sender, kem_id, key, suite, data, data)
    quietly(PrivateKey.derive, kem_id, key)
    quietly(PrivateKey, kem_id, key)
    for private in KEYS.values():
        ends = quietly(private.recipient, suite, key, data)
        if ends is not None:
            quietly(ends[0].open, data, b"")
            quietly(ends[1].export, data, len(key))
