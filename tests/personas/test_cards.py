"""Cards come in and go out as they were; what is lost elsewhere is said."""

import base64
import json
import zipfile
import zlib
from io import BytesIO
from typing import Any

import card_files as files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personas.cards import FORMATS, Format, export, read_any, read_lorebook, write
from personas.cards.cleaning import handle_of, tag_of
from personas.digest import canonical, from_canonical, persona_digest
from personas.files import parse_persona, write_persona
from personas.library import load_library
from personas.model import Persona
from personas.package import Package

INES = load_library().get("ines")


@pytest.mark.parametrize(
    ("format", "card"),
    [("json-v1", files.v1(unknown=[1])), ("json-v2", files.v2()), ("json-v3", files.v3())],
)
def test_a_card_comes_out_as_the_same_json(format: Format, card: Any) -> None:
    """Every field, known or not, absent or odd, is what it was."""
    imported = read_any(files.dumps(card), "zoe.json")
    assert imported.format == format
    assert json.loads(write(imported.package, format)) == card
    assert from_canonical(canonical(imported.package.persona)) == imported.package.persona


def test_what_a_card_says_is_what_the_persona_says() -> None:
    """Each field of V3 has its key, and prose is made fit for prompts."""
    persona = read_any(files.dumps(files.v3()), "zoe.json").package.persona
    assert (persona.name, persona.nickname, persona.handle) == ("Zoë Lind", "Zo", "zoe-lind")
    assert persona.description == "{{char}} is a diver."
    assert persona.style == "calm, exact"
    assert persona.greeting == "You came, {{user}}."
    assert persona.alternate_greetings == ("Back again?", "Wet feet.")
    assert persona.group_greetings == ("All of you?",)
    assert persona.tags == ("sci-fi", "sea", "猫娘")
    assert (persona.author, persona.version) == ("A. Writer", "1.0.0")
    assert (persona.created, persona.modified) == (1_700_000_000, 1_700_000_001)
    assert persona.lorebook is not None
    assert persona.lorebook.entries[0].insertion_order == 10.5
    assert persona.assets[0].uri == "ccdefault:"
    assert json.loads(persona.extensions)["talkativeness"] == "0.5"


def test_the_report_names_every_default() -> None:
    """A creator learns what they still have to say before they publish."""
    report = read_any(files.dumps(files.v1()), "zoe.json").report
    set_by_us = {note.place for note in report if note.kind == "default"}
    assert set_by_us == {"handle", "language", "rating", "licence", "author", "version", "sampling"}
    assert all("publish" in note.text for note in report if note.place in ("language", "rating"))


def test_what_has_no_effect_is_reported() -> None:
    """A pattern that RE2 cannot read keeps the card from nothing, and does not stay unsaid."""
    report = read_any(files.dumps(files.v3()), "zoe.json").report
    assert any(
        note.kind == "ignored" and "keys[0]" in note.place and "RE2" in note.text for note in report
    )


numbers = (
    st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**53 + 1, 1.0, -0.0, 1e22, 5e-324])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
anything = st.dictionaries(st.text(), values, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    extensions=anything,
    unknown=anything,
    odd=values,
    place=st.sampled_from(sorted(files.v3()["data"])),
)
def test_any_json_survives_anywhere(
    extensions: dict[str, Any], unknown: dict[str, Any], odd: Any, place: str
) -> None:
    """Extensions, unknown fields and fields of the wrong type come back as the same values."""
    card = files.v3(extensions=extensions)
    card["data"]["character_book"]["entries"][0]["extensions"] = extensions
    card["data"]["character_book"]["entries"][1].update(unknown)
    card["data"] = unknown | card["data"]
    if place not in ("name", "assets", "extensions", "character_book"):
        card["data"][place] = odd
    written = json.dumps(card)
    again = write(read_any(written.encode(), "zoe.json").package, "json-v3").decode()
    assert json.loads(again, parse_float=str, parse_int=str) == json.loads(
        written, parse_float=str, parse_int=str
    )
    inner = json.loads(again)["data"]["extensions"]
    assert json.dumps(inner) == json.dumps(extensions)  # the order of keys as well


