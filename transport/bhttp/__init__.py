"""Binary HTTP messages (RFC 9292): types, encoding and decoding, whole or piece by piece."""

from transport.bhttp.decoder import (
    Content,
    End,
    Event,
    RequestDecoder,
    RequestHead,
    ResponseDecoder,
    decode_request,
    decode_response,
)
from transport.bhttp.messages import (
    DEFAULT_LIMITS,
    Fields,
    Limits,
    Request,
    Response,
    ResponseEncoder,
    ResponseHead,
    encode_request,
    encode_response,
)

__all__ = [
    "DEFAULT_LIMITS",
    "Content",
    "End",
    "Event",
    "Fields",
    "Limits",
    "Request",
    "RequestDecoder",
    "RequestHead",
    "Response",
    "ResponseDecoder",
    "ResponseEncoder",
    "ResponseHead",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
]
