"""Persona files, cards of other programs, lorebooks and macros."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fuzz_support import Target, mutate

import personas.library
from personas.cards import Format, read_any, write
from personas.digest import canonical, from_canonical
from personas.errors import PersonaError
from personas.files import parse_persona, write_persona
from personas.jsontext import parse_json
from personas.lorebook import Said, wake
from personas.macros import expand
from personas.model import Lorebook, LorebookEntry

_CARD: dict[str, Any] = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": {
        "name": "Z",
        "first_mes": "Hi {{user}}",
        "tags": ["A b"],
        "extensions": {"n": 1e30},
        "assets": [{"type": "icon", "uri": "embeded://a.png", "name": "main", "ext": "png"}],
        "character_book": {
            "extensions": {},
            "entries": [{"keys": ["/a+/i"], "content": "@@depth 1\nx", "use_regex": True}],
        },
    },
}


def _persona(data: bytes) -> None:
    try:
        persona = parse_persona(data.decode("utf-8", "replace"), source="fuzz")
    except PersonaError:
        return
    assert parse_persona(write_persona(persona), source="again") == persona
    assert from_canonical(canonical(persona)) == persona


def _json_card(data: bytes) -> None:
    """A card that is read is written as the same JSON value."""
    try:
        imported = read_any(data, "fuzz.json")
    except PersonaError:
        return
    if imported.format.startswith("json-"):
        format: Format = imported.format  # type: ignore[assignment]
        again = parse_json(write(imported.package, format).decode())
        assert again == parse_json(data.removeprefix(b"\xef\xbb\xbf").decode())
    else:
        assert from_canonical(canonical(imported.package.persona)) == imported.package.persona


def _container(name: str, format: Format, whole: bytes) -> Target:
    """A container: as it comes, and one of ours changed as the input says."""

    def run(data: bytes) -> None:
        for one in (data, mutate(whole, data)):
            try:
                package = read_any(one, name).package
            except PersonaError:
                continue
            again = read_any(write(package, format), name).package
            assert again.persona.name == package.persona.name
            assert set(package.files) <= set(again.files)

    return Target(run, lambda: [whole], 2048, 1500)


def _png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    card = b"ccv3\x00" + b64encode(json.dumps(_CARD).encode())
    # Stored, so that every build of zlib gives the same bytes.
    image = b"x\x01\x01\x02\x00\xfd\xff\x00\x80\x00\x82\x00\x81"
    parts = (
        chunk(b"IHDR", header),
        chunk(b"tEXt", card),
        chunk(b"IDAT", image),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _charx() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in (("card.json", json.dumps(_CARD).encode()), ("a.png", _png()[:40])):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def _lorebook(data: bytes) -> None:
    """Keys and contents from the input wake or do not, and never raise."""
    parts = data.decode("utf-8", "replace").split("\x00")
    entries = tuple(
        LorebookEntry(
            keys=(key[:100],),
            content=content[:1_000],
            use_regex=bool(at % 2),
            extensions='{"selectiveLogic":0,"probability":50,"useProbability":true}'
            * (at % 3 == 2),
        )
        for at, (key, content) in enumerate(zip(parts[1:9:2], parts[2:9:2], strict=False))
        if _is_plain(key + content)
    )
    book = Lorebook(entries=entries, recursive_scanning=True)
    woken = wake(book, [Said("user", parts[0])], count_tokens=len, room=2_000)
    assert sum(entry.tokens for entry in woken.entries) <= 2_000
    assert len(woken.ids) >= len({entry.id for entry in woken.entries})
    text = expand(parts[0], char=parts[-1][:64], user="{{char}}", seed=b"", limit=4_096)
    assert len(text) <= 4_096


def _is_plain(text: str) -> bool:
    try:
        LorebookEntry(content=text)
    except ValueError:
        return False
    return True


def _seeds() -> Iterable[bytes]:
    for path in sorted(Path(personas.library.__file__).parent.glob("*.toml"))[:1]:
        yield path.read_bytes()
    yield b'a = [[[["x"]]]]\n[b.c]\nd = 1979-05-27T07:32:00Z\n'


def _json_seeds() -> Iterable[bytes]:
    yield json.dumps(_CARD).encode()
    yield json.dumps({"name": "Z", "description": " a\r\n", "x": [1.0, None]}).encode()
    yield json.dumps({"entries": {"0": {"key": ["a"], "content": "b"}}}).encode()


TARGETS = {
    "persona": Target(_persona, _seeds, 4096, 2000),
    "card-json": Target(_json_card, _json_seeds, 2048, 2000),
    "card-png": _container("fuzz.png", "png", _png()),
    "card-charx": _container("fuzz.charx", "charx", _charx()),
    "lorebook": Target(
        _lorebook,
        lambda: [
            b"a pier\x00pier\x00@@depth 2\n@@@activate\nlore a"
            b"\x00a+\x00{{hidden_key:b}}\x00{{pick:a,b}}",
        ],
        1024,
        2000,
    ),
}
