"""Personas from and to the files of other programs, with a report of every difference.

Reading never guesses past damage: a file that is not whole is refused with the place, the rule
and the remedy. What a format has no place for is found by reading back what was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Literal

from pydantic import ValidationError

from personas.cards import charx, eliza, letta, png
from personas.cards.book import Spec, is_world, read_book, world_as_book
from personas.cards.cleaning import Reader, handle_of
from personas.cards.report import CardError, Note
from personas.cards.tavern import (
    DEFAULT_SAMPLING,
    UNKNOWN,
    read_card,
    spec_of,
    write_card,
)
from personas.digest import canonical
from personas.errors import PersonaError
from personas.files import MAX_FILE_BYTES, parse_persona, write_persona
from personas.jsontext import JsonError, parse_json, write_json
from personas.model import File, Lorebook, Persona
from personas.package import MAX_FILES_BYTES, Package, describe

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "CardError",
    "Exported",
    "Format",
    "Imported",
    "Note",
    "export",
    "read_any",
    "read_lorebook",
    "write",
]

Format = Literal["json-v1", "json-v2", "json-v3", "png", "charx", "eliza", "letta", "toml"]
FORMATS: Final[tuple[Format, ...]] = (
    "json-v1", "json-v2", "json-v3", "png", "charx", "eliza", "letta", "toml",
)  # fmt: skip
MAX_BYTES: Final = charx.MAX_ARCHIVE_BYTES
"""Of the longest file there is to read."""
_BOM: Final = b"\xef\xbb\xbf"
_AVATAR: Final = "avatar.png"
_SPECS: Final[dict[str, Spec]] = {"json-v1": "v1", "json-v2": "v2", "json-v3": "v3"}
# An agent file holds conversations and tools, so it is longer than any card.
_MAX_JSON: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file holds.

    Attributes:
        package: The persona and its files.
        format: What the file was, such as "png (v3)".
        report: What was set, changed, ignored or lost.
    """

    package: Package
    format: str
    report: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """A file in another program's format, and what it does not hold."""

    data: bytes
    report: tuple[Note, ...]


def read_any(data: bytes, name: str) -> Imported:
    """Read a persona from any format that we know; `name` is the file's, for errors and defaults.

    TOML is read without the files beside it; `personas.files.load_package` reads those.

    Raises:
        PersonaError: The file is not one of them or is not whole; CardError has the parts.
    """
    reader = Reader(name)
    if data.startswith(png.SIGNATURE):
        package, kind = _read_png(reader, data)
    elif data.startswith((charx.SIGNATURE, charx.JPEG)):
        package, kind = _read_charx(reader, data)
    elif data.removeprefix(_BOM).lstrip()[:1] == b"{":
        package, kind = _read_json(reader, data)
    elif PurePath(name).suffix.lower() == ".toml":
        _bound(reader, data, MAX_FILE_BYTES)
        text = _decode(reader, "the file", data)
        package, kind = Package(parse_persona(text, source=name)), "toml"
    else:
        raise reader.refuse(
            "the file",
            "is none of the formats that we read",
            "Give a card as JSON, PNG or CHARX, an Eliza character, a Letta agent file, or TOML.",
        )
    try:
        canonical(package.persona)
    except PersonaError as error:
        rule, _, remedy = str(error).partition(". ")
        raise reader.refuse("the file", f"cannot be kept: {rule}", remedy) from None
    return Imported(package, kind, tuple(reader.notes))


def read_lorebook(data: bytes, name: str) -> tuple[Lorebook, tuple[Note, ...]]:
    """Read a lorebook alone: `lorebook_v3`, or a world file of SillyTavern. Raises PersonaError."""
    reader = Reader(name)
    source = _book_of(_parse(reader, "the file", data))
    if source is None:
        raise reader.refuse(
            "the file", "holds no lorebook", "Give a `lorebook_v3` file or a world file."
        )
    book = read_book(reader, source, "v3")
    assert book is not None  # noqa: S101  # only for what is no object
    return book, tuple(reader.notes)


