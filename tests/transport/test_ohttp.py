"""Oblivious HTTP, both roles against each other and against the printed exchanges."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_files import load

from transport import hpke, varint
from transport.errors import (
    DecryptionError,
    LimitError,
    TransportError,
    TruncatedError,
    UnknownKeyError,
    UsageError,
)
from transport.gateway import ChunkedRequestOpener, ChunkedResponseSealer, decapsulate
from transport.hpke import PrivateKey, SuiteId
from transport.keyconfig import GatewayKey, KeyConfig
from transport.ohttp import ChunkedRequestSealer, ChunkedResponseOpener, encapsulate

KEY = GatewayKey.generate(1, bytes(range(32)))
KEYS = {1: KEY}
SEED = bytes(range(100, 132))
HEADER_END = 7 + 32
suites = pytest.mark.parametrize("suite", hpke.SUITES)


class Pair:
    """Both ends of one chunked exchange, fixed by a seed so that bytes can be compared."""

    def __init__(self, suite: SuiteId = hpke.SUITES[0]) -> None:
        self.sealer = ChunkedRequestSealer(KEY.config, suite=suite, ephemeral_seed=SEED)
        self.opener = ChunkedRequestOpener(KEYS)

    def answered(self) -> tuple[ChunkedResponseSealer, ChunkedResponseOpener]:
        self.opener.feed(self.sealer.seal(b"request", final=True))
        self.opener.finish()
        nonce = bytes(self.opener.nonce_length)
        return self.opener.response_sealer(nonce), self.sealer.response_opener()


def open_request(data: bytes) -> bytes:
    opener = ChunkedRequestOpener(KEYS)
    return b"".join([*opener.feed(data), opener.finish()])


def open_response(data: bytes) -> bytes:
    opener = Pair().sealer.response_opener()
    return b"".join([*opener.feed(data), opener.finish()])


def sealed_request() -> bytes:
    sealer = Pair().sealer
    return sealer.seal(b"one") + sealer.seal(b"two" * 30) + sealer.seal(b"end", final=True)


def sealed_response() -> bytes:
    sealer, _ = Pair().answered()
    return sealer.seal(b"one") + sealer.seal(b"two" * 30) + sealer.seal(b"end", final=True)


messages = pytest.mark.parametrize(
    ("data", "opened"),
    [(sealed_request(), open_request), (sealed_response(), open_response)],
    ids=["request", "response"],
)
Open = Callable[[bytes], bytes]


def test_rfc_9458_exchange() -> None:
    """The one-shot exchange of RFC 9458 appendix A, byte for byte, in both directions."""
    for vector in load("ohttp/rfc9458.json")["vectors"]:
        raw = {
            name: bytes.fromhex(value)
            for name, value in vector.items()
            if isinstance(value, str) and name != "name"
        }
        key = GatewayKey.from_private_key(1, PrivateKey(0x20, raw["skR"]))
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
        key = GatewayKey.from_private_key(1, PrivateKey(0x20, bytes.fromhex(vector["skR"])))
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


@suites
def test_one_shot_round_trip(suite: SuiteId) -> None:
    """A fresh exchange opens at both ends under every suite."""
    data, opener = encapsulate(KEY.config, b"request", suite=suite)
    request, sealer = decapsulate(KEYS, data)
    assert request == b"request"
    assert opener.open(sealer.seal(b"response", os.urandom(sealer.nonce_length))) == b"response"


@suites
@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40_000), max_size=4),
    last=st.integers(0, 40_000),
    cuts=st.lists(st.integers(1, 20_000), min_size=1, max_size=5),
)
def test_chunked_round_trip_in_any_cut(
    suite: SuiteId, sizes: list[int], last: int, cuts: list[int]
) -> None:
    """Whatever sizes are sealed and however the bytes are cut, the same data come out, in order."""
    pair = Pair(suite)
    parts = [os.urandom(size) for size in [*sizes, last]]
    data = b"".join(map(pair.sealer.seal, parts[:-1])) + pair.sealer.seal(parts[-1], final=True)
    got = []
    while data:
        for cut in cuts:
            got += pair.opener.feed(data[:cut])
            data = data[cut:]
    got.append(pair.opener.finish())
    assert b"".join(got) == b"".join(parts)
    assert max(map(len, got)) <= 16384


@messages
def test_bytewise_equals_whole(data: bytes, opened: Open) -> None:
    """A chunk comes out with its last byte, not before and not later."""
    opener = ChunkedRequestOpener(KEYS) if opened is open_request else Pair().sealer
    if isinstance(opener, ChunkedRequestSealer):
        opener = opener.response_opener()
    got = [opener.feed(bytes([byte])) for byte in data]
    assert [plain for plains in got for plain in plains] == [b"one", b"two" * 30]
    start = HEADER_END if opened is open_request else 16
    assert got[start + 1 + 3 + 16 - 1] == [b"one"]
    assert opener.finish() == b"end"


@messages
def test_cut_anywhere_is_refused(data: bytes, opened: Open) -> None:
    """No prefix of a message passes for the message."""
    assert opened(data) == b"one" + b"two" * 30 + b"end"
    for cut in range(len(data)):
        with pytest.raises((TruncatedError, DecryptionError)):
            opened(data[:cut])


@messages
def test_any_altered_byte_is_refused(data: bytes, opened: Open) -> None:
    """Flipping a bit in any byte is noticed."""
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 0x01
        with pytest.raises(TransportError):
            opened(bytes(altered))


@messages
def test_trailing_bytes_are_refused(data: bytes, opened: Open) -> None:
    """Nothing can be added after the final chunk."""
    with pytest.raises(DecryptionError):
        opened(data + b"\x00")


@messages
def test_reordered_dropped_and_promoted_chunks_are_refused(data: bytes, opened: Open) -> None:
    """Chunks come in their order, all of them, and none but the last ends the message."""
    start = HEADER_END if opened is open_request else 16
    first_end = start + 1 + 3 + 16
    second_end = first_end + 2 + 90 + 16
    head, first, second, last = (
        data[:start],
        data[start:first_end],
        data[first_end:second_end],
        data[second_end:],
    )
    for forged in (
        head + second + first + last,
        head + first + last,
        head + first + first + second + last,
        head + first + b"\x00" + second[2:],
        head + first + second + varint.encode(len(last) - 1) + last[1:] + last,
    ):
        with pytest.raises(DecryptionError):
            opened(forged)


def test_longer_length_encodings_are_the_same_message() -> None:
    """The draft leaves chunk lengths free in their encoding; they are not authenticated."""
    data = sealed_request()
    assert data[HEADER_END] == 19
    longer = data[:HEADER_END] + b"\x40\x13" + data[HEADER_END + 1 :]
    assert open_request(longer) == open_request(data)


def test_empty_chunks_are_for_the_end_only() -> None:
    """An empty non-final chunk cannot be sealed, and one that is sealed elsewhere is refused."""
    pair = Pair()
    with pytest.raises(UsageError):
        pair.sealer.seal(b"")
    info = b"message/bhttp chunked request\x00" + bytes.fromhex("01002000010001")
    enc, context = hpke.setup_sender(0x20, KEY.config.public_key, hpke.SUITES[0], info)
    forged = bytes.fromhex("01002000010001") + enc + b"\x10" + context.seal(b"", b"")
    with pytest.raises(DecryptionError):
        pair.opener.feed(forged)


@pytest.mark.parametrize("length", [16385 + 16, 1 << 20, varint.MAX_VALUE])
def test_oversize_chunks_are_refused_by_their_length(length: int) -> None:
    """A chunk over 16384 bytes is refused when its length comes, before its bytes."""
    with pytest.raises(LimitError):
        Pair().opener.feed(sealed_request()[:HEADER_END] + varint.encode(length))


def test_an_endless_final_chunk_is_refused() -> None:
    """A final chunk, which names no length, is refused when it passes the chunk limit."""
    opener = Pair().opener
    opener.feed(sealed_request()[:HEADER_END] + b"\x00" + bytes(16384 + 16))
    with pytest.raises(LimitError):
        opener.feed(b"x")


def test_message_limit_counts_all_chunks() -> None:
    """The plaintext of a whole message is limited, in both directions, to the byte."""
    for limit, fits in ((300, True), (299, False)):
        pair = Pair()
        pair.opener = ChunkedRequestOpener(KEYS, limit=limit)
        data = pair.sealer.seal(bytes(200)) + pair.sealer.seal(bytes(100), final=True)
        if fits:
            assert len(b"".join([*pair.opener.feed(data), pair.opener.finish()])) == limit
        else:
            with pytest.raises(LimitError):
                pair.opener.feed(data)
    sealer, _ = Pair().answered()
    opener = Pair().sealer.response_opener(limit=10)
    with pytest.raises(LimitError):
        opener.feed(sealer.seal(bytes(11)))


def test_unknown_keys_are_named_before_anything_else() -> None:
    """Another key identifier, KEM or suite is refused from the seven header bytes alone."""
    for header in ("02002000010001", "01001000010001", "01002000010002", "01002000030001"):
        with pytest.raises(UnknownKeyError):
            ChunkedRequestOpener(KEYS).feed(bytes.fromhex(header))
        with pytest.raises(UnknownKeyError):
            decapsulate(KEYS, bytes.fromhex(header) + bytes(80))


def test_a_suite_that_the_gateway_does_not_offer_is_refused() -> None:
    """A supported suite counts only where the configuration names it."""
    aes_only = KeyConfig(1, 0x20, KEY.config.public_key, (hpke.SUITES[0],))
    with pytest.raises(UsageError):
        encapsulate(aes_only, b"", suite=hpke.SUITES[1])
    data, _ = encapsulate(KEY.config, b"", suite=hpke.SUITES[1])
    with pytest.raises(UnknownKeyError):
        decapsulate({1: GatewayKey(aes_only, KEY.private_key)}, data)


def test_another_gateways_key_does_not_open() -> None:
    """A request opens under the one key that it was sealed to."""
    other = {1: GatewayKey.generate(1, SEED)}
    data, _ = encapsulate(KEY.config, b"request")
    with pytest.raises(DecryptionError):
        decapsulate(other, data)
    with pytest.raises(DecryptionError):
        ChunkedRequestOpener(other).feed(sealed_request())


def test_one_shot_and_chunked_do_not_mix() -> None:
    """A chunk is no one-shot message under the same keys: the labels differ."""
    data, _ = encapsulate(KEY.config, b"request")
    chunked = data[:HEADER_END] + b"\x00" + data[HEADER_END:]
    with pytest.raises(DecryptionError):
        open_request(chunked)


def test_one_shot_cuts_and_changes_are_refused() -> None:
    """No prefix and no altered copy of a one-shot message opens, in either direction."""
    data, _ = encapsulate(KEY.config, b"request", ephemeral_seed=SEED)
    answer = decapsulate(KEYS, data)[1].seal(b"response", bytes(16))

    def opener(response: bytes) -> bytes:
        return encapsulate(KEY.config, b"request", ephemeral_seed=SEED)[1].open(response)

    assert opener(answer) == b"response"
    for whole, opened in ((data, lambda part: decapsulate(KEYS, part)), (answer, opener)):
        for cut in range(len(whole)):
            with pytest.raises((TruncatedError, DecryptionError)):
                opened(whole[:cut])
            altered = bytearray(whole)
            altered[cut] ^= 0x80
            with pytest.raises(TransportError):
                opened(bytes(altered))
        with pytest.raises(DecryptionError):
            opened(whole + b"\x00")


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


def test_no_second_try_after_a_forgery() -> None:
    """After a chunk that does not open, the right chunk is refused too."""
    sealer, opener = Pair().answered()
    data = sealer.seal(b"one")
    with pytest.raises(DecryptionError):
        opener.feed(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UsageError):
        opener.feed(data)


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
    for suite, length in zip(hpke.SUITES, (16, 32), strict=True):
        pair = Pair(suite)
        pair.opener.feed(pair.sealer.seal(b"request"))
        assert pair.opener.nonce_length == length
        for wrong in (length - 1, length + 1):
            with pytest.raises(UsageError):
                pair.opener.response_sealer(bytes(wrong))


def test_both_ends_export_the_same_secret() -> None:
    """An application's exported secret is equal at both ends and differs by label and exchange."""
    pair = Pair()
    pair.opener.feed(pair.sealer.seal(b"request"))
    secret = pair.sealer.export(b"receipt salt", 32)
    assert pair.opener.export(b"receipt salt", 32) == secret
    assert pair.opener.export(b"other", 32) != secret
    assert ChunkedRequestSealer(KEY.config).export(b"receipt salt", 32) != secret
    assert pair.opener.enc == pair.sealer.enc
    data, opener = encapsulate(KEY.config, b"request")
    assert decapsulate(KEYS, data)[1].export(b"salt", 64) == opener.export(b"salt", 64)


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
    for thing in (pair.sealer, pair.opener, sealer, opener, *encapsulate(KEY.config, b"hi")[1:]):
        assert SEED.hex() not in repr(thing)
        assert len(repr(thing)) < 120
