"""Binary HTTP and variable-length integers: any cut means the same, what decodes encodes."""

from __future__ import annotations

from collections.abc import Iterable

from fuzz_support import Target, held, pieces

from transport import varint
from transport.bhttp import (
    Content,
    Event,
    Limits,
    Request,
    RequestDecoder,
    RequestEncoder,
    Response,
    ResponseDecoder,
    ResponseEncoder,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from transport.errors import TransportError

LIMITS = Limits(header_bytes=512, field_lines=12, content_bytes=1024, padding_bytes=128)


def _events(
    kind: type[RequestDecoder] | type[ResponseDecoder], cut: list[bytes]
) -> list[Event] | type[TransportError]:
    """Events with neighbouring content joined, or the class of the refusal."""
    decoder = kind(LIMITS)
    events: list[Event] = []
    try:
        for piece in cut:
            events += decoder.feed(piece)
            assert held(decoder) <= 2 * LIMITS.header_bytes
        events += decoder.finish()
    except TransportError as error:
        return type(error)
    merged: list[Event] = []
    for event in events:
        if isinstance(event, Content) and merged and isinstance(merged[-1], Content):
            merged[-1] = Content(merged[-1].data + event.data)
        else:
            merged.append(event)
    return merged


def _request(data: bytes) -> None:
    whole = _events(RequestDecoder, [data])
    assert whole == _events(RequestDecoder, pieces(data))
    if isinstance(whole, type):
        return
    message = decode_request(data, limits=LIMITS)
    encoder = RequestEncoder(
        message.method, message.scheme, message.authority, message.path, message.headers
    )
    streamed = encoder.start() + encoder.content(message.content) + encoder.finish(message.trailers)
    for encoded in (encode_request(message), streamed):
        assert decode_request(encoded, limits=LIMITS) == message


def _response(data: bytes) -> None:
    whole = _events(ResponseDecoder, [data])
    assert whole == _events(ResponseDecoder, pieces(data))
    if isinstance(whole, type):
        return
    message = decode_response(data, limits=LIMITS)
    encoder = ResponseEncoder(message.status, message.headers)
    streamed = b"".join(
        encoder.informational(one.status, one.headers) for one in message.informational
    )
    streamed += encoder.start() + encoder.content(message.content)
    streamed += encoder.finish(message.trailers)
    for encoded in (encode_response(message), streamed):
        assert decode_response(encoded, limits=LIMITS) == message


def _request_seeds() -> Iterable[bytes]:
    headers = ((b"content-type", b"application/json"), (b"date", b"Tue, 01 Jan 2030 00:00:00 GMT"))
    requests = (
        Request(b"POST", b"https", b"enclave", b"/v1/turns?a=b", headers, b'{"a":1}'),
        Request(b"GET", b"https", b"", b"/", ((b"host", b"a.example:8443"),)),
        Request(b"CONNECT", b"", b"[::1]:443", b""),
        Request(b"OPTIONS", b"http", b"a", b"*", ((b"te", b"trailers"),)),
        Request(
            b"PUT", b"https", b"a", b"/", ((b"content-length", b"3"),), b"abc", ((b"x", b"y"),)
        ),
        Request(b"GET", b"coap", b"u:p@a", b"", ((b"cookie", b"a=1"), (b"cookie", b"b=2"))),
    )
    for request in requests:
        yield encode_request(request, padding=7)
        encoder = RequestEncoder(
            request.method, request.scheme, request.authority, request.path, request.headers
        )
        yield (
            encoder.start()
            + b"".join(
                encoder.content(request.content[at : at + 2])
                for at in range(0, len(request.content), 2)
            )
            + encoder.finish(request.trailers)
        )
        yield encode_request(request)[:-2]


def _response_seeds() -> Iterable[bytes]:
    hints = (ResponseHead(103, ((b"link", b"</a>"),)), ResponseHead(102))
    for response in (
        Response(200, ((b"content-type", b"text/event-stream"),), b"data: {}\n\n", (), hints),
        Response(204),
        Response(304, ((b"content-length", b"70"),)),
        Response(500, ((b"content-length", b"1"),), b"!", ((b"server-timing", b"a;dur=1"),)),
    ):
        yield encode_response(response, padding=9)
        encoder = ResponseEncoder(response.status, response.headers)
        parts = [encoder.informational(one.status, one.headers) for one in response.informational]
        parts += [encoder.start(), encoder.content(response.content)]
        yield b"".join(parts) + encoder.finish(response.trailers)


def _varint(data: bytes) -> None:
    decoded = varint.decode(data)
    if decoded is None:
        assert len(data) < 8
        return
    value, end = decoded
    shortest = varint.encode(value)
    assert len(shortest) <= end
    assert varint.decode(shortest) == (value, len(shortest))
    assert all(varint.decode(data[:cut]) is None for cut in range(end))
    assert varint.decode(b"?" + data, 1) == (value, end + 1)


def _varint_seeds() -> Iterable[bytes]:
    return map(varint.encode, (0, 63, 64, 16383, 16384, 2**30 - 1, 2**30, 2**62 - 1))


TARGETS = {
    "varint": Target(_varint, _varint_seeds, 16),
    "bhttp-request": Target(_request, _request_seeds, 2048, 1500),
    "bhttp-response": Target(_response, _response_seeds, 2048, 1500),
}