def test_numbers_beyond_doubles_keep_every_digit() -> None:
    """Python would round them or refuse them; RFC 8785 knows none of them; we keep their text."""
    odd = b'{"big":123456789012345678901234567890,"huge":1e400,"long":0.1000000000000000055}'
    card = files.dumps(files.v2(extensions={"n": "HERE"})).replace(b'"HERE"', odd)
    imported = read_any(card, "zoe.json").package
    assert odd in write(imported, "json-v2")
    assert from_canonical(canonical(imported.persona)) == imported.persona
    other = read_any(card.replace(b"7890,", b"7891,"), "zoe.json").package
    assert persona_digest(other.persona) != persona_digest(imported.persona)


def test_an_edit_wins_over_what_the_card_said() -> None:
    """What came in is put back only where its author has not changed it since."""
    imported = read_any(files.dumps(files.v2()), "zoe.json").package
    edited = imported.persona.model_copy(update={"style": "loud", "version": "2.0.0"})
    data = json.loads(write(Package(edited), "json-v2"))["data"]
    assert (data["personality"], data["character_version"]) == ("loud", "2.0.0")
    assert data["description"] == files.v2()["data"]["description"]


@pytest.mark.parametrize("persona", list(load_library()), ids=lambda one: one.handle)
@pytest.mark.parametrize("format", ["json-v2", "json-v3", "png", "charx", "toml"])
def test_ours_come_back_whole(persona: Persona, format: Format) -> None:
    """What a card has no word for travels in our extension, so the digest can be the same."""
    exported = export(Package(persona), format)
    assert exported.report == ()
    again = read_any(exported.data, f"x.{format}").package.persona
    kept = {"extra": "", "avatar": None}
    assert again.model_copy(update=kept) == persona
    if format in ("json-v3", "charx", "toml"):
        assert persona_digest(again) == persona_digest(persona)


def test_a_png_keeps_its_image_and_its_other_chunks() -> None:
    """Only the card's own chunks change."""
    source = files.png(files.text("ccv3", files.dumps(files.v3())))
    imported = read_any(source, "zoe.png")
    assert imported.format == "png (v3)"
    avatar = imported.package.persona.avatar
    assert avatar is not None
    assert imported.package.read(avatar) == files.png()
    again = write(imported.package, "png")
    kept = [
        one for one in files.chunks_of(again) if not one[1].startswith((b"ccv3\x00", b"chara\x00"))
    ]
    assert kept == files.chunks_of(files.png())
    assert files.card_of(again, b"ccv3") == files.v3()


def test_a_v3_png_has_a_warned_v2_beside_it() -> None:
    """Programs that know V2 alone read it, are told, and see no decorators."""
    source = files.png(files.text("ccv3", files.dumps(files.v3())))
    data = files.card_of(write(read_any(source, "zoe.png").package, "png"), b"chara")
    assert data["spec"] == "chara_card_v2"
    assert "Character Card V3" in data["data"]["creator_notes"]
    assert data["data"]["creator_notes"].endswith("Made in a week.")
    assert data["data"]["character_book"]["entries"][0]["content"] == "The pier was built in 1911."
    assert "nickname" not in data["data"]


def test_ccv3_wins_and_the_backfill_goes() -> None:
    """Where both are there, the older one is dropped on import and made anew on export."""
    older = files.text("chara", files.dumps(files.v2(description="older")))
    both = files.png(older, files.text("ccv3", files.dumps(files.v3())))
    package = read_any(both, "zoe.png").package
    assert package.persona.description == "{{char}} is a diver."
    avatar = package.persona.avatar
    assert avatar is not None
    assert b"chara" not in (package.read(avatar) or b"")


