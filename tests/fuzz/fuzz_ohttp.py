"""Oblivious HTTP: raw bytes, and valid messages with a few bytes changed.

An input's first byte says which: 0, the rest is the message; else the rest is a script. A script
begins with what to seal and goes on with how to change the sealed bytes. Whatever is changed, the
other end reads a beginning of what was sealed or nothing, and all of it where it sees no error.
"""

from __future__ import annotations

from collections.abc import Iterable

from fuzz_support import Target, held, mutate, pieces

from transport.encapsulation import MAX_CHUNK, RequestHeader
from transport.errors import TransportError, UnknownKeyError
from transport.gateway import ChunkedRequestOpener, decapsulate
from transport.hpke import KEMS, TAG_LENGTH
from transport.keyconfig import (
    GatewayKey,
    choose_config,
    decode_key_config,
    decode_key_config_list,
    encode_key_config_list,
)
from transport.ohttp import ChunkedRequestSealer, ChunkedResponseOpener, encapsulate

KEY = GatewayKey.generate(7, b"\x07" * 32)
KEYS = {7: KEY} | {
    key_id: GatewayKey.generate(key_id, b"\x07" * 32, kem_id=kem_id)
    for key_id, kem_id in enumerate(KEMS, 8)
}
EPHEMERAL = b"\x09" * 32
LIMIT = 600
# One chunk with its length, or header and encapsulated key.
HOLDS = MAX_CHUNK + TAG_LENGTH + 8


def _key_config(data: bytes) -> None:
    try:
        config = decode_key_config(data)
    except TransportError:
        return
    assert config.encode() == data
    try:
        assert config.choose_suite() in config.suites
    except UnknownKeyError:
        return


def _key_config_list(data: bytes) -> None:
    try:
        configs = decode_key_config_list(data)
    except TransportError:
        return
    encoded = encode_key_config_list(configs)
    # Configurations of unknown KEMs are left out.
    assert encoded == data or len(encoded) < len(data)
    assert decode_key_config_list(encoded) == configs
    try:
        assert choose_config(configs) in configs
    except UnknownKeyError:
        return


def _plan(script: bytes) -> tuple[list[bytes], bytes]:
    """The parts to seal, and the script of changes after them."""
    count, script = script[0] % 5, script[1:]
    parts = []
    for _ in range(count):
        size, script = script[:1], script[1:]
        part, script = script[: size[0] if size else 0], script[size[0] if size else 0 :]
        parts.append(part or b"-")
    return parts, script


def _open(opener: ChunkedRequestOpener | ChunkedResponseOpener, cut: list[bytes]) -> bytes | None:
    """The plaintext, or None where the opener saw that something is wrong."""
    plaintext = b""
    try:
        for piece in cut:
            for part in opener.feed(piece):
                plaintext += part
            if isinstance(opener, ChunkedRequestOpener):
                assert held(opener) <= HOLDS + held(KEYS) + 4096
        plaintext += opener.finish()
    except TransportError:
        return None
    assert len(plaintext) <= LIMIT
    return plaintext


def _request_opener() -> ChunkedRequestOpener:
    return ChunkedRequestOpener(KEYS, limit=LIMIT)


def _sealer() -> ChunkedRequestSealer:
    return ChunkedRequestSealer(KEY.config, ephemeral_seed=EPHEMERAL)


def _check(sealed: bytes, changed: bytes, content: bytes, opened: list[bytes | None]) -> None:
    assert opened[0] == opened[1]
    assert opened[0] in (None, content)
    if sealed == changed and len(content) <= LIMIT:
        assert opened[0] == content


def _chunked_request(data: bytes) -> None:
    if not data:
        return
    if data[0] == 0:
        message = data[1:]
        assert _open(_request_opener(), [message]) == _open(_request_opener(), pieces(message))
        return
    parts, script = _plan(data)
    sealer = _sealer()
    sealed = b"".join(map(sealer.seal, parts)) + sealer.seal(b"", final=True)
    changed = mutate(sealed, script)
    opened = [_open(_request_opener(), cut) for cut in ([changed], pieces(changed))]
    _check(sealed, changed, b"".join(parts), opened)


