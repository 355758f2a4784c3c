"""Damaged and hostile files are refused with file, place, rule and remedy, in bounded memory."""

import base64
import json
import stat
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from io import BytesIO
from typing import Any

import card_files as files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personas.cards import CardError, read_any, read_lorebook
from personas.errors import PersonaError


def _refused(data: bytes, name: str, place: str, rule: str) -> CardError:
    with pytest.raises(CardError) as caught:
        read_any(data, name)
    error = caught.value
    assert str(error).startswith(f"{name}: ")
    assert place in error.place
    assert rule in error.rule
    # A whole sentence that tells somebody to do something.
    assert error.remedy.endswith(".")
    assert error.remedy in str(error)
    return error


BOMB = zlib.compress(bytes(50_000_000))
CHARA = files.text("chara", files.dumps(files.v2()))


@pytest.mark.parametrize(
    ("data", "place", "rule"),
    [
        (files.png(), "the image", "holds no card"),
        (files.png(CHARA)[:-4], "chunk at byte", "cut short"),
        (files.SIGNATURE, "byte 8", "without an IEND"),
        (files.png(CHARA)[:-12], "byte ", "without an IEND chunk: the image was cut short"),
        (
            files.SIGNATURE + struct.pack(">I4s", 0xFFFFFFFF, b"IHDR") + bytes(64),
            "byte 8",
            "claims",
        ),
        (files.png(CHARA[:-1] + bytes([CHARA[-1] ^ 1])), "chunk at byte", "CRC"),
        (files.SIGNATURE + files.IMAGE + files.END, "byte 8", "IHDR"),
        (files.png(files.HEADER), "chunk at byte", "IHDR"),
        (files.png(files.chunk(b"tEXt", b"chara\x00%%%")), "`chara`", "base64"),
        (files.png(files.chunk(b"tEXt", b"ccv3\x00YQ=")), "`ccv3`", "base64"),
        (files.png(files.text("chara", b"\xff\xfe")), "`chara`", "not UTF-8"),
        (files.png(files.text("chara", b"[1]")), "`chara`", "not a JSON object"),
        (files.png(files.text("chara", b"{")), "`chara`", "is not JSON"),
        (files.png(files.text("chara", b"a" * 5_000_000)), "`chara`", "more than"),
        (
            files.png(CHARA, *[files.text("chara-ext-asset_:a", b"1")] * 2),
            "asset chunk",
            "path of another",
        ),
        (files.png(CHARA, files.text("chara-ext-asset_:../a", b"1")), "embedded asset", "leaves"),
        (files.png(files.chunk(b"zTXt", b"chara\0\0" + BOMB)), "`chara`", "more than"),
        (files.png(files.chunk(b"iTXt", b"name\0\1\0\0\0" + BOMB)), "`name`", "more than"),
        (files.png(files.chunk(b"zTXt", b"ccv3\0\0" + BOMB[:99])), "`ccv3`", "cut short"),
        (files.png(files.chunk(b"zTXt", b"ccv3\0\0%%")), "`ccv3`", "cannot be unpacked"),
        (files.png(files.chunk(b"iTXt", b"ccv3")), "`ccv3`", "is not JSON"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "the image", "JPEG without a card"),
        (b"\xff\xd8\xff\xe0" + bytes(99) + b"PK\5\6" + bytes(18), "the archive", "card.json"),
    ],
)
def test_png_files_that_are_not_whole(data: bytes, place: str, rule: str) -> None:
    """Each way in which an image can lie is named where it stands."""
    _refused(data, "x.png", place, rule)


def test_a_png_that_was_cut_is_no_card() -> None:
    """Wherever its download stopped: also behind the whole card, and between two chunks."""
    whole = files.png(CHARA)
    for size in range(len(files.SIGNATURE), len(whole)):
        with pytest.raises(CardError) as caught:
            read_any(whole[:size], "zoe.png")
        assert str(caught.value).startswith("zoe.png: ")
        assert str(caught.value).endswith("Download the card again.")


