"""Oblivious HTTP, both roles against each other and against the printed exchanges."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from exchanges import COMBINATIONS, make_key
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_files import load

from transport import hpke
from transport.encapsulation import DEFAULT_LIMIT, RequestHeader
from transport.errors import (
    DecryptionError,
    LimitError,
    TransportError,
    TruncatedError,
    UnknownKeyError,
    UsageError,
)
from transport.gateway import ChunkedRequestOpener, ChunkedResponseSealer, decapsulate
from transport.hpke import KEM_X25519_HKDF_SHA256, PrivateKey, SuiteId
from transport.keyconfig import GatewayKey, KeyConfig
from transport.ohttp import ChunkedRequestSealer, ChunkedResponseOpener, encapsulate

KEY = GatewayKey.generate(1, bytes(range(32)))
KEYS = {1: KEY}
SEED = bytes(range(100, 132))
HEADER_END = 7 + 32
PRINTED = (SuiteId(1, 1), SuiteId(1, 3))
combinations = pytest.mark.parametrize(("kem_id", "suite"), COMBINATIONS)


class Pair:
    """Both ends of one chunked exchange."""

    def __init__(self, key: GatewayKey = KEY) -> None:
        self.sealer = ChunkedRequestSealer(key.config)
        self.opener = ChunkedRequestOpener({key.config.key_id: key})

    def answered(self) -> tuple[ChunkedResponseSealer, ChunkedResponseOpener]:
        self.opener.feed(self.sealer.seal(b"request", final=True))
        self.opener.finish()
        nonce = bytes(self.opener.nonce_length)
        return self.opener.response_sealer(nonce), self.sealer.response_opener()


def test_rfc_9458_exchange() -> None:
    """The one-shot exchange of RFC 9458 appendix A, byte for byte, in both directions."""
    for vector in load("ohttp/rfc9458.json")["vectors"]:
        raw = {
            name: bytes.fromhex(value)
            for name, value in vector.items()
            if isinstance(value, str) and name != "name"
        }
        key = GatewayKey.from_private_key(1, PrivateKey(0x20, raw["skR"]), suites=PRINTED)
        data, opener = encapsulate(key.config, raw["request"], ephemeral_seed=raw["skE"])
        assert data == raw["encapsulated_request"]
        request, sealer = decapsulate({1: key}, data)
        assert (request, sealer.enc, sealer.key_id) == (raw["request"], raw["pkE"], 1)
        answer = sealer.seal(raw["response"], raw["response_nonce"])
        assert answer == raw["encapsulated_response"]
        assert opener.open(answer) == raw["response"]


def test_chunked_draft_exchange() -> None:
    """The chunked exchange of the draft's example, byte for byte, in both directions."""
    for vector in load("ohttp/chunked-ohttp-08.json")["vectors"]:
        key = GatewayKey.from_private_key(
            1, PrivateKey(0x20, bytes.fromhex(vector["skR"])), suites=PRINTED
        )
        assert key.config.encode().hex() == vector["key_config"]
        sealer = ChunkedRequestSealer(key.config, ephemeral_seed=bytes.fromhex(vector["skE"]))
        *chunks, last = map(bytes.fromhex, vector["request_chunks"])
        data = b"".join(map(sealer.seal, chunks)) + sealer.seal(last, final=True)
        assert data.hex() == "".join(vector["encapsulated_request"])
        opener = ChunkedRequestOpener({1: key})
        assert [*opener.feed(data), opener.finish()] == [*chunks, last]
        answer = opener.response_sealer(bytes.fromhex(vector["response_nonce"]))
        *chunks, last = map(bytes.fromhex, vector["response_chunks"])
        data = b"".join(map(answer.seal, chunks)) + answer.seal(last, final=True)
        assert data.hex() == "".join(vector["encapsulated_response"])
        reader = sealer.response_opener()
        assert [*reader.feed(data), reader.finish()] == [*chunks, last]


@combinations
def test_one_shot_round_trip(kem_id: int, suite: SuiteId) -> None:
    """A fresh exchange opens at both ends, whatever the sizes, with every KEM and suite."""
    key = make_key(kem_id, suite)
    for size in (0, 1, 63, 64, 16383, 16384, 16385, 100_000):
        message = os.urandom(size)
        data, opener = encapsulate(key.config, message)
        assert len(data) == 7 + hpke.KEMS[kem_id].enc_length + size + 16
        request, sealer = decapsulate({1: key}, data)
        assert request == message
        assert opener.open(sealer.seal(message, os.urandom(sealer.nonce_length))) == message


