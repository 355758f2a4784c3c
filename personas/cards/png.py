"""Cards in PNG files (Character Card V3, "PNG/APNG"; PNG, W3C third edition, section 5)."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from personas.cards.cleaning import Reader

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MAX_PNG_BYTES: Final = 32 * 1024 * 1024
MAX_CARD_BYTES: Final = 4 * 1024 * 1024
"""Of a card's JSON, decoded."""
ASSET: Final = "chara-ext-asset_:"
_MAX_CHUNKS: Final = 65_536
_MAX_FIELD: Final = 1_048_576
# What the text fields of cards without a `chara` chunk are called, and the keys of a V1 card.
_FIELDS: Final = {
    "name": "name",
    "description": "description",
    "personality": "personality",
    "scenario": "scenario",
    "first_message": "first_mes",
    "first_mes": "first_mes",
    "mes_example": "mes_example",
    "example_dialogue": "mes_example",
    "categories": "tags",
    "tags": "tags",
    "creator": "creator",
}

Chunk = tuple[bytes, bytes]
_TEXTS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})


def read_chunks(reader: Reader, data: bytes) -> tuple[Chunk, ...]:
    """Take a PNG apart, IHDR to IEND. Raises CardError.

    Lengths are held against the file before anything is copied, and every CRC is checked.
    """
    if not data.startswith(SIGNATURE):
        raise reader.refuse("byte 0", "is not a PNG signature", "Save the card as a PNG file.")
    chunks: list[Chunk] = []
    at = len(SIGNATURE)
    while True:
        place = f"the chunk at byte {at}"
        if at == len(data):
            raise reader.refuse(
                f"byte {at}",
                "is the end of the file, without an IEND chunk: the image was cut short",
                "Download the card again.",
            )
        if len(data) - at < 12:
            raise reader.refuse(place, "is cut short", "Download the card again.")
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12:
            raise reader.refuse(
                place,
                f"claims {length} bytes, more than the {len(data) - at - 12} that are left",
                "Download the card again.",
            )
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(kind + body) != crc:
            raise reader.refuse(
                place, "does not have the CRC that it says", "Download the card again."
            )
        if (not chunks) != (kind == b"IHDR"):
            raise reader.refuse(
                place, "is out of order: IHDR is the first chunk and stands once", "Save it again."
            )
        chunks.append((kind, body))
        at += 12 + length
        if kind == b"IEND":
            break
        if len(chunks) >= _MAX_CHUNKS:
            raise reader.refuse(
                place, f"follows {_MAX_CHUNKS} others, the most allowed", "Save the image again."
            )
    if at != len(data):
        reader.note("lost", f"byte {at}", "what follows the image's end is not kept")
    return tuple(chunks)


