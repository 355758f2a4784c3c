"""Chunked Oblivious HTTP on the wire: any cut opens, and nothing but the message itself does."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from exchanges import COMBINATIONS, PARTS, WIRES, Wire, make_key, record
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import hpke, varint
from transport.encapsulation import ChunkOpener, ChunkSealer
from transport.errors import (
    DecryptionError,
    LimitError,
    TransportError,
    TruncatedError,
    UnknownKeyError,
    UsageError,
)
from transport.gateway import ChunkedRequestOpener
from transport.hpke import KEM_X25519_HKDF_SHA256, SUITES, SuiteId
from transport.ohttp import ChunkedRequestSealer

MAX = 16384
wires = pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
both_ways = pytest.mark.parametrize("way", [0, 1], ids=["request", "response"])


@wires
def test_every_cut_opens(wire: Wire) -> None:
    """Cut in two at any place, and byte by byte, the message opens to the same chunks."""
    for cut in range(len(wire.data) + 1):
        assert wire.open(wire.data[:cut], wire.data[cut:]) == list(PARTS)
    assert wire.open(*(bytes((byte,)) for byte in wire.data)) == list(PARTS)
    assert wire.open(b"", bytearray(wire.data), b"") == list(PARTS)


@wires
def test_chunks_come_with_their_last_byte(wire: Wire) -> None:
    """A chunk comes out with its last byte, not before and not later."""
    opener, position = wire.opener(), wire.start
    assert opener.feed(wire.data[:position]) == []
    for chunk, part in zip(wire.chunks()[:-1], PARTS[:-1], strict=True):
        assert opener.feed(chunk[:-1]) == []
        assert opener.feed(chunk[-1:]) == [part]
        position += len(chunk)
    assert opener.feed(wire.data[position:]) == []
    assert opener.finish() == PARTS[-1]


@wires
def test_truncation_is_always_an_error(wire: Wire) -> None:
    """No prefix of a message passes for the message, and what was cut cannot go on."""
    enough = len(wire.data) - len(PARTS[-1])  # for a final chunk, though not for this one
    for cut in range(len(wire.data)):
        opener = wire.opener()
        opener.feed(wire.data[:cut])
        with pytest.raises(TruncatedError if cut < enough else DecryptionError):
            opener.finish()
        with pytest.raises(UsageError):
            opener.feed(wire.data[cut:])
        with pytest.raises(UsageError):
            opener.finish()


@wires
def test_any_altered_byte_is_refused(wire: Wire) -> None:
    """Flipping a bit in any byte is noticed."""
    for place in range(len(wire.data)):
        altered = bytearray(wire.data)
        altered[place] ^= 0x01
        with pytest.raises(TransportError):
            wire.open(bytes(altered))


@wires
def test_trailing_bytes_are_refused(wire: Wire) -> None:
    """Nothing can be added after the final chunk."""
    with pytest.raises(DecryptionError):
        wire.open(wire.data + b"\x00")


@wires
def test_chunks_in_any_other_order_are_refused(wire: Wire) -> None:
    """Swapped, dropped, repeated, promoted and demoted chunks do not open."""
    start, (first, second, third, last) = wire.data[: wire.start], wire.chunks()
    assert wire.open(start + first + second + third + last) == list(PARTS)
    demoted = varint.encode(len(last) - 1) + last[1:]
    for forged in (
        second + first + third + last,
        first + third + second + last,
        second + third + last,
        first + third + last,
        first + second + last,
        first + first + second + third + last,
        first + second + third + third + last,
        first + b"\x00" + second[2:],
        first + second + b"\x00" + third[2:],
        first + second + third + demoted + last,
        last,
    ):
        with pytest.raises(DecryptionError):
            wire.open(start + forged)
    with pytest.raises(TransportError):
        wire.open(start + first + second + third + demoted)


@pytest.mark.parametrize(("kem_id", "suite"), COMBINATIONS)
@both_ways
def test_chunks_of_another_exchange_are_refused(way: int, kem_id: int, suite: SuiteId) -> None:
    """Neither a chunk nor a whole message of another exchange under the same key opens here."""
    ours, theirs = record(kem_id, suite)[way], record(kem_id, suite, nonce_byte=1)[way]
    start, mine, other = ours.data[: ours.start], ours.chunks(), theirs.chunks()
    for place in range(len(mine)):
        mixed = [*mine[:place], other[place], *mine[place + 1 :]]
        with pytest.raises(DecryptionError):
            ours.open(start + b"".join(mixed))
    if way == 1:
        with pytest.raises(DecryptionError):
            ours.open(theirs.data)


@both_ways
def test_requests_are_no_responses(way: int) -> None:
    """The chunks of one direction do not open in the other."""
    pair = record(KEM_X25519_HKDF_SHA256, SUITES[0])
    ours, theirs = pair[way], pair[1 - way]
    with pytest.raises(DecryptionError):
        ours.open(ours.data[: ours.start] + theirs.data[theirs.start :])


# Plaintexts around the borders of a length's encoding, of the plaintext's and of the sealed one's,
# and of the chunk size.
LENGTHS = sorted(
    {0, 1, 2}
    | {border + step for border in (64 - 16, 64, MAX - 16, MAX) for step in (-1, 0, 1)}
    | {2 * MAX - 1, 2 * MAX, 2 * MAX + 1, 40_000}
)


@pytest.mark.parametrize("size", LENGTHS)
@both_ways
def test_every_class_of_chunk_length(way: int, size: int) -> None:
    """Data of any length come out whole, before more and as the final part, in several cuts."""
    data = os.urandom(size)
    for parts in [(b"x", data)] if not size else [(b"x", data), (data, b"x"), (data, data, b"")]:
        for suite in SUITES[:3]:
            wire = record(KEM_X25519_HKDF_SHA256, suite, parts)[way]
            got = wire.open(wire.data)
            assert b"".join(got) == b"".join(parts)
            assert max(map(len, got)) <= MAX
            borders, position = set(), wire.start
            for chunk in wire.chunks():
                borders |= {position + step for step in (-1, 0, 1, 2, 3, 4, 5)}
                position += len(chunk)
            for cut in sorted(borders | {position - 17, position - 1}):
                assert wire.open(wire.data[:cut], wire.data[cut:]) == got


@settings(deadline=None, max_examples=50)
@given(
    way=st.integers(0, 1),
    combination=st.sampled_from(COMBINATIONS),
    sizes=st.lists(st.integers(1, 40_000), max_size=3),
    last=st.integers(0, 40_000),
    cuts=st.lists(st.integers(1, 20_000), min_size=1, max_size=5),
)
def test_any_sizes_in_any_cuts(
    way: int, combination: tuple[int, SuiteId], sizes: list[int], last: int, cuts: list[int]
) -> None:
    """Whatever sizes are sealed and however the bytes are cut, the same data come out, in order."""
    parts = tuple(os.urandom(size) for size in [*sizes, last])
    wire = record(*combination, parts)[way]
    pieces, data = [], wire.data
    while data:
        for cut in cuts:
            pieces.append(data[:cut])
            data = data[cut:]
    assert b"".join(wire.open(*pieces)) == b"".join(parts)


@both_ways
def test_longer_length_encodings_are_the_same_message(way: int) -> None:
    """The draft leaves chunk lengths free in their encoding; they are not authenticated."""
    wire = record(KEM_X25519_HKDF_SHA256, SUITES[0])[way]
    first, *others, last = wire.chunks()
    assert first[0] == len(PARTS[0]) + 16
    for prefix in (b"\x40\x13", b"\x80\x00\x00\x13", b"\xc0" + bytes(6) + b"\x13"):
        longer = wire.data[: wire.start] + prefix + first[1:] + b"".join([*others, last])
        assert wire.open(longer) == list(PARTS)
    longer = wire.data[: -len(last)] + b"\x80\x00\x00\x00" + last[1:]
    for cut in range(len(longer) - len(last) - 3, len(longer) + 1):
        assert wire.open(longer[:cut], longer[cut:]) == list(PARTS)


def test_empty_chunks_are_for_the_end_only() -> None:
    """An empty non-final chunk cannot be sealed, and one that is sealed elsewhere is refused."""
    key = make_key(KEM_X25519_HKDF_SHA256, SUITES[0])
    sealer = ChunkedRequestSealer(key.config)
    with pytest.raises(UsageError):
        sealer.seal(b"")
    header = bytes.fromhex("01002000010001")
    info = b"message/bhttp chunked request\x00" + header
    enc, other, _ = hpke.setup_sender(0x20, key.config.public_key, SUITES[0], info)
    with pytest.raises(DecryptionError):
        ChunkedRequestOpener({1: key}).feed(header + enc + b"\x10" + other.seal(b"", b""))
    assert ChunkedRequestOpener({1: key}).feed(header + enc) == []
    for short in range(1, 17):
        with pytest.raises(DecryptionError):
            ChunkedRequestOpener({1: key}).feed(header + enc + bytes((short,)))
    opener = ChunkedRequestOpener({1: key})
    assert opener.feed(sealer.seal(b"", final=True)) == []
    assert opener.finish() == b""


@both_ways
@pytest.mark.parametrize("length", [MAX + 16 + 1, 1 << 20, varint.MAX_VALUE])
def test_oversize_chunks_are_refused_by_their_length(way: int, length: int) -> None:
    """A chunk over 16384 bytes is refused when its length comes, before its bytes."""
    wire = record(KEM_X25519_HKDF_SHA256, SUITES[0])[way]
    with pytest.raises(LimitError):
        wire.opener().feed(wire.data[: wire.start] + varint.encode(length))


@both_ways
def test_an_endless_final_chunk_is_refused(way: int) -> None:
    """A final chunk, which names no length, is refused when it passes the chunk limit."""
    wire = record(KEM_X25519_HKDF_SHA256, SUITES[0])[way]
    start = wire.data[: wire.start] + b"\x00"
    opener = wire.opener()
    opener.feed(start + bytes(MAX + 16))
    with pytest.raises(LimitError):
        opener.feed(b"x")
    with pytest.raises(LimitError):
        wire.opener().feed(start + bytes(10 * MAX))


def test_message_limit_counts_all_chunks() -> None:
    """The plaintext of a whole message is limited, in both directions, to the byte."""
    key = make_key(KEM_X25519_HKDF_SHA256, SUITES[0])
    for limit, fits in ((300, True), (299, False)):
        sealer = ChunkedRequestSealer(key.config)
        request = ChunkedRequestOpener({1: key}, limit=limit)
        data = sealer.seal(bytes(200)) + sealer.seal(bytes(100), final=True)
        nonce_opener = ChunkedRequestOpener({1: key})
        nonce_opener.feed(data)
        answer = nonce_opener.response_sealer(bytes(nonce_opener.nonce_length))
        response = sealer.response_opener(limit=limit)
        back = answer.seal(bytes(200)) + answer.seal(bytes(50)) + answer.seal(bytes(50), final=True)
        for opener, message in ((request, data), (response, back)):
            if fits:
                assert len(b"".join([*opener.feed(message), opener.finish()])) == limit
            else:
                with pytest.raises(LimitError):
                    opener.feed(message)
    for limit, fits in ((300, True), (299, False)):
        sealer = ChunkedRequestSealer(key.config)
        opener = ChunkedRequestOpener({1: key}, limit=limit)
        data = sealer.seal(bytes(200)) + sealer.seal(bytes(100))
        if fits:
            assert b"".join(opener.feed(data)) == bytes(limit)
        else:
            with pytest.raises(LimitError):
                opener.feed(data[: 7 + 32 + 2 + 216 + 2])  # the second length is enough


def test_a_sealer_stops_at_its_limit() -> None:
    """A sender does not put more under one key than the draft's margin allows."""
    sealer = ChunkSealer(lambda data, aad: data, b"", limit=10)
    sealer.seal(bytes(6))
    with pytest.raises(LimitError):
        sealer.seal(bytes(5))
    sealer.seal(bytes(4), final=True)


