"""The gateway as a stranger's OHTTP client meets it, over plain HTTP and through the relay.

The processes are those that `sotto up` starts; test_gateway_requests.py has the finer cases.
"""

from __future__ import annotations

import email.utils
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from memory.keys import derive_thread_key
from personas.digest import persona_digest
from personas.library import load_library
from runtime.enclave.api import to_base64url
from tests.e2e.system import System
from transport import media
from transport.bhttp import Request, decode_response, encode_request
from transport.keyconfig import KeyConfig, choose_config, decode_key_config_list
from transport.ohttp import ChunkedRequestSealer, encapsulate

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
WREN = load_library().get("wren")
THREAD_KEY = derive_thread_key(bytes(32), "wren")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("gateway") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


@pytest.fixture(scope="module")
def config(system: System) -> KeyConfig:
    """The gateway's key configuration, as a standard client fetches it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{system.port + 2}/ohttp-keys") as answer:
        assert answer.headers["Content-Type"] == media.OHTTP_KEYS
        return choose_config(decode_key_config_list(answer.read()))


def post(url: str, body: bytes, media_type: str) -> tuple[int, str, bytes]:
    """Status, media type and body, whatever the status."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": media_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def urls(system: System) -> list[str]:
    """The gateway itself, and the gateway through the relay."""
    return [
        f"http://127.0.0.1:{system.port + 2}/ohttp",
        f"http://127.0.0.1:{system.port + 1}/gateway/enclave-0",
    ]


def inner(body: dict[str, Any], *, path: bytes = b"/v1/turns") -> bytes:
    """A Binary HTTP request."""
    stamp = email.utils.formatdate(usegmt=True)
    headers = ((b"content-type", b"application/json"), (b"date", stamp.encode()))
    content = json.dumps(body).encode()
    return encode_request(Request(b"POST", b"https", b"enclave", path, headers, content))


def a_turn(**changes: Any) -> dict[str, Any]:
    """A valid request for a turn, with changes."""
    turn = {
        "thread_key": to_base64url(THREAD_KEY),
        "turn_id": f"{time.time_ns():032x}",
        "persona": {"handle": "wren", "digest": persona_digest(WREN).hex()},
        "message": "hello",
    }
    return {**turn, **changes}


def one_shot(url: str, config: KeyConfig, request: bytes) -> tuple[int, bytes]:
    """One exchange of a plain RFC 9458 client: inner status and content."""
    sealed, opener = encapsulate(config, request)
    status, media_type, body = post(url, sealed, media.OHTTP_REQUEST)
    assert (status, media_type) == (200, media.OHTTP_RESPONSE)
    response = decode_response(opener.open(body))
    return response.status, response.content


def error_code(content: bytes) -> str:
    """The code of a refusal inside the encapsulation."""
    code: str = json.loads(content)["error"]["code"]
    return code


@pytest.mark.parametrize("way", [0, 1])
def test_a_standard_client_gets_a_whole_answer(system: System, config: KeyConfig, way: int) -> None:
    """RFC 9458 alone, without chunks or websockets, straight or through the relay."""
    status, content = one_shot(urls(system)[way], config, inner(a_turn()))
    assert status == 200
    assert content.count(b"response.output_text.delta") == 64
    assert b"response.completed" in content


@pytest.mark.parametrize("way", [0, 1])
def test_a_chunked_client_gets_a_chunked_answer(
    system: System, config: KeyConfig, way: int
) -> None:
    """The chunked draft over plain HTTP."""
    sealer = ChunkedRequestSealer(config)
    body = sealer.seal(inner(a_turn()), final=True)
    status, media_type, sealed = post(urls(system)[way], body, media.OHTTP_CHUNKED_REQUEST)
    assert (status, media_type) == (200, media.OHTTP_CHUNKED_RESPONSE)
    opener = sealer.response_opener()
    chunks = opener.feed(sealed)
    assert len(chunks) > 20, "chunks were sealed as the reply came"
    response = decode_response(b"".join(chunks) + opener.finish())
    assert response.status == 200
    assert b"response.completed" in response.content


def test_the_same_sealed_bytes_are_answered_once(system: System, config: KeyConfig) -> None:
    """Whoever replays what he saw on the way learns nothing and starts nothing."""
    sealed, opener = encapsulate(config, inner(a_turn()))
    url = urls(system)[0]
    _, _, first = post(url, sealed, media.OHTTP_REQUEST)
    assert decode_response(opener.open(first)).status == 200
    _, _, second = post(url, sealed, media.OHTTP_REQUEST)
    # Only the device could open it, so an attacker sees a short answer of the usual kind.
    assert len(second) < len(first)
    assert b"paced" not in second