@pytest.mark.parametrize("card", [files.v1(), files.v2()])
def test_a_png_of_an_older_card_stays_one(card: Any) -> None:
    """A V1 or V2 card comes out as it was, without a warning, until it says more."""
    source = files.png(files.text("chara", files.dumps(card)))
    package = read_any(source, "zoe.png").package
    again = write(package, "png")
    assert files.card_of(again, b"chara") == card
    assert files.card_of(again, b"ccv3") is None
    more = package.persona.model_copy(update={"nickname": "Zo", "rating": "teen"})
    assert files.card_of(write(Package(more, package.files), "png"), b"ccv3") is not None


def test_assets_in_a_png_are_kept() -> None:
    """`__asset:` chunks come back under their paths."""
    assets = [{"type": "x_song", "uri": "__asset:song.ogg", "name": "song", "ext": "ogg"}]
    source = files.png(
        files.text("chara-ext-asset_:song.ogg", b"OggS"),
        files.text("ccv3", files.dumps(files.v3(assets=assets))),
    )
    package = read_any(source, "zoe.png").package
    assert [(one.path, package.read(one)) for one in package.persona.files] == [
        ("song.ogg", b"OggS")
    ]
    again = read_any(write(package, "png"), "zoe.png").package
    assert again == package


def test_a_card_of_plain_text_fields_is_read() -> None:
    """An early form: fields of the image, without JSON; they stay in the image."""
    imported = read_any(files.vector("puro-v1.png"), "puro-v1.png")
    persona = imported.package.persona
    assert (imported.format, persona.name) == ("png (text fields)", "Puro")
    assert persona.style.startswith("You are Puro — a soft-spoken")
    assert persona.greeting.startswith("*looks up from the ledger*")
    assert persona.scenario.startswith("A quiet used bookshop")
    again = write(imported.package, "png")
    assert files.chunks_of(files.vector("puro-v1.png"))[:-1] == files.chunks_of(again)[:7]
    assert read_any(again, "again.png").package.persona.greeting == persona.greeting


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "packed iTXt"])
def test_other_text_chunks_hold_cards_too(kind: str) -> None:
    """Some tools write packed or international text; an export replaces it."""
    body = base64.b64encode(files.dumps(files.v2()))
    held = {
        "zTXt": files.chunk(b"zTXt", b"chara\0\0" + zlib.compress(body)),
        "iTXt": files.chunk(b"iTXt", b"chara\0\0\0en\0card\0" + body),
        "packed iTXt": files.chunk(b"iTXt", b"chara\0\1\0\0\0" + zlib.compress(body)),
    }
    found = read_any(files.png(held[kind]), "zoe.png")
    assert found.format == "png (v2)"
    assert found.package.persona.name == "Zoë Lind"
    again = write(found.package, "png")
    assert files.card_of(again, b"chara") == files.v2()
    assert not {b"zTXt", b"iTXt"} & {kind for kind, _ in files.chunks_of(again)}


def test_a_charx_behind_a_picture_is_read() -> None:
    """Some programs put a JPEG before the archive, so that it shows as a picture."""
    data = b"\xff\xd8\xff\xe0" + bytes(500) + files.charx(files.v3(), {"a.txt": b"x"})
    found = read_any(data, "zoe.jpeg")
    assert found.format == "charx (v3)"
    assert found.package.persona.name == "Zoë Lind"
    assert [(note.kind, note.place) for note in found.report if note.kind == "lost"] == [
        ("lost", "byte 0")
    ]


def test_entries_that_cannot_be_read_are_named_by_their_place() -> None:
    """Those after one that is left out keep their numbers in the report."""
    card = files.v2(
        character_book={
            "entries": [5, {"content": "x", "keys": 7}, {"keys": ["("], "use_regex": True}]
        }
    )
    found = read_any(files.dumps(card), "x.json")
    places = [note.place for note in found.report if "entries" in note.place]
    assert places == [
        "character_book.entries[0]",
        "character_book.entries[1].keys",
        "character_book.entries[2].keys[0]",
    ]
    assert json.loads(write(found.package, "json-v2")) == card


