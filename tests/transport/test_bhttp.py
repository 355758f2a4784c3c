"""Binary HTTP: the RFC's figures, every cut, and what must be refused."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_files import load

from transport.bhttp import (
    Content,
    End,
    Event,
    Limits,
    Request,
    RequestDecoder,
    RequestHead,
    Response,
    ResponseDecoder,
    ResponseEncoder,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from transport.errors import LimitError, MessageError, TransportError, TruncatedError, UsageError

REQUEST = Request(
    b"POST",
    b"https",
    b"persona.example",
    b"/v1/turns?x=1",
    ((b"content-type", b"application/json"), (b"x-empty", b"")),
    b'{"text":"hi"}',
    ((b"trailer", b"text"),),
)
RESPONSE = Response(
    200,
    ((b"content-type", b"text/event-stream"),),
    b"data: {}\n\n" * 20,
    ((b"trailer", b"text"),),
    (ResponseHead(103, ((b"link", b"</a>; rel=preload"),)),),
)


def indeterminate_request(request: Request, sizes: Iterable[int] = (5, 100)) -> bytes:
    """Rewrite a known-length request as an indeterminate-length one, by hand."""

    def prefixed(data: bytes) -> bytes:
        assert len(data) < 64
        return bytes([len(data)]) + data

    control = (request.method, request.scheme, request.authority, request.path)
    out = b"\x02" + b"".join(map(prefixed, control))
    out += b"".join(prefixed(name) + prefixed(value) for name, value in request.headers) + b"\0"
    rest = request.content
    for size in sizes:
        out += prefixed(rest[:size]) if rest else b""
        rest = rest[size:]
    out += b"\0"
    return out + b"".join(prefixed(n) + prefixed(v) for n, v in request.trailers) + b"\0"


def indeterminate_response() -> bytes:
    encoder = ResponseEncoder(200, RESPONSE.headers)
    parts = [encoder.start(), encoder.content(b"abc"), encoder.content(b"d" * 70)]
    return b"".join([*parts, encoder.finish(((b"trailer", b"text"),))])


SAMPLES = {
    "known request": (RequestDecoder, encode_request(REQUEST)),
    "indeterminate request": (RequestDecoder, indeterminate_request(REQUEST)),
    "known response": (ResponseDecoder, encode_response(RESPONSE)),
    "indeterminate response": (ResponseDecoder, indeterminate_response()),
}
Decoder = type[RequestDecoder] | type[ResponseDecoder]
samples = pytest.mark.parametrize(("decoder", "data"), SAMPLES.values(), ids=SAMPLES)


def merged(events: Iterable[Event]) -> list[Event]:
    """Events with neighbouring content joined: where content is cut means nothing."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Content) and out and isinstance(out[-1], Content):
            out[-1] = Content(out[-1].data + event.data)
        else:
            out.append(event)
    return out


def decode(decoder: Decoder, *pieces: bytes) -> list[Event]:
    one = decoder()
    events = [event for piece in pieces for event in one.feed(piece)]
    return merged(events + one.finish())


def test_rfc_9292_figures() -> None:
    """The RFC's examples decode, and those of known length encode to the printed bytes."""
    vectors = {vector["name"]: vector for vector in load("ohttp/rfc9292.json")["vectors"]}
    known = bytes.fromhex(vectors["known-length request"]["message"])
    request = decode_request(known)
    assert (request.method, request.path) == (b"GET", b"/hello.txt")
    assert request.headers[1] == (b"host", b"www.example.com")
    assert encode_request(request) == known
    assert decode_request(bytes.fromhex(vectors["indeterminate-length request"]["message"])) == (
        request
    )
    response = decode_response(bytes.fromhex(vectors["indeterminate-length response"]["message"]))
    assert [head.status for head in response.informational] == [102, 103]
    assert response.content.endswith(b"trailing CRLF.\r\n")
    known = bytes.fromhex(vectors["known-length response"]["message"])
    assert encode_response(decode_response(known)) == known


def test_truncated_request_of_rfc_9458() -> None:
    """A request may leave out all its empty sections (RFC 9292 section 3.8)."""
    data = bytes.fromhex("00034745540568747470730b6578616d706c652e636f6d012f")
    assert decode_request(data) == Request(b"GET", b"https", b"example.com", b"/")
    assert decode_response(bytes.fromhex("0140c8")) == Response(200)