def _bound(reader: Reader, data: bytes, most: int) -> None:
    if len(data) > most:
        raise reader.refuse(
            "the file",
            f"has {len(data)} bytes, more than the {most} that its format may have",
            "Make it smaller.",
        )


def _decode(reader: Reader, place: str, data: bytes) -> str:
    try:
        return data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise reader.refuse(
            place, f"is not UTF-8 at byte {error.start}", "Save it as UTF-8."
        ) from None


def _parse(reader: Reader, place: str, data: bytes, most: int = _MAX_JSON) -> Mapping[str, Any]:
    if len(data) > most:
        raise reader.refuse(
            place, f"has {len(data)} bytes, more than the {most} allowed", "Make it smaller."
        )
    try:
        document = parse_json(_decode(reader, place, data))
    except JsonError as error:
        raise reader.refuse(place, str(error), "Export it again.") from None
    if not isinstance(document, Mapping):
        raise reader.refuse(place, "is not a JSON object", "Export it again.")
    return document


def _read_json(reader: Reader, data: bytes) -> tuple[Package, str]:
    document = _parse(reader, "the file", data)
    if letta.is_agent(document):
        name, values = letta.read_agent(reader, document)
        return Package(_made(reader, name, values)), "letta"
    if (source := _book_of(document)) is not None:
        book = read_book(reader, source, "v3")
        name = reader.line("name", source.get("name"), 64) or PurePath(reader.file).stem[:64]
        return Package(_made(reader, name, {"lorebook": book})), "lorebook"
    if spec_of(document) == "v1" and eliza.is_character(document):
        name = reader.line("name", document.get("name"), 64)
        if not name:
            raise reader.refuse("`name`", "is missing or empty", "Give the character a name.")
        values = eliza.read_character(reader, document)
        return Package(_made(reader, name, values)), "eliza"
    spec = spec_of(document)
    if spec == "v1" and "name" not in document:
        raise reader.refuse(
            "the file",
            "is JSON, but no card, character, agent or lorebook",
            "Export it again as a character card.",
        )
    return read_card(reader, document), f"json-{spec}"


