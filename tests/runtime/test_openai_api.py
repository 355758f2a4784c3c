"""What a completion's request may hold, and what is refused by name."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from runtime.enclave.api import ApiError
from runtime.enclave.engines.base import FinishReason, Message
from runtime.enclave.openai_api import (
    DEFAULT_MODELS,
    MAX_MESSAGES,
    ChatRequest,
    CompletionShape,
    ModelsQuery,
    completion_id,
    model_list,
    parse_chat_request,
    parse_models_query,
    usage,
)

LEAST = {"model": "wren", "messages": [{"role": "user", "content": "hello"}]}


def parse(**changes: Any) -> ChatRequest:
    """A request with changes."""
    return parse_chat_request(orjson.dumps({**LEAST, **changes}))


def refused(**changes: Any) -> ApiError:
    """What such a request gets."""
    with pytest.raises(ApiError) as raised:
        parse(**changes)
    assert raised.value.status == 400
    return raised.value


def test_model_and_messages_are_enough() -> None:
    """Everything else is the persona's."""
    request = parse()
    assert request.engine_messages() == [Message("user", "hello")]
    assert (request.stream, request.stop, request.seed) == (False, [], None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 1),
        ("frequency_penalty", 0),
        ("presence_penalty", 0.0),
        ("logit_bias", {}),
        ("logprobs", False),
        ("top_logprobs", 0),
        ("tools", []),
        ("tool_choice", "auto"),
        ("tool_choice", "none"),
        ("parallel_tool_calls", True),
        ("functions", []),
        ("function_call", "none"),
        ("response_format", {"type": "text"}),
        ("modalities", ["text"]),
        ("store", False),
        ("reasoning_effort", "none"),
        ("user", "someone"),
        ("safety_identifier", "someone"),
        ("metadata", {"a": "b"}),
        ("prompt_cache_key", "k"),
        ("service_tier", "flex"),
        *((name, None) for name in ("tools", "audio", "seed", "stop", "no_such_thing")),
    ],
)
def test_what_changes_nothing_is_accepted_and_dropped(name: str, value: Any) -> None:
    """Programs send defaults; a refusal would help nobody."""
    assert parse(**{name: value}) == parse()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("frequency_penalty", 0.1),
        ("presence_penalty", -1),
        ("logit_bias", {"1": 5}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function"}),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("store", True),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
        ("web_search_options", {}),
        ("top_k", 40),
        ("no_such_thing", 1),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(name: str, value: Any) -> None:
    """A program that asked for it must not take a plain answer for it."""
    error = refused(**{name: value})
    assert (error.code, error.param) == ("unsupported_parameter", name)
    assert name in str(error)


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        (
            {"role": "tool", "content": "x", "tool_call_id": "1"},
            "invalid_request",
            "messages.1.role",
        ),
        ({"role": "user"}, "invalid_request", "messages.1.content"),
        ({"role": "user", "content": 1}, "invalid_request", "messages.1.content"),
        (
            {"role": "user", "content": "x", "name": "ann"},
            "unsupported_parameter",
            "messages.1.name",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "unsupported_parameter",
            "messages.1.content",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]},
            "unsupported_parameter",
            "messages.1.content",
        ),
        ({"role": "user", "content": ["x"]}, "unsupported_parameter", "messages.1.content"),
        (
            {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]},
            "unsupported_parameter",
            "messages.1.tool_calls",
        ),
        ("hello", "invalid_request", "messages.1"),
    ],
)
def test_messages_hold_text_and_nothing_else(message: Any, code: str, param: str) -> None:
    """Which message, and which of its members."""
    error = refused(messages=[*LEAST["messages"], message])
    assert (error.code, error.param) == (code, param)


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    """With all the members that clients' libraries add to it."""
    answer = {
        "role": "assistant",
        "content": "hi",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    request = parse(messages=[*LEAST["messages"], answer])
    assert request.engine_messages()[1] == Message("assistant", "hi")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)}, "messages"),
        ({"model": None}, "model"),
        ({"model": 1}, "model"),
        ({"model": "x" * 65}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop.0"),
        ({"stop": ["x" * 257]}, "stop.0"),
        ({"stop": 1}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_is_malformed_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    """Which member, and never its value."""
    error = refused(**changes)
    assert (error.code, error.param) == ("invalid_request", param)


def test_an_unknown_option_of_a_stream_is_refused() -> None:
    """The known ones are accepted."""
    assert parse(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    error = refused(stream=True, stream_options={"speed": 2})
    assert (error.code, error.param) == ("unsupported_parameter", "stream_options.speed")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"model": "\\ud800"}']
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    """Half characters are no text."""
    with pytest.raises(ApiError) as raised:
        parse_chat_request(body)
    assert raised.value.code == "invalid_request"


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "user", "content": {"zeppelin": "zeppelin"}}]},
        {"messages": [{"role": "zeppelin", "content": "zeppelin"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "zeppelin", "x": 1}]}]},
        {"model": "zeppelin" * 10},
        {"stop": ["zeppelin" * 100]},
        {"temperature": "zeppelin"},
    ],
)
def test_a_refusal_does_not_say_what_was_sent(changes: dict[str, Any]) -> None:
    """Neither to a log nor to a screen."""
    error = refused(**changes)
    assert "zeppelin" not in str(error)
    assert "zeppelin" not in error.body().decode()


def test_a_refusal_holds_so_much_of_a_name_and_no_more() -> None:
    """A member's name may be a megabyte."""
    error = refused(**{"x" * 100_000: 1})
    assert len(error.body()) < 1000


def test_no_representation_shows_what_was_said() -> None:
    """A request may stand in a traceback."""
    request = parse(messages=[{"role": "user", "content": "zeppelin"}], stop="zeppelin")
    assert "zeppelin" not in repr(request)


def test_the_objects_have_the_members_of_openais() -> None:
    """A whole completion, a chunk, and the chunk with the usage."""
    shape = CompletionShape(bytes(16), 1_700_000_000, "wren", "ab")
    common = {
        "id": "chatcmpl-" + "0" * 32,
        "created": 1_700_000_000,
        "model": "wren",
        "system_fingerprint": "ab",
    }
    assert completion_id(bytes(16)) == common["id"]
    tokens = usage(3, 4)
    assert tokens == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    message = {"role": "assistant", "content": "hi", "refusal": None}
    assert shape.whole("hi", FinishReason.LENGTH, tokens) == {
        **common,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}],
        "usage": tokens,
    }
    assert shape.chunk({"content": "hi"}) == {
        **common,
        "object": "chat.completion.chunk",
        "choices": [
            {"index": 0, "delta": {"content": "hi"}, "logprobs": None, "finish_reason": None}
        ],
    }
    assert shape.usage_chunk(tokens) == {
        **common,
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": tokens,
    }


def test_a_page_of_models_is_asked_for() -> None:
    """A handle to go on from and a number; who asks is dropped, as in a completion."""
    assert parse_models_query(b"") == ModelsQuery(None, DEFAULT_MODELS)
    assert parse_models_query(b"after=wren&limit=500&user=me") == ModelsQuery("wren", 500)
    for query in (b"limit=0", b"limit=501", b"limit=x", b"order=asc", b"limit=1&limit=2"):
        with pytest.raises(ApiError) as refused:
            parse_models_query(query)
        assert refused.value.status == 400


def test_a_list_of_models_says_where_it_ends() -> None:
    """In the shape of OpenAI's lists that have pages."""
    page = model_list([{"id": "a"}, {"id": "b"}], more=True)
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", "a", "b")
    assert page["has_more"]
    assert model_list([], more=False)["last_id"] is None
