"""Character Cards V1, V2 and V3 as JSON objects, to and from a persona.

What a card cannot say (facts, rating, licence and so on) travels in `data.extensions.sottovoce`,
and only what a reader would not find in the rest of the card. So a card that came in unchanged
goes out without it, and one of ours comes back whole.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from personas.cards.book import Spec, read_book, write_book
from personas.cards.cleaning import Reader, handle_of
from personas.cards.remainder import remainder, restore
from personas.jsontext import object_text, parse_json, write_json
from personas.model import (
    VERSION_PATTERN,
    Asset,
    Persona,
    Sampling,
    Translation,
)
from personas.package import Package, sha256

OURS: Final = "sottovoce"
UNKNOWN: Final = "unknown"
# For cards, which say nothing of it.
DEFAULT_SAMPLING: Final = Sampling(temperature=0.8, top_p=0.95, max_tokens=512)
# Of data URLs together, decoded.
_MAX_EMBEDDED: Final = 32 * 1024 * 1024
BACKFILLED: Final = (
    "This is a Character Card V3 in the form of V2, for programs that do not read V3. Use one that "
    "does to see all of it."
)

# Ours, then the card's. Texts that V1 has, then those of V2, then those of V3.
_V1: Final = {
    "description": "description",
    "style": "personality",
    "scenario": "scenario",
    "greeting": "first_mes",
    "example_text": "mes_example",
}
_V2: Final = {
    "creator_notes": "creator_notes",
    "system_prompt": "system_prompt",
    "post_history": "post_history_instructions",
}
# Never in our extension: the container or the card itself has them.
_CARRIED: Final = frozenset({"format", "extensions", "extra", "avatar", "files", "assets"})


def spec_of(document: Mapping[str, Any]) -> Spec:
    """Which version a card's JSON object is of; V1 has no envelope."""
    spec = document.get("spec")
    if isinstance(document.get("data"), Mapping):
        return "v3" if spec == "chara_card_v3" else "v2"
    return "v1"


def read_card(reader: Reader, document: Mapping[str, Any]) -> Package:
    """Read a card's JSON object; files are those of its data URLs. Raises CardError."""
    spec = spec_of(document)
    data = document if spec == "v1" else document["data"]
    _check_version(reader, document, spec)
    files: dict[str, bytes] = {}
    values = _typed(reader, data, spec, files)
    ours = data.get("extensions", {}).get(OURS) if _has_extensions(data) else None
    if isinstance(ours, Mapping):
        values |= _our_values(reader, ours, values)
    persona = _persona(reader, values)
    package = Package(persona, files)
    changes: dict[str, Any] = {
        "format": spec,
        "data": remainder(data, _native(package, spec, Reader(reader.file), remove=True)),
    }
    if spec != "v1":
        rest = {key: value for key, value in document.items() if key != "data"}
        changes["card"] = remainder(rest, _envelope(spec))
    # A card that says nothing but what we would write is the persona that it was made of.
    extra = {} if spec == "v3" and not changes["data"] and not changes["card"] else changes
    _defaults(reader, data, persona, ours)
    return Package(persona.model_copy(update={"extra": object_text(extra)}), files)


def write_card(package: Package, spec: Spec, *, backfill: bool = False) -> dict[str, Any]:
    """Write a persona as a card's JSON object.

    With `backfill` it is the V2 card beside a V3 card: it says so and has no decorators.
    """
    persona = package.persona
    extra = parse_json(persona.extra) if persona.extra else {}
    same = extra.get("format") == spec
    plain = backfill or (spec != "v3" and extra.get("format") not in ("v1", "v2"))
    data = _native(package, spec, Reader("card"), remove=same, plain=plain)
    data = restore(data, extra.get("data"), remove=same)
    if backfill:
        notes = data.get("creator_notes")
        data["creator_notes"] = f"{BACKFILLED}\n\n{notes}" if notes else BACKFILLED
    if spec == "v1":
        return data
    envelope = _envelope(spec)
    if same:
        envelope = restore(envelope, extra.get("card"))
    return {**envelope, "data": data}


def _envelope(spec: Spec) -> dict[str, Any]:
    if spec == "v2":
        return {"spec": "chara_card_v2", "spec_version": "2.0"}
    return {"spec": "chara_card_v3", "spec_version": "3.0"}


def _has_extensions(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("extensions"), Mapping)


def _check_version(reader: Reader, document: Mapping[str, Any], spec: Spec) -> None:
    if spec == "v1":
        return
    if document.get("spec") not in ("chara_card_v2", "chara_card_v3"):
        reader.note("warning", "spec", "is not of a card that we know; read as V2")
    try:
        newer = float(document.get("spec_version", "")) > (3 if spec == "v3" else 2)
    except (TypeError, ValueError):
        newer = False
    if newer:
        reader.note("warning", "spec_version", "is newer than what we know; its news are kept")