def join_chunks(chunks: Iterable[Chunk]) -> bytes:
    """A PNG file of chunks."""
    parts = [SIGNATURE]
    for kind, body in chunks:
        parts += [struct.pack(">I4s", len(body), kind), body]
        parts.append(struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def texts(chunks: Iterable[Chunk]) -> Iterator[tuple[int, str, Chunk]]:
    """Every text chunk: its place, its keyword, and itself; `text_of` reads it."""
    for at, chunk in enumerate(chunks):
        kind, body = chunk
        if kind in _TEXTS:
            yield at, body.partition(b"\x00")[0].decode("latin-1"), chunk


def text_of(reader: Reader, place: str, chunk: Chunk, most: int) -> bytes:
    """The text of a tEXt, zTXt or iTXt chunk, at most `most` bytes. Raises CardError."""
    kind, body = chunk
    text = body.partition(b"\x00")[2]
    packed = kind == b"zTXt"
    if packed:
        text = text[1:]  # the method; there is one
    elif kind == b"iTXt":
        packed = text[:1] == b"\x01"
        text = text[2:].split(b"\x00", 2)[-1]  # after language and translated keyword
    if packed:
        unpacking = zlib.decompressobj()
        try:
            text = unpacking.decompress(text, most + 1)
        except zlib.error:
            raise reader.refuse(place, "cannot be unpacked", "Export the card again.") from None
        if not unpacking.eof and len(text) <= most:
            raise reader.refuse(place, "is packed and cut short", "Export the card again.")
    if len(text) > most:
        raise reader.refuse(
            place, f"holds more than the {most} bytes allowed", "Make the card smaller."
        )
    return text


def find_card(reader: Reader, chunks: tuple[Chunk, ...]) -> tuple[str, bytes] | None:
    """The keyword and the JSON of the card: `ccv3` before `chara`; None where there is neither."""
    found: dict[str, tuple[int, Chunk]] = {}
    for at, keyword, chunk in texts(chunks):
        if keyword.lower() in ("ccv3", "chara"):
            found.setdefault(keyword.lower(), (at, chunk))
    for keyword in ("ccv3", "chara"):
        if keyword in found:
            at, chunk = found[keyword]
            place = f"the `{keyword}` chunk (number {at})"
            text = text_of(reader, place, chunk, MAX_CARD_BYTES * 3 // 2)
            return keyword, decode_base64(reader, place, text, MAX_CARD_BYTES)
    return None


def decode_base64(reader: Reader, place: str, text: bytes, most: int) -> bytes:
    """Decode, within `most` bytes of result. Raises CardError."""
    if len(text) // 4 * 3 > most + 3:
        raise reader.refuse(
            place, f"holds more than the {most} bytes allowed", "Make the card smaller."
        )
    try:
        return base64.b64decode(text.translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError):
        raise reader.refuse(
            place, "is not valid base64", "Export the card again from where it was made."
        ) from None


def assets_of(reader: Reader, chunks: tuple[Chunk, ...], most: int) -> dict[str, bytes]:
    """Files embedded as `chara-ext-asset_:PATH`, by path."""
    files: dict[str, bytes] = {}
    for at, keyword, chunk in texts(chunks):
        if keyword.startswith(ASSET):
            place = f"the asset chunk (number {at})"
            path = keyword.removeprefix(ASSET)
            if path in files:
                raise reader.refuse(place, "has the path of another", "Export the card again.")
            text = text_of(reader, place, chunk, MAX_PNG_BYTES)
            files[path] = decode_base64(reader, place, text, most)
            most -= len(files[path])
    return files


def is_card_chunk(chunk: Chunk) -> bool:
    """Whether a chunk is a card's, or an asset's: not of the image."""
    kind, body = chunk
    keyword = body.partition(b"\x00")[0].decode("latin-1")
    return kind in _TEXTS and (keyword.lower() in ("ccv3", "chara") or keyword.startswith(ASSET))


def plain_fields(reader: Reader, chunks: tuple[Chunk, ...]) -> dict[str, object] | None:
    """A card from plain text fields, as some early programs wrote them; None without a name."""
    card: dict[str, object] = {}
    for at, keyword, chunk in texts(chunks):
        key = _FIELDS.get(keyword.lower())
        if key is None or key in card:
            continue
        text = text_of(reader, f"the `{keyword}` chunk (number {at})", chunk, _MAX_FIELD)
        try:
            value = text.decode()
        except UnicodeDecodeError:
            value = text.decode("latin-1")  # what PNG says a tEXt chunk is
        card[key] = [tag.strip() for tag in value.split(",")] if key == "tags" else value
    return card if card.get("name") else None


def with_texts(chunks: Iterable[Chunk], more: Iterable[tuple[str, bytes]]) -> bytes:
    """The image with text chunks before its end, each base64 of what is given."""
    kept = [chunk for chunk in chunks if not is_card_chunk(chunk)]
    added = [
        (b"tEXt", keyword.encode("latin-1") + b"\x00" + base64.b64encode(body))
        for keyword, body in more
    ]
    return join_chunks([*kept[:-1], *added, kept[-1]])


def blank() -> tuple[Chunk, ...]:
    """An image of one grey dot, for a card without an avatar."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return ((b"IHDR", header), (b"IDAT", zlib.compress(b"\x00\x80")), (b"IEND", b""))
