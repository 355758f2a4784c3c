"""Persona files: a mistake is reported where it is, in words that help."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from personas.digest import canonical, from_canonical, persona_digest
from personas.errors import PersonaError
from personas.files import (
    MAX_FILE_BYTES,
    load_package,
    load_persona,
    parse_persona,
    write_persona,
)
from personas.model import Persona
from personas.package import Package

PAGE = Path(__file__).parents[2] / "docs" / "personas.md"
EXAMPLE, MORE = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
# Keys of the whole come before the first table.
_KEYS, _TABLES = re.split(r"(?m)^(?=# What a conversation leaves)", MORE)
WHOLE = _KEYS + EXAMPLE + _TABLES


def _parse(text: str) -> Persona:
    return parse_persona(text, source="ruth.toml")


def _change(old: str, new: str) -> str:
    assert EXAMPLE.count(old) >= 1
    return EXAMPLE.replace(old, new, 1)


def test_the_documented_example_is_a_persona() -> None:
    """What a creator copies from the page loads as it stands."""
    persona = _parse(EXAMPLE)
    assert (persona.handle, persona.name, len(persona.facts)) == ("ruth", "Ruth Amsel", 3)
    assert persona.description.startswith("Ruth is") and "\n" not in persona.description
    assert persona.example_dialogues[0].turns[0].user.startswith("I give up")
    assert persona.sampling.temperature == 0.8


def test_every_key_is_explained_on_the_page() -> None:
    """A key that the model has and the page lacks would be found only by failing."""
    for key in Persona.model_fields:
        assert re.search(rf"^(\[\[?)?{key}\b", WHOLE, re.MULTILINE), key


def test_all_documented_keys_make_a_persona() -> None:
    """The second example is read together with the first; its files are read beside it."""
    asked = []

    def read(path: str) -> bytes:
        asked.append(path)
        return path.encode()

    persona = parse_persona(WHOLE, source="ruth.toml", read=read)
    assert asked == ["ruth.png", "sounds/rain.ogg", "seedlings.md"]
    assert persona.knowledge[0].text == "seedlings.md"
    assert (persona.knowledge[0].name, persona.knowledge[0].media_type) == (
        "seedlings",
        "text/markdown",
    )
    assert persona.avatar is not None
    assert persona.avatar.size == len("ruth.png")
    assert persona.lorebook is not None
    assert persona.lorebook.entries[0].insertion_order == 100
    assert persona.memory.recall_tokens == 1024
    assert parse_persona(write_persona(persona), source="ruth.toml") == persona


def test_files_are_read_from_beside_the_persona(tmp_path: Path) -> None:
    """Their bytes are checked against what the persona pins, and part of its digest."""
    (tmp_path / "ruth.png").write_bytes(b"a picture")
    path = tmp_path / "ruth.toml"
    path.write_text('avatar = "ruth.png"\n' + EXAMPLE)
    package = load_package(path)
    assert list(package.files.values()) == [b"a picture"]
    path.write_text(write_persona(package.persona))
    assert load_package(path) == package
    (tmp_path / "ruth.png").write_bytes(b"another")
    with pytest.raises(PersonaError, match="`avatar` is another file than its `sha256`"):
        load_package(path)
    path.write_text('avatar = "ruth.png"\n' + EXAMPLE)
    assert persona_digest(load_persona(path)) != persona_digest(package.persona)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('avatar = "../ruth.png"', "`avatar` must be a path inside"),
        ('avatar = "/etc/passwd"', "`avatar` must be a path inside"),
        ('avatar = "a\\\\b"', "`avatar` must be a path inside"),
        ('avatar = "link"', "leaves the persona's folder"),
        ('avatar = "none.png"', "No such file"),
        ('avatar = "."', "`avatar` must be a path inside"),
        ("avatar = 5", "`avatar`"),
        ('files = ["none", 5]', "No such file"),
        ('knowledge = [{ path = "none.md" }]', "No such file"),
        ('knowledge = [{ path = "bytes" }]', "byte 0 is not UTF-8"),
        ('extensions = "[1]"', "`extensions` must be an object"),
        ('extensions = "{"', "`extensions` is not JSON"),
        ("extensions = { a = 2024-01-01 }", "`extensions` holds a date"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, line: str, message: str) -> None:
    """A persona of somebody else reads nothing but its own folder."""
    (tmp_path / "outside").write_text("secret")
    folder = tmp_path / "ruth"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "bytes").write_bytes(b"\xff")
    path = folder / "ruth.toml"
    path.write_text(f"{line}\n{EXAMPLE}")
    with pytest.raises(PersonaError, match=re.escape(message)):
        load_package(path)


def test_a_package_holds_what_its_digests_say() -> None:
    """A file under another's name is noticed before anything uses it."""
    persona = _parse(EXAMPLE)
    with pytest.raises(PersonaError, match="another content"):
        Package(persona, {"00" * 32: b"x"})


