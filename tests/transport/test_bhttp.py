"""Binary HTTP: the RFC's figures, every cut, and what must be refused."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_files import load

from transport import varint
from transport.bhttp import (
    Content,
    End,
    Event,
    Limits,
    Request,
    RequestDecoder,
    RequestEncoder,
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


def indeterminate_request(request: Request = REQUEST, size: int = 5) -> bytes:
    """The same request in the other framing, its content in chunks of `size`."""
    encoder = RequestEncoder(
        request.method, request.scheme, request.authority, request.path, request.headers
    )
    parts = [encoder.start()]
    for start in range(0, len(request.content), size):
        parts.append(encoder.content(request.content[start : start + size]))
    return b"".join([*parts, encoder.finish(request.trailers)])


def indeterminate_response(response: Response = RESPONSE) -> bytes:
    """The same response in the other framing."""
    encoder = ResponseEncoder(response.status, response.headers)
    parts = [encoder.informational(head.status, head.headers) for head in response.informational]
    parts += [encoder.start(), encoder.content(response.content), encoder.finish(response.trailers)]
    return b"".join(parts)


SAMPLES = {
    "known request": (RequestDecoder, encode_request(REQUEST)),
    "indeterminate request": (RequestDecoder, indeterminate_request()),
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
    """A message decodes to the same value from either framing."""
    assert decode_request(encode_request(REQUEST)) == REQUEST
    assert decode_request(indeterminate_request()) == REQUEST
    assert decode_response(encode_response(RESPONSE)) == RESPONSE
    assert decode_response(indeterminate_response()) == RESPONSE


def test_indeterminate_length_by_hand() -> None:
    """The indeterminate-length framing is that of RFC 9292 section 3.2, byte for byte."""
    encoder = RequestEncoder(b"PUT", b"https", b"a", b"/", ((b"b", b"c"),))
    data = encoder.start() + encoder.content(b"de") + encoder.finish(((b"f", b""),), padding=2)
    assert data == b"\x02\x03PUT\x05https\x01a\x01/\x01b\x01c\x00\x02de\x00\x01f\x00\x00\x00\x00"
    answer = ResponseEncoder(204)
    data = answer.informational(103, ((b"g", b"h"),)) + answer.informational(102)
    data += answer.start() + answer.finish()
    assert data == b"\x03\x40\x67\x01g\x01h\x00\x40\x66\x00\x40\xcc\x00\x00\x00"


def test_encoders_pad_with_zeros() -> None:
    """Padding adds that many zeros after the message, in either framing, and changes nothing."""
    assert encode_request(REQUEST, padding=9) == encode_request(REQUEST) + bytes(9)
    assert encode_response(RESPONSE, padding=9) == encode_response(RESPONSE) + bytes(9)
    assert decode_request(encode_request(REQUEST, padding=1000)) == REQUEST
    encoder = ResponseEncoder(200)
    padded = encoder.start() + encoder.finish(padding=1000)
    assert decode_response(padded) == Response(200)
    with pytest.raises(UsageError):
        encode_request(REQUEST, padding=-1)


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


def head(
    method: bytes = b"GET",
    scheme: bytes = b"https",
    authority: bytes = b"a",
    path: bytes = b"/",
    *headers: tuple[bytes, bytes],
) -> bytes:
    """A request up to the end of its header section, written without any check."""
    lines = b"".join(prefixed(name) + prefixed(value) for name, value in headers)
    control = b"".join(map(prefixed, (method, scheme, authority, path)))
    return b"\x00" + control + prefixed(lines)


def prefixed(data: bytes) -> bytes:
    return varint.encode(len(data)) + data


def with_field(name: bytes, value: bytes, *more: tuple[bytes, bytes]) -> bytes:
    return head(b"GET", b"https", b"a.example:443", b"/", (name, value), *more)


def trailer(name: bytes) -> bytes:
    return head() + b"\x00" + prefixed(prefixed(name) + b"\x00")


MALFORMED = {
    "framing": b"\x04",
    "status 99": b"\x01\x40\x63",
    "status 600": b"\x01\x42\x58",
    "status 101": b"\x01\x40\x65",
    "status 101 first": b"\x03\x40\x65\x00\x40\xc8",
    "no method": head(b""),
    "space in method": head(b"G T"),
    "colon in method": head(b":GET"),
    "no scheme": head(scheme=b""),
    "scheme with slashes": head(scheme=b"https://"),
    "scheme of digits": head(scheme=b"1http"),
    "userinfo": head(authority=b"user@a"),
    "slash in authority": head(authority=b"a/b"),
    "space in authority": head(authority=b"a b"),
    "two ports": head(authority=b"a:1:2"),
    "open bracket": head(authority=b"[::1"),
    "no path": head(path=b""),
    "relative path": head(path=b"a"),
    "path of an absolute form": head(path=b"https://a/"),
    "asterisk": head(path=b"*"),
    "space in path": head(path=b"/ a"),
    "newline in path": head(path=b"/\r\n"),
    "fragment": head(path=b"/a#b"),
    "raw byte in path": head(path=b"/\xe9"),
    "CONNECT with scheme": head(b"CONNECT", b"https", b"a:1", b""),
    "CONNECT with path": head(b"CONNECT", b"", b"a:1", b"/"),
    "CONNECT without port": head(b"CONNECT", b"", b"a", b""),
    "CONNECT without host": head(b"CONNECT", b"", b":1", b""),
    "Host of another": with_field(b"host", b"b.example"),
    "Host of another port": with_field(b"host", b"a.example:80"),
    "Host that is none": head(b"GET", b"https", b"", b"/", (b"host", b"a/b")),
    "Host twice": with_field(b"host", b"a.example", (b"host", b"a.example")),
    "uppercase name": with_field(b"A", b""),
    "space in name": with_field(b"a ", b""),
    "method as pseudo-field": with_field(b":method", b"GET"),
    "pseudo-field of an extension": with_field(b":protocol", b"websocket"),
    "newline in value": with_field(b"a", b"b\nc"),
    "return in value": with_field(b"a", b"b\rc"),
    "zero in value": with_field(b"a", b"b\x00c"),
    "control in value": with_field(b"a", b"b\x1bc"),
    "delete in value": with_field(b"a", b"b\x7fc"),
    "space before value": with_field(b"a", b" b"),
    "tab after value": with_field(b"a", b"b\t"),
    "space alone": with_field(b"a", b" "),
    "empty name": head() + b"\x00\x02\x00\x00",
    "name past its section": head()[:-1] + b"\x03\x04ab",
    "value past its section": head()[:-1] + b"\x03\x01a\x02",
    "line past its section": head()[:-1] + b"\x03\x01a\x01b\x00",
    "length past its section": head()[:-1] + b"\x01\x40\x01",
    "short content": with_field(b"content-length", b"2") + b"\x01a",
    "long content": with_field(b"content-length", b"2") + b"\x03abc",
    "no content": with_field(b"content-length", b"2"),
    "length in words": with_field(b"content-length", b"two") + b"\x02ab",
    "length twice": with_field(b"content-length", b"2", (b"content-length", b"2")) + b"\x02ab",
    "signed length": with_field(b"content-length", b"+2") + b"\x02ab",
    "long chunks": b"\x03\x40\xc8\x0econtent-length\x012\x00\x01a\x02bc\x00",
    "short chunks": b"\x03\x40\xc8\x0econtent-length\x012\x00\x01a\x00",
    "length as trailer": trailer(b"content-length"),
    "Host as trailer": trailer(b"host"),
    "pseudo-field as trailer": trailer(b":path"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_messages_are_refused(data: bytes) -> None:
    """What `transport.bhttp.rules` lists is refused, whole and byte by byte."""
    decoder = ResponseDecoder if data[0] in (1, 3) else RequestDecoder
    for pieces in ([data], [bytes([byte]) for byte in data]):
        with pytest.raises(MessageError) as caught:
            decode(decoder, *pieces)
        assert caught.type is MessageError


WELL_FORMED = {
    "no authority": head(authority=b""),
    "Host alone": head(b"GET", b"https", b"", b"/", (b"host", b"a")),
    "Host and authority": with_field(b"host", b"A.example"),
    "port and IPv6": head(authority=b"[2001:db8::1]:8443"),
    "empty port": head(authority=b"a:"),
    "what browsers leave in a query": head(path=b'/a?b={c}|[d]^`"<>\\'),
    "OPTIONS": head(b"OPTIONS", path=b"*"),
    "CONNECT": head(b"CONNECT", b"", b"a:443", b""),
    "another scheme": head(scheme=b"coap+tcp", authority=b"u:p@a", path=b""),
    "extension method": head(b"M-SEARCH"),
    "tab inside a value": with_field(b"a", b"b\tc"),
    "Latin-1 value": with_field(b"a", b"\xe9"),
    "empty value": with_field(b"a", b""),
    "repeated field": with_field(b"cookie", b"a=1", (b"cookie", b"b=2")),
    "fields about connections": with_field(b"connection", b"close", (b"te", b"trailers")),
    "right length": with_field(b"content-length", b"2") + b"\x02ab",
    "length of an answer to HEAD": b"\x01\x40\xc8" + prefixed(b"\x0econtent-length\x012"),
    "trailer": trailer(b"server-timing"),
    "longer integers": b"\x40\x00\x80\x00\x00\x03GET\xc0\x00\x00\x00\x00\x00\x00\x05https\x00\x01/",
    "longer terminators": b"\x02" + head()[1:-1] + b"\x40\x00\x80\x00\x00\x00\x40\x00",
}


@pytest.mark.parametrize("data", WELL_FORMED.values(), ids=WELL_FORMED)
def test_what_conforming_senders_send_is_taken(data: bytes) -> None:
    """What the RFC allows is not refused, whole or byte by byte."""
    decoder = ResponseDecoder if data[0] in (1, 3) else RequestDecoder
    assert decode(decoder, data) == decode(decoder, *(bytes([byte]) for byte in data))


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
    limits = Limits(header_bytes=100, field_lines=20, content_bytes=100, padding_bytes=100)
    start = b"\x02\x03GET\x05https\x00\x01/"
    floods = {
        "field bytes": start + b"\x03abc\x03def" * 15,
        "field lines": start + b"\x01a\x00" * 21,
        "trailer lines": start + b"\x00\x00" + b"\x01a\x00" * 21,
        "content": start + b"\x00" + b"\x0a0123456789" * 11,
        "padding": start + bytes(200),
        "control data": b"\x00" + prefixed(b"x" * 60) * 4,
        "informational heads": b"\x03" + b"\x40\x66\x00" * 21,
        "informational fields": b"\x03" + b"\x40\x66\x03abc\x03def\x00" * 15,
        "informational known": b"\x01" + (b"\x40\x66" + prefixed(b"\x03abc\x03def")) * 15,
    }
    for data in floods.values():
        decoder = ResponseDecoder if data[0] in (1, 3) else RequestDecoder
        with pytest.raises(LimitError):
            decoder(limits).feed(data)
        bytewise = decoder(limits)
        with pytest.raises(LimitError):
            for byte in data:
                bytewise.feed(bytes([byte]))


def test_each_section_has_the_whole_limit() -> None:
    """What the header section took is not missing from the trailers'."""
    section = prefixed(b"\x03abc\x03def" * 11)
    message = head()[:-1] + section + b"\x00" + section
    request = decode_request(message, limits=Limits(header_bytes=100, field_lines=11))
    assert request.headers == request.trailers == ((b"abc", b"def"),) * 11


