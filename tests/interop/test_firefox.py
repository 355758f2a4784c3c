"""A client that others wrote, unmodified: Mozilla's in Firefox, through the relay."""

from __future__ import annotations

import email.utils
import json
import struct
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.interop.examples import page_example
from tests.interop.firefox import Firefox, find_firefox
from transport import media

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

X25519 = 0x0020
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    """A browser without a window."""
    program = find_firefox()
    if program is None:
        pytest.skip("Firefox is not installed (Debian: apt install firefox-esr)")
    browser = Firefox(program, tmp_path_factory.mktemp("firefox"))
    yield browser
    browser.stop()


@pytest.fixture(scope="module")
def config(relay: str) -> bytes:
    """The X25519 configuration of the list that the relay passes on, cut out by the lengths alone.

    The configuration before it is of a KEM that Firefox does not know.
    """
    with urllib.request.urlopen(f"{relay}/ohttp-keys") as answer:
        assert answer.headers["content-type"] == media.OHTTP_KEYS
        data: bytes = answer.read()
    found: list[bytes] = []
    while data:
        (length,) = struct.unpack_from("!H", data)
        found.append(data[2 : 2 + length])
        data = data[2 + length :]
    (one,) = [one for one in found if struct.unpack_from("!BH", one)[1] == X25519]
    assert found.index(one) > 0, "a stronger configuration comes first"
    return one


def dated(seconds: float = 0) -> dict[str, str]:
    """A Date field, so many seconds away from now."""
    return {"date": email.utils.formatdate(time.time() + seconds, usegmt=True)}


def test_the_personas_and_a_reply(firefox: Firefox, relay: str, config: bytes) -> None:
    """Firefox reads the personas and has a completion of one of them."""
    listed = firefox.exchange(relay, config, "/v1/models", headers=dated())
    assert (listed.outer_status, listed.outer_type) == (200, media.OHTTP_RESPONSE)
    assert listed.status == 200, listed
    assert "wren" in [model["id"] for model in json.loads(listed.content)["data"]]
    question = {"model": "wren", "messages": [{"role": "user", "content": "Hello!"}]}
    replied = firefox.exchange(
        relay, config, "/v1/chat/completions", headers=dated() | JSON, body=json.dumps(question)
    )
    assert (replied.outer_status, replied.outer_type) == (200, media.OHTTP_RESPONSE)
    assert replied.status == 200, replied
    (choice,) = json.loads(replied.content)["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]


def test_a_clock_that_is_wrong(firefox: Firefox, relay: str, config: bytes) -> None:
    """Firefox opens the refusal of a stale Date, reads the gateway's, and is answered with it."""
    refused = firefox.exchange(relay, config, "/v1/models", headers=dated(-3600))
    assert (refused.outer_status, refused.status) == (200, 400)
    assert refused.headers["content-type"] == media.PROBLEM_JSON
    assert json.loads(refused.content)["type"] == media.PROBLEM_DATE
    corrected = {"date": refused.headers["date"]}
    answered = firefox.exchange(relay, config, "/v1/models", headers=corrected)
    assert answered.status == 200


def test_an_unknown_key(firefox: Firefox, relay: str, config: bytes) -> None:
    """For a key id that nobody holds, Firefox opens nothing; outside stand problem details."""
    unknown = bytes([config[0] ^ 0x80]) + config[1:]
    answer = firefox.exchange(relay, unknown, "/v1/models", headers=dated())
    assert (answer.outer_status, answer.outer_type) == (400, media.PROBLEM_JSON)
    assert (answer.headers, answer.content) == ({}, "")


def test_another_key_under_a_known_id(firefox: Firefox, relay: str, config: bytes) -> None:
    """Sealed to a public key that is not the gateway's, a request is refused outside."""
    altered = config[:3] + bytes([config[3] ^ 1]) + config[4:]
    answer = firefox.exchange(relay, altered, "/v1/models", headers=dated())
    assert (answer.outer_status, answer.outer_type) == (400, media.PROBLEM_JSON)
    assert (answer.headers, answer.content) == ({}, "")


def test_the_page_for_bringing_ones_own_client(firefox: Firefox, relay: str) -> None:
    """The page's JavaScript for Firefox does what the page says."""
    script = page_example("js", relay)
    status, models = firefox.run(f"{script}\nreturn [answer.status, answer.json()];")
    assert status == 200
    assert "wren" in [model["id"] for model in models["data"]]
