"""The websocket protocol and the requests inside: typed events, or one kind of error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import orjson
from fuzz_support import Target

from runtime import wire
from runtime.enclave.api import ApiError, CancelRequest, ForgetRequest, TurnRequest, parse_body
from runtime.enclave.openai_api import parse_chat_request


def _frame(data: bytes) -> None:
    try:
        frame = wire.decode_frame(data)
    except wire.WireError:
        return
    assert frame.encode() == data


def _client_event(data: bytes) -> None:
    for text in (data, data.decode("utf-8", "surrogateescape")):
        try:
            event = wire.decode_client_event(text)
        except wire.WireError:
            continue
        assert wire.decode_client_event(wire.encode_event(event)) == event


def _server_event(data: bytes) -> None:
    for text in (data, data.decode("utf-8", "surrogateescape")):
        try:
            event = wire.decode_server_event(text)
        except wire.WireError:
            continue
        assert isinstance(event["type"], str)


def _body(data: bytes) -> None:
    for parse in _BODIES:
        try:
            parse(data)
        except ApiError:
            continue


_BODIES: tuple[Callable[[bytes], object], ...] = (
    partial(parse_body, TurnRequest),
    partial(parse_body, CancelRequest),
    partial(parse_body, ForgetRequest),
    parse_chat_request,
)


def _frame_seeds() -> Iterable[bytes]:
    return [
        wire.Frame(1, 0, b"sealed").encode(),
        wire.Frame(2**32 - 1, 2**64 - 1, b"", end=True).encode(),
    ]


def _client_seeds() -> Iterable[bytes]:
    events: list[dict[str, object]] = [
        {"type": "ping", "event_id": "a"},
        {"type": "enclaves.list"},
        {"type": "response.create", "stream": 1, "gateway": "enclave-0"},
        {"type": "stream.reset", "stream": 7},
        {"type": "session.resume", "token": "a" * 32, "received": {"1": 5, "2": 0}},
        {"type": "receipt.subscribe", "receipt_ids": ["0" * 32, "f" * 32]},
    ]
    return map(orjson.dumps, events)


def _server_seeds() -> Iterable[bytes]:
    error = {"code": "relay_away", "message": "why"}
    events: list[dict[str, object]] = [
        {"type": "session.created", "session": {"mode": "sealed", "token": "a" * 32}},
        {"type": "session.resumed", "token": "a" * 32, "lost": [1, 2]},
        {"type": "enclaves", "enclaves": [{"gateway": "e", "bundle": "", "proof": ""}]},
        {"type": "stream.failed", "stream": 1, "error": error, "status": 503},
        {"type": "response.receipt", "receipt_id": "0" * 32, "sealed": ""},
        {"type": "response.settled", "receipt_id": "0" * 32, "proof": "", "cose": ""},
        {"type": "error", "error": error},
        {"type": "later.than.this", "sequence_number": 3},
    ]
    return map(orjson.dumps, events)


def _body_seeds() -> Iterable[bytes]:
    turn = {
        "thread_key": "A" * 43,
        "turn_id": "0" * 32,
        "persona": {"handle": "wren", "digest": "0" * 64},
        "message": "hello",
        "position": "3." + "0" * 64,
    }
    chat = {
        "model": "wren",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 7,
        "stop": ["x"],
        "logprobs": False,
    }
    return map(orjson.dumps, (turn, {"thread_key": "A" * 43, "turn_id": "0" * 32}, chat))


TARGETS = {
    "wire-frame": Target(_frame, _frame_seeds, 64),
    "wire-client-event": Target(_client_event, _client_seeds),
    "wire-server-event": Target(_server_event, _server_seeds),
    "enclave-body": Target(_body, _body_seeds),
}