def _typed(
    reader: Reader, data: Mapping[str, Any], spec: Spec, files: dict[str, bytes]
) -> dict[str, Any]:
    """Our keys, as far as the card says them in its own."""
    name = reader.line("name", data.get("name"), 64)
    if not name:
        raise reader.refuse("`name`", "is missing or empty", "Give the character a name.")
    fields = _V1 if spec == "v1" else _V1 | _V2
    values: dict[str, Any] = {
        key: reader.text(theirs, data.get(theirs)) for key, theirs in fields.items()
    }
    version = data.get("character_version") if spec != "v1" else None
    known = isinstance(version, str) and re.fullmatch(VERSION_PATTERN, version)
    values |= {
        "format": 1,
        "handle": handle_of(name),
        "name": name,
        "version": version if known else "1.0.0",
        "language": "und",
        "rating": "unrated",
        "author": UNKNOWN,
        "licence": UNKNOWN,
        "sampling": DEFAULT_SAMPLING,
    }
    if spec == "v1":
        return values
    values |= {
        "author": reader.line("creator", data.get("creator"), 64) or UNKNOWN,
        "tags": tuple(reader.tags("tags", reader.lines("tags", data.get("tags")))),
        "alternate_greetings": tuple(
            reader.lines(
                "alternate_greetings", data.get("alternate_greetings"), strip=True, most=32_768
            )[:128]
        ),
        "lorebook": read_book(reader, data.get("character_book"), spec),
    }
    if _has_extensions(data):
        theirs = {key: value for key, value in data["extensions"].items() if key != OURS}
        values["extensions"] = object_text(theirs)
    if spec == "v3":
        values |= _typed_v3(reader, data, files)
    return values


