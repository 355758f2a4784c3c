"""All that is remembered, as a file for its owner that can be read back: JSON.

It has every record with its index, so that references stay what they are; what was erased,
and that it was, is left out, and becomes gaps. Reading is strict and bounded: every refusal says
where, which rule, and what to do.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Any, Final, get_args, get_origin, get_type_hints

from memory.errors import InvalidInputError
from memory.kinds import (
    Gap,
    Notes,
    Pin,
    Record,
    Ref,
    Summary,
    Turn,
)
from memory.references import named

MAX_EXPORT_BYTES: Final = 256 * 2**20
MAX_RECORDS: Final = 1_000_000

_FORMAT: Final = "sottovoce memory"
_VERSION: Final = 1
_AGAIN: Final = "Mend that place, or export the memory again."

Read = Callable[[Any], Any]


class _WrongError(ValueError):
    """Which rule a value broke, and below which place; never leaves this module."""

    def __init__(self, rule: str, place: str = "") -> None:
        super().__init__(rule)
        self.rule = rule
        self.place = place


@dataclass(frozen=True, slots=True)
class _Form:
    """How one field stands in JSON."""

    write: Callable[[Any], Any]
    read: Read


def _plain(kind: type, rule: str) -> _Form:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise _WrongError(f"must be {rule}")
        return value

    return _Form(lambda value: value, read)


def _bytes(write: Callable[[bytes], str], parse: Callable[[str], bytes], rule: str) -> _Form:
    def read(value: Any) -> bytes:
        try:
            data = parse(_TEXT.read(value))
        except (ValueError, binascii.Error):
            data = None
        if data is None or write(data) != value:
            raise _WrongError(f"must be {rule}")
        return data

    return _Form(write, read)


def _read_ref(value: Any) -> Ref:
    try:
        return Ref.parse(_TEXT.read(value))
    except InvalidInputError:
        raise _WrongError("must be a reference, as m12 or m13.0") from None


def _optional(form: _Form) -> _Form:
    return _Form(
        lambda value: None if value is None else form.write(value),
        lambda value: None if value is None else form.read(value),
    )


def _several(form: _Form) -> _Form:
    def read(values: Any) -> tuple[Any, ...]:
        if type(values) is not list:
            raise _WrongError("must be a list")
        return tuple(_at(f"[{number}]", form.read, one) for number, one in enumerate(values))

    return _Form(lambda values: [form.write(one) for one in values], read)


def _read_source(value: Any) -> tuple[Ref, int]:
    if type(value) is not list or len(value) != 2:
        raise _WrongError("must be a reference and a turn's index")
    return _read_ref(value[0]), _INT.read(value[1])


def _at(place: str, read: Read, value: Any) -> Any:
    """Read a value, and say below which place it is wrong."""
    try:
        return read(value)
    except _WrongError as error:
        inner = error.place
        joined = f"{place}.{inner}" if inner and not inner.startswith("[") else place + inner
        raise _WrongError(error.rule, joined) from None


def _members(kind: type) -> _Form:
    forms = {name: _form(name, one) for name, one in get_type_hints(kind).items()}
    needed = {one.name for one in fields(kind) if one.default is MISSING}

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _WrongError("must be an object")
        if unknown := value.keys() - forms.keys():
            raise _WrongError("is no field that this version knows", min(unknown))
        if missing := needed - value.keys():
            raise _WrongError("is missing", min(missing))
        parts = {name: _at(name, forms[name].read, one) for name, one in value.items()}
        try:
            return kind(**parts)
        except InvalidInputError as error:
            raise _WrongError(str(error).rstrip(".")) from None

    return _Form(
        lambda value: {name: form.write(getattr(value, name)) for name, form in forms.items()}, read
    )


def _read_text(value: Any) -> str:
    if type(value) is not str:
        raise _WrongError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _WrongError("holds half of a surrogate pair; write valid Unicode") from None
    return value


_TEXT: Final = _Form(lambda value: value, _read_text)
_INT: Final = _plain(int, "a whole number")
_BOOL: Final = _plain(bool, "true or false")
_HEX: Final = _bytes(bytes.hex, bytes.fromhex, "bytes in small hexadecimal digits")
_BASE64: Final = _bytes(
    lambda data: base64.b64encode(data).decode(),
    lambda text: base64.b64decode(text, validate=True),
    "bytes in base64",
)
_REF: Final = _Form(str, _read_ref)
_SOURCE: Final = _Form(lambda pair: [str(pair[0]), pair[1]], _read_source)

# A field has the form of its type, but for vectors, which would be long in hexadecimal digits.
_FORMS: Final[dict[Any, _Form]] = {
    str: _TEXT,
    int: _INT,
    bool: _BOOL,
    bytes: _HEX,
    Ref: _REF,
    tuple[Ref, int]: _SOURCE,
}


def _form(name: str, kind: Any) -> _Form:
    if name == "vector":
        return _BASE64
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
        return _several(_form(name, get_args(kind)[0]))
    if NoneType in get_args(kind):
        return _optional(_form(name, get_args(kind)[0]))
    return _FORMS.get(kind) or _members(kind)


_KINDS: Final[dict[str, tuple[type, _Form]]] = {
    name: (kind, _members(kind))
    for name, kind in (("turn", Turn), ("notes", Notes), ("summary", Summary), ("pin", Pin))
}
_NAMES: Final = {kind: (name, form) for name, (kind, form) in _KINDS.items()}


def to_json(records: Iterable[tuple[int, Record | None]]) -> str:
    """Return all records of a thread as JSON, one record in a line.

    What was erased (None), gaps and tombstones are left out.
    """
    lines = []
    for index, record in records:
        if record is None or type(record) not in _NAMES:
            continue
        name, form = _NAMES[type(record)]
        members = {"index": index, "kind": name, **form.write(record)}
        lines.append(json.dumps(members, ensure_ascii=False, separators=(",", ":")))
    head = f'{{"format":"{_FORMAT}","version":{_VERSION},"records":[\n'
    return head + ",\n".join(lines) + "\n]}\n"


def from_json(data: bytes) -> list[Record]:
    """Read what `to_json` wrote: the records by index, with a gap where one was left out.

    Raises InvalidInputError with the place and the rule for anything else.
    """
    text = decoded(data)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except _WrongError as error:
        raise InvalidInputError(f"{error.rule}. {_AGAIN}") from None
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"line {error.lineno}: {error.msg}. {_AGAIN}") from None
    except (ValueError, RecursionError):
        raise InvalidInputError(
            f"the JSON is nested too deep or has too long a number. {_AGAIN}"
        ) from None
    if type(value) is not dict or value.keys() != {"format", "version", "records"}:
        raise InvalidInputError(
            "an export has the fields format, version and records; this is another kind of file. "
            "Name one that `sotto memory export` wrote."
        )
    if value["format"] != _FORMAT or type(value["version"]) is not int:
        raise InvalidInputError(
            f'format must be "{_FORMAT}". Name a file that `sotto memory export` wrote.'
        )
    if value["version"] != _VERSION:
        raise InvalidInputError(
            f"version is {value['version']}, and this program reads {_VERSION}. "
            "Use the program that wrote it, or a newer one."
        )
    if type(value["records"]) is not list:
        raise InvalidInputError(f"records must be a list. {_AGAIN}")
    records: list[Record] = []
    for number, one in enumerate(value["records"]):
        try:
            index, record = _record(one, len(records))
        except _WrongError as error:
            place = f"records[{number}]" + (f".{error.place}" if error.place else "")
            raise InvalidInputError(f"{place}: {error.rule}. {_AGAIN}") from None
        records += [_GAP] * (index - len(records))
        records.append(record)
    return records


_GAP: Final = Gap()


def _record(value: Any, least: int) -> tuple[int, Record]:
    if type(value) is not dict:
        raise _WrongError("must be an object")
    index, kind = value.pop("index", None), value.pop("kind", None)
    if type(index) is not int or not least <= index < MAX_RECORDS:
        raise _WrongError(f"must be above the one before it and below {MAX_RECORDS}", "index")
    if type(kind) is not str or kind not in _KINDS:
        raise _WrongError(f"must be one of {', '.join(_KINDS)}", "kind")
    record: Record = _KINDS[kind][1].read(value)
    if max(named(record), default=-1) > index:
        raise _WrongError("names a record that comes after it")
    return index, record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _WrongError("a field stands twice in one object")
    return members


def _no_constant(_: str) -> None:
    raise _WrongError("a number must be finite")


def decoded(data: bytes) -> str:
    """Return the text of a file; InvalidInputError where it is too long, or no text."""
    if len(data) > MAX_EXPORT_BYTES:
        raise InvalidInputError(
            f"it has more than {MAX_EXPORT_BYTES} bytes. Split it, or name another file."
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"byte {error.start} is no UTF-8. {_AGAIN}") from None