def _book_of(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The lorebook object of a file that is a lorebook alone."""
    inner = document.get("data")
    if document.get("spec") == "lorebook_v3" and isinstance(inner, Mapping):
        return inner
    return world_as_book(document) if is_world(document) else None


def _made(reader: Reader, name: str, values: Mapping[str, Any]) -> Persona:
    """A persona from a format that says less than a card; the rest is set, and noted."""
    given = {key: value for key, value in values.items() if value is not None}
    try:
        persona = Persona(
            **{
                "format": 1,
                "handle": handle_of(name),
                "name": name,
                "version": "1.0.0",
                "language": "und",
                "rating": "unrated",
                "author": UNKNOWN,
                "licence": UNKNOWN,
                "sampling": DEFAULT_SAMPLING,
                **given,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        rule = first["msg"].removeprefix("Value error, ")
        raise reader.refuse(f"`{place}`", f"cannot be kept: {rule}", "Correct the file.") from None
    for key in ("handle", "language", "rating", "author", "licence"):
        reader.note(
            "default", key, f"set to `{getattr(persona, key)}`; set it yourself before you publish"
        )
    return persona


def _read_png(reader: Reader, data: bytes) -> tuple[Package, str]:
    _bound(reader, data, png.MAX_PNG_BYTES)
    chunks = png.read_chunks(reader, data)
    found = png.find_card(reader, chunks)
    if found is not None:
        keyword, text = found
        document = _parse(reader, f"the card of the `{keyword}` chunk", text, png.MAX_CARD_BYTES)
        kind = f"png ({spec_of(document)})"
    else:
        fields = png.plain_fields(reader, chunks)
        if fields is None:
            raise reader.refuse(
                "the image",
                "holds no card: neither a `ccv3` nor a `chara` chunk",
                "Export the card as PNG again; images that a website converted lose their card.",
            )
        document, kind = fields, "png (text fields)"
    package = read_card(reader, document)
    image = png.join_chunks(chunk for chunk in chunks if not png.is_card_chunk(chunk))
    embedded = png.assets_of(reader, chunks, MAX_FILES_BYTES - len(image))
    avatar = describe(_AVATAR, image)
    persona = _with_files(reader, package.persona, embedded, avatar)
    files = {avatar.sha256: image, **package.files}
    return Package(
        persona, files | {describe("x", one).sha256: one for one in embedded.values()}
    ), kind


def _read_charx(reader: Reader, data: bytes) -> tuple[Package, str]:
    _bound(reader, data, charx.MAX_ARCHIVE_BYTES)
    if data.startswith(charx.JPEG):
        if charx.END not in data[-charx.END_BYTES :]:
            raise reader.refuse(
                "the image",
                "is a JPEG without a card",
                "Give the PNG or CHARX file; images that a website converted lose their card.",
            )
        reader.note("lost", "byte 0", "the picture in front of the archive is not kept")
    contents = charx.unpack(reader, data)
    card = contents.pop(charx.CARD, None)
    if card is None:
        raise reader.refuse("the archive", "has no `card.json`", "Export the card again.")
    document = _parse(reader, "`card.json`", card)
    package = read_card(reader, document)
    icon = _icon(package.persona)
    avatar = describe(icon, contents[icon]) if icon in contents else None
    persona = _with_files(reader, package.persona, contents, avatar)
    files = {describe("x", one).sha256: one for one in contents.values()}
    return Package(persona, {**package.files, **files}), f"charx ({spec_of(document)})"


def _icon(persona: Persona) -> str:
    """Path of the embedded main icon; "" where there is none."""
    icons = [asset for asset in persona.assets if asset.type == "icon"]
    main = [asset for asset in icons if asset.name == "main"] or icons[:1]
    return main[0].uri.removeprefix("embeded://") if main else ""


def _with_files(
    reader: Reader, persona: Persona, embedded: Mapping[str, bytes], avatar: File | None
) -> Persona:
    for asset in persona.assets:
        scheme, _, path = asset.uri.partition(":")
        path = path.removeprefix("//")
        if scheme in ("embeded", "__asset") and path not in embedded:
            reader.note("warning", "assets", "an asset names a file that is not in the card")
    try:
        files = tuple(describe(path, data) for path, data in embedded.items())
    except ValidationError:
        raise reader.refuse(
            "an embedded asset",
            "has a path that leaves the card or that not every system can write",
            "Use short relative paths with `/` alone.",
        ) from None
    return persona.model_copy(update={"avatar": avatar, "files": files})


def write(package: Package, format: Format) -> bytes:
    """Write a persona in a format; `export` says as well what that does not hold."""
    match format:
        case "toml":
            return write_persona(package.persona).encode()
        case "eliza":
            return write_json(eliza.write_character(package.persona)).encode()
        case "letta":
            return write_json(letta.write_agent(package.persona)).encode()
        case "png":
            return _write_png(package)
        case "charx":
            return _write_charx(package)
        case _:
            return _card_bytes(package, _SPECS[format])


def _card_bytes(package: Package, spec: Spec) -> bytes:
    return write_json(write_card(package, spec)).encode()


def _write_png(package: Package) -> bytes:
    persona = package.persona
    image = package.read(persona.avatar) if persona.avatar is not None else None
    if image is not None and image.startswith(png.SIGNATURE):
        chunks = png.read_chunks(Reader(_AVATAR), image)
    else:
        chunks = png.blank()
    embedded = [
        (f"{png.ASSET}{file.path}", data)
        for file in persona.files
        if (data := package.read(file)) is not None and _by_png(persona, file.path)
    ]
    if (spec := _origin(persona)) in ("v1", "v2") and _holds(package, spec):
        # Made for V1 or V2 and still no more than that: no second card, and no warning.
        return png.with_texts(chunks, [*embedded, ("chara", _card_bytes(package, spec))])
    backfill = write_json(write_card(package, "v2", backfill=True)).encode()
    cards = [("chara", backfill), ("ccv3", _card_bytes(package, "v3"))]
    return png.with_texts(chunks, [*embedded, *cards])


def _by_png(persona: Persona, path: str) -> bool:
    return path.isascii() and any(asset.uri == f"__asset:{path}" for asset in persona.assets)


def _origin(persona: Persona) -> Spec:
    """Which version of card a persona came from; V3 where it did not."""
    extra = parse_json(persona.extra) if persona.extra else {}
    found = extra.get("format")
    return found if found in ("v1", "v2") else "v3"


def _holds(package: Package, spec: Spec) -> bool:
    """Whether a card of that version alone holds the whole persona."""
    document = parse_json(_card_bytes(package, spec).decode())
    again = read_card(Reader("card"), document).persona
    kept = {"avatar": package.persona.avatar, "files": package.persona.files}
    # Our extension is for what the version has no words for.
    ours = document.get("data", {}).get("extensions", {})
    unsaid = ours.get("sottovoce") if isinstance(ours, Mapping) else None
    return not unsaid and again.model_copy(update=kept) == package.persona


def _write_charx(package: Package) -> bytes:
    persona = package.persona
    document = write_card(package, "v3")
    files = {file.path: data for file in persona.files if (data := package.read(file)) is not None}
    avatar = persona.avatar
    image = package.read(avatar) if avatar is not None else None
    if avatar is not None and image is not None and avatar.path not in files:
        ext = PurePath(avatar.path).suffix.lstrip(".").lower() or "unknown"
        path = f"assets/icon/images/main.{ext}"
        files[path] = image
        icon = {"type": "icon", "uri": f"embeded://{path}", "name": "main", "ext": ext}
        others = [
            asset
            for asset in document["data"].get("assets", [])
            if not (asset.get("type") == "icon" and asset.get("name") == "main")
        ]
        document["data"]["assets"] = [icon, *others]
    return charx.pack(write_json(document).encode(), files)


def export(package: Package, format: Format) -> Exported:
    """Write a persona and say what the format does not hold: by reading it back."""
    data = write(package, format)
    notes: list[Note] = [
        Note("lost", path, "is not here, so it is not in the export") for path in package.missing()
    ]
    if format == "toml":
        return Exported(data, tuple(notes))
    again = read_any(data, f"persona.{format}").package
    mine, theirs = _said(package.persona), _said(again.persona)
    for key, value in mine.items():
        if key not in ("format", "avatar", "files") and theirs.get(key) != value:
            notes.append(Note("lost", key, _lost(key, value, theirs)))
    kept_files = set(again.files)
    for key, file in [
        *([("avatar", package.persona.avatar)] if package.persona.avatar else []),
        *(("files", one) for one in package.persona.files),
    ]:
        if file is not None and file.sha256 in package.files and file.sha256 not in kept_files:
            notes.append(Note("lost", key, f"`{PurePath(file.path).name}` is not carried"))
    if format.startswith("json-v2") and "@@" in write_json(mine.get("lorebook")):
        notes.append(Note("lost", "lorebook", "decorators are left out, as V2 does not know them"))
    return Exported(data, tuple(notes))


def _said(persona: Persona) -> dict[str, Any]:
    # `extra` is about the source's own spelling, and `assets` about paths.
    parts: Any = {
        "extra": True,
        "assets": True,
        "lorebook": {"extra": True, "entries": {"__all__": {"extra"}}},
    }
    return persona.model_dump(mode="json", exclude_defaults=True, exclude=parts)


def _lost(key: str, value: Any, theirs: Mapping[str, Any]) -> str:
    if key == "example_dialogues" and "example_text" in theirs:
        return "is carried as text"
    some = isinstance(value, list | dict) and key in theirs
    if some:
        return "is carried in part"
    return "is not carried as it stands" if key in theirs else "is not carried"