@pytest.mark.parametrize("way", [0, 1])
def test_an_unknown_key_is_told_outside(system: System, config: KeyConfig, way: int) -> None:
    """RFC 9458 section 5.3: the client must fetch the key configuration anew."""
    other = KeyConfig(config.key_id ^ 77, config.kem_id, config.public_key, config.suites)
    sealed, _ = encapsulate(other, inner(a_turn()))
    status, media_type, body = post(urls(system)[way], sealed, media.OHTTP_REQUEST)
    assert (status, media_type) == (400, media.PROBLEM_JSON)
    assert json.loads(body)["type"] == media.PROBLEM_OHTTP_KEY


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"persona": {"handle": "nobody", "digest": "0" * 64}}, 404, "persona_unknown"),
        ({"persona": {"handle": "wren", "digest": "0" * 64}}, 409, "persona_mismatch"),
        ({"thread_key": "short"}, 400, "invalid_request"),
        ({"turn_id": "secret-word"}, 400, "invalid_request"),
        ({"message": ""}, 400, "invalid_request"),
        ({"secret-word": 1}, 400, "invalid_request"),
    ],
)
def test_a_request_that_breaks_the_rules_is_refused_inside(
    system: System, config: KeyConfig, change: dict[str, Any], status: int, code: str
) -> None:
    """The relay sees an answer like any other; the device reads which rule."""
    found, content = one_shot(urls(system)[0], config, inner(a_turn(**change)))
    assert (found, error_code(content)) == (status, code)


def test_paths_and_methods_that_are_not_there(system: System, config: KeyConfig) -> None:
    """404 and 405 are told inside."""
    status, content = one_shot(urls(system)[0], config, inner({}, path=b"/v1/secrets"))
    assert (status, error_code(content)) == (404, "not_found")
    stamp = email.utils.formatdate(usegmt=True).encode()
    request = Request(b"GET", b"https", b"enclave", b"/v1/turns", ((b"date", stamp),))
    status, content = one_shot(urls(system)[0], config, encode_request(request))
    assert (status, error_code(content)) == (405, "method_not_allowed")


def test_a_rolled_back_memory_is_refused(system: System, config: KeyConfig) -> None:
    """A device that has seen more than the store holds is told, and nothing is written."""
    key = to_base64url(derive_thread_key(bytes([1] * 32), "wren"))
    turn = a_turn(thread_key=key, position=f"5.{'0' * 64}")
    status, content = one_shot(urls(system)[0], config, inner(turn))
    assert status == 200
    assert b"response.failed" in content
    assert b"memory_rollback" in content
    # The same turn without the claim is the thread's first: nothing had been stored.
    again = a_turn(thread_key=key)
    _, content = one_shot(urls(system)[0], config, inner(again))
    assert b'"position":"1.' in content


def test_the_same_turn_asked_twice_is_answered_once(system: System, config: KeyConfig) -> None:
    """A turn id is a promise: the second answer is the first one again, from memory."""
    key = to_base64url(derive_thread_key(bytes([2] * 32), "wren"))
    turn = a_turn(thread_key=key)
    _, first = one_shot(urls(system)[0], config, inner(turn))
    _, second = one_shot(urls(system)[0], config, inner(turn))
    assert receipt_id(first) == receipt_id(second)
    assert b'"position":"1.' in second
    _, third = one_shot(urls(system)[0], config, inner(a_turn(thread_key=key)))
    assert b'"remembered_turns":1,' in third


def receipt_id(content: bytes) -> str:
    """The receipt id of a whole answer."""
    last = content.rstrip().rsplit(b"\n\n", 1)[-1].removeprefix(b"data: ")
    found: str = json.loads(last)["receipt_id"]
    return found


@pytest.mark.parametrize("way", [0, 1])
def test_a_completion_and_its_receipt(system: System, config: KeyConfig, way: int) -> None:
    """With the rights that each role really has in Redis, and the log that really runs."""
    url = urls(system)[way]
    body = {"model": "wren", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    status, content = one_shot(url, config, inner(body, path=b"/v1/chat/completions"))
    assert status == 200
    found = json.loads(content)
    assert found["choices"][0]["message"]["content"] == "this is a "
    path = b"/v1/receipts/" + found["id"].removeprefix("chatcmpl-").encode()
    stamp = email.utils.formatdate(usegmt=True).encode()
    asked = encode_request(Request(b"GET", b"https", b"enclave", path, ((b"date", stamp),)))
    deadline = time.monotonic() + 60
    while True:
        status, content = one_shot(url, config, asked)
        if status == 200 and all(json.loads(content).values()):
            break
        assert status in {200, 404}, content
        assert time.monotonic() < deadline, system.logs()
        time.sleep(0.1)
    assert json.loads(content)["proof"].startswith("c2sp.org/tlog-proof@v1\n")


def test_metrics_are_served_and_tell_nothing_of_anyone(system: System) -> None:
    """Each role counts on loopback: turns, latencies, receipts, sockets, queue."""
    assert system.chat("wren", "a word like zeppelin")["exit"] == 0
    system.settled_receipts(1)
    wanted = {
        0: ("sotto_open_sockets", "sotto_receipts_pushed_total", "sotto_stream_first_byte_seconds"),
        1: ("sotto_relay_streams_open", "sotto_relay_bytes_total"),
        2: (
            "sotto_turns_total",
            "sotto_time_to_first_token_seconds_bucket",
            "sotto_inter_token_seconds_bucket",
            "sotto_receipts_pending",
            "sotto_engine_queue",
        ),
        3: ("sotto_log_entries_total", "sotto_log_size"),
    }
    for offset, names in wanted.items():
        url = f"http://127.0.0.1:{system.port + 1000 + offset}/metrics"
        with urllib.request.urlopen(url) as answer:
            text = answer.read().decode()
        for name in names:
            assert name in text
        for word in ("zeppelin", "wren", "127.0.0.1"):
            assert word not in text