def test_both_framings_mean_the_same() -> None:
    """A request decodes to the same value from either framing."""
    assert decode_request(encode_request(REQUEST)) == REQUEST
    assert decode_request(indeterminate_request(REQUEST)) == REQUEST
    assert decode_response(encode_response(RESPONSE)) == RESPONSE


@samples
def test_any_cut_gives_the_same_events(decoder: Decoder, data: bytes) -> None:
    """Whole, byte by byte, and in two pieces at every place: the same events."""
    whole = decode(decoder, data)
    assert decode(decoder, *(bytes([byte]) for byte in data)) == whole
    for cut in range(len(data)):
        assert decode(decoder, data[:cut], data[cut:]) == whole


@samples
def test_padding_is_zeros_only(decoder: Decoder, data: bytes) -> None:
    """Zeros may follow a message; anything else, anywhere after it, is refused."""
    assert decode(decoder, data, bytes(100)) == decode(decoder, data)
    for tail in (b"\x01", bytes(50) + b"\x01"):
        with pytest.raises(MessageError):
            decode(decoder, data + tail)
        with pytest.raises(MessageError):
            decode(decoder, *(bytes([byte]) for byte in data + tail))


@samples
def test_a_cut_message_is_refused_or_its_rest_is_empty(decoder: Decoder, data: bytes) -> None:
    """An end anywhere is an error, or reads as if the sections not begun were empty."""
    *whole, _ = decode(decoder, data)
    last_head = max(n for n, event in enumerate(whole) if not isinstance(event, Content))
    allowed = [
        [*whole[:last_head], _without_fields(whole[last_head])],
        whole[: last_head + 1],
        whole,
    ]
    ended = []
    for cut in range(len(data)):
        try:
            *events, end = decode(decoder, data[:cut])
        except TruncatedError:
            continue
        assert end == End()
        ended.append(events)
    assert ended == allowed


def _without_fields(event: Event) -> Event:
    if isinstance(event, RequestHead):
        return RequestHead(event.method, event.scheme, event.authority, event.path)
    assert isinstance(event, ResponseHead)
    return ResponseHead(event.status)