def test_a_charx_keeps_every_file() -> None:
    """Assets, other JSON at the root and what nobody names: each comes back as it was."""
    assets = [
        {
            "type": "icon",
            "uri": "embeded://assets/icon/images/main.png",
            "name": "main",
            "ext": "png",
        },
        {"type": "background", "uri": "embeded://bg/Night.webp", "name": "main", "ext": "webp"},
        {"type": "icon", "uri": "ccdefault:", "name": "other", "ext": "png"},
    ]
    beside = {
        "assets/icon/images/main.png": files.png(),
        "bg/Night.webp": b"RIFF" * 50,
        "x_program.json": b'{"a":1}',
        "left/alone.bin": bytes(range(256)),
    }
    package = read_any(files.charx(files.v3(assets=assets), beside), "zoe.charx").package
    avatar = package.persona.avatar
    assert avatar is not None
    assert package.read(avatar) == files.png()
    with zipfile.ZipFile(BytesIO(write(package, "charx"))) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert json.loads(found.pop("card.json")) == files.v3(assets=assets)
    assert found == beside


def test_an_avatar_goes_into_a_charx_as_its_main_icon() -> None:
    """A PNG card becomes a CHARX with the same picture."""
    package = read_any(files.png(files.text("chara", files.dumps(files.v2()))), "z.png").package
    again = read_any(write(package, "charx"), "z.charx").package
    avatar = again.persona.avatar
    assert avatar is not None
    assert avatar.path == "assets/icon/images/main.png"
    assert again.read(avatar) == files.png()


def test_a_data_url_is_a_file_of_the_package() -> None:
    """Pictures in JSON do not stand in the definition, and come back where they were."""
    body = bytes(range(256)) * 40
    uri = "data:image/webp;base64," + base64.b64encode(body).decode()
    card = files.v3(assets=[{"type": "emotion", "uri": uri, "name": "glad", "ext": "webp"}])
    package = read_any(files.dumps(card), "zoe.json").package
    assert list(package.files.values()) == [body]
    assert len(canonical(package.persona)) < len(uri)
    assert json.loads(write(package, "json-v3")) == card


def test_lorebooks_alone_become_personas() -> None:
    """`lorebook_v3` and SillyTavern's world files, which name their parts otherwise."""
    alone = files.dumps({"spec": "lorebook_v3", "data": files.book()})
    imported = read_any(alone, "harbour.json")
    assert (imported.format, imported.package.persona.name) == ("lorebook", "Harbour")
    assert imported.package.persona.lorebook == read_lorebook(alone, "harbour.json")[0]
    world = {
        "entries": {
            "0": {
                "uid": 0,
                "key": ["pier"],
                "keysecondary": ["night"],
                "content": "Built in 1911.",
                "selective": True,
                "order": 7,
                "position": 4,
                "depth": 2,
                "disable": False,
                "extra": {"x": 1},
            }
        }
    }
    book, _ = read_lorebook(files.dumps(world), "world.json")
    (entry,) = book.entries
    assert (entry.keys, entry.secondary_keys, entry.insertion_order) == (("pier",), ("night",), 7)
    assert json.loads(entry.extensions)["extra"] == {"x": 1}


