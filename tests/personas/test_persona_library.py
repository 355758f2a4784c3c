"""The bundled personas: six that can be told apart and are honest about what they are."""

import re
from itertools import combinations
from pathlib import Path

import pytest

from personas.digest import persona_digest
from personas.errors import PersonaError
from personas.library import Library, load_library
from personas.model import Persona

LIBRARY = load_library()


def test_there_are_six_in_a_stable_order() -> None:
    """Lists look the same on every machine and at every start."""
    assert LIBRARY.handles == ("ines", "marit", "nirmal", "quilla", "tunde", "wren")
    assert [persona.handle for persona in LIBRARY] == list(LIBRARY.handles)
    assert len(LIBRARY) == 6


def test_each_is_found_by_its_handle_and_by_its_digest() -> None:
    """A receipt's persona digest leads back to the persona."""
    for persona in LIBRARY:
        assert LIBRARY.get(persona.handle) is persona
        assert LIBRARY.by_digest(persona_digest(persona)) is persona


def test_a_misspelt_handle_gets_a_suggestion() -> None:
    """Somebody who types a name wrongly learns the right one, or all there are."""
    with pytest.raises(PersonaError, match="Did you mean `marit`"):
        LIBRARY.get("marrit")
    with pytest.raises(PersonaError, match="There are: ines, marit"):
        LIBRARY.get("zzzzzz")
    with pytest.raises(PersonaError) as caught:
        LIBRARY.get("\x1b[2J" + "x" * 1000)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_unknown_digest_is_refused() -> None:
    """Another version's digest is not taken for this one's."""
    with pytest.raises(PersonaError, match="No persona here"):
        LIBRARY.by_digest(bytes(32))


@pytest.mark.parametrize("persona", list(LIBRARY), ids=LIBRARY.handles)
def test_each_is_honest_and_knows_what_to_do_in_a_crisis(persona: Persona) -> None:
    """Every prompt says that an AI plays the character and whom to call when it matters."""
    prompt = persona.system_prompt
    assert re.search(r"\ban AI\b", prompt)
    assert "therapist" in prompt
    for needed in ("emergency number", "crisis line", "safe", "trust|neighbour|door"):
        assert re.search(needed, prompt), needed
    # Readers live everywhere, so a telephone number would be wrong for most of them.
    assert not re.search(r"\d{3}", prompt)


@pytest.mark.parametrize("persona", list(LIBRARY), ids=LIBRARY.handles)
def test_facts_are_short_plain_sentences_in_the_first_person(persona: Persona) -> None:
    """A tiny model conditions on these lines alone."""
    assert 6 <= len(persona.facts) <= 10
    assert len(persona.example_dialogues) == 2
    for fact in persona.facts:
        assert re.match(r"(I|My) [a-z].*[a-z]\.$", fact)
        assert len(fact.split()) <= 12


def test_the_six_can_be_told_apart() -> None:
    """No two share a trade, a tag, a greeting or half of the words of their style."""
    for one, two in combinations(LIBRARY, 2):
        assert not set(one.tags) & set(two.tags)
        assert not set(one.facts) & set(two.facts)
        a, b = (set(re.findall(r"[a-z]{5,}", each.style.lower())) for each in (one, two))
        assert len(a & b) < min(len(a), len(b)) / 2


def _write(folder: Path, name: str, persona: str = "ines") -> None:
    source = Path(__file__).parents[2] / "personas" / "library" / f"{persona}.toml"
    (folder / name).write_bytes(source.read_bytes())


def test_a_folder_of_ones_own_is_read_the_same_way(tmp_path: Path) -> None:
    """An operator's personas load from any folder; other files in it are left alone."""
    _write(tmp_path, "ines.toml")
    (tmp_path / "notes.txt").write_text("not a persona")
    assert load_library(tmp_path).handles == ("ines",)


def test_a_file_must_bear_its_personas_handle(tmp_path: Path) -> None:
    """What is found by name on the disk is what is found by name in the library."""
    _write(tmp_path, "agnes.toml")
    with pytest.raises(PersonaError, match=r"Rename the file to ines\.toml"):
        load_library(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A wrong path shows at the start, not as a product without personas."""
    with pytest.raises(PersonaError, match="holds no persona"):
        load_library(tmp_path)


def test_two_personas_with_one_handle_are_refused() -> None:
    """Neither silently hides the other."""
    persona = LIBRARY.get("ines")
    with pytest.raises(PersonaError, match="Two personas have the handle `ines`"):
        Library([persona, persona.model_copy(update={"version": "2.0.0"})])