@pytest.mark.parametrize(
    "data",
    [
        b"\x04",
        b"\x01\x40\x63",
        b"\x01\x42\x58",
        b"\x00\x00\x05https\x00\x01/",
        b"\x00\x03G T\x05https\x00\x01/",
        b"\x00\x03GET\x05https\x00\x03/ a",
        b"\x00\x03GET\x05https\x00\x01/\x04\x01A\x01b",
        b"\x00\x03GET\x05https\x00\x01/\x09\x07:method\x00",
        b"\x00\x03GET\x05https\x00\x01/\x04\x01a\x01\n",
        b"\x00\x03GET\x05https\x00\x01/\x05\x01a\x02 b",
        b"\x00\x03GET\x05https\x00\x01/\x02\x00\x00",
        b"\x00\x03GET\x05https\x00\x01/\x03\x01a\x02",
        b"\x00\x03GET\x05https\x00\x01/\x03\x01a\x01b\x00",
    ],
    ids=[
        "framing",
        "status 99",
        "status 600",
        "no method",
        "space in method",
        "space in path",
        "uppercase name",
        "pseudo-field",
        "newline in value",
        "space before value",
        "empty name",
        "line past its section",
        "value past its section",
    ],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    """Control data and fields that HTTP does not allow are refused."""
    decoder = ResponseDecoder if data[0] == 1 else RequestDecoder
    with pytest.raises(MessageError):
        decode(decoder, data)


def test_a_response_is_no_request() -> None:
    """A message of the other kind is refused at its first byte."""
    with pytest.raises(MessageError):
        decode_request(encode_response(RESPONSE))
    with pytest.raises(MessageError):
        decode_response(encode_request(REQUEST))


@pytest.mark.parametrize(
    "start",
    [
        b"\x00\xbf\xff\xff\xff",
        b"\x00\x03GET\x05https\x00\x01/\xbf\xff\xff\xff",
        b"\x00\x03GET\x05https\x00\x01/\x00\xbf\xff\xff\xff",
        b"\x02\x03GET\x05https\x00\x01/\xbf\xff\xff\xff",
        b"\x02\x03GET\x05https\x00\x01/\x00\x44\x01",
    ],
    ids=["method", "fields", "content", "name", "chunk"],
)
def test_lengths_over_the_limit_are_refused_at_once(start: bytes) -> None:
    """A length that is too large is refused before any of its bytes come."""
    decoder = RequestDecoder(Limits(header_bytes=1024, content_bytes=1024))
    with pytest.raises(LimitError):
        decoder.feed(start)


def test_limits_hold_over_many_parts() -> None:
    """Many small chunks, field lines, informational responses or zeros do not pass a limit."""
    limits = Limits(header_bytes=100, content_bytes=100, padding_bytes=100)
    start = b"\x02\x03GET\x05https\x00\x01/"
    with pytest.raises(LimitError):
        decode_request(start + b"\x01a\x01b" * 30, limits=limits)
    with pytest.raises(LimitError):
        decode_request(start + b"\x00" + b"\x0a0123456789" * 11, limits=limits)
    with pytest.raises(LimitError):
        decode_response(b"\x01" + b"\x40\x66\x00" * 20, limits=limits)
    with pytest.raises(LimitError):
        decode_request(start + bytes(200), limits=limits)


def test_content_is_passed_on_before_its_chunk_is_whole() -> None:
    """A reader sees content as it comes, whatever chunks the sender chose."""
    decoder = ResponseDecoder()
    events = decoder.feed(b"\x03\x40\xc8\x00\x40\x64" + b"abc")
    assert events == [ResponseHead(200), Content(b"abc")]
    assert decoder.feed(b"d") == [Content(b"d")]


def test_a_decoder_serves_one_message() -> None:
    """After its end, or after an error, a decoder takes nothing more."""
    decoder = RequestDecoder()
    decoder.feed(encode_request(REQUEST))
    decoder.finish()
    with pytest.raises(UsageError):
        decoder.feed(b"")
    with pytest.raises(UsageError):
        decoder.finish()
    failed = RequestDecoder()
    with pytest.raises(MessageError):
        failed.feed(b"\x09")
    with pytest.raises(UsageError):
        failed.feed(b"\x00")


def test_encoders_refuse_what_decoders_would() -> None:
    """A header that would inject a line, or a status out of place, has no encoding."""
    with pytest.raises(UsageError):
        encode_request(Request(b"GET", b"https", b"a", b"/", ((b"a", b"b\r\nc: d"),)))
    with pytest.raises(UsageError):
        encode_request(Request(b"GET ", b"https", b"a", b"/"))
    with pytest.raises(UsageError):
        encode_response(Response(103))
    with pytest.raises(UsageError):
        encode_response(Response(200, informational=(ResponseHead(200),)))
    with pytest.raises(UsageError):
        ResponseEncoder(99)
    with pytest.raises(UsageError):
        ResponseEncoder(200, ((b"Upper", b""),))


def test_response_encoder_keeps_its_order() -> None:
    """Content before the start or after the end is refused; empty content ends nothing."""
    encoder = ResponseEncoder(200)
    with pytest.raises(UsageError):
        encoder.content(b"a")
    start = encoder.start()
    with pytest.raises(UsageError):
        encoder.start()
    assert encoder.content(b"") == b""
    assert decode_response(start + encoder.content(b"a") + encoder.finish()).content == b"a"
    with pytest.raises(UsageError):
        encoder.content(b"a")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_never_escapes_the_error_tree(data: bytes) -> None:
    """Random bytes decode or raise this package's errors, and agree however they are cut."""
    for decoder in (RequestDecoder, ResponseDecoder):
        results = []
        for pieces in ([data], [bytes([byte]) for byte in data]):
            try:
                results.append(decode(decoder, *pieces))
            except TransportError as error:
                results.append([type(error)])
        assert results[0] == results[1]


field_names = st.from_regex(rb"[a-z][a-z0-9-]{0,10}", fullmatch=True)
fields = st.lists(st.tuples(field_names, st.from_regex(rb"([!-~]{1,20})?", fullmatch=True)))


@settings(deadline=None)
@given(st.integers(200, 599), fields, st.binary(max_size=500), fields)
def test_responses_round_trip(
    status: int,
    headers: list[tuple[bytes, bytes]],
    content: bytes,
    trailers: list[tuple[bytes, bytes]],
) -> None:
    """Any valid response comes back as it was."""
    response = Response(status, tuple(headers), content, tuple(trailers))
    assert decode_response(encode_response(response)) == response