def _json(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("data", "place", "rule"),
    [
        (b"\x00\x01", "the file", "none of the formats"),
        (b"", "the file", "none of the formats"),
        (b"{}", "the file", "no card"),
        (b'{"name":"A"', "the file", "is not JSON: line 1"),
        (b'{"name":""}', "`name`", "missing or empty"),
        (b'{"name":5}', "`name`", "missing or empty"),
        (b'{"name":"A","name":"B"}', "the file", "same key twice"),
        (b'{"name":"A","x":NaN}', "the file", "NaN"),
        (_json('{"name":"A","x":' + "[" * 100_000), "the file", "deeper than"),
        (_json('{"name":"A","x":[' + "0," * 300_000 + "0]}"), "the file", "more than"),
        (b'{"name":"\xff"}', "the file", "not UTF-8 at byte 9"),
        (files.dumps(files.v2(description="a" * 40_000)), "`description`", "40000 characters"),
        (
            files.dumps(files.v2(extensions={"a": "b" * 2_000_000})),
            "the file",
            "bytes as canonical JSON",
        ),
        (files.dumps(files.v3(assets=[{}] * 2_000)), "`assets`", "1024"),
        (
            files.dumps(files.v3(assets=[{"uri": "data:image/png;base64," + "!" * 300}])),
            "`assets[0].uri`",
            "base64",
        ),
        (
            files.dumps(files.v2(character_book={"entries": [{"content": ""}] * 5_000})),
            "character_book.entries",
            "5000 entries",
        ),
        (b" " * 9_000_000 + b"{}", "the file", "more than"),
    ],
)
def test_json_files_that_are_not_cards(data: bytes, place: str, rule: str) -> None:
    """Too deep, too long, too many, doubled, not Unicode: each has its own words."""
    _refused(data, "x.json", place, rule)


def _zip(*entries: tuple[Any, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # about names that stand twice
        archive.writestr("card.json", json.dumps(files.v3()))
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def _link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def _patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new)


def _encrypted() -> bytes:
    data = bytearray(_zip(("a", b"1")))
    at = data.rindex(b"PK\x01\x02")
    data[at + 8] |= 1
    return bytes(data)


def _claims(size: int) -> bytes:
    """An archive whose directory says that its last entry is longer than it is."""
    data = bytearray(_zip(("a", b"1" * 100)))
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, size)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "place", "rule"),
    [
        (_zip(("../up", b"1")), "entry number 1", "leaves the archive"),
        (_zip(("a/../../up", b"1")), "entry number 1", "leaves the archive"),
        (_zip(("/etc/cron", b"1")), "entry number 1", "leaves the archive"),
        (_zip(("C:/a", b"1")), "entry number 1", "leaves the archive"),
        (_zip(("a\\b", b"1")), "entry number 1", "leaves the archive"),
        (_zip(("a//b", b"1")), "entry number 1", "leaves the archive"),
        (_zip(("a\x1b[2J", b"1")), "entry number 1", "leaves the archive"),
        (_patched(_zip(("aXb.png", b"1")), b"aXb", b"a\0b"), "entry number 1", "leaves"),
        (_zip(("n" * 300, b"1")), "entry number 1", "leaves the archive"),
        (_zip(("a", b"1"), ("a", b"2")), "entry number 2", "path of another"),
        (_zip((_link(), b"/etc/passwd")), "entry number 1", "a link"),
        (_encrypted(), "entry number 1", "encrypted"),
        (_zip(("a", b"1"), method=zipfile.ZIP_BZIP2), "entry number 0", "method"),
        (_zip(("bomb", bytes(30_000_000))), "entry number 1", "200 times"),
        (_zip(*[(f"{at}", b"") for at in range(1_100)]), "the archive", "1101 entries"),
        (_claims(2**31), "entry number 1", "bytes it may unpack to"),
        (_claims(300), "the archive", "damaged"),
        (_claims(50), "the archive", "damaged"),
        (_zip()[:-10], "the archive", "damaged"),
        (b"PK\x03\x04" + bytes(100), "the archive", "damaged"),
        (_patched(_zip(), b"card.json", b"cart.json"), "the archive", "no `card.json`"),
    ],
)
def test_charx_files_that_try_something(data: bytes, place: str, rule: str) -> None:
    """Paths, links, bombs, passwords and lies of the directory, before anything is unpacked."""
    _refused(data, "x.charx", place, rule)