def _chunked_response(data: bytes) -> None:
    if not data:
        return
    parts, script = _plan(data) if data[0] else ([], b"")
    sealers = [_sealer(), _sealer()]
    gateway = _request_opener()
    gateway.feed(sealers[0].seal(b"", final=True))
    response = gateway.response_sealer(bytes(gateway.nonce_length))
    sealed = b"".join(map(response.seal, parts)) + response.seal(b"", final=True)
    changed = mutate(sealed, script) if data[0] else data[1:]
    opened = [
        _open(sealer.response_opener(limit=LIMIT), cut)
        for sealer, cut in zip(sealers, ([changed], pieces(changed)), strict=True)
    ]
    if data[0]:
        _check(sealed, changed, b"".join(parts), opened)
    else:
        assert opened[0] == opened[1]


def _one_shot(data: bytes) -> None:
    if not data:
        return
    sealed, opener = encapsulate(KEY.config, b"request", ephemeral_seed=EPHEMERAL)
    changed = mutate(sealed, data[1:]) if data[0] & 1 else data[1:]
    try:
        request, _ = decapsulate(KEYS, changed)
        assert request == b"request" or not data[0] & 1
    except TransportError:
        assert changed != sealed
    _, sealer = decapsulate(KEYS, sealed)
    answer = sealer.seal(b"response", bytes(sealer.nonce_length))
    changed = mutate(answer, data[1:]) if data[0] & 2 else data[1:]
    try:
        assert opener.open(changed) == b"response"
    except TransportError:
        assert changed != answer


def _config_seeds() -> Iterable[bytes]:
    return [key.config.encode() for key in KEYS.values()]


def _list_seeds() -> Iterable[bytes]:
    unknown = b"\x00\x09\x07\x99\x99" + b"k" * 6
    listed = encode_key_config_list(tuple(key.config for key in KEYS.values()))
    return [b"", listed, unknown + listed]


def _of_other_kems(ciphertext: bytes) -> Iterable[bytes]:
    """Raw messages whose encapsulated key nobody made: their KEMs draw their own randomness."""
    for key_id, key in KEYS.items():
        kem_id, suite = key.config.kem_id, key.config.suites[0]
        if key is not KEY:
            header = RequestHeader(key_id, kem_id, suite).encode()
            yield b"\x00" + header + b"\x04" * KEMS[kem_id].enc_length + ciphertext


def _one_shot_seeds() -> Iterable[bytes]:
    sealed, _ = encapsulate(KEY.config, b"request", ephemeral_seed=EPHEMERAL)
    yield from _of_other_kems(b"c" * 20)
    yield from (b"\x00" + sealed, b"\x03", b"\x01\x00\x00\x08\x01", b"\x02\x03\x00\x10\x00")


def _chunked_seeds() -> Iterable[bytes]:
    sealer = _sealer()
    yield b"\x00" + sealer.seal(b"first") + sealer.seal(b"last", final=True)
    yield from _of_other_kems(b"\x12" + b"c" * 18 + b"\x00" + b"c" * 16)
    yield b"\x05"
    yield b"\x02\x05first\x06second"
    yield b"\x01\xff" + b"x" * 255
    yield b"\x02\x02ab\x02cd" + b"\x03\x00\x30\x00"
    yield b"\x02\x02ab\x02cd" + b"\x04\x00\x27\x13" + b"\x02\x00\x40\x00"
    yield b"\x04" + b"\xa0" + b"y" * 160 + (b"\xa0" + b"z" * 160) * 3


TARGETS = {
    "key-config": Target(_key_config, _config_seeds, 1400),
    "key-config-list": Target(_key_config_list, _list_seeds, 4096),
    "ohttp-one-shot": Target(_one_shot, _one_shot_seeds, 1400, 1500),
    "ohttp-chunked-request": Target(_chunked_request, _chunked_seeds, 1400, 1000),
    "ohttp-chunked-response": Target(_chunked_response, _chunked_seeds, 1400, 1000),
}