def test_the_first_offence_decides() -> None:
    """Padding over its limit and not zero is refused for what comes first, however it is cut."""
    limits = Limits(padding_bytes=10)
    for size, error in ((10, MessageError), (11, LimitError)):
        with pytest.raises(error):
            decode_request(encode_request(REQUEST) + bytes(size) + b"\x01", limits=limits)


START = b"\x02\x03GET\x05https\x00\x01/"
MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("flood", "returned"),
    [
        (START + b"\x00" + b"\x01a" * (MEBIBYTE // 4), MEBIBYTE // 4),
        (START + b"\x00\x80\x70\x00\x00" + bytes(7 * MEBIBYTE), 7 * MEBIBYTE),
        (START + bytes(8 * MEBIBYTE), 0),
        (START + b"\x80\x00\xff\x00" + b"a" * 0xFF00, 0),
        (START + b"\x02ab\x40\x70" * 1 + b"v" * 112 + (b"\x02ab\x40\x70" + b"v" * 112) * 400, 0),
    ],
    ids=["tiny chunks", "one chunk", "padding", "one name", "many lines"],
)
def test_memory_is_bounded_in_one_call(flood: bytes, returned: int) -> None:
    """One call, however large, takes what its events hold and the stated limits, no more."""
    decoder = RequestDecoder()
    tracemalloc.start()
    try:
        events = decoder.feed(flood)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(len(event.data) for event in events if isinstance(event, Content)) == returned
    # Buffer, slice, pieces and their growth; then a line's objects beside its bytes.
    assert peak < returned + 6 * 65536 + 512 * 256
    assert held < returned * 1.01 + 2 * 65536 + 512 * 256


def test_bytewise_headers_take_steps_in_proportion() -> None:
    """Doubling a header section that comes byte by byte doubles the work: nothing is read again."""

    def steps(size: int) -> int:
        calls = 0
        one = prefixed(b"a") + prefixed(b"v" * size)

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        decoder = RequestDecoder()
        for byte in START:
            decoder.feed(bytes([byte]))
        sys.setprofile(count)
        try:
            for byte in one:
                decoder.feed(bytes([byte]))
        finally:
            sys.setprofile(None)
        return calls

    assert steps(16000) < 2.1 * steps(8000)


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


@pytest.mark.parametrize(
    "request_",
    [
        Request(b"GET", b"https", b"a", b"/", ((b"a", b"b\r\nc: d"),)),
        Request(b"GET", b"https", b"a", b"/", ((b"content-length", b"1"),)),
        Request(b"GET", b"https", b"a", b"/", ((b"host", b"b"),)),
        Request(b"GET", b"https", b"a", b"/", trailers=((b"host", b"a"),)),
        Request(b"GET ", b"https", b"a", b"/"),
        Request(b"GET", b"https", b"a", b"no slash"),
    ],
    ids=["injected line", "length", "host", "trailer", "method", "path"],
)
def test_encoders_refuse_what_decoders_would(request_: Request) -> None:
    """What a decoder would refuse has no encoding, in either framing."""
    with pytest.raises(UsageError):
        encode_request(request_)
    with pytest.raises(UsageError):
        indeterminate_request(request_)


def test_statuses_have_their_place() -> None:
    """Final and informational statuses cannot change places, and 101 has none."""
    for refused in (Response(103), Response(200, informational=(ResponseHead(200),))):
        with pytest.raises(UsageError):
            encode_response(refused)
    for status in (99, 101, 103, 600):
        with pytest.raises(UsageError):
            ResponseEncoder(status)
    encoder = ResponseEncoder(200)
    for status in (101, 200):
        with pytest.raises(UsageError):
            encoder.informational(status)
    with pytest.raises(UsageError):
        encoder.informational(103, ((b"Upper", b""),))
    with pytest.raises(UsageError):
        ResponseEncoder(200, ((b"Upper", b""),))
    assert decode_response(encoder.start() + encoder.finish()) == Response(200)


def test_response_encoder_keeps_its_order() -> None:
    """Content before the start or after the end is refused; empty content ends nothing."""
    encoder = ResponseEncoder(200)
    with pytest.raises(UsageError):
        encoder.content(b"a")
    start = encoder.start()
    with pytest.raises(UsageError):
        encoder.start()
    with pytest.raises(UsageError):
        encoder.informational(103)
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


@settings(deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.binary(max_size=200), st.integers(0, 2**16))
def test_what_decodes_encodes_to_the_same_bytes(name: str, content: bytes, size: int) -> None:
    """Decoding and encoding again in the same framing gives the same bytes."""
    response = Response(200, RESPONSE.headers, content, (), RESPONSE.informational)
    request = Request(b"PUT", b"https", b"", b"/", REQUEST.headers, content)
    size = size % 200 + 1
    if name == "known request":
        data = encode_request(request, padding=size)
        assert encode_request(decode_request(data), padding=size) == data
    elif name == "known response":
        data = encode_response(response, padding=size)
        assert encode_response(decode_response(data), padding=size) == data
    elif name == "indeterminate request":
        data = indeterminate_request(request, size)
        assert indeterminate_request(decode_request(data), size) == data
    else:
        data = indeterminate_response(response)
        assert indeterminate_response(decode_response(data)) == data


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