def test_overlapping_entries_are_refused() -> None:
    """Entries that claim more packed bytes than the archive has would share them."""
    data = bytearray(_zip(*[(f"{at}", bytes(5_000)) for at in range(3)], method=zipfile.ZIP_STORED))
    # Each entry of the directory says that it reaches over the bytes of the next ones.
    for at in range(len(data) - 4):
        if data[at : at + 4] == b"PK\x01\x02":
            struct.pack_into("<II", data, at + 20, 9_000, 9_000)
    _refused(bytes(data), "x.charx", "the archive", "overlap")


def test_a_bomb_costs_no_memory() -> None:
    """Refusal comes before allocation: a bomb of 60 MB is refused within 3 MB."""
    bomb = _zip(("bomb", bytes(60_000_000)))
    claim = files.SIGNATURE + struct.pack(">I4s", 0x7FFFFFFF, b"IHDR") + bytes(64)
    long = files.png(files.chunk(b"tEXt", b"chara\x00" + base64.b64encode(bytes(6_000_000))))
    text = files.png(files.chunk(b"zTXt", b"chara\0\0" + BOMB))
    for data, name, most in (
        (bomb, "x.charx", 3), (claim, "x.png", 1), (long, "x.png", 25), (text, "x.png", 25),
    ):  # fmt: skip
        tracemalloc.start()
        with pytest.raises(CardError):
            read_any(data, name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most * 1_000_000, name


def test_regular_expressions_cannot_hang_us() -> None:
    """A pattern that takes other engines for ever, or much memory, is only reported."""
    bad = ["(a+)+$", "/(?<=a)b/", "((a{100}){100}){100}", "(", "x" * 5_000, "/a/q", "//", "\ud800"]
    card = files.v3()
    card["data"]["character_book"]["entries"] = [
        {"keys": [one], "content": "c", "use_regex": True, "enabled": True, "insertion_order": at}
        for at, one in enumerate(bad)
    ]
    imported = read_any(files.dumps(card), "x.json")
    lorebook = imported.package.persona.lorebook
    assert lorebook is not None
    assert len(lorebook.entries) == len(bad)
    flawed = {note.place for note in imported.report if note.kind == "ignored"}
    assert {f"character_book.entries[{at}].keys[0]" for at in (1, 2, 3, 4, 5)} <= flawed
    assert "lorebook.entries[0].keys[0]" not in flawed


def test_a_file_that_is_no_lorebook_is_refused() -> None:
    """A card is not silently taken for an empty lorebook."""
    with pytest.raises(CardError, match=r"x\.json: the file holds no lorebook\. Give a"):
        read_lorebook(files.dumps(files.v2()), "x.json")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_card_never_brings_another_error(data: st.DataObject) -> None:
    """Whatever is cut, turned or put in: a persona, or a refusal of our own."""
    name, whole = data.draw(
        st.sampled_from(
            [
                ("x.png", files.png(CHARA)),
                ("x.charx", files.charx(files.v3(), {"a.png": files.png()})),
                ("x.json", files.dumps(files.v3())),
            ]
        )
    )
    at = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(at, min(len(whole), at + 8)))
    try:
        read_any(whole[:at] + data.draw(st.binary(max_size=8)) + whole[end:], name)
    except PersonaError as error:
        assert str(error)