def test_an_eliza_character_is_read_and_written() -> None:
    """What it says of the character is carried; posts are not, and settings never."""
    source = json.loads(files.vector("eliza.character.json"))
    source["settings"] = {"secrets": {"KEY": "swordfish"}}
    imported = read_any(files.dumps(source), "eliza.json")
    persona = imported.package.persona
    assert (imported.format, persona.handle) == ("eliza", "exampleagent")
    assert persona.description.split("\n") == source["bio"]
    assert source["style"]["all"][0] in persona.style
    assert persona.lorebook is not None
    assert [entry.content for entry in persona.lorebook.entries] == source["lore"]
    assert persona.knowledge[0].text == source["knowledge"][0]["content"]
    lost = {note.place for note in imported.report if note.kind == "lost"}
    assert {"postExamples", "style.post", "settings"} <= lost
    assert b"swordfish" not in canonical(persona)
    again = json.loads(write(imported.package, "eliza"))
    for key in ("name", "bio", "lore", "topics"):
        wanted = [tag_of(one) for one in source[key]] if key == "topics" else source[key]
        assert again[key] == wanted
    theirs = [[one["content"]["text"] for one in talk] for talk in source["messageExamples"]]
    ours = [[one["content"]["text"] for one in talk] for talk in again["messageExamples"]]
    assert ours[0][0] == theirs[0][0]
    assert [len(talk) for talk in ours] == [len(talk) for talk in theirs]


def test_a_letta_agent_is_read_and_written() -> None:
    """Instructions and blocks are the persona; what it knows of a person is not."""
    imported = read_any(files.vector("letta-test_agent.af"), "agent.af")
    source = json.loads(files.vector("letta-test_agent.af"))
    persona = imported.package.persona
    assert (imported.format, persona.name) == ("letta", "letta-cli-agent")
    assert persona.system_prompt == source["agents"][0]["system"].strip()
    lost = {note.place for note in imported.report if note.kind == "lost"}
    assert {"tools", "agents[0].messages", "blocks[0]"} <= lost
    assert not any("human" in one.name for one in persona.knowledge)
    exported = export(imported.package, "letta")
    again = read_any(exported.data, "again.af").package.persona
    assert again == persona
    assert exported.report == ()


@pytest.mark.parametrize("format", FORMATS)
def test_the_report_of_an_export_is_what_reading_it_back_lacks(format: Format) -> None:
    """Nothing is lost without a word: a key that is not named comes back equal."""
    package = read_any(files.png(files.text("ccv3", files.dumps(files.v3()))), "z.png").package
    exported = export(package, format)
    again = read_any(exported.data, f"x.{format}").package.persona
    said = {note.place for note in exported.report}
    for key in Persona.model_fields:
        if key not in ("extra", "assets", "avatar", "files"):
            same = getattr(again, key) == getattr(package.persona, key)
            assert same != (key in said), key
    assert ("avatar" in said) == (again.avatar is None)


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text(min_size=1), st.lists(st.text(), max_size=4))
def test_a_persona_survives_its_toml(description: str, content: str, keys: list[str]) -> None:
    """Any text that a card brings can be written in our own format and read as the same."""
    card = files.v3(description=description, first_mes=content)
    card["data"]["character_book"]["entries"][0].update(content=content, keys=keys)
    card["data"]["extensions"]["text"] = content
    persona = read_any(files.dumps(card), "zoe.json").package.persona
    assert parse_persona(write_persona(persona), source="zoe.toml") == persona


@pytest.mark.parametrize(
    ("name", "handle"),
    [
        ("Inês Carvalhal", "ines-carvalhal"),
        ("Łucja Ørsted", "lucja-orsted"),
        ("  R2-D2!! ", "r2-d2"),
        ("3PO", "po"),
        ("猫", "persona-"),
        ("A", "persona-"),
        ("x" * 80, "x" * 32),
    ],
)
def test_a_handle_is_made_from_a_name(name: str, handle: str) -> None:
    """Latin letters of any kind; where none are left, something that stays the same."""
    assert handle_of(name).startswith(handle)
    assert handle_of(name) == handle_of(name)
    Persona.model_validate(INES.model_dump() | {"handle": handle_of(name)})


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_every_tag_that_is_made_is_one_the_model_takes(text: str) -> None:
    """The two descriptions of a tag, ours and the pattern's, do not drift apart."""
    if tag := tag_of(text):
        Persona.model_validate(INES.model_dump() | {"tags": (tag,)})