def test_refusals_come_with_the_byte_that_shows_them() -> None:
    """An unknown key is refused at the seventh byte, a bad encapsulated key at its last."""
    key = make_key(KEM_X25519_HKDF_SHA256, SUITES[0])
    for header in ("02002000010001", "01001000010001", "01002000010002", "01647a00030001"):
        data = bytes.fromhex(header)
        opener = ChunkedRequestOpener({1: key})
        assert opener.feed(data[:6]) == []
        with pytest.raises(UnknownKeyError):
            opener.feed(data[6:])
        with pytest.raises(UsageError):
            opener.feed(bytes(100))
    opener = ChunkedRequestOpener({1: key})
    assert opener.feed(bytes.fromhex("01002000010001") + bytes(31)) == []
    with pytest.raises(DecryptionError):
        opener.feed(bytes(1))


def test_no_second_try_after_a_forgery() -> None:
    """After a chunk that does not open, the right chunk is refused too."""
    for wire in WIRES:
        first = wire.chunks()[0]
        opener = wire.opener()
        opener.feed(wire.data[: wire.start])
        with pytest.raises(DecryptionError):
            opener.feed(first[:-1] + bytes((first[-1] ^ 1,)))
        with pytest.raises(UsageError):
            opener.feed(first)


@both_ways
def test_little_is_held_whatever_comes(way: int) -> None:
    """However much is handed over at once, no more than one chunk is taken in before a refusal."""
    wire = record(KEM_X25519_HKDF_SHA256, SUITES[0])[way]
    flood = b"\x00" + bytes(1 << 24)
    opener = wire.opener()
    opener.feed(wire.data[: wire.start])
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            opener.feed(flood)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 20


@settings(deadline=None)
@given(
    wire=st.sampled_from(WIRES),
    place=st.integers(0, 2000),
    noise=st.binary(max_size=60),
    drop=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 300), max_size=4),
)
def test_mutated_messages_give_nothing_but_our_errors(
    wire: Wire, place: int, noise: bytes, drop: int, cuts: list[int]
) -> None:
    """A message with bytes changed, put in or left out opens to its own parts or not at all."""
    place %= len(wire.data) + 1
    mutated = wire.data[:place] + noise + wire.data[place + drop :]
    pieces = []
    for cut in cuts:
        pieces.append(mutated[:cut])
        mutated = mutated[cut:]
    opener = wire.opener()
    got = drive(opener, [*pieces, mutated])
    assert got == list(PARTS)[: len(got)]


def drive(opener: ChunkOpener, pieces: list[bytes]) -> list[bytes]:
    got: list[bytes] = []
    try:
        for piece in pieces:
            got += opener.feed(piece)
        got.append(opener.finish())
    except TransportError:
        pass
    return got
