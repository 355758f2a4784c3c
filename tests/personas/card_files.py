"""Cards made by hand, not by the code under test."""

import base64
import json
import os
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(os.environ.get("SOTTO_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))


def vector(name: str) -> bytes:
    """A file of the vectors; the test is skipped by name where it is absent."""
    path = VECTORS / "cards" / name
    if not path.is_file():
        pytest.skip(f"the vector cards/{name} is not here")
    return path.read_bytes()


def v1(**more: Any) -> dict[str, Any]:
    """A V1 card, flat."""
    card = {
        "name": "Zoë Lind",
        "description": "{{char}} is a diver.\r\n",
        "personality": " calm, exact ",
        "scenario": "A pier at night.",
        "first_mes": "You came, {{user}}.",
        "mes_example": "<START>\n{{user}}: Hello\n{{char}}: Mind the rope.",
    }
    return card | more


def v2(**more: Any) -> dict[str, Any]:
    """A V2 card, with what SillyTavern writes beside it."""
    data = v1() | {
        "creator_notes": "Made in a week.",
        "system_prompt": "{{original}} Speak of water.",
        "post_history_instructions": "",
        "alternate_greetings": ["Back again?", " Wet feet. "],
        "tags": ["Sci-Fi", "Sea", "猫娘"],
        "creator": "A. Writer",
        "character_version": "main",
        "extensions": {"talkativeness": "0.5", "depth_prompt": {"prompt": "", "depth": 4}},
        "character_book": book(),
    }
    return {
        "spec": "chara_card_v2",
        "spec_version": "2.0",
        "name": "Zoë Lind",
        "fav": False,
        "create_date": "2024-1-1",
        "data": data | more,
    }


def v3(**more: Any) -> dict[str, Any]:
    """A V3 card with every field there is."""
    data = v2()["data"] | {
        "nickname": "Zo",
        "creator_notes_multilingual": {"de": "In einer Woche.", "en": "In a week."},
        "source": ["https://example.org/zoe"],
        "group_only_greetings": ["All of you?"],
        "creation_date": 1_700_000_000,
        "modification_date": 1_700_000_001,
        "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
    }
    return {"spec": "chara_card_v3", "spec_version": "3.0", "data": data | more}


def book() -> dict[str, Any]:
    """A lorebook with every field, and one entry that SillyTavern would write."""
    return {
        "name": "Harbour",
        "scan_depth": 4,
        "token_budget": 500,
        "recursive_scanning": False,
        "extensions": {"x": [1, None]},
        "entries": [
            {
                "keys": ["pier", "jetty"],
                "content": "@@depth 2\n@@@position after_desc\nThe pier was built in 1911.",
                "extensions": {},
                "enabled": True,
                "insertion_order": 10.5,
                "use_regex": False,
                "case_sensitive": True,
                "constant": False,
                "name": "pier",
                "priority": 3,
                "id": "a",
                "comment": "old",
                "selective": True,
                "secondary_keys": ["night"],
                "position": "before_char",
            },
            {
                "keys": ["/(?=x)y/"],
                "content": "Never.",
                "extensions": {"selectiveLogic": 0, "position": 4, "depth": 2, "role": 0},
                "enabled": False,
                "insertion_order": "7",
                "use_regex": True,
                "id": 3,
                "unknown": {"b": 1, "a": 2},
            },
        ],
    }


def dumps(card: Any) -> bytes:
    """JSON as programs write it."""
    return json.dumps(card, indent=2).encode()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0))
IMAGE = chunk(b"IDAT", zlib.compress(b"\x00\x10\x20\x30\x40\x50\x60"))
OTHER = chunk(b"tEXt", b"Software\x00a painter") + chunk(b"pHYs", struct.pack(">IIB", 1, 1, 0))
END = chunk(b"IEND", b"")
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def text(keyword: str, body: bytes) -> bytes:
    """A tEXt chunk with base64 of a body."""
    return chunk(b"tEXt", keyword.encode() + b"\x00" + base64.b64encode(body))


def png(*texts: bytes) -> bytes:
    """An image with other chunks and these texts."""
    return SIGNATURE + HEADER + OTHER + b"".join(texts) + IMAGE + END


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of every chunk."""
    found, at = [], len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def card_of(data: bytes, keyword: bytes) -> Any:
    """The card in a chunk; None where there is none."""
    for kind, body in chunks_of(data):
        if kind == b"tEXt" and body.startswith(keyword + b"\x00"):
            return json.loads(base64.b64decode(body.partition(b"\x00")[2]))
    return None


def charx(card: Any, files: dict[str, bytes] | None = None) -> bytes:
    """A CHARX file."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("card.json", json.dumps(card))
        for path, data in (files or {}).items():
            archive.writestr(path, data)
    return out.getvalue()