@combinations
def test_responses_are_sealed_as_the_rfc_says(kem_id: int, suite: SuiteId) -> None:
    """Response keys come from the suite's own KDF, and nonces count up (RFC 9458 section 4.4).

    Computed here a second time, with other implementations of HKDF and the AEAD.
    """
    key = make_key(kem_id, suite)
    data, opener = encapsulate(key.config, b"request")
    enc = data[7 : 7 + hpke.KEMS[kem_id].enc_length]
    recipient = key.private_key.recipient(suite, enc, b"message/bhttp request\x00" + data[:7])[1]
    hash_of: dict[int, hashes.HashAlgorithm] = {
        1: hashes.SHA256(),
        2: hashes.SHA384(),
        3: hashes.SHA512(),
    }
    key_length = 16 if suite.aead_id == 1 else 32
    nonce = os.urandom(max(12, key_length))
    secret = recipient.export(b"message/bhttp response", len(nonce))

    def derive(label: bytes, length: int) -> bytes:
        return HKDF(hash_of[suite.kdf_id], length, enc + nonce, label).derive(secret)

    primitive = ChaCha20Poly1305 if suite.aead_id == 3 else AESGCM
    cipher = primitive(derive(b"key", key_length))
    sealed = cipher.encrypt(derive(b"nonce", 12), b"response", b"")
    assert opener.open(nonce + sealed) == b"response"

    pair = Pair(key)
    pair.opener.feed(pair.sealer.seal(b"request"))
    enc, info = pair.sealer.enc, b"message/bhttp chunked request\x00" + data[:7]
    recipient = key.private_key.recipient(suite, enc, info)[1]
    secret = recipient.export(b"message/bhttp chunked response", len(nonce))
    cipher = primitive(derive(b"key", key_length))
    base = int.from_bytes(derive(b"nonce", 12), "big")
    answer, reader = pair.opener.response_sealer(nonce), pair.sealer.response_opener()
    for counter in range(3):
        sealed = cipher.encrypt((base ^ counter).to_bytes(12, "big"), b"delta", b"")
        framed = bytes((len(sealed),)) + sealed
        assert answer.seal(b"delta") == (b"" if counter else nonce) + framed
        assert reader.feed((b"" if counter else nonce) + framed) == [b"delta"]
    sealed = cipher.encrypt((base ^ 3).to_bytes(12, "big"), b"end", b"final")
    assert answer.seal(b"end", final=True) == b"\x00" + sealed
    assert reader.feed(b"\x00" + sealed) == []
    assert reader.finish() == b"end"


def test_unknown_keys_are_named_before_anything_else() -> None:
    """Another key identifier, KEM or suite is refused from the seven header bytes."""
    for header in ("02002000010001", "01001000010001", "01002000010000", "01002000030001"):
        with pytest.raises(UnknownKeyError):
            decapsulate(KEYS, bytes.fromhex(header) + bytes(80))


def test_a_suite_that_the_gateway_does_not_offer_is_refused() -> None:
    """A supported suite counts only where the configuration names it."""
    aes_only = KeyConfig(1, 0x20, KEY.config.public_key, (SuiteId(1, 1),))
    with pytest.raises(UsageError):
        encapsulate(aes_only, b"", suite=SuiteId(1, 3))
    data, _ = encapsulate(KEY.config, b"", suite=SuiteId(1, 3))
    with pytest.raises(UnknownKeyError):
        decapsulate({1: GatewayKey(aes_only, KEY.private_key)}, data)


def test_several_keys_at_one_gateway() -> None:
    """A gateway opens under each of its keys, whatever their KEMs, and names the one used."""
    ring = {
        key_id: GatewayKey.generate(key_id, SEED, kem_id=kem_id)
        for key_id, kem_id in enumerate(hpke.KEMS)
    }
    for key_id, key in ring.items():
        data, opener = encapsulate(key.config, b"request")
        request, sealer = decapsulate(ring, data)
        assert (request, sealer.key_id) == (b"request", key_id)
        assert opener.open(sealer.seal(b"yes", bytes(sealer.nonce_length))) == b"yes"


@combinations
def test_another_gateways_key_does_not_open(kem_id: int, suite: SuiteId) -> None:
    """A request opens under the one key that it was sealed to."""
    key = make_key(kem_id, suite)
    stranger = GatewayKey.from_private_key(1, PrivateKey.derive(kem_id, SEED), suites=(suite,))
    data, _ = encapsulate(key.config, b"request")
    with pytest.raises(DecryptionError):
        decapsulate({1: stranger}, data)
    with pytest.raises(DecryptionError):
        ChunkedRequestOpener({1: stranger}).feed(ChunkedRequestSealer(key.config).seal(b"request"))


