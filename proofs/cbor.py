"""Deterministic CBOR (RFC 8949 section 4.2) and the checks that every decoder here shares.

What comes in must re-encode to the same bytes, so that one value has one encoding and one
digest. That also refuses duplicate keys, indefinite lengths, long integers and trailing bytes.
cbor2 sorts map keys by length first (section 4.2.3) where section 4.2.1 sorts bytewise; the two
agree for the only maps used here, those of COSE headers and CWT claims, whose keys are small
positive and large negative integers. Everything else is an array.
"""

from __future__ import annotations

import cbor2

from proofs.errors import UnreadableError

MAX_UINT = 2**63 - 1
_MAX_DEPTH = 8
_MAX_PAIRS = 23  # as many as one byte can announce
_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_COSE_SIGN1 = 18
_FALSE, _TRUE, _NULL = 20, 21, 22


def encode(value: object) -> bytes:
    """The one encoding of `value`: integers, byte and text strings, arrays, maps, tags, null."""
    encoded: bytes = cbor2.dumps(value, canonical=True)
    return encoded


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type and argument of the item at `at`, and where its head ends (RFC 8949 section 3)."""
    major, info = data[at] >> 5, data[at] & 0x1F
    if info < 24:
        return major, info, at + 1
    size = 1 << (info - 24)
    argument = data[at + 1 : at + 1 + size]
    if size > 8 or len(argument) < size:
        raise UnreadableError("an item is cut or of indefinite length")
    return major, int.from_bytes(argument, "big"), at + 1 + size


def _check_items(data: bytes) -> None:
    """Refuse all but the few items used here, before a library makes objects of them.

    In objects, a hundred bytes can be more than any memory holds: shared values (tags 28 and 29)
    and maps that are keys of maps double with each level when they are encoded again, and equal
    hashes make a map's keys quadratic. Numbers, dates and patterns come by other tags.
    """
    at = 0
    left = [1]  # items that each open container still wants; keys and values of maps in turn
    keys = [False]
    while left:
        if left[-1] == 0:
            left.pop()
            keys.pop()
            continue
        if at >= len(data):
            raise UnreadableError("the last item is cut")
        is_key = keys[-1] and left[-1] % 2 == 0
        left[-1] -= 1
        major, argument, at = _head(data, at)
        if is_key and major not in (_UINT, _NINT):
            raise UnreadableError("a map's key is no integer")
        if major in (_BYTES, _TEXT):
            at += argument
        elif major in (_ARRAY, _MAP, _TAG):
            if len(left) > _MAX_DEPTH or (major == _MAP and argument > _MAX_PAIRS):
                raise UnreadableError("items are nested too deeply, or a map is too large")
            if major == _TAG and argument != _COSE_SIGN1:
                raise UnreadableError("a tag is none that is used here")
            left.append({_ARRAY: argument, _MAP: 2 * argument, _TAG: 1}[major])
            keys.append(major == _MAP)
        elif major == _SIMPLE and data[at - 1] & 0x1F not in (_FALSE, _TRUE, _NULL):
            raise UnreadableError("a number is no integer, or a value is unknown")
    if at != len(data):
        raise UnreadableError("bytes follow the last item, or it is cut")


def decode(data: bytes, *, what: str, limit: int) -> object:
    """Decode one value that is exactly `data`.

    Args:
        data: The whole encoding; at most `limit` bytes.
        what: The thing's name, for the error.
        limit: Refuses longer input before any of it is parsed.

    Raises:
        UnreadableError: Too long, not CBOR, or not the deterministic encoding.
    """
    if len(data) > limit:
        raise UnreadableError(
            f"{what} has {len(data)} bytes, more than the {limit} allowed. It is not one of ours."
        )
    try:
        _check_items(data)
        value: object = cbor2.loads(data)
    except (UnreadableError, cbor2.CBORDecodeError) as error:
        raise UnreadableError(
            f"{what} is not CBOR. It is damaged or something else: get it again."
        ) from error
    # Re-encoding catches unsorted and duplicate keys, and integers longer than needed.
    if encode(value) != data:
        raise UnreadableError(
            f"{what} is not in deterministic CBOR, so its digest would mean nothing. "
            "It was changed or made by another program: get it again."
        )
    return value


def as_array(value: object, what: str, length: int) -> list[object]:
    """`value` as an array of exactly `length` items."""
    # cbor2 6 reads arrays inside tags as tuples.
    if not isinstance(value, list | tuple) or len(value) != length:
        raise UnreadableError(f"{what} should be an array of {length}. Get it again.")
    return list(value)


def as_list(value: object, what: str, most: int) -> list[object]:
    """`value` as an array of at most `most` items."""
    if not isinstance(value, list | tuple) or len(value) > most:
        raise UnreadableError(f"{what} should be an array of at most {most}. Get it again.")
    return list(value)


def as_bytes(
    value: object, what: str, size: int | None = None, *, least: int = 1, most: int = 65535
) -> bytes:
    """`value` as a byte string of exactly `size` bytes, else of `least` to `most`."""
    if type(value) is not bytes:
        raise UnreadableError(f"{what} should be a byte string. Get it again.")
    if size is not None and len(value) != size:
        raise UnreadableError(f"{what} should have {size} bytes, not {len(value)}. Get it again.")
    if not least <= len(value) <= most:
        raise UnreadableError(f"{what} should have {least} to {most} bytes, not {len(value)}.")
    return value


def as_text(value: object, what: str, most: int) -> str:
    """`value` as text of 1 to `most` characters that UTF-8 can carry."""
    if type(value) is not str or not 0 < len(value) <= most:
        raise UnreadableError(f"{what} should be text of 1 to {most} characters. Get it again.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnreadableError(f"{what} holds a lone surrogate. Remove it.") from error
    return value


def as_uint(value: object, what: str, most: int = MAX_UINT) -> int:
    """`value` as an integer from 0 to `most`; a boolean is none."""
    if type(value) is not int or not 0 <= value <= most:
        raise UnreadableError(f"{what} should be an integer from 0 to {most}. Get it again.")
    return value


def as_bool(value: object, what: str) -> bool:
    """`value` as true or false."""
    if type(value) is not bool:
        raise UnreadableError(f"{what} should be true or false. Get it again.")
    return value


def check_label(value: object, label: str, what: str) -> None:
    """Refuse a thing of another kind or version; every format starts with its name."""
    if value != label or type(value) is not str:
        raise UnreadableError(f"{what} does not start with '{label}'. It is something else.")