def test_a_definition_is_read_back_only_as_it_was_written() -> None:
    """One persona, one form, one digest; anything beside it is refused."""
    persona = _parse(EXAMPLE)
    data = canonical(persona)
    assert from_canonical(data) == persona
    for other in (data + b" ", data[:-1], b"[]", b"\xff", b'{"format":1}', b"[" * 5000):
        with pytest.raises(PersonaError, match="canonical form"):
            from_canonical(other)
    with pytest.raises(PersonaError, match="canonical form"):
        from_canonical(data.replace(b'"format":1', b'"facts":[],"format":1'))
    with pytest.raises(PersonaError, match="over the"):
        from_canonical(b" " * 2_000_000)


def test_a_persona_cannot_be_changed_after_loading() -> None:
    """What was digested is what is used."""
    persona = _parse(EXAMPLE)
    with pytest.raises(ValidationError):
        persona.name = "Someone else"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        persona.sampling.temperature = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "place", "advice"),
    [
        ('tagline = "', 'tag_line = "', "`tag_line`", "write `tagline`, if you meant"),
        ("temperature = 0.8", "temprature = 0.8", "`sampling.temprature`", "`temperature`"),
        ("temperature = 0.8", "seed = 7\ntemperature = 0.8", "`sampling.seed`", "remove it"),
        ("format = 1", "", "`format`", "missing: add it"),
        ("format = 1", "format = 2", "`format`", "must be 1"),
        ("format = 1", "format = true", "`format`", "valid integer"),
        ('handle = "ruth"', 'handle = "Ruth"', "`handle`", "must match"),
        ('handle = "ruth"', 'handle = "r"', "`handle`", "must match"),
        ('handle = "ruth"', 'handle = "ruth\\n"', "`handle`", "must match"),
        ('handle = "ruth"', 'handle = "../ruth"', "`handle`", "must match"),
        ('handle = "ruth"', f'handle = "{"r" * 33}"', "`handle`", "must match"),
        ('name = "Ruth Amsel"', 'name = ""', "`name`", "at least 1 character"),
        ('name = "Ruth Amsel"', 'name = "\\u3164\\u200b"', "`name`", "can be seen"),
        ('name = "Ruth Amsel"', 'name = "   "', "`name`", "at least 1 character"),
        ('name = "Ruth Amsel"', 'name = "Ruth\\nAmsel"', "`name`", "must be one line"),
        ('name = "Ruth Amsel"', 'name = "Ruth\\u202EAmsel"', "`name`", "direction-override"),
        ('name = "Ruth Amsel"', 'name = "Ruth\\u0000"', "`name`", "control"),
        ('name = "Ruth Amsel"', "name = 5", "`name`", "should be a valid string"),
        ('name = "Ruth Amsel"', f'name = "{"R" * 65}"', "`name`", "at most 64 characters"),
        ('version = "1.0.0"', 'version = "1.0"', "`version`", "must match"),
        ('version = "1.0.0"', 'version = "01.0.0"', "`version`", "must match"),
        ('version = "1.0.0"', 'version = "1.0.٣"', "`version`", "must match"),
        ('language = "en"', 'language = "EN"', "`language`", "must match"),
        ('language = "en"', 'language = "pt-br"', "`language`", "must match"),
        (
            'rating = "everyone"',
            'rating = "adult"',
            "`rating`",
            "'everyone', 'teen', 'mature' or 'unrated'",
        ),
        ('["calm", "garden"]', '["calm", "calm"]', "`tags`", "same entry twice"),
        ('["calm", "garden"]', '["calm", "Garden"]', "`tags[1]`", "must match"),
        ('["calm", "garden"]', '"calm"', "`tags`", "valid array"),
        (
            '"I am afraid of wasps.",',
            '"I am afraid of wasps.", "I am afraid of wasps.",',
            "`facts`",
            "same entry twice",
        ),
        ('"I am afraid of wasps."', f'"{"I am. " * 40}"', "`facts[2]`", "at most 160"),
        ('user = "I give', 'usr = "I give', "`example_dialogues[0].turns[0].usr`", "`user`"),
        ("temperature = 0.8", "temperature = nan", "`sampling.temperature`", "finite"),
        ("temperature = 0.8", "temperature = 2.1", "`sampling.temperature`", "less than or equal"),
        ("temperature = 0.8", 'temperature = "0.8"', "`sampling.temperature`", "valid number"),
        ("top_p = 0.95", "top_p = 0", "`sampling.top_p`", "greater than 0"),
        ("max_tokens = 300", "max_tokens = 300.0", "`sampling.max_tokens`", "valid integer"),
        ("max_tokens = 300", f"max_tokens = {10**30}", "`sampling.max_tokens`", "4096"),
        ("format = 1", "format = ", "line 1", "Correct the file"),
        ("format = 1", "format = 1\nformat = 1", "line 2", "Correct the file"),
        ("format = 1", f"format = {'9' * 5000}", "TOML", "Correct the file"),
        ("format = 1", f"format = {'[' * 5000}", "TOML", "Correct the file"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_remedy(
    old: str, new: str, place: str, advice: str
) -> None:
    """Every message names the file, the key, the rule and what to do."""
    with pytest.raises(PersonaError) as caught:
        _parse(_change(old, new))
    message = str(caught.value)
    assert message.startswith("ruth.toml: ")
    assert place in message
    assert advice in message


def test_several_mistakes_are_named_at_once() -> None:
    """A creator is not sent back for each one alone, nor buried under all of them."""
    with pytest.raises(PersonaError) as caught:
        _parse("")
    assert "`handle` is missing" in str(caught.value)
    assert "`format` is missing" in str(caught.value)
    assert str(caught.value).endswith("more.")
    with pytest.raises(PersonaError) as caught:
        _parse(_change('handle = "ruth"', 'handel = "ruth"'))
    missing = "`handle` is missing: add it"
    meant = "`handel` is not a key of this format: write `handle`, if you meant that"
    assert str(caught.value) == f"ruth.toml: {missing}; {meant}."


def test_a_message_does_not_repeat_what_was_written() -> None:
    """A prompt that is not published yet does not end up in a log."""
    with pytest.raises(PersonaError) as caught:
        _parse(_change("You are Ruth Amsel", "unpublished " * 9000))
    assert "unpublished" not in str(caught.value)
    assert "at most 32768" in str(caught.value)


def test_windows_line_ends_and_layout_make_no_difference(tmp_path: Path) -> None:
    """The digest addresses what a persona says, not how its file is laid out."""
    path = tmp_path / "ruth.toml"
    path.write_bytes(EXAMPLE.replace("\n", "\r\n").replace(" = ", "   =   ").encode())
    assert persona_digest(load_persona(path)) == persona_digest(_parse(EXAMPLE))


def test_the_size_limit_is_exact(tmp_path: Path) -> None:
    """A file of the largest size loads; a byte more is refused, whatever it holds."""
    path = tmp_path / "ruth.toml"
    padding = MAX_FILE_BYTES - len(EXAMPLE.encode())
    path.write_bytes(EXAMPLE.encode() + b"#" * padding)
    assert load_persona(path).handle == "ruth"
    path.write_bytes(EXAMPLE.encode() + b"#" * (padding + 1))
    with pytest.raises(PersonaError, match="longer than the 1048576 bytes"):
        load_persona(path)


def test_files_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    """A missing file, a folder and another encoding each get their own sentence."""
    with pytest.raises(PersonaError, match="No such file"):
        load_persona(tmp_path / "none.toml")
    with pytest.raises(PersonaError, match="directory"):
        load_persona(tmp_path)
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "Inês"'.encode("latin-1"))
    with pytest.raises(PersonaError, match="byte 10 is not UTF-8"):
        load_persona(path)


def test_a_changed_word_changes_the_digest() -> None:
    """Each text and number of a persona is under its digest."""
    base = _parse(EXAMPLE)
    others = [
        base.model_copy(update={"greeting": base.greeting + " "}),
        base.model_copy(update={"facts": base.facts[::-1]}),
        base.model_copy(update={"sampling": base.sampling.model_copy(update={"top_p": 0.9})}),
        base.model_copy(update={"version": "1.0.1"}),
    ]
    assert len({persona_digest(one) for one in [base, *others]}) == 5


def test_the_digest_never_changes() -> None:
    """A receipt of years ago still names the same persona."""
    assert (
        persona_digest(_parse(EXAMPLE)).hex()
        == "53865972d8ac91ea3e5918bbbf0cf49cc3894fc564c680d001b94d618c9d44db"
    )


def test_half_a_surrogate_pair_has_no_digest() -> None:
    """Text that no file can hold is refused by this package's own error."""
    broken = _parse(EXAMPLE).model_copy(update={"name": "\ud83d"})
    with pytest.raises(PersonaError, match="surrogate"):
        persona_digest(broken)
