"""Macros are replaced as Character Card V3 says, once and within bounds."""

from typing import Any

import pytest

from personas.macros import expand


def _expand(text: str, **more: Any) -> str:
    return expand(text, **({"char": "Zo", "user": "Ann", "seed": b"1"} | more))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{char}} and {{user}}", "Zo and Ann"),
        ("{{CHAR}} <Char> <BOT> <user> <USER>", "Zo Zo Zo Ann Ann"),
        ("{{ char }}", "Zo"),
        ("{{random:a}}{{pick:b}}{{pick::c}}", "abc"),
        (r"{{random:a\,b}}", "a,b"),
        ("{{roll:1}}{{roll:d1}}{{ROLL:D1}}", "111"),
        ("{{roll:0}}{{roll:x}}{{roll:}}", "{{roll:0}}{{roll:x}}{{roll:}}"),
        ("a{{// note}}b{{//{{char}}}}c", "abc"),
        ("a{{hidden_key:k}}b{{comment: c}}d", "abd"),
        ("{{reverse:Hello}} {{reverse:{{user}}}}", "olleH nnA"),
        ("{{random:{{user}}}}", "Ann"),
        ("{{unknown}} {{a:b}}", "{{unknown}} {{a:b}}"),
        ("{{ open {{char}}", "{{ open Zo"),
        ("close }} {{char}} }}", "close }} Zo }}"),
        ("{char} <chart>", "{char} <chart>"),
        ("", ""),
    ],
)
def test_what_stands_for_what(text: str, result: str) -> None:
    """Every macro, in any case of letters, inside each other; what is none stays."""
    assert _expand(text) == result


def test_what_was_put_in_is_not_read_again() -> None:
    """Somebody who calls themselves a macro changes nothing but their name."""
    assert _expand("{{user}}", user="{{char}}") == "{{char}}"
    assert _expand("{{reverse:{{user}}}}", user="}}resu{{") == "{{user}}"
    assert _expand("{{random:{{user}}}}", user="a, b") == "a, b"


def test_a_pick_stays_and_a_random_is_drawn() -> None:
    """One seed gives one choice, wherever the text grows; another seed another."""
    text = "{{pick:a,b,c,d,e,f,g,h}}"
    assert _expand(text) == _expand("more " + text).removeprefix("more ")
    assert len({_expand(text, seed=bytes([at])) for at in range(50)}) > 4
    assert len({_expand(text * 40)[at] for at in range(40)}) > 4
    assert _expand("{{random:a,b}}{{roll:6}}", pick=lambda count: count - 1) == "b6"
    rolls = {int(_expand("{{roll:d6}}", seed=bytes([at]))) for at in range(200)}
    assert rolls == {1, 2, 3, 4, 5, 6}


def test_each_purpose_sees_its_own() -> None:
    """Hidden keys are for matching, comments for people, notes for nobody."""
    text = "{{hidden_key: k }}|{{comment: c }}|{{// n}}"
    assert _expand(text, purpose="match") == "k||"
    assert _expand(text, purpose="display") == "|c|"
    assert _expand(text) == "||"


def test_further_names_have_values() -> None:
    """Such as what `{{original}}` stands for in a system prompt."""
    assert _expand("{{Original}}!", values={"original": "Be kind."}) == "Be kind.!"


def test_the_result_is_bounded() -> None:
    """Names, nesting and repetition cannot make a text without end."""
    assert 900 < len(_expand("{{user}}" * 10_000, user="u" * 64, limit=1_000)) <= 1_000
    assert len(_expand("x" * 10_000, limit=1_000)) == 1_000
    deep = "{{reverse:" * 5_000 + "a" + "}}" * 5_000
    assert len(_expand(deep)) <= len(deep)