def test_one_shot_and_chunked_do_not_mix() -> None:
    """A chunk is no one-shot message under the same keys: the labels differ."""
    data, _ = encapsulate(KEY.config, b"request")
    opener = ChunkedRequestOpener(KEYS)
    opener.feed(data[:HEADER_END] + b"\x00" + data[HEADER_END:])
    with pytest.raises(DecryptionError):
        opener.finish()
    chunked = ChunkedRequestSealer(KEY.config).seal(b"request", final=True)
    with pytest.raises(DecryptionError):
        decapsulate(KEYS, chunked[:HEADER_END] + chunked[HEADER_END + 1 :])


@combinations
def test_one_shot_cuts_and_changes_are_refused(kem_id: int, suite: SuiteId) -> None:
    """No prefix and no altered copy of a one-shot message opens, in either direction."""
    key = make_key(kem_id, suite)
    data, opener = encapsulate(key.config, b"request")
    _, sealer = decapsulate({1: key}, data)
    answer = sealer.seal(b"response", os.urandom(sealer.nonce_length))

    def open_response(response: bytes) -> bytes:
        return copy.copy(opener).open(response)

    def open_request(request: bytes) -> bytes:
        return decapsulate({1: key}, request)[0]

    roles: list[tuple[bytes, bytes, Callable[[bytes], bytes]]] = [
        (data, b"request", open_request),
        (answer, b"response", open_response),
    ]
    for whole, plaintext, opened in roles:
        assert opened(whole) == plaintext
        for cut in range(len(whole)):
            with pytest.raises((TruncatedError, DecryptionError)):
                opened(whole[:cut])
            altered = bytearray(whole)
            altered[cut] ^= 0x80
            with pytest.raises(TransportError):
                opened(bytes(altered))
        with pytest.raises(DecryptionError):
            opened(whole + b"\x00")


def test_messages_over_the_limit_are_refused_unread() -> None:
    """Over a gibibyte nothing is sealed or opened whole: the draft's margin for AES-128-GCM."""
    huge = bytes(DEFAULT_LIMIT + 1)
    data, opener = encapsulate(KEY.config, b"request")
    _, sealer = decapsulate(KEYS, data)
    attempts: list[Callable[[], object]] = [
        lambda: encapsulate(KEY.config, huge),
        lambda: decapsulate(KEYS, huge),
        lambda: opener.open(huge),
        lambda: sealer.seal(huge, bytes(sealer.nonce_length)),
        lambda: ChunkedRequestSealer(KEY.config).seal(huge),
    ]
    for attempt in attempts:
        with pytest.raises(LimitError):
            attempt()


def test_a_response_opens_for_its_request_only() -> None:
    """The answer to one request does not open as the answer to another."""
    sealer, _ = Pair().answered()
    stranger = ChunkedRequestSealer(KEY.config).response_opener()
    with pytest.raises(DecryptionError):
        stranger.feed(sealer.seal(b"response"))


def test_every_object_serves_once() -> None:
    """Second uses of single-use objects are refused."""
    data, opener = encapsulate(KEY.config, b"request")
    _, sealer = decapsulate(KEYS, data)
    answer = sealer.seal(b"response", bytes(16))
    with pytest.raises(UsageError):
        sealer.seal(b"again", bytes(16))
    opener.open(answer)
    with pytest.raises(UsageError):
        opener.open(answer)

    pair = Pair()
    response_sealer, response_opener = pair.answered()
    with pytest.raises(UsageError):
        pair.sealer.seal(b"more")
    with pytest.raises(UsageError):
        pair.sealer.response_opener()
    with pytest.raises(UsageError):
        pair.opener.response_sealer(bytes(16))
    with pytest.raises(UsageError):
        pair.opener.feed(b"more")
    response_opener.feed(response_sealer.seal(b"all", final=True))
    response_opener.finish()
    with pytest.raises(UsageError):
        response_sealer.seal(b"more")
    with pytest.raises(UsageError):
        response_opener.finish()


def test_response_may_begin_before_the_request_ends() -> None:
    """The response's keys depend on the header alone, so an early answer is possible."""
    pair = Pair()
    with pytest.raises(UsageError):
        pair.opener.response_sealer(bytes(16))
    assert not pair.opener.header_open
    pair.opener.feed(pair.sealer.seal(b"begin"))
    assert pair.opener.header_open
    early = pair.opener.response_sealer(bytes(pair.opener.nonce_length))
    assert pair.sealer.response_opener().feed(early.seal(b"early")) == [b"early"]
    assert pair.opener.feed(pair.sealer.seal(b"rest")) == [b"rest"]