def _typed_v3(reader: Reader, data: Mapping[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    notes = data.get("creator_notes_multilingual")
    most = 2**53 - 1
    return {
        "nickname": reader.line("nickname", data.get("nickname"), 64),
        "group_greetings": tuple(
            reader.lines(
                "group_only_greetings", data.get("group_only_greetings"), strip=True, most=32_768
            )[:128]
        ),
        "creator_notes_translated": tuple(
            Translation(
                language=reader.line("creator_notes_multilingual", language, 64),
                text=reader.text(f"creator_notes_multilingual.{language[:16]}", text, strip=False),
            )
            for language, text in list(notes.items())[:200]
        )
        if isinstance(notes, Mapping)
        else (),
        "source": tuple(reader.lines("source", data.get("source"))[:256]),
        "created": reader.whole("creation_date", data.get("creation_date"), most),
        "modified": reader.whole("modification_date", data.get("modification_date"), most),
        "assets": _read_assets(reader, data.get("assets"), files),
    }


def _read_assets(reader: Reader, value: Any, files: dict[str, bytes]) -> tuple[Asset, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > 1_024:
        raise reader.refuse(
            "`assets`", "is not an array of at most 1024 assets", "Correct the card."
        )
    made = []
    for at, one in enumerate(value):
        place = f"assets[{at}]"
        if not isinstance(one, Mapping):
            reader.note("changed", place, "is not an object, so it is left out of the persona")
            continue
        uri, digest = one.get("uri"), None
        if isinstance(uri, str) and uri.startswith("data:") and len(uri) > 256:
            uri, digest = _read_data_url(reader, place, uri, files)
        made.append(
            Asset(
                type=reader.line(f"{place}.type", one.get("type"), 2_048),
                uri=reader.text(f"{place}.uri", uri, strip=False, most=8_192),
                name=reader.line(f"{place}.name", one.get("name"), 2_048),
                ext=reader.line(f"{place}.ext", one.get("ext"), 2_048),
                sha256=digest,
            )
        )
    return tuple(made)


def _read_data_url(
    reader: Reader, place: str, uri: str, files: dict[str, bytes]
) -> tuple[str, str | None]:
    head, comma, _ = uri[:256].partition(",")
    body = uri[len(head) + 1 :]
    if not comma or not head.endswith(";base64"):
        return uri, None
    if len(body) * 3 // 4 + sum(map(len, files.values())) > _MAX_EMBEDDED:
        raise reader.refuse(
            f"`{place}.uri`",
            f"brings the embedded assets over the {_MAX_EMBEDDED} bytes allowed",
            "Use a CHARX file, or smaller assets.",
        )
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise reader.refuse(
            f"`{place}.uri`", "is not valid base64", "Embed the asset again."
        ) from None
    if base64.b64encode(data).decode() != body:
        raise reader.refuse(
            f"`{place}.uri`", "is base64 that is not canonical", "Embed the asset again."
        )
    digest = sha256(data)
    files[digest] = data
    return head + ",", digest


def _our_values(
    reader: Reader, ours: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """What our extension says; each key on its own, so that one that is wrong spoils no other."""
    told = {key: value for key, value in ours.items() if key not in _CARRIED}
    kept: dict[str, Any] = {}
    for key, value in told.items():
        try:
            # Strict JSON reading, so numbers come as numbers and arrays as tuples.
            partial = write_json({**_minimal(values), key: value})
            kept[key] = getattr(Persona.model_validate_json(partial), key)
        except (ValidationError, ValueError, AttributeError):
            reader.note(
                "changed", f"extensions.{OURS}.{key[:32]}", "is not valid, so it is not used"
            )
    return kept


def _minimal(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": 1, "handle": values["handle"], "name": values["name"], "version": "1.0.0",
        "language": "und", "rating": "unrated", "author": UNKNOWN, "licence": UNKNOWN,
        "sampling": DEFAULT_SAMPLING.model_dump(),
    }  # fmt: skip


def _persona(reader: Reader, values: Mapping[str, Any]) -> Persona:
    try:
        return Persona(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        rule = first["msg"].removeprefix("Value error, ")
        raise reader.refuse(f"`{place}`", f"cannot be kept: {rule}", "Correct the card.") from None


def _defaults(reader: Reader, data: Mapping[str, Any], persona: Persona, ours: Any) -> None:
    """Say what was set because the card does not say it."""
    said = ours if isinstance(ours, Mapping) else {}
    for key, value in (
        ("handle", persona.handle),
        ("language", persona.language),
        ("rating", persona.rating),
        ("licence", persona.licence),
    ):
        if key not in said:
            reader.note("default", key, f"set to `{value}`; set it yourself before you publish")
    if persona.author == UNKNOWN:
        reader.note("default", "author", "set to `unknown`; set it yourself before you publish")
    if data.get("character_version") != persona.version and "version" not in said:
        reader.note("default", "version", f"set to `{persona.version}`")
    if "sampling" not in said:
        reader.note("default", "sampling", "set to our defaults")


def _native(
    package: Package, spec: Spec, reader: Reader, *, remove: bool, plain: bool = False
) -> dict[str, Any]:
    """A card's `data` as our keys say it, with our extension for the rest."""
    persona = package.persona
    examples = _examples(persona)
    fields = _V1 if spec == "v1" else _V1 | _V2
    data: dict[str, Any] = {"name": persona.name}
    data |= {theirs: getattr(persona, key) for key, theirs in fields.items()}
    data["mes_example"] = examples
    if spec == "v1":
        return data
    data |= {
        "alternate_greetings": list(persona.alternate_greetings),
        "tags": list(persona.tags),
        "creator": "" if persona.author == UNKNOWN else persona.author,
        "character_version": persona.version,
        "extensions": parse_json(persona.extensions) if persona.extensions else {},
    }
    if persona.lorebook is not None:
        data["character_book"] = write_book(persona.lorebook, spec, remove=remove, plain=plain)
    if spec == "v3":
        data |= _native_v3(package)
    ours = _unsaid(package, data, spec, reader)
    if ours:
        data["extensions"] = {**data["extensions"], OURS: ours}
    return data


def _native_v3(package: Package) -> dict[str, Any]:
    persona = package.persona
    given = {
        "nickname": persona.nickname,
        "creator_notes_multilingual": {
            one.language: one.text for one in persona.creator_notes_translated
        },
        "source": list(persona.source),
        "assets": [
            {
                "type": asset.type,
                "uri": asset.uri
                if asset.sha256 is None
                else asset.uri + base64.b64encode(package.files.get(asset.sha256, b"")).decode(),
                "name": asset.name,
                "ext": asset.ext,
            }
            for asset in persona.assets
        ],
    }
    dates = {"creation_date": persona.created, "modification_date": persona.modified}
    return {
        "group_only_greetings": list(persona.group_greetings),
        **{key: value for key, value in given.items() if value},
        **{key: value for key, value in dates.items() if value is not None},
    }


def _unsaid(
    package: Package, data: Mapping[str, Any], spec: Spec, reader: Reader
) -> dict[str, Any]:
    """Our keys whose value somebody who reads the card's own keys would not arrive at."""
    persona = package.persona
    extra = parse_json(persona.extra) if persona.extra else {}
    # The reader will see the card as it stood, where it is written so.
    seen = restore(data, extra.get("data"), remove=extra.get("format") == spec)
    seen.pop("character_book", None)
    read = _typed(reader, seen, spec, {}) | {"lorebook": persona.lorebook}
    mine = persona.model_dump(mode="json", exclude_defaults=True)
    theirs = _persona(reader, read).model_dump(mode="json", exclude_defaults=True)
    unsaid = {
        key: value
        for key, value in mine.items()
        if key not in _CARRIED and theirs.get(key) != value
    }
    # What a reader would find and we do not have: the empty value of its kind.
    for key in theirs.keys() - mine.keys() - _CARRIED:
        unsaid[key] = Persona.model_fields[key].get_default(call_default_factory=True)
    return unsaid


def _examples(persona: Persona) -> str:
    """Dialogues as a card writes them, `<START>` before each, then the text that came with it."""
    parts = [
        "\n".join(
            [
                "<START>",
                *(
                    f"{{{{user}}}}: {one.user}\n{{{{char}}}}: {one.persona}"
                    for one in dialogue.turns
                ),
            ]
        )
        for dialogue in persona.example_dialogues
    ]
    return "\n".join([*parts, *([persona.example_text] if persona.example_text else [])])
