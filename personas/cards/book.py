"""Lorebooks of cards (Character Card V2 and V3, `character_book`), alone and as world files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from personas.cards.cleaning import Reader
from personas.cards.remainder import remainder, restore
from personas.decorators import parse_decorators
from personas.jsontext import JsonError, object_text, parse_json
from personas.lorebook import prepare
from personas.model import MAX_ENTRIES, Lorebook, LorebookEntry

Spec = Literal["v1", "v2", "v3"]
_Model = TypeVar("_Model", bound=BaseModel)
_POSITIONS: Final = ("before_char", "after_char")


def read_book(reader: Reader, source: Any, spec: Spec) -> Lorebook | None:
    """Read a lorebook object; None for what is none. Raises CardError."""
    place = "character_book"
    if not isinstance(source, Mapping):
        if source is not None:
            reader.note("changed", place, "is not an object, so it is left out of the persona")
        return None
    entries = source.get("entries")
    if not isinstance(entries, list):
        reader.note("changed", f"{place}.entries", "is not an array, so it is left out")
        entries = []
    if len(entries) > MAX_ENTRIES:
        raise reader.refuse(
            f"`{place}.entries`",
            f"has {len(entries)} entries, more than the {MAX_ENTRIES} allowed",
            "Split the lorebook.",
        )
    there = [(at, entry) for at, entry in enumerate(entries) if isinstance(entry, Mapping)]
    for at, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            reader.note("changed", f"{place}.entries[{at}]", "is not an object, so it is left out")
    book = _model(
        reader,
        place,
        Lorebook,
        name=reader.text(f"{place}.name", source.get("name"), strip=False, most=2_048),
        description=reader.text(f"{place}.description", source.get("description"), strip=False),
        scan_depth=reader.whole(f"{place}.scan_depth", source.get("scan_depth"), 100_000),
        token_budget=reader.whole(f"{place}.token_budget", source.get("token_budget"), 1_000_000),
        recursive_scanning=reader.flag(
            f"{place}.recursive_scanning", source.get("recursive_scanning")
        ),
        entries=tuple(
            _read_entry(reader, f"{place}.entries[{at}]", entry, spec) for at, entry in there
        ),
        extensions=_extensions(reader, place, source),
    )
    changes = remainder(source, write_book(book, spec, remove=True))
    for flaw in prepare(book).flaws:
        # By the card's own numbers, where entries were left out.
        number, _, rest = flaw.place.removeprefix("lorebook.entries[").partition("]")
        at = there[int(number)][0]
        reader.note("ignored", f"{place}.entries[{at}]{rest}", flaw.problem)
    return book.model_copy(update={"extra": object_text(changes)})


def _read_entry(reader: Reader, place: str, source: Mapping[str, Any], spec: Spec) -> LorebookEntry:
    order = reader.number(f"{place}.insertion_order", source.get("insertion_order"))
    enabled = reader.flag(f"{place}.enabled", source.get("enabled"))
    position = source.get("position")
    named = source.get("id")
    entry = _model(
        reader,
        place,
        LorebookEntry,
        keys=tuple(reader.lines(f"{place}.keys", source.get("keys"))[:256]),
        content=reader.text(f"{place}.content", source.get("content"), strip=False),
        enabled=True if enabled is None else enabled,
        insertion_order=100 if order is None else order,
        use_regex=reader.flag(f"{place}.use_regex", source.get("use_regex")) or False,
        case_sensitive=reader.flag(f"{place}.case_sensitive", source.get("case_sensitive")),
        constant=reader.flag(f"{place}.constant", source.get("constant")),
        selective=reader.flag(f"{place}.selective", source.get("selective")),
        secondary_keys=tuple(
            reader.lines(f"{place}.secondary_keys", source.get("secondary_keys"))[:256]
        ),
        position=position if position in _POSITIONS else None,
        priority=reader.number(f"{place}.priority", source.get("priority")),
        id=_id(reader, f"{place}.id", named),
        name=reader.text(f"{place}.name", source.get("name"), strip=False, most=2_048),
        comment=reader.text(f"{place}.comment", source.get("comment"), strip=False),
        extensions=_extensions(reader, place, source),
    )
    return entry.model_copy(
        update={"extra": object_text(remainder(source, _write_entry(entry, spec)))}
    )


def _id(reader: Reader, place: str, value: Any) -> int | str | None:
    number = reader.number(place, value) if not isinstance(value, str) or value.isdigit() else None
    if isinstance(number, int):
        return number
    if isinstance(value, str):
        return reader.text(place, value, strip=False, most=2_048)
    return None


def _extensions(reader: Reader, place: str, source: Mapping[str, Any]) -> str:
    value = source.get("extensions")
    return object_text(value) if isinstance(value, Mapping) else ""


def _model(reader: Reader, place: str, kind: type[_Model], **values: Any) -> _Model:
    try:
        return kind(**values)
    except (ValidationError, JsonError) as error:
        where = error.errors()[0]["loc"] if isinstance(error, ValidationError) else ()
        rule = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        path = ".".join((place, *map(str, where)))
        raise reader.refuse(f"`{path}`", f"cannot be kept: {rule}", "Correct the card.") from None


def write_book(book: Lorebook, spec: Spec, *, remove: bool, plain: bool = False) -> dict[str, Any]:
    """A lorebook as a card has it.

    With `plain`, entries lose their decorators, as the specification asks of a backfilled V2 card.
    """
    written = _write_book(book)
    entries = [
        restore(
            _write_entry(entry, spec),
            parse_json(entry.extra) if entry.extra else None,
            remove=remove,
        )
        for entry in book.entries
    ]
    changes = parse_json(book.extra) if book.extra else {}
    if plain:
        for entry, ours in zip(entries, book.entries, strict=True):
            entry["content"] = parse_decorators(ours.content).text
        changes.pop("entries", None)
    written["entries"] = entries
    return restore(written, changes, remove=remove)


def _write_book(book: Lorebook) -> dict[str, Any]:
    return {
        **_given(
            name=book.name,
            description=book.description,
            scan_depth=book.scan_depth,
            token_budget=book.token_budget,
            recursive_scanning=book.recursive_scanning,
        ),
        "extensions": parse_json(book.extensions) if book.extensions else {},
        "entries": [],
    }


def _write_entry(entry: LorebookEntry, spec: Spec) -> dict[str, Any]:
    return {
        "keys": list(entry.keys),
        "content": entry.content,
        "extensions": parse_json(entry.extensions) if entry.extensions else {},
        "enabled": entry.enabled,
        "insertion_order": entry.insertion_order,
        # V2 does not know it; where it matters, whoever reads on can still see it.
        **({"use_regex": entry.use_regex} if spec == "v3" or entry.use_regex else {}),
        **_given(
            case_sensitive=entry.case_sensitive,
            constant=entry.constant,
            name=entry.name,
            priority=entry.priority,
            id=entry.id,
            comment=entry.comment,
            selective=entry.selective,
            secondary_keys=list(entry.secondary_keys),
            position=entry.position,
        ),
    }


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", [])}


# SillyTavern's world files: one object per entry, under other names.
_WORLD: Final = {
    "key": "keys",
    "keysecondary": "secondary_keys",
    "comment": "comment",
    "content": "content",
    "constant": "constant",
    "selective": "selective",
    "order": "insertion_order",
    "uid": "id",
    "caseSensitive": "case_sensitive",
}
_WORLD_EXTENSIONS: Final = {
    "position": "position",
    "depth": "depth",
    "role": "role",
    "scanDepth": "scan_depth",
    "selectiveLogic": "selectiveLogic",
    "matchWholeWords": "match_whole_words",
    "probability": "probability",
    "useProbability": "useProbability",
    "excludeRecursion": "exclude_recursion",
    "preventRecursion": "prevent_recursion",
    "delayUntilRecursion": "delay_until_recursion",
    "displayIndex": "display_index",
    "group": "group",
    "groupOverride": "group_override",
    "groupWeight": "group_weight",
    "useGroupScoring": "use_group_scoring",
    "automationId": "automation_id",
    "vectorized": "vectorized",
    "sticky": "sticky",
    "cooldown": "cooldown",
    "delay": "delay",
}


def is_world(value: Mapping[str, Any]) -> bool:
    """Whether an object looks like one of SillyTavern's world files."""
    entries = value.get("entries")
    return isinstance(entries, Mapping) and all(
        isinstance(entry, Mapping) and "key" in entry for entry in entries.values()
    )


def world_as_book(value: Mapping[str, Any]) -> dict[str, Any]:
    """A world file as the lorebook object of a card that SillyTavern would write of it."""
    entries = []
    for entry in value["entries"].values():
        made = {ours: entry[theirs] for theirs, ours in _WORLD.items() if theirs in entry}
        made["enabled"] = entry.get("disable") is not True
        made["use_regex"] = True
        known = {*_WORLD, *_WORLD_EXTENSIONS, "disable"}
        made["extensions"] = {
            "selectiveLogic": entry.get("selectiveLogic", 0),
            **{
                ours: entry[theirs] for theirs, ours in _WORLD_EXTENSIONS.items() if theirs in entry
            },
            **{key: inner for key, inner in entry.items() if key not in known},
        }
        entries.append(made)
    book = {key: inner for key, inner in value.items() if key != "entries"}
    return {**book, "extensions": value.get("extensions", {}), "entries": entries}