def test_response_nonce_has_its_length() -> None:
    """A nonce that is not max(Nn, Nk) bytes long is refused."""
    for aead_id, length in ((1, 16), (2, 32), (3, 32)):
        pair = Pair(make_key(KEM_X25519_HKDF_SHA256, SuiteId(1, aead_id)))
        pair.opener.feed(pair.sealer.seal(b"request"))
        assert pair.opener.nonce_length == length
        for wrong in (length - 1, length + 1):
            with pytest.raises(UsageError):
                pair.opener.response_sealer(bytes(wrong))
        pair.opener.response_sealer(bytes(length))


@combinations
def test_both_ends_export_the_same_secret(kem_id: int, suite: SuiteId) -> None:
    """An application's exported secret is equal at both ends and differs by label and exchange."""
    key = make_key(kem_id, suite)
    pair = Pair(key)
    pair.opener.feed(pair.sealer.seal(b"request"))
    secret = pair.sealer.export(b"receipt salt", 32)
    assert pair.opener.export(b"receipt salt", 32) == secret
    assert pair.opener.export(b"other", 32) != secret
    assert ChunkedRequestSealer(key.config).export(b"receipt salt", 32) != secret
    assert pair.opener.enc == pair.sealer.enc
    data, opener = encapsulate(key.config, b"request")
    assert decapsulate({1: key}, data)[1].export(b"salt", 64) == opener.export(b"salt", 64)


@pytest.mark.parametrize(
    ("label", "length"),
    [
        (b"message/bhttp response", 32),
        (b"message/bhttp chunked response", 32),
        (b"salt", 0),
        (b"salt", 1 << 20),
    ],
)
def test_response_keys_cannot_be_exported(label: bytes, length: int) -> None:
    """The labels of OHTTP itself, and impossible lengths, are refused."""
    with pytest.raises(UsageError):
        Pair().sealer.export(label, length)


def test_secrets_do_not_show() -> None:
    """No representation of an exchange's objects prints what it holds."""
    pair = Pair()
    sealer, opener = pair.answered()
    secret = pair.sealer.export(b"label", 32)
    things = [pair.sealer, pair.opener, sealer, opener, encapsulate(KEY.config, b"hi")[1]]
    for thing in [*things, *hpke.setup_sender(0x20, KEY.config.public_key, SuiteId(1, 1), b"")[1:]]:
        assert secret.hex() not in repr(thing)
        assert len(repr(thing)) < 120


Call = tuple[str, bytes, int]
calls = st.lists(
    st.tuples(
        st.sampled_from(["feed", "finish", "seal", "final", "export", "answer", "take", "names"]),
        st.binary(max_size=80),
        st.integers(-1, 70),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(st.sampled_from(COMBINATIONS), st.binary(max_size=1500), st.booleans(), calls)
def test_nothing_but_our_errors(
    combination: tuple[int, SuiteId], data: bytes, headed: bool, made: list[Call]
) -> None:
    """Random bytes and calls in any order give answers or `TransportError`, in both roles."""
    key = make_key(*combination)
    if headed:
        data = RequestHeader(1, *combination).encode() + data
    _, whole = encapsulate(key.config, b"request")
    quietly(decapsulate, {1: key}, data)
    quietly(whole.open, data)
    quietly(whole.open, data)
    quietly(RequestHeader.decode, data)
    pair = Pair(key)
    ends: list[Any] = [pair.sealer, pair.opener, pair.sealer.response_opener()]
    if headed:
        quietly(pair.opener.feed, data)
    for name, content, number in made:
        for end in list(ends):
            if name in ("feed", "finish") and hasattr(end, name):
                quietly(getattr(end, name), *([content] if name == "feed" else []))
            elif name in ("seal", "final") and hasattr(end, "seal"):
                quietly(end.seal, content, final=name == "final")
            elif name == "export" and hasattr(end, name):
                quietly(end.export, content, number)
            elif name == "take" and hasattr(end, "response_opener"):
                quietly(end.response_opener)
            elif name == "answer" and hasattr(end, "response_sealer"):
                ends += filter(None, [quietly(end.response_sealer, content)])
            elif name == "names" and end is pair.opener:
                for attribute in ("key_id", "enc", "nonce_length", "header_open"):
                    quietly(getattr, end, attribute)


def quietly(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except TransportError:
        return None
